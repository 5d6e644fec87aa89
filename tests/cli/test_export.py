import csv
import io
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pyarrow import parquet

from tests.support.usage_ledgers import CALLS, FIRST_DAY, fill
from token_handlers import UsageRecord
from token_handlers.cli import main
from token_handlers.cli.export import COLUMNS
from token_handlers.reporting import focus
from token_handlers.reporting.parquet import write_parquet
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.usage import CostPart


@pytest.fixture
def path(tmp_path):
    """The path of a ledger with CALLS in it."""
    return fill(tmp_path / "ledger.db")


def test_focus(path, capsys):
    """FOCUS' charges are CSV that adds up to the ledger's cost; calls of unknown cost are left out, and counted."""
    assert 0 == main(["export", "--focus", "--ledger", str(path)])
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    with SQLiteLedger(path, read_only=True) as ledger:
        total = ledger.totals()

    assert list(focus.COLUMNS) == list(rows[0])
    assert total.cost == sum(Decimal(row["BilledCost"]) for row in rows)
    assert "token-handlers: 1 call of unknown cost left out: see token-handlers reprice\n" == printed.err
    assert "<script>alert(1)</script>" in {row["x_Session"] for row in rows}


def test_parquet(path, tmp_path, capsys):
    """A row a call, with times, exact money, counts that are null where they were not reported, and tags as a map."""
    file = tmp_path / "calls.parquet"
    assert 0 == main(["export", "--parquet", str(file), "--ledger", str(path)])
    table = parquet.read_table(file)
    rows = table.to_pylist()

    assert f"4 calls written to {file}\n" == capsys.readouterr().err
    assert list(COLUMNS) == table.column_names
    assert [call.event_id for call in CALLS] == [row["event_id"] for row in rows]
    assert (Decimal("0.0031875"), FIRST_DAY, [("team", "red")]) == tuple(
        rows[0][name] for name in ("cost", "started_at", "tags")
    )
    assert (1000, 250, None, None) == tuple(
        rows[0][name] for name in ("input_tokens", "cache_read_tokens", "web_searches", "saved_cost")
    )
    assert [None, None] == [rows[1]["cost"], rows[2]["output_tokens"]]
    assert "decimal128(38, 18)" == str(table.schema.field("cost").type)
    assert [file] == list(tmp_path.glob("*parquet*"))


def test_parquet_of_any_record(tmp_path, monkeypatch):
    """More calls than are in memory at once, none, odd names and exact money arrive whole."""
    monkeypatch.setattr("token_handlers.reporting.parquet.ROWS", 3)
    at = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
    records = [
        UsageRecord(
            model=f"\ud800{number}",
            cost=Decimal("0.000000000000000001"),
            started_at=at,
            doubts=("why",),
            cost_breakdown=(CostPart("input_tokens", 1, Decimal("0.1"), 10**6, Decimal("1e-7"), "\ud800"),),
        )
        for number in range(8)
    ]
    file = tmp_path / "calls.parquet"

    assert 8 == write_parquet(records, COLUMNS, file)
    assert [(records[0].cost, at, ["why"])] * 8 == [
        (row["cost"], row["started_at"], row["doubts"]) for row in parquet.read_table(file).to_pylist()
    ]
    part = parquet.read_table(file).to_pylist()[0]["cost_breakdown"][0]
    assert (1, "0.1", 10**6, "0.0000001") == tuple(part[name] for name in ("number", "rate", "per", "cost"))
    assert 0 == write_parquet([], COLUMNS, file)
    assert 0 == parquet.read_table(file).num_rows


def test_parquet_into_a_folder_that_is_not_there(path, tmp_path, capsys):
    """What can't be written is one line, and leaves nothing behind."""
    assert 1 == main(["export", "--parquet", str(tmp_path / "none" / "x.parquet"), "--ledger", str(path)])
    assert "can't write" in capsys.readouterr().err


def test_without_pyarrow(path, tmp_path, capsys, monkeypatch):
    """Without pyarrow the error is the pip line, and an older file stays."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = tmp_path / "calls.parquet"
    file.write_text("mine")

    assert 1 == main(["export", "--parquet", str(file), "--ledger", str(path)])
    assert (
        "token-handlers: pyarrow is not installed: pip install 'token-handlers[parquet]'\n" == capsys.readouterr().err
    )
    assert "mine" == file.read_text()


@pytest.mark.parametrize("forms", [[], ["--csv", "--focus"], ["--json", "--parquet", "x"]])
def test_one_form(path, forms):
    """One form is asked for, no more and no less."""
    with pytest.raises(SystemExit, match="2"):
        main(["export", *forms, "--ledger", str(path)])
