"""The README's picture of a page: two months of calls of a small team that does not exist.

``python -m tests.support.picture [report.png]`` makes it (with Chromium, and Pillow for fewer colours);
``--page report.html`` writes the page itself, ``--ledger team.db`` keeps the ledger.
"""

import argparse
import io
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from tests.support.chromium import Browser
from token_handlers.pricing.calculator import price_call
from token_handlers.reporting.budget_line import BudgetLine
from token_handlers.reporting.contents import Contents, read_contents
from token_handlers.reporting.page import page
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.usage import Usage, UsageRecord

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)
DAYS = 60
WIDTH, HEIGHT, COLORS = 1280, 960, 160

MODELS = (
    ("gpt-4o-2024-08-06", "openai", 30),
    ("claude-sonnet-4-5-20250929", "anthropic", 22),
    ("gpt-4o-mini-2024-07-18", "openai", 60),
    ("gemini-2.5-flash", "google", 25),
    ("gpt-4.1-2025-04-14", "openai", 10),
    ("claude-3-5-haiku-20241022", "anthropic", 12),
    ("o4-mini-2025-04-16", "openai", 6),
    ("my-llama", "ollama", 2),
)
"""Models, their providers, and how often each is called."""

USERS = ("ann", "bela", "chloe", "dmitri", "emeka", "fatima", "goran", "hana", "iris", "jonas", "kofi", "li")
TEAMS = ("search", "support", "billing", "research")
NODES = ("plan", "retrieve", "answer", "review")


def calls(seed: int = 7) -> Iterator[UsageRecord]:
    """Yield the calls: fewer at weekends and at night, more each week."""
    chance = random.Random(seed)
    for day in range(DAYS, -1, -1):
        start = (NOW - timedelta(days=day)).replace(hour=0, minute=0)
        busy = (6 if start.weekday() >= 5 else 34) * (1 + (DAYS - day) / DAYS / 2) * chance.uniform(0.7, 1.3)
        for number in range(0 if day == 25 else round(busy)):
            moment = start + timedelta(minutes=chance.triangular(6 * 60, 22 * 60, 15 * 60))
            if moment <= NOW:
                yield _call(chance, f"{day}-{number}", moment)


def _call(chance: random.Random, event: str, moment: datetime) -> UsageRecord:
    name, provider, _ = chance.choices(MODELS, [weight for *_, weight in MODELS])[0]
    sent, received = round(chance.lognormvariate(8.5, 0.9)), round(chance.lognormvariate(5.8, 0.8))
    cached = round(sent * chance.choice((0, 0, 0.4, 0.8)))
    usage = Usage(
        input_tokens=sent,
        output_tokens=received,
        cache_read_tokens=cached,
        reasoning_tokens=received // 2 if name.startswith("o4") else 0,
    )
    price = price_call(usage.model_dump(exclude={"total_tokens"}), name, provider, at=moment.timestamp())
    outcome = chance.choices(("success", "failed", "cached"), (96, 1.5, 2.5))[0]
    user = chance.choice(USERS[: 3 + int(moment.timestamp()) % 10])
    cost = None if price is None else price.cost
    return UsageRecord(
        usage=usage,
        model=name,
        provider=provider,
        outcome=outcome,
        source="estimated" if chance.random() < 0.01 else "reported",
        cost=cost if outcome == "success" else None,
        saved_cost=cost if outcome == "cached" else None,
        cost_source="genai-prices" if cost is not None and outcome == "success" else None,
        user=user,
        session=f"{user}-{moment:%m%d}-{chance.randrange(3)}",
        node=chance.choice(NODES) if chance.random() < 0.7 else None,
        tags={"team": TEAMS[USERS.index(user) % len(TEAMS)]},
        event_id=event,
        started_at=moment,
        ended_at=moment + timedelta(seconds=2),
    )


def contents(path: Path) -> Contents:
    """Return what the page shows of November, of a ledger that is made first."""
    with SQLiteLedger(path) as ledger:
        for record in calls():
            ledger(record)
        return read_contents(
            ledger,
            title="Assistants of the shop",
            now=NOW,
            top=100,
            since="2026-11-01",
            budget=BudgetLine(Decimal(15), "month"),
        )


def main() -> None:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--ledger", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        written = options.page or Path(folder, "report.html")
        written.write_text(page(contents(options.ledger or Path(folder, "team.db"))), "utf-8")
        if options.picture is not None:
            with Browser(Path(folder, "profile")) as browser:
                browser.open(written.absolute(), width=WIDTH, height=HEIGHT)
                options.picture.write_bytes(_smaller(browser.picture(whole=False)))


def _smaller(png: bytes) -> bytes:
    """Return a picture in few colours, which is a third of the size."""
    from PIL import Image

    written = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return written.getvalue()


if __name__ == "__main__":
    main()
