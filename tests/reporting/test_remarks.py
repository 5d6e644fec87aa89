from decimal import Decimal

from tests.support.pages import NOTHING, Reader, contents
from tests.support.totals import CHEAP
from token_handlers.pricing.sellers import Sold
from token_handlers.reporting.contents import InTime
from token_handlers.reporting.remarks import exactness, savings, what_if
from token_handlers.reporting.what_if import ComparedTotals, Replacement, WhatIf
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import UsageTotals


def test_savings():
    """People see what both kinds of cache saved, and how much of the prompts was cached."""
    reader = Reader(savings(contents()))

    assert [
        "The provider's prompt cache saved $1.50, at list prices", "LangChain's cache saved $0.25",
    ] == reader.texts["span"]  # fmt: skip
    assert ["40% of the prompt tokens were read from it", "3 answers, not sent"] == reader.texts["b"]


def test_a_cache_that_cost():
    """A cache that was written to and hardly read is said to have cost more; what is not known is said."""
    total = UsageTotals(
        prompt_tokens=100, cache_write_tokens=20, unpriced_cache_tokens=7, cache_saved_cost=Decimal("-0.5")
    )
    reader = Reader(savings(contents(total=total, groups={}, in_time=None)))

    assert ["The provider's prompt cache cost $0.50 more than it saved, at list prices"] == reader.texts["span"]
    assert "7 cached tokens saved an unknown amount (token-handlers reprice)." in reader.texts["p"]


def test_savings_by_label():
    """Each of several models, sessions and days is there with what it saved and how much of its prompts was cached."""
    numbers = {"a": (None, 1, 2), "b": (Decimal(1), 1, 4), "c": (Decimal(2), 4, 4)}
    each = {
        name: UsageTotals(prompt_tokens_cached=read, prompt_tokens=sent, cache_saved_cost=saved)
        for name, (saved, read, sent) in numbers.items()
    }
    days = InTime("day", {"2026-10-01": each["b"], "2026-10-02": UsageTotals(), "2026-10-03": each["a"]})
    groups = {"model": Groups(each), "session": Groups({"s": each["c"], "t": each["b"]})}
    texts = Reader(savings(contents(groups=groups, in_time=days, total=each["c"]))).texts

    assert ["By model", "By session", "By day"] == texts["summary"]
    assert ["Model", "Saved", "Read from it", "c", "b", "a"] == texts["th"][:6]
    assert ["$2.00", "100%", "$1.00", "25%", "unknown", "50%"] == texts["td"][:6]
    assert ["Day", "Saved", "Read from it", "2026-10-01", "2026-10-03"] == texts["th"][-5:]


def test_one_model_needs_no_table():
    """Where one model has all, the sentence says it."""
    one = UsageTotals(prompt_tokens_cached=1, prompt_tokens=2, cache_saved_cost=Decimal(1))
    assert "td" not in Reader(savings(contents(groups={"model": Groups({"a": one})}, in_time=None, total=one))).texts


def test_what_if():
    """What the calls would have cost is beside what they cost, by model, with whose token counts those are."""
    compared = ComparedTotals(CHEAP, UsageTotals(prompt_tokens=1, successful_requests=1, cost=Decimal("0.04")))
    asked = Replacement(Sold("gpt-5-mini"), "gpt-5-mini")
    texts = Reader(
        what_if(contents(what_if=WhatIf([asked], compared, {"gpt-4o": compared}, {"a tier": 1}, 1, [])))
    ).texts

    assert ["These calls cost $0.10"] == texts["span"]
    assert ["As gpt-5-mini: $0.04, -60%"] == texts["b"]
    assert texts["p"][1].startswith("Token counts are those of the model that answered")
    assert "1 request would have an estimated cost: a tier." == texts["p"][2]
    assert ["$0.10", "$0.04"] == texts["td"]
    assert "" == what_if(contents())


def test_no_cache():
    """Where nothing was cached nothing is said."""
    assert "" == savings(NOTHING)


def test_what_is_not_exact():
    """Each kind of request that is not exact is counted, with what to do."""
    markup = exactness(contents())
    reader = Reader(markup)

    assert 'class="inexact"' in markup
    assert 3 == len(reader.texts["li"])
    assert reader.texts["li"][1].startswith("1 request of unknown cost: not in the sum (see token-handlers reprice). ")
    assert {"report_stream_usage(llm)", "token-handlers reprice"} < set(reader.texts["code"])


def test_what_is_exact():
    """Where all is exact it is said."""
    assert ["Every request reported its usage and has a price."] == Reader(exactness(contents(total=CHEAP))).texts["li"]
    assert "" == exactness(NOTHING)
