"""What tree search asks of builds: the agent's maps, and energies on a model of what unfinished builds become."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from thalweg.agents import building
from thalweg.agents.agent import Agent
from thalweg.agents.building import Build, Site
from thalweg.agents.grid import Grid
from thalweg.agents.policy import Greedy, Policy, Uniform
from thalweg.agents.tree_search import Evaluator, Node, TreeSearch, Views
from thalweg.leaves import as_leaves
from thalweg.surrogates.base import Posterior

#: Who goes on with an unfinished build: None where its energy is that of the atoms there.
POLICIES: dict[str, Policy | None] = {"far-away": None, "uniform": Uniform(), "greedy": Greedy()}


class Held(NamedTuple):
    """A build of the tree: an atom of `kind` on `voxel` after `before`, a `Build` without the axis of a batch.

    Placed when it is looked at, with others; -1 for nothing to be placed.
    """

    before: list[Build]
    kind: int
    voxel: int
    after: list[Build]  # empty until it is looked at


class Lookahead(Evaluator):
    """Looks at builds of one site with one agent and one posterior: what is fitted and trained on is the same for an episode.

    All calls of compiled functions have the shape of `search.together` builds. `lowest` is the lowest energy evaluated so far.
    """

    def __init__(self, agent: Agent, site: Site, posterior: Posterior, search: TreeSearch, lowest: float, scale: float):
        self.rows, self.lowest, self.scale = search.together, float(lowest), float(scale)
        self.completion = POLICIES[search.completion]
        system = site.system
        space = posterior.space(np.asarray(system.cell, np.float64), system.pbc)
        self.agent, self.site = as_leaves((agent, site), np.float32)
        self.model, self.space = as_leaves((posterior, space), np.float64)
        self.numbers = np.asarray(system.numbers)
        self.points = np.asarray(site.grid.points())
        self.keys = 0  # random completions made
        self.seed = 0

    def look(self, states: list[Held]) -> Views:
        with jax.enable_x64(False):
            before = _stacked([s.before[0] for s in states], self.rows)
            kind, voxel = (_padded(np.array([getattr(s, n) for s in states], np.int32), self.rows) for n in ("kind", "voxel"))
            after, may, done = _placed(self.site, before, kind, voxel)
            done = np.asarray(done)
            if done.all():  # the last placements of an episode: nobody asks what would follow
                maps, peaks = np.full(may.shape, -np.inf, np.float32), np.zeros(may.shape, bool)
            else:
                maps, peaks = (np.asarray(a) for a in _valued(self.agent, self.site, after, may))
            after = jax.tree.map(np.asarray, after)
        n = len(states)
        for k, state in enumerate(states):
            state.after.append(jax.tree.map(lambda a, k=k: a[k].copy(), after))
        return Views(self._energies(after, done)[:n], maps[:n], peaks[:n], done[:n])

    def reward(self, energy: float) -> float:
        return max(-1.0, min(1.0, 1 - 2 * (energy - self.lowest) / self.scale))

    def place(self, state: Held, kind: int, voxel: int) -> Held:
        return Held(state.after, kind, voxel, [])

    def squared_distances(self, voxel: int, voxels: int) -> np.ndarray:
        return _distances(self.site.grid, self.points, self.points[voxel])

    def root(self, build: Build, row: int = 0) -> Node:
        """Where the search begins: one of a batch of builds."""
        one = jax.tree.map(lambda a: np.array(a[row]), build)
        return Node(Held([one], -1, 0, []))

    def _energies(self, build: Build, done: np.ndarray) -> np.ndarray:
        """Of builds as they are, or completed; in the unit of the posterior (rows,). NaN where a completion got stuck."""
        fine = np.ones(len(done), bool)
        if self.completion is not None and not done.all():
            self.keys += 1
            with jax.enable_x64(False):
                key = jr.fold_in(jr.key(self.seed), self.keys)
                agent = self.agent if self.completion.reads_values else None
                build, fine = building.built(key, agent, self.site, self.completion, build)
        with jax.enable_x64(True):
            lanes = np.moveaxis(np.asarray(build.positions, np.float64), 0, -1)
            numbers = np.where(np.asarray(build.there), self.numbers, -1).T
            mean = np.asarray(_mean(self.model, lanes, numbers, self.numbers, self.space))
        return np.where(fine, mean, np.nan)


def built_ahead(rng: np.random.Generator, search: TreeSearch, evaluator: Lookahead, start: Build, row: int = 0):
    """One build (a `Build` of one) that goes on from a row of `start`, every placement looked at; and whether it is whole.

    The tree is kept from one placement to the next.
    """
    evaluator.seed, node = int(rng.integers(2**31)), evaluator.root(start, row)
    while (action := search.choose(rng, node, evaluator)) is not None:
        node = search.follow(node, *action, evaluator)
        if node.actions is None:  # it was never visited
            search.look(rng, [node], evaluator)
    return jax.tree.map(lambda a: a[None], node.state.after[0]), node.done


@eqx.filter_jit
def _placed(site: Site, before: Build, kind, voxel):
    """Builds after one more placement (none where `kind` is -1), what may follow (batch, kinds, voxels), and which are done."""
    build = building.placed(site, before, jnp.maximum(kind, 0), voxel, kind >= 0)
    return build, building.allowed(site, build), ~(jnp.asarray(site.system.searched) & ~build.there).any(1)


@eqx.filter_jit
def _valued(agent: Agent, site: Site, build: Build, may):
    """Values (batch, kinds, voxels) and their peaks. Not under a condition, where XLA's convolutions for CPUs are slow too."""
    maps = jnp.where(may, agent.maps(site.grid, build.positions, site.kinds, build.there, site.system.cell), -jnp.inf)
    return maps, peaks_of(maps, site.grid)


