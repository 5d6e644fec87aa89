from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from token_handlers.pricing import reset_prices, set_price
from token_handlers.reporting.what_if import CACHES, TOKENIZERS, compare, replacement_of, what_if_json, what_if_table
from token_handlers.usage import Usage, UsageRecord

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOKENS = Usage(input_tokens=10**6, output_tokens=10**6)


@pytest.fixture(autouse=True)
def _prices():
    """Two models with a price, one for each direction, and no rate for an event."""
    set_price("small", input_mtok=1, output_mtok=2, cache_read_mtok="0.1")
    set_price("large", input_mtok=10, output_mtok=20)
    yield
    reset_prices()


def call(model="large", cost="30", days=0, **fields):
    """Return a call of a million tokens each way."""
    given = {"usage": TOKENS, "model": model, "cost": cost and Decimal(cost), "started_at": NOON + timedelta(days)}
    return UsageRecord(**{**given, **fields})


def asked(*names):
    """Return the replacements that these names ask for."""
    return [replacement_of(name) for name in names]


def test_every_llm_call_on_another_model():
    """Each call has the other model's cost, in all and by the label; embeddings and rejected calls stay as they are."""
    calls = [
        call(session="a"),
        call(session="b", days=1),
        call("embedder", "0.5", operation="embeddings"),
        call(outcome="failed", cost=None),
    ]
    found = compare(iter(calls), asked("small"), "session")

    assert (Decimal("60.5"), Decimal("6.5"), 2) == (found.total.actual.cost, found.total.other.cost, found.replaced)
    assert {"a": (Decimal(30), Decimal(3)), "b": (Decimal(30), Decimal(3))} == {
        name: (each.actual.cost, each.other.cost) for name, each in found.groups.items()
    }
    assert -0.9 == pytest.approx(found.groups["a"].change)
    assert "-90%" == found.groups["a"].change_in_words
    assert [TOKENIZERS, "1 request on no other model: as they were."] == found.notes()


@pytest.mark.parametrize(
    ("name", "model", "requested", "provider", "matches"),
    [
        ("large", "large", None, None, True),
        ("large", "LARGE-2026-01-02", None, None, True),
        ("large", "x", "large", None, True),
        ("large-2026-01-02", "large-2026-03-04", None, None, False),
        ("openai/large", "large", None, "ChatOpenAI", True),
        ("anthropic/large", "large", None, "openai", False),
        ("openai/large", "openai/large", None, "openrouter", True),
        ("large", "larger", None, None, False),
        ("large", None, None, None, False),
    ],
)
def test_whose_calls(name, model, requested, provider, matches):
    """Calls are selected by the model's name, by any of its snapshots, by the requested name, or by PROVIDER/MODEL."""
    record = call(model, requested_model=requested, provider=provider)
    found = compare([record], asked(f"{name}=small"), "model")

    assert (int(matches), 0 if matches else 1) == (found.replaced, len(found.unmatched))


def test_one_model_before_all():
    """A replacement of one model holds for its calls, that of every model for the others."""
    set_price("tiny", input_mtok=0, output_mtok=1)
    found = compare([call(), call("other", "5")], asked("small", "large=tiny"), "model")

    assert {"large": Decimal(1), "other": Decimal(3)} == {n: each.other.cost for n, each in found.groups.items()}
    assert "What if" == found.name


def test_what_is_not_known_is_not_zero():
    """Without a price there, or a rate for an event, nothing is free: it is said, and no change is stated."""
    set_price("half", input_mtok=1)
    searched = Usage(input_tokens=10**6, web_searches=3)
    doubts = ("no rate is known for web searches: the cost is without them",)  # of the other model's cost as well
    calls = [call(), call(cost=None, days=1), call(usage=searched, days=2, doubts=doubts)]
    found = compare(calls, asked("half"), "day")
    days = list(found.groups.values())

    assert [None, None, Decimal(1)] == [each.other.cost for each in days]
    assert [None, None] == [days[0].change, days[1].change]
    assert {"no rate is known for web searches: the cost is without them": 1} == found.doubts
    assert [
        "1 request would have an estimated cost: no rate is known for web searches: the cost is without them.",
        "2 requests would have an unknown cost: not in the sum of what would have been.",
        "1 request had an unknown cost: not in the sum of what was.",
    ] == found.notes()[1:]


def test_cached_tokens_and_answers():
    """Cached tokens cost what the other model's do, with a note; a cached answer would have saved that much."""
    cached = call(usage=Usage(input_tokens=10**6, cache_read_tokens=10**6))
    found = compare([cached, call(outcome="cached", cost=None, saved_cost=Decimal(30))], asked("small"), "model")

    assert (Decimal("0.1"), Decimal("0.9"), Decimal(3)) == (
        found.total.other.cost, found.total.other.cache_saved_cost, found.total.other.saved_cost,
    )  # fmt: skip
    assert CACHES in found.notes()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("hour", ["2026-11-20T12:00Z"]),
        ("month", ["2026-11"]),
        ("provider", ["openai"]),
        ("operation", ["chat"]),
        ("user", ["ann"]),
        ("langgraph_node", ["agent"]),
        ("team", ["red"]),
        ("tag", ["team=red", "beta"]),
        ("customer", []),
    ],
)
def test_labels(label, expected):
    """Calls are compared by any label that a ledger has, named as it names them."""
    record = call(provider="openai", user="ann", node="agent", tags={"team": "red", "beta": "true"})
    assert expected == list(compare([record], asked("small"), label).groups)


def test_the_table():
    """The most expensive values come first, the others are summed before the total."""
    calls = [call(session=name, cost=cost) for name, cost in (("a", "1"), ("b", "3"), ("c", "2"))]
    table = what_if_table("session", compare(calls, asked("small"), "session"), top=1)

    assert ("Session", "Requests", "Prompt", "Completion", "Cost (USD)", "As small", "Change") == table.header
    assert [
        ("b", 1, 10**6, 10**6, "3.00", "3.00", "0%"),
        ("(other)", 2, 2 * 10**6, 2 * 10**6, "3.00", "6.00", "+100%"),
        ("Total", 3, 3 * 10**6, 3 * 10**6, "6.00", "9.00", "+50%"),
    ] == table.rows


def test_json():
    """Money is exact text, what is not known null, and the notes say whose token counts these are."""
    told = what_if_json(compare([call(), call(cost=None)], asked("small"), "model"))

    assert {"cost": "30", "cost_as": "6", "unpriced_requests": 1, "unpriced_requests_as": 0, "change": None} == (
        told["total"]
    )
    assert (["small"], 2, TOKENIZERS) == (told["as"], told["replaced_requests"], told["notes"][0])


@pytest.mark.parametrize("text", ["=small", "large=", "="])
def test_half_a_replacement(text):
    """Both sides of = are needed."""
    with pytest.raises(ValueError, match=r"MODEL or MODEL=MODEL, such as gpt-4o=gpt-5-mini, is not"):
        replacement_of(text)
