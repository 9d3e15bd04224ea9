"""From numbers of atoms to one number of the structure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.surrogates.networks.base import EnergyNetwork


def pooled(features, numbers, largest: bool = True):
    """Mean and (unless not asked for) largest value over atoms (batch, 2 width) of features (batch, atoms, width).

    Padding is left out.
    """
    real = (jnp.asarray(numbers) >= 0)[:, None]
    mean = jnp.where(real, features, 0).sum(1) / jnp.maximum(real.sum(), 1)
    if not largest:
        return mean
    # Picked by its place: the derivative of a maximum compares it with every value, which a compiler may have computed anew
    # and rounded otherwise.
    place = jnp.argmax(jnp.where(real, features, -jnp.inf), 1)[:, None]
    picked = jnp.arange(features.shape[1])[:, None] == place
    return jnp.concatenate([mean, jnp.where(picked, features, 0).sum(1)], -1)


def summed(network: EnergyNetwork, each, numbers):
    """Outputs (batch,) of a network whose atoms have energies of their own, from one number per atom (batch, atoms).

    Where the target is log(V + offset) every atom has its share of the offset, and the number is the logarithm of its energy
    plus that share: energies over thirty orders of magnitude are sums of positive parts. Else it is its energy, in units in
    which structures of any size vary by about one.
    """
    real = jnp.asarray(numbers) >= 0
    if network.subject.offset is None:
        return jnp.where(real, each, 0).sum(1) / np.sqrt(network.subject.atoms)
    total = jax.nn.logsumexp(jnp.where(real, each, -jnp.inf), 1)
    return (total - network.shift) / network.scale
