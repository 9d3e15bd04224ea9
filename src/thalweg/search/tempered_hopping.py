"""Basin hopping on a ladder of temperatures: walkers exchange their places on it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.system import System
from thalweg.typing import Array


class Climber(eqx.Module):
    """One walker. `index` is its ladder, because a ladder is one run."""

    positions: jax.Array  # (walkers, atoms, 3) the current minimum
    cell: jax.Array  # (walkers, 3, 3) of it
    energy: jax.Array  # (walkers,) its energy; inf before the first
    index: jax.Array
    run: jax.Array  # the ladder's run when this walker last told
    member: jax.Array  # which walker this is
    count: jax.Array  # hops told, the counter of its random keys


class Ladders(eqx.Module):
    """What walkers share: the places and current energies of all, and how each ladder does."""

    rung: jax.Array  # (walkers,) place on the ladder, 0 is the coldest
    energy: jax.Array  # (walkers,) as in the walkers' rows, known also while they hop
    tried: jax.Array  # (rungs - 1,) exchanges tried between each rung and the next
    made: jax.Array  # (rungs - 1,) and made
    lowest: jax.Array  # (ladders,) lowest energy of the present run
    stalled: jax.Array  # (ladders,) hops since it was lowered
    run: jax.Array  # (ladders,) independent runs so far, counted from 0


class TemperedHopping(Search):
    """Basin hopping at `rungs` temperatures, kT from `cold` to `hot`, with exchanges between neighbours on the ladder.

    Parallel tempering (Swendsen and Wang, Phys. Rev. Lett. 57, 2607 (1986), doi:10.1103/PhysRevLett.57.2607) of the walk
    over minima; Strodel, Lee, Whittleston and Wales, J. Am. Chem. Soc. 132, 13300 (2010), doi:10.1021/ja103649d. After
    each hop a walker offers one neighbour, above or below at random, to exchange temperatures; the neighbour need not have
    finished its hop, since what it hops from is known, so that walkers come in any order. `cold`, `hot` are in units of
    `energy_scale`. Walkers form whole ladders, each an independent run that ends when `patience` hops per rung lowered
    nothing.
    """

    moves: tuple[Generator, ...]
    starts: tuple[Generator, ...]
    move_weights: Array
    start_weights: Array
    rungs: int = eqx.field(static=True, default=4)
    cold: float = 0.3
    hot: float = 2.0
    patience: int = 100
    energy_scale: float = 1.0

    def __init__(
        self, moves, starts, move_weights=None, start_weights=None, rungs=4, cold=0.3, hot=2.0, patience=100, energy_scale=1.0
    ):
        self.moves, self.starts = tuple(moves), tuple(starts)
        self.move_weights, self.start_weights = weights_of(move_weights, self.moves), weights_of(start_weights, self.starts)
        self.rungs, self.cold, self.hot, self.patience, self.energy_scale = rungs, cold, hot, patience, energy_scale

    def __check_init__(self):
        if self.rungs < 2:
            raise InputError(f"search.rungs is {self.rungs}; a ladder needs at least 2")
        if isinstance(self.cold, int | float) and isinstance(self.hot, int | float) and not 0 < self.cold < self.hot:
            raise InputError(f"search.cold is {self.cold} and search.hot {self.hot}; they must be positive and rise")

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.moves + self.starts)

    def temperatures(self, rung, dtype):
        """kT of rungs, in the potential's unit of energy: a geometric ladder."""
        up = rung.astype(dtype) / (self.rungs - 1)
        return (self.energy_scale * self.cold * (self.hot / self.cold) ** up).astype(dtype)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        if n_walkers % self.rungs:
            raise InputError(
                f"{n_walkers} walkers do not make whole ladders of {self.rungs} rungs; change walkers or search.rungs"
            )
        zero = jnp.zeros(n_walkers, jnp.int32)
        x = jnp.zeros((n_walkers, len(system.numbers), 3), dtype)
        cell = jnp.broadcast_to(jnp.asarray(system.cell, dtype), (n_walkers, 3, 3))
        inf = jnp.full(n_walkers, jnp.inf, dtype)
        member = jnp.arange(n_walkers, dtype=jnp.int32)
        pairs, ladders = jnp.zeros(self.rungs - 1, jnp.int32), jnp.zeros(n_walkers // self.rungs, jnp.int32)
        shared = Ladders(member % self.rungs, inf, pairs, pairs, jnp.full(len(ladders), jnp.inf, dtype), ladders, ladders)
        return State(Climber(x, cell, inf, member // self.rungs, zero, member, zero), shared)

    def ask(self, key, state: State, system: System) -> Proposals:
        w: Climber = state.walkers
        k_choice, k_move = jax.vmap(lambda k: tuple(jr.split(k)))(walker_keys(key, w.member, 2 * w.count))
        u = jax.vmap(lambda k: jr.uniform(k, (2,)))(k_choice)
        move = draw(u[:, 0], self.move_weights / self.move_weights.sum())
        start = draw(u[:, 1], self.start_weights / self.start_weights.sum()) + len(self.moves)
        origin = jnp.where(jnp.isinf(w.energy), start, move)
        current = structures_of(system, w.positions, w.cell)
        return Proposals(generate(self.moves + self.starts, origin, k_move, current, system), origin)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        """Metropolis at the walker's temperature, then one exchange; rows one after the other, as if told one by one."""
        w: Climber = state.walkers
        u = jax.vmap(lambda k: jr.uniform(k, (3,), minval=1e-7))(walker_keys(key, w.member, 2 * w.count + 1))
        good = outcome.good
        rows = (w.member, w.index, w.run, outcome.energy, u, good, outcome.valid)
        shared, accept = lax.scan(lambda s, row: self._hop(s, *row), state.shared, rows)
        # Whoever tells begins anew with its ladder, or is late: of a run that ended while it hopped.
        over = shared.run[w.index] > w.run
        taken = accept[:, None, None]
        walkers = Climber(
            positions=jnp.where(taken, outcome.structures.positions, w.positions),
            cell=jnp.where(taken, outcome.structures.cell, w.cell),
            energy=jnp.where(over, jnp.inf, jnp.where(accept, outcome.energy, w.energy)).astype(w.energy.dtype),
            index=w.index,
            run=shared.run[w.index],
            member=w.member,
            count=w.count + outcome.valid,
        )
        return State(walkers, shared)

    def _hop(self, s: Ladders, me, ladder, run, energy, u, good, valid):
        live = valid & (run == s.run[ladder])
        good, energy = good & live, energy.astype(s.energy.dtype)
        accept = good & (energy < s.energy[me] - self.temperatures(s.rung[me], energy.dtype) * jnp.log(u[0]))
        s = eqx.tree_at(lambda s: s.energy, s, s.energy.at[me].set(jnp.where(accept, energy, s.energy[me])))
        s = self._exchange(s, me, ladder, u[1], u[2], live)
        lowered = good & (energy < s.lowest[ladder] - 1e-4 * self.energy_scale)
        stalled = jnp.where(lowered, 0, s.stalled[ladder] + live)
        over = stalled >= self.patience * self.rungs
        crew = jnp.arange(len(s.rung)) // self.rungs == ladder
        told = Ladders(
            s.rung,
            jnp.where(crew & over, jnp.inf, s.energy),
            s.tried,
            s.made,
            s.lowest.at[ladder].set(jnp.where(over, jnp.inf, jnp.where(lowered, energy, s.lowest[ladder]))),
            s.stalled.at[ladder].set(jnp.where(over, 0, stalled)),
            s.run.at[ladder].add(over),
        )
        return told, accept

    def _exchange(self, s: Ladders, me, ladder, side, chance, live) -> Ladders:
        """Walker `me` and the one on the next rung, up or down at random, exchange temperatures by Metropolis' rule."""
        mine = s.rung[me]
        other = mine + jnp.where(side < 0.5, 1, -1)
        crew = jnp.arange(len(s.rung)) // self.rungs == ladder
        partner = jnp.argmax(crew & (s.rung == other))
        known = jnp.isfinite(s.energy[me]) & jnp.isfinite(s.energy[partner])
        tried = live & (other >= 0) & (other < self.rungs) & known
        dtype = s.energy.dtype
        difference = 1 / self.temperatures(mine, dtype) - 1 / self.temperatures(other, dtype)
        gain = difference * jnp.where(known, s.energy[me] - s.energy[partner], 0)
        made = tried & (jnp.log(chance) < gain)
        rung = s.rung.at[me].set(jnp.where(made, other, mine))
        rung = rung.at[partner].set(jnp.where(made, mine, rung[partner]))
        pair = jnp.clip(jnp.minimum(mine, other), 0, self.rungs - 2)
        return Ladders(rung, s.energy, s.tried.at[pair].add(tried), s.made.at[pair].add(made), s.lowest, s.stalled, s.run)
