"""LLM methods for which LlamaIndex fires a span and no event: structured prediction of some integrations."""

from typing import Any, NamedTuple

from token_handlers.llama_index import calls
from token_handlers.llama_index.model_names import facts_of
from token_handlers.llama_index.models import count_for_handlers, is_counted
from token_handlers.llama_index.spans import Span
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.recorder import record, record_estimate

METHODS = frozenset(
    {
        "structured_predict",
        "astructured_predict",
        "structured_predict_without_function_calling",
    }
)


class _Answer(NamedTuple):
    text: str


def is_silent(span: Span) -> bool:
    """Return whether a span is that of a method which an integration overrides, and which fires no events."""
    method = span.method
    if method not in METHODS:
        return False
    function = getattr(type(span.instance), method, None)
    return not (getattr(function, "__module__", None) or "").startswith("llama_index.core.")


def open_silent(span: Span) -> "calls.ModelCall":
    """Open a call that has no start event, for the scopes around it and the handlers of its LLM."""
    call = calls.begin(None, span, span.span_id, _prompt(span), _kwargs(span), facts_of(span.instance))
    count_for_handlers(call, span.instance)
    return call


def record_silent(span: Span, result: Any, error: BaseException | None) -> None:
    """Record a silent method whose request no client of ours has seen, by its prompt and its result."""
    if not is_silent(span) or not is_counted(span.instance):
        return
    call = open_silent(span)
    if error is not None and was_rejected(error):
        calls.remove(call)
        record(call, {}, outcome="failed")
        return
    dump = getattr(result, "model_dump_json", None)
    call.response = _Answer(dump() if callable(dump) else "")
    record_estimate(call)


def _prompt(span: Span) -> Any:
    arguments = getattr(span.arguments, "arguments", None) or {}
    prompt, values = arguments.get("prompt"), arguments.get("prompt_args") or {}
    form = getattr(prompt, "format_messages", None)
    return form(**values) if callable(form) else ()


def _kwargs(span: Span) -> dict[str, Any]:
    arguments = getattr(span.arguments, "arguments", None) or {}
    kwargs = dict(arguments.get("llm_kwargs") or {})
    schema = getattr(arguments.get("output_cls"), "model_json_schema", None)
    if callable(schema):
        kwargs["tools"] = [{"type": "function", "function": {"name": "output", "parameters": schema()}}]
    return kwargs
