"""Relaxing structures on a surrogate that learns from where its relaxations end, until the true energies stop falling.

Round after round every chain relaxes on the surrogate as fitted so far, no atom farther than a radius of trust; the true energy
of where it ends is evaluated and becomes data, and the chain goes there only if that is lower. A surrogate knows nothing of
distances that no data have, and its relaxations fall through the cores of atoms: a repulsive core stands below them all, and
what comes too near all the same is counted. `direct` relaxes the same starts in the true energy, for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from thalweg import prng
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.relax.base import RUNNING, STEP_LIMIT
from thalweg.relax.driver import Relaxation, Relaxed, advance, empty_lanes, load, relax
from thalweg.relax.filters import Filter, Positions
from thalweg.relax.lbfgs import LBFGS
from thalweg.surrogates.base import Dataset, Posterior, Surrogate
from thalweg.system import System

#: Rows that the padded data begin with; they double when they are full.
ROWS = 64
#: Largest step of an atom on the surrogate, in mean bond lengths, and the share of `trust` that the radius never leaves.
STEP, LEAST = 0.15, 0.02


@dataclass(frozen=True)
class Loop:
    """When rounds end and how far each of them goes; lengths in mean bond lengths, energies relative.

    A chain whose proposal is lower trusts the surrogate half as far again, at most up to `trust`; one whose is not trusts it
    half as far. The loop ends after `rounds`, or when the mean of the chains' true energies has fallen by less than `gain` of
    itself in `patience` rounds.
    """

    rounds: int = 40
    patience: int = 8  # so many rejections bring the radius of trust to its least
    gain: float = 5e-4
    trust: float = 1.0
    steps: int = 200  # of a relaxation on the surrogate, at most
    core: float = 0.85  # where the repulsive core begins; 0: none
    too_near: float = 0.6  # a pair nearer than this has fallen through the core
    window: float = 3.0  # evaluations higher than the lowest by this many of its |energies| are no data
    forces: bool = True  # whether the surrogate is shown true forces too
    single: bool = False  # relaxations on the surrogate in float32: networks know no more digits
    seed: int = 0

    def __post_init__(self):
        for name, least in (("rounds", 1), ("patience", 1), ("steps", 1), ("trust", 0), ("window", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} of a refitting loop is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class Round:
    """What one round came to: energies of the chains after it, and of its proposals those rejected and collapsed.

    `error` is the mean difference between the surrogate's energy of the proposals and their true one, of those not collapsed.
    """

    lowest: float
    mean: float
    error: float
    rejected: int
    collapsed: int
    evaluations: int  # of the true energy, from the beginning
    fitted: int  # structures that the surrogate was fitted to
    cpu_seconds: float


@dataclass(frozen=True)
class Refitted:
    """The chains at the end: positions (chains, atoms, 3), true energies (chains,), and how they came there."""

    positions: np.ndarray
    energies: np.ndarray
    rounds: tuple[Round, ...] = ()
    stalled: bool = False  # the energies had stopped falling before the rounds were used up
    posterior: Posterior | None = field(default=None, repr=False)

    @property
    def collapses(self) -> int:
        """Proposals of all rounds in which two atoms came too near."""
        return sum(r.collapsed for r in self.rounds)

    @property
    def evaluations(self) -> int:
        """True energies that were evaluated, those of the first data included."""
        return self.rounds[-1].evaluations if self.rounds else 0


class Core(Potential):
    """A model of the energy and a wall below each pair nearer than `length`: strength ((length / r)^6 - 1)^2.

    Zero with its first derivative at `length`, so that minima with longer bonds stay where the model has them.
    """

    model: Potential
    length: float
    strength: float

    @property
    def reach(self) -> float | None:
        return self.model.reach

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        out = self.model.lanes(positions, numbers, space, neighbors, virial)
        wall, push = jax.vjp(lambda x: self._wall(x, numbers), positions)
        (gradient,) = push(jnp.ones_like(wall))
        return finish(out.energy + wall, out.forces - gradient, out.atomic_energies, out.virial)

    def _wall(self, x, numbers):
        """Energy (*lanes) of what is too near in a free cluster (atoms, 3, *lanes)."""
        d2 = ((x[:, None] - x[None]) ** 2).sum(2)
        real = jnp.broadcast_to(jnp.asarray(numbers).reshape(len(x), *[1] * (x.ndim - 2)) >= 0, (len(x), *x.shape[2:]))
        pair = real[:, None] & real[None] & ~jnp.eye(len(x), dtype=bool).reshape(len(x), len(x), *[1] * (x.ndim - 2))
        near = pair & (d2 < self.length**2)
        ratio = jnp.where(near, self.length**2 / jnp.where(near, jnp.maximum(d2, 1e-4 * self.length**2), 1.0), 1.0)
        return self.strength * ((ratio**3 - 1) ** 2).sum((0, 1)) / 2


class _Data:
    """Evaluations that a surrogate is fitted to, padded so that few sizes are compiled."""

    def __init__(self, system: System, forces: bool):
        self.system, self.forces = system, forces
        self.x, self.e, self.f = [], [], []

    def add(self, x: np.ndarray, energy: np.ndarray, forces: np.ndarray, which: np.ndarray) -> None:
        """Keep the structures of the mask `which`."""
        self.x += list(x[which])
        self.e += list(energy[which])
        self.f += list(forces[which] if self.forces else np.full_like(forces[which], np.nan))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dataset(self) -> Dataset:
        """All of them, those without force marked as such."""
        n, size = len(self.x), ROWS
        while size < n:
            size *= 2
        pad = lambda rows, fill: np.concatenate([rows, np.full((size - n, *np.shape(rows)[1:]), fill)])
        x, e, f = (np.asarray(a, np.float64) for a in (self.x, self.e, self.f))
        cells = np.broadcast_to(np.asarray(self.system.cell, np.float64), (size, 3, 3))
        return Dataset(
            pad(x, 0.0), cells, pad(e, 0.0), pad(f, np.nan), np.arange(size) < n, np.asarray(self.system.numbers),
            self.system.pbc,
        )  # fmt: skip


def refit(
    surrogate: Surrogate,
    potential: Potential,
    system: System,
    starts: np.ndarray,
    loop: Loop = Loop(),
    *,
    filter: Filter = Positions(),  # noqa: B008 -- immutable
    more: np.ndarray | None = None,
    note: Callable[[Round], None] = lambda made: None,
) -> Refitted:
    """Relax `starts` (chains, atoms, 3) of a free cluster on a surrogate that is fitted anew after each round.

    `more` (structures, atoms, 3) are evaluated and shown to the surrogate too, before the first round; `note` hears of every
    round. Raises `InputError` where no start has a finite energy.
    """
    if any(system.pbc):
        raise InputError("refitting relaxes free clusters; for cells use the search gofee, which fits surrogates too")
    begun, bond = time.process_time(), float(np.mean(np.asarray(system.bond_lengths)))
    data = _Data(system, loop.forces)
    x = np.array(starts, np.float64)
    energy, forces = evaluated(potential, system, x)
    if not np.isfinite(energy).any():
        raise InputError("none of the starts has a finite energy; move their atoms apart")
    evaluations = len(x)
    data.add(x, energy, forces, _useful(energy, energy, loop.window))
    if more is not None and len(more):
        other, pull = evaluated(potential, system, np.asarray(more, np.float64))
        evaluations += len(more)
        data.add(np.asarray(more, np.float64), other, pull, _useful(other, np.append(energy, other), loop.window))
    model, rounds, radius, means = None, [], np.full(len(x), loop.trust * bond), [_mean(energy)]
    # The scale of the wall: what a bond is worth, as far as the potential tells.
    scale = potential.energy_scale(np.asarray(system.numbers)) or 1.0
    for number in range(loop.rounds):
        model = surrogate.fit(jr.fold_in(prng.key(loop.seed), number), data.dataset, model)
        fitted = len(data)
        proposed, told = descended(model, system, x, radius, loop, bond, scale, filter)
        near = nearest(proposed)
        collapsed = (near < loop.too_near * bond) | ~np.isfinite(proposed).all((1, 2))
        true, forces = evaluated(potential, system, np.where(collapsed[:, None, None], x, proposed))
        true = np.where(collapsed, np.inf, true)  # what has fallen through the core is no structure
        evaluations += int((~collapsed).sum())
        data.add(proposed, true, forces, _useful(true, np.append(energy, true), loop.window))
        lower = true < energy
        x, energy = np.where(lower[:, None, None], proposed, x), np.where(lower, true, energy)
        radius = np.clip(np.where(lower, 1.5, 0.5) * radius, LEAST * loop.trust * bond, loop.trust * bond)
        means.append(_mean(energy))
        known = np.isfinite(true)
        error = float(np.abs(told - true)[known].mean()) if known.any() else np.inf
        rounds.append(
            Round(
                float(energy.min()),
                means[-1],
                error,
                int((~lower & ~collapsed).sum()),
                int(collapsed.sum()),
                evaluations,
                fitted,
                time.process_time() - begun,
            )
        )
        note(rounds[-1])
        if len(means) > loop.patience and means[-1 - loop.patience] - means[-1] < loop.gain * abs(means[-1]):
            return Refitted(x, energy, tuple(rounds), True, model)
    return Refitted(x, energy, tuple(rounds), False, model)


def direct(
    potential: Potential, system: System, starts: np.ndarray, *, filter: Filter = Positions(),  # noqa: B008
    fmax: float = 1e-3, max_steps: int = 2000,
) -> Relaxed:  # fmt: skip
    """The same starts (chains, atoms, 3) relaxed by L-BFGS in the true energy; `steps` are evaluations."""
    bond = float(np.mean(np.asarray(system.bond_lengths)))
    relaxation = Relaxation(potential, LBFGS(max_step=STEP * bond), fmax, max_steps, filter)
    return relax(system.structure(np.asarray(starts, np.float64)), relaxation)


def evaluated(potential: Potential, system: System, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True energies (n,), infinite where they are not finite, and forces (n, atoms, 3) in float64."""
    with jax.enable_x64(True):
        energy, forces, ok = _evaluated(as_leaves(potential, np.float64), x, np.asarray(system.numbers))
        return np.where(ok, energy, np.inf), np.asarray(forces)


