"""Evolutionary search: a population of distinct minima, crossover and mutation, no generations."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw, run_length
from thalweg.search.population import Pool, admit, pair_histogram, parents
from thalweg.system import System
from thalweg.typing import Array


class Breeder(eqx.Module):
    """A walker: it has no structure of its own. `index` is its population, because a population is one run."""

    index: jax.Array
    run: jax.Array  # the population's run when this walker last told
    member: jax.Array  # which walker this is
    count: jax.Array  # proposals told, the counter of its random keys


class Populations(eqx.Module):
    """What walkers share; every leaf has a leading axis of populations."""

    pool: Pool
    told: jax.Array  # structures of the present run so far
    lowest: jax.Array  # lowest energy of the present run
    stalled: jax.Array  # structures since it was lowered
    run: jax.Array  # independent runs so far, counted from 0


class Evolutionary(Search):
    """Steady-state evolution of `size` distinct minima: parents by fitness, children by crossover or mutation.

    After Deaven and Ho, Phys. Rev. Lett. 75, 288 (1995), doi:10.1103/PhysRevLett.75.288, without their generations: every
    child that is lower than the highest member enters at once, so that walkers never wait for each other, and a duplicate
    (`similar` in the pair histogram) only where it is lower than its twin. A run begins with `size` starts and ends when
    nothing lower was found among `patience` structures (times a factor that goes through `run_length`). A share `renewed`
    of all proposals are new starts. Walkers form `populations` independent ones. What was asked in a run that has ended
    since does not enter the next.
    """

    operators: tuple[Generator, ...]
    starts: tuple[Generator, ...]
    operator_weights: Array
    start_weights: Array
    size: int = eqx.field(static=True, default=20)
    populations: int = eqx.field(static=True, default=1)
    patience: int = 200
    similar: float = 0.02
    energy_scale: float = 1.0
    renewed: float = 0.2

    def __init__(
        self, operators, starts, operator_weights=None, start_weights=None, size=20, populations=1, patience=200,
        similar=0.02, energy_scale=1.0, renewed=0.2,
    ):  # fmt: skip
        self.operators, self.starts = tuple(operators), tuple(starts)
        self.operator_weights = weights_of(operator_weights, self.operators)
        self.start_weights = weights_of(start_weights, self.starts)
        self.size, self.populations, self.patience = size, populations, patience
        self.similar, self.energy_scale, self.renewed = similar, energy_scale, renewed

    def __check_init__(self):
        if self.size < 2:
            raise InputError(f"search.size is {self.size}; a population needs at least 2")
        if self.populations < 1:
            raise InputError(f"search.populations is {self.populations}; it must be at least 1")
        if isinstance(self.renewed, int | float) and not 0 <= self.renewed <= 1:
            raise InputError(f"search.renewed is {self.renewed}; it is a share of the proposals, from 0 to 1")

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.operators + self.starts)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        count = min(self.populations, n_walkers)
        zero = jnp.zeros(n_walkers, jnp.int32)
        member = jnp.arange(n_walkers, dtype=jnp.int32)
        none = jnp.zeros(count, jnp.int32)
        pool = Pool.empty(system, count, self.size, dtype)
        shared = Populations(pool, none, jnp.full(count, jnp.inf, dtype), none, none)
        return State(Breeder(member % count, zero, member, zero), shared)

    def ask(self, key, state: State, system: System) -> Proposals:
        w: Breeder = state.walkers
        shared: Populations = state.shared
        keys = walker_keys(key, w.member, w.count)
        k_choice, k_parents, k_make = jax.vmap(lambda k: tuple(jr.split(k, 3)))(keys)
        u = jax.vmap(lambda k: jr.uniform(k, (3,)))(k_choice)
        operator = draw(u[:, 0], self.operator_weights / self.operator_weights.sum())
        start = draw(u[:, 1], self.start_weights / self.start_weights.sum()) + len(self.operators)
        energy = shared.pool.energy[w.index]
        young = (shared.told[w.index] < self.size) | (jnp.isfinite(energy).sum(1) < 2)
        origin = jnp.where(young | (u[:, 2] < self.renewed), start, operator)
        pair = jax.vmap(parents)(k_parents, energy)
        at = lambda k: structures_of(system, shared.pool.positions[w.index, k], shared.pool.cell[w.index, k])
        mother, father = (at(k) for k in pair)
        return Proposals(generate(self.operators + self.starts, origin, k_make, mother, system, father), origin)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w: Breeder = state.walkers
        structures = outcome.structures
        features = jax.vmap(lambda x, cell: pair_histogram(x, cell, system))(structures.positions, structures.cell)
        good = outcome.good
        rows = (w.index, w.run, structures.positions, structures.cell, outcome.energy, features, good, outcome.valid)
        shared, _ = lax.scan(lambda s, row: (self._enter(s, *row), None), state.shared, rows)
        return State(Breeder(w.index, shared.run[w.index], w.member, w.count + outcome.valid), shared)

    def _enter(self, s: Populations, p, run, positions, cell, energy, feature, good, valid) -> Populations:
        """One outcome after the other, as if told one by one."""
        live = valid & (run == s.run[p])
        good = good & live
        energy = energy.astype(s.lowest.dtype)
        pool = admit(s.pool, p, positions, cell, energy, feature, good, self.similar)
        lowered = good & (energy < s.lowest[p] - 1e-4 * self.energy_scale)
        stalled = jnp.where(lowered, 0, s.stalled[p] + live)
        told = s.told[p] + live
        over = (stalled >= self.patience * run_length(s.run[p] + p)) & (told >= self.size)
        emptied = jnp.where(over, jnp.inf, pool.energy[p])
        return Populations(
            eqx.tree_at(lambda q: q.energy, pool, pool.energy.at[p].set(emptied)),
            s.told.at[p].set(jnp.where(over, 0, told)),
            s.lowest.at[p].set(jnp.where(over, jnp.inf, jnp.where(lowered, energy, s.lowest[p]))),
            s.stalled.at[p].set(jnp.where(over, 0, stalled)),
            s.run.at[p].add(over),
        )
