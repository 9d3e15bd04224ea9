"""Features of single components of a gradient: what the per-component network of Learn2Hop reads.

A. Merchant, L. Metz, S. Schoenholz and E. Cubuk, "Learn2Hop", ICML 2021 (arXiv:2107.09661), Table 1. Everything is in
reduced units (bonds, and energies of a bond) and lanes last. Features come in three blocks, by what they belong to, so that
what many components share is worked out once: of a component (k, atoms, 3, *lanes), of an atom (k, atoms, 1, *lanes), of a
structure (k, 1, 1, *lanes).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from thalweg.space import Space

#: Decays per step of the moving averages of gradients and of their squares.
DECAYS = (0.9, 0.99, 0.999, 0.9999)
#: Times, in steps, of the sines of the step.
TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
#: Widths of the radial symmetry functions, per square bond, and their cutoff in bonds.
ETAS = (0.0009, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.4)
CUTOFF = 2.5
#: Range of the representation: magnitudes from exp(-P) on are told apart by their logarithm.
P = 10.0
#: Under the roots of second moments: where nothing has pulled yet they are zero.
TINY = 1e-10

#: Names of the quantities in the order of the inputs, each of which is two numbers. `radial` ones come once per species.
OF_COMPONENTS = (
    "gradient", "position",
    *(f"{what} {decay}" for what in ("mean gradient", "mean square", "Adam", "reciprocal root") for decay in DECAYS),
)  # fmt: skip
OF_ATOMS = ("species", *(f"radial {eta}" for eta in ETAS))
OF_STRUCTURES = ("size", *(f"sine {time}" for time in TIMES))
FEATURES = (*OF_COMPONENTS, *OF_ATOMS, *OF_STRUCTURES)
#: The groups that the paper's Table 3 leaves out one by one, by how the names of their quantities begin.
GROUPS = {
    "gradients": ("gradient",),
    "positions": ("position",),
    "decays": ("mean gradient", "mean square"),
    "Adam-like": ("Adam",),
    "singular": ("reciprocal root",),
    "species": ("species",),
    "sine": ("sine",),
    "radial": ("radial",),
}


def represented(x):
    """Two numbers of each x (k, ...), (2 k, ...): (log|x| / p, sign x), or (-1, x e^p) where |x| < e^-p.

    M. Andrychowicz et al., arXiv:1606.04474, appendix A. Both numbers are continuous, so that each is one bounded expression.
    """
    size = jnp.log(jnp.maximum(jnp.abs(x), np.exp(-P))) / P
    sign = jnp.clip(x * np.exp(P), -1, 1)
    return jnp.stack([size, sign], 1).reshape(2 * x.shape[0], *x.shape[1:])


def averaged(means, squares, gradient):
    """The moving averages (decays, atoms, 3, *lanes) of gradients and of their squares after another gradient."""
    decay = jnp.asarray(DECAYS, gradient.dtype).reshape(-1, *[1] * gradient.ndim)
    return decay * means + (1 - decay) * gradient, decay * squares + (1 - decay) * gradient * gradient


def of_components(gradient, x, means, squares):
    """The quantities `OF_COMPONENTS` (18, *shape of the gradient), of the averages that hold this gradient already."""
    reciprocal = 1 / jnp.sqrt(squares + TINY)
    return jnp.concatenate([gradient[None], x[None], means, squares, means * reciprocal, reciprocal])


def sines(step, dtype):
    """The sines of the step (*lanes) at each time: (times, *lanes)."""
    return jnp.sin(step.astype(dtype) / jnp.asarray(TIMES, dtype).reshape(-1, *[1] * step.ndim))


def ranks(numbers, n_species: int):
    """Which species of its structure an atom is, counted from 0 by atomic number; -1 for padding. (atoms, lanes or 1).

    Those beyond `n_species` count as the last.
    """
    rank, top = jnp.where(numbers < 0, -1, 0), jnp.full(numbers.shape[1:], -1, numbers.dtype)
    last = jnp.iinfo(numbers.dtype).max
    for _ in range(n_species - 1):
        top = jnp.where(numbers > top, numbers, last).min(0)  # the next species of each structure
        rank = rank + (numbers > top)
    return rank


def radial(x, rank, n_species: int, space: Space | None, length):
    """Radial symmetry functions sum_j exp(-eta r_ij^2) f(r_ij) over neighbours j of a species: (etas x species, atoms, *lanes).

    J. Behler and M. Parrinello, doi:10.1103/PhysRevLett.98.146401, equations 3 and 4: f(r) = (cos(pi r / cutoff) + 1) / 2
    within the cutoff. `rank` (atoms, *lanes or 1) as `ranks` gives it. Species by species, `ETAS` within each. In a cell the
    nearest image counts. Positions are in the unit of the cell, and r in units of `length`.
    """
    d = x[None] - x[:, None]
    if space is not None:
        d = jnp.stack(space.minimum_image(d[:, :, 0], d[:, :, 1], d[:, :, 2]), 2)
    r2 = (d * d).sum(2) / (length * length)
    itself = jnp.eye(x.shape[0], dtype=bool).reshape(*r2.shape[:2], *[1] * (r2.ndim - 2))
    near = (r2 < CUTOFF * CUTOFF) & ~itself
    weight = jnp.where(near, 0.5 * jnp.cos(jnp.sqrt(jnp.where(near, r2, 0)) * (np.pi / CUTOFF)) + 0.5, 0)
    decay = jnp.exp(-jnp.asarray(ETAS, x.dtype).reshape(-1, *[1] * r2.ndim) * r2)
    own = [jnp.where(rank == k, weight, 0) for k in range(n_species)]  # `rank` is the neighbour's: (atoms, neighbours, *lanes)
    return jnp.concatenate([(w * decay).sum(2) for w in own])
