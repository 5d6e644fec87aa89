"""The LLM runs that have started: what their start and their chunks carried, until they end."""

from asyncio import _get_running_loop, current_task
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter, methodcaller
from threading import get_ident
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from token_handlers.budget.tool_fees import NO_FEES, AllowedFees, allowed_fees
from token_handlers.counter.totals import BARE
from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.langchain.cache import has_answer
from token_handlers.langchain.labels import INTERNAL_KEYS, LS_KEYS, with_metadata, with_run_name
from token_handlers.langchain.text import message_pairs, message_text
from token_handlers.tokenizer.estimates import Estimate, estimate_prompt, estimate_tokens, prepare
from token_handlers.tokenizer.tool_schemas import SENT_BESIDE, sent_tools
from token_handlers.tracking.call import Call, bound_tokens, open_calls, watch_task
from token_handlers.tracking.frames import callers
from token_handlers.tracking.recorder import task_ended
from token_handlers.tracking.scopes import CallContext

_BASE_URLS = ("openai_api_base", "base_url", "azure_endpoint", "anthropic_api_url", "endpoint", "endpoint_url",
              "api_base", "xai_api_base")  # fmt: skip # in this order
_PLACES = frozenset({*_BASE_URLS, "location", "region_name", "deployment_name"})
# The first that is stated is what is sent: a bound max_tokens replaces ChatOpenAI's own, its max_completion_tokens.
_MAX_TOKENS = dict.fromkeys(
    ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "num_predict")
).keys()
_ANSWERS = frozenset({"n", "best_of"})
_content, _tool_calls = itemgetter("content"), methodcaller("get", "tool_calls")
ENDS = frozenset({"finish_reason", "stop_reason", "stopReason", "done_reason"})
"""What a response's metadata has when the answer is whole."""

# Tags that LangChain and LangGraph put on runs themselves.
_INTERNAL_TAGS = ("seq:step:", "map:key:", "branch:", "condition:", "graph:step:", "langsmith:")


class Batch:
    """The runs of one `generate`, which start together."""

    __slots__ = ("__weakref__", "refusal", "reported", "runs")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.refusal: BudgetExceeded | None = None
        self.reported = False


