"""The exact check of periodic structures: crystals, glasses, slabs and chains, in a fixed or a variable cell.

Two descriptions of one structure may differ by any isometry, by the exchange of equal atoms, by lattice vectors added to
single atoms and by the choice of the cell, a supercell of another shape included. Along axes without periodicity
structures are like clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment

from thalweg.similarity.checked import pair_of
from thalweg.similarity.lattice import CELL_DIGITS, Lattice, isometries

#: Frames tried together by the exact check, and atoms that sort them out before all are looked at.
_FRAME_BLOCK, _PROBES = 128, 4
#: Atoms of the rarest species of which the one with the fewest counterparts becomes the anchor.
_ANCHORS = 32


def same_structure(a, b, numbers, tolerance: float, cell, pbc, other_cell=None) -> bool:
    """True when some isometry, choice of cell and exchange of equal atoms lays every atom of `b` within `tolerance` of `a`.

    `a` (in `cell`) and `b` (in `other_cell`, by default the same one) are (atoms, 3), both with species `numbers`;
    deviations are those after the best translation. Exact for tolerances well below half a bond: every operation that
    lays one lattice on the other is tried (all 48 of a cube, in slabs with both faces up), with every translation that
    brings one atom with few counterparts on each of these. Cells that differ may do so by `tolerance` in their vectors,
    and `b` is compared after straining it to the cell of `a`. Structures with internal translations are reduced to their
    primitive cells where that is needed, so that supercells of one crystal are the same whatever their shape.
    """
    a, b, numbers = pair_of(a, b, numbers)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    # The fewest of a kind first: its atoms have the fewest counterparts.
    kinds, counts = np.unique(numbers, return_counts=True)
    order = np.lexsort((numbers, counts[np.searchsorted(kinds, numbers)]))
    first = Crystal(Lattice.of(cell, pbc), a[order], numbers[order])
    second = Crystal(first.lattice if other_cell is None else Lattice.of(other_cell, pbc), b[order], numbers[order])
    slack = tolerance if other_cell is not None else CELL_DIGITS * float(np.abs(first.lattice.frame).max())
    if _match(first, second, tolerance, slack):
        return True
    first, second = first.primitive(tolerance), second.primitive(tolerance)
    # Primitive vectors come from positions, which may deviate by as much.
    return first is not None and second is not None and _match(first, second, tolerance, max(slack, tolerance))


@dataclass(frozen=True)
class Crystal:
    """A structure in its reduced lattice, along whose frame `fractions` (atoms, 3) are; atoms of the rarest kind first."""

    lattice: Lattice
    positions: np.ndarray
    kinds: np.ndarray

    @cached_property
    def fractions(self) -> np.ndarray:
        """Coordinates (atoms, 3) along the frame, those across the lattice from the centroid."""
        m, inside = self.lattice.n_periodic, self.lattice.fractions(self.positions)
        inside[:, m:] -= inside[:, m:].mean(0)
        return inside

    @cached_property
    def distances(self) -> np.ndarray:
        """Sorted distances (atoms, atoms) of each atom from the others, those beyond half the lattice cut to that.

        Moving every atom by e changes none by more than 2 e.
        """
        d = self.lattice.nearest(self.fractions[:, None] - self.fractions)
        reach = self.lattice.heights[: self.lattice.n_periodic].min() / 2
        return np.sort(np.minimum(np.sqrt((d * d).sum(-1)), reach), axis=1)

    def deviations(self, there: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Distances (..., p, atoms) of points at fractions `there` (..., p, 3) of `kinds` from equal atoms; inf from others."""
        d = self.lattice.nearest(there[..., :, None, :] - self.fractions)
        return np.where(kinds[:, None] == self.kinds, np.sqrt((d * d).sum(-1)), np.inf)

    def primitive(self, tolerance: float) -> Crystal | None:
        """The structure in its primitive cell, where it has internal translations to within `tolerance`; else None."""
        lattice, inside, n = self.lattice, self.fractions, len(self.kinds)
        alike = (np.abs(self.distances - self.distances[0]).max(1) <= 4 * tolerance) & (self.kinds == self.kinds[0])
        moves, images = [], [np.arange(n)]
        for p in np.flatnonzero(alike[1:]) + 1:
            shift = inside[p] - inside[0]
            image = _assigned(self.deviations(inside + shift, self.kinds), 4 * tolerance)
            if image is None:
                continue
            gaps = lattice.nearest(inside[image] - inside - shift)
            if np.linalg.norm(gaps - gaps.mean(0), axis=1).max() <= 2 * tolerance:
                moves.append(lattice.nearest(shift) + gaps.mean(0))
                images.append(image)
        order = len(images)
        first = np.flatnonzero(np.min(images, axis=0) == np.arange(n))  # one atom of each set that the translations join
        if order == 1 or len(first) * order != n:
            return None
        vectors = _basis(np.stack([np.zeros(3), *moves]), lattice)
        if vectors is None:
            return None
        # Their mean positions, in which errors of single atoms average out.
        there = inside[np.stack(images[1:])[:, first]] - lattice.fractions(np.stack(moves))[:, None]
        gaps = lattice.nearest(there - inside[first]).sum(0) / order
        return Crystal(Lattice.spanned(vectors), self.positions[first] + gaps, self.kinds[first])


