"""When two free clusters are the same minimum: under rotation, mirror, translation and exchange of equal atoms."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from thalweg.similarity.checked import pair_of, sorted_by_species

#: Structures fingerprinted together: their pair distances should stay in a core's own cache.
_BLOCK_ELEMENTS = 40_000
#: Frames tried together by the exact check: equal structures nearly always agree within the first few.
_FRAME_BLOCK = 8
#: Frames scored, and refined, per anchor when the smallest deviation of any two structures is sought.
_RANKED, _REFINED = 200, 8


def fingerprints(positions, numbers) -> np.ndarray:
    """Numbers (k, d) that no rotation, mirror, translation or exchange of equal atoms changes, in units of length.

    `positions` is (k, atoms, 3); slots with a negative number are padding. Moving every atom by e changes each number by
    a few e at most, so the largest difference of two rows is compared with a length. Per atom: its distance to the
    centroid, its projections on the second and third moments of each species, and two sums over the atoms of each
    species of oscillating functions of their distance; each of them sorted within the species.
    """
    x, species = sorted_by_species(positions, numbers)
    block = max(1, _BLOCK_ELEMENTS // x.shape[1] ** 2)
    rows = [_fingerprint_block(x[k : k + block], species) for k in range(0, len(x), block)]
    return np.concatenate(rows) if rows else np.zeros((0, x.shape[1] * (1 + 4 * len(species))))


def _fingerprint_block(x: np.ndarray, species: list[slice]) -> np.ndarray:
    """`fingerprints` of a few structures (k, atoms, 3) whose atoms are sorted by species."""
    k, n, _ = x.shape
    x = x - x.mean(1, keepdims=True)
    r2 = (x * x).sum(-1)
    size2 = np.maximum(r2.mean(1), 1e-12)[:, None]  # squared radius of gyration
    r = np.sqrt(r2)
    # Chebyshev polynomials T4 and T8 of v, which falls from 1 at no distance to nearly -1 across the cluster. Smooth
    # monotonic functions hardly tell where on the surface two atoms sit; oscillating ones do.
    v = np.matmul(x, x.transpose(0, 2, 1))
    v *= -2
    v += r2[:, :, None]
    v += r2[:, None, :]
    v /= 2 * size2[:, :, None]
    v += 1
    np.divide(2, v, out=v)
    v -= 1
    v *= v
    fourth = 8 * v * (v - 1) + 1
    eighth = 2 * fourth * fourth - 1
    scale = np.sqrt(size2 / n)
    columns = [r]
    for s in species:
        xs = x[:, s]
        second = np.matmul(xs.transpose(0, 2, 1), xs) / n
        third = np.matmul(r2[:, None, s], xs) / n  # (k, 1, 3)
        columns.append(np.sqrt(np.maximum((np.matmul(x, second) * x).sum(-1), 0) / size2))
        columns.append(np.matmul(x, third.transpose(0, 2, 1))[..., 0] / size2)
        columns.append(scale / 4 * fourth[:, :, s].sum(-1))
        columns.append(scale / 8 * eighth[:, :, s].sum(-1))
    features = np.stack(columns, axis=1)  # (k, features, atoms)
    for s in species:
        features[:, :, s] = np.sort(features[:, :, s], axis=-1)
    return features.reshape(k, -1)


def same_structure(a, b, numbers, tolerance: float) -> bool:
    """True when some rotation, mirror and exchange of equal atoms lays every atom of `b` within `tolerance` of one of `a`.

    `a` and `b` are (atoms, 3), both with species `numbers`; distances are those after superposition by least squares, in
    the unit of the positions. Exact for tolerances well below half a bond (a tenth or less): frames are not sampled but
    enumerated. A pair of atoms that has few counterparts spans a frame with the centroid; each of its possible
    counterparts in `b` is tried, and if there is none the structures differ.
    """
    a, b, numbers = _prepared(a, b, numbers)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    if len(a) <= 1:
        return True
    kind = numbers[:, None] == numbers
    ra, rb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    da, db = _distances(a, a), _distances(b, b)
    for z in np.unique(numbers):  # sorted lists of matching pairs differ no more than the pairs themselves
        one = numbers == z
        if np.abs(np.sort(ra[one]) - np.sort(rb[one])).max() > tolerance:
            return False
    if np.abs(np.sort(da, axis=None) - np.sort(db, axis=None)).max() > 2 * tolerance:
        return False
    near = kind & (np.abs(ra[:, None] - rb) <= tolerance)  # (i of a, p of b): p may be the image of i
    anchor = _rare_anchor(a, ra, da, db, near, tolerance)
    if anchor is None:
        return False
    i, j, pairs, reach = anchor
    for start in range(0, len(pairs), _FRAME_BLOCK):
        turns = _turns(a[i], a[j], b[pairs[start : start + _FRAME_BLOCK, 0]], b[pairs[start : start + _FRAME_BLOCK, 1]])
        farthest, _ = _nearest(np.matmul(a, turns.transpose(0, 2, 1)), b, kind)
        for c in np.argsort(farthest, kind="stable"):
            if farthest[c] <= reach * tolerance and _superposed(a, b, turns[c], kind)[1] <= tolerance:
                return True
    return False


def rmsd_aligned(a, b, numbers) -> float:
    """The smallest root-mean-square deviation found over rotations, mirrors and exchanges of equal atoms.

    Zero (to rounding) for equal structures. For different ones it is an upper bound of the true minimum: frames of the
    principal axes and of the best-matching pairs of atoms are refined by alternating assignment and superposition.
    """
    a, b, numbers = _prepared(a, b, numbers)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    kind = numbers[:, None] == numbers
    frames = [_principal_turns(a, b)]
    ra, rb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    da, db = _distances(a, a), _distances(b, b)
    by_radius = np.argsort(-ra, kind="stable")
    for i in dict.fromkeys(int(by_radius[k * len(a) // 6]) for k in range(3)):
        lever = _levers(a, i, ra)
        j = int(lever.argmax())
        if i == j:
            continue
        mismatch = np.abs(rb[:, None] - ra[i]) + np.abs(rb - ra[j]) + np.abs(db - da[i, j])
        mismatch = np.where(kind[i][:, None] & kind[j], mismatch, np.inf)
        np.fill_diagonal(mismatch, np.inf)
        best = np.argsort(mismatch, axis=None, kind="stable")[:_RANKED]
        p, q = np.unravel_index(best[np.isfinite(mismatch.ravel()[best])], mismatch.shape)
        turns = _turns(a[i], a[j], b[p], b[q])
        score = np.concatenate(
            [_nearest(np.matmul(a, t.transpose(0, 2, 1)), b, kind)[1] for t in np.array_split(turns, max(1, len(turns) // 32))]
        )
        frames.append(turns[np.argsort(score, kind="stable")[:_REFINED]])
    return min(_superposed(a, b, turn, kind)[0] for turn in np.concatenate(frames))


def _prepared(a, b, numbers):
    """Centred float64 positions without padding, and the species."""
    a, b, numbers = pair_of(a, b, numbers)
    return a - a.mean(0), b - b.mean(0), numbers


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances (..., n, m) between points (..., n, 3) and (m, 3)."""
    squared = (a * a).sum(-1)[..., None] + (b * b).sum(-1) - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0))


