"""Published best energies to compare a run with. They never stop a search unless the user asks for it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources

from thalweg.report.data import Reference

SOURCE = "Cambridge Cluster Database"
#: Energies this near (in epsilon) count as equal; published values are rounded to 1e-6.
TOLERANCE = 1e-5


@cache
def lennard_jones() -> dict[int, float]:
    """Best known energies of Lennard-Jones clusters by number of atoms, in epsilon; empty where the table is not installed."""
    table = resources.files("thalweg").joinpath("benchmark", "data", "lennard_jones_clusters.csv")
    if not table.is_file():
        return {}
    rows = csv.DictReader(line for line in table.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {int(row["atoms"]): float(row["energy"]) for row in rows}


def best_known(n_atoms: int, potential: Mapping) -> Reference | None:
    """The best published energy for this [potential] table, or None where none is known to this package."""
    if potential.get("kind") != "lennard-jones" or n_atoms not in lennard_jones():
        return None
    if potential.get("cutoff") not in (None, "none"):  # another energy, and what every periodic system has
        return None
    # Energies of any epsilon and sigma are those of epsilon = sigma = 1 times epsilon.
    epsilon = float(potential.get("epsilon", 1.0))
    return Reference(epsilon * lennard_jones()[n_atoms], SOURCE, TOLERANCE * epsilon)


def compare(energy: float, reference: Reference, unit: str) -> str:
    """One sentence on an energy and the published one; an energy below it is said loudly."""
    difference = energy - reference.energy
    known = f"the best known energy in the {reference.source}"
    if abs(difference) <= reference.tolerance:
        return f"equals {known} ({reference.energy:.6f} {unit})"
    if difference > 0:
        return f"{difference:.6f} {unit} above {known} ({reference.energy:.6f} {unit}): not reached yet"
    return (
        f"BELOW {known} ({reference.energy:.6f} {unit}) by {-difference:.6f} {unit}: "
        "VERIFY this structure with an independent program before you claim it"
    )
