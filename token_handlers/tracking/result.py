"""Verdicts: what the end of a call says, as a framework's `results` reads it, before anything is recorded."""

from enum import Enum
from typing import Final, NamedTuple, final

from token_handlers.payloads import ReportedUsage
from token_handlers.usage import Outcome, Source

NOTHING_REPORTED = ReportedUsage({})


@final
class CallResult(NamedTuple):
    """What a call used.

    ``usage.model`` is the name that the provider answered with, ``method`` how an estimate was made, and ``requests``
    the number of HTTP calls.
    """

    usage: ReportedUsage
    source: Source = "reported"
    method: str | None = None
    outcome: Outcome = "success"
    requests: int = 1


AS_REPORTED = CallResult(NOTHING_REPORTED)[1:]
"""What a result has beside its usage where one request reports that."""


class Incomplete(NamedTuple):
    """What was reported is not all, or nothing: the rest is estimated from the prompt and the answer.

    ``text`` is the answer's, None for what was received so far. With ``interrupted`` the output that was reported is
    only what was reported before the end. ``remedy`` says to people how to have exact usage; None: nobody is warned.
    """

    usage: ReportedUsage | None = None
    text: str | None = None
    interrupted: bool = False
    remedy: str | None = None
    model: str | None = None
    requests: int = 1


class Discard(Enum):
    """The call was never sent, or another call's record includes it: the one verdict that says no more."""

    DISCARD = "discard"


Verdict = CallResult | Incomplete | Discard

DISCARD: Final = Discard.DISCARD
BY_ANSWER = Incomplete()
"""The provider's own answer states the bill: what the event says is not read."""
UNREAD = Incomplete()
"""Where reading an end fails: the call was made, and is not to be lost."""
FAILED = CallResult(NOTHING_REPORTED, outcome="failed")
"""The provider rejected the call: it costs nothing."""
