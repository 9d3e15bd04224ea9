"""Do sets of restarts succeed at the same rate? `thalweg bench compare A.json B.json`, and what `thalweg compare` says."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from thalweg.benchmark.experiments import Section
from thalweg.benchmark.methods import Method, Restart
from thalweg.benchmark.restarts import Outcome, outcome_from, write
from thalweg.errors import InputError
from thalweg.survival import RISK, Comparison, Curve, Median, log_rank, median, success_curve

#: What a restart spends, in the order in which `Restart.reached` says it.
EVALUATIONS, CPU = 0, 1


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


def shared(curves: Sequence[Curve]) -> float:
    """The cost to which all restarts of all methods were followed, unless they succeeded before."""
    failing = [c.common for c in curves if c.hits < c.restarts]
    return min(failing) if failing else max(c.common for c in curves)


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
    budget = shared([o.curve for o in outcomes])
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


# -- several methods on one system -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Restarts of one method, judged by a threshold of the energy; costs are `EVALUATIONS` or `CPU`."""

    method: Method
    rows: tuple[Restart, ...]
    threshold: float

    @cached_property
    def hits(self) -> np.ndarray:
        """Which restarts reached it (n,)."""
        return np.array([r.reached(self.threshold) is not None for r in self.rows])

    def spent(self, cost: int) -> np.ndarray:
        """What each spent until it reached it, or until it was stopped (n,)."""
        reached = [r.reached(self.threshold) for r in self.rows]
        ends = [(r.evaluations, r.cpu_seconds) for r in self.rows]
        return np.array([e[cost] if n is None else n[cost] for n, e in zip(reached, ends, strict=True)], float)

    def curve(self, cost: int) -> Curve:
        """Success against a cost."""
        return success_curve(self.hits, self.spent(cost))

    def n50(self, cost: int) -> Median:
        """The cost at which half of all restarts succeed."""
        return median(self.curve(cost), self.spent(cost))

    def against(self, other: Judged, cost: int) -> Comparison:
        """The log-rank test of this method, the first, and another."""
        return log_rank(self.hits, self.spent(cost), other.hits, other.spent(cost))

    @property
    def energies(self) -> np.ndarray:
        """Lowest energies of the restarts that found any (k,)."""
        found = np.array([r.energy for r in self.rows])
        return found[np.isfinite(found)]


@dataclass(frozen=True)
class Verdict:
    """Methods on one system, the first of which the others are compared with; `limits` are the budget of a restart."""

    system: str
    unit: str
    target: float
    tolerance: float
    origin: str  # of the target: known, given, found
    limits: dict
    judged: tuple[Judged, ...]

    @property
    def level(self) -> float:
        """What p has to be below for a difference to be said: .05, divided by the comparisons of one cost."""
        return RISK / max(len(self.judged) - 1, 1)

    def common(self, cost: int) -> float:
        """The cost to which all restarts of all methods were followed, and no more than the budget."""
        limit = self.limits.get(("evaluations", "cpu")[cost])
        return min(shared([j.curve(cost) for j in self.judged]), math.inf if limit is None else float(limit))

    @property
    def sections(self) -> list[Section]:
        """The tables and what they say."""
        return [_by_evaluations(self), _by_time(self)]

    @property
    def notes(self) -> list[str]:
        """What must be known to read them."""
        return [*_findings(self), *_caveats(self)]

    @property
    def results(self) -> list[dict]:
        """The same as numbers for JSON."""
        return [_numbers(self, j) for j in self.judged]


def judge(
    system: str, unit: str, methods: Sequence[Method], rows: Sequence[Restart], target: float | None, origin: str,
    tolerance: float, limits: dict,
) -> Verdict:  # fmt: skip
    """The verdict on restarts; without a target the lowest energy that any of them found takes its place.

    Raises `InputError` where none found anything.
    """
    if target is None:
        target, origin = min((r.energy for r in rows), default=math.inf), "found"
    if not math.isfinite(target):
        raise InputError(f"no restart of any method found an energy of {system}; try one with `thalweg search`")
    own = lambda method: tuple(sorted((r for r in rows if r.method == method.name), key=lambda r: r.seed))
    judged = tuple(Judged(m, own(m), target + tolerance) for m in methods if own(m))
    return Verdict(system, unit, target, tolerance, origin, limits, judged)


