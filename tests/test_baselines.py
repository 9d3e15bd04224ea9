"""Published baselines on fresh starts, in small: means against the papers, energies against their formulas."""

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from thalweg.benchmark import main
from thalweg.benchmark.baselines import Row, clusters, loose_clusters, measure, measured, mixtures, tasks
from thalweg.errors import InputError


def mixture_energy(positions, kinds, side):
    """Kob-Andersen energy of one structure by the published definition: nearest images, cut at 2.5 sigma, not shifted."""
    epsilon, sigma = np.array([[1, 1.5], [1.5, 0.5]]), np.array([[1, 0.8], [0.8, 0.88]])
    i, j = np.triu_indices(len(positions), 1)
    d = positions[i] - positions[j]
    d -= side * np.round(d / side)
    s = sigma[kinds[i], kinds[j]] / np.linalg.norm(d, axis=1)
    return (4 * epsilon[kinds[i], kinds[j]] * (s**12 - s**6))[s > 1 / 2.5].sum()


@pytest.mark.slow
def test_the_liquid_and_its_minima_are_those_of_the_paper():
    task = replace(mixtures()[0], heat=(2.0, 1.0, 0.003, 1000))  # long enough for a liquid, and shorter
    fire = task.methods[2]
    row, ended = measured(task, *task.make(12, 0), fire)
    # A liquid of T = 2 has -512 +- 17 by the authors' frames; ours spread by 23 at any time.
    assert abs(row.start_mean + 515) < 25
    assert 10 < row.start_spread < 40
    # FIRE of the paper: mean -806.29, lowest -813.66; one minimum spreads by 4 about it.
    assert abs(row.mean + 805) < 4 * row.error + 1
    assert -826.5 < row.lowest < -800
    kinds = (task.numbers != 18).astype(int)  # argon is A
    assert kinds.sum() == 20
    by_hand = [mixture_energy(x, kinds, task.side) for x in ended.positions]
    np.testing.assert_allclose(row.energies, by_hand, rtol=1e-9)


def test_thirteen_atoms_from_a_cube_of_two_come_out_as_published():
    task = clusters()[0]
    (row,) = measure(task, 150, 3, task.methods[1:])
    np.testing.assert_allclose(row.lowest, -44.326801, atol=1e-4)
    assert row.ended == {"converged": 150}
    # The published mean has an error like ours; from a cube in which the cluster fits FIRE ends higher.
    assert abs(row.deviation) < 3
    (loose,) = measure(loose_clusters()[0], 150, 3)
    assert loose.mean > row.mean + row.error
    assert len(row.energies) == 150


def test_more_starts_leave_the_first_ones_as_they_are():
    task = clusters()[0]
    made = task.make(150, 3)[0].positions
    np.testing.assert_allclose(made[:130], task.make(130, 3)[0].positions, atol=1e-12)
    assert np.abs(made[:130] - task.make(130, 4)[0].positions).max() > 0.1


def test_relaxations_that_blew_up_are_counted_apart():
    energies = [-1.0, -3.0, float("nan"), -2.0]
    row = Row("t", "s", "ε", "m", "", 1, (None, -1.0), "", energies, 0.0, 0.0, {}, 1.0, 0.0)
    assert row.lowest == -3.0
    assert row.mean == -2.0
    np.testing.assert_allclose(row.error, 1 / np.sqrt(3))
    np.testing.assert_allclose(row.deviation, -1 / np.sqrt(2 / 3))


def test_tables_are_chosen_by_name():
    assert {t.table for t in tasks("learn2hop")} == {"learn2hop"}
    assert [t.name for t in tasks(quick=True)] == ["LJ100", "LJ13"]
    with pytest.raises(InputError, match="no table"):
        tasks("table1")
    with pytest.raises(InputError, match="number of starts"):
        main(["baselines", "--starts", "few"])


def gel_energy(positions, side):
    """Energy of C-S-H grains by the published definition (StriderNet): nearest images, cut at 150 Å, not shifted, kcal/mol."""
    i, j = np.triu_indices(len(positions), 1)
    d = positions[i] - positions[j]
    d -= side * np.round(d / side)
    r = np.linalg.norm(d, axis=1)
    s = 50 / r[r < 150]
    return (4 * 2660.77425533 * (s**28 - s**14)).sum()


@pytest.mark.parametrize(
    ("name", "count", "side", "digits"), [("ka100", 100, (100 / 1.2) ** (1 / 3), 1e-5), ("c-s-h", 152, 300, 1)]
)
def test_the_lowest_structures_kept_have_the_energies_claimed(name, count, side, digits):
    """The files that docs/benchmarks-periodic.md names, by the published formulas alone."""
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    claimed = json.loads((results / f"{name}.json").read_text())["lowest"]
    atoms = ase.io.read(results / f"{name}.extxyz")
    assert len(atoms) == count
    np.testing.assert_allclose(atoms.cell.array, np.eye(3) * side, atol=1e-6)
    kinds = (atoms.numbers != 18).astype(int)
    energy = gel_energy(atoms.positions, side) if name == "c-s-h" else mixture_energy(atoms.positions, kinds, side)
    np.testing.assert_allclose(energy, claimed, rtol=0, atol=digits)
    assert name == "c-s-h" or kinds.sum() == 20
