"""BudgetMiddleware: a budget in LangChain's own idiom, ``create_agent(middleware=[...])``."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage

from token_handlers.budget.budget import Budget, check_budget
from token_handlers.budget.limits import LIMITS, PER_MINUTE, one_of, text
from token_handlers.errors import BudgetExceeded, MissingDependency
from token_handlers.tracking.track_tokens import track_tokens

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
    from langgraph.runtime import Runtime
    from langgraph.types import Command, interrupt
except ImportError as error:
    raise MissingDependency("langchain", "agents") from error

if TYPE_CHECKING:
    # Not the same in every version: some are generic in later ones alone.
    from langchain.agents.middleware import ModelRequest, ModelResponse, ToolCallRequest

_REFUSAL = "budget_exceeded"
"""Where a message that stands for a refused call has what it was refused for, in its response_metadata."""

_UNITS = {"max_cost": "USD", "max_tokens": "tokens", "max_requests": "requests", PER_MINUTE: "USD a minute"}

OnExceeded = Literal["end", "wrap_up", "raise", "interrupt"]


class BudgetMiddleware(AgentMiddleware[AgentState[Any], Any]):
    """Checks the model calls of an agent, and those that its tools make, against a budget before they are sent.

    ``on_exceeded`` says what becomes of an agent with a call that is refused:

    - 'end': it ends, and its last message says which limit it reached and what is spent.
    - 'wrap_up': the model is told, in one more call, that it has to finish with what it has; the agent ends with its
      answer. That call is sent beyond the limit, and booked. What it asks of tools is left out.
    - 'raise': BudgetExceeded is raised.
    - 'interrupt': a person is asked through LangGraph's interrupt, which needs a checkpointer. The question is a
      mapping of ``scope``, ``limit``, ``maximum``, ``spent`` (both as text), ``model`` and ``message``. Resumed with
      new limits, ``Command(resume={"max_cost": "1.00"})``, the agent goes on, and they are those of the budget for all
      that share it; with False it ends as by 'end'. Any other answer is asked again, with what is wrong as ``error``.

    A tool whose call is refused is broken off: its ToolMessage has the status 'error', and the agent ends, or asks,
    before it calls its model again, which may then call the tool anew. Nothing is run twice, so nothing is sent or
    booked twice. The last message and the ToolMessage have the question's mapping in
    ``response_metadata["budget_exceeded"]``.

    What no limit can answer is raised instead of asked: a model without a price under ``unpriced='refuse'``, and a
    store that can't be used. Refusals of other budgets, those of blocks around the agent, are always raised. What other
    middleware calls by itself, such as summaries, is under the budget where the agent runs in a block with it, too; the
    agent's calls still count once. Middleware that repeats failed calls belongs before this one in the list.
    """

    def __init__(self, budget: Budget, on_exceeded: OnExceeded = "end") -> None:
        super().__init__()
        check_budget(budget)
        self.budget = budget
        self.on_exceeded: OnExceeded = one_of("on_exceeded", on_exceeded, ("end", "wrap_up", "raise", "interrupt"))

    def wrap_model_call(
        self, request: "ModelRequest[Any]", handler: "Callable[[ModelRequest[Any]], ModelResponse[Any]]"
    ) -> "ModelResponse[Any] | AIMessage":
        """Call the model under the budget; a refusal, also of a tool before it, is a message in the answer's place."""
        refusal = _refused_tool(request.state["messages"])
        if refusal is None:
            try:
                with track_tokens(budget=self.budget):
                    return handler(request)
            except BudgetExceeded as error:
                refusal = self._refusal(error)
        if self.on_exceeded == "wrap_up":
            try:
                with self.budget.may_overdraw(), track_tokens(budget=self.budget):
                    return _wrapped_up(handler(_told(request, refusal)), refusal)
            except BudgetExceeded as error:
                refusal = self._refusal(error)
        return _last_message(refusal)

    async def awrap_model_call(
        self, request: "ModelRequest[Any]", handler: "Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]"
    ) -> "ModelResponse[Any] | AIMessage":
        """Do the same, asynchronously."""
        refusal = _refused_tool(request.state["messages"])
        if refusal is None:
            try:
                with track_tokens(budget=self.budget):
                    return await handler(request)
            except BudgetExceeded as error:
                refusal = self._refusal(error)
        if self.on_exceeded == "wrap_up":
            try:
                with self.budget.may_overdraw(), track_tokens(budget=self.budget):
                    return _wrapped_up(await handler(_told(request, refusal)), refusal)
            except BudgetExceeded as error:
                refusal = self._refusal(error)
        return _last_message(refusal)

    def wrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], ToolMessage | Command[Any]]"
    ) -> ToolMessage | Command[Any]:
        """Call the tool with the budget on the models that it calls; a refusal is its error."""
        try:
            with track_tokens(budget=self.budget):
                return handler(request)
        except BudgetExceeded as error:
            return _tool_error(request, self._refusal(error))

    async def awrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]"
    ) -> ToolMessage | Command[Any]:
        """Do the same, asynchronously."""
        try:
            with track_tokens(budget=self.budget):
                return await handler(request)
        except BudgetExceeded as error:
            return _tool_error(request, self._refusal(error))

    @hook_config(can_jump_to=["model", "end"])
    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """End an agent whose call was refused, or ask first: a step of its own, so that to ask repeats nothing."""
        messages = state["messages"]
        last = next((message for message in reversed(messages) if isinstance(message, AIMessage)), None)
        refusal = last.response_metadata.get(_REFUSAL) if last is not None else None
        if last is None or refusal is None:
            return None
        if self.on_exceeded != "interrupt" or not self._ask(refusal):
            return {"jump_to": "end"}
        tools = [_unrefused(message) for message in _refused_tools(messages)]
        return {"jump_to": "model", "messages": [RemoveMessage(id=str(last.id)), *tools]}

    async def aafter_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Do the same, asynchronously."""
        return self.after_model(state, runtime)

    def _refusal(self, error: BudgetExceeded) -> dict[str, Any]:
        """Return what is to be told of a refusal; raise it where it is not for this middleware to tell."""
        can_be_answered = error.limit is not None and error.spent is not None
        if (
            self.on_exceeded == "raise"
            or not self.budget.refused(error)
            or (self.on_exceeded == "interrupt" and not can_be_answered)
        ):
            raise error
        return {
            "scope": error.scope,
            "limit": error.limit,
            "maximum": None if error.maximum is None else text(error.maximum),
            "spent": None if error.spent is None else text(error.spent),
            "model": error.model,
            "message": _in_words(error),
        }

    def _ask(self, refusal: Mapping[str, Any]) -> bool:
        """Ask for new limits, and return whether there are any.

        LangGraph keeps every answer, a wrong one too: raising at it would raise at each resumption.
        """
        question = dict(refusal)
        while True:
            answer = interrupt(question)
            if answer is None or answer is False:
                return False
            try:
                self._raise_limits(answer)
            except ValueError as error:
                question["error"] = str(error)
            else:
                return True

    def _raise_limits(self, answer: object) -> None:
        names = ", ".join((*LIMITS, PER_MINUTE))
        if not isinstance(answer, Mapping) or not answer or not {*LIMITS, PER_MINUTE}.issuperset(answer):
            raise ValueError(f"the answer is new limits ({names}) by name, or False to end, not {answer!r}")
        if any(limit is None for limit in answer.values()):
            raise ValueError(f"a limit can be raised, but not taken away: {answer!r}")
        self.budget.set_limits(**answer)


def _in_words(error: BudgetExceeded) -> str:
    if error.limit is None or error.maximum is None or error.spent is None:
        return f"I have to stop here: {error}."
    maximum, spent = f"{text(error.maximum)} {_UNITS[error.limit]}", text(error.spent)
    return (
        f"I have to stop here: {error.scope} allows {maximum}, {spent} are spent, and the next call may go beyond that."
    )


def _told(request: "ModelRequest[Any]", refusal: Mapping[str, Any]) -> "ModelRequest[Any]":
    """Return the request with word for the model that it has to finish.

    Its tools stay: some providers reject a conversation in which there are calls of tools that are not declared.
    """
    word = (
        f"The budget of this task is used up ({refusal['scope']}, {refusal['limit']}). Call no more tools: give your "
        "final answer now, with what you have, and say what is missing."
    )
    return request.override(messages=[*request.messages, HumanMessage(word)])


def _wrapped_up(response: "ModelResponse[Any]", refusal: Mapping[str, Any]) -> "ModelResponse[Any]":
    """Return the model's last answer, marked, and without calls of tools, which nobody will make."""
    response.result = [_finished(one, refusal) if isinstance(one, AIMessage) else one for one in response.result]
    return response


