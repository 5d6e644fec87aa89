"""Calls of the providers' SDKs themselves, inside a block or under automatic tracking, without a framework."""

from collections.abc import Mapping

from token_handlers.budget.tool_fees import NO_FEES, AllowedFees, allowed_fees
from token_handlers.http import ProviderAnswer, ProviderRequest
from token_handlers.lifecycle import Warnings
from token_handlers.payloads import ReportedUsage, is_empty, is_whole
from token_handlers.tracking import recorder
from token_handlers.tracking.answers import sdk_owner
from token_handlers.tracking.call import Call, current_context
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Incomplete, Verdict
from token_handlers.tracking.scopes import CallContext
from token_handlers.tracking.state import state

SDK = "sdk"
"""The name among those of the frameworks that are tracked automatically."""

_BYTES_PER_TOKEN = 4  # of JSON and prose; what a request that no answer counts is estimated by
_DOCUMENTS_PER_SEARCH = 100  # Bedrock's; one of more than 512 tokens counts as several
_WITHOUT_MODEL = frozenset({"images", "audio"})  # whose answers never name one
_LATER = "what a batch uses is known when it has run"
_LEFT_OUT = "the SDK's client leaves the usage out of streams unless it is asked for"

left_out = Warnings()
"""The warning about the first call of an SDK in a block that leaves these out."""


class SDKCall(Call):
    """One request that an SDK sends: it ends with its answer; behind a gate, tries that fail are one call."""

    is_gated = False
    is_of_a_model = False  # True where a framework's model sends it: what answers is a model, wherever that is
    size = 0
    _most_output = 0

    def __init__(self, request: ProviderRequest, context: CallContext) -> None:
        super().__init__(context)
        self.operation = request.operation
        self.model = request.model
        self.provider = request.provider
        self.base_url = request.url
        self.size = request.size
        self._most_output = request.most_output_tokens or 0
        self._request = request
        recorder.evict_oldest()

    def note_body(self, body: object) -> None:
        """Note the size of what is sent, as its texts have it: what is sent is not kept."""
        self.size = _size(body)

    def sending(self) -> None:
        """Reserve in budgets where no gate is above: the last line of defence, which a client may try to pass again."""
        if self.budgets and self.reservations is None:
            recorder.reserve(self)

    def answered(self) -> None:
        """End the call, unless its SDK may try again."""
        verdict = self._verdict()
        if verdict is not FAILED or not self.is_gated:
            recorder.finish(self, verdict)

    def relayed(self) -> None:
        """Forget the call: the server in this process makes the one that is billed."""
        recorder.discard(self)

    def estimate_prompt(self) -> int:
        """Return the tokens of the request, by its size."""
        return self.size // _BYTES_PER_TOKEN

    def prompt_bound(self) -> int | None:
        """Return the size of the request, as a token has at least a byte; None where tools may be billed beside it."""
        return None if self._request.tools else self.size or None

    def allowed_fees(self) -> AllowedFees:
        """Return what the tools that the request declares may be billed for."""
        tools = [{"type": tool.kind, "max_uses": tool.most_uses} for tool in self._request.tools]
        return allowed_fees(tools, self._request.most_tool_calls) if tools else NO_FEES

    def max_output(self) -> int:
        """Return the most output tokens that the request allows, 0 where it does not say."""
        return self._most_output

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the tokens of the request, by its size; what was answered is not known."""
        if self.operation == "rerank" and self.provider == "aws":  # which counts them nowhere
            return {"rerank_searches": -(-self._request.documents // _DOCUMENTS_PER_SEARCH)}, "documents"
        counts = {"input_tokens": self.estimate_prompt()}
        if self.operation not in ("embeddings", "rerank"):
            counts["output_tokens"] = 0
        return counts, "bytes"

    def _verdict(self) -> Verdict:
        answer = self.answers[-1]
        usage = answer.usage
        if usage is not None and is_empty(usage):
            if usage.doubts and self.operation == "embeddings":
                return CallResult(usage)  # of images, which the doubt counts
            usage = None
        if answer.is_final and usage is not None and is_whole(usage, self.operation):
            return CallResult(usage)
        if answer.is_lost or usage is not None:
            return Incomplete(usage, interrupted=True, model=answer.model)
        if answer.status is None or answer.status >= 400:
            return FAILED
        return self._without_usage(answer)

    def _without_usage(self, answer: ProviderAnswer) -> Verdict:
        if self._request.api == "batch":  # its half of the price is known, its tokens are not
            return Incomplete(ReportedUsage({}, service_tier="batch"), remedy=_LATER)
        is_known = self.is_of_a_model or self.provider or answer.model or self._request.api in _WITHOUT_MODEL
        if not is_known:
            return DISCARD  # an application's own server, which has the same path and keys as a provider's
        return Incomplete(None, model=answer.model, remedy=_LEFT_OUT if answer.streamed else "its answer has no usage")


def open_sdk_call(request: ProviderRequest) -> Call | None:
    """Return a new call for a request that no framework's call sends, None where SDKs' calls are not tracked."""
    context = current_context()
    if context.in_blocks:
        if not context.scopes[-1].sdk_calls:
            left_out.warn("sdk", "a call of %s in a block is not counted: track_tokens(sdk_calls=False)", request.host)
            return None
    elif SDK not in state.automatic:
        return None
    return SDKCall(request, context)


def _size(body: object) -> int:
    if isinstance(body, str):
        return len(body.encode(errors="replace"))
    if isinstance(body, Mapping):
        return sum(map(_size, body.values()))
    return sum(map(_size, body)) if isinstance(body, list | tuple) else 1


sdk_owner.append(open_sdk_call)
