"""Writes docs/benchmarks-expensive.md from benchmarks/results/expensive/: `python benchmarks/expensive_tables.py`."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np

from thalweg.benchmark.restarts import outcome_from
from thalweg.survival import log_rank

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "expensive"
PAGE = ROOT.parent / "docs" / "benchmarks-expensive.md"

TEXT = """# Results where energies are expensive

Written by `python benchmarks/expensive_tables.py` from `benchmarks/results/expensive/`, which hold every restart: its seed, what it
spent and each fall of its energy. Two-core virtual machine (AMD EPYC), both cores in use, 2026-11-21: CPU seconds are upper bounds.
Success is the fraction of restarts that reached the target, with 95 % bounds (Kaplan-Meier, [exponential Greenwood](statistics.md));
n50 is the number of evaluations at which half of all restarts succeed. Restarts have seeds from 0 on; nothing was tuned on the
problem unless a note says so. CPU seconds include fitting models, compilation and, in the same process, the energies.

{problems}
{notes}"""

NOTES = ROOT / "expensive_notes.md"


def document(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def row(held: dict) -> str:
    """One method on one problem."""
    outcome = outcome_from(held)
    budget = float(outcome.spent.max())
    success, low, high = outcome.curve.at(budget)
    n = sum(r.evaluations for r in outcome.rows)
    cpu = sum(r.cpu_seconds for r in outcome.rows)
    lowest = min(r.energy for r in outcome.rows)
    middle = float(np.median([r.energy for r in outcome.rows]))
    return (
        f"| `{held['command']}` | {int(outcome.hits.sum())} of {len(outcome.rows)} | {success:.2f} [{low:.2f}, {high:.2f}] "
        f"at {budget:,.0f} | {outcome.n50} | {lowest:.3f}, {middle:.3f} | {1e3 * cpu / n:.1f} |"
    )


def table(problem: str, held: list[dict]) -> str:
    """The methods on one problem, and the log-rank test of each against the first."""
    lines = [
        f"## {problem}",
        "",
        f"Target {held[0]['target']:,.6g}, within {held[0]['tolerance']:.2g}.",
        "",
        "| command | reached | success at evaluations | n50 [bounds] | lowest and median energy | CPU ms per evaluation |",
        "|---|---|---|---|---|---|",
        *(row(h) for h in held),
        "",
    ]
    first = outcome_from(held[0])
    for other in held[1:]:
        second = outcome_from(other)
        p = log_rank(first.hits, first.spent, second.hits, second.spent)
        lines.append(f"- first against `{options(other)}`: log-rank p = {getattr(p, 'pvalue', p):.2g}")
    return "\n".join([*lines, ""])


def options(held: dict) -> str:
    """What distinguishes a command."""
    return held["command"].partition("--set ")[2].split(" --")[0] or "the defaults"


def main() -> None:
    held = [document(p) for p in sorted(RESULTS.glob("*.json")) if "rows" in document(p) and "curve" in document(p)]
    by_task = [(task, list(group)) for task, group in groupby(sorted(held, key=lambda h: h["task"]), key=lambda h: h["task"])]
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    PAGE.write_text(TEXT.format(problems="\n".join(table(*pair) for pair in by_task), notes=notes), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
