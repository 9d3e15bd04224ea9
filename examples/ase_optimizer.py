"""A thalweg potential in an ASE optimiser: gold with Gupta's potential, relaxed by ASE's FIRE, and the same by ours.

python examples/ase_optimizer.py
"""

import os

import ase
from ase.cluster import Icosahedron
from ase.optimize import FIRE as AseFIRE

from thalweg import FIRE, Gupta, Relaxation, ThalwegCalculator, from_ase
from thalweg.relax.driver import relax


def icosahedron() -> ase.Atoms:
    """13 gold atoms, a little off their places."""
    atoms = Icosahedron("Au", 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def by_ase(fmax: float = 0.01) -> tuple[float, int]:
    """Energy (eV) and steps of ASE's FIRE with our potential as the calculator."""
    atoms = icosahedron()
    atoms.calc = ThalwegCalculator(Gupta("cleri-rosato"))
    with AseFIRE(atoms, logfile=os.devnull) as optimizer:
        optimizer.run(fmax=fmax, steps=500)
        return float(atoms.get_potential_energy()), optimizer.get_number_of_steps()


def by_thalweg(fmax: float = 0.01) -> tuple[float, int]:
    """The same by our own driver and FIRE; evaluations are one more than steps."""
    done = relax(from_ase(icosahedron()), Relaxation(Gupta("cleri-rosato"), FIRE(), fmax=fmax, max_steps=500))
    return float(done.energy), int(done.steps) - 1


def main() -> None:
    for name, (energy, steps) in (("ASE", by_ase()), ("thalweg", by_thalweg())):
        print(f"{name:<8} {energy:.6f} eV after {steps} steps")


if __name__ == "__main__":
    main()
