"""Errors, uncertainties and times of the surrogates on C6H6 with GFN1-xTB (needs tblite).

    taskset -c 0 python benchmarks/surrogates.py

Random contiguous builds and points of their relaxations are evaluated; models are fitted to n structures of every second
relaxation and tested on those of the others: all of them, and those within 12 eV of the lowest.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.optimize import BFGS

from thalweg.leaves import as_leaves
from thalweg.surrogates.base import Dataset
from thalweg.surrogates.gaussian_process import GaussianProcess
from thalweg.surrogates.local import LocalGaussianProcess

NUMBERS = np.array([1] * 6 + [6] * 6)
KEPT = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48)  # steps of a relaxation that become data


def built(rng) -> np.ndarray:
    """A random build: each atom bonded to one that is there, none nearer than .75 of the sum of radii."""
    placed: dict[int, np.ndarray] = {}
    for atom in rng.permutation(len(NUMBERS)):
        while True:
            at = np.zeros(3)
            if placed:
                other = rng.choice(list(placed))
                direction = rng.normal(size=3)
                length = rng.uniform(0.85, 1.3) * (covalent_radii[NUMBERS[atom]] + covalent_radii[NUMBERS[other]])
                at = placed[other] + direction / np.linalg.norm(direction) * length
            contacts = [0.75 * (covalent_radii[NUMBERS[atom]] + covalent_radii[NUMBERS[k]]) for k in placed]
            if all(np.linalg.norm(at - x) > c for x, c in zip(placed.values(), contacts, strict=True)):
                break
        placed[atom] = at
    return np.stack([placed[k] for k in range(len(NUMBERS))])


def evaluated(runs: int, seed: int = 0):
    """Positions, energies, forces and which relaxation each is of."""
    from tblite.ase import TBLite

    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        atoms = Atoms(numbers=NUMBERS, positions=built(rng), calculator=TBLite(method="GFN1-xTB", verbosity=0))
        try:
            for step, _ in enumerate(BFGS(atoms, logfile=None, maxstep=0.2).irun(fmax=0.05, steps=50)):
                if step in KEPT:
                    rows.append((atoms.positions.copy(), atoms.get_potential_energy(), atoms.get_forces(), run))
        except Exception as error:  # a failed SCF ends its relaxation, as it would a search's evaluation
            print(f"relaxation {run}: {type(error).__name__}")
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@eqx.filter_jit
def _lanes(posterior, x):
    return posterior.lanes(x, jnp.asarray(NUMBERS)[:, None])


@eqx.filter_jit
def _mean_std(posterior, x):
    return posterior.mean_std(x, jnp.asarray(NUMBERS)[:, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=80)
    options = parser.parse_args()
    begun = time.perf_counter()
    x, energy, forces, run = evaluated(options.runs)
    print(f"{len(x)} structures of {options.runs} relaxations in {time.perf_counter() - begun:.0f} s")
    train, test = np.flatnonzero(run % 2 == 0), np.flatnonzero((run % 2 == 1) & (energy < energy.min() + 40))
    low = energy[test] < energy.min() + 12
    train = np.random.default_rng(0).permutation(train[energy[train] < energy.min() + 60])
    print("| model | n | MAE (eV) | MAE low (eV) | force MAE low (eV/Å) | error / deviation | fit (s) | 32 lanes (ms) |")
    print("|---|---|---|---|---|---|---|---|")
    for name, model in (("gaussian-process", GaussianProcess()), ("local", LocalGaussianProcess())):
        for n in (50, 100, 200):
            rows = train[:n]
            valid = np.ones(len(rows), bool)
            data = Dataset(x[rows], np.zeros((len(rows), 3, 3)), energy[rows], forces[rows], valid, NUMBERS)
            model.fit(None, data)  # compiles
            t0 = time.perf_counter()
            posterior = model.fit(None, data)
            fit = time.perf_counter() - t0
            with jax.enable_x64(True):
                traced = as_leaves(posterior, np.float64)
                lanes = jnp.asarray(np.moveaxis(x[test], 0, -1))
                mean, std = (np.asarray(a) for a in _mean_std(traced, lanes))
                force = np.moveaxis(np.asarray(_lanes(traced, lanes).forces), -1, 0)
                jax.block_until_ready(_lanes(traced, lanes[..., :32]))
                t0 = time.perf_counter()
                for _ in range(5):
                    jax.block_until_ready(_lanes(traced, lanes[..., :32]))
                each = (time.perf_counter() - t0) / 5 * 1e3
            error = mean - energy[test]
            wrong = np.abs(force - forces[test])[low].mean()
            print(
                f"| {name} | {len(rows)} | {np.abs(error).mean():.2f} | {np.abs(error[low]).mean():.2f} | {wrong:.2f} "
                f"| {np.sqrt(np.mean((error / std) ** 2)):.2f} | {fit:.2f} | {each:.1f} |"
            )


if __name__ == "__main__":
    main()
