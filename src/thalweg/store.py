"""`Store`: the folder of one run, which holds its minima, progress and checkpoint in one SQLite database.

Rows and checkpoint go in by one transaction, so that a run killed at any moment leaves the state of its last commit.
Imports nothing heavy: reading a run must not wait for JAX.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import thalweg
from thalweg.errors import RunFolderError

DATABASE, LOCK = "run.db", "run.lock"
#: Version of the tables below, kept in SQLite's `user_version`; raised whenever an older reader would misread.
SCHEMA = 2
#: Version of what a checkpoint's bytes mean; one of another version cannot be resumed.
CHECKPOINT = 2
#: Marks the file as ours ("thal" in ASCII), in SQLite's `application_id`.
APPLICATION = 0x7468616C
#: Columns of the progress table; other keys of a progress row are kept beside them as JSON.
PROGRESS = (
    "elapsed", "cpu_seconds", "evaluations", "relaxations", "best", "hits", "independent_hits", "distinct",
)  # fmt: skip

_PROGRESS = ", ".join(f'"{name}"' for name in PROGRESS)  # quoted: DISTINCT is a word of SQL
_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE minima (
    id INTEGER PRIMARY KEY, energy REAL NOT NULL, positions BLOB NOT NULL, numbers BLOB NOT NULL, cell BLOB NOT NULL,
    pbc INTEGER NOT NULL, hits INTEGER NOT NULL, independent_hits INTEGER NOT NULL, origin TEXT NOT NULL,
    walker INTEGER NOT NULL, run INTEGER NOT NULL, evaluations INTEGER NOT NULL, seconds REAL NOT NULL, fixed BLOB);
CREATE INDEX minima_by_energy ON minima (energy, id);
CREATE TABLE progress (id INTEGER PRIMARY KEY, {_PROGRESS}, extra TEXT);
CREATE TABLE moves (name TEXT PRIMARY KEY, place INTEGER NOT NULL, row TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, sha256 TEXT NOT NULL, data BLOB NOT NULL);
"""


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
        with _told(folder), ExitStack() as opened:
            if folder.exists() and not folder.is_dir():
                raise RunFolderError(f"{folder} is a file, not a folder; choose another name for the run")
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_occupied(folder)
            claim = opened.enter_context(closing(_claim(folder)))
            _refuse_occupied(folder)  # somebody may have begun between the first look and the claim
            connection = opened.enter_context(closing(_connect(folder, write=True)))
            known = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "thalweg": thalweg.__version__}
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
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
        with _told(folder), ExitStack() as opened:
            claim = opened.enter_context(closing(_claim(folder))) if write else None
            connection = opened.enter_context(closing(_connect(folder, write)))
            if _schema(folder, connection) == 0:
                raise RunFolderError(f"{folder} holds a run that never began; start it anew in the same folder")
            if write:
                connection.execute("BEGIN IMMEDIATE")
                _upgrade(connection)
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
    ) -> None:
        """Write all of this, or nothing if it fails, in one transaction.

        `minima` replace those of the same id; `dropped` ids are removed. `progress` is one more row (see `PROGRESS`).
        `moves` are statistics so far, one mapping per move with its "name"; they replace the earlier ones of that name.
        `checkpoint` replaces the one before. `meta` keys are added or replaced. Raises `RunFolderError` when the disk is
        full or the file cannot be written; what was committed before stays.
        """
        if not self.writable:
            raise RunFolderError(f"{self.folder} was opened to read; open it with write=True to commit")
        with _told(self.folder):
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
        rows = self._rows(f"SELECT {_PROGRESS}, extra FROM progress ORDER BY id")
        return [{**dict(zip(PROGRESS, row, strict=False)), **json.loads(row[-1] or "{}")} for row in rows]

    def moves(self) -> list[dict]:
        """The latest statistics of each move, in the order they were given."""
        return [json.loads(row) for (row,) in self._rows("SELECT row FROM moves ORDER BY place, name")]

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
        with _told(self.folder):
            return self._connection.execute(query, values).fetchall()


def _connect(folder: Path, write: bool) -> sqlite3.Connection:
    """A connection without implicit transactions, in WAL mode when writing."""
    path = folder / DATABASE
    if write:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives loss of power, not only of the process
        return connection
    address = path.resolve().as_uri() + "?mode=ro"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # WAL wants to make a file next to the database; in a read-only folder a run that ended well needs none.
        connection.close()
        log = folder / f"{DATABASE}-wal"
        if log.exists() and log.stat().st_size:
            raise
        connection = sqlite3.connect(address + "&immutable=1", uri=True, isolation_level=None)
    return connection


