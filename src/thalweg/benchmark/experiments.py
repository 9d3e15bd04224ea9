"""Published experiments that can be run again: tables of systems and methods, whose cells are kept as soon as they are done.

A new experiment is one entry of `EXPERIMENTS` and a module with an `Experiment`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from thalweg.benchmark.processes import results
from thalweg.display import table
from thalweg.errors import InputError, RunFolderError, suggest

#: Where experiments are defined, by the name that the command line knows.
EXPERIMENTS = {
    "action-functional": "thalweg.benchmark.action_functional:EXPERIMENT",
    "asla": "thalweg.benchmark.asla:EXPERIMENT",
    "builder": "thalweg.benchmark.builder:EXPERIMENT",
    "deep-surrogates": "thalweg.benchmark.deep_surrogates:EXPERIMENT",
    "learn2hop": "thalweg.benchmark.learn2hop:EXPERIMENT",
    "stridernet": "thalweg.benchmark.stridernet:EXPERIMENT",
}
#: Version of what a results file holds.
SCHEMA = 1
#: What makes two cells the same; a cell of the same whose weights are others is run again and replaced.
IDENTITY = ("table", "system", "method", "count", "evaluations", "seed", "horizon")


class Skipped(Exception):
    """A cell that cannot be run here, with the reason."""


@dataclass(frozen=True)
class Options:
    """What a user may change; None leaves what a table has for each of its systems. `weights` are by method."""

    count: int | None = None
    evaluations: int | None = None
    horizon: int | None = None
    seed: int = 0
    weights: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    full: bool = False


@dataclass(frozen=True)
class Section:
    """What is printed of one system: a table, and sentences below it."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For a terminal."""
        left = (0, *[k for k, name in enumerate(self.head) if name in ("settings", "from")])
        return "\n".join([self.title, table(self.head, self.lines, left), *self.notes, ""])

    @property
    def markdown(self) -> str:
        """For a page."""
        row = lambda cells: "| " + " | ".join(cell.strip() or " " for cell in cells) + " |"
        rule = "|" + "---|" * len(self.head)
        return "\n".join(
            [f"### {self.title}", "", row(self.head), rule, *map(row, self.lines), "", *[f"- {n}" for n in self.notes], ""]
        )


@dataclass(frozen=True)
class Table:
    """One table: `settings` says what a cell will be run with (or raises `Skipped`), `measure` runs it, `sections` are what is
    printed of rows.

    Settings are a dict with the keys of `IDENTITY` and whatever else tells cells apart; rows are settings and results.
    `expand` gives the systems that a name stands for, `accepts` says whether a system that is not listed may be asked for.
    `expensive` says what the table costs, for one that is run only when asked for. `parts` are the settings of the rows that
    a cell is kept in, one after the other, where one may take hours: restarts, say.
    """

    name: str
    what: str
    systems: tuple[str, ...]
    methods: tuple[str, ...]
    settings: Callable[[str, str, Options], dict]
    measure: Callable[[dict, Callable[[str], None]], dict]
    sections: Callable[[Sequence[Mapping]], list[Section]]
    quick: tuple[str, ...] = ()
    accepts: Callable[[str], bool] = lambda name: False
    expensive: str = ""
    expand: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    parts: Callable[[dict], Sequence[dict]] = lambda settings: (settings,)


@dataclass(frozen=True)
class Experiment:
    """A publication and its tables; `figures` draws into a folder and returns the files."""

    name: str
    source: str
    tables: tuple[Table, ...]
    figures: Callable[[Path, Sequence[Mapping], Options, Callable[[str], None]], list[Path]] | None = None

    def table(self, name: str) -> Table:
        """A table by name."""
        for one in self.tables:
            if one.name == name:
                return one
        raise InputError(f'{self.name} has no table "{name}".{suggest(name, [t.name for t in self.tables])}')


def experiment(name: str) -> Experiment:
    """An experiment by name. Raises `InputError` where there is none."""
    if name not in EXPERIMENTS:
        raise InputError(f'there is no experiment "{name}".{suggest(name, EXPERIMENTS)}')
    module, attribute = EXPERIMENTS[name].split(":")
    return getattr(import_module(module), attribute)


def chosen(of: Table, systems: Sequence[str] | None, methods: Sequence[str] | None, quick: bool = False):
    """(systems, methods) of a table that a user asked for. Raises `InputError` for names that it does not have."""
    for name in systems or ():
        if name not in of.systems and not of.accepts(name):
            raise InputError(f'the table {of.name} has no system "{name}".{suggest(name, of.systems)}')
    for name in methods or ():
        if name not in of.methods:
            raise InputError(f'the table {of.name} has no method "{name}".{suggest(name, of.methods)}')
    usual = of.quick if quick else of.systems
    return tuple(one for name in systems or usual for one in of.expand(name)), tuple(methods or of.methods)


