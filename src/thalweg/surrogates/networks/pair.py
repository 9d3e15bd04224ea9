"""A sum over pairs of atoms of a learned function of their distance."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.layers import Dense, Stack
from thalweg.networks.schnet import smooth
from thalweg.surrogates.networks.base import ONE, ZERO, EnergyNetwork, Subject
from thalweg.surrogates.networks.pairs import NOWHERE, distances, kinds
from thalweg.typing import Array

#: Below this, what is left of the offset by attraction is rounded off: the logarithm always has an argument.
FLOOR = 0.1


class Pair(EnergyNetwork):
    """V = sum over pairs of exp(a) - exp(b), with a and b networks of the logarithm of the distance; then the target of it.

    It is told that the energy is a sum over pairs, which is the truth about a Lennard-Jones system and about little else: a
    bound on what can be reached, and no rival of the other networks.
    """

    kind: ClassVar[str] = "pair"
    told: ClassVar[bool] = True

    shift: Array
    scale: Array
    bent: Stack
    straight: Dense
    subject: Subject = eqx.field(static=True)

    @classmethod
    def random(cls, rng: np.random.Generator, subject: Subject, width: int = 32, layers: int = 2) -> Pair:
        """Untrained; it starts as powers of the distance."""
        inputs = 1 + len(subject.species) + len(subject.species) ** 2
        bent = Stack.random(rng, inputs, *[width] * layers, 2)
        straight = Dense(np.zeros((1, 2), np.float32) - np.array([6.0, 4.0], np.float32), np.zeros(2, np.float32))
        return cls(bent=bent, straight=straight, subject=subject, shift=ZERO, scale=ONE)

    def outputs(self, positions, numbers):
        r = distances(positions, numbers, self.subject)
        n = r.shape[1]
        first, second = np.triu_indices(n, 1)
        r = r[:, first, second]
        log = jnp.log(r)[..., None]
        kind = kinds(numbers, self.subject)
        # The same for (i, j) and (j, i): sums and symmetrised products.
        both = kind[first] + kind[second]
        product = (kind[first][:, :, None] * kind[second][:, None]).reshape(len(first), -1)
        product = product + (kind[second][:, :, None] * kind[first][:, None]).reshape(len(first), -1)
        told = jnp.broadcast_to(jnp.concatenate([both, product], -1), (*r.shape, both.shape[-1] + product.shape[-1]))
        parts = smooth(self.bent, jnp.concatenate([log, told], -1)) + self.straight(log)
        parts = jnp.where((r < NOWHERE)[..., None], parts, -jnp.inf)
        offset = self.subject.offset
        if offset is None:
            return (jnp.exp(parts[..., 0]) - jnp.exp(parts[..., 1])).sum(-1)
        repulsion = jax.nn.logsumexp(parts[..., 0], -1)
        left = offset - jnp.exp(parts[..., 1]).sum(-1)
        left = FLOOR * (jax.nn.softplus(left / FLOOR) + 1e-4)
        return (jnp.logaddexp(repulsion, jnp.log(left)) - self.shift) / self.scale
