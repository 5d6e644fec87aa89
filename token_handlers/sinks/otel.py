"""OTelMetrics: OpenTelemetry's GenAI metrics, and cost.

The names are those of the GenAI semantic conventions, which have no stable release yet: this speaks two versions, of
which the environment chooses one. https://github.com/open-telemetry/semantic-conventions-genai
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from itertools import pairwise
from typing import TYPE_CHECKING

from token_handlers.counter.listeners import MakeRecord
from token_handlers.counter.totals import OTHER, UNKNOWN_MODEL
from token_handlers.errors import MissingDependency, absorb
from token_handlers.http import stop_timing, time_chunks
from token_handlers.lifecycle import BackgroundWriter
from token_handlers.pricing.providers import COMPATIBLE, flat, provider_id
from token_handlers.sinks.escapes import escaped
from token_handlers.usage import Operation, Usage, UsageRecord

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider, Observation

OPT_IN, LATEST = "OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental"
BOUNDARIES = tuple(4**power for power in range(14))
SECONDS = tuple(0.01 * 2**power for power in range(14))
MAX_SERIES = 1_000
"""How many sets of attributes there may be; in what comes later the model is OTHER."""
MAX_WAITING = 10_000
"""How many calls may wait to be emitted; later ones are emitted where they end."""
FLUSH_SECONDS = 5.0
"""How long a collection waits for the calls that ended before it."""

Attributes = dict[str, str | bool]
Emit = Callable[[Operation, Usage, Attributes], None]

# genai-prices' ids (see price_names) that the conventions name otherwise
_PROVIDERS = {
    "aws": "aws.bedrock",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "x-ai": "x_ai",
    **dict.fromkeys(("ibm", "watsonx", "watsonxai", "ibmwatsonx", "ibmwatsonxai"), "ibm.watsonx.ai"),
    COMPATIBLE: "openai_compatible",
}


class OTelMetrics:
    """A sink that emits tokens and cost as metrics, through opentelemetry-api: without an SDK it does nothing.

    Tokens are the histogram ``gen_ai.client.token.usage``. Where OTEL_SEMCONV_STABILITY_OPT_IN has
    gen_ai_latest_experimental, they are in its place the counters ``gen_ai.client.inference.usage.*`` and the
    histograms ``gen_ai.client.inference.operation.*``, for embeddings ``gen_ai.client.embeddings.operation.*``.
    Input includes the cache, output reasoning. In both, ``token_handlers.cost`` is USD, and
    ``token_handlers.unpriced_requests`` counts the requests that are not in it. ``token_handlers.cache_read_tokens``
    over the input tokens is the hit rate of providers' prompt caches, ``token_handlers.cache_saved_cost`` the USD that
    these saved, which goes down where writes cost more than reads saved.

    Seconds are the histograms ``gen_ai.client.operation.duration``, of calls that failed too, with an ``error.type``,
    and of streams ``gen_ai.client.operation.time_to_first_chunk`` and ``.time_per_output_chunk``, as far as the
    provider's own answer was seen; in the newest conventions ``gen_ai.client.inference.*`` and, for embeddings,
    ``gen_ai.client.embeddings.duration``.

    Attributes are the operation, the provider, the model, the host (``server.address``), ``token_handlers.estimated``
    where usage or cost is an estimate, and, as far as the answer says, ``token_handlers.service_tier``, ``.region``,
    ``.organization`` and ``.project``; never a session, a user, a tag or a request's id. Calls that failed or that a
    cache answered used nothing. What `record_cost` books is a cost whose operation is ``execute_tool``, under the
    ``gen_ai.tool.name`` that was paid for.

    A call is emitted by a thread of the sink's own, in the context in which it ended; each collection has all calls
    that ended before it.
    """

    def __init__(self, meter_provider: "MeterProvider | None" = None) -> None:
        try:
            from opentelemetry import metrics
        except ImportError:
            raise MissingDependency("opentelemetry-api", "otel") from None
        self._global_provider = metrics.get_meter_provider
        self._own_provider = meter_provider
        meter = metrics.get_meter("token_handlers", meter_provider=meter_provider)
        opted_in = {name.strip() for name in os.environ.get(OPT_IN, "").split(",")}
        is_latest = LATEST in opted_in
        self._emit = _latest(meter) if is_latest else _token_usage(meter)
        self._emit_times = _times(meter, is_latest=is_latest)
        time_chunks(self)
        self._cost = meter.create_counter("token_handlers.cost", unit="{USD}", description="Cost of GenAI calls.")
        self._unpriced = meter.create_counter(
            "token_handlers.unpriced_requests", unit="{request}", description="GenAI requests whose cost is not known."
        )
        self._cache_saved = meter.create_up_down_counter(
            "token_handlers.cache_saved_cost",
            unit="{USD}",
            description="What reads from providers' prompt caches did not cost, less what writes to them cost more.",
        )
        self._cache_read = meter.create_counter(
            "token_handlers.cache_read_tokens", unit="{token}", description="Input tokens read from prompt caches."
        )
        self._series: dict[tuple[object, ...], Attributes] = {}
        self._writer: BackgroundWriter[tuple[Context, MakeRecord]] = BackgroundWriter(
            self._emit_deferred,
            name="token_handlers-otel",
            capacity=MAX_WAITING,
            linger=0.1,
            refused=lambda _, error: absorb(error, "emitting a call's metrics"),
        )
        # Observed at each collection, before the SDK reads the other instruments; it has no values of its own.
        meter.create_observable_gauge("token_handlers.waiting_calls", callbacks=[self._catch_up])

    def __call__(self, record: UsageRecord) -> None:
        """Emit what a call used and cost, and how long it took."""
        if record.outcome == "cached":
            return
        attributes = self._attributes(record)
        if record.source != "manual":
            self._emit_times(record, attributes)
        if record.outcome == "failed":
            return
        if record.operation != "tool":
            self._emit(record.operation, record.usage, attributes)
        if record.cost is not None:
            self._cost.add(float(record.cost), attributes)
        else:
            self._unpriced.add(record.requests, attributes)
        if record.cache_saved_cost is not None:
            self._cache_saved.add(float(record.cache_saved_cost), attributes)
        if record.usage.cache_read_tokens:
            self._cache_read.add(record.usage.cache_read_tokens, attributes)

    def defer(self, make_record: MakeRecord) -> None:
        """Emit a call whose record the sink's thread makes."""
        if not self._writer.put((copy_context(), make_record)):
            self(make_record())

    def flush(self, timeout: float | None = None) -> bool:
        """Make the SDK export what it has, for 10 seconds unless told otherwise; True where there is no SDK."""
        provider = self._own_provider or self._global_provider()
        force_flush: Callable[[float], bool] | None = getattr(provider, "force_flush", None)
        return force_flush is None or force_flush(10_000 if timeout is None else timeout * 1000)

    def close(self) -> None:
        """Flush; the meter provider is the application's, which shuts it down."""
        stop_timing(self)
        self.flush()

    def _emit_deferred(self, calls: Sequence[tuple[Context, MakeRecord]]) -> None:
        for context, make_record in calls:
            context.run(self, make_record())

    def _catch_up(self, options: object) -> Sequence["Observation"]:
        self._writer.flush(FLUSH_SECONDS)
        return ()

    def _attributes(self, record: UsageRecord) -> Attributes:
        if record.operation == "tool":
            return self._attributes_of_tool(record.tags.get("tool", OTHER))
        model = record.model or UNKNOWN_MODEL
        call = record.operation, record.provider, model, record.requested_model or model
        estimated = record.source == "estimated" or bool(record.doubts)
        origin = record.host, record.service_tier, record.region, record.organization, record.project
        series = *call, estimated, *origin
        attributes = self._series.get(series)
        if attributes is None:
            if len(self._series) < MAX_SERIES:
                attributes = self._series[series] = attributes_of(*call, estimated) | _origin(origin)
            else:
                attributes = attributes_of(record.operation, OTHER, OTHER, OTHER, estimated)
        return attributes

    def _attributes_of_tool(self, name: str) -> Attributes:
        series = "tool", name
        if series not in self._series:
            named = escaped(name) if len(self._series) < MAX_SERIES else OTHER
            attributes: Attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": named}
            if named == OTHER:
                return attributes
            self._series[series] = attributes
        return self._series[series]


