"""Basin hopping whose hops are relaxed on a learned model, and paid for by a single true evaluation or a few."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from thalweg.search.base import Points, walker_keys
from thalweg.search.memory import Memory
from thalweg.search.model_guided import ModelGuided
from thalweg.surrogates.acquisition import Acquisition, LowerConfidenceBound


class Hopper(eqx.Module):
    """A walker that stands at one of the evaluated structures; every leaf has a leading axis of walkers."""

    index: np.ndarray
    run: np.ndarray  # independent runs begun before the one it is in
    count: np.ndarray  # outcomes it was told, the counter of its random keys
    row: np.ndarray  # of the memory; -1 before the first
    energy: np.ndarray  # inf before the first


class SurrogateHopping(ModelGuided):
    """Metropolis walks over structures that a model calls minima, accepted by their true energies.

    Each hop is the best, by the `acquisition`, of a few `candidates` that `moves` make of the walker's present structure,
    relaxed on the model; crossover partners come from the `sampler`. `temperature` is kT in units of `energy_scale`. The
    model, its data and all else are those of `ModelGuided`; walkers differ in where they stand.
    """

    acquisition: Acquisition = LowerConfidenceBound(1.0)
    candidates: int = 8
    patience: int = 0
    temperature: float = 0.8

    def walkers(self, n: int) -> Hopper:
        zero, nowhere = np.zeros(n, np.int32), np.full(n, -1, np.int32)
        return Hopper(np.arange(n, dtype=np.int32), zero, zero, nowhere, np.full(n, np.inf))

    def followed(self, key, walkers: Hopper, row: int, points: Points, at: int, failed: bool) -> Hopper:
        each = np.where(np.isfinite(points.energy), points.energy, np.inf)
        lowest = int(each.argmin())
        climb = -self.temperature * self.energy_scale * np.log(chance(key, walkers, row))
        energies = np.asarray(walkers.energy, np.float64)
        if failed or not np.isfinite(each[lowest]) or not each[lowest] < energies[row] + climb:
            return walkers
        rows, energies = np.array(walkers.row), energies.copy()
        rows[row], energies[row] = at + lowest, each[lowest]
        return eqx.tree_at(lambda w: (w.row, w.energy), walkers, (rows, energies))

    def parents(self, rng, memory: Memory, drawn: np.ndarray, walkers: Hopper, row: int) -> np.ndarray | None:
        place = int(np.asarray(walkers.row)[row])
        stands = place >= 0 and int(np.asarray(walkers.run)[row]) == int(memory.run)
        return np.full(self.candidates, place) if stands else None


def chance(key, walkers: Hopper, row: int) -> float:
    """The uniform random number, above 0, that decides on the next hop of a walker."""
    one = slice(row, row + 1)
    keys = walker_keys(key, np.asarray(walkers.index)[one], np.asarray(walkers.count)[one] + 2**30)
    return float(np.asarray(jax.vmap(lambda k: jr.uniform(k, (), minval=1e-7))(keys), np.float64)[0])