def _claim(folder: Path) -> sqlite3.Connection:
    """The exclusive right to write in the folder, held as long as the returned connection is open.

    SQLite's own lock on an empty file: the same on every operating system, and released by it when the process dies.
    """
    claim = sqlite3.connect(folder / LOCK, isolation_level=None, timeout=0.2)
    try:
        claim.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        claim.close()
        if "locked" not in str(error):
            raise
        raise RunFolderError(
            f"another process{_writer(folder)} is running in {folder}; wait for it, stop it, or choose another folder"
        ) from None
    except BaseException:
        claim.close()
        raise
    return claim


def _writer(folder: Path) -> str:
    """' 123' for the process that writes there, or nothing where that cannot be read."""
    try:
        with Store.open(folder) as store:
            return f" {store.meta['writer']}"
    except (RunFolderError, KeyError):
        return ""


def _schema(folder: Path, connection: sqlite3.Connection) -> int:
    """Version of the tables; 0 where no run was begun. Raises when the file is not ours, or newer than this code."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and tables == 0:
        return 0
    if application != APPLICATION:
        raise RunFolderError(f"{folder / DATABASE} is not the database of a thalweg run; choose another folder")
    if version > SCHEMA:
        raise RunFolderError(
            f"the run in {folder} was written by a newer thalweg (tables {version}, this one reads up to {SCHEMA}); "
            "upgrade with `pip install -U thalweg`"
        )
    return version


def _upgrade(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older run up to `SCHEMA`, within the caller's transaction."""
    if connection.execute("PRAGMA user_version").fetchone()[0] < 2:
        connection.execute("ALTER TABLE minima ADD COLUMN fixed BLOB")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _refuse_occupied(folder: Path) -> None:
    """Raise when the folder holds a run already."""
    if not (folder / DATABASE).exists():
        return
    connection = _connect(folder, write=False)
    try:
        if _schema(folder, connection) == 0:
            return
        found = connection.execute("SELECT value FROM meta WHERE key = 'name'").fetchone()
    finally:
        connection.close()
    name = json.loads(found[0]) if found else "something else"
    raise RunFolderError(
        f"{folder} already holds a run of {name}; resume it with `thalweg resume {folder}` or choose another folder"
    )


def _write_meta(connection: sqlite3.Connection, meta: Mapping) -> None:
    connection.executemany("REPLACE INTO meta VALUES (?, ?)", [(key, _json(value)) for key, value in meta.items()])


def _write_progress(connection: sqlite3.Connection, row: Mapping) -> None:
    number = lambda value: None if value is None else float(value)
    extra = {key: value for key, value in row.items() if key not in PROGRESS}
    values = [number(row.get(key)) for key in PROGRESS]
    connection.execute(
        f"INSERT INTO progress ({_PROGRESS}, extra) VALUES ({'?, ' * len(PROGRESS)}?)",
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


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the system say about the disk into one line about the run folder."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        if "full" in said:
            raise RunFolderError(_FULL.format(folder)) from error
        if "readonly" in said or "read-only" in said:
            raise RunFolderError(_READ_ONLY.format(folder)) from error
        if "unable to open" in said and folder.is_dir() and not os.access(folder, os.W_OK):
            raise RunFolderError(_READ_ONLY.format(folder)) from error
        if "not a database" in said or "malformed" in said:
            raise RunFolderError(f"{folder / DATABASE} is not the database of a thalweg run, or is damaged ({said})") from error
        if "locked" in said:
            raise RunFolderError(f"{folder / DATABASE} is locked by another program; close that and try again") from error
        raise RunFolderError(f"the run database in {folder} cannot be used: {said}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFolderError(_FULL.format(folder)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise RunFolderError(_READ_ONLY.format(folder)) from error
        raise RunFolderError(f"the run folder {folder} cannot be used: {error.strerror or error}; choose another") from error


_FULL = "no space is left for {0}; what was committed is safe: free some space, then `thalweg resume {0}`"
_READ_ONLY = "{0} cannot be written (read-only or no permission); choose another folder"
