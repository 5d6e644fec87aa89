"""What runs inside each environment of versions.py: real clients, counted in every way, beside the server's bill.

A check is a function of a channel of the loopback server, which fails by raising. Whatever token_handlers logs as an
error, or LangChain about a handler, fails the check in which it happened.
"""

import importlib
import itertools
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from tests.support.bills import billed, counted
from token_handlers import BudgetExceeded, install, shared_counter, track_tokens, uninstall
from token_handlers.demo.server.server import Channel, LedgerServer

NEAR = 0.3
"""How far an estimate may be from the bill, as a share of it."""


class Watch(NamedTuple):
    """Who counts what happens now, and the handlers that the calls are to be given."""

    counters: list[Any]
    handlers: list[Any]


Check = Callable[[Channel], object]
Way = Callable[[], AbstractContextManager[Watch]]
Call = Callable[[Channel, list[Any]], object]
Expected = Callable[[Channel, Any], None]

_faults: list[str] = []


@contextmanager
def automatic() -> Iterator[Watch]:
    """Count by AGENTSIGHT_TOKEN_HANDLER_TYPE, which `main` has set before any framework was imported."""
    install()
    shared_counter().reset()
    try:
        yield Watch([shared_counter()], [])
    finally:
        uninstall()


@contextmanager
def block() -> Iterator[Watch]:
    """Count by a with block."""
    with track_tokens() as counter:
        yield Watch([counter], [])


@contextmanager
def together(*ways: Way) -> Iterator[Watch]:
    """Count in several ways at once."""
    if not ways:
        yield Watch([], [])
        return
    with ways[0]() as first, together(*ways[1:]) as others:
        yield Watch(first.counters + others.counters, first.handlers + others.handlers)


def exact(ledger: Channel, counter: Any) -> None:
    """Expect what was billed, to the last token, with a price."""
    same(billed(ledger), counted(counter))
    same(ledger.total().embedding_tokens, counter.embedding_tokens)
    same((0, 0), (counter.estimated_requests, counter.unpriced_requests))


def estimated(ledger: Channel, counter: Any) -> None:
    """Expect as many requests as were billed, each flagged as an estimate and near the bill."""
    bill = ledger.total()
    same((bill.requests, bill.requests), (counter.successful_requests, counter.estimated_requests))
    for paid, guess in (
        (bill.prompt_tokens, counter.prompt_tokens),
        (bill.completion_tokens, counter.completion_tokens),
    ):
        if abs(paid - guess) > NEAR * paid:
            raise AssertionError(f"an estimate of {guess} tokens, where {paid} were billed")


def same(expected: object, actual: object) -> None:
    """Expect two values to be equal."""
    if expected != actual:
        raise AssertionError(f"expected {expected}, not {actual}")


def refuses(call: Callable[[], object]) -> None:
    """Expect a budget to refuse a call."""
    try:
        call()
    except BudgetExceeded:
        return
    raise AssertionError("a call beyond the budget was sent")


def every(ways: Mapping[str, Way], calls: Mapping[str, Call], expected: Expected) -> dict[str, Check]:
    """Return a check for each way to count each call."""
    pairs = itertools.product(ways.items(), calls.items())
    return {f"{call_name}, {way_name}": _check(way, call, expected) for (way_name, way), (call_name, call) in pairs}


def _check(way: Way, call: Call, expected: Expected) -> Check:
    def check(ledger: Channel) -> None:
        with way() as watch:
            call(ledger, watch.handlers)
        if not ledger.entries():
            raise AssertionError("nothing reached the server")
        for counter in watch.counters:
            expected(ledger, counter)

    return check


class _Faults(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said = self.format(record)
        if BudgetExceeded.__name__ not in said:  # LangChain logs what it raises
            _faults.append(said)


def _listen() -> None:
    for name, level in (("token_handlers", logging.ERROR), ("langchain_core.callbacks.manager", logging.WARNING)):
        logging.getLogger(name).addHandler(_Faults(level))


def _run(check: Check, ledger: Channel) -> str:
    """Return what went wrong, or nothing."""
    _faults.clear()
    try:
        check(ledger)
    except AssertionError as error:
        _faults.append(str(error))
    except Exception:  # noqa: BLE001 (whatever it is, the other checks run)
        _faults.append(traceback.format_exc())
    return "\n".join(_faults)


def main(*modules: str) -> None:
    """Run the checks of these modules and print, as JSON, how many there were and what went wrong."""
    os.environ["AGENTSIGHT_TOKEN_HANDLER_TYPE"] = "auto"
    importlib.import_module("token_handlers.auto")
    _listen()
    checks = {
        f"{name}: {title}": check
        for name in modules
        for title, check in importlib.import_module(f"tests.compat.versions_{name}").CHECKS.items()
    }
    with LedgerServer() as server:
        wrong = {title: _run(check, server.channel(title, close=1)) for title, check in checks.items()}
    print(json.dumps({"checks": len(checks), "failed": {title: said for title, said in wrong.items() if said}}))
