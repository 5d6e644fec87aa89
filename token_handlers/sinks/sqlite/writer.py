"""Records on their way to the ledger: a bounded queue, and the thread that writes it in batches and tries again."""

import logging
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.sqlite.location import explained
from token_handlers.usage import UsageRecord

logger = logging.getLogger("token_handlers")

MAX_WAITING = 20_000
"""How many records may wait while the file can't be written (some 50 MB); what comes beyond is lost, and counted."""

BATCH = 512
LINGER_SECONDS = 0.02
"""How long a record waits for others to be written with it."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""How long to wait after a write that failed; each time twice as long."""

END_SECONDS = 30.0
"""How long the end of a process, or of a ledger, waits for what is still to be written."""

_FAILURES = (sqlite3.DatabaseError, OSError, TokenHandlersError)
_REFUSALS = (
    ArithmeticError,
    ValueError,
    TypeError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a record that no ledger can hold raises, such as one of too many tokens."""


class WriteBehind:
    """The records that wait to be written, in their order, and the thread that writes them."""

    def __init__(self, path: Path, write: Callable[[Sequence[UsageRecord]], None]) -> None:
        self._path = path
        self._write = write
        self.restart()

    def restart(self) -> None:
        """Start anew with nothing waiting, as a forked child does: what waited is its parent's to write."""
        self.records: deque[UsageRecord] = deque()
        self.failed_writes = 0
        self.lost = 0
        self.last_error: Exception | None = None
        self._done = 0
        self._pause = 0.0
        self._told: set[str] = set()
        # A sink may be called by a finalizer, in the middle of anything: these two can be entered again, a lock can't.
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._urgent: SimpleQueue[None] = SimpleQueue()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def put(self, record: UsageRecord) -> bool:
        """Take a record to write, and return True, unless too many wait."""
        if len(self.records) >= MAX_WAITING:
            self._lose(f"more than {MAX_WAITING} wait to be written")
            return False
        self.records.append(record)
        if not self._arrived.qsize():
            self._arrived.put(None)
        if self._thread is None:
            self._start()
        return True

    def flush(self, timeout: float | None = None) -> bool:
        """Return whether everything that was put before is written: False once a write fails or time is up."""
        with self._changed:
            target, failed = self._done + len(self.records), self.failed_writes
            if self._done >= target:
                return True
            if not self._start():
                return self._write_here()
            self._arrived.put(None)
            self._urgent.put(None)
            self._changed.wait_for(lambda: self._done >= target or self.failed_writes > failed, timeout)
            return self._done >= target

    def flush_at_end(self) -> None:
        """Flush before the process ends, and say what is lost where that fails."""
        if not self.flush(END_SECONDS):
            reason = f"{explained(self._path, self.last_error)}" if self.last_error else f"no turn in {END_SECONDS} s"
            logger.error("%d records were not written: %s", len(self.records), reason)

    def end(self) -> None:
        """Flush, and end the thread."""
        self.flush_at_end()
        self._stopping = True
        if self._thread is not None:
            self._arrived.put(None)
            self._urgent.put(None)
            self._thread.join(END_SECONDS)

    def _start(self) -> bool:
        """Return whether the thread runs, which can't be started any more when the interpreter ends."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=f"ledger {self._path.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
                if "multiprocessing.process" in sys.modules:
                    self._end_with_worker()
            return True

    def _end_with_worker(self) -> None:
        from multiprocessing import process, util

        if process.parent_process() is not None:  # multiprocessing ends its workers without atexit
            util.Finalize(None, self.flush_at_end, exitpriority=0)

    def _run(self) -> None:
        while not self._stopping:
            self._arrived.get()
            _wait(self._urgent, LINGER_SECONDS)
            while self.records and not self._stopping:
                if not self._write_batch():
                    _wait(self._urgent, self._pause)

    def _write_here(self) -> bool:
        while self.records:
            if not self._write_batch():
                return False
        return True

    def _write_batch(self) -> bool:
        batch = [self.records[index] for index in range(min(BATCH, len(self.records)))]
        try:
            self._write(batch)
        except _REFUSALS as error:
            return self._write_each(batch) if len(batch) > 1 else self._refuse(error)
        except _FAILURES as error:
            return self._fail(error)
        return self._finish(len(batch))

    def _write_each(self, batch: Sequence[UsageRecord]) -> bool:
        for record in batch:
            try:
                self._write([record])
            except _REFUSALS as error:
                self._refuse(error)
            except _FAILURES as error:
                return self._fail(error)
            else:
                self._finish(1)
        return True

    def _finish(self, number: int) -> bool:
        with self._changed:
            for _ in range(number):
                self.records.popleft()
            self._done += number
            self._pause = 0.0
            self._changed.notify_all()
        return True

    def _refuse(self, error: Exception) -> bool:
        self._lose(f"a record can't be kept ({error})")
        return self._finish(1)

    def _fail(self, error: Exception) -> bool:
        with self._changed:
            self.failed_writes += 1
            self.last_error = error
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._changed.notify_all()
        self._tell(f"{explained(self._path, error)}; up to {MAX_WAITING} records wait, and writing is tried again")
        return False

    def _lose(self, reason: str) -> None:
        with self._changed:
            self.lost += 1
        self._tell(f"the ledger {self._path} loses records: {reason}; its attribute lost counts them")

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)


def _wait(signal: "SimpleQueue[None]", seconds: float) -> None:
    """Wait until a signal or the time is up, and take all signals."""
    try:
        signal.get(timeout=seconds)
        while True:
            signal.get_nowait()
    except Empty:
        return
