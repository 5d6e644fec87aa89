"""A program run in this process as the interpreter itself would have run it."""

import builtins
import io
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from token_handlers.cli.options import WrongUsage

Load = Callable[[ModuleType], CodeType]
"""Fills in __main__ and what the interpreter sets, and returns what is to be run."""

_LONGEST_SHEBANG = 512

_SIGNALLED = 128
"""What a shell adds to a signal's number, as the status of a command that the signal has ended."""

_PYTHON = re.compile(r"python(3(\.\d+)?)?(\.exe)?")


def find_program(name: str, *arguments: str) -> Load | list[str]:
    """Return what loads a program into this process, or the words of a command that needs a process of its own.

    ``name`` is a script, a command, "-m" or "-c"; `python` before any of these is this Python.
    """
    if name in _LOADERS and arguments:
        return _LOADERS[name](*arguments)
    command = None if _is_plain_script(name) else _find_command(name)
    if command is None:
        return script(name, *arguments)
    if not _is_this_python(name, command):
        return script(command, *arguments) if _is_script(command) else [command, *arguments]
    if arguments and (arguments[0] in _LOADERS or not arguments[0].startswith("-")):
        return find_program(*arguments)
    return [command, *arguments]


def script(path: str, *arguments: str) -> Load:
    """Return what loads a script, or a folder or zip file with a __main__.py, as `python path` does."""
    if not Path(path).exists():
        raise WrongUsage(
            f"can't open {path}: No such file, and no such command: run takes a script's path, a command's name, or -m "
            "and a module's name"
        )
    archive = Path(path).is_dir() or zipfile.is_zipfile(path)

    def load(main: ModuleType) -> CodeType:
        sys.argv[:] = [path, *arguments]
        if archive:
            sys.path[0] = str(Path(path).absolute())
            importer = pkgutil.get_importer(sys.path[0])
            spec = None if importer is None else importer.find_spec("__main__", None)
            return _from_spec(main, spec, path)
        if not sys.flags.safe_path:
            sys.path[0] = str(Path(path).resolve().parent)
        main.__file__ = str(Path(path).absolute())
        main.__loader__ = SourceFileLoader("__main__", main.__file__)
        with io.open_code(main.__file__) as file:
            return compile(file.read(), main.__file__, "exec", dont_inherit=True)

    return load


def module(name: str, *arguments: str) -> Load:
    """Return what loads a module, or a package's __main__, as `python -m name` does."""

    def load(main: ModuleType) -> CodeType:
        sys.argv[:] = ["-m", *arguments]
        if not sys.flags.safe_path:
            sys.path[0] = str(Path.cwd())
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
        code = _from_spec(main, spec, name)
        sys.argv[0] = str(main.__file__)
        return code

    return load


def code(text: str, *arguments: str) -> Load:
    """Return what loads a line of code, as `python -c` does."""

    def load(main: ModuleType) -> CodeType:
        sys.argv[:] = ["-c", *arguments]
        if not sys.flags.safe_path:
            sys.path[0] = ""
        return compile(text, "<string>", "exec", dont_inherit=True)

    return load


_LOADERS: dict[str, Callable[..., Load]] = {"-m": module, "-c": code}


def run_program(load: Load | list[str]) -> int:
    """Run it as __main__, which it stays for its threads and for what runs at exit; a command in its own process.

    Returns the exit status; raises SystemExit as the program does. What else the program raises goes to
    sys.excepthook, without the frames of ours, and leads to SystemExit(1), or to KeyboardInterrupt where it was one.
    """
    if isinstance(load, list):
        return _run_command(load)
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __cached__=None)
    if "__annotations__" in vars(sys.modules["__main__"]):  # up to Python 3.13
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    try:
        exec(load(main), main.__dict__)  # noqa: S102 (what the user asked to run)
    except SystemExit:
        raise
    except BaseException as error:
        trace = _without_ours(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise SystemExit(1) from None
    return 0


def _run_command(words: list[str]) -> int:
    """Run a command and return its status; a signal that ends it ends this process, too."""
    process = subprocess.Popen(words)  # noqa: S603 (what the user asked to run)
    before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:  # the command decides what it means
                if not _in_foreground():
                    process.send_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    if -status in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), -status)
    return status if status >= 0 else _SIGNALLED - status


def _in_foreground() -> bool:
    """Return whether a terminal sends what is typed there, such as Ctrl-C, to this process and those that it starts."""
    try:
        with open("/dev/tty", "rb") as terminal:  # noqa: PTH123 (a device)
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # there is none; Windows has neither
        return os.name == "nt"


def _find_command(name: str) -> str | None:
    """Return the path of a command of this Python's environment, else of one on PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _is_plain_script(name: str) -> bool:
    """Return whether a name is a path of Python's: a folder with a __main__.py, or a file that is no command."""
    path = Path(name)
    return (path / "__main__.py").exists() or (path.is_file() and not os.access(path, os.X_OK))


def _is_this_python(name: str, command: str) -> bool:
    """Return whether a command's name is a Python's, and that Python is this one."""
    if not _PYTHON.fullmatch(Path(name).name):
        return False
    ours = Path(sys.executable)
    # An environment may be reached by a link to its folder; the link in it leads to the Python that it was made by.
    return Path(command).parent.resolve() == ours.parent.resolve() or Path(command).resolve() == ours


def _is_script(command: str) -> bool:
    """Return whether a command is a script for this Python, as pip installs them, or any file that ends in .py."""
    if command.endswith(".py"):
        return True
    try:
        with open(command, "rb") as file:  # noqa: PTH123 (a name from PATH)
            first = file.readline(_LONGEST_SHEBANG)
    except OSError:
        return False
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return any(_is_this_python(word, shutil.which(word) or word) for word in words)


def _from_spec(main: ModuleType, spec: ModuleSpec | None, name: str) -> CodeType:
    loader = None if spec is None else spec.loader
    code = loader.get_code(spec.name) if spec is not None and isinstance(loader, InspectLoader) else None
    if spec is None or code is None:
        raise SystemExit(f"{sys.executable}: No module named {name}")
    main.__spec__, main.__loader__, main.__package__ = spec, loader, spec.parent
    main.__file__ = spec.origin
    main.__dict__["__cached__"] = spec.cached
    return code


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
