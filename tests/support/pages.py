"""What a page shows, made by hand, and what a browser reads of it."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from html.parser import HTMLParser

from tests.support.totals import CHEAP, DEAR, EVIL, UNKNOWN
from token_handlers.reporting.budget_line import BudgetLine, BudgetMeter
from token_handlers.reporting.contents import Contents, InTime
from token_handlers.reporting.period import Period
from token_handlers.reporting.projection import Projection
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import UsageTotals

NOW = datetime(2026, 10, 20, 12, 30, tzinfo=UTC)

TOTAL = UsageTotals(
    **{
        **DEAR.model_dump(exclude=set(UsageTotals.model_computed_fields)),
        "successful_requests": 4,
        "estimated_requests": 1,
        "unpriced_requests": 1,
        "failed_requests": 2,
        "cached_responses": 3,
        "saved_cost": Decimal("0.25"),
        "cache_saved_cost": Decimal("1.50"),
    }
)

BUDGET = BudgetMeter(BudgetLine(Decimal(31), "month"), Decimal(3))


DAYS = {"2026-10-01": DEAR, "2026-10-02": UsageTotals(), "2026-10-03": CHEAP}

IN_TIME = InTime("day", DAYS, {"gpt-4o": {"2026-10-01": Decimal(3)}, EVIL: {"2026-10-03": Decimal("0.10")}})

PROJECTION = Projection(date(2026, 10, 1), Decimal(3), Decimal(12), Decimal(9), Decimal(15), 19, by_weekday=True)


def contents(**changes: object) -> Contents:
    """Return what a page shows: three models, two of each other label, three days of which one is at a weekend."""
    given = Contents(
        title=f"A {EVIL}",
        made_at=NOW,
        total=TOTAL,
        groups={
            "model": Groups({"gpt-4o": DEAR, EVIL: CHEAP, "my-llama": UNKNOWN}),
            "user": Groups({}),
            "session": Groups({EVIL: DEAR, "(other)": CHEAP}, others=999_950),
            "tag": Groups({"team=red": DEAR, "(other)": CHEAP}),
            "langgraph_node": Groups({"agent": DEAR}),
        },
        period=Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 4, tzinfo=UTC)),
        in_time=IN_TIME,
        before=UsageTotals(cost=Decimal("2.50"), successful_requests=1),
        projection=PROJECTION,
    )
    return replace(given, **changes)


NOTHING = contents(total=UsageTotals(), groups={}, period=None, in_time=None, before=None, projection=None)


class Reader(HTMLParser):
    """What a browser sees of a page: tags, attributes, the texts in a tag, and what is open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that has to be closed, unless it never is."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that is closed already."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        """Check that the tag which is closed is the last that was opened."""
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Add a text to each of the tags that it is in."""
        for tag in dict.fromkeys(self.open):
            self.texts[tag][-1] += data
