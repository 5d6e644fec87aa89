"""A fault at one line of the package, as a bug of ours or a signal would raise it."""

import linecache
import sys
from pathlib import Path

import token_handlers

ROOT = str(Path(token_handlers.__file__).parent)
LEFT_ALONE = ("/counter/counter.py", "/counter/totals.py", "/locks.py", "/tracking/gates.py")
"""What is broken off at any line in these, or in http/, stays so for every test that comes after: the shared counter's
sums, or whose request it is. An Interrupt comes only where Python looks for signals.
"""


class LineFault:
    """Raises at one line of the package that a thread executes, counted from where it is entered.

    Where ``begins`` is given, lines are counted from when it is true. ``line`` is where it was raised, empty where
    there were fewer lines than ``position``.
    """

    def __init__(self, position, error, begins=None):
        self.position, self.error, self.lines, self.line = position, error, 0, ""
        self._begins = begins
        self._entered: set[tuple[object, int]] = set()

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *details):
        sys.settrace(self._before)

    def _call(self, frame, event, argument):
        name = frame.f_code.co_filename
        is_ours = name.startswith(ROOT) and not name.endswith(LEFT_ALONE) and not name.startswith(f"{ROOT}/http/")
        return self._line if is_ours else None

    def _line(self, frame, event, argument):
        if event == "line" and self._may_raise(frame) and self._has_begun():
            self.lines += 1
            if self.lines == self.position:
                self.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self.error
        return self._line

    def _has_begun(self):
        if self._begins is not None and self._begins():
            self._begins = None
        return self._begins is None

    def _may_raise(self, frame):
        """Neither `try:` nor the end of a `with` can raise, nor does a signal come there, but only a trace function."""
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if line.startswith("with "):
            if (frame, frame.f_lineno) in self._entered:
                return False
            self._entered.add((frame, frame.f_lineno))
        return line not in {"try:", "run = None"}  # the end event's first line: the signal came before it
