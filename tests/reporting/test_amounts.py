from decimal import Decimal

import pytest

from token_handlers.reporting.amounts import counted, dollars, percent, short, usd, usd_column


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (None, "unknown"),
        ("0", "0.00"),
        ("0E-18", "0.00"),
        ("1E-18", "0.000000000000000001"),
        ("0.00001725", "0.00001725"),
        ("0.00012963", "0.0001296"),
        ("0.0031875", "0.003188"),
        ("0.5", "0.50"),
        ("0.50319", "0.5032"),
        ("0.99996", "1.00"),
        ("3", "3.00"),
        ("12.3456", "12.35"),
        ("1234.5", "1,234.50"),
        ("20706", "20,706.00"),
        ("123456789.123456789", "123,456,789.12"),
        ("1E+12", "1,000,000,000,000.00"),
    ],
)
def test_usd(cost, expected):
    """People see four significant digits and all dollars, never an exponent, and never nothing for something."""
    assert expected == usd(None if cost is None else Decimal(cost))


def test_dollars():
    """An amount in a sentence has a dollar sign, one that is not known has none."""
    assert ("$3.00", "-$0.50", "unknown") == (dollars(Decimal(3)), dollars(Decimal("-0.5")), dollars(None))


def test_a_column():
    """In a column the points stand below each other, and what is not known is said."""
    assert ["    0.003188", "1,234.50    ", "unknown     "] == usd_column(
        [Decimal("0.0031875"), Decimal("1234.5"), None]
    )
    assert [] == usd_column([])


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
