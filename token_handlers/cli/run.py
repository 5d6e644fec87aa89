"""token-handlers run: any program, unchanged, and what it used at its end."""

import argparse
import atexit
import contextlib
import json
import os
import signal
import sys
import threading
from types import FrameType

from token_handlers.budget.budget import Budget
from token_handlers.cli.child_processes import ChildRun, Others, begin, collect, make_folder
from token_handlers.cli.live_line import LiveLine
from token_handlers.cli.options import Commands, WrongUsage, add_json, add_ledger, ledger_name
from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import BARE
from token_handlers.reporting.text import totals_json, totals_text
from token_handlers.sinks.configured import add_configured_sinks, configured_fleet, configured_ledger
from token_handlers.tracking import recorder
from token_handlers.tracking.track_tokens import RESERVED

LAST_SECONDS = 5.0
"""How long a program that is ended by SIGTERM goes on, to write its records and the table."""

OWN_OPTIONS = ("--ledger", "--budget", "--session", "--user", "--tag", "--report-stream-usage", "--live")
"""Options that are ours; after the program's name they are the program's, which is hinted at."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="run a Python program, unchanged, and say what it used",
        usage="token-handlers run [OPTION ...] (SCRIPT | COMMAND | -m MODULE | -c CODE)\n"
        "                          [ARGUMENT ...]",
        description="Run a program with automatic tracking on: a script, an installed command such as uvicorn, or "
        "`python ...`. What its calls used and cost, those of the Python processes that it starts included, comes on "
        "stderr when it ends, however it ends; its exit status is its own. Our options stand before the program.",
        allow_abbrev=False,
    )
    add_ledger(parser)
    add_json(parser)
    parser.add_argument(
        "--budget",
        metavar="USD",
        type=_budget,
        help="send no call that would take a process's cost beyond this; it raises BudgetExceeded in the program; "
        "each process that the program starts may spend as much again",
    )
    parser.add_argument("--session", metavar="NAME", type=_name, help="label the calls that have no session")
    parser.add_argument("--user", metavar="NAME", type=_name, help="label the calls that have no user")
    parser.add_argument(
        "--tag", metavar="NAME=VALUE", type=_tag, action="append", default=[], help="label the calls; may be repeated"
    )
    parser.add_argument(
        "--report-stream-usage",
        action="store_true",
        help="make each stream of ChatOpenAI and LlamaIndex's OpenAI ask for its usage, which is then exact",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="on a terminal, show what its calls have used so far in the last row; those of other processes at its end",
    )
    parser.add_argument("-m", dest="module", metavar="MODULE ...", nargs=argparse.REMAINDER, help="run a module")
    parser.add_argument("-c", dest="code", metavar="CODE ...", nargs=argparse.REMAINDER, help="run a line of code")
    parser.add_argument("program", metavar="SCRIPT ...", nargs=argparse.REMAINDER, help="a file or a command")
    parser.set_defaults(run=run)


def _budget(text: str) -> str:
    try:
        Budget(max_cost=text, scope="run")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"USD, more than 0, not {text!r}") from error
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"a name with something in it, not {text!r}")
    return text


def _tag(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or name in RESERVED:
        raise argparse.ArgumentTypeError(f"a tag such as team=search, whose name is not one of {', '.join(RESERVED)}")
    return name, value or BARE


def run(options: argparse.Namespace) -> int:
    """Run the program in this process; what ends it goes on to the interpreter as if it had been started by itself.

    A command that is no Python program runs in a process of its own.
    """
    from token_handlers.cli.programs import find_program, run_program

    words = options.program
    if options.module is not None:
        words = ["-m", *options.module]
    elif options.code is not None:
        words = ["-c", *options.code]
    if not words:
        raise WrongUsage(
            "run needs a program: token-handlers run script.py, token-handlers run uvicorn app:app, "
            "token-handlers run -m module, or token-handlers run -c code"
        )
    load = find_program(*words)
    _track(options, _misplaced(words))
    return run_program(load)


def _misplaced(words: list[str]) -> list[str]:
    """Return the options of ours that stand after the program's name."""
    return [name for name in OWN_OPTIONS if any(word.partition("=")[0] == name for word in words[1:])]


