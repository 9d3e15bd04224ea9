"""Inputs: TOML tables become the objects of a run, with every default written out.

`resolve` takes tables as a user wrote them and gives a `Resolved`: the objects, and the full tables they were made of.
Resolving those again gives the same, so that the input kept with a run repeats it.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from thalweg import registry, schema
from thalweg.errors import InputError, StructureError, suggest
from thalweg.formula import MODELS, parse_formula
from thalweg.io import read_structures
from thalweg.potentials.base import Potential
from thalweg.presets import cluster_relaxation, cluster_search
from thalweg.relax.driver import Relaxation
from thalweg.run import Settings, Stop, bucket
from thalweg.search.base import Search
from thalweg.structure import Structure
from thalweg.system import System, cluster

SECTIONS = ("system", "potential", "relaxer", "search", "run", "stop")
#: Limits that hold where an input gives no other: a minute, and as sure as is usual. Naming a target replaces the second,
#: counting CPU seconds, evaluations or relaxations the first.
DEFAULT_TIME, DEFAULT_CONFIDENCE = 60.0, 0.95
#: A target counts as reached within this many energy scales: users type energies rounded.
TARGET_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Resolved:
    """Everything that a search needs, and the full `tables` it was made from; `name` is the formula."""

    tables: dict
    name: str
    system: System
    potential: Potential
    relaxation: Relaxation
    search: Search
    settings: Settings
    stop: Stop

    @property
    def units(self) -> tuple[str, str]:
        """Units of energy and length: reduced ones for model particles."""
        return units(self.system.numbers)


def units(numbers) -> tuple[str, str]:
    """('ε', 'σ') where all atoms are model particles, ('eV', 'Å') otherwise."""
    return ("eV", "Å") if (np.asarray(numbers) > 0).any() else ("ε", "σ")


def read_input(path: Path | str) -> dict:
    """The tables of a TOML file. Raises `InputError` where it cannot be read."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; `thalweg init LJ38 -o {path}` writes one") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    tables = parse_toml(text, str(path))
    system = tables.get("system")
    if isinstance(system, dict) and isinstance(system.get("structure"), str):
        system["structure"] = str(path.parent / system["structure"])  # as seen from the input, wherever one stands
    return tables


