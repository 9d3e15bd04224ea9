"""The tables of StriderNet, run again: what was published, plain relaxations, the policies, and what they have to beat.

V. Bihani et al., ICML 2023 (arXiv:2301.12477). All methods of a table relax the same fresh starts, made here
(`thalweg.benchmark.liquids`), and every evaluation of energy and forces counts, also those by which a policy adapts. Training
is not counted: what it cost stands in the weights' model card. Bounds are means +- 1.96 standard errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from thalweg.benchmark import stridernet_analyses, stridernet_speed, stridernet_trainings
from thalweg.benchmark import stridernet_opponents as opponents
from thalweg.benchmark.experiments import (
    Experiment,
    Options,
    Section,
    Skipped,
    Table,
    digest,
    listed,
    mean_of,
    numbers,
    verdict,
)
from thalweg.benchmark.learn2hop import by_system
from thalweg.benchmark.liquids import Liquid, liquid
from thalweg.benchmark.stridernet_methods import learned
from thalweg.networks.weights import SHIPPED

#: Table 1: lowest and mean energy of ten starts.
PUBLISHED = {
    "LJ100": {
        "gradient descent": (-799.53, -795.38), "FIRE": (-813.66, -806.29), "Adam": (-808.62, -801.96),
        "StriderNet": (-815.63, -811.99),
    },
    "C-S-H": {
        "gradient descent": (-1_583_539.0, -1_548_799.0), "FIRE": (-1_637_194.0, -1_588_792.0),
        "Adam": (-1_622_906.0, -1_596_680.0), "StriderNet": (-1_671_917.0, -1_648_966.0),
    },
    "SW64": {
        "gradient descent": (-249.22, -247.56), "FIRE": (-256.98, -256.37), "Adam": (-258.86, -256.93),
        "StriderNet": (-259.94, -257.35),
    },
}  # fmt: skip
#: Table 2 (trained on 100 particles): lowest and mean energy per particle.
SIZES = {
    25: (-7.08, -6.97), 50: (-7.77, -7.71), 100: (-8.16, -8.12), 250: (-8.15, -8.13), 500: (-8.16, -8.14), 1000: (-8.13, -8.12)
}  # fmt: skip
#: Table 3 (trained on 250 particles).
LARGER = {250: (-8.154, -8.143), 500: (-8.172, -8.142), 1000: (-8.139, -8.123)}
PLAIN = ("gradient descent", "Adam", "FIRE", "L-BFGS")
POLICIES = ("policy", "policy-repeated", "adaptation", "adaptation-restarts", "policy-hopping")
SEARCHES = ("basin-hopping", "glass-hopping", "annealing")
#: Those of them whose moves know nothing of crystals.
GLASSY = SEARCHES[1:]
#: Evaluations of a start in table 1 and in table 2.
EVALUATIONS, SIZE_EVALUATIONS, QUICK_EVALUATIONS = 5_000, 2_000, 1_000
#: Budgets of the table of budgets.
BUDGETS = (500, 1000, 5000, 18_500)
#: CPU seconds of a start at equal time.
SECONDS, QUICK_SECONDS = 2.0, 1.0
STARTS = 10


@lru_cache(maxsize=4)
def starts_of(name: str, count: int, seed: int) -> Liquid:
    """Starts of a system of a table."""
    return liquid(name.split(":")[0].lower(), count, seed)


def weights_of(method: str, options: Options) -> dict:
    """The weights that a user named for a policy, and which they are."""
    if method not in POLICIES:
        return {}
    name = options.weights.get(method)
    if name is None:
        return {"weights": None}
    path = SHIPPED / f"{name}.json"
    return {"weights": name, "digest": digest(path if path.exists() else Path(name))}


def settings_of(system: str, method: str, options: Options, evaluations: int | None, seconds: float | None = None) -> dict:
    """What a cell is run with."""
    plain = method in PLAIN
    return {
        "count": options.count or STARTS,
        "evaluations": None if plain or seconds is not None else options.evaluations or evaluations,
        "seed": options.seed,
        "horizon": None,
        "seconds": None if plain else seconds,
        **weights_of(method, options),
    }


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """Energies, evaluations and CPU seconds of every start of a cell."""
    made = starts_of(settings["system"], settings["count"], settings["seed"])
    method, begun = settings["method"], time.process_time()
    own = learned({method: settings["weights"]} if settings.get("weights") else {})
    out = opponents.run(
        method, made.potential, made.system, made.structures, settings["evaluations"], settings["seconds"], settings["seed"],
        own.get(method),
    )  # fmt: skip
    return {
        "energies": listed([o.energy for o in out]),
        "spent": [int(o.evaluations) for o in out],
        "cpu_seconds": round(float(np.mean([o.cpu_seconds for o in out])), 4),
        "compiling": round(out[0].compiling, 2),
        "total_cpu_seconds": round(time.process_time() - begun, 2),
    }


def _lines(group: Sequence[Mapping], published: Mapping, divide: int = 1, digits: int = 2) -> list[tuple[str, ...]]:
    lines = [(name, "paper", f"{low:,.{digits}f}", f"{mean:,.{digits}f}", "", "") for name, (low, mean) in published.items()]
    for r in group:
        e, energies = mean_of(r), numbers(r["energies"])
        mean = f"{e.value / divide:,.{digits}f} ± {(e.high - e.value) / 1.96 / divide:,.{digits}f}"
        spent = f"{np.mean(r['spent']):,.0f}"
        # a title states the starts of its first row
        name = r["method"] if r["count"] == group[0]["count"] else f"{r['method']}, {r['count']} starts"
        lines.append((name, "here", f"{energies.min() / divide:,.{digits}f}", mean, spent, f"{r['cpu_seconds']:.2f}"))
    return lines


HEAD = ("method", "from", "lowest", "mean ± standard error", "evaluations per start", "CPU-s per start")


def _verdicts(system: str, group: Sequence[Mapping], of: str) -> list[str]:
    estimates = {r["method"]: mean_of(r) for r in group}
    lines = []
    for which, added in ((SEARCHES, ""), (GLASSY, ", among those that know no crystals")):
        others = {k: v for k, v in estimates.items() if k in which}
        if others and (len(which) == len(SEARCHES) or SEARCHES[0] in estimates):
            lines += [verdict(system, k, v, others, False, of + added) for k, v in estimates.items() if k in POLICIES]
    return lines


def _stated(r: Mapping) -> str:
    return f"{r['count']} starts, seed {r['seed']}"


def _sections(rows: Sequence[Mapping], of: Callable[[Mapping], str]) -> list[Section]:
    made = []
    for system, group in by_system(rows):
        digits = 0 if system.startswith("C-S-H") else 2
        searched = [r for r in group if r["method"] not in PLAIN]
        notes = _verdicts(system, searched, of(searched[0])) if searched else []
        lost = sum(int((~np.isfinite(numbers(r["energies"]))).sum()) for r in group)
        notes += [f"{lost} starts without a finite energy: in no mean"] if lost else []
        unit = starts_unit(system)
        title = f"{system}: energies in {unit} ({_stated(group[0])}; {of(searched[0]) if searched else 'relaxed once'})"
        known = PUBLISHED.get(system.split(":")[0], {})
        made.append(Section(title, HEAD, tuple(_lines(group, known if ":" not in system else {}, 1, digits)), tuple(notes)))
    return made


def starts_unit(system: str) -> str:
    """Unit of energy of a system."""
    return {"C": "kcal/mol", "S": "eV"}.get(system[0], "ε")


# Table 1, at equal evaluations and at equal time ----------------------------------------------------------------------


def table1_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of Table 1 is run with."""
    return settings_of(system, method, options, QUICK_EVALUATIONS if options.quick else EVALUATIONS)


