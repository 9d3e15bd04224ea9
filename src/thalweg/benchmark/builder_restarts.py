"""Restarts of searches for molecules, from one seed to the end of the budget, every isomer counted as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from thalweg.agents.builder_files import SHIPPED, known_isomers
from thalweg.benchmark.asla_systems import XTB
from thalweg.config import Resolved, resolve
from thalweg.formula import parse_formula
from thalweg.found_isomers import of_formula
from thalweg.host import HostSession
from thalweg.journal import Entry
from thalweg.objective.base import Task
from thalweg.objective.evaluate import Evaluate
from thalweg.relax.base import FAILED
from thalweg.run import open_session
from thalweg.settings import Stop
from thalweg.similarity.isomers import Isomer, chemistry, smiles_of
from thalweg.structure import Structure

#: Evaluations, and CPU seconds, at which a restart says what it has found so far; its own budget is one more.
MARKS = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
CLOCK = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
#: A number of episodes that is never reached.
NEVER = 10**9
#: After the end so many of the lowest structures, each of another constitution, are relaxed: forces (eV/Å), evaluations each.
ENDS, FMAX, LONGEST = 3, 0.05, 500


@dataclass(frozen=True)
class Known:
    """The isomers of one composition that a builder was trained or tested on: energies (eV) by SMILES, and constitutions."""

    energies: Mapping[str, float] = field(default_factory=dict)
    constitutions: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """SMILES with stereochemistry, sorted."""
        return sorted(self.energies)

    @property
    def lowest(self) -> float | None:
        """The lowest energy (eV); None where nothing is known."""
        return min(self.energies.values(), default=None)


@lru_cache(maxsize=64)
def known_of(builder: str | None, formula: str) -> Known:
    """What the builder in a file, or the one that ships, knows of a formula; nothing where none ships."""
    every = known_isomers(builder) if builder or SHIPPED.is_file() else {}
    ours = of_formula(every, atoms_of(formula))
    energies = {stereo: energy for (_, stereo), energy in ours.items() if energy is not None}
    return Known(energies, frozenset(constitution for constitution, _ in ours))


def atoms_of(formula: str) -> tuple[int, ...]:
    """Atomic numbers of a formula, ascending."""
    return tuple(int(z) for z in parse_formula(formula)[1])


@lru_cache(maxsize=100_000)
def closed(smiles: str) -> bool:
    """Whether a molecule has neither charges nor radicals; a nitro group is drawn with charges."""
    molecule = chemistry().MolFromSmiles(smiles)
    return molecule is not None and not any(a.GetFormalCharge() or a.GetNumRadicalElectrons() for a in molecule.GetAtoms())


class Lowest(NamedTuple):
    """The lowest structure of a constitution as it was evaluated: energy (eV), positions (atoms, 3) in Å."""

    energy: float
    positions: np.ndarray


class Tally:
    """Counts of what was evaluated: `spent` evaluations of `proposals`, of which some `failed` and some are `molecules`.

    A molecule is a structure in one part that has a name. `found` has the lowest of each constitution, `isomers` are the names
    with stereochemistry, `lowest` is the lowest energy (eV) of a molecule and `anything` that of any structure.
    """

    def __init__(self, known: Known):
        self.known = known
        self.spent = self.proposals = self.failed = self.molecules = 0
        self.found: dict[str, Lowest] = {}
        self.isomers: set[str] = set()
        self.lowest = self.anything = np.inf

    def add(self, evaluations: int, energy: float = np.inf, name: Isomer | None = None, positions=None) -> None:
        """One proposal more: what it cost, the energy (eV) of its last point (inf: it failed), its name and positions."""
        self.proposals += 1
        self.spent += evaluations
        if not np.isfinite(energy):
            self.failed += 1
            return
        self.anything = min(self.anything, energy)
        if name is None or "." in name.constitution:
            return
        self.molecules += 1
        self.isomers.add(name.stereo)
        self.lowest = min(self.lowest, energy)
        before = self.found.get(name.constitution)
        if before is None or energy < before.energy:
            self.found[name.constitution] = Lowest(energy, np.asarray(positions))

    @property
    def again(self) -> set[str]:
        """Known isomers that were found."""
        return self.isomers & self.known.energies.keys()

    @property
    def novel(self) -> dict[str, float]:
        """Constitutions that are not known, of closed shells, with their lowest energies, lowest first."""
        new = {k: one.energy for k, one in self.found.items() if k not in self.known.constitutions and closed(k)}
        return dict(sorted(new.items(), key=lambda each: each[1]))

    def copied(self) -> Tally:
        """The tally as it is now."""
        other = copy(self)
        other.found, other.isomers = dict(self.found), set(self.isomers)
        return other

    def row(self, seconds: float) -> dict:
        """What is found so far, after CPU `seconds`."""
        return {
            "evaluations": self.spent, "cpu_seconds": round(seconds, 2), "proposals": self.proposals, "failed": self.failed,
            "molecules": self.molecules, "constitutions": len(self.found), "isomers": len(self.isomers),
            "again": len(self.again), "novel": len(self.novel), "lowest": number(self.lowest),
            "anything": number(self.anything),
        }  # fmt: skip


class Watch:
    """Sees what a session commits, in place of a store, and keeps a tally with rows at marks of evaluations and of CPU seconds.

    Proposals count when they have ended: what was under way at a mark is not in its row. Naming is not on the clock. `kept` is
    the tally when the `budget` of evaluations was spent, whatever comes later; `evaluating` seconds went into energies.
    """

    def __init__(self, tally: Tally, numbers, budget: int):
        self.tally, self.numbers, self.budget = tally, numbers, budget
        self.kept: Tally | None = None
        self.marks, self.clock = [], []
        self._marks, self._clock = sorted({*MARKS, budget}), list(CLOCK)
        self._judging = self.evaluating = 0.0
        self.begin()

    @classmethod
    def of(cls, settings: Mapping) -> Watch:
        """Of a restart with these settings."""
        system = settings["system"]
        return cls(Tally(known_of(settings.get("weights"), system)), atoms_of(system), settings["evaluations"])

    def begin(self) -> None:
        """Set the clock to zero."""
        self._start, self._judging = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        """CPU seconds of the search so far."""
        return time.process_time() - self._start - self._judging

    def commit(self, evaluations: Iterable[Entry] = (), **_rest) -> None:
        """Take in what was told since the last time; a store would write it."""
        for entry in sorted((e for e in evaluations if e.batch is not None), key=lambda e: e.batch or 0):
            self.take(entry, self.seconds)

    def take(self, entry: Entry, seconds: float) -> None:
        """One proposal that had ended after so many CPU seconds."""
        start = time.process_time()
        self.evaluating += entry.seconds
        cost = max(entry.evaluations, 1)  # what is refused before it is evaluated counts too
        while self._clock and self._clock[0] <= seconds:
            self.clock.append({"mark": self._clock.pop(0), **self.tally.row(seconds)})
        self._pass(self.tally.spent + cost - 1, seconds)
        if entry.error is not None or entry.points is None:
            self.tally.add(cost)
        else:
            x = entry.point_positions[-1]
            self.tally.add(cost, float(entry.point_energies[-1]), smiles_of(Structure.create(x, self.numbers)), x)
        self._pass(self.tally.spent, seconds)
        self._judging += time.process_time() - start

    def _pass(self, spent: int, seconds: float) -> None:
        while self._marks and self._marks[0] <= spent:
            mark = self._marks.pop(0)
            self.marks.append({"mark": mark, **self.tally.row(seconds)})
            if mark == self.budget:
                self.kept = self.tally.copied()


def resolved(settings: Mapping) -> Resolved:
    """The objects of a restart: a free molecule, GFN1-xTB, one walker; with the builder that was named, if any."""
    search = dict(settings["search"])
    if search["kind"] == "builder" and settings.get("weights"):
        search["builder"] = settings["weights"]
    return resolve({
        "system": {"formula": settings["system"]}, "potential": XTB, "search": search,
        "run": {"walkers": 1, "precision": "float64", "seed": settings["seed"]}, "stop": {"evaluations": 1},
    })  # fmt: skip


def session_of(settings: Mapping) -> HostSession:
    """A session that has done nothing yet."""
    made = resolved(settings)
    session = open_session(made.search, made.relaxation, made.system, made.settings, made.hosting)
    assert isinstance(session, HostSession)  # of calculators
    return session


def restart(settings: Mapping) -> dict:
    """What became of one restart.

    It ends when both its `evaluations` and, where there is one, its `horizon` (CPU seconds) are spent. What was found, but for
    rows at later marks, is that of its evaluations: `again` the places of known isomers among their sorted names, `ends` what
    the lowest structures relax to, which costs `ends_evaluations` more.
    """
    watch, session = Watch.of(settings), session_of(settings)
    try:
        while watch.kept is None or watch.seconds < (settings.get("horizon") or 0):
            session.visit(Stop())
            session.commit(watch)  # type: ignore[arg-type]
    finally:
        session.close()
    spent, kept = watch.seconds, watch.kept
    ends, count = relaxed(kept, resolved(settings))
    return {
        "marks": watch.marks, "clock": watch.clock, "proposals": watch.tally.proposals, "cpu_seconds": round(spent, 2),
        "known": len(kept.known.energies), "known_lowest": number(kept.known.lowest),
        "again": [k for k, name in enumerate(kept.known.names) if name in kept.again],
        "novel": [[name, number(energy)] for name, energy in list(kept.novel.items())[:ENDS]],
        "ends": ends, "ends_evaluations": count,
    }  # fmt: skip


def relaxed(tally: Tally, made: Resolved) -> tuple[list[list], int]:
    """Names and energies (eV) of what the lowest constitutions relax to, lowest first, and the evaluations of that.

    The name is that of what it is after relaxing: None where it has none, and two with a dot where it came apart.
    """
    found: list[list[Any]] = []
    evaluate, count = Evaluate(replace(made.relaxation, fmax=FMAX, max_steps=LONGEST)), 0
    for _, start in sorted(tally.found.items(), key=lambda each: each[1].energy)[:ENDS]:
        out = evaluate(Task(0, Structure.create(start.positions, made.system.numbers), np.inf))
        count += out.evaluations
        if out.status != FAILED:
            name = smiles_of(Structure.create(out.positions[-1], made.system.numbers))
            found.append([name and name.stereo, number(out.energy)])
    return sorted(found, key=lambda each: each[1]), count


def number(energy: float | None) -> float | None:
    """An energy for JSON."""
    return None if energy is None or not np.isfinite(energy) else round(float(energy), 4)
