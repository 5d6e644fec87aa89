import random
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot

from tests.support.prices import CACHED_CALL, CALL, epoch, random_counts, random_moment
from token_handlers.pricing.calculator import (
    current_book,
    find_plan,
    price_call,
    price_state,
    reset_prices,
    set_price,
)
from token_handlers.pricing.price import Price

MODELS = [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models][::3]
TIERS = (None, "default", "flex", "batch", "scale")


def by_plan(counts, model, provider, at, tier):
    """Return what a call costs by its plan alone, as it is worked out where no quote is kept."""
    plan = find_plan(model, provider, service_tier=tier, at=at)
    try:
        found = plan.price(counts)
    except ValueError:
        found = None
    if found is None:
        return None
    saved = None
    if counts.get("cache_read_tokens") or counts.get("cache_write_tokens"):
        uncached = plan.price({name: count for name, count in counts.items() if not name.startswith("cache_")})
        saved = uncached and uncached[0] - found[0]
    return str(found[0]), plan.source, found[1], saved


def test_a_quote_is_what_the_plan_says():
    """Calls whose counts have the same names cost by a quote what they do by their plan, with doubts and savings."""
    draw = random.Random(20261130).choice
    wrong, quoted = [], 0
    for provider, model in MODELS:
        at, tier = random_moment(draw), draw(TIERS)
        counts = random_counts(draw) | draw(({}, {}, {"web_searches": 0}))
        others = [
            {name: min(count, draw((0, 1, 999, 200_001, 10**30))) for name, count in counts.items()},
            dict.fromkeys(counts, 0),
            counts | {draw([*counts]): draw((-1, 3, 10**9))},
        ]
        for each in (counts, counts, *others):
            price = price_call(each, model, provider, at=at, service_tier=tier)
            said = None if price is None else (str(price.cost), price.source, price.doubts, price.cache_saved)
            if said != by_plan(each, model, provider, at, tier):
                wrong.append((each, model, provider, at, tier))
            quote = price_state.book.quotes.get(((model, provider, None, tier, None, ()), *each))
            quoted += quote is not None and quote(at, each, *each.values()) is not None

    assert [] == wrong
    assert quoted > len(MODELS)


@pytest.mark.parametrize(
    ("counts", "provider", "model"),
    [
        ({**CALL, "web_searches": 2, "cache_read_tokens": 3}, "anthropic", "claude-opus-4-8"),
        ({"input_tokens": 2.5, "output_tokens": 1}, "openai", "gpt-4o"),
        ({"input_tokens": True, "output_tokens": 1}, "openai", "gpt-4o"),
    ],
)
def test_odd_counts_of_a_model_with_a_quote(counts, provider, model):
    """What a quote cannot price costs what it costs without one."""
    first = price_call(counts, model, provider)
    price_call(dict.fromkeys(counts, 0), model, provider)

    assert first == price_call(counts, model, provider)


def test_a_quote_is_a_price():
    """A call with a quote has the price of the same call without one, its parts too."""
    first, second = (price_call(CACHED_CALL, "gpt-4o", "openai", at=epoch(2026, 11, 20)) for _ in range(2))

    assert isinstance(second, Price)
    assert (first.cost, first.source, first.doubts, first.cache_saved) == second[:3] + second[4:]
    assert first.parts == second.parts


def test_a_price_that_is_set_holds_for_the_next_call():
    """A price that is set replaces the quotes that were made before."""
    costs = []
    for usd in (1, 2):
        set_price("mine", input_mtok=usd, output_mtok=usd)
        costs += [price_call(CALL, "mine").cost for _ in range(2)]

    assert [Decimal("0.0011")] * 2 + [Decimal("0.0022")] * 2 == costs


def test_free_calls_cost_zero_in_one_form():
    """A price of 0 has no digits, by a quote as by a plan."""
    set_price("mine", input_mtok="0.25", output_mtok=0)
    assert ["0", "0"] == [str(price_call({"input_tokens": 0, "output_tokens": 5}, "mine").cost) for _ in range(2)]


def test_a_doubt_of_every_call_is_said_by_the_first_that_warns(caplog):
    """A call that is priced without warnings leaves them to the next one; each is given once."""
    for warns in (False, False, True, True, False):
        assert 1 == len(price_call(CALL, "gpt-4o", "openai", service_tier="scale", warns=warns).doubts)
        assert warns <= len(caplog.messages)
    assert 1 == len(caplog.messages)


def test_a_quote_is_made_once():
    """A call that its quote cannot price, such as one with searches that are in doubt, makes no other quote."""
    counts = {**CALL, "web_searches": 1}
    made = []
    for _ in range(3):
        assert price_call(counts, "gemini-2.5-flash", "google").doubts
        made.append(price_state.book.quotes[("gemini-2.5-flash", "google", None, None, None, ()), *counts])

    assert made[0] is made[1] is made[2]


def test_quotes_are_bounded():
    """However many names of counts there are, a bounded number of quotes is kept."""
    for number in range(1100):
        price_call({**CALL, f"x{number}": 1}, "gpt-4o", "openai")
    assert 0 < len(price_state.book.quotes) <= 1024


def test_what_a_call_may_cost():
    """The cost of input and output tokens alone is that of a price, for every model, at any time, in any order."""
    draw = random.Random(3).choice
    wrong = []
    for provider, model in MODELS:
        moments = [random_moment(draw) for _ in range(2)] * 2
        for at, tokens in zip(moments, (10, 999, 200_001, 10**30), strict=True):
            price = price_call({"input_tokens": tokens, "output_tokens": 7}, model, provider, at=at, warns=False)
            cost = current_book().cost((model, provider, None), tokens, 7, at)
            if str(cost) != str(price and price.cost):
                wrong.append((model, provider, at, tokens))

    assert [] == wrong
    assert len(current_book().cost_quotes) > len(MODELS) // 2


def test_what_a_call_may_cost_follows_the_prices():
    """A price that is set, and a table that is replaced, hold for the cost of the next call."""
    sold = "gpt-4o", "openai", None
    costs = [current_book().cost(sold, 10**6, 0, epoch(2026, 11, 20)) for _ in range(2)]
    set_price("gpt-4o", input_mtok=7)
    costs.append(current_book().cost(sold, 10**6, 0, epoch(2026, 11, 20)))
    book = current_book()
    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    reset_prices()

    assert [Decimal("2.5"), Decimal("2.5"), Decimal(7)] == costs
    assert None is book.cost(sold, 10**6, 0, epoch(2026, 11, 20))
