"""A budget that a report is measured by: USD a day, a week, a month or a year. It stops no call."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Literal, Self, get_args

from token_handlers.reporting.amounts import dollars, percent
from token_handlers.reporting.period import Step, midnight
from token_handlers.reporting.projection import Projection

Window = Literal["day", "week", "month", "year"]

_HOURS: dict[Window | Step, Decimal] = {
    "hour": Decimal(1),
    "day": Decimal(24),
    "week": Decimal(168),
    "month": Decimal("730.485"),
    "year": Decimal("8765.82"),
}
_MOST = Decimal(10**12)


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """So many USD for each day, week (from Monday), month or year, in UTC."""

    amount: Decimal
    window: Window

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the budget that a text such as "50/month" names; ValueError for any other text."""
        number, _, name = (part.strip() for part in text.removeprefix("$").partition("/"))
        window = next((window for window in get_args(Window) if window == name.lower()), None)
        try:
            amount = Decimal(number)
        except InvalidOperation:
            amount = Decimal("nan")
        if window is None or not amount.is_finite() or not 0 < amount < _MOST:
            raise ValueError(
                f"a budget is USD for a day, week, month or year, such as 50/month or 1.50/day, and not {text!r}"
            )
        return cls(amount, window)

    def each(self, step: Step) -> Decimal:
        """Return how many USD an hour, a day or a month may cost on average."""
        return self.amount * _HOURS[step] / _HOURS[self.window]

    def window_start(self, now: datetime) -> datetime:
        """Return when the day, week, month or year began that it is now."""
        today = now.date()
        if self.window == "week":
            return midnight(today - timedelta(days=today.weekday()))
        if self.window == "month":
            return midnight(today.replace(day=1))
        return midnight(today.replace(month=1, day=1) if self.window == "year" else today)


@dataclass(frozen=True, slots=True)
class BudgetMeter:
    """A budget, and how many USD were spent since its day, week, month or year began."""

    line: BudgetLine
    spent: Decimal

    def in_words(self, projection: Projection | None) -> str:
        """Return how much of the budget is spent, and for a month how much will be."""
        line = self.line
        text = f"Budget: {dollars(self.spent)} of {dollars(line.amount)} this {line.window} ({percent(self.share)})"
        if line.window == "month" and projection is not None:
            text += f", about {dollars(projection.expected)} by its end"
        return f"{text}."

    def as_json(self) -> dict[str, object]:
        """Return JSON's types: money as texts of exact USD."""
        return {"amount": f"{self.line.amount:f}", "window": self.line.window, "spent": f"{self.spent:f}"}

    @property
    def share(self) -> float:
        """How much of the budget is spent, as a share of 1."""
        return float(self.spent / self.line.amount)
