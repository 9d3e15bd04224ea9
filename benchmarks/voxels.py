"""Cost of the networks of voxels of ASLA on one CPU core, beside the same networks with XLA's own convolution.

    taskset -c 0 python benchmarks/voxels.py

Milliseconds of processor time, the least of a few calls: one map of values (batch of 1, and per map in a batch of 10), and a
step of training, the values of 60 voxels with the gradient by all weights. Two species, ten channels, float32. XLA's networks
are `lax.conv_general_dilated` with zeros beyond the edges, in training of crops about each voxel, every `dilation`-th site.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.networks.voxel import VoxelNetwork

#: Grid, kernel and dilation of each network.
NETWORKS = {
    "2D k15 d1": ((41, 41, 1), 15, 1),
    "2D k5 d3": ((41, 41, 1), 5, 3),
    "2D k3 d4": ((41, 41, 1), 3, 4),
    "3D k3 d4": ((21, 21, 21), 3, 4),
    "3D k5 d3": ((21, 21, 21), 5, 3),
    "3D k7 d2": ((21, 21, 21), 7, 2),
    "3D k11 d1": ((21, 21, 21), 11, 1),
}
#: Voxels of one training step.
VOXELS = 60
#: Of crops with more sites than this only so many are computed, and their time is scaled up.
LARGE, FEW = 10_000, 6
EDGES = (False, False, False)


def milliseconds(f, *args, budget: float) -> float:
    """Least processor time of one call; at least two are made, and more within `budget` seconds."""
    jax.block_until_ready(f(*args))
    begun, best, calls = time.process_time(), np.inf, 0
    while calls < 2 or time.process_time() - begun < budget:
        before = time.process_time()
        jax.block_until_ready(f(*args))
        best, calls = min(best, time.process_time() - before), calls + 1
    return 1e3 * best


def by_xla(net: VoxelNetwork, x, dilation: int, padding: str):
    """Values (batch, outputs, ...) of images (batch, inputs, nx, ny, nz)."""
    d = net.dimensions
    x = x.reshape(*x.shape[: 2 + d])
    for k, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        kernels = jnp.asarray(w).reshape(*w.shape[:2], *[net.kernel] * d)
        x = lax.conv_general_dilated(x, kernels, (1,) * d, padding, rhs_dilation=(dilation,) * d)
        x = x + b.reshape(-1, *[1] * d)
        x = jnp.maximum(x, 0.01 * x) if k + 1 < len(net.weights) else jnp.tanh(x)
    return x


def maps(net: VoxelNetwork, shape, batch: int, xla: bool, budget: float) -> float:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, 2, *shape)), jnp.float32)
    empty = jnp.zeros(2)
    run = lambda n, x: by_xla(n, x, n.dilation, "SAME") if xla else n.maps(x, EDGES, empty)
    return milliseconds(eqx.filter_jit(run), net, x, budget=budget) / batch


def step(net: VoxelNetwork, shape, xla: bool, budget: float) -> float:
    rng = np.random.default_rng(0)
    crop = [len(net.weights) * (net.kernel - 1) + 1 if n > 1 else 1 for n in shape]
    count = FEW if np.prod(crop) > LARGE else VOXELS
    sites = net.sites(jnp.asarray(rng.integers(shape, size=(count, 3))), shape, EDGES)
    x = jnp.asarray(rng.normal(size=(count, 2, *(crop if xla else sites.inside.shape[1:]))), jnp.float32)

    def loss(net, x, sites):
        out = by_xla(net, x, 1, "VALID") if xla else net.values(x, sites, jnp.zeros(2))
        return (out**2).mean()

    run = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    return milliseconds(run, net, x, sites, budget=budget) * VOXELS / count


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    p.add_argument("--budget", type=float, default=0.3, help="seconds of each measurement")
    args = p.parse_args()
    print("milliseconds: thalweg, XLA (XLA / thalweg)")
    print(f"{'network':10s} {'grid':>10s} {'a map':>24s} {'a map of 10':>24s} {f'{VOXELS} voxels, gradient':>28s}", flush=True)
    for name in args.networks:
        shape, kernel, dilation = NETWORKS[name]
        net = VoxelNetwork.random(np.random.default_rng(0), 2, 2, 2 if shape[2] == 1 else 3, kernel, dilation)
        net = jax.tree.map(jnp.asarray, net)
        pairs = [[maps(net, shape, batch, xla, args.budget) for xla in (False, True)] for batch in (1, 10)]
        pairs.append([step(net, shape, xla, args.budget) for xla in (False, True)])
        cells = [f"{own:.2f}, {theirs:.2f} ({theirs / own:.1f} x)" for own, theirs in pairs]
        grid = " x ".join(map(str, shape[: net.dimensions]))
        print(f"{name:10s} {grid:>10s} {cells[0]:>24s} {cells[1]:>24s} {cells[2]:>28s}", flush=True)


if __name__ == "__main__":
    main()
