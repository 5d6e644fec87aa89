import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.support.bill_pages import (
    ANTHROPIC_CALL,
    ANTHROPIC_COSTS,
    ANTHROPIC_USAGE,
    CLAUDE,
    DAY,
    ROUTED,
    activity,
    bucket,
    call,
    openai_cost,
    openai_day,
    openai_pages,
)
from tests.support.bill_server import BillServer
from tests.support.usage_ledgers import fill
from token_handlers.cli import main
from token_handlers.sinks.sqlite import SQLiteLedger

KEY = "sk-admin-sesame"


@pytest.fixture
def bills():
    """A provider's API; a test says what it answers."""
    with BillServer() as running:
        yield running


@pytest.fixture
def reconcile(tmp_path, monkeypatch, bills, capsys):
    """Return what reconciles a provider's bill with records, and gives the status, what is printed and the errors."""
    for name in ("OPENAI_ADMIN_KEY", "ANTHROPIC_ADMIN_KEY", "OPENROUTER_MANAGEMENT_KEY"):
        monkeypatch.setenv(name, KEY)

    def run(provider, records, *arguments):
        path = tmp_path / "usage.db"
        SQLiteLedger(path).close()
        if records:
            fill(path, *records)
        given = ["--ledger", str(path), "--since", "2026-03-10", "--base-url", bills.url]
        if "--until" not in arguments:
            given += ["--until", "2026-03-12"]
        status = main(["reconcile", provider, *given, *arguments])
        output, errors = capsys.readouterr()
        assert "sesame" not in output + errors
        return status, output, errors

    return run


def test_what_equals_the_bill(reconcile, bills):
    """Each day has what both say of it, and no reason; the status is 0."""
    bills.pages = openai_pages(openai_day(3), openai_day(1, day=1))
    status, output, _ = reconcile("openai", [*(call() for _ in range(3)), call(day=1)])

    assert (
        "OpenAI's bill beside usage.db, 2026-03-10 to 2026-03-12, USD, days in UTC\n"
        "\n"
        "Day         Bill    Ledger  Difference  Explained\n"
        "----------  ------  ------  ----------  ---------\n"
        "2026-03-10  0.0054  0.0054  0.00        0.00\n"
        "2026-03-11  0.0018  0.0018  0.00        0.00\n"
        "Total       0.0072  0.0072  0.00        0.00\n"
        "\n"
        "The ledger equals the bill on 2 days.\n"
    ) == "\n".join(line.rstrip() for line in output.splitlines()) + "\n"
    assert 0 == status


def test_anthropic(reconcile, bills):
    """Anthropic's analytics, in cents, equal the ledger to the last digit."""
    bills.pages = {
        "/v1/organizations/analytics/cost": [{"data": ANTHROPIC_COSTS}],
        "/v1/organizations/analytics/usage": [{"data": ANTHROPIC_USAGE}],
    }
    status, output, _ = reconcile("anthropic", [ANTHROPIC_CALL], "--by", "model", "--json")
    told = json.loads(output)

    assert (0, "0.26375", "0.26375", [CLAUDE]) == (
        status, told["total"]["bill"], told["total"]["ledger"], list(told["groups"]),
    )  # fmt: skip


def test_openrouter(reconcile, bills):
    """OpenRouter's activity equals what the answers stated."""
    bills.pages = {"/activity": [{"data": [activity(0.0028, 2, 3000, 1000)]}]}
    records = [call(ROUTED, "openai", 1500, 500, "0.0014", host="openrouter.ai")] * 1
    records += [call(f"{ROUTED}-2025-04-14", "openrouter", 1500, 500, "0.0014")]
    status, output, _ = reconcile("openrouter", records, "--tolerance", "0")

    assert (0, True) == (status, "The ledger equals the bill on 1 day." in output)


def test_what_differs(reconcile, bills):
    """Other projects are explained; searches and calls that the ledger lacks are not: the status is 1."""
    costs, usage = openai_day(10)
    costs["results"].append(openai_cost(0.03, "web search tool calls | gpt-5-mini", 3))
    bills.pages = openai_pages((costs, usage), openai_day(400, project="proj_b"), openai_day(2, day=1))
    records = [call(project="proj_a") for _ in range(7)]
    records += [call(day=1, project="proj_a", cost=cost) for cost in (None, "0.0018")]
    status, output, _ = reconcile("openai", records)
    lines = output.splitlines()

    assert 1 == status
    assert max(map(len, lines)) <= 80
    assert [
        "Day         Requests ±   Tokens ±  Bill    Ledger  Difference  Explained",
        "----------  ----------  ---------  ------  ------  ----------  ---------",
        "2026-03-10         403  1,773,200  0.768   0.0126  0.7554      0.72",
        "2026-03-11           0          0  0.0036  0.0018  0.0018      0.0018",
        "Total              403  1,773,200  0.7716  0.0144  0.7572      0.7218",
        "",
        "Explained (USD):",
        "  0.72    400 requests of other projects of the account: proj_b",
        "  0.0018  1 request without a price in the ledger: see token_handlers.set_price",
        "          and token-handlers reprice",
        "",
        "Not explained (USD):",
        "  0.03    2026-03-10 gpt-5-mini: 3 web searches that the ledger lacks",
        "  0.0054  2026-03-10 gpt-5-mini: 3 requests that the ledger lacks",
    ] == [line.rstrip() for line in lines[2:16]]
    assert "The ledger begins on 2026-03-10: what was billed before its first call is not in\nit." in output
    assert "Above the tolerance of 0.5% or 0.01 USD a day on 1 of 2 days: 2026-03-10. 0.0354\nUSD of" in output


