"""What [system] means: composition, cell and boundaries, from a formula or a structure file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thalweg.errors import InputError, StructureError, suggest
from thalweg.formula import density_of, parse_formula
from thalweg.io import read_structures
from thalweg.space import completed
from thalweg.structure import Structure

KEYS = (
    "formula", "structure", "template", "add", "fix", "cell", "pbc", "density", "seeds", "region", "limits", "dimensions",
)  # fmt: skip
_CELL = "one number (a cube's edge), 3 (edges), 6 (edges and angles in degrees) or 9 (the cell vectors)"
_PBC = 'the periodic axes, such as "xyz" or "xy", or "none"'
#: Distances that generators keep, in mean bond lengths of a pair.
LIMITS = (0.75, 1.25)
#: Nearer than this many bond lengths two atoms of a template overlap: no bond is that short.
OVERLAP = 0.6


@dataclass(frozen=True)
class Composition:
    """What is searched, apart from its energy: `numbers` (atoms,), and known structures to start from.

    Atoms of a `template` come first, in its order, the others ascending by number. `named` is the potential that the
    formula's prefix names, `cell` (3, 3) is zero for free clusters, `region` what the input says about it.
    """

    name: str
    numbers: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, bool, bool]
    named: str | None = None
    seeds: tuple[Structure, ...] = ()
    template: Structure | None = None
    region: Mapping | str | None = None
    limits: tuple[float, float] | None = None
    dimensions: int = 3

    @property
    def periodic(self) -> bool:
        """True with at least one periodic axis."""
        return any(self.pbc)

    @property
    def added(self) -> np.ndarray:
        """Numbers of the atoms that are not of the template."""
        return self.numbers if self.template is None else self.numbers[self.template.n_slots :]

    @property
    def table(self) -> dict:
        """The [system] that means the same without the file; its region is `assemble.assembled`'s."""
        table: dict = {"formula": self.name}
        if self.template is not None:
            held = self.template
            table = {
                "template": {
                    "numbers": np.asarray(held.numbers).tolist(),
                    "positions": np.asarray(held.positions).tolist(),
                    "fixed": np.asarray(held.fixed).tolist(),
                },
                "add": formula_of(self.added),
            }
        if self.periodic:
            table["cell"] = short_cell(self.cell)
        if self.periodic or density_of(self.name):
            table["pbc"] = axes_of(self.pbc)
        if self.limits is not None:
            table["limits"] = list(self.limits)
        if self.dimensions != 3:
            table["dimensions"] = self.dimensions
        return table


def composition(table: Mapping) -> Composition:
    """What a [system] table means; its keys are among `KEYS`."""
    given = [key for key in ("formula", "structure", "template") if key in table]
    if len(given) != 1:
        missing = 'no formula; write formula = "LJ38" or structure = "file.xyz"'
        raise InputError(f"[system] has {f'both a {given[0]} and a {given[1]}; give one' if given else missing}")
    key = given[0]
    value = table[key]
    if "add" in table and key != "template":
        raise InputError(f'add in [system] goes with a template, and there is a {key}; write template = "file.xyz"')
    if "fix" in table and key == "formula":
        raise InputError("fix in [system] is about atoms of a file, and there is a formula; leave it out")
    confinement = {"region": table.get("region"), "limits": _limits(table.get("limits")), "dimensions": _dimensions(table)}
    if key == "template":
        return _on_template(value, table, confinement)
    if not isinstance(value, str):
        raise InputError(f'{key} in [system] is {value}; it must be a text, such as "LJ38"')
    if key == "formula":
        name, numbers, named = parse_formula(value)
        cell, pbc = boundaries(table, len(numbers), density_of(name))
        return Composition(name, numbers, cell, pbc, named, _seeds(table), **confinement)
    structure = fixed_by(placed(_read(value), table, value), table.get("fix"), value)
    cell = np.asarray(structure.cell) if any(structure.pbc) else np.zeros((3, 3))
    held = np.asarray(structure.fixed)
    if held.all():
        raise InputError(f"all atoms of {value} are fixed, and nothing is left to search; free some, or use it as a template")
    seeds = (structure, *_seeds(table))
    numbers = np.asarray(structure.numbers)
    template = None
    if held.any():
        template = Structure.create(np.asarray(structure.positions)[held], numbers[held], cell, held[held], structure.pbc)
    numbers = np.concatenate([numbers[held], np.sort(numbers[~held])])
    return Composition(formula_of(numbers), numbers, cell, structure.pbc, None, seeds, template, **confinement)


def _on_template(value, table: Mapping, confinement: dict) -> Composition:
    """A template, from a file or written out, and the atoms of `add`."""
    if isinstance(value, Mapping):
        name, structure = "the template", placed(_written(value), table, "the template")
    elif isinstance(value, str):
        name, structure = value, placed(_read(value), table, value)
    else:
        raise InputError(f'template in [system] is {value}; it must be the name of a file, such as "slab.xyz"')
    structure = fixed_by(structure, table.get("fix"), name)
    add = table.get("add")
    if add is None and not np.asarray(structure.fixed).any():
        raise InputError(
            f'{name} has no fixed atoms and nothing is added to it; write add = "Pt4", or structure instead of template to '
            "search all its atoms"
        )
    if add is None or (isinstance(add, str) and not add.strip()):
        raise InputError(
            f'add in [system] is {"missing" if add is None else "empty"}; it names the atoms to place, such as add = "Pt4"'
        )
    if not isinstance(add, str):
        raise InputError(f'add in [system] is {add}; it must be a formula, such as "Pt4"')
    _, added, named = parse_formula(add)
    numbers = np.concatenate([np.asarray(structure.numbers, np.int32), added])
    cell = np.asarray(structure.cell) if any(structure.pbc) else np.zeros((3, 3))
    name = formula_of(numbers)
    return Composition(name, numbers, cell, structure.pbc, named, _seeds(table), structure, **confinement)


