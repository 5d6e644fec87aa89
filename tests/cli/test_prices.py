import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.support.usage_ledgers import CALLS, fill
from token_handlers.cli import main
from token_handlers.pricing import price_call, reset_prices
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.usage import CostPart, Usage, UsageRecord


@pytest.fixture
def path(tmp_path):
    """The path of a ledger with CALLS in it."""
    return fill(tmp_path / "ledger.db")


@pytest.fixture(autouse=True)
def _own_prices():
    """Prices that a test sets end with it."""
    reset_prices()
    yield
    reset_prices()


def test_price_of_a_call(capsys):
    """With numbers of tokens it is what a call costs, cached tokens at their own price."""
    assert 0 == main(["price", "gpt-4o", "--input", "1,000", "--output", "100", "--cached", "500", "--json"])
    told = json.loads(capsys.readouterr().out)
    expected = price_call({"input_tokens": 1000, "output_tokens": 100, "cache_read_tokens": 500}, "gpt-4o")

    cost = {"cost": "0.002875", "source": "genai-prices", "doubts": []}
    assert {"model": "gpt-4o", "provider": None, **cost} == told
    assert expected.cost == Decimal(told["cost"])


def test_prices_as_they_were(capsys):
    """--at and --tier price a call as of a day and on a service tier; that a tier has no rates is said."""
    assert 0 == main(["price", "gpt-4o", "--input", "1000", "--tier", "no-such-tier", "--at", "2026-01-31"])
    output = capsys.readouterr()

    assert ["gpt-4o", "0.0025", "genai-prices"] == output.out.splitlines()[2].split()
    assert "no-such-tier" in output.err


def test_price_of_a_model_as_json(capsys):
    """--json has the prices as text."""
    assert 0 == main(["price", "gpt-4o", "--json"])
    prices = json.loads(capsys.readouterr().out)["usd_per_million_tokens"]

    assert {"input": "2.5", "output": "10", "cached": "1.25"} == prices


def test_price_of_a_model(capsys):
    """Without numbers it is what a million tokens of each kind cost."""
    assert 0 == main(["price", "claude-sonnet-4-5", "--provider", "anthropic"])
    assert [
        ["input", "3"], ["output", "15"], ["cached", "0.3"], ["cache-write", "3.75"], ["cache-write-1h", "6"],
    ] == [line.split() for line in capsys.readouterr().out.splitlines()[2:]]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("openai/gpt-4o-mini", "0.15"),
        ("anthropic/claude-sonnet-4-5", "3"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "3"),
        ("eu.anthropic.claude-sonnet-4-6-v1:0", "3.3"),
        ("llama-3.3-70b-versatile", "0.59"),
        ("cohere/rerank-v5.0-pro", "0.05"),
    ],
)
def test_a_provider_that_is_plain_needs_no_option(model, first, capsys):
    """PROVIDER/NAME, Bedrock's ids, and names that one provider alone has, are found without --provider."""
    assert 0 == main(["price", model])
    assert ["input", first] == capsys.readouterr().out.splitlines()[2].split()


def test_a_call_is_explained(capsys):
    """--explain has what each part cost, by which rate, and the sum."""
    call = [
        "--input",
        "1000",
        "--output",
        "100",
        "--web-searches",
        "2",
        "--context",
        "web_search_tool=web_search_preview",
    ]
    assert 0 == main(["price", "gpt-4.1", *call, "--explain"])
    lines = capsys.readouterr().out.splitlines()

    assert [
        ["input_tokens", "1,000", "2", "per", "1,000,000", "0.002"],
        ["output_tokens", "100", "8", "per", "1,000,000", "0.0008"],
        ["web_searches", "2", "25", "per", "1,000", "0.05"],
    ] == [line.split() for line in lines[2:5]]
    assert ["web_searches: OpenAI's pricing page of 2026.", "Together 0.0528 USD, according to genai-prices."] == lines[
        5:
    ]


def test_a_call_is_explained_as_json(capsys):
    """--json has the parts, money as text."""
    assert 0 == main(
        ["price", "claude-opus-4-8", "--input", "1000000", "--context", "inference_geo=us", "--explain", "--json"]
    )
    told = json.loads(capsys.readouterr().out)

    (part,) = told["parts"]
    assert ("5.5", "x1.1 for inference_geo us") == (told["cost"], part["note"])
    assert ("input_tokens", 1_000_000, "5.5", 1_000_000, "5.5") == tuple(
        part[name] for name in ("unit", "number", "rate", "per", "cost")
    )


