import json
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from langchain_openai import ChatOpenAI
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider

from tests.support.quiet_server import QuietHandler, serving
from token_handlers import MissingDependency, Usage, UsageRecord, record_cost, track_tokens
from token_handlers.counter.totals import OTHER
from token_handlers.http import stop_timing, time_chunks
from token_handlers.http.exchange import chunk_timers
from token_handlers.sinks.otel import BOUNDARIES, LATEST, MAX_SERIES, OPT_IN, SECONDS, OTelMetrics, provider_name

SECRETS = {"session": "s-secret", "user": "u-secret", "tags": {"t-secret": "v-secret"}, "node": "n-secret"}


@pytest.fixture(autouse=True)
def _dialect(monkeypatch):
    monkeypatch.delenv(OPT_IN, raising=False)


@pytest.fixture(autouse=True)
def _untimed():
    """No sink of a test times the streams of another."""
    yield
    chunk_timers.clear()


@pytest.fixture
def latest(monkeypatch):
    """The environment asks for the newest conventions, among other things."""
    monkeypatch.setenv(OPT_IN, f"http, {LATEST}")


@pytest.fixture
def reader():
    """The SDK's reader that keeps what it reads."""
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    """The SDK, reading into memory."""
    own = MeterProvider([reader])
    yield own
    own.shutdown()


def record(sent=1000, received=50, **fields):
    """Return a record of one call, with labels."""
    usage = Usage(input_tokens=sent, output_tokens=received)
    common = {"usage": usage, "model": "gpt-4o", "provider": "openai", "cost": Decimal("0.25"), **SECRETS}
    return UsageRecord(**{**common, **fields})


def points(reader):
    """Return what was measured: name -> (unit, [(attributes, sum or value, count or None)])."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    found = [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    return {
        metric.name: (
            metric.unit,
            [
                (
                    dict(point.attributes),
                    getattr(point, "sum", getattr(point, "value", None)),
                    getattr(point, "count", None),
                )
                for point in metric.data.data_points
            ],
        )
        for metric in found
    }


CALLED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o",
}


def test_token_usage_and_cost(provider, reader):
    """By default tokens are one histogram, of input and output, and cost is a counter; labels are in neither."""
    sink = OTelMetrics(provider)
    sink(record())
    sink(record(sent=500, received=0))

    assert {
        "gen_ai.client.token.usage": (
            "{token}",
            [
                ({**CALLED, "gen_ai.token.type": "input"}, 1500, 2),
                ({**CALLED, "gen_ai.token.type": "output"}, 50, 2),
            ],
        ),
        "token_handlers.cost": ("{USD}", [(CALLED, 0.5, None)]),
    } == points(reader)


@pytest.mark.usefixtures("latest")
def test_the_latest_conventions(provider, reader):
    """On request tokens are a counter for each kind, by modality where it is known, and two histograms by call."""
    usage = Usage(
        input_tokens=1000,
        output_tokens=50,
        cache_read_tokens=600,
        cache_write_tokens=100,
        reasoning_tokens=20,
        input_audio_tokens=300,
        cache_audio_read_tokens=200,
        input_image_tokens=80,
        output_audio_tokens=50,
    )
    OTelMetrics(provider)(record(usage=usage))

    def by(modality):
        return {**CALLED, "gen_ai.token.modality": modality}

    place = "gen_ai.client.inference."
    found = points(reader)
    assert {
        f"{place}usage.input_tokens": (
            "{token}",
            [(by("audio"), 300, None), (by("image"), 80, None), (by("unknown"), 620, None)],
        ),
        f"{place}usage.output_tokens": ("{token}", [(by("audio"), 50, None)]),
        f"{place}usage.cache_read.input_tokens": ("{token}", [(by("audio"), 200, None), (by("unknown"), 400, None)]),
        f"{place}usage.cache_write.input_tokens": ("{token}", [(by("unknown"), 100, None)]),
        f"{place}usage.reasoning.output_tokens": ("{token}", [(by("unknown"), 20, None)]),
        f"{place}operation.input_tokens": ("{token}", [(CALLED, 1000, 1)]),
        f"{place}operation.output_tokens": ("{token}", [(CALLED, 50, 1)]),
        "token_handlers.cost": ("{USD}", [(CALLED, 0.25, None)]),
        "token_handlers.cache_read_tokens": ("{token}", [(CALLED, 600, None)]),
    } == found


@pytest.mark.usefixtures("latest")
def test_zeros_are_measured(provider, reader):
    """In the newest conventions a kind of tokens that a call did not use is a 0, so that rates and ratios exist."""
    OTelMetrics(provider)(record(sent=0, received=0))

    names = {
        "input_tokens",
        "output_tokens",
        "cache_read.input_tokens",
        "cache_write.input_tokens",
        "reasoning.output_tokens",
    }
    found = points(reader)
    for name in names:
        unknown = {**CALLED, "gen_ai.token.modality": "unknown"}
        assert ("{token}", [(unknown, 0, None)]) == found[f"gen_ai.client.inference.usage.{name}"]


def test_embeddings_have_input_alone(provider, reader):
    """An embedding call has no output tokens."""
    OTelMetrics(provider)(record(received=0, operation="embeddings"))

    embedded = {**CALLED, "gen_ai.operation.name": "embeddings", "gen_ai.token.type": "input"}
    assert ("{token}", [(embedded, 1000, 1)]) == points(reader)["gen_ai.client.token.usage"]


@pytest.mark.usefixtures("latest")
def test_embeddings_in_the_latest_conventions(provider, reader):
    """There embeddings are no inference, and have a histogram of their own."""
    OTelMetrics(provider)(record(received=0, operation="embeddings"))

    embedded = {**CALLED, "gen_ai.operation.name": "embeddings"}
    assert {
        "gen_ai.client.embeddings.operation.input_tokens": ("{token}", [(embedded, 1000, 1)]),
        "token_handlers.cost": ("{USD}", [(embedded, 0.25, None)]),
    } == points(reader)


@pytest.mark.parametrize("opted_in", ["", LATEST])
@pytest.mark.parametrize("outcome", ["failed", "cached"])
def test_what_was_not_billed_is_not_measured(provider, reader, monkeypatch, outcome, opted_in):
    """Calls that failed, or that LangChain's own cache answered, are in no metric."""
    monkeypatch.setenv(OPT_IN, opted_in)
    OTelMetrics(provider)(record(outcome=outcome, cost=None, saved_cost=Decimal(1)))

    assert {} == points(reader)


