"""GOFEE: a model of the energy, learned from every evaluation, decides what is evaluated next."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg import prng
from thalweg.generators.base import Generator
from thalweg.leaves import as_leaves
from thalweg.search.base import ModelSearch, Outcome, Proposals, State, blank, generate, structures_of, walker_keys
from thalweg.search.guard import relax_on
from thalweg.search.memory import Memory, points_of
from thalweg.search.sampling import KMeans, Sampler
from thalweg.structure import Structure
from thalweg.surrogates.acquisition import Acquisition, LowerConfidenceBound
from thalweg.surrogates.base import Posterior, Surrogate
from thalweg.surrogates.fingerprint import Fingerprint
from thalweg.surrogates.surroundings import images_of, unit_of
from thalweg.system import System
from thalweg.typing import Array

#: Structures whose fingerprints are compared with those of candidates: low ones, failures, pending ones, and the first.
POOL, FAILURES, PENDING, FIRST = 64, 16, 48, 16
#: Fitted models in memory, by what they were fitted to: a state is arrays alone, and its model is made from them again.
_MODELS: OrderedDict[str, Posterior] = OrderedDict()
#: Neighbours within the reach of angles that fingerprints tell apart, and angles computed at a time.
CROWD, ANGLES = 40, 400_000
#: What counts as a lower energy for `patience`, in energy scales: less is refinement of what was found.
PROGRESS = 0.05
#: How much lower than a structure close by a candidate must be to be evaluated, in energy scales.
REFINED = 0.01


class Member(eqx.Module):
    """A walker of a search with a common memory: who it is; every leaf has a leading axis of walkers."""

    index: np.ndarray
    run: np.ndarray  # independent runs begun before the one it is in
    count: np.ndarray  # outcomes it was told, the counter of its random keys


class Gofee(ModelSearch):
    """Global optimisation with first-principles energy expressions: candidates relaxed on a model, the best one evaluated.

    M. K. Bisbo and B. Hammer, Phys. Rev. Lett. 124, 086102 (2020), doi:10.1103/PhysRevLett.124.086102; Phys. Rev. B 105,
    245404 (2022), doi:10.1103/PhysRevB.105.245404.

    The first `n_initial` proposals are drawn from `starts`. Then each proposal is one of `candidates` structures that
    `moves` make of parents, which the `sampler` takes from what was evaluated: relaxed on the mean of the posterior in at
    most `steps` steps, between the system's limits, and chosen by the `acquisition`. None is taken twice: fingerprints
    nearer than `apart` (of the root mean square distance of the first, random structures) to what failed or is being
    evaluated, or to what was evaluated unless the model sees a lower energy there, are left out, and what is uncertain only
    where others look already counts as less so. All walkers share one memory. After `patience` evaluations in a row that
    lowered nothing by `PROGRESS` energy scales (0: never) everything is forgotten and an independent run begins. `refit` is
    the growth of the data after which hyper-parameters are fitted anew.
    """

    #: What [run] takes where an input does not say: of every proposal a few true steps downhill, all of which teach.
    hosted: ClassVar[dict] = {"max_steps": 3}

    moves: tuple[Generator, ...]
    starts: tuple[Generator, ...]
    move_weights: Array
    start_weights: Array
    surrogate: Surrogate
    acquisition: Acquisition
    sampler: Sampler
    n_initial: int = 10
    candidates: int = 16
    steps: int = 50
    patience: int = 100
    apart: float = 0.01
    refit: float = 1.2
    energy_scale: float = 1.0

    def __init__(
        self,
        moves: tuple[Generator, ...],
        starts: tuple[Generator, ...],
        surrogate: Surrogate,
        move_weights=None,
        start_weights=None,
        acquisition: Acquisition = LowerConfidenceBound(),  # noqa: B008 (immutable)
        sampler: Sampler = KMeans(),  # noqa: B008
        n_initial: int = 10,
        candidates: int = 16,
        steps: int = 50,
        patience: int = 100,
        apart: float = 0.01,
        refit: float = 1.2,
        energy_scale: float = 1.0,
    ):
        self.moves, self.starts, self.surrogate = tuple(moves), tuple(starts), surrogate
        self.move_weights = np.asarray(np.ones(len(moves)) if move_weights is None else move_weights, np.float32)
        self.start_weights = np.asarray(np.ones(len(starts)) if start_weights is None else start_weights, np.float32)
        self.acquisition, self.sampler = acquisition, sampler
        self.n_initial, self.candidates, self.steps, self.patience = n_initial, candidates, steps, patience
        self.apart, self.refit, self.energy_scale = apart, refit, energy_scale

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.moves + self.starts)

    # -- state ---------------------------------------------------------------------------------------------------------

    def init(self, system: System, n_walkers: int, dtype) -> State:
        zero = np.zeros(n_walkers, np.int32)
        members = Member(np.arange(n_walkers, dtype=np.int32), zero, zero)
        return State(members, Memory.empty(len(system.numbers)))

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        memory: Memory = state.shared
        runs, index = np.asarray(state.walkers.run), np.asarray(state.walkers.index)
        rows = len(index)
        for row in range(rows):
            # What was begun in an earlier run must not teach this one: runs are independent.
            if bool(np.asarray(outcome.valid)[row]) and runs[row] == memory.run:
                memory = self._learned(memory, points_of(outcome, row, rows), system)
        count = np.asarray(state.walkers.count) + np.asarray(outcome.valid)
        run = np.full(rows, int(memory.run), np.int32)
        return State(Member(index, run, count.astype(np.int32)), memory)

    def _learned(self, memory: Memory, points, system: System) -> Memory:
        memory = memory.with_points(points, PROGRESS * self.energy_scale)
        if self.patience and memory.stalled >= self.patience:
            return Memory.empty(len(system.numbers), int(memory.run) + 1, len(memory.energy))
        known = int(memory.known.sum())
        if known >= self.refit * max(int(memory.fitted), 1):
            memory = eqx.tree_at(lambda m: m.fitted, memory, memory.rows)
        return memory

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, key, state: State, system: System, pending: Structure | None = None) -> Proposals:
        memory: Memory = state.shared
        waiting = [] if pending is None else list(np.asarray(pending.positions, np.float64))
        keys = walker_keys(key, np.asarray(state.walkers.index), np.asarray(state.walkers.count))
        made = []
        with jax.enable_x64(True):
            for row in range(len(keys)):
                x, cell, origin = self.propose(keys[row], memory, state.walkers, row, system, waiting)
                made.append((x, cell, origin))
                waiting.append(x)
        x, cells, origins = (np.stack(parts) for parts in zip(*made, strict=True))
        return Proposals(Structure.create(x, system.numbers, cells, system.fixed, system.pbc), origins.astype(np.int32))

    def propose(self, key, memory: Memory, walkers, row: int, system: System, waiting: list[np.ndarray]):
        """Positions (atoms, 3), cell (3, 3) and origin of one proposal; `waiting` are structures under evaluation."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        if int(memory.told) + len(waiting) < self.n_initial or memory.known.sum() < 2:
            return self.started(key, rng, system)
        posterior = self.model(memory, system)
        low = np.flatnonzero(memory.known)
        low = low[np.argsort(memory.energy[low], kind="stable")[:POOL]]
        seen = self.seen(memory, low, waiting, system)
        parents, partners = self.parents(rng, memory, low, seen[0][: len(low)], walkers, row)
        origin = rng.choice(len(self.moves), size=self.candidates, p=self.move_weights / self.move_weights.sum())
        x, cells = self.generated(key, origin.astype(np.int32), memory, parents, partners, system)
        made = Structure.create(x, system.numbers, cells, system.fixed, system.pbc)
        x, narrow = relax_on(posterior, made, system, self.steps, self.energy_scale)
        best = self.chosen(x, narrow, memory, posterior, seen, len(low), system)
        if best is None:
            return self.started(key, rng, system)
        return x[best], cells[best], np.array(origin[best])

    def parents(self, rng, memory: Memory, low: np.ndarray, features: np.ndarray, walkers, row: int):
        """Rows of the memory (candidates,) that candidates are made of, and their partners for crossover."""
        pool = low[self.sampler(features, memory.energy[low])]
        first = pool[rng.integers(len(pool), size=self.candidates)]
        return first, pool[rng.integers(len(pool), size=self.candidates)]

    def started(self, key, rng, system: System):
        """A start and its origin."""
        chosen = rng.choice(len(self.starts), p=self.start_weights / self.start_weights.sum())
        origin = np.full(1, len(self.moves) + chosen, np.int32)
        parents = structures_of(system, blank(system, 1, np.float64))
        x, cells = self._made(origin, jax.random.split(key, 1), parents, parents, system)
        return x[0], cells[0], origin[0]

    def generated(self, key, origin, memory: Memory, parents, partners, system: System):
        """Positions (candidates, atoms, 3) and cells of what the generators make of rows of the memory."""
        of = lambda rows: jax.tree.map(jnp.asarray, memory.structures(rows, system))
        return self._made(origin, jax.random.split(key, len(origin)), of(parents), of(partners), system)

    def _made(self, origin, keys, parents: Structure, partners: Structure, system: System):
        generators, leaves = as_leaves((self.moves + self.starts, system), np.float64)
        x, cells = _generate(generators, origin, keys, parents, partners, leaves)
        return np.asarray(x), np.asarray(cells)

    def chosen(self, x, narrow, memory: Memory, posterior: Posterior, seen, n_low: int, system: System) -> int | None:
        """Which candidate is evaluated, None if none is worth it."""
        features, others, first = seen
        scale2 = typical2(features[:n_low])
        own = self.described(x, system)
        mean, std = self.predicted(posterior, x, system)
        near2 = self.apart**2 * typical2(first)
        # A structure close to a known one is worth a look only where the model sees further down from there.
        distances2 = ((own[:, None] - features[None]) ** 2).sum(-1)
        known = np.sort(memory.energy[memory.known], kind="stable")[:n_low][distances2.argmin(1)]
        again = (distances2.min(1) < near2) & (mean > known - REFINED * self.energy_scale)
        if len(others):
            again |= nearest2(own, others) < near2
        # The uncertainty near structures under evaluation will be gone when their energies are known.
        crowding = np.exp(-nearest2(own, others) / (2 * 0.25 * scale2)) if len(others) else np.zeros(len(x))
        std = std * np.sqrt(np.maximum(1 - crowding, 0))
        best = np.float64(memory.best)
        values = np.asarray(self.acquisition(jnp.asarray(mean), jnp.asarray(std), best, int(memory.told)))
        usable = np.isfinite(values) & (narrow >= 0.93 * system.limits[0]) & ~again
        return int(np.where(usable, values, np.inf).argmin()) if usable.any() else None

    # -- model ---------------------------------------------------------------------------------------------------------

    def model(self, memory: Memory, system: System) -> Posterior:
        """The posterior of a memory: a function of its arrays alone, so that a resumed run has the same one.

        Hyper-parameters are those of the first `fitted` rows.
        """
        rows, fitted = int(memory.rows), int(memory.fitted)
        first = self._fitted(memory, fitted, None, system) if 0 < fitted <= rows else None
        return first if first is not None and fitted == rows else self._fitted(memory, rows, first, system)

    def _fitted(self, memory: Memory, rows: int, previous: Posterior | None, system: System) -> Posterior:
        data = memory.dataset(system, rows)
        surrogate = self.surrogate.suited(system, 1.0 if real(system) else self.energy_scale)
        digest = hashlib.blake2b(repr((surrogate, rows, int(memory.fitted) if previous is not None else 0)).encode())
        for a in (data.positions[:rows], data.energy[:rows], np.asarray(system.cell), data.numbers):
            digest.update(np.ascontiguousarray(a).tobytes())
        name = digest.hexdigest()
        if name not in _MODELS:
            _MODELS[name] = surrogate.fit(prng.key(rows), data, previous)
            while len(_MODELS) > 8:
                _MODELS.popitem(last=False)
        _MODELS.move_to_end(name)
        return _MODELS[name]

    def predicted(self, posterior: Posterior, x, system: System):
        """Mean and standard deviation (n,) of structures (n, atoms, 3)."""
        space = posterior.space(np.asarray(system.cell, np.float64), system.pbc)
        model, space = as_leaves((posterior, space), np.float64)
        mean, std = _predict(model, jnp.asarray(np.moveaxis(x, 0, -1)), np.asarray(system.numbers)[:, None], space)
        return np.asarray(mean), np.asarray(std)

    def seen(self, memory: Memory, low: np.ndarray, waiting: list[np.ndarray], system: System):
        """Fingerprints of the low structures, of failed and pending ones, and of the first ones."""
        first = np.flatnonzero(memory.known)[:FIRST]
        failed = np.flatnonzero(np.isnan(memory.energy) & (np.arange(len(memory.energy)) < memory.rows))[-FAILURES:]
        others = [*memory.positions[failed], *waiting[-PENDING:]]
        others = np.reshape(others, (-1, *memory.positions.shape[1:]))
        x = np.concatenate([memory.positions[low], others, memory.positions[first]])
        full = POOL + FAILURES + PENDING + FIRST
        features = self.described(np.concatenate([x, np.repeat(x[:1], full - len(x), 0)]), system)
        ends = np.cumsum([len(low), len(others), len(first)])
        return features[: ends[0]], features[ends[0] : ends[1]], features[ends[1] : ends[2]]

    def described(self, x, system: System) -> np.ndarray:
        """Fingerprints (n, features) of structures (n, atoms, 3)."""
        fingerprint = Fingerprint(unit=unit_of(system))
        species = tuple(int(z) for z in np.unique(np.asarray(system.numbers)) if z >= 0)
        images = images_of(np.asarray(system.cell), system.pbc, fingerprint.reach)
        structures = structures_of(as_leaves(system, np.float64), jnp.asarray(x, jnp.float64))
        return np.asarray(_describe(as_leaves(fingerprint, np.float64), structures, species, images))


