"""What an agent does with its values: which of the allowed placements it takes."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.typing import Array

#: Of how many of the best placements a nearly greedy one is drawn at most.
BEST = 64


class Policy(eqx.Module):
    """Chooses one placement; traceable."""

    #: False where values are not looked at: then none are computed.
    reads_values: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, key, values: Array, allowed: Array) -> Array:
        """Flat index of a placement from values (placements,) and which of them are allowed (placements,), one at least."""

    def warmer(self, factor: float) -> Policy:
        """One that strays so much further from the best, where all that is built is known already; itself if it cannot."""
        return self


class EpsilonGreedy(Policy):
    """The most valuable placement; with the chance `epsilon` another one: of the best, or of all.

    Of those others a share `random` is drawn from all allowed placements, the rest from the best `top` of them (at most 64),
    all with the same chance. M. S. Jørgensen et al., J. Chem. Phys. 151, 054111 (2019), doi:10.1063/1.5108871.
    """

    epsilon: float = 0.15
    random: float = 0.5
    top: float = 0.02

    def __call__(self, key, values, allowed):
        k_which, k_random, k_best, k_tie = jr.split(key, 4)
        masked = jnp.where(allowed, values, -jnp.inf)
        # Equal values are common before anything was learned: the first of them would be the same corner each time.
        jitter = 1e-6 * jr.uniform(k_tie, values.shape, values.dtype)
        among = jnp.clip(jnp.ceil(self.top * allowed.sum()), 1, min(BEST, len(values))).astype(jnp.int32)
        rank = jr.randint(k_best, (), 0, among)
        u, v = jr.uniform(k_which, (2,))
        strays, anywhere = u < self.epsilon, v < self.random
        chosen = _ranked(masked + jitter, jnp.where(strays & ~anywhere, rank, 0))
        return jnp.where(strays & anywhere, _any(k_random, allowed), chosen)


class Softmax(Policy):
    """A placement drawn with a probability that grows by e with every `temperature` of its value."""

    temperature: float = 0.1

    def __call__(self, key, values, allowed):
        noise = jr.gumbel(key, values.shape, jnp.result_type(float))
        return jnp.argmax(jnp.where(allowed, values / self.temperature + noise, -jnp.inf))

    def warmer(self, factor: float) -> Softmax:
        return Softmax(self.temperature * factor)


class Uniform(Policy):
    """Any allowed placement with the same chance: the control that knows nothing."""

    reads_values: ClassVar[bool] = False

    def __call__(self, key, values, allowed):
        return _any(key, allowed)


class Greedy(Policy):
    """The most valuable placement: what an agent has learned, without curiosity."""

    def __call__(self, key, values, allowed):
        return jnp.argmax(jnp.where(allowed, values, -jnp.inf))


def _ranked(values, rank):
    """Index of the value that `rank` others exceed. They are taken off one by one: few draws need it, and sorting is slow."""
    first = lambda left: (left, jnp.argmax(left))
    without = lambda _, last: first(last[0].at[last[1]].set(-jnp.inf))
    return lax.fori_loop(0, rank, without, first(values))[1]


def _any(key, allowed):
    return jnp.argmax(jnp.where(allowed, jr.uniform(key, allowed.shape), -1.0))
