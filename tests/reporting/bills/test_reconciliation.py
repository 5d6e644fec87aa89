from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI

from tests.support.answer_server import Rerouted
from tests.support.bill_pages import (
    ANTHROPIC_CALL,
    ANTHROPIC_COSTS,
    ANTHROPIC_USAGE,
    DAY,
    activity,
    anthropic_cost,
    anthropic_usage,
    bucket,
    call,
    openai_cost,
    openai_day,
    openai_pages,
    openai_usage,
)
from tests.support.llama_index_clients import make_llm
from token_handlers import track_tokens
from token_handlers.reporting.bills import anthropic, openai, openrouter
from token_handlers.reporting.bills.bill import BillRow, ProviderBill
from token_handlers.reporting.bills.calls import read_calls
from token_handlers.reporting.bills.reconciliation import Tolerance, reconcile

FIRST = DAY.date()
LATER = datetime(2026, 4, 1, tzinfo=UTC)


def compare(rows, records, *, provider="openai", now=LATER, days=3, complete_until=None):
    """Return what is compared from the first day on."""
    bill = ProviderBill(list(rows), complete_until)
    return reconcile(bill, read_calls(records, provider, keep_ids=True), FIRST, FIRST + timedelta(days=days - 1), now)


def openai_rows(*days):
    """Return the rows of OpenAI's pages of these days."""
    return [row for pages in openai_pages(*days).values() for page in pages for row in openai.rows_of(page)]


def causes(result):
    """Return kind, cost and requests of all causes."""
    return [(cause.kind, cause.cost, cause.requests) for row in result.rows for cause in row.causes]


def test_openai_to_the_last_digit():
    """Tokens, cached tokens and searches under one model equal the calls: nothing differs, nothing has a cause."""
    line = "gpt-5-mini-2025-08-07"
    costs = [
        openai_cost(0.02, f"{line}, input", 80000),
        openai_cost(0.0005, f"{line}, cached input", 20000),
        openai_cost(0.02, f"{line}, output", 10000),
        openai_cost(0.03, "web search tool calls | gpt-4o", 3),  # as OpenAI has those of other models
    ]
    usage = [{**openai_day(25)[1]["results"][0], "output_tokens": 10000, "input_cached_tokens": 20000}]
    records = [call(received=400, cached=800, cost="0.00162", counts={"web_searches": 0}) for _ in range(22)]
    records += [call(received=400, cached=800, cost="0.01162", counts={"web_searches": 1}) for _ in range(3)]
    result = compare(openai_rows((bucket(costs), bucket(usage))), records)

    [row] = result.rows
    assert (Decimal("0.0705"), Decimal("0.0705")) == (row.bill.cost, row.calls.all.cost)
    assert ([], 0, 0) == (row.causes, row.tokens, row.requests)
    assert [] == result.off(Tolerance(Decimal(0), Decimal(0)))


def test_real_calls(ledger):
    """What real clients of both frameworks and a bare SDK called equals what the server billed, to the last digit."""
    http_client = httpx.Client(transport=Rerouted(ledger.url(prompt=1000, cached=250).removesuffix("/v1")))
    client = OpenAI(http_client=http_client, api_key="none", base_url="https://api.openai.com/v1")
    records = []
    with track_tokens(sinks=[records.append]):
        ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(prompt=2000, cached=500), api_key="none").invoke("hi")
        list(make_llm(ledger, modes={"usage": "always"}).stream_complete("hi"))
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    client.close()
    bill = ledger.total()
    today = records[0].started_at.replace(hour=0, minute=0, second=0, microsecond=0)
    rates = ((bill.prompt_tokens - 750, "0.15", "input"), (750, "0.075", "cached input"))
    lines = [
        openai_cost(Decimal(rate) * number / 10**6, f"gpt-4o-mini-2024-07-18, {kind}", number)
        for number, rate, kind in (*rates, (bill.completion_tokens, "0.6", "output"))
    ]
    usage = openai_usage(3, bill.prompt_tokens, bill.completion_tokens, 750, model="gpt-4o-mini-2024-07-18")
    days = (bucket(lines, (today - DAY).days), bucket([usage], (today - DAY).days))
    result = reconcile(
        ProviderBill(openai_rows(days)),
        read_calls(records, "openai"),
        today.date(),
        today.date() + timedelta(days=1),
        today + timedelta(days=9),
    )

    assert 3 == bill.requests
    assert [] == causes(result)
    assert [(0, 0, Decimal(0))] == [(row.requests, row.tokens, row.difference) for row in result.rows]


