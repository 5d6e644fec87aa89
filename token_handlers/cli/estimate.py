"""token-handlers estimate: what a prompt, a list of messages or a batch file will cost, before it is sent."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from token_handlers.cli.options import (
    Commands,
    WrongUsage,
    add_json,
    count,
    print_json,
    print_table,
    shown,
    use_newest_prices,
)
from token_handlers.counter.tables import money
from token_handlers.errors import TokenHandlersError

if TYPE_CHECKING:
    from token_handlers.reporting.foresight import CallEstimate

BATCH_TIER = "batch"
"""The tier of the requests in a batch file: providers bill them at half the price."""

_SCHEMA_KEYS = ("messages", "input", "contents", "prompt")


Number = TypeVar("Number", int, Decimal)


class PlannedCall(NamedTuple):
    """One call that is to be made: its prompt as `estimate` takes it, and what the request says itself."""

    messages: object
    model: str | None = None
    tools: tuple[object, ...] = ()
    max_tokens: int | None = None
    tier: str | None = None
    provider: str | None = None


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "estimate",
        help="what a prompt or a batch file will cost",
        description="Tokens and USD from-to, before anything is sent. FILE is a text, a JSON list of messages, a "
        "request as a provider's API takes it, or a batch file (.jsonl) of OpenAI's requests, at the price of a batch. "
        "The least is an answer of no tokens, the most one of --max-tokens.",
    )
    parser.add_argument("file", metavar="FILE", help="the file; - is standard input")
    parser.add_argument("--model", metavar="M", help="the model, or PROVIDER/MODEL; requests name their own")
    parser.add_argument("--provider", metavar="P", help="whose model it is, where that is not plain")
    parser.add_argument(
        "--max-tokens", metavar="N", type=count, help="the longest answer, where a request has no limit"
    )
    parser.add_argument("--tier", metavar="NAME", help="the service tier, such as flex (a batch file's is batch)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the estimates, one a model; the status is 1 where a cost is not known."""
    use_newest_prices()
    sums: dict[str, CallEstimate] = {}
    numbers: dict[str, int] = {}
    for request in shown(_requests(options.file), "requests"):
        found = _estimated(request, options)
        name = found.model if found.provider is None else f"{found.provider}/{found.model}"
        sums[name] = _both(sums[name], found) if name in sums else found
        numbers[name] = numbers.get(name, 0) + 1
    if options.json:
        print_json([{"requests": numbers[name], **_plain(each)} for name, each in sums.items()])
    else:
        _print(sums, numbers)
    return 0 if all(each.min_cost is not None for each in sums.values()) else 1


def _estimated(request: PlannedCall, options: argparse.Namespace) -> "CallEstimate":
    from token_handlers.reporting.foresight import estimate

    model = options.model or request.model
    if model is None:
        raise WrongUsage("the file names no model: add --model, such as --model gpt-4o-mini")
    try:
        return estimate(
            model,
            request.messages,
            tools=request.tools,
            max_tokens=options.max_tokens if request.max_tokens is None else request.max_tokens,
            provider=options.provider or (request.provider if options.model is None else None),
            service_tier=options.tier or request.tier,
        )
    except TypeError as error:
        raise TokenHandlersError(f"{options.file}: {error}") from None


def _both(one: "CallEstimate", other: "CallEstimate") -> "CallEstimate":
    """Return the sum of two estimates of a model; what is not known of one is not known of both."""
    return replace(
        one,
        input_tokens=one.input_tokens + other.input_tokens,
        min_output_tokens=one.min_output_tokens + other.min_output_tokens,
        max_output_tokens=_sum(one.max_output_tokens, other.max_output_tokens),
        min_cost=_sum(one.min_cost, other.min_cost),
        max_cost=_sum(one.max_cost, other.max_cost),
        doubts=tuple(dict.fromkeys((*one.doubts, *other.doubts))),
        method=" and ".join(dict.fromkeys((*one.method.split(" and "), other.method))),
        reason=one.reason or other.reason,
    )