def test_unknown_cost_is_no_zero(provider, reader):
    """What could not be priced is counted as such, tokens counted by hand too, and a cost of 0 is a cost."""
    sink = OTelMetrics(provider)
    sink(record(cost=None, requests=2))
    sink(record(cost=None, source="manual"))
    assert ("{request}", [(CALLED, 3, None)]) == points(reader)["token_handlers.unpriced_requests"]
    assert "token_handlers.cost" not in points(reader)

    sink(record(cost=Decimal(0)))
    assert ("{USD}", [(CALLED, 0.0, None)]) == points(reader)["token_handlers.cost"]


def test_estimates_are_marked(provider, reader):
    """Usage that nobody reported is apart from what was reported."""
    OTelMetrics(provider)(record(source="estimated"))

    assert ("{USD}", [({**CALLED, "token_handlers.estimated": True}, 0.25, None)]) == points(reader)[
        "token_handlers.cost"
    ]


def test_the_model_that_was_asked_for(provider, reader):
    """The request's model is the name that was asked for, the response's the one that answered."""
    OTelMetrics(provider)(record(model="gpt-4o-2024-08-06", requested_model="gpt-4o"))

    ((attributes, *_),) = points(reader)["token_handlers.cost"][1]
    assert "gpt-4o" == attributes["gen_ai.request.model"]
    assert "gpt-4o-2024-08-06" == attributes["gen_ai.response.model"]


def test_a_call_without_names(provider, reader):
    """A call of which neither the model nor the provider is known has no model, and the provider 'unknown'."""
    OTelMetrics(provider)(record(model=None, provider=None))

    unnamed = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "unknown"}
    assert [(unnamed, 0.25, None)] == points(reader)["token_handlers.cost"][1]


def test_series_are_bounded(provider, reader):
    """Past MAX_SERIES models the rest is one series, and the sums stay right."""
    sink = OTelMetrics(provider)
    for number in range(MAX_SERIES + 20):
        sink(record(model=f"model-{number}"))
    sink(record(model="model-0"))

    found = {
        attributes["gen_ai.request.model"]: cost for attributes, cost, _ in points(reader)["token_handlers.cost"][1]
    }
    assert (MAX_SERIES + 1, 5.0, 0.5) == (len(found), found[OTHER], found["model-0"])