def test_anthropic_to_the_last_digit():
    """Cents of each kind of token, both lifetimes of the cache and searches equal the call."""
    rows = [row for data in (ANTHROPIC_COSTS, ANTHROPIC_USAGE) for row in anthropic.rows_of({"data": data})]
    [row] = compare(rows, [ANTHROPIC_CALL], provider="anthropic").rows

    assert (Decimal("0.26375"), [], 0, 0) == (row.bill.cost, row.causes, row.tokens, row.requests)


def test_openrouter_by_whichever_client():
    """An OpenAI client that OpenRouter's host answered is in OpenRouter's bill, and in OpenAI's is not."""
    records = [
        call("openai/gpt-4.1-mini", "openai", 1500, 500, "0.0014", host="openrouter.ai"),
        call("openai/gpt-4.1-mini-2025-04-14", "openrouter", 1500, 500, "0.0014"),
    ]
    rows = openrouter.rows_of({"data": [activity(0.0028, 2, 3000, 1000)]})

    assert [] == causes(compare(rows, records, provider="openrouter"))
    assert [] == compare([], records[:1]).rows


def test_calls_that_went_past_the_package():
    """Requests that only the bill has are worth their tokens at the bill's rates, and stay unexplained."""
    result = compare(openai_rows(openai_day(10)), [call()] * 7)

    assert [("calls", Decimal("0.0054"), 3)] == causes(result)
    assert [FIRST] == result.off(Tolerance(Decimal("0.005"), Decimal("0.001")))
    assert [] == result.off(Tolerance())


def test_calls_by_their_ids():
    """Where the bill lists each call, the calls that the ledger lacks are found by id, and their cost is stated."""
    header = {"created_at": f"{FIRST} 10:00:00", "model_permaslug": "openai/gpt-4.1-mini", "tokens_prompt": "9"}
    lines = [{**header, "generation_id": f"gen-{number}", "cost_total": f"0.{number}"} for number in range(1, 6)]
    rows = [row for line in lines for row in openrouter.table_rows(line)]
    ours = [call("openai/gpt-4.1-mini", "openrouter", 9, 0, f"0.{n}", request_id=f"gen-{n}") for n in (1, 5)]
    result = compare(rows, ours, provider="openrouter")

    assert [("calls", Decimal("0.9"), 3)] == causes(result)
    assert "3 requests that the ledger lacks: gen-2, gen-3, gen-4" == result.rows[0].causes[0].text


def test_a_model_that_the_ledger_never_had():
    """All of it is calls that the ledger lacks."""
    assert [("calls", Decimal("0.018"), 10)] == causes(compare(openai_rows(openai_day(10)), []))


def test_calls_that_the_bill_never_had():
    """They are the ledger's alone, with the host that answered: another account or server."""
    result = compare([], [call(host="gateway.local")] * 2)

    assert [("extra", Decimal("-0.0036"), -2)] == causes(result)
    assert (-2, -8800) == (result.rows[0].requests, result.rows[0].tokens)
    assert "2 requests that the bill lacks, answered by gateway.local" == result.rows[0].causes[0].text


def test_other_projects():
    """What the bill has of projects that no answer named is explained; the rest is compared without it."""
    days = (openai_day(2), openai_day(5, project="proj_b"))
    result = compare(openai_rows(*days), [call(project="proj_a")] * 2)

    assert [("account", Decimal("0.009"), 5)] == causes(result)
    assert "proj_b" == result.rows[0].causes[0].text
    assert [] == result.off(Tolerance(Decimal(0), Decimal(0)))


