"""What a training is resumed from: one file, replaced as a whole, so that a kill at any moment leaves the one before."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from thalweg.errors import RunFolderError
from thalweg.learning.trainer import State
from thalweg.networks.progress import Progress
from thalweg.typing import PyTree

#: Version of the file, and its name in a run's folder.
SCHEMA, NAME = 1, "training.npz"


def write(folder: Path, state: State, document: str) -> None:
    """Put the state and the input it belongs to into the folder. Raises `RunFolderError` where that fails."""
    plain = {f.name: getattr(state, f.name) for f in fields(State) if f.name not in ("strategy", "average", "best")}
    arrays: dict[str, Any] = {f"strategy.{k}": np.asarray(a) for k, a in enumerate(jax.tree.leaves(state.strategy))}
    arrays |= {"average": state.average, "best": state.best}
    _write(folder, {**arrays, "plain": np.asarray(json.dumps(plain)), "input": np.asarray(document)})


def keep(folder: Path, document: str, progress: Progress | None = None) -> None:
    """Write what a training of epochs is resumed from; without `progress` it has not begun. Errors as of `write`."""
    arrays = {} if progress is None else {f"array.{k}": a for k, a in progress.arrays().items()}
    history = [] if progress is None else list(progress.history)
    _write(folder, {**arrays, "plain": np.asarray(json.dumps({"history": history})), "input": np.asarray(document)})


def kept(folder: Path, like: Progress) -> Progress:
    """Where the training of epochs in a folder stands; `like` is its beginning."""
    held = arrays(folder)
    found = {k.removeprefix("array."): a for k, a in held.items() if k.startswith("array.")}
    if not found:
        return like
    return like.restored(found, json.loads(str(held["plain"]))["history"], str(folder / NAME))


def read_document(folder: Path) -> str:
    """The input of the training in a folder."""
    return str(_read(folder)["input"])


def read(folder: Path, like: Callable[[int], PyTree]) -> State:
    """The state in a folder; `like` gives what the strategy's state of a stage looks like."""
    held = _read(folder)
    plain = json.loads(str(held["plain"]))
    tree = like(plain["stage"])
    leaves = [held[f"strategy.{k}"] for k in range(len(jax.tree.leaves(tree)))]
    strategy = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    plain["history"] = tuple(plain["history"])
    return State(**plain, strategy=strategy, average=held["average"], best=held["best"])


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Everything in the file of a folder, by name. Raises `RunFolderError` where there is none that can be read."""
    return _read(folder)


def _write(folder: Path, arrays: dict[str, Any]) -> None:
    path, fresh = folder / NAME, folder / f".{NAME}.new"
    try:
        with fresh.open("wb") as file:
            np.savez(file, schema=np.asarray(SCHEMA), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; make room, then resume it") from None


def _read(folder: Path) -> dict[str, np.ndarray]:
    path = folder / NAME
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {k: file[k] for k in file.files}
        version = int(held["schema"])
    except FileNotFoundError:
        raise RunFolderError(f"{folder} holds no training; `thalweg train FILE.toml` begins one") from None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); begin a new training") from None
    if version != SCHEMA:
        raise RunFolderError(f"{path} is of version {version} and this is {SCHEMA}; begin a new training")
    return held


__all__ = ["NAME", "arrays", "keep", "kept", "read", "read_document", "write"]
