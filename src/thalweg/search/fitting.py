"""The model of a search: the posterior of its memory, made again from arrays where it is not at hand."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg import prng
from thalweg.generators.judged import Judge
from thalweg.leaves import as_leaves
from thalweg.search.memory import Memory
from thalweg.space import Space
from thalweg.surrogates.base import Posterior, Surrogate
from thalweg.system import System
from thalweg.typing import Array

#: Fitted models in memory, by what they were fitted to: a state is arrays alone, and its model is made from them again.
_MODELS: OrderedDict[str, Posterior] = OrderedDict()
#: How many of them are kept.
KEPT = 8


def model_of(memory: Memory, surrogate: Surrogate, system: System, energy_scale: float = 1.0, lag: float = 0.0) -> Posterior:
    """The posterior of a memory: a function of its arrays alone, so that a resumed run has the same one.

    Hyper-parameters are those of the first `memory.fitted` rows. `energy_scale` is the energy of a bond in model systems. The
    newest rows, up to a share `lag` of those before them, may be left out: then it is made anew less often.
    """
    surrogate = surrogate.suited(system, 1.0 if real(system) else energy_scale)
    rows, fitted = lagging(int(memory.rows), lag, int(memory.fitted)), int(memory.fitted)
    first = _fitted(memory, surrogate, fitted, None, system) if 0 < fitted <= rows else None
    return first if first is not None and fitted == rows else _fitted(memory, surrogate, rows, first, system)


def lagging(rows: int, lag: float, since: int = 0) -> int:
    """The largest of a series of numbers up to `rows`, each by a share `lag` larger than the one before, from `since` on."""
    at = max(since, 1)
    while at + max(int(lag * at), 1) <= rows:
        at += max(int(lag * at), 1)
    return min(at, rows)


def due(memory: Memory, refit: float) -> Memory:
    """The memory, marked for new hyper-parameters where the data have grown by a factor of `refit` since the last ones."""
    if int(memory.known.sum()) >= refit * max(int(memory.fitted), 1):
        memory = eqx.tree_at(lambda m: m.fitted, memory, memory.rows)
    return memory


def predicted(posterior: Posterior, x, system: System) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n,) of structures (n, atoms, 3)."""
    space = posterior.space(np.asarray(system.cell, np.float64), system.pbc)
    model, space = as_leaves((posterior, space), np.float64)
    mean, std = _predict(model, jnp.asarray(np.moveaxis(x, 0, -1)), np.asarray(system.numbers)[:, None], space)
    return np.asarray(mean), np.asarray(std)


class ModelJudge(Judge):
    """A model tells the energies of atoms."""

    model: Posterior
    numbers: Array
    space: Space | None

    def __call__(self, positions) -> Array:
        return self.model.lanes(positions[..., None], self.numbers[:, None], self.space).atomic_energies[..., 0]


def judge_of(posterior: Posterior, system: System) -> ModelJudge:
    """The judge of generators that look at energies of atoms."""
    space = posterior.space(np.asarray(system.cell, np.float64), system.pbc)
    return ModelJudge(posterior, np.asarray(system.numbers), space)


def real(system: System) -> bool:
    """Whether there are chemical elements, whose energies are in eV."""
    return bool((np.asarray(system.numbers) > 0).any())


def forget() -> None:
    """Drop all fitted models, as a new process would begin."""
    _MODELS.clear()


def _fitted(memory: Memory, surrogate: Surrogate, rows: int, previous: Posterior | None, system: System) -> Posterior:
    data = memory.dataset(system, rows)
    digest = hashlib.blake2b(repr((surrogate, rows, int(memory.fitted) if previous is not None else 0)).encode())
    for a in (data.positions[:rows], data.energy[:rows], np.asarray(system.cell), data.numbers):
        digest.update(np.ascontiguousarray(a).tobytes())
    name = digest.hexdigest()
    if name not in _MODELS:
        _MODELS[name] = surrogate.fit(prng.key(rows), data, previous)
        while len(_MODELS) > KEPT:
            _MODELS.popitem(last=False)
    _MODELS.move_to_end(name)
    return _MODELS[name]


@eqx.filter_jit
def _predict(posterior, positions, numbers, space):
    return posterior.mean_std(positions, numbers, space)
