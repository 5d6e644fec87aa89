"""LangChainTokenHandler, and the process-wide handler behind track_tokens()."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks.base import BaseCallbackHandler

from token_handlers.counter.attributes import UsageAttributes
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, NoLangChainHandler, absorb, shielded
from token_handlers.langchain import activities, calls, nested
from token_handlers.langchain.budgets import refused
from token_handlers.langchain.calls import ENDS, open_runs
from token_handlers.langchain.decisions import DecisionRun, is_decision
from token_handlers.langchain.owners import last_run
from token_handlers.langchain.results import read_decision, read_end, read_error
from token_handlers.langchain.usage_metadata import usage_metadata
from token_handlers.tracking import recorder
from token_handlers.tracking.call import current_context, open_calls
from token_handlers.tracking.reservations import book_reserved
from token_handlers.tracking.result import UNREAD, CallResult, Verdict
from token_handlers.tracking.scopes import active, active_scopes, unusual
from token_handlers.tracking.state import state, watch_frameworks

if TYPE_CHECKING:
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import LLMResult


class RunRecorder(BaseCallbackHandler):
    """Follows LLM runs from their start to their end, and records each once however many handlers see it.

    Synchronous and ``run_inline``: in async code LangChain would otherwise hand every single event to a thread.
    """

    run_inline = True
    raise_error = True  # for BudgetExceeded alone: every other error stops in `shielded`
    # For each call LangChain asks whether it has these, and so streams: from Python 3.12 on this is the shortest no.
    tap_output_iter = tap_output_aiter = None
    # The class itself has none, so that the class in a callbacks list is not passed over in silence.
    ignore_llm = ignore_chat_model = NoLangChainHandler()

    def __init__(self, counter: TokenCounter | None) -> None:
        self._counter = counter
        vars(self).update(ignore_llm=False, ignore_chat_model=False)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        name: object = None,
        batch_size: int = 1,
        kind: type[calls.Run] = calls.Run,
        **kwargs: Any,
    ) -> None:
        """Remember what only the start has: the scopes, the model, the prompt for an estimate.

        LangChain never passes a ``kind``; `on_chain_start` does.
        """
        try:
            counter, context = self._counter, current_context()
            if counter is not None:
                if not state.watched:  # since uninstall()
                    watch_frameworks()
                context = context.plus(counter)
            elif not context.in_blocks and "langchain" not in state.automatic:
                return
            other = open_runs.get(run_id.int)
            run = None if other is None else calls.same_start(other, messages, invocation_params)
            if run is None:
                run = kind(context, run_id, messages, serialized, parent_run_id, tags, metadata, invocation_params)
                run.first, run.handlers = self, [self]
                if name is not None:
                    run.name = name
                calls.begin(run, other, batch_size)
                if len(open_calls) > 1:  # otherwise there is neither one too many nor one that makes this one
                    recorder.evict_oldest()
                    nested.join(run, last_run.get())
                last_run.set(run)
            else:
                run.handlers.append(self)
                if counter is not None:
                    run.count_for(counter)
            if run.budgets and run.reservations is None:
                _reserve(run)
        except Exception as error:  # noqa: BLE001 - as `shielded`, whose wrapper costs more than some of these events
            absorb(error, "on_llm_start")

    on_llm_start = on_chat_model_start  # type: ignore[assignment]  # legacy LLMs: prompts instead of messages

    def on_llm_new_token(
        self,
        token: Any,
        *,
        chunk: Any = None,
        run_id: UUID | None = None,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the text, for an estimate, and the usage that the chunk carries."""
        try:
            run = None if run_id is None else open_runs.get(run_id.int)
            if run is None or run.first is not self:
                run = calls.find(run_id, self)  # one of several with this id, as nearly never
                if run is None or run.first is not self:
                    return
            if chunk is run.chunk and chunk is not None:
                return
            run.chunk = chunk
            if token:
                run.parts.append(token)
            try:
                message = chunk.message
            except AttributeError:  # a legacy LLM's
                return
            said = message.response_metadata or ()
            if message.usage_metadata or message.tool_call_chunks or not ENDS.isdisjoint(said):
                run.add_chunk(message)
        except Exception as error:  # noqa: BLE001 - as above
            absorb(error, "on_llm_new_token")

    def on_llm_end(self, response: "LLMResult", *, run_id: UUID | None = None, **kwargs: Any) -> None:
        """Record what the run used."""
        run = None
        try:
            run = calls.leave(run_id, self)
            if run is None and self._counter is not None:
                run = _unstarted(run_id, self._counter)
            if run is not None and not run.settled:
                verdict: Verdict = UNREAD
                try:
                    verdict = read_decision(run, response) if run.is_decision else read_end(run, response)
                finally:
                    recorder.finish(run, verdict)
                    if run.batch is not None and type(verdict) is CallResult:
                        run.batch.reported = True
        except BaseException as error:
            _abandon(run, run_id)
            if not isinstance(error, Exception):  # such as Ctrl-C
                raise
            absorb(error, "on_llm_end")

    @shielded
    def on_llm_error(self, error: BaseException, *, run_id: UUID | None = None, **kwargs: Any) -> None:
        """Record a rejected call as failed, and an interrupted one by what it received."""
        run = None
        try:
            run = calls.leave(run_id, self)
            if run is None or run.settled:
                return
            verdict: Verdict = UNREAD
            try:
                verdict = read_error(run, error, kwargs.get("response"))
            finally:
                recorder.finish(run, verdict)
                if run.batch is not None and type(verdict) is CallResult:
                    run.batch.reported = True
                for other, was_answered in calls.others_of_failed(run):
                    recorder.record_estimate(other) if was_answered else recorder.discard(other)
        except BaseException:
            _abandon(run, run_id)
            raise

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        run_type: str | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Begin the call of a decision model, or note the name of an outermost run; other chains make no calls."""
        if parent_run_id is None:
            try:
                activities.enter_outermost(name, run_id)
            except Exception as error:  # noqa: BLE001 - as `shielded`, whose wrapper costs more than most of these events
                absorb(error, "on_chain_start")
        if is_decision(run_type, metadata):
            run = {"tags": kwargs["tags"]} if "tags" in kwargs else {}
            self.on_chat_model_start(
                serialized,
                (inputs,),
                run_id=run_id,
                parent_run_id=parent_run_id,
                metadata=metadata,
                kind=DecisionRun,
                **run,
            )

    def on_chain_end(
        self, outputs: Any, *, run_id: UUID | None = None, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Record what a decision model's call used."""
        if parent_run_id is None:
            activities.leave_outermost(run_id)
        if open_runs and self._is_decision(run_id):
            self.on_llm_end(outputs, run_id=run_id)

    @shielded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Record a decision model's failed call, and show a chain's open LLM runs as estimates: in async code a chain
        broken off says nothing of them.
        """
        activities.leave_outermost(run_id)
        for run in calls.children(run_id):
            recorder.show_estimate(run)
        if self._is_decision(run_id):
            self.on_llm_error(error, run_id=run_id)

    @shielded
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Label the calls that a tool makes with its name."""
        activities.enter_tool((serialized or {}).get("name") or kwargs.get("name"), run_id, parent_run_id)

    @shielded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Label the calls that follow as those before the tool."""
        activities.leave_tool(run_id)

    @shielded
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Label the calls that follow as those before the tool."""
        activities.leave_tool(run_id)

    def _is_decision(self, run_id: UUID | None) -> bool:
        run = calls.find(run_id, self)
        return run is not None and run.is_decision

    @property
    def ignore_retriever(self) -> bool:
        """Retrievers' events carry no usage."""
        return True

    @property
    def ignore_custom_event(self) -> bool:
        """Custom events carry no usage."""
        return True


