"""The end of an LLM run -> what it used: reported where anything reports it, else estimated and flagged."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from token_handlers.guide import WHY
from token_handlers.langchain.calls import Run, settle_batch
from token_handlers.langchain.plain import LOSSLESS, PLAIN_USAGE, model_name, queue_plain
from token_handlers.langchain.text import message_text
from token_handlers.payloads import (
    ReportedUsage,
    add_usage_metadata,
    read_message,
    read_payload,
    read_usage_metadata,
)
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.recorder import discard, record, record_estimate

logger = logging.getLogger("token_handlers")

# What a stream's metadata may say beside the usage of its chunks.
_BESIDE_USAGE = {"cost", "cost_details", "cost_in_usd_ticks", "token_usage", "usage"}
_warned: set[str] = set()
_MAX_WARNED = 1_000


def record_end(run: Run, response: Any) -> None:
    """Record a run that ended well."""
    generations = _first(response.generations, [])
    generation = _first(generations, None)
    message = getattr(generation, "message", None)
    output = response.llm_output
    usage = getattr(message, "usage_metadata", None) if run.child_usages is not None else None
    if run.child_usages is not None and not (usage and run.reports_own_usage(usage)):
        discard(run)
        return
    if message is not None and (output is not None or run.chunk is not None or not _is_cache_hit(run, message)):
        metadata = message.response_metadata or {}
        if not queue_plain(run, message.usage_metadata, metadata):
            _record_message(run, message, metadata, output or {}, generations)
    elif message is not None:
        _record_hit(run, message)
    else:
        _record_text(run, generations, output or {})


def _record_message(
    run: Run, message: Any, metadata: Mapping[str, Any], output: Mapping[str, Any], generations: Sequence[Any]
) -> None:
    run.describe()
    reading = _reading(run, message, metadata, output)
    tier = reading.service_tier if reading is not None else None
    model = model_name(run, metadata, output)
    if reading is not None and _is_whole(run, reading.counts):
        _record_whole(run, reading, model, tier or metadata.get("service_tier") or output.get("service_tier"))
    else:
        _record_half(run, reading, model, [getattr(one, "message", None) for one in generations])


def _record_hit(run: Run, message: Any) -> None:
    run.describe()
    reading = read_usage_metadata(message.usage_metadata) if message.usage_metadata else None
    counts = reading.counts if reading is not None else {}
    record(run, counts, model=model_name(run, message.response_metadata or {}, {}), outcome="cached")


def record_error(run: Run, error: BaseException, response: Any) -> None:
    """Record a run that failed: rejected calls cost nothing, interrupted ones what was received, or an estimate."""
    if run.child_usages is not None:
        discard(run)
        return
    run.describe()
    generation = _first(_first(getattr(response, "generations", ()), ()), None)
    message = getattr(generation, "message", None)
    # openai raises with the billed completion attached when the answer was cut by its length or a filter
    reading = read_payload(getattr(error, "completion", None)) or _streamed(run)
    if reading is not None and (run.finished or not run.usages) and _is_whole(run, reading.counts):
        _record_whole(run, reading, reading.model or _error_model(run, message), reading.service_tier)
    elif run.chunk is None and not run.parts and was_rejected(error):
        _record_failed(run)
    else:
        _record_interrupted(run, reading, message)
    settle_batch(run)


def _record_failed(run: Run) -> None:
    if run.batch is not None and run.operation == "text_completion":
        if run.batch.reported:
            discard(run)  # one HTTP call is one request, whatever the number of its prompts
            return
        run.batch.reported = True
    record(run, {}, outcome="failed")


def _record_interrupted(run: Run, reading: ReportedUsage | None, message: Any) -> None:
    if reading is None:
        record_estimate(run)
        return
    estimate, method = run.estimate()
    counts = {**estimate, **reading.counts}
    # A usage that was reported before the end, as Anthropic's is, tells the prompt but hardly the answer.
    counts["output_tokens"] = max(reading.counts.get("output_tokens", 0), estimate["output_tokens"])
    record(run, counts, model=_error_model(run, message), source="estimated", method=f"partial+{method}")


def _error_model(run: Run, message: Any) -> str | None:
    return model_name(run, getattr(message, "response_metadata", None) or {}, {})


def _record_text(run: Run, generations: Sequence[Any], output: Mapping[str, Any]) -> None:
    """Record a legacy LLM's run. LangChain puts the usage of all prompts on the first, and {} on the others."""
    run.describe()
    batch, model = run.batch, _text_model(run, output)
    reading = _streamed(run) or read_payload(output.get("token_usage")) or read_payload(output.get("usage"))
    if reading is not None:
        if batch is not None:
            batch.reported = True
        record(run, reading.counts, model=model, cost=reading.cost, requests=_http_calls(run))
    elif batch is not None and batch.reported and not output.get("token_usage"):
        discard(run)
    else:
        counts, method = run.estimate_for("".join(one.text for one in generations))
        first = batch is None or batch.runs[0] is run or "token_usage" not in output
        requests = _http_calls(run) if first else 0
        _warn_unreported(run, model)
        record(run, counts, model=model, source="estimated", method=method, requests=requests)


