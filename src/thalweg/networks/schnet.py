"""Continuous-filter convolutions: messages between atoms, weighted by learned functions of their distance.

K. T. Schütt, H. E. Sauceda, P.-J. Kindermans, A. Tkatchenko and K.-R. Müller, J. Chem. Phys. 148, 241722 (2018),
doi:10.1063/1.5019779. Batch in front: features of atoms are (..., atoms, width), those of pairs (..., atoms, near, width),
where `near` are all atoms, or the nearest ones of each with their places in `partner` (..., atoms, near).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.layers import Dense, Stack
from thalweg.typing import Array


def shifted_softplus(values):
    """log((1 + e^x) / 2): smooth, and zero at zero."""
    return jax.nn.softplus(values) - np.float32(np.log(2.0))


def smooth(stack: Stack, values, activation=jax.nn.silu):
    """The layers of a stack with a smooth activation between them: what is derived by positions must have no kinks."""
    for layer in stack.layers[:-1]:
        values = activation(layer(values))
    return stack.layers[-1](values)


def cosine_cutoff(r, cutoff: float):
    """1 at r = 0, 0 from `cutoff` on, one continuous derivative."""
    return jnp.where(r < cutoff, 0.5 * (1 + jnp.cos(np.pi * jnp.minimum(r, cutoff) / cutoff)), 0)


class Gaussians(eqx.Module):
    """Gaussians of a number at `count` places from `first` to `last`, each as wide as the places are apart."""

    first: float = eqx.field(static=True)
    last: float = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def __call__(self, values):
        """Features (..., count) of values (...)."""
        places = np.linspace(self.first, self.last, self.count, dtype=np.float32)
        apart = (self.last - self.first) / max(self.count - 1, 1)
        return jnp.exp(-0.5 * ((values[..., None] - places) / apart) ** 2)


class Messages(eqx.Module):
    """One interaction of SchNet: what atoms receive through filters, made into a change of their features."""

    filters: Stack
    inwards: Array  # (width, width): linear, without a bias
    outwards: Stack

    @classmethod
    def random(cls, rng: np.random.Generator, radial: int, width: int) -> Messages:
        """Of so many features of a distance."""
        inwards = Dense.random(rng, width, width).weights
        return cls(Stack.random(rng, radial, width, width), inwards, Stack.random(rng, width, width, width))

    def __call__(self, atoms, radial, weight, partner=None):
        """Changes (..., atoms, width) from features of atoms and of distances (..., atoms, near, radial).

        `weight` (..., atoms, near) falls to 0 at the cutoff. It multiplies what the filters make, not what they read: their
        biases would let distant atoms through.
        """
        return self.passed(atoms, self.filtered(radial, weight), partner)

    def filtered(self, radial, weight):
        """What multiplies the features of atoms (..., atoms, near, width): of distances alone, the same in every pass."""
        return smooth(self.filters, radial, shifted_softplus) * weight[..., None]

    def passed(self, atoms, filters, partner=None):
        """Changes (..., atoms, width) from features of atoms and from `filtered`."""
        sent = atoms @ self.inwards
        if partner is None:
            received = jnp.einsum("...ijw,...jw->...iw", filters, sent)
        else:
            received = (filters * gathered(sent, partner)).sum(-2)
        return smooth(self.outwards, received, shifted_softplus)


def gathered(atoms, partner):
    """Features (..., atoms, near, width) of the atoms at places `partner` (..., atoms, near)."""
    flat = partner.reshape(*partner.shape[:-2], -1, 1)
    return jnp.take_along_axis(atoms, flat, -2).reshape(*partner.shape, atoms.shape[-1])
