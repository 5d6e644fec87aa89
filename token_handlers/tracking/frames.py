"""The call stack: the one place that walks it."""

import sys
from collections.abc import Container, Iterator
from types import FrameType


def callers_named(names: Container[str], *, beyond: int = 0) -> Iterator[FrameType]:
    """Yield those of `callers` that are of functions with one of these names, without the innermost ``beyond``."""
    frame: FrameType | None = sys._getframe(1 + beyond)  # noqa: SLF001 (as below; a loop of its own, as each request runs it)
    while frame is not None:
        if frame.f_code.co_name in names:
            yield frame
        frame = frame.f_back


def callers_among(names: Container[str], frames: Container[FrameType]) -> Iterator[FrameType]:
    """Yield those of `callers` that are of functions with one of these names, or that are among these frames."""
    return (frame for frame in callers(sys._getframe(1)) if frame.f_code.co_name in names or frame in frames)  # noqa: SLF001


def callers(frame: FrameType | None = None) -> Iterator[FrameType]:
    """Yield a frame, by default the caller's, and those that called it, innermost first; without copies."""
    if frame is None:
        frame = sys._getframe(1)  # noqa: SLF001 (there is no public way to walk the stack without copies)
    while frame is not None:
        yield frame
        frame = frame.f_back