class Run(Call):
    """One LLM run."""

    is_decision = False
    is_labelled_by_run = True
    handlers: list[object]  # that saw the start, and not yet the end
    first: object = None  # of them: the one that keeps the chunks
    parts: list[Any]  # texts, and lists of blocks
    usages: Sequence[Mapping[str, Any]] = ()
    chunk: object = None
    counted_parts = 0
    finished = False
    batch: Batch | None = None
    next_same_id: "Run | None" = None
    described = False
    name: object = None  # what the caller calls this run
    flow: tuple[int, int] | None = None

    def __init__(
        self,
        context: CallContext,
        run_id: UUID,
        prompt: Sequence[Any],
        serialized: Mapping[str, Any] | None = None,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        invocation: Mapping[str, Any] | None = None,
    ) -> None:
        if prompt and isinstance(prompt[0], str):
            self.operation = "text_completion"
        self.run_id = run_id
        self.prompt = prompt
        self.serialized = serialized
        self.parent_run_id = parent_run_id
        self.tags = tags
        self.metadata = metadata
        self.invocation = invocation
        self.parts = []
        Call.__init__(self, context)  # last, as others see it from then on

    def describe(self) -> None:
        """Fill in model, provider and labels; not done at the start, which is the application's time to first token."""
        if self.described:
            return
        self.described = True
        metadata, serialized = self.metadata or {}, self.serialized or {}
        kwargs = serialized.get("kwargs") or {}
        name = metadata.get("ls_model_name") or _asked_name(self.invocation)
        self.model = name if isinstance(name, str) else kwargs.get("model_name")
        self.provider = metadata.get("ls_provider") or _maker(serialized)
        if not _PLACES.isdisjoint(kwargs):
            self._locate(kwargs)
        if not LS_KEYS.issuperset(metadata):
            self.node = metadata.get("langgraph_node")
            if not INTERNAL_KEYS.issuperset(metadata):
                self.labels = shielded(with_metadata)(self.labels, metadata) or self.labels
        if self.name is not None:
            self.labels = shielded(with_run_name)(self.labels, self.name, self.context.labels) or self.labels
        if self.tags:
            own = [tag for tag in self.tags if not tag.startswith(_INTERNAL_TAGS)]
            if own:
                self.labels = self.labels._replace(tags={**dict.fromkeys(own, BARE), **self.labels.tags})

    def _locate(self, kwargs: Mapping[str, Any]) -> None:
        """Fill in where the client's calls go."""
        self.base_url = next((kwargs[key] for key in _BASE_URLS if isinstance(kwargs.get(key), str)), None)
        if isinstance(kwargs.get("location"), str) and kwargs.get("vertexai") is not False:
            self.served = {"region": kwargs["location"]}  # Vertex: its places have prices of their own
        elif isinstance(kwargs.get("region_name"), str):
            self.served = {"region": kwargs["region_name"]}  # Bedrock: the same
        elif isinstance(kwargs.get("deployment_name"), str) and kwargs["deployment_name"] != self.model:
            self.served = {"deployment": kwargs["deployment_name"]}  # Azure: a user's prices are of these

    def add_chunk(self, message: Any) -> None:
        """Keep what one streamed message chunk says of usage and of the stream's end."""
        for call in message.tool_call_chunks:
            self.parts.append(call.get("args") or call.get("name") or "")
        usage = message.usage_metadata
        if usage:
            self.note({**usage})  # langchain-core before 0.3.9 adds up a stream's usages in the first of them
            self.counted_parts = len(self.parts)
        if not ENDS.isdisjoint(message.response_metadata or ()):
            self.finished = True

    def note(self, usage: Mapping[str, Any]) -> None:
        """Keep one usage that the stream reported."""
        if isinstance(self.usages, list):
            self.usages.append(usage)
        else:
            self.usages = [usage]

    def progress(self) -> int:
        """Return how many pieces of text were received."""
        return len(self.parts)

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the estimated tokens of the prompt and of an answer, by default of what was received so far."""
        prompt = self.estimate_input()
        if text is None:
            text = "".join(part if isinstance(part, str) else message_text(part)[0] for part in self.parts)
        answer = estimate_tokens(text, self.counted_as).tokens if text else 0
        return {"input_tokens": prompt.tokens, "output_tokens": answer}, prompt.method

    def estimate_input(self) -> Estimate:
        """Return the prompt's estimated tokens, tools and schemas included."""
        self.describe()
        prepare(self.counted_as)
        first = self.prompt[0] if self.prompt else ""
        if isinstance(first, str):
            return estimate_tokens(first, self.counted_as)
        pairs, media = message_pairs(first)
        return estimate_prompt(pairs, sent_tools(self.invocation or {}), self.counted_as, media=media)

    def estimate_prompt(self) -> int:
        """Return the prompt's estimated tokens."""
        return self.estimate_input().tokens

    def prompt_bound(self) -> int | None:
        """Return what a prompt of plain text can't exceed; None with tools, schemas or images."""
        invocation = self.invocation
        if invocation and not SENT_BESIDE.isdisjoint(invocation) and any(map(invocation.get, SENT_BESIDE)):
            return None
        try:
            messages = [*map(vars, self.prompt[0])]  # pydantic takes long to say that a message has no attribute
            if not messages or any(map(_tool_calls, messages)):
                return None
            return bound_tokens([*map(_content, messages)])
        except TypeError:  # a legacy LLM's prompt, or the parts of a content, such as images
            return bound_tokens(self.prompt[:1]) if self.operation == "text_completion" else None

    def allowed_fees(self) -> AllowedFees:
        """Return what the bound tools may be billed for."""
        invocation = self.invocation or {}
        tools = invocation.get("tools")
        return allowed_fees(tools, invocation.get("max_tool_calls")) if isinstance(tools, (list, tuple)) else NO_FEES

    def max_output(self) -> int:
        """Return the most output tokens that the call allows, of all its answers; 0 where it does not say."""
        if _MAX_TOKENS.isdisjoint(self.invocation or ()) and "ls_max_tokens" not in (self.metadata or ()):
            return 0
        invocation, metadata = self.invocation or {}, self.metadata or {}
        most = next((stated for name in _MAX_TOKENS if (stated := _positive(invocation.get(name)))), 0)
        most = most or _positive(metadata.get("ls_max_tokens"))
        if most and not _ANSWERS.isdisjoint(invocation):
            most *= max(1, *(_positive(invocation.get(name)) for name in _ANSWERS))
        return most

    def is_cached(self) -> bool:
        """Return whether LangChain's cache has the answer; legacy LLMs start no run for one."""
        return self.operation == "chat" and has_answer(self.prompt[0])

    def forget(self) -> None:
        """Drop this run from the table of open ones."""
        _remove(self)


# By the run's id as a number, which Python hashes without calling UUID.__hash__. Runs with one id hang on each other.
open_runs: dict[int, Run] = {}
# By the identity of the invocation parameters, one object for all runs of a `generate`, which its runs keep alive.
_batches: WeakValueDictionary[int, Batch] = WeakValueDictionary()