def attributes_of(
    operation: str,
    provider: str | None,
    model: str,
    requested: str,
    estimated: bool,  # noqa: FBT001 (a label)
) -> Attributes:
    """Return a call's attributes."""
    attributes: Attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": provider_name(provider)}
    if model != UNKNOWN_MODEL:
        attributes["gen_ai.request.model"] = escaped(requested)
        attributes["gen_ai.response.model"] = escaped(model)
    if estimated:
        attributes["token_handlers.estimated"] = True
    return attributes


_ORIGINS = (
    "server.address",
    *(f"token_handlers.{name}" for name in ("service_tier", "region", "organization", "project")),
)


def _origin(values: Sequence[str | None]) -> Attributes:
    """Return who served a call, as far as the answer says."""
    return {name: escaped(value) for name, value in zip(_ORIGINS, values, strict=True) if value is not None}


def provider_name(provider: str | None) -> str:
    """Return the conventions' name of a provider that a framework names, or of the provider of a client class."""
    if not provider:
        return "unknown"
    whole, known = flat(provider), provider_id(provider)
    if whole.startswith("azure"):
        return "azure.ai.openai" if whole == "azure" or "openai" in whole else "azure.ai.inference"
    if known == "google" and "vertex" in whole:
        return "gcp.vertex_ai"
    if known == "google" and ("gemini" in whole or "aistudio" in whole):
        return "gcp.gemini"
    return _PROVIDERS.get(known, known)


