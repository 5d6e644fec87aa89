"""LlamaIndexTokenHandler: the handler for a CallbackManager, under TokenCountingHandler's attribute names."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index_instrumentation.span import active_span_id

from token_handlers.budget.budget import Budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import NoLangChainHandler, absorb, shielded
from token_handlers.llama_index import calls, embeddings, filters, spans, workers
from token_handlers.llama_index.asked import ANTHROPIC
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import EmbeddingBatch
from token_handlers.llama_index.ends import end, fail
from token_handlers.llama_index.managers import check_handler
from token_handlers.llama_index.models import CountsCalls
from token_handlers.llama_index.recent import CallCounts, recent_counts
from token_handlers.llama_index.spans import current
from token_handlers.pricing.sellers import checked_stand_ins
from token_handlers.tracking.call import Call
from token_handlers.tracking.frames import callers
from token_handlers.tracking.recorder import evict_oldest
from token_handlers.tracking.state import check_budgets, state, watch_frameworks

_MANAGERS = "llama_index.core.callbacks.base"
Tokenizer = Callable[[str], Sequence[object]]

_MOST_EVENTS = 10_000
_MULTI_MODAL = "llama_index.core.embeddings.multi_modal_base"
_NEAR = 12  # frames between an embedding model's method and a handler
_LLM, _EMBEDDING = CBEventType.LLM, CBEventType.EMBEDDING
_IGNORED = [kind for kind in CBEventType if kind not in (_LLM, _EMBEDDING)]


class _OfInstances:
    """A method that LlamaIndex asks each handler for first: where that is the class itself, the error says so."""

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = method

    def __get__(self, handler: object, kind: type) -> Callable[..., None]:
        if handler is None and next(callers(sys._getframe(1))).f_globals.get("__name__") == _MANAGERS:  # noqa: SLF001
            check_handler(kind)
        return functools.partial(self._method, handler) if handler is not None else self._method


class LlamaIndexTokenHandler(CountsCalls, BaseCallbackHandler):
    """Counts the calls of the LLMs and embedding models that carry it, under TokenCountingHandler's attribute names.

    ``counter`` is the TokenCounter to count into; without one the handler has its own. Every call also reaches the
    shared counter and the counters of the blocks around it, once. A copy of the handler is the handler itself, and in a
    worker process it sends home what it counts. Everything that a TokenCounter has is an attribute of it too.

    The other arguments are TokenCountingHandler's. ``tokenizer``, which splits a text into tokens, is asked where a
    call reports no usage. LLM or EMBEDDING among ``event_ends_to_ignore`` leaves those calls out;
    ``event_starts_to_ignore`` changes nothing, as it changes no count there. ``verbose`` prints each call's tokens,
    or logs them on ``logger``. ``token_budget`` is the most tokens of LLM calls: BudgetExceeded, before it is sent,
    for a call that would pass it.

    ``price_as`` prices what is counted under a name as another model, {"MockLLM": "gpt-4o-mini", "MockEmbedding":
    "openai/text-embedding-3-small"}: what an index or a query costs, before anything is sent.
    """

    run_inline = raise_error = NoLangChainHandler()

    def __init__(
        self,
        counter: TokenCounter | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        event_starts_to_ignore: Sequence[CBEventType] | None = None,
        event_ends_to_ignore: Sequence[CBEventType] | None = None,
        verbose: bool = False,
        logger: logging.Logger | None = None,
        token_budget: int | None = None,
        price_as: Mapping[str, str] | None = None,
    ) -> None:
        if counter is not None and not isinstance(counter, TokenCounter):
            hint = "; a tokenizer is given by its name: tokenizer=..." if callable(counter) else ""
            raise TypeError(f"counter must be a TokenCounter, not {counter!r}{hint}")
        if tokenizer is not None and not callable(tokenizer):
            raise TypeError(f"tokenizer must be a callable that splits a text into tokens, not {tokenizer!r}")
        ignored = list(event_ends_to_ignore or ())
        super().__init__(_IGNORED + ignored, _IGNORED + ignored)
        self._stand_ins = {} if price_as is None else checked_stand_ins(price_as)
        self.counts_llms, self.counts_embeddings = _LLM not in ignored, _EMBEDDING not in ignored
        self.tokenizer, self.token_budget = tokenizer, token_budget
        self._budget = None if token_budget is None else Budget(max_tokens=token_budget)
        if self._budget is not None:
            check_budgets()
        filters.listen(self)
        watch_frameworks()
        self.counter: TokenCounter = counter if counter is not None else TokenCounter()
        # The call of each event that has started; None where another call is recorded in its stead.
        self._events: dict[str, ModelCall | EmbeddingBatch | None] = {}
        # A handler that is in a manager twice sees each event twice.
        self._again: list[str] = []
        self._recent = recent_counts(self.counter)
        self._recent.announce(logger, verbose=verbose)

    def count(self, call: Call) -> None:
        """Count a call, hold it to this handler's budget, and have its estimate made by this handler's tokenizer."""
        if self.counts_embeddings if call.operation == "embeddings" else self.counts_llms:
            call.count_for(self.counter)
        if self._stand_ins:
            call.stand_ins = {**call.stand_ins, **self._stand_ins}
        if self._budget is not None and call.operation != "embeddings" and self._budget not in call.budgets:
            call.budgets = (*call.budgets, self._budget)
        if self.tokenizer is not None and isinstance(call, ModelCall | EmbeddingBatch):
            call.tokenizer = self.tokenizer

    @property
    def llm_token_counts(self) -> "list[CallCounts]":
        """The tokens of the last 1,000 LLM calls, without their texts."""
        return self._recent.llm_calls()

    @property
    def embedding_token_counts(self) -> "list[CallCounts]":
        """The tokens of the last 1,000 embedding requests, without their texts."""
        return self._recent.embeddings()

    @property
    def prompt_llm_token_count(self) -> int:
        """Input tokens of LLM calls, cached ones included."""
        return self.counter.prompt_tokens

    @property
    def completion_llm_token_count(self) -> int:
        """Output tokens of LLM calls, reasoning included."""
        return self.counter.completion_tokens

    @property
    def total_llm_token_count(self) -> int:
        """Input plus output tokens of LLM calls."""
        return self.counter.total_tokens

    @property
    def total_embedding_token_count(self) -> int:
        """Tokens of embedding calls."""
        return self.counter.embedding_tokens

    def reset_counts(self) -> None:
        """Set everything to zero, and begin the budget again."""
        self.counter.reset()
        self._recent.clear()
        if self._budget is not None:
            self._budget = Budget(max_tokens=self.token_budget)

    def __repr__(self) -> str:
        return str(self.counter)

    def __copy__(self) -> "LlamaIndexTokenHandler":
        return self

    def __deepcopy__(self, memo: Any) -> "LlamaIndexTokenHandler":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (tuple(workers.address_of(self, self.counter)),)

    @_OfInstances
    def start_trace(self, trace_id: str | None = None) -> None:
        """Traces carry no usage."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Traces carry no usage."""

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        """Open the call, or join the one that the dispatcher's event has opened."""
        if event_type is _LLM or event_type is _EMBEDDING:
            try:
                self._start(event_type, payload or {}, event_id)
            except Exception as error:  # noqa: BLE001 - as `shielded`, without its frame
                absorb(error, "LlamaIndexTokenHandler.on_event_start")
        return event_id

    def _start(self, event_type: CBEventType, payload: dict[str, Any], event_id: str) -> None:
        if event_id in self._events:
            self._again.append(event_id)
            return
        if not state.watched:
            watch_frameworks()
        call = _llm_call(payload, event_id) if event_type is _LLM else _embedding_call(payload, event_id)
        if call is not None:
            self.count(call)
        self._events[event_id] = call
        if len(self._events) > _MOST_EVENTS:  # LlamaIndex leaves events open where a batch of embeddings failed
            self._events.pop(next(iter(self._events)), None)

    def on_event_end(
        self, event_type: CBEventType, payload: dict[str, Any] | None = None, event_id: str = "", **kwargs: Any
    ) -> None:
        """Record the call, where the dispatcher's own end will not."""
        try:
            self._end(event_type, payload or {}, event_id)
        except Exception as error:  # noqa: BLE001 - as above
            absorb(error, "LlamaIndexTokenHandler.on_event_end")

    def _end(self, event_type: CBEventType, payload: dict[str, Any], event_id: str) -> None:
        if event_id in self._again:
            self._again.remove(event_id)
            return
        try:
            call = self._events.pop(event_id)
        except KeyError:
            call = self._unstarted(payload) if event_type is _LLM else None
        if call is None or call.settled:
            return
        if isinstance(call, EmbeddingBatch):
            if call.span is None:
                texts = () if call in embeddings.images.get() else payload.get(EventPayload.CHUNKS) or ()
                embeddings.estimated(call, texts)
        elif EventPayload.EXCEPTION in payload:
            fail(call, payload[EventPayload.EXCEPTION])
        else:
            end(call, _response(payload))

    def _unstarted(self, payload: dict[str, Any]) -> ModelCall | None:
        """Return a call for an event whose start came before this handler was there."""
        response = _response(payload)
        if response is None:
            return None
        call = calls.with_response(response) or calls.find(active_span_id.get(), calls.prompt_of(payload))
        if call is None:
            call = ModelCall(None)
            call.operation = _operation(payload)
            call.prompt = calls.prompt_of(payload)
            raw = getattr(response, "raw", None)
            if isinstance(raw, dict) and raw.get("type") == "message_delta":  # of a stream whose start says more
                call.model_dict, call.response = {"class_name": ANTHROPIC}, response
        self.count(call)
        return call


