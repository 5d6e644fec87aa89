"""A line at the bottom of the terminal that says what a program has used so far, while its output scrolls above."""

import os
import sys
import threading
from typing import TextIO

from token_handlers.counter.counter import TokenCounter
from token_handlers.reporting.amounts import counted, dollars

SECONDS = 0.25
"""How often the line is drawn again."""

_SAVE, _RESTORE, _ERASE = "\x1b7", "\x1b8", "\x1b[K"


class LiveLine:
    """Shows a counter's cost, tokens and calls on a terminal, from a thread of its own, until it is stopped.

    The terminal's last row is kept out of what scrolls, so that the program's own output stays whole.
    """

    def __init__(self, counter: TokenCounter, stream: TextIO | None = None) -> None:
        self._counter = counter
        self._stream = sys.stderr if stream is None else stream
        self._stopped = threading.Event()
        self._rows = 0
        self._thread = threading.Thread(target=self._run, name="token_handlers-live", daemon=True)
        self._process = os.getpid()

    def start(self) -> None:
        """Begin where there is a terminal; elsewhere nothing is shown."""
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._thread.start()

    def stop(self) -> None:
        """Give the row back to the terminal."""
        self._stopped.set()
        if self._thread.is_alive() and os.getpid() == self._process:
            self._thread.join()

    def text(self) -> str:
        """Return the line."""
        total = self._counter.snapshot()
        tokens = total.total_tokens + total.embedding_tokens
        parts = [dollars(total.cost), counted(tokens, "token"), counted(total.successful_requests, "call")]
        for number, what in ((total.failed_requests, "failed"), (total.unpriced_requests, "of unknown cost")):
            if number:
                parts.append(f"{number:,} {what}")
        return " | ".join(parts)

    def _run(self) -> None:
        shown = ""
        try:
            while not self._stopped.wait(SECONDS if shown else 0):
                width, rows = os.get_terminal_size(self._stream.fileno())
                line = self.text()[: width - 1]
                if (rows, line) != (self._rows, shown) and rows > 1:
                    self._draw(rows, line)
                    self._rows, shown = rows, line
            self._give_back()
        except (OSError, ValueError):  # the program has closed the terminal
            return

    def _draw(self, rows: int, line: str) -> None:
        begin = ""
        if rows != self._rows:  # scroll what is in the last row, and let the rest alone scroll
            begin = f"\n{_SAVE}\x1b[1;{rows - 1}r{_RESTORE}\x1b[1A"
        self._write(f"{begin}{_SAVE}\x1b[{rows};1H{line}{_ERASE}{_RESTORE}")

    def _give_back(self) -> None:
        if self._rows:
            self._write(f"{_SAVE}\x1b[r\x1b[{self._rows};1H{_ERASE}{_RESTORE}")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
