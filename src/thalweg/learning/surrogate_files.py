"""What a training of a network of energies leaves on the disk: a checkpoint, weights, and what they score."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

import thalweg
from thalweg.errors import InputError, RunFolderError
from thalweg.learning.surrogate_recipe import SurrogateRecipe, resolve, untrained
from thalweg.networks.weights import Weights, filled, load, named, save
from thalweg.surrogates.networks.base import EnergyNetwork, Subject
from thalweg.surrogates.networks.training import Progress

#: Files of a training's folder.
INPUT, WEIGHTS, METRICS, TRIALS = "input.toml", "weights.json", "metrics.json", "trials.jsonl"


def write_weights(path: Path, recipe: SurrogateRecipe, progress: Progress, scores: Mapping) -> None:
    """Write the best network, with what it was trained on and how."""
    network = progress.best.for_use()
    subject = recipe.parts.train.subject
    done = {
        "input": recipe.tables, "subject": asdict(subject), "seed": recipe.seed, "epochs": progress.epoch,
        "kept": progress.best_epoch, "cpu_seconds": round(sum(r["cpu"] for r in progress.history), 2),
        "seconds": round(sum(r["wall"] for r in progress.history), 2),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}", "machine": platform.machine(),
        "thalweg": thalweg.__version__, "jax": jax.__version__, "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    arrays = {k: np.asarray(a, np.float32) for k, a in named(network).items()}
    rows = tuple({"part": name, **score} for name, score in scores.items())
    fresh = path.with_name(f".{path.name}.new")
    try:
        save(fresh, Weights(recipe.kind, (), arrays, species=subject.species, trained=done, measured=rows))
        fresh.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; make room, then resume it") from None


def trained_network(path: str | Path) -> EnergyNetwork:
    """The network of a weights file that `thalweg train` wrote. Raises `InputError` where it holds another model."""
    try:
        done = json.loads(Path(path).read_text(encoding="utf-8"))["trained"]
        recipe = resolve(done["input"])
        subject = Subject(**{**done["subject"], "species": tuple(done["subject"]["species"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no network of energies ({error}); `thalweg train` writes one") from None
    network = untrained(recipe.kind, recipe.sizes, subject, recipe.seed)
    return filled(network, load(path, recipe.kind, ()).arrays, str(path))


def write_json(path: Path, what: Mapping) -> None:
    """Write numbers; what is not finite becomes null."""
    text = json.dumps(_finite(what), indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; make room, then resume it") from None


def _finite(what):
    if isinstance(what, Mapping):
        return {k: _finite(v) for k, v in what.items()}
    if isinstance(what, list | tuple):
        return [_finite(v) for v in what]
    return None if isinstance(what, float) and not np.isfinite(what) else what


__all__ = ["INPUT", "METRICS", "TRIALS", "WEIGHTS", "trained_network", "write_json", "write_weights"]
