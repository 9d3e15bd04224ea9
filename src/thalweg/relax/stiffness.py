"""How stiff a structure is, and the annealing that suits it: time step and temperatures without knowing the material."""

from __future__ import annotations

import numpy as np

from thalweg.errors import StructureError
from thalweg.potentials.base import Potential
from thalweg.relax.annealing import Annealing
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.single import single_points
from thalweg.structure import Structure

#: Root mean square of vibrations at melting, as a share of the distance of neighbours (F. A. Lindemann, Phys. Z. 11, 609
#: (1910)).
LINDEMANN = 0.1
#: Where an annealing begins and ends, in units of the temperature at which vibrations are that large.
HOT, COLD = 0.6, 0.15
#: Time step and friction in units of the mean frequency, and its inverse: some thirty steps in a period.
STEP, FRICTION = 0.2, 0.05


def stiffness(potential: Potential, structure: Structure, bond: float, probes: int = 4) -> float:
    """Mean curvature of the energy per coordinate at a minimum, in energy per length squared.

    A third of the trace of the Hessian per atom, by random directions (Hutchinson, doi:10.1080/03610919008812866) and
    central differences of forces. `bond` is a length of neighbours, `structure` a single one. Fixed atoms do not count.
    """
    free = np.asarray(structure.mask & ~structure.fixed)
    if not free.any():
        raise StructureError("all atoms are fixed; nothing can move")
    x, h = np.asarray(structure.positions), 1e-4 * bond
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(probes, *x.shape)) * free[:, None]
    both = np.concatenate([x + h * signs, x - h * signs])
    batch = Structure.create(both, structure.numbers, structure.cell, structure.fixed, structure.pbc)
    forces = single_points(batch, potential).forces
    pull = ((forces[probes:] - forces[:probes]) * signs).sum((1, 2)) / (2 * h)
    return float(pull.mean() / (3 * free.sum()))


def annealing_for(potential: Potential, minimum: Structure, bond: float, n_steps: int, seed: int = 0) -> Annealing:
    """The annealing that suits a system, one minimum of which is given; `bond` is its length of neighbours.

    With k the mean curvature, vibrations have <u^2> = 3 kT / k and a frequency of sqrt(k) at unit mass: that gives the
    temperatures (between which most systems freeze) and the time step. They are estimates; a slower annealing over the
    range in which one's own system freezes does better. Functions of vectors do not melt: there kT goes from half the height
    of a ripple (`Potential.energy_scale`) to a fiftieth, and k is that of a sinusoidal ripple `bond` long.
    """
    height = potential.energy_scale(np.asarray(minimum.numbers))
    if potential.variables is not None and height is not None:
        k, hot, cold = 2 * np.pi**2 * height / bond**2, 0.5 * height, 0.02 * height
    else:
        k = stiffness(potential, minimum, bond)
        if not k > 0:
            raise StructureError("this structure has no stiffness, so no temperatures can be estimated; give them")
        melting = k * (LINDEMANN * bond) ** 2 / 3
        hot, cold = HOT * melting, COLD * melting
    frequency = k**0.5
    return Annealing(
        n_steps=n_steps, hot=hot, cold=cold, dt=STEP / frequency, friction=FRICTION * frequency, seed=seed,
        max_step=0.2 * bond, then=LBFGS(max_step=0.15 * bond),
    )  # fmt: skip
