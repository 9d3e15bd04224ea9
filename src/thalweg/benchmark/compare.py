"""`thalweg bench compare A.json B.json`: do two sets of restarts succeed at the same rate?"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from thalweg.benchmark.restarts import Outcome, outcome_from, write
from thalweg.errors import InputError
from thalweg.survival import log_rank


def read(path: Path) -> Outcome:
    """The restarts in a results file of `thalweg bench`, or in the folder that holds one."""
    path = path / "results.json" if path.is_dir() else path
    try:
        return outcome_from(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; `thalweg bench problem.toml --json {path}` writes one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} does not hold restarts; give files that `thalweg bench problem.toml` wrote") from None


def common(outcomes: list[Outcome], target: float | None = None, tolerance: float | None = None) -> list[Outcome]:
    """The same restarts judged by one target: the one given, the one they share, or the lowest that any of them found.

    Raises `InputError` where they were run for different targets: those that stopped at one say nothing of another.
    """
    known = {o.target for o in outcomes if not o.found_here}
    if target is not None:
        known.add(target)
    if len(known) > 1:
        raise InputError(f"the targets differ ({', '.join(f'{t:g}' for t in sorted(known))}); run them for the same one")
    lowest = min(o.target for o in outcomes)
    wanted = known.pop() if known else lowest
    widest = max(o.tolerance for o in outcomes) if tolerance is None else tolerance
    return [replace(o, target=wanted, tolerance=widest, found_here=target is None and o.found_here) for o in outcomes]


def table(names: list[str], outcomes: list[Outcome]) -> str:
    """Successes, medians and costs, one line each; and the log-rank test of each against the first."""
    budget = min(float(o.spent[~o.hits].min()) if (~o.hits).any() else np.inf for o in outcomes)
    budget = budget if np.isfinite(budget) else max(float(o.spent.max()) for o in outcomes)
    width = max(map(len, names))
    lines = [
        f"target {outcomes[0].target:,.6g} within {outcomes[0].tolerance:.3g}; success after {budget:,.0f} evaluations",
        f"{'':{width}s}  {'hits':>9s}  {'success':>18s}  {'n50 [95 % bounds]':32s}  {'CPU-s each':>10s}  log-rank p",
    ]
    for name, o in zip(names, outcomes, strict=True):
        success, low, high = o.curve.at(budget)
        said = "(first)"
        if o is not outcomes[0]:
            test = log_rank(outcomes[0].hits, outcomes[0].spent, o.hits, o.spent)
            ahead = {"first": f", {names[0]} ahead", "second": f", {name} ahead", None: ""}[test.ahead]
            said = f"{test.p:.2g}{ahead if test.p < 0.05 else ', no difference shown'}"
        lines.append(
            f"{name:{width}s}  {int(o.hits.sum()):4d}/{len(o.rows):<4d}  {f'{success:.2f} [{low:.2f}, {high:.2f}]':>18s}  "
            f"{o.n50!s:32s}  {np.mean([r.cpu_seconds for r in o.rows]):10.1f}  {said}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Compare results files."""
    p = argparse.ArgumentParser(prog="thalweg bench compare", description=__doc__)
    p.add_argument("files", nargs="+", type=Path, help="results of `thalweg bench problem.toml`, or the folders of them")
    p.add_argument("--target", type=float, help="energy to judge by, of restarts that were run without a target")
    p.add_argument("--tolerance", type=float, help="how near to the target counts (default: as when they were run)")
    p.add_argument("--html", type=Path, help="also draw the curves into this file")
    args = p.parse_args(argv)
    if len(args.files) < 2:
        raise InputError("compare needs two results files or more")
    outcomes = common([read(path) for path in args.files], args.target, args.tolerance)
    names = _names(args.files, outcomes)
    print(table(names, outcomes))
    if args.html is not None:
        from thalweg.report.success import page

        drawn = [
            (name, o.curve, float(o.spent.max()), [r.costs for r in o.rows]) for name, o in zip(names, outcomes, strict=True)
        ]
        write(args.html, page(drawn, outcomes[0].unit))
        print(f"wrote {args.html}")
    return 0


def _names(paths: list[Path], outcomes: list[Outcome]) -> list[str]:
    """Short names that tell them apart: tasks, or else folders and files."""
    tasks = [o.task for o in outcomes]
    if len(set(tasks)) == len(tasks):
        return tasks
    short = [p.parent.name if p.stem == "results" else p.stem for p in paths]
    return short if len(set(short)) == len(short) else [str(p) for p in paths]
