"""Reading and writing structures in any format that ASE knows, and saying plainly what is wrong with a bad one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thalweg.errors import InputError, StructureError, suggest
from thalweg.structure import Structure, from_ase, to_ase

#: Nearer than this (Å, or reduced units) two atoms count as coincident: no bond is that short.
MINIMUM_DISTANCE = 0.1


def read_structure(path: Path | str, format: str | None = None, minimum_distance: float = MINIMUM_DISTANCE) -> Structure:
    """The structure in a file, the last one where it holds several; checked by `validate`."""
    return read_structures(path, format, minimum_distance)[-1]


def read_structures(path: Path | str, format: str | None = None, minimum_distance: float = MINIMUM_DISTANCE) -> list[Structure]:
    """All structures in a file, in order; the format is recognised by name and content unless given (ASE's names).

    Raises `InputError` where the file cannot be read and `StructureError` where a structure in it cannot be used, as one
    with atoms nearer than `minimum_distance` (0: any may coincide).
    """
    import ase.io
    from ase.io.formats import UnknownFileTypeError, ioformats

    path = Path(path)
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(path.name, near) if near else ""
        mend = f".{hint}" if hint.startswith(" Did") else "; name one that is there, or a formula, such as LJ38"
        raise InputError(f"there is no file {path}{mend}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the structure file in it")
    if format is not None and format not in ioformats:
        raise InputError(f'no file format is called "{format}".{suggest(format, ioformats)[:200]}')
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; give a file that holds a structure")
        frames = ase.io.read(path, index=":", format=format)
    except UnknownFileTypeError:
        raise InputError(f"the format of {path} is not recognised; use a known ending such as .xyz, .cif or .vasp") from None
    except InputError:
        raise
    except Exception as error:  # each of ASE's hundred readers fails in its own way; all of them mean the same here
        raise InputError(
            f"{path} cannot be read ({_first_line(error)}); is it complete, and of the format its name says?"
        ) from error
    frames = frames if isinstance(frames, list) else [frames]
    if not frames:
        raise InputError(f"{path} holds no structure")
    structures = [from_ase(atoms) for atoms in frames]
    for k, structure in enumerate(structures):
        validate(structure, minimum_distance, str(path) if len(structures) == 1 else f"{path}, structure {k}")
    return structures


def write_structure(
    path: Path | str,
    structures: Structure | Sequence[Structure],
    energies: Sequence[float] | float | None = None,
    info: Sequence[dict] | None = None,
    format: str | None = None,
    stresses: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Write one structure, a batch or a list, in the format of the file's ending unless given.

    `energies` (one per structure) come back from `ase.io.read` as `get_potential_energy()`, `stresses` (3, 3) as
    `get_stress()`; `info` goes to the comment line where the format has one. A file that exists is replaced only once the
    new one is complete.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    if isinstance(structures, Structure):
        frames = [structures[k] for k in range(len(structures))] if structures.batch else [structures]
    else:
        frames = list(structures)
    if not frames:
        raise InputError(f"there is no structure to write to {path}")
    atoms = [to_ase(s, **(info[k] if info is not None else {})) for k, s in enumerate(frames)]
    if energies is not None:
        for k, (a, energy) in enumerate(zip(atoms, np.atleast_1d(energies), strict=True)):
            stress = None if stresses is None else stresses[k]
            voigt = {} if stress is None else {"stress": np.asarray(stress)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]}
            a.calc = SinglePointCalculator(a, energy=float(energy), **voigt)
    write_atoms(path, atoms, format)


def write_atoms(path: Path | str, atoms: list, format: str | None = None) -> None:
    """Write `ase.Atoms` to a file, replacing one that exists once the new one is complete."""
    import ase.io
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    path = Path(path)
    try:
        format = format or filetype(str(path), read=False)
    except UnknownFileTypeError:
        format = path.suffix[1:] or "nothing"
    if format not in ioformats or not ioformats[format].can_write:
        writable = [name for name in ioformats if ioformats[name].can_write]
        raise InputError(f'cannot write {path}: no format called "{format}" can be written.{suggest(format, writable)[:200]}')
    if len(atoms) > 1 and ioformats[format].single:
        raise InputError(f"cannot write {len(atoms)} structures to {path}: {format} holds one; use .extxyz")
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        ase.io.write(part, atoms if len(atoms) > 1 else atoms[0], format=format)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    except Exception as error:
        raise InputError(f"cannot write {path} as {format} ({_first_line(error)}); use .extxyz") from error
    finally:
        part.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    """What an exception says, without its further lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def validate(structure: Structure, minimum_distance: float = MINIMUM_DISTANCE, name: str = "the structure") -> None:
    """Raise `StructureError` unless every structure has atoms, finite positions and no two atoms in one place.

    Atoms are counted from 0, as ASE does. Two atoms nearer than `minimum_distance`, periodic images included, have no
    meaningful energy.
    """
    if structure.batch:
        for k in range(len(structure)):
            validate(structure[k], minimum_distance, f"{name}, structure {k}")
        return
    real = np.asarray(structure.mask)
    positions, cell = np.asarray(structure.positions, np.float64)[real], np.asarray(structure.cell, np.float64)
    if len(positions) == 0:
        raise StructureError(f"{name} has no atoms; give at least one")
    bad = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(bad):
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise StructureError(f"{name} has a position that is not a number: atom {bad[0]}{others}; correct the file")
    if not np.isfinite(cell).all():
        raise StructureError(f"{name} has a cell that is not finite; correct the file")
    if any(structure.pbc) and abs(np.linalg.det(_completed(cell))) < 1e-9:
        raise StructureError(f"{name} is periodic but its cell has no volume; give a cell, or pbc = false")
    pair = _nearest_pair(positions, cell, structure.pbc, minimum_distance) if minimum_distance > 0 else None
    if pair is not None:
        i, j, distance = pair
        what = f"atoms {i} and {j} are" if i != j else f"atom {i} and its periodic image are"
        raise StructureError(
            f"{name}: {what} {distance:.3g} apart, nearer than {minimum_distance:g}; remove or move one of them"
        )


def _completed(cell: np.ndarray) -> np.ndarray:
    """The cell with unit vectors for those that are missing (a slab may have no third vector)."""
    from ase.geometry import complete_cell

    return complete_cell(cell)


def _nearest_pair(positions, cell, pbc, cutoff: float) -> tuple[int, int, float] | None:
    """The nearest two atoms (i <= j) and their distance, if below `cutoff`."""
    if any(pbc):
        from ase.neighborlist import primitive_neighbor_list

        i, j, d = primitive_neighbor_list("ijd", pbc, _completed(cell), positions, cutoff)
    else:
        from scipy.spatial import KDTree

        pairs = KDTree(positions).query_pairs(cutoff, output_type="ndarray")
        i, j = pairs.T
        d = np.linalg.norm(positions[i] - positions[j], axis=1)
    if len(d) == 0:
        return None
    k = int(np.argmin(d))
    return int(min(i[k], j[k])), int(max(i[k], j[k])), float(d[k])