def _reserve(run: calls.Run) -> None:
    """Reserve what a run may use in its budgets; one that is refused takes along what was to be sent with it."""
    try:
        if run.batch is not None and run.batch.refusal is not None:
            raise run.batch.refusal
        recorder.reserve(run)
    except BudgetExceeded as error:
        raise refused(run, error) from None


def _abandon(run: calls.Run | None, run_id: UUID | None) -> None:
    """Record a run as an estimate of which the end could not be read: it was made, and keeps nothing reserved."""
    for one in calls.with_id(run_id) if run is None else (run,):
        recorder.record_estimate(one)
        book_reserved(one)


def _unstarted(run_id: UUID | None, counter: TokenCounter) -> calls.Run:
    """Return a run for an end whose start came before the handler was there."""
    run = calls.Run(current_context(), run_id or UUID(int=0), ())
    run.count_for(counter)
    return run


class ProcessRecorder(RunRecorder):
    """The one handler that LangChain's configure hook adds to the runs that a scope or automatic tracking wants."""

    def __init__(self) -> None:
        super().__init__(None)


_process_recorder = ProcessRecorder()


class RecorderVariable:
    """Stands where LangChain expects a context variable; asked, it answers with who is to record what starts here.

    A real variable can only be set in a context or have one default for good: this one is seen in every thread and in
    an empty context, and while nothing is tracked there is no handler at all.
    """

    @staticmethod
    def get() -> RunRecorder | None:
        """Return the innermost get_openai_callback's handler, else the process's own, or None where nothing tracks."""
        scopes = active_scopes() if unusual else active.get()
        if not scopes:
            return _process_recorder if "langchain" in state.automatic else None
        return scopes[-1].recorder or _process_recorder


class LangChainTokenHandler(UsageAttributes, RunRecorder):
    """Counts the LLM calls of the callbacks list it is in, under OpenAICallbackHandler's attribute names.

    ``counter`` is the TokenCounter to count into; without one the handler has its own. Every call also reaches the
    shared counter and the counters of the blocks around it, once.
    """

    def __init__(self, counter: TokenCounter | None = None) -> None:
        if counter is not None and not isinstance(counter, TokenCounter):
            raise TypeError(f"counter must be a TokenCounter, not {counter!r}")
        watch_frameworks()  # the providers' own answers: an event leaves out what they bill beside the tokens
        self.counter: TokenCounter = counter if counter is not None else TokenCounter()
        super().__init__(self.counter)

    @property
    def usage_metadata(self) -> "dict[str, UsageMetadata]":
        """Model -> LangChain's UsageMetadata, as UsageMetadataCallbackHandler has it."""
        return usage_metadata(self.counter)

    def __repr__(self) -> str:
        return str(self.counter)

    def __copy__(self) -> "LangChainTokenHandler":
        return self

    def __deepcopy__(self, memo: Any) -> "LangChainTokenHandler":
        return self
