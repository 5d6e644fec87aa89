"""What `run` does in each process of the program: track it, label its records, and bring them to the closing table.

The program's own process adds them to a counter. Others, forked or started, write each record to a file of theirs in
the run's folder, at once, so that a kill -9 loses none; the closing reads these files. A started process finds
`on_python_path/sitecustomize.py`, as PYTHONPATH leads there, and in TOKEN_HANDLERS_RUN what to do.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import wrapt
from pydantic import BaseModel, ConfigDict, ValidationError

from token_handlers.budget.budget import Budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import WHY, TokenHandlersError
from token_handlers.install import install
from token_handlers.sinks.configured import add_configured_sinks, configured_fleet, configured_ledger
from token_handlers.tracking.recorder import add_sink, remove_sink
from token_handlers.usage import UsageRecord

try:
    import fcntl
except ImportError:  # Windows, where nobody is said to still run
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("token_handlers")

VARIABLE = "TOKEN_HANDLERS_RUN"
"""Has a JSON list of `ChildRun`: one, or more where one run starts another."""

SITE = str(Path(__file__).with_name("on_python_path"))

_FLUSH_EVERY = 5_000
"""Records after which sinks write what was given to them: a ledger lets only so many wait."""

_FLUSH_SECONDS = 5.0

_STREAMS = {"langchain": "langchain_openai.chat_models.base", "llama_index": "llama_index.llms.openai.base"}
"""Our package -> the module whose streams are made to ask for their usage."""

_STARTS = {"subprocess.Popen": (0, 1, 3), "os.posix_spawn": (0, 1, 2), "os.exec": (0, 1, 2)}
"""Audit events of a start -> where the command, its words and its environment stand among their arguments."""

_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")


class ChildRun(BaseModel):
    """One `token-handlers run`: where its records go, and what holds for all calls of the program."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    folder: Path
    budget: str | None = None
    session: str | None = None
    user: str | None = None
    tags: Mapping[str, str] = {}
    report_stream_usage: bool = False

    @property
    def has_labels(self) -> bool:
        """Return whether the run labels its calls."""
        return bool(self.session or self.user or self.tags)

    def labelled(self, record: UsageRecord) -> UsageRecord:
        """Return the record with the run's labels where the program gave it none."""
        if not self.has_labels:
            return record
        labels = {"session": record.session or self.session, "user": record.user or self.user}
        return record.model_copy(update={**labels, "tags": {**self.tags, **record.tags}})


class Records:
    """The sink of a run: a counter in the program's own process, a file for each of the others."""

    def __init__(self, run: ChildRun, counter: TokenCounter | None = None) -> None:
        self._run = run
        self._counter, self._owner = counter, os.getpid()
        self._file, self._writer = -1, -1

    def __call__(self, record: UsageRecord) -> None:
        """Take a record."""
        record = self._run.labelled(record)
        if self._counter is not None and os.getpid() == self._owner:
            self._counter.add(record)
            return
        with contextlib.suppress(OSError):  # the run has ended, and with it its folder
            os.write(self.open(), record.model_dump_json().encode() + b"\n")

    def open(self) -> int:
        """Return this process's file; its lock says that the process lives."""
        if self._writer != os.getpid():  # the first use, also after a fork
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(self._run.folder / f"{os.getpid()}.jsonl", flags, 0o600)
            self._writer = os.getpid()
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_SH)
        return self._file


class _Labelling:
    """A configured sink, which gets the records with the run's labels."""

    def __init__(self, run: ChildRun, sink: Callable[[UsageRecord], object]) -> None:
        self._run, self._sink = run, sink

    def __call__(self, record: UsageRecord) -> None:
        self._sink(self._run.labelled(record))


class Others(NamedTuple):
    """What is known of the program's other processes: how many made calls, how many still run, who was not tracked."""

    counted: int
    running: int
    unfollowed: list[str]


def begin(run: ChildRun, counter: TokenCounter, before_exec: Callable[[], object]) -> None:
    """Track this process, which is the program's own, and have those that it starts tracked."""
    _track(run, Records(run, counter))
    runs = [*_runs(), run]
    os.environ[VARIABLE] = json.dumps([each.model_dump(mode="json") for each in runs])
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", SITE)]
    os.environ["PYTHONPATH"] = os.pathsep.join([SITE, *path])
    _watch_starts(os.getpid(), before_exec)


