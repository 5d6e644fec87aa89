import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.support.command_line import COMMAND
from tests.support.usage_ledgers import CALLS, FIRST_DAY, fill
from token_handlers.cli import main
from token_handlers.pricing.freshness import PriceTable
from token_handlers.sinks.sqlite import SQLiteLedger


@pytest.fixture
def path(tmp_path):
    """The path of a ledger with CALLS in it."""
    return fill(tmp_path / "ledger.db")


def test_report(path, capsys):
    """A table by model in 80 columns, the most expensive first, and what is not exact below it."""
    assert 0 == main(["report", "--ledger", str(path)])
    assert [
        "Model                   Requests  Prompt  Completion  Embedding  Cost (USD)",
        "----------------------  --------  ------  ----------  ---------  ----------",
        "text-embedding-3-small         1       0           0        500  0.50",
        "gpt-4o                         1   1,000         100          0  0.003188",
        "my-llama                       1   2,000          10          0  unknown",
        "Total                          3   3,000         110        500  0.5032",
        "",
        "250 (8.3%) of the prompt tokens came from the provider's cache.",
        "40 (36%) of the completion tokens were reasoning.",
        "The provider's cache saved $0.0003125, at list prices.",
        "1 request with an estimate: of their tokens or of a part of their cost.",
        "1 request of unknown cost: not in the sum (see token-handlers reprice).",
        "1 request rejected: not billed.",
    ] == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("day", ["2026-10-01", "2026-10-02", "2026-10-03"]),
        ("session", ["<script>alert(1)</script>", "s1"]),
        ("user", ["ann"]),
        ("tag", ["team=red"]),
        ("team", ["red"]),
        ("month", ["2026-10"]),
        ("node", []),
        ("operation", ["embeddings", "chat"]),
        ("model", ["text-embedding-3-small", "gpt-4o", "my-llama"]),
    ],
)
def test_report_by(label, expected, path, capsys):
    """--by sums by a label; --json has exact money as text."""
    assert 0 == main(["report", "--ledger", str(path), "--by", label, "--json"])
    report = json.loads(capsys.readouterr().out)

    assert expected == list(report["groups"])
    assert "0.5031875" == report["total"]["cost"]


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("usr", "did you mean user?"),
        ("teem", "did you mean team?"),
        (
            "customer",
            "--by takes model, provider, session, user, node, operation, tag, hour, day, month, or the key of a tag",
        ),
    ],
)
def test_a_label_that_no_call_has(label, hint, path, capsys):
    """A label that is mistyped is wrong usage with what may have been meant, and not a table of nothing."""
    assert 2 == main(["report", "--ledger", str(path), "--by", label])
    assert f"token-handlers: no call in the report has a tag {label!r}: {hint}\n" == capsys.readouterr().err


def test_report_of_a_time(path, capsys):
    """--since and --until are days in UTC, both included, or times."""
    main(["report", "--ledger", str(path), "--json", "--since", "2026-10-02", "--until", "2026-10-02"])
    days = json.loads(capsys.readouterr().out)
    main(["report", "--ledger", str(path), "--json", "--until", "2026-10-01T12:00:00.001Z"])
    times = json.loads(capsys.readouterr().out)

    assert (["my-llama"], ["gpt-4o"]) == (list(days["groups"]), list(times["groups"]))


def test_sessions(path, capsys):
    """Sessions are listed with what they cost, and the calls without one are counted."""
    assert 0 == main(["sessions", "--ledger", str(path)])
    lines = capsys.readouterr().out.splitlines()

    assert ["s1", "Total"] == [line.split()[0] for line in lines[3:5]]
    assert lines[2].startswith("<script>alert(1)</script>")
    assert "1 request without a session." == lines[-1]


