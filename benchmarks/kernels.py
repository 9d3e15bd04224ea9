"""Cost of energy and forces against size: nanoseconds per pair, the exponent, and ratios to the usual ways to write them.

    taskset -c 0 python benchmarks/kernels.py

The peers are the textbook JAX form (dense distances, `vmap` of `value_and_grad`) at the same batch, and ASE's
Lennard-Jones calculator on single structures.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.generators.random import RandomBall
from thalweg.potentials.many_body import Gupta, SuttonChen
from thalweg.potentials.pair import LennardJones, Morse
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.system import cluster

SIZES = (13, 38, 75, 147)


def start(n: int, lanes: int) -> np.ndarray:
    """Relaxed random clusters (lanes, atoms, 3) in units of the bond length."""
    system = cluster(np.zeros(n, int), LennardJones(sigma=2 ** (-1 / 6)))
    parent = system.structure(np.zeros((1, n, 3)))
    parent = Structure(np.asarray(parent.positions, np.float32), parent.numbers, parent.cell, parent.fixed)
    keys = jax.random.split(jax.random.key(0), lanes)
    x = jax.vmap(lambda k: RandomBall()(k, parent, system).positions)(keys)
    done = relax(system.structure(np.asarray(x)), Relaxation(LennardJones(sigma=2 ** (-1 / 6)), LBFGS(max_step=0.1), 1e-2, 500))
    return np.asarray(done.structures.positions)


def seconds(f, *args, repeats: int = 5, inner: int = 20) -> float:
    """Best wall time of one call of `f`, repeated `inner` times inside the device loop."""
    looped = jax.jit(lambda x, *rest: jax.lax.fori_loop(0, inner, lambda _, x: x + 1e-12 * f(x, *rest).astype(x.dtype), x))
    jax.block_until_ready(looped(*args))
    best = np.inf
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(looped(*args))
        best = min(best, time.perf_counter() - begun)
    return best / inner


def textbook(x):
    """Lennard-Jones forces of a batch (lanes, atoms, 3) as one would first write them."""

    def energy(x):
        d2 = ((x[:, None] - x[None]) ** 2).sum(-1) + 1e6 * jnp.eye(len(x))
        s6 = 1 / d2**3
        return 2 * (s6 * (s6 - 1)).sum()

    return -jax.vmap(jax.grad(energy))(x)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--lanes", type=int, default=64)
    args = p.parse_args()
    kinds = {
        "lennard-jones": (LennardJones(), 0, 2 ** (1 / 6)),
        "morse": (Morse(), 0, 1.0),
        "gupta (Au)": (Gupta(), 79, 2.88),
        "sutton-chen (Au)": (SuttonChen(), 79, 2.88),
    }
    starts = {n: start(n, args.lanes) for n in SIZES}
    print(f"{args.lanes} lanes, one core; nanoseconds per pair of one evaluation of energy and forces")
    print(f"{'':18s} {'':8s} " + " ".join(f"N={n:<6d}" for n in SIZES) + " exponent of the cost in N")
    base = {}
    for name, (potential, number, bond) in kinds.items():
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(dtype == np.float64):
                times = []
                for n in SIZES:
                    x = jnp.asarray(np.moveaxis(starts[n], 0, -1) * bond, dtype)
                    numbers = jnp.full((n, 1), number)
                    times.append(
                        seconds(lambda x, numbers, potential=potential: potential.lanes(x, numbers).forces, x, numbers)
                    )
            base[name, dtype] = times
            print(row(name, dtype.__name__, times, args.lanes))
    times = []
    for n in SIZES:
        times.append(seconds(textbook, jnp.asarray(starts[n] * 2 ** (1 / 6), np.float32)))
    print(row("textbook vmap(grad)", "float32", times, args.lanes))
    ratios = np.array(times) / np.array(base["lennard-jones", np.float32])
    print("textbook / rows, float32: " + ", ".join(f"{r:.1f} x (N={n})" for r, n in zip(ratios, SIZES, strict=True)))
    ase_row(starts, base["lennard-jones", np.float64], args.lanes)


def row(name: str, kind: str, times: list[float], lanes: int) -> str:
    pairs = np.array([n * (n - 1) / 2 for n in SIZES])
    cost = np.array(times) / lanes
    exponent = np.polyfit(np.log(SIZES[1:]), np.log(cost[1:]), 1)[0]
    return f"{name:18s} {kind:8s} " + " ".join(f"{c:<8.2f}" for c in cost / pairs * 1e9) + f" {exponent:.2f}"


def ase_row(starts, ours: list[float], lanes: int) -> None:
    from ase import Atoms
    from ase.calculators.lj import LennardJones as AseLJ

    ratios = []
    for k, n in enumerate(SIZES):
        atoms = Atoms(f"X{n}", starts[n][0] * 2 ** (1 / 6), calculator=AseLJ(rc=1e3, smooth=False))
        begun, repeats = time.perf_counter(), 20
        for i in range(repeats):
            atoms.positions[0, 0] += 1e-9 * (i + 1)
            atoms.get_forces()
        ratios.append((time.perf_counter() - begun) / repeats / (ours[k] / lanes))
    print("ase / rows, float64: " + ", ".join(f"{r:.0f} x (N={n})" for r, n in zip(ratios, SIZES, strict=True)))


if __name__ == "__main__":
    main()
