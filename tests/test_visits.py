"""Relaxations that the host looks at, and the annealing that suits a structure."""

import ase.build
import jax
import numpy as np
import pytest

from thalweg import LBFGS, LennardJones, Relaxation, StillingerWeber, Structure, StructureError, from_ase
from thalweg.relax.base import RUNNING
from thalweg.relax.driver import relax
from thalweg.relax.stiffness import annealing_for, stiffness
from thalweg.relax.visits import visits
from thalweg.structure import stack

BOND = 2 ** (1 / 6)


def test_visits_end_where_relax_ends_and_tell_of_the_way():
    frames = []
    for seed in range(3):
        crystal = ase.build.bulk("Si", cubic=True, a=5.3 + 0.1 * seed)
        crystal.rattle(0.1, seed=seed)
        frames.append(from_ase(crystal))
    relaxation = Relaxation(StillingerWeber(), LBFGS(), fmax=1e-6)
    wanted = relax(stack(frames), relaxation)
    seen = list(visits(stack(frames), relaxation, every=0.0))
    assert len(seen) > 3
    assert (seen[0].status == RUNNING).all()
    np.testing.assert_array_equal(seen[-1].status, wanted.status)
    np.testing.assert_array_equal(seen[-1].steps, wanted.steps)
    np.testing.assert_allclose(seen[-1].energy, wanted.energy, rtol=1e-12)
    np.testing.assert_allclose(seen[-1].structures.positions, wanted.structures.positions, atol=1e-7)
    np.testing.assert_array_equal(seen[-1].structures.cell, wanted.structures.cell)


@pytest.mark.slow
def test_large_structures_are_visited_with_neighbour_lists():
    crystal = ase.build.bulk("Si", cubic=True, a=5.431).repeat((4, 4, 3))
    crystal.rattle(0.1, seed=0)
    *_, last = visits(stack([from_ase(crystal)]), Relaxation(StillingerWeber(), LBFGS(), fmax=1e-3), every=0.0)
    assert last.converged.all()
    # Silicon at LAMMPS's -277.5424 eV for 64 atoms, there with an epsilon of 2.1683 eV.
    np.testing.assert_allclose(last.energy, len(crystal) * -277.5424 / 64 * 2.16826 / 2.1683, atol=1e-4)


def test_stiffness_is_the_mean_curvature():
    # Two Lennard-Jones particles: the second derivative at the minimum, 57.146 epsilon/sigma^2, is the only curvature. As
    # both move, the trace of the Hessian is twice that, over six coordinates; one of them fixed leaves half over three.
    dimer = Structure.create([[0, 0, 0], [BOND, 0, 0]])
    np.testing.assert_allclose(stiffness(LennardJones(), dimer, BOND, probes=400), 57.146 / 3, rtol=0.1)
    held = Structure.create(dimer.positions, fixed=[True, False])
    np.testing.assert_allclose(stiffness(LennardJones(), held, BOND, probes=400), 57.146 / 3, rtol=0.1)
    with pytest.raises(StructureError, match="all atoms are fixed"):
        stiffness(LennardJones(), Structure.create(dimer.positions, fixed=[True, True]), BOND)


@pytest.mark.slow
def test_the_trace_of_a_crystal_is_that_of_its_hessian():
    structure, h = from_ase(ase.build.bulk("Si", cubic=True, a=5.431)), 1e-4
    x = np.asarray(structure.positions)
    steps = h * np.eye(x.size).reshape(-1, *x.shape)  # each coordinate in turn, not random directions
    with jax.enable_x64(True):
        batch = Structure.create(np.concatenate([x + steps, x - steps]), structure.numbers, structure.cell, pbc=structure.pbc)
        forces = np.asarray(StillingerWeber().evaluate(batch).forces)
    change = (forces[: x.size] - forces[x.size :]) / (2 * h)
    trace = -(change * (steps / h)).sum()
    np.testing.assert_allclose(stiffness(StillingerWeber(), structure, 2.35, probes=64), trace / x.size, rtol=0.1)


def test_temperatures_are_those_at_which_the_system_freezes():
    silicon = annealing_for(StillingerWeber(), from_ase(ase.build.bulk("Si", cubic=True, a=5.431)), 2.35, 100)
    # Stillinger-Weber silicon melts at 1683 K (Broughton and Li, Phys. Rev. B 35, 9120 (1987)).
    assert silicon.cold < 1683 * 8.617e-5 < silicon.hot * 1.5
