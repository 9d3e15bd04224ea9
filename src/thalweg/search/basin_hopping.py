"""Basin hopping of many walkers that learn together which moves pay."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, blank, generate, structures_of, walker_keys, weights_of
from thalweg.system import System
from thalweg.typing import Array


class Walker(eqx.Module):
    """One walker's memory; every leaf has a leading axis of walkers in a `State`."""

    positions: jax.Array  # (walkers, atoms, 3) the current minimum
    energy: jax.Array  # (walkers,) its energy; inf before the first
    best: jax.Array  # (walkers,) lowest energy of the present run
    stalled: jax.Array  # hops since `best` was lowered
    hops: jax.Array  # hops ever, the counter of the walker's random keys
    run: jax.Array  # independent starts so far, counted from 0
    index: jax.Array  # which walker this is
    cell: jax.Array  # (walkers, 3, 3) of the current minimum


class Bandit(eqx.Module):
    """What the walkers know in common about the generators: discounted trials, cost and gains of each."""

    trials: jax.Array
    cost: jax.Array
    gains: jax.Array
    lowered: jax.Array  # hops of each move that lowered their walker's energy, all of them, for the report


class BasinHopping(Search):
    """Metropolis walk over local minima (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997), doi:10.1021/jp970984n).

    `moves` and `starts` are generators. Which move is used is learned: a move's weight is its rate of lowered energies per
    evaluation, mixed with the uniform choice (`explore`). A walker whose best has not improved for `patience` hops (times
    a factor that goes through `run_length`) begins a new, independent run from a start. `temperature` is kT in units of
    `energy_scale`.
    """

    moves: tuple[Generator, ...]
    starts: tuple[Generator, ...]
    move_weights: Array
    start_weights: Array
    temperature: float = 0.8
    energy_scale: float = 1.0
    patience: int = 20
    explore: float = 0.3
    memory: float = 0.999  # how much of the past counts after each hop

    def __init__(
        self, moves, starts, move_weights=None, start_weights=None, temperature=0.8, energy_scale=1.0, patience=20, explore=0.3
    ):
        self.moves, self.starts = tuple(moves), tuple(starts)
        self.move_weights = weights_of(move_weights, moves)
        self.start_weights = weights_of(start_weights, starts)
        self.temperature, self.energy_scale, self.patience, self.explore = temperature, energy_scale, patience, explore

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.moves + self.starts)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        n = len(self.moves)
        zero = jnp.zeros(n_walkers, jnp.int32)
        inf = jnp.full(n_walkers, jnp.inf, dtype)
        walkers = Walker(
            blank(system, n_walkers, dtype),
            inf,
            inf,
            zero,
            zero,
            zero,
            jnp.arange(n_walkers, dtype=jnp.int32),
            jnp.broadcast_to(jnp.asarray(system.cell, dtype), (n_walkers, 3, 3)),
        )
        one = jnp.ones(n, jnp.float32)
        return State(walkers, Bandit(one, one, one, jnp.zeros(n, jnp.int32)))

    def move_probabilities(self, bandit: Bandit):
        """Chance of each move: `explore` of it by the given weights, the rest by learned gains per cost."""
        prior = self.move_weights / self.move_weights.sum()
        learned = prior * (bandit.gains + 1) / (bandit.cost + bandit.cost.mean() + 1)
        return self.explore * prior + (1 - self.explore) * learned / learned.sum()

    def ask(self, key, state: State, system: System) -> Proposals:
        origin, keys = self.chosen(key, state)
        parents = structures_of(system, state.walkers.positions, state.walkers.cell)
        return Proposals(generate(self.moves + self.starts, origin, keys, parents, system), origin)

    def chosen(self, key, state: State):
        """For each walker, which of moves and starts makes its next proposal (walkers,), and with which key."""
        walkers: Walker = state.walkers
        keys = walker_keys(key, walkers.index, 2 * walkers.hops)
        k_choice, k_move = jax.vmap(lambda k: tuple(jr.split(k)))(keys)
        u = jax.vmap(lambda k: jr.uniform(k, (2,)))(k_choice)
        move = draw(u[:, 0], self.move_probabilities(state.shared))
        start = draw(u[:, 1], self.start_weights / self.start_weights.sum()) + len(self.moves)
        return jnp.where(jnp.isinf(walkers.energy), start, move), k_move

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        return self.told(key, state, outcome, self.temperature)

    def told(self, key, state: State, outcome: Outcome, temperature) -> State:
        """The state after outcomes, accepted at a `temperature` that walkers have in common or (walkers,)."""
        w: Walker = state.walkers
        u = jax.vmap(lambda k: jr.uniform(k, (), minval=1e-7))(walker_keys(key, w.index, 2 * w.hops + 1))
        good = outcome.good
        scale = temperature * self.energy_scale
        tolerance = 1e-4 * self.energy_scale
        accept = good & (outcome.energy < w.energy - scale * jnp.log(u))
        lowered = good & (outcome.energy < w.best - tolerance)
        gained = good & (outcome.energy < w.energy - tolerance) & jnp.isfinite(w.energy)
        stalled = jnp.where(lowered, 0, w.stalled + outcome.valid)
        over = stalled >= self.patience * run_length(w.run + w.index).astype(jnp.float32)
        walkers = Walker(
            positions=jnp.where(accept[:, None, None], outcome.structures.positions, w.positions),
            energy=jnp.where(over, jnp.inf, jnp.where(accept, outcome.energy, w.energy)),
            best=jnp.where(over, jnp.inf, jnp.where(lowered, outcome.energy, w.best)),
            stalled=jnp.where(over, 0, stalled),
            hops=w.hops + outcome.valid,
            run=w.run + over,
            index=w.index,
            cell=jnp.where(accept[:, None, None], outcome.structures.cell, w.cell),
        )
        return State(walkers, self._learn(state.shared, outcome, gained))

    def _learn(self, bandit: Bandit, outcome: Outcome, gained) -> Bandit:
        used = (outcome.origin[:, None] == jnp.arange(len(self.moves))) & outcome.valid[:, None]
        forget = self.memory ** outcome.valid.sum()
        # In the types of the memory, whatever the precision of the search.
        add = lambda old, value: (forget * old + (used * value[:, None]).sum(0)).astype(old.dtype)
        return Bandit(
            add(bandit.trials, jnp.ones_like(outcome.energy)),
            add(bandit.cost, outcome.steps / 100),
            add(bandit.gains, gained.astype(jnp.float32)),
            bandit.lowered + (used & gained[:, None]).sum(0).astype(bandit.lowered.dtype),
        )


def draw(u, probabilities):
    """Index drawn from `probabilities` by uniform numbers `u` (n,)."""
    return jnp.minimum((u[:, None] > jnp.cumsum(probabilities)).sum(1), probabilities.shape[0] - 1).astype(jnp.int32)


#: Longest run in units of the patience.
LONGEST = 32


def run_length(count):
    """Lengths 1 2 1 4 1 2 1 8 ... (up to `LONGEST`) of successive runs: all scales get the same share of the time.

    How long a walk pays is unknown and differs by landscape: symmetric minima want many short runs, others few long ones.
    The universal restart sequence of Luby, Sinclair and Zuckerman, Inf. Process. Lett. 47, 173 (1993),
    doi:10.1016/0020-0190(93)90029-9, as the ruler function, is within a logarithm of the best fixed length.
    """
    following = count + 1
    return jnp.minimum(following & -following, LONGEST)