def test_boundaries(provider, reader):
    """The histograms' buckets are those that the conventions ask for, powers of 4."""
    OTelMetrics(provider)(record())

    (resource,) = reader.get_metrics_data().resource_metrics
    histogram = resource.scope_metrics[0].metrics[0].data.data_points[0]
    assert (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864) == BOUNDARIES
    assert BOUNDARIES == histogram.explicit_bounds


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", "openai"),
        ("openai_llm", "openai"),
        ("openai_responses_llm", "openai"),
        ("OpenAIEmbedding", "openai"),
        ("OpenAILike", "openai_compatible"),
        ("anthropic", "anthropic"),
        ("Anthropic_LLM", "anthropic"),
        ("azure", "azure.ai.openai"),
        ("azure_openai_llm", "azure.ai.openai"),
        ("AzureOpenAIEmbedding", "azure.ai.openai"),
        ("azure_ai", "azure.ai.inference"),
        ("AzureAICompletionsModel", "azure.ai.inference"),
        ("google_genai", "gcp.gen_ai"),
        ("GenAI", "gcp.gen_ai"),
        ("Gemini", "gcp.gemini"),
        ("google_vertexai", "gcp.vertex_ai"),
        ("Vertex", "gcp.vertex_ai"),
        ("google_anthropic_vertex", "gcp.vertex_ai"),
        ("amazon_bedrock", "aws.bedrock"),
        ("Bedrock_Converse_LLM", "aws.bedrock"),
        ("mistral", "mistral_ai"),
        ("mistralai", "mistral_ai"),
        ("MistralAI_LLM", "mistral_ai"),
        ("cohere", "cohere"),
        ("groq", "groq"),
        ("deepseek", "deepseek"),
        ("xai", "x_ai"),
        ("moonshot", "moonshot_ai"),
        ("perplexity", "perplexity"),
        ("WatsonxLLM", "ibm.watsonx.ai"),
        ("ibm", "ibm.watsonx.ai"),
        ("Ollama_llm", "ollama"),
        ("openrouter", "openrouter"),
        ("My Own-LLM", "myownllm"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_provider_names(name, expected):
    """LangChain's and LlamaIndex's names of providers become those of the conventions, or a custom one."""
    assert expected == provider_name(name)


def test_without_an_sdk():
    """Where no SDK is set up, everything works and nothing happens."""
    sink = OTelMetrics()
    sink(record())

    assert sink.flush()
    sink.close()


def test_an_sdk_that_is_set_up_later(provider, reader, monkeypatch):
    """A sink that was made before the application set up its SDK measures from then on, and flushes it."""
    from opentelemetry.metrics import _internal
    from opentelemetry.util._once import Once

    monkeypatch.setattr(_internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(_internal, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_internal, "_PROXY_METER_PROVIDER", _internal._ProxyMeterProvider())
    sink = OTelMetrics()
    sink(record(sent=1))
    metrics.set_meter_provider(provider)
    sink(record(sent=2))

    assert sink.flush()
    assert 2 == points(reader)["gen_ai.client.token.usage"][1][0][1]


def test_without_the_api(monkeypatch):
    """Without opentelemetry-api the error is the pip line."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(
        MissingDependency, match=r"opentelemetry-api is not installed: pip install 'token-handlers\[otel\]'"
    ):
        OTelMetrics()


@contextmanager
def otlp_receiver():
    """A collector that decodes what arrives; yields its URL and the list of requests."""
    requests = []

    class Receiver(QuietHandler):
        def reply(self):
            requests.append((self.path, self.headers["Content-Type"], self.content()))
            self.answer(200)

    with serving(Receiver) as port:
        yield f"http://127.0.0.1:{port}/v1/metrics", requests


def decoded(body):
    """Return the metrics of an OTLP request: name -> [(attributes, sum or value)]."""
    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            assert "token_handlers" == scope.scope.name
            for metric in scope.metrics:
                found[metric.name] = [
                    _decoded_point(metric, point) for point in getattr(metric, metric.WhichOneof("data")).data_points
                ]
    return found


def _decoded_point(metric, point):
    attributes = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in point.attributes}
    if metric.WhichOneof("data") == "histogram":
        assert list(BOUNDARIES) == list(point.explicit_bounds)
        return attributes, point.sum
    return attributes, getattr(point, point.WhichOneof("value"))


@pytest.mark.parametrize("opted_in", ["", LATEST])
def test_over_otlp(monkeypatch, opted_in):
    """What an OTLP/HTTP collector decodes is what was recorded; no label of a record is in it."""
    monkeypatch.setenv(OPT_IN, opted_in)
    with otlp_receiver() as (url, requests):
        exporting = PeriodicExportingMetricReader(OTLPMetricExporter(url), export_interval_millis=3_600_000)
        provider = MeterProvider([exporting])
        sink = OTelMetrics(provider)
        sink(record())
        sink(record(sent=7, received=3, provider="azure", source="estimated"))
        sink.close()
        (path, kind, body), *_ = requests
        provider.shutdown()

    azure = {**CALLED, "gen_ai.provider.name": "azure.ai.openai", "token_handlers.estimated": True}
    found = decoded(body)
    assert ("/v1/metrics", "application/x-protobuf") == (path, kind)
    assert [(CALLED, 0.25), (azure, 0.25)] == found["token_handlers.cost"]
    if opted_in:
        unknown = {"gen_ai.token.modality": "unknown"}
        assert [({**CALLED, **unknown}, 1000), ({**azure, **unknown}, 7)] == found[
            "gen_ai.client.inference.usage.input_tokens"
        ]
        assert [(CALLED, 50), (azure, 3)] == found["gen_ai.client.inference.operation.output_tokens"]
    else:
        types = [{"gen_ai.token.type": kind} for kind in ("input", "output")]
        assert [
            ({**CALLED, **types[0]}, 1000),
            ({**CALLED, **types[1]}, 50),
            ({**azure, **types[0]}, 7),
            ({**azure, **types[1]}, 3),
        ] == found["gen_ai.client.token.usage"]
    assert b"secret" not in body


def test_who_served_a_call(provider, reader):
    """The host, tier, place and account that an answer names are attributes, and a request's id never is one."""
    origin = {"host": "api.openai.com", "service_tier": "flex", "region": "eu", "organization": "o-1", "project": "p-1"}
    OTelMetrics(provider)(UsageRecord(usage=Usage(input_tokens=3), cost=Decimal(1), request_id="req-secret", **origin))
    _, ((attributes, _, _),) = points(reader)["token_handlers.cost"]

    assert {
        "server.address": "api.openai.com",
        "token_handlers.service_tier": "flex",
        "token_handlers.region": "eu",
        "token_handlers.organization": "o-1",
        "token_handlers.project": "p-1",
    }.items() <= attributes.items()
    assert "req-secret" not in str(attributes)


def test_doubts_are_estimates(provider, reader):
    """A call of which something could not be counted or priced exactly is marked as an estimate."""
    OTelMetrics(provider)(UsageRecord(cost=Decimal(1), doubts=("a rate is missing",), model="\ud800"))
    _, ((attributes, _, _),) = points(reader)["token_handlers.cost"]

    assert (True, "\u241bd800") == (attributes["token_handlers.estimated"], attributes["gen_ai.response.model"])


ENDED = {"started_at": datetime(2026, 11, 1, tzinfo=UTC), "ended_at": datetime(2026, 11, 1, 0, 0, 2, tzinfo=UTC)}
PLACES = [("", "gen_ai.client.operation."), (LATEST, "gen_ai.client.inference.")]


@pytest.mark.parametrize(("opted_in", "place"), PLACES)
def test_how_long_a_call_took(provider, reader, monkeypatch, opted_in, place):
    """Seconds are measured of calls that failed too, with an error type, and of a stream's chunks."""
    monkeypatch.setenv(OPT_IN, opted_in)
    sink = OTelMetrics(provider)
    sink(record(**ENDED, chunk_seconds=(0.5, 0.75, 1.75)))
    sink(record(**ENDED, outcome="failed", cost=None))
    sink(record(**ENDED, outcome="cached", cost=None))
    sink(record(**ENDED, source="manual"))
    found = points(reader)

    assert ("s", [(CALLED, 2.0, 1), ({**CALLED, "error.type": "_OTHER"}, 2.0, 1)]) == found[f"{place}duration"]
    assert ("s", [(CALLED, 0.5, 1)]) == found[f"{place}time_to_first_chunk"]
    assert ("s", [(CALLED, 1.25, 2)]) == found[f"{place}time_per_output_chunk"]


@pytest.mark.usefixtures("latest")
def test_how_long_embeddings_took(provider, reader):
    """In the newest conventions embeddings have a duration of their own."""
    OTelMetrics(provider)(record(**ENDED, operation="embeddings"))

    embedded = {**CALLED, "gen_ai.operation.name": "embeddings"}
    assert ("s", [(embedded, 2.0, 1)]) == points(reader)["gen_ai.client.embeddings.duration"]
    assert "gen_ai.client.inference.duration" not in points(reader)


def test_the_buckets_of_seconds(provider, reader):
    """The buckets of seconds are those that the conventions ask for, from 10 ms on each twice the last."""
    OTelMetrics(provider)(record(**ENDED))
    (resource,) = reader.get_metrics_data().resource_metrics
    (metric,) = [one for one in resource.scope_metrics[0].metrics if one.name.endswith("duration")]

    assert SECONDS == metric.data.data_points[0].explicit_bounds
    assert (0.01, 0.02, 0.04, 81.92) == (*SECONDS[:3], SECONDS[-1])


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_chunks_of_a_real_stream(ledger, provider, reader, mode):
    """The chunks of a stream are timed as they come from the connection, those of another answer are not."""
    sink = OTelMetrics(provider)
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1), api_key="none", stream_usage=True)
    with track_tokens(sinks=[sink]):
        if mode == "sync":
            chunks = list(model.stream("Hello"))
            model.invoke("Hello")
        else:
            chunks = [chunk async for chunk in model.astream("Hello")]
            await model.ainvoke("Hello")
    found = points(reader)
    ((_, first, number),) = found["gen_ai.client.operation.time_to_first_chunk"][1]
    ((_, between, later),) = found["gen_ai.client.operation.time_per_output_chunk"][1]
    took = found["gen_ai.client.operation.duration"][1]

    assert len(chunks) > 2
    assert 1 == number
    assert later > 0
    assert 2 == sum(count for *_, count in took)
    assert 0 < first + between < sum(seconds for _, seconds, _ in took)


