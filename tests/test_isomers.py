"""Which molecule a structure is, against names that chemistry gave to ASE's molecules."""

import sys

import numpy as np
import pytest
from ase.build import molecule

from thalweg.errors import InputError
from thalweg.similarity.isomers import Isomer, fragments, isomers_of, new_ones, smiles_of
from thalweg.structure import Structure, from_ase, pad

#: SMILES of molecules of the G2 set (ASE's geometries), as they are written in every data base.
G2 = {
    "CH4": "C", "H2O": "O", "HF": "F", "N2": "N#N", "CH3CH2OH": "CCO", "CH3COOH": "CC(=O)O", "C6H6": "c1ccccc1",
    "C5H5N": "c1ccncc1", "C4H4NH": "c1cc[nH]c1", "C4H4O": "c1ccoc1", "CH3NO2": "C[N+](=O)[O-]", "CO": "[C-]#[O+]",
    "CO2": "O=C=O", "H2CCO": "C=C=O", "NCCN": "N#CC#N", "bicyclobutane": "C1C2CC12", "CH3": "[CH3]", "H2": "[H][H]",
    "CH2NHCH2": "C1CN1", "CF4": "FC(F)(F)F", "trans-butane": "CCCC", "isobutene": "C=C(C)C", "CH3CONH2": "CC(N)=O",
}  # fmt: skip


@pytest.fixture
def rdkit():
    return pytest.importorskip("rdkit", reason="rdkit is not installed: pip install thalweg[molecules]")


def shuffled(structure: Structure, seed: int, mirror: bool = False) -> Structure:
    """The same atoms rotated, moved, in another order, and with empty slots; their mirror image where wanted."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn)) * (-1 if mirror else 1)
    order = rng.permutation(structure.n_slots)
    there = np.asarray(structure.positions)[order] @ turn + rng.normal(size=3)
    return pad(Structure.create(there, np.asarray(structure.numbers)[order]), structure.n_slots + 3)


def test_molecules_have_their_names(rdkit):
    from rdkit.Chem import CanonSmiles

    found = {name: smiles_of(shuffled(from_ase(molecule(name)), seed=1)) or Isomer("none", "none") for name in G2}
    assert {name: one.constitution for name, one in found.items()} == {k: CanonSmiles(smiles) for k, smiles in G2.items()}
    assert found["bicyclobutane"].stereo == CanonSmiles("C1[C@H]2C[C@H]12")  # both hydrogen atoms on one side


def test_stereo_isomers_are_told_apart_and_mirror_images_are_not(rdkit):
    from thalweg.learning.molecules import embedded

    names = {}
    for smiles in ("C[C@H](F)[C@@H](F)O", "C[C@H](F)[C@H](F)O", "C/C=C/F", "C/C=C\\F"):
        structure = embedded(smiles)
        seen = {smiles_of(shuffled(structure, seed, mirror)) for seed in range(3) for mirror in (False, True)}
        assert len(seen) == 1, smiles
        names[smiles] = seen.pop()
    assert len({one.stereo for one in names.values() if one}) == 4
    assert {one.constitution for one in names.values() if one} == {"CC(F)C(O)F", "CC=CF"}


def test_where_double_bonds_of_a_ring_stand_does_not_depend_on_the_order_of_atoms(rdkit):
    """Cyclobutadiene with methyl groups at neighbours: bonds alone fit two sets of double bonds."""
    from thalweg.learning.molecules import embedded

    structure = embedded("CC1=C(C)C=C1")
    assert len({smiles_of(shuffled(structure, seed)) for seed in range(8)}) == 1


def test_isomers_are_counted_and_new_ones_found(rdkit):
    ethanol, ether = from_ase(molecule("CH3CH2OH")), from_ase(molecule("CH3OCH3"))
    apart = Structure.create(
        np.concatenate([ethanol.positions, np.asarray(ether.positions) + 9.0]), [*ethanol.numbers, *ether.numbers]
    )
    crushed = Structure.create(np.asarray(ethanol.positions) * 0.4, ethanol.numbers)
    assert [fragments(s) for s in (ethanol, apart)] == [1, 2]
    found = isomers_of([ether, ethanol, crushed, ethanol, apart], [-1.0, -2.0, -9.0, -2.5, -8.0])
    assert list(found.constitutions.items()) == [("CCO", (-2.5, 3, 2, 1)), ("COC", (-1.0, 0, 1, 0))]
    assert (found.unnamed, found.broken) == (1, 1)
    assert list(new_ones(found, ["CCO"]).stereo) == ["COC"]


def test_what_cannot_be_named_says_so(rdkit, monkeypatch):
    water = from_ase(molecule("H2O"))
    with pytest.raises(InputError, match="this structure is periodic"):
        smiles_of(Structure.create(water.positions, water.numbers, np.eye(3) * 9, pbc=(True, True, True)))
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(InputError, match=r"needs? the package rdkit.*pip install thalweg\[molecules\]"):
        smiles_of(water)
    assert fragments(water) == 1
