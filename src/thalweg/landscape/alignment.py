"""One structure laid upon another: which atom goes where, turned, mirrored and moved so that paths between them are short.

Starts of many orientations, each refined by alternating assignment (Hungarian method) and superposition by singular values
(Kabsch, Acta Cryst. A 32, 922 (1976), doi:10.1107/S0567739476001873).
"""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell, find_mic
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from thalweg.structure import Structure

#: Orientations that are tried, and rounds of refinement of each.
STARTS, ROUNDS = 48, 20


def alignments(a: np.ndarray, b: np.ndarray, template: Structure, rng: np.random.Generator) -> list[np.ndarray]:
    """Descriptions (atoms, 3) of structure `b` near to `a`, both (atoms, 3), the nearest by root mean square first.

    Free clusters are turned, mirrored and moved, periodic structures without fixed atoms moved, and atoms of one species
    exchanged, fixed atoms never. Atoms of periodic structures come in the images nearest to those of `a`.
    """
    fixed = np.asarray(template.fixed)
    kinds = np.where(fixed, -2 - np.arange(len(fixed)), np.asarray(template.numbers))
    if any(template.pbc):
        cell = complete_cell(np.asarray(template.cell))
        found = _moved(a, b, kinds, cell, template.pbc, bool(fixed.any()))
    elif fixed.any():
        found = [b[_assigned(((a[:, None] - b) ** 2).sum(-1), kinds)]]
    else:
        found = _turned(a, b, kinds, rng)
    found.sort(key=lambda c: float(((c - a) ** 2).sum()))
    distinct: list[np.ndarray] = []
    for c in found:
        if not any(np.abs(c - d).max() < 1e-3 for d in distinct):
            distinct.append(c)
    return distinct


def _turned(a: np.ndarray, b: np.ndarray, kinds: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Free clusters, from principal axes and random orientations."""
    centre = a.mean(0)
    p, q = a - centre, b - b.mean(0)
    axes = [np.linalg.svd(x)[2] for x in (p, q)]
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1).T
    starts = [axes[0].T @ (s[:, None] * axes[1]) for s in signs]
    mirrors = np.where(np.arange(STARTS) % 2, -1.0, 1.0)
    starts += list(mirrors[:, None, None] * Rotation.random(STARTS, rng).as_matrix())
    found = []
    for turn in starts:
        order = None
        for _ in range(ROUNDS):
            new = _assigned(((p[:, None] - q @ turn.T) ** 2).sum(-1), kinds)
            if order is not None and (new == order).all():
                break
            order = new
            u, _, vt = np.linalg.svd(p.T @ q[order])
            turn = u @ vt
        found.append(q[order] @ turn.T + centre)
    return found


def _moved(a, b, kinds, cell, pbc, held: bool) -> list[np.ndarray]:
    """Periodic structures: as they are where atoms are `held`, else with each atom of the rarest species laid on one of a."""
    names, counts = np.unique(kinds, return_counts=True)
    same = np.flatnonzero(kinds == names[counts.argmin()])
    shifts = [np.zeros(3)] if held else [a[same[0]] - b[k] for k in same]
    found = []
    for shift in shifts:
        for _ in range(ROUNDS):
            gaps = find_mic((b + shift - a[:, None]).reshape(-1, 3), cell, pbc)[0].reshape(len(a), len(b), 3)
            order = _assigned((gaps**2).sum(-1), kinds)
            gap = gaps[np.arange(len(a)), order]
            drift = gap.mean(0)
            if held or np.abs(drift).max() < 1e-6:
                break
            shift = shift - drift
        found.append(a + gap)
    return found


def _assigned(squared: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """For each atom of the first the atom of the second, of its own kind, so that squared distances (n, m) sum to least."""
    return linear_sum_assignment(np.where(kinds[:, None] == kinds, squared, 1e9))[1]
