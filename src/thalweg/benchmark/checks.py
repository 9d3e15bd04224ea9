"""Cells of published tables that take seconds, and what they gave when results were committed.

`thalweg reproduce --check` runs them again: where one no longer gives the same, the tables in the documentation are of code
that is not there any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thalweg.benchmark.experiments import Cells, Options, chosen, experiment, numbers, run_table


@dataclass(frozen=True)
class Check:
    """One cell, what is read of its row, and between which two numbers it has to be."""

    experiment: str
    table: str
    system: str
    method: str
    options: Options
    what: str
    of: Callable[[Mapping], float]
    low: float
    high: float

    def value(self, folder: Path, note: Callable[[str], None] = lambda text: None) -> float:
        """What it gives now; results are kept in a folder."""
        made = experiment(self.experiment)
        table = made.table(self.table)
        systems, methods = chosen(table, [self.system], [self.method])
        cells = Cells(folder / f"{self.experiment}.json", made.name)
        (row,) = run_table(table, systems, methods, self.options, cells, note)
        return self.of(row)


def successes(row: Mapping) -> float:
    """Starts that reached the lowest known energy."""
    return float(np.isfinite(numbers(row["first"])).sum())


def mean_energy(row: Mapping) -> float:
    """Mean of the lowest energies of all starts."""
    return float(np.mean(numbers(row["energies"])))


CHECKS = (
    Check(
        "learn2hop", "restarts", "LJ13", "learned", Options(count=20), "starts of 20 that succeed", successes, 18, 20,
    ),
    Check(
        "stridernet", "table1", "LJ100", "FIRE", Options(count=3), "mean energy of three starts", mean_energy, -805.4, -803.4,
    ),
    Check(
        "action-functional", "shifted", "alpine-1-10", "zoom", Options(count=1, evaluations=20_000, seed=100),
        "distance from the minimum per variable", lambda row: row["believed"], 0, 0.06,
    ),
    Check(
        "asla", "surface", "surface", "asla-pa", Options(count=1, evaluations=60, seed=100), "episode of the first success",
        lambda row: np.inf if row["first"] is None else row["first"], 1, 60,
    ),
    Check(
        "deep-surrogates", "networks", "4k", "constant mean", Options(), "error of the constant mean, %",
        lambda row: row["scores"]["MAPE"], 75.9, 76.1,
    ),
    Check(
        "builder", "stoichiometries", "C2H6O", "imitation", Options(count=1, evaluations=12),
        "isomers found in 12 evaluations", lambda row: row["marks"][-1]["isomers"], 1, 5,
    ),
)  # fmt: skip


def checked(folder: Path, note: Callable[[str], None] = lambda text: None) -> Iterator[tuple[Check, float, bool]]:
    """Every check with what it gives now, and whether that is what was committed."""
    for check in CHECKS:
        value = check.value(folder, note)
        yield check, value, check.low <= value <= check.high
