"""token-handlers demo: real clients against the embedded server, and our totals beside its ledger."""

import importlib
from collections.abc import Iterable, Sequence

from pydantic import SecretStr

from token_handlers import TokenCounter, UsageRecord, track_tokens
from token_handlers.demo.billing import Billed
from token_handlers.demo.server import LedgerServer
from token_handlers.tables import text_table, usage_table

Sums = tuple[int, int, int]
"""Requests, prompt tokens (of embeddings too), completion tokens."""

CALLS = ("langchain_calls", "llama_index_calls")


def run_demo(api_key: SecretStr | None = None) -> int:
    """Make the demo's calls and print what they used; return 1 if our totals differ from the server's ledger.

    With an API key the calls go to OpenAI itself, which keeps no ledger that could be compared.
    """
    if api_key is not None:
        counter, _ = _tracked_calls(None, api_key)
        print(_report(counter))
        return 0
    with LedgerServer() as server:
        counter, records = _tracked_calls(server.url(close=1), SecretStr("none"))
        ledger = server.ledger()
    print(_report(counter))
    return _compare(records, ledger)


def _tracked_calls(base_url: str | None, api_key: SecretStr) -> tuple[TokenCounter, list[UsageRecord]]:
    records: list[UsageRecord] = []
    with track_tokens(sinks=[records.append]) as counter:
        for name in CALLS:
            importlib.import_module(f"token_handlers.demo.{name}").make_calls(base_url, api_key)
    return counter, records


def _report(counter: TokenCounter) -> str:
    return f"{usage_table(counter.by_model)}\n\n{counter}\n"


def _compare(records: Sequence[UsageRecord], ledger: Sequence[Billed]) -> int:
    """Print our sums beside the ledger's; what the server did not tell its client can only be estimated."""
    told, untold = _billed(ledger, told=True), _billed(ledger, told=False)
    reported, estimated = _recorded(records, "reported"), _recorded(records, "estimated")
    rows = [
        ("reported by the server", "token_handlers", *reported),
        ("", "the server's ledger", *told),
        ("not reported", "token_handlers, estimated", *estimated),
        ("", "the server's ledger", *untold),
    ]
    print(text_table(("Usage", "According to", "Requests", "Prompt", "Completion"), rows))
    if reported != told or estimated[0] != untold[0]:
        print("\nThe totals DIFFER from the server's ledger.")
        return 1
    print("\nEvery reported token equals the server's ledger; every estimate is flagged.")
    return 0


def _billed(ledger: Iterable[Billed], *, told: bool) -> Sums:
    entries = [entry for entry in ledger if entry.usage_sent is told]
    prompts, completions = (entry.prompt_tokens for entry in entries), (entry.completion_tokens for entry in entries)
    return len(entries), sum(prompts), sum(completions)


def _recorded(records: Iterable[UsageRecord], source: str) -> Sums:
    usages = [record.usage for record in records if record.source == source]
    return len(usages), sum(usage.input_tokens for usage in usages), sum(usage.output_tokens for usage in usages)
