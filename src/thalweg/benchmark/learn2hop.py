"""The tables of Learn2Hop, run again: what was published, strong baselines and the learned methods, side by side.

A. Merchant, L. Metz, S. Schoenholz and E. Cubuk, "Learn2Hop", ICML 2021 (arXiv:2107.09661). Every start of every method has the
same evaluations of energy and forces, those of the last relaxation counted; bounds are at 95 %, exact for counts
(`thalweg.benchmark.fresh_starts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from thalweg.benchmark import learn2hop_hulls, learn2hop_transfer
from thalweg.benchmark.experiments import Estimate, Experiment, Options, Section, Table, mean_of, numbers, verdict
from thalweg.benchmark.fresh_starts import POLISH, fraction, per_success
from thalweg.benchmark.learn2hop_methods import LEARNED, finds, horizon_for, problem, relaxed_once, result, weights_for
from thalweg.display import plural
from thalweg.references import lennard_jones

#: Evaluations after which success is counted.
WITHIN = (300, 400, 500, 1000, 2000)
#: Steps of one annealing with which most of 1,000 evaluations are one of them; LJ13 has them within 400.
HORIZONS = {"LJ13": 340, "LJ19": 900, "LJ26": 900}
#: Steps of one learned annealing with which energies at 50,000 evaluations are lowest, where they are not those of the preset:
#: on gold long annealings all end in the same two structures (12 starts of seed 0, 10,000 evaluations: mean -181.763 with 200
#: steps, -181.741 with 300, -181.711 with 450, -181.686 with 800, and -181.62 with the 2,960 of the preset).
SHORTER = {"Au55": 200}
#: Largest evaluations of a start of the table of restarts.
BUDGETS = {"LJ19": 10_000, "LJ23": 15_000, "LJ26": 20_000, "LJ33": 40_000, "LJ38": 60_000}
QUICK_COUNT = 32
MAIN = ("adam", "fire", "annealed", "hop", "squeeze", "squeeze-short", "tuned", "learned", "learned-hop", "learn2hop")
#: Table 2: lowest and mean energy of 150 starts after 50,000 steps; in it Adam and FIRE relax each start once.
PUBLISHED = {
    "LJ13": {
        "Adam": (-44.33, -40.58), "FIRE": (-44.33, -40.45), "basin hopping": (-44.33, -43.49), "ESMC": (-44.33, -44.26),
        "GA": (-44.33, -44.31),
    },
    "LJ75": {
        "Adam": (-390.34, -380.52), "FIRE": (-389.12, -380.23), "basin hopping": (-392.16, -381.49),
        "ESMC": (-396.24, -390.33), "GA": (-396.28, -390.92),
    },
    "Au55": {
        "Adam": (-180.94, -179.94), "FIRE": (-181.75, -180.94), "basin hopping": (-181.89, -181.38),
        "ESMC": (-181.89, -181.51), "GA": (-181.89, -181.61),
    },
    "SW64": {
        "Adam": (-260.08, -256.83), "FIRE": (-261.44, -257.01), "basin hopping": (-261.64, -259.14),
        "ESMC": (-262.95, -260.14), "GA": (-264.17, -261.81),
    },
}  # fmt: skip
#: What the text says of LJ13 after 50,000 steps: of 150 starts.
PUBLISHED_LJ13 = {"Adam": 20, "learned, more than": 140}


def by_system(rows: Sequence[Mapping]) -> Iterator[tuple[str, list[Mapping]]]:
    """Rows of each system, in their order."""
    for name, group in groupby(rows, key=lambda r: r["system"]):
        yield name, list(group)


def costs(row: Mapping) -> tuple[str, str]:
    """Steps of one annealing and CPU seconds, for tables."""
    return "" if row["horizon"] is None else f"{row['horizon']:,}", f"{row['cpu_seconds']:,.0f}"


def stated(rows: Sequence[Mapping]) -> str:
    """Starts, seed and evaluations, which all methods of a system have in common."""
    r = rows[0]
    return f"{r['count']} starts, seed {r['seed']}, {r['evaluations']:,} evaluations each"


def verdicts(system: str, estimates: Mapping[str, Estimate], larger: bool, of: str = "") -> list[str]:
    """One line for each trained method against the best of the others."""
    others = {k: v for k, v in estimates.items() if k not in LEARNED}
    return [verdict(system, k, estimates[k], others, larger, of) for k in LEARNED if k in estimates]


def settings_of(system: str, method: str, options: Options, count: int, evaluations: int, horizon: int | None = None) -> dict:
    """The settings of a cell: the user's, or these."""
    made = problem(system)
    weights = weights_for(method, made, options)
    steps = horizon_for(method, made, options)
    if horizon is not None and method in ("annealed", "learned") and options.horizon is None:
        steps = horizon
    return {
        "count": options.count or (min(count, QUICK_COUNT) if options.quick else count),
        "evaluations": options.evaluations or evaluations,
        "seed": options.seed,
        "horizon": steps,
        **weights,
    }


