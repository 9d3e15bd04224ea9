"""Screens of structures before anything is spent on them: atoms on top of each other, atoms that touch nothing.

Distances are in units of the mean bond length of a pair (for black boxes the sum of the covalent radii), and are judged
against `System.limits`. All functions take a batch or one structure, NumPy or JAX arrays, and can be traced.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.generators.base import inside
from thalweg.geometry import nearest_squared, traced_space
from thalweg.system import System


def ratios(positions, numbers, system: System, cell=None):
    """Distances (atoms, atoms) of one structure in units of the mean bond length of each pair; inf for padding and itself.

    In periodic cells to the nearest image, in `cell` (3, 3) or the system's own. An atom's own images count as well.
    """
    x = jnp.asarray(positions)
    cell = jnp.asarray(system.cell if cell is None else cell, x.dtype)
    space = traced_space(cell, system.pbc)
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    real = jnp.asarray(numbers) >= 0
    pair = (bonds[:, None] + bonds) / 2
    ratio = jnp.sqrt(jnp.maximum(nearest_squared(x, x, space), 0)) / pair
    own = jnp.inf
    if space is not None:
        lengths = jnp.sqrt((space.cell**2).sum(1))
        own = jnp.where(jnp.asarray(system.pbc), lengths, jnp.inf).min() / jnp.diagonal(pair)
    ratio = jnp.where(jnp.eye(len(x), dtype=bool), own, ratio)
    return jnp.where(real[:, None] & real, ratio, jnp.inf)


def closest(positions, numbers, system: System, cell=None):
    """The smallest distance of a pair with an atom that is searched, in units of its bond length (*batch).

    Pairs of template atoms do not count: generators did not place them.
    """

    def one(x, number, cell):
        ratio = ratios(x, number, system, cell)
        searched = jnp.asarray(system.searched)
        return jnp.where(searched[:, None] | searched, ratio, jnp.inf).min()

    return _mapped(one, positions, numbers, system, cell)


def clashes(positions, numbers, system: System, cell=None):
    """True (*batch) where two atoms are nearer than the lower limit."""
    return closest(positions, numbers, system, cell) < system.limits[0]


def isolated(positions, numbers, system: System, cell=None):
    """True (*batch, atoms) for searched atoms with no other atom within the upper limit."""

    def one(x, number, cell):
        ratio = jnp.where(jnp.eye(x.shape[0], dtype=bool), jnp.inf, ratios(x, number, system, cell))
        alone = ratio.min(1) > system.limits[1]
        return jnp.asarray(system.searched) & alone & (system.mask.sum() > 1)

    return _mapped(one, positions, numbers, system, cell)


def connected(positions, numbers, system: System, cell=None):
    """True (*batch) where contacts within the upper limit join all atoms; those of a template count as joined."""

    def one(x, number, cell):
        n = x.shape[0]
        real, searched = jnp.asarray(number) >= 0, jnp.asarray(system.searched)
        template = real & ~searched
        touching = (
            (ratios(x, number, system, cell) <= system.limits[1]) | (template[:, None] & template) | jnp.eye(n, dtype=bool)
        )
        reach = touching.astype(jnp.float32)
        for _ in range(max(1, int(np.ceil(np.log2(max(n, 2)))))):  # paths of twice the length each time
            reach = jnp.minimum(reach @ reach, 1)
        return ((reach > 0) | ~(real[:, None] & real)).all()

    return _mapped(one, positions, numbers, system, cell)


def misplaced(positions, system: System, cell=None):
    """True (*batch, atoms) for searched atoms outside of the system's region."""

    def one(x, _, cell):
        return jnp.asarray(system.searched) & ~inside(x, system, traced_space(cell, system.pbc))

    return _mapped(one, positions, system.numbers, system, cell)


def _mapped(function, positions, numbers, system: System, cell):
    """`function` of each structure of a batch: positions (*batch, atoms, 3), numbers and cells of all or of each."""
    x = jnp.asarray(positions)
    batch = x.shape[:-2]
    cell = jnp.asarray(system.cell if cell is None else cell, x.dtype)
    numbers = jnp.broadcast_to(jnp.asarray(numbers), x.shape[:-1])
    cell = jnp.broadcast_to(cell, (*batch, 3, 3))
    return jnp.vectorize(function, signature="(n,c),(n),(c,d)->" + _shape(function, x, numbers, cell))(x, numbers, cell)


def _shape(function, x, numbers, cell) -> str:
    """The core dimensions of what the function returns, for `jnp.vectorize`: none, or one per atom."""
    k = (0,) * (x.ndim - 2)
    out = jax.eval_shape(function, x[k], numbers[k], cell[k])
    return "()" if out.ndim == 0 else "(n)"
