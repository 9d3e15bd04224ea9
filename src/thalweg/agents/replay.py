"""What an agent remembers of its episodes: what was placed where in which order, and the best outcome of every placement."""

from __future__ import annotations

import equinox as eqx
import numpy as np

#: Episodes that a memory begins with; it doubles when they are full.
CAPACITY = 128


class Replay(eqx.Module):
    """Episodes in the order they were told; NumPy arrays, as a checkpoint holds them. Rows beyond `rows` are empty.

    `where` (capacity, atoms, ...) are places: voxels, -1 for what was not placed, or positions. `best` (capacity, atoms) is
    the lowest energy of any episode in which the structure after that placement came about, by whatever order: the best
    outcome of the placement. Energies of failed evaluations are inf.
    """

    where: np.ndarray
    order: np.ndarray  # (capacity, atoms) step of each atom's placement, -1 for what was not placed
    energy: np.ndarray  # (capacity,)
    best: np.ndarray
    after: np.ndarray  # (capacity, atoms) a number for what was there after the placement: `histories`, or another
    rows: np.ndarray  # ()

    @classmethod
    def empty(cls, atoms: int, capacity: int = CAPACITY, places: tuple[int, ...] = (), dtype: type = np.int32) -> Replay:
        """A memory of nothing, of voxels, or of places of this shape and type."""
        of = lambda fill, dtype: np.full((capacity, atoms), fill, dtype)
        return cls(
            np.full((capacity, atoms, *places), -1, dtype),
            of(-1, np.int32),
            np.full(capacity, np.inf),
            of(np.inf, float),
            of(0, np.uint64),
            np.array(0),
        )

    @property
    def lowest(self) -> float:
        """The lowest energy of all episodes; inf without one."""
        return float(self.energy[: int(self.rows)].min(initial=np.inf))

    def with_episode(self, where: np.ndarray, order: np.ndarray, after: np.ndarray, energy: float) -> Replay:
        """With one more episode: places (atoms, ...), order and numbers of what was there afterwards (atoms,)."""
        row, held = int(self.rows), self
        if row == len(self.energy):
            held = _grown(self)
        energy = energy if np.isfinite(energy) else np.inf
        fresh = lambda a, value: _put(a, row, value)
        best, mine = held.best.copy(), np.full(len(order), energy)
        known, placed = held.after[:row], order >= 0
        for slot in np.flatnonzero(placed):
            same = known == after[slot]
            mine[slot] = min(energy, best[:row][same].min(initial=np.inf))
            best[:row][same] = mine[slot]
        return Replay(
            fresh(held.where, where), fresh(held.order, order), fresh(held.energy, energy),
            _put(best, row, np.where(placed, mine, np.inf)), fresh(held.after, after), np.array(row + 1),
        )  # fmt: skip

    def knows(self, whole: np.uint64) -> bool:
        """Whether a structure of this number was an episode before."""
        return bool((self.after[: int(self.rows)] == whole).any())

    def drawn(self, rng: np.random.Generator, others: int = 3) -> np.ndarray:
        """Rows of the newest episode, the best one and random `others`."""
        rows = int(self.rows)
        return np.array([rows - 1, int(self.energy[:rows].argmin()), *rng.integers(rows, size=others)])


def histories(marks: np.ndarray, order: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Numbers (atoms,) that tell sets of placed atoms apart: of those that were there after each atom was placed.

    A number of 64 bits for every species and place, added up: the order does not matter. A. L. Zobrist, University of
    Wisconsin, Technical Report 88 (1970).
    """
    placed = order >= 0
    with np.errstate(over="ignore"):
        words = mixed((kinds.astype(np.uint64) << np.uint64(48)) + marks.astype(np.uint64) + np.uint64(1))
        there = placed & (order[None] <= order[:, None])
        return np.where(placed, np.where(there, words[None], np.uint64(0)).sum(1, dtype=np.uint64), np.uint64(0))


def mixed(word: np.ndarray) -> np.ndarray:
    """A well-mixed 64-bit number of each (splitmix64)."""
    word = word * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _put(array: np.ndarray, row: int, value) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


def _grown(held: Replay) -> Replay:
    """With twice the room."""
    more = Replay.empty(held.order.shape[1], len(held.energy), held.where.shape[2:], held.where.dtype.type)
    double = lambda name: np.concatenate([getattr(held, name), getattr(more, name)])
    return Replay(double("where"), double("order"), double("energy"), double("best"), double("after"), held.rows)
