"""The project's own exceptions: every one is a single line that names the thing and the mend."""

import difflib
from collections.abc import Iterable


class ThalwegError(Exception):
    """Base of all errors thalweg raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(ThalwegError):
    """What the user gave cannot be used (formula, file, key, option)."""

    exit_code = 2


class StructureError(InputError):
    """A structure without a finite energy: coincident atoms, non-finite positions, no atoms."""


class RunFolderError(ThalwegError):
    """The run folder cannot be used: it holds another run, is read-only, or the disk is full."""

    exit_code = 3


class PotentialError(ThalwegError):
    """A potential gave no finite energy anywhere, or cannot treat the species asked for."""

    exit_code = 4


def suggest(name: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the closest of `known`, or the list itself when none is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f' Did you mean "{close[0]}"?'
    return f" Known: {', '.join(sorted(known))}." if known else ""
