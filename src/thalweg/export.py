"""Exporting the minima of a run to the formats other programs read: extxyz, ase.db, parquet, and what else ASE writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.io import write_atoms
from thalweg.store import Record, Store

#: What of a record, besides the structure and its energy, is exported under its own name.
COLUMNS = ("hits", "independent_hits", "origin", "walker", "run", "evaluations", "seconds")

_ENDINGS = {".extxyz": "extxyz", ".xyz": "extxyz", ".db": "ase.db", ".parquet": "parquet"}


def export(store: Store, path: Path | str, format: str | None = None, limit: int | None = None) -> int:
    """Write the minima of a run, lowest first, at most `limit`; returns how many. A file that exists is replaced.

    `format` is "extxyz", "ase.db", "parquet" or a name of ASE's, by default from the ending. Energies come back as
    ASE's `get_potential_energy()` (in the units of the run's potential), the rest under the names of `COLUMNS` and
    `minimum`, the id in the run.
    """
    path = Path(path)
    if format is None:
        format = _ENDINGS.get(path.suffix.lower(), "")
    records = store.minima(limit)
    if not records:
        raise InputError(f"the run in {store.folder} has no minima yet; nothing was written to {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write, such as {path / 'minima.extxyz'}")
    writer = _WRITERS.get(format)
    if writer is not None:
        _replacing(path, lambda part: writer(part, records))
    elif format or path.suffix:
        write_atoms(path, [_atoms(r) for r in records], format or None)
    else:
        raise InputError(f"{path} does not say which format to write.{suggest('', _WRITERS)}")
    return len(records)


def _atoms(record: Record):
    """`ase.Atoms` with the energy as its calculator's result, `FixAtoms` where atoms are fixed, and the rest in `info`."""
    import ase
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    info = {"minimum": record.id, **{name: getattr(record, name) for name in COLUMNS}}
    atoms = ase.Atoms(numbers=record.numbers, positions=record.positions, cell=record.cell, pbc=record.pbc, info=info)
    if record.fixed is not None:
        atoms.set_constraint(FixAtoms(mask=record.fixed))
    atoms.calc = SinglePointCalculator(atoms, energy=record.energy)
    return atoms


def _write_extxyz(path: Path, records: list[Record]) -> None:
    import ase.io

    ase.io.write(path, [_atoms(r) for r in records], format="extxyz")


def _write_database(path: Path, records: list[Record]) -> None:
    import ase.db

    with ase.db.connect(path, type="db") as database:  # pyright: ignore[reportGeneralTypeIssues]
        for record in records:
            atoms = _atoms(record)
            row = dict(atoms.info)
            atoms.info.clear()
            database.write(atoms, key_value_pairs=row)


def _write_parquet(path: Path, records: list[Record]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError('parquet files need pyarrow; install it with `pip install "thalweg[parquet]"`') from None
    columns: dict = {"minimum": [r.id for r in records], "energy": [r.energy for r in records]}
    columns |= {name: [getattr(r, name) for r in records] for name in COLUMNS}
    vectors = pa.list_(pa.list_(pa.float64(), 3))
    columns["numbers"] = pa.array([r.numbers.tolist() for r in records], pa.list_(pa.int32()))
    columns["positions"] = pa.array([r.positions.tolist() for r in records], vectors)
    columns["cell"] = pa.array([r.cell.tolist() for r in records], vectors)
    columns["pbc"] = pa.array([list(r.pbc) for r in records], pa.list_(pa.bool_(), 3))
    free = lambda r: np.zeros(len(r.numbers), bool) if r.fixed is None else r.fixed
    columns["fixed"] = pa.array([free(r).tolist() for r in records], pa.list_(pa.bool_()))
    pq.write_table(pa.table(columns), path)


_WRITERS: dict[str, Callable[[Path, list[Record]], None]] = {
    "extxyz": _write_extxyz,
    "ase.db": _write_database,
    "parquet": _write_parquet,
}


def _replacing(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, and put it in its place once it is complete."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    finally:
        for leftover in (part, part.with_name(part.name + ".lock")):  # ase.db locks by a file of its own
            leftover.unlink(missing_ok=True)