def test_rates_are_explained(capsys):
    """Without numbers --explain has every rate, its steps, its corrections, and from when until when it holds."""
    assert 0 == main(["price", "deepseek-chat", "--at", "2026-11-30", "--explain"])
    weekday = capsys.readouterr().out
    assert 0 == main(["price", "gpt-5.4", "--base-url", "https://eu.api.openai.com/v1", "--explain", "--json"])
    regional = json.loads(capsys.readouterr().out)

    assert "input_tokens: corrected (as deepseek-v4-flash): DeepSeek's notice" in weekday
    assert "From 2026-11-30 until 2026-11-30 00:30 UTC, according to genai-prices." in weekday
    assert [("2.75", 0), ("5.5", 272_000)] == [
        (rate["rate"], rate["above_input_tokens"]) for rate in regional["rates"] if rate["unit"] == "input_tokens"
    ]


def test_an_estimate_says_why(capsys):
    """What is not certain of a price is on stderr, a line each."""
    assert 0 == main(["price", "gemini-2.5-flash", "--web-searches", "1", "--input", "10"])
    assert "token-handlers: this is an estimate: at most: " in capsys.readouterr().err


def test_corrections_are_listed(capsys):
    """--corrections has what differs from genai-prices or adds to it, all of it or a model's, with dates and source."""
    assert 0 == main(["price", "--corrections"])
    every = capsys.readouterr().out.splitlines()
    assert 0 == main(["price", "gpt-oss-20b", "--corrections", "--provider", "openai", "--json"])
    rules = json.loads(capsys.readouterr().out)

    assert len(every) > 100
    assert any(
        line.startswith("deepseek deepseek-(chat|reasoner): as deepseek-v4-flash, from 2026-07-24. ") for line in every
    )
    assert ["not sold"] == [rule["says"] for rule in rules if "gpt-oss" in rule["models"]]
    assert {"openai"} == {rule["provider"] for rule in rules}


@pytest.mark.parametrize("arguments", [[], ["--explain"], ["--json"]])
def test_a_model_is_needed(arguments, capsys):
    """Without a model there is nothing to price: wrong usage, which names what to do."""
    assert 2 == main(["price", *arguments])
    assert "--corrections" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nonsense", "--provider", "openai"], "no price is known for 'nonsense' of openai: "),
        (["gpt-4o-min"], "no price is known for 'gpt-4o-min': did you mean gpt-4o-mini or "),
        (["claude-sonet-4-5"], "no price is known for 'claude-sonet-4-5': did you mean claude-sonnet-4-5 or "),
        (
            ["text-embedding-3-small"],
            "no price is known for 'text-embedding-3-small': name its provider, such as ",
        ),
        (["gpt-4o", "--input", "5", "--cached", "6"], "these numbers can't be: cache_read_tokens"),
    ],
)
def test_no_price(arguments, error, capsys):
    """What has no price is one line with the remedy, and nothing is logged besides."""
    assert 1 == main(["price", *arguments])
    output = capsys.readouterr().err

    assert output.startswith(f"token-handlers: {error}")
    assert 1 == len(output.splitlines())


