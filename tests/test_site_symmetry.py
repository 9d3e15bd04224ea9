"""Operations under which training may see an episode anew: their numbers against known groups, and what they do to a site."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import fcc111
from ase.geometry import get_distances

from thalweg.agents.grid import Grid, grid_of
from thalweg.agents.symmetry import operations
from thalweg.potentials.black_box import BlackBox
from thalweg.region import Plane, Slab
from thalweg.structure import Structure
from thalweg.system import System, confined


def site(cell, pbc, template=None, added=(29, 29), region=None) -> tuple[System, Grid]:
    system = confined(template, added, BlackBox("ase.calculators.emt:EMT"), np.asarray(cell, float), pbc, region)
    return system, grid_of(system, 0.5)


SIXTY = [[6, 0], [3, 6 * math.sqrt(0.75)]]
#: A periodic plane by its vectors, and how many operations its group has: 4mm, 2mm, 6mm, and 2 of an oblique one.
PLANES = {
    "square": ([[6, 0], [0, 6]], 8),
    "rectangular": ([[6, 0], [0, 8]], 4),
    "hexagonal": (SIXTY, 12),
    "oblique": ([[6, 0], [1, 7]], 2),
}


@pytest.mark.parametrize("name", PLANES)
def test_a_periodic_plane_has_the_operations_of_its_group(name):
    vectors, count = PLANES[name]
    cell = np.eye(3) * 9
    cell[:2, :2] = vectors
    system, grid = site(cell, (True, True, False), region=Plane(vectors, periodic=(True, True)))
    found = operations(system, grid)
    assert len(found.rotations) == count
    assert not found.continuous
    np.testing.assert_array_equal(found.rotations[0], np.eye(3))
    for turn in found.rotations:
        np.testing.assert_array_equal(turn[2].round(9), [0, 0, 1])
        # The grid goes over into itself: every voxel onto a voxel, and no two onto one.
        moved = grid.points() @ jnp.asarray(turn.T, jnp.float32)
        at, there = grid.nearest(moved)
        d = (np.asarray(moved - grid.position(at)) @ np.linalg.inv(cell)) % 1
        assert bool(there.all())
        assert len(np.unique(at)) == grid.size
        assert np.minimum(d, 1 - d).max() < 1e-5


def test_a_template_keeps_the_operations_that_map_it_onto_itself():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    template = Structure.create(slab.positions, slab.numbers, slab.cell.array, np.ones(12, bool), (True, True, False))
    heights = Slab(12.5, 16.0, slab.cell.array[:2, :2])
    system, grid = site(slab.cell.array, (True, True, False), template, region=heights)
    found = operations(system, grid)
    assert len(found.rotations) == 24  # p3m1: 6 turns and mirrors, and 4 shifts of the cell of one atom
    np.testing.assert_array_equal(found.rotations[0], np.eye(3))
    np.testing.assert_allclose(found.shifts[0], 0, atol=1e-9)
    for turn, shift in zip(found.rotations, found.shifts, strict=True):
        moved = slab.positions @ turn.T + shift
        _, d = get_distances(moved, slab.positions, slab.cell, slab.pbc)
        assert (d.min(1) < 1e-3).all()
        assert len(set(d.argmin(1))) == 12
    # With one atom of another species only what maps that one onto itself is left.
    changed = slab.numbers.copy()
    changed[-1] = 28
    template = Structure.create(slab.positions, changed, slab.cell.array, np.ones(12, bool), (True, True, False))
    assert len(operations(*site(slab.cell.array, (True, True, False), template, region=heights)).rotations) == 6


def test_without_a_cell_and_a_template_anything_may_be_turned():
    free = operations(*site(np.zeros((3, 3)), (False, False, False)))
    assert free.continuous
    np.testing.assert_array_equal(free.rotations[0], np.eye(3))
    flat = Plane([[8, 0], [0, 8]])
    one = Structure.create(np.array([[3.0, 4.0, 0.0]]), [79], np.zeros((3, 3)), [True], (False,) * 3)
    held = operations(*site(np.zeros((3, 3)), (False, False, False), one, region=flat))
    assert len(held.rotations) == 8
    assert not held.continuous
    np.testing.assert_allclose(held.rotations @ [3.0, 4.0, 0.0] + held.shifts, [[3.0, 4.0, 0.0]] * 8, atol=1e-9)
