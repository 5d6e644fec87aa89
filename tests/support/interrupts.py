"""Ctrl-C at one place of the package where Python looks for signals."""

import dis
import signal
import sys
from _thread import interrupt_main
from pathlib import Path

import token_handlers

ROOT = Path(token_handlers.__file__).parent
_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD")


class Interrupt:
    """Sends SIGINT before one instruction in these files that looks for signals when it is done.

    Such an instruction calls something, begins a function, or repeats a loop. ``place`` is where that was, empty where
    fewer of them than ``position`` were executed.
    """

    def __init__(self, position, *files):
        self.place = ""
        self._left = position
        self._files = {str(ROOT / file) for file in files}

    def __enter__(self):
        self._handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self._outer = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 gives no instructions if no frame has asked before
        sys.settrace(self._call)
        return self

    def __exit__(self, *details):
        sys.settrace(self._outer)
        signal.signal(signal.SIGINT, self._handler)

    def _call(self, frame, event, argument):
        if self.place or frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace = self._step  # before it asks for instructions, or Python 3.13 gives none
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame, event, argument):
        if event == "opcode" and not self.place:
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if name.startswith(_LOOKS):
                self._left -= 1
                if not self._left:
                    self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}, {name} at {frame.f_lasti}"
                    _ = [*map(interrupt_main, [signal.SIGINT])]  # no call, or this function would get the signal
        return self._step