def parse_toml(text: str, name: str = "the input") -> dict:
    """Tables of a TOML text."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not valid TOML: {error}") from None


def resolve(tables: Mapping) -> Resolved:
    """Build what a search needs from the tables of an input; the tables are not changed."""
    for section, table in tables.items():
        if section not in SECTIONS:
            raise InputError(f"unknown section [{section}].{suggest(section, SECTIONS)}")
        if not isinstance(table, Mapping):
            raise InputError(f"{section} must be a table [{section}], not {table!r}")
    name, numbers, named, seed = _composition(tables.get("system", {}))
    potential_table = _potential_table(tables.get("potential", {}), name, numbers, named)
    potential = schema.build("potential", potential_table)
    system = cluster(numbers, potential)
    defaults = preset_defaults(system, potential, None if seed is None else [seed])
    energy = defaults["BasinHopping"]["energy_scale"]
    relaxer_table = schema.fill("relaxer", {"kind": "lbfgs", **tables.get("relaxer", {})}, "[relaxer]", defaults)
    given = _with_seeds(tables.get("search", {}), len(numbers))
    search_table = schema.fill("search", {"kind": "basin-hopping", **given}, "[search]", defaults)
    run_table = schema.fill_fields(_plain_fields(Settings), tables.get("run", {}), "[run]")
    stop_table, stop = resolve_stop(tables.get("stop", {}), energy)
    return Resolved(
        {
            "system": {"formula": name},
            "potential": potential_table,
            "relaxer": relaxer_table,
            "search": search_table,
            "run": run_table,
            "stop": stop_table,
        },
        name,
        system,
        potential,
        Relaxation(potential, schema.build("relaxer", relaxer_table)),
        schema.build("search", search_table),
        Settings(**run_table),
        stop,
    )


def resolve_stop(table: Mapping, energy_scale: float) -> tuple[dict, Stop]:
    """The limits with their defaults, and the rule made of them."""
    known = _plain_fields(Stop)
    full = schema.fill_fields(known, table, "[stop]")
    counted = any(full[key] is not None for key in ("cpu", "evaluations", "relaxations"))
    if "time" not in table and not counted:
        full["time"] = DEFAULT_TIME
    if "confidence" not in table and full["target"] is None:
        full["confidence"] = DEFAULT_CONFIDENCE
    for name, value in full.items():
        if value is not None and math.isnan(value):
            raise InputError(f'{name} in [stop] is not a number; give one, or "none"')
        if name != "target" and value is not None and value <= 0:
            raise InputError(f'{name} in [stop] is {value:g}; it must be positive, or "none"')
    if full["confidence"] is not None and not full["confidence"] < 1:
        raise InputError(f"confidence in [stop] is {full['confidence']:g}; it must be below 1, such as 0.95")
    if all(value is None for value in full.values()):
        raise InputError("[stop] has no limit left; give a time, evaluations, relaxations, a target or a confidence")
    target = full["target"]
    values = {**full, "target": None if target is None else target + TARGET_TOLERANCE * energy_scale}
    return full, Stop(**values)


def _composition(table: Mapping) -> tuple[str, np.ndarray, str | None, Structure | None]:
    """Formula, atomic numbers, the potential that the formula names, and the structure given instead of one."""
    schema.refuse_unknown(table, ("formula", "structure"), "[system]")
    if ("formula" in table) == ("structure" in table):
        missing = 'no formula; write formula = "LJ38" or structure = "file.xyz"'
        raise InputError(f"[system] has {'both a formula and a structure; give one' if table else missing}")
    (key, value), *_ = table.items()
    if not isinstance(value, str):
        raise InputError(f'{key} in [system] is {value}; it must be a text, such as "LJ38"')
    if key == "formula":
        name, numbers, named = parse_formula(value)
        return name, numbers, named, None
    structure = read_structures(value)[-1]
    if any(structure.pbc):
        raise InputError(f"{value} is periodic; only free clusters can be searched (set pbc to false for a cluster in a box)")
    if np.asarray(structure.fixed).any():
        raise InputError(f"{value} has fixed atoms; only clusters in which all atoms move can be searched")
    return formula_of(structure.numbers), np.sort(np.asarray(structure.numbers)), None, structure


def formula_of(numbers) -> str:
    """The formula of atomic numbers, metals first as chemists write it; model particles are X."""
    from ase.formula import Formula
    from ase.symbols import Symbols

    numbers = np.asarray(numbers)
    if (numbers == 0).all():
        return f"X{len(numbers)}"
    return Formula(str(Symbols(numbers))).format("metal")


def _potential_table(table: Mapping, name: str, numbers: np.ndarray, named: str | None) -> dict:
    """The full [potential], of the kind that the formula names where it names one."""
    kind = table.get("kind", named)
    if kind is None:
        raise InputError(f"{name} needs a potential: {_potentials_for(numbers)}")
    full = schema.fill("potential", {**table, "kind": kind}, "[potential]")
    if named is not None and full["kind"] != named:
        raise InputError(f"{name} means the {named} potential; for {kind} write X{len(numbers)}")
    return full


def _potentials_for(numbers: np.ndarray) -> str:
    """Which of the package's potentials have parameters for these species."""
    fitting = []
    for kind in registry.COMPONENTS["potential"]:
        cls = registry.find("potential", kind)
        if cls.check is Potential.check:
            continue  # one that takes all species has parameters for none
        try:
            cls().check(numbers)
            fitting.append(kind)
        except InputError:
            pass
    if fitting:
        return f"add --potential {' or --potential '.join(fitting)}"
    prefixes = ", ".join(f"{k} ({v})" for k, v in MODELS.items() if v)
    return (
        f"none of the package has parameters for it; add --potential my_file:MyPotential, or --potential lennard-jones, "
        f"or write a model system by its prefix: {prefixes}"
    )


