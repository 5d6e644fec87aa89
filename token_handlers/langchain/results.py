"""The end of an LLM run -> a verdict: what it used where anything reports it, else what is to be estimated."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from token_handlers.errors import BudgetExceeded
from token_handlers.langchain.asked import NOTABLE, with_asked
from token_handlers.langchain.calls import Run
from token_handlers.langchain.decisions import decision_text
from token_handlers.langchain.text import message_text
from token_handlers.payloads import (
    ReportedUsage,
    add_usage_metadata,
    is_empty,
    read_payload,
    read_usage_metadata,
    states_no_output,
)
from token_handlers.payloads.google import UNFINISHED
from token_handlers.payloads.plain import read_plain_message
from token_handlers.payloads.reported import hint_of
from token_handlers.payloads.search import read_any_message
from token_handlers.tracking.answers import is_billed_by_answer
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.result import (
    AS_REPORTED,
    BY_ANSWER,
    DISCARD,
    FAILED,
    NOTHING_REPORTED,
    CallResult,
    Incomplete,
    Verdict,
)
from token_handlers.usage import new_tuple

# Providers whose clients have a switch for usage in streams, which report_stream_usage turns on.
_ASKABLE = ("openai", "azure", "deepseek", "xai")

_REPORT = "report_stream_usage(model) makes it exact where the server can"
_LEFT_OUT = "its server or client leaves the usage out"


_LOSSY = frozenset({"amazon_bedrock", "cohere", "google_genai", "google_vertexai", "litellm"})
"""Providers whose clients leave out what prices a call."""


def read_end(run: Run, response: Any) -> Verdict:
    """Return what a run used that ended well."""
    generations = response.generations[0] if response.generations else []
    message = getattr(generations[0], "message", None) if generations else None
    output = response.llm_output
    if run.child_usages is not None:
        usage = getattr(message, "usage_metadata", None)
        if not usage or not run.reports_own_usage(usage):
            return DISCARD
    if message is None:
        return _read_text(run, generations, output or {})
    if output is None and run.chunk is None and _is_cache_hit(run, message):
        return _read_hit(run, message)
    if run.answers and is_billed_by_answer(run):
        return BY_ANSWER
    return _read_message(run, message, generations, output or {})


def _read_message(run: Run, message: Any, generations: Sequence[Any], output: Mapping[str, Any]) -> Verdict:
    metadata = message.response_metadata or {}
    if not run.described:
        run.describe()
    several = run.usages and len(run.usages) > 1
    stated = add_usage_metadata(_chunks(run)) if several else message.usage_metadata
    said = metadata if "token_usage" in metadata or "usage" in metadata else {**output, **metadata}
    content, more = message.content, message.additional_kwargs
    usage = read_plain_message(stated, said, run.provider, content, more)
    if usage is None:
        usage = read_any_message(stated, said, hint_of(run.provider), content, more)
    elif (
        (run.chunk is None and run.provider not in _LOSSY)
        and usage.counts["output_tokens"]
        and (usage.service_tier is not None or output.get("service_tier") is None)
        and NOTABLE.isdisjoint(run.invocation or ())
        and (usage.model or NOTABLE.isdisjoint((run.serialized or {}).get("kwargs") or ()))
    ):
        return new_tuple(CallResult, (usage, *AS_REPORTED))  # as nearly always, and in a few steps
    model = _model_name(run, metadata, output)
    if usage is not None and is_empty(usage) and message_text(message)[0]:
        usage = None  # nobody generates text out of no tokens
    is_wordless = usage is not None and states_no_output(usage, model) and bool(message_text(message)[0])
    if usage is not None and not is_wordless and _is_whole(run, usage.counts):
        return _whole(run, usage, model, metadata.get("service_tier") or output.get("service_tier"))
    return Incomplete(usage, _text(generations), remedy=_remedy(run), model=model)


def _text(generations: Sequence[Any]) -> str:
    return "\n".join(message_text(one.message)[0] for one in generations if getattr(one, "message", None) is not None)


def read_error(run: Run, error: BaseException, response: Any) -> Verdict:
    """Return what a run used that failed: rejected calls cost nothing, interrupted ones what was received."""
    if isinstance(error, BudgetExceeded) or run.child_usages is not None:  # of the model that it passes its calls on to
        return DISCARD
    run.describe()
    generation = _first(_first(getattr(response, "generations", ()), ()), None)
    message = getattr(generation, "message", None)
    metadata = getattr(message, "response_metadata", None) or {}
    # openai raises with the billed completion attached when the answer was cut by its length or a filter
    usage = read_payload(getattr(error, "completion", None)) or _streamed(run)
    if usage is not None and (run.finished or not run.usages) and _is_whole(run, usage.counts):
        return _whole(run, usage, usage.model or _model_name(run, metadata, {}), None)
    if run.chunk is None and not run.parts and was_rejected(error):
        # one HTTP call is one request, whatever the number of its prompts
        is_told = run.batch is not None and run.operation == "text_completion" and run.batch.reported
        return DISCARD if is_told else FAILED
    return Incomplete(usage, interrupted=True, model=_model_name(run, metadata, {}) if usage is not None else None)


def read_decision(run: Run, answer: Any) -> Verdict:
    """Return what a decision model's call used: its answer has a usage of LangChain's or OpenAI's form.

    An input of 0 is none: LangChain puts it where the provider said nothing.
    """
    run.describe()
    stated = getattr(answer, "usage", None)
    usage = read_payload(stated, run.provider)
    if run.child_usages is not None and (usage is None or not run.reports_own_usage(usage.counts)):
        return DISCARD
    model = getattr(answer, "model", None)
    model = model if isinstance(model, str) else None
    if usage is not None and usage.counts.get("input_tokens") and "output_tokens" in usage.counts:
        return CallResult(usage._replace(model=model))
    return Incomplete(usage, decision_text(answer)[0], remedy=_LEFT_OUT, model=model)


def _read_hit(run: Run, message: Any) -> CallResult:
    run.describe()
    usage = read_usage_metadata(message.usage_metadata) if message.usage_metadata else None
    model = _model_name(run, message.response_metadata or {}, {})
    return CallResult((usage or NOTHING_REPORTED)._replace(model=model, cost=None), outcome="cached")


def _read_text(run: Run, generations: Sequence[Any], output: Mapping[str, Any]) -> Verdict:
    """Return what a legacy LLM's run used. LangChain puts the usage of all prompts on the first, {} on the others."""
    run.describe()
    batch, name = run.batch, output.get("model_name") or output.get("model")
    model = name if isinstance(name, str) else None
    usage = _streamed(run) or read_payload(output.get("token_usage")) or read_payload(output.get("usage"))
    if usage is not None:
        return CallResult(usage._replace(model=model), requests=_http_calls(run))
    if batch is not None and batch.reported and not output.get("token_usage"):
        return DISCARD
    is_first = batch is None or batch.runs[0] is run or "token_usage" not in output
    text = "".join(one.text for one in generations)
    return Incomplete(None, text, remedy=_remedy(run), model=model, requests=_http_calls(run) if is_first else 0)


