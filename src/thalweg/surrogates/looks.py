"""What structures look like to a local model: repulsions, features and their slopes, kept from fit to fit."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.structure import Structure
from thalweg.surrogates.batched import in_blocks
from thalweg.surrogates.memo import Memo, digest

#: Pairs of atoms whose slopes are computed at a time for one structure.
PAIRS = 30_000


_PUSHED, _PROJECTED = Memo(), Memo()


def pushed(scheme, x, numbers, cells, pbc):
    """Repulsions (structures,), their forces, and whether environments are finite."""
    environments, prior, species, images, crowd = scheme
    base = digest(scheme, numbers, pbc)
    look = lambda many: _pushed_block(environments, prior, species, images, crowd, many)
    repulsion, push, finite = _PUSHED.rows(base, look, x, numbers, cells, pbc)
    return repulsion, push, finite.astype(bool)


def looked(scheme, x, numbers, cells, pbc):
    """Radial and angular features (structures, atoms, ...)."""
    environments, _, species, images, crowd = scheme
    with jax.enable_x64(True):
        return in_blocks(lambda many: _looked_block(environments, species, images, crowd, many), x, numbers, cells, pbc)


def projected(scheme, projection, x, numbers, cells, pbc, told):
    """Projected features (structures, atoms, kept) and their slopes (structures, 3 told, atoms, kept) along the coordinates
    of atoms by index (told,)."""
    environments, _, species, images, crowd = scheme
    base = digest(scheme, projection, numbers, pbc, told)
    with jax.enable_x64(True):
        traced = jnp.asarray(projection)
    along = np.eye(3 * x.shape[1])[(3 * told[:, None] + np.arange(3)).ravel()]
    look = lambda many: _projected_block(environments, traced, species, images, crowd, along, many)
    return _PROJECTED.rows(base, look, x, numbers, cells, pbc)


@eqx.filter_jit
def _pushed_block(environments, prior, species, images, crowd, structures):
    def one(s):
        angular = environments(s, species, images, crowd)[1]
        energy, slope = jax.value_and_grad(lambda x: prior.atomic_energies(_at(s, x), images).sum())(s.positions)
        return energy, -slope, jnp.isfinite(angular).all()

    return jax.vmap(one)(structures)


@eqx.filter_jit
def _looked_block(environments, species, images, crowd, structures):
    return jax.vmap(lambda s: environments(s, species, images, crowd))(structures)


@eqx.filter_jit
def _projected_block(environments, projection, species, images, crowd, along, structures):
    def one(s):
        shape = s.positions.shape

        def features(x):
            radial, angular = environments(_at(s, x.reshape(shape)), species, images, crowd)
            return jnp.concatenate([radial, angular], 1) @ projection

        flat = s.positions.reshape(-1)
        # Directions are taken few at a time where atoms have many neighbours and images: all at once would fill the memory.
        pairs = shape[0] ** 2 * math.prod(2 * k + 1 for k in images)
        slope = lambda t: jax.jvp(features, (flat,), (t,))[1]
        slopes = lax.map(slope, along, batch_size=max(1, min(len(along), PAIRS // pairs)))
        # Against the noise of forces single precision is plenty for what takes the most memory.
        return features(flat), slopes.astype(jnp.float32)

    return jax.vmap(one)(structures)


def _at(structure: Structure, positions) -> Structure:
    return Structure(positions, structure.numbers, structure.cell, structure.fixed, structure.pbc)