def test_tolerance(reconcile, bills):
    """A share is of a day's bill, a number USD a day."""
    bills.pages = openai_pages(openai_day(100))
    records = [call() for _ in range(98)]

    for tolerance, status in (("1%", 1), ("2%", 0), ("0.0035", 1), ("0.0036", 0), ("0", 1)):
        assert (tolerance, status) == (
            tolerance,
            reconcile("openai", records if tolerance == "1%" else (), "--tolerance", tolerance)[0],
        )


def test_many_models(reconcile, bills):
    """By model, names give way to numbers, and at most ten differences are named."""
    names = [f"a-model-with-a-quite-long-name-{number:02}" for number in range(12)]
    costs = [openai_cost(1000.25, f"{name}, output", 10) for name in names]
    bills.pages = openai_pages((bucket(costs), bucket([])))
    _, output, _ = reconcile("openai", [], "--by", "model")
    lines = output.splitlines()

    assert max(map(len, lines)) <= 80
    assert "12,003.00" in output
    assert "  ... and 2 more: --json has all." in lines


def test_json_has_all(reconcile, bills):
    """JSON has each day and model, the causes that add up to the difference, and exact money as text."""
    bills.pages = openai_pages(openai_day(3))
    status, output, _ = reconcile("openai", [call()], "--json")
    told = json.loads(output)
    [row] = told["rows"]

    assert (0, ["openai", "2026-03-10", "2026-03-12"]) == (status, [told["provider"], told["since"], told["until"]])
    assert ("0.0036", 2, 8800) == (row["difference"], row["requests_difference"], row["tokens_difference"])
    assert [("calls", "0.0036", False)] == [(each["kind"], each["cost"], each["explained"]) for each in row["causes"]]
    assert ([], "0.0036") == (told["above_tolerance"], told["unexplained"])


def test_today_is_open(reconcile, bills):
    """A day that the bill may still lack calls of is shown, and not judged."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    bills.pages = openai_pages()
    record = call(started_at=today)
    status, output, _ = reconcile("openai", [record], "--until", f"{today:%Y-%m-%d}", "--tolerance", "0")

    assert (0, True) == (status, f"{today:%Y-%m-%d}* " in output)
    assert "* Not judged, as the bill may still lack calls." in output
    assert "No day is judged: the bill may still lack calls of these." in output


def test_several_accounts(reconcile, bills):
    """Where the bill is of several projects and no answer named one, it is said how to compare one of them."""
    bills.pages = openai_pages(openai_day(1), openai_day(2, project="proj_b"))
    status, output, _ = reconcile("openai", [call()])

    assert 0 == status
    assert "The bill is of 2 projects (proj_a, proj_b): --project ID compares one of them." in output


def test_an_export(reconcile, bills, tmp_path):
    """An export is compared on the days that it has, and nothing is asked of the API."""
    line = '1773100800,0.0018,usd,"gpt-5-mini, input",proj_a'
    (tmp_path / "costs.csv").write_text(f"start_time,amount_value,amount_currency,line_item,project_id\n{line}\n")
    path = fill(tmp_path / "usage.db", call(), call(day=5))
    status = main(["reconcile", "openai", "--ledger", str(path), "--file", str(tmp_path / "costs.csv")])

    assert (0, []) == (status, bills.asked)


def test_one_project(reconcile, bills):
    """--project asks for that one's bill, and leaves other projects' calls out."""
    bills.pages = openai_pages(openai_day(1))
    status, output, _ = reconcile("openai", [call(project="proj_a"), call(project="proj_b")], "--project", "proj_a")

    assert (0, True) == (status, "The ledger equals the bill on 1 day." in output)
    assert ("project_ids[]", "proj_a") in bills.params("/organization/costs")[0]


def test_without_a_key(reconcile, monkeypatch):
    """Which key is needed, and where it is made; wrong usage."""
    monkeypatch.delenv("OPENAI_ADMIN_KEY")
    status, output, errors = reconcile("openai", [])

    assert (2, "") == (status, output)
    assert "it needs an admin key of the organization, made at platform.openai.com" in errors
    assert errors.endswith("set OPENAI_ADMIN_KEY; or name an export with --file\n")


def test_the_other_name_of_a_key(reconcile, bills, monkeypatch):
    """Anthropic's key has two names."""
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    monkeypatch.setenv("ANTHROPIC_ADMIN_API_KEY", KEY)
    bills.pages = {f"/v1/organizations/analytics/{name}": [{"data": []}] for name in ("cost", "usage")}

    assert 0 == reconcile("anthropic", [])[0]
    assert {KEY} == {headers["x-api-key"] for _, _, headers in bills.asked}


