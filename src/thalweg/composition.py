"""What [system] means: composition, cell and boundaries, from a formula or a structure file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thalweg.errors import InputError, StructureError
from thalweg.formula import density_of, parse_formula
from thalweg.io import read_structures
from thalweg.space import completed
from thalweg.structure import Structure

KEYS = ("formula", "structure", "cell", "pbc", "density", "seeds")
_CELL = "one number (a cube's edge), 3 (edges), 6 (edges and angles in degrees) or 9 (the cell vectors)"
_PBC = 'the periodic axes, such as "xyz" or "xy", or "none"'


@dataclass(frozen=True)
class Composition:
    """What is searched, apart from its energy: `numbers` (atoms,) ascending, and known structures to start from.

    `named` is the potential that the formula's prefix names, `cell` (3, 3) is zero for free clusters.
    """

    name: str
    numbers: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, bool, bool]
    named: str | None = None
    seeds: tuple[Structure, ...] = ()

    @property
    def periodic(self) -> bool:
        """True with at least one periodic axis."""
        return any(self.pbc)

    @property
    def table(self) -> dict:
        """The [system] that means the same without the file."""
        table: dict = {"formula": self.name}
        if self.periodic:
            table["cell"] = short_cell(self.cell)
        if self.periodic or density_of(self.name):
            table["pbc"] = axes_of(self.pbc)
        return table


def composition(table: Mapping) -> Composition:
    """What a [system] table means; its keys are among `KEYS`."""
    if ("formula" in table) == ("structure" in table):
        missing = 'no formula; write formula = "LJ38" or structure = "file.xyz"'
        raise InputError(f"[system] has {'both a formula and a structure; give one' if table else missing}")
    key = "formula" if "formula" in table else "structure"
    value = table[key]
    if not isinstance(value, str):
        raise InputError(f'{key} in [system] is {value}; it must be a text, such as "LJ38"')
    if key == "formula":
        name, numbers, named = parse_formula(value)
        cell, pbc = boundaries(table, len(numbers), density_of(name))
        return Composition(name, numbers, cell, pbc, named, _seeds(table))
    structure = placed(read_structures(value)[-1], table, value)
    if np.asarray(structure.fixed).any():
        raise InputError(f"{value} has fixed atoms, and a search moves all atoms; `thalweg relax` keeps them where they are")
    numbers = np.asarray(structure.numbers)
    cell = np.asarray(structure.cell) if any(structure.pbc) else np.zeros((3, 3))
    seeds = (structure, *_seeds(table))
    return Composition(formula_of(numbers), np.sort(numbers), cell, structure.pbc, None, seeds)


def _seeds(table: Mapping) -> tuple[Structure, ...]:
    """The structures in the file that `seeds` names."""
    name = table.get("seeds")
    if name is None:
        return ()
    if not isinstance(name, str):
        raise InputError(f'seeds in [system] is {name}; it must be the name of a file, such as "guess.xyz"')
    return tuple(read_structures(name))


def placed(structure: Structure, table: Mapping, name: str) -> Structure:
    """A structure of a file in the cell of `table` (cell, pbc, density), where the file itself has none."""
    given = {key: table[key] for key in ("cell", "pbc", "density") if table.get(key) is not None}
    if not given:
        return structure
    own = np.asarray(structure.cell)
    if own.any() and ("cell" in given or "density" in given):
        what = "cell" if "cell" in given else "density"
        raise InputError(f"{name} brings a cell of its own; leave out the {what}, or edit the file")
    if own.any():
        cell, pbc = own, axes(given["pbc"])
        cell = completed(cell, pbc) if any(pbc) else cell
    else:
        cell, pbc = boundaries(given, structure.n_slots)
    return Structure.create(structure.positions, structure.numbers, cell, structure.fixed, pbc)


def boundaries(table: Mapping, n_atoms: int, density: float | None = None) -> tuple[np.ndarray, tuple[bool, bool, bool]]:
    """Cell (3, 3), zero without periodic axes, and periodic axes of `cell`, `pbc` and `density` in a table.

    `density` is what a model system has where the table says nothing.
    """
    given = {key: table[key] for key in ("cell", "pbc", "density") if table.get(key) is not None}
    pbc = axes(given["pbc"]) if "pbc" in given else None
    if "cell" in given and "density" in given:
        raise InputError("a cell and a density are given; one of them says how large the cell is")
    if pbc is not None and not any(pbc):
        if len(given) > 1:
            raise InputError('pbc is "none", and a system without periodic axes has no cell or density; give one or the other')
        return np.zeros((3, 3)), pbc
    if "cell" in given:
        cell = cell_of(given["cell"])
    else:
        number = given.get("density", density)
        if number is None:
            if pbc is None:
                return np.zeros((3, 3)), (False, False, False)
            raise InputError("a periodic system needs a cell; give a cell or a density (atoms per volume)")
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < np.inf:
            raise InputError(f"the density is {number}; it must be a positive number (atoms per volume)")
        cell = np.eye(3) * (n_atoms / number) ** (1 / 3)
    pbc = pbc or (True, True, True)
    return completed(cell, pbc), pbc


def cell_of(value) -> np.ndarray:
    """Cell vectors (3, 3) of what an input or an option says: `_CELL`."""
    if isinstance(value, str):
        try:
            value = [float(v) for v in re.split(r"[,;\s]+", value.strip().strip("[]"))]
        except ValueError:
            raise InputError(f'the cell is "{value}"; give {_CELL}') from None
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        raise InputError(f"the cell is {value}; give {_CELL}") from None
    if isinstance(value, bool) or len(numbers) not in (1, 3, 6, 9):
        raise InputError(f"the cell has {len(numbers)} numbers; give {_CELL}")
    if not np.isfinite(numbers).all():
        raise StructureError("the cell is not finite; give numbers")
    if len(numbers) == 9:
        return numbers.reshape(3, 3)
    lengths = np.repeat(numbers, 3) if len(numbers) == 1 else numbers[:3]
    if not (lengths > 0).all():
        raise StructureError(f"the cell has an edge of {lengths.min():g}; edges must be positive")
    if len(numbers) < 6:
        return np.diag(lengths)
    from ase.geometry import cellpar_to_cell

    try:
        possible = ((numbers[3:] > 0) & (numbers[3:] < 180)).all()
        cell = cellpar_to_cell(numbers) if possible else np.zeros((3, 3))
    except AssertionError:  # what ASE has for angles that do not close
        cell = np.zeros((3, 3))
    if not np.isfinite(cell).all() or not cell[2].any():
        raise StructureError(f"no cell has the angles {', '.join(f'{a:g}' for a in numbers[3:])} (degrees)")
    return cell


def short_cell(cell: np.ndarray) -> list:
    """The shortest way to write a cell that `cell_of` reads back exactly: three edges, or three vectors."""
    cell = np.asarray(cell, np.float64)
    return np.diag(cell).tolist() if (cell == np.diag(np.diag(cell))).all() else cell.tolist()


def axes(value) -> tuple[bool, bool, bool]:
    """Periodic axes of "xyz", "xy", "none", true, false or three of these."""
    if isinstance(value, bool):
        return value, value, value
    if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(v, bool) for v in value):
        return value[0], value[1], value[2]
    text = value.strip().lower() if isinstance(value, str) else None
    if text in ("none", "false", ""):
        return (False, False, False)
    if text == "true":
        return (True, True, True)
    if text is None or not set(text) <= set("xyz") or len(set(text)) < len(text):
        raise InputError(f"pbc is {value}; it names {_PBC}")
    return "x" in text, "y" in text, "z" in text


def axes_of(pbc) -> str:
    """The inverse of `axes`."""
    return "".join(k for k, p in zip("xyz", pbc, strict=True) if p) or "none"


def formula_of(numbers) -> str:
    """The formula of atomic numbers, metals first as chemists write it; model particles are X."""
    from ase.formula import Formula
    from ase.symbols import Symbols

    numbers = np.asarray(numbers)
    if (numbers == 0).all():
        return f"X{len(numbers)}"
    return Formula(str(Symbols(numbers))).format("metal")
