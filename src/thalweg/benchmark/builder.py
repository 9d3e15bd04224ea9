"""A builder that goes on learning, beside the same builder that does not, and searches that know no molecules.

Tables follow S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022), doi:10.1088/2632-2153/ac3eb4: isomers of
stoichiometries are looked for by restarts at equal evaluations of GFN1-xTB, and counted against those that the builder was
trained or tested on. Kept restart by restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from thalweg.agents.builder_files import SHIPPED, load_builder
from thalweg.benchmark.builder_restarts import NEVER, Watch, atoms_of, known_of, restart, session_of
from thalweg.benchmark.builder_sections import sections
from thalweg.benchmark.experiments import Experiment, Options, Section, Skipped, Table, digest
from thalweg.errors import ThalwegError
from thalweg.settings import Stop

#: Episodes after which a builder begins to learn from what it built.
LEARN_FROM = 50
#: [search] of the methods.
METHODS: dict[str, dict] = {
    "imitation": {"kind": "builder", "learn_from": NEVER, "anew": 0},
    "reinforced": {"kind": "builder", "learn_from": LEARN_FROM, "anew": 0},
    "imitation-anew": {"kind": "builder", "learn_from": NEVER},
    "reinforced-anew": {"kind": "builder", "learn_from": LEARN_FROM},
    "basin-hopping": {"kind": "basin-hopping"},
    "gofee": {"kind": "gofee"},
}
BUILDERS = ("imitation", "reinforced", "imitation-anew", "reinforced-anew")
#: Stoichiometries of up to six heavy atoms, and larger ones, of which nothing was learned.
INSIDE = (
    "C4H4O2", "C3H4N2O", "C2H4N2O2", "C5H8O", "C3H5NO2", "C4H6O2", "C3H6O3", "C4H5NO", "C3H4FNO", "C2H3N3O", "C4H7FO", "C5H7N",
)  # fmt: skip
OUTSIDE = ("C7H9N", "C6H6O3", "C8H8O4")
QUICK = ("C2H6O",)
#: Restarts of a cell and their evaluations, those of a quick one, and CPU seconds for which searches that do not build go on.
RESTARTS, BUDGET, QUICK_BUDGET, SECONDS = 3, 400, 10, 100
#: Evaluations of a restart that has time to learn.
LONGER = 800
#: Episodes of a table of costs, and those before the clock begins, besides those that are not learned from.
EPISODES, WARM = 50, 5


def settings(system: str, method: str, options: Options) -> dict:
    """What a cell is run with; the builder is that of `--weights builder=FILE`, or the one that ships."""
    file = options.weights.get("builder")
    seconds = None if method in BUILDERS or options.quick else SECONDS
    return {
        "count": options.count or (1 if options.quick else RESTARTS),
        "evaluations": options.evaluations or (QUICK_BUDGET if options.quick else BUDGET),
        "seed": options.seed,
        "horizon": options.horizon or seconds,
        "search": METHODS[method],
        "isomers": _listed(known_of(file, system).names),
        **_weights(file, method),
    }


def longer(system: str, method: str, options: Options) -> dict:
    """What a cell with time to learn is run with."""
    return settings(system, method, replace(options, evaluations=options.evaluations or LONGER))


def _weights(file: str | None, method: str) -> dict:
    """The builder of a method, by name and digest; None ships. For other methods it says only what is known."""
    if method not in BUILDERS:
        return {"weights": file}
    path = Path(file) if file else SHIPPED
    if not file and not path.is_file():
        raise Skipped("no builder ships with this version; name one by --weights builder=FILE")
    load_builder(path)  # raises for what is none
    return {"weights": file, "digest": digest(path)}


def _listed(names: Sequence[str]) -> str:
    """A short name of what is known: counted against another list, counts are others."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]


def accepts(name: str) -> bool:
    """Whether a system that is not listed may be asked for: any formula of elements."""
    try:
        return min(atoms_of(name)) > 0
    except ThalwegError:
        return False


def parts(settings: dict) -> list[dict]:
    """The settings of a cell as those of its restarts, one row each."""
    return [{**settings, "count": 1, "seed": settings["seed"] + k} for k in range(settings["count"])]


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """One restart."""
    row = restart(settings)
    last = next(each for each in row["marks"] if each["mark"] == settings["evaluations"])
    note(
        f"  {last['isomers']} isomers, {last['again']} of {row['known']} known ones, {last['cpu_seconds']:.1f} CPU-s; "
        f"{row['cpu_seconds']:.1f} in all"
    )
    return row


