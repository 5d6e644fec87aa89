import pytest

from token_handlers.reporting.charts import Bar, bar_chart, nice_ceiling, share_bar


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (1, 1), (1.1, 1.5), (3.2, 4), (99, 100), (321_000, 400_000), (0.0007, 0.0008)]
)
def test_nice_ceiling(value, expected):
    """An axis ends at a round number that is not much above the highest bar."""
    assert expected == pytest.approx(nice_ceiling(value))


def test_bars_stand_on_each_other():
    """A bar's parts are as high as their share of the axis, one above the other; its tooltip is escaped."""
    picture, top = bar_chart("name", [Bar("<tip>", (("a", 2.0), ("b", 0.0), ("c", 6.0)))])

    assert 8 == top
    assert '<rect class="a" x="1" y="75.00" width="8" height="25.00"/>' in picture
    assert '<rect class="c" x="1" y="0.00" width="8" height="75.00"/>' in picture
    assert 'class="b"' not in picture
    assert "<title>&lt;tip&gt;</title>" in picture


def test_a_single_bar_is_no_wall():
    """A chart of few bars leaves room for more."""
    assert 'viewBox="0 0 120 100"' in bar_chart("name", [Bar("", (("a", 1.0),))]).picture
    assert 'viewBox="0 0 300 100"' in bar_chart("name", [Bar("", (("a", 1.0),))] * 30).picture


def test_a_line():
    """A line lies at its share of the axis, which reaches up to it."""
    picture, top = bar_chart("name", [Bar("", (("a", 2.0),))], line=8)

    assert 8 == top
    assert '<path class="budget" d="M0 0.0H120"/>' in picture
    assert "budget" not in bar_chart("name", [Bar("", (("a", 2.0),))]).picture


def test_weekends():
    """A day at a weekend is shaded."""
    assert 'class="aim weekend"' in bar_chart("name", [Bar("", (), is_weekend=True)]).picture
    assert "weekend" not in bar_chart("name", [Bar("", ())]).picture


def test_share_bar():
    """Shares follow each other from the left."""
    assert '<rect class="b" x="25.00" width="50.00"' in share_bar([("a", 0.25), ("b", 0.5)])
