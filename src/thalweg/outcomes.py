"""Entries of the store as what a search and the ledger are told, and the groups of rows in which that is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.journal import Entry, packed
from thalweg.objective.base import Evaluated
from thalweg.search.base import Outcome, Points
from thalweg.search.fused import Finished
from thalweg.structure import Structure
from thalweg.system import System

#: Rows that are asked or told together: groups are filled up to one of these, so that few programs are compiled.
GROUPS = (1, 8, 64, 512)


def structure_of(entry: Entry, system: System) -> Structure:
    """What an entry asks for."""
    return Structure.create(entry.positions, system.numbers, entry.cell, system.fixed, system.pbc)


def evaluated(entry: Entry, found: Evaluated) -> Entry:
    """The entry with what became of it."""
    return replace(
        entry,
        status=int(found.status),
        energy=float(found.energy),
        error=found.error,
        evaluations=int(found.evaluations),
        seconds=float(found.seconds),
        points=packed(found.positions, found.cells, found.energies, found.forces) if len(found.energies) else None,
    )


def outcome_of(entries: list[Entry], origins: tuple[str, ...], system: System, points: bool) -> Outcome:
    """Rows for the search: the last point of each, or what was asked for where nothing was evaluated.

    With `points` all points are there as well.
    """
    ends = [(e.point_positions[-1], e.point_cells[-1]) if e.points is not None else (e.positions, e.cell) for e in entries]
    positions, cells = np.stack([p for p, _ in ends]), np.stack([c for _, c in ends])
    every = None
    if points:
        names = ("positions", "cells", "energies", "forces")
        every = Points(*(np.concatenate([getattr(e, f"point_{k}") for e in entries]) for k in names))
    return Outcome(
        Structure.create(_wrapped(positions, cells, system), system.numbers, cells, system.fixed, system.pbc),
        np.array([np.inf if e.energy is None else e.energy for e in entries]),
        np.array([e.evaluations for e in entries], np.int32),
        np.array([e.status for e in entries], np.int32),
        np.array([origins.index(e.origin) for e in entries], np.int32),
        np.ones(len(entries), bool),
        every,
        None if entries[0].notes is None else np.stack([np.asarray(e.notes) for e in entries]),
    )


def finished(entries: list[Entry], outcome: Outcome, walkers: np.ndarray, system: System) -> Finished:
    """The same rows for the ledger; `walkers` are the indices of those that asked."""
    row = lambda a: np.asarray(a)[None]
    o = outcome
    cells = None if (o.structures.cell == np.asarray(system.cell)).all() else row(o.structures.cell)
    return Finished(
        row(o.structures.positions), row(o.energy), row(o.steps), row(o.status), row(o.origin),
        row(walkers), row([e.run for e in entries]), row(o.valid), cells,
    )  # fmt: skip


def arrays(proposals: Any, count: int):
    """Structures, origins, velocities and notes of the first `count` proposals, in NumPy."""
    given = proposals.structures, proposals.origin, proposals.velocities, proposals.notes
    return jax.tree.map(lambda a: np.asarray(a)[:count], given)


def parts(rows, size: int) -> list:
    """The rows in order, `size` at a time."""
    return [rows[k : k + size] for k in range(0, len(rows), size)]


def filled(rows: np.ndarray) -> np.ndarray:
    """The rows, filled up with the first to the next size of `GROUPS`."""
    size = next(g for g in GROUPS if g >= len(rows))
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])


def padded(outcome: Outcome, size: int) -> Outcome:
    """The outcome with rows that hold nothing up to `size`."""
    extra = size - len(outcome.energy)
    grow = lambda a: np.concatenate([a, np.repeat(np.asarray(a)[:1], extra, 0)])
    padded = jax.tree.map(grow, outcome)
    return eqx.tree_at(lambda o: o.valid, padded, np.arange(size) < len(outcome.energy))


def put(old, new, rows: np.ndarray):
    """Rows of a pytree replaced by the first rows of another."""

    def one(a, b):
        a = np.array(a)
        a[rows] = np.asarray(b)[: len(rows)]
        return a

    return jax.tree.map(one, old, new)


def _wrapped(positions: np.ndarray, cells: np.ndarray, system: System) -> np.ndarray:
    """Free atoms brought back into the cell along periodic axes."""
    if not any(system.pbc):
        return positions
    from ase.geometry import complete_cell

    inverse = np.linalg.inv(np.stack([complete_cell(c) for c in cells]))
    fractions = positions @ inverse
    shift = np.where(np.asarray(system.pbc), np.floor(fractions), 0.0)
    shift[:, np.asarray(system.fixed)] = 0.0
    return np.where(shift.any(-1, keepdims=True), positions - shift @ np.linalg.inv(inverse), positions)