@pytest.fixture
def many(tmp_path):
    """The path of a ledger with 203 sessions, each dearer than the one before, and one day for each."""
    sessions = (
        CALLS[0].model_copy(
            update={
                "event_id": f"{number}",
                "session": f"s{number:03}",
                "cost": Decimal(number + 1),
                "started_at": FIRST_DAY + timedelta(days=number),
            }
        )
        for number in range(203)
    )
    return fill(tmp_path / "ledger.db", *sessions)


@pytest.mark.parametrize(
    ("arguments", "listed", "note"),
    [
        ([], 100, "(other) adds up 103 more: --top N lists more of them, --top all all."),
        (["--top", "3"], 3, "(other) adds up 200 more: --top N lists more of them, --top all all."),
        (["--top", "203"], 203, None),
        (["--top", "all"], 203, None),
    ],
)
def test_the_dearest_sessions(arguments, listed, note, many, capsys):
    """A table lists the dearest, and then what the others add up to; the total is that of all."""
    assert 0 == main(["sessions", "--ledger", str(many), *arguments])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[2 : lines.index("")]]
    names = [f"s{202 - number:03}" for number in range(listed)]

    assert [*names, *(["(other)"] if note else []), "Total"] == [row[0] for row in rows]
    assert sum(range(1, 204)) == sum(Decimal(row[-1].replace(",", "")) for row in rows[:-1])
    assert "20,706.00" == rows[-1][-1]
    assert max(map(len, lines)) <= 80
    assert (note in lines) if note else not any("adds up" in line for line in lines)


def test_the_dearest_as_json(many, capsys):
    """JSON has all, unless --top says how many; then it has how many others there are."""
    main(["report", "--ledger", str(many), "--by", "session", "--json"])
    told = json.loads(capsys.readouterr().out)
    main(["sessions", "--ledger", str(many), "--top", "2", "--json"])
    top = json.loads(capsys.readouterr().out)

    assert (203, 0) == (len(told["groups"]), told["others"])
    assert (["s202", "s201", "(other)"], 201) == (list(top["groups"]), top["others"])
    assert ("20301", "20706") == (top["groups"]["(other)"]["cost"], top["total"]["cost"])


def test_the_dearest_days(many, capsys):
    """All days are listed, in their order; with --top the dearest of them."""
    main(["report", "--ledger", str(many), "--by", "day"])
    every = capsys.readouterr().out.splitlines()
    main(["report", "--ledger", str(many), "--by", "day", "--top", "2"])
    dearest = capsys.readouterr().out.splitlines()

    assert 203 == sum(line.startswith("20") for line in every)
    assert ["2027-04-20", "2027-04-21", "(other)", "Total"] == [line.split()[0] for line in dearest[2:6]]


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_number_of_rows_that_is_none(number, path, capsys):
    """What is no number of rows is wrong usage that says what would be one."""
    with pytest.raises(SystemExit) as caught:
        main(["sessions", "--ledger", str(path), f"--top={number}"])

    assert 2 == caught.value.code
    assert f"argument --top: a number such as 10, or all, is not {number!r}" in capsys.readouterr().err


def test_a_page_of_many_sessions(many, tmp_path):
    """A page lists as many sessions as a table, and what the others add up to."""
    page = tmp_path / "page.html"
    main(["report", "--ledger", str(many), "--html", str(page)])
    assert ">103 more<" in page.read_text("utf-8")

    main(["report", "--ledger", str(many), "--html", str(page), "--top", "all"])
    assert "more<" not in page.read_text("utf-8")
    assert ">s000<" in page.read_text("utf-8")


