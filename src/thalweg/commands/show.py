"""`thalweg show` and `thalweg export`: what a run's folder holds. `show` needs no JAX."""

from __future__ import annotations

import tomllib
from argparse import Namespace
from importlib.util import find_spec

from thalweg.commands.summary import summary
from thalweg.display import energy, paragraph, table
from thalweg.errors import InputError
from thalweg.store import Store

#: How many of the lowest minima are shown unless the user says otherwise.
MINIMA = 10
#: The search that builds molecules, by its name in inputs.
BUILDER = "builder"
#: How many of its structures are named without being asked for: a thousand a second.
NAMED = 5000


def show(options: Namespace) -> int:
    """Print the summary, the lowest minima and the statistics of moves; or the isomers."""
    if options.minima is not None and options.minima < 1:
        raise InputError(f"--minima is {options.minima}; give at least 1")
    if options.known is not None and not options.isomers:
        raise InputError("--known says which isomers are not new; give --isomers with it")
    with Store.open(options.folder) as store:
        if options.isomers:
            from thalweg.commands import isomers

            print(isomers.text(store, options.known, options.minima))
            return 0
        print(summary(store))
        said = built(store)
        if said:
            print(said)
        print()
        print(minima_table(store, options.minima or MINIMA))
        moves = store.moves()
        if moves:
            print()
            print(moves_table(moves))
        if options.report:
            from thalweg import report_run

            print(f"\nwrote {report_run.write(store)}")
    return 0


def built(store: Store) -> str:
    """What a builder has built, in one line; empty where no builder made the run, or isomers cannot be told."""
    if tomllib.loads(store.meta.get("input", "")).get("search", {}).get("kind") != BUILDER or find_spec("rdkit") is None:
        return ""
    structures = int((store.progress() or [{}])[-1].get("relaxations") or 0)
    if structures > NAMED:
        return paragraph("isomers", f"of {structures:,} structures: --isomers names them, which takes a while")
    from thalweg.commands import isomers  # needs JAX, which other runs need not wait for

    return isomers.line(store)


def minima_table(store: Store, limit: int) -> str:
    """The lowest minima."""
    unit = store.meta.get("units", [""])[0]
    records = store.minima(limit)
    head = ("#", f"energy {unit}".strip(), "above", "hits", "independent", "found by", "evaluations")
    rows = [
        (
            str(k + 1), energy(r.energy), energy(r.energy - records[0].energy), f"{r.hits:,}", f"{r.independent_hits:,}",
            r.origin, f"{r.evaluations:,}",
        )
        for k, r in enumerate(records)
    ]  # fmt: skip
    return table(head, rows, left=(5,))


def moves_table(moves: list[dict]) -> str:
    """Statistics of the generators: what was tried, what it cost, what lowered the best, what is drawn now."""
    head = ("generator", "trials", "evaluations/trial", "new best", "chance")
    rows = [
        (
            m["name"],
            f"{m['trials']:,}",
            f"{m['evaluations'] / m['trials']:.0f}" if m["trials"] else "",
            f"{m['new_best']:,}",
            "start" if m["chance"] is None else f"{100 * m['chance']:.0f}%",
        )
        for m in moves
    ]
    return table(head, rows)


def export(options: Namespace) -> int:
    """Write a run's minima to a file."""
    from thalweg.export import export as write

    if options.minima is not None and options.minima < 1:
        raise InputError(f"--minima is {options.minima}; give at least 1")
    with Store.open(options.folder) as store:
        count = write(store, options.file, options.format, options.minima)
    print(f"wrote {count:,} {'minimum' if count == 1 else 'minima'} to {options.file}")
    return 0
