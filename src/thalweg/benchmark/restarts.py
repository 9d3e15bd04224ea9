"""`thalweg bench problem.toml --restarts 50`: independent restarts of any input, how many succeed, and at what cost.

Each restart is an ordinary run in a folder of its own, with its number as seed; it ends at the target or at the input's limits.
A restart that is done has its row in its run's database, so that a benchmark that was killed goes on where it was, within
a restart too. Costs and successes are read from the traces afterwards: a target may also be the lowest energy that any of the
restarts found.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

from thalweg import __version__
from thalweg.benchmark.processes import results
from thalweg.config import Resolved, resolve
from thalweg.errors import InputError, RunFolderError, suggest
from thalweg.run import energy_scale, run
from thalweg.store import DATABASE, Store
from thalweg.survival import Curve, Median, median, success_curve
from thalweg.toml import parse_toml, read_input, to_toml

#: Where restarts go that were given no folder, in the current directory; and what is written there beside them.
ROOT, INPUT, RESULTS, CHART = "thalweg-bench", "problem.toml", "results.json", "success.html"
#: An energy counts as the target's within this many energy scales: as near as two records of one minimum are.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Row:
    """One restart: what it spent, its lowest energy, and (evaluations, energy) at each fall of that.

    The trace counts relaxations that had ended. Walkers that relax side by side had begun others, on which `in_flight`
    evaluations were spent at the end of the run, and so about as many at any moment: they are part of every cost here.
    """

    seed: int
    evaluations: int
    cpu_seconds: float
    energy: float
    reason: str
    trace: tuple[tuple[int, float], ...]
    in_flight: int = 0

    def reached(self, threshold: float) -> int | None:
        """Evaluations until the energy was this low; None if it never was."""
        return next((n for n, energy in self.costs if energy <= threshold), None)

    @property
    def costs(self) -> list[tuple[int, float]]:
        """The trace with what was in flight."""
        return [(min(n + self.in_flight, self.evaluations), energy) for n, energy in self.trace]


@dataclass(frozen=True)
class Outcome:
    """Restarts of one problem, judged by a target."""

    task: str
    target: float
    tolerance: float
    rows: tuple[Row, ...]
    found_here: bool = False  # the target is the lowest energy of these restarts, not one known before
    unit: str = "energy"

    @property
    def hits(self) -> np.ndarray:
        """Which restarts reached the target (n,)."""
        return np.array([r.reached(self.target + self.tolerance) is not None for r in self.rows])

    @property
    def spent(self) -> np.ndarray:
        """Evaluations of each to the target, or until it was stopped (n,)."""
        reached = [r.reached(self.target + self.tolerance) for r in self.rows]
        return np.array([r.evaluations if n is None else n for r, n in zip(self.rows, reached, strict=True)], float)

    @property
    def curve(self) -> Curve:
        """Success against evaluations."""
        return success_curve(self.hits, self.spent)

    @property
    def n50(self) -> Median:
        """Evaluations at which half of all restarts succeed."""
        return median(self.curve, self.spent)


def problems() -> list[str]:
    """Names of the problems in the package."""
    found = (files("thalweg.benchmark") / "problems").iterdir()
    return sorted(p.name.removesuffix(".toml") for p in found if p.name.endswith(".toml"))


def problem(what: str) -> tuple[str, dict]:
    """Name and tables of a TOML file, or of a problem of the package."""
    if what.endswith(".toml"):
        return Path(what).stem, read_input(what)
    if what not in problems():
        raise InputError(f'there is no problem "{what}".{suggest(what, problems())}')
    text = (files("thalweg.benchmark") / "problems" / f"{what}.toml").read_text(encoding="utf-8")
    return what, parse_toml(text, what)


def tables_for(tables: dict, target: float | None, evaluations: int | None) -> dict:
    """The tables with these limits; restarts of a benchmark do not end because a search believes it is done."""
    stop = {"confidence": "none", **tables.get("stop", {})}
    if target is not None:
        stop["target"] = target
    if evaluations is not None:
        stop["evaluations"] = evaluations
    return {**tables, "stop": stop}


def measure(
    name: str,
    tables: dict,
    restarts: int,
    folder: Path,
    workers: int = 1,
    first_seed: int = 0,
    tolerance: float | None = None,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Run what is not yet done of these restarts in `folder`, and judge all of them.

    Raises `RunFolderError` where the folder holds restarts of something else, and whatever a restart raises.
    """
    resolved = resolve(tables)
    if tolerance is None:
        tolerance = TOLERANCE * energy_scale(resolved.relaxation, resolved.system)
    text = to_toml(resolved.tables)
    _claim(folder, f"# tolerance {tolerance!r}\n{text}")
    unit = resolved.units[0]
    seeds = range(first_seed, first_seed + restarts)
    rows: dict[int, Row] = {}
    for row in _finished(seeds, text, folder, tolerance, workers):
        rows[row.seed] = row
        tell(
            f"seed {row.seed:4d}  {row.energy:16,.5f} {unit}  {row.evaluations:10,d} evaluations  "
            f"{row.cpu_seconds:8.2f} CPU-s  {row.reason}"
        )
    done = tuple(rows[s] for s in seeds)
    target = resolved.tables["stop"]["target"]
    lowest = min(r.energy for r in done)
    if target is None and not math.isfinite(lowest):
        raise InputError(f"no restart of {name} found anything; look at one of the runs in {folder} with `thalweg show`")
    return Outcome(name, lowest if target is None else target, tolerance, done, target is None, unit)


