import io
import json
import sys
from decimal import Decimal

import pytest

from tests.support.usage_ledgers import fill
from token_handlers import TokenCounter
from token_handlers.cli import ingest as command
from token_handlers.cli import main, options
from token_handlers.sinks.sqlite import SQLiteLedger

OPENAI = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1790000000,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"message": {"role": "assistant", "content": "a secret"}}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
}
MESSAGE = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain_core", "messages", "AIMessage"],
    "kwargs": {"id": "chatcmpl-2", "content": "a secret", "response_metadata": {"model_name": "gpt-4o-2024-08-06"}},
}
LANGCHAIN_JS = {
    "generations": [[{"text": "a secret", "message": MESSAGE}]],
    "llmOutput": {"tokenUsage": {"promptTokens": 20, "completionTokens": 5, "totalTokens": 25}},
}
WRAPPED = {
    "runId": "run-1",
    "session": "s1",
    "userId": "ann",
    "tags": ["red"],
    "timestamp": 1790000000500,
    "provider": "openai",
    "output": LANGCHAIN_JS,
}
OWN = {"usage": {"input_tokens": 5}, "operation": "chat", "outcome": "success"}
EMBEDDING = {"object": "list", "model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}}


@pytest.fixture
def ingest(tmp_path):
    """Return what writes lines into a file and reads them into a ledger."""

    def run(*lines, arguments=()):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "lines.jsonl").write_text("\n".join(texts), "utf-8")
        return main(["ingest", str(tmp_path / "lines.jsonl"), "--ledger", str(tmp_path / "ledger.db"), *arguments])

    return run


@pytest.fixture
def records(tmp_path):
    """Return what reads the ledger's records."""

    def read():
        with SQLiteLedger(tmp_path / "ledger.db") as ledger:
            return list(ledger.records())

    return read


def test_what_a_line_says(ingest, records):
    """Usage, model, labels, time and id are read from payloads as they are or wrapped; the price is found."""
    assert 0 == ingest(OPENAI, WRAPPED, "", EMBEDDING)
    plain, wrapped, embedding = records()

    assert ("chatcmpl-1", "gpt-4o-mini-2024-07-18", 1000, 100, Decimal("0.00021")) == (
        plain.event_id, plain.model, plain.usage.input_tokens, plain.usage.output_tokens, plain.cost
    )  # fmt: skip
    assert ("run-1", "s1", "ann", {"red": "true"}, "openai", "gpt-4o-2024-08-06") == (
        wrapped.event_id, wrapped.session, wrapped.user, wrapped.tags, wrapped.provider, wrapped.model
    )  # fmt: skip
    assert (1790000000, 1790000000.5) == (plain.started_at.timestamp(), wrapped.started_at.timestamp())
    assert (20, 5) == (wrapped.usage.input_tokens, wrapped.usage.output_tokens)
    assert ("embeddings", 8, 32) == (embedding.operation, embedding.usage.input_tokens, len(embedding.event_id))


UNREADABLE = ["12", 12.5, -5, float("inf"), float("nan"), 10**20, True, [12], {}, None]


@pytest.mark.parametrize("number", UNREADABLE, ids=repr)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_half_a_usage_is_an_estimate(name, number, ingest, records):
    """A line with one count that is none beside one that can be read is an estimate, and says what is missing."""
    assert 0 == ingest({**OPENAI, "usage": {"prompt_tokens": 1000, "completion_tokens": 100, name: number}})
    (record,) = records()

    assert "estimated" == record.source
    assert 1 == totals_of(record).estimated_requests


@pytest.mark.parametrize(
    "line",
    [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 25}},
        {"model": "llama3.2", "message": {"content": "a secret"}, "done": True, "eval_count": 25},
        {**LANGCHAIN_JS, "llmOutput": {"tokenUsage": {"completionTokens": 25}}},
        {**LANGCHAIN_JS, "llmOutput": {"tokenUsage": {"promptTokens": 25}}},
        {**OPENAI, "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
    ],
)
def test_everyday_halves(line, ingest, records):
    """Anthropic's message_delta, an answer of Ollama's cache, LangChain.js's halves and a usage of 0 are estimates."""
    assert 0 == ingest(line)

    assert ["estimated"] == [record.source for record in records()]