def begin(run: Run, other: Run | None, batch_size: int) -> None:
    """Put a run into the table, before another one that has the same id."""
    if other is not None:
        run.next_same_id = other
    open_runs[run.run_id.int] = run
    if batch_size > 1:
        _join_batch(run)
    if _get_running_loop() is None:
        run.flow = get_ident(), 0
        return
    run.flow = flow()
    if run.operation == "chat":  # legacy LLMs' runs start in tasks that end at once
        watch_task(run, task_ended)


def flow() -> tuple[int, int]:
    """Return what tells this thread and asyncio task from others."""
    loop = _get_running_loop()
    return get_ident(), 0 if loop is None else id(current_task(loop))


def same_start(run: Run | None, prompt: Sequence[Any], invocation: object) -> Run | None:
    """Return which of the open runs with one id is of this very start event, which another handler has seen already.

    A caller may give one run_id to two calls: they have the id in common, but not the invocation parameters, of which
    each call makes its own (and where there are none, not the prompt).
    """
    while run is not None:
        if run.invocation is invocation and (invocation is not None or run.prompt[:1] == prompt[:1]):
            return run
        run = run.next_same_id
    return None


def find(run_id: UUID | None, handler: object) -> Run | None:
    """Return the open run with this id whose start the handler saw."""
    run = None if run_id is None else open_runs.get(run_id.int)
    while run is not None and handler not in run.handlers:
        run = run.next_same_id
    return run


def leave(run_id: UUID | None, handler: object) -> Run | None:
    """Return the open run with this id whose start the handler saw, and note that it saw the end too."""
    if run_id is None:
        return None
    run = open_runs.get(run_id.int)
    if run is not None and run.next_same_id is None and run.handlers == [handler]:  # as nearly always
        open_runs.pop(run_id.int, None)
        return run
    run = answered = find(run_id, handler)
    while answered is not None and not (answered.answers and handler in answered.handlers):
        answered = answered.next_same_id
    run = answered or run  # of two calls at once that have one id, the one that ends has its answer
    if run is not None:
        run.handlers.remove(handler)
        if not run.handlers:
            _remove(run)
    return run


def note_usage(run_id: UUID, usage: Any) -> None:
    """Keep the usage of a legacy LLM's stream, which its client reads and LangChain does not pass on."""
    counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    run = open_runs.get(run_id.int)
    if run is not None:
        run.note(counts)


def children(parent_run_id: UUID) -> list[Run]:
    """Return the open runs of a chain."""
    return [run for run in list(open_runs.values()) if run.parent_run_id == parent_run_id]


def with_id(run_id: UUID | None) -> list[Run]:
    """Return the runs with this id that have not ended, in the table of runs or not: slow, for faults."""
    return [call for call in list(open_calls) if isinstance(call, Run) and call.run_id == run_id]


def newest(run_id: UUID) -> Run | None:
    """Return the open run with this id."""
    return open_runs.get(run_id.int)


def others_of_failed(run: Run) -> Iterator[tuple[Run, bool]]:
    """Yield the others of a sync `generate` in which this run failed, which get no event any more: run, was answered.

    Those before it were answered, and what they used is lost; those after it were never sent. The async form and the
    legacy LLMs say of each run how it ended.
    """
    batch = run.batch
    if batch is None or run.operation != "chat" or not _in_generate():
        return
    position = batch.runs.index(run)
    for index, other in enumerate(batch.runs):
        if index != position and not other.settled:
            yield other, index < position


def _in_generate() -> bool:
    return any(frame.f_code.co_name == "generate" for frame in callers())


def _positive(stated: object) -> int:
    return stated if type(stated) is int and stated > 0 else 0


def _asked_name(invocation: Mapping[str, Any] | None) -> object:
    return None if invocation is None else invocation.get("model_name") or invocation.get("model")


def _maker(serialized: Mapping[str, Any]) -> str | None:
    path = serialized.get("id")
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else None


def _join_batch(run: Run) -> None:
    batch = _batches.get(id(run.invocation))
    if batch is None:
        batch = _batches[id(run.invocation)] = Batch()
    batch.runs.append(run)
    run.batch = batch


def _remove(run: Run) -> None:
    number = run.run_id.int
    other = open_runs.get(number)
    if other is run:
        if run.next_same_id is None:
            open_runs.pop(number, None)
        else:
            open_runs[number] = run.next_same_id
        return
    while other is not None and other.next_same_id is not run:
        other = other.next_same_id
    if other is not None:
        other.next_same_id = run.next_same_id
