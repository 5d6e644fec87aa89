"""How old a price table is: by the newest of its rates, as neither its file nor its loading says anything of that."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from token_handlers.settings import Settings

if TYPE_CHECKING:
    from genai_prices.types import Provider

OLD_DAYS = 60
"""After how many days without a new rate a table is called old: providers change rates every few weeks."""


class PriceTable(NamedTuple):
    """The table that prices calls; ``newest`` is the day since which its newest rate holds, None where none has one."""

    name: str
    newest: date | None
    models: int

    def age(self, today: date) -> int | None:
        """Return the days since its newest rate."""
        return None if self.newest is None else (today - self.newest).days

    def is_old(self, today: date) -> bool:
        """Return whether rates of today may be missing."""
        age = self.age(today)
        return age is None or age > OLD_DAYS

    def says(self, today: date) -> str:
        """Return in words how old it is, and what to do where it is old."""
        age = self.age(today)
        if age is None:
            return f"prices are {self.name}, of which no rate has a date"
        days = "today" if age == 0 else f"{age:,} day{'' if age == 1 else 's'} ago"
        text = f"prices are {self.name}: its newest rate is of {self.newest}, {days}"
        if not self.is_old(today):
            return text
        return f"{text}. That is old: run `token-handlers prices update`, or upgrade genai-prices"

    def as_json(self, today: date) -> dict[str, object]:
        """Return it as JSON's types."""
        newest = None if self.newest is None else self.newest.isoformat()
        return {"table": self.name, "newest_rate": newest, "age_days": self.age(today), "old": self.is_old(today)}


def current_table(today: date | None = None) -> PriceTable:
    """Return the table that prices calls in this process."""
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    name = "an updated table" if snapshot.from_auto_update else f"genai-prices {version('genai-prices')}"
    return PriceTable(name, newest_rate(snapshot.providers, today), sum(len(one.models) for one in snapshot.providers))


def newest_rate(providers: Sequence["Provider"], today: date | None = None) -> date | None:
    """Return the latest day from which one of the rates holds that hold already."""
    limit = today or datetime.now(UTC).date()
    return max((day for day in _start_days(providers) if day <= limit), default=None)


def _start_days(providers: Iterable["Provider"]) -> Iterator[date]:
    from genai_prices.types import StartDateConstraint

    for provider in providers:
        for model in provider.models:
            dated = model.prices if isinstance(model.prices, list) else []
            for price in (*dated, *(model.price_variants or ())):
                if isinstance(price.constraint, StartDateConstraint):
                    yield price.constraint.start_date


def kept_path() -> Path:
    """Return the file in which the last good table is kept, in the user's folder for what can be had again."""
    folder = Settings().cache_folder
    if folder is None and sys.platform == "darwin":
        folder = Path("~/Library/Caches")
    elif folder is None and sys.platform == "win32":
        folder = Path("~/AppData/Local")
    return (folder or Path("~/.cache")).expanduser() / "token-handlers" / "prices.json"


def fetched_at() -> datetime | None:
    """Return when the kept table was fetched."""
    try:
        return datetime.fromtimestamp(kept_path().stat().st_mtime, UTC)
    except OSError:
        return None