def peaks_of(maps, grid: Grid):
    """Where values (batch, species, voxels) are finite and not below those of the voxels around, diagonal ones included."""
    field = highest = maps.reshape(*maps.shape[:2], *grid.shape)
    for axis, wraps in zip((2, 3, 4), grid.periodic, strict=True):
        up, down = jnp.roll(highest, 1, axis), jnp.roll(highest, -1, axis)
        if not wraps:
            at = jnp.arange(highest.shape[axis]).reshape([-1 if k == axis else 1 for k in range(5)])
            up = jnp.where(at == 0, -jnp.inf, up)
            down = jnp.where(at == highest.shape[axis] - 1, -jnp.inf, down)
        highest = jnp.maximum(highest, jnp.maximum(up, down))
    return ((field >= highest) & (field > -jnp.inf)).reshape(maps.shape)


@eqx.filter_jit
def _mean(model: Posterior, positions, numbers, all_numbers, space):
    """Energies (batch,) of the atoms there, others as if they were far away from everything; lanes last."""
    mean, _ = model.mean_std(positions, numbers, space)
    return mean + model.unseen(((all_numbers[:, None] >= 0) & (numbers < 0)).sum(0))


def _distances(grid: Grid, points: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Squared distances (voxels,) of points from one of them, nearest images; on the host."""
    if not any(grid.periodic):
        d = points - point
        return np.einsum("ij,ij->i", d, d)
    cell = np.asarray(grid.steps) * np.asarray(grid.shape)[:, None]
    d = (points - point) @ np.linalg.inv(cell)
    d -= np.where(grid.periodic, np.round(d), 0)
    d = d @ cell
    return np.einsum("ij,ij->i", d, d)


def _stacked(builds: list[Build], rows: int) -> Build:
    return jax.tree.map(lambda *a: np.stack(a), *builds, *[builds[0]] * (rows - len(builds)))


def _padded(a: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([a, np.repeat(a[:1], rows - len(a))])
