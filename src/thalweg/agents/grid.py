"""The grid on which an agent builds: a plane, some layers or a volume of voxels, where atoms may be put."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.geometry import nearest_squared, traced_space
from thalweg.space import completed
from thalweg.system import System
from thalweg.typing import Array, Bool, Float

#: Voxels of a grid at most: an agent values every one of them at every placement.
MOST = 300_000


class Grid(eqx.Module):
    """Voxels at `origin` + i a + j b + k c, (a, b, c) the rows of `steps`; lengths in Å or reduced units.

    A flat index runs over the last axis first. Axes that are `periodic` are those of the cell, which they divide evenly. In a
    plane the last axis has one voxel. `allowed` (voxels,) is where atoms may be put: the region.
    """

    origin: Float[Array, "3"]
    steps: Float[Array, "3 3"]
    allowed: Bool[Array, " voxels"]
    shape: tuple[int, int, int] = eqx.field(static=True)
    periodic: tuple[bool, bool, bool] = eqx.field(static=True, default=(False, False, False))

    @property
    def dimensions(self) -> int:
        """2 for a plane, 3 otherwise."""
        return 2 if self.shape[2] == 1 else 3

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def middle(self) -> int:
        """Flat index of the voxel in the middle."""
        i, j, k = (n // 2 for n in self.shape)
        return (i * self.shape[1] + j) * self.shape[2] + k

    def points(self, dtype=jnp.float32) -> Array:
        """Positions (voxels, 3)."""
        places = np.stack(np.meshgrid(*[np.arange(n) for n in self.shape], indexing="ij"), -1).reshape(-1, 3)
        return jnp.asarray(self.origin, dtype) + jnp.asarray(places, dtype) @ jnp.asarray(self.steps, dtype)

    def indices(self, flat) -> Array:
        """Indices (..., 3) along the axes from flat ones (...)."""
        on = _module_of(flat, self.steps)
        i, rest = on.divmod(on.asarray(flat), self.shape[1] * self.shape[2])
        return on.stack([i, *on.divmod(rest, self.shape[2])], -1)

    def position(self, flat, dtype=jnp.float32) -> Array:
        """Positions (..., 3) of voxels by flat index (...)."""
        on = _module_of(flat, self.steps)
        return on.asarray(self.origin, dtype) + self.indices(flat).astype(dtype) @ on.asarray(self.steps, dtype)

    def nearest(self, positions) -> tuple[Array, Array]:
        """Flat indices (...) of the voxels nearest to positions (..., 3), and whether these are on the grid.

        Periodic axes wrap; along the others a position outside goes to the last voxel and is not on the grid.
        """
        on = _module_of(positions, self.steps)
        x = on.asarray(positions)
        u = (x - on.asarray(self.origin, x.dtype)) @ on.linalg.inv(on.asarray(self.steps, x.dtype))
        at = on.round(u).astype(np.int32)
        size, wraps = np.asarray(self.shape, np.int32), np.asarray(self.periodic)
        wrapped = on.where(wraps, at % size, on.clip(at, 0, size - 1))
        there = (on.asarray(wraps) | (wrapped == at)).all(-1)
        return (wrapped[..., 0] * size[1] + wrapped[..., 1]) * size[2] + wrapped[..., 2], there


def _module_of(*values) -> Any:
    """NumPy for what is on the host, where every operation of JAX would be dispatched by itself; else JAX's."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def grid_of(system: System, spacing: float) -> Grid:
    """The grid of a system: voxels about `spacing` (Å) apart in its region, in its cell, or about the origin.

    Along periodic axes the spacing is the nearest one that divides the cell. Raises `InputError` for a grid too coarse to put
    two atoms at a bond length, and for one with more than `MOST` voxels.
    """
    step = float(spacing)
    if not step > 0:
        raise InputError(f"spacing in [search] is {spacing:g}; it must be positive")
    origin, directions, lengths, periodic = _frame(system)
    counts = [
        max(round(n / step), 1) if wraps else int(np.floor(n / step + 1e-9)) + 1
        for n, wraps in zip(lengths, periodic, strict=True)
    ]
    sizes = [n / count if wraps else step for n, count, wraps in zip(lengths, counts, periodic, strict=True)]
    # What does not fill an axis without periodicity is shared by both of its ends.
    ends = [0.0 if wraps else (n - (count - 1) * step) / 2 for n, count, wraps in zip(lengths, counts, periodic, strict=True)]
    steps, start = np.asarray(sizes)[:, None] * directions, origin + np.asarray(ends) @ directions
    if np.prod(counts) > MOST:
        raise InputError(
            f"a grid of {' x '.join(map(str, counts))} voxels is too fine; set spacing in [search] above {spacing:g}, or give "
            "a smaller region"
        )
    shape = (int(counts[0]), int(counts[1]), int(counts[2]))
    grid = Grid(start, steps, np.ones(int(np.prod(counts)), bool), shape, periodic)
    points = np.asarray(grid.points())
    if system.region is not None:
        grid = eqx.tree_at(lambda g: g.allowed, grid, np.asarray(system.region.contains(points)))
    _refuse_coarse(grid, system, spacing)
    return grid


