"""What searches have in common in which a model of the energy decides what is evaluated: their data, model and candidates."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.generators.base import Generator
from thalweg.generators.judged import informed
from thalweg.leaves import as_leaves
from thalweg.relax.base import FAILED
from thalweg.search.base import (
    ModelSearch,
    Outcome,
    Points,
    Proposals,
    State,
    blank,
    generate,
    structures_of,
    walker_keys,
    weights_of,
)
from thalweg.search.choice import PROGRESS, promises
from thalweg.search.fitting import due, judge_of, model_of
from thalweg.search.guard import relax_on, settled
from thalweg.search.memory import Memory, points_of
from thalweg.search.novelty import lowest, seen_by
from thalweg.search.postprocess import Postprocessor
from thalweg.search.sampling import KMeans, Sampler
from thalweg.structure import Structure
from thalweg.surrogates.acquisition import Acquisition, LowerConfidenceBound
from thalweg.surrogates.base import Posterior, Surrogate
from thalweg.system import System
from thalweg.typing import Array, PyTree


class ModelGuided(ModelSearch):
    """Candidates are made of what was evaluated, relaxed on a model of the energy, and the most promising is evaluated.

    The first `n_initial` proposals are drawn from `starts`. Then each is one of `candidates` structures that `moves` make of
    the `parents` a search gives: relaxed on the mean of the posterior in at most `steps` steps, between the system's limits,
    and chosen by the `acquisition`. None is taken twice: fingerprints nearer than `apart` (of the root mean square distance
    of the first, random structures) to what failed or is being evaluated, or to what was evaluated unless the model sees a
    lower energy there, are left out, and what is uncertain only where others look already counts as less so. All walkers
    share one memory. After `patience` evaluations in a row that lowered nothing by `PROGRESS` energy scales (0: never)
    everything is forgotten and an independent run begins. `refit` is the growth of the data after which hyper-parameters
    are fitted anew. Weights are equal unless given. The steps of `postprocess` are done to every proposal before it is
    compared and evaluated.

    A search of this kind writes three methods: `walkers`, `followed` and `parents`, and defaults of its own.
    """

    #: What [run] takes where an input does not say: of every proposal a few true steps downhill, all of which teach.
    hosted: ClassVar[dict] = {"max_steps": 3}

    moves: tuple[Generator, ...] = eqx.field(converter=tuple)
    starts: tuple[Generator, ...] = eqx.field(converter=tuple)
    surrogate: Surrogate
    move_weights: Array | None = None
    start_weights: Array | None = None
    acquisition: Acquisition = LowerConfidenceBound()
    sampler: Sampler = KMeans()
    n_initial: int = 10
    candidates: int = 16
    steps: int = 50
    patience: int = 100
    apart: float = 0.01
    refit: float = 1.2
    energy_scale: float = 1.0
    postprocess: tuple[Postprocessor, ...] = eqx.field(converter=tuple, default=())

    # -- what a search of this kind says ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def walkers(self, n: int) -> PyTree:
        """`n` walkers that have not begun: NumPy leaves (n, ...), `index` (0 to n - 1), `run`, `count` (zeros) among them."""

    @abc.abstractmethod
    def followed(self, key, walkers: PyTree, row: int, points: Points, at: int, failed: bool) -> PyTree:
        """Walkers after the one in `row` was told `points`, which are rows `at` and on of the memory; `count` is not yet up."""

    @abc.abstractmethod
    def parents(
        self, rng: np.random.Generator, memory: Memory, drawn: np.ndarray, walkers: PyTree, row: int
    ) -> np.ndarray | None:
        """Rows of the memory (candidates,) that candidates for the walker in `row` are made of; None: it begins with a start.

        `drawn` (candidates,) are random ones of those that the sampler chose.
        """

    # -- state -----------------------------------------------------------------------------------------------------------

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.moves + self.starts)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        return State(self.walkers(n_walkers), Memory.empty(len(system.numbers)))

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w, memory = state.walkers, state.shared
        runs, valid = np.asarray(w.run), np.asarray(outcome.valid)
        for k in np.flatnonzero(valid):
            if runs[k] != memory.run:  # what was begun in an earlier run must not teach this one: runs are independent
                continue
            points, at = points_of(outcome, int(k), len(runs)), int(memory.rows)
            memory = self._learned(memory, points, system)
            if runs[k] == memory.run:
                w = self.followed(key, w, int(k), points, at, int(np.asarray(outcome.status)[k]) == FAILED)
        return State(self._counted(w, memory, valid), memory)

    def _learned(self, memory: Memory, points: Points, system: System) -> Memory:
        memory = memory.with_points(points, PROGRESS * self.energy_scale)
        if self.patience and memory.stalled >= self.patience:
            return Memory.empty(len(system.numbers), int(memory.run) + 1, len(memory.energy))
        return due(memory, self.refit)

    def _counted(self, walkers: PyTree, memory: Memory, valid: np.ndarray) -> PyTree:
        """Walkers in the present run, those of an earlier one as if they had not begun, and their counts of outcomes."""
        fresh = np.asarray(walkers.run) != memory.run
        choose = lambda new, old: np.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old).astype(new.dtype)
        run = np.full(len(fresh), int(memory.run), np.int32)
        count = (np.asarray(walkers.count) + valid).astype(np.int32)
        known = (np.asarray(walkers.index), run, count)
        begun = jax.tree.map(choose, self.walkers(len(fresh)), walkers)
        return eqx.tree_at(lambda w: (w.index, w.run, w.count), begun, known)

    # -- asking ----------------------------------------------------------------------------------------------------------

    def ask(self, key, state: State, system: System, pending: Structure | None = None) -> Proposals:
        waiting = [] if pending is None else list(np.asarray(pending.positions, np.float64))
        keys = walker_keys(key, np.asarray(state.walkers.index), np.asarray(state.walkers.count))
        made = []
        with jax.enable_x64(True):
            for row in range(len(keys)):
                x, cell, origin = self._proposed(keys[row], state.shared, state.walkers, row, system, waiting)
                made.append((x, cell, origin))
                waiting.append(x)
        x, cells, origins = (np.stack(parts) for parts in zip(*made, strict=True))
        return Proposals(Structure.create(x, system.numbers, cells, system.fixed, system.pbc), origins.astype(np.int32))

    def _proposed(self, key, memory: Memory, walkers, row: int, system: System, waiting: list[np.ndarray]):
        """Positions (atoms, 3), cell (3, 3) and origin of one proposal; `waiting` are structures under evaluation."""
        rng = random_numbers(key)
        if int(memory.told) + len(waiting) < self.n_initial or memory.known.sum() < 2:
            return self._started(key, rng, system)
        low = lowest(memory)
        seen = seen_by(memory, low, waiting, system)
        pool = low[self.sampler(seen.low, memory.energy[low])]
        drawn, partners = (pool[rng.integers(len(pool), size=self.candidates)] for _ in range(2))
        parents = self.parents(rng, memory, drawn, walkers, row)
        if parents is None:
            return self._started(key, random_numbers(key), system)
        posterior = model_of(memory, self.surrogate, system, self.energy_scale)
        x, cells, origin = self._candidates(key, rng, memory, parents, partners, posterior, system)
        made = Structure.create(x, system.numbers, cells, system.fixed, system.pbc)
        x, narrow = self._finished(*relax_on(posterior, made, system, self.steps, self.energy_scale), system)
        values = promises(x, narrow, posterior, memory, low, seen, system, self.acquisition, self.apart, self.energy_scale)
        if not np.isfinite(values).any():
            return self._started(key, rng, system)
        best = int(values.argmin())
        return x[best], cells[best], np.array(origin[best])

    def _started(self, key, rng: np.random.Generator, system: System):
        """A start and its origin."""
        chosen = rng.choice(len(self.starts), p=chances(self.start_weights, self.starts))
        origin = np.full(1, len(self.moves) + chosen, np.int32)
        parents = structures_of(system, blank(system, 1, np.float64))
        x, cells = _made(self.moves + self.starts, origin, jax.random.split(key, 1), parents, parents, system)
        x, _ = self._finished(x, np.zeros(1), system)
        return x[0], cells[0], origin[0]

    def _finished(self, x: np.ndarray, narrow: np.ndarray, system: System) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, atoms, 3) after all steps of `postprocess`, and their smallest pair distances in bonds (n,)."""
        if not self.postprocess:
            return x, narrow
        new = x
        for step in self.postprocess:
            new = np.asarray(step(new, system))
        held = ~np.asarray(system.searched) | np.asarray(system.fixed)
        return settled(np.where(held[:, None], x, new), system)

    def _candidates(
        self, key, rng: np.random.Generator, memory: Memory, parents, partners, posterior: Posterior, system: System
    ):
        """Positions (candidates, atoms, 3), cells and origins of what the moves make of rows of the memory."""
        origin = rng.choice(len(self.moves), size=self.candidates, p=chances(self.move_weights, self.moves)).astype(np.int32)
        of = lambda rows: jax.tree.map(jnp.asarray, memory.structures(rows, system))
        moves = informed(self.moves, judge_of(posterior, system)) + self.starts
        keys = jax.random.split(key, len(origin))
        return *_made(moves, origin, keys, of(parents), of(partners), system), origin


def chances(weights: Array | None, generators: tuple[Generator, ...]) -> np.ndarray:
    """Probabilities of drawing each generator from their weights, equal ones where these are not given."""
    weights = weights_of(weights, generators)
    return weights / weights.sum()


def random_numbers(key) -> np.random.Generator:
    """The host's random numbers of a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _made(generators: tuple[Generator, ...], origin, keys, parents: Structure, partners: Structure, system: System):
    generators, leaves = as_leaves((generators, system), np.float64)
    x, cells = _generate(generators, origin, keys, parents, partners, leaves)
    return np.asarray(x), np.asarray(cells)


@eqx.filter_jit
def _generate(generators, origin, keys, parents, partners, system):
    made = generate(generators, origin, keys, parents, system, partners)
    return made.positions, made.cell