def test_rich_on_a_terminal(path, capsys, monkeypatch):
    """On a terminal rich draws the table, where it is installed; names stay as they are."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["report", "--ledger", str(path), "--by", "session"])
    output = capsys.readouterr().out

    assert "<script>alert(1)</script>" in output
    assert "---" not in output


def test_without_a_ledger(tmp_path, capsys, monkeypatch):
    """A ledger that is not named is wrong usage; one that is not there is an error, and is not made."""
    missing = tmp_path / "missing.db"
    monkeypatch.delenv("AGENTSIGHT_TOKEN_LEDGER", raising=False)
    statuses = main(["report"]), main(["sessions", "--ledger", str(missing)])
    errors = capsys.readouterr().err.splitlines()

    assert (2, 1, 2) == (*statuses, len(errors))
    assert errors[0].endswith("name one with --ledger PATH or AGENTSIGHT_TOKEN_LEDGER")
    assert f"there is no ledger at {missing}" in errors[1]
    assert not missing.exists()


def test_the_ledger_of_the_environment(path, capsys, monkeypatch):
    """AGENTSIGHT_TOKEN_LEDGER names the ledger where --ledger does not."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_LEDGER", str(path))

    assert 0 == main(["report"])
    assert "my-llama" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["someday", "2026-10-01T12:00"])
def test_a_time_that_is_none(moment, path, capsys):
    """What is no time, or no plain one, is wrong usage that says what would be one."""
    with pytest.raises(SystemExit) as caught:
        main(["report", "--ledger", str(path), "--since", moment])

    assert 2 == caught.value.code
    assert "argument --since" in capsys.readouterr().err


def test_another_file(tmp_path, capsys):
    """A file that is no ledger is one line, and is left as it is."""
    other = tmp_path / "other.txt"
    other.write_text("hello" * 1000, "utf-8")

    assert 1 == main(["report", "--ledger", str(other)])
    assert 1 == len(capsys.readouterr().err.splitlines())
    assert 1 == main(["report", "--ledger", str(other / "ledger.db")])
    assert "can't be used: Not a directory" in capsys.readouterr().err
    assert "hello" * 1000 == other.read_text("utf-8")


@pytest.mark.parametrize(("days", "step"), [(1, "hour"), (40, "day"), (200, "month")])
def test_a_page(days, step, tmp_path):
    """--html writes a page with bars for hours, days or months, as the calls are spread."""
    late = CALLS[0].model_copy(update={"event_id": "late", "started_at": FIRST_DAY + timedelta(days=days)})
    path = fill(tmp_path / "ledger.db", CALLS[0], late)

    assert 0 == main(["report", "--ledger", str(path), "--html", str(tmp_path / "page.html")])
    assert f"<h2>Cost by {step}</h2>" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_that_can_not_be_written(path, tmp_path, capsys):
    """A page that can't be written is one line with the remedy."""
    assert 1 == main(["report", "--ledger", str(path), "--html", str(tmp_path)])
    assert f"token-handlers: can't write {tmp_path}: Is a directory: choose another file\n" == capsys.readouterr().err


@pytest.fixture
def current(tmp_path):
    """The path of a ledger with a call of 2 USD on each of the last 40 days, the last of them an instant ago."""
    now = datetime.now(UTC) - timedelta(milliseconds=1)
    calls = [
        CALLS[0].model_copy(
            update={"event_id": f"{days}", "cost": Decimal(2), "started_at": now - timedelta(days=days)}
        )
        for days in range(40)
    ]
    return fill(tmp_path / "current.db", *calls)


def test_a_page_for_a_boss(current, tmp_path):
    """A page has the title and the budget that it is given, and says where the month will end."""
    page = tmp_path / "page.html"
    options = ["--html", str(page), "--title", "Bots & co", "--budget", "300/month", "--since", "2020-01-01"]

    assert 0 == main(["report", "--ledger", str(current), *options])
    text = page.read_text("utf-8")
    assert "<title>Bots &amp; co</title>" in text
    assert "of $300.00 this month" in text
    assert "<dt>By the end of " in text


