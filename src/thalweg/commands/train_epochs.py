"""Trainings of epochs on the command line: what those of energies and of builders have in common."""

from __future__ import annotations

import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from thalweg.commands import INTERRUPTED
from thalweg.commands.environment import assign, value
from thalweg.commands.folders import new_folder
from thalweg.commands.interrupt import Interrupt
from thalweg.display import StatusLine, seconds
from thalweg.errors import InputError, RunFolderError
from thalweg.learning import checkpoint
from thalweg.learning.shipped import Inputs
from thalweg.networks.progress import Progress
from thalweg.toml import parse_toml

#: The input of a training, in its folder.
INPUT = "input.toml"
#: Seconds between two writes of what a training is resumed from.
SAVE_EVERY = 5.0
#: Cells of the progress bar.
BAR = 20


class Recipes(Protocol):
    """A module of `thalweg.learning` that knows one kind of input."""

    @property
    def INPUTS(self) -> Inputs: ...
    @property
    def TABLES(self) -> tuple[str, ...]: ...
    @property
    def resolve(self) -> Callable[[Mapping], Any]: ...


class Training(Protocol):
    """A recipe of a training of epochs."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def settings(self) -> Any: ...
    def epochs(self, progress: Any) -> Iterator[Progress]: ...


def concerns(section: str, inputs: Inputs, options: Namespace) -> bool:
    """Whether the input, or the training to be resumed, has a section."""
    if options.resume is not None:
        return section in parse_toml(checkpoint.read_document(Path(options.resume)), f"the input in {options.resume}")
    return options.file is not None and inputs.found(options.file).is_file() and section in inputs.read(options.file)


def begun(
    recipes: Recipes, options: Namespace, fresh: Callable[[Path], None], refuse: Callable[[Any], object]
) -> tuple[Path, Any]:
    """Folder and recipe of a training: a new one, in a folder that `fresh` makes once `refuse` lets it pass, or one resumed."""
    if options.resume is None:
        recipe = recipes.resolve(with_options(recipes.INPUTS.read(options.file), options, recipes.TABLES))
        refuse(recipe)  # before there is a folder
        folder = Path(options.output) if options.output else new_folder(recipe.name)
        fresh(folder)
        checkpoint.keep(folder, recipe.text)  # what is killed before the first epoch is resumed like any other
    else:
        folder = Path(options.resume)
        recipe = recipes.resolve(with_options(resumed(options, folder), options, recipes.TABLES))
    write(folder / INPUT, recipe.text)
    return folder, recipe


def resumed(options: Namespace, folder: Path) -> dict:
    """The tables of the training in a folder."""
    if options.output or options.set or options.seed is not None:
        raise InputError(
            "a training that is resumed keeps its folder, its seed and its input; only --updates, its epochs, may be given anew"
        )
    return parse_toml(checkpoint.read_document(folder), f"the input in {folder}")


def with_options(tables: dict, options: Namespace, sections: Sequence[str]) -> dict:
    """The tables with --set, --seed and --updates entered."""
    if options.seed is not None:
        tables.setdefault("train", {})["seed"] = value(options.seed)
    assign(tables, options.set, sections)
    if options.updates is not None:
        tables.setdefault("train", {})["epochs"] = value(options.updates)
    return tables


def run(
    recipe: Training,
    progress: Progress,
    folder: Path,
    line: StatusLine,
    interrupt: Interrupt,
    said: Callable[[Mapping], list[str]],
) -> Progress:
    """Epoch after epoch, with what the terminal shows and what is kept, to the end or to Ctrl-C.

    `said` are the numbers of an epoch's row, most important first.
    """
    saved = time.monotonic()
    if not progress.ended(recipe.settings):
        line.show(f"{recipe.name}  compiling (once; some seconds)")
        for after in recipe.epochs(progress):
            progress = after
            line.show(_shown(progress, recipe.settings.epochs, said))
            if time.monotonic() - saved >= SAVE_EVERY:
                checkpoint.keep(folder, recipe.text, progress)
                saved = time.monotonic()
            if interrupt.pressed():
                break
    checkpoint.keep(folder, recipe.text, progress)
    return progress


def _shown(progress: Progress, total: int, said: Callable[[Mapping], list[str]]) -> str:
    """The live line, most important first, so that a narrow terminal cuts the rest."""
    rows = progress.history
    full = round(BAR * progress.epoch / total)
    spent = [r["wall"] for r in rows[1:] or rows]  # the first epoch compiles
    numbers = said(rows[-1])
    best = " (best)" if progress.best_epoch == progress.epoch else ""
    return "  ".join(
        [
            f"[{'#' * full}{'-' * (BAR - full)}] {progress.epoch}/{total}",
            f"{numbers[0]}{best}",
            *numbers[1:],
            f"{seconds(sum(r['cpu'] for r in rows))} CPU",
            f"{seconds(sum(spent) / len(spent) * (total - progress.epoch))} left",
        ]
    )


def stopped(folder: Path) -> int:
    """Say how a training goes on."""
    print(f"go on     thalweg train --resume {shlex.quote(str(folder))}")
    return INTERRUPTED


def write(path: Path, text: str) -> None:
    """Write a file of the training's folder."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another place") from None
