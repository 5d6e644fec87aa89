"""What a page shows, asked of a ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from token_handlers.counter.totals import OTHER
from token_handlers.pricing.freshness import PriceTable
from token_handlers.reporting.budget_line import BudgetLine, BudgetMeter
from token_handlers.reporting.period import Period, Step, labels, midnight, moment_of, period_of
from token_handlers.reporting.projection import HISTORY_DAYS, Projection, project
from token_handlers.reporting.sums import by_month
from token_handlers.sinks.sql.groups import Groups
from token_handlers.sinks.sql.questions import Moment, moment_ms
from token_handlers.sinks.sql.rows import EPOCH
from token_handlers.usage import UsageTotals

if TYPE_CHECKING:
    from token_handlers.reporting.what_if import WhatIf

SECTIONS = ("model", "user", "session", "tag", "langgraph_node")
"""The labels by which a page lists what was used, in their order."""

MOST_ROWS = 1000
"""How many values of a label a page lists at most: it is one file that a browser opens in a moment."""

MOST_BARS = 120
"""How many bars a chart has at most: ten years of months."""

CHARTED_MODELS = 6
"""How many models have a colour in a chart; the others share one."""


class ReportedLedger(Protocol):
    """The questions that a page asks of a ledger."""

    def totals(self, *, since: Moment | None = None, until: Moment | None = None) -> UsageTotals:
        """Return the sum of the calls in a time."""

    def by(
        self,
        label: str,
        *,
        top: int | None = None,
        model: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Groups:
        """Return totals by the values of a label, the most expensive ``top`` of them and "(other)"."""


@dataclass(frozen=True, slots=True)
class InTime:
    """Totals by hour, day or month, without gaps where nothing was used.

    ``models`` are USD by model, then by the same labels: the most expensive models, then "(other)". ``is_cut`` says
    that there were more than MOST_BARS, of which these are the last.
    """

    step: Step
    totals: Mapping[str, UsageTotals]
    models: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    is_cut: bool = False

    @property
    def used(self) -> int:
        """How many of the hours, days or months have calls."""
        return sum(totals != UsageTotals() for totals in self.totals.values())


@dataclass(frozen=True, slots=True)
class Contents:
    """What a page shows. ``before`` is None where the period has none, or nothing was used in it."""

    title: str
    made_at: datetime
    total: UsageTotals
    groups: Mapping[str, Groups]
    period: Period | None = None
    in_time: InTime | None = None
    before: UsageTotals | None = None
    projection: Projection | None = None
    budget: BudgetMeter | None = None
    prices: PriceTable | None = None
    what_if: "WhatIf | None" = None


def read_contents(
    ledger: ReportedLedger,
    *,
    title: str,
    now: datetime,
    top: int,
    since: Moment | None = None,
    until: Moment | None = None,
    budget: BudgetLine | None = None,
    prices: PriceTable | None = None,
    what_if: "WhatIf | None" = None,
) -> Contents:
    """Return what a page shows of a time; ``now`` is an aware time in UTC, ``top`` how many values a section lists."""
    window = _Window(ledger, since, until)
    total, days = window.totals(), window.by("day")
    period = period_of(min(days), max(days), _moment(since), _moment(until, end=True), now) if days else None
    return Contents(
        title=title,
        made_at=now,
        total=total,
        groups={label: window.by(label, top=min(top, MOST_ROWS)) for label in SECTIONS},
        period=period,
        in_time=_in_time(window, period) if period else None,
        before=_before(ledger, period) if period and since is not None else None,
        projection=read_projection(ledger, now) if period and period.includes(now) else None,
        budget=read_budget(ledger, budget, now) if budget else None,
        prices=prices,
        what_if=what_if,
    )


def read_projection(ledger: ReportedLedger, now: datetime) -> Projection | None:
    """Return what the month of ``now`` will have cost, by the calls of the eight weeks before and of the month."""
    today = midnight(now.date())
    days = ledger.by("day", since=today - timedelta(days=HISTORY_DAYS), until=now)
    if not days:
        return None
    month = ledger.totals(since=today.replace(day=1), until=now)
    unpriced = sum(totals.unpriced_requests for totals in days.values())
    costs = {date.fromisoformat(day): totals.cost or Decimal(0) for day, totals in days.items()}
    return project(costs, min(costs), month.cost or Decimal(0), now, unpriced)


def read_budget(ledger: ReportedLedger, line: BudgetLine, now: datetime) -> BudgetMeter:
    """Return a budget, and what the calls since the start of its day, week, month or year cost."""
    return BudgetMeter(line, ledger.totals(since=line.window_start(now), until=now).cost or Decimal(0))


@dataclass(frozen=True, slots=True)
class _Window:
    """A ledger's calls in a time."""

    ledger: ReportedLedger
    since: Moment | None
    until: Moment | None

    def totals(self) -> UsageTotals:
        return self.ledger.totals(since=self.since, until=self.until)

    def by(self, label: str, *, top: int | None = None, model: str | None = None) -> Groups:
        return self.ledger.by(label, top=top, model=model, since=self.since, until=self.until)

    def by_step(self, step: Step, model: str | None = None) -> Mapping[str, UsageTotals]:
        found = self.by("hour" if step == "hour" else "day", model=model)
        return by_month(found) if step == "month" else found


def _before(ledger: ReportedLedger, period: Period) -> UsageTotals | None:
    earlier = period.before()
    totals = ledger.totals(since=earlier.start, until=earlier.end)
    return None if totals == UsageTotals() else totals


def _in_time(window: _Window, period: Period) -> InTime:
    step = period.step
    found = window.by_step(step)
    names = _labels(step, period, found)
    totals = {name: found.get(name, UsageTotals()) for name in names[-MOST_BARS:]}
    return InTime(step, totals, _model_costs(window, step, _costs(found)), is_cut=len(names) > MOST_BARS)


def _model_costs(window: _Window, step: Step, all_models: Mapping[str, Decimal]) -> dict[str, Mapping[str, Decimal]]:
    """Return USD by model and by hour, day or month: those of the most expensive models, and of the others together."""
    models = window.by("model", top=CHARTED_MODELS)
    costs: dict[str, Mapping[str, Decimal]] = {}
    for model in sorted(models.keys() - {OTHER}, key=lambda name: (-(models[name].cost or 0), name)):
        if models[model].cost:
            costs[model] = _costs(window.by_step(step, model))
    if models.others:
        charted = list(costs.values())
        rest = {label: cost - sum(each.get(label, 0) for each in charted) for label, cost in all_models.items()}
        costs[OTHER] = {label: cost for label, cost in rest.items() if cost > 0}
    return costs


def _labels(step: Step, period: Period, found: Mapping[str, UsageTotals]) -> list[str]:
    """Return the labels that a chart has: of hours and months only those between the first and the last with calls."""
    if step == "day":
        return labels(step, period.start, period.end)
    return labels(step, moment_of(step, min(found)), moment_of(step, max(found)) + timedelta(hours=1))


def _costs(groups: Mapping[str, UsageTotals]) -> dict[str, Decimal]:
    return {label: totals.cost for label, totals in groups.items() if totals.cost}


def _moment(moment: Moment | None, *, end: bool = False) -> datetime | None:
    return None if moment is None else EPOCH + timedelta(milliseconds=moment_ms("the time", moment, end=end))