def _by_evaluations(verdict: Verdict) -> Section:
    at = verdict.common(EVALUATIONS)
    lines = []
    for j in verdict.judged:
        e = j.energies
        error = f" ± {e.std(ddof=1) / len(e) ** 0.5:.4f}" if len(e) > 1 else ""
        energies = (f"{e.min():,.4f}", f"{e.mean():,.4f}{error}") if len(e) else ("none", "none")
        found = f"{int(j.hits.sum())} of {len(j.rows)}"
        row = (j.method.name, found, _success(j, EVALUATIONS, at), str(j.n50(EVALUATIONS)), *energies)
        lines.append((*row, _test(verdict, j, EVALUATIONS)))
    head = ("method", "found", f"success in {at:,.0f}", "n50, evaluations", f"lowest, {verdict.unit}", "mean", "log-rank p")
    return Section("at equal evaluations", head, tuple(lines))


def _by_time(verdict: Verdict) -> Section:
    at = verdict.common(CPU)
    lines = []
    for j in verdict.judged:
        each = 1e3 * sum(r.cpu_seconds for r in j.rows) / max(1, sum(r.evaluations for r in j.rows))
        row = (j.method.name, _success(j, CPU, at), _rounded(j.n50(CPU)), f"{each:.3g}", _training(j.method))
        lines.append((*row, _test(verdict, j, CPU)))
    head = ("method", f"success in {at:,.3g} CPU-s", "n50, CPU-s", "CPU-ms per evaluation", "training, CPU-s", "log-rank p")
    return Section("at equal CPU time", head, tuple(lines))


def _success(judged: Judged, cost: int, at: float) -> str:
    success, low, high = judged.curve(cost).at(at)
    return f"{success:.2f} [{low:.2f}, {high:.2f}]"


def _rounded(median: Median) -> str:
    """A median of seconds, which are known to no more digits than three."""
    short = lambda v: float(f"{v:.3g}")
    return str(Median(short(median.value), short(median.low), short(median.high), short(median.budget)))


def _training(method: Method) -> str:
    seconds = method.training_seconds
    return "none" if not method.training else "unknown" if seconds is None else f"{seconds:,.0f}"


def _test(verdict: Verdict, judged: Judged, cost: int) -> str:
    first = verdict.judged[0]
    if judged is first:
        return "(first)"
    test = first.against(judged, cost)
    ahead = {"first": first, "second": judged, None: None}[test.ahead]
    return f"{test.p:.2g}" + (f", {ahead.method.name} ahead" if ahead is not None and test.p < verdict.level else "")


def _findings(verdict: Verdict) -> list[str]:
    """What was found about each method beside the first, in a sentence, and what its training is worth."""
    first, said = verdict.judged[0], []
    for j in verdict.judged[1:]:
        both = [_verdict(verdict, first, j, cost) for cost in (EVALUATIONS, CPU)]
        said.append(f"{j.method.name} beside {first.method.name}: {both[0]} in evaluations, {both[1]} in CPU time")
    for j in verdict.judged:
        if j.method.training:
            names = ", ".join(f"{name} {'?' if s is None else f'{s:,.0f}'}" for name, s in j.method.training)
            said.append(f"{j.method.name} was trained before, once (CPU-s: {names}), which no row counts{_pays(first, j)}")
    if not any(j.hits.any() for j in verdict.judged):
        lowest = min((j.energies.min() for j in verdict.judged if len(j.energies)), default=math.inf)
        said.append(
            f"no restart of any method reached the target; the lowest energy is {lowest:,.8g} {verdict.unit}: --target "
            "best judges by that"
        )
    return said