def time_settings(system: str, method: str, options: Options) -> dict:
    """What a cell at equal CPU time is run with."""
    return settings_of(system, method, options, None, QUICK_SECONDS if options.quick else SECONDS)


def budget_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of the table of budgets is run with: LJ100:500 is 500 evaluations for each start."""
    name, _, budget = system.partition(":")
    if not budget.isdigit() or name not in PUBLISHED:
        raise Skipped(f"write {'|'.join(PUBLISHED)}:EVALUATIONS")
    return settings_of(system, method, options, int(budget))


def equal_evaluations(r: Mapping) -> str:
    """What a cell's methods had in common."""
    return f"{r['evaluations']:,} evaluations"


def equal_time(r: Mapping) -> str:
    """The same at equal time."""
    return f"{r['seconds']:g} CPU seconds"


# Table 2: sizes -------------------------------------------------------------------------------------------------------


def size_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of Table 2 is run with."""
    return settings_of(system, method, options, QUICK_EVALUATIONS if options.quick else SIZE_EVALUATIONS)


def size_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies per particle by size."""
    made = []
    for system, group in by_system(rows):
        n = int(system[2:])
        plain = [r for r in group if r["method"] in PLAIN]
        budgets = sorted({r["evaluations"] for r in group} - {None}) or [None]
        for budget in budgets:
            searched = [r for r in group if r["method"] not in PLAIN and r["evaluations"] == budget]
            known = (LARGER if group[0]["table"] == "table3" else SIZES).get(n)
            lines = _lines([*plain, *searched], {} if known is None else {"StriderNet": known}, n, 3)
            notes = _verdicts(system, searched, equal_evaluations(searched[0])) if searched else []
            of = "" if budget is None else f"; {budget:,} evaluations"
            title = f"{system}: energy per particle in ε ({_stated(group[0])}{of})"
            made.append(Section(title, HEAD, tuple(lines), tuple(notes)))
    return made