# Success within a number of evaluations -------------------------------------------------------------------------------


def success_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with."""
    return settings_of(system, method, options, 150, WITHIN[-1], HORIZONS.get(system))


def success_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """What its starts found, the last relaxation within the evaluations."""
    return result(*finds(settings, settings["evaluations"] + POLISH))


def success_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Success with its bounds, by evaluations."""
    made = []
    for system, group in by_system(rows):
        last = group[0]["evaluations"]
        columns = [w for w in WITHIN if w < last] + [last]
        rate = lambda r, within: Estimate(*fraction(int((numbers(r["first"]) <= within).sum()), r["count"]))
        lines, notes = [], []
        for r in group:
            own = [rate(r, w) for w in columns]
            shown = [f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in own]
            lines.append((r["method"], *shown, *costs(r)))
        for w in columns:
            notes += verdicts(system, {r["method"]: rate(r, w) for r in group}, True, f"{w:,} evaluations")
        if system == "LJ13":
            said = ", ".join(f"{name} {n}" for name, n in PUBLISHED_LJ13.items())
            notes.append(f"published, of 150 starts after 50,000 steps: {said}")
        head = ("method", *[f"within {w:,}" for w in columns], "annealing", "CPU-s")
        made.append(Section(f"{system}: success ({stated(group)})", head, tuple(lines), tuple(notes)))
    return made


# Evaluations per success ----------------------------------------------------------------------------------------------


def restarts_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with: budgets grow with the size."""
    n = int(system[2:])
    return settings_of(system, method, options, 150, BUDGETS.get(system, int(max(3000, round(12 * n**2.35, -3)))))


def restarts_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """What its starts found, each ended at its first success."""
    return result(*finds(settings, settings["evaluations"] + POLISH, stop_at_target=True))


def cost_of(row: Mapping) -> Estimate:
    """Evaluations per success: of starts that each end at their first."""
    first = numbers(row["first"])
    return Estimate(*per_success(float(np.minimum(first, row["evaluations"]).sum()), int(np.isfinite(first).sum())))


def restarts_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Evaluations per success with exact bounds."""
    made = []
    for system, group in by_system(rows):
        estimates = {r["method"]: cost_of(r) for r in group}
        lines = []
        for r in group:
            e = estimates[r["method"]]
            value = f"{e.value:,.0f}" if np.isfinite(e.value) else "none"
            bounds = f"[{e.low:,.0f}, {f'{e.high:,.0f}' if np.isfinite(e.high) else '∞'}]"
            hits = int(np.isfinite(numbers(r["first"])).sum())
            lines.append((r["method"], f"{hits} of {r['count']}", value, bounds, *costs(r)))
        head = ("method", "starts that succeeded", "evaluations per success", "95 % bounds", "annealing", "CPU-s")
        title = f"{system}: evaluations per success ({stated(group).replace('evaluations each', 'evaluations each at most')})"
        made.append(Section(title, head, tuple(lines), tuple(verdicts(system, estimates, False))))
    return made


