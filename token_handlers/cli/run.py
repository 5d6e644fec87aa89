"""token-handlers run: any program, unchanged, and what it used at its end."""

import argparse
import atexit
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from token_handlers.budget.budget import Budget
from token_handlers.cli.options import Commands, WrongUsage, add_json, add_ledger
from token_handlers.counter.counter import TokenCounter
from token_handlers.install import install
from token_handlers.reporting.text import totals_json, totals_text
from token_handlers.sessions import Ledger, configured_ledger
from token_handlers.tracking import recorder

LAST_SECONDS = 5.0
"""How long a program that is ended by SIGTERM goes on, to write its records and the table."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="run a Python program, unchanged, and say what it used",
        usage="token-handlers run [-h] [--ledger PATH] [--budget USD] [--json] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        description="Run a Python program with automatic tracking on. What its calls used and cost comes on stderr "
        "when it ends, however it ends; its exit status is its own. Processes that it starts are not tracked.",
        allow_abbrev=False,
    )
    add_ledger(parser)
    add_json(parser)
    parser.add_argument(
        "--budget",
        metavar="USD",
        type=_budget,
        help="send no call that would take the program's cost beyond this; it raises BudgetExceeded in the program",
    )
    parser.add_argument("-m", dest="module", metavar="MODULE ...", nargs=argparse.REMAINDER, help="run a module")
    parser.add_argument("program", metavar="SCRIPT ...", nargs=argparse.REMAINDER, help="a file, its arguments after")
    parser.set_defaults(run=run)


def _budget(text: str) -> Budget:
    try:
        return Budget(max_cost=text, scope="run")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"USD, more than 0, not {text!r}") from error


def run(options: argparse.Namespace) -> int:
    """Run the program in this process; what ends it goes on to the interpreter as if it had been started by itself."""
    from token_handlers.cli.programs import module, run_program, script

    if not (options.module or options.program):
        raise WrongUsage("run needs a program: token-handlers run script.py, or token-handlers run -m module")
    load = module(*options.module) if options.module else script(*options.program)
    _track(options)
    run_program(load)
    return 0


def _track(options: argparse.Namespace) -> None:
    """Start tracking; what is registered first at exit is called last, after the program's own functions."""
    counter = TokenCounter()
    closing = _Closing(counter, as_json=options.json)
    atexit.register(closing)
    if options.ledger:
        # So that a ConversationTracker in the program, and programs that it starts, have the same ledger.
        os.environ["AGENTSIGHT_TOKEN_LEDGER"] = str(Path(options.ledger).expanduser().absolute())
    try:
        closing.ledger = configured_ledger()
    except BaseException:
        atexit.unregister(closing)
        raise
    recorder.add_sink(counter.add)
    install("auto", budget=options.budget)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, closing.terminate)


class _Closing:
    """What is left to do when the program has ended: say what it used, once, in the process that ran it."""

    def __init__(self, counter: TokenCounter, *, as_json: bool) -> None:
        self.ledger: Ledger | None = None
        self._counter, self._as_json = counter, as_json
        self._process, self._stream = os.getpid(), sys.stderr

    def __call__(self) -> None:
        process, self._process = self._process, -1
        if os.getpid() == process:
            with contextlib.suppress(OSError, ValueError):  # the program may have closed it
                print(self._text(), file=self._stream, flush=True)

    def terminate(self, signal_number: int, frame: FrameType | None) -> None:
        """Do it before a signal ends the process, in a thread: this one may be inside a lock that it needs."""
        if os.getpid() == self._process:
            thread = threading.Thread(target=self._finish, daemon=True)
            thread.start()
            thread.join(LAST_SECONDS)
        signal.signal(signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), signal_number)

    def _finish(self) -> None:
        recorder.record_open_calls()
        if self.ledger is not None:
            self.ledger.flush(LAST_SECONDS)
        self()

    def _text(self) -> str:
        models, total = self._counter.by_model, self._counter.snapshot()
        if self._as_json:
            return json.dumps(totals_json("model", models, total), indent=2, ensure_ascii=False)
        if not models:
            return "token-handlers: no call of LangChain or LlamaIndex was seen: `token-handlers doctor` says why"
        return f"\n{totals_text('model', models, total)}"