class Messenger(BaseCallbackHandler):
    """What a pipeline's models carry into its worker processes where no handler of ours is in them: here it is idle."""

    def __init__(self) -> None:
        super().__init__(list(CBEventType), list(CBEventType))
        # Taken here and not when it is pickled: process pools do that in a thread that is in no scope.
        self._address = workers.address_of(self, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (tuple(self._address),)

    def __deepcopy__(self, memo: Any) -> "Messenger":
        return self

    def on_event_start(self, event_type: CBEventType, *args: Any, event_id: str = "", **kwargs: Any) -> str:
        """Nothing is counted here."""
        return event_id

    def on_event_end(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> None:
        """Nothing is counted here."""

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing is counted here."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Nothing is counted here."""


_arrived: dict[tuple[int, str], LlamaIndexTokenHandler] = {}


def _arrive(packed: tuple[Any, ...]) -> BaseCallbackHandler:
    """Unpickle: the handler itself at home, in a worker one that sends home what it counts.

    It never raises: a multiprocessing.Pool hangs for ever where a worker can't unpickle its task.
    """
    return _unpack(packed) or Messenger()


@shielded
def _unpack(packed: tuple[Any, ...]) -> BaseCallbackHandler:
    address = workers.HomeAddress(*packed)
    at_home: BaseCallbackHandler | None = workers.handler_at_home(address)
    if at_home is not None:
        return at_home
    key = os.getpid(), address.target
    if key not in _arrived:
        handler = _arrived[key] = LlamaIndexTokenHandler()
        handler.counter.listen(workers.Sender(address))
    return _arrived[key]


def _llm_call(payload: dict[str, Any], event_id: str) -> ModelCall | None:
    facts = payload.get(EventPayload.SERIALIZED) or {}
    if facts.get("class_name") == filters.PASSED_ON:
        return None
    span_id, prompt = active_span_id.get(), calls.prompt_of(payload)
    call = calls.find(span_id, prompt)
    if call is None or call.event_id not in (None, event_id) or not call.same_prompt(prompt):
        kwargs = payload.get(EventPayload.ADDITIONAL_KWARGS)
        call = spans.begin(None, span_id, prompt, kwargs, facts)
        call.operation = _operation(payload)
    call.event_id = event_id
    return call


def _embedding_call(payload: dict[str, Any], event_id: str) -> EmbeddingBatch:
    facts = payload.get(EventPayload.SERIALIZED) or {}
    if any(frame.f_globals.get("__name__") == _MULTI_MODAL for frame in islice(callers(), _NEAR)):
        return embeddings.open_images(facts, event_id)
    span = current.get()
    if span is None or span.span_id != active_span_id.get():
        call = EmbeddingBatch(None, facts)
        evict_oldest()
    else:
        newest = span.waiting[-1] if span.waiting else None
        mine = isinstance(newest, EmbeddingBatch) and newest.event_id in (None, event_id)
        call = newest if mine else embeddings.begin(span, facts)  # type: ignore[assignment]  # checked
    call.event_id = event_id
    return call


def _operation(payload: dict[str, Any]) -> Any:
    return "text_completion" if EventPayload.MESSAGES not in payload else "chat"


def _response(payload: dict[str, Any]) -> Any:
    response = payload.get(EventPayload.RESPONSE)
    return payload.get(EventPayload.COMPLETION) if response is None else response