@pytest.mark.parametrize(("split", "doubts"), [({}, 1), ({"cache_creation": {"ephemeral_1h_input_tokens": 30}}, 0)])
def test_cache_writes_without_a_lifetime_are_an_estimate(split, doubts, ingest, records):
    """Claude's may be kept for an hour at another rate, and nobody has the request that would tell."""
    usage = {"input_tokens": 9, "output_tokens": 5, "cache_creation_input_tokens": 30, **split}
    ingest({"type": "message", "model": "claude-sonnet-4-5", "usage": usage})

    assert [doubts] == [len(record.doubts) for record in records()]


def test_a_whole_usage_is_reported(ingest, records):
    """A count of 0 that is stated is no half: an answer without output, an embedding, a cached prompt."""
    assert 0 == ingest({**OPENAI, "usage": {"prompt_tokens": 1000, "completion_tokens": 0}}, EMBEDDING)

    assert ["reported", "reported"] == [record.source for record in records()]


def test_ids_that_are_numbers(ingest, records):
    """A session or user that others number is a label."""
    assert 0 == ingest({**OPENAI, "user": 42, "session_id": 0})

    assert [("42", "0")] == [(record.user, record.session) for record in records()]


def totals_of(record):
    """Return what a counter makes of a record."""
    counter = TokenCounter()
    counter.add(record)
    return counter.snapshot()


def test_twice_is_once(ingest, records, capsys):
    """A line that the ledger has, by its id or else its text, is not added again."""
    first = ingest(OPENAI, LANGCHAIN_JS, WRAPPED, EMBEDDING)
    again = ingest(EMBEDDING, OPENAI, WRAPPED, LANGCHAIN_JS, LANGCHAIN_JS)

    assert (0, 0, 4) == (first, again, len(records()))
    assert {"chatcmpl-1", "chatcmpl-2", "run-1"} < {record.event_id for record in records()}
    assert ["4 added, 0 already there", "0 added, 5 already there"] == [
        line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()
    ]


def test_what_was_added_as_json(ingest, capsys):
    """--json has how many were added, how many the ledger had, and the bad lines."""
    statuses = ingest(OPENAI, OPENAI), ingest(OPENAI, EMBEDDING, "x", arguments=["--json"])
    told = json.loads(capsys.readouterr().out.partition("\n")[2])

    assert (0, 1) == statuses
    assert (1, 1, [3]) == (told["added"], told["already_there"], [bad["line"] for bad in told["bad"]])


def test_several_prompts_have_no_id_in_common(ingest, records):
    """A result of several prompts is known by the hash of its line: one message's id is not that of all."""
    several = {**LANGCHAIN_JS, "generations": [[{"message": MESSAGE}], [{"message": MESSAGE}]]}

    assert 0 == ingest(LANGCHAIN_JS, several)
    assert 2 == len(records())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("7", "no usage in it"),
        ('{"hello": 1}', "no usage in it"),
        ({**OPENAI, "timestamp": "never"}, "timestamp is no time: 'never'"),
        ({**OPENAI, "timestamp": 1e300}, "timestamp is no time"),
        ('{"usage": {"input_tokens": -1}, "operation": "chat", "outcome": "success"}', "usage.input_tokens: "),
        ({**OWN, "cost": "1e400"}, "cost is 1,000,000 USD or more, which no call costs"),
        ({**OWN, "saved_cost": "1e6", "outcome": "cached"}, "saved_cost is 1,000,000 USD or more"),
        ({**OWN, "cache_saved_cost": "-1e6"}, "cache_saved_cost is 1,000,000 USD or more"),
        ({**OWN, "usage": {"input_tokens": 10**16}}, "input_tokens is above 1,000,000,000,000,000"),
        ({**OWN, "started_at": "9999-12-31T23:00:00-05:00"}, "started_at is no time"),
        ({**OPENAI, "time": "0001-01-01T01:00:00+14:00"}, "time is no time"),
    ],
)
def test_bad_lines(line, reason, ingest, records, capsys):
    """A bad line is named by its number, without its text; the good ones are kept; the status is 1."""
    assert 1 == ingest(OPENAI, line, EMBEDDING)
    output = capsys.readouterr()

    assert 2 == len(records())
    assert output.out.startswith("2 added, 0 already there, 1 could not be read: the ledger ")
    assert output.err.startswith(f"line 2: {reason}")
    assert 1 == len(output.err.splitlines())


