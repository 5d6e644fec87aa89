"""The call stack: the one place that walks it."""

import sys
from collections.abc import Iterator
from types import FrameType


def callers(frame: FrameType | None = None) -> Iterator[FrameType]:
    """Yield a frame, by default the caller's, and those that called it, innermost first; without copies."""
    if frame is None:
        frame = sys._getframe(1)  # noqa: SLF001 (there is no public way to walk the stack without copies)
    while frame is not None:
        yield frame
        frame = frame.f_back
