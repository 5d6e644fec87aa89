import re
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from tests.support.chromium import CHROMIUM, pixels
from token_handlers.reporting.html import Contents, page, short_usd
from token_handlers.reporting.svg import Bar, bar_chart, buckets, by_month, nice_ceiling, share_bar
from token_handlers.reporting.text import notes_on, totals_json, totals_table, totals_text, usd
from token_handlers.usage import UsageTotals

CHEAP = UsageTotals(prompt_tokens=1, successful_requests=1, cost=Decimal("0.10"))
DEAR = UsageTotals(
    prompt_tokens=1000,
    prompt_tokens_cached=400,
    completion_tokens=200,
    reasoning_tokens=50,
    embedding_tokens=30,
    successful_requests=2,
    cost=Decimal(3),
)
UNKNOWN = UsageTotals(successful_requests=1, estimated_requests=1, cost=None, unpriced_requests=1)
EVIL = "<script>document.title='broken'</script>"


def contents(**changes):
    """Return what a page shows: three models, two sessions, two days."""
    given = {
        "total": UsageTotals(
            **{
                **DEAR.model_dump(exclude={"total_tokens", "total_cost"}),
                "estimated_requests": 1,
                "unpriced_requests": 1,
            }
        ),
        "by_model": {"gpt-4o": DEAR, EVIL: CHEAP, "my-llama": UNKNOWN},
        "by_session": {EVIL: DEAR, "s2": CHEAP},
        "in_time": {"2026-10-01": DEAR, "2026-10-03": CHEAP},
        "step": "day",
        "title": "ledger.db",
        "made_at": datetime(2026, 11, 1, 12, 30, tzinfo=UTC),
    }
    return Contents(**{**given, **changes})


