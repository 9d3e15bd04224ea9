"""What every comparison asks of positions and species first; raises `StructureError` where they do not fit together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from thalweg.errors import StructureError


def sorted_by_species(positions, numbers) -> tuple[np.ndarray, list[slice]]:
    """Positions (k, atoms, 3) in float64, without padding and sorted by species, and where each species is."""
    positions, numbers = np.asarray(positions), np.asarray(numbers)
    if positions.ndim != 3 or positions.shape[1:] != (len(numbers), 3):
        raise StructureError(f"positions have shape {positions.shape}; fingerprints need (structures, {len(numbers)}, 3)")
    order = np.argsort(numbers, kind="stable")[(numbers < 0).sum() :]
    if len(order) == 0:
        raise StructureError("a structure without atoms has no fingerprint")
    edges = np.flatnonzero(np.diff(numbers[order], prepend=-2, append=-2))
    return positions[:, order].astype(np.float64), [slice(int(lo), int(hi)) for lo, hi in pairwise(edges)]


def pair_of(a, b, numbers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two structures (atoms, 3) in float64 and their species, without padding."""
    a, b, numbers = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(numbers)
    if a.shape != b.shape or a.shape != (len(numbers), 3):
        raise StructureError(f"cannot compare positions of shapes {a.shape} and {b.shape} with {len(numbers)} species")
    real = numbers >= 0
    if not real.any():
        raise StructureError("structures without atoms cannot be compared")
    return a[real], b[real], numbers[real]