def _levers(a: np.ndarray, i: int, ra: np.ndarray) -> np.ndarray:
    """Distance of each atom from the line through the centroid and atom i: how well the two span a frame."""
    return np.linalg.norm(np.cross(a[i], a), axis=1) / max(ra[i], 1e-300)


def _rare_anchor(a, ra, da, db, near, tolerance):
    """Atoms i, j of a with few possible images, those images (c, 2), and by how much a frame may magnify deviations.

    None when some atom or pair has no possible image at all, so that the structures differ.
    """
    count = near.sum(1)
    if count.min() == 0:
        return None
    far = ra >= 0.5 * ra.max()
    i = int(np.lexsort((-ra, np.where(far, count, len(a) + 1)))[0])
    images = np.flatnonzero(near[i])
    lever = _levers(a, i, ra)
    # possible[c, j, q]: with i at images[c], atom j may be at q.
    possible = near & (np.abs(db[images][:, None, :] - da[i][:, None]) <= 2 * tolerance)
    possible[np.arange(len(images)), :, images] = False
    possible[:, i] = True  # i itself is no candidate for j
    count = possible.sum((0, 2))
    if count.min() == 0:
        return None
    wide = (lever >= 0.5 * lever.max()) & (np.arange(len(a)) != i)
    j = int(np.lexsort((-lever, np.where(wide, count, count.max() + 1)))[0])
    if j == i:  # cannot happen with two or more atoms; a guard against rounding in degenerate input
        j = (i + 1) % len(a)
    c, q = np.nonzero(possible[:, j])
    reach = 1 + 2 * ra.max() / ra[i] + 2 * ra.max() / max(lever[j], 1e-300)
    return i, j, np.stack([images[c], q], axis=1), reach