def _token_usage(meter: "Meter") -> Emit:
    tokens = _histogram(meter, "gen_ai.client.token.usage", "Number of input and output tokens used.")

    def emit(operation: Operation, usage: Usage, attributes: Attributes) -> None:
        tokens(usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
        if operation != "embeddings":
            tokens(usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})

    return emit


def _latest(meter: "Meter") -> Emit:
    counters = {
        kind: meter.create_counter(f"gen_ai.client.inference.usage.{kind}", unit="{token}", description=description)
        for kind, description in (
            ("input_tokens", "The number of input (prompt) tokens used, including cached tokens."),
            ("output_tokens", "The number of output (completion) tokens used, including reasoning tokens."),
            ("cache_read.input_tokens", "The number of input tokens served from a provider-managed cache."),
            ("cache_write.input_tokens", "The number of input tokens written to a provider-managed cache."),
            ("reasoning.output_tokens", "The number of output tokens used for reasoning."),
        )
    }
    place, per = "gen_ai.client.inference.operation.", "tokens used per inference operation."
    sent = _histogram(meter, f"{place}input_tokens", f"The number of input (prompt) {per}")
    received = _histogram(meter, f"{place}output_tokens", f"The number of output (completion) {per}")
    embedded = _histogram(
        meter,
        "gen_ai.client.embeddings.operation.input_tokens",
        "The number of input tokens used per embeddings operation.",
    )

    def emit(operation: Operation, usage: Usage, attributes: Attributes) -> None:
        if operation == "embeddings":
            embedded(usage.input_tokens, attributes)
            return
        for kind, modality, number in _by_modality(usage):
            counters[kind].add(number, {**attributes, "gen_ai.token.modality": modality})
        sent(usage.input_tokens, attributes)
        received(usage.output_tokens, attributes)

    return emit


def _times(meter: "Meter", *, is_latest: bool) -> Callable[[UsageRecord, Attributes], None]:
    place = "gen_ai.client.inference." if is_latest else "gen_ai.client.operation."
    took = _seconds(meter, f"{place}duration", "GenAI operation duration.")
    embedded = _seconds(meter, "gen_ai.client.embeddings.duration", "Embeddings duration.") if is_latest else took
    first = _seconds(meter, f"{place}time_to_first_chunk", "Time to receive the first chunk of a stream.")
    later = _seconds(meter, f"{place}time_per_output_chunk", "Time between two chunks of a stream.")

    def emit(record: UsageRecord, attributes: Attributes) -> None:
        if record.started_at is not None and record.ended_at is not None:
            seconds = max(0.0, (record.ended_at - record.started_at).total_seconds())
            failed: Attributes = {"error.type": "_OTHER"} if record.outcome == "failed" else {}
            (embedded if record.operation == "embeddings" else took)(seconds, {**attributes, **failed})
        chunks = record.chunk_seconds
        if chunks and record.outcome == "success":
            first(chunks[0], attributes)
            for before, after in pairwise(chunks):
                later(after - before, attributes)

    return emit


def _seconds(meter: "Meter", name: str, description: str) -> Callable[[float, Attributes], None]:
    histogram = meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=SECONDS
    )
    return histogram.record


def _histogram(meter: "Meter", name: str, description: str) -> Callable[[int, Attributes], None]:
    histogram = meter.create_histogram(
        name, unit="{token}", description=description, explicit_bucket_boundaries_advisory=BOUNDARIES
    )
    return histogram.record


def _by_modality(usage: Usage) -> Iterator[tuple[str, str, int]]:
    """Split tokens by modality; what no provider says the modality of is 'unknown', which the conventions ask for."""
    kinds = (
        (
            "input_tokens",
            usage.input_tokens,
            usage.input_audio_tokens,
            usage.input_image_tokens,
            usage.input_video_tokens,
        ),
        ("output_tokens", usage.output_tokens, usage.output_audio_tokens, usage.output_image_tokens, 0),
        ("cache_read.input_tokens", usage.cache_read_tokens, usage.cache_audio_read_tokens, 0, 0),
        ("cache_write.input_tokens", usage.cache_write_tokens, 0, 0, 0),
        ("reasoning.output_tokens", usage.reasoning_tokens, 0, 0, 0),
    )
    for kind, total, *parts in kinds:
        for modality, number in zip(("audio", "image", "video"), parts, strict=True):
            if number:
                yield kind, modality, number
        rest = total - sum(parts)
        if rest or not total:
            yield kind, "unknown", rest
