"""The second witness: which call a provider's own HTTP answer belongs to, and what a call's answers say it used.

An answer belongs to the innermost open call of a framework, found on the stack, else in the context; else it is a call
of an SDK of its own. A call that owns answers is billed by their sum, whatever its event says.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal

from token_handlers import http
from token_handlers.http import ProviderAnswer, ProviderRequest
from token_handlers.payloads import ReportedUsage, is_empty, is_whole
from token_handlers.settings import Settings
from token_handlers.tracking.call import Call, open_calls
from token_handlers.tracking.result import BY_ANSWER, CallResult, Incomplete, Verdict
from token_handlers.tracking.scopes import any_scope
from token_handlers.tracking.state import state, watchers

LOST = "a request was sent and its answer was lost"
SEVERAL_TIERS = "the call has answers of several tiers or places: the rates of the last one are taken for all"

RequestOwner = Callable[[ProviderRequest], Call | None]

OWN_FRAMES = 5
"""How many of our own functions are on the stack where a `RequestOwner` is asked, itself among them.

Below a client's method: its wrap, `open_exchange`, `opened`, `owner_of_request`; below a gate as many.
"""

request_owners: list[RequestOwner] = []
"""For each framework, a function that returns its innermost call which the request that is sent here belongs to."""

context_owners: list[RequestOwner] = []
"""As `request_owners`, from the context: asked where the stack says nothing, as in a thread that a model started."""

sdk_owner: list[RequestOwner] = []
"""The function that opens a call for a request of no framework's."""

listeners: list[Callable[[], object]] = []
"""For each framework, a function that returns whether it may count a request of a model for which nothing is open."""

gated: ContextVar[Call | None] = ContextVar("token_handlers_gated", default=None)
"""The call that a budget's gate in front of an SDK has let pass: the requests below belong to it."""


class AnswerObserver:
    """Gives each request to the call that sends it, and each answer to the call that has sent for it."""

    def wants(self) -> bool:
        """Return whether anything is tracked."""
        return bool(open_calls or state.automatic) or any_scope() or any(listens() for listens in listeners)

    def opened(self, request: ProviderRequest) -> Call | None:
        """Return the call that a request belongs to; raises BudgetExceeded for one that nobody has checked before."""
        passed = gated.get()
        if passed is not None and not passed.settled:
            return passed
        call = owner_of_request(request)
        if call is None or call.settled:
            return None
        call.sending()
        return call

    def begun(self, owner: object) -> None:
        """Note that a call was answered, whatever its client makes of the stream."""
        if isinstance(owner, Call):
            owner.is_begun = True

    def answered(self, owner: object, answer: ProviderAnswer) -> None:
        """Keep an answer for the end of its call, or end an SDK's call, which has no other end."""
        if not isinstance(owner, Call) or owner.settled:
            return
        if answer.is_relayed:
            owner.relayed()
            return
        owner.answers = (*owner.answers, answer)
        owner.answered()


def owner_of_request(request: ProviderRequest) -> Call | None:
    """Return the call that a request which is sent here belongs to: a framework's, else an SDK's own."""
    for owners in (request_owners, context_owners, sdk_owner):
        found: Call | None = None
        for owner_of in owners:
            call = owner_of(request)
            if call is not None and (found is None or found in call.parents):
                found = call  # of two frameworks' calls the one that the other has made
        if found is not None:
            return found
    return None


_observer = AnswerObserver()


def watch() -> None:
    """Watch the providers' answers, under every HTTP client that is or will be imported, unless that is turned off."""
    if state.watches_http and Settings().watches_http:
        http.attach(_observer)


watchers.append((watch, http.detach))


def is_billed_by_answer(call: Call) -> bool:
    """Return whether one answer states the whole bill of a call, whatever its event says; cheap, and False in doubt."""
    answers = call.answers
    if len(answers) != 1:
        return False
    answer = answers[0]
    usage = answer.usage
    if usage is None or not answer.is_final or answer.is_lost or answer.lost_attempts:
        return False
    counts = usage.counts
    return bool(counts.get("input_tokens") and counts.get("output_tokens"))


