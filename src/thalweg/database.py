"""The SQLite file of a run: its tables and their versions, who may write, and errors in one line.

Imports nothing heavy: reading a run must not wait for JAX.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from thalweg.errors import RunFolderError

DATABASE, LOCK = "run.db", "run.lock"
#: Version of the tables below, kept in SQLite's `user_version`; raised whenever an older reader would misread.
SCHEMA = 4
#: Version of what a checkpoint's bytes mean; one of another version cannot be resumed.
CHECKPOINT = 2
#: Marks the file as ours ("thal" in ASCII), in SQLite's `application_id`.
APPLICATION = 0x7468616C
#: Columns of the progress table; other keys of a progress row are kept beside them as JSON.
PROGRESS = (
    "elapsed", "cpu_seconds", "evaluations", "relaxations", "best", "hits", "independent_hits", "distinct",
)  # fmt: skip

PROGRESS_COLUMNS = ", ".join(f'"{name}"' for name in PROGRESS)  # quoted: DISTINCT is a word of SQL
#: Every evaluation of an expensive energy: what was asked (`status` NULL while it is in flight) and what became of it.
EVALUATIONS = """
CREATE TABLE evaluations (
    number INTEGER PRIMARY KEY, walker INTEGER NOT NULL, run INTEGER NOT NULL, origin TEXT NOT NULL, lowest REAL NOT NULL,
    positions BLOB NOT NULL, cell BLOB NOT NULL, velocities BLOB, status INTEGER, energy REAL, error TEXT,
    evaluations INTEGER, seconds REAL, points BLOB, batch INTEGER, elapsed REAL, notes BLOB);
"""
TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE minima (
    id INTEGER PRIMARY KEY, energy REAL NOT NULL, positions BLOB NOT NULL, numbers BLOB NOT NULL, cell BLOB NOT NULL,
    pbc INTEGER NOT NULL, hits INTEGER NOT NULL, independent_hits INTEGER NOT NULL, origin TEXT NOT NULL,
    walker INTEGER NOT NULL, run INTEGER NOT NULL, evaluations INTEGER NOT NULL, seconds REAL NOT NULL, fixed BLOB);
CREATE INDEX minima_by_energy ON minima (energy, id);
CREATE TABLE progress (id INTEGER PRIMARY KEY, {PROGRESS_COLUMNS}, extra TEXT);
CREATE TABLE moves (name TEXT PRIMARY KEY, place INTEGER NOT NULL, row TEXT NOT NULL) WITHOUT ROWID;
{EVALUATIONS}
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, sha256 TEXT NOT NULL, data BLOB NOT NULL);
"""


def connect(folder: Path, write: bool) -> sqlite3.Connection:
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


def claimed(folder: Path) -> sqlite3.Connection:
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
        with closing(connect(folder, write=False)) as connection:
            found = connection.execute("SELECT value FROM meta WHERE key = 'writer'").fetchone()
        return f" {json.loads(found[0])}"
    except (sqlite3.Error, TypeError, ValueError):
        return ""


def schema_of(folder: Path, connection: sqlite3.Connection) -> int:
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


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older run up to `SCHEMA`, within the caller's transaction."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < 2:
        connection.execute("ALTER TABLE minima ADD COLUMN fixed BLOB")
    if version < 3:
        connection.execute(EVALUATIONS)
    if version == 3:
        connection.execute("ALTER TABLE evaluations ADD COLUMN notes BLOB")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def refuse_occupied(folder: Path) -> None:
    """Raise when the folder holds a run already."""
    if not (folder / DATABASE).exists():
        return
    connection = connect(folder, write=False)
    try:
        if schema_of(folder, connection) == 0:
            return
        found = connection.execute("SELECT value FROM meta WHERE key = 'name'").fetchone()
    finally:
        connection.close()
    name = json.loads(found[0]) if found else "something else"
    raise RunFolderError(
        f"{folder} already holds a run of {name}; resume it with `thalweg resume {folder}` or choose another folder"
    )


@contextmanager
def told(folder: Path) -> Iterator[None]:
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
