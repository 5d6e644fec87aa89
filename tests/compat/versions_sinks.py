"""Checks of the extras that are no framework: see versions_checks."""

import io
import subprocess
import sys
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader

import token_handlers
from tests.check_import import missing
from tests.compat.versions_checks import same
from tests.support.agentsight_api import KEY, AgentSightAPI
from tests.support.redis_servers import Valkey
from token_handlers import Usage, UsageRecord
from token_handlers.cli import main as command_line
from token_handlers.sinks.agentsight import AgentSightClient
from token_handlers.sinks.otel import BOUNDARIES, OTelMetrics
from token_handlers.sinks.redis import RedisCounter

RECORD = UsageRecord(
    usage=Usage(input_tokens=1000, output_tokens=50), model="gpt-4o", provider="openai", cost=Decimal("0.25")
)
PLUGGED = """
import pytest
from token_handlers import Usage, UsageRecord

@pytest.mark.token_ceiling(max_tokens=8)
@pytest.mark.parametrize("output", [5, 6])
def test_tokens(token_usage, output):
    token_usage.add(UsageRecord(usage=Usage(input_tokens=3, output_tokens=output)))
"""


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self):
        return True


class Exporter(OTLPMetricExporter):
    """OpenTelemetry's exporter, which keeps what it is to send."""

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        self.scopes = metrics_data.resource_metrics[0].scope_metrics
        return MetricExportResult.SUCCESS


def metrics(ledger):
    """OpenTelemetry's exporter gets the tokens, in the boundaries that its API can advise."""
    exporter = Exporter(endpoint="http://127.0.0.1:9/")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)])
    OTelMetrics(provider)(RECORD)
    provider.shutdown()
    (scope,) = exporter.scopes
    points = [point for metric in scope.metrics if metric.unit == "{token}" for point in metric.data.data_points]
    same([50, 1000], sorted(point.sum for point in points))
    same([BOUNDARIES] * 2, [tuple(point.explicit_bounds) for point in points])


def fleet(ledger):
    """A server that speaks Redis' protocol adds up what the client sends."""
    with Valkey() as server:
        counter = RedisCounter(server.url, timeout=5)
        counter(RECORD)
        sent, totals = counter.flush(), counter.totals()
        counter.close()
    same((True, 1000, 50, Decimal("0.25")), (sent, totals.prompt_tokens, totals.completion_tokens, totals.cost))


def agentsight(ledger):
    """AgentSight's API gets the counts."""
    with AgentSightAPI() as api:
        client = AgentSightClient(KEY, api.url, conversation_id="c-1")
        client(RECORD)
        same(True, client.flush())
        same((1000, 50, 1050, 0), api.counted("c-1"))


def table(ledger):
    """A table on a terminal is rich's."""
    with redirect_stdout(Terminal()) as printed:
        same(0, command_line(["price", "gpt-4o-mini", "--input", "1000", "--output", "200"]))
    same(True, "0.00027" in printed.getvalue() and "----" not in printed.getvalue())


def plugin(ledger):
    """Pytest takes the plugin in, whose marker fails the test that goes beyond its ceiling."""
    Path("test_plugged.py").write_text(PLUGGED, encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_plugged.py")
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    same(True, "1 failed, 1 passed" in said or said)


def modules(ledger):
    """Every module imports, or names the extra that it needs."""
    missing(token_handlers)


CHECKS = {
    "metrics": metrics,
    "fleet": fleet,
    "AgentSight": agentsight,
    "table": table,
    "pytest plugin": plugin,
    "imports": modules,
}