def real(system: System) -> bool:
    """Whether there are chemical elements, whose energies are in eV."""
    return bool((np.asarray(system.numbers) > 0).any())


def typical2(features: np.ndarray) -> float:
    """Mean squared distance of rows; 1 where there is none."""
    d2 = 2 * ((features - features.mean(0)) ** 2).sum(1).mean()
    return float(d2) if d2 > 0 else 1.0


def nearest2(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distance (n,) of each row to the nearest of `others`."""
    return ((rows[:, None] - others[None]) ** 2).sum(-1).min(1)


@eqx.filter_jit
def _generate(generators, origin, keys, parents, partners, system):
    made = generate(generators, origin, keys, parents, system, partners)
    return made.positions, made.cell


@eqx.filter_jit
def _predict(posterior, positions, numbers, space):
    return posterior.mean_std(positions, numbers, space)


@eqx.filter_jit
def _describe(fingerprint, structures, species, images):
    # Angles are between pairs of neighbours: of the nearest ones where images bring many, and few structures at a time.
    n, near = structures.positions.shape[1], structures.positions.shape[1] * math.prod(2 * k + 1 for k in images)
    crowd = CROWD if near > CROWD else None
    batch = max(1, min(len(structures), ANGLES // (n * min(near, CROWD) ** 2)))
    return lax.map(lambda s: fingerprint(s, species, images, crowd), structures, batch_size=batch)
