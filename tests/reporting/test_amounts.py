from decimal import Decimal

import pytest

from token_handlers.reporting.amounts import counted, dollars, percent, short


def test_dollars():
    """An amount in a sentence has a dollar sign, one that is not known has none."""
    assert ("$3.00", "-$0.50", "unknown") == (dollars(Decimal(3)), dollars(Decimal("-0.5")), dollars(None))


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, "0%"), (1e-9, "<0.1%"), (0.004, "0.4%"), (0.0994, "9.9%"), (0.0996, "10%"), (0.125, "12%"), (0.994, "99%"),
        (0.9999, ">99%"), (1, "100%"), (1.5, "150%"),
    ],
)  # fmt: skip
def test_percent(share, expected):
    """A part is not said to be nothing, nor to be all."""
    assert expected == percent(share)


def test_counted():
    """One is singular, thousands are apart."""
    assert ("1 request", "0 requests", "1,200 requests") == tuple(counted(number, "request") for number in (1, 0, 1200))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (0.00015, "0.00015"),
        (0.4, "0.4"),
        (15, "15"),
        (1500, "1.5k"),
        (250_000, "250k"),
        (6e9, "6G"),
        (3e13, "30T"),
    ],
)
def test_short(number, expected):
    """An axis has few characters for a number."""
    assert expected == short(number)
