"""`thalweg show --isomers`: which molecules a run has evaluated, how often, and which of them were not known before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

from thalweg.display import energy, paragraph, plural, table  # noqa: E402
from thalweg.errors import InputError  # noqa: E402
from thalweg.found_isomers import (  # noqa: E402
    LABELS,
    Known,
    found_isomers,
    known_of_builder,
    labelled_alike,
    used_builder,
)
from thalweg.learning.molecule_set import load_molecules  # noqa: E402
from thalweg.report.data import Isomer, Isomers  # noqa: E402
from thalweg.store import Store  # noqa: E402

#: Ending of a set of molecules; other files of known isomers are builders.
MOLECULES = ".npz"


def text(store: Store, known: str | None = None, limit: int | None = None) -> str:
    """Tables of the isomers of a run, lowest first and at most `limit` rows each, and what they amount to.

    `known` is a file of isomers that are not new (a builder, or a set of molecules); None those that the run's builder knew.
    """
    missing = ""
    try:
        before = used_builder(store) if known is None else known_in(known)
    except InputError as error:
        if known is not None:
            raise
        before, missing = None, paragraph("known", f"not told: {error}; or name another with --known")
    found = found_isomers(store, before)
    unit = store.meta.get("units", ["eV"])[0]
    drawn = tuple(one for one in found.stereo if one.smiles not in {flat.smiles for flat in found.constitutions})
    parts = [isomer_table(found, found.constitutions[:limit], "constitution", unit)]
    if drawn:
        parts.append(isomer_table(found, drawn[:limit], "with stereochemistry", unit))
    parts.append("\n".join([*sentences(found, labelled_alike(store)), *([missing] if missing else [])]))
    return "\n\n".join(parts)


def line(store: Store) -> str:
    """How many isomers a run has evaluated, in one sentence; why that cannot be told, where it cannot."""
    try:
        before = used_builder(store)
    except InputError:  # its file is gone: what was built can be counted all the same
        before = None
    try:
        found = found_isomers(store, before)
    except InputError as error:
        return paragraph("isomers", f"not told: {error}")
    again = f"; {found.again:,} of {len(found.known):,} known before were found again" if found.known else ""
    return paragraph("isomers", f"{counts(found)}{again} (--isomers lists them)")


def known_in(path: str) -> Known:
    """The isomers in a file: those that a builder was trained and tested on, or those of a set of molecules."""
    return Known(dict(load_molecules(path).isomers), path) if Path(path).suffix == MOLECULES else known_of_builder(path)


def isomer_table(found: Isomers, rows: Sequence[Isomer], head: str, unit: str) -> str:
    """One row for each isomer; the lowest energy is that of the lowest isomer of all."""
    names = (head, f"energy {unit}".strip(), "above", "found", "evaluations", *(("",) if found.source else ()))
    lowest = found.constitutions[0].energy if found.constitutions else 0.0
    cells = [
        (
            one.smiles, energy(one.energy), energy(one.energy - lowest), f"{one.count:,}", f"{one.evaluations:,}",
            *(("new" if one.new else "",) if found.source else ()),
        )
        for one in rows
    ]  # fmt: skip
    return table(names, cells, left=(0, 5))


def counts(found: Isomers) -> str:
    """How many isomers there are, and how many of them are new."""
    new = lambda rows: f" ({sum(one.new for one in rows):,} new)" if found.source else ""
    flat, drawn = found.constitutions, found.stereo
    return f"{plural(len(flat), 'constitution')}{new(flat)}, {plural(len(drawn), 'stereo isomer')}{new(drawn)}"


def sentences(found: Isomers, alike: bool) -> list[str]:
    """What the tables amount to; `alike` where energies found and known are of one method."""
    among = f"{counts(found)} of {found.formula} in {plural(found.structures, 'structure')}"
    said = [paragraph("isomers", f"{among}, of which {found.broken:,} in several parts and {found.unnamed:,} no molecule")]
    if found.source:
        known = f"{found.again:,} of {len(found.known):,} of this formula in {found.source} were found again"
        said.append(paragraph("known", known))
    return said + ([paragraph("lowest", below(found, alike))] if found.known and found.stereo else [])


def below(found: Isomers, alike: bool) -> str:
    """The lowest isomer found beside the lowest that was known."""
    known = {name: value for name, value in found.known.items() if value is not None}
    ours, theirs = found.stereo[0], min(known, key=lambda name: known[name], default="")
    if not theirs:
        return f"{ours.smiles}; no energies of known ones are there to compare with"
    if not alike:
        return f"{ours.smiles}; the lowest known is {theirs} by {LABELS[1]}, whose energies this run's do not compare with"
    apart = ours.energy - known[theirs]
    where = f"{energy(abs(apart))} eV {'above' if apart > 0 else 'below'} the lowest known, {theirs}"
    return f"{ours.smiles}, {where}: known energies are of minima, and structures that were found may not be fully relaxed"