def billed_by_answers(call: Call, verdict: Verdict) -> Verdict:
    """Return the verdict of a call's own answers where they are its bill, else the event's, with what they add to it.

    Where an answer is not final, more was generated than it says: the event's way, which estimates and flags it.
    """
    answers: Sequence[ProviderAnswer] = call.answers
    if verdict is BY_ANSWER and answers[0].usage is not None:
        return CallResult(answers[0].usage)
    if isinstance(verdict, CallResult) and verdict.outcome == "cached":
        return verdict
    final = [answer.usage for answer in answers if answer.usage is not None and answer.is_final]
    usage = total(final)
    if usage is not None and is_empty(usage):
        return verdict  # an answer with text was not made of no tokens; whether it has text, the event says
    is_bill = usage is not None and is_whole(usage, call.operation) and not _is_open_ended(answers)
    if usage is not None and is_bill and not _is_wordless(usage, verdict):
        lost, silent = sum(answer.is_lost + answer.lost_attempts for answer in answers), sum(map(_is_silent, answers))
        if lost or silent:
            usage = usage._replace(doubts=(*usage.doubts, LOST))
        return CallResult(usage, requests=len(final) + lost + silent)
    return _completed(call, verdict, usage)


def _completed(call: Call, verdict: Verdict, usage: ReportedUsage | None) -> Verdict:
    """Return an event's verdict with what answers add that are not the bill."""
    answers = call.answers
    if isinstance(verdict, CallResult) and verdict.outcome == "failed":
        return Incomplete(usage, interrupted=True) if call.is_begun or _was_answered(answers) else verdict
    if isinstance(verdict, Incomplete) and verdict.usage is None:
        partial = total([answer.usage for answer in answers if answer.usage is not None])
        return verdict if partial is None else verdict._replace(usage=partial, interrupted=True)
    return verdict


def _is_wordless(usage: ReportedUsage, verdict: Verdict) -> bool:
    """Return whether answers state no output where the event has text, and no cost that makes up for it."""
    has_text = isinstance(verdict, Incomplete) and bool(verdict.text)
    return has_text and usage.counts.get("output_tokens") == 0 and usage.cost is None


def total(usages: Sequence[ReportedUsage]) -> ReportedUsage | None:
    """Return several answers of one call as one usage; each of the others stands beside, with its fees and steps."""
    if len(usages) < 2:
        return usages[0] if usages else None
    *others, last = usages
    counts = dict(last.counts)
    beside = list(last.beside)
    costs = [usage.cost for usage in usages]
    doubts = [doubt for usage in usages for doubt in usage.doubts]
    for usage in others:
        for name, number in usage.counts.items():
            counts[name] = counts.get(name, 0) + number
        beside += usage.beside
        if usage.model != last.model or usage.counts.get("output_tokens"):
            billed = usage.counts if usage.billed is None else usage.billed
            beside.append((usage.model, _without(billed, usage.beside)))
        if usage.service_tier != last.service_tier or usage.context != last.context:
            doubts.append(SEVERAL_TIERS)
    return last._replace(
        counts=counts,
        cost=sum((cost for cost in costs if cost is not None), Decimal(0)) if None not in costs else None,
        beside=tuple(beside),
        doubts=tuple(dict.fromkeys(doubts)),
        billed=_sum_billed(usages),
    )


def _without(counts: Mapping[str, int], beside: Sequence[tuple[str | None, Mapping[str, int]]]) -> dict[str, int]:
    rest = Counter(counts)
    for _, part in beside:
        rest.subtract(part)
    return dict(rest)


def _sum_billed(usages: Sequence[ReportedUsage]) -> dict[str, int] | None:
    """Return what several answers were billed for, None where each was billed for what it counts."""
    if all(usage.billed is None for usage in usages):
        return None
    billed: Counter[str] = Counter()
    for usage in usages:
        billed.update(usage.counts if usage.billed is None else usage.billed)
    return dict(billed)


def _is_open_ended(answers: Sequence[ProviderAnswer]) -> bool:
    """Return whether an answer was begun that says less than was generated."""
    return any(answer.usage is not None and not answer.is_final for answer in answers)


def _is_silent(answer: ProviderAnswer) -> bool:
    """Return whether the provider answered without saying what that used."""
    return answer.usage is None and not answer.is_lost and answer.status is not None and 200 <= answer.status < 300


def _was_answered(answers: Sequence[ProviderAnswer]) -> bool:
    """Return whether the provider answered, or may have: an answer that a client cannot parse is billed."""
    return any(answer.is_lost or (answer.status is not None and 200 <= answer.status < 300) for answer in answers)
