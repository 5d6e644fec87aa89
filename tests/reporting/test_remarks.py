from decimal import Decimal

from tests.support.pages import NOTHING, Reader, contents
from tests.support.totals import CHEAP
from token_handlers.reporting.remarks import exactness, savings
from token_handlers.reporting.savings import CacheSavings, ModelSavings


def test_savings():
    """People see what both kinds of cache saved, and how much of the prompts was cached."""
    reader = Reader(savings(contents()))

    assert [
        "The provider's prompt cache saved $1.50, at list prices", "LangChain's cache saved $0.25",
    ] == reader.texts["span"]  # fmt: skip
    assert ["40% of the prompt tokens were read from it", "3 answers, not sent"] == reader.texts["b"]


def test_a_cache_that_cost():
    """A cache that was written to and hardly read is said to have cost more; what is not known is said."""
    cost = contents(savings=CacheSavings(Decimal("-0.5"), 0, 100, 7, {}), total=CHEAP)
    reader = Reader(savings(cost))

    assert ["The provider's prompt cache cost $0.50 more than it saved, at list prices"] == reader.texts["span"]
    assert "Not in it: 7 tokens read or written by models whose prices are not known." in reader.texts["p"]


def test_savings_by_model():
    """Of several models each is there with what it saved and how much of its prompts was cached."""
    models = {"a": ModelSavings(None, 1, 2), "b": ModelSavings(Decimal(1), 1, 4), "c": ModelSavings(Decimal(2), 4, 4)}
    texts = Reader(savings(contents(savings=CacheSavings(Decimal(3), 6, 10, 1, models), total=CHEAP))).texts

    assert ["Model", "Saved", "Read from it", "c", "b", "a"] == texts["th"]
    assert ["$2.00", "100%", "$1.00", "25%", "unknown", "50%"] == texts["td"]


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