def _track(options: argparse.Namespace, misplaced: list[str]) -> None:
    """Start tracking; what is registered first at exit is called last, after the program's own functions."""
    counter = TokenCounter()
    live = LiveLine(counter) if options.live else None
    closing = _Closing(counter, misplaced, live, as_json=options.json)
    atexit.register(closing)
    if options.ledger:
        # So that a ConversationTracker in the program, and programs that it starts, have the same ledger.
        os.environ["AGENTSIGHT_TOKEN_LEDGER"] = ledger_name(options)
    try:
        _add_sinks()
        closing.run = ChildRun(
            folder=make_folder(),
            budget=options.budget,
            session=options.session,
            user=options.user,
            tags=dict(options.tag),
            report_stream_usage=options.report_stream_usage,
        )
        begin(closing.run, counter, closing.finish)
    except BaseException:
        atexit.unregister(closing)
        raise
    if live is not None:
        live.start()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, closing.terminate)


def _add_sinks() -> None:
    """Add the sinks that the environment names; one that is misspelt there is wrong usage."""
    try:
        add_configured_sinks()
    except ValueError as error:
        raise WrongUsage(str(error)) from None


class _Closing:
    """What is left to do when the program has ended: say what it used, once, in the process that ran it."""

    run: ChildRun | None = None

    def __init__(
        self, counter: TokenCounter, misplaced: list[str], live: LiveLine | None = None, *, as_json: bool
    ) -> None:
        self._counter, self._misplaced, self._live, self._as_json = counter, misplaced, live, as_json
        self._process, self._stream = os.getpid(), sys.stderr

    def __call__(self) -> None:
        process, self._process = self._process, -1
        if os.getpid() == process and self.run is not None:
            if self._live is not None:
                self._live.stop()
            sinks = [sink for sink in (configured_ledger(), configured_fleet()) if sink is not None]
            others = collect(self.run, [self._counter.add, *sinks])
            with contextlib.suppress(OSError, ValueError):  # the program may have closed it
                print(self._text(others), file=self._stream, flush=True)

    def terminate(self, signal_number: int, frame: FrameType | None) -> None:
        """Do it before a signal ends the process, in a thread: this one may be inside a lock that it needs."""
        thread = threading.Thread(target=self.finish, daemon=True)
        thread.start()
        thread.join(LAST_SECONDS)
        signal.signal(signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), signal_number)

    def finish(self) -> None:
        """Write what is not written yet, also in a forked child, and in the program's own process the table."""
        recorder.record_open_calls()
        ledger = configured_ledger()
        if ledger is not None:
            ledger.flush(LAST_SECONDS)
        self()

    def _text(self, others: Others) -> str:
        models, total = self._counter.by_model, self._counter.snapshot()
        if self._as_json:
            told = totals_json("model", models, total)
            told["other_processes"] = others._asdict()
            return json.dumps(told, indent=2, ensure_ascii=False)
        notes = [f"token-handlers: {note}" for note in _notes(others, self._misplaced)]
        if not models:
            none = "token-handlers: no call of LangChain or LlamaIndex was seen: `token-handlers doctor` says why"
            return "\n".join([*notes, none])
        return "\n".join([f"\n{totals_text('model', models, total)}", *notes])


def _notes(others: Others, misplaced: list[str]) -> list[str]:
    """Return what is to be said of other processes, and of options that the program got."""
    notes = []
    if others.counted:
        notes.append(f"the calls of {_processes(others.counted)} that it started are included")
    if others.running:
        go = "goes" if others.running == 1 else "go"
        notes.append(f"{_processes(others.running)} that it started {go} on: later calls are not included")
    notes += [f"not tracked: {process}" for process in others.unfollowed]
    if misplaced:
        notes.append(f"{', '.join(misplaced)} stood after the program, which got it: our options stand before it")
    return notes


def _processes(number: int) -> str:
    return f"{number:,} process{'' if number == 1 else 'es'}"
