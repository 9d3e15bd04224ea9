"""thalweg beside AGOX on the same problems, calculators and numbers of evaluations: how many it takes, and what each costs.

    python -m venv OTHER && OTHER/bin/pip install agox "ase==3.26" "numpy<2.4"   # AGOX 3.11 fails with later ones
    taskset -c 0 python benchmarks/agox_peer.py --agox-python OTHER/bin/python --seeds 10 --json agox.json

Each search is a process of its own. AGOX runs its own basin hopping and GOFEE with their own settings, through its documented
`agox.algorithms`; only the confinement (a cube), the seed and one CPU core are given. thalweg runs its own presets. Both call
one calculator class, which counts, notes when the energy fell, and ends the search at the target or the budget. CPU seconds
are those of the search with its worker processes, imports left out; what the calculator itself took is subtracted to give the
overhead per evaluation, and per iteration (a hop, or a GOFEE step). thalweg's compilation is done before by a short
search with another seed, and stated apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# One core: libraries read these when they are loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

#: Formula, calculator, edge of AGOX's cube (Å), energy of the minimum, and how near counts as found.
#: Lennard-Jones with epsilon 1 and bonds of 2.12 Å, for which argon's covalent radius is half: Cambridge Cluster Database.
PROBLEMS = {
    "LJ13": ("Ar13", "lj", 8.0, -44.326801, 0.05),
    "Ni4Au5": ("Ni4Au5", "emt", 10.0, None, 0.02),
}
#: Lowest energy of Ni4Au5 that `thalweg bench ni4au5` found (eV, ASE's EMT).
NI4AU5 = 7.91092
METHODS = ("basin-hopping", "gofee")


class Enough(BaseException):
    """The target or the budget is reached. Not an Exception: searches catch those."""


class Log:
    """What has been evaluated in this process."""

    count = 0
    best = float("inf")
    trace: list[tuple[int, float]] = []  # noqa: RUF012
    cpu = 0.0
    target, budget = float("-inf"), 10**9


def calculator(kind: str):
    """ASE's calculator of a problem, counted."""
    from ase.calculators.calculator import Calculator, all_changes

    if kind == "lj":
        from ase.calculators.lj import LennardJones

        inner = LennardJones(sigma=2.12 / 2 ** (1 / 6), epsilon=1.0, rc=100.0, smooth=False)
    else:
        from ase.calculators.emt import EMT

        inner = EMT()

    class Counted(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, list(properties), system_changes)
            begun = time.process_time()
            assert self.atoms is not None
            held = self.atoms.copy()
            held.pbc = False  # AGOX's cube is no periodic cell
            inner.calculate(held, ["energy", "forces"], all_changes)
            self.results = {k: inner.results[k] for k in ("energy", "forces")}
            Log.cpu += time.process_time() - begun
            Log.count += 1
            energy = float(self.results["energy"])
            if energy < Log.best:
                Log.best = energy
                Log.trace.append((Log.count, energy))
            if Log.best <= Log.target or Log.count >= Log.budget:
                raise Enough

    return Counted()


def cpu_seconds() -> float:
    """Of this process and all below it, those of servers that it started too."""
    t = os.times()
    total = t.user + t.system + t.children_user + t.children_system
    with contextlib.suppress(ImportError):
        import psutil  # type: ignore[import-not-found]

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used = child.cpu_times()
                total += used.user + used.system
    return total


def run_agox(task: dict) -> dict:
    """One search by AGOX, in its own environment."""
    import numpy as np
    from agox.algorithms import (  # type: ignore[import-not-found]
        GOFEE,
        BasinHopping,
        BasinHoppingConfig,
        GOFEEConfig,
        ProblemConfig,
        RunConfig,
    )
    from ase import Atoms

    problem = ProblemConfig(
        template=Atoms("", cell=np.eye(3) * task["edge"], pbc=False),
        symbols=task["formula"],
        confinement_cell=np.eye(3) * task["edge"],
        confinement_corner=np.zeros(3),
        calculator=calculator(task["kind"]),
    )
    settings = RunConfig(path=os.getcwd(), seed=task["seed"], cpu_count=1)
    kinds = {"basin-hopping": (BasinHopping, BasinHoppingConfig), "gofee": (GOFEE, GOFEEConfig)}
    algorithm, config = kinds[task["method"]]
    begun = cpu_seconds()
    search = algorithm(config(), problem, settings)
    with contextlib.suppress(Enough):
        search.run(task["budget"])
    spent = cpu_seconds() - begun
    with contextlib.suppress(ImportError):  # its servers would go on, and hold what this process prints into
        import ray  # type: ignore[import-not-found]

        ray.shutdown()
    return {"cpu": spent, "compiled": 0.0}


