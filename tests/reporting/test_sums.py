from decimal import Decimal, localcontext

from tests.support.totals import CHEAP, DEAR, UNKNOWN
from token_handlers.reporting.sums import added, by_month, most_expensive
from token_handlers.usage import UsageTotals


def test_months():
    """Days add up to months; a cost is unknown where no part of it is known."""
    months = by_month({"2026-01-01": DEAR, "2026-01-31": UNKNOWN, "2026-02-01": UNKNOWN})

    assert ["2026-01", "2026-02"] == list(months)
    assert (Decimal(3), None) == (months["2026-01"].cost, months["2026-02"].cost)
    assert (3, 1000) == (months["2026-01"].successful_requests, months["2026-01"].prompt_tokens)


def test_a_sum_is_exact():
    """A decimal context of the user's own does not round a sum."""
    with localcontext(prec=3):
        assert (
            Decimal("123456.000000000000000001")
            == added([UsageTotals(cost=Decimal(123456)), UsageTotals(cost=Decimal("1E-18"))]).cost
        )
    assert UsageTotals() == added([])


def test_the_most_expensive():
    """The others are summed, and it is said how many they are."""
    few = most_expensive({"a": CHEAP, "b": UNKNOWN, "c": DEAR}, 1)

    assert ({"c": DEAR, "(other)": added([CHEAP, UNKNOWN])}, 2) == (few, few.others)
    assert ({"a": CHEAP}, 0) == (most_expensive({"a": CHEAP}, 1), most_expensive({"a": CHEAP}, 1).others)