def _finished(message: AIMessage, refusal: Mapping[str, Any]) -> AIMessage:
    metadata = {**message.response_metadata, _REFUSAL: dict(refusal)}
    if not message.tool_calls:
        return message.model_copy(update={"response_metadata": metadata})
    answer = message.text or refusal["message"]
    return AIMessage(answer, id=message.id, usage_metadata=message.usage_metadata, response_metadata=metadata)


def _last_message(refusal: Mapping[str, Any]) -> AIMessage:
    return AIMessage(refusal["message"], response_metadata={_REFUSAL: dict(refusal)})


def _tool_error(request: "ToolCallRequest", refusal: Mapping[str, Any]) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(
        f"The tool was broken off. {refusal['message']}",
        tool_call_id=call["id"],
        name=call["name"],
        status="error",
        response_metadata={_REFUSAL: dict(refusal)},
    )


def _refused_tools(messages: Sequence[AnyMessage]) -> list[ToolMessage]:
    """Return the tools' messages of the last round that stand for refusals."""
    found: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            if _REFUSAL in message.response_metadata:
                found.append(message)
        elif _REFUSAL not in message.response_metadata:
            break
    return found


def _refused_tool(messages: Sequence[AnyMessage]) -> dict[str, Any] | None:
    tools = _refused_tools(messages)
    return tools[0].response_metadata[_REFUSAL] if tools else None


def _unrefused(message: ToolMessage) -> ToolMessage:
    """Return the message for a model that may call the tool again."""
    content = f"{message.content} The limit has been raised since: the tool may be called again."
    return message.model_copy(update={"content": content, "response_metadata": {}})
