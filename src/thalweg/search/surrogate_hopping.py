"""Basin hopping whose hops are relaxed on a learned model, and paid for by a single true evaluation or a few."""

from __future__ import annotations

import jax
import jax.random as jr
import numpy as np

from thalweg.generators.base import Generator
from thalweg.relax.base import FAILED
from thalweg.search.base import Outcome, State, walker_keys
from thalweg.search.gofee import Gofee, Member
from thalweg.search.memory import Memory, points_of
from thalweg.search.sampling import KMeans, Sampler
from thalweg.surrogates.acquisition import Acquisition, LowerConfidenceBound
from thalweg.surrogates.base import Surrogate
from thalweg.system import System


class Hopper(Member):
    """A walker that stands at one of the evaluated structures."""

    row: np.ndarray  # of the memory; -1 before the first
    energy: np.ndarray  # inf before the first


class SurrogateHopping(Gofee):
    """Metropolis walks over structures that a model calls minima, accepted by their true energies.

    Each hop is the best, by the `acquisition`, of a few `candidates` that `moves` make of the walker's present structure,
    relaxed on the model; crossover partners come from the `sampler`. `temperature` is kT in units of `energy_scale`. The
    model, its data and all else are those of `Gofee`; walkers differ in where they stand.
    """

    temperature: float = 0.8

    def __init__(
        self,
        moves: tuple[Generator, ...],
        starts: tuple[Generator, ...],
        surrogate: Surrogate,
        move_weights=None,
        start_weights=None,
        acquisition: Acquisition = LowerConfidenceBound(1.0),  # noqa: B008 (immutable)
        sampler: Sampler = KMeans(),  # noqa: B008
        n_initial: int = 10,
        candidates: int = 8,
        steps: int = 50,
        patience: int = 0,
        apart: float = 0.01,
        refit: float = 1.2,
        energy_scale: float = 1.0,
        temperature: float = 0.8,
    ):
        super().__init__(
            moves, starts, surrogate, move_weights, start_weights, acquisition, sampler, n_initial, candidates, steps,
            patience, apart, refit, energy_scale,
        )  # fmt: skip
        self.temperature = temperature

    def init(self, system: System, n_walkers: int, dtype) -> State:
        zero = np.zeros(n_walkers, np.int32)
        index = np.arange(n_walkers, dtype=np.int32)
        nowhere = np.full(n_walkers, -1, np.int32)
        return State(Hopper(index, zero, zero, nowhere, np.full(n_walkers, np.inf)), Memory.empty(len(system.numbers)))

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w, memory = state.walkers, state.shared
        row, energy, runs = np.array(w.row), np.array(w.energy, np.float64), np.asarray(w.run)
        keys = walker_keys(key, np.asarray(w.index), np.asarray(w.count) + 2**30)
        chance = np.asarray(jax.vmap(lambda k: jr.uniform(k, (), minval=1e-7))(keys), np.float64)
        valid = np.asarray(outcome.valid)
        for k in np.flatnonzero(valid & (runs == int(memory.run))):
            if runs[k] != memory.run:  # a row before this one began a new run
                continue
            points = points_of(outcome, int(k), len(runs))
            first = int(memory.rows)
            memory = self._learned(memory, points, system)
            if memory.run != runs[k]:
                continue
            each = np.where(np.isfinite(points.energy), points.energy, np.inf)
            at = int(each.argmin())
            good = np.isfinite(each[at]) and np.asarray(outcome.status)[k] != FAILED
            if good and each[at] < energy[k] - self.temperature * self.energy_scale * np.log(chance[k]):
                row[k], energy[k] = first + at, each[at]
        run = np.full(len(runs), int(memory.run), np.int32)
        fresh = run != runs
        row, energy = np.where(fresh, -1, row).astype(np.int32), np.where(fresh, np.inf, energy)
        count = (np.asarray(w.count) + valid).astype(np.int32)
        return State(Hopper(np.asarray(w.index), run, count, row, energy), memory)

    def stands(self, memory: Memory, walkers, row: int) -> bool:
        """Whether the walker has a place in the present run; one without begins with a start."""
        return int(np.asarray(walkers.row)[row]) >= 0 and int(np.asarray(walkers.run)[row]) == int(memory.run)

    def propose(self, key, memory: Memory, walkers, row: int, system: System, waiting: list[np.ndarray]):
        if not self.stands(memory, walkers, row):
            return self.started(key, np.random.default_rng(np.asarray(jax.random.key_data(key))), system)
        return super().propose(key, memory, walkers, row, system, waiting)

    def parents(self, rng, memory: Memory, low: np.ndarray, features: np.ndarray, walkers, row: int):
        _, partners = super().parents(rng, memory, low, features, walkers, row)
        return np.full(self.candidates, int(np.asarray(walkers.row)[row])), partners
