"""What each of the works behind this package published first of all, and what it gives here.

`HEADLINES` is the one list of both. Numbers of this package are read from results of `thalweg reproduce` (`of`), never
written by hand: `python benchmarks/headlines.py` makes of them what ships, the table of the README and a page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thalweg.benchmark.experiments import numbers
from thalweg.survival import success_curve

#: What ships: every headline as read from results.
SHIPPED = Path(__file__).parent / "data" / "headlines.json"
#: Rows of results.
Rows = Sequence[Mapping]


class Said(NamedTuple):
    """One headline as it is read: of which work, what was published, what is found here and beside it, by which command."""

    work: str
    source: str
    what: str
    published: str
    here: str
    beside: str
    command: str
    cost: str


@dataclass(frozen=True)
class Headline:
    """A published result and where ours is: `table` and `system` of an `experiment`, whose results are in `files`.

    `here` says what the method of the work gives, `beside` what the strongest opponent gives, both from rows; `seeds` and
    whatever else tells what they are of belong to what they say.
    """

    work: str
    source: str
    what: str
    published: str
    experiment: str
    table: str
    system: str
    files: tuple[str, ...]
    here: Callable[[Rows], str]
    beside: Callable[[Rows], str]
    options: str = ""

    @property
    def command(self) -> str:
        """What runs the cells again."""
        return f"thalweg reproduce {self.experiment} --table {self.table} --systems {self.system}{self.options}"

    def of(self, results: Path) -> Said:
        """The headline with what is in a folder of results."""
        rows = [row for file in self.files for row in json.loads((results / file).read_text(encoding="utf-8"))["cells"]]
        mine = [r for r in rows if r["table"] == self.table and r["system"] in self.system.split(",")]
        spent = sum(float(r.get("total_cpu_seconds") or r.get("cpu_seconds") or 0) for r in mine)
        return Said(
            self.work, self.source, self.what, self.published, self.here(mine), self.beside(mine), self.command,
            f"{spent / 3600:.1f} CPU-h" if spent > 3600 else f"{spent / 60:.0f} CPU-min",
        )  # fmt: skip


def energies(method: str) -> Callable[[Rows], str]:
    """Lowest and mean energy of the starts of a method."""

    def said(rows: Rows) -> str:
        (row,) = [r for r in rows if r["method"] == method]
        found = numbers(row["energies"])
        found = found[np.isfinite(found)]
        error = found.std(ddof=1) / np.sqrt(len(found))
        return f"{method}: lowest {found.min():.2f}, mean {found.mean():.2f} ± {error:.2f} ({len(found)} starts)"

    return said


def restarts(method: str, episodes: int) -> Callable[[Rows], str]:
    """How many restarts of a method succeeded, and their share after so many episodes."""

    def said(rows: Rows) -> str:
        mine = [r for r in rows if r["method"] == method and r["evaluations"] == episodes]
        hits = np.array([r["first"] is not None for r in mine])
        spent = np.array([r["episodes"] if r["first"] is None else r["first"] for r in mine], float)
        value, low, high = success_curve(hits, spent).at(episodes)
        return f"{method} {value:.2f} [{low:.2f}, {high:.2f}] within {episodes} episodes ({len(mine)} restarts)"

    return said


def farther(method: str) -> Callable[[Rows], str]:
    """How far from the minimum a method ended, root mean square per variable."""

    def said(rows: Rows) -> str:
        ends = sorted(r["believed"] for r in rows if r["method"] == method)
        spent = max(r["cpu_seconds"] for r in rows if r["method"] == method)
        low, high = f"{ends[0]:.2g}", f"{ends[-1]:.2g}"
        range_ = low if low == high else f"{low} to {high}"
        return f"{method} {range_} ({_counted(len(ends), 'seed')}, at most {np.ceil(spent):.0f} CPU-s)"

    return said


def errors(*methods: str) -> Callable[[Rows], str]:
    """Mean absolute errors of networks."""

    def said(rows: Rows) -> str:
        parts = []
        for method in methods:
            found = sorted(r["scores"]["MAE"] for r in rows if r["method"] == method)
            range_ = f"{found[0]:.2g}" if len(found) == 1 else f"{found[0]:.2g} to {found[-1]:.2g}"
            parts.append(f"{method} {range_} ({_counted(len(found), 'seed')})")
        return "; ".join(parts)

    return said


def isomers(*methods: str) -> Callable[[Rows], str]:
    """How many of the known isomers methods found again, all stoichiometries together, a mean over seeds."""

    def said(rows: Rows) -> str:
        parts = []
        for method in methods:
            mine = [r for r in rows if r["method"] == method and r["known"]]
            again = sum(_again(r) for r in mine)
            seeds = len({r["seed"] for r in mine})
            parts.append(f"{method} {again} of {sum(r['known'] for r in mine)} ({_counted(seeds, 'seed')})")
        return "; ".join(parts)

    return said


def _again(row: Mapping) -> int:
    """Known isomers that were found at the budget of a row."""
    return next(m["again"] for m in row["marks"] if m["mark"] == row["evaluations"])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


LEARN2HOP = "A. Merchant et al., ICML 2021, arXiv:2107.09661"
STRIDERNET = "V. Bihani et al., ICML 2023, arXiv:2301.12477"
ASLA = "M. S. Jørgensen et al., J. Chem. Phys. 151, 054111 (2019); H. L. Mortensen et al., Phys. Rev. B 102, 075427 (2020)"
BUILDER = "S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022)"
ACTION = "the action-functional method with a network without local minima"
SURROGATES = "deep surrogates of Lennard-Jones systems"
#: The stoichiometries of the builder's table that its training knew.
KNOWN = "C4H4O2,C3H4N2O,C2H4N2O2,C5H8O,C3H5NO2,C4H6O2,C3H6O3,C4H5NO,C3H4FNO,C2H3N3O,C4H7FO,C5H7N"
HEADLINES = (
    Headline(
        "Learn2Hop", LEARN2HOP, "LJ75, 50,000 evaluations from each of 150 starts",
        "lowest -396.28, mean -390.92 (genetic algorithm of networks)", "learn2hop", "table2", "LJ75",
        ("learned/table2-lj75.json",), energies("learned"), energies("tuned"), " --methods learned,tuned --seed 1",
    ),
    Headline(
        "StriderNet", STRIDERNET, "Kob-Andersen LJ100, 5,000 evaluations from each of ten fresh starts",
        "lowest -815.63, mean -811.99", "stridernet", "table1", "LJ100",
        ("stridernet/tables.json",), energies("policy"), energies("basin-hopping"), " --methods policy,basin-hopping",
    ),
    Headline(
        "ASLA", ASLA, "benzene in a plane, found by an agent with a model of the energy",
        "10 % after some 7,000 episodes without a model, in fewer than 1,000 with one", "asla", "benzene", "benzene",
        ("asla/asla.json",), restarts("asla-pa", 600), restarts("gofee", 600),
        " --methods asla-pa,gofee --seed 100 --evaluations 600",
    ),
    Headline(
        "Builder", BUILDER, "known isomers found again, 12 stoichiometries, 120 evaluations each",
        "1,769 of 1,850 with reinforcement, 1,649 without (another set, more evaluations)", "builder", "stoichiometries", KNOWN,
        ("builder/builder.json",), isomers("imitation", "reinforced"), isomers("gofee", "basin-hopping"),
        " --evaluations 120 --count 1 --seed 200 --horizon 60",
    ),
    Headline(
        "Action functional", ACTION, "Alpine 1 with 1,000 variables, distance from the minimum per variable",
        "3.60 in 20 GPU-hours, the minimum in the middle of the box", "action-functional", "shifted", "alpine-1-1000",
        ("action-functional/shifted.json",), farther("plnet-zoom"), farther("zoom"), " --methods plnet-zoom,zoom --seed 100",
    ),
    Headline(
        "Deep surrogates", SURROGATES, "mean absolute error of log(V + 32), low energies of 32 particles in a plane",
        "0.244 (graph network)", "deep-surrogates", "low-energy", "4k",
        ("deep-surrogates/deep-surrogates.json",), errors("graph-published", "schnet"), errors("constant median", "pair"),
        " --methods graph-published,schnet,pair",
    ),
)  # fmt: skip


def shipped() -> list[Said]:
    """The headlines as they ship."""
    return [Said(**row) for row in json.loads(SHIPPED.read_text(encoding="utf-8"))]