def _frames(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal frames (c, 3, 3), rows: along u, towards v, normal; any normal where they are collinear."""
    first = u / np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), 1e-300)
    normal = np.cross(first, v)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    helper = np.eye(3)[np.abs(first).argmin(-1)]
    spare = np.cross(first, helper)
    spare /= np.maximum(np.linalg.norm(spare, axis=-1, keepdims=True), 1e-300)
    scale = np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-300)
    normal = np.where(length > 1e-9 * scale, normal / np.maximum(length, 1e-300), spare)
    return np.stack([first, np.cross(normal, first), normal], axis=-2)


def _turns(ai, aj, bp, bq) -> np.ndarray:
    """Orthogonal matrices (2 c, 3, 3) that lay the frame of (ai, aj) on those of (bp, bq) (c, 3), and their mirrors."""
    source, target = _frames(ai[None], aj[None]), _frames(bp, bq)
    proper = np.matmul(target.transpose(0, 2, 1), source)
    mirrored = np.matmul(target.transpose(0, 2, 1), source * np.array([1.0, 1.0, -1.0])[:, None])
    return np.stack([proper, mirrored], axis=1).reshape(-1, 3, 3)


def _principal_turns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The eight orthogonal matrices that lay the principal axes of a on those of b."""
    axes = [np.linalg.eigh(x.T @ x)[1] for x in (a, b)]
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1).T
    return np.stack([(axes[1] * s) @ axes[0].T for s in signs])


def _nearest(turned: np.ndarray, b: np.ndarray, kind: np.ndarray):
    """Per frame: the largest distance to the nearest equal atom, either way, and the sum of their squares (c,)."""
    d = np.where(kind, _distances(turned, b), np.inf)
    there, back = d.min(2), d.min(1)
    return np.maximum(there.max(1), back.max(1)), (there**2).sum(1) + (back**2).sum(1)


def _superposed(a: np.ndarray, b: np.ndarray, turn: np.ndarray, kind: np.ndarray) -> tuple[float, float]:
    """Root-mean-square and largest distance after alternating assignment and superposition from one frame.

    Superposition by singular values (Kabsch, Acta Cryst. A 32, 922 (1976), doi:10.1107/S0567739476001873) without its
    sign: mirrors are allowed. Assignment by the Hungarian method.
    """
    image = np.full(len(a), -1)
    for _ in range(20):
        cost = np.where(kind, _distances(a @ turn.T, b) ** 2, 1e9)
        new = cost.argmin(1)
        if len(np.unique(new)) < len(new):
            new = linear_sum_assignment(cost)[1]
        if (new == image).all():
            break
        image = new
        u, _, vt = np.linalg.svd(b[image].T @ a)
        turn = u @ vt
    distance2 = ((a @ turn.T - b[image]) ** 2).sum(1)
    return float(np.sqrt(distance2.mean())), float(np.sqrt(distance2.max()))