def _basis(moves: np.ndarray, lattice: Lattice) -> np.ndarray | None:
    """Basis (m, 3) of the lattice that translations (t, 3), the zero one included, generate with those of `lattice`.

    The shortest independent ones: in up to three dimensions they are a basis. None where the translations are no group.
    """
    m = lattice.n_periodic
    whole = np.array(list(product((-1, 0, 1), repeat=m))) @ lattice.frame[:m]
    every = (moves[:, None] + whole).reshape(-1, 3)
    every = every[np.argsort((every**2).sum(1), kind="stable")]
    # Errors of translations must not pass for short vectors.
    smallest = 0.1 * lattice.heights[:m].min() / len(moves)
    basis: list[np.ndarray] = []
    for v in every:
        rest = v - np.linalg.lstsq(np.stack(basis).T, v, rcond=None)[0] @ np.stack(basis) if basis else v
        if np.linalg.norm(rest) > smallest:
            basis.append(v)
        if len(basis) == m:
            volume = Lattice.spanned(basis).volume * len(moves)
            return np.stack(basis) if abs(volume - lattice.volume) < 0.1 * lattice.volume else None
    return None


def _assigned(deviations: np.ndarray, limit: float) -> np.ndarray | None:
    """For each point the atom it is laid on, one to one, by least squares; None where one has no atom within `limit`."""
    image = deviations.argmin(1)
    worst = deviations[np.arange(len(image)), image].max()
    if worst <= limit and len(np.unique(image)) < len(image):
        image = linear_sum_assignment(np.minimum(deviations**2, 1e9))[1]
        worst = deviations[np.arange(len(image)), image].max()
    return image if worst <= limit else None


def _match(a: Crystal, b: Crystal, tolerance: float, slack: float) -> bool:
    """Whether a lattice operation of `b` onto `a`, to within `slack`, and a translation make them equal."""
    if len(a.kinds) != len(b.kinds) or (a.kinds != b.kinds).any():
        return False
    frames = isometries(a.lattice, b.lattice, slack)
    anchor = _anchor(a, b, 2 * (tolerance + slack))
    if len(frames) == 0 or anchor is None:
        return False
    i, candidates = anchor
    if a.lattice.n_periodic == 1:
        (there, p), limit = _about_the_axis(a, b, frames, i, candidates, tolerance), 5 * tolerance
        which = np.arange(len(p))
    else:
        there, limit = b.positions @ np.linalg.inv(frames), 2.001 * tolerance
        which, p = (g.ravel() for g in np.meshgrid(np.arange(len(there)), candidates))
    probes = np.unique(np.linspace(0, len(a.kinds) - 1, _PROBES + 1).astype(int))
    for start in range(0, len(p), _FRAME_BLOCK):
        part = slice(start, start + _FRAME_BLOCK)
        shift = a.fractions[i] - there[which[part], p[part]]
        worst = a.deviations(there[which[part]][:, probes] + shift[:, None], b.kinds[probes]).min(-1).max(-1)
        for f in np.argsort(worst, kind="stable"):
            if worst[f] > limit:
                break
            moved = there[which[start + f]] + shift[f]
            image = _assigned(a.deviations(moved, b.kinds), limit)
            if image is not None and _gaps(a, moved, image).max() <= tolerance:
                return True
    return False


def _gaps(a: Crystal, moved: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Distances (atoms,) of moved atoms from their images in `a` after the best translation, and turn about a single axis."""
    gaps = a.lattice.nearest(moved - a.fractions[image])
    gaps -= gaps.mean(0)
    if a.lattice.n_periodic == 1:
        across = a.lattice.frame[1:]
        here = a.fractions[image, 1:] @ [1, 1j]
        there = here + gaps @ across.T @ [1, 1j]
        overlap = np.vdot(there, here)
        turned = there * (overlap / abs(overlap) if abs(overlap) > 0 else 1) - here
        gaps = gaps + (np.stack([turned.real, turned.imag], axis=1) - gaps @ across.T) @ across
    return np.linalg.norm(gaps, axis=1)


def _anchor(a: Crystal, b: Crystal, allowed: float) -> tuple[int, np.ndarray] | None:
    """An atom of `a` with few counterparts in `b`, and these; None where an atom has none, so that the structures differ."""
    if a.lattice.n_periodic == 1:  # one off the axis, from which the turn about it can be told
        tried = [int(np.linalg.norm(a.fractions[:, 1:], axis=1).argmax())]
    else:
        rarest = np.count_nonzero(a.kinds == a.kinds[0])
        tried = np.unique(np.linspace(0, rarest - 1, _ANCHORS).astype(int)).tolist()
    found = [np.flatnonzero((a.kinds[i] == b.kinds) & (np.abs(a.distances[i] - b.distances).max(1) <= allowed)) for i in tried]
    fewest = int(np.argmin([len(f) for f in found]))
    return (tried[fewest], found[fewest]) if len(found[fewest]) else None


def _about_the_axis(a: Crystal, b: Crystal, frames, i: int, candidates, tolerance: float):
    """A chain turned about its axis, or mirrored, so that a candidate points where atom i does.

    Returns its fractions (g, atoms, 3) and the candidates (g,).
    """
    aim = a.fractions[i, 1:] @ [1, 1j]
    turned, of = [], []
    for frame in frames:
        inside = b.positions @ np.linalg.inv(frame)
        across = inside[:, 1:] @ [1, 1j]
        across = across - across.mean()
        for p in candidates:
            if abs(abs(across[p]) - abs(aim)) > 4 * tolerance:
                continue
            for z in (across, across.conj()):
                turn = aim * z[p].conjugate()
                z = z * (turn / abs(turn) if abs(turn) > 0 else 1)
                turned.append(np.stack([inside[:, 0], z.real, z.imag], axis=1))
                of.append(p)
    return (np.stack(turned) if turned else np.zeros((0, len(b.kinds), 3))), np.array(of, int)