def test_a_refused_key(reconcile, bills):
    """An error of the provider's is one line with the remedy."""
    bills.fail(401)
    status, output, errors = reconcile("openai", [])

    assert (1, "") == (status, output)
    assert "answered 401, so that the key is refused: OPENAI_ADMIN_KEY" not in errors
    assert "answered 401, so that the key is refused: it needs an admin key" in errors.splitlines()[-1]


def test_an_answer_that_is_no_bill(reconcile, bills):
    """An API that answers with something else is one line with what was wrong, and what to check."""
    bills.pages = {"/organization/costs": [{"data": [{"object": "model", "id": "gpt-5"}]}]}
    status, output, errors = reconcile("openai", [])

    assert (1, "") == (status, output)
    assert "gave no bill of OpenAI: results is no list: 'None': check --base-url" in errors


def test_nothing_to_compare(reconcile, bills):
    """A window without a call on either side says so."""
    bills.pages = openai_pages()
    status, output, _ = reconcile("openai", [])

    assert 0 == status
    assert "2026-03-10 to 2026-03-12: neither OpenAI's bill nor the\nledger has a call." in output
    assert output.endswith("The ledger has no call at all.\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["opnai"], "did you mean openai?"),
        (["openai", "--tolerance", "much"], "a share such as 1%, or USD such as 0.05, is not 'much'"),
        (["openai", "--tolerance", "-1"], "is not '-1'"),
    ],
)
def test_wrong_usage(arguments, reason, capsys):
    """What can't be meant is asked about."""
    with pytest.raises(SystemExit):
        main(["reconcile", *arguments])
    assert reason in capsys.readouterr().err


def test_windows(reconcile, bills):
    """A window is of whole days in UTC, up to today; one in the future is wrong usage."""
    bills.pages = openai_pages()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    reconcile("openai", [], "--since", "2026-03-10T15:00Z", "--until", "2026-03-11T01:00Z")
    asked = dict(bills.params("/organization/costs")[0])
    status, _, errors = reconcile("openai", [], "--since", f"{tomorrow:%Y-%m-%d}", "--until", "4w")

    assert str(int(DAY.timestamp())) == asked["start_time"]
    assert str(int((DAY + timedelta(days=2)).timestamp())) == asked["end_time"]
    assert (2, True) == (status, "no call can be in between" in errors)


def test_the_window_that_nobody_asked_for(reconcile, bills, tmp_path, monkeypatch, capsys):
    """It is of 30 days, and begins with the ledger; a bill of long ago is asked from 2020 on."""
    bills.pages = openai_pages()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    path = fill(tmp_path / "new.db", call(started_at=today - timedelta(days=3)))
    for arguments in ([], ["--until", "2026-02-11"], ["--since", "0001-01-01", "--until", "2026-02-11"]):
        main(["reconcile", "openai", "--ledger", str(path), "--base-url", bills.url, *arguments])
    starts = [int(dict(params)["start_time"]) for params in bills.params("/organization/costs")]

    assert [(today - timedelta(days=3)), datetime(2026, 1, 12, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)] == [
        datetime.fromtimestamp(start, UTC) for start in starts
    ]


def test_calls_of_nobody_known(reconcile, bills):
    """Requests of which nobody knows who bills them are left out, and counted."""
    bills.pages = openai_pages(openai_day(1))
    status, output, _ = reconcile("openai", [call(), call(provider=None, host="gateway.local")])

    assert 0 == status
    assert "1 requests of no known provider are left out." not in output
    assert "1 request of no known provider is left out." in output


def test_prices_that_differ_alike(reconcile, bills):
    """A factor that all prices have is named, with what corrects it."""
    bills.pages = openai_pages(openai_day(100, factor=0.9), openai_day(100, day=1, factor=0.9))
    records = [call(day=number % 2) for number in range(200)]
    status, output, _ = reconcile("openai", records)

    assert 1 == status
    assert 'Every such price differs alike: token_handlers.set_multiplier("0.9", ...)' in output
    assert Decimal("-0.036") == Decimal(json.loads(reconcile("openai", (), "--json")[1])["unexplained"])
