import io
import json
import sys

import pytest

from token_handlers.cli import main

LINE = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def batch(*bodies):
    """Return the lines of a batch file."""
    return "\n".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body})
        for number, body in enumerate(bodies)
    )


@pytest.fixture
def file(tmp_path):
    """Return what writes a file, and its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def told(arguments, capsys):
    """Return what --json says of each model."""
    assert 0 == main(["estimate", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_text(file, capsys):
    """A table says the tokens and the cost from-to, and how the tokens were counted."""
    assert 0 == main(["estimate", file("a.txt", "Hello"), "--model", "gpt-4o-mini", "--max-tokens", "1,000"])
    lines = capsys.readouterr().out.splitlines()

    assert ["Model", "Requests", "Input", "Output", "Cost (USD)"] == [
        each.strip() for each in lines[0].split("  ") if each
    ]
    assert "0 to 1,000" in lines[2]
    assert lines[2].endswith("0.0000012 to 0.0006012")
    assert lines[3].startswith("Input tokens are an estimate, counted by ")


@pytest.mark.parametrize(
    ("name", "content", "tokens"),
    [
        ("a.txt", "Hello", 8),
        ("a.json", json.dumps([{"role": "user", "content": "Hello"}]), 8),
        ("a.json", json.dumps(["Hello"]), 8),
        ("a.json", json.dumps({"role": "user", "content": "Hello"}), 8),
        ("a.json", json.dumps({"messages": [{"role": "user", "content": "Hello"}]}), 8),
        ("a.txt", json.dumps("Hello"), 10),
        ("a", "\ufeffHello", 8),
    ],
)
def test_what_a_file_may_hold(name, content, tokens, file, capsys):
    """A text, a list of messages, one message or a request is counted as what it is."""
    (found,) = told([file(name, content), "--model", "gpt-4o-mini"], capsys)

    assert (tokens, None) == (found["input_tokens"], found["cost"]["to"])


@pytest.mark.parametrize("name", ["batch.jsonl", "batch"])
def test_a_batch_file(name, file, capsys):
    """The requests of a batch file are summed by model, with their own limits, at half the price."""
    text = batch({**LINE, "max_tokens": 100}, {**LINE, "n": 2, "max_completion_tokens": 50}, {**LINE, "model": "gpt-5"})
    mini, gpt5 = told([file(name, text), "--max-tokens", "10"], capsys)

    assert (2, "gpt-4o-mini", 16, {"from": 0, "to": 200}) == (
        mini["requests"], mini["model"], mini["input_tokens"], mini["output_tokens"],
    )  # fmt: skip
    assert ({"from": "0.0000012", "to": "0.0000612"}, 10) == (mini["cost"], gpt5["output_tokens"]["to"])


def test_standard_input_and_another_model(monkeypatch, capsys):
    """- is standard input; --model is instead of what the requests name."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(batch(LINE, LINE).encode())))
    (found,) = told(["-", "--model", "openai/gpt-4o", "--tier", "default"], capsys)

    assert (2, "gpt-4o", "0.00004") == (found["requests"], found["model"], found["cost"]["from"])


def test_a_limit_that_is_not_there(file, capsys):
    """Without a limit the most is unknown, which is said on stderr; the least is a cost, so the status is 0."""
    assert 0 == main(["estimate", file("a.txt", "Hello"), "--model", "gpt-4o-mini"])
    output = capsys.readouterr()

    assert "0 to any number  0.0000012 to unknown" in output.out
    assert "token-handlers: gpt-4o-mini: the answer may be of any length: max_tokens bounds it\n" == output.err


def test_a_model_that_is_mistyped(file, capsys):
    """The tokens are printed, the cost is unknown, what may be meant is asked, and the status is 1."""
    assert 1 == main(["estimate", file("a.txt", "Hello"), "--model", "gpt-4o-mni"])
    output = capsys.readouterr()

    assert "unknown" in output.out
    assert "did you mean gpt-4o-mini" in output.err


@pytest.mark.parametrize(
    ("name", "content", "status", "error"),
    [
        ("a.txt", "", 1, "is empty: estimate takes a text, a list of messages or a batch file"),
        ("a.txt", " \n", 1, "is empty"),
        ("a.json", '[{"role":', 1, "is no JSON: "),
        ("a.jsonl", '{"custom_id": "1"}\n', 1, "line 1 is no request: a line of a batch file is "),
        ("a.jsonl", batch(LINE) + "\nHello", 1, "line 2 is no JSON: "),
        ("a.bin", b"\xff\xfe\x00", 1, "is no text in UTF-8: byte 0 can't be read"),
        ("a.json", "[5]", 1, "estimate() takes a text, messages of LangChain or LlamaIndex"),
    ],
)
def test_a_file_that_can_not_be_read(name, content, status, error, file, capsys):
    """What is wrong with a file is one line, with what belongs there."""
    assert status == main(["estimate", file(name, content), "--model", "gpt-4o"])
    output = capsys.readouterr().err

    assert error in output
    assert 1 == len(output.splitlines())


def test_what_is_missing(file, capsys, tmp_path):
    """A file that is not there, and a text without a model, say what to do."""
    assert 1 == main(["estimate", str(tmp_path / "no.txt"), "--model", "gpt-4o"])
    assert "No such file or directory: name a file, or - for standard input" in capsys.readouterr().err
    assert 2 == main(["estimate", file("a.txt", "Hello")])
    assert "the file names no model: add --model, such as --model gpt-4o-mini" in capsys.readouterr().err
