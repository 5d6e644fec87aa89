"""LLM methods for which LlamaIndex fires no event: those that an integration or a user wrote without its decorators.

They are watched in the classes that have them, inside of LlamaIndex's span: nothing else sees such a call before it is
sent, or the chunks of its stream. A method that only passes on what an instrumented one does has that as its child, and
is not recorded beside it.
"""

import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from inspect import isasyncgen, iscoroutinefunction, isfunction, isgenerator
from types import FrameType, FunctionType, ModuleType
from typing import Any

import wrapt

from token_handlers.errors import shielded
from token_handlers.llama_index import budgets, spans
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.ends import end, fail, follow
from token_handlers.llama_index.filters import tracked_context
from token_handlers.llama_index.model_names import facts_of
from token_handlers.llama_index.models import count_for_handlers
from token_handlers.llama_index.spans import current
from token_handlers.llama_index.text import StructuredAnswer

CHATS = frozenset({"chat", "achat", "stream_chat", "astream_chat"})
COMPLETIONS = frozenset({"complete", "acomplete", "stream_complete", "astream_complete", "fill_in_middle"})
STRUCTURED = frozenset(
    {
        "structured_predict",
        "astructured_predict",
        "stream_structured_predict",
        "astream_structured_predict",
        "structured_predict_without_function_calling",
    }
)
METHODS = CHATS | COMPLETIONS | STRUCTURED

_BASES = ("BaseLLM", "MultiModalLLM")
_DECORATORS = "llama_index.core.llms.callbacks"
_MARK = "_token_handlers_original"

_bases: list[type] = []
_watching = False
_numbers = itertools.count()


def watch(module: ModuleType) -> None:
    """Watch the classes of LLMs that there are, and those that will be."""
    global _watching  # noqa: PLW0603 (with `restore` the one place that says so)
    _watching = True
    for name in _BASES:
        base = getattr(module, name, None)
        if isinstance(base, type) and base not in _bases:
            _bases.append(base)
            _watch_subclasses(base)


def restore() -> None:
    """Leave every class as it was; a method that somebody holds already finds nothing to do."""
    global _watching  # noqa: PLW0603 (as above)
    _watching = False
    for base in _bases:
        own = getattr(base.__dict__["__init_subclass__"], _MARK, None)
        if own is None:
            delattr(base, "__init_subclass__")
        else:
            _set(base, "__init_subclass__", own)
        for kind in _subclasses(base):
            _restore_class(kind)
    _bases.clear()


def _watch_subclasses(base: Any) -> None:
    own = base.__dict__.get("__init_subclass__")

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        if own is None:
            super(base, cls).__init_subclass__(**kwargs)
        else:
            own.__get__(None, cls)(**kwargs)
        shielded(_watch_class)(cls)

    setattr(init_subclass, _MARK, own)
    _set(base, "__init_subclass__", classmethod(init_subclass))
    for kind in _subclasses(base):
        shielded(_watch_class)(kind)


def _subclasses(base: type) -> set[type]:
    found: set[type] = set()
    waiting: list[type] = base.__subclasses__()
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.add(kind)
            waiting += kind.__subclasses__()
    return found


def _watch_class(kind: type) -> None:
    if kind.__module__.startswith("llama_index.core."):  # each of these fires events, or passes on what others do
        return
    for name in METHODS.intersection(kind.__dict__):
        proxy, function = _innermost(kind.__dict__[name])
        if isfunction(function) and not hasattr(function, _MARK) and not _fires_events(function):
            _put(kind, name, proxy, _watched(name, function))


def _restore_class(kind: type) -> None:
    for name in METHODS.intersection(kind.__dict__):
        proxy, function = _innermost(kind.__dict__[name])
        original = getattr(function, _MARK, None)
        if original is not None:
            _put(kind, name, proxy, original)


def _put(kind: type, name: str, proxy: Any, function: Any) -> None:
    if proxy is None:
        _set(kind, name, function)
    else:
        proxy.__wrapped__ = function


def _set(kind: type, name: str, member: Any) -> None:
    setattr(kind, name, member)


def _innermost(member: Any) -> tuple[Any, Any]:
    """Return the function inside of LlamaIndex's span, and the proxy around it, None where there is none."""
    proxy = None
    while isinstance(member, wrapt.FunctionWrapper):
        proxy, member = member, member.__wrapped__
    return proxy, member


