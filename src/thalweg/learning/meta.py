"""Meta-losses: how good a learned component is, lane by lane, each lane with parameters of its own."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.generators.harmonic import Harmonic
from thalweg.networks.weights import with_parameters
from thalweg.potentials.base import Potential
from thalweg.relax.base import FAILED, Relaxer
from thalweg.relax.driver import CHUNK, Relaxation, advance, empty_lanes, load
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, PyTree

#: On a CPU so many pairs of atoms are stepped at a time: memory stays modest however large the population, at the best speed
#: (within 10 % of it between 20,000 and 200,000, for 13, 38 and 75 atoms).
PAIRS_AT_A_TIME = 100_000
#: Loss of what ended without a finite energy, in units of the group's own: bad, and never more than that.
RUINED = 10.0


class MetaLoss(eqx.Module):
    """Losses of candidates on tasks. Everything is lanes last: a candidate on a task is a lane."""

    @abc.abstractmethod
    def groups(self, n_tasks: int) -> np.ndarray:
        """Which tasks have comparable losses (n_tasks,), the same for every update."""

    @abc.abstractmethod
    def plan(self, rng: np.random.Generator) -> PyTree:
        """What all tasks of an update have in common and is drawn anew for each, such as the number of steps."""

    def typical(self, most: bool = False) -> PyTree:
        """A plan that is the same every time, for comparisons: of middling or, where asked for, of the `most` effort."""
        return self.plan(np.random.default_rng(0))

    def prepared(self) -> MetaLoss:
        """The loss with what takes long to make and is needed for training alone; asked for once, before programs are made."""
        return self

    def measuring(self) -> MetaLoss:
        """The loss that says how good a result is and nothing else: energies over `references`, where these are energies."""
        return self

    @abc.abstractmethod
    def losses(self, key, parameters: PyTree, task, n_tasks: int, plan) -> Array:
        """Losses (lanes,) of parameters with a trailing axis of lanes, lane k on task `task[k]`; traceable, always finite."""


class RelaxerLoss(MetaLoss):
    """Energies at which a learned relaxer ends, in a number of evaluations drawn from `horizon`, `polish` of them the last
    relaxer's.

    `systems` share one padded size; tasks go through them in turn. The number of steps is the same for all tasks of an
    update, log-uniform in `horizon`. Losses are energies over `references` (one per system: |energy| of the best known, or
    of the best of some baseline).
    """

    potential: Potential
    relaxer: Any
    systems: System  # stacked: leaves (systems, ...)
    references: Array  # (systems,)
    start: Generator
    space: Space | None
    #: Share of the tasks that each system gets.
    shares: tuple[float, ...] = eqx.field(static=True)
    horizon: tuple[int, int] = eqx.field(static=True, default=(400, 400))
    polish: int = eqx.field(static=True, default=60)
    #: Lanes that are stepped at a time, one block after the other; None for what suits the device.
    block: int | None = eqx.field(static=True, default=None)

    def __init__(
        self,
        potential: Potential,
        relaxer: Relaxer,
        systems: list[System],
        references=None,
        start: Generator = Harmonic(),  # noqa: B008 (immutable)
        horizon: tuple[int, int] = (400, 400),
        polish: int = 60,
        shares=None,
        block: int | None = None,
    ):
        if horizon[0] > horizon[1] or horizon[0] <= polish:
            raise InputError(
                f"the horizon is {horizon} with a polish of {polish} steps; give (least, most), longer than the polish"
            )
        n_slots = max(len(s.numbers) for s in systems)
        padded = [s.padded(n_slots) for s in systems]
        self.systems = jax.tree.map(lambda *a: np.stack([np.asarray(x) for x in a]), *padded)
        self.space = potential.space(systems[0].cell, systems[0].pbc)
        self.references = np.ones(len(systems), np.float32) if references is None else np.asarray(references, np.float32)
        self.shares = (1.0,) * len(systems) if shares is None else tuple(float(s) for s in shares)
        self.potential, self.relaxer, self.start, self.horizon, self.polish = potential, relaxer, start, horizon, polish
        self.block = block

    def groups(self, n_tasks: int) -> np.ndarray:
        return shared_out(self.shares, n_tasks)

    def plan(self, rng: np.random.Generator):
        return log_uniform(self.horizon, rng.uniform())

    def typical(self, most: bool = False):
        return log_uniform(self.horizon, 1.0 if most else 0.5)

    def losses(self, key, parameters, task, n_tasks: int, plan):
        group = self.groups(n_tasks)
        own = jax.tree.map(lambda a: jnp.asarray(a)[group], floats(self.systems))  # (tasks, ...)
        positions = jax.vmap(self._started)(jr.split(key, n_tasks), own)
        x = jnp.moveaxis(positions[task], 0, -1)
        numbers = jnp.moveaxis(own.numbers[task], 0, -1)
        if self.references.shape[0] == 1:
            numbers = numbers[:, :1]
        free = (~own.fixed[task]).astype(jnp.float32).T[:, None]
        run = lambda x, numbers, free, parameters: self._relaxed(x, numbers, free, parameters, plan)
        energy, status = in_blocks(run, self._block(x.shape[0]), x, numbers, free, parameters)
        reference = jnp.asarray(self.references, jnp.float32)[group][task]
        ruined = ~jnp.isfinite(energy) | (status == FAILED)
        return jnp.where(ruined, RUINED, jnp.minimum(energy / jnp.abs(reference), RUINED))

    def _relaxed(self, x, numbers, free, parameters, plan):
        """(energy, status), each (lanes,), of starts (atoms, 3, lanes) after `plan` evaluations."""
        relaxer = with_parameters(self.relaxer, parameters)
        relaxer = eqx.tree_at(lambda r: r.n_steps, relaxer, plan - self.polish)
        relaxation = floats(Relaxation(self.potential, relaxer, 1e-4, plan))
        space = floats(self.space)
        lanes = empty_lanes(relaxation, x.shape[0], x.shape[-1], jnp.float32, space)
        lanes = load(lanes, relaxation, jnp.ones(x.shape[-1], bool), x)
        blocks = (plan + CHUNK) // CHUNK
        lanes = lax.fori_loop(0, blocks, lambda _, k: advance(k, relaxation, numbers, free, space), lanes)
        return lanes.energy, lanes.status

    def _block(self, n_slots: int) -> int | None:
        """Lanes at a time; None for all of them."""
        if self.block is None and jax.default_backend() == "cpu":
            return max(8, PAIRS_AT_A_TIME // n_slots**2)
        return self.block

    def _started(self, key, system: System):
        """Positions (atoms, 3) of a start."""
        n = system.numbers.shape[0]
        blank = Structure(
            jnp.zeros((1, n, 3), jnp.float32), system.numbers[None], system.cell[None], system.fixed[None], system.pbc
        )
        return self.start(key, blank, system).positions


def in_blocks(run, block: int | None, *trees: PyTree):
    """`run` of pytrees with lanes last (n, or 1 for what all share), at most `block` lanes at a time, in equal blocks.

    What happens in one lane must not depend on the others; then blocks change memory and time, and results by no more than
    rounding (programs for other numbers of lanes add in another order).
    """
    n = max(a.shape[-1] for a in jax.tree.leaves(trees))
    if block is None or block >= n:
        return run(*trees)
    count = -(-n // block)
    size = -(-n // count)
    rows = (jnp.arange(count * size) % n).reshape(count, size)
    of = lambda a, row: a if a.shape[-1] == 1 else a[..., row]
    out = lax.map(lambda row: run(*jax.tree.map(lambda a: of(a, row), trees)), rows)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :n], out)


def shared_out(shares: tuple[float, ...], n_tasks: int) -> np.ndarray:
    """Which system each task is of (n_tasks,), by their shares."""
    ends = np.cumsum(shares) / np.sum(shares)
    return np.searchsorted(ends, (np.arange(n_tasks) + 0.5) / n_tasks).astype(np.int32)


def log_uniform(horizon: tuple[int, int], u: float) -> np.int32:
    """The number of evaluations at `u` from 0 to 1 between least and most, even in the logarithm."""
    low, high = np.log(horizon)
    return np.int32(round(float(np.exp(low + (high - low) * u))))


def floats(tree: PyTree) -> PyTree:
    """The pytree with numbers as float32 and int32 arrays, traced values included (`as_leaves` takes none)."""

    def leaf(a):
        if isinstance(a, bool) or not isinstance(a, int | float | np.number | np.ndarray | jax.Array):
            return a
        if jnp.issubdtype(jnp.result_type(a), jnp.floating):
            return jnp.asarray(a, jnp.float32)
        return jnp.asarray(a, jnp.int32) if jnp.issubdtype(jnp.result_type(a), jnp.integer) else a

    return jax.tree.map(leaf, tree)
