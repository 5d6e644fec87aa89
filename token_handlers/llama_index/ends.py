"""The end of an LLM call: its verdict is read once, and handed to the recorder."""

import contextlib
from typing import Any

from token_handlers.errors import shielded
from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.results import read_end, read_error
from token_handlers.payloads import response_id
from token_handlers.tracking import recorder
from token_handlers.tracking.failures import was_stopped
from token_handlers.tracking.result import DISCARD, UNREAD, Verdict
from token_handlers.tracking.state import state

# An exception that passes through two streams, one reading the other, is one failure.
_MARK = "_token_handlers_recorded"


def end(call: ModelCall, response: Any) -> None:
    """Record a call that ended well."""
    if call.response is not None and calls.hand_over(call):
        recorder.discard(call)
        return
    if not (call.context.own or call.answers) and _was_counted(response):
        recorder.discard(call)
        return
    verdict: Verdict = UNREAD
    try:
        verdict = read_end(call, response)
    finally:
        _finish(call, verdict)


@shielded
def _was_counted(response: Any) -> bool:
    """Return whether the answer was counted as an SDK's call: the model asked for it in a thread without our context.

    Only automatic tracking sees such a request; no block does, so a call of a block must still be counted.
    """
    counted = state.counter.answers
    if not counted:
        return False
    answer = response_id(getattr(response, "raw", None))
    return answer is not None and answer in tuple(counted)


def fail(call: ModelCall, error: BaseException | None) -> None:
    """Record a call that failed."""
    if calls.hand_over(call) or (call.response is None and _is_done_with(error)):
        recorder.discard(call)
        return
    verdict: Verdict = UNREAD
    try:
        verdict = read_error(call, error)
    finally:
        _finish(call, verdict)


def _finish(call: ModelCall, verdict: Verdict) -> None:
    calls.remove(call)
    recorder.finish(call, verdict)
    call.prompt = call.response = call.deltas = call.reported = None  # only needed for an estimate
    if call.parents and verdict is not DISCARD and call.instance is not None:
        for parent in call.parents:
            if isinstance(parent, ModelCall) and parent.instance is call.instance:
                parent.asks_itself = True


def follow(call: ModelCall, stream: Any) -> None:
    """Settle a call whose stream is dropped unread: most LLMs would have sent the request at the first chunk."""
    calls.follow(call, stream, _unread)


@shielded
def _unread(call: ModelCall) -> None:
    if call.answers:
        end(call, None)
    elif call.is_begun:
        recorder.record_estimate(call)
    else:
        recorder.discard(call)


def _is_done_with(error: BaseException | None) -> bool:
    """Return whether this error was recorded already, or says that nothing was sent; and mark it."""
    marked = hasattr(error, _MARK) or was_stopped(error)
    if error is not None and not marked:
        with contextlib.suppress(AttributeError):  # an exception class may refuse attributes
            setattr(error, _MARK, True)
    return marked
