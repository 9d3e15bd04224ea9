"""Tables of ASLA: bonds as graphs, hand-made restarts against counts made by hand, cells kept restart by restart."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, make_supercell, molecule
from ase.neighborlist import neighbor_list

from thalweg.benchmark import asla
from thalweg.benchmark.asla_restarts import Watch
from thalweg.benchmark.asla_systems import PROBLEMS, problem
from thalweg.benchmark.experiments import Cells, Options, chosen, run_table
from thalweg.journal import Entry, packed
from thalweg.similarity.bonds import bonds_of, same_bonds
from thalweg.structure import Structure


def structure(atoms: Atoms) -> Structure:
    return Structure.create(atoms.positions, atoms.numbers, atoms.cell.array, pbc=tuple(atoms.pbc))


def shuffled(atoms: Atoms, seed: int) -> Atoms:
    """The same molecule elsewhere, turned, a little shaken, its atoms in another order."""
    rng = np.random.default_rng(seed)
    other = atoms[rng.permutation(len(atoms))]
    other.rotate(rng.uniform(0, 360), rng.normal(size=3))
    other.positions += rng.normal(size=3) + rng.normal(scale=0.05, size=(len(other), 3))
    return other


# Isomers in pairs of one composition, which nothing but the graph tells apart (G2 names of ASE).
ISOMERS = [("CH3CH2OH", "CH3OCH3"), ("isobutane", "trans-butane"), ("bicyclobutane", "methylenecyclopropane")]


@pytest.mark.parametrize("names", ISOMERS)
def test_isomers_differ_and_copies_do_not(names):
    one, other = (molecule(n) for n in names)
    for seed in range(5):
        assert same_bonds(bonds_of(structure(shuffled(one, seed))), bonds_of(structure(one)))
        assert not same_bonds(bonds_of(structure(shuffled(other, seed))), bonds_of(structure(one)))


def test_graphs_that_refinement_cannot_tell_apart_differ():
    """Two triangles and a hexagon: every atom has two like neighbours."""
    ring = lambda n: Atoms(f"C{n}", [(a * np.cos(t), a * np.sin(t), 0) for t in np.arange(n) * 2 * np.pi / n
                                     for a in (0.75 / np.sin(np.pi / n),)])  # fmt: skip
    triangles = ring(3)
    far = ring(3)
    far.positions[:, 0] += 8
    hexagon, pair = bonds_of(structure(ring(6))), bonds_of(structure(triangles + far))
    assert hexagon.bonded.sum() == pair.bonded.sum() == 12
    assert not same_bonds(hexagon, pair)
    assert same_bonds(hexagon, hexagon)


def test_bonds_go_through_the_walls_of_a_cell():
    sheet = graphene(vacuum=5)
    sheet.pbc = (True, True, False)
    atoms = make_supercell(sheet, [[3, 0, 0], [2, 4, 0], [0, 0, 1]])
    moved = atoms.copy()
    moved.positions += (1.3, 0.7, 0.0)
    moved.wrap()
    moved = moved[np.random.default_rng(0).permutation(len(moved))]
    ours, theirs = bonds_of(structure(atoms)), bonds_of(structure(moved))
    assert (ours.bonded.sum(0) == 3).all()
    assert same_bonds(ours, theirs)
    moved.positions[0, 2] += 1.8  # out of the sheet
    assert not same_bonds(ours, bonds_of(structure(moved)))


def test_overlapping_atoms_are_no_structure():
    atoms = molecule("C2H6")
    close = atoms.copy()
    close.positions[0] = close.positions[1] + (0.6, 0, 0)
    assert not bonds_of(structure(close)).sound


def row(method: str, seed: int, first: int | None, **more) -> dict:
    own = {"table": "benzene", "system": "benzene", "count": 1, "evaluations": 100, "horizon": None, "failed": 0}
    return {**own, "method": method, "seed": seed, "first": first, "episodes": first or 100, "cpu_seconds": 2.0, **more}


def test_tables_of_hand_made_restarts():
    """The reference of the survival curve: .5 [.2468, .8164] at the end, median 80."""
    hits = [12, 30, 30, 55, 80, None, None, None, None, None]
    rows = [row("asla", k, first) for k, first in enumerate(hits)] + [row("gofee", k, None, failed=1) for k in range(10)]
    (section,) = asla.sections(rows)
    ours, control = section.lines
    assert ours[:4] == ("asla", "5 of 10", "0.50 [0.25, 0.82]", "80 [12, > 100]")
    assert control[1:3] == ("0 of 10", "0.00 [0.00, 0.26]")
    assert control[-1].endswith(", asla ahead")
    assert "10 episodes ended without an energy" in section.notes
    assert all(len(line) == len(section.head) for line in section.lines)


def test_restarts_are_kept_one_by_one(tmp_path):
    seeds = []

    def measured(settings, note):
        seeds.append(settings["seed"])
        if settings["seed"] == 2:
            raise KeyboardInterrupt
        return {"first": 3, "episodes": 3, "failed": 0, "cpu_seconds": 1.0}

    table = replace(asla.TABLES[0], measure=measured)
    options = Options(count=3)
    cells = lambda: Cells(tmp_path / "c.json", "asla")
    with pytest.raises(KeyboardInterrupt):
        run_table(table, ("benzene",), ("gofee",), options, cells(), lambda text: None)
    rows = run_table(table, ("benzene",), ("gofee",), Options(count=2), cells(), lambda text: None)
    assert seeds == [0, 1, 2]  # the two that were done are not run again
    assert [r["seed"] for r in rows] == [0, 1]


def test_the_first_success_is_the_last_point_of_an_episode():
    """Three episodes: one failed, one begins as benzene and ends as something else, one ends as benzene."""
    of = problem("benzene")
    plain = of.resolved()
    known = molecule("C6H6")
    known = known[np.argsort(known.numbers, kind="stable")]
    good = known.positions
    bad = good + np.linspace(0, 3, len(good))[:, None] * (1, 0, 0)
    watch = Watch(of, plain.system)
    entry = lambda k, **more: Entry(k, 0, 0, "x", np.inf, good, np.zeros((3, 3)), batch=k, **more)
    points = lambda *x: packed(np.stack(x), np.zeros((len(x), 3, 3)), [-1.0] * len(x), np.zeros((len(x), *good.shape)))
    told = [
        entry(2, energy=-1.0, points=points(bad, good)),
        entry(0, error="no convergence"),
        entry(1, energy=-1.0, points=points(good, bad)),
    ]
    watch.commit(evaluations=told)
    assert (watch.first, watch.episodes, watch.failed) == (3, 3, 1)


@pytest.mark.slow
def test_every_problem_resolves_as_its_grid_says():
    for name, of in PROBLEMS.items():
        system = of.resolved({"kind": "gofee"}).system
        assert system.region is not None, name
        assert len(np.asarray(system.numbers)) == len(of.template() if of.template else ()) + int(system.searched.sum())


def test_cells_are_those_of_the_tables():
    """Every method of every table is an input that its system takes."""
    for table in asla.TABLES:
        for system in table.systems:
            assert {"count", "evaluations", "seed", "search"} <= set(table.settings(system, table.methods[0], Options()))
    elsewhere = asla.EXPERIMENT.table("transfer").settings("surface-2", "transferred", Options(seed=4))["agent"]
    assert (elsewhere["system"], elsewhere["seed"]) == ("surface", 4)


@pytest.mark.slow
@pytest.mark.parametrize("table", [t.name for t in asla.TABLES if t.name != "known"])
def test_methods_are_inputs(table):
    of = asla.EXPERIMENT.table(table)
    for method in of.methods:
        made = problem(of.systems[0]).resolved(of.settings(of.systems[0], method, Options())["search"])
        assert made.settings.max_steps == 1


@pytest.mark.slow
def test_known_structures_are_successes_and_their_neighbours_are_not():
    for name, of in PROBLEMS.items():
        known = of.known
        assert of.reached(known.structure, known.energy), name
        squeezed = Structure.create(
            np.asarray(known.structure.positions) * 0.5, known.structure.numbers, known.structure.cell, pbc=known.structure.pbc
        )
        assert not of.reached(squeezed, known.energy + 100.0), name


@pytest.mark.slow
def test_profiles_add_up():
    table = asla.EXPERIMENT.table("costs")
    settings = {
        "table": "costs",
        "system": "benzene",
        "method": "asla",
        **table.settings("benzene", "asla", Options(evaluations=3)),
    }
    row = {**settings, **table.measure(settings, lambda text: None)}
    assert 0 < sum(row["seconds"].values()) <= row["cpu_seconds"] * 1.05
    (section,) = table.sections([row])
    assert all(len(line) == len(section.head) for line in section.lines)


@pytest.mark.slow
def test_a_quick_table_runs_and_is_kept(tmp_path):
    table = asla.TABLES[0]
    systems, methods = chosen(table, None, ["gofee"], quick=True)
    cells = Cells(tmp_path / "c.json", "asla")
    rows = run_table(table, systems, methods, Options(count=1, evaluations=3, quick=True), cells, lambda text: None)
    assert len(rows) == 1
    assert rows[0]["episodes"] <= 3
    assert rows[0]["cpu_seconds"] > 0
    assert asla.sections(rows)


def test_the_grain_boundary_is_one_ring_of_five_and_one_of_seven():
    """By walking round the faces of its bonds, which are planar: every atom inside has three of them."""
    known = problem("grain-boundary").known.structure
    edge = float(np.asarray(known.cell)[1, 1])
    atoms = Atoms(
        positions=np.asarray(known.positions), numbers=np.full(len(known.numbers), 6), cell=[40, edge, 10], pbc=[0, 1, 0]
    )
    i, j, steps = neighbor_list("ijD", atoms, 1.95)
    inside = np.abs(atoms.positions[:, 0]) < 6
    assert (np.bincount(i)[inside] == 3).all()
    turn = np.arctan2(steps[:, 1], steps[:, 0])
    back = lambda k: np.flatnonzero((i == j[k]) & (j == i[k]) & (np.abs(steps + steps[k]).max(1) < 1e-6))[0]

    def after(k: int) -> int:
        """Of the bonds of the atom at this one's end, the next one clockwise from the way back."""
        others = np.flatnonzero(i == j[k])
        return others[np.argmin(np.where(others == back(k), 7, (turn[back(k)] - turn[others]) % (2 * np.pi)))]

    rings = []
    for first in range(len(i)):
        k, around = after(first), {first}
        while k != first and len(around) < 10:
            around.add(k)
            k = after(k)
        if k == first:
            rings.append(len(around))
    counts = np.bincount(rings)
    assert counts[5] == 5  # one ring, counted from each of its bonds
    assert counts[7] == 7
    assert set(np.flatnonzero(counts)) <= {5, 6, 7}
