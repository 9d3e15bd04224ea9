"""`Archive`: the lowest distinct minima of a run, held in memory, each with how often and how independently it was reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from thalweg.errors import StructureError
from thalweg.similarity import fingerprints, labels, same_structure, vectors, wrapped
from thalweg.store import Record

#: Comparisons of fingerprints made at once (rows), which bounds the memory of one screen.
_COMPARED = 20_000


class Archive:
    """The lowest `keep` distinct minima of a free cluster or a periodic system.

    Two stages decide whether a structure is an archived minimum. `known` is a screen for structures as the device
    relaxes them, loosely and perhaps in float32: energies within (`loose_below`, `loose_above`) of the archived one
    and fingerprints within `screen`. `add` is for polished structures: energies within `energy_tolerance`, fingerprints
    within `screen`, and then the exact check, every atom within `position_tolerance`.

    Energies are in units of `energy_scale`, lengths in units of `length_scale` (a bond length). The window of `known` is
    narrow below, where a new lowest minimum would hide, and wide above, where a loose relaxation ends. What that screen
    may merge wrongly is two minima with energies that close and fingerprints within `screen`, most likely surface isomers.
    How far apart those lie, and how far loose relaxations stray, `benchmarks/similarity.py` measures; a relaxation that
    strays further than `screen` is merely unknown and costs a polish.

    Periodic structures are in `cell`, or each in its own where `known` and `add` are given `cells`. Where atoms are
    `fixed`, structures that symmetry relates count as one minimum only if it maps the fixed atoms onto themselves. Where the
    coordinates are `variables` of a function, there is no symmetry: minima are one if all variables are within
    `position_tolerance`.
    """

    def __init__(
        self,
        numbers,
        keep: int = 1000,
        energy_scale: float = 1.0,
        length_scale: float = 1.0,
        energy_tolerance: float = 1e-4,
        position_tolerance: float = 0.05,
        screen: float = 0.01,
        loose_below: float = 5e-4,
        loose_above: float = 2e-3,
        cell=None,
        pbc: tuple[bool, bool, bool] = (False, False, False),
        fixed=None,
        variables: int | None = None,
    ):
        numbers = np.asarray(numbers, np.int32)
        self._real = numbers >= 0
        self.numbers = numbers[self._real]
        fixed = np.zeros(len(numbers), bool) if fixed is None else np.asarray(fixed, bool)
        self.fixed = fixed[self._real] if fixed[self._real].any() else None
        self._labels = labels(self.numbers, self.fixed)
        self.cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, np.float64)
        self.pbc = pbc
        self.keep = max(1, int(keep))
        self.energy_tolerance = energy_tolerance * energy_scale
        self.loose_below, self.loose_above = loose_below * energy_scale, loose_above * energy_scale
        self.screen, self.position_tolerance = screen * length_scale, position_tolerance * length_scale
        self._length, self._variables = length_scale, variables
        size, n = self.keep + 1, len(self.numbers)
        width = self._fingerprints(np.zeros((0, n, 3))).shape[1]
        # One row per minimum, in any order; `_order` lists the rows in use by energy, `_sorted` their energies.
        self._energy, self._ids = np.zeros(size), np.full(size, -1)
        self._positions, self._prints, self._cells = np.zeros((size, n, 3)), np.zeros((size, width)), np.zeros((size, 3, 3))
        self._hits, self._independent = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._first: list[tuple] = [()] * size  # origin, walker, run, evaluations, seconds of the first hit
        self._order, self._sorted = np.zeros(0, np.int64), np.zeros(0)
        self._row: dict[int, int] = {}
        self._reached: dict[int, dict[int, int]] = {}  # id -> walker -> latest run of that walker that reached it
        self._dirty: set[int] = set()
        self._dropped: set[int] = set()
        self._next = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Record]:
        return (self._record(int(row)) for row in self._order)

    def __contains__(self, minimum: int) -> bool:
        return minimum in self._row

    def __getitem__(self, minimum: int) -> Record:
        return self._record(self._row[minimum])

    @property
    def best(self) -> Record | None:
        """The lowest minimum; None while there is none."""
        return self._record(int(self._order[0])) if len(self) else None

    @property
    def energies(self) -> np.ndarray:
        """Energies, ascending."""
        return self._sorted.copy()

    @property
    def threshold(self) -> float:
        """Energy above which a new minimum would not be kept; inf until `keep` are held."""
        return float(self._sorted[-1]) if len(self) >= self.keep else float("inf")

    @property
    def dirty(self) -> list[Record]:
        """Minima that are new or changed since the last `clean`, by energy."""
        return [self._record(int(row)) for row in self._order if int(self._ids[row]) in self._dirty]

    @property
    def dropped(self) -> list[int]:
        """Ids that left the archive since the last `clean`."""
        return sorted(self._dropped)

    def clean(self) -> None:
        """Forget what is dirty and dropped: call it once a commit has succeeded."""
        self._dirty.clear()
        self._dropped.clear()

    def known(self, energies, positions, cells=None) -> np.ndarray:
        """Ids (k,) of the archived minima that these structures seem to be, by the screen alone; -1 where unknown.

        `energies` (k,), `positions` (k, slots, 3), of any precision; `cells` (k, 3, 3) where they are not in the
        archive's. Structures without a finite energy are unknown.
        """
        energies = np.asarray(energies, np.float64)
        ids = np.full(len(energies), -1)
        lo = np.searchsorted(self._sorted, energies - self.loose_above, "left")
        hi = np.searchsorted(self._sorted, energies + self.loose_below, "right")
        near = np.flatnonzero((hi > lo) & np.isfinite(energies))
        if len(near) == 0:
            return ids
        prints = self._fingerprints(self._trim(positions)[near], None if cells is None else np.asarray(cells)[near])
        rows, distance = self._closest(prints, lo[near], hi[near])
        good = distance <= self.screen
        ids[near[good]] = self._ids[rows[good]]
        return ids

    def add(
        self, energies, positions, walkers, runs, origins: Sequence[str], evaluations=0, seconds=0.0, cells=None
    ) -> np.ndarray:
        """Enter polished structures; returns the id of the minimum each is, -1 where it is not kept.

        `energies` (k,) and `positions` (k, slots, 3) are float64; `walkers`, `runs` (k,) say who found it, `origins` which
        generator, `evaluations` and `seconds` ((k,) or one for all) when; `cells` (k, 3, 3) where they are not in the
        archive's. A structure that is archived already counts as a hit. Beyond `keep` the highest is dropped. Periodic
        structures are kept with their atoms in the cell.
        """
        energies = np.asarray(energies, np.float64)
        positions = self._trim(np.asarray(positions, np.float64))
        if not len(energies) == len(positions) == len(origins):
            raise StructureError(
                f"{len(energies)} energies, {len(positions)} structures, {len(origins)} origins: not as many of each"
            )
        every = lambda a: np.broadcast_to(np.asarray(a), len(energies)).tolist()
        walkers, runs, evaluations, seconds = every(walkers), every(runs), every(evaluations), every(seconds)
        usable = np.isfinite(energies) & np.isfinite(positions).all((1, 2))
        own = self.cell if cells is None else np.asarray(cells, np.float64)
        cells = np.broadcast_to(own, (len(energies), 3, 3))
        prints = np.full((len(energies), self._prints.shape[1]), np.nan)
        prints[usable] = self._fingerprints(positions[usable], None if own is self.cell else cells[usable])
        if any(self.pbc):
            positions = wrapped(positions, own, self.pbc, self.fixed)
        ids = np.full(len(energies), -1)
        for k in np.flatnonzero(usable).tolist():
            row = self._find(energies[k], positions[k], prints[k], cells[k])
            if row is None:
                if energies[k] > self.threshold:
                    continue
                row = self._free_row()
                self._hits[row] = self._independent[row] = 0
                self._first[row] = (str(origins[k]), int(walkers[k]), int(runs[k]), int(evaluations[k]), float(seconds[k]))
                self._ids[row], self._row[self._next], self._reached[self._next] = self._next, row, {}
                self._next += 1
                self._place(row, energies[k], positions[k], prints[k], cells[k])
            elif energies[k] < self._energy[row] - 1e-3 * self.energy_tolerance:  # the same, better converged
                self._unplace(row)
                self._place(row, energies[k], positions[k], prints[k], cells[k])
            ids[k] = self._ids[row]
            self._count(row, walkers[k], runs[k])
            if len(self) > self.keep:
                self._drop(int(self._order[-1]))
        return np.where(np.isin(ids, list(self._row)), ids, -1)

    def hit(self, ids, walkers, runs) -> None:
        """Count relaxations that ended in archived minima; ids that are -1 or were dropped meanwhile are passed over.

        A walker hits a minimum independently once per run (a run is one independent start). The runs of one walker
        must come in order, as the device log gives them.
        """
        ids, walkers, runs = (np.asarray(a).tolist() for a in (ids, walkers, runs))
        for minimum, walker, run in zip(ids, walkers, runs, strict=True):
            row = self._row.get(minimum)
            if row is not None:
                self._count(row, walker, run)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs besides the records, to count independent hits on exactly after `restore`."""
        reached = [(m, w, r) for m, runs in self._reached.items() for w, r in runs.items()]
        return {"reached": np.array(reached, np.int64).reshape(-1, 3), "next": np.array(self._next, np.int64)}

    def restore(self, records: Sequence[Record], state: dict[str, np.ndarray]) -> None:
        """Fill an empty archive with the records of a store and the `state` committed with them."""
        if len(self):
            raise StructureError("an archive that holds minima cannot be restored; make a new one")
        for record in records[: self.keep]:
            row = self._free_row()
            self._ids[row], self._row[record.id], self._reached[record.id] = record.id, row, {}
            self._hits[row], self._independent[row] = record.hits, record.independent_hits
            self._first[row] = (record.origin, record.walker, record.run, record.evaluations, record.seconds)
            prints = self._fingerprints(record.positions[None], record.cell[None])[0]
            self._place(row, record.energy, record.positions, prints, record.cell)
        for minimum, walker, run in np.asarray(state["reached"]).tolist():
            if minimum in self._reached:
                self._reached[minimum][walker] = run
        self._next = max(int(state["next"]), max(self._row, default=-1) + 1)
        self.clean()

    def _trim(self, positions) -> np.ndarray:
        """Positions of the real atoms, from as many slots as `numbers` had or already without padding."""
        positions = np.asarray(positions)
        return positions if positions.shape[1] == len(self.numbers) else positions[:, self._real]

    def _closest(self, prints: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each fingerprint the row, of those at `lo` to `hi` by energy, whose fingerprint is nearest, and how near."""
        count = hi - lo
        ends = np.cumsum(count)
        mine = np.repeat(np.arange(len(count)), count)
        theirs = self._order[np.arange(ends[-1]) - np.repeat(ends - count, count) + np.repeat(lo, count)]
        distance = np.empty(len(mine))
        for k in range(0, len(mine), _COMPARED):
            part = slice(k, k + _COMPARED)
            distance[part] = np.abs(prints[mine[part]] - self._prints[theirs[part]]).max(1)
        first = np.lexsort((distance, mine))[ends - count]
        return theirs[first], distance[first]

    def _fingerprints(self, positions: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
        if self._variables is not None:
            return vectors(positions, self._variables)
        return fingerprints(positions, self._labels, self.cell if cells is None else cells, self.pbc, self._length)

    def _same(self, a: np.ndarray, b: np.ndarray, cell, other) -> bool:
        if self._variables is not None:
            return bool(np.abs(vectors(a - b, self._variables)).max() <= self.position_tolerance)
        return same_structure(a, b, self._labels, self.position_tolerance, cell, self.pbc, other)

    def _find(self, energy: float, positions: np.ndarray, prints: np.ndarray, cell: np.ndarray) -> int | None:
        """The row that holds this polished minimum."""
        lo = np.searchsorted(self._sorted, energy - self.energy_tolerance, "left")
        hi = np.searchsorted(self._sorted, energy + self.energy_tolerance, "right")
        rows = self._order[lo:hi]
        distance = np.abs(self._prints[rows] - prints).max(1) if len(rows) else np.zeros(0)
        for k in np.argsort(distance, kind="stable"):
            if distance[k] > (self.screen if self._variables is None else self.position_tolerance):
                break
            held = self._cells[rows[k]]
            other = None if (held == cell).all() else cell
            if self._same(self._positions[rows[k]], positions, held, other):
                return int(rows[k])
        return None

    def _free_row(self) -> int:
        return int(np.flatnonzero(self._ids < 0)[0])

    def _place(self, row: int, energy: float, positions: np.ndarray, prints: np.ndarray, cell: np.ndarray) -> None:
        """Write a minimum into its row and into the order; equal energies stay in order of entry."""
        self._energy[row], self._positions[row], self._prints[row], self._cells[row] = energy, positions, prints, cell
        at = np.searchsorted(self._sorted, energy, "right")
        self._order, self._sorted = np.insert(self._order, at, row), np.insert(self._sorted, at, energy)
        self._dirty.add(int(self._ids[row]))

    def _unplace(self, row: int) -> None:
        at = np.flatnonzero(self._order == row)
        self._order, self._sorted = np.delete(self._order, at), np.delete(self._sorted, at)

    def _drop(self, row: int) -> None:
        minimum = int(self._ids[row])
        self._unplace(row)
        self._ids[row] = -1
        del self._row[minimum], self._reached[minimum]
        self._dirty.discard(minimum)
        self._dropped.add(minimum)

    def _count(self, row: int, walker: int, run: int) -> None:
        """One more hit of a row by this walker in this run."""
        minimum = int(self._ids[row])
        self._hits[row] += 1
        runs = self._reached[minimum]
        if runs.get(walker, -1) < run:
            runs[walker] = run
            self._independent[row] += 1
        self._dirty.add(minimum)

    def _record(self, row: int) -> Record:
        origin, walker, run, evaluations, seconds = self._first[row]
        return Record(
            id=int(self._ids[row]),
            energy=float(self._energy[row]),
            positions=self._positions[row].copy(),
            numbers=self.numbers,
            cell=self._cells[row].copy(),
            pbc=self.pbc,
            fixed=self.fixed,
            hits=int(self._hits[row]),
            independent_hits=int(self._independent[row]),
            origin=origin,
            walker=walker,
            run=run,
            evaluations=evaluations,
            seconds=seconds,
        )
