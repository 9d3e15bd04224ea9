"""The same problem for thalweg, pele, SciPy and ASE, on one core, in one run: CPU seconds and relaxations to first hit.

    taskset -c 0 python benchmarks/peers.py LJ38 --seeds 20 --pele-python OTHER/bin/python

Peers that are not installed are left out and named. pele pins its own dependencies: give the interpreter of an
environment of its own with `--pele-python`, or install the extra `thalweg[peers]` into this one. Each peer runs with the
settings its own documentation uses for Lennard-Jones clusters; searches that exceed `--time` count as censored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

# One core: libraries read these when they are loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")


def run_pele(n: int, seed: int, target: float, limit: float, stepsize: float | None) -> dict:
    import numpy as np
    from pele.systems import LJCluster  # type: ignore[import-not-found]
    from pele.takestep import RandomDisplacement  # type: ignore[import-not-found]

    np.random.seed(seed)  # noqa: NPY002 - pele draws from NumPy's global generator
    system = LJCluster(n)
    step = system.get_takestep() if stepsize is None else RandomDisplacement(stepsize=stepsize)
    database = system.create_database()
    hopping = system.get_basinhopping(database=database, takestep=step, temperature=0.8, outstream=None)
    begun, hops, best = time.process_time(), 0, float("inf")
    while best > target and time.process_time() - begun < limit:
        hopping.run(1)
        hops += 1
        best = min(best, hopping.markovE, hopping.trial_energy)
    return {"cpu": time.process_time() - begun, "relaxations": hops + 1, "hit": best <= target}


def lj_numpy(x):
    """Energy and gradient of a Lennard-Jones cluster, vectorised over pairs: what a careful SciPy user writes."""
    import numpy as np

    r = x.reshape(-1, 3)
    i, j = np.triu_indices(len(r), 1)
    d = r[i] - r[j]
    s6 = 1 / np.maximum((d * d).sum(1), 1e-4) ** 3
    g = (-24 * s6 * (2 * s6 - 1) * np.cbrt(s6))[:, None] * d
    gradient = np.zeros_like(r)
    np.add.at(gradient, i, g)
    np.subtract.at(gradient, j, g)
    return 4 * (s6 * (s6 - 1)).sum(), gradient.ravel()


def run_scipy(n: int, seed: int, target: float, limit: float) -> dict:
    import numpy as np
    from scipy.optimize import basinhopping

    rng = np.random.default_rng(seed)
    begun = time.process_time()
    count, best = [0], [np.inf]

    def callback(x, f, accepted):
        count[0] += 1
        best[0] = min(best[0], f)
        return f <= target or time.process_time() - begun > limit

    basinhopping(
        lj_numpy, rng.uniform(-1, 1, 3 * n) * n ** (1 / 3) * 0.6, niter=10**7, T=0.8, stepsize=0.36, interval=10**8, rng=rng,
        minimizer_kwargs={"method": "L-BFGS-B", "jac": True, "options": {"ftol": 1e-9}}, callback=callback,
    )  # fmt: skip
    return {"cpu": time.process_time() - begun, "relaxations": count[0] + 1, "hit": bool(best[0] <= target)}


def run_ase(n: int, seed: int, target: float, limit: float) -> dict:
    import numpy as np
    from ase import Atoms
    from ase.calculators.lj import LennardJones
    from ase.optimize.basin import BasinHopping

    rng = np.random.default_rng(seed)
    np.random.seed(seed)  # noqa: NPY002 - ASE draws from NumPy's global generator
    atoms = Atoms(f"X{n}", rng.uniform(-1, 1, (n, 3)) * n ** (1 / 3) * 0.6)
    atoms.calc = LennardJones(rc=1e3, smooth=False)
    begun = time.process_time()
    os.chdir(tempfile.mkdtemp())  # it writes trajectories and logs beside itself
    hopping = BasinHopping(atoms, temperature=0.8, dr=0.36, fmax=0.05, logfile="log", optimizer_logfile=os.devnull)
    done = 0
    while hopping.Emin > target and time.process_time() - begun < limit:
        hopping.run(1)
        done += 1
    return {"cpu": time.process_time() - begun, "relaxations": done + 1, "hit": bool(target >= hopping.Emin)}


def run_thalweg(n: int, seeds: range, limit: float, only_displacement: bool) -> list[dict]:
    import numpy as np

    from thalweg.benchmark.clusters import compile_for, first_hit
    from thalweg.potentials.pair import LennardJones
    from thalweg.presets import cluster_search, restricted
    from thalweg.run import Settings
    from thalweg.system import cluster

    potential = LennardJones()
    search = cluster_search(cluster(np.zeros(n, int), potential), potential)
    if only_displacement:  # the peers' own method: one kind of step, random starts, long walks
        search = restricted(search, ["displace"], ["random"], 10**6)
    print(f"  thalweg compiled in {compile_for(n, search, Settings()):.1f} CPU-s (not counted)", flush=True)
    hits = [first_hit(n, seed, search, Settings(), limit) for seed in seeds]
    return [{"cpu": h.cpu_seconds, "relaxations": h.relaxations, "hit": h.hit} for h in hits]


PEERS = {
    "pele": lambda *a: run_pele(*a, stepsize=None),  # its default: adaptive step and temperature
    "pele, fixed step 0.42": lambda *a: run_pele(*a, stepsize=0.42),
    "scipy basinhopping": run_scipy,
    "ase BasinHopping": run_ase,
}


def run_peer(name: str, n: int, seed: int, target: float, limit: float, interpreter: str) -> dict | None:
    """One search in a process of its own; None when the peer cannot be imported there."""
    options = ["--one", name, "--first-seed", str(seed), "--target", repr(target), "--time", str(limit)]
    call = [interpreter, __file__, f"LJ{n}", *options]
    try:
        # A peer's own relaxation may never end: then the search counts as stopped at the limit.
        done = subprocess.run(call, capture_output=True, text=True, timeout=2 * limit + 30)
    except subprocess.TimeoutExpired:
        return {"cpu": limit, "relaxations": 1, "hit": False}
    if done.returncode != 0:
        print(f"  {name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(name: str, rows: list[dict], results: dict) -> None:
    import numpy as np

    from thalweg.benchmark.curves import mean_cost

    hit = np.array([r["hit"] for r in rows])
    cpu, relaxations = (np.array([r[k] for r in rows], float) for k in ("cpu", "relaxations"))
    rate = relaxations.sum() / cpu.sum()
    results[name] = {"hits": int(hit.sum()), "tries": len(rows), "rate": rate, "cpu": vars(mean_cost(hit, cpu)), "rows": rows}
    print(
        f"{name:24s} {hit.sum():2d}/{len(rows):<2d}  {mean_cost(hit, cpu)!s:>26s}  "
        f"{mean_cost(hit, relaxations)!s:>28s}  {rate:8.0f}",
        flush=True,
    )


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("problem", nargs="?", default="LJ38")
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--first-seed", type=int, default=0)
    p.add_argument("--time", type=float, default=60.0, help="CPU seconds allowed per search")
    p.add_argument("--slow-seeds", type=int, default=3, help="seeds for SciPy and ASE")
    p.add_argument("--pele-python", default=sys.executable)
    p.add_argument("--json")
    p.add_argument("--one", help=argparse.SUPPRESS)
    p.add_argument("--target", type=float, help=argparse.SUPPRESS)
    args = p.parse_args()
    n = int(args.problem.upper().removeprefix("LJ"))
    if args.one:
        print(json.dumps(PEERS[args.one](n, args.first_seed, args.target, args.time)))
        return 0
    from thalweg.benchmark.clusters import TOLERANCE, reference_energies

    target = reference_energies()[n] + 10 * TOLERANCE
    results: dict = {}
    print(f"LJ{n}, mean to first hit with 95 % bounds")
    print(f"{'':24s} hits  {'CPU seconds':>26s}  {'relaxations':>28s}  {'relax./s':>8s}")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    report("thalweg", run_thalweg(n, seeds, args.time, False), results)
    report("thalweg, displace only", run_thalweg(n, seeds, args.time, True), results)
    for name in PEERS:
        few = seeds if name.startswith("pele") else seeds[: args.slow_seeds]
        interpreter = args.pele_python if name.startswith("pele") else sys.executable
        rows = []
        for seed in few:
            row = run_peer(name, n, seed, target, args.time, interpreter)
            if row is None:
                break
            rows.append(row)
        if rows:
            report(name, rows, results)
    if "pele" in results:
        ratio = lambda key, base: results[base]["cpu"]["value"] / results[key]["cpu"]["value"]
        best = min((k for k in results if k.startswith("pele")), key=lambda k: results[k]["cpu"]["value"])
        print(f"\n{best} / thalweg: CPU seconds to first hit {ratio('thalweg', best):.1f} x")
        faster = results["thalweg, displace only"]["rate"] / results["pele"]["rate"]
        print(f"thalweg displace only / pele: relaxations per second {faster:.1f} x")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
