import base64
import hashlib
import re
from decimal import Decimal

import pytest

from tests.support.chromium import Browser, pixels
from tests.support.pages import BUDGET, NOTHING, Reader, contents
from tests.support.totals import EVIL
from token_handlers.reporting.page import page
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import UsageTotals


def test_a_page_is_one_file():
    """A page loads nothing; every tag is closed, and names are text, also in the title."""
    text = page(contents(budget=BUDGET))
    reader = Reader(text)

    assert [] == reader.open
    assert not {"link", "img", "iframe", "object"} & set(reader.tags)
    assert not {"src", "href", "style", "onload", "xlink:href"} & {name for name, _ in reader.attributes}
    assert not re.search(r"https?:|url\(|@import", text)
    assert 1 == reader.tags.count("script")
    assert [f"A {EVIL}"] == reader.texts["h1"]
    assert EVIL in reader.texts["span"]


def test_only_what_came_with_the_page_runs():
    """The policy allows the script and the style by their hashes, and nothing else."""
    reader = Reader(page(contents()))
    (policy,) = [value for _, value in reader.attributes if value and "default-src" in value]

    def hashed(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert {
        "default-src 'none'",
        f"style-src {hashed(reader.texts['style'][0])}",
        f"script-src {hashed(reader.texts['script'][0])}",
        "base-uri 'none'",
        "form-action 'none'",
    } == set(policy.split("; "))


def test_sections():
    """A page has the budget, charts, savings, what is not exact, and a table for each label that is there."""
    assert [
        "Budget", "Cost by day", "Tokens by day", "What caching saved", "How exact this is", "By model", "By session",
        "By tag", "By node",
    ] == Reader(page(contents(budget=BUDGET))).texts["h2"]  # fmt: skip


def test_a_page_of_nothing():
    """A page of an empty ledger has zeros and one sentence."""
    reader = Reader(page(NOTHING))

    assert ["$0.00", "0"] == reader.texts["dd"]
    assert "No calls in this time." in reader.texts["p"]
    assert "h2" not in reader.texts


SESSIONS = Groups(
    {f"s{number}": UsageTotals(successful_requests=20 - number, cost=Decimal(number)) for number in range(12)}
)


@pytest.fixture
def written(tmp_path):
    """A page with twelve sessions in a file."""
    path = tmp_path / "page.html"
    path.write_text(page(contents(groups={"session": SESSIONS}, budget=BUDGET)), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium; each test opens its page in it."""
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


TABLE = "document.querySelector('section.by-label table')"


def shown(browser):
    """Return the names of the rows that are visible, from the top."""
    rows = f"[...{TABLE}.tBodies[0].rows].filter((row) => row.checkVisibility())"
    return browser.run(f"{rows}.map((row) => row.cells[0].querySelector('.name').textContent)")


def head(column):
    """Return the expression for the button of a column."""
    return f"{TABLE}.tHead.rows[0].cells[{column}].querySelector('button')"


@pytest.mark.browser
def test_a_person_sorts(browser, written):
    """A click on a column's head sorts by its numbers, another one the other way round, and the head says so."""
    browser.open(written)
    assert [f"s{number}" for number in range(11, 1, -1)] == shown(browser)

    browser.click(head(1))
    assert [f"s{number}" for number in range(10)] == shown(browser)
    browser.click(head(1))
    assert [f"s{number}" for number in range(11, 1, -1)] == shown(browser)
    assert [None, "ascending", None] == browser.run(
        f"[0, 1, 2].map((column) => {TABLE}.tHead.rows[0].cells[column].getAttribute('aria-sort'))"
    )

    browser.click(head(0))
    assert [f"s{number}" for number in range(10)] == shown(browser)


@pytest.mark.browser
def test_a_keyboard_sorts(browser, written):
    """Tab reaches the field and the heads; Enter and the space bar press them, and the focus stays."""
    browser.open(written)
    browser.run("document.querySelector('section.by-label input').focus()")
    browser.press("Tab")
    browser.press("Tab")
    browser.press("Enter")
    assert "s0" == shown(browser)[0]

    browser.press(" ")
    assert "s11" == shown(browser)[0]
    assert browser.run(f"document.activeElement === {head(1)}")


@pytest.mark.browser
def test_a_person_filters(browser, written):
    """What is written into the field is searched for in all rows, also in those that are folded away."""
    browser.open(written)
    browser.click("document.querySelector('section.by-label input')")
    browser.write("S1")

    assert ["s11", "s10", "s1"] == shown(browser)
    assert "3 of 12" == browser.run("document.querySelector('.found').textContent")
    assert not browser.run("document.querySelector('.more').checkVisibility()")


@pytest.mark.browser
def test_a_person_asks_for_more(browser, written):
    """The rows after the tenth are shown when they are asked for, and folded again."""
    more = "document.querySelector('.more')"
    browser.open(written)
    assert (10, "Show 2 more") == (len(shown(browser)), browser.run(f"{more}.textContent"))

    browser.click(more)
    assert (12, "Show the first 10") == (len(shown(browser)), browser.run(f"{more}.textContent"))
    browser.click(more)
    assert 10 == len(shown(browser))


@pytest.mark.browser
def test_without_scripts(browser, written):
    """Where scripts are off every row is there, and nothing that would need one."""
    browser.open(written, scripts=False)

    assert 12 == len(shown(browser))
    assert not browser.run("document.querySelector('.filter, .more').checkVisibility()")


@pytest.mark.browser
def test_a_page_asks_nobody(browser, written):
    """A browser loads the file and nothing else, and finds nothing to complain of."""
    browser.open(written)

    assert [written.as_uri()] == browser.addresses()
    assert [] == browser.complaints()


@pytest.mark.browser
def test_what_is_smuggled_in_does_not_run(browser, written):
    """Even markup that got into the page would not run: the policy forbids it."""
    hole = "<script>document.title = 'run'</script><b onclick=1 style='color: red'></b>"
    written.write_text(written.read_text("utf-8").replace("</main>", f"{hole}</main>"), "utf-8")
    browser.open(written)

    assert f"A {EVIL}" == browser.run("document.title")
    assert browser.complaints()


@pytest.mark.browser
def test_a_screen_reader(browser, written):
    """A screen reader finds headings, charts by what they show, tables by their name, and what can be pressed."""
    browser.open(written)
    found = browser.spoken()

    assert ("heading", "Cost by day") in found
    assert ("image", "Cost by day: $3.10 in all, most on Thu 1 Oct 2026: $3.00.") in found
    assert ("table", "By session") in found
    assert ("searchbox", "Filter by session") in found
    assert ("button", "Requests") in found
    assert ("button", "Show 2 more") in found
    assert ("rowheader", "s11") in found


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_fits(browser, written, width):
    """Nothing is wider than a screen or a phone, and a phone's tables keep their roles."""
    browser.open(written, width=width)

    assert width == browser.run("document.documentElement.scrollWidth")
    assert ("table", "By session") in browser.spoken()
    assert ("columnheader", "Cost") in browser.spoken()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("dark", "background", "bar"),
    [(False, (0xF5, 0xF6, 0xF8), (0x35, 0x66, 0xC0)), (True, (0x12, 0x16, 0x1C), (0x6F, 0x9C, 0xF0))],
    ids=["light", "dark"],
)
def test_a_browser_draws_the_page(browser, written, dark, background, bar):
    """Chromium draws bars and text on the page's own background, light and dark."""
    browser.open(written, width=400, height=300, dark=dark)
    browser.run("document.querySelector('.chart').scrollIntoView()")
    rows, size = pixels(browser.picture(whole=False))
    seen = {tuple(row[start : start + 3]) for row in rows for start in range(0, len(row), size)}

    assert background == tuple(rows[2][:3])
    assert bar in seen
    assert len(seen) > 20


@pytest.mark.browser
def test_a_page_is_printed(browser, written):
    """On paper it is a PDF without what only a screen can use."""
    browser.open(written)
    paper = browser.paper()
    browser.call("Emulation.setEmulatedMedia", media="print")

    assert paper.startswith(b"%PDF")
    assert not browser.run("[...document.querySelectorAll('.filter, .more, details')].some((e) => e.checkVisibility())")
