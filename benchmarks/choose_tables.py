"""Writes docs/how-to-choose.md from committed results: `python benchmarks/choose_tables.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from thalweg.benchmark.compare import CPU, EVALUATIONS, Verdict, judge
from thalweg.benchmark.methods import method_from, restart_from
from thalweg.benchmark.restarts import outcome_from
from thalweg.choice import pays_from

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PAGE, NOTES = ROOT.parent / "docs" / "how-to-choose.md", ROOT / "choose_notes.md"
#: What energies may cost (s), and in words.
COSTS = {1e-3: "1 ms (EMT)", 4e-3: "4 ms (tight binding)", 3e-2: "30 ms", 1.0: "1 s", 60.0: "1 min"}
#: Restarts of both methods, atoms, and what an energy took in them (s): by the calculator's own clock in
#: `agox-gofee-2.json`, and by what basin hopping leaves of its evaluations.
BOTH = {"ni4au5": (9, 1.0e-3), "c6h6-3d": (12, 4.4e-3)}


def compared(name: str) -> tuple[dict, Verdict]:
    """A comparison that `thalweg compare` made."""
    held = json.loads((RESULTS / "choose" / f"{name}.json").read_text(encoding="utf-8"))
    about = held["about"]
    methods = [method_from(k, row) for k, row in about["methods"].items()]
    rows = [restart_from(row) for row in held["rows"]]
    target, limits = about["target"], about["limits"]
    return about, judge(about["name"], about["unit"], methods, rows, target, about["origin"], about["tolerance"], limits)


def curves(name: str, evaluations: tuple[int, ...], seconds: tuple[float, ...]) -> str:
    """Success at these costs, and the verdicts."""
    about, verdict = compared(name)
    head = [
        "method",
        *(f"{n:,}" for n in evaluations),
        "n50, evaluations",
        *(f"{s:g} s" for s in seconds),
        "n50, CPU-s",
        "training",
    ]
    lines = [f"`{about['command']}`:", "", row(head), "|" + "---|" * len(head)]
    for j in verdict.judged:
        success = lambda cost, at, j=j: f"{j.curve(cost).at(at)[0]:.2f}"
        training = f"{j.method.training_seconds:,.0f} CPU-s" if j.method.training else ""
        n50 = j.n50(CPU)
        cells = [*(success(EVALUATIONS, n) for n in evaluations), str(j.n50(EVALUATIONS))]
        cells += [*(success(CPU, s) for s in seconds), f"{n50.value:.2g} [{n50.low:.2g}, {n50.high:.2g}]", training]
        lines.append(row([f"`{j.method.name}`", *cells]).replace("inf", "∞"))
    kept = [note for note in verdict.notes if "beside" in note or "divided by" in note]
    return "\n".join([*lines, "", *(f"- {note}" for note in kept)])


def row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def crossover() -> str:
    """Seconds until half of the restarts succeed, by what an energy costs, and where both take the same."""
    columns, same = [], []
    for problem, (n_atoms, energy) in BOTH.items():
        needed, own, open_ended = [], [], False
        for method in ("bh", "gofee"):
            held = json.loads((RESULTS / "expensive" / f"{problem}-{method}.json").read_text(encoding="utf-8"))
            outcome = outcome_from(held)
            n50 = outcome.n50
            open_ended |= not math.isfinite(n50.value)
            needed.append(min(n50.value, n50.budget))
            own.append(float(np.median([r.cpu_seconds / r.evaluations for r in outcome.rows])) - energy)
        at = (needed[1] * own[1] - needed[0] * own[0]) / (needed[0] - needed[1])
        columns.append((problem, open_ended, needed, own))
        same.append(
            f"{'below ' if open_ended else ''}{1e3 * at:.1f} ms on `{problem}` ({n_atoms} atoms; the rule: "
            f"{1e3 * pays_from(n_atoms):.1f} ms)"
        )
    head = ["an energy costs", *(f"`{p}`, {m}" for p, *_ in columns for m in ("`basin-hopping`", "`gofee`"))]
    lines = [row(head), "|" + "---|" * len(head)]
    for cost, words in COSTS.items():
        cells = []
        for _, open_ended, needed, own in columns:
            times = [n * (o + cost) for n, o in zip(needed, own, strict=True)]
            cells += [("> " if open_ended else "") + spoken(times[0]), spoken(times[1])]
        lines.append(row([words, *cells]))
    return "\n".join([*lines, "", f"Both take the same at {' and '.join(same)}."])


def spoken(seconds: float) -> str:
    """12 s, 3 min, 2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def main() -> None:
    """Write the page."""
    text = NOTES.read_text(encoding="utf-8")
    text = text.replace("<lj38>", curves("lj38", (10_000, 30_000, 100_000, 300_000), (0.1, 0.3, 1.0, 3.0)))
    text = text.replace("<lj75>", curves("lj75", (100_000, 300_000, 1_000_000), (1.0, 3.0, 10.0)))
    PAGE.write_text(text.replace("<crossover>", crossover()), encoding="utf-8")


if __name__ == "__main__":
    main()
