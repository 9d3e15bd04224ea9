"""The isomers that a run has evaluated: which molecules its structures are, and which of them were known before.

Runs around calculators log every structure that they evaluated; each has a name from its positions alone
(`thalweg.similarity.isomers`), at about a millisecond.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thalweg.agents.builder_files import SHIPPED, known_isomers
from thalweg.agents.files import MARK
from thalweg.errors import InputError
from thalweg.journal import FINAL, Entry
from thalweg.report.data import Isomer, Isomers
from thalweg.similarity.isomers import Found, chemistry, isomers_of, named, new_ones
from thalweg.store import Store
from thalweg.structure import Structure

#: The search whose evaluations are episodes of a builder, by its name in inputs.
BUILDER = "builder"
#: Calculator and method that molecules for builders are labelled with.
LABELS = ("tblite", "GFN1-xTB")


class Known(NamedTuple):
    """Isomers known before: SMILES, each with its lowest energy (eV) or None, and where they are from."""

    energies: Mapping[str, float | None]
    source: str


def found_isomers(store: Store, known: Known | None = None) -> Isomers:
    """The isomers among all structures that a run has evaluated: of each evaluation, or relaxation, the last point.

    Raises `InputError` for runs of which there are none: periodic ones, those of model particles, those on the device, whose
    relaxations are not logged one by one, and those without an energy yet; and where RDKit is missing.
    """
    numbers = _numbers(store)
    entries = ordered(store.evaluations())
    kept = [k for k, entry in enumerate(entries) if _has_energy(entry)]
    if not entries:
        raise InputError(
            f"the run in {store.folder} did not log its structures one by one, as runs around calculators do; take one with "
            "--calculator"
        )
    structures = (Structure.create(entries[k].point_positions[-1], numbers) for k in kept)
    found = isomers_of(structures, [float(entries[k].energy or 0.0) for k in kept])
    before = np.cumsum([entry.evaluations for entry in entries])[kept]
    ours = {} if known is None else of_formula(known.energies, numbers)
    fresh = new_ones(found, {name for pair in ours for name in pair})
    rows = lambda table, new: tuple(_row(name, one, before, bool(known) and name in new) for name, one in table.items())
    return Isomers(
        formula_of(numbers),
        rows(found.constitutions, fresh.constitutions),
        rows(found.stereo, fresh.stereo),
        len(kept),
        found.broken,
        found.unnamed,
        "" if known is None else known.source,
        {stereo: energy for (_, stereo), energy in ours.items()},
        episodes(entries) if kind_of(store) == BUILDER else np.zeros(0),
    )


def _row(name: str, one: Found, before: np.ndarray, new: bool) -> Isomer:
    return Isomer(name, one.energy, one.count, int(before[one.first]), new)


def _numbers(store: Store) -> np.ndarray:
    """Atomic numbers (atoms,) of a run of a free molecule. Raises `InputError` for any other run."""
    chemistry()
    best = store.best()
    if best is None:
        raise InputError(f"the run in {store.folder} has found no structure with an energy yet; go on with `thalweg resume`")
    if any(best.pbc):
        raise InputError(f"isomers are those of free molecules, and the run in {store.folder} is periodic; take another run")
    if (best.numbers == 0).any():
        raise InputError(f"isomers are those of elements, and the run in {store.folder} has model particles; take another run")
    return best.numbers


def _has_energy(entry: Entry) -> bool:
    return entry.points is not None and entry.energy is not None and bool(np.isfinite(entry.energy))


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Evaluations in the order in which they were told, those that the search does not know of last."""
    late = lambda entry: (entry.origin == FINAL, np.inf if entry.batch is None else entry.batch)
    return sorted(entries, key=lambda entry: (*late(entry), abs(entry.number)))


def episodes(entries: Iterable[Entry]) -> np.ndarray:
    """Energy of each evaluation that a search was told, in that order; NaN for failures."""
    told = [entry for entry in entries if entry.status is not None and entry.origin != FINAL]
    return np.array([entry.energy if _has_energy(entry) else np.nan for entry in told], float)


def kind_of(store: Store) -> str:
    """The name of the search that made a run."""
    return str(_tables(store).get("search", {}).get("kind", ""))


def labelled_alike(store: Store) -> bool:
    """Whether the energies of a run are those that molecules for builders have."""
    potential = _tables(store).get("potential", {})
    return (potential.get("calculator"), potential.get("arguments", {}).get("method")) == LABELS


def _tables(store: Store) -> dict:
    return tomllib.loads(store.meta.get("input", ""))


def used_builder(store: Store) -> Known | None:
    """What the builder of a run had learned from; None for runs of other searches. Raises `InputError` where it is gone."""
    if kind_of(store) != BUILDER:
        return None
    return known_of_builder(str(_tables(store)["search"].get("builder", "")) or SHIPPED)


def known_of_builder(name: str | Path) -> Known:
    """What the builder in a file, pinned or not, was trained and tested on. Raises `InputError` where the file does not say."""
    energies, path = known_isomers(name), str(name).partition(MARK)[0]
    if not energies:
        raise InputError(f"{path} does not say which isomers it was trained on; give the molecules.npz of its training")
    return Known(dict(energies), "the builder that ships" if Path(path) == SHIPPED else path)


def of_formula(known: Mapping[str, float | None], numbers) -> dict[tuple[str, str], float | None]:
    """Those of the known isomers with these atoms: constitution and SMILES with stereochemistry, as RDKit writes them now."""
    chem = chemistry()
    from rdkit import rdBase

    wanted, ours = Counter(int(z) for z in numbers if z >= 0), {}
    with rdBase.BlockLogs():
        for smiles, energy in known.items():
            molecule = _of_atoms(chem, smiles, wanted)
            if molecule is not None:
                names = tuple(named(molecule))
                ours[names] = min((e for e in (energy, ours.get(names)) if e is not None), default=None)
    return ours


def _of_atoms(chem, smiles: str, wanted: Counter):
    """The molecule of a SMILES where its atoms are those wanted, else None. Heavy atoms are counted first: that is quick."""
    options = chem.SmilesParserParams()
    options.sanitize = options.removeHs = False
    heavy = lambda counted: {z: n for z, n in counted.items() if z > 1}
    drawn = chem.MolFromSmiles(smiles, options)
    if drawn is None or heavy(Counter(a.GetAtomicNum() for a in drawn.GetAtoms())) != heavy(wanted):
        return None
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    count = Counter(a.GetAtomicNum() for a in chem.AddHs(molecule).GetAtoms())
    return molecule if count == wanted else None


def formula_of(numbers) -> str:
    """The formula of atomic numbers, carbon and hydrogen first."""
    from ase import Atoms

    return Atoms([int(z) for z in numbers if z >= 0]).get_chemical_formula()


__all__ = [
    "BUILDER", "LABELS", "Known", "found_isomers", "kind_of", "known_of_builder", "labelled_alike", "of_formula",
    "used_builder",
]  # fmt: skip
