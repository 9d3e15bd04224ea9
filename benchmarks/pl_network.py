"""Cost of a step of training of networks without local minima, beside the arithmetic that it cannot do without.

    taskset -c 0 python benchmarks/pl_network.py

Milliseconds of processor time of a step of Adam on values, float32: the difference of a fit of 150 steps and one of 50, each
the least of a few. The floor is what products of samples with matrices take at the rate of such a product on the same core:
forwards, and backwards by weights and by inputs. Above it are the matrices that make weights contractions, and Adam.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.pl_fit import CHUNK, fitted
from thalweg.networks.pl_network import PLNetwork

#: Variables, hidden units, depth, orthogonal layers.
NETWORKS = [
    (10, 64, 2, "none"),
    (10, 128, 2, "none"),
    (100, 128, 2, "none"),
    (100, 128, 2, "cayley"),
    (1000, 128, 1, "none"),
    (1000, 128, 2, "none"),
    (1000, 128, 2, "householder"),
]


def milliseconds(f, budget: float) -> float:
    """Least processor time of one call; at least two are made, and more within `budget` seconds."""
    f()
    begun, best, calls = time.process_time(), np.inf, 0
    while calls < 2 or time.process_time() - begun < budget:
        before = time.process_time()
        f()
        best, calls = min(best, time.process_time() - before), calls + 1
    return 1e3 * best


def step(dim: int, hidden: int, depth: int, orthogonal: str, batch: int, budget: float) -> float:
    """Milliseconds of one step of training."""
    rng = np.random.default_rng(0)
    net = PLNetwork.of_quadratic(rng, np.zeros(dim), np.ones(dim), hidden=(hidden,), depth=depth, orthogonal=orthogonal)
    x = rng.uniform(-1, 1, (4 * batch, dim))
    y = (x**2).sum(1) + np.cos(5 * x).sum(1)
    fit = lambda chunks: fitted(rng, net, x, y, rate=1e-6, steps=chunks * CHUNK, batch=batch, patience=9)
    long, short = (milliseconds(lambda n=n: fit(n), budget) for n in (3, 1))
    return (long - short) / (2 * CHUNK)


def operations(dim: int, hidden: int, depth: int, orthogonal: str, batch: int) -> float:
    """Floating-point operations of products that involve samples: three per matrix (forwards, by weights, by inputs), but for
    the gradient by what goes into the first one."""
    one = 2 * batch * dim * hidden
    turning = {"none": 0, "cayley": 2 * batch * dim * dim, "householder": 4 * batch * dim * 8}[orthogonal]
    return depth * (6 * one + 3 * turning) - (turning or one)


def rate(dim: int, hidden: int, batch: int, budget: float) -> float:
    """Operations per millisecond of a product of samples with one such matrix."""
    a = jnp.ones((batch, dim), jnp.float32)
    b = jnp.ones((dim, hidden), jnp.float32)
    repeated = jax.jit(lambda a, b: jax.lax.fori_loop(0, 20, lambda _, c: a + (c @ b) @ b.T * 1e-9, a))
    return 20 * 4 * batch * dim * hidden / milliseconds(lambda: jax.block_until_ready(repeated(a, b)), budget)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--budget", type=float, default=2.0, help="seconds of each measurement")
    args = p.parse_args()
    print(f"batch {args.batch}")
    print(
        f"{'variables':>9s} {'hidden':>6s} {'depth':>5s} {'orthogonal':>12s} {'ms a step':>10s} {'floor':>7s} {'GFLOP/s':>8s}"
    )
    for dim, hidden, depth, orthogonal in NETWORKS:
        taken = step(dim, hidden, depth, orthogonal, args.batch, args.budget)
        pace = rate(dim, hidden, args.batch, args.budget / 4)
        floor = operations(dim, hidden, depth, orthogonal, args.batch) / pace
        row = f"{dim:9d} {hidden:6d} {depth:5d} {orthogonal:>12s} {taken:10.2f} {floor:7.2f} {pace / 1e6:8.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
