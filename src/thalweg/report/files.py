"""The files of a page: the parts it is put together from, and itself, written in one step."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

from thalweg.errors import RunFolderError


def written(path: Path, page: str) -> None:
    """Write a page in one step: an older file is replaced as a whole."""
    text = page.encode("utf-8", errors="replace")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        why = error.strerror or error
        raise RunFolderError(f"cannot write the report {path}: {why}; choose a folder that can be written") from None


def part(name: str) -> str:
    """The text of a file of this room: style, script, frame."""
    return resources.files("thalweg.report").joinpath(name).read_text(encoding="utf-8")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
