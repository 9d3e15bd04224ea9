"""Parallel tempering: replicas at a ladder of temperatures that exchange places, with their minima looked at now and then."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, blank, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.system import System
from thalweg.typing import Array


class Replica(eqx.Module):
    """One replica; every leaf has a leading axis of walkers in a `State`."""

    positions: Array  # (walkers, atoms, 3)
    velocities: jax.Array  # (walkers, atoms, 3)
    energy: jax.Array  # (walkers,) at `positions`; inf before the first
    rung: jax.Array  # place on the ladder, 0 is the coldest
    turns: jax.Array  # exchanges tried so far
    run: jax.Array  # always 0: a ladder is one run that does not end
    index: jax.Array  # which walker this is


class ParallelTempering(Search):
    """Replicas under Langevin dynamics at `rungs` temperatures, kT from `cold` to `hot`, that exchange temperatures.

    Swendsen and Wang, Phys. Rev. Lett. 57, 2607 (1986), doi:10.1103/PhysRevLett.57.2607. Here evaluating a proposal means
    `segment` steps of dynamics; after every `segment` neighbours on the ladder exchange by Metropolis' rule, after every
    `look` segments a copy of each replica is relaxed and entered among the minima. Walkers form as many independent
    ladders as fit. `cold`, `hot` are in units of `energy_scale`, `dt` in bond / sqrt(energy_scale), masses are 1.
    `tell` needs the outcome of all walkers at once.
    """

    #: The driver moves the proposals by dynamics (`thalweg.search.tempering`) instead of relaxing them.
    dynamic: ClassVar[bool] = True

    starts: tuple[Generator, ...]
    start_weights: Array
    rungs: int = eqx.field(static=True, default=16)
    cold: float = 0.05
    hot: float = 0.12
    dt: float = 0.01
    friction: float = 1.0
    segment: int = 100
    look: int = 10
    energy_scale: float = 1.0

    def __init__(
        self, starts, start_weights=None, rungs=16, cold=0.05, hot=0.12, dt=0.01, friction=1.0, segment=100, look=10,
        energy_scale=1.0,
    ):  # fmt: skip
        self.starts = tuple(starts)
        self.start_weights = weights_of(start_weights, self.starts)
        self.rungs, self.cold, self.hot, self.dt, self.friction = rungs, cold, hot, dt, friction
        self.segment, self.look, self.energy_scale = segment, look, energy_scale

    def __check_init__(self):
        for name in ("cold", "hot", "dt", "friction", "segment", "look"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"search.{name} is {value}; it must be positive")
        if isinstance(self.hot, int | float) and isinstance(self.cold, int | float) and self.hot <= self.cold:
            raise InputError(f"search.hot is {self.hot}, not above search.cold ({self.cold})")
        if self.rungs < 2:
            raise InputError(f"search.rungs is {self.rungs}; a ladder needs at least 2")

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.starts)

    def temperatures(self, rung, dtype):
        """kT of rungs, in the potential's unit of energy: a geometric ladder."""
        up = rung.astype(dtype) / (self.rungs - 1)
        return self.energy_scale * self.cold * (self.hot / self.cold) ** up

    def init(self, system: System, n_walkers: int, dtype) -> State:
        if n_walkers % self.rungs:
            raise InputError(
                f"{n_walkers} walkers do not make whole ladders of {self.rungs} rungs; change walkers or search.rungs"
            )
        zero = jnp.zeros(n_walkers, jnp.int32)
        x = blank(system, n_walkers, dtype)
        index = jnp.arange(n_walkers, dtype=jnp.int32)
        return State(Replica(x, x, jnp.full(n_walkers, jnp.inf, dtype), index % self.rungs, zero, zero, index), None)

    def ask(self, key, state: State, system: System) -> Proposals:
        """Where each replica is: a start before its first turn."""
        w: Replica = state.walkers
        k_choice, k_start = jax.vmap(lambda k: tuple(jr.split(k)))(walker_keys(key, w.index, 2 * w.turns))
        origin = draw(jax.vmap(lambda k: jr.uniform(k, ()))(k_choice), self.start_weights / self.start_weights.sum())
        parents = structures_of(system, w.positions)
        fresh = jnp.isinf(w.energy)
        made = jax.lax.cond(fresh.any(), lambda: generate(self.starts, origin, k_start, parents, system), lambda: parents)
        positions = jnp.where(fresh[:, None, None], made.positions, w.positions)
        return Proposals(eqx.tree_at(lambda s: s.positions, parents, positions), origin)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        """Neighbours on each ladder exchange their temperatures, pairs (0 1)(2 3) and (1 2)(3 4) in turn."""
        w: Replica = state.walkers
        n = w.index.shape[0]
        energy = jnp.where(jnp.isfinite(outcome.energy), outcome.energy, jnp.inf)
        ladder = w.index // self.rungs
        place = ladder * self.rungs + w.rung
        holder = jnp.zeros(n, jnp.int32).at[place].set(w.index)  # which replica stands on each place
        odd = w.turns % 2
        up = (w.rung % 2) == odd
        other = jnp.clip(jnp.where(up, w.rung + 1, w.rung - 1), 0, self.rungs - 1)
        partner = holder[ladder * self.rungs + other]
        beta = 1 / self.temperatures(w.rung, energy.dtype)
        gain = (beta - beta[partner]) * (energy - energy[partner])  # the same for both of a pair
        pair_key = jnp.minimum(w.index, partner)
        u = jax.vmap(lambda k: jr.uniform(k, (), minval=1e-7))(walker_keys(key, pair_key, 2 * w.turns + 1))
        exchange = (partner != w.index) & (jnp.log(u) < gain)
        rung = jnp.where(exchange, other, w.rung).astype(jnp.int32)
        # Velocities go with the temperature.
        factor = jnp.sqrt(self.temperatures(rung, energy.dtype) / self.temperatures(w.rung, energy.dtype))
        velocities = w.velocities * factor[:, None, None]
        return State(Replica(outcome.structures.positions, velocities, energy, rung, w.turns + 1, w.run, w.index), None)
