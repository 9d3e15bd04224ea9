"""Starts in cells: symmetric where they say so, compact where they should be, nowhere two atoms on top of each other."""

import numpy as np
import pytest
from ase.build import bulk
from test_periodic_generators import SKEWED, distances, draws, system_of

from thalweg.errors import InputError
from thalweg.generators.cells import LatticeFragment, RandomCell
from thalweg.generators.crystals import SymmetricCell, VariableCell
from thalweg.generators.space_groups import operations
from thalweg.potentials.pair import CSHGel
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Frechet
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure

#: Orders in the conventional and in the primitive cell, from the International Tables.
SPACE_GROUPS = {
    1: (1, 1), 2: (2, 2), 14: (4, 4), 15: (8, 4), 62: (8, 8), 70: (32, 8), 139: (32, 16), 166: (36, 12), 194: (24, 24),
    205: (24, 24), 216: (96, 24), 225: (192, 48), 227: (192, 48), 229: (96, 48), 230: (96, 48),
}  # fmt: skip


@pytest.mark.parametrize("number", SPACE_GROUPS)
@pytest.mark.parametrize("primitive", [False, True])
def test_space_group_has_its_order_and_is_closed(number, primitive):
    rotations, translations = operations(number, primitive)
    assert len(rotations) == SPACE_GROUPS[number][primitive]
    np.testing.assert_allclose(np.abs(np.linalg.det(rotations)), 1)
    np.testing.assert_array_equal(rotations[0], np.eye(3))
    np.testing.assert_array_equal(translations[0], 0)
    for r, t in zip(rotations[1:4], translations[1:4], strict=True):
        products, moved = r @ rotations, translations @ r.T + t
        gap = moved[:, None] - translations
        other = np.abs(products[:, None] - rotations).max((2, 3)) + np.abs(gap - np.rint(gap)).max(2)
        np.testing.assert_allclose(other.min(1), 0, atol=1e-6)


def unmatched(x, y, cell):
    """Largest distance of a point of y from the nearest point of x."""
    return distances(y, x, cell).min(1).max()


@pytest.mark.parametrize("number", [14, 227, *(pytest.param(n, marks=pytest.mark.slow) for n in (70, 166, 194))])
def test_variable_cells_have_the_symmetry_of_their_group(number):
    """Each operation keeps all lengths and angles of the cell and takes atoms to atoms of the same species."""
    rotations, translations = operations(number, True)
    numbers = np.array([13] * 8 + [28] * 4)
    system = system_of(numbers, np.eye(3) * 5, bond=2.6)
    whole = 0
    for x, cell in zip(*draws(VariableCell((number,)), system, np.zeros((12, 3))), strict=True):
        metric = cell @ cell.T
        np.testing.assert_allclose(np.swapaxes(rotations, 1, 2) @ metric @ rotations, metric + 0 * rotations, atol=2e-3)
        volume = np.linalg.det(cell) / (12 * 2.6**3 / 2**0.5)
        assert 0.899 < volume < 2.401
        fractions = x @ np.linalg.inv(cell)
        gaps = []
        for r, t in zip(rotations, translations, strict=True):
            y = (fractions @ r.T + t) @ cell
            gaps.append(max(unmatched(x[s], y[s], cell) for s in (slice(0, 8), slice(8, 12))))
        whole += max(gaps) < 0.02
    assert whole >= 3  # not every draw comes out even; what is left over is random


def test_variable_cells_differ_and_keep_atoms_apart():
    system = system_of([14] * 6, np.eye(3) * 5, bond=2.35)
    x, cells = draws(VariableCell(), system, np.zeros((6, 3)), n=32)
    shapes = np.linalg.norm(cells, axis=2) / np.cbrt(np.linalg.det(cells))[:, None]
    assert np.ptp(shapes, axis=0).min() > 0.3
    nearest = [(distances(p, p, c) + 10 * np.eye(6)).min() for p, c in zip(x, cells, strict=True)]
    assert np.min(nearest) > 0.4 * 2.35
    assert np.median(nearest) > 0.7 * 2.35


def test_fixed_cell_keeps_a_centre_of_inversion():
    """In a skewed cell only P1 and P-1 fit. Centres are sought between the first atom and every other."""
    system = system_of([1] * 12 + [2] * 8, SKEWED)
    symmetric = 0
    for x in draws(SymmetricCell((2,)), system, np.zeros((20, 3)), n=8)[0]:
        centres = [(x[0] + x[k] + shift @ SKEWED) / 2 for k in range(12) for shift in np.ndindex(2, 2, 2)]
        gaps = [max(unmatched(x[s], 2 * c - x[s], SKEWED) for s in (slice(0, 12), slice(12, 20))) for c in centres]
        symmetric += min(gaps) < 5e-3
    assert symmetric >= 6


