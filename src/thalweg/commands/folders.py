"""Folders of runs that were given none."""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import RunFolderError

#: Where runs go that were given no folder, in the current directory.
RUNS = "thalweg-runs"


def new_folder(name: str) -> Path:
    """A fresh folder for a run, made at once so that two runs that start together do not share it."""
    root = Path(RUNS)
    try:
        root.mkdir(exist_ok=True)
        taken = [int(p.name.rpartition("-")[2]) for p in root.glob(f"{name}-*") if p.name.rpartition("-")[2].isdigit()]
        for number in range(max(taken, default=0) + 1, 10**9):
            folder = root / f"{name}-{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
    except OSError as error:
        raise RunFolderError(
            f"cannot make a folder in {root.resolve()}: {error.strerror or error}; choose another with --output"
        ) from None
    raise RunFolderError(f"no number is left in {root}; choose a folder with --output")