def _http_calls(run: Run) -> int:
    if run.batch is None:
        return 1
    per_call = ((run.serialized or {}).get("kwargs") or {}).get("batch_size")
    return math.ceil(len(run.batch.runs) / per_call) if isinstance(per_call, int) and per_call > 0 else 1


def _record_half(run: Run, reading: ReportedUsage | None, model: str | None, messages: Sequence[Any]) -> None:
    """Record what was reported; what was not is estimated from the messages."""
    text = "\n".join(message_text(message)[0] for message in messages if message is not None)
    counts, method = run.estimate_for(text)
    _warn_unreported(run, model)
    if reading is None:
        record(run, counts, model=model, source="estimated", method=method)
    else:
        reported = {name: number for name, number in reading.counts.items() if number or name not in counts}
        record(run, {**counts, **reported}, model=model, source="estimated", method=f"partial+{method}")


def _record_whole(run: Run, reading: ReportedUsage, model: str | None, tier: object) -> None:
    # langchain-cohere tells the tokens of an answer, but not the units that Cohere bills instead
    told = reading.billed is not None or run.provider != "cohere"
    record(
        run,
        reading.counts,
        model=model,
        source="reported" if told else "estimated",
        method=None if told else "tokens instead of billed units",
        cost=reading.cost,
        service_tier=tier if isinstance(tier, str) else None,
        billed=reading.billed,
    )


def _is_whole(run: Run, counts: Mapping[str, int]) -> bool:
    """Return whether both sides were reported. A 0 is believed, but for the one that langchain-anthropic invents: in
    streams of older servers the prompt's tokens come in an event that it does not read.
    """
    lost = run.provider == "anthropic" and run.chunk is not None and not counts.get("input_tokens")
    return "input_tokens" in counts and "output_tokens" in counts and not lost


def _reading(run: Run, message: Any, metadata: Mapping[str, Any], output: Mapping[str, Any]) -> ReportedUsage | None:
    """Return what the event says of usage, from wherever it says it."""
    usage = add_usage_metadata(_chunks(run)) if len(run.usages) > 1 else message.usage_metadata
    streamed = run.usages and _BESIDE_USAGE.isdisjoint(metadata)
    if usage and (streamed or _is_plain(run, metadata.get("token_usage") or output.get("token_usage"))):
        return read_usage_metadata(usage)
    if "token_usage" not in metadata and "usage" not in metadata:
        metadata = {**output, **metadata}
    return read_message(usage, metadata, run.provider)


def _is_plain(run: Run, raw: Any) -> bool:
    """Return whether OpenAI's own client read a usage in which there is nothing that it loses: the common case."""
    return run.provider in LOSSLESS and isinstance(raw, Mapping) and PLAIN_USAGE.issuperset(raw)


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
    if str(run.run_id) in message.id:
        return False
    usage = message.usage_metadata
    if _hits_are_marked():
        return isinstance(usage, Mapping) and "total_cost" in usage
    return bool(message.id.startswith("run-"))  # the id of another run, which LangChain gave to its answer


@cache
def _hits_are_marked() -> bool:
    """Return whether LangChain's cache marks what it answers, as langchain-core does since 0.3.73."""
    from langchain_core.language_models.chat_models import BaseChatModel

    return hasattr(BaseChatModel, "_convert_cached_generations")


def _text_model(run: Run, output: Mapping[str, Any]) -> str | None:
    name = output.get("model_name") or output.get("model")
    return name if isinstance(name, str) else None


def _first(items: Any, default: Any) -> Any:
    if type(items) is list:  # what LangChain has, and far quicker to ask for than a Sequence
        return items[0] if items else default
    return items[0] if isinstance(items, Sequence) and items else default


def _warn_unreported(run: Run, model: str | None) -> None:
    name = model or run.model or "the model"
    if name in _warned or len(_warned) >= _MAX_WARNED:
        return
    _warned.add(name)
    remedy = (
        "report_stream_usage(model) makes it exact where the server can"
        if run.chunk is not None
        else ("its server or client leaves the usage out")
    )
    message = "%s reported no usage: its tokens are estimated and counted in estimated_requests; %s (%s)"
    logger.warning(message, name, remedy, WHY)
