"""ASLA: an agent builds structures atom by atom and learns from their energies where atoms belong."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import numpy as np

from thalweg.agents import building, q_learning
from thalweg.agents.agent import Agent
from thalweg.agents.building import Site
from thalweg.agents.files import agent_text, check_agent, load_agent
from thalweg.agents.grid import Grid, grid_of
from thalweg.agents.images import Gaussian, Representation
from thalweg.agents.lookahead import Lookahead, built_ahead
from thalweg.agents.pictures import greedy, q_maps
from thalweg.agents.policy import EpsilonGreedy, Policy, Uniform
from thalweg.agents.replay import Replay, histories
from thalweg.agents.symmetry import operations
from thalweg.agents.tree_search import TreeSearch
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.networks.voxel import VoxelNetwork
from thalweg.relax.base import FAILED
from thalweg.search.base import ModelSearch, Outcome, Proposals, State, walker_keys
from thalweg.search.choice import PROGRESS, promises
from thalweg.search.fitting import due, model_of
from thalweg.search.gofee import Member
from thalweg.search.guard import relax_on, settled
from thalweg.search.memory import Memory, points_of
from thalweg.search.model_guided import random_numbers
from thalweg.search.novelty import described, lowest, seen_by
from thalweg.search.sampling import KernelSimilarity, Sampler
from thalweg.structure import Structure
from thalweg.surrogates.acquisition import Acquisition, LowerConfidenceBound
from thalweg.surrogates.base import Surrogate
from thalweg.surrogates.local import LocalGaussianProcess
from thalweg.system import System
from thalweg.typing import PyTree


class Learned(eqx.Module):
    """What all walkers share: true evaluations, episodes, and the agent that learned from them; arrays alone.

    `left` (reuse, atoms, 4) are candidates that were not chosen: positions, and the step of each placement.
    """

    memory: Memory
    replay: Replay
    agent: PyTree
    optimiser: PyTree
    left: np.ndarray


class Asla(ModelSearch):
    """Atomistic structure learning: episodes in which an agent places atoms on a grid, and learns what that was worth.

    M. S. Jørgensen et al., J. Chem. Phys. 151, 054111 (2019), doi:10.1063/1.5108871. A network of voxels expects an outcome of
    every placement, a `policy` chooses, and the energy of the finished structure teaches the network what the best outcome
    of its placements is. With a `surrogate` (H. L. Mortensen et al., Phys. Rev. B 102, 075427 (2020),
    doi:10.1103/PhysRevB.102.075427) structures are relaxed on a model of all evaluations in `steps` steps before they are
    evaluated, and the `acquisition` chooses among `candidates` of them; `reuse` of those it did not choose are compared again
    the next time. The agent learns from the voxels nearest to what was evaluated; with `snap` the atoms themselves go there.

    From episode `rebuild_from` on a share `rebuild` of all candidates begins with a low structure (one that the `sampler`
    takes) of which between `least_removed` and `most_removed` neighbouring atoms are taken out. A `tree` looks ahead at
    every placement of one candidate of each episode. An energy `reward_range` above the lowest one is worth as little as a
    failure. `agent` is the file of one that learned elsewhere.

    `spacing` of the grid in Å; each episode trains on `updates` batches with Adam at `learning_rate`. The model may lack the
    newest evaluations, up to a share `lag` of all.
    """

    hosted: ClassVar[dict] = {"max_steps": 1}

    agent: str = ""
    representation: Representation = Gaussian(0.3)
    policy: Policy = EpsilonGreedy()
    surrogate: Surrogate | None = eqx.field(default_factory=LocalGaussianProcess)
    acquisition: Acquisition = LowerConfidenceBound()
    sampler: Sampler = KernelSimilarity()
    tree: TreeSearch | None = None
    spacing: float = 0.2
    kernel: int = eqx.field(static=True, default=5)
    dilation: int = eqx.field(static=True, default=3)
    hidden: int = eqx.field(static=True, default=10)
    candidates: int = eqx.field(static=True, default=5)
    reuse: int = eqx.field(static=True, default=0)
    steps: int = 50
    n_initial: int = 10
    snap: bool = eqx.field(static=True, default=False)
    rebuild: float = 0.0
    rebuild_from: int = 50
    least_removed: int = 4
    most_removed: int = 7
    hydrogens_last: bool = eqx.field(static=True, default=False)
    updates: int = 5
    learning_rate: float = 1e-3
    reward_range: float = 10.0
    apart: float = 0.01
    refit: float = 1.2
    lag: float = 0.03
    energy_scale: float = 1.0

    def __check_init__(self):
        for name in ("candidates", "updates", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} in [search] is {getattr(self, name)}; it must be at least 1")
        if isinstance(self.rebuild, float) and not 0 <= self.rebuild <= 1:
            raise InputError(f"rebuild in [search] is {self.rebuild:g}; it is a share of episodes, between 0 and 1")
        if isinstance(self.reward_range, float) and not self.reward_range > 0:
            raise InputError(f"reward_range in [search] is {self.reward_range:g}; it must be positive")

    # -- what is searched ------------------------------------------------------------------------------------------------

    @property
    def origins(self) -> tuple[str, ...]:
        return ("agent", "rebuilt", "tree", "left over")

    def site(self, system: System) -> Site:
        """Where structures of a system are built."""
        numbers = np.asarray(system.numbers)
        species = tuple(sorted({int(z) for z in numbers if z >= 0}))
        with jax.enable_x64(False):
            return Site.of(system, grid_of(system, float(self.spacing)), self._species(species), self.hydrogens_last)

    def check(self, system: System) -> None:
        site = self.site(system)
        self.begun(system, site.grid, self._species_of(site))
        with jax.enable_x64(False):
            may = _first(as_leaves(site, np.float32))
        if not np.asarray(may).any():
            raise InputError(
                "no atom can be put on any voxel: the limits of the system leave no place in the region; make the region "
                "larger, or set limits in [system]"
            )

    def _species(self, species: tuple[int, ...]) -> tuple[int, ...]:
        return load_agent(Path(self.agent))[0].species if self.agent else species

    def begun(self, system: System, grid: Grid, species: tuple[int, ...]) -> Agent:
        """An agent that has not learned anything here: untrained, or from a file."""
        if self.agent:
            made, held = load_agent(Path(self.agent))
            numbers = tuple(sorted({int(z) for z in np.asarray(system.numbers) if z >= 0}))
            check_agent(held, numbers, grid.dimensions, float(self.spacing))
            return made
        rng = np.random.default_rng(0)
        inputs = len(species) * self.representation.channels
        network = VoxelNetwork.random(
            rng, inputs, len(species), grid.dimensions, self.kernel, self.dilation, hidden=self.hidden
        )
        return Agent(network, self.representation, species)

    # -- state -----------------------------------------------------------------------------------------------------------

    def init(self, system: System, n_walkers: int, dtype) -> State:
        self.check(system)
        site = self.site(system)
        zero, atoms = np.zeros(n_walkers, np.int32), len(system.numbers)
        with jax.enable_x64(False):
            agent = as_leaves(self.begun(system, site.grid, self._species_of(site)), np.float32)
            held = jax.tree.map(np.asarray, eqx.filter(agent, eqx.is_array_like))
            optimiser = jax.tree.map(np.asarray, q_learning.begin(agent))
        left = np.zeros((self.reuse, atoms, 4))
        left[..., 3] = -2  # nothing there
        shared = Learned(Memory.empty(atoms), Replay.empty(atoms), held, optimiser, left)
        return State(Member(np.arange(n_walkers, dtype=np.int32), zero, zero), shared)

    def _species_of(self, site: Site) -> tuple[int, ...]:
        numbers = np.asarray(site.system.numbers)
        return self._species(tuple(sorted({int(z) for z in numbers if z >= 0})))

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w, shared = state.walkers, state.shared
        site, valid = self.site(system), np.asarray(outcome.valid)
        keys = walker_keys(key, np.asarray(w.index), np.asarray(w.count) + 2**30)
        for k in np.flatnonzero(valid):
            failed = int(np.asarray(outcome.status)[k]) == FAILED
            energy = np.inf if failed else float(np.asarray(outcome.energy)[k])
            points = points_of(outcome, int(k), len(valid))
            memory = due(shared.memory.with_points(points, PROGRESS * self.energy_scale), self.refit)
            order, left = self._noted(outcome, int(k), len(system.numbers))
            replay = self._remembered(shared.replay, site, np.asarray(outcome.structures.positions)[k], order, energy)
            shared = Learned(memory, replay, shared.agent, shared.optimiser, left)
            if int(replay.rows) and self.policy.reads_values:
                shared = self._taught(random_numbers(keys[k]), shared, site)
        count = (np.asarray(w.count) + valid).astype(np.int32)
        return State(eqx.tree_at(lambda m: m.count, w, count), shared)

    def _noted(self, outcome: Outcome, row: int, atoms: int) -> tuple[np.ndarray, np.ndarray]:
        """The order in which the atoms (atoms,) of a proposal were placed, and the candidates that were left over."""
        if outcome.notes is None:
            raise InputError("asla was told an outcome without what it noted with the proposal; ask it for proposals first")
        noted = np.asarray(outcome.notes)[row]
        return noted[:atoms].astype(np.int32), noted[atoms:].reshape(self.reuse, atoms, 4)

    def _remembered(self, replay: Replay, site: Site, x: np.ndarray, order: np.ndarray, energy: float) -> Replay:
        """With one more episode, unless two atoms share a voxel or one has left the grid: then there is no such placement."""
        seat = building.seated(site, x, order)
        after = histories(seat.marks, order, np.asarray(site.kinds))
        return replay.with_episode(seat.voxels, order, after, energy) if seat.fine else replay

    def _taught(self, rng: np.random.Generator, shared: Learned, site: Site) -> Learned:
        """After this episode's training."""
        with jax.enable_x64(False):
            agent, ground = self._agent(shared.agent), as_leaves(site, np.float32)
            turns = operations(site.system, site.grid)
            optimiser, span = shared.optimiser, float(self.reward_range)
            for _ in range(self.updates):
                batch = q_learning.batch_of(rng, shared.replay, site, turns, span, agent.representation.snapped)
                agent, optimiser, _ = q_learning.improved(agent, optimiser, ground, batch, np.float32(self.learning_rate))
            held = jax.tree.map(np.asarray, eqx.filter(agent, eqx.is_array_like))
            optimiser = jax.tree.map(np.asarray, optimiser)
        return Learned(shared.memory, shared.replay, held, optimiser, shared.left)

    def _agent(self, held: PyTree) -> Agent:
        """The agent of a state: its arrays are all it has."""
        return jax.tree.map(lambda a: np.asarray(a, np.float32) if np.asarray(a).dtype.kind == "f" else a, held)

    def products(self, state: State, system: System) -> dict[str, str]:
        """`agent.json` for `agent` of other searches, and `q-maps.svg`: what it values as it builds without curiosity."""
        if not self.policy.reads_values:
            return {}
        shared, site = state.shared, self.site(system)
        with jax.enable_x64(False):
            agent = self._agent(shared.agent)
            numbers = np.asarray(system.numbers).tolist()
            about = {"episodes": int(shared.replay.rows), "lowest": shared.replay.lowest, "numbers": numbers}
            text = agent_text(agent, float(self.spacing), site.grid.dimensions, about)
            steps = greedy(agent, site)
        return {"agent.json": text, "q-maps.svg": q_maps(agent, site.grid, system, steps)}

    # -- asking ----------------------------------------------------------------------------------------------------------

    def ask(self, key, state: State, system: System, pending: Structure | None = None) -> Proposals:
        site = self.site(system)
        waiting = [] if pending is None else list(np.asarray(pending.positions, np.float64))
        keys = walker_keys(key, np.asarray(state.walkers.index), np.asarray(state.walkers.count))
        made, origins, notes = [], [], []
        with jax.enable_x64(True):
            for k in range(len(keys)):
                x, origin, note = self._proposed(keys[k], state.shared, site, waiting)
                made.append(x)
                origins.append(origin)
                notes.append(note)
                waiting.append(x)
        x = np.stack(made)
        cells = np.broadcast_to(np.asarray(system.cell, float), (len(x), 3, 3))
        structures = Structure.create(x, system.numbers, cells, system.fixed, system.pbc)
        return Proposals(structures, np.asarray(origins, np.int32), notes=np.stack(notes))

    def _proposed(self, key, shared: Learned, site: Site, waiting: list[np.ndarray]):
        """Positions (atoms, 3), origin, and what is noted of one proposal."""
        rng = random_numbers(key)
        memory: Memory = shared.memory
        blank = np.zeros((self.reuse, len(site.system.numbers), 4))
        blank[..., 3] = -2
        if self.surrogate is None or int(memory.known.sum()) < self.n_initial:
            return self._as_built(rng, shared, site, self._candidates(rng, shared, site, 1), blank, waiting)
        built = x, order, origin = self._candidates(rng, shared, site, self.candidates)
        kept = shared.left[(shared.left[..., 3] > -2).any(1)]
        if len(kept):
            x, order = np.concatenate([x, kept[..., :3]]), np.concatenate([order, kept[..., 3].astype(np.int32)])
            origin = np.concatenate([origin, np.full(len(kept), 3)])
        x, values = self._valued(x, order, memory, site, waiting)
        best = np.argsort(values, kind="stable")
        if not np.isfinite(values[best[0]]):  # the model leads all of them to what was looked at, or into each other
            return self._as_built(rng, shared, site, built, blank, waiting)
        first, others = best[0], [k for k in best[1 : 1 + self.reuse] if np.isfinite(values[k])]
        for row, k in enumerate(others):
            blank[row] = np.concatenate([x[k], order[k][:, None]], 1)
        return x[first], origin[first], _noted(order[first], blank)

    def _as_built(self, rng: np.random.Generator, shared: Learned, site: Site, built, blank, waiting: list[np.ndarray]):
        """A proposal that no model has touched, from positions, orders and origins of what was built."""
        x, order, origin = built
        k = self._unseen(shared.replay, site, x, order, waiting)
        if k is None and self.candidates > 1:  # the agent repeats itself: it is curious, and may do better if asked again
            x, order, origin = self._candidates(rng, shared, site, self.candidates)
            k = self._unseen(shared.replay, site, x, order, waiting)
        if k is None:  # chance does not repeat itself
            n = self.candidates
            x, order, whole = self._built(rng, None, site, Uniform(), *self._ground(site, n))
            x, order, origin = x[whole], order[whole], np.zeros(int(whole.sum()), np.int32)
            k = self._unseen(shared.replay, site, x, order, waiting) or 0
        return x[k], origin[k], _noted(order[k], blank)

    def _ground(self, site: Site, n: int):
        """Positions (n, atoms, 3), what is there (n, atoms), and orders (n, atoms) before anything was placed."""
        atoms = len(site.system.numbers)
        start = np.broadcast_to(np.asarray(site.grid.position(site.grid.middle), np.float32), (n, atoms, 3)).copy()
        return start, np.zeros((n, atoms), bool), np.full((n, atoms), -1, np.int32)

    def _candidates(self, rng: np.random.Generator, shared: Learned, site: Site, n: int):
        """Positions (k, atoms, 3), orders (k, atoms) and origins (k,) of `n` builds by the agent; k is at least 1."""
        start, there, order = self._ground(site, n)
        rebuilt = np.zeros(n, bool)
        low = self._sampled(shared.memory, site.system) if self._rebuilds(shared) else None
        for k in range(n):
            if low is not None and rng.uniform() < self.rebuild:
                rebuilt[k] = True
                parent, count = low[rng.integers(len(low))], self._count(rng, site)
                start[k], there[k], order[k] = building.opened(rng, site, parent, count)
        agent = self._agent(shared.agent) if self.policy.reads_values else None
        x, orders, whole = self._built(rng, agent, site, self.policy, start, there, order)
        origin = rebuilt.astype(np.int32)
        if self._looks_ahead(shared):
            ahead, fine = self._ahead(rng, shared, site, start[:1], there[:1], order[:1])
            x[0], orders, whole = ahead.positions[0], np.concatenate([ahead.order, orders[1:]]), np.append(fine, whole[1:])
            origin[0] = 2
        if not whole.any():
            return self._candidates(rng, shared, site, max(n, self.candidates))
        return x[whole], orders[whole], origin[whole]

    def _built(self, rng: np.random.Generator, agent: Agent | None, site: Site, policy: Policy, start, there, order):
        """Positions (n, atoms, 3), orders (n, atoms), and which builds (n,) are whole, from what is `there` at the `start`."""
        with jax.enable_x64(False):
            ground = as_leaves(site, np.float32)
            begun = _begun(ground, np.asarray(start), there, order)
            key = jax.random.key(int(rng.integers(2**31)))
            build, whole = building.built(key, agent, ground, as_leaves(policy, np.float32), begun)
        return np.array(build.positions, np.float64), np.asarray(build.order), np.array(whole)

    def _looks_ahead(self, shared: Learned) -> bool:
        memory: Memory = shared.memory
        known = int(memory.known.sum()) >= self.n_initial
        return self.tree is not None and self.surrogate is not None and known and int(memory.told) >= self.tree.first_episode

    def _ahead(self, rng: np.random.Generator, shared: Learned, site: Site, start, there, order):
        """The first candidate, each of whose placements was looked ahead from; and whether it is whole."""
        assert self.surrogate is not None
        assert self.tree is not None
        with jax.enable_x64(True):
            posterior = model_of(shared.memory, self.surrogate, site.system, self.energy_scale, self.lag)
        agent, lowest = self._agent(shared.agent), float(shared.memory.best)
        evaluator = Lookahead(agent, site, posterior, self.tree, lowest, float(self.reward_range))
        with jax.enable_x64(False):
            begun = jax.tree.map(np.asarray, _begun(as_leaves(site, np.float32), start, there, order))
        build, fine = built_ahead(rng, self.tree, evaluator, begun)
        return jax.tree.map(np.asarray, build), fine

    def _count(self, rng: np.random.Generator, site: Site) -> int:
        """How many atoms are taken out; one at least stays."""
        most = min(self.most_removed, site.n_placed - 1)
        return int(rng.integers(min(self.least_removed, most), most + 1))

    def _rebuilds(self, shared: Learned) -> bool:
        return self.rebuild > 0 and int(shared.memory.told) >= self.rebuild_from and int(shared.replay.rows) > 0

    def _sampled(self, memory: Memory, system: System) -> np.ndarray:
        """Positions (n, atoms, 3) of low structures that differ."""
        rows = lowest(memory)
        chosen = self.sampler(described(memory.positions[rows], system), memory.energy[rows])
        return memory.positions[rows[chosen]]

    def _unseen(self, replay: Replay, site: Site, x, order, waiting: list[np.ndarray]) -> int | None:
        """The first candidate that was not an episode before and is not being evaluated; None if there is none."""
        for k in range(len(x)):
            seat = building.seated(site, x[k], order[k])
            waits = any(np.abs(x[k] - other).max() < 1e-4 for other in waiting)
            whole = histories(seat.marks, order[k], np.asarray(site.kinds))[np.argmax(order[k])]
            if not waits and not replay.knows(whole):
                return k
        return None

    def _valued(self, x: np.ndarray, order: np.ndarray, memory: Memory, site: Site, waiting: list[np.ndarray]):
        """Candidates relaxed on the model, and values of the acquisition; inf for what was looked at or is too dense."""
        assert self.surrogate is not None
        system = site.system
        posterior = model_of(memory, self.surrogate, system, self.energy_scale, self.lag)
        low = lowest(memory)
        seen = seen_by(memory, low, waiting, system)
        cells = np.broadcast_to(np.asarray(system.cell, float), (len(x), 3, 3))
        full = self.candidates + self.reuse
        padded = np.concatenate([x, np.repeat(x[:1], full - len(x), 0)]) if len(x) < full else x
        made = Structure.create(
            padded, system.numbers, np.broadcast_to(cells[0], (len(padded), 3, 3)), system.fixed, system.pbc
        )
        relaxed, narrow = relax_on(posterior, made, system, self.steps, self.energy_scale)
        if self.snap:
            orders = np.concatenate([order, np.repeat(order[:1], len(padded) - len(order), 0)])
            relaxed, narrow = settled(
                np.stack([building.snapped(site, *of) for of in zip(relaxed, orders, strict=True)]), system
            )
        values = promises(
            relaxed, narrow, posterior, memory, low, seen, system, self.acquisition, self.apart, self.energy_scale
        )
        return relaxed[: len(x)], values[: len(x)]


def _noted(order: np.ndarray, left: np.ndarray) -> np.ndarray:
    return np.concatenate([order.astype(float), left.ravel()])


@eqx.filter_jit
def _first(site: Site):
    return building.allowed(site, building.empty(site, 1))


@eqx.filter_jit
def _begun(site: Site, positions, there, order):
    return building.begun(site, positions, there, order)
