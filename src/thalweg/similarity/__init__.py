"""When two structures are the same minimum: under rotation, mirror, translation, exchange of equal atoms and choice of cell.

`fingerprints` is the fast screen (equal structures always agree, different ones almost never do), `same_structure` the
exact check. Free clusters are compared in `similarity.clusters`, periodic structures in `similarity.periodic` and
`similarity.crystal`. Fixed atoms are told from others by `labels`: then only operations that lay fixed atoms on fixed
atoms count. Host side, NumPy float64.
"""

from __future__ import annotations

import numpy as np

from thalweg.similarity import clusters, crystal, periodic
from thalweg.similarity.clusters import rmsd_aligned
from thalweg.similarity.lattice import wrapped

__all__ = ["fingerprints", "labels", "rmsd_aligned", "same_structure", "vectors", "wrapped"]

_FREE = (False, False, False)


def labels(numbers, fixed=None) -> np.ndarray:
    """Numbers (atoms,) that differ between species and between fixed and free atoms of one species; padding stays below 0."""
    numbers = np.asarray(numbers, np.int64)
    if fixed is None or not np.asarray(fixed)[numbers >= 0].any():
        return numbers
    return np.where(numbers < 0, numbers, 2 * numbers + np.asarray(fixed, bool))


def vectors(positions, variables: int) -> np.ndarray:
    """The `variables` (..., variables) of a function that coordinates (..., atoms, 3) are: they have no symmetry."""
    positions = np.asarray(positions, np.float64)
    return positions.reshape(*positions.shape[:-2], 3 * positions.shape[-2])[..., :variables]


def fingerprints(positions, numbers, cell=None, pbc=_FREE, length: float = 1.0) -> np.ndarray:
    """Numbers (k, d) in units of length that are the same for every description of one structure.

    `positions` is (k, atoms, 3), `cell` (3, 3) or one for each (k, 3, 3); slots with a negative number are padding. Moving
    every atom by e changes each number by a few e at most, so the largest difference of two rows is compared with a
    length. `length` is a bond length, which sets how far the surroundings of an atom reach in periodic structures.
    """
    if not any(pbc):
        return clusters.fingerprints(positions, numbers)
    return periodic.fingerprints(positions, numbers, cell, pbc, length)


def same_structure(a, b, numbers, tolerance: float, cell=None, pbc=_FREE, other_cell=None) -> bool:
    """True when some isometry and exchange of equal atoms lays every atom of `b` within `tolerance` of one of `a`.

    `a` and `b` are (atoms, 3), both with species `numbers`; `cell` (3, 3) is that of `a`, and of `b` too unless
    `other_cell` is given. See `clusters.same_structure` and `crystal.same_structure`.
    """
    if not any(pbc):
        return clusters.same_structure(a, b, numbers, tolerance)
    return crystal.same_structure(a, b, numbers, tolerance, cell, pbc, other_cell)
