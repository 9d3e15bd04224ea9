"""Sums over pairs: the one hot loop of all pair, embedded-atom and three-body potentials.

Dense: the loop runs over atoms i (and images); each pass adds the interaction of atom i with every atom j to arrays of shape
(atoms, *lanes) element by element. There is no scatter, no reduction and no atoms x atoms storage inside the loop, which
lets XLA turn a pass into one vectorised kernel: 1 ns per pair in float32 and 2 in float64 on one core
(benchmarks/kernels.py). Listed: the loop runs over the slots of a neighbour list instead, and gathers.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

#: Squared distance given to pairs that do not exist (an atom with itself, padding): far outside of any interaction, and
#: small enough that its sixth power still has an inverse in float32.
FAR = 1e6


def sum_rows(pair: Callable, positions, numbers, init, per_row=None, space=None, neighbors=None):
    """Accumulate `pair(partner, r2, displacement, row, carry)` over all partners of every atom.

    `displacement` holds x_atom - x_partner as three arrays (atoms, *lanes); `r2` is their square, `FAR` where no pair
    exists. `partner(array)` gives an array (atoms, *lanes) as it is at the partner of each atom. `per_row` is a dict of
    parameters of pairs, arrays (atoms, atoms, ...), or (species, species) with a neighbour list; `row` holds those of
    the pairs at hand. `space` is a `Space` or None, `neighbors` a `Neighbors` or None.
    """
    if neighbors is not None:
        return _sum_listed(pair, positions, init, per_row, space, neighbors)
    n_slots = positions.shape[0]
    x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
    slot = jnp.arange(n_slots).reshape(-1, *([1] * (numbers.ndim - 1)))
    padding = numbers < 0
    # Rows behind the last atom are padding in every lane: the bound is dynamic, so one program serves many sizes.
    n_rows = jnp.max(jnp.where(padding, 0, slot + 1))
    inverse = None if space is None or space.orthogonal else space.inverse
    blur = _blur(positions, space)

    def visit(i, shift, carry):
        dx, dy, dz = x - x[i], y - y[i], z - z[i]
        absent = padding | padding[i]
        if space is not None:
            dx, dy, dz = space.minimum_image(dx, dy, dz, inverse)
        if shift is None:
            absent = absent | (slot == i)
        else:
            by = space.displacement(shift)
            dx, dy, dz = dx + by[0], dy + by[1], dz + by[2]
            absent = absent | ((slot == i) & (shift == 0).all())  # an atom does interact with its own images
        r2 = _squared((dx, dy, dz), blur)
        r2 = jnp.where(absent, jnp.asarray(FAR, r2.dtype), r2)
        row = None if per_row is None else {k: v[i] for k, v in per_row.items()}
        return pair(lambda a: a[i], r2, (dx, dy, dz), row, carry)

    if space is None or max(space.images) == 0:
        return lax.fori_loop(0, n_rows, lambda i, carry: visit(i, None, carry), init)
    shifts = space.shifts(positions.dtype)
    imaged = lambda k, carry: visit(k % n_rows, shifts[k // n_rows], carry)
    return lax.fori_loop(0, n_rows * len(shifts), imaged, init)


def _sum_listed(pair: Callable, positions, init, per_row, space, neighbors):
    """`sum_rows` over the slots of a neighbour list; an empty slot holds the atom itself."""
    x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
    slot = jnp.arange(positions.shape[0]).reshape(-1, *([1] * (x.ndim - 1)))
    inverse = None if space is None or space.orthogonal else space.inverse
    blur = _blur(positions, space)

    def visit(k, carry):
        index = neighbors.index[k]

        def partner(a):
            a = jnp.broadcast_to(a, (a.shape[0], *x.shape[1:]))
            if a.ndim == 1:
                return a.at[index].get(mode="promise_in_bounds")
            return jnp.take_along_axis(a, index, axis=0, mode="promise_in_bounds")

        d = x - partner(x), y - partner(y), z - partner(z)
        if space is not None:
            d = space.minimum_image(*d, inverse)
        r2 = _squared(d, blur)
        r2 = jnp.where(index == slot, jnp.asarray(FAR, r2.dtype), r2)
        return pair(partner, r2, d, _species_row(per_row, neighbors, partner), carry)

    # Slots behind the last neighbour of any atom are there for growth only.
    return lax.fori_loop(0, neighbors.most, visit, init)


def _blur(positions, space):
    """Squared distance (*lanes) below which two atoms coincide up to rounding; None without boundaries to cross."""
    if space is None:
        return None
    size = jnp.abs(positions).max((0, 1)) + jnp.abs(space.cell).max((0, 1))
    return (4 * jnp.finfo(positions.dtype).eps * size) ** 2


def _squared(d, blur):
    """Squared distances. An atom upon the image of another is at distance 0, where the rounding of its displacement would
    leave an enormous, but finite, energy."""
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    return r2 if blur is None else jnp.where(r2 < blur, 0, r2)


def _species_row(tables, neighbors, partner):
    """Parameters of the listed pairs from tables (species, species)."""
    if tables is None:
        return None
    n = len(neighbors.species)
    if n == 1:
        return {k: v[0, 0] for k, v in tables.items()}
    mine = neighbors.kind
    theirs = partner(mine)
    if n == 2:  # arithmetic, where a gather from a table would cost as much as the pair itself
        both, either = mine * theirs, mine + theirs
        weight = lambda v: (v[0, 0], v[0, 1] - v[0, 0], v[1, 1] - 2 * v[0, 1] + v[0, 0])
        parts = {k: weight(v) for k, v in tables.items()}
        return {k: a + b * either.astype(a.dtype) + c * both.astype(a.dtype) for k, (a, b, c) in parts.items()}
    return {k: v[mine, theirs] for k, v in tables.items()}


def per_pair(coefficients: Callable, numbers, neighbors, dtype):
    """Parameters of pairs as `sum_rows` wants them, from `coefficients(numbers)`: per atoms, or per species with a list."""
    if neighbors is not None:
        numbers = jnp.asarray(neighbors.species)
    return {k: v.astype(dtype) for k, v in coefficients(numbers).items()}


def push(forces, virial, g, d):
    """Add the central force g d of a pair to the forces on its first atom, and to the virial if one is wanted.

    `virial` holds xx, yy, zz, yz, xz, xy per atom (Voigt's order), or is empty. Both atoms of a pair add half.
    """
    pushed = tuple(f + g * c for f, c in zip(forces, d, strict=True))
    if not virial:
        return pushed, virial
    half = g / 2
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    return pushed, tuple(w + half * d[a] * d[b] for w, (a, b) in zip(virial, pairs, strict=True))
