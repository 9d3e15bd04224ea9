"""The periodic cell as the report shows it: atoms inside, images of those near its faces, its edges, its size in words."""

from __future__ import annotations

from itertools import product

import numpy as np

from thalweg.report.data import Minimum
from thalweg.report.format import number


def full(minimum: Minimum) -> np.ndarray:
    """The cell (3, 3) with unit vectors across the others in the place of missing ones."""
    cell = np.array(minimum.cell, float).reshape(3, 3)
    present = [k for k in range(3) if np.abs(cell[k]).any()]
    across = np.linalg.svd(cell[present])[2][len(present) :] if present else np.eye(3)
    for k, v in zip([k for k in range(3) if k not in present], across, strict=True):
        cell[k] = v
    return cell


def wrapped(positions: np.ndarray, minimum: Minimum) -> np.ndarray:
    """Positions (atoms, 3) moved into the cell along its periodic axes; on a face, to the side of the origin."""
    if not any(minimum.pbc) or not len(positions):
        return positions
    cell = full(minimum)
    turns = np.floor(positions @ np.linalg.inv(cell) + 1e-7) * np.asarray(minimum.pbc, bool)
    return positions - turns @ cell


def drawn_axes(positions: np.ndarray, minimum: Minimum) -> list[int]:
    """Axes along which the cell is drawn: the periodic ones, and others that hold all atoms, as the vacuum of a slab does."""
    if not any(minimum.pbc):
        return []
    given = [bool(np.abs(np.asarray(v, float)).any()) for v in minimum.cell]
    inside = positions @ np.linalg.inv(full(minimum))
    holds = [bool(a.min() > -0.01 and a.max() < 1.01) for a in inside.T]
    return [k for k in range(3) if minimum.pbc[k] or (given[k] and holds[k])]


def edges(axes: list[int]) -> np.ndarray:
    """Ends (edges, 2, 3) of the edges of the cell in units of its vectors: twelve in three dimensions, four in two."""
    ends = []
    for k in axes:
        others = [a for a in axes if a != k]
        for corner in product((0, 1), repeat=len(others)):
            start = np.zeros(3)
            start[others] = corner
            ends.append([start, start + np.eye(3)[k]])
    return np.array(ends).reshape(-1, 2, 3)


def with_images(positions: np.ndarray, minimum: Minimum, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (n, 3) and after them their periodic images within `reach` of the cell, and which atom each is of."""
    owner, everything = np.arange(len(positions)), positions
    if not any(minimum.pbc) or not len(positions):
        return everything, owner
    cell = full(minimum)
    inverse = np.linalg.inv(cell)
    inside, shift = positions @ inverse, np.zeros((len(positions), 3))
    for k in np.flatnonzero(minimum.pbc):
        margin = reach * float(np.linalg.norm(inverse[:, k]))
        most = int(np.ceil(margin))
        # The atoms themselves (no shift) stay in front.
        for turn in sorted(range(-most, most + 1), key=abs)[1:]:
            near = np.flatnonzero((np.abs(inside[:, k] + turn - 0.5) < 0.5 + margin) & (shift[:, k] == 0))
            moved = shift[near]
            moved[:, k] = turn
            owner, inside, shift = np.append(owner, owner[near]), np.append(inside, inside[near], 0), np.append(shift, moved, 0)
    return positions[owner] + shift @ cell, owner


def words(minimum: Minimum, unit: str) -> str:
    """Lengths of the periodic cell vectors, and their angles where they are not right ones; nothing for clusters."""
    periodic = [np.asarray(minimum.cell, float)[k] for k in range(3) if minimum.pbc[k]]
    if not periodic:
        return ""
    lengths = [float(np.linalg.norm(v)) for v in periodic]
    pairs = [(1, 2), (0, 2), (0, 1)] if len(periodic) == 3 else [(0, 1)][: len(periodic) - 1]
    cosines = [float(periodic[i] @ periodic[j]) / (lengths[i] * lengths[j]) for i, j in pairs]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    text = " × ".join(number(v, 3) for v in lengths) + f" {unit}"
    if np.abs(angles - 90).max(initial=0) > 0.01:
        text += ", angles " + ", ".join(f"{number(float(a), 2)}°" for a in angles)
    return "cell " + text
