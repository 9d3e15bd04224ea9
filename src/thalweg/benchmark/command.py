"""`thalweg bench`: print success curves and mean first-hit costs, or sweep over all Lennard-Jones clusters."""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from thalweg import __version__
from thalweg.errors import InputError
from thalweg.structure import Structure

#: Tasks of `thalweg.benchmark.periodic`.
PERIODIC = ("ka100", "ka100-glass", "c-s-h", "sw64", "sw64-annealing", "sw64-tempering")


def parser() -> argparse.ArgumentParser:
    """Arguments of `thalweg bench`."""
    p = argparse.ArgumentParser(prog="thalweg bench", description=__doc__)
    p.add_argument(
        "task",
        help="an input (problem.toml, or one of the package's: ni4au5, c6h6-3d, c6h6-2d, sio2-8, tio2-8, lj13-overhead): "
        "success over --restarts; compare: two or more of their results; "
        "rastrigin, two-funnel: success against the size of a population; "
        "ljN (as lj38): first hits; lj-sweep: all N = 2-150; calibration; metals; baselines (published relaxations); "
        "ka100, ka100-glass, c-s-h, sw64, sw64-annealing, sw64-tempering",
    )
    p.add_argument("--restarts", type=int, default=20, help="inputs: independent runs (default 20; rastrigin, two-funnel: 200)")
    p.add_argument("--target", type=float, help="inputs: energy that is a success (default: the input's, or the lowest found)")
    p.add_argument("--tolerance", type=float, help="inputs: how near to the target counts (default 0.001 energy scales)")
    p.add_argument("--evaluations", type=int, help="inputs: evaluations allowed per restart (default: the input's)")
    p.add_argument("--workers", type=int, default=1, help="inputs: restarts run at the same time (default 1)")
    p.add_argument("--folder", type=Path, help="inputs: where restarts are kept (default thalweg-bench/NAME)")
    p.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="inputs: any key, as search.kind=random")
    p.add_argument("--seeds", type=int, default=20, help="searches to run (default 20)")
    p.add_argument("--first-seed", type=int, default=0, help="seed of the first (default 0)")
    p.add_argument("--time", type=float, default=100.0, help="seconds allowed per search (default 100)")
    p.add_argument("--cpu", type=float, help="CPU seconds allowed: lj-sweep in all (default 900), ka100, c-s-h, sw64 per seed")
    p.add_argument("--walkers", type=int, default=64)
    p.add_argument("--precision", choices=("float32", "float64"), default="float32", help="of the hops")
    p.add_argument("--moves", help="comma-separated moves instead of all (see `thalweg list`)")
    p.add_argument(
        "--starts", help="comma-separated starts instead of random and symmetric; baselines: how many (default 16 to 150)"
    )
    p.add_argument("--patience", type=int, help="hops without a lower energy before a walker starts anew")
    p.add_argument("--sizes", help="lj-sweep: a range such as 2-60")
    p.add_argument("--unseeded", action="store_true", help="lj-sweep: no starts from neighbouring sizes")
    p.add_argument("--table", choices=("stridernet", "learn2hop"), help="baselines: only this table")
    p.add_argument("--quick", action="store_true", help="baselines: one small system of each table")
    p.add_argument("--structure", type=Path, help="ka100, c-s-h, sw64: write the lowest structure to this file")
    p.add_argument("--json", type=Path, help="also write the results to this file")
    return p


def main(argv: list[str]) -> int:
    """Run a benchmark; 0 if every target was reached, 1 otherwise."""
    if argv[:1] == ["compare"]:
        from thalweg.benchmark import compare

        return compare.main(argv[1:])
    args = parser().parse_args(argv)
    task = args.task.lower()
    if args.task.endswith(".toml") or task in _problems():
        from thalweg.benchmark import restarts

        return restarts.main(args, argv)
    if task in ("rastrigin", "two-funnel"):
        return _landscape(task, args, "--restarts" in argv)
    if task == "lj-sweep":
        return _sweep(args)
    if task == "calibration":
        return _calibration(args)
    if task == "metals":
        return _metals(args)
    if task == "baselines":
        return _baselines(args)
    if task in PERIODIC:
        return _periodic(task, args)
    match = re.fullmatch(r"lj(\d+)", task)
    if match is None:
        raise InputError(
            f'unknown benchmark "{args.task}"; use problem.toml or one of {", ".join(sorted(_problems()))}, ljN with '
            "N = 2-150, lj-sweep, calibration, metals, baselines, rastrigin or two-funnel"
        )
    return _first_hits(int(match[1]), args)