# How good the builder is, and what an episode costs -------------------------------------------------------------------


def costs_settings(system: str, method: str, options: Options) -> dict:
    """What an episode is timed with."""
    return {
        "count": 1,
        "evaluations": options.evaluations or EPISODES,
        "seed": options.seed,
        "horizon": None,
        "search": METHODS[method],
        "warm": WARM + (0 if METHODS[method]["learn_from"] == NEVER else LEARN_FROM),
        **_weights(options.weights.get("builder"), method),
    }


def costs_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """The scores on a builder's model card, and CPU seconds of episodes after the first ones, apart from their energies."""
    _, held = load_builder(settings["weights"] or SHIPPED)
    about = held.get("about", {})
    session = session_of(settings)
    warm, last = Watch.of(settings), Watch.of(settings)
    try:
        for watch, episodes in ((warm, settings["warm"]), (last, settings["evaluations"])):
            watch.begin()
            while watch.tally.proposals < episodes:
                session.visit(Stop())
                session.commit(watch)  # type: ignore[arg-type]
        spent = last.seconds
    finally:
        session.close()
    found = last.tally
    return {
        "scores": {k: about.get("scores", {}).get(k) for k in ("energy", "force", "action", "accuracy", "chosen")},
        "structures": about.get("structures", {}),
        "cpu_seconds": round(spent, 3),
        "energies": round(last.evaluating, 3),
        "molecules": found.molecules,
        "proposals": found.proposals,
        "candidates": getattr(session.search, "candidates", 1),
    }


def costs_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Errors on molecules that were held out, and episodes per second."""
    scores, tested = rows[0]["scores"], rows[0]["structures"].get("test")
    said = lambda key, form: "-" if scores.get(key) is None else f"{scores[key]:{form}}"
    energy = "-" if scores.get("energy") is None else f"{1000 * scores['energy']:.1f}"
    card = Section(
        f"{tested:,} structures that were held out" if tested else "structures that were held out",
        ("energy, meV/atom", "force, eV/Å", "loss of actions", "actions right", "best action right"),
        ((energy, said("force", ".3f"), said("action", ".4f"), said("accuracy", ".1%"), said("chosen", ".1%")),),
        ("from the builder's model card; mean absolute errors",),
    )
    made = [card]
    for system, group in groupby(rows, key=lambda r: r["system"]):
        own = list(group)
        lines = [
            (r["method"], f"{r['proposals'] / r['cpu_seconds']:.1f}", f"{_builds(r):.1f}",
             f"{1000 * r['energies'] / r['proposals']:.0f}", f"{r['molecules'] / r['proposals']:.0%}")
            for r in own
        ]  # fmt: skip
        head = ("method", "episodes per CPU-s", "builds per CPU-s", "energy, ms", "one molecule")
        warm = ", ".join(f"{r['warm']} ({r['method']})" for r in own)
        title = f"{system}: {own[0]['proposals']} episodes after the first {warm}, seed {own[0]['seed']}"
        made.append(Section(title, head, tuple(lines)))
    return made


def _builds(row: Mapping) -> float:
    """Molecules put together per CPU second, with everything but true energies on the clock; those built anew do not count."""
    return row["candidates"] * row["proposals"] / max(row["cpu_seconds"] - row["energies"], 1e-9)


STOICHIOMETRIES = Table(
    "stoichiometries", "isomers found, with learning and without, beside other searches", (*INSIDE, *OUTSIDE), tuple(METHODS),
    settings, measure, sections, QUICK, accepts, parts=parts,
)  # fmt: skip
LONG = Table(
    "longer", "the same for longer, with learning and without", ("C4H4O2", "C3H5NO2"), BUILDERS, longer, measure, sections, (),
    accepts, parts=parts,
)  # fmt: skip
VALIDATION = Table(
    "validation", "errors of the builder, and what an episode costs", ("C4H4O2", "C5H7N", "C8H8O4"), BUILDERS, costs_settings,
    costs_measure, costs_sections, (), accepts,
)  # fmt: skip
EXPERIMENT = Experiment(
    "builder",
    "a builder of molecules that goes on learning (doi:10.1088/2632-2153/ac3eb4)",
    (STOICHIOMETRIES, LONG, VALIDATION),
)