def test_symmetric_cells_in_a_cube_have_many_symmetries():
    spglib = pytest.importorskip("spglib")
    system = system_of([14] * 64, np.eye(3) * 10.866, bond=2.35)
    orders = []
    for x in draws(SymmetricCell(), system, np.zeros((64, 3)))[0]:
        found = spglib.get_symmetry_dataset((np.eye(3), x / 10.866, system.numbers), symprec=1e-3)
        orders.append(len(found.rotations))
    assert np.median(orders) >= 8
    assert len(set(orders)) > 4


def test_random_cell_keeps_atoms_apart_and_fixed_ones_in_place():
    system = system_of([1] * 50 + [2] * 20, SKEWED, bond=1.2)
    fixed = np.arange(70) < 10
    system = type(system)(system.numbers, system.bond_lengths, fixed, system.cell, system.pbc)
    there = np.random.default_rng(0).uniform(size=(70, 3)) @ SKEWED
    rng = np.random.default_rng(1)
    gap = lambda x: (distances(x, x, SKEWED)[10:] + 9 * np.eye(70)[10:]).min()
    starts = draws(RandomCell(), system, there, n=8)[0]
    uniform = [gap(rng.uniform(size=(70, 3)) @ SKEWED) for _ in range(8)]
    np.testing.assert_allclose(starts[:, :10], there[None, :10] + np.zeros((8, 1, 1)), atol=1e-5)
    assert min(map(gap, starts)) > np.mean(uniform)


def test_random_cell_of_a_slab_fills_a_layer():
    cell = np.diag([8.0, 9.0, 30.0])
    system = system_of([0] * 60, cell, bond=1.5, pbc=(True, True, False))
    x = draws(RandomCell(), system, np.zeros((60, 3)))[0]
    thickness = 1.2 * 60 * 1.5**3 / 2**0.5 / 72
    height = np.ptp(x[..., 2], axis=1)
    assert (height < thickness).all()
    assert (height > 0.8 * thickness).all()
    assert abs(x[..., 2].mean() - 15) < 0.1


@pytest.mark.slow
def test_lattice_fragments_find_the_crystal_that_fits():
    """In a box of 3 x 3 x 3 fcc cells filled with 108 atoms some fragments are that crystal: 12 neighbours each."""
    crystal = bulk("Ar", "fcc", a=2**0.5, cubic=True).repeat(3)
    cell = crystal.cell[:]
    x = draws(LatticeFragment(("fcc",), noise=0.0), system_of([0] * 108, cell, bond=1.0), crystal.positions, n=24)[0]
    full = 0
    for y in x:
        d = distances(y, y, cell)
        full += ((d < 1.05).sum(1) - 1 == 12).all() & ((d + np.eye(108)).min() > 0.99)
    assert full >= 3


@pytest.mark.slow
def test_lattice_fragments_are_starts_below_the_published_gels():
    """The C-S-H gel: plain relaxations from them end below the best value published for 52,000 evaluations."""
    cell = 300 * np.eye(3)
    system = system_of([0] * 152, cell, bond=50 * 2 ** (1 / 14))
    x = draws(LatticeFragment(), system, np.zeros((152, 3)), n=8)[0]
    nearest = [(distances(p, p, cell) + 1e3 * np.eye(152)).min() for p in x]
    assert min(nearest) > 0.8 * 52.5
    relaxation = Relaxation(CSHGel(), LBFGS(max_step=8.0), fmax=10.0, max_steps=100)
    energy = relax(Structure.create(x, system.numbers, cell, pbc=system.pbc), relaxation, n_lanes=8).energy
    assert np.median(energy) < -1_895_756
    assert energy.min() < -1_990_000


def test_refusals():
    with pytest.raises(InputError, match="diamant"):
        LatticeFragment(("diamant",))
    with pytest.raises(InputError, match="space group 231"):
        SymmetricCell((231,))
    with pytest.raises(InputError, match="max_order"):
        VariableCell((227,), max_order=8)
    with pytest.raises(InputError, match="exchange"):
        VariableCell(smallest=2.0, largest=1.0)
    free = system_of([0] * 4, np.eye(3), pbc=(False,) * 3)
    for generator in (RandomCell(), LatticeFragment(), SymmetricCell(), VariableCell()):
        with pytest.raises(InputError, match=generator.name):
            draws(generator, free, np.zeros((4, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("atoms", [2, 8])
def test_variable_cells_relax_to_the_diamond_structure(atoms):
    """Silicon from nothing but the bond length: -4.33660 eV per atom is the Stillinger-Weber crystal."""
    system = system_of([14] * atoms, np.eye(3) * 5, bond=2.35)
    x, cells = draws(VariableCell(), system, np.zeros((atoms, 3)), n=64)
    start = Structure.create(x, system.numbers, cells, pbc=system.pbc)
    relaxation = Relaxation(StillingerWeber(), LBFGS(max_step=0.3), fmax=1e-3, max_steps=400, filter=Frechet())
    relaxed = relax(start, relaxation, n_lanes=64)
    np.testing.assert_allclose(np.nanmin(relaxed.energy) / atoms, -277.5424 / 64, atol=2e-4)
