"""token-handlers demo: real clients against the embedded server, and our totals beside its ledger."""

import importlib
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import SecretStr

from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.tables import text_table, usd, usd_column
from token_handlers.demo.server.billing import EMBEDDINGS, Billed
from token_handlers.demo.server.server import LedgerServer
from token_handlers.reporting.text import totals_json
from token_handlers.tracking.track_tokens import track_tokens
from token_handlers.usage import UsageRecord

CALLS = {
    "langchain_calls": "LangChain: a chain, a batch of 3, two streams, a tool's loop",
    "llama_index_calls": "LlamaIndex: an index, a query, a stream, an agent with a tool",
}
"""The modules that make the calls, and what they call, to be said before the module imports its framework."""

EMBEDDED = "14 calls of real clients against an embedded server: no key, no network"
LIVE = "14 calls of real clients against OpenAI, with your key"
NEXT = """\
What next:
  in your code      with token_handlers.track_tokens() as tokens: ...
  any program       token-handlers run your_app.py
  why and how       token-handlers guide, token-handlers doctor"""

_INDENTED = textwrap.TextWrapper(78, initial_indent="  ", subsequent_indent="  ")


class _Sums(NamedTuple):
    """What calls add up to."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    embedding_tokens: int


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


def run_demo(warnings: Sequence[str], api_key: SecretStr | None = None, *, as_json: bool = False) -> int:
    """Make the demo's calls and print what they used; return 1 if our totals differ from the server's ledger.

    With an API key the calls go to OpenAI itself, which keeps no ledger that could be compared. What is under way comes
    on stderr, from the first moment: the frameworks take seconds to import. ``warnings`` are those that the log would
    have had, which come last.
    """
    _say(EMBEDDED if api_key is None else LIVE)
    comparison = None
    if api_key is not None:
        counter, _ = _tracked_calls(None, api_key)
    else:
        with LedgerServer() as server:
            counter, records = _tracked_calls(server.url(close=1), SecretStr("none"))
            comparison = _compare(records, server.ledger())
    print(_json(counter, comparison) if as_json else _report(counter, comparison, warnings))
    return 0 if comparison is None or comparison.is_equal else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tracked_calls(base_url: str | None, api_key: SecretStr) -> tuple[TokenCounter, list[UsageRecord]]:
    records: list[UsageRecord] = []
    with track_tokens(sinks=[records.append]) as counter:
        for name, calls in CALLS.items():
            _say(f"  {calls} ...")
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


def _report(counter: TokenCounter, comparison: _Comparison | None, warnings: Sequence[str]) -> str:
    parts = [_table(counter, comparison), f"Total cost: ${usd(counter.cost)}"]
    if comparison is not None:
        parts.append(
            "Every reported token equals the server's ledger; every estimate is flagged."
            if comparison.is_equal
            else "The totals DIFFER from the server's ledger."
        )
    if warnings:
        parts.append("One stream was not asked for its usage, on purpose. A log says once:")
        parts += [line for warning in warnings for line in _INDENTED.wrap(warning)]
    return "\n".join(["", *parts, "", NEXT])


def _table(counter: TokenCounter, comparison: _Comparison | None) -> str:
    """Return what was counted by model and in all, and below it what the server billed, in the same columns."""
    total = counter.snapshot()
    by_cost = sorted(counter.by_model.items(), key=lambda item: (-(item[1].cost or 0), item[0]))
    named = [*by_cost, ("Total", total)]
    costs = usd_column([each.cost for _, each in named])
    rows: list[tuple[str | int, ...]] = [
        (name, each.successful_requests, each.prompt_tokens, each.completion_tokens, each.embedding_tokens, cost)
        for (name, each), cost in zip(named, costs, strict=True)
    ]
    if comparison is not None:
        rows += [
            ("  reported to us", *comparison.reported, ""),
            ("  the server billed", *comparison.told, ""),
            ("  our estimates", *comparison.estimated, ""),
            ("  the server billed", *comparison.untold, ""),
        ]
    return text_table(("Model", "Requests", "Prompt", "Completion", "Embedding", "Cost (USD)"), rows)


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
    return _sums((entry.path == EMBEDDINGS, entry.prompt_tokens, entry.completion_tokens) for entry in entries)


def _recorded(records: Iterable[UsageRecord], source: str) -> _Sums:
    return _sums(
        (record.operation == "embeddings", record.usage.input_tokens, record.usage.output_tokens)
        for record in records
        if record.source == source
    )


def _sums(calls: Iterable[tuple[bool, int, int]]) -> _Sums:
    """Return the sums of calls, each as whether it embeds, and its input and output tokens."""
    listed = list(calls)
    return _Sums(
        len(listed),
        sum(sent for embeds, sent, _ in listed if not embeds),
        sum(received for _, _, received in listed),
        sum(sent for embeds, sent, _ in listed if embeds),
    )
