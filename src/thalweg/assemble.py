"""From what [system] says and a potential to the `System`: its region, what is refused, and known structures in its order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thalweg import schema
from thalweg.composition import LIMITS, Composition, formula_of, refuse_overlap
from thalweg.confinement import distances, refuse_impossible, suited_regions
from thalweg.errors import InputError, StructureError
from thalweg.generators.seeded import given
from thalweg.io import read_structures
from thalweg.potentials.base import Potential
from thalweg.potentials.landscapes import Landscape
from thalweg.region import Box, Region
from thalweg.relax.filters import Filter
from thalweg.run import bucket
from thalweg.space import completed
from thalweg.structure import Structure
from thalweg.system import System, bonds_of, confined

#: A fixed atom of a known structure may be this many bonds away from where the template has it: files are rounded.
SAME_PLACE = 0.1


def assembled(made: Composition, potential: Potential) -> tuple[System, dict]:
    """The system, and the full [system] table that means the same."""
    limits = made.limits or LIMITS
    potential.check(made.numbers)
    bonds = bonds_of(made.numbers, potential)
    if isinstance(potential, Landscape):
        return _of_vectors(made, potential)
    if made.template is not None:
        refuse_overlap(made.template, bonds)
    confined_by = region_of(made, bonds)
    region, table = confined_by if confined_by else (None, None)
    system = confined(made.template, made.added, potential, made.cell, made.pbc, region, limits)
    refuse_impossible(system)
    return system, {**made.table, **({"region": table} if table else {})}


def _of_vectors(made: Composition, potential: Landscape) -> tuple[System, dict]:
    """The system of a function of vectors: a box, in which particles have no size."""
    if made.template is not None or made.dimensions != 3:
        raise InputError(f"{made.name} is a vector here; leave template and dimensions out of [system]")
    low, high = potential.domain
    asked = {"kind": "box"} if made.region is None else made.region
    asked = {"kind": "box", **asked} if isinstance(asked, Mapping) else asked
    suited = {"Box": {"vectors": (np.eye(3) * (high - low)).tolist(), "origin": [low] * 3}}
    table = schema.fill("region", asked, "[system.region]", suited)
    region = schema.build("region", table)
    if not isinstance(region, Box):
        raise InputError(f"the region of a function of vectors is a box, not a {table['kind']}; leave it out for the usual one")
    system = confined(None, made.added, potential, made.cell, made.pbc, region, made.limits or LIMITS)
    return system, {**made.table, "region": table}


def region_of(made: Composition, bonds: np.ndarray) -> tuple[Region, dict] | None:
    """The region of a system and its full table, what the input leaves out suited to the system; None where it needs none."""
    asked = made.region
    if asked is None and made.template is None and made.dimensions == 3:
        return None
    added = bonds[len(made.numbers) - len(made.added) :]
    cell = completed(made.cell, made.pbc) if made.periodic else made.cell
    kind, suited = suited_regions(made.template, added, cell, made.pbc, made.dimensions)
    if isinstance(asked, Mapping) and "kind" not in asked:
        asked = {"kind": kind or "sphere", **asked}
    asked = asked if asked is not None else kind
    if asked is None or asked == "none":
        return None
    table = schema.fill("region", asked, "[system.region]", suited)
    return schema.build("region", table), table


def is_placed(system: System, potential: Potential) -> bool:
    """True where atoms are placed one by one: on a template, in a region, or where energies are too dear for bad starts."""
    return system.template is not None or system.region is not None or not potential.traceable


def seed_table(
    structures: list[Structure], system: System, filter: Filter, name: str = "the structure", one_by_one: bool = False
) -> dict:
    """The table of starts from structures, their atoms in the order of the system's."""
    if any(system.pbc) or system.template is not None or system.region is not None or one_by_one:
        return _given(structures, system, filter.moves_cell, name)
    return _seeded(structures, system, name)


