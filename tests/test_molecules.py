"""Molecules to learn from: the enumeration against counts of chemistry and against all matrices, labels against tblite."""

import itertools
import json

import numpy as np
import pytest

from thalweg.errors import InputError, RunFolderError, StructureError

pytest.importorskip("rdkit", reason="rdkit is not installed: pip install thalweg[molecules]")

from rdkit import Chem, RDLogger
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from thalweg.learning.molecules import MoleculeSet, allowed, embedded, enumerated, labelled, load_molecules
from thalweg.similarity.isomers import smiles_of
from thalweg.structure import to_ase

RDLogger.DisableLog("rdApp.*")


def formulas(smiles) -> dict[str, int]:
    """How many there are of each formula."""
    found = sorted(CalcMolFormula(Chem.MolFromSmiles(one)) for one in smiles)
    return {formula: len(list(group)) for formula, group in itertools.groupby(found)}


def test_isomers_are_as_many_as_chemistry_knows():
    """Alkanes, alkenes with cycloalkanes (and their stereo isomers), ethers with alcohols, amines, fluorides."""
    carbon = formulas(enumerated(5, "C", stereo=False))
    assert [carbon[f] for f in ("CH4", "C2H6", "C3H8", "C4H10", "C5H12")] == [1, 1, 1, 2, 3]
    assert [carbon[f] for f in ("C2H4", "C3H6", "C4H8", "C5H10")] == [1, 2, 5, 10]
    assert [formulas(enumerated(5, "C"))[f] for f in ("C4H8", "C5H10")] == [6, 12]
    others = formulas(enumerated(5, "CO", stereo=False)) | formulas(enumerated(5, "CN", stereo=False))
    assert [others[f] for f in ("CH4O", "C2H6O", "C3H8O", "C4H10O")] == [1, 2, 3, 7]
    assert [others[f] for f in ("CH5N", "C2H7N", "C3H9N", "C4H11N")] == [1, 2, 4, 8]
    fluorides = formulas(enumerated(4, "CF", stereo=False))
    assert [fluorides[f] for f in ("CH3F", "C2H5F", "C3H7F", "C2H4F2", "CHF3")] == [1, 1, 2, 2, 1]


#: The rules of `enumerated` once more, as patterns that are left out; 7 to 9 need more atoms than are tried here.
FORBIDDEN = [
    "OO", "F~[!C]", "[N,O]~[N,O]~[N,O]", "*=*=*", "*#@*", "*1=**=*1", "[r3]=@[r3]", "[N,O;r3]@[N,O;r3]", "[*;R2,R3]",
    "[OX2H,NX3H,NX3H2]-C=C", "[OX2H,NX3H,NX3H2]C#C", "[OX2H]C=N", "[OX2H]C#N",
    "[OX2H,NX3H,NX3H2][CX4][N,O,F]", "[NH]=N", "[NH]=O", "[C;!H0]N=O",
]  # fmt: skip