def test_projects_that_nobody_named():
    """Where no answer named a project, none is taken for another one."""
    assert [("calls", Decimal("0.009"), 5)] == causes(
        compare(openai_rows(openai_day(2), openai_day(5, project="proj_b")), [call()] * 2)
    )


def test_one_project_of_the_ledger():
    """With a project, calls of another one are left out, and those of which nobody knows are not."""
    calls = read_calls([call(project="proj_a"), call(project="proj_b"), call()], "openai", "proj_a")

    assert [2] == [each.all.requests for each in calls.sums.values()]


@pytest.mark.parametrize(
    ("now", "complete_until", "is_open"),
    [
        (DAY + timedelta(days=1, hours=23), None, True),
        (DAY + timedelta(days=2), None, False),
        (LATER, DAY + timedelta(hours=20), True),
        (LATER, DAY + timedelta(days=1), False),
    ],
)
def test_the_apis_lag(now, complete_until, is_open):
    """A day of the last two, or which the provider says is incomplete, is shown and not judged."""
    result = compare(openai_rows(openai_day(1)), [call()] * 50, now=now, complete_until=complete_until)

    assert ["open" if is_open else "extra"] == [kind for kind, _, _ in causes(result)]
    assert ([] if is_open else [FIRST]) == result.off(Tolerance())


def test_calls_at_midnight():
    """A call that the bill has on the day when it ended is explained on both days."""
    night = DAY + timedelta(hours=23, minutes=59)
    late = call(started_at=night, ended_at=night + timedelta(minutes=2))
    result = compare(openai_rows(openai_day(1), openai_day(2, day=1)), [call(), late, call(day=1)])

    assert [("midnight", Decimal("-0.0018"), -1), ("midnight", Decimal("0.0018"), 1)] == causes(result)
    assert [] == result.off(Tolerance(Decimal(0), Decimal(0)))


def test_calls_at_midnight_that_the_bill_has_where_the_ledger_has_them():
    """Nothing is moved that does not bring the two closer."""
    night = DAY + timedelta(hours=23, minutes=59)
    late = call(started_at=night, ended_at=night + timedelta(minutes=2))

    assert [] == causes(compare(openai_rows(openai_day(2), openai_day(1, day=1)), [call(), late, call(day=1)]))


def test_a_call_from_the_day_before():
    """A call that began before the first day and ended in it is known."""
    night = DAY - timedelta(seconds=30)
    late = call(started_at=night, ended_at=night + timedelta(minutes=2))

    assert [("midnight", Decimal("0.0018"), 1)] == causes(compare(openai_rows(openai_day(2)), [late, call()]))


def test_unpriced_calls():
    """What the ledger has no price for is worth its tokens at the bill's rates."""
    assert [("unpriced", Decimal("0.0018"), 1)] == causes(
        compare(openai_rows(openai_day(3)), [call(), call(), call(cost=None)])
    )


def test_estimates():
    """What estimates are off by is explained, and no more than as much again as they cost."""
    near = [call(), call(received=200, cost="0.0014", source="estimated")]
    far = [call(), call(sent=40, received=4, cost="0.00001", doubts=("no rate for sound",))]

    assert [("estimated", Decimal("0.0004"), 1)] == causes(compare(openai_rows(openai_day(2)), near))
    assert [("estimated", Decimal("0.00001"), 1), ("tokens", Decimal("0.00178"), 0)] == causes(
        compare(openai_rows(openai_day(2)), far)
    )


def test_estimates_beside_calls_that_the_ledger_lacks():
    """The calls take what a call costs on average, the estimates the rest."""
    records = [call(), call(received=300, cost="0.0016", source="estimated")]

    assert [("calls", Decimal("0.0018"), 1), ("estimated", Decimal("0.0002"), 1)] == causes(
        compare(openai_rows(openai_day(3)), records)
    )


def test_fees_that_the_ledger_lacks():
    """Searches that only the bill counts are named, with their number and money, and stay unexplained."""
    costs, usage = openai_day(2)
    costs["results"].append(openai_cost(0.03, "web search tool calls | gpt-5-mini", 3))
    result = compare(openai_rows((costs, usage)), [call()] * 2)

    assert [("fees", Decimal("0.03"), 0)] == causes(result)
    assert "3 web searches that the ledger lacks" == result.rows[0].causes[0].text
    assert [FIRST] == result.off(Tolerance())