def preset_defaults(system: System, potential: Potential, seeds: list[Structure] | None = None) -> dict[str, dict]:
    """What the shipped searches (`thalweg.presets`) take for this system, by class name: lengths, energies, moves, starts."""
    own = _seed_arrays(seeds) if seeds else {}
    search = cluster_search(system, potential, [np.asarray(s.positions) for s in seeds] if seeds else None)
    relaxer: Any = cluster_relaxation(potential, system).relaxer
    starts = [
        {"kind": g.name, "weight": float(f"{w:.6g}"), **(own if g.name == "seeded" else {})}
        for g, w in zip(search.starts, search.start_weights.tolist(), strict=True)
    ]
    hopping = {key: getattr(search, key) for key in ("temperature", "energy_scale", "patience", "explore")}
    return {
        "LBFGS": {"max_step": float(relaxer.max_step)},
        "BasinHopping": {**hopping, "moves": [g.name for g in search.moves], "starts": starts},
        "RandomSearch": {"starts": starts},
    }


def _with_seeds(table: Mapping, n_atoms: int) -> Mapping:
    """The search table with `file` of seeded starts replaced by the coordinates in it."""
    starts = table.get("starts")
    if not isinstance(starts, list):
        return table
    rows = []
    for row in starts:
        if isinstance(row, Mapping) and row.get("kind") == "seeded" and "file" in row:
            structures = read_structures(str(row["file"]))
            large = max(s.n_slots for s in structures)
            if large > bucket(n_atoms):
                raise StructureError(f"{row['file']} has {large} atoms, too many for a seed of {n_atoms}")
            row = {**{k: v for k, v in row.items() if k != "file"}, **_seed_arrays(structures)}
        rows.append(row)
    return {**table, "starts": rows}


def _seed_arrays(structures: list[Structure]) -> dict:
    """Positions and counts of seeds, atoms in the order of the system's (by atomic number)."""
    most = max(s.n_slots for s in structures)
    padded = np.zeros((len(structures), most, 3))
    for k, s in enumerate(structures):
        order = np.argsort(np.asarray(s.numbers), kind="stable")
        x = np.asarray(s.positions)[order]
        padded[k, : len(x)] = x - x.mean(0)
    return {"positions": padded.tolist(), "counts": [s.n_slots for s in structures]}


def _plain_fields(cls: type) -> dict[str, schema.Field]:
    """The fields of a plain dataclass as a schema."""
    hints = get_type_hints(cls)
    empty = lambda f: schema.MISSING if f.default is NO_DEFAULT else f.default
    return {f.name: schema.Field(f.name, hints[f.name], empty(f)) for f in fields(cls)}


def to_toml(tables: Mapping, comments: Mapping[str, str] | None = None, quiet: frozenset[str] = frozenset()) -> str:
    """The tables as TOML. `comments` are by "section" or "section.key"; keys in `quiet` are written as comments."""
    comments = comments or {}
    lines: list[str] = []
    for section, table in tables.items():
        if section in comments:
            lines += [f"# {line}" for line in comments[section].splitlines()]
        head = "# " if section in quiet else ""
        lines.append(f"{head}[{section}]")
        nested = {}
        for key, value in table.items():
            if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
                nested[key] = value
                continue
            path = f"{section}.{key}"
            hidden = "# " if section in quiet or path in quiet else ""
            note = f"  # {comments[path]}" if path in comments else ""
            lines.append(f"{hidden}{key} = {toml_value(value)}{note}")
        for key, value in nested.items():
            lines += _nested(f"{section}.{key}", value, "# " if section in quiet or f"{section}.{key}" in quiet else "")
        lines.append("")
    return "\n".join(lines)


def _nested(path: str, value, head: str) -> list[str]:
    """A table, or a list of tables, below a section."""
    if isinstance(value, list):
        rows = "".join(f"\n{head}  {toml_value(row)}," for row in value)
        return [f"{head}{path.split('.', 1)[1]} = [{rows}\n{head}]"]
    return [f"{head}{path.split('.', 1)[1]} = {toml_value(value)}"]


def toml_value(value) -> str:
    """A value in TOML's notation; floats come back exactly."""
    if value is None:
        return f'"{schema.NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    return "[" + ", ".join(toml_value(v) for v in value) + "]"