class Cells:
    """The cells of a results file, one row each; every new one is written at once, whole, so that a kill loses only one."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.rows = self._read()

    def done(self, settings: Mapping) -> dict | None:
        """The row of a cell that was run with these settings, or None."""
        return next((row for row in self.rows if all(row.get(k) == v for k, v in settings.items())), None)

    def add(self, row: Mapping) -> None:
        """Keep a row, in place of an older one of the same cell."""
        same = lambda other: all(other.get(k) == row.get(k) for k in IDENTITY)
        # Another process may have written since: its cells stay.
        self.rows = [other for other in self._read() if not same(other)] + [dict(row)]
        lines = ",\n  ".join(json.dumps(r, allow_nan=False) for r in self.rows)
        fresh = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(
                f'{{"thalweg-reproduction": {SCHEMA}, "experiment": "{self.name}", "cells": [\n  {lines}\n]}}\n',
                encoding="utf-8",
            )
            fresh.replace(self.path)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _read(self) -> list[dict]:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except ValueError:
            held = None
        if not isinstance(held, dict) or held.get("thalweg-reproduction") != SCHEMA or held.get("experiment") != self.name:
            raise InputError(f"{self.path} holds no results of {self.name}; name another file by --json")
        return held["cells"]


def run_table(
    of: Table,
    systems: Sequence[str],
    methods: Sequence[str],
    options: Options,
    cells: Cells,
    note: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    workers: int = 1,
) -> list[dict]:
    """The rows of a table: those that are kept already, and the others, run now one after the other or by so many processes.

    `note` hears of cells that are skipped and what is being done; `stopped` is asked between cells.
    """
    parts = list(_parts(of, systems, methods, options, note))
    left = [part for part in parts if cells.done(part) is None]
    if workers > 1:
        mend = f"cells that are done are in {cells.path}: the same command goes on, with fewer --workers if need be"
        jobs = [(cells.name, of.name, part) for part in left]
        for row, said in results(_elsewhere, jobs, workers, mend, stopped):
            note("\n".join(said))
            cells.add(row)
    else:
        for part in left:
            if stopped():
                break
            note(_named(part))
            cells.add({**part, **of.measure(part, note)})
    return [row for part in parts if (row := cells.done(part)) is not None]


def _parts(of: Table, systems: Sequence[str], methods: Sequence[str], options: Options, note: Callable) -> Iterator[dict]:
    """The settings of every row of a table."""
    for system in systems:
        for method in methods:
            try:
                settings = {"table": of.name, "system": system, "method": method, **of.settings(system, method, options)}
            except Skipped as reason:
                note(f"skipped {of.name} {system} {method}: {reason}")
                continue
            yield from of.parts(settings)


def _elsewhere(name: str, table: str, part: dict) -> tuple[dict, list[str]]:
    """A row, and what is to be said of it, in a process of its own."""
    said = [_named(part)]
    return {**part, **experiment(name).table(table).measure(part, said.append)}, said


def _named(part: Mapping) -> str:
    return f"{part['table']} {part['system']} {part['method']} seed {part['seed']} ..."


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bounds."""

    value: float
    low: float
    high: float


def verdict(system: str, name: str, own: Estimate, baselines: Mapping[str, Estimate], larger: bool, of: str = "") -> str:
    """Whether a method is better or worse than the best of the baselines, or not distinguishable from it, in one line.

    `larger` says that larger is better. Bounds that overlap decide nothing.
    """
    where = f"{system}{f', {of}' if of else ''}"
    if not baselines:
        return f"{where}: {name} has nothing to be compared with"
    sign = 1 if larger else -1
    best = max(baselines, key=lambda k: sign * baselines[k].value)
    other = baselines[best]
    low, high = (own.low, own.high) if larger else (-own.high, -own.low)
    below, above = (other.low, other.high) if larger else (-other.high, -other.low)
    said = "better than" if low > above else "worse than" if high < below else "not distinguishable from"
    return f"{where}: {name} is {said} the best baseline, {best}"


def digest(path: Path) -> str:
    """A short name of what a file holds, so that other weights of the same name are other cells."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def listed(values) -> list:
    """Numbers for JSON: None for what is not finite."""
    return [float(f"{v:.10g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


def numbers(values) -> np.ndarray:
    """Numbers of a row again: infinite where there is None."""
    return np.array([np.inf if v is None else v for v in values], float)


def mean_of(row: Mapping) -> Estimate:
    """Mean lowest energy of the starts of a row with bounds of 1.96 standard errors; those without an energy are left out."""
    energies = numbers(row["energies"])
    energies = energies[np.isfinite(energies)]
    error = float(energies.std(ddof=1) / np.sqrt(len(energies))) if len(energies) > 1 else np.inf
    mean = float(energies.mean()) if len(energies) else np.inf
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error)