@pytest.mark.parametrize("arguments", [["--input", "-5"], ["--input", "many"], ["--at", "soon"], ["--context", "fast"]])
def test_wrong_numbers(arguments, capsys):
    """What is no number or day is wrong usage that says what would be one."""
    with pytest.raises(SystemExit) as caught:
        main(["price", "gpt-4o", *arguments])

    assert 2 == caught.value.code
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_reprice(path, capsys, tmp_path):
    """Past calls get the given prices, what the provider reported stays; --dry-run says so and changes nothing."""
    (tmp_path / "prices.json").write_text('{"my-llama": {"input_mtok": 1, "output_mtok": "2.5"}}', "utf-8")
    arguments = ["reprice", "--ledger", str(path), "--prices", str(tmp_path / "prices.json"), "--json"]
    expected = {"seen": 4, "changed": 1, "cost_before": "0.5031875", "cost_after": "0.5052125"}

    assert 0 == main([*arguments, "--dry-run"])
    assert {**expected, "dry_run": True} == json.loads(capsys.readouterr().out)
    with SQLiteLedger(path) as ledger:
        assert Decimal("0.5031875") == ledger.totals().cost

    assert 0 == main(arguments)
    assert {**expected, "dry_run": False} == json.loads(capsys.readouterr().out)
    with SQLiteLedger(path) as ledger:
        assert Decimal("0.5052125") == ledger.totals().cost
        assert 0 == ledger.totals().unpriced_requests

    assert 0 == main(arguments)
    assert 0 == json.loads(capsys.readouterr().out)["changed"]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_reprice_what_is_unpriced(options, path, capsys, tmp_path):
    """--unpriced leaves the calls alone whose cost is known."""
    text = '{"my-llama": {"input_mtok": 0, "output_mtok": 0}, "gpt-4o": {"input_mtok": 0, "output_mtok": 0}}'
    (tmp_path / "prices.json").write_text(text, "utf-8")

    assert 0 == main(
        ["reprice", "--ledger", str(path), "--prices", str(tmp_path / "prices.json"), "--unpriced", *options]
    )
    assert "4 calls seen, 1 " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", "{", '{"m": {"input_mtok": "x"}}', '{"m": {"nonsense": 1}}', '{"m": 1}'])
def test_a_file_that_has_no_prices(text, path, capsys, tmp_path):
    """A table of prices that can't be read is one line with an example, and nothing changes."""
    (tmp_path / "prices.json").write_text(text, "utf-8")

    assert 1 == main(["reprice", "--ledger", str(path), "--prices", str(tmp_path / "prices.json")])
    assert f"{tmp_path / 'prices.json'} has no prices: " in capsys.readouterr().err


def test_prices_that_are_not_there(path, capsys, tmp_path):
    """A table of prices that is not there is one line."""
    assert 1 == main(["reprice", "--ledger", str(path), "--prices", str(tmp_path / "no.json")])
    assert "can't read" in capsys.readouterr().err


def test_csv(path, capsys):
    """Each call is a row in the order of time; money is exact, and what was not reported is empty."""
    assert 0 == main(["export", "--csv", "--ledger", str(path)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert ["a", "b", "c", "d"] == [row["event_id"] for row in rows]
    assert ("0.0031875", "250", '{"team": "red"}', "<script>alert(1)</script>") == (
        rows[0]["cost"], rows[0]["cache_read_tokens"], rows[0]["tags"], rows[0]["session"]
    )  # fmt: skip
    assert ("", "") == (rows[1]["cost"], rows[1]["cache_read_tokens"])


def test_a_costs_parts_in_csv_and_json(tmp_path, capsys):
    """A record's cost says what each part was, by which rate and why."""
    part = CostPart("input_tokens", 1000, Decimal("2.75"), 10**6, Decimal("0.00275"), "x1.1 for host eu", "o3")
    path = fill(tmp_path / "parts.db", UsageRecord(cost=part.cost, cost_breakdown=(part,)))
    main(["export", "--csv", "--ledger", str(path)])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert "1000 input_tokens of o3 at 2.75 per 1000000 = 0.00275 (x1.1 for host eu)" == row["cost_breakdown"]
    main(["export", "--json", "--ledger", str(path)])
    assert [["input_tokens", 1000, "2.75", 10**6, "0.00275", "x1.1 for host eu", "o3"]] == [
        list(each.values()) if isinstance(each, dict) else each
        for each in json.loads(capsys.readouterr().out)["cost_breakdown"]
    ]


def test_reprice_knows_what_served(tmp_path, capsys):
    """The tier, the host and the place of a record are those of its new price; parts of other models keep theirs."""
    usage = Usage(input_tokens=100_000, output_tokens=0)
    served = UsageRecord(usage=usage, model="gpt-5.4", provider="openai", host="eu.api.openai.com", service_tier="flex")
    other = CostPart("input_tokens", 9, Decimal(1), 10**6, Decimal("0.000009"), "", "claude-opus-4-8")
    apart = UsageRecord(
        usage=usage, model="claude-sonnet-4-6", provider="anthropic", cost=Decimal(1), cost_breakdown=(other,)
    )
    path = fill(tmp_path / "served.db", served, apart)
    main(["reprice", "--ledger", str(path)])
    with SQLiteLedger(path) as ledger:
        records = {record.model: record for record in ledger.records()}
    ours = records["gpt-5.4"]
    assert Decimal("0.1375") == ours.cost == sum(part.cost for part in ours.cost_breakdown)
    assert (Decimal(1), (other,)) == (records["claude-sonnet-4-6"].cost, records["claude-sonnet-4-6"].cost_breakdown)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''@x"]
HARMLESS = ["a=1", "'quoted'", "", "'", "1-1", " =1", '"=1"', "{=1}"]


@pytest.mark.parametrize("label", FORMULAS + HARMLESS)
def test_csv_in_a_spreadsheet(label, tmp_path, capsys):
    """What a spreadsheet would run has an apostrophe before it, in every column; without it, it is as it was."""
    path = fill(
        tmp_path / "ledger.db",
        CALLS[0].model_copy(
            update={
                "event_id": label or "e", "session": label, "user": label, "model": label, "provider": label,
                "node": label, "method": label, "cost_source": label, "tags": {label or "t": label},
            }
        ),
    )  # fmt: skip
    main(["export", "--csv", "--ledger", str(path)])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    main(["export", "--json", "--ledger", str(path)])
    exact = json.loads(capsys.readouterr().out)

    for name in ("session", "user", "model", "provider", "node", "method", "cost_source"):
        assert (f"'{label}" if label in FORMULAS else label, label) == (row[name], exact[name])
    assert not any(cell and cell[0] in "=+-@\t\r\n\uff1d" for cell in row.values())
    assert {label or "t": label} == json.loads(row["tags"]) == exact["tags"]


def test_the_help_of_export(capsys):
    """--help says what the apostrophe is for."""
    with pytest.raises(SystemExit):
        main(["export", "--help"])

    assert "has an apostrophe before it" in " ".join(capsys.readouterr().out.split())


def test_json_lines(path, capsys):
    """Each call is a line of JSON, with what was reported alone."""
    assert 0 == main(["export", "--json", "--ledger", str(path), "--until", "2026-10-01"])
    (line,) = capsys.readouterr().out.splitlines()

    assert CALLS[0].usage.model_dump(exclude_unset=True, exclude={"total_tokens"}) == json.loads(line)["usage"]


def test_export_of_odd_labels(tmp_path, capsys):
    """A NUL or half a surrogate pair ends no export: in JSON it comes back as it was, in CSV it is escaped."""
    odd = "a\0\ud800"
    path = fill(tmp_path / "odd.db", UsageRecord(session=odd, tags={odd: odd}, doubts=(odd,), request_id="req_1"))
    assert 0 == main(["export", "--json", "--ledger", str(path)])
    line = json.loads(capsys.readouterr().out)
    assert (odd, {odd: odd}, [odd], "req_1") == (line["session"], line["tags"], line["doubts"], line["request_id"])

    assert 0 == main(["export", "--csv", "--ledger", str(path)])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert ("a␛0000␛d800", "a␛0000␛d800", "req_1") == (row["session"], row["doubts"], row["request_id"])


def test_reprice_keeps_how_a_call_was_served(tmp_path, capsys):
    """The tier, the host, the place, the speed and the fees of each call count when it is priced again, on each row
    with a doubt where its rate is not certain; what the prompt cache saved is worked out.
    """
    usage = Usage(input_tokens=100_000, cache_read_tokens=60_000, web_searches=2)
    served = (
        {"model": "gpt-5", "provider": "openai", "service_tier": "flex", "host": "api.openai.com"},
        {"model": "gpt-5.4", "provider": "openai", "host": "eu.api.openai.com"},
        {"model": "claude-opus-4-8", "provider": "anthropic", "served": {"speed": "fast", "inference_geo": "us"}},
        {"model": "gpt-5", "provider": "openai", "service_tier": "scale"},
    )
    day = datetime(2026, 11, 20, tzinfo=UTC)
    path = fill(
        tmp_path / "served.db",
        *(UsageRecord(usage=usage, started_at=day, event_id=str(each), **fields) for each, fields in enumerate(served)),
    )

    assert 0 == main(["reprice", "--ledger", str(path)])
    assert "4 calls seen, 4 changed" in capsys.readouterr().out
    with SQLiteLedger(path, read_only=True) as ledger:
        records = list(ledger.records())
        totals = ledger.totals()
    expected = [
        (40_000 * Decimal("0.625") + 60_000 * Decimal("0.0625")) / 10**6 + Decimal("0.02"),
        (40_000 * Decimal("2.5") + 60_000 * Decimal("0.25")) * Decimal("1.1") / 10**6 + Decimal("0.02"),
        (40_000 * Decimal(5) + 60_000 * Decimal("0.5")) * 2 * Decimal("1.1") / 10**6 + Decimal("0.02"),
        (40_000 * Decimal("1.25") + 60_000 * Decimal("0.125")) / 10**6 + Decimal("0.02"),
    ]
    assert expected == [record.cost for record in records]
    assert [0, 0, 0, 1] == [len(record.doubts) for record in records]
    assert (sum(expected), 1, 0) == (totals.cost, totals.estimated_requests, totals.unpriced_cache_tokens)
    assert 60_000 * (Decimal("0.5625") + Decimal("2.475") + Decimal("9.9") + Decimal("1.125")) / 10**6 == (
        totals.cache_saved_cost
    )


def test_reprice_leaves_a_reported_cost(tmp_path, capsys):
    """Of a call whose cost the provider stated, only what the cache saved is worked out."""
    usage = Usage(input_tokens=1000, cache_read_tokens=1000)
    path = fill(
        tmp_path / "reported.db",
        UsageRecord(usage=usage, model="gpt-5", provider="openai", cost=Decimal(1), cost_source="reported"),
    )

    assert 0 == main(["reprice", "--ledger", str(path), "--dry-run"])
    assert 0 == main(["reprice", "--ledger", str(path)])
    assert ["1 call seen, 1 would change: 1 USD -> 1 USD.", "1 call seen, 1 changed: 1 USD -> 1 USD."] == (
        capsys.readouterr().out.splitlines()
    )
    with SQLiteLedger(path, read_only=True) as ledger:
        (record,) = ledger.records()
    assert ("reported", Decimal(1), Decimal("0.001125")) == (record.cost_source, record.cost, record.cache_saved_cost)
