"""A liquid made from nothing: Kob-Andersen mixtures at kT = 2 by dynamics, continued by Monte Carlo with swaps.

python examples/liquid.py
"""

import numpy as np

from thalweg import Structure
from thalweg.dynamics.driver import simulate
from thalweg.dynamics.ensembles import Langevin
from thalweg.dynamics.monte_carlo import sample
from thalweg.dynamics.moves import Metropolis
from thalweg.potentials.binary import BinaryLennardJones

A, B = 18, 10  # argon and neon stand for the two species


def lattice(n: int, boxes: int, density: float = 1.2) -> Structure:
    """A simple cubic lattice of `n` atoms, four of five A, arranged at random in each box."""
    side = (n / density) ** (1 / 3)
    cells = round(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * side / cells
    species = np.where(np.arange(n) < 0.8 * n, A, B)
    species = np.random.default_rng(0).permuted(np.tile(species, (boxes, 1)), axis=1)
    return Structure.create(np.broadcast_to(grid, (boxes, n, 3)), species, side * np.eye(3), pbc=(True,) * 3)


def means(n: int = 25, boxes: int = 16) -> tuple[float, float]:
    """Mean potential energy per atom by dynamics and by Monte Carlo."""
    mixture = BinaryLennardJones(minimum_image=True)
    moved = simulate(lattice(n, boxes), mixture, Langevin(2.0, 1.0), 8000, 0.004, every=20)
    sampled = sample(moved.structures, mixture, Metropolis(2.0, swaps=10), 1200, equilibration=100, every=10)
    return moved.energy[100:].mean() / n, sampled.energy[20:].mean() / n


def main() -> None:
    dynamics, monte_carlo = means()
    print(f"energy per atom by dynamics: {dynamics:.3f}")
    print(f"energy per atom by Monte Carlo: {monte_carlo:.3f}")


if __name__ == "__main__":
    main()
