"""Files: what ASE writes is read, what is written ASE reads, and each kind of bad input is one line that says what to do."""

import builtins

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms

from thalweg.errors import InputError, StructureError
from thalweg.export import COLUMNS, export
from thalweg.io import read_structure, read_structures, validate, write_structure
from thalweg.store import Record, Store
from thalweg.structure import Structure, from_ase, stack


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.json", "a.cif", "POSCAR", "a.vasp", "a.pdb"])
def test_reads_what_ase_writes(tmp_path, name):
    atoms = molecule("CH3CH2OH", vacuum=4.0)
    atoms.pbc = True
    atoms = atoms[np.argsort(atoms.numbers)]
    ase.io.write(tmp_path / name, atoms)
    structure = read_structure(tmp_path / name)
    np.testing.assert_array_equal(np.sort(structure.numbers), np.sort(atoms.numbers))
    expected = ase.io.read(tmp_path / name)
    np.testing.assert_allclose(structure.positions, expected.positions)
    np.testing.assert_allclose(structure.cell, expected.cell.array)
    assert structure.pbc == tuple(expected.pbc)


def test_reads_every_frame_and_keeps_fixed_atoms(tmp_path):
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms(indices=[0, 1, 2, 3]))
    frames = [slab.copy() for _ in range(3)]
    frames[2].positions[-1] += 0.1
    ase.io.write(tmp_path / "a.traj", frames)
    structures = read_structures(tmp_path / "a.traj")
    assert len(structures) == 3
    np.testing.assert_array_equal(np.flatnonzero(structures[0].fixed), [0, 1, 2, 3])
    np.testing.assert_allclose(read_structure(tmp_path / "a.traj").positions, frames[2].positions)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.json"])
def test_ase_reads_what_is_written_with_energies(tmp_path, name):
    rng = np.random.default_rng(0)
    structures = [Structure.create(rng.normal(size=(4, 3)), [0, 0, 79, 79]) for _ in range(3)]
    write_structure(tmp_path / name, structures, energies=[-1.0, -2.0 / 3.0, 1e-12], info=[{"hits": k} for k in range(3)])
    frames = ase.io.read(tmp_path / name, index=":")
    np.testing.assert_allclose([a.get_potential_energy() for a in frames], [-1.0, -2.0 / 3.0, 1e-12], rtol=1e-7, atol=1e-15)
    for atoms, structure in zip(frames, structures, strict=True):
        np.testing.assert_allclose(atoms.positions, structure.positions, atol=1e-8)
        np.testing.assert_array_equal(atoms.numbers, structure.numbers)
    write_structure(tmp_path / name, stack(structures)[:2])  # replaces, and takes a batch
    assert len(ase.io.read(tmp_path / name, index=":")) == 2
    write_structure(tmp_path / name, structures[0])
    assert len(read_structures(tmp_path / name)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_stresses_come_back_from_ase(tmp_path):
    stress = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]) / 7
    cell = Structure.create(np.zeros((1, 3)), [14], np.eye(3), pbc=(True, True, True))
    write_structure(tmp_path / "a.extxyz", [cell, cell], energies=[-1.0, -2.0], stresses=[stress, None])
    first, second = ase.io.read(tmp_path / "a.extxyz", index=":")
    np.testing.assert_allclose(first.get_stress(voigt=False), stress, rtol=1e-7)
    assert "stress" not in second.calc.results
    assert second.get_potential_energy() == -2.0


BAD_FILES = {
    "missing": ("lj83.xyz", None, r"no file .*lj83.xyz. Did you mean \"lj38.xyz\""),
    "empty": ("empty.xyz", b"", "is empty"),
    "unknown format": ("thing.unknown", b"hello\nthere\n", "format of .* is not recognised"),
    "binary": ("thing.xyz", bytes(range(256)), "cannot be read"),
    "cut short": ("short.xyz", b"3\n\nAr 0 0 0\nAr 1 1 1\n", "cannot be read"),
    "no numbers": ("words.xyz", b"2\n\nAr a b c\nAr d e f\n", "cannot be read"),
    "unknown element": ("element.xyz", b"1\n\nQq 0 0 0\n", "cannot be read"),
    "no atoms": ("none.xyz", b"0\n\n", "no atoms|cannot be read|holds no structure"),
    "not a number": ("nan.xyz", b"2\n\nAr 0 0 0\nAr nan 0 0\n", "not a number: atom 1; correct"),
    "coincident": ("twice.xyz", b"3\n\nAr 0 0 0\nAr 5 0 0\nAr 5 0 0.001\n", "atoms 1 and 2 are 0.001 apart"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name):
    file, content, said = BAD_FILES[name]
    (tmp_path / "lj38.xyz").write_text("1\n\nAr 0 0 0\n")
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_structure(tmp_path / file)
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)
    if name in ("not a number", "coincident"):
        assert isinstance(caught.value, StructureError)