def with_seeds(table: Mapping, system: System, filter: Filter) -> Mapping:
    """The search table with `file` of starts from structures replaced by what is in it."""
    starts = table.get("starts")
    if not isinstance(starts, list):
        return table
    rows = []
    for row in starts:
        if isinstance(row, Mapping) and row.get("kind") in ("seeded", "given") and "file" in row:
            found = seed_table(
                read_structures(str(row["file"])), system, filter, str(row["file"]), one_by_one=row["kind"] == "given"
            )
            row = {**{k: v for k, v in row.items() if k != "file"}, **found}
        rows.append(row)
    return {**table, "starts": rows}


def ordered(structure: Structure, system: System, name: str = "the structure") -> Structure:
    """A structure of the system's composition with its atoms in the system's order: the template's first.

    Which of its atoms are those of the template is told by where they are. Raises `StructureError` where a fixed one is
    missing.
    """
    numbers, x = np.asarray(structure.numbers), np.asarray(structure.positions)
    order = np.argsort(numbers, kind="stable")
    if system.template is not None and system.positions is not None:
        from scipy.optimize import linear_sum_assignment

        held = np.flatnonzero(system.template)
        home, wanted = np.asarray(system.positions)[held], np.asarray(system.numbers)[held]
        gaps = distances(home, x, system)
        rows, columns = linear_sum_assignment(np.where(wanted[:, None] == numbers, gaps, 1e6))
        limit = SAME_PLACE * np.asarray(system.bond_lengths)[held]
        lost = np.asarray(system.fixed)[held][rows] & (gaps[rows, columns] > limit[rows])
        if lost.any():
            k = int(np.flatnonzero(lost)[0])
            raise StructureError(
                f"{name} does not hold the template: nothing is within {limit[k]:.2g} of its fixed atom {rows[k]}; use "
                "structures on this very template"
            )
        rest = np.setdiff1d(order, columns)
        order = np.concatenate([columns, rest[np.argsort(numbers[rest], kind="stable")]])
    return Structure.create(x[order], numbers[order], structure.cell, np.asarray(structure.fixed)[order], structure.pbc)


def _seeded(structures: list[Structure], system: System, name: str) -> dict:
    """Free clusters: of any near size, about their centre."""
    most = max(s.n_slots for s in structures)
    if most > bucket(len(system.numbers)):
        raise StructureError(f"{name} has {most} atoms, too many for a seed of {len(system.numbers)}")
    padded = np.zeros((len(structures), most, 3))
    for k, s in enumerate(structures):
        order = np.argsort(np.asarray(s.numbers), kind="stable")
        x = np.asarray(s.positions)[order]
        padded[k, : len(x)] = x - x.mean(0)
    return {"kind": "seeded", "positions": padded.tolist(), "counts": [s.n_slots for s in structures]}


def _given(structures: list[Structure], system: System, moves_cell: bool, name: str) -> dict:
    """As they are, of the system's own composition and, unless cells move, in its cell."""
    wanted = np.asarray(system.cell)
    what = "a periodic system" if any(system.pbc) else "such a system"
    for k, s in enumerate(structures):
        at = name if len(structures) == 1 else f"{name}, structure {k}"
        if s.n_slots != len(system.numbers) or (np.sort(np.asarray(s.numbers)) != np.sort(np.asarray(system.numbers))).any():
            raise StructureError(f"{at} is {formula_of(s.numbers)}; seeds of {what} have its own composition")
        off = np.abs(np.asarray(s.cell) - wanted).max() > 1e-3 * np.abs(wanted).max()
        if any(s.pbc) and any(system.pbc) and not moves_cell and off:
            raise StructureError(
                f"{at} has another cell than the system; give its cell to the system, or let cells move by --filter frechet"
            )
    if system.template is not None:
        structures = [
            ordered(s, system, name if len(structures) == 1 else f"{name}, structure {k}") for k, s in enumerate(structures)
        ]
    starts = given(structures, system)
    cells = starts.cells if moves_cell else np.broadcast_to(wanted, starts.cells.shape)
    return {"kind": "given", "positions": np.asarray(starts.positions).tolist(), "cells": np.asarray(cells).tolist()}
