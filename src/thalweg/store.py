"""`Store`: the folder of one run, which holds its minima, progress and checkpoint in one SQLite database.

Rows and checkpoint go in by one transaction, so that a run killed at any moment leaves the state of its last commit.
Imports nothing heavy: reading a run must not wait for JAX.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import thalweg
from thalweg import journal
from thalweg.database import (
    APPLICATION,
    CHECKPOINT,
    DATABASE,
    PROGRESS,
    PROGRESS_COLUMNS,
    SCHEMA,
    TABLES,
    claimed,
    connect,
    refuse_occupied,
    schema_of,
    told,
    upgrade,
)
from thalweg.errors import RunFolderError
from thalweg.journal import Entry


@dataclass(frozen=True)
class Record:
    """One distinct minimum of a run, and when, how and how often it was found.

    `hits` counts relaxations that ended in it, `independent_hits` the independent starts (walker, run) that reached it.
    `origin`, `walker`, `run`, `evaluations` (of the whole run) and `seconds` tell of the first hit. Energies and lengths
    are in the units of the potential.
    """

    id: int
    energy: float
    positions: np.ndarray  # (atoms, 3) float64
    numbers: np.ndarray  # (atoms,) int32
    cell: np.ndarray  # (3, 3)
    pbc: tuple[bool, bool, bool] = (False, False, False)
    hits: int = 1
    independent_hits: int = 1
    origin: str = ""
    walker: int = 0
    run: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    fixed: np.ndarray | None = None  # (atoms,) bool, True for atoms that the search did not move; None where all are free


_COLUMNS = "id, energy, positions, numbers, cell, pbc, hits, independent_hits, origin, walker, run, evaluations, seconds, fixed"


class Store:
    """A run folder. Make one with `Store.create`, read or go on with `Store.open`; a context manager closes it.

    One process writes at a time, any number read meanwhile. The writer's claim is a lock of the operating system, which
    dies with the process: a killed run can be resumed at once.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, claim: sqlite3.Connection | None):
        self.folder = folder
        self._connection = connection
        self._claim = claim

    @classmethod
    def create(cls, folder: Path | str, meta: Mapping) -> Store:
        """Begin a run in `folder`, made if missing. `meta` (JSON) describes it; its "name" is used in messages.

        Raises `RunFolderError` when the folder holds a run, when another process is starting one there, or when it
        cannot be written.
        """
        folder = Path(folder)
        with told(folder), ExitStack() as opened:
            if folder.exists() and not folder.is_dir():
                raise RunFolderError(f"{folder} is a file, not a folder; choose another name for the run")
            folder.mkdir(parents=True, exist_ok=True)
            refuse_occupied(folder)
            claim = opened.enter_context(closing(claimed(folder)))
            refuse_occupied(folder)  # somebody may have begun between the first look and the claim
            connection = opened.enter_context(closing(connect(folder, write=True)))
            known = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "thalweg": thalweg.__version__}
            connection.execute("BEGIN IMMEDIATE")
            for statement in TABLES.split(";"):
                connection.execute(statement)
            _write_meta(connection, {**known, **meta, "writer": os.getpid()})
            # In the same transaction: a file without these marks holds no run yet.
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            connection.execute("COMMIT")
            opened.pop_all()  # all went well: both stay open
        return cls(folder, connection, claim)

    @classmethod
    def open(cls, folder: Path | str, write: bool = False) -> Store:
        """Open the run in `folder`, to read it or to go on with it. A run may be read while it is written."""
        folder = Path(folder)
        if not (folder / DATABASE).is_file():
            raise RunFolderError(f"{folder} holds no run (there is no {DATABASE} in it); `thalweg search` begins one")
        with told(folder), ExitStack() as opened:
            claim = opened.enter_context(closing(claimed(folder))) if write else None
            connection = opened.enter_context(closing(connect(folder, write)))
            if schema_of(folder, connection) == 0:
                raise RunFolderError(f"{folder} holds a run that never began; start it anew in the same folder")
            if write:
                connection.execute("BEGIN IMMEDIATE")
                upgrade(connection)
                _write_meta(connection, {"writer": os.getpid()})
                connection.execute("COMMIT")
            opened.pop_all()
        return cls(folder, connection, claim)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and give up the claim; safe to call twice."""
        self._connection.close()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    @property
    def writable(self) -> bool:
        """Whether this store holds the claim to write."""
        return self._claim is not None

    def commit(
        self,
        minima: Iterable[Record] = (),
        progress: Mapping | None = None,
        checkpoint: bytes | None = None,
        moves: Iterable[Mapping] = (),
        dropped: Iterable[int] = (),
        meta: Mapping | None = None,
        evaluations: Iterable[Entry] = (),
    ) -> None:
        """Write all of this, or nothing if it fails, in one transaction.

        `minima` replace those of the same id; `dropped` ids are removed. `progress` is one more row (see `PROGRESS`).
        `moves` are statistics so far, one mapping per move with its "name"; they replace the earlier ones of that name.
        `checkpoint` replaces the one before. `evaluations` replace those of the same number. `meta` keys are added or
        replaced. Raises `RunFolderError` when the disk is full or the file cannot be written; what was committed before
        stays.
        """
        if not self.writable:
            raise RunFolderError(f"{self.folder} was opened to read; open it with write=True to commit")
        with told(self.folder):
            database = self._connection
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany("DELETE FROM minima WHERE id = ?", [(int(i),) for i in dropped])
                database.executemany(f"REPLACE INTO minima ({_COLUMNS}) VALUES (?{',?' * 13})", map(_to_row, minima))
                if progress is not None:
                    _write_progress(database, progress)
                database.executemany(
                    "REPLACE INTO moves VALUES (?, ?, ?)", [(m["name"], i, _json(dict(m))) for i, m in enumerate(moves)]
                )
                if checkpoint is not None:
                    digest = hashlib.sha256(checkpoint).hexdigest()
                    database.execute("REPLACE INTO checkpoint VALUES (1, ?, ?, ?)", (CHECKPOINT, digest, checkpoint))
                journal.write(database, evaluations)
                _write_meta(database, meta or {})
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite itself rolls back on a full disk
                    database.execute("ROLLBACK")
                raise

    @property
    def meta(self) -> dict:
        """What `create` was given, with "created", "thalweg" (its version) and "writer" (the process that wrote last)."""
        return {key: json.loads(value) for key, value in self._rows("SELECT key, value FROM meta")}

    @property
    def n_minima(self) -> int:
        """How many distinct minima are held."""
        return int(self._rows("SELECT count(*) FROM minima")[0][0])

    def minima(self, limit: int | None = None) -> list[Record]:
        """The distinct minima, lowest first; at most `limit`."""
        columns = _COLUMNS
        if self._rows("PRAGMA user_version")[0][0] < 2:  # an older run, opened to read
            columns = columns.replace("fixed", "NULL")
        query = f"SELECT {columns} FROM minima ORDER BY energy, id LIMIT ?"
        return [_from_row(row) for row in self._rows(query, (-1 if limit is None else limit,))]

    def best(self) -> Record | None:
        """The lowest minimum; None before the first."""
        return next(iter(self.minima(1)), None)

    def progress(self) -> list[dict]:
        """Progress rows in order of time; columns that were not given are None."""
        rows = self._rows(f"SELECT {PROGRESS_COLUMNS}, extra FROM progress ORDER BY id")
        return [{**dict(zip(PROGRESS, row, strict=False)), **json.loads(row[-1] or "{}")} for row in rows]

    def moves(self) -> list[dict]:
        """The latest statistics of each move, in the order they were given."""
        return [json.loads(row) for (row,) in self._rows("SELECT row FROM moves ORDER BY place, name")]

    def evaluations(self) -> list[Entry]:
        """Every evaluation that was asked for one by one, in order; none where relaxations ran on the device."""
        version = self._rows("PRAGMA user_version")[0][0]
        if version < 3:
            return []
        query = journal.QUERY_WITHOUT_NOTES if version < 4 else journal.QUERY
        return [journal.from_row(row) for row in self._rows(query)]

    def failures(self) -> list[tuple[str, int]]:
        """What calculators said when they failed, and how often, the most frequent first."""
        if self._rows("PRAGMA user_version")[0][0] < 3:
            return []
        query = "SELECT error, count(*) FROM evaluations WHERE error IS NOT NULL GROUP BY error ORDER BY count(*) DESC, error"
        return self._rows(query)  # type: ignore[return-value]

    def checkpoint(self) -> bytes | None:
        """The bytes of the last checkpoint, verified; None if there was none."""
        rows = self._rows("SELECT version, sha256, data FROM checkpoint")
        if not rows:
            return None
        version, digest, data = rows[0]
        if version != CHECKPOINT:
            raise RunFolderError(
                f"the checkpoint in {self.folder} has format {version} and this thalweg resumes format {CHECKPOINT}; "
                "its minima can be read, but go on with the version that wrote it"
            )
        if hashlib.sha256(data).hexdigest() != digest:
            raise RunFolderError(f"the checkpoint in {self.folder} is damaged; its minima can be read, but not resumed")
        return data

    def _rows(self, query: str, values: tuple = ()) -> list[tuple]:
        with told(self.folder):
            return self._connection.execute(query, values).fetchall()


def _write_meta(connection: sqlite3.Connection, meta: Mapping) -> None:
    connection.executemany("REPLACE INTO meta VALUES (?, ?)", [(key, _json(value)) for key, value in meta.items()])


def _write_progress(connection: sqlite3.Connection, row: Mapping) -> None:
    number = lambda value: None if value is None else float(value)
    extra = {key: value for key, value in row.items() if key not in PROGRESS}
    values = [number(row.get(key)) for key in PROGRESS]
    connection.execute(
        f"INSERT INTO progress ({PROGRESS_COLUMNS}, extra) VALUES ({'?, ' * len(PROGRESS)}?)",
        (*values, _json(extra) if extra else None),
    )


def _json(value) -> str:
    """JSON in which NumPy numbers and arrays, and paths, are plain."""

    def plain(thing):
        if isinstance(thing, np.generic | np.ndarray):
            return thing.tolist()
        if isinstance(thing, Path):
            return str(thing)
        raise TypeError(f"{type(thing).__name__} cannot be kept in a run's database: {thing!r}")

    return json.dumps(value, default=plain)


def _to_row(r: Record) -> tuple:
    data = lambda array, kind: np.ascontiguousarray(array, kind).tobytes()
    return (
        int(r.id), float(r.energy), data(r.positions, "<f8"), data(r.numbers, "<i4"), data(r.cell, "<f8"),
        sum(bool(p) << k for k, p in enumerate(r.pbc)), int(r.hits), int(r.independent_hits), str(r.origin),
        int(r.walker), int(r.run), int(r.evaluations), float(r.seconds), None if r.fixed is None else data(r.fixed, "?"),
    )  # fmt: skip


def _from_row(row: tuple) -> Record:
    identity, energy, positions, numbers, cell, pbc, *rest = row
    array = lambda data, kind, *shape: np.frombuffer(data, kind).reshape(*shape).copy()
    periodic = (bool(pbc & 1), bool(pbc & 2), bool(pbc & 4))
    arrays = array(positions, "<f8", -1, 3), array(numbers, "<i4", -1), array(cell, "<f8", 3, 3)
    rest[-1] = None if rest[-1] is None else array(rest[-1], "?", -1)
    return Record(identity, energy, *arrays, periodic, *rest)