def _read(path: str) -> Structure:
    """The last structure of a file; elements that do not exist are named."""
    try:
        return read_structures(path)[-1]
    except InputError as error:
        symbol = error.__cause__.args[0] if isinstance(error.__cause__, KeyError) and error.__cause__.args else None
        if isinstance(symbol, str) and re.fullmatch("[A-Z][a-z]?", symbol):
            raise InputError(f'there is no element "{symbol}" (in {path}); correct the file') from None
        raise


def _written(table: Mapping) -> Structure:
    """A template that is written out: numbers (atoms,), positions (atoms, 3), fixed (atoms,)."""
    for key in table:
        if key not in ("numbers", "positions", "fixed"):
            raise InputError(f"unknown key {key} in template of [system].{suggest(key, ('numbers', 'positions', 'fixed'))}")
    try:
        numbers, x = np.asarray(table["numbers"], np.int32), np.asarray(table["positions"], np.float64)
        fixed = np.asarray(table.get("fixed", np.zeros(len(numbers), bool)), bool)
        if not len(numbers) or x.shape != (len(numbers), 3) or fixed.shape != numbers.shape:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError("the template in [system] needs numbers, positions (three each) and fixed, all equally long") from None
    from ase.data import chemical_symbols

    for number in numbers:
        if not 0 <= number < len(chemical_symbols):
            raise InputError(f"there is no element with number {number} (in the template); correct it")
    return Structure.create(x, numbers, fixed=fixed)


def fixed_by(structure: Structure, rule, name: str) -> Structure:
    """The structure with those atoms fixed that `fix` says: "file" (its own), "all", "none", below a height, or a list."""
    n = structure.n_slots
    if rule is None or rule == "file":
        return structure
    if rule in ("all", "none") and isinstance(rule, str):
        fixed = np.full(n, rule == "all")
    elif isinstance(rule, int | float) and not isinstance(rule, bool):
        fixed = np.asarray(structure.positions)[:, 2] < rule
        if not fixed.any():
            lowest = float(np.asarray(structure.positions)[:, 2].min())
            raise InputError(f"fix in [system] is {rule:g}, and no atom of {name} is lower: its lowest is at z = {lowest:.4g}")
    elif isinstance(rule, list | tuple) and rule and all(isinstance(k, int) and not isinstance(k, bool) for k in rule):
        wrong = [k for k in rule if not 0 <= k < n]
        if wrong:
            raise InputError(f"fix in [system] names atom {wrong[0]}, and {name} has atoms 0 to {n - 1}")
        fixed = np.isin(np.arange(n), rule)
    else:
        raise InputError(
            f'fix in [system] is {rule}; it is "file", "all", "none", a height below which atoms are fixed, or a list of atoms'
        )
    return Structure.create(structure.positions, structure.numbers, structure.cell, fixed, structure.pbc)


def refuse_overlap(template: Structure, bonds, name: str = "the template") -> None:
    """Raise `StructureError` where two atoms of a template are nearer than `OVERLAP` of their mean bond length."""
    from ase.geometry import get_distances

    x, bonds = np.asarray(template.positions), np.asarray(bonds)[: template.n_slots]
    periodic = any(template.pbc)
    cell = completed(np.asarray(template.cell), template.pbc) if periodic else None
    _, d = get_distances(x, cell=cell, pbc=template.pbc if periodic else None)
    ratio = np.where(np.eye(len(x), dtype=bool), np.inf, d / ((bonds[:, None] + bonds) / 2))
    if len(x) > 1 and ratio.min() < OVERLAP:
        i, j = sorted(np.unravel_index(ratio.argmin(), ratio.shape))
        raise StructureError(
            f"{name} overlaps itself: atoms {i} and {j} are {d[i, j]:.3g} apart, {ratio[i, j]:.2g} of a bond length; move or "
            "remove one of them"
        )


def _limits(value) -> tuple[float, float] | None:
    """Limits of distances: two numbers around 1."""
    if value is None:
        return None
    numbers = isinstance(value, list | tuple) and len(value) == 2
    if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) for v in value):
        raise InputError(f"limits in [system] are {value}; give two numbers, such as [0.75, 1.25]")
    low, high = float(value[0]), float(value[1])
    if low > high:
        raise InputError(f"limits in [system] are reversed: {low:g} is above {high:g}; write [{high:g}, {low:g}]")
    if not 0 < low < 1 < high:
        raise InputError(
            f"limits in [system] are {low:g} and {high:g}; they are shares of a bond length and enclose 1, such as [0.75, 1.25]"
        )
    return low, high


def _dimensions(table: Mapping) -> int:
    value = table.get("dimensions", 3)
    if isinstance(value, bool) or value not in (2, 3):
        raise InputError(f"dimensions in [system] is {value}; it is 3, or 2 for flat structures")
    kind = table.get("region")
    kind = kind.get("kind") if isinstance(kind, Mapping) else kind
    if kind == "plane":
        if table.get("dimensions", 2) == 3:
            raise InputError("dimensions in [system] is 3 and the region is a plane; leave one of them out")
        return 2
    if value == 2 and kind is not None:
        raise InputError(f'dimensions in [system] is 2, and the region is a {kind}; write region = "plane", or leave it out')
    return int(value)


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
