"""Lattices of periodic structures: reduced vectors, nearest images, and the linear maps that lay one lattice on another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from thalweg.space import completed

#: Deviation of a lattice from itself, as a part of its vectors, under what still counts as a symmetry of a fixed cell:
#: input files give cells with about five digits.
CELL_DIGITS = 1e-4


@dataclass(frozen=True)
class Lattice:
    """A lattice of one, two or three dimensions in space.

    Rows of `frame` (3, 3) are `n_periodic` reduced lattice vectors, shortest first, then unit vectors across them.
    """

    frame: np.ndarray
    n_periodic: int

    @classmethod
    def of(cls, cell, pbc) -> Lattice:
        """Lattice of the periodic vectors of a cell (3, 3)."""
        return _lattice(np.ascontiguousarray(cell, np.float64).tobytes(), tuple(bool(p) for p in pbc))

    @classmethod
    def spanned(cls, vectors) -> Lattice:
        """Lattice of one to three independent vectors."""
        vectors = reduced(np.asarray(vectors, np.float64))
        across = np.linalg.svd(vectors)[2][len(vectors) :]
        return cls(np.concatenate([vectors, across]), len(vectors))

    @property
    def heights(self) -> np.ndarray:
        """Distances (3,) between opposite faces of the frame; 1 where it is not periodic."""
        return 1 / np.linalg.norm(np.linalg.inv(self.frame), axis=0)

    @property
    def volume(self) -> float:
        """Volume, area or length of one cell."""
        return float(abs(np.linalg.det(self.frame)))

    def fractions(self, positions) -> np.ndarray:
        """Coordinates (..., 3) along the frame."""
        return positions @ np.linalg.inv(self.frame)

    def nearest(self, fractions) -> np.ndarray:
        """Cartesian vectors (..., 3) of differences along the frame, to the image within half a height of every face.

        That is the nearest image wherever it is nearer than half the smallest height; others may have nearer ones.
        """
        fractions = np.array(fractions)
        periodic = fractions[..., : self.n_periodic]
        periodic -= np.round(periodic)
        return fractions @ self.frame


@lru_cache(256)
def _lattice(cell: bytes, pbc: tuple[bool, bool, bool]) -> Lattice:
    vectors = completed(np.frombuffer(cell).reshape(3, 3), pbc)
    return Lattice.spanned(vectors[list(pbc)])


def reduced(vectors: np.ndarray) -> np.ndarray:
    """Minkowski-reduced basis of the lattice of up to three vectors (m, 3), shortest first.

    Greedy reduction: the longest vector is replaced by its shortest sum with the others as long as that shortens it
    (Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009), doi:10.1145/1597036.1597050).
    """
    if len(vectors) < 2:
        return np.array(vectors)
    around = np.array(list(product((-1, 0, 1), repeat=len(vectors) - 1)))
    for _ in range(1000):
        vectors = vectors[np.argsort((vectors**2).sum(1), kind="stable")]
        short, last = reduced(vectors[:-1]), vectors[-1]
        turns = np.round(np.linalg.lstsq(short.T, last, rcond=None)[0])
        trials = last - (turns + around) @ short
        best = trials[(trials**2).sum(1).argmin()]
        vectors = np.concatenate([short, [last]])
        if (best**2).sum() >= (last**2).sum() * (1 - 1e-10):
            break
        vectors[-1] = best
    return vectors


def isometries(a: Lattice, b: Lattice, tolerance: float) -> np.ndarray:
    """Frames (g, 3, 3) of lattice `b` that the frame of `a` is laid on: each of their vectors is as long, and at the same
    angles, as the one of `a` to within `tolerance`. With `b` = `a` these are its point operations, 48 for a cube.

    Rows across the lattice come with both signs; in one dimension, where any turn about the axis is allowed, with one.
    """
    m = a.n_periodic
    if m != b.n_periodic or abs(a.volume - b.volume) > 3 * tolerance * a.volume / np.linalg.norm(a.frame[:m], axis=1).min():
        return np.zeros((0, 3, 3))
    # Bases of one lattice that are both reduced differ by 0 and 1; one more for those that are reduced up to rounding.
    whole = np.array(list(product((-2, -1, 0, 1, 2), repeat=m)))
    vectors = whole @ b.frame[:m]
    lengths, wanted = np.linalg.norm(vectors, axis=1), np.linalg.norm(a.frame[:m], axis=1)
    found = [np.zeros((0,), int)]
    bases = np.zeros((1, 0), int)  # indices into `vectors`
    for k in range(m):
        found = np.flatnonzero(np.abs(lengths - wanted[k]) <= tolerance)
        bases = np.concatenate([np.repeat(bases, len(found), 0), np.tile(found, len(bases))[:, None]], axis=1)
        for j in range(k):
            dots = (vectors[bases[:, j]] * vectors[bases[:, k]]).sum(1)
            bases = bases[np.abs(dots - a.frame[j] @ a.frame[k]) <= tolerance * (wanted[j] + wanted[k])]
    bases = bases[np.abs(np.abs(np.linalg.det(whole[bases])) - 1) < 0.5] if m > 1 else bases[np.abs(whole[bases[:, 0], 0]) == 1]
    rows = vectors[bases]  # (g, m, 3)
    if m == 3:
        return rows
    across = b.frame[m:]
    signs = (1.0,) if m == 1 else (1.0, -1.0)
    return np.concatenate([np.concatenate([rows, np.broadcast_to(s * across, (len(rows), 3 - m, 3))], axis=1) for s in signs])


def wrapped(positions, cell, pbc, fixed=None) -> np.ndarray:
    """Positions (..., atoms, 3) moved into the cells (..., 3, 3) along the periodic axes; `fixed` atoms stay where they are.

    Atoms on a face, to rounding, go to the side of the origin.
    """
    positions = np.array(positions, np.float64)
    cell = completed(cell, pbc)
    turns = np.floor(positions @ np.linalg.inv(cell) + 1e-9) * np.asarray(pbc, bool)
    if fixed is not None:
        turns[..., np.asarray(fixed, bool), :] = 0
    return positions - turns @ cell
