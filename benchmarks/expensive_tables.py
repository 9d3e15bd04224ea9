"""Writes docs/benchmarks-expensive.md from benchmarks/results/expensive/: `python benchmarks/expensive_tables.py`."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np

from thalweg.benchmark.compare import common
from thalweg.benchmark.restarts import Outcome, outcome_from
from thalweg.survival import log_rank, median, success_curve

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "expensive"
PAGE = ROOT.parent / "docs" / "benchmarks-expensive.md"

TEXT = """# Results where energies are expensive

Written by `python benchmarks/expensive_tables.py` from `benchmarks/results/expensive/`, which hold every restart: its seed,
what it spent and each fall of its energy. Two-core virtual machine (AMD EPYC), both cores in use, 2026-11-21: CPU seconds are
upper bounds. Success is the fraction of restarts that reached the target, with 95 % bounds
(Kaplan-Meier, [exponential Greenwood](statistics.md)); n50 is the number of evaluations at which half of all restarts
succeed. CPU seconds include fitting models, compilation and, in the same process, the energies.

{problems}
{notes}"""

NOTES = ROOT / "expensive_notes.md"


def document(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def row(held: dict, outcome: Outcome) -> str:
    """One method on one problem."""
    curve = outcome.curve
    success, low, high = curve.at(curve.common)
    n = sum(r.evaluations for r in outcome.rows)
    cpu = sum(r.cpu_seconds for r in outcome.rows)
    lowest = min(r.energy for r in outcome.rows)
    middle = float(np.median([r.energy for r in outcome.rows]))
    return (
        f"| `{shown(held)}` | {int(outcome.hits.sum())} of {len(outcome.rows)} "
        f"| {success:.2f} [{low:.2f}, {high:.2f}] at {curve.common:,.0f} "
        f"| {outcome.n50} | {lowest:.3f}, {middle:.3f} | {1e3 * cpu / n:.1f} |"
    )


def table(problem: str, held: list[dict]) -> str:
    """The methods on one problem, and the log-rank test of each against the first.

    Where restarts had no target, it is the lowest energy that any of them found.
    """
    outcomes = common([outcome_from(h) for h in held])
    origin = ", the lowest energy found by any of these restarts" if outcomes[0].found_here else ""
    lines = [
        f"## {problem}",
        "",
        f"Target {outcomes[0].target:,.8g}{origin}, within {outcomes[0].tolerance:.2g}.",
        "",
        "| command | reached | success at evaluations | n50 [bounds] | lowest and median energy | CPU ms per evaluation |",
        "|---|---|---|---|---|---|",
        *map(row, held, outcomes),
        "",
    ]
    first = outcomes[0]
    for other, second in zip(held[1:], outcomes[1:], strict=True):
        p = log_rank(first.hits, first.spent, second.hits, second.spent)
        lines.append(f"- `{options(held[0])}` against `{options(other)}`: log-rank p = {p.p:.2g}")
    return "\n".join([*lines, ""])


def shown(held: dict) -> str:
    """The command without where its results went."""
    return re.sub(r" --(json|folder) \S+", "", held["command"])


def options(held: dict) -> str:
    """What distinguishes a command from others on the same problem."""
    rest = re.sub(r"^thalweg bench \S+| --(restarts|first-seed|evaluations|json|folder) \S+", "", held["command"])
    return rest.replace("--set ", "").replace("'", "").strip() or "the defaults"


def landscapes() -> str:
    """Success of N local searches against the law."""
    lines = ["| problem | searches | success | 95 % bounds | law |", "|---|---|---|---|---|"]
    for name in ("two-funnel", "rastrigin"):
        path = RESULTS / f"{name}.json"
        for p in document(path)["points"] if path.exists() else []:
            lines.append(f"| {name} | {p['members']} | {p['success']:.3f} | {p['low']:.3f}-{p['high']:.3f} | {p['law']:.3f} |")
    return "\n".join([*lines, ""])


def peers() -> str:
    """AGOX and thalweg on the same calculators."""
    lines = [
        "| problem, method | program | reached | n50 [bounds] | overhead per evaluation (ms) | per iteration (ms) "
        "| bytes printed per iteration |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("agox-*.json")):
        held = document(path)
        key = lambda r: (r["problem"], r["method"], r["side"])
        for (problem, method, side), rows in groupby(sorted(held["rows"], key=key), key=key):
            good = [r for r in rows if "error" not in r]
            if not good:
                continue
            hits, spent = np.array([r["hit"] for r in good]), np.array([r["evaluations"] for r in good], float)
            over = 1e3 * sum(r["cpu"] - r["calculator"] for r in good)
            steps = max(1, sum(r["iterations"] for r in good))
            printed = sum(r["printed"] for r in good) / steps
            n50 = median(success_curve(hits, spent), spent)
            lines.append(
                f"| {problem}, {method} | {side} | {int(hits.sum())} of {len(good)} | {n50} "
                f"| {over / sum(r['evaluations'] for r in good):.2f} | {over / steps:.1f} | {printed:,.0f} |"
            )
    return "\n".join([*lines, ""])


def workers() -> str:
    """How busy the driver keeps them."""
    path = RESULTS / "workers.json"
    rows = document(path)["rows"] if path.exists() else []
    lines = ["| workers | evaluations per second | busy | driver, CPU ms per evaluation |", "|---|---|---|---|"]
    lines += [
        f"| {r['workers']:,} | {r['per_second']:,.0f} | {r['busy']:.1%} | {r['driver_cpu_ms_per_evaluation']:.2f} |"
        for r in rows
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    held = [document(p) for p in sorted(RESULTS.glob("*.json")) if "rows" in document(p) and "curve" in document(p)]
    task = lambda h: h["task"]
    by_task = [(name, list(group)) for name, group in groupby(sorted(held, key=task), key=task)]
    notes = NOTES.read_text(encoding="utf-8").format(landscapes=landscapes(), agox=peers(), workers=workers())
    PAGE.write_text(TEXT.format(problems="\n".join(table(*pair) for pair in by_task), notes=notes), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
