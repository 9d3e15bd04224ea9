"""Minima hopping: short dynamics out of each minimum, as hot as the memory of minima visited before asks for."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.geometry import centred
from thalweg.search.base import Outcome, Proposals, Search, State, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.search.population import n_features, pair_histogram
from thalweg.system import System
from thalweg.typing import Array


class Hopper(eqx.Module):
    """One walker; every leaf has a leading axis of walkers in a `State`."""

    positions: jax.Array  # (walkers, atoms, 3) the current minimum
    cell: jax.Array  # (walkers, 3, 3) of it
    energy: jax.Array  # (walkers,) its energy; inf before the first
    kinetic: jax.Array  # kinetic energy per atom of the next escape, in units of `energy_scale`
    window: jax.Array  # how much higher a minimum may be to be accepted, in units of `energy_scale`
    seen_energy: jax.Array  # (walkers, memory) minima of the present run, the latest in place `visits % memory`; inf: none
    seen_feature: jax.Array  # (walkers, memory, d) pair histograms of them
    visits: jax.Array  # minima entered into the memory
    lowest: jax.Array  # lowest energy of the present run
    stalled: jax.Array  # escapes since it was lowered
    count: jax.Array  # escapes ever, the counter of the walker's random keys
    run: jax.Array  # independent starts so far, counted from 0
    index: jax.Array  # which walker this is


class MinimaHopping(Search):
    """Escapes by dynamics with a kinetic energy that rises where they come back to known minima and falls where they do not.

    Goedecker, J. Chem. Phys. 120, 9911 (2004), doi:10.1063/1.1724816. The kinetic energy is multiplied by `beta1` after an
    escape that fell back, `beta2` where it led to a minimum visited before, `beta3` where to a new one. A minimum is
    accepted up to a `window` above the present one, multiplied by `alpha1` where one is accepted and by `alpha2` where
    not. Energies are in units of `energy_scale`, `kinetic` per atom. Minima are the same where their pair histograms differ
    by less than `similar` and their energies by less than `same_energy`. The memory is each walker's own, and it begins a
    new run after `patience` escapes that lowered nothing. The directions of the velocities are random; the objective, which
    sees forces, turns them towards soft modes by `soften` evaluations per escape (`thalweg.objective.softening`) and follows
    the dynamics (`needs_velocities`).
    """

    #: Proposals carry velocities, which only the host loop's objectives follow.
    needs_velocities: ClassVar[bool] = True

    starts: tuple[Generator, ...]
    start_weights: Array
    kinetic: float = 0.5
    window: float = 0.5
    beta1: float = 1.1
    beta2: float = 1.1
    beta3: float = 0.9
    alpha1: float = 0.98
    alpha2: float = 1.02
    patience: int = 100
    similar: float = 0.02
    same_energy: float = 0.01
    memory: int = eqx.field(static=True, default=200)
    energy_scale: float = 1.0
    soften: int = eqx.field(static=True, default=0)

    def __init__(
        self, starts, start_weights=None, kinetic=0.5, window=0.5, beta1=1.1, beta2=1.1, beta3=0.9, alpha1=0.98, alpha2=1.02,
        patience=100, similar=0.02, same_energy=0.01, memory=200, energy_scale=1.0, soften=0,
    ):  # fmt: skip
        self.starts = tuple(starts)
        self.start_weights = weights_of(start_weights, self.starts)
        self.kinetic, self.window = kinetic, window
        self.beta1, self.beta2, self.beta3, self.alpha1, self.alpha2 = beta1, beta2, beta3, alpha1, alpha2
        self.patience, self.similar, self.same_energy = patience, similar, same_energy
        self.memory, self.energy_scale, self.soften = memory, energy_scale, soften

    def __check_init__(self):
        wanted = {"beta1": 1, "beta2": 1, "beta3": -1, "alpha1": -1, "alpha2": 1}
        for name, sign in wanted.items():
            value = getattr(self, name)
            if isinstance(value, int | float) and not (value > 0 and (value - 1) * sign >= 0):
                raise InputError(f"search.{name} is {value}; it must be {'at least' if sign > 0 else 'positive and at most'} 1")
        if self.memory < 1:
            raise InputError(f"search.memory is {self.memory}; it must be at least 1")
        if self.soften < 0:
            raise InputError(f"search.soften is {self.soften}; it must be 0 or more")

    @property
    def origins(self) -> tuple[str, ...]:
        return ("escape", *(g.name for g in self.starts))

    def init(self, system: System, n_walkers: int, dtype) -> State:
        zero = jnp.zeros(n_walkers, jnp.int32)
        full = lambda value, *shape: jnp.full((n_walkers, *shape), value, dtype)
        walkers = Hopper(
            full(0, len(system.numbers), 3),
            jnp.broadcast_to(jnp.asarray(system.cell, dtype), (n_walkers, 3, 3)),
            full(jnp.inf),
            full(self.kinetic),
            full(self.window),
            full(jnp.inf, self.memory),
            full(0, self.memory, n_features()),
            zero,
            full(jnp.inf),
            zero,
            zero,
            zero,
            jnp.arange(n_walkers, dtype=jnp.int32),
        )
        return State(walkers, None)

    def ask(self, key, state: State, system: System) -> Proposals:
        """The current minimum with velocities, or a start at rest."""
        w: Hopper = state.walkers
        k_choice, k_make = jax.vmap(lambda k: tuple(jr.split(k)))(walker_keys(key, w.index, w.count))
        start = draw(jax.vmap(lambda k: jr.uniform(k, ()))(k_choice), self.start_weights / self.start_weights.sum())
        current = structures_of(system, w.positions, w.cell)
        fresh = jnp.isinf(w.energy)
        made = generate(self.starts, start, k_make, current, system)
        where = lambda new, old: jnp.where(fresh[:, None, None], new, old)
        structures = eqx.tree_at(
            lambda s: (s.positions, s.cell), current, (where(made.positions, w.positions), where(made.cell, w.cell))
        )
        free = lambda k, x, energy: random_velocities(k, x, energy * self.energy_scale, system)
        velocities = jax.vmap(free)(k_make, w.positions, w.kinetic)
        velocities = jnp.where(fresh[:, None, None], 0, velocities)
        return Proposals(structures, jnp.where(fresh, start + 1, 0).astype(jnp.int32), velocities)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w: Hopper = state.walkers
        structures = outcome.structures
        histograms = jax.vmap(lambda x, cell: pair_histogram(x, cell, system))
        features, here = histograms(structures.positions, structures.cell), histograms(w.positions, w.cell)
        energy = outcome.energy.astype(w.energy.dtype)
        good = outcome.good
        told = jax.vmap(self._told)(w, structures.positions, structures.cell, energy, features, here, good, outcome.valid)
        return State(told, None)

    def _told(self, w: Hopper, positions, cell, energy, feature, here, good, valid) -> Hopper:
        """One walker after one escape; `here` is the pair histogram of the minimum it escaped from."""
        first = jnp.isinf(w.energy)

        def same(energies, features):
            near = jnp.abs(energies - energy) < self.same_energy * self.energy_scale
            return near & (jnp.abs(features - feature).max(-1) < self.similar)

        known, own = same(w.seen_energy, w.seen_feature).any(), same(w.energy, here)
        factor = jnp.where(own, self.beta1, jnp.where(known, self.beta2, self.beta3))
        moved = good & ~own
        accept = moved & (first | (energy < w.energy + w.window * self.energy_scale))
        narrower = jnp.where(accept, self.alpha1, self.alpha2)
        hop = ~first  # a start teaches nothing about escapes
        kinetic = jnp.where(hop & good, w.kinetic * factor, w.kinetic)
        window = jnp.where(hop & moved, w.window * narrower, w.window)
        enters = good & ~known
        place = w.visits % self.memory
        lowered = good & (energy < w.lowest - 1e-4 * self.energy_scale)
        stalled = jnp.where(lowered, 0, w.stalled + valid)
        over = stalled >= self.patience
        begin = lambda value, old: jnp.where(over, jnp.asarray(value, old.dtype), old)
        return Hopper(
            positions=jnp.where(accept, positions, w.positions).astype(w.positions.dtype),
            cell=jnp.where(accept, cell, w.cell).astype(w.cell.dtype),
            energy=begin(jnp.inf, jnp.where(accept, energy, w.energy)),
            kinetic=begin(self.kinetic, kinetic.astype(w.kinetic.dtype)),
            window=begin(self.window, window.astype(w.window.dtype)),
            seen_energy=begin(jnp.inf, w.seen_energy.at[place].set(jnp.where(enters, energy, w.seen_energy[place]))),
            seen_feature=w.seen_feature.at[place].set(jnp.where(enters, feature, w.seen_feature[place])),
            visits=begin(0, w.visits + enters),
            lowest=begin(jnp.inf, jnp.where(lowered, energy, w.lowest)),
            stalled=begin(0, stalled.astype(w.stalled.dtype)),
            count=w.count + valid,
            run=w.run + over,
            index=w.index,
        )


def random_velocities(key, x, energy, system: System):
    """Velocities (atoms, 3) in random directions with the kinetic energy `energy` per free atom, fixed atoms at rest.

    Nothing drifts, and a free cluster does not turn, unless atoms are fixed. Masses are those of the elements in amu, 1 for
    model particles.
    """
    from ase.data import atomic_masses

    numbers = jnp.asarray(system.numbers)
    weights = jnp.asarray(np.where(np.arange(len(atomic_masses)) > 0, atomic_masses, 1.0), x.dtype)
    free = system.mask & ~jnp.asarray(system.fixed)
    mass = jnp.where(free, weights[jnp.maximum(numbers, 0)], 0)[:, None]
    v = jnp.where(free[:, None], jr.normal(key, x.shape, x.dtype) / jnp.sqrt(jnp.maximum(mass, 1e-3)), 0)
    pinned = (jnp.asarray(system.fixed) & system.mask).any()
    total = jnp.maximum(mass.sum(), 1e-3)
    still = v - (mass * v).sum(0) / total
    if not any(system.pbc):
        arm = centred(x, free) + (centred(x, free) * -mass).sum(0) / total
        weighted = (mass * arm).T @ arm
        inertia = jnp.trace(weighted) * jnp.eye(3, dtype=x.dtype) - weighted
        # A diatomic molecule has no inertia about its axis.
        inertia = inertia + 1e-6 * (jnp.trace(inertia) + 1e-6) * jnp.eye(3, dtype=x.dtype)
        rows = jnp.stack([jnp.cross(inertia[k - 2], inertia[k - 1]) for k in range(3)])  # its inverse, times its volume
        turning = rows @ (mass * jnp.cross(arm, still)).sum(0) / (inertia[0] @ rows[0])
        still = still - jnp.cross(jnp.broadcast_to(turning, arm.shape), arm)
    v = jnp.where(free[:, None], jnp.where(pinned, v, still), 0)
    now = (mass * v * v).sum() / 2
    return v * jnp.sqrt(energy * free.sum() / jnp.maximum(now, 1e-12))