def _problems() -> list[str]:
    """Names of the inputs in the package."""
    from importlib.resources import files

    return [p.name.removesuffix(".toml") for p in (files("thalweg.benchmark") / "problems").iterdir()]


def _landscape(task: str, args, given: bool) -> int:
    """Success of populations of several sizes on a function of two variables."""
    from thalweg.benchmark.landscapes import TASKS

    restarts = args.restarts if given else 200
    law = "1 - (1 - p)^N, p the share of the global basin" if task == "rastrigin" else "1 - .5^N"
    print(f"{task}: {restarts} populations of each size N; law: {law}")
    points = TASKS[task](restarts, args.first_seed)
    for p in points:
        said = "" if p.low <= p.law <= p.high else "  the law is outside the bounds"
        print(f"N {p.members:4d}  success {p.success:.3f}  95 % bounds {p.low:.3f}-{p.high:.3f}  law {p.law:.3f}{said}")
    command = f"thalweg bench {task} --restarts {restarts} --first-seed {args.first_seed}"
    results = {"task": task, "command": command, "version": __version__, "seed": args.first_seed}
    _write(args.json, {**results, "points": [vars(p) | {"success": p.success} for p in points]})
    return 0


def _settings(args):
    from thalweg.run import Settings

    return Settings(walkers=args.walkers, precision=args.precision)


def _first_hits(n: int, args) -> int:
    from thalweg.benchmark.clusters import compile_for, first_hit, reference_energies
    from thalweg.benchmark.curves import mean_cost, percentile_table, success_bounds, success_curve
    from thalweg.potentials.pair import LennardJones
    from thalweg.presets import cluster_search, restricted
    from thalweg.system import cluster

    if n not in reference_energies():
        raise InputError(f"no reference energy for LJ{n}; sizes 2-150 have one")
    potential = LennardJones()
    search = cluster_search(cluster(np.zeros(n, int), potential), potential)
    search = restricted(search, _names(args.moves), _names(args.starts), args.patience)
    settings = _settings(args)
    print(f"LJ{n}: {reference_energies()[n]:.6f}; moves and starts: {', '.join(search.origins)}; {args.walkers} walkers")
    print(f"compiled in {compile_for(n, search, settings):.1f} CPU-s (not counted below)")
    hits = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        hits.append(first_hit(n, seed, search, settings, args.time))
        h = hits[-1]
        print(
            f"seed {seed:4d}  {'hit ' if h.hit else 'MISS'} {h.energy:14.6f}  {h.cpu_seconds:8.3f} CPU-s  "
            f"{h.relaxations:8d} relaxations  {h.evaluations:10d} evaluations",
            flush=True,
        )
    hit = np.array([h.hit for h in hits])
    low, high = success_bounds(int(hit.sum()), len(hit))
    print(f"\nhits {hit.sum()} of {len(hit)}  (95 % bounds of the chance: {low:.2f}-{high:.2f})")
    print("mean to first hit, with 95 % bounds:")
    results: dict = {"task": f"lj{n}", "version": __version__, "python": platform.python_version(), "hits": int(hit.sum())}
    for name in ("cpu_seconds", "relaxations", "evaluations"):
        spent = np.array([getattr(h, name) for h in hits], float)
        mean = mean_cost(hit, spent)
        results[name] = vars(mean)
        table = "  ".join(f"{q:.0%} {c:.3g}" for q, c in percentile_table(success_curve(hit, spent)))
        print(f"  {name:12s} {mean}   reached by {table}")
    rate = sum(h.relaxations for h in hits) / sum(h.cpu_seconds for h in hits)
    print(f"  relaxations per CPU-second {rate:.0f} (host and polishing included)")
    results |= {"rate": rate, "seeds": [vars(h) for h in hits]}
    _write(args.json, results)
    return 0 if hit.all() else 1