def _finished(seeds, text: str, folder: Path, tolerance: float, workers: int) -> Iterator[Row]:
    """Rows of the restarts in the order in which they end; those that are done come first."""
    left = []
    for seed in seeds:
        row = _kept(folder / f"{seed:04d}")
        if row is None:
            left.append(seed)
        else:
            yield row
    mend = f"what is done is in {folder}: the same command goes on from there, with fewer --workers if need be"
    yield from results(restart, [(text, seed, folder, tolerance) for seed in left], workers, mend)


@lru_cache(maxsize=16)
def _resolved(text: str) -> Resolved:
    return resolve(parse_toml(text))


def restart(text: str, seed: int, folder: Path, tolerance: float) -> Row:
    """Run one restart to its end, or go on with it, and keep its row."""
    resolved = _resolved(text)
    own = folder / f"{seed:04d}"
    target = resolved.tables["stop"]["target"]
    stop = replace(resolved.stop, target=None if target is None else target + tolerance)
    settings = replace(resolved.settings, seed=seed, finish=False)  # a comparison counts what the search spends
    begun = own.joinpath(DATABASE).exists() and _began(own)
    meta = {"name": resolved.name, "n_atoms": len(resolved.system.numbers), "units": resolved.units, "input": text}
    with Store.open(own, write=True) if begun else Store.create(own, meta) as store:
        cpu = _cpu()
        result = run(
            resolved.search, resolved.relaxation, resolved.system, settings, stop, store, resume=begun, hosting=resolved.hosting
        )
        # What worker processes used is not in the run's own clock.
        others = max(0.0, (_cpu() - cpu) - result.progress.session_cpu)
        now, flying = result.progress, int(result.progress.in_flight[1])
        row = Row(
            seed, now.evaluations + flying, now.cpu_seconds + others, result.energy, result.reason, trace_of(store), flying
        )
        store.commit(meta={"reason": result.reason, "row": asdict(row)})
    return row


def trace_of(store: Store) -> tuple[tuple[int, float], ...]:
    """(evaluations, energy) at each fall of the lowest energy of a run.

    From its progress, where energies are those of the hops, and its minima, whose energies are exact. No energy here
    is below the lowest minimum: what low precision saw there is not true.
    """
    minima = [(m.evaluations, m.energy) for m in store.minima()]
    if not minima:
        return ()
    floor = min(energy for _, energy in minima)
    seen = [(int(n), max(float(e), floor)) for row in store.progress() for n, _, e in row.get("trace") or ()]
    trace: list[tuple[int, float]] = []
    for n, energy in sorted(minima + seen):
        if not trace or energy < trace[-1][1]:
            trace.append((n, energy))
    return tuple(trace)


def _cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _began(folder: Path) -> bool:
    """Whether a run was begun there (a process may die before that)."""
    try:
        with Store.open(folder):
            return True
    except RunFolderError as error:
        if "never began" in str(error):
            return False
        raise


def _kept(folder: Path) -> Row | None:
    """The row of a restart that is done."""
    if not (folder / DATABASE).exists() or not _began(folder):
        return None
    with Store.open(folder) as store:
        row = store.meta.get("row")
    return None if row is None else row_from(row)


def row_from(table: dict) -> Row:
    """A row as it was before it became JSON."""
    energy = math.inf if table["energy"] is None else float(table["energy"])
    return Row(**{**table, "energy": energy, "trace": tuple((int(n), float(e)) for n, e in table["trace"])})


def _claim(folder: Path, text: str) -> None:
    """Keep the input with the restarts; refuse a folder that holds those of another."""
    path = folder / INPUT
    try:
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise RunFolderError(
                    f"{folder} holds restarts of another input, target or tolerance; choose another with --folder, "
                    f"or take that one: thalweg bench {shlex.quote(str(path))} --folder {shlex.quote(str(folder))}"
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror or error}; choose another with --folder") from None


