"""Random search: every proposal is a fresh start. The control that any method has to beat."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from thalweg.generators.base import Generator
from thalweg.search.base import Outcome, Proposals, Search, State, blank, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.system import System
from thalweg.typing import Array


class Sampler(eqx.Module):
    """A walker without memory: who it is and how many starts it has made."""

    index: jax.Array
    run: jax.Array


class RandomSearch(Search):
    """Relax starts drawn independently from `starts`, with the given weights. Every start is a run of its own."""

    starts: tuple[Generator, ...]
    start_weights: Array

    def __init__(self, starts, start_weights=None):
        self.starts = tuple(starts)
        self.start_weights = weights_of(start_weights, self.starts)

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.starts)

    def init(self, system: System, n_walkers: int, dtype) -> State:
        return State(Sampler(jnp.arange(n_walkers, dtype=jnp.int32), jnp.zeros(n_walkers, jnp.int32)), None)

    def ask(self, key, state: State, system: System) -> Proposals:
        walkers: Sampler = state.walkers
        keys = walker_keys(key, walkers.index, walkers.run)
        k_choice, k_start = jax.vmap(lambda k: tuple(jr.split(k)))(keys)
        origin = draw(jax.vmap(lambda k: jr.uniform(k, ()))(k_choice), self.start_weights / self.start_weights.sum())
        empty = structures_of(system, blank(system, len(walkers.index), self.start_weights.dtype))
        return Proposals(generate(self.starts, origin, k_start, empty, system), origin)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        walkers: Sampler = state.walkers
        return State(Sampler(walkers.index, walkers.run + outcome.valid), None)
