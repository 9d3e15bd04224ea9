"""What `module:Name` and `my_file:Name` in an input mean: things of installed modules and of the user's own files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from thalweg.errors import InputError


class ImportPath(str):
    """A text of the form `module:Name`. As the type of an argument: a file in it is made absolute when an input is read."""


def absolute(path: str) -> str:
    """A name or import path that still holds in another directory: files become absolute paths."""
    where, colon, name = path.rpartition(":")
    file = file_of(where) if colon and where else None
    return path if file is None else f"{file.resolve()}:{name}"


def module_at(where: str, path: str = "") -> ModuleType:
    """The module or file on the left side of an import path; a file in the current directory goes before a module."""
    file = file_of(where)
    if file is not None:
        return _module_of_file(file)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            wanted = f" (for {path})" if path else ""
            raise InputError(f"there is no file {where}.py here and no installed module {where}{wanted}") from None
        raise InputError(f"{where} cannot be imported: {reason(error)}") from error
    except Exception as error:
        raise InputError(f"{where} cannot be imported: {reason(error)}") from error


def file_of(where: str) -> Path | None:
    """The Python file that the left side of an import path names; None for a module."""
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        return path
    path = Path(*where.split("."))
    path = path.with_name(path.name + ".py")
    return path if path.is_file() else None


def _module_of_file(file: Path) -> ModuleType:
    """The module of a user's file, loaded once; its directory can be imported from, as when Python runs a script."""
    file = file.resolve()
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {reason(error, file)}") from error
    return module


def reason(error: Exception, file: Path | None = None) -> str:
    """What went wrong in a user's module, in one line, with the line of the file."""
    said = str(error).strip().splitlines()
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    lines, trace = [], error.__traceback__
    while trace is not None:
        if file is not None and trace.tb_frame.f_code.co_filename == str(file):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"line {lines[-1]}: {text}" if lines else text