def test_searches_of_several_models():
    """A line of searches under no model is divided among the models that made them."""
    rows = anthropic.rows_of(
        {
            "data": [
                {
                    **anthropic_cost("3"),
                    "results": [{"amount": "3", "currency": "USD", "cost_type": "web_search", "model": None}],
                }
            ]
        }
    )
    records = [
        call("claude-a", "anthropic", cost="0.01", counts={"web_searches": 1}),
        call("claude-b", "anthropic", cost="0.02", counts={"web_searches": 2}),
    ]

    assert [] == causes(compare(rows, records, provider="anthropic"))


def test_another_price():
    """The same tokens at another price are told with the factor, and stay unexplained."""
    result = compare(openai_rows(openai_day(20, factor=2)), [call()] * 20)

    assert [("price", Decimal("0.036"), 0)] == causes(result)
    assert "the tokens are the same, and the price is 2 times the ledger's, as fast and priority may cost" == (
        result.rows[0].causes[0].text
    )


def test_a_discount():
    """Where Anthropic states a list price, the ledger's, what is billed below it is explained."""
    rows = [
        *anthropic.rows_of({"data": [anthropic_cost("9", "output_tokens", listed="10")]}),
        *anthropic.rows_of({"data": [anthropic_usage(1, 0, 0, 0, 0, 6_000)]}),
    ]

    assert [("discount", Decimal("-0.01"), 0)] == causes(
        compare(rows, [call("claude-sonnet-4-6", "anthropic", 0, 6_000, "0.1")], provider="anthropic")
    )
    assert [] == causes(compare(rows, [call("claude-sonnet-4-6", "anthropic", 0, 6_000, "0.09")], provider="anthropic"))


def test_what_is_billed_beside_calls():
    """Storage and the like are lines of no call, and explained."""
    costs = bucket([openai_cost(0.5, "file search storage"), openai_cost(0.1, "something new")])
    result = compare(openai_rows((costs, bucket([]))), [])

    assert [("beside", Decimal("0.5"), 0), ("calls", Decimal("0.1"), 0)] == causes(result)


def test_a_bill_of_whole_days():
    """Costs under no line are compared with all models together."""
    costs = bucket([openai_cost(0.0036, None)])
    result = compare(openai_rows((costs, openai_day(2)[1])), [call(), call("gpt-4o")])

    assert [("(all models)", [])] == [(row.model, row.causes) for row in result.rows]


def test_rounded_exports():
    """What an export rounded to cents is explained up to half a cent a line."""
    line = {"usage_date_utc": f"{FIRST}", "model": "Claude Sonnet 4.6", "token_type": "output", "cost_usd": "0.19"}
    rows = list(anthropic.table_rows(line))

    for cost, kinds in (("0.1931", ["rounded"]), ("0.1969", ["price"])):
        record = call("claude-sonnet-4-6", "anthropic", cost=cost)
        assert kinds == [kind for kind, _, _ in causes(compare(rows, [record], provider="anthropic"))]


def test_causes_add_up():
    """Whatever differs, its causes add up to all of the difference."""
    night = DAY + timedelta(hours=23, minutes=59)
    records = [
        *(call(day=day % 2, project="proj_a") for day in range(5)),
        call(cost=None),
        call(received=100, source="estimated"),
        call(started_at=night, ended_at=night + timedelta(minutes=2)),
        call("gpt-4o", cost="0.5"),
    ]
    rows = openai_rows(openai_day(9, factor=1.2), openai_day(4, day=1), openai_day(3, project="proj_b"))
    result = compare([*rows, BillRow(FIRST, None, Decimal("0.25"), "an unknown line")], records)

    assert len(result.rows) > 3
    for row in result.rows:
        assert abs(row.difference - sum(cause.cost for cause in row.causes)) < Decimal("0.00001")
