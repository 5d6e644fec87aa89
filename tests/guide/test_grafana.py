"""The Grafana dashboard asks for what OTelMetrics emits, and is of the shape that Grafana imports."""

import itertools
import json
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum

from token_handlers import Usage, UsageRecord
from token_handlers.cli import main
from token_handlers.guide import page
from token_handlers.sinks.otel import LATEST, OPT_IN, OTelMetrics

DASHBOARD = json.loads(page("grafana"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
WORDS = {"by", "or", "le", "increase", "rate", "sum", "histogram_quantile", "label_values"}
ADDED = {"job", "le"}
"""Labels that Prometheus and its histograms add."""


def prometheus(name):
    """Return a name as Prometheus has it."""
    return re.sub(r"\W", "_", name)


@pytest.fixture(scope="module")
def emitted():
    """The names of Prometheus' series of all that OTelMetrics emits in both dialects, and those of their labels."""
    names, labels = set(), set()
    for opted_in in ("", LATEST):
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(OPT_IN, opted_in)
            sink = OTelMetrics(provider)
        at = datetime(2026, 11, 1, tzinfo=UTC)
        usage = Usage(input_tokens=100, output_tokens=10, cache_read_tokens=50, reasoning_tokens=5)
        call = UsageRecord(usage=usage, model="gpt-4o", started_at=at, ended_at=at, chunk_seconds=(0.1, 0.2))
        tool = UsageRecord(operation="tool", source="manual", tags={"tool": "t"}, cost=Decimal(1))
        changes = ({"cost": Decimal(1), "source": "estimated"}, {}, {"outcome": "failed"}, {"operation": "embeddings"})
        for record in (*(call.model_copy(update=change) for change in changes), tool):
            sink(record)
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                unit = {"s": "_seconds"}.get(metric.unit, "")  # a unit in braces is left out
                ends = {Sum: ["_total"], Histogram: ["_sum", "_count", "_bucket"]}[type(metric.data)]
                names |= {f"{prometheus(metric.name)}{unit}{end}" for end in ends}
                labels |= {prometheus(key) for point in metric.data.data_points for key in point.attributes}
        sink.close()
        provider.shutdown()
    return names, labels


def test_every_metric_is_emitted(emitted):
    """Each name in a query is a series that OTelMetrics gives Prometheus, in one of the two dialects."""
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    queries = [*(target["expr"] for target in TARGETS), *variables]
    asked = set()
    for query in queries:
        without_labels = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|, \w+\)", " ", query)
        asked |= set(re.findall(r"[a-z_]{3,}", without_labels)) - WORDS

    assert asked
    assert set() == asked - emitted[0]


def test_every_label_is_emitted(emitted):
    """Each label in a query is one of OTelMetrics' attributes, or Prometheus' own."""
    asked = set()
    for target in TARGETS:
        asked |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", target["expr"]))
        asked |= {name for names in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in names.split(", ")}
        asked |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))

    assert {"gen_ai_response_model", "gen_ai_token_type"} <= asked
    assert set() == asked - emitted[1] - ADDED


def test_the_dashboards_shape():
    """Each panel has an id, a title, a unit and a data source, and no two panels overlap in Grafana's 24 columns."""
    panels = DASHBOARD["panels"]

    assert list(range(1, len(panels) + 1)) == [panel["id"] for panel in panels]
    assert {"title", "uid", "schemaVersion", "templating", "time", "panels"} <= DASHBOARD.keys()
    assert {"datasource", "job", "model"} == {each["name"] for each in DASHBOARD["templating"]["list"]}
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {"type": "prometheus", "uid": "${datasource}"} == panel["datasource"]
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
        grid = panel["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_brackets_are_closed():
    """Every query's brackets are balanced, and its variables are the dashboard's or Grafana's own."""
    for target in TARGETS:
        query = target["expr"]
        assert all(query.count(left) == query.count(right) for left, right in ("()", "{}", "[]"))
        assert set(re.findall(r"\$(\w+)", query)) <= {"job", "model", "__rate_interval", "__interval", "__range"}


def test_the_command_prints_it(capsys):
    """`token-handlers guide grafana` prints what Grafana imports."""
    assert 0 == main(["guide", "grafana"])
    assert DASHBOARD == json.loads(capsys.readouterr().out)
