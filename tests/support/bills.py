"""What tests compare: the ledger's bill and a counter, in one form."""

from token_handlers import TokenCounter
from token_handlers.demo.server.server import Channel
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking.call import open_calls
from token_handlers.tracking.recorder import discard, finish
from token_handlers.tracking.result import CallResult


def billed(ledger: Channel) -> dict[str, int]:
    """Return what the server billed."""
    bill = ledger.total()
    return {
        "requests": bill.requests,
        "prompt": bill.prompt_tokens,
        "completion": bill.completion_tokens,
        "cached": bill.cached_tokens,
        "reasoning": bill.reasoning_tokens,
        "rejected": bill.rejected,
    }


def counted(counter: TokenCounter) -> dict[str, int]:
    """Return what a counter, or a handler with a counter's attributes, says."""
    return {
        "requests": counter.successful_requests,
        "prompt": counter.prompt_tokens,
        "completion": counter.completion_tokens,
        "cached": counter.prompt_tokens_cached,
        "reasoning": counter.reasoning_tokens,
        "rejected": counter.failed_requests,
    }


def forget_open_calls() -> None:
    """Drop what earlier tests have left open, which the shared counter goes on to show after a reset."""
    for call in list(open_calls):
        call.forget()
        discard(call)


def record(call, counts, *, model=None, cost=None, **more):
    """End a call that has used this much."""
    finish(call, CallResult(ReportedUsage(counts, cost, model=model), **more))
