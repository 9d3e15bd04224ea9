"""Fingerprints of periodic structures: what the surroundings of each atom look like, whatever the cell they are told in."""

from __future__ import annotations

import numpy as np

from thalweg.similarity.checked import sorted_by_species
from thalweg.similarity.lattice import Lattice

#: How far the surroundings of an atom reach in its fingerprint, in bond lengths: first and second neighbours, and more.
REACH = 2.0
#: Oscillating functions of the distance in a fingerprint.
_WAVES = 4
#: Factors that make every sum change by about e when atoms of a dense packing move by e at random.
_WAVE_SCALES, _VECTOR_SCALE = (0.4, 0.45, 0.35, 0.33), 0.5
#: Pairs of atoms treated together: their arrays should stay in a core's own cache.
_BLOCK_PAIRS = 20_000


def fingerprints(positions, numbers, cell, pbc, length: float) -> np.ndarray:
    """Numbers (k, d) of periodic structures, see `thalweg.similarity.fingerprints`.

    Per atom: sums over the neighbours within `REACH` * `length`, all of them and by species, of smooth functions of the
    distance that oscillate, and the length of the sum of the vectors to them; each sorted within the species. Then their
    means, and the cube root of the volume for each atom.
    """
    x, species = sorted_by_species(positions, numbers)
    cell = np.asarray(cell, np.float64)
    lattices = [Lattice.of(c, pbc) for c in (cell if cell.ndim == 3 else cell[None])]
    block = max(1, _BLOCK_PAIRS // x.shape[1] ** 2)
    rows = [
        _fingerprint_block(x[k : k + block], species, lattices if len(lattices) == 1 else lattices[k : k + block], length)
        for k in range(0, len(x), block)
    ]
    return np.concatenate(rows) if rows else np.zeros((0, _width(x.shape[1], species)))


def _width(atoms: int, species: list[slice]) -> int:
    """Length of a fingerprint."""
    return min(len(species), 2) * ((_WAVES + 1) * atoms + _WAVES * len(species)) + 1


def _fingerprint_block(x: np.ndarray, species: list[slice], lattices: list[Lattice], length: float) -> np.ndarray:
    """`fingerprints` of a few structures (k, atoms, 3) whose atoms are sorted by species, in one lattice or one each."""
    k, n, _ = x.shape
    first, second, d, r2 = _neighbours(x, lattices, REACH * length)
    u = r2 / (REACH * length) ** 2
    fall = (1 - u) ** 2
    # Chebyshev polynomials of 1 - 2 u: every shell of neighbours lies on a slope of one of them.
    waves = [np.ones_like(u), 1 - 2 * u]
    while len(waves) < _WAVES:
        waves.append(2 * waves[1] * waves[-1] - waves[-2])
    ends = np.concatenate([first, second])
    total = lambda there, back: np.bincount(ends, np.concatenate([there, back]), k * n)
    columns = []
    for weight in _weights(species):
        of_first, of_second = weight[first % n], weight[second % n]
        for wave, scale in zip(waves, _WAVE_SCALES, strict=True):
            w = fall * wave
            columns.append(scale * length * total(w * of_second, w * of_first))
        vector = [total(fall * c * of_second, -fall * c * of_first) for c in d]
        columns.append(_VECTOR_SCALE * np.sqrt(sum(v * v for v in vector)))
    features = np.stack(columns, axis=1).reshape(k, n, -1)
    sorted_ = [np.sort(features[:, s], axis=1).reshape(k, -1) for s in species]
    waves_only = features[..., np.arange(features.shape[-1]) % (_WAVES + 1) < _WAVES]
    means = [waves_only[:, s].mean(1) * np.sqrt(s.stop - s.start) for s in species]
    size = np.broadcast_to([(lattice.volume / n) ** (1 / lattice.n_periodic) for lattice in lattices], k)[:, None]
    return np.concatenate([*sorted_, *means, size], axis=1)


def _weights(species: list[slice]) -> list[np.ndarray]:
    """Weights (atoms,) of neighbours: all alike, and where there are several species, different for each."""
    n = species[-1].stop
    if len(species) == 1:
        return [np.ones(n)]
    rank = np.repeat(np.linspace(-1, 1, len(species)), [s.stop - s.start for s in species])
    return [np.ones(n), rank]


def _neighbours(x: np.ndarray, lattices: list[Lattice], reach: float):
    """Pairs of atoms of structures (k, atoms, 3) nearer than `reach`, every image of one being another pair, each once.

    Returns both ends (pairs,), counted through all structures, the vectors (3 arrays) from the first to the second, and
    their squares.
    """
    n = x.shape[1]
    m = lattices[0].n_periodic
    frames = np.stack([lattice.frame for lattice in lattices])  # (1 or k, 3, 3)
    far = reach / np.stack([lattice.heights for lattice in lattices])
    fractions = np.moveaxis(x @ np.linalg.inv(frames), -1, 0)
    along = [f[:, None, :] - f[:, :, None] for f in fractions]
    for axis in range(m):
        along[axis] -= np.rint(along[axis])
    d, r2 = _vectors(along, frames[:, :, :, None, None])
    above = np.arange(n)[:, None] < np.arange(n)
    found = [np.flatnonzero((r2 < reach**2) & above)]
    vectors, squares = [[c.ravel()[found[0]] for c in d]], [r2.ravel()[found[0]]]
    if far[:, :m].max() > 0.5:
        pair, along = _images(along, far, m, above | np.eye(n, dtype=bool))
        if len(pair):
            lanes = np.zeros(len(pair), int) if len(frames) == 1 else pair // n**2
            d, r2 = _vectors(along, np.moveaxis(frames[lanes], 0, -1)[None])
            near = np.flatnonzero(r2[0] < reach**2)
            found.append(pair[near])
            vectors.append([c[0, near] for c in d])
            squares.append(r2[0, near])
    pair = np.concatenate(found)
    structure, i = pair // n**2 * n, pair // n % n
    return structure + i, structure + pair % n, [np.concatenate(c) for c in zip(*vectors, strict=True)], np.concatenate(squares)


def _vectors(along, frames) -> tuple[list[np.ndarray], np.ndarray]:
    """Cartesian vectors (3 arrays) from fractions (3 arrays) along frames (lanes, 3, 3, ...), and their squares."""
    d = []
    for c in range(3):
        terms = [along[axis] * frames[:, axis, c] for axis in range(3) if frames[:, axis, c].any()]
        d.append(sum(terms[1:], start=terms[0]))
    return d, d[0] * d[0] + d[1] * d[1] + d[2] * d[2]


def _images(along, far, m: int, mask):
    """Images other than the nearest that may be as near as `far`, in fractions (1 or k, 3) of each axis.

    `along` are three arrays (k, atoms, atoms) of fractions, of which those of `mask` are looked at. Returns which pair
    each image is of, counted through all, and fractions to it: few, and only in small cells.
    """
    k, n = along[0].shape[:2]
    width = lambda axis, pair: far[0, axis] if len(far) == 1 else far[pair // n**2, axis]
    candidate = np.zeros((k, n, n), bool)
    for axis in range(m):
        candidate |= np.abs(along[axis]) > 1 - far[:, axis, None, None]
    pair = np.flatnonzero(candidate & mask)
    along, turned = [f.ravel()[pair] for f in along], np.zeros(len(pair), int)
    for axis in range(3):
        size, away, limit = np.abs(along[axis]), np.where(along[axis] < 0, -1, 1), width(axis, pair)
        kept = [np.flatnonzero(size < limit)]
        shifts = [np.zeros(len(kept[0]), int)]
        for s in range(1, int(np.ceil(far[:, axis].max() - 0.5)) + 1) if axis < m else ():
            for near, turn in ((np.flatnonzero(s - size < limit), -s), (np.flatnonzero(s + size < limit), s)):
                kept.append(near)
                shifts.append(turn * away[near])
        chosen, shift = np.concatenate(kept), np.concatenate(shifts)
        # Of an atom and its own images those on one side: a number above zero for one of every two opposite ones.
        pair, turned = pair[chosen], 1000 * turned[chosen] + shift
        along = [f[chosen] for f in along]
        along[axis] += shift
    once = np.flatnonzero(np.where(pair // n % n == pair % n, turned > 0, turned != 0))
    return pair[once], [f[once] for f in along]
