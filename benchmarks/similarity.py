"""How fast structures are compared, and how far apart in the screen different minima are: `python benchmarks/similarity.py`.

Prints, on one core: structures a second of the fingerprint, of the archive's screen (every structure has a candidate of
nearly its energy) and of the exact check; then, for LJ minima, how near the fingerprints of *different* minima of nearly
equal energy come, and how far loose relaxations stray from their own minimum. The archive's `screen` must lie between.
Surface isomers (a compact cluster with one to three atoms put elsewhere) are the hard case, random starts the easy one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ase.cluster import Icosahedron, Octahedron
from scipy.spatial.transform import Rotation

from thalweg.archive import Archive
from thalweg.potentials.pair import LennardJones
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.similarity import fingerprints, rmsd_aligned, same_structure
from thalweg.structure import Structure

BOND = 2 ** (1 / 6)


def balls(count: int, n: int, rng) -> np.ndarray:
    """Random points (count, n, 3), uniform in a ball of about the density of a cluster."""
    v = rng.normal(size=(count, n, 3))
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    return v * rng.random((count, n, 1)) ** (1 / 3) * 0.66 * n ** (1 / 3) * BOND


def rate(count: int, work) -> float:
    """Structures a second of the better of two runs of `work`."""
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return count / best


def speed(n: int, rng) -> None:
    """Rates for one size."""
    numbers = np.zeros(n, int)
    count = max(200, 400_000 // n**2)
    x = balls(count, n, rng)
    screen = rate(count, lambda: fingerprints(x, numbers))
    archive = Archive(numbers)
    energies = 4 * rng.random(1000)
    archive.add(energies, balls(1000, n, rng), 0, 0, ["random"] * 1000)
    held = list(archive)
    pick = rng.integers(0, len(held), count)
    noisy = np.stack([held[k].positions for k in pick]) + 1e-3 * rng.normal(size=(count, n, 3))
    noisy, near = noisy.astype(np.float32), np.array([held[k].energy for k in pick])
    known = rate(count, lambda: archive.known(near, noisy))
    right = (archive.known(near, noisy) == [held[k].id for k in pick]).mean()
    images = [x[k][rng.permutation(n)] @ Rotation.random(rng=rng).as_matrix() for k in range(50)]
    exact = rate(50, lambda: [same_structure(x[k], images[k], numbers, 0.05) for k in range(50)])
    print(
        f"N = {n:3d}: fingerprint {screen:8.0f} /s   screen {known:8.0f} /s ({right:.2%} right)   exact {exact:6.0f} /s",
        flush=True,
    )


def isomers(cluster: np.ndarray, count: int, rng) -> np.ndarray:
    """Copies (count, n, 3) of a compact cluster in units of a bond, one to three outer atoms put down elsewhere on it."""
    made, x0 = [], cluster - cluster.mean(0)
    outer = np.flatnonzero((pairs := np.linalg.norm(x0[:, None] - x0, axis=-1)).max(1) > 0.8 * pairs.max())
    for _ in range(count):
        x = x0.copy()
        for atom in rng.choice(outer, rng.integers(1, 4), replace=False):
            along, rest = rng.normal(size=3), np.delete(x, atom, axis=0)
            along /= np.linalg.norm(along)
            ray = np.arange(pairs.max(), 0, -0.05)[:, None] * along
            free = np.linalg.norm(ray[:, None] - rest, axis=-1).min(1) > 0.95
            x[atom] = ray[free.argmin() - 1]
        made.append(BOND * x)
    return np.stack(made)


def separation(name: str, starts: np.ndarray, fmax: float) -> None:
    """How well the screen separates the Lennard-Jones minima that these starts relax to."""
    numbers = np.zeros(starts.shape[1], int)
    loose = relax(Structure.create(starts), Relaxation(LennardJones(), LBFGS(), fmax=fmax))
    tight = relax(loose.structures, Relaxation(LennardJones(), LBFGS(), fmax=1e-8, max_steps=5000))
    ok = tight.converged & (loose.energy - tight.energy < 2e-3)
    x, energy = tight.structures.positions[ok], tight.energy[ok]
    prints = fingerprints(x, numbers)
    stray = np.abs(prints - fingerprints(loose.structures.positions[ok], numbers)).max(1)
    order = np.argsort(energy, kind="stable")
    distinct: list[int] = []
    for k in order:
        recent = [d for d in distinct[-20:] if energy[k] - energy[d] < 1e-5]
        if not any(same_structure(x[d], x[k], numbers, 0.05 * BOND) for d in recent):
            distinct.append(int(k))
    pairs = [(i, j) for a, i in enumerate(distinct) for j in distinct[a + 1 : a + 40] if energy[j] - energy[i] < 2.5e-3]
    apart = sorted((np.abs(prints[i] - prints[j]).max() / BOND, i, j) for i, j in pairs)
    gap, i, j = apart[0] if apart else (np.nan, 0, 0)
    print(
        f"{name}: {len(distinct)} minima from {len(starts)} starts; {len(pairs)} pairs within 0.0025 in energy, the nearest "
        f"{gap:.3f} bonds apart in the screen (rmsd {rmsd_aligned(x[i], x[j], numbers) / BOND:.2f}); loose relaxations "
        f"(fmax {fmax:g}) stray {np.median(stray) / BOND:.4f} (median), {np.quantile(stray, 0.99) / BOND:.4f} (99%), "
        f"{stray.max() / BOND:.4f} (largest)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=1000, help="random starts per size of the second table")
    parser.add_argument("--fmax", type=float, default=1e-2, help="convergence of the loose relaxations")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for n in (13, 38, 75, 150):
        speed(n, rng)
    for n in (13, 38, 75):
        separation(f"LJ{n}, random starts", balls(options.starts, n, rng), options.fmax)
    octahedron, icosahedron = Octahedron("Au", 4, 1).positions / 2.885, Icosahedron("Ar", 3, 3.7).positions / 2.7
    separation("LJ38, surface isomers", isomers(octahedron, options.starts, rng), options.fmax)
    separation("LJ55, surface isomers", isomers(icosahedron, options.starts, rng), options.fmax)


if __name__ == "__main__":
    main()
