"""Searches of long relaxations: relax, keep what is lower, relax again from there; begin anew where that stops paying."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, blank, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.system import System
from thalweg.typing import Array

#: Size of what sets starts apart, in bonds.
SHIFT = 1e-4


class Walkers(eqx.Module):
    """One walker's memory; every leaf has a leading axis of walkers in a `State`."""

    positions: jax.Array  # (walkers, atoms, 3) the lowest minimum of the present run
    cell: jax.Array  # (walkers, 3, 3) of it
    energy: jax.Array  # (walkers,) its energy; inf before the first
    stalled: jax.Array  # relaxations since it was lowered
    count: jax.Array  # relaxations ever, the counter of the walker's random keys
    run: jax.Array  # independent starts so far, counted from 0
    index: jax.Array  # which walker this is


class RepeatedRelaxation(Search):
    """Relaxations that wander, from starts, each repeated from its lowest minimum until `patience` of them in a row lowered
    nothing. What is done is the relaxer's: a subclass names the one that belongs to it."""

    #: Name of the relaxer that belongs to this search where an input names none.
    relaxer_kind: ClassVar[str]
    #: What a relaxation from the walker's own minimum is called in statistics.
    again: ClassVar[str] = "again"

    starts: tuple[Generator, ...]
    start_weights: Array
    patience: int = 2
    energy_scale: float = 1.0

    def __init__(self, starts, start_weights=None, patience: int = 2, energy_scale: float = 1.0):
        self.starts = tuple(starts)
        self.start_weights = weights_of(start_weights, self.starts)
        self.patience, self.energy_scale = patience, energy_scale

    @property
    def origins(self) -> tuple[str, ...]:
        return (*(g.name for g in self.starts), self.again)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        zero = jnp.zeros(n_walkers, jnp.int32)
        x = blank(system, n_walkers, dtype)
        cell = jnp.broadcast_to(jnp.asarray(system.cell, dtype), (n_walkers, 3, 3))
        inf = jnp.full(n_walkers, jnp.inf, dtype)
        return State(Walkers(x, cell, inf, zero, zero, zero, jnp.arange(n_walkers, dtype=jnp.int32)), None)

    def ask(self, key, state: State, system: System) -> Proposals:
        w: Walkers = state.walkers
        k_choice, k_start, k_shift = jax.vmap(lambda k: tuple(jr.split(k, 3)))(walker_keys(key, w.index, w.count))
        origin = draw(jax.vmap(lambda k: jr.uniform(k, ()))(k_choice), self.start_weights / self.start_weights.sum())
        parents = structures_of(system, w.positions, w.cell)
        fresh = jnp.isinf(w.energy)
        made = generate(self.starts, origin, k_start, parents, system)
        where = lambda new, old: jnp.where(fresh[:, None, None], new, old)
        positions = where(made.positions, w.positions)
        positions = positions + jax.vmap(lambda k, x: self._shift(k, x, system))(k_shift, positions)
        structures = eqx.tree_at(lambda s: (s.positions, s.cell), parents, (positions, where(made.cell, w.cell)))
        return Proposals(structures, jnp.where(fresh, origin, len(self.starts)).astype(jnp.int32))

    def _shift(self, key, positions, system: System):
        """Displacements (atoms, 3) too small to matter.

        The random numbers of relaxers that wander are a hash of where they begin: the same start would be relaxed the same way
        by every walker, and again and again.
        """
        length = SHIFT * jnp.asarray(system.bond_lengths, positions.dtype)[:, None]
        return jnp.where(jnp.asarray(system.fixed)[:, None], 0, length * jr.normal(key, positions.shape, positions.dtype))

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w: Walkers = state.walkers
        good = outcome.good
        lowered = good & (outcome.energy < w.energy - 1e-4 * self.energy_scale)
        stalled = jnp.where(lowered, 0, w.stalled + outcome.valid)
        over = stalled >= self.patience
        keep = lowered[:, None, None]
        walkers = Walkers(
            positions=jnp.where(keep, outcome.structures.positions, w.positions),
            cell=jnp.where(keep, outcome.structures.cell, w.cell),
            energy=jnp.where(over, jnp.inf, jnp.where(lowered, outcome.energy, w.energy)),
            stalled=jnp.where(over, 0, stalled).astype(jnp.int32),
            count=w.count + outcome.valid,
            run=w.run + over,
            index=w.index,
        )
        return State(walkers, None)
