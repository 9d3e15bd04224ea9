"""Metal clusters and nanoalloys with Gupta potentials: what a search of given length reaches, beside earlier bests.

The reference energies are those of short basin hopping with species swaps made before this package (and, for Au55, the
minimum of the Learn2Hop paper's Table 2, arXiv:2102.13492): upper bounds, not proven minima.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from importlib.resources import files

from thalweg.formula import parse_formula
from thalweg.potentials.many_body import Gupta
from thalweg.presets import cluster_relaxation, cluster_search
from thalweg.run import Settings, Stop, run
from thalweg.system import cluster

#: Energies are known to four decimals.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One composition: the energy to reach, and over seeds the energies found and the CPU seconds of each."""

    formula: str
    parameters: str
    reference: float
    energies: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()

    @property
    def best(self) -> float:
        """Lowest energy over the seeds, in eV."""
        return min(self.energies)

    @property
    def reached(self) -> int:
        """How many seeds came to the reference or below."""
        return sum(e <= self.reference + TOLERANCE for e in self.energies)

    @property
    def agreed(self) -> int:
        """How many seeds ended in the lowest energy found here."""
        return sum(e <= self.best + TOLERANCE for e in self.energies)


def rows() -> list[Row]:
    """The table of compositions, parameter sets and energies (eV)."""
    text = (files("thalweg.benchmark") / "data" / "metal_clusters.csv").read_text()
    return [Row(r["formula"], r["parameters"], float(r["energy"])) for r in csv.DictReader(text.splitlines())]


def search(row: Row, seeds: range, settings: Settings, cpu: float) -> Row:
    """Search the composition with each seed for `cpu` seconds (compilation counted)."""
    potential = Gupta(row.parameters)
    system = cluster(parse_formula(row.formula)[1], potential)
    energies, spent = [], []
    for seed in seeds:
        begun = time.process_time()
        seeded = Settings(**{**vars(settings), "seed": seed})
        result = run(cluster_search(system, potential), cluster_relaxation(potential, system), system, seeded, Stop(cpu=cpu))
        energies.append(result.energy)
        spent.append(time.process_time() - begun)
    return Row(row.formula, row.parameters, row.reference, tuple(energies), tuple(spent))
