"""What is done to a proposal after it was made and relaxed on the model, before it is evaluated."""

from __future__ import annotations

import abc

import equinox as eqx
import numpy as np

from thalweg.space import completed
from thalweg.system import System


class Postprocessor(eqx.Module):
    """A step from candidates to candidates; on the host, in NumPy.

    Fixed atoms and those of a template are put back afterwards, atoms outside the region are brought to its edge, and what has
    become too dense is not evaluated.
    """

    @abc.abstractmethod
    def __call__(self, positions: np.ndarray, system: System) -> np.ndarray:
        """Positions (n, atoms, 3) from positions (n, atoms, 3), all in the cell of the system."""


class Centre(Postprocessor):
    """Moves each structure as a whole so that it extends equally far to all sides of the middle of its region or cell.

    Along axes without periodicity alone, and not where fixed atoms or a template say where the middle is. Without region and
    cell the middle is the origin. A structure that would reach out of its region from there stays where it is.
    """

    def __call__(self, positions: np.ndarray, system: System) -> np.ndarray:
        atoms = np.asarray(system.searched)
        if system.template is not None or (np.asarray(system.fixed) & atoms).any() or all(system.pbc):
            return positions
        vectors, middle = _frame(system)
        inverse = np.linalg.inv(vectors)
        extent = positions[:, atoms] @ inverse
        off = middle @ inverse - (extent.min(1) + extent.max(1)) / 2
        shift = (np.where(system.pbc, 0, off) @ vectors)[:, None]
        moved = np.where(atoms[:, None], positions + shift, positions)
        if system.region is None:
            return moved
        within = np.all(np.asarray(system.region.contains(moved[:, atoms])), axis=1).reshape(-1, 1, 1)
        return np.where(within, moved, positions)


def _frame(system: System) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (3, 3) along which structures are measured, and the middle (3,)."""
    cell = np.asarray(system.cell, np.float64)
    if any(system.pbc):
        vectors, middle = completed(cell, system.pbc), None
    elif abs(np.linalg.det(cell)) > 1e-9:
        vectors, middle = cell, None
    else:
        vectors, middle = np.eye(3), np.zeros(3)
    if system.region is not None:
        return vectors, np.asarray(system.region.centre, np.float64)
    return vectors, vectors.sum(0) / 2 if middle is None else middle
