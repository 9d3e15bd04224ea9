"""Which point group a free cluster has: its operations, their number, and the Schoenflies symbol. NumPy only."""

from __future__ import annotations

from collections import Counter

import numpy as np

#: Operations checked together.
_BLOCK = 2000


def point_group(positions: np.ndarray, numbers: np.ndarray, tolerance: float) -> tuple[str, int]:
    """Schoenflies symbol and order of the group of a cluster (atoms, 3), whose operations move atoms onto like ones.

    `tolerance` is a length. The order of linear molecules, infinite, is that of the operations that tell atoms apart: 2 for
    C∞v and 4 for D∞h (and 2 of a single atom, Kh), which is what the number of distinct versions of a minimum asks for.
    """
    real = np.asarray(numbers) >= 0
    x, z = np.asarray(positions, float)[real], np.asarray(numbers)[real]
    x = x - x.mean(0)
    size = np.linalg.svd(x, compute_uv=False)
    if size[0] < tolerance:
        return "Kh", 2
    if len(x) < 3 or size[1] < tolerance:
        return ("D∞h", 4) if _maps(x, z, -np.eye(3)[None], 2 * tolerance)[0] else ("C∞v", 2)
    found = operations(x, z, tolerance)
    return symbol(found), len(found)


def operations(x: np.ndarray, z: np.ndarray, tolerance: float) -> np.ndarray:
    """Orthogonal matrices (order, 3, 3) that move every atom of a centred cluster to within twice the tolerance of a like one.

    Two atoms that with the centre span a frame are laid on every two that may be their images.
    """
    r = np.linalg.norm(x, axis=1)
    like = lambda i: np.flatnonzero((z == z[i]) & (np.abs(r - r[i]) < tolerance))
    far = np.flatnonzero(r > 0.5 * r.max())
    i = min(far, key=lambda k: (len(like(k)), -r[k]))
    lever = np.linalg.norm(np.cross(x[i] / r[i], x), axis=1)
    wide = np.flatnonzero(lever > 0.5 * lever.max())
    j = min(wide, key=lambda k: (len(like(k)), -lever[k]))
    first, second = like(i), like(j)
    apart = np.linalg.norm(x[first][:, None] - x[second], axis=-1) - np.linalg.norm(x[i] - x[j])
    images = [(first[p], second[q]) for p, q in np.argwhere(np.abs(apart) < 2 * tolerance)]
    source = _frame(x[i], x[j])
    kept = []
    for mirror in (1.0, -1.0):
        turned = [_frame(x[p], x[q]).T @ (source * np.array([1, 1, mirror])[:, None]) for p, q in images if p != q or i == j]
        for block in range(0, len(turned), _BLOCK):
            turns = np.array(turned[block : block + _BLOCK])
            kept.append(turns[_maps(x, z, turns, 2 * tolerance)])
    return np.concatenate(kept)


def _frame(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal rows (3, 3): along u, towards v, normal."""
    first = u / np.linalg.norm(u)
    normal = np.cross(first, v)
    normal /= max(np.linalg.norm(normal), 1e-300)
    return np.array([first, np.cross(normal, first), normal])


def _maps(x: np.ndarray, z: np.ndarray, turns: np.ndarray, tolerance: float) -> np.ndarray:
    """Which matrices (k, 3, 3) move every atom to within the tolerance of a like one (k,)."""
    good, few = [], x[:: max(1, len(x) // 8)]
    kinds = z[:: max(1, len(x) // 8), None] != z
    for turn in turns:
        gaps = ((few[:, None] @ turn.T - x) ** 2).sum(-1)
        if np.where(kinds, np.inf, gaps).min(1).max() >= tolerance**2:  # most fail at once
            good.append(False)
            continue
        squared = ((x[:, None] @ turn.T - x) ** 2).sum(-1)
        squared[z[:, None] != z] = np.inf
        good.append(squared.min(1).max() < tolerance**2 and len(set(squared.argmin(1))) == len(x))
    return np.array(good, bool)


def symbol(operations: np.ndarray) -> str:
    """The Schoenflies symbol of a finite group of orthogonal matrices (order, 3, 3)."""
    proper = [m for m in operations if np.linalg.det(m) > 0]
    improper = [m for m in operations if np.linalg.det(m) < 0]
    orders = Counter(_order(m) for m in proper)
    g, inverts = len(proper), any(np.trace(m) < -2.9 for m in improper)
    for name, order, turns in (("T", 12, 3), ("O", 24, 3), ("I", 60, 5)):
        if g == order and orders[turns] > turns:
            if not improper:
                return name
            return f"{name}h" if name != "T" or inverts else "Td"
    if orders[g]:
        return _cyclic(g, proper, improper, inverts)
    n = g // 2
    if not improper:
        return f"D{n}"
    flat = inverts if n == 2 else _reflects(improper, _axis(next(m for m in proper if _order(m) == n)))[0]
    return f"D{n}{'h' if flat else 'd'}"


def _cyclic(n: int, proper: list, improper: list, inverts: bool) -> str:
    """The symbol of a group whose rotations are about one axis."""
    if not improper:
        return f"C{n}"
    if n == 1:
        return "Ci" if inverts else "Cs"
    across, along = _reflects(improper, _axis(next(m for m in proper if _order(m) == n)))
    return f"C{n}h" if across else f"C{n}v" if along else f"S{2 * n}"


def _order(m: np.ndarray) -> int:
    """How often a rotation has to be repeated until nothing is moved."""
    angle = np.arccos(np.clip((np.trace(m) - 1) / 2, -1, 1))
    if angle < 0.02:
        return 1
    return min(range(2, 61), key=lambda k: min(abs(angle * k / (2 * np.pi) - w) for w in range(1, k)) + 1e-3 * k)


def _axis(m: np.ndarray) -> np.ndarray:
    """The direction that a rotation other than the identity leaves alone."""
    return np.linalg.svd(m - np.eye(3))[2][-1]


def _reflects(improper: list, axis: np.ndarray) -> tuple[bool, bool]:
    """Whether there is a mirror across the axis, and one along it."""
    normals = [_axis(-m) for m in improper if abs(np.trace(m) - 1) < 0.05 and np.abs(m @ m - np.eye(3)).max() < 0.05]
    return any(abs(n @ axis) > 0.9 for n in normals), any(abs(n @ axis) < 0.1 for n in normals)
