"""The meta-loss of learned hops: walkers that each go by weights of their own, until their evaluations are spent."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.learning.meta import RUINED, MetaLoss, floats, log_uniform, shared_out
from thalweg.networks.weights import with_parameters
from thalweg.potentials.base import Potential
from thalweg.relax.base import RUNNING, Relaxer
from thalweg.relax.driver import Lanes, Relaxation, advance, empty_lanes, load
from thalweg.relax.lbfgs import LBFGS
from thalweg.search.base import Outcome, Search, State, structures_of
from thalweg.space import Space
from thalweg.system import System
from thalweg.typing import Array, PyTree

#: What the last evaluation of a budget costs more than the first, in units of the reference: of two walkers that find the same
#: minimum, the one that found it earlier is better, and rounding does not decide.
HASTE = 1e-3


class Trail(eqx.Module):
    """Walkers on their way: (rounds, walkers) unless said otherwise."""

    lanes: Lanes  # of all walkers, lanes last, round by round
    state: State  # leaves (rounds, walkers, ...)
    origin: Array
    asked: Array  # False before a walker's first proposal
    spent: Array  # evaluations of hops that ended
    lowest: Array
    found: Array  # evaluations at which the lowest was


class HoppingLoss(MetaLoss):
    """Lowest energies that walkers find within a number of evaluations drawn, log-uniform, from `horizon`.

    Hops relax to `fmax` (in units of an energy per bond), at most `max_steps` evaluations each; a hop that ends beyond the
    budget does not count. Every system has a loop of its own, unpadded: small ones do not pay for large ones. Losses are
    lowest energies over `references` (one per system: |energy| of the best known), plus `HASTE` for finding them late.
    Walkers of one task have the same start and the same random numbers.
    """

    potential: Potential
    search: Any
    relaxer: Relaxer
    systems: tuple[System, ...]
    spaces: tuple[Space | None, ...]
    references: Array  # (systems,)
    fmax: tuple[float, ...]  # of each system, in the potential's units
    haste: Array  # `HASTE`, or 0 where only energies are asked for
    shares: tuple[float, ...] = eqx.field(static=True)
    horizon: tuple[int, int] = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        potential: Potential,
        search: Search,
        systems: list[System],
        references=None,
        horizon: tuple[int, int] = (400, 400),
        relaxer: Relaxer = LBFGS(max_step=0.15),  # noqa: B008 (immutable)
        max_steps: int = 80,
        fmax: float = 0.05,
        shares=None,
    ):
        if horizon[0] > horizon[1] or horizon[0] < max_steps:
            raise InputError(
                f"the horizon is {horizon} and hops take up to {max_steps}; give (least, most), a hop long or more"
            )
        self.systems = tuple(systems)
        self.references = np.ones(len(systems), np.float32) if references is None else np.asarray(references, np.float32)
        self.shares = (1.0,) * len(systems) if shares is None else tuple(float(s) for s in shares)
        self.potential, self.search, self.relaxer = potential, search, relaxer
        self.horizon, self.max_steps = horizon, max_steps
        self.haste = np.asarray(HASTE, np.float32)
        self.spaces = tuple(potential.space(s.cell, s.pbc) for s in systems)
        scales = [potential.energy_scale(np.asarray(s.numbers)) or 1.0 for s in systems]
        self.fmax = tuple(fmax * scale / float(np.mean(s.bond_lengths)) for s, scale in zip(systems, scales, strict=True))

    def groups(self, n_tasks: int) -> np.ndarray:
        return shared_out(self.shares, n_tasks)

    def plan(self, rng: np.random.Generator):
        return log_uniform(self.horizon, rng.uniform())

    def typical(self, most: bool = False):
        return log_uniform(self.horizon, 1.0 if most else 0.5)

    def measuring(self):
        return eqx.tree_at(lambda loss: loss.haste, self, np.zeros((), np.float32))

    def losses(self, key, parameters, task, n_tasks: int, plan):
        group = self.groups(n_tasks)
        lane_of = rounds(task, n_tasks)
        losses = jnp.zeros(task.shape, jnp.float32)
        for g in range(len(self.systems)):
            lanes = lane_of[:, np.flatnonzero(group == g)]  # (rounds, tasks of the group)
            if lanes.shape[1] == 0:
                continue
            own = jax.tree.map(lambda a, lanes=lanes: jnp.moveaxis(jnp.asarray(a)[..., lanes], -2, 0), parameters)
            lowest, found = self.walked(jax.random.fold_in(key, g), own, g, plan)
            late = self.haste * found / plan
            loss = lowest / jnp.abs(jnp.asarray(self.references, jnp.float32)[g]) + late
            losses = losses.at[lanes].set(jnp.where(jnp.isfinite(lowest), jnp.minimum(loss, RUINED), RUINED))
        return losses

    def walked(self, key, parameters: PyTree, which: int, budget):
        """Lowest energy of a system and the evaluations at which it was found, (rounds, walkers), within a `budget` of them.

        Parameters are (rounds, ..., walkers): the walkers of a round differ in their random numbers, rounds do not.
        """
        search, system, space = floats((self.search, self.systems[which], self.spaces[which]))
        hop = floats(Relaxation(self.potential, self.relaxer, self.fmax[which], self.max_steps))
        numbers = system.numbers[:, None]
        free = (~system.fixed).astype(jnp.float32)[:, None, None]
        shape = (jax.tree.leaves(parameters)[0].shape[0], jax.tree.leaves(parameters)[0].shape[-1])
        n = shape[0] * shape[1]

        def heard(parameters, state: State, outcome: Outcome):
            own = with_parameters(search, parameters)
            told = own.tell(key, state, outcome, system)
            return told, own.ask(key, told, system)

        def relaxing(carry):
            lanes, active, _ = carry
            lanes = advance(lanes, hop, numbers, free, space)
            return lanes, active, ((lanes.status != RUNNING) & active).sum()

        def turn(trail: Trail) -> Trail:
            active = (trail.spent < budget).reshape(-1)
            # Those that are done do not wait for the slowest, only for a quarter of those that still walk.
            enough = jnp.maximum(active.sum() // 4, 1)
            ready = ((trail.lanes.status != RUNNING) & active).sum()
            lanes, *_ = lax.while_loop(lambda c: c[2] < enough, relaxing, (trail.lanes, active, ready))
            done = ((lanes.status != RUNNING) & active).reshape(shape)
            outcome = self._outcome(lanes, trail, done & trail.asked, system, shape)
            spent = trail.spent + jnp.where(outcome.valid, outcome.steps, 0)
            better = outcome.good & (spent <= budget) & (outcome.energy < trail.lowest)
            state, proposals = lax.map(lambda row: heard(*row), (parameters, trail.state, outcome))
            loaded = (done & (spent < budget)).reshape(-1)
            lanes = load(lanes, hop, loaded, lanes_last(proposals.structures.positions))
            return Trail(
                lanes,
                state,
                jnp.where(done, proposals.origin, trail.origin),
                trail.asked | done,
                spent,
                jnp.where(better, outcome.energy, trail.lowest),
                jnp.where(better, spent, trail.found),
            )

        state = search.init(system, shape[1], jnp.float32)
        state = jax.tree.map(lambda a: jnp.broadcast_to(a, (shape[0], *a.shape)), state)
        lanes = empty_lanes(hop, len(system.numbers), n, jnp.float32, space)  # which count as done, and are asked first
        zero = jnp.zeros(shape, jnp.int32)
        trail = Trail(lanes, state, zero, jnp.zeros(shape, bool), zero, jnp.full(shape, jnp.inf, jnp.float32), zero)
        trail = lax.while_loop(lambda t: (t.spent < budget).any(), turn, trail)
        return trail.lowest, trail.found

    def _outcome(self, lanes: Lanes, trail: Trail, valid, system: System, shape) -> Outcome:
        """What became of the hops, (rounds, walkers)."""
        positions = jnp.moveaxis(lanes.coordinates, -1, 0)
        structures = structures_of(system, positions)
        structures = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), structures)
        whole = lambda a: a.reshape(shape)
        return Outcome(structures, whole(lanes.energy), whole(lanes.steps), whole(lanes.status), trail.origin, valid)


def lanes_last(positions):
    """(atoms, 3, rounds x walkers) of positions (rounds, walkers, atoms, 3)."""
    return jnp.moveaxis(positions.reshape(-1, *positions.shape[2:]), 0, -1)


def rounds(task, n_tasks: int):
    """Which lane holds each task in each round (rounds, tasks), for tasks that all come equally often in `task` (lanes,)."""
    met = task[:, None] == jnp.arange(n_tasks)
    count = jnp.cumsum(met, 0)[jnp.arange(task.shape[0]), task] - 1
    return jnp.argsort(count * n_tasks + task).reshape(-1, n_tasks)
