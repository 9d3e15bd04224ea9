"""Structures: nothing is lost on the way to `ase.Atoms` and back, into padding and out of it, into a batch and out of it."""

import ase
import numpy as np
import pytest
from ase.build import fcc111
from ase.constraints import FixAtoms, FixBondLength
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thalweg.errors import StructureError
from thalweg.structure import PADDING, Structure, from_ase, pad, stack, to_ase

coordinate = st.floats(-1e6, 1e6)


@st.composite
def structures(draw, atoms=None):
    n = draw(st.integers(1, 8)) if atoms is None else atoms
    return Structure.create(
        draw(hnp.arrays(np.float64, (n, 3), elements=coordinate)),
        draw(hnp.arrays(np.int32, n, elements=st.integers(0, 118))),
        draw(hnp.arrays(np.float64, (3, 3), elements=coordinate)),
        draw(hnp.arrays(bool, n)),
        draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
    )


def assert_equal(a: Structure, b: Structure) -> None:
    for name in ("positions", "numbers", "cell", "fixed"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    assert a.pbc == b.pbc


@settings(max_examples=80, deadline=None)
@given(structures())
def test_there_and_back_through_ase(structure):
    atoms = to_ase(structure, energy=-1.5)
    assert atoms.info == {"energy": -1.5}
    np.testing.assert_array_equal(atoms.positions, structure.positions)
    np.testing.assert_array_equal(atoms.numbers, structure.numbers)
    np.testing.assert_array_equal(atoms.cell.array, structure.cell)
    assert tuple(atoms.pbc) == structure.pbc
    held = [c.get_indices() for c in atoms.constraints]
    np.testing.assert_array_equal(np.concatenate([[], *held]), np.flatnonzero(structure.fixed))
    assert_equal(from_ase(atoms), structure)


@settings(max_examples=80, deadline=None)
@given(structures(), st.integers(0, 5))
def test_padding_holds_no_atoms(structure, extra):
    n = structure.n_slots
    padded = pad(structure, n + extra)
    assert padded.n_slots == n + extra
    np.testing.assert_array_equal(padded.mask, np.arange(n + extra) < n)
    assert (padded.numbers[n:] == PADDING).all()
    assert padded.fixed[n:].all()  # nothing in an empty slot may move
    assert_equal(from_ase(to_ase(padded)), structure)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(structures(n), min_size=1, max_size=4)))
def test_a_batch_gives_its_members_back(members):
    members = [Structure(m.positions, m.numbers, m.cell, m.fixed, members[0].pbc) for m in members]
    batch = stack(members)
    assert batch.batch == (len(members),)
    assert len(batch) == len(members)
    padded = pad(batch, batch.n_slots + 2)
    for k, member in enumerate(members):
        assert_equal(batch[k], member)
        assert_equal(padded[k], pad(member, batch.n_slots + 2))
    np.testing.assert_array_equal(batch[::-1].positions, batch.positions[::-1])


def test_constraints_of_ase():
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab.set_constraint([FixAtoms(indices=[0, 1]), FixAtoms(mask=slab.positions[:, 2] > 6), FixBondLength(2, 3)])
    expected = slab.positions[:, 2] > 6
    expected[:2] = True
    structure = from_ase(slab)
    np.testing.assert_array_equal(structure.fixed, expected)
    again = to_ase(structure)
    moved = again.positions + 1.0
    again.set_positions(moved)  # ASE leaves fixed atoms where they are
    np.testing.assert_allclose(again.positions[expected], slab.positions[expected])
    np.testing.assert_allclose(again.positions[~expected], moved[~expected])
    assert to_ase(from_ase(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 3]]))).constraints == []


def test_defaults_and_bad_shapes():
    structure = Structure.create([[0, 0, 0], [1, 0, 0]])
    assert structure.positions.dtype == np.float64
    np.testing.assert_array_equal(structure.numbers, [0, 0])
    assert not structure.fixed.any()
    assert structure.pbc == (False, False, False)
    assert structure.batch == ()
    for wrong in ([1.0, 2, 3], [[1.0, 2]]):
        with pytest.raises(StructureError, match=r"need \(..., atoms, 3\)"):
            Structure.create(wrong)
    with pytest.raises(StructureError, match="numbers for 2 positions"):
        Structure.create(np.zeros((2, 3)), [1, 2, 3])
    with pytest.raises(StructureError, match="cannot pad 2 atoms into 1"):
        pad(structure, 1)
    with pytest.raises(StructureError, match="only a batch can"):
        structure[0]
    with pytest.raises(StructureError, match="only a batch has"):
        len(structure)
    with pytest.raises(StructureError, match="index the batch first"):
        to_ase(stack([structure, structure]))
    with pytest.raises(StructureError, match="no structures"):
        stack([])