def _sum(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else one + other


def _print(sums: Mapping[str, "CallEstimate"], numbers: Mapping[str, int]) -> None:
    from token_handlers.reporting.foresight import from_to

    rows = []
    for name, each in sums.items():
        most = "any number" if each.max_output_tokens is None else f"{each.max_output_tokens:,}"
        output = "0" if most == "0" else f"{each.min_output_tokens:,} to {most}"
        rows.append((name, numbers[name], each.input_tokens, output, from_to(each.min_cost, each.max_cost)))
    print_table(("Model", "Requests", "Input", "Output", "Cost (USD)"), rows)
    print(f"Input tokens are an estimate, counted by {' and '.join({each.method: 1 for each in sums.values()})}.")
    for each in sums.values():
        for text in (*([each.reason] if each.reason else []), *each.doubts):
            print(f"token-handlers: {each.model}: {text}", file=sys.stderr)


def _plain(found: "CallEstimate") -> dict[str, object]:
    least, most = (None if cost is None else money(cost) for cost in (found.min_cost, found.max_cost))
    return {
        "model": found.model,
        "provider": found.provider,
        "input_tokens": found.input_tokens,
        "output_tokens": {"from": found.min_output_tokens, "to": found.max_output_tokens},
        "cost": {"from": least, "to": most},
        "reason": found.reason,
        "method": found.method,
        "doubts": list(found.doubts),
    }


def _requests(name: str) -> Iterator[PlannedCall]:
    """Yield the requests of a file; raises TokenHandlersError where there is none."""
    text = _read(name)
    if not text.strip():
        raise TokenHandlersError(f"{name} is empty: estimate takes a text, a list of messages or a batch file")
    kind = Path(name).suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        yield from _lines(name, text)
        return
    try:
        value = json.loads(text)
    except ValueError as error:
        if kind == ".json":
            raise TokenHandlersError(f"{name} is no JSON: {error}: a text goes into a file of another name") from None
        yield from _lines(name, text) if _is_batch(text) else [PlannedCall(text)]
        return
    if isinstance(value, Mapping) and any(key in value for key in (*_SCHEMA_KEYS, "body")):
        yield _request(value)
    elif isinstance(value, list):
        yield PlannedCall(value)
    else:
        yield PlannedCall(value if isinstance(value, Mapping) else text)


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise TokenHandlersError(f"can't read {name}: {error.strerror}: name a file, or - for standard input") from None
    except UnicodeDecodeError as error:
        raise TokenHandlersError(f"{name} is no text in UTF-8: byte {error.start} can't be read") from None


def _is_batch(text: str) -> bool:
    """Return whether a text begins with a line that is a request by itself."""
    try:
        first = json.loads(text.lstrip().partition("\n")[0])
    except ValueError:
        return False
    return isinstance(first, Mapping) and any(key in first for key in (*_SCHEMA_KEYS, "body"))


def _lines(name: str, text: str) -> Iterator[PlannedCall]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise TokenHandlersError(f"{name}, line {number} is no JSON: {error}") from None
        if not isinstance(value, Mapping) or not any(key in value for key in (*_SCHEMA_KEYS, "body")):
            raise TokenHandlersError(
                f"{name}, line {number} is no request: a line of a batch file is "
                '{"custom_id": ..., "body": {"model": ..., "messages": [...]}}'
            )
        yield _request(value)


def _request(value: Mapping[str, object]) -> PlannedCall:
    """Return what a request says, as a provider's API takes it or as a line of a batch file."""
    from token_handlers.http.requests import read_parameters

    body = value.get("body")
    is_batch = isinstance(body, Mapping)
    body = body if isinstance(body, Mapping) else value
    known = read_parameters("https://api.openai.com/v1", "/chat/completions", {"messages": [], **body})
    stated = None if known is None else known.most_output_tokens
    answers = body.get("n")
    tools = body.get("tools")
    return PlannedCall(
        messages=_prompt(body),
        model=None if known is None else known.model,
        tools=tuple(tools) if isinstance(tools, list) else (),
        max_tokens=stated if stated is None or type(answers) is not int or answers < 1 else stated * answers,
        tier=BATCH_TIER if is_batch else None if known is None else known.service_tier,
        provider="openai" if is_batch else None,
    )


def _prompt(body: Mapping[str, object]) -> object:
    from token_handlers.tokenizer.plain_messages import request_messages

    texts = body.get("input")
    if "embed" in str(body.get("model")).lower() and isinstance(texts, str | list):
        return texts
    return request_messages(body)
