"""A program run in this process as the interpreter itself would have run it."""

import builtins
import io
import pkgutil
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


def script(path: str, *arguments: str) -> Load:
    """Return what loads a script, or a folder or zip file with a __main__.py, as `python path` does."""
    if not Path(path).exists():
        raise WrongUsage(f"can't open {path}: No such file: run takes a script's path, or -m and a module's name")
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


def run_program(load: Load) -> None:
    """Run it as __main__, which it stays for its threads and for what runs at exit.

    Raises SystemExit as the program does; what else it raises goes to sys.excepthook, without the frames of ours,
    and leads to SystemExit(1), or to KeyboardInterrupt where it was one.
    """
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