@eqx.filter_jit
def _evaluated(potential: Potential, x, numbers):
    out = potential.lanes(jnp.moveaxis(x, 0, -1), numbers[:, None])
    return out.energy, jnp.moveaxis(out.forces, -1, 0), out.ok


def descended(
    model: Potential, system: System, x: np.ndarray, radius: np.ndarray, loop: Loop, bond: float, scale: float, filter: Filter
) -> tuple[np.ndarray, np.ndarray]:
    """Where chains (n, atoms, 3) come on a model before an atom has moved farther than `radius` (n,), and its energies (n,)."""
    guarded = Core(model, loop.core * bond, scale)
    relaxation = Relaxation(guarded, LBFGS(max_step=STEP * bond), 1e-2 * scale / bond, loop.steps, filter)
    dtype = np.float32 if loop.single else np.float64
    with jax.enable_x64(not loop.single):
        made, many = as_leaves(relaxation, dtype), np.moveaxis(x, 0, -1).astype(dtype)
        free = (~np.asarray(system.fixed)).astype(dtype)[:, None, None]
        out, energy = _descended(made, many, np.asarray(system.numbers)[:, None], free, radius.astype(dtype))
        return np.moveaxis(np.asarray(out, np.float64), -1, 0), np.asarray(energy, np.float64)


