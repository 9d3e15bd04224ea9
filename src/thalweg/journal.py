"""`Entry`: one evaluation of an expensive energy as the store keeps it, from the moment it was asked for.

Entries are the log that a run is rebuilt from: a run that was killed repeats what its search was told, entry by entry,
and evaluates again only what was in flight. Imports nothing heavy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_COLUMNS = (
    "number", "walker", "run", "origin", "lowest", "positions", "cell", "velocities",
    "status", "energy", "error", "evaluations", "seconds", "points", "batch", "elapsed", "notes",
)  # fmt: skip
#: Origin of the relaxation that ends a run (`thalweg.finish`); its number is below 0, as the search does not know of it.
FINAL = "final"
QUERY = f"SELECT {', '.join(_COLUMNS)} FROM evaluations ORDER BY number"
#: The same where the tables are older than notes (`thalweg.database`).
QUERY_WITHOUT_NOTES = QUERY.replace("notes", "NULL")


@dataclass(frozen=True)
class Entry:
    """A task (`thalweg.objective.base.Task`), who asked for it, and what became of it.

    `status` is None while it is in flight; `batch` counts the times that the search was told something, None before this
    was told. `points` (k, 2 atoms + 4, 3) holds every point evaluated: positions, cell, forces, and a last row whose first
    number is the energy. `notes` (k,) are the search's own (`thalweg.search.base.Proposals`).
    """

    number: int
    walker: int
    run: int
    origin: str
    lowest: float
    positions: np.ndarray  # (atoms, 3)
    cell: np.ndarray  # (3, 3)
    velocities: np.ndarray | None = None
    status: int | None = None
    energy: float | None = None
    error: str | None = None
    evaluations: int = 0
    seconds: float = 0.0
    points: np.ndarray | None = None
    batch: int | None = None
    elapsed: float = 0.0  # of the run when it was told (s)
    notes: np.ndarray | None = None

    @property
    def point_positions(self) -> np.ndarray:
        """Positions (k, atoms, 3) of every point evaluated."""
        return self._points[:, : len(self.positions)]

    @property
    def point_cells(self) -> np.ndarray:
        """Cells (k, 3, 3)."""
        n = len(self.positions)
        return self._points[:, n : n + 3]

    @property
    def point_forces(self) -> np.ndarray:
        """Forces (k, atoms, 3)."""
        return self._points[:, len(self.positions) + 3 : -1]

    @property
    def point_energies(self) -> np.ndarray:
        """Energies (k,)."""
        return self._points[:, -1, 0]

    @property
    def _points(self) -> np.ndarray:
        return np.zeros((0, 2 * len(self.positions) + 4, 3)) if self.points is None else self.points


def packed(positions, cells, energies, forces) -> np.ndarray:
    """The `points` of an entry."""
    last = np.zeros((len(energies), 1, 3))
    last[:, 0, 0] = energies
    return np.concatenate([positions, cells, forces, last], axis=1)


def write(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Replace these entries, within the caller's transaction."""
    marks = ", ".join("?" * len(_COLUMNS))
    connection.executemany(f"REPLACE INTO evaluations VALUES ({marks})", map(_to_row, entries))


def _to_row(e: Entry) -> tuple:
    data = lambda array: None if array is None else np.ascontiguousarray(array, "<f8").tobytes()
    return (
        int(e.number), int(e.walker), int(e.run), str(e.origin), float(e.lowest), data(e.positions), data(e.cell),
        data(e.velocities), e.status, None if e.energy is None else float(e.energy), e.error, int(e.evaluations),
        float(e.seconds), data(e.points), e.batch, float(e.elapsed), data(e.notes),
    )  # fmt: skip


def from_row(row: tuple) -> Entry:
    """The entry of a row of `QUERY`."""
    number, walker, run, origin, lowest, positions, cell, velocities, status, energy, error, count, *rest = row
    seconds, points, batch, elapsed, notes = rest
    array = lambda data, *shape: None if data is None else np.frombuffer(data, "<f8").reshape(*shape).copy()
    x = array(positions, -1, 3)
    assert x is not None
    box, speeds, held = array(cell, 3, 3), array(velocities, -1, 3), array(points, -1, 2 * len(x) + 4, 3)
    assert box is not None
    return Entry(
        number, walker, run, origin, float("inf") if lowest is None else lowest, x, box, speeds, status, energy, error,
        count or 0, seconds or 0.0, held, batch, elapsed or 0.0, array(notes, -1),
    )  # fmt: skip
