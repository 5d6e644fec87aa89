from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ledgers import NOON, call, counted
from token_handlers import Usage, UsageRecord
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.queries import PAGE

DAY = timedelta(days=1)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=3)

few = st.sampled_from(["a", "b", "c"])

money = st.decimals(0, 10, places=18)


@st.composite
def calls(draw):
    """Calls of every kind, some of them twice."""
    sent, received = draw(st.integers(0, 10**12)), draw(st.integers(0, 10**12))
    return UsageRecord(
        usage=Usage(
            input_tokens=sent,
            output_tokens=received,
            cache_read_tokens=draw(st.integers(0, sent // 2)),
            cache_write_tokens=draw(st.integers(0, sent // 2)),
            reasoning_tokens=draw(st.integers(0, received)),
        ),
        model=draw(st.none() | few),
        provider=draw(st.none() | few),
        operation=draw(st.sampled_from(["chat", "text_completion", "embeddings"])),
        outcome=draw(st.sampled_from(["success", "success", "failed", "cached"])),
        requests=draw(st.integers(0, 3)),
        source=draw(st.sampled_from(["reported", "estimated", "manual"])),
        session=draw(st.none() | few),
        user=draw(st.none() | few | texts),
        node=draw(st.none() | few),
        tags=draw(st.dictionaries(st.just("team") | texts, few | st.just("true") | texts, max_size=3)),
        cost=draw(st.none() | money),
        saved_cost=draw(st.none() | money),
        cache_saved_cost=draw(st.none() | money | money.map(lambda usd: -usd)),
        event_id=str(draw(st.integers(0, 40))),
        started_at=NOON + draw(st.timedeltas(timedelta(0), timedelta(days=100))),
    )


moments = st.timedeltas(-2 * DAY, 102 * DAY).map(lambda delta: NOON + delta)


def test_sums_are_those_of_a_counter(place, monkeypatch):
    """Whatever is asked for, the answer is what a TokenCounter says of the same calls, money included.

    All calls are in the rollups, or some, or none.
    """

    @settings(max_examples=place.examples)
    @given(
        st.lists(calls(), max_size=30),
        *(st.none() | few, st.none() | few, st.none() | few, moments, moments),
        st.sampled_from([1, 9, 9, 99]),
    )
    def check(given, session, user, model, since, until, roll_up_at):
        monkeypatch.setattr(rollups, "ROLL_UP_AT", roll_up_at)
        with place.another() as ledger:
            for number, record in enumerate(given):
                ledger(record)
                if number % 10 == 9:
                    ledger.flush()
            kept = list({record.event_id: record for record in reversed(given)}.values())
            compare(ledger, kept, {})
            compare(ledger, kept, {"session": session, "since": since})
            compare(ledger, kept, {"user": user, "model": model, "until": until})
            compare(ledger, kept, {"model": model, "since": since, "until": until})
            compare(ledger, kept, {"session": session, "user": user, "since": since, "until": until})

    check()


BY_HAND = {
    "provider": lambda record: record.provider,
    "operation": lambda record: record.operation,
    "day": lambda record: f"{record.started_at:%Y-%m-%d}",
    "hour": lambda record: f"{record.started_at:%Y-%m-%dT%H:00Z}",
}


LABELS_BY_HAND = {
    "session": lambda record: record.session,
    "user": lambda record: record.user,
    "team": lambda record: record.tags.get("team"),
}


def compare(ledger, records, asked):
    """Check every total of a window against a counter of its calls."""
    wanted = {name: value for name, value in asked.items() if name in ("session", "user", "model") and value}
    since, until = floor(asked.get("since") or NOON - 9 * DAY), floor(asked.get("until") or NOON + 999 * DAY)
    inside = [
        record
        for record in records
        if all(value == getattr(record, name) for name, value in wanted.items())
        and since <= floor(record.started_at) < until
    ]
    counter = counted(inside)
    assert counter.snapshot() == ledger.totals(**asked)
    for label in ("model", "session", "user", "langgraph_node", "tag", "team"):
        assert counter.by(label) == ledger.by(label, **asked)
    for label, value in BY_HAND.items():
        values = {value(record) for record in inside} - {None}
        expected = {one: counted(record for record in inside if value(record) == one).snapshot() for one in values}
        assert expected == ledger.by(label, **asked)
    for label, value in {**BY_HAND, **LABELS_BY_HAND}.items():
        compare_dearest(ledger, inside, asked, label, value)


def compare_dearest(ledger, inside, asked, label, value):
    """Check that the dearest two are those that all of them begin with, and that the others add up."""
    every, dearest = ledger.by(label, **asked), ledger.by(label, top=2, **asked)
    names = sorted(every, key=lambda name: (-(every[name].cost or 0), -every[name].total_tokens, name))
    others = counted(record for record in inside if value(record) in names[2:]).snapshot()

    assert len(names[2:]) == dearest.others
    assert [*names[:2], *(["(other)"] if names[2:] else [])] == list(dearest)
    assert {name: every[name] for name in names[:2]} | ({"(other)": others} if names[2:] else {}) == dearest


def floor(moment):
    """Return a time without what is below a millisecond."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_labels(ledger):
    """by() has the calls under each value of a label; those without one are not in it."""
    ledger(call("a", session="s1", user="u", provider="openai", tags={"team": "search", "beta": "true"}, node="agent"))
    ledger(call("b", session="s1", operation="embeddings", provider="openai", started_at=NOON + timedelta(hours=3)))
    ledger(call("c", model=None, started_at=NOON + DAY))

    def requests(label, **asked):
        return {value: totals.successful_requests for value, totals in ledger.by(label, **asked).items()}

    assert {"(unknown)": 1, "gpt-4o-mini": 2} == requests("model")
    assert {"openai": 2} == requests("provider")
    assert {"chat": 2, "embeddings": 1} == requests("operation")
    assert {"2026-03-04": 2, "2026-03-05": 1} == requests("day")
    assert {"2026-03-04T12:00Z": 1, "2026-03-04T15:00Z": 1} == requests("hour", session="s1")
    assert {"s1": 2} == requests("session")
    assert {"beta": 1, "team=search": 1} == requests("tag")
    assert {"search": 1} == requests("team")
    assert {"agent": 1} == requests("langgraph_node", user="u")
    assert {} == requests("nothing")
    assert {("openai", "gpt-4o-mini", "chat"), ("openai", "gpt-4o-mini", "embeddings")} == set(
        ledger.by_session_model("s1")
    )
    assert 0 == ledger.totals(session="nobody").successful_requests


def test_the_dearest(ledger):
    """With top= it is the dearest, first by cost, then by tokens and by name, and what the others add up to."""
    for name, cost, sent in (("d", None, 99), ("b", "2", 17), ("c", "1.000000000000000001", 1), ("a", "1", 17)):
        ledger(call(name, session=name, cost=cost, sent=sent, tags={"team": name, "of": name}))
    ledger(call("e", session="e", cost="1", sent=18))
    ledger(call("f", cost="9"))

    def dearest(label, top, **asked):
        found = ledger.by(label, top=top, **asked)
        return {name: (totals.cost, totals.prompt_tokens) for name, totals in found.items()}, found.others

    assert ({"b": (2, 17), "c": (Decimal("1.000000000000000001"), 1), "(other)": (2, 17 + 18 + 99)}, 3) == dearest(
        "session", 2
    )
    assert ["b", "c", "e", "a", "(other)"] == list(ledger.by("session", top=4))
    assert (["b", "c", "e", "a", "d"], 0) == (list(ledger.by("session", top=5)), ledger.by("session", top=5).others)
    assert ({}, 0) == dearest("session", 1, user="nobody")
    assert ({}, 0) == dearest("session", 1, since="2026-03-05", until="2026-03-04")
    assert ({"of=b": (2, 17), "(other)": (Decimal("6.000000000000000002"), 251)}, 7) == dearest("tag", 1)
    assert 0 == ledger.by("session").others


def test_providers_and_models(ledger):
    """by_provider_model() has the calls of a time by provider, None where nobody named it, and model."""
    ledger(call("a", provider="openai"))
    ledger(call("b", provider="openai", operation="embeddings", started_at=NOON + timedelta(hours=3)))
    ledger(call("c", provider="azure"))
    ledger(call("d", started_at=NOON + DAY))

    def requests(**asked):
        return {key: totals.successful_requests for key, totals in ledger.by_provider_model(**asked).items()}

    assert {("openai", "gpt-4o-mini"): 2, ("azure", "gpt-4o-mini"): 1, (None, "gpt-4o-mini"): 1} == requests()
    assert {("openai", "gpt-4o-mini"): 1} == requests(since=NOON + timedelta(hours=1), until="2026-03-04")


def test_a_session_called_other(ledger):
    """A value that is called "(other)" is one of the others."""
    for name, cost in (("a", "1"), ("(other)", "5"), ("b", "2"), ("c", "3")):
        ledger(call(name, session=name, cost=cost))

    found = ledger.by("session", top=2)
    assert ({"c": 3, "(other)": 8}, 3) == ({name: totals.cost for name, totals in found.items()}, found.others)
    assert {"(other)": 5, "c": 3, "b": 2, "a": 1} == {
        name: totals.cost for name, totals in ledger.by("session", top=4).items()
    }


@pytest.mark.parametrize("top", [0, -1, 1.5, "3"])
def test_how_many_must_be_a_number(ledger, top):
    """top is an int of 1 or more."""
    with pytest.raises(ValueError, match="top must be an int of 1 or more"):
        ledger.by("session", top=top)


def test_a_provider_that_is_not_known_is_none(ledger):
    """by_session_model() has None for a provider that nobody named."""
    ledger(call("a", session="s", model=None))

    assert [(None, "(unknown)", "chat")] == list(ledger.by_session_model("s"))


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (NOON, NOON + DAY, "bc"),
        (date(2026, 3, 4), date(2026, 3, 4), "abc"),
        ("2026-03-04", None, "abcd"),
        (None, "2026-03-04", "abc"),
        ("2026-03-04T12:00:00Z", "2026-03-04T23:59:59.999+00:00", "b"),
        ("2026-03-04T13:00+01:00", None, "bcd"),
        ("2026-03-05", "2026-03-04", ""),
    ],
)
def test_time_windows(ledger, since, until, found):
    """since is included, until is not, unless they are dates: those are whole days in UTC."""
    ledger(call("a", started_at=NOON - timedelta(hours=12)))
    ledger(call("b", started_at=NOON))
    ledger(call("c", started_at=NOON + timedelta(hours=12, milliseconds=-1)))
    ledger(call("d", started_at=NOON + DAY))

    assert list(found) == [record.event_id for record in ledger.records(since=since, until=until)]
    assert len(found) == ledger.totals(since=since, until=until).successful_requests


@pytest.mark.parametrize("junk", [NOON.replace(tzinfo=None), "2026-03-04T12:00", "yesterday", ""])
def test_times_that_say_too_little_are_refused(ledger, junk):
    """A time without a zone, or no time at all, is a ValueError that names it and the remedy."""
    with pytest.raises(ValueError, match=r"since .*(time zone|ISO)"):
        ledger.totals(since=junk)


def test_what_is_no_time_is_refused(ledger):
    """A number is no time: nobody knows its unit."""
    with pytest.raises(TypeError, match="until must be a datetime"):
        ledger.totals(until=1_700_000_000)


def test_records_come_in_the_order_of_time_and_in_pages(ledger):
    """More records than a page has come all, once, in order, and while others are added."""
    for number in range(PAGE + 10):
        ledger(call(f"{number}", started_at=NOON - number * timedelta(seconds=number % 3), session=f"s{number % 2}"))
    records = ledger.records()
    first = next(records)
    ledger(call("late", started_at=NOON + DAY))
    ledger.flush()
    rest = list(records)

    assert PAGE + 11 == len({first.event_id, *(record.event_id for record in rest)}) == 1 + len(rest)
    assert all(a.started_at <= b.started_at for a, b in pairwise([first, *rest]))
    assert (PAGE + 10) // 2 == sum(1 for _ in ledger.records(session="s1"))
    assert [] == list(ledger.records(model="other"))


def test_money_is_exact(ledger):
    """A million calls for less than a nano-USD cost what they cost; what is below 1e-18 USD is rounded half to even."""
    for number in range(1000):
        ledger(call(f"{number}", cost="0.0000000001875"))
    assert Decimal("0.0000001875") == ledger.totals().cost

    ledger(call("finer", cost="0.0000000000000000025", session="finer"))
    assert Decimal("0.000000000000000002") == ledger.totals(session="finer").cost
    ledger(call("dear", cost="1000", session="dear"))
    assert "1000" == str(ledger.totals(session="dear").cost)
