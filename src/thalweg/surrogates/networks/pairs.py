"""Distances within many structures at once, and which atoms they belong to."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.surrogates.networks.base import Subject

#: Distance, in typical lengths, of atoms that are not there.
NOWHERE = 50.0


def distances(positions, numbers, subject: Subject):
    """Distances (batch, atoms, atoms) in typical lengths; `NOWHERE` from an atom to itself and to padding, smooth there too."""
    x = positions[..., : subject.dimensions] / subject.length
    d = x[:, :, None] - x[:, None]
    real = jnp.asarray(numbers) >= 0
    exists = real[:, None] & real & ~np.eye(x.shape[1], dtype=bool)
    squares = (d * d).sum(-1)
    return jnp.where(exists, jnp.sqrt(jnp.where(exists, squares, 1)), NOWHERE)


def nearest(r, count: int):
    """The `count` smallest distances (batch, atoms, count) of each atom in order, and whose they are; `NOWHERE` beyond."""
    short = max(count - r.shape[-1], 0)
    r = jnp.pad(r, [(0, 0), (0, 0), (0, short)], constant_values=NOWHERE)
    negative, partner = lax.top_k(-r, count)
    return -negative, jnp.minimum(partner, r.shape[-2] - 1)


def kinds(numbers, subject: Subject):
    """Rows (atoms, species) with a 1 in the column of the atom's species; all 0 for padding."""
    return (jnp.asarray(numbers)[:, None] == np.asarray(subject.species, np.int32)).astype(jnp.float32)
