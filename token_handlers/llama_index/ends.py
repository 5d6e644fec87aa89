"""The end of an LLM call: its verdict is read once, and handed to the recorder."""

import contextlib
from typing import Any

from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.results import read_end, read_error
from token_handlers.tracking import recorder
from token_handlers.tracking.failures import was_stopped
from token_handlers.tracking.result import Estimate, Verdict

# An exception that passes through two streams, one reading the other, is one failure.
_MARK = "_token_handlers_recorded"


def end(call: ModelCall, response: Any) -> None:
    """Record a call that ended well."""
    if calls.hand_over(call):
        recorder.discard(call)
        return
    verdict: Verdict = Estimate()  # where reading fails: the call was made, and is not to be lost
    try:
        verdict = read_end(call, response)
    finally:
        calls.remove(call)
        recorder.finish(call, verdict)
        call.drop_texts()


def fail(call: ModelCall, error: BaseException | None) -> None:
    """Record a call that failed."""
    if calls.hand_over(call) or (call.response is None and _is_done_with(error)):
        recorder.discard(call)
        return
    verdict: Verdict = Estimate()
    try:
        verdict = read_error(call, error)
    finally:
        calls.remove(call)
        recorder.finish(call, verdict)
        call.drop_texts()


def _is_done_with(error: BaseException | None) -> bool:
    """Return whether this error was recorded already, or says that nothing was sent; and mark it."""
    marked = hasattr(error, _MARK) or was_stopped(error)
    if error is not None and not marked:
        with contextlib.suppress(AttributeError):  # an exception class may refuse attributes
            setattr(error, _MARK, True)
    return marked
