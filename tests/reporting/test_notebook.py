from decimal import Decimal

import pytest

from tests.support.chromium import Browser
from tests.support.pages import Reader
from tests.support.totals import EVIL
from token_handlers import TokenCounter, Usage, UsageRecord
from token_handlers.reporting.notebook import ROWS, counter_html


def filled(sessions=3):
    """Return a counter that counted a call in each of so many sessions, and one without a price."""
    counter = TokenCounter()
    for number in range(sessions):
        counter.add(
            UsageRecord(
                usage=Usage(input_tokens=100, cache_read_tokens=40, output_tokens=10),
                model="gpt-4o",
                session=f"s{number}",
                cost=Decimal(number + 1),
            )
        )
    counter.add(UsageRecord(usage=Usage(input_tokens=5, output_tokens=1), model=EVIL))
    return counter


def test_a_counter_in_a_notebook():
    """A notebook shows cost, tokens by kind, what is not exact, and the labels that there are; names are text."""
    reader = Reader(counter_html(filled()))

    assert [] == reader.open
    assert "$6.00 · 4 requests · 336 tokens" == reader.texts["p"][0]
    assert ["Prompt, cached 120", "Prompt 185", "Completion 31"] == reader.texts["li"]
    assert "1 request of unknown cost: not in the sum (see token-handlers reprice)." in reader.texts["p"]
    assert ["By model", "By session"] == reader.texts["h2"]
    assert EVIL in reader.texts["span"]
    assert not {"script", "button", "input"} & set(reader.tags)


def test_many_sessions_in_a_notebook():
    """The most expensive are listed, the others summed."""
    reader = Reader(counter_html(filled(ROWS + 3)))

    assert "3 more" in reader.texts["span"]
    assert "s12" in reader.texts["span"]
    assert "s2" not in reader.texts["span"]


def test_an_empty_counter_in_a_notebook():
    """A counter that has counted nothing is one line."""
    reader = Reader(counter_html(TokenCounter()))

    assert ["$0.00 · 0 requests · 0 tokens"] == reader.texts["p"]
    assert not {"svg", "table"} & set(reader.tags)


@pytest.mark.browser
def test_a_browser_draws_a_counter(tmp_path):
    """Its style comes with it, and does not change what stands around it."""
    path = tmp_path / "cell.html"
    path.write_text(f"<!DOCTYPE html><title>cell</title><p id=p>text</p>{counter_html(filled())}", "utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(path, dark=True)

        assert "rgb(0, 0, 0)" == browser.run("getComputedStyle(document.getElementById('p')).color")
        assert "rgb(230, 234, 240)" == browser.run("getComputedStyle(document.querySelector('.token-usage')).color")
        assert 0 < browser.run("document.querySelector('.token-usage .share').getBoundingClientRect().height") < 10