class Reader(HTMLParser):
    """What a browser sees of a page: tags, attributes, and the texts in a tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def test_a_table_in_the_order_of_time():
    """Days stand in their order, other labels by cost."""
    groups = {"2026-01-02": CHEAP, "2026-01-01": UNKNOWN, "2026-01-03": DEAR}

    assert ["2026-01-01", "2026-01-02", "2026-01-03", "Total"] == [
        row[0] for row in totals_table("day", groups, DEAR).rows
    ]
    assert ["2026-01-03", "2026-01-02", "2026-01-01", "Total"] == [
        row[0] for row in totals_table("tag", groups, DEAR).rows
    ]


def test_what_others_add_up_to_comes_last():
    """The sum of the others is the last row before the total, however large."""
    groups = {"(other)": DEAR, "a": CHEAP}

    assert ["a", "(other)", "Total"] == [row[0] for row in totals_table("session", groups, DEAR).rows]
    assert ["a", "(other)", "Total"] == [row[0] for row in totals_table("day", groups, DEAR).rows]


def test_a_text_fits_a_terminal():
    """No line is longer than 80 columns, whatever the names and numbers are."""
    names = set(UsageTotals.model_fields) - {"cost", "saved_cost"}
    sizes = {name: 10**9 if name.endswith(("tokens", "cached")) else 10**6 for name in names}
    huge = UsageTotals(**sizes, cost=Decimal("123456.123456789"))

    assert max(map(len, totals_text("session", {"s" * 200: huge}, huge).splitlines())) <= 80


def test_names_can_not_steer_a_terminal():
    """Line breaks and escape sequences in a name are not printed."""
    text = totals_text("session", {"a\x1b[31m\nb": CHEAP}, CHEAP)

    assert "a\ufffd[31m\ufffdb" in text
    assert "\x1b" not in text


def test_embeddings_have_a_column_where_there_are_some():
    """A report without embeddings has no column of zeros."""
    assert "Embedding" in totals_table("model", {}, DEAR).header
    assert "Embedding" not in totals_table("model", {}, CHEAP).header


def test_notes():
    """Notes say what is cached, reasoned, estimated, unpriced, rejected, saved, and what lacks the label."""
    total = UsageTotals(
        prompt_tokens=10,
        prompt_tokens_cached=5,
        successful_requests=3,
        failed_requests=2,
        cached_responses=1,
        saved_cost=Decimal("0.25"),
    )

    assert [
        "5 (50%) of the prompt tokens were read from the provider's cache.",
        "2 requests rejected: not billed.",
        "1 answer from LangChain's cache: not billed, saved 0.2500 USD.",
        "2 requests without a session.",
    ] == notes_on("session", {"s": CHEAP}, total)
    assert [] == notes_on("model", {"m": CHEAP}, CHEAP)


def test_json_is_exact():
    """JSON has money as text, in full."""
    assert "0.10" == totals_json("model", {"m": CHEAP}, CHEAP)["total"]["cost"]


@pytest.mark.parametrize(
    ("cost", "table", "figure"),
    [
        (None, "unknown", "unknown"),
        ("0", "0.0000", "$0.00"),
        ("0.00000012", "0.000000120", "$0.000000120"),
        ("0.0012345", "0.00123", "$0.00123"),
        ("0.5", "0.5000", "$0.5000"),
        ("1234.5", "1,234.5000", "$1,234.50"),
    ],
)
def test_money(cost, table, figure):
    """Money has the places that matter, and is never rounded to nothing."""
    amount = None if cost is None else Decimal(cost)

    assert (table, figure) == (usd(amount), short_usd(amount))


def test_buckets_have_no_gaps():
    """Days without calls are there, as are those that make a chart of at least two weeks."""
    days = buckets("day", {"2026-02-20": DEAR, "2026-03-10": CHEAP})
    hours = buckets("hour", {"2026-03-01T00:00Z": DEAR})
    months = buckets("month", {"2026-01": DEAR})

    assert (19, 24, 6) == (len(days), len(hours), len(months))
    assert ("2026-02-20", "2026-03-10") == (days[0].label, days[-1].label)
    assert ("2025-08", "2026-01") == (months[0].label, months[-1].label)
    assert "2026-02-28T23:00Z" == hours[-2].label
    assert [] == buckets("day", {})


def test_buckets_take_parts_out_of_their_wholes():
    """What is stacked adds up to what was used."""
    bucket = buckets("day", {"2026-02-20": DEAR})[-1]

    assert (600, 400, 150, 50, 30) == (
        bucket.prompt, bucket.cached, bucket.completion, bucket.reasoning, bucket.embedding
    )  # fmt: skip


def test_months():
    """Days add up to months; a cost is unknown where no part of it is known."""
    months = by_month({"2026-01-01": DEAR, "2026-01-31": UNKNOWN, "2026-02-01": UNKNOWN})

    assert ["2026-01", "2026-02"] == list(months)
    assert (Decimal(3), None) == (months["2026-01"].cost, months["2026-02"].cost)
    assert (3, 1000) == (months["2026-01"].successful_requests, months["2026-01"].prompt_tokens)


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


def test_share_bar():
    """Shares follow each other from the left."""
    assert '<rect class="b" x="25.00" y="0" width="50.00"' in share_bar([("a", 0.25), ("b", 0.5)])


def test_a_page_is_one_file():
    """A page loads nothing and runs nothing; every tag is closed, and names are text."""
    text = page(contents())
    reader = Reader(text)

    assert [] == reader.open
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert not {"src", "href", "onload", "xlink:href"} & {name for name, _ in reader.attributes}
    assert not re.search(r"https?:|url\(|@import", text)
    assert [EVIL, EVIL] == [text for text in reader.texts["span"] if "script" in text]


def test_a_page_says_it_all():
    """A page has cost and tokens over time with tooltips, models, sessions, shares, and what is not exact."""
    reader = Reader(page(contents()))

    assert [
        "Cost by day", "Tokens by day", "Shares", "How exact this is", "By model", "By session",
    ] == reader.texts["h2"]  # fmt: skip
    assert "2026-10-01: $3.0000, 2 requests" in reader.texts["title"]
    assert (
        "2026-10-01: 600 prompt; 400 prompt, cached; 150 completion; 50 reasoning; 30 embedding"
        in reader.texts["title"]
    )
    assert "2026-10-02: nothing" in reader.texts["title"]
    assert ["40.0%", "25.0%"] == reader.texts["b"]
    assert "1 request of unknown cost: not in the sum (see token-handlers reprice)." in reader.texts["li"]
    assert {"1 estimated", "1 unpriced"} < set(reader.texts["span"])


def test_a_page_of_nothing():
    """A page of an empty ledger has zeros and no charts."""
    text = page(contents(total=UsageTotals(), by_model={}, by_session={}, in_time={}))

    assert "$0.00" in text
    assert "By session" not in text
    assert "<h2>Cost" not in text


def test_a_page_of_many_sessions():
    """A page says how many sessions it sums up in its last row."""
    reader = Reader(page(contents(by_session={"(other)": DEAR, "s": CHEAP}, other_sessions=999_950)))

    assert ["s", "999,950 more"] == [text for text in reader.texts["span"] if text in ("s", "(other)", "999,950 more")]


def test_a_session_of_that_name():
    """A session that is called "(other)" is shown by its name, at the end."""
    reader = Reader(page(contents(by_session={"(other)": DEAR, "s": CHEAP})))

    assert ["s", "(other)"] == [text for text in reader.texts["span"] if text in ("s", "(other)")]


@pytest.fixture
def browse(tmp_path):
    """Return what opens a page in Chromium and gives its output."""
    (tmp_path / "page.html").write_text(page(contents()), "utf-8")

    def run(*options):
        command = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", *options, (tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout

    return run


@pytest.mark.browser
def test_a_browser_reads_the_page(browse):
    """Chromium finds the document as it was written: no script has run, and the names are there as text."""
    document = browse("--dump-dom")

    assert "<title>Token usage: ledger.db</title>" in document
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;") in document
    assert 2 * 14 == document.count("<g><title>")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "color"), [("light", (0xF5, 0xF6, 0xF8)), ("dark", (0x12, 0x16, 0x1C))], ids=["light", "dark"]
)
def test_a_browser_draws_the_page(scheme, color, browse, tmp_path):
    """Chromium draws bars and text on the page's own background, light and dark."""
    picture = tmp_path / "page.png"
    browse(
        f"--screenshot={picture}",
        "--window-size=500,700",
        f"--blink-settings=preferredColorScheme={scheme != 'dark':d}",
    )
    rows, size = pixels(picture.read_bytes())
    seen = {tuple(row[start : start + 3]) for row in rows for start in range(0, len(row), size)}

    assert color == tuple(rows[2][:3])
    assert len(seen) > 20
    assert {"light": (0x2F, 0x6F, 0x5E), "dark": (0x58, 0xB3, 0x9A)}[scheme] in seen