def _fires_events(function: Any) -> bool:
    """Return whether LlamaIndex's decorator is around a function, or its abstract place is not filled yet."""
    while isinstance(function, FunctionType):
        if function.__globals__.get("__name__") == _DECORATORS or getattr(function, "__isabstractmethod__", False):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that opens a call, does what the function does, and ends the call."""
    names = function.__code__.co_varnames[1 : function.__code__.co_argcount]

    if iscoroutinefunction(function):

        @functools.wraps(function)
        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = _begin(self, name, dict(zip(names, args, strict=False)) | kwargs)
            if call is None:
                return await function(self, *args, **kwargs)
            return _result(call, await _awaited(call, function(self, *args, **kwargs)))

    else:

        @functools.wraps(function)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = _begin(self, name, dict(zip(names, args, strict=False)) | kwargs)
            if call is None:
                return function(self, *args, **kwargs)
            try:
                result = function(self, *args, **kwargs)
            except BaseException as error:
                shielded(fail)(call, error)
                raise
            return _result(call, result)

    setattr(method, _MARK, function)
    return method


@shielded
def _begin(llm: Any, name: str, arguments: dict[str, Any]) -> ModelCall | None:
    """Open a call, or None where it is not recorded; BudgetExceeded where a budget has no room for it."""
    if not _watching:
        return None
    context = tracked_context()
    if context is None and not count_for_handlers(None, llm):
        return None
    span = current.get()
    own = span is not None and span.instance is llm and span.method == name
    span_id = span.span_id if span is not None and own else f"{name}-without-span-{next(_numbers)}"
    prompt, kwargs = _sent(name, arguments)
    call = spans.begin(context, span_id, prompt, kwargs, facts_of(llm))
    call.instance = llm
    if name in COMPLETIONS:
        call.operation = "text_completion"
    call.is_structured = name in STRUCTURED
    count_for_handlers(call, llm)
    budgets.check(call)
    return call


def _sent(name: str, arguments: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return the prompt of a call and its other arguments."""
    if name in STRUCTURED:
        return _sent_structured(arguments)
    if name in CHATS:
        return arguments.pop("messages", ()), arguments
    texts = (arguments.pop("prompt", None), arguments.pop("suffix", None))
    return "\n".join(text for text in texts if isinstance(text, str)), arguments


def _sent_structured(arguments: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    prompt, kwargs = arguments.pop("prompt", None), dict(arguments.pop("llm_kwargs", None) or {})
    schema = getattr(arguments.pop("output_cls", None), "model_json_schema", None)
    if callable(schema):
        kwargs["tools"] = [{"type": "function", "function": {"name": "output", "parameters": schema()}}]
    form = getattr(prompt, "format_messages", None)
    return (form(**arguments) if callable(form) else ()), kwargs


METHOD_CODE = "method"
"""The name of the function that stands in a watched method's place."""


def call_in(frame: FrameType) -> ModelCall | None:
    """Return the call of a watched method that this frame runs; LlamaIndex has no span around some of them."""
    if frame.f_code.co_name != METHOD_CODE or frame.f_globals is not globals():
        return None
    call = frame.f_locals.get("call")
    return call if isinstance(call, ModelCall) else None


async def _awaited(call: ModelCall, pending: Awaitable[Any]) -> Any:
    try:
        return await pending
    except BaseException as error:
        shielded(fail)(call, error)
        raise


def _result(call: ModelCall, result: Any) -> Any:
    """Return what the method returned, its stream followed; without a stream the call has ended."""
    stream: Any = None
    if isasyncgen(result):
        stream = _aread(call, result)
    elif hasattr(type(result), "__next__"):
        stream = _read(call, result)
    if stream is None:
        shielded(end)(call, StructuredAnswer(result) if call.is_structured else result)
        return result
    follow(call, stream)
    return stream


def _read(call: ModelCall, chunks: Iterator[Any]) -> Iterator[Any]:
    try:
        for chunk in chunks:
            _receive(call, chunk)
            yield chunk
    except BaseException as error:
        if isinstance(error, GeneratorExit) and isgenerator(chunks):
            chunks.close()  # now and not after us: the provider's answer is then seen as far as it came
        shielded(fail)(call, error)
        raise
    shielded(end)(call, call.response)


async def _aread(call: ModelCall, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for chunk in chunks:
            _receive(call, chunk)
            yield chunk
    except BaseException as error:
        if isinstance(error, GeneratorExit) and isasyncgen(chunks):
            await chunks.aclose()  # as above
        shielded(fail)(call, error)
        raise
    shielded(end)(call, call.response)


@shielded
def _receive(call: ModelCall, chunk: Any) -> None:
    if call.is_structured:
        call.response = StructuredAnswer(chunk)
    else:
        call.receive(chunk)
