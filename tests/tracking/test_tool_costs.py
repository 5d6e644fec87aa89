from decimal import Decimal

import pytest

from tests.support.reservations import request
from token_handlers import Budget, BudgetExceeded, SQLiteLedger, UsageTotals, record_cost, shared_counter, track_tokens
from token_handlers.pricing.recorded import price_again


def test_a_tools_cost():
    """It is in the block's total under its name and "(tools)", as no token, no request and no unpriced one."""
    with track_tokens() as counter:
        record_cost("search API", "0.005")
        record_cost("search API", Decimal("0.0000000001"))
        record_cost("OCR", 0.1)
        record_cost("free", 0)

    assert UsageTotals(cost=Decimal("0.1050000001")) == counter.snapshot()
    assert {"search API": Decimal("0.0050000001"), "OCR": Decimal("0.1"), "free": Decimal(0)} == {
        name: sums.cost for name, sums in counter.by("tool").items()
    }
    assert {"(tools)": counter.snapshot()} == counter.by_model


def test_outside_of_blocks():
    """Outside of every block it is in the shared counter."""
    before = shared_counter().by("tool").get("pages", UsageTotals()).cost or 0
    record_cost("pages", "0.25")

    assert before + Decimal("0.25") == shared_counter().by("tool")["pages"].cost


def test_blocks_label_it():
    """It has the session, the user and the tags of the blocks, and reaches their sinks and listeners once."""
    records, heard = [], []
    with track_tokens(session="s", tags={"team": "search"}, sinks=[records.append]) as outer:
        outer.on_record(heard.append)
        with track_tokens(user="u", sinks=[records.append]) as inner:
            record_cost("search API", "0.005")
    (record,) = records
    assert outer.flush(30)

    assert ("s", "u", {"team": "search", "tool": "search API"}) == (record.session, record.user, record.tags)
    assert ("tool", "manual", "reported", 0) == (record.operation, record.source, record.cost_source, record.requests)
    assert records == heard
    assert Decimal("0.005") == outer.cost == inner.cost


def test_budgets_have_it():
    """It is spent: a budget that it takes to its limit refuses the next call, and counts no request for it."""
    budget = Budget(max_cost="0.01", max_requests=5, each="tool")
    with track_tokens(budget=budget):
        record_cost("search API", "0.02")
        record_cost("OCR", "0.001")

    assert (Decimal("0.02"), 0, 0) == budget.spent("search API")
    assert (Decimal("0.001"), 0, 0) == budget.spent("OCR")
    with pytest.raises(BudgetExceeded, match=r"0\.02 spent"):
        budget.reserve(request(tags={"tool": "search API"}))


def test_a_ledger_keeps_it(tmp_path):
    """A ledger has it under the same labels, gives it back, and no price list changes it."""
    with SQLiteLedger(tmp_path / "usage.db") as ledger:
        with track_tokens(sinks=[ledger]) as counter:
            record_cost("search API", "0.005")
        ledger.flush(30)
        (record,) = ledger.records()
        seen, changed = ledger.update_costs(price_again)

        assert (1, 0) == (seen, changed)
        assert {"tool": "search API"} == record.tags
        assert counter.snapshot() == ledger.totals() == ledger.by("model")["(tools)"] == ledger.by("operation")["tool"]
        assert ["tool=search API"] == list(ledger.by("tag"))


@pytest.mark.parametrize("usd", [-1, "-0.01", "NaN", "inf", "much", "", float("nan"), 1_000_000, "1e-30"])
def test_no_amount(usd):
    """What is no amount of USD is refused by name, and nothing is booked."""
    with track_tokens() as counter, pytest.raises(ValueError, match=r"usd must be") as raised:
        record_cost("search API", usd)

    assert repr(usd) in str(raised.value)
    assert UsageTotals() == counter.snapshot()


@pytest.mark.parametrize("usd", [None, True, [1], b"1"])
def test_no_number(usd):
    """So is what is no number."""
    with pytest.raises(TypeError, match="usd must be USD as a Decimal"):
        record_cost("search API", usd)


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (" ", ValueError), (None, TypeError), (3, TypeError)])
def test_no_name(name, error):
    """A name is a text with something in it."""
    with pytest.raises(error, match="'search API'"):
        record_cost(name, 1)