def test_the_bad_frame_of_many_is_named(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nAr 0 0 0\n1\n\nAr inf 0 0\n")
    with pytest.raises(StructureError, match="structure 1 has a position that is not a number: atom 0"):
        read_structures(tmp_path / "a.xyz")


def test_other_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_structure(tmp_path)
    (tmp_path / "a").write_text("1\n\nAr 0 0 0\n")
    with pytest.raises(InputError, match=r'called "extxzy".*Did you mean "extxyz"'):
        read_structure(tmp_path / "a", format="extxzy")
    np.testing.assert_array_equal(read_structure(tmp_path / "a", format="extxyz").numbers, [18])
    one = Structure.create(np.zeros((1, 3)))
    with pytest.raises(InputError, match="can be written"):
        write_structure(tmp_path / "a.nothing", one)
    with pytest.raises(InputError, match="cannot write"):
        write_structure(tmp_path / "no" / "folder" / "a.xyz", one)
    with pytest.raises(InputError, match="no structure to write"):
        write_structure(tmp_path / "a.xyz", [])
    with pytest.raises(InputError, match=r"cannot write 2 structures.*holds one"):
        write_structure(tmp_path / "POSCAR", [one, one])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_validate_sees_periodic_images_padding_and_batches():
    copper = from_ase(bulk("Cu", cubic=True))
    validate(copper)
    shifted = Structure.create([[0.0, 0, 0], [0, 0, 9.99]], cell=np.diag([10.0] * 3), pbc=(True, True, True))
    with pytest.raises(StructureError, match=r"atoms 0 and 1 are 0.01 apart, nearer than 0.1"):
        validate(shifted)
    validate(Structure.create(shifted.positions, cell=shifted.cell))  # the same, not periodic
    validate(shifted, minimum_distance=0.005)
    thin = Structure.create([[0.0, 0, 0]], cell=np.diag([0.05, 9, 9]), pbc=(True, True, True))
    with pytest.raises(StructureError, match="atom 0 and its periodic image"):
        validate(thin)
    with pytest.raises(StructureError, match="cell has no volume"):
        validate(Structure.create(np.zeros((1, 3)), cell=np.ones((3, 3)), pbc=(True, True, True)))
    with pytest.raises(StructureError, match="cell that is not finite"):
        validate(Structure.create(np.zeros((1, 3)), cell=np.full((3, 3), np.nan)))
    padded = Structure.create([[0.0, 0, 0], [1, 1, 1], [1, 1, 1]], [0, 0, -1])
    validate(padded)
    with pytest.raises(StructureError, match="has no atoms"):
        validate(Structure.create(np.zeros((2, 3)), [-1, -1]))
    batch = Structure.create([[[0.0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    with pytest.raises(StructureError, match="start, structure 1: atoms 0 and 1 are 0 apart"):
        validate(batch, name="start")


@pytest.fixture
def run(tmp_path):
    """A store with five minima of different size, species, cell and history, two with fixed atoms."""
    rng = np.random.default_rng(0)
    records = [
        Record(
            id=10 - k,
            energy=-3.0 + k / 7,
            positions=rng.normal(size=(3 + k, 3)),
            numbers=rng.integers(0, 90, 3 + k).astype(np.int32),
            cell=np.diag([9.0, 8, 7]) if k == 2 else np.zeros((3, 3)),
            pbc=(k == 2, False, False),
            hits=k + 1,
            independent_hits=k,
            origin=f"move {k}",
            walker=k,
            run=2 * k,
            evaluations=100 * k,
            seconds=k / 3,
            fixed=np.arange(3 + k) < 2 if k in (1, 2) else None,
        )
        for k in range(5)
    ]
    with Store.create(tmp_path / "run", {"name": "test"}) as store:
        store.commit(records)
        yield store


def assert_same(records, energies, positions, numbers, columns):
    for k, record in enumerate(records):
        np.testing.assert_allclose(energies[k], record.energy, rtol=1e-9)
        np.testing.assert_allclose(positions[k], record.positions, atol=1e-8)
        np.testing.assert_array_equal(numbers[k], record.numbers)
        for name in COLUMNS:
            assert columns[k][name] == pytest.approx(getattr(record, name)), name
        assert columns[k]["minimum"] == record.id


def held(atoms) -> list[int]:
    """Indices of the atoms under `FixAtoms`."""
    return [int(k) for c in atoms.constraints for k in c.get_indices()]


@pytest.mark.parametrize("name", ["minima.extxyz", "minima.xyz"])
def test_extxyz_is_read_by_ase(run, tmp_path, name):
    assert export(run, tmp_path / name) == 5
    assert export(run, tmp_path / name) == 5  # replaces
    frames = ase.io.read(tmp_path / name, index=":")
    assert len(frames) == 5
    energies = [a.get_potential_energy() for a in frames]
    assert_same(run.minima(), energies, [a.positions for a in frames], [a.numbers for a in frames], [a.info for a in frames])
    assert list(frames[2].pbc) == [True, False, False]
    np.testing.assert_allclose(frames[2].cell.array, np.diag([9.0, 8, 7]))
    assert [held(a) for a in frames] == [[], [0, 1], [0, 1], [], []]
    np.testing.assert_array_equal(read_structures(tmp_path / name)[1].fixed, run.minima()[1].fixed)
    np.testing.assert_array_equal(read_structures(tmp_path / name)[4].numbers, run.minima()[4].numbers)


def test_ase_db_is_read_by_ase(run, tmp_path):
    for _ in range(2):  # the second replaces the first and does not add to it
        assert export(run, tmp_path / "minima.db", limit=3) == 3
    with ase.db.connect(tmp_path / "minima.db") as database:
        rows = list(database.select())
        assert database.count("hits>=2") == 2
    assert len(rows) == 3
    atoms = [row.toatoms() for row in rows]
    energies = [a.get_potential_energy() for a in atoms]
    columns = [row.key_value_pairs for row in rows]
    assert_same(run.minima(3), energies, [a.positions for a in atoms], [a.numbers for a in atoms], columns)
    assert [held(a) for a in atoms] == [[], [0, 1], [0, 1]]
    np.testing.assert_allclose(atoms[2].cell.array, np.diag([9.0, 8, 7]))
    assert {p.name for p in tmp_path.iterdir()} == {"run", "minima.db"}


def test_parquet_is_read_by_arrow(run, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    assert export(run, tmp_path / "minima.parquet") == 5
    rows = pq.read_table(tmp_path / "minima.parquet").to_pylist()
    records = run.minima()
    assert_same(records, [r["energy"] for r in rows], [r["positions"] for r in rows], [r["numbers"] for r in rows], rows)
    assert rows[2]["pbc"] == [True, False, False]
    np.testing.assert_array_equal(rows[2]["cell"], records[2].cell)
    assert [r["fixed"][:3] for r in rows] == [[k in (1, 2)] * 2 + [False] for k in range(5)]


def test_other_formats_go_through_ase(run, tmp_path):
    export(run, tmp_path / "minima.traj", limit=2)
    assert len(ase.io.read(tmp_path / "minima.traj", index=":")) == 2
    export(run, tmp_path / "best", format="extxyz", limit=1)
    assert len(ase.io.read(tmp_path / "best", index=":", format="extxyz")) == 1


def test_exports_that_cannot_be_made_are_one_line(run, tmp_path, monkeypatch):
    for path, said in [
        (tmp_path / "minima", "does not say which format"),
        (tmp_path / "minima.extxzy", 'format called "extxzy".*Did you mean "extxyz"'),
        (tmp_path / "no" / "minima.extxyz", "cannot write"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            export(run, path)
        assert "\n" not in str(caught.value)
    with Store.create(tmp_path / "fresh", {}) as fresh, pytest.raises(InputError, match="no minima yet"):
        export(fresh, tmp_path / "minima.extxyz")
    real = builtins.__import__

    def without_arrow(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_arrow)
    with pytest.raises(InputError, match=r"pip install \"thalweg\[parquet\]\""):
        export(run, tmp_path / "minima.parquet")
    assert {p.name for p in tmp_path.iterdir()} == {"run", "fresh"}