def _verdict(verdict: Verdict, first: Judged, other: Judged, cost: int) -> str:
    test = first.against(other, cost)
    if test.ahead is None or test.p >= verdict.level:
        return f"no difference shown (p = {test.p:.2g})"
    return f"{'behind' if test.ahead == 'first' else 'ahead'} (p = {test.p:.2g})"


def _pays(first: Judged, other: Judged) -> str:
    """After how many searches a training has paid for itself, where that can be said."""
    seconds, mine, theirs = other.method.training_seconds, other.n50(CPU).value, first.n50(CPU).value
    if other is first or seconds is None or not (math.isfinite(mine) and math.isfinite(theirs)):
        return ""
    if mine >= theirs:
        return f"; by these medians it does not pay for itself beside {first.method.name}"
    return f"; by these medians it has paid for itself after {math.ceil(seconds / (theirs - mine)):,} searches"


def _caveats(verdict: Verdict) -> list[str]:
    """How numbers were come by, and what they do not say."""
    judged = verdict.judged
    origin = {
        "known": "the lowest published",
        "given": "given",
        "found": "the lowest that any of these restarts found, which favours none of them and is no proof of a global minimum",
    }[verdict.origin]
    seeds = sorted({r.seed for j in judged for r in j.rows})
    said = [
        f"target {verdict.target:,.8g} {verdict.unit} ({origin}), reached within {verdict.tolerance:.2g}; a restart ends "
        f"{'' if verdict.origin == 'found' else 'there or '}with its budget, and one that ended without counts as censored "
        "(Kaplan-Meier, 95 % bounds)",
        f"seeds {seeds[0]} to {seeds[-1]}, the same for all methods, each with its own defaults; every energy counts, those of "
        "relaxations that had not ended too",
        "CPU seconds are of all that a restart takes, fitting of models included; compilation is not, as far as a few "
        "relaxations before the first restart compile it",
    ]
    if len(judged) > 2:
        said.append(
            f"{len(judged) - 1} methods are compared with {judged[0].method.name}: a difference is said where p is below "
            f"{verdict.level:.2g}, which is .05 divided by their number; a larger p does not say that two are alike"
        )
    partly = [j.method.name for j in judged if not j.method.relaxes]
    if partly:
        said.append(
            f"{', '.join(partly)}: a few steps for each proposal, not to the minimum; for their sake all are judged within "
            f"{verdict.tolerance:.2g} of the target, by --tolerance otherwise"
        )
    limit = verdict.limits.get("evaluations")
    over = [j.method.name for j in judged if limit is not None and min(r.evaluations for r in j.rows) > 1.5 * limit]
    if over:
        said.append(
            f"{', '.join(over)}: walkers side by side spend more than {limit:,} evaluations before any can end; --walkers 1 "
            "makes small budgets comparable"
        )
    if len({len(j.rows) for j in judged}) > 1:
        said.append("methods have different numbers of restarts so far; `thalweg compare --resume` goes on")
    return said


def _numbers(verdict: Verdict, j: Judged) -> dict:
    """What is in the tables of one method."""
    finite = lambda v: float(v) if math.isfinite(v) else None
    table: dict = {"method": j.method.name, "restarts": len(j.rows), "hits": int(j.hits.sum())}
    for cost, name in enumerate(("evaluations", "cpu_seconds")):
        at, n50 = verdict.common(cost), j.n50(cost)
        table[name] = {
            "at": at,
            "success": [float(v) for v in j.curve(cost).at(at)],
            "n50": [finite(v) for v in (n50.value, n50.low, n50.high)],
            "p": None if j is verdict.judged[0] else verdict.judged[0].against(j, cost).p,
        }
    energies = {"lowest": finite(j.energies.min()), "mean": finite(j.energies.mean())} if len(j.energies) else {}
    return {**table, **energies, "training_cpu_seconds": j.method.training_seconds}