def start_here() -> None:
    """Track this process, which a tracked one has started; what goes wrong is logged, and the process goes on."""
    for run in _runs():
        records = Records(run)
        with contextlib.suppress(OSError):
            records.open()
        try:
            _track(run, records)
        except TokenHandlersError as error:  # the closing gives the ledger what is missing there
            logger.warning("%s (%s)", error, WHY)
    _watch_starts(-1, lambda: None)


def make_folder() -> Path:
    """Return a new folder for the files of a run, which only this user may read."""
    return Path(tempfile.mkdtemp(prefix="token-handlers-run-"))


def collect(run: ChildRun, sinks: Sequence[Callable[[UsageRecord], object]]) -> Others:
    """Give the records of the program's other processes to sinks, and remove the run's folder.

    A ledger or a fleet knows by its event id a record that the process itself has given to it.
    """
    counted = running = 0
    files = sorted(run.folder.glob("*.jsonl"))
    for path in files:
        running += _is_alive(path)
        number = 0
        for number, record in enumerate(_records(path), 1):
            for sink in sinks:
                sink(record)
            if number % _FLUSH_EVERY == 0:
                _flush(sinks)
        counted += number > 0
    _flush(sinks)
    try:
        unfollowed = (run.folder / "unfollowed").read_text("utf-8").splitlines()
    except OSError:
        unfollowed = []
    shutil.rmtree(run.folder, ignore_errors=True)
    return Others(counted, running, list(dict.fromkeys(unfollowed)))


def _runs() -> list[ChildRun]:
    """Return the runs that this process is a part of, the outermost first."""
    try:
        return [ChildRun.model_validate(each) for each in json.loads(os.environ.get(VARIABLE) or "[]")]
    except (ValueError, TypeError):
        return []


def _track(run: ChildRun, records: Records) -> None:
    add_sink(records)
    if run.has_labels:
        for sink in (configured_ledger(), configured_fleet()):
            if sink is not None:
                remove_sink(sink)
                add_sink(_Labelling(run, sink))
    else:
        add_configured_sinks()
    install("auto", budget=None if run.budget is None else Budget(max_cost=run.budget, scope="run"))
    if run.report_stream_usage:
        for name, module in _STREAMS.items():
            wrapt.register_post_import_hook(f"token_handlers.{name}.every_stream:attach", module)


def _records(path: Path) -> Iterator[UsageRecord]:
    with path.open("rb") as file:
        for line in file:
            try:
                yield UsageRecord.model_validate_json(line)
            except ValidationError:  # a process was killed while it wrote
                continue


def _is_alive(path: Path) -> bool:
    """Return whether the process that writes a file lives, and so holds its lock."""
    if fcntl is None:
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _flush(sinks: Sequence[Callable[[UsageRecord], object]]) -> None:
    for sink in sinks:
        flush = getattr(sink, "flush", None)
        if flush is not None:
            flush(timeout=_FLUSH_SECONDS)


def _watch_starts(owner: int, before_exec: Callable[[], object]) -> None:
    """Note the Python processes that are started so that they can't be tracked, and finish before an exec of ours."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _STARTS:
            with contextlib.suppress(Exception):  # the program starts its process whatever happens here
                command, argv, environment = (arguments[position] for position in _STARTS[event])
                if event == "os.exec" and os.getpid() == owner:
                    before_exec()
                process = _unfollowed(command, argv, environment)
                if process is not None:
                    _note(process)

    sys.addaudithook(hook)


def _unfollowed(command: object, argv: object, environment: object) -> str | None:
    """Return what a Python process is called that will not find our sitecustomize, None for any other process."""
    words = [os.fsdecode(word) for word in argv] if isinstance(argv, list | tuple) else []
    name = os.fsdecode(command) if isinstance(command, str | bytes | os.PathLike) else (words or [""])[0]
    if not _PYTHON.fullmatch(Path(name).name):
        return None
    flags = "".join(word[1:] for word in itertools.takewhile(_is_flag, words[1:]))
    if set(flags) & set("IES"):
        return f"{name} -{flags}, which reads no PYTHONPATH or no sitecustomize"
    given = environment if isinstance(environment, Mapping) else os.environ
    path = next((os.fsdecode(value) for name, value in given.items() if os.fsdecode(name) == "PYTHONPATH"), "")
    return None if SITE in path.split(os.pathsep) else f"{name}, started with a PYTHONPATH of its own"


def _is_flag(word: str) -> bool:
    return re.fullmatch("-[a-zA-Z]+", word) is not None and word[1] not in "cmWX"


def _note(process: str) -> None:
    for run in _runs():
        with contextlib.suppress(OSError), (run.folder / "unfollowed").open("a", encoding="utf-8") as file:
            file.write(f"{process}\n")
