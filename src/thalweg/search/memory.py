"""What a search that fits models remembers: every true evaluation, in arrays that grow."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from thalweg.search.base import Points
from thalweg.structure import Structure
from thalweg.surrogates.base import Dataset
from thalweg.system import System

#: Rows that a memory begins with; it doubles when they are full.
CAPACITY = 64


class Memory(eqx.Module):
    """Evaluations of the present run, in the order they were told; float64 NumPy arrays, as a checkpoint holds them.

    Rows beyond `rows` are empty. Rows with an energy of NaN are structures whose evaluation failed: no model is fitted to
    them, and nothing like them is proposed again.
    """

    positions: np.ndarray  # (capacity, atoms, 3)
    cell: np.ndarray  # (capacity, 3, 3)
    energy: np.ndarray  # (capacity,)
    forces: np.ndarray  # (capacity, atoms, 3)
    rows: np.ndarray  # () rows in use
    fitted: np.ndarray  # () rows that hyper-parameters were last fitted to
    told: np.ndarray  # () outcomes told in this run
    best: np.ndarray  # () lowest energy of this run
    stalled: np.ndarray  # () evaluations since it was lowered
    run: np.ndarray  # () independent runs begun before this one

    @classmethod
    def empty(cls, atoms: int, run: int = 0, capacity: int = CAPACITY) -> Memory:
        """A memory of nothing."""
        return cls(
            np.zeros((capacity, atoms, 3)),
            np.zeros((capacity, 3, 3)),
            np.full(capacity, np.nan),
            np.full((capacity, atoms, 3), np.nan),
            np.array(0),
            np.array(0),
            np.array(0),
            np.array(np.inf),
            np.array(0),
            np.array(run),
        )

    @property
    def known(self) -> np.ndarray:
        """True for rows (capacity,) with an energy."""
        return np.isfinite(self.energy) & (np.arange(len(self.energy)) < self.rows)

    def with_points(self, points: Points, tolerance: float = 0.0) -> Memory:
        """With more rows; `best` and `stalled` follow, and the outcome is counted."""
        count, rows = len(points.energy), int(self.rows)
        capacity = len(self.energy)
        while capacity < rows + count:
            capacity *= 2
        grow = capacity - len(self.energy)

        def put(old, new, fill):
            old = np.asarray(old, np.float64)
            wide = np.concatenate([old, np.full((grow, *old.shape[1:]), fill)])
            wide[rows : rows + count] = np.asarray(new, np.float64)
            return wide

        energy = np.asarray(points.energy, np.float64)
        lowest = min(energy[np.isfinite(energy)], default=np.inf)
        lowered = lowest < self.best - tolerance
        return Memory(
            put(self.positions, points.positions, 0.0),
            put(self.cell, points.cell, 0.0),
            put(self.energy, np.where(np.isfinite(energy), energy, np.nan), np.nan),
            put(self.forces, points.forces, np.nan),
            np.array(rows + count),
            self.fitted,
            np.array(int(self.told) + 1),
            np.array(min(lowest, float(self.best))),
            np.array(0 if lowered else int(self.stalled) + count),
            self.run,
        )

    def dataset(self, system: System, rows: int | None = None) -> Dataset:
        """The first `rows` of it (all), those without an energy not valid, for a surrogate.

        Forces on fixed atoms count as unknown: they never move, and a slab would cost many times what is built on it.
        """
        rows = int(self.rows) if rows is None else rows
        valid = self.known & (np.arange(len(self.energy)) < rows)
        energy = np.where(valid, self.energy, 0.0)
        forces = np.where(np.asarray(system.fixed)[:, None], np.nan, self.forces)
        return Dataset(self.positions, self.cell, energy, forces, valid, np.asarray(system.numbers), system.pbc)

    def structures(self, rows: np.ndarray, system: System) -> Structure:
        """Evaluated structures by row."""
        return Structure.create(self.positions[rows], system.numbers, self.cell[rows], system.fixed, system.pbc)


def points_of(outcome, row: int, rows: int) -> Points:
    """The points of one row of an outcome; of one that failed, or came without points, its structure alone.

    Points are known for outcomes of one row. A failed evaluation is a point without an energy.
    """
    points, one = outcome.points, lambda a: np.asarray(a)[row][None]
    energy = one(outcome.energy).astype(np.float64)
    x = one(outcome.structures.positions)
    if points is not None and rows == 1:
        failed = not np.isfinite(energy[0])
        parts = [np.asarray(getattr(points, k), np.float64) for k in ("positions", "cell", "energy", "forces")]
        if not failed:
            return Points(*parts)
        # What was evaluated before the failure is true; where it failed is remembered too.
        last = (x, one(outcome.structures.cell), np.full(1, np.nan), np.full(x.shape, np.nan))
        shaped = [p.reshape(-1, *e.shape[1:]) if p.size else e[:0] for p, e in zip(parts, last, strict=True)]
        return Points(*(np.concatenate([a, b]) for a, b in zip(shaped, last, strict=True)))
    return Points(x, one(outcome.structures.cell), energy, np.full(x.shape, np.nan))