def _frame(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[bool, bool, bool]]:
    """A corner (3,), directions (3, 3), lengths (3,) along them, and which of them are periodic."""
    pbc = np.asarray(system.pbc, bool)
    vectors = completed(np.asarray(system.cell, np.float64), system.pbc) if pbc.any() else np.eye(3)
    lengths = np.linalg.norm(vectors, axis=1)
    directions = vectors / lengths[:, None]
    low, reciprocal = np.zeros(3), np.linalg.inv(directions)
    for k in np.flatnonzero(~pbc):
        low[k], high = _extent(system, reciprocal[:, k])
        lengths[k] = high - low[k]
    return low @ directions, directions, lengths, (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))


def _extent(system: System, direction: np.ndarray) -> tuple[float, float]:
    """From where to where the grid goes along an axis without periodicity."""
    if system.region is not None:
        return system.region.span(direction)
    bonds = np.asarray(system.bond_lengths)[np.asarray(system.searched)]
    # A ball of what the atoms fill close-packed, three times over, and a bond beside it.
    width = float(np.cbrt(6 / np.pi * 3.0 * (bonds**3).sum() / np.sqrt(2)) + bonds.max())
    return -width / 2, width / 2


def _refuse_coarse(grid: Grid, system: System, spacing: float) -> None:
    """Raise where no two voxels are a bond apart: within the limits of the system, for any pair of species."""
    bonds = np.unique(np.asarray(system.bond_lengths)[np.asarray(system.searched)])
    low, high = system.limits
    reach = int(np.ceil(high * bonds.max() / np.linalg.norm(np.asarray(grid.steps), axis=1).min())) + 1
    around = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(around, around, around if grid.dimensions == 3 else [0], indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(offsets @ np.asarray(grid.steps), axis=1)
    for k, one in enumerate(bonds):
        for other in bonds[k:]:
            ratio = lengths / ((one + other) / 2)
            if not ((ratio >= low) & (ratio <= high)).any():
                raise InputError(
                    f"a grid of spacing {spacing:g} is too coarse: no two of its voxels are between {low:g} and {high:g} times "
                    f"the bond length {(one + other) / 2:.3g} apart; set spacing in [search] to {0.15 * (one + other) / 2:.2g}"
                )


def ratios(grid: Grid, positions, bonds, own, system: System) -> Array:
    """Distances (voxels, atoms) from voxels to positions (atoms, 3) in mean bonds of a species with bond `own` and `bonds`."""
    x = jnp.asarray(positions)
    space = traced_space(jnp.asarray(system.cell, x.dtype), system.pbc)
    return jnp.sqrt(nearest_squared(grid.points(x.dtype), x, space)) / ((own + jnp.asarray(bonds, x.dtype)) / 2)
