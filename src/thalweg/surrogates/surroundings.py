"""What is near each atom: displacements to neighbours and images, and the pieces that descriptors are sums of.

Written for one structure (batches by `vmap`), every array of fixed size. Slots that hold nothing have weight 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from thalweg.geometry import traced_space
from thalweg.space import Space, cell_heights, completed
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array

#: Atoms and images up to which all of them are kept as neighbours: choosing the nearest costs more than it saves.
FEW = 24


class Surroundings(NamedTuple):
    """Neighbours of the atoms of one structure: unit vectors (atoms, near, 3), distances and kinds (atoms, near, species).

    `kinds` is 1 for the species of a neighbour that exists and lies within the cutoff, else 0; `centres` (atoms, species)
    is the same of the atoms themselves.
    """

    directions: Array
    distances: Array
    kinds: Array
    centres: Array

    def nearer(self, cutoff, count: int | None) -> Surroundings:
        """The neighbours within a smaller cutoff, at most `count` of each atom (the nearest); None for all."""
        within = (self.distances < cutoff)[..., None]
        kinds = jnp.where(within, self.kinds, 0)
        if count is None or count >= self.distances.shape[1]:
            return Surroundings(self.directions, self.distances, kinds, self.centres)
        order = lax.top_k(-lax.stop_gradient(jnp.where(kinds.any(-1), self.distances, 1e6)), count)[1]
        at = lambda a: jnp.take_along_axis(a, order.reshape(*order.shape, *[1] * (a.ndim - 2)), 1)
        return Surroundings(at(self.directions), at(self.distances), at(kinds), self.centres)


def kinds_of(numbers, species: tuple[int, ...], dtype):
    """Rows (atoms, species) with a 1 in the column of the atom's species; all 0 for padding."""
    return (numbers[:, None] == np.asarray(species, np.int32)).astype(dtype)


def surroundings(structure: Structure, species: tuple[int, ...], cutoff, images: tuple[int, int, int]) -> Surroundings:
    """All neighbours within `cutoff` of each atom of a single structure, which may be traced."""
    x = structure.positions
    n = len(x)
    kinds = kinds_of(structure.numbers, species, x.dtype)
    d = x[None] - x[:, None]  # from the atom of the row to its neighbour
    self_pair = jnp.eye(n, dtype=bool)
    space = traced_space(structure.cell, structure.pbc)
    if space is not None:
        space = Space(space.cell, space.pbc, False, images)
        d = jnp.stack(space.minimum_image(d[..., 0], d[..., 1], d[..., 2]), -1)
        shifts = space.shifts(x.dtype)
        d = (d[:, None] + (shifts @ space.cell)[None, :, None]).reshape(n, -1, 3)
        self_pair = jnp.concatenate([self_pair, jnp.zeros((n, d.shape[1] - n), bool)], 1)
    r2 = (d * d).sum(-1)
    # Beyond the cutoff, and where there is no atom, a harmless distance: no derivative of a root at zero.
    exists = (~self_pair) & (r2 < cutoff * cutoff) & structure.mask[:, None] & jnp.tile(structure.mask, d.shape[1] // n)
    r = jnp.sqrt(jnp.where(exists, r2, 1.0))
    # NaN coordinates fail every comparison and would vanish without a trace.
    r = r + 0 * jnp.where(structure.mask[:, None], x, 0).sum()
    near = jnp.where(exists[..., None], jnp.tile(kinds, (d.shape[1] // n, 1)), 0)
    directions = jnp.where(exists[..., None], d, 0) / r[..., None]
    return Surroundings(directions, r, near, kinds)


def images_of(cells, pbc, reach: float) -> tuple[int, int, int]:
    """How many images to each side cells (*batch, 3, 3) need within `reach`, on the host."""
    if not any(pbc):
        return (0, 0, 0)
    heights = cell_heights(completed(cells, pbc).reshape(-1, 3, 3)).min(0)
    return tuple(int(np.ceil(reach / h - 0.5 - 1e-6)) if p else 0 for h, p in zip(heights, pbc, strict=True))  # type: ignore


def crowd_of(positions, cells, pbc, numbers, cutoff: float) -> int | None:
    """How many neighbours within `cutoff` to provide for, from structures (rows, atoms, 3) on the host; None for all.

    The largest number there is and a quarter more, in steps of 8: denser structures than any seen lose only neighbours
    that are the farthest, where weights are nearly 0.
    """
    from ase.geometry import wrap_positions
    from ase.neighborlist import primitive_neighbor_list

    n = len(numbers)
    total = n * int(np.prod([2 * k + 1 for k in images_of(cells, pbc, cutoff)]))
    if total <= FEW:
        return None
    most = 0
    real = np.asarray(numbers) >= 0
    for x, cell in zip(np.asarray(positions)[:64, real], np.asarray(cells)[:64], strict=True):
        cell = completed(cell, pbc) if any(pbc) else np.eye(3)
        x = wrap_positions(x, cell, pbc) if any(pbc) else x
        first = primitive_neighbor_list("i", pbc, cell, x, cutoff)
        most = max(most, int(np.bincount(first, minlength=1).max()) if len(first) else 0)
    count = 8 * int(np.ceil(most * 1.25 / 8)) + 8
    return None if count >= total else count


def smooth_step(r, cutoff, width):
    """1 up to `cutoff - width`, 0 from `cutoff` on, two continuous derivatives."""
    t = jnp.clip((r - cutoff + width) / width, 0, 1)
    return 1 - t**3 * (10 - 15 * t + 6 * t * t)


def covalent_radii(species: tuple[int, ...], unit: float) -> np.ndarray:
    """Radius of each species: covalent ones in Å, and for model particles (number 0) that of a bond of 1.5 `unit`."""
    from ase.data import covalent_radii as table

    return np.array([table[z] if z > 0 else 0.75 * unit for z in species])


def unit_of(system: System) -> float:
    """One Å in the system's unit of length: 1 for real species, and 2/3 of a bond where all are model particles."""
    if (np.asarray(system.numbers) > 0).any():
        return 1.0
    return float(system.bond) / 1.5


def largest(*values) -> Any:
    """The largest of numbers: a float on the host, and where one of them is traced by JAX an array."""
    if any(isinstance(v, Tracer) for v in values):
        return jnp.stack([jnp.asarray(v).max() for v in values]).max()
    return max(float(np.max(v)) for v in values)