def _sweep(args) -> int:
    from thalweg.benchmark.clusters import reference_energies, sweep

    sizes = _sizes(args.sizes) if args.sizes else None
    begun, wall = time.process_time(), time.perf_counter()
    state = sweep(args.first_seed, _settings(args), args.cpu or 900.0, sizes, not args.unseeded)
    sizes = sorted(reference_energies()) if sizes is None else sizes
    missing = [n for n in state.missing() if n in sizes]
    kind = "without seeds" if args.unseeded else "seeded from neighbouring sizes"
    print(f"\nfound {len(sizes) - len(missing)} of {len(sizes)} ({kind}); missing {missing}")
    print(f"{time.process_time() - begun:.1f} CPU-s, {time.perf_counter() - wall:.1f} s, compilation included")
    for n in state.below():
        print(f"BELOW THE REFERENCE: LJ{n} {state.best[n]:.6f} < {reference_energies()[n]:.6f}: verify this structure")
    results = {
        "task": "lj-sweep", "version": __version__, "seed": args.first_seed, "missing": missing, "seeded": not args.unseeded,
        "cpu_seconds": time.process_time() - begun, "how": state.how, "cpu": state.cpu, "best": state.best,
    }  # fmt: skip
    _write(args.json, results)
    return 0 if not missing else 1


def _sizes(text: str) -> list[int]:
    from thalweg.benchmark.clusters import reference_energies

    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None:
        raise InputError(f'sizes is "{text}"; write a range such as 2-60')
    return [n for n in reference_energies() if int(match[1]) <= n <= int(match[2])]


def _calibration(args) -> int:
    """How often a search that says it is 95 % sure is right: the estimate against known answers."""
    from thalweg.benchmark.clusters import claim
    from thalweg.benchmark.curves import success_bounds

    confidence, rows = 0.95, []
    for n in _sizes(args.sizes or "10-80"):
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            sure, right, cpu = claim(n, seed, _settings(args), confidence, args.time)
            rows.append({"atoms": n, "seed": seed, "sure": sure, "right": right, "cpu_seconds": cpu})
            if sure and not right:
                print(f"LJ{n} seed {seed}: sure and WRONG after {cpu:.1f} CPU-s", flush=True)
    sure = [r for r in rows if r["sure"]]
    wrong = sum(not r["right"] for r in sure)
    low, high = success_bounds(wrong, max(len(sure), 1))
    print(f"\n{len(rows)} searches of at most {args.time:g} CPU-s; {len(sure)} ended because they were {confidence:.0%} sure")
    print(f"of these {wrong} were wrong: {wrong / max(len(sure), 1):.1%} (95 % bounds {low:.1%}-{high:.1%})")
    unsure = [r for r in rows if not r["sure"]]
    print(f"of the {len(unsure)} that ran out of time, {sum(r['right'] for r in unsure)} had the known minimum all the same")
    _write(args.json, {"task": "calibration", "version": __version__, "confidence": confidence, "rows": rows})
    return 0


def _metals(args) -> int:
    from thalweg.benchmark.metals import rows, search

    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"{args.seeds} seeds of {args.time:g} CPU-s each; eV; reference: lowest known before (an upper bound)")
    print(
        f"{'composition':12s} {'parameters':12s} {'reference':>11s} {'found':>11s} {'below by':>9s}  at or below, same lowest"
    )
    done = []
    for row in rows():
        done.append(search(row, seeds, _settings(args), args.time))
        r = done[-1]
        below = r.reference - r.best
        print(
            f"{r.formula:12s} {r.parameters:12s} {r.reference:11.4f} {r.best:11.4f} {below:9.4f}  "
            f"{r.reached:2d}/{len(seeds)}  {r.agreed:2d}/{len(seeds)}",
            flush=True,
        )
    short = [r.formula for r in done if not r.reached]
    print(f"\nat or below the reference: {len(done) - len(short)} of {len(done)}{'; not ' + ', '.join(short) if short else ''}")
    _write(args.json, {"task": "metals", "version": __version__, "time": args.time, "rows": [vars(r) for r in done]})
    return 1 if short else 0