def test_nobody_times_chunks(ledger, provider):
    """Without such a sink, and after it is closed, no time is taken."""
    records = []
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1), api_key="none", stream_usage=True)
    sink = OTelMetrics(provider)
    sink.close()
    with track_tokens(sinks=[records.append]):
        list(model.stream("Hello"))
    time_chunks(sink)
    with track_tokens(sinks=[records.append]):
        list(model.stream("Hello"))
    stop_timing(sink)

    assert [False, True] == [bool(one.chunk_seconds) for one in records]
    assert "chunk_seconds" not in records[1].model_dump()


def test_a_call_belongs_to_its_span(ledger, provider, reader):
    """Metrics are emitted in the context in which the call ended: an exemplar names its span."""
    tracer = TracerProvider().get_tracer("test")
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none")
    with track_tokens(sinks=[OTelMetrics(provider)]), tracer.start_as_current_span("request") as span:
        model.invoke("Hello")
    (resource,) = reader.get_metrics_data().resource_metrics
    (cost,) = [one for one in resource.scope_metrics[0].metrics if one.name == "token_handlers.cost"]

    assert [span.get_span_context().span_id] == [one.span_id for one in cost.data.data_points[0].exemplars]


def test_the_last_export_has_the_last_call():
    """What the SDK exports when the process ends has the calls that ended just before."""
    done = subprocess.run([sys.executable, "-c", LAST_CALL], capture_output=True, text=True, check=True)
    exported = json.loads(done.stdout)
    metrics = exported["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    (cost,) = [one for one in metrics if one["name"] == "token_handlers.cost"]

    assert 0.25 == cost["data"]["data_points"][0]["value"]


LAST_CALL = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from token_handlers import record_cost, track_tokens
from token_handlers.sinks.otel import OTelMetrics

provider = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter(), 60_000)])
with track_tokens(sinks=[OTelMetrics(provider)]):
    record_cost("search API", "0.25")