def test_a_projection(current, capsys):
    """--project adds where the month will end, with its interval, and how the budget stands."""
    assert 0 == main(["report", "--ledger", str(current), "--project", "--budget", "1000/month"])
    lines = capsys.readouterr().out.splitlines()

    assert re.fullmatch(
        r"[A-Z][a-z]+ \d{4}: \$[\d.]+ so far, about \$[\d.]+ by its end \(80% interval: \$[\d.]+ to \$[\d.]+\)\.",
        lines[-3],
    )
    assert "Projected from the last 39 whole days, each weekday by itself." == lines[-2]
    assert re.fullmatch(
        r"Budget: \$[\d.]+ of \$1,000\.00 this month \([\d.]+%\), about \$[\d.]+ by its end\.", lines[-1]
    )


def test_a_projection_as_json(current, capsys):
    """JSON has the projection and the budget beside the totals."""
    main(["report", "--ledger", str(current), "--project", "--budget", "1000/year", "--json"])
    told = json.loads(capsys.readouterr().out)

    assert (39, "1000", "year") == (
        told["projection"]["history_days"], told["budget"]["amount"], told["budget"]["window"]
    )  # fmt: skip
    assert "80" == told["total"]["cost"]


def test_no_projection(path, capsys):
    """Without a call in the last eight weeks there is nothing to project, and that is said."""
    before = fill(
        path.parent / "before.db", CALLS[0].model_copy(update={"started_at": FIRST_DAY - timedelta(days=900)})
    )

    main(["report", "--ledger", str(before), "--project"])
    assert "No projection: the eight weeks before today have no call." == capsys.readouterr().out.splitlines()[-1]
    main(["report", "--ledger", str(before), "--project", "--json"])
    assert None is json.loads(capsys.readouterr().out)["projection"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--title", "T"], "--title is the page's: add --html FILE"),
        (["--budget", "5/day"], "--budget is compared on a page or with a projection: add --html FILE or --project"),
    ],
)
def test_options_that_would_do_nothing(options, message, path, capsys):
    """An option that would have no effect is wrong usage that says what is missing."""
    assert 2 == main(["report", "--ledger", str(path), *options])
    assert message in capsys.readouterr().err


def test_a_budget_that_is_none(path, capsys):
    """What is no budget is wrong usage that says what would be one."""
    with pytest.raises(SystemExit) as caught:
        main(["report", "--ledger", str(path), "--project", "--budget", "50"])

    assert 2 == caught.value.code
    assert "argument --budget: a budget is USD for a day, week, month or year" in capsys.readouterr().err


def test_an_empty_ledger(tmp_path, capsys):
    """A ledger without calls is a report of zeros, also as a page."""
    path = tmp_path / "ledger.db"
    SQLiteLedger(path).close()

    assert 0 == main(["report", "--ledger", str(path), "--html", str(tmp_path / "page.html")])
    assert "Total" in capsys.readouterr().out


def test_a_pipe_that_closes(path):
    """`| head` ends the output without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        result = subprocess.run(
            [*COMMAND, "report", "--ledger", path], stdout=closed, stderr=subprocess.PIPE, check=False, timeout=60
        )

    assert (1, b"") == (result.returncode, result.stderr)


@pytest.mark.parametrize(("newest", "old"), [(0, False), (61, True)])
def test_the_price_tables_age(path, capsys, monkeypatch, tmp_path, newest, old):
    """JSON and a page say how old the price table is, and the table of text where it is old."""
    day = datetime.now(UTC).date() - timedelta(days=newest)
    monkeypatch.setattr("token_handlers.cli.report.current_table", lambda today: PriceTable("T", day, 10))
    page = tmp_path / "report.html"

    assert 0 == main(["report", "--ledger", str(path), "--json", "--html", str(page)])
    assert {"table": "T", "newest_rate": str(day), "age_days": newest, "old": old} == json.loads(
        capsys.readouterr().out
    )["prices"]
    assert f"The prices are T: its newest rate is of {day}" in page.read_text("utf-8")
    assert 0 == main(["report", "--ledger", str(path)])
    assert old == ("That is old: run `token-handlers prices update`" in capsys.readouterr().out)


def test_what_the_cache_saved(path, capsys):
    """--cache shows who used the provider's prompt cache, how often it hit, and what that saved."""
    assert 0 == main(["report", "--ledger", str(path), "--cache", "--by", "day"])
    assert [
        "Day         Prompt  Read  Written  Hit rate  Saved (USD)",
        "----------  ------  ----  -------  --------  -----------",
        "2026-10-01   1,000   250        0  25%       0.0003125",
        "Total        3,000   250        0  8.3%      0.0003125",
    ] == capsys.readouterr().out.splitlines()[:4]

    assert 0 == main(["sessions", "--ledger", str(path), "--cache"])
    assert "<script>alert(1)</script>   1,000   250" in capsys.readouterr().out
    assert 0 == main(["report", "--ledger", str(path), "--json"])
    total = json.loads(capsys.readouterr().out)["total"]
    assert ("0.0003125", 250 / 3000) == (total["cache_saved_cost"], total["cache_hit_rate"])