def larger_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of Table 3 is run with: the policy trained on 250 particles."""
    weights = {"policy": "strider-binary-250", "policy-repeated": "strider-binary-250"}
    return size_settings(system, method, replace(options, weights={**weights, **options.weights}))


def is_mixture(name: str) -> bool:
    """Whether it is a size of the mixture."""
    return name.startswith("LJ") and name[2:].isdigit() and int(name[2:]) >= 5


TABLES = (
    Table(
        "table1", "lowest and mean energies of ten fresh starts at equal evaluations, beside the published ones",
        tuple(PUBLISHED), (*PLAIN, *POLICIES, *SEARCHES), table1_settings, measure,
        lambda rows: _sections(rows, equal_evaluations), ("LJ100",),
    ),
    Table(
        "time", "the same at equal CPU time", tuple(PUBLISHED), (*POLICIES, *SEARCHES), time_settings, measure,
        lambda rows: _sections(rows, equal_time), ("LJ100",),
    ),
    Table(
        "budgets", "energies by the evaluations of each start", tuple(f"{s}:{b}" for s in PUBLISHED for b in BUDGETS),
        (*POLICIES, *SEARCHES), budget_settings, measure, lambda rows: _sections(rows, equal_evaluations), ("LJ100:1000",),
    ),
    Table(
        "table2", "energies per particle of mixtures of other sizes, by the policy trained on 100",
        tuple(f"LJ{n}" for n in SIZES), ("FIRE", "policy", "policy-repeated", "adaptation", "glass-hopping"), size_settings,
        measure, size_sections, ("LJ25",), is_mixture,
    ),
    Table(
        "table3", "the same by a policy trained on 250", tuple(f"LJ{n}" for n in LARGER),
        ("FIRE", "policy", "policy-repeated", "glass-hopping"), larger_settings, measure, size_sections, (), is_mixture,
    ),
    stridernet_speed.TABLE,
    stridernet_analyses.RATES,
    stridernet_analyses.COVARIANCE,
    stridernet_trainings.ESTIMATED,
    stridernet_trainings.TRAINED,
)  # fmt: skip


def figures(folder: Path, rows: Sequence[Mapping], options: Options, note: Callable[[str], None]) -> list[Path]:
    """The paper's figures; drawing needs more of the package than tables do."""
    from thalweg.benchmark.stridernet_figures import figures as draw

    return draw(folder, rows, options, note)


EXPERIMENT = Experiment("stridernet", "V. Bihani et al., StriderNet, ICML 2023 (arXiv:2301.12477)", TABLES, figures)