# Table 2 --------------------------------------------------------------------------------------------------------------


def table2_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with."""
    steps = SHORTER.get(system) if method == "learned" else None
    return settings_of(system, method, options, 150, 2000 if options.quick else 50_000, steps)


def table2_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """What its starts found, or what one relaxation from each gave."""
    if settings["method"].endswith("-once"):
        return relaxed_once(settings)
    return result(*finds(settings, settings["evaluations"]))


def table2_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Lowest and mean energies beside the published ones, and how often the lowest known was reached."""
    made = []
    for system, group in by_system(rows):
        known = problem(system)
        estimates = {r["method"]: mean_of(r) for r in group}
        lines = []
        for name, (lowest, mean) in PUBLISHED[system].items():
            lines.append((name, "paper", f"{lowest:.2f}", f"{mean:.2f}", "", "", ""))
        for r in group:
            energies, e = numbers(r["energies"]), estimates[r["method"]]
            reached = int((energies <= known.best + known.confirmed).sum())  # type: ignore[operator]
            mean = f"{e.value:.3f} ± {(e.high - e.value) / 1.96:.3f}"
            lines.append((r["method"], "here", f"{energies.min():.4f}", mean, f"{reached} of {r['count']}", *costs(r)))
        notes = verdicts(system, estimates, False, "mean energy")
        lost = sum(int((~np.isfinite(numbers(r["energies"]))).sum()) for r in group)
        if lost:
            notes.append(f"{plural(lost, 'start')} without a finite energy: in no mean")
        if system == "SW64" and "tuned" in estimates:
            notes.append(
                "tuned begins from crystalline starts too and has the move replicate, which makes a crystal of a part of the "
                "cell: it finds the crystal by construction, and says nothing of annealing"
            )
        if {"adam", "fire"} & set(estimates):
            notes.append("adam and fire begin again from new starts until their evaluations are spent; adam-once and "
                         "fire-once relax each start once, as the published ones")  # fmt: skip
        head = ("method", "from", "lowest", "mean ± standard error", f"reached {known.best:.9g}", "annealing", "CPU-s")
        unit = known.potential.units(np.asarray(known.system.numbers))[0]
        made.append(Section(f"{system}: energies in {unit} ({stated(group)})", head, tuple(lines), tuple(notes)))
    return made


def is_cluster(name: str) -> bool:
    """Whether it is a Lennard-Jones cluster whose lowest energy is known."""
    return bool(re.fullmatch(r"LJ\d+", name)) and int(name[2:]) in lennard_jones()


def figures(folder: Path, rows: Sequence[Mapping], options: Options, note: Callable[[str], None]) -> list[Path]:
    """The paper's figures; drawing needs more of the package than tables do."""
    from thalweg.benchmark.learn2hop_figures import figures as draw

    return draw(folder, rows, options, note)


EXPERIMENT = Experiment(
    "learn2hop",
    "A. Merchant et al., Learn2Hop, ICML 2021 (arXiv:2107.09661)",
    (
        Table(
            "success", "fraction of fresh starts that reach the lowest known energy within a number of evaluations",
            ("LJ13", "LJ19", "LJ26"), MAIN, success_settings, success_measure, success_sections, ("LJ13",), is_cluster,
        ),
        Table(
            "restarts", "evaluations per success; LJ23 and LJ33 were never trained on",
            ("LJ19", "LJ23", "LJ26", "LJ33", "LJ38"), MAIN, restarts_settings, restarts_measure, restarts_sections, (),
            is_cluster,
        ),
        Table(
            "table2", "lowest and mean energies of 150 starts at 50,000 evaluations, beside the published ones",
            tuple(PUBLISHED), (*MAIN[:2], "adam-once", "fire-once", *MAIN[2:]), table2_settings, table2_measure,
            table2_sections,
        ),
        learn2hop_hulls.TABLE,
        learn2hop_transfer.TRANSFER,
        learn2hop_transfer.ABLATION,
    ),
    figures,
)  # fmt: skip