def _http_calls(run: Run) -> int:
    if run.batch is None:
        return 1
    per_call = ((run.serialized or {}).get("kwargs") or {}).get("batch_size")
    return math.ceil(len(run.batch.runs) / per_call) if isinstance(per_call, int) and per_call > 0 else 1


def _whole(run: Run, usage: ReportedUsage, model: str | None, stated_tier: object) -> CallResult:
    tier = usage.service_tier or stated_tier
    tier = tier if isinstance(tier, str) else None
    if model != usage.model or tier != usage.service_tier:
        usage = usage._replace(model=model, service_tier=tier)
    usage = with_asked(run, usage)
    if run.usages and len(run.parts) > run.counted_parts:
        usage = usage._replace(doubts=(*usage.doubts, UNFINISHED))
    if run.provider == "cohere" and usage.billed is None:
        # langchain-cohere has the tokens of an answer, but not the units that Cohere bills instead
        return CallResult(usage, "estimated", "tokens instead of billed units")
    return CallResult(usage)


def _is_whole(run: Run, counts: Mapping[str, int]) -> bool:
    """Return whether both sides were reported. A 0 is believed, but for the one that langchain-anthropic invents: in
    streams of older servers the prompt's tokens come in an event that it does not read.
    """
    if "input_tokens" not in counts or "output_tokens" not in counts:
        return False
    return bool(counts["input_tokens"]) or run.chunk is None or run.provider != "anthropic"


def _streamed(run: Run) -> ReportedUsage | None:
    """Return what a stream's chunks reported so far."""
    return read_usage_metadata(add_usage_metadata(_chunks(run))) if run.usages else None


def _chunks(run: Run) -> list[dict[str, Any]]:
    return [{"usage_metadata": usage} for usage in run.usages]


def _is_cache_hit(run: Run, message: Any) -> bool:
    """Return whether LangChain's own cache answered a run that has neither chunks nor an llm_output: nothing was sent.

    The cache marks the message, but may hold the very object that the first, billed run returned: the run itself tells.
    """
    if message.id is None:
        # Every answer of a run gets an id; only one that the cache could not restore whole has none.
        return bool(run.prompt)
    usage = message.usage_metadata
    if _hits_are_marked():
        return isinstance(usage, Mapping) and "total_cost" in usage and str(run.run_id) not in message.id
    return (
        bool(message.id.startswith("run-")) and str(run.run_id) not in message.id
    )  # the id of another run, which LangChain gave to its answer


@cache
def _hits_are_marked() -> bool:
    """Return whether LangChain's cache marks what it answers, as langchain-core does since 0.3.73."""
    from langchain_core.language_models.chat_models import BaseChatModel

    return hasattr(BaseChatModel, "_convert_cached_generations")


def _model_name(run: Run, metadata: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Return the name of the model that answered."""
    name = metadata.get("model_name") or metadata.get("model") or output.get("model_name") or output.get("model")
    if not isinstance(name, str):
        return None
    if run.chunk is None:
        return name
    return name[: (name + name).find(name, 1)]  # streams with n > 1 join the name to itself


def _remedy(run: Run) -> str:
    return _REPORT if run.chunk is not None and run.provider in _ASKABLE else _LEFT_OUT


def _first(items: Any, default: Any) -> Any:
    if type(items) is list:  # what LangChain has, and far quicker to ask for than a Sequence
        return items[0] if items else default
    return items[0] if isinstance(items, Sequence) and items else default