@eqx.filter_jit
def _descended(relaxation: Relaxation, x, numbers, free, radius):
    n = x.shape[-1]
    lanes = load(empty_lanes(relaxation, len(x), n, x.dtype), relaxation, jnp.ones(n, bool), x)

    def moved(lanes):
        """How far the atoms (atoms, 3, n) have gone, and the one that went farthest (n,)."""
        gone = relaxation.filter.unpack(lanes.coordinates, lanes.origin, numbers)[0] - x
        return gone, jnp.sqrt((gone**2).sum(1).max(0))

    def body(lanes):
        lanes = advance(lanes, relaxation, numbers, free, None, 1)
        beyond = (lanes.status == RUNNING) & (moved(lanes)[1] > radius)
        return eqx.tree_at(lambda k: k.status, lanes, jnp.where(beyond, STEP_LIMIT, lanes.status))

    lanes = jax.lax.while_loop(lambda k: (k.status == RUNNING).any(), body, lanes)
    gone, far = moved(lanes)
    x = x + gone * jnp.minimum(1, radius / jnp.maximum(far, radius))  # the last step may have gone beyond
    return x, relaxation.potential.lanes(x, numbers).energy


def nearest(x: np.ndarray) -> np.ndarray:
    """The shortest distance (n,) between two atoms of structures (n, atoms, 3); NaN where positions are."""
    d2 = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
    d2 += np.where(np.eye(x.shape[1], dtype=bool), np.inf, 0.0)
    return np.sqrt(d2.min((1, 2)))


def _useful(energy: np.ndarray, of: np.ndarray, window: float) -> np.ndarray:
    """Which energies are worth learning from: those within a window above the lowest `of` all."""
    lowest = float(np.min(of[np.isfinite(of)]))
    return np.isfinite(energy) & (energy <= lowest + window * max(abs(lowest), 1.0))


def _mean(energy: np.ndarray) -> float:
    return float(energy[np.isfinite(energy)].mean())


__all__ = ["Core", "Loop", "Refitted", "Round", "descended", "direct", "evaluated", "nearest", "refit"]