def test_bytes_that_are_no_text(tmp_path, capsys):
    """A line that is not UTF-8 is a bad line."""
    (tmp_path / "lines.jsonl").write_bytes(b'{"id": "\xff\xfe"}\n')

    assert 1 == main(["ingest", str(tmp_path / "lines.jsonl"), "--ledger", str(tmp_path / "ledger.db")])
    assert capsys.readouterr().err.startswith("line 1: no JSON")


def test_many_bad_lines(ingest, capsys):
    """Twenty bad lines are named and the others counted; --json names all."""
    statuses = ingest(*["x"] * 25), ingest(*["x"] * 25, arguments=["--json"])
    output = capsys.readouterr()

    assert (1, 1) == statuses
    assert "... and 5 more lines: --json names them all" in output.err
    assert 25 == len(json.loads(output.out[output.out.index("{") :])["bad"])


def test_standard_input(tmp_path, records, monkeypatch):
    """- is standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(OPENAI).encode())))

    assert 0 == main(["ingest", "-", "--ledger", str(tmp_path / "ledger.db")])
    assert 1 == len(records())


def test_an_export_comes_back(tmp_path, records, capsys):
    """What export --json wrote is read as it was: the same records, the same ids."""
    path = fill(tmp_path / "source.db")
    main(["export", "--json", "--ledger", str(path)])
    (tmp_path / "lines.jsonl").write_text(capsys.readouterr().out, "utf-8")

    assert 0 == main(["ingest", str(tmp_path / "lines.jsonl"), "--ledger", str(tmp_path / "ledger.db")])
    with SQLiteLedger(path) as source:
        assert list(source.records()) == records()


def test_records_without_an_id(ingest, records):
    """A record of ours without an event id is known by its line; labels and times have several spellings."""
    own = {"usage": {"input_tokens": 5}, "operation": "chat", "outcome": "success", "requests": 1}
    labelled = {**EMBEDDING, "tags": {"team": "red"}, "time": "2026-10-01T12:00", "operation": "embeddings"}

    assert (0, 0) == (ingest(own, labelled), ingest(labelled, own))
    labelled, own = records()
    assert (5, 32) == (own.usage.input_tokens, len(own.event_id))
    assert ({"team": "red"}, "2026-10-01T12:00:00+00:00") == (labelled.tags, labelled.started_at.isoformat())


def test_long_files_are_written_as_they_are_read(ingest, records, monkeypatch):
    """A file of any length fits through the ledger's queue."""
    monkeypatch.setattr(command, "FLUSH_EVERY", 2)

    assert 0 == ingest(*[{**OPENAI, "id": f"chatcmpl-{number}"} for number in range(5)])
    assert 5 == len(records())


def test_a_line_of_any_size(ingest, records, monkeypatch, capsys):
    """A line that is too long is named, and read in pieces; the lines after it keep their numbers."""
    monkeypatch.setattr(command, "LONGEST_LINE", 1000)

    assert 1 == ingest(OPENAI, "x" * 5000, EMBEDDING, '"' + "y" * 998 + '"', "z" * 5000)
    assert 2 == len(records())
    assert ["line 2: longer than 1,000 bytes", "line 4: no usage", "line 5: longer than 1,000 bytes"] == [
        line[:31] if "longer" in line else line[:16] for line in capsys.readouterr().err.splitlines()
    ]


def test_a_file_that_is_not_there(tmp_path, capsys):
    """A file that can't be read is one line with the remedy."""
    assert 1 == main(["ingest", str(tmp_path / "no.jsonl"), "--ledger", str(tmp_path / "ledger.db")])
    assert f"can't read {tmp_path / 'no.jsonl'}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(("terminal", "expected"), [(False, "1 lines ...\n2 lines ...\n"), (True, "\r2 lines.   \n")])
def test_progress(terminal, expected, capsys, monkeypatch):
    """What takes longer than a second says how far it is: in place on a terminal, else in lines."""
    monkeypatch.setattr(options, "QUIET_SECONDS", -1)
    monkeypatch.setattr(options, "TTY_SECONDS", -1)
    monkeypatch.setattr(options, "LOG_SECONDS", -1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)

    assert ["a", "b"] == list(options.shown("ab", "lines"))
    assert capsys.readouterr().err.endswith(expected)


def test_quick_work_says_nothing(capsys):
    """What is done within a second shows no progress."""
    assert ["a"] == list(options.shown("a", "lines"))
    assert "" == capsys.readouterr().err