def run_thalweg(task: dict) -> dict:
    """One search by thalweg."""
    from dataclasses import replace

    from thalweg.config import resolve
    from thalweg.run import run

    tables = {
        "system": {"formula": task["formula"]},
        "potential": {"kind": "calculator", "calculator": "agox_peer:calculator", "arguments": {"kind": task["kind"]}},
        "search": {"kind": task["method"]},
        "run": {"seed": task["seed"]},
        "stop": {"evaluations": task["budget"], "confidence": "none"},
    }
    # Compilation, which happens once and is then kept on disk: a short search with another seed, reported apart.
    target, budget, Log.target = Log.target, Log.budget, float("-inf")
    begun = cpu_seconds()
    r = resolve(tables)  # which looks at the calculator
    Log.budget = Log.count + task["warm"]
    with contextlib.suppress(Enough):
        run(r.search, r.relaxation, r.system, replace(r.settings, seed=2**32 - 1 - task["seed"]), r.stop, hosting=r.hosting)
    compiled = cpu_seconds() - begun
    Log.target, Log.budget, Log.count, Log.best, Log.cpu = target, budget, 0, float("inf"), 0.0
    Log.trace.clear()
    done = [0]
    told = lambda now: done.__setitem__(0, now.relaxations)
    begun = cpu_seconds()
    with contextlib.suppress(Enough):
        run(r.search, r.relaxation, r.system, r.settings, r.stop, on_progress=told, hosting=r.hosting)
    return {"cpu": cpu_seconds() - begun, "compiled": compiled, "iterations": done[0] + 1}


def child(text: str) -> None:
    """One search, in this process; its result goes to the file that the task names."""
    import agox_peer as own  # the module that calculators of both sides count in, whatever this script is called

    task = json.loads(text)
    own.Log.target, own.Log.budget = task["target"], task["budget"]
    found = (own.run_agox if task["side"] == "agox" else own.run_thalweg)(task)
    log = own.Log
    found |= {"evaluations": log.count, "best": log.best, "calculator": log.cpu, "trace": log.trace}
    Path(task["result"]).write_text(json.dumps(found))
    os._exit(0)  # without the farewells of servers


def search(python: str, task: dict, limit: float) -> dict:
    """A search in a process of its own, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.resolve())}
        command = [python, str(Path(__file__).resolve()), "--child", json.dumps({**task, "result": str(result)})]
        try:
            process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return {**task, "error": f"not done in {limit:g} s"}
        if not result.exists():
            said = process.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            return {**task, "error": said[-1]}
        found = json.loads(result.read_text())
    # AGOX prints a heading for each iteration.
    found.setdefault("iterations", len(re.findall(r"Iteration: \d+", process.stdout.decode(errors="replace"))))
    return {**task, **found, "printed": len(process.stdout) + len(process.stderr), "hit": found["best"] <= task["target"]}


def summary(rows: list[dict]) -> str:
    """One line for the searches of one side."""
    import numpy as np

    from thalweg.survival import median, success_curve

    good = [r for r in rows if "error" not in r]
    if not good:
        return f"failed: {rows[0]['error']}"
    hits, spent = np.array([r["hit"] for r in good]), np.array([r["evaluations"] for r in good], float)
    n50 = median(success_curve(hits, spent), spent)
    total = sum(r["evaluations"] for r in good)
    over = sum(r["cpu"] - r["calculator"] for r in good)
    steps = max(1, sum(r["iterations"] for r in good))
    compiled = sum(r["compiled"] for r in good) / len(good)
    lost = (
        f"; {len(rows) - len(good)} failed: {next(r['error'] for r in rows if 'error' in r)}" if len(good) < len(rows) else ""
    )
    return (
        f"{int(hits.sum()):3d}/{len(good):<3d}  n50 {n50!s:28s}  overhead {1e3 * over / total:9.2f} ms per evaluation, "
        f"{1e3 * over / steps:9.2f} ms and {sum(r['printed'] for r in good) / steps:6.0f} bytes printed per iteration"
        f"{f'; compiled in {compiled:.1f} CPU-s' if compiled else ''}{lost}"
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--agox-python", metavar="PATH", help="interpreter of an environment with AGOX; without it only thalweg runs"
    )
    p.add_argument("--problems", default="LJ13,Ni4Au5")
    p.add_argument("--methods", default=",".join(METHODS))
    p.add_argument("--seeds", type=int, default=10)
    p.add_argument("--first-seed", type=int, default=0)
    p.add_argument("--budget", type=int, default=2000, help="evaluations per search (gofee: --gofee-budget)")
    p.add_argument("--gofee-budget", type=int, default=150)
    p.add_argument("--limit", type=float, default=3600.0, help="wall seconds per search")
    p.add_argument("--sides", default="thalweg,agox", help="which programs run")
    p.add_argument("--json", type=Path)
    p.add_argument("--child", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        child(args.child)
    known = {"thalweg": sys.executable, **({"agox": args.agox_python} if args.agox_python else {})}
    sides = {side: python for side, python in known.items() if side in args.sides.split(",")}
    rows = []
    for name in args.problems.split(","):
        formula, kind, edge, minimum, near = PROBLEMS[name]
        target = (NI4AU5 if minimum is None else minimum) + near
        for method in args.methods.split(","):
            budget = args.gofee_budget if method == "gofee" else args.budget
            print(f"\n{name}, {method}: at most {budget} evaluations, target {target:.4f}", flush=True)
            for side, python in sides.items():
                mine = []
                for seed in range(args.first_seed, args.first_seed + args.seeds):
                    task = {"problem": name, "formula": formula, "kind": kind, "edge": edge, "method": method, "side": side}
                    # GOFEE's data grow, and with them the shapes that are compiled.
                    warm = budget if method == "gofee" else max(20, budget // 4)
                    task |= {"seed": seed, "budget": budget, "warm": warm, "target": target}
                    mine.append(search(python, task, args.limit))
                    if args.json:  # as far as it went
                        _write(args.json, rows + mine)
                print(f"  {side:8s} {summary(mine)}", flush=True)
                rows += mine


def _write(path: Path, rows: list[dict]) -> None:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    path.write_text(json.dumps({"command": " ".join(sys.argv), **versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
