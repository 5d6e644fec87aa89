"""token-handlers demo: real clients against the embedded server, and our totals beside its ledger."""

import importlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import SecretStr

from token_handlers import TokenCounter, UsageRecord, track_tokens
from token_handlers.counter.tables import text_table, usage_table
from token_handlers.demo.server.billing import Billed
from token_handlers.demo.server.server import LedgerServer
from token_handlers.reporting.text import totals_json

CALLS = ("langchain_calls", "llama_index_calls")


class _Sums(NamedTuple):
    """What calls add up to; the prompt tokens are those of embeddings too."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


class _Comparison(NamedTuple):
    """What we recorded, reported by the server or estimated, and what it says it billed, and told its client or not."""

    reported: _Sums
    told: _Sums
    estimated: _Sums
    untold: _Sums

    @property
    def is_equal(self) -> bool:
        """Return whether every reported token is what was billed, and the others are estimates."""
        return self.reported == self.told and self.estimated.requests == self.untold.requests


def run_demo(api_key: SecretStr | None = None, *, as_json: bool = False) -> int:
    """Make the demo's calls and print what they used; return 1 if our totals differ from the server's ledger.

    With an API key the calls go to OpenAI itself, which keeps no ledger that could be compared.
    """
    if api_key is not None:
        counter, _ = _tracked_calls(None, api_key)
        comparison = None
    else:
        with LedgerServer() as server:
            counter, records = _tracked_calls(server.url(close=1), SecretStr("none"))
            comparison = _compare(records, server.ledger())
    print(_json(counter, comparison) if as_json else _report(counter, comparison))
    return 0 if comparison is None or comparison.is_equal else 1


def _tracked_calls(base_url: str | None, api_key: SecretStr) -> tuple[TokenCounter, list[UsageRecord]]:
    records: list[UsageRecord] = []
    with track_tokens(sinks=[records.append]) as counter:
        for name in CALLS:
            importlib.import_module(f"token_handlers.demo.{name}").make_calls(base_url, api_key)
    return counter, records


def _compare(records: Sequence[UsageRecord], ledger: Sequence[Billed]) -> _Comparison:
    """Return our sums beside the ledger's; what the server did not tell its client can only be estimated."""
    return _Comparison(
        reported=_recorded(records, "reported"),
        told=_billed(ledger, told=True),
        estimated=_recorded(records, "estimated"),
        untold=_billed(ledger, told=False),
    )


def _report(counter: TokenCounter, comparison: _Comparison | None) -> str:
    totals = f"{usage_table(counter.by_model)}\n\n{counter}\n"
    if comparison is None:
        return totals
    rows = [
        ("reported by the server", "token_handlers", *comparison.reported),
        ("", "the server's ledger", *comparison.told),
        ("not reported", "token_handlers, estimated", *comparison.estimated),
        ("", "the server's ledger", *comparison.untold),
    ]
    table = text_table(("Usage", "According to", "Requests", "Prompt", "Completion"), rows)
    conclusion = (
        "Every reported token equals the server's ledger; every estimate is flagged."
        if comparison.is_equal
        else "The totals DIFFER from the server's ledger."
    )
    return f"{totals}\n{table}\n\n{conclusion}"


def _json(counter: TokenCounter, comparison: _Comparison | None) -> str:
    told = totals_json("model", counter.by_model, counter.snapshot())
    if comparison is not None:
        told["comparison"] = {
            "equal": comparison.is_equal,
            "reported": {"token_handlers": comparison.reported._asdict(), "server": comparison.told._asdict()},
            "not_reported": {"token_handlers": comparison.estimated._asdict(), "server": comparison.untold._asdict()},
        }
    return json.dumps(told, indent=2, ensure_ascii=False)


def _billed(ledger: Iterable[Billed], *, told: bool) -> _Sums:
    entries = [entry for entry in ledger if entry.usage_sent is told]
    prompts, completions = (entry.prompt_tokens for entry in entries), (entry.completion_tokens for entry in entries)
    return _Sums(len(entries), sum(prompts), sum(completions))


def _recorded(records: Iterable[UsageRecord], source: str) -> _Sums:
    usages = [record.usage for record in records if record.source == source]
    prompts, completions = (usage.input_tokens for usage in usages), (usage.output_tokens for usage in usages)
    return _Sums(len(usages), sum(prompts), sum(completions))
