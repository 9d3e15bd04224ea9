"""The learned hop: basin hopping whose kicks and temperature a small network corrects, minimum by minimum."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.generators.base import Generator
from thalweg.generators.learned_kick import FEATURES, LearnedKick
from thalweg.networks.perceptron import Perceptron
from thalweg.networks.weights import ZERO
from thalweg.search.base import Outcome, Proposals, Search, State, generate, structures_of
from thalweg.search.basin_hopping import BasinHopping, Walker
from thalweg.system import System


class LearnedHopping(Search):
    """Basin hopping with `LearnedKick` as its only move, and a learned factor on the temperature of each acceptance.

    A residual: with an output of zero it is `BasinHopping([Displace(step)], starts)` to the last bit. Weights of a network
    may have a trailing axis of walkers, each of which then goes by its own, as in training
    (`thalweg.learning.hopping`). `weights` is a name that ships, a file of `thalweg train`, or "zero"; atoms that they were not
    trained on are refused unless `transfer` is set. The other arguments are those of `BasinHopping`, whose runs begin anew in
    the same way.
    """

    learned: ClassVar[tuple[str, ...]] = ("network",)
    features: ClassVar[tuple[str, ...]] = FEATURES

    network: Perceptron
    walk: BasinHopping
    step: float
    weights: str = eqx.field(static=True)
    transfer: bool = eqx.field(static=True)

    def __init__(
        self,
        starts: tuple[Generator, ...],
        weights: str = ZERO,
        start_weights=None,
        step: float = 0.4,
        temperature: float = 0.8,
        energy_scale: float = 1.0,
        patience: int = 20,
        transfer: bool = False,
    ):
        for name, value in {"step": step, "temperature": temperature, "energy_scale": energy_scale}.items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"search.{name} of a learned hopping is {value}; it must be positive")
        kick = LearnedKick(weights, step)
        self.network, self.weights, self.step, self.transfer = kick.network, weights, step, transfer
        self.walk = BasinHopping(
            (kick,), starts, start_weights=start_weights, temperature=temperature, energy_scale=energy_scale, patience=patience
        )

    @property
    def starts(self) -> tuple[Generator, ...]:
        """Generators of starts."""
        return self.walk.starts

    @property
    def origins(self) -> tuple[str, ...]:
        return self.walk.origins

    def init(self, system: System, n_walkers: int, dtype) -> State:
        if not self.transfer and isinstance(system.numbers, np.ndarray):  # training asks inside a program, of tracers
            self.walk.moves[0].trained.check(self.weights, system.numbers, system.pbc)  # type: ignore[attr-defined]
        return self.walk.init(system, n_walkers, dtype)

    def ask(self, key, state: State, system: System) -> Proposals:
        walkers: Walker = state.walkers
        origin, keys = self.walk.chosen(key, state)
        parents = structures_of(system, walkers.positions, walkers.cell)
        return Proposals(generate(self.starts, origin, keys, parents, system, own=self._kicks(walkers)), origin)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        walkers: Walker = state.walkers
        # The walker still stands where it was asked, so that the network reads what it read then.
        _, keys = self.walk.chosen(key, state)
        parents = structures_of(system, walkers.positions, walkers.cell)
        read = lambda kick, key, parent: kick.read(key, parent, system)["temperature"]
        factor = jnp.exp(jax.vmap(read)(self._kicks(walkers), keys, parents))
        return self.walk.told(key, state, outcome, self.walk.temperature * factor)

    def _kicks(self, w: Walker) -> LearnedKick:
        """The kick of each walker: leaves have an axis of walkers in front."""
        n = w.index.shape[0]
        kT = self.walk.temperature * self.walk.energy_scale
        begun = jnp.isfinite(w.energy) & jnp.isfinite(w.best)
        height = jnp.where(begun, jnp.where(begun, w.energy - w.best, 0) / kT, 0)
        own = self.network.weights[0].ndim == 3
        row = lambda a: jnp.moveaxis(jnp.asarray(a)[..., w.index], -1, 0) if own else jnp.broadcast_to(a, (n, *jnp.shape(a)))
        network = jax.tree.map(row, self.network)
        step = jnp.broadcast_to(jnp.asarray(self.step, w.energy.dtype), (n,))
        put = lambda k: (k.network, k.step, k.stalled, k.height)
        return eqx.tree_at(put, self.walk.moves[0], (network, step, w.stalled.astype(height.dtype), height))