@pytest.mark.parametrize(("atoms", "elements"), [(3, "CNOF"), (4, "CN"), (4, "CO")])
def test_growing_misses_nothing_and_adds_nothing(atoms, elements):
    """All matrices of bond orders, one after the other, without those that hold a forbidden pattern."""
    valence = {"C": 4, "N": 3, "O": 2, "F": 1}
    patterns = [Chem.MolFromSmarts(one) for one in FORBIDDEN]
    kinds = [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    pairs = list(itertools.combinations(range(atoms), 2))
    orders = np.array(list(itertools.product(range(4), repeat=len(pairs))))
    used = np.stack([orders[:, [i in pair for pair in pairs]].sum(1) for i in range(atoms)], 1)
    wanted = set()
    for chosen in itertools.combinations_with_replacement(elements, atoms):
        for row in orders[(used <= [valence[e] for e in chosen]).all(1)]:
            molecule = Chem.RWMol()
            for element in chosen:
                molecule.AddAtom(Chem.Atom(element))
            for (i, j), order in zip(pairs, row, strict=True):
                if order:
                    molecule.AddBond(i, j, kinds[order])
            if len(Chem.GetMolFrags(molecule)) == 1:
                Chem.SanitizeMol(molecule)
                name = Chem.MolToSmiles(molecule)
                Chem.Kekulize(molecule, clearAromaticFlags=True)  # rings of four, which are none
                if not any(molecule.HasSubstructMatch(p) for p in patterns):
                    wanted.add(name)
    found = [s for s in enumerated(atoms, elements, stereo=False) if Chem.MolFromSmiles(s).GetNumAtoms() == atoms]
    assert sorted(found) == sorted(wanted)


#: Molecules that the rules leave out, each with one beside it that they keep.
BESIDE = [
    ("C1CC2CC12", "C1CC2CC2C1"), ("C1C2CC1C2", "C1CC2CCC1C2"), ("C1CC2CC1C2", "C1CC12CC2"), ("C1CC2=CC1CC2", "C1C=CC2CCC1C2"),
    ("C1CC2=C1CC2", "C1CCC2=C(C1)CCC2"), ("C1CC2=C(C1)C2", "C=C1CC1"), ("C1CC#CCC1", "CC#CC"), ("C1=CC1", "C1=CCC1"),
    ("C1ON1", "C1CN1"), ("C=C(C)O", "CC(C)=O"), ("C=CN", "Nc1ccccc1"), ("CC(O)OC", "CC(OC)OC"), ("N=NC", "CN=NC"),
    ("CC=C=C", "CC=CC"), ("NNN", "NN"), ("CC(C)N=O", "CC(C)(C)N=O"), ("C[N+](=O)[O-]", "COC=O"), ("CCl", "CF"), ("[CH3]", "C"),
]  # fmt: skip


def test_rules_part_what_is_alike():
    assert [[allowed(one) for one in pair] for pair in BESIDE] == [[False, True]] * len(BESIDE)
    assert all(allowed(one) for one in enumerated(4, "CNOF"))
    with pytest.raises(InputError, match='made of CNOF and hydrogen, not of "CS"'):
        enumerated(3, "CS")
    with pytest.raises(InputError, match="ask for 1 to 8"):
        enumerated(9)


def test_molecules_in_space_are_those_of_their_names():
    for smiles in enumerated(3, "CNO"):
        structure = embedded(smiles, seed=3)
        found = smiles_of(structure)
        assert found is not None
        assert found.stereo == smiles
        np.testing.assert_array_equal(embedded(smiles, seed=3).positions, structure.positions)
    with pytest.raises(StructureError, match="cannot be embedded"):
        embedded("C1C[C@H]2C[C@H]12")  # two small rings that would have to be joined on both sides of each other
    with pytest.raises(StructureError, match="is no SMILES"):
        embedded("C(C")


@pytest.fixture(scope="module")
def made() -> MoleculeSet:
    pytest.importorskip("tblite", reason="tblite is not installed: pip install thalweg[xtb]")
    return labelled(["O", "C1C[C@H]2C[C@H]12", "C#N", "[NH3+]C(=O)[O-]", "C=O"], displaced=3)


def test_labels_are_those_of_a_new_calculator(made):
    from tblite.ase import TBLite

    assert (made.smiles, len(made), list(made.molecule)) == (("O", "C#N", "C=O"), 12, [0] * 4 + [1] * 4 + [2] * 4)
    assert made.rejected == (
        ("C1C[C@H]2C[C@H]12", "C1C[C@H]2C[C@H]12 cannot be embedded in space"),
        ("[NH3+]C(=O)[O-]", "became N.O=C=O when it was relaxed"),
    )
    assert list(np.flatnonzero(~made.displaced)) == [0, 4, 8]
    for k in range(len(made)):
        atoms = to_ase(made[k])
        atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
        # Positions are kept in single precision.
        np.testing.assert_allclose(made.energies[k], atoms.get_potential_energy(), atol=1e-4)
        np.testing.assert_allclose(made.forces[k][: len(atoms)], atoms.get_forces(), atol=1e-3)
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        assert (largest < 0.05) == (not made.displaced[k])
    above = made.energies - made.minima.energies[made.molecule]
    assert (above[made.displaced] > 0).all()


def test_without_labels_there_is_no_set(made):
    with pytest.raises(InputError, match="none of 1 molecules could be labelled; the first: not relaxed after 2 evaluations"):
        labelled(["C#N"], max_steps=2)


def some(molecules: int = 20) -> MoleculeSet:
    """A set without chemistry: two frames of each molecule, constitutions in pairs."""
    rng = np.random.default_rng(0)
    n = 2 * molecules
    numbers = np.where(np.arange(5) < rng.integers(2, 6, n)[:, None], rng.choice([1, 6, 8], (n, 5)), -1).astype(np.int8)
    x, f = rng.normal(size=(2, n, 5, 3)).astype(np.float32)
    return MoleculeSet(
        numbers, x, rng.normal(size=n), f, np.repeat(np.arange(molecules, dtype=np.int32), 2), np.arange(n) % 2 > 0,
        tuple(f"{m}@" for m in range(molecules)), tuple(f"{m // 2}" for m in range(molecules)), {"seed": 7},
    )  # fmt: skip


def test_a_split_parts_constitutions():
    whole = some()
    train, test = whole.split(seed=1, test=0.2)
    assert not set(train.constitutions) & set(test.constitutions)
    assert (len(set(test.constitutions)), len(test.smiles), len(test)) == (2, 4, 8)
    assert sorted([*train.energies, *test.energies]) == sorted(whole.energies)
    for part in (train, test):
        for k in range(len(part)):
            there = int(np.flatnonzero(whole.energies == part.energies[k])[0])
            assert part.smiles[part.molecule[k]] == whole.smiles[whole.molecule[there]]
            np.testing.assert_array_equal(part[k].positions, whole[there].positions)
    assert whole.split(seed=1)[1].digest == whole.split(seed=1)[1].digest != whole.split(seed=2)[1].digest
    with pytest.raises(InputError, match="cannot be split"):
        whole.taken([0, 1]).split(seed=0)


def test_files_come_back_and_damage_is_found(tmp_path):
    whole, path = some(), tmp_path / "some.npz"
    whole.save(path)
    back = load_molecules(path)
    assert back.digest == whole.digest
    assert (back.smiles, back.about, back.species) == (whole.smiles, whole.about, (1, 6, 8))
    held = dict(np.load(path))
    np.savez(path, **{**held, "energies": held["energies"] + 1e-9})
    with pytest.raises(InputError, match="is damaged: its arrays are not those"):
        load_molecules(path)
    header = {**json.loads(held["header"].tobytes()), "thalweg-molecules": 99}
    np.savez(path, **{**held, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.raises(InputError, match="has version 99 of the format"):
        load_molecules(path)
    for content in (b"nothing", path.read_bytes()[:900]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a set of molecules"):
            load_molecules(path)
    with pytest.raises(InputError, match="there are no molecules at"):
        load_molecules(tmp_path / "none.npz")
    with pytest.raises(RunFolderError, match="cannot write"):
        whole.save(tmp_path / "none" / "some.npz")
