"""Energies of clusters as functions of vectors: those of the formula and of ASE, and what a method sees of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.io import read

from thalweg.benchmark.action_functional_cluster import CLUSTER, POTENTIAL
from thalweg.benchmark.experiments import Cells, Options, run_table
from thalweg.errors import InputError
from thalweg.minimizers.atoms import Compressed, function_of_atoms, half_edge
from thalweg.minimizers.base import minimize

NUMBERS = [18, 10, 18, 18, 10]


def pairs_added_up(x, numbers=NUMBERS):
    """4 epsilon (r^-12 - r^-6) over pairs, by a double loop."""
    depths, total = {(18, 18): 1.0, (10, 18): 1.5, (10, 10): 0.62}, 0.0
    for i in range(len(x)):
        for j in range(i):
            r6 = ((x[i] - x[j]) ** 2).sum() ** -3
            total += 4 * depths[min(numbers[i], numbers[j]), max(numbers[i], numbers[j])] * (r6**2 - r6)
    return total


def test_energies_and_gradients_are_those_of_the_formula():
    made = function_of_atoms(POTENTIAL, NUMBERS, (-2, 2), Compressed())
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (30, 15))
    true = np.array([pairs_added_up(x.reshape(-1, 3)) for x in points])
    look = lambda e: np.where(np.asarray(e) > 0, np.log1p(np.maximum(e, 0)), e)
    assert (true > 0).any()
    assert (true < 0).any()
    values, slopes = made.gradients(points)
    np.testing.assert_allclose(made.energies(points), true, rtol=1e-10)
    np.testing.assert_allclose(values, look(true), rtol=1e-10)
    for k in (int(true.argmin()), int(true.argmax())):
        ends = [look([pairs_added_up((points[k] + s * h).reshape(-1, 3)) for h in 1e-6 * np.eye(15)]) for s in (1, -1)]
        np.testing.assert_allclose(slopes[k], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6)


def test_one_species_is_that_of_ase():
    made = function_of_atoms(POTENTIAL, [18] * 4, (-2, 2))
    x = np.random.default_rng(1).uniform(-1.5, 1.5, 12)
    ase = Atoms("Ar4", x.reshape(4, 3), calculator=AseLennardJones(rc=1e6, ro=1e5, smooth=False))
    np.testing.assert_allclose(made.energies(x[None])[0], ase.get_potential_energy(), rtol=1e-9)


def test_a_pair_ends_at_its_bond():
    """And a cluster has room in the default cube: an icosahedron of 13, at any turn."""
    found = minimize(function_of_atoms(POTENTIAL, [18, 10], seen=Compressed()), method="hops", evaluations=300)
    np.testing.assert_allclose(found.value, -1.5, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.x[:3] - found.x[3:]), 2 ** (1 / 6), atol=1e-5)
    assert half_edge(POTENTIAL, np.array([18] * 13)) > 2 ** (1 / 6)


def test_what_is_no_cluster_is_told():
    with pytest.raises(InputError, match="neither"):
        function_of_atoms(POTENTIAL, [18, 1])
    with pytest.raises(InputError, match="at least one atom"):
        function_of_atoms(POTENTIAL, [])
    with pytest.raises(InputError, match="must be positive"):
        Compressed(unit=0.0)


@pytest.mark.slow
def test_the_table_is_run_and_printed(tmp_path):
    options = Options(quick=True, evaluations=600)
    rows = run_table(CLUSTER, CLUSTER.quick, ("adam-grid",), options, Cells(tmp_path / "c.json", "x"), lambda text: None)
    assert json.loads((tmp_path / "c.json").read_text())["cells"] == rows
    assert rows[0]["evaluations_spent"] <= 600
    # 13 atoms have 78 pairs of which none is deeper than 1.5, and Adam leads below 0 from anywhere.
    assert -117 < rows[0]["energy"] <= rows[0]["unpolished"] < 0
    (section,) = CLUSTER.sections(rows)
    assert section.lines[0][0] == "adam-grid"
    assert len(section.lines[0]) == len(section.head)


def test_the_lowest_cluster_that_is_kept_has_the_energy_that_is_said():
    """By a double loop that knows nothing of this package: A and B of one size, unlike ones attract most."""
    atoms = read(Path(__file__).parent.parent / "benchmarks" / "results" / "action-functional" / "binary-lj-100.extxyz")
    assert isinstance(atoms, Atoms)
    assert (atoms.numbers == 18).sum() == 80
    assert (atoms.numbers == 10).sum() == 20
    energy = pairs_added_up(atoms.positions, atoms.numbers)
    assert energy == pytest.approx(atoms.info["energy_epsilon"], abs=1e-5)
    assert energy < -655.58
