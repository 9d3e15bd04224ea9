"""Symmetry of a building site: the operations after which training may see an episode anew."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from thalweg.agents.grid import Grid
from thalweg.system import System

#: Atoms of a template this near to each other (Å) are in the same place.
TOLERANCE = 0.05


class Operations(NamedTuple):
    """x -> R x + t: rotations and mirrors R (k, 3, 3), shifts t (k, 3) in Å, the identity first.

    `continuous` where any rotation or mirror will do (in a plane those about its normal), about any point.
    """

    rotations: np.ndarray
    shifts: np.ndarray
    continuous: bool


def operations(system: System, grid: Grid) -> Operations:
    """The operations that leave a site as it is: its cell, and its template where there is one.

    Those of a cell turn its periodic vectors into sums of them and leave directions without periodicity alone. They are about
    the corner of the cell, on which the grid has a voxel. Without periodic axes those of a template are of a cube (of a square
    in a plane), as the grid is.
    """
    turns = _turns(grid)
    if system.template is None:
        return Operations(turns, np.zeros((len(turns), 3)), not any(grid.periodic))
    held = np.asarray(system.template)
    kinds = np.stack([np.asarray(system.numbers)[held], np.asarray(system.fixed)[held]], 1)
    _, kinds = np.unique(kinds, axis=0, return_inverse=True)
    positions = np.asarray(system.positions, float)[held]
    found = [(turn, shift) for turn in turns for shift in _shifts(turn, positions, kinds.ravel(), grid)]
    order = sorted(range(len(found)), key=lambda k: np.abs(found[k][0] - np.eye(3)).max() + np.abs(found[k][1]).max() > 1e-6)
    return Operations(*(np.stack([found[k][part] for k in order]) for part in (0, 1)), continuous=False)


def _turns(grid: Grid) -> np.ndarray:
    """Rotations and mirrors (k, 3, 3) of the periodic vectors of a grid, or of a cube or square; the identity first."""
    basis = _basis(grid)
    turned = np.asarray(grid.periodic) if any(grid.periodic) else np.arange(3) < grid.dimensions
    # Row i of a matrix is what becomes of the i-th vector; those that are not turned stay.
    rows = [list(product(*[(-1, 0, 1) if m else (0,) for m in turned])) if t else [tuple(e)]
            for t, e in zip(turned, np.eye(3), strict=True)]  # fmt: skip
    matrices = np.array(list(product(*rows)), float)
    turns = np.swapaxes(np.linalg.inv(basis) @ matrices @ basis, 1, 2)
    rigid = np.abs(turns @ np.swapaxes(turns, 1, 2) - np.eye(3)).max((1, 2)) < 1e-4
    return np.concatenate([np.eye(3)[None], turns[rigid & (np.abs(turns - np.eye(3)).max((1, 2)) > 1e-4)]])


def _basis(grid: Grid) -> np.ndarray:
    """Rows: periodic vectors, and unit vectors across them for the other axes; the axes of space without any."""
    vectors = np.where(np.asarray(grid.periodic)[:, None], np.asarray(grid.steps) * np.array(grid.shape)[:, None], 0.0)
    if not any(grid.periodic):
        return np.eye(3)
    across = iter(np.linalg.svd(vectors)[2][sum(grid.periodic) :])
    return np.stack([v if p else next(across) for v, p in zip(vectors, grid.periodic, strict=True)])


def _shifts(turn: np.ndarray, positions: np.ndarray, kinds: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """The shifts (3,) with which a turn maps atoms (n, 3) on atoms of the same kinds (n,)."""
    rarest = np.flatnonzero(kinds == np.bincount(kinds).argmin())
    images = positions @ turn.T
    shifts = _nearest(positions[rarest] - images[rarest[0]], grid)
    along = [basis for basis, p in zip(_basis(grid), grid.periodic, strict=True) if not p and any(grid.periodic)]
    shifts = [s for s in shifts if all(abs(s @ n) < TOLERANCE for n in along)]
    same = kinds[:, None] == kinds
    return [s for s in shifts if _covered(images + s, positions, same, grid)]


def _covered(images: np.ndarray, positions: np.ndarray, same: np.ndarray, grid: Grid) -> bool:
    """Whether each of the images (n, 3) lies on an atom of its kind, and each atom has one."""
    apart = np.linalg.norm(_nearest(images[:, None] - positions, grid), axis=-1)
    on = same & (apart < TOLERANCE)
    return bool(on.any(0).all() and on.any(1).all())


def _nearest(d: np.ndarray, grid: Grid) -> np.ndarray:
    """Displacements (..., 3) without whole periods."""
    basis = _basis(grid)
    return d - np.where(grid.periodic, np.round(d @ np.linalg.inv(basis)), 0.0) @ basis
