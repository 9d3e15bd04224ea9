"""The report of a run, filled from its store."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from thalweg import confidence
from thalweg.errors import InputError, RunFolderError
from thalweg.landscape import files
from thalweg.landscape.states import Network
from thalweg.references import best_known
from thalweg.report import Confidence, Minimum, Move, Progress, ReportData, write_report
from thalweg.report.data import Isomers
from thalweg.store import Store

REPORT = "report.html"
#: What a search with an agent leaves beside its structures (`thalweg.search.base.ModelSearch.products`).
MAPS, CLOUDS = "q-maps.svg", "q-clouds.svg"
#: How many of the lowest minima go into a report.
MINIMA = 100
#: Steps of a relaxation from which on its end is called a minimum.
STEPS = 20
#: Elements of molecules, and how many structures are named for a report (`thalweg show --isomers` names more).
NONMETALS = {1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53}
MOST_NAMED = 20_000

_ESTIMATOR = (
    "Bayes' rule on how many independent runs ended in the lowest minimum: the probability that a lower one exists and "
    "escaped all of them."
)
_SEEDED = "Runs that start from the given structure are counted as independent, which they are not: the estimate is too sure."


def report_data(store: Store) -> ReportData:
    """Everything that the report page shows of a run."""
    meta, rows = store.meta, _traced(store.progress())
    final = meta.get("final")
    if final and rows:  # what came after the end of the search, which its progress does not know of
        lowest = store.best()
        rows.append({**rows[-1], "evaluations": rows[-1]["evaluations"] + final["evaluations"], "trace": None})
        rows[-1]["best"] = lowest.energy if lowest else rows[-1]["best"]
    tables = tomllib.loads(meta.get("input", ""))
    last = rows[-1] if rows else {}
    column = lambda name: np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
    series = ("evaluations", "elapsed", "best", "relaxations", "distinct")
    n_atoms = int(meta.get("n_atoms", 0))
    return ReportData(
        title=meta.get("name", store.folder.name),
        formula=meta.get("name", ""),
        n_atoms=n_atoms,
        minima=tuple(
            Minimum(r.energy, r.hits, r.independent_hits, r.origin, r.evaluations, r.positions, r.numbers, r.cell, r.pbc)
            for r in store.minima(MINIMA)
        ),
        progress=Progress(*(column(name) for name in series)),
        moves=tuple(_move(row) for row in store.moves()),
        confidence=Confidence(
            int(last.get("run_hits") or 0),
            int(last.get("runs") or 0),
            last.get("lower_remains"),
            _ESTIMATOR,
            (confidence.ASSUMPTIONS, *((_SEEDED,) if seeded(tables) else ())),
        ),
        reference=best_known(n_atoms, tables.get("potential", {})),
        model=named(tables.get("potential", {})),
        energy_unit=meta.get("units", ["", ""])[0],
        length_unit=meta.get("units", ["", ""])[1],
        seed=int(tables.get("run", {}).get("seed", 0)),
        started=str(meta.get("created", "")),
        wall_seconds=float(last.get("elapsed") or 0),
        cpu_seconds=float(last.get("cpu_seconds") or 0),
        command=str(meta.get("command", "")),
        resolved_input=meta.get("input", ""),
        stop_reason=str(meta.get("reason", "")),
        versions=meta.get("versions", {}),
        relaxed=relaxed(tables),
        agent_maps=_picture(store, MAPS),
        agent_clouds=_picture(store, CLOUDS),
        isomers=_isomers(store, tables),
        n_distinct=store.n_minima,
        landscape=_landscape(store),
    )


def _isomers(store: Store, tables: dict) -> Isomers | None:
    """The isomers that were evaluated; None where structures are no molecules, or too many to name at the end of every run."""
    best = store.best()
    molecule = best is not None and not any(best.pbc) and set(best.numbers[best.numbers >= 0].tolist()) <= NONMETALS
    relaxations = (store.progress() or [{}])[-1].get("relaxations") or 0
    black_box = tables.get("potential", {}).get("kind") == "calculator"
    if not (molecule and black_box and relaxations <= MOST_NAMED and find_spec("rdkit")):
        return None
    from thalweg.found_isomers import found_isomers, used_builder  # needs JAX, which other reports need not wait for

    try:
        known = used_builder(store)
    except InputError:  # its file is gone
        known = None
    try:
        return found_isomers(store, known)
    except Exception:  # whatever RDKit makes of odd structures, the report is written; `thalweg show --isomers` says it
        return None


def _picture(store: Store, name: str) -> str:
    """What the run's agent or builder expects of placements, as SVG; empty where there is no such picture."""
    path = store.folder / name
    if name not in store.meta.get("products", ()) or not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _landscape(store: Store) -> Network | None:
    """What `thalweg landscape` has left in the folder; None where that is nothing, or cannot be read."""
    path = store.folder / files.FILE
    try:
        return files.read(path)[0] if path.is_file() else None
    except RunFolderError:  # of a newer version, say; the report is written without it
        return None


def _traced(rows: list[dict]) -> list[dict]:
    """Progress rows with one more for each fall of the lowest energy between them."""
    traced: list[dict] = []
    for row in rows:
        for evaluations, relaxations, energy in row.get("trace") or []:
            best = max(energy, row["best"]) if row["best"] is not None else energy  # loosely relaxed ends differ a little
            seen = traced[-1]["distinct"] if traced else 0
            fall = {"evaluations": evaluations, "relaxations": relaxations, "best": best, "distinct": seen}
            traced.append({**fall, "elapsed": row["elapsed"]})
        traced.append(row)
    return traced


def named(potential: dict) -> str:
    """What gave the energies, in words: a potential's kind, a calculator with its arguments."""
    if potential.get("kind") != "calculator":
        return str(potential.get("kind", ""))
    arguments = (f"{name}={value}" for name, value in potential.get("arguments", {}).items())
    return " ".join([str(potential.get("calculator", "calculator")), *arguments])


def relaxed(tables: dict) -> bool:
    """Whether the structures of a run may be called minima: with few steps on each they are not."""
    return int(tables.get("run", {}).get("max_steps", 500)) >= STEPS


def seeded(tables: dict) -> bool:
    """Whether an input draws starts from given structures."""
    return any(start.get("kind") == "seeded" for start in tables.get("search", {}).get("starts", []))


def write(store: Store) -> Path:
    """Write the report into the folder of the run."""
    path = store.folder / REPORT
    write_report(path, report_data(store))
    return path


def _move(row: dict) -> Move:
    trials = int(row.get("trials", 0))
    return Move(
        name=row["name"],
        trials=trials,
        gained=int(row.get("lowered") or 0),
        weight=row.get("chance"),
        evaluations_per_trial=row.get("evaluations", 0) / trials if trials else 0.0,
    )