def summary(outcome: Outcome) -> str:
    """What the restarts say, in a few lines."""
    n, hits = len(outcome.rows), int(outcome.hits.sum())
    curve = outcome.curve
    success, low, high = curve.at(curve.common)
    origin = "the lowest found here" if outcome.found_here else "given"
    lines = [
        f"target {outcome.target:,.6g} ({origin}), within {outcome.tolerance:.3g}: reached by {hits} of {n} restarts",
        f"success after {curve.common:,.0f} evaluations: {success:.2f}  (95 % bounds {low:.2f}-{high:.2f})",
        f"n50, evaluations at which half succeed: {outcome.n50}",
        f"CPU seconds per restart: {np.mean([r.cpu_seconds for r in outcome.rows]):.1f}, per 1000 evaluations: "
        f"{1e3 * sum(r.cpu_seconds for r in outcome.rows) / max(1, sum(r.evaluations for r in outcome.rows)):.2f}",
    ]
    if outcome.found_here:
        lines.append(
            "a target that is found by the restarts themselves flatters them: give --target where the minimum is known"
        )
    return "\n".join(lines)


def document(outcome: Outcome, tables: dict, command: Sequence[str]) -> dict:
    """Everything about the restarts, as JSON holds it."""
    finite = lambda v: v if math.isfinite(v) else None
    curve, n50 = outcome.curve, outcome.n50
    return {
        "task": outcome.task,
        "command": shlex.join(["thalweg", "bench", *command]),
        "versions": {
            "thalweg": __version__, "python": platform.python_version(), "jax": version("jax"), "numpy": np.__version__,
            "platform": platform.platform(),
        },
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "target": outcome.target,
        "tolerance": outcome.tolerance,
        "found_here": outcome.found_here,
        "unit": outcome.unit,
        "restarts": len(outcome.rows),
        "hits": int(outcome.hits.sum()),
        "n50": {k: finite(getattr(n50, k)) for k in ("value", "low", "high")},
        "curve": {k: getattr(curve, k).tolist() for k in ("cost", "success", "low", "high")},
        "rows": [
            {**asdict(r), "energy": finite(r.energy), "hit": bool(h), "spent": int(s)}
            for r, h, s in zip(outcome.rows, outcome.hits, outcome.spent, strict=True)
        ],
        "input": to_toml(resolve(tables).tables),
    }  # fmt: skip


def outcome_from(table: dict) -> Outcome:
    """The restarts that a JSON document holds."""
    rows = tuple(row_from({k: v for k, v in row.items() if k not in ("hit", "spent")}) for row in table["rows"])
    return Outcome(
        table["task"], float(table["target"]), float(table["tolerance"]), rows, bool(table["found_here"]), table["unit"]
    )


def write(path: Path, text: str) -> None:
    """Write a file as a whole, or raise `RunFolderError`."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another place") from None


def main(args, argv: Sequence[str]) -> int:
    """The command, from its parsed arguments; 0 if any restart reached the target."""
    from thalweg.report.success import page

    if args.restarts < 1 or args.workers < 1:
        raise InputError("--restarts and --workers must be at least 1")
    name, tables = problem(args.task)
    tables = tables_for(assigned(tables, args.set), args.target, args.evaluations)
    folder = args.folder or Path(ROOT) / name
    print(f"{name}: {args.restarts} restarts in {folder}", flush=True)
    tell = lambda line: print(line, flush=True)
    outcome = measure(name, tables, args.restarts, folder, args.workers, args.first_seed, args.tolerance, tell)
    print("\n" + summary(outcome))
    target = args.json or folder / RESULTS
    write(target, json.dumps(document(outcome, tables, argv), indent=1) + "\n")
    drawn = (name, outcome.curve, float(outcome.spent.max()), [r.costs for r in outcome.rows])
    write(folder / CHART, page([drawn], outcome.unit))
    print(f"wrote {target} and {folder / CHART}")
    return 0 if outcome.hits.any() else 1


def assigned(tables: dict, assignments: Sequence[str]) -> dict:
    """The tables with KEY=VALUE options (section.key=value) entered; a new kind takes the place of a table."""
    import tomllib

    tables = {k: dict(v) for k, v in tables.items()}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, key = path.strip().partition(".")
        if not equals or not dot or not key:
            raise InputError(f"--set {assignment}: write section.key=value, such as search.kind=random")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        table = tables.setdefault(section, {})
        if key == "kind" and table.get("kind") != value:
            table = tables[section] = {}  # keys of another kind would mean nothing here
        *parents, key = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    return tables