def test_report_as_another_model(path, capsys):
    """--as shows what the calls would have cost, says whose token counts they are, and leaves the ledger as it is."""
    before = path.read_bytes()
    assert 0 == main(["report", "--ledger", str(path), "--as", "gpt-4o-mini"])
    assert [
        "Model           Requests  Prompt  Completion  Cost (USD)  As gpt-4o-mini  Change",
        "--------------  --------  ------  ----------  ----------  --------------  ------",
        "text-embeddin…         1       0           0  0.50        0.50            0%",
        "gpt-4o                 1   1,000         100  0.003188    0.0001912       -94%",
        "my-llama               1   2,000          10  unknown     0.000306",
        "Total                  3   3,000         110  0.5032      0.5005",
    ] == (lines := capsys.readouterr().out.splitlines())[:6]
    assert "Token counts are those of the model that answered" in lines[7]
    assert before == path.read_bytes()


def test_one_model_as_another_in_json_and_on_a_page(path, tmp_path, capsys):
    """FROM=MODEL is about one model's calls; JSON and the page have it too."""
    page = tmp_path / "page.html"
    assert 0 == main(
        ["report", "--ledger", str(path), "--as", "gpt-4o=openai/gpt-4o-mini", "--html", str(page), "--json"]
    )
    told = json.loads(capsys.readouterr().out)

    assert (["gpt-4o=openai/gpt-4o-mini"], 1) == (told["as"], told["replaced_requests"])
    assert "0.00019125" == told["groups"]["gpt-4o"]["cost_as"]
    assert (None, "0.5") == (told["groups"]["my-llama"]["cost_as"], told["groups"]["text-embedding-3-small"]["cost_as"])
    text = page.read_text("utf-8")
    assert "<h2>What if</h2>" in text
    assert "Token counts are those of the model that answered" in text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--as", "gpt-4o-mni"], "did you mean gpt-4o-mini"),
        (["--as", "gpt-4=gpt-4o-mini"], "no call in the report is of a model 'gpt-4': did you mean gpt-4o?"),
        (["--as", "zzz=gpt-4o-mini"], "there are gpt-4o, my-llama, text-embedding-3-small"),
        (["--as", "gpt-4o="], "MODEL or MODEL=MODEL, such as gpt-4o=gpt-5-mini, is not 'gpt-4o='"),
        (["--as", "gpt-4o-mini", "--as", "gpt-4o"], "write FROM=MODEL for the others"),
        (["--as", "gpt-4o-mini", "--cache"], "--cache and --as are two tables"),
        (["--as", "gpt-4o-mini", "--by", "teem"], "did you mean team?"),
    ],
)
def test_a_wrong_what_if(arguments, error, path, capsys):
    """A model that is mistyped, on either side, is asked about; the exit status is 2."""
    try:
        assert 2 == main(["report", "--ledger", str(path), *arguments])
    except SystemExit as stop:
        assert 2 == stop.code  # noqa: PT017 (argparse's own way to say so)
    assert error in capsys.readouterr().err