"""


def test_what_a_tool_cost(provider, reader):
    """A tool's own cost is a cost of its name, and no tokens."""
    with track_tokens(sinks=[OTelMetrics(provider)]):
        record_cost("search API", "0.25")

    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search API"}
    assert {"token_handlers.cost": ("{USD}", [(tool, 0.25, None)])} == points(reader)


def test_tools_are_bounded(provider, reader):
    """Past MAX_SERIES tools the rest is one series."""
    sink = OTelMetrics(provider)
    for number in range(MAX_SERIES + 20):
        sink(UsageRecord(operation="tool", source="manual", requests=0, cost=Decimal(1), tags={"tool": f"t{number}"}))

    found = {attributes["gen_ai.tool.name"]: cost for attributes, cost, _ in points(reader)["token_handlers.cost"][1]}
    assert (MAX_SERIES + 1, 20.0) == (len(found), found[OTHER])


def test_what_the_prompt_cache_saved(reader, provider):
    """Cached tokens and what they saved are measured, a loss too; without a cache there is neither."""
    sink = OTelMetrics(provider)
    sink(record())
    assert not {"token_handlers.cache_saved_cost", "token_handlers.cache_read_tokens"} & points(reader).keys()

    cached = Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=400)
    sink(record(usage=cached, cache_saved_cost=Decimal("0.25")))
    sink(record(usage=Usage(input_tokens=1000, cache_write_tokens=9), cache_saved_cost=Decimal("-0.75")))
    found = points(reader)

    assert ("{token}", [(CALLED, 400, None)]) == found["token_handlers.cache_read_tokens"]
    assert ("{USD}", [(CALLED, -0.5, None)]) == found["token_handlers.cache_saved_cost"]
