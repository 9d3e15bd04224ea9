"""Liquids to train policies on: structures of a system as dynamics at a temperature leaves them."""

from __future__ import annotations

import numpy as np

from thalweg.dynamics.driver import simulate
from thalweg.dynamics.ensembles import Langevin
from thalweg.dynamics.units import masses_of, units_of
from thalweg.errors import InputError
from thalweg.potentials.base import Potential
from thalweg.potentials.pair import SoftSphere
from thalweg.relax.adapters import GradientDescent
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.system import System

#: Steps of the dynamics and their length, in units of a bond, its energy and the mean mass.
N_STEPS, STEP = 2000, 0.003
#: Diameter of the spheres that push random positions apart, in bonds.
CONTACT = 0.75
#: Pools that are kept while a process lives: stages of a training share them.
KEPT: dict = {}


def liquids(system: System, potential: Potential, temperature: float, count: int, seed: int = 0) -> np.ndarray:
    """Positions (count, atoms, 3) of liquids at `temperature`, in energies of a bond; on the host.

    Random positions in the cell are pushed apart, loosely relaxed and melted by Langevin dynamics.
    """
    require_cell(system)
    numbers, cell = np.asarray(system.numbers), np.asarray(system.cell, float)
    key = (numbers.tobytes(), cell.tobytes(), repr(potential), temperature, count, seed)
    if key not in KEPT:
        KEPT[key] = _melted(system, potential, numbers, cell, temperature, count, seed)
    return KEPT[key]


def require_cell(system: System) -> None:
    """Raise `InputError` for a system without a cell, whose liquid would evaporate."""
    if not all(system.pbc):
        raise InputError("liquids to train on need a cell in three directions; give the system cell or density")


def _melted(system, potential, numbers, cell, temperature, count, seed) -> np.ndarray:
    bond = float(np.mean(system.bond_lengths))
    scale = potential.energy_scale(numbers) or 1.0
    x = np.random.default_rng(seed).uniform(size=(count, len(numbers), 3)) @ cell
    starts = Structure.create(x, numbers, cell, None, system.pbc)
    spheres = SoftSphere(CONTACT * bond, (CONTACT * bond) ** 2, cutoff=CONTACT * bond)
    starts = relax(starts, Relaxation(spheres, GradientDescent(0.1), 1e-3 * bond, 300)).structures
    starts = relax(starts, Relaxation(potential, LBFGS(max_step=0.1 * bond), 1e-3 * scale / bond, 40)).structures
    units = units_of(potential, numbers)
    pace = bond * np.sqrt(masses_of(starts, units).mean() / scale) / units.time
    ensemble = Langevin(temperature * scale / units.boltzmann, 1 / pace)
    return np.asarray(
        simulate(starts, potential, ensemble, N_STEPS, STEP * pace, seed=seed, every=N_STEPS).structures.positions
    )