def _periodic(task: str, args) -> int:
    """Glass, gel and silicon: what each seed reaches within the task's effort."""
    from thalweg.benchmark.periodic import TASKS, compiled, restricted_task, search
    from thalweg.run import Stop

    problem = TASKS[task]()
    stop = problem.stop if args.cpu is None else Stop(cpu=args.cpu)
    if problem.name.startswith("sw64"):
        stop = Stop(**{**vars(stop), "target": problem.reference + 0.01})
    problem = restricted_task(problem, _names(args.moves), _names(args.starts))
    effort = ", ".join(f"{k} {v:,g}" for k, v in vars(stop).items() if v is not None)
    print(f"{problem.what}; {effort}; reference {problem.reference:,.3f} {problem.unit}")
    print(f"compiled in {compiled(problem):.1f} CPU-s (not counted below)")
    rows, best = [], None
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        row, result = search(problem, seed, stop)
        rows.append(row)
        if best is None or result.energy < best.energy:
            best = result
        print(
            f"seed {seed:4d}  {row.energy:16,.4f}  {row.evaluations:10,d} evaluations  {row.relaxations:8,d} relaxations  "
            f"{row.cpu_seconds:7.1f} CPU-s  {row.reason}",
            flush=True,
        )
    energies = np.array([r.energy for r in rows])
    error = energies.std(ddof=1) / len(energies) ** 0.5 if len(rows) > 1 else float("nan")
    reached = int((energies <= problem.reference + 0.01).sum())
    print(f"\nmean {energies.mean():,.3f} +- {error:,.3f}, lowest {energies.min():,.4f} {problem.unit} ({len(rows)} seeds)")
    print(f"at or below the reference: {reached} of {len(rows)}")
    _write(
        args.json,
        {
            "task": problem.name, "version": __version__, "effort": effort, "reference": problem.reference,
            "mean": energies.mean(), "standard_error": error, "lowest": energies.min(), "rows": [vars(r) for r in rows],
        },
    )  # fmt: skip
    if args.structure is not None and best is not None and best.best is not None:
        from thalweg.io import write_structure

        record = best.best
        structure = Structure.create(record.positions, record.numbers, record.cell, pbc=record.pbc)
        write_structure(args.structure, [structure], [record.energy])
    return 0 if reached else 1


def _baselines(args) -> int:
    """Plain relaxations from fresh starts, beside the published ones."""
    from thalweg.benchmark.baselines import line, measure, tasks

    if args.starts is not None and not (args.starts.isdecimal() and int(args.starts) > 1):
        raise InputError(f'starts is "{args.starts}"; baselines needs a number of starts above 1')
    begun = time.process_time()
    print("system, method: lowest and mean energy ± standard error; published, and deviation in standard errors; earlier check")
    rows = []
    for task in tasks(args.table, args.quick):
        count = int(args.starts or task.starts)
        rows += measure(task, count, args.first_seed)
        print("\n".join(line(row) for row in rows[-len(task.methods) :]), flush=True)
    spent = time.process_time() - begun
    print(f"{spent:.0f} CPU-s, compilation and the making of the starts included")
    shown = [
        {**vars(r), "min": r.lowest, "mean": r.mean, "error": r.error, "deviation": r.deviation} | {"energies": _finite(r)}
        for r in rows
    ]
    results = {
        "task": "baselines", "command": _command(args), "version": __version__, "python": platform.python_version(),
        "jax": version("jax"), "seed": args.first_seed, "cpu_seconds": spent, "rows": shown,
    }  # fmt: skip
    _write(args.json, results)
    return 0


def _finite(row) -> list[float | None]:
    """Energies of a row, None where a relaxation blew up: JSON knows no NaN."""
    return [e if np.isfinite(e) else None for e in row.energies]


def _command(args) -> str:
    """The command line of `thalweg bench baselines`, as far as it decides the numbers."""
    options = {"--table": args.table, "--starts": args.starts, "--first-seed": args.first_seed or None}
    return " ".join(
        ["thalweg bench baselines", *(f"{k} {v}" for k, v in options.items() if v), *(["--quick"] if args.quick else [])]
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _write(path: Path | None, results: dict) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1, default=float) + "\n")
        print(f"wrote {path}")
