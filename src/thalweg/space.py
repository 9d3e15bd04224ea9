"""`Space`: periodic boundaries inside hot loops, lanes last.

Two conventions exist where a cell is small against the cutoff, and they give different energies. *Full image sums* count
every image of every atom within the cutoff: the energy of the infinite crystal, what ASE and LAMMPS compute and what
every potential does here by default. The *minimum image* convention counts only the nearest image of each atom; published
numbers of small simulation cells (Kob-Andersen with N <= 100) use it. In cells wider than two cutoffs both are the same.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError, StructureError
from thalweg.typing import Array

#: Images to one side beyond which a cell counts as collapsed: its energy would be a sum over tens of thousands of cells.
MOST_IMAGES = 6


class Space(eqx.Module):
    """Cell and images of periodic structures. Rows of `cell` (3, 3, *lanes) are the cell vectors.

    Which axes are periodic, whether the cell is a box along x, y, z and how many images are summed is static: each of
    these makes another program. `images` (0, 0, 0) is one image per pair, the nearest.
    """

    cell: Array
    pbc: tuple[bool, bool, bool] = eqx.field(static=True, default=(True, True, True))
    orthogonal: bool = eqx.field(static=True, default=False)
    images: tuple[int, int, int] = eqx.field(static=True, default=(0, 0, 0))
    #: True where the nearest image is the convention, so that a cutoff beyond half the cell is no error.
    nearest: bool = eqx.field(static=True, default=False)

    @property
    def inverse(self):
        """Inverse of the cell (3, 3, *lanes): columns are the reciprocal vectors, without 2 pi."""
        a, b, c = self.cell[0], self.cell[1], self.cell[2]
        columns = jnp.stack([cross(b, c), cross(c, a), cross(a, b)], axis=1)
        return columns / self.signed_volume

    @property
    def signed_volume(self):
        """Determinant of the cell (*lanes)."""
        return (self.cell[0] * cross(self.cell[1], self.cell[2])).sum(0)

    @property
    def volume(self):
        """Volume of the cell (*lanes)."""
        return jnp.abs(self.signed_volume)

    @property
    def heights(self):
        """Distance between opposite faces of the cell (3, *lanes)."""
        return 1 / jnp.sqrt((self.inverse**2).sum(0))

    def covers(self, reach):
        """True (*lanes) where `images` hold every pair nearer than `reach`; a cell that shrank may need more."""
        if self.nearest:
            return jnp.ones(self.cell.shape[2:], bool)
        heights = self.heights
        enough = jnp.stack([heights[k] * (self.images[k] + 0.5) >= reach * (1 - 1e-6) for k in range(3) if self.pbc[k]])
        return enough.all(0)

    def shifts(self, dtype):
        """Integer multiples of the cell vectors (images, 3) whose images are summed, the zero one first."""
        grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in self.images], indexing="ij"), -1).reshape(-1, 3)
        return jnp.asarray(grid[np.argsort(np.abs(grid).sum(1), kind="stable")], dtype)

    def displacement(self, shift):
        """The vector (3, *lanes) of an integer shift (3,)."""
        spread = shift.reshape(3, 1, *[1] * (self.cell.ndim - 2))
        return (spread * self.cell).sum(0)

    def minimum_image(self, dx, dy, dz, inverse=None):
        """Displacements, three arrays (..., *lanes), to the nearest image: within half a cell height of each face.

        In an orthogonal cell this is the nearest image; in any cell it is the nearest one for distances below half the
        smallest height, and full sums take their images around it.
        """
        cell = self.cell
        if self.orthogonal:
            return tuple(v - cell[k, k] * jnp.round(v / cell[k, k]) if self.pbc[k] else v for k, v in enumerate((dx, dy, dz)))
        inverse = self.inverse if inverse is None else inverse
        for k in range(3):
            if self.pbc[k]:
                turns = jnp.round(dx * inverse[0, k] + dy * inverse[1, k] + dz * inverse[2, k])
                dx, dy, dz = dx - turns * cell[k, 0], dy - turns * cell[k, 1], dz - turns * cell[k, 2]
        return dx, dy, dz

    def wrap(self, positions):
        """Positions (atoms, 3, *lanes) moved into the cell along its periodic axes."""
        inverse = self.inverse
        x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
        for k in range(3):
            if self.pbc[k]:
                turns = jnp.floor(x * inverse[0, k] + y * inverse[1, k] + z * inverse[2, k])
                x, y, z = (v - turns * self.cell[k, c] for c, v in enumerate((x, y, z)))
        return jnp.stack([x, y, z], axis=1)


def cross(a, b):
    """Cross product of vectors (3, *lanes)."""
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def completed(cell, pbc) -> np.ndarray:
    """Cells (..., 3, 3) whose missing vectors along axes without periodicity are unit vectors across the others.

    Raises `StructureError` for a periodic axis without a vector, and for cells without volume.
    """
    cell = np.array(cell, np.float64)
    flat = cell.reshape(-1, 3, 3)
    for c in flat:
        if not np.isfinite(c).all():
            raise StructureError("the cell is not finite")
        missing = [k for k in range(3) if not np.abs(c[k]).any()]
        for k in missing:
            if pbc[k]:
                raise StructureError(
                    f"axis {'abc'[k]} is periodic but its cell vector is zero; give the cell or set pbc to false"
                )
        for k in missing:
            c[k] = _across(c, k)
        lengths = np.linalg.norm(c, axis=1)
        if abs(np.linalg.det(c / lengths[:, None])) < 1e-4:
            raise StructureError("the cell has no volume: its vectors lie in one plane")
    return cell


def _across(cell: np.ndarray, axis: int) -> np.ndarray:
    """A unit vector across the present vectors of the cell."""
    others = [v for k, v in enumerate(cell) if k != axis and np.abs(v).any()]
    if len(others) == 2:
        normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
        return normal / np.linalg.norm(normal)
    if len(others) == 1:
        helper = np.eye(3)[np.argsort(np.abs(others[0]))[0]]
        normal = np.cross(others[0], helper)
        return normal / np.linalg.norm(normal)
    return np.eye(3)[axis]


def cell_heights(cell) -> np.ndarray:
    """Distances between opposite faces (..., 3) of cells (..., 3, 3), on the host."""
    return 1 / np.linalg.norm(np.linalg.inv(np.asarray(cell, np.float64)), axis=-2)


def space_of(cell, pbc, reach: float | None, nearest: bool = False, slack: float = 1.0, what: str = "this potential"):
    """The `Space` of a cell (3, 3) or a batch of cells (*batch, 3, 3), lanes last; None without periodic axes.

    `reach` is the distance beyond which nothing interacts, `slack` the factor by which heights may yet shrink (1 where
    the cell is fixed). Raises `InputError` where no such sum exists.
    """
    if not any(pbc):
        return None
    cell = completed(cell, pbc)
    if reach is None:
        raise InputError(f"{what} has no cutoff, and a periodic sum needs one; set potential.cutoff")
    flat = cell.reshape(-1, 3, 3)
    # Exactly zero, or the difference would be in the energy.
    orthogonal = not np.any(flat[:, ~np.eye(3, dtype=bool)])
    heights = cell_heights(flat).min(0) * slack
    images = tuple(int(np.ceil(reach / h - 0.5 - 1e-6)) if p else 0 for h, p in zip(heights, pbc, strict=True))
    if nearest and max(images) > 0:
        if not orthogonal:
            raise InputError(
                f"a cutoff of {reach:g} with the minimum image convention needs a rectangular cell, or one with heights "
                f"above {2 * reach:g}; this one has {', '.join(f'{h:.3g}' for h in heights)}"
            )
        images = (0, 0, 0)
    if max(images) > MOST_IMAGES:
        raise StructureError(
            f"the cell is collapsed: its smallest height is {heights.min():.3g} and the cutoff {reach:g}; repeat the cell or "
            "check its units"
        )
    lanes_last = np.moveaxis(cell, (-2, -1), (0, 1))
    return Space(lanes_last, tuple(bool(p) for p in pbc), orthogonal, images, nearest)  # type: ignore[arg-type]
