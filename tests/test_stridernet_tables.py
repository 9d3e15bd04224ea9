"""StriderNet's analyses: tables of hand-made rows, settings, stresses and statistics against what they are by definition."""

from itertools import product

import numpy as np
import pytest

from thalweg.benchmark import stridernet_analyses as analyses
from thalweg.benchmark import stridernet_trainings as trainings
from thalweg.benchmark.experiments import Cells, Options, Skipped, run_table
from thalweg.benchmark.liquids import Liquid
from thalweg.benchmark.stridernet_figures import atomic, histograms, lowest_of, pressure, von_mises
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.relax.adapters import Adam
from thalweg.relax.fire import FIRE
from thalweg.system import periodic


def row(table, system, method, **more):
    own = {"count": 3, "evaluations": 100, "seed": 0, "horizon": None, "cpu_seconds": 1.0}
    return {"table": table, "system": system, "method": method, **own, **more}


def fits(section):
    """Whether a section has cells for its head, in the terminal and on a page."""
    return all(len(line) == len(section.head) for line in section.lines) and section.title in section.markdown


def test_rates_say_what_diverges_and_what_is_lowest():
    scan = [
        {"setting": "slow", "value": 0.04, "energies": [-806.0, -804.0, -802.0], "diverged": 0},
        {"setting": "fast", "value": 0.4, "energies": [None, None, -700.0], "diverged": 2},
    ]
    (section,) = analyses.rates_sections([row("rates", "LJ100", "FIRE", factors=[1.0, 10.0], scan=scan)])
    assert fits(section)
    assert section.lines[0][2:] == ("-806.00", "-804.00 ± 1.15", "0 of 3", "of Table 1")
    assert section.lines[1][3:] == ("none", "2 of 3", "printed in the paper")  # one energy has no error
    assert "LJ100: FIRE with the printed fast diverges from 2 of 3 starts" in section.notes
    assert "LJ100: FIRE is lowest with slow" in section.notes


def test_rates_are_multiples_of_the_published_ones():
    assert analyses.scaled(Adam(0.05), 10.0)[1:] == ("rate 0.5", 0.5)
    fire, said, value = analyses.scaled(FIRE(0.01, 0.04, float("inf")), 10.0)
    assert (fire.dt, fire.dt_max, value, said) == (0.01, 0.4, 0.4, "dt 0.01, at most 0.4")
    small = analyses.scaled(FIRE(0.01, 0.04, float("inf")), 0.1)[0]
    assert (small.dt, small.dt_max) == (0.004, 0.004)


def test_variances_are_compared_start_by_start():
    """Each start gains 2 +- 0.1 although starts differ by 50; another variance is noise."""
    base = [-800.0, -750.0, -700.0]
    scan = [
        {"alpha": 1e-5, "own": base, "energies": base},
        {"alpha": 1e-4, "own": base, "energies": [-802.0, -752.1, -701.9]},
        {"alpha": 1e-2, "own": [None] * 3, "energies": [-810.0, -740.0, -700.0]},
    ]
    cell = row("covariance", "LJ100", "policy", alphas=[1e-5, 1e-4, 1e-2], weights="own.json", digest="0", scan=scan)
    (section,) = analyses.covariance_sections([cell])
    assert fits(section)
    assert section.lines[1][:3] == ("policy", "1e-04", "0.01")
    assert section.lines[2][3] == "none"
    lower = [note for note in section.notes if "alpha" in note and "weights" not in note]
    assert lower == ["LJ100: policy at alpha 1e-04 is lower than at the published 1e-05 by 2.00 ± 0.06"]


def test_what_has_no_weights_is_skipped_and_named_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(analyses, "shipped", lambda: [])
    with pytest.raises(Skipped, match="--weights policy=FILE"):
        analyses.covariance_settings("LJ100", "policy", Options())
    (tmp_path / "own.json").write_text("{}")
    own = Options(weights={"policy": str(tmp_path / "own.json")})
    made = analyses.covariance_settings("LJ100", "policy", own)
    assert made["weights"] == str(tmp_path / "own.json")
    assert len(made["digest"]) == 12
    assert made["evaluations"] == 100
    assert analyses.covariance_settings("LJ100", "adaptation", Options(weights={"adaptation": "zero"}))["evaluations"] == 1600


def test_trainings_of_hand_made_rows():
    course = lambda end: [[0, -500.0], [10, end]]
    known = {"horizon": 10, "hidden": 16, "gradients": 8}
    rows = [
        row("estimators", "LJ25", method, **known, significance=clear, ratio=ratio, energies=[end, end - 1, end - 2],
            courses=[course(end - k) for k in (0, 1, 2)])
        for method, end, clear, ratio in (("pathwise", -600.0, 30.0, 1.2), ("score", -500.0, 1.02, 0.0))
    ]  # fmt: skip
    (section,) = trainings.estimators_sections(rows)
    assert fits(section)
    assert section.lines[0][:5] == ("pathwise", "-500.00 ± 0.00", "-601.00 ± 0.58", "30", "1.2")
    assert section.notes[0] == "LJ25, validation: score is worse than the best baseline, pathwise"
    own = lambda method, end, course: row(
        "architectures",
        "LJ100",
        method,
        horizon=10,
        parameters=9,
        course=course,
        energies=[end, end - 1, end - 2],
        training=5.0,
    )
    rows = [own("strider", -810.0, course(-600.0)), own(trainings.ALONE, -800.0, [])]
    (section,) = trainings.architectures_sections(rows)
    assert fits(section)
    assert section.notes[0] == "LJ100: lower than L-BFGS alone on the same starts: strider"
    assert section.lines[0][6] == "-10.00 ± 0.00"


def test_signal_and_noise_of_gradients():
    """Normal noise of unit variance in 50 components about a mean of length 0.5: one gradient has a ratio of 0.5 / sqrt(50)."""
    rng = np.random.default_rng(0)
    mean = np.eye(50)[0] * 0.5
    found = trainings.signal_of(mean + rng.normal(size=(20000, 50)))
    np.testing.assert_allclose(found["ratio"], 0.5 / 50**0.5, rtol=0.05)
    np.testing.assert_allclose(found["significance"], (1 + 20000 * 0.25 / 50) ** 0.5, rtol=0.05)
    assert trainings.signal_of(np.zeros((8, 50))) == {"significance": None, "ratio": None}
    assert trainings.signal_of(rng.normal(size=(4000, 50)))["significance"] < 1.5


def test_stresses_by_definition():
    uniaxial, shear = np.diag([3.0, 0, 0]), np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(von_mises(np.stack([uniaxial, shear, 5 * np.eye(3)])), [3.0, 2 * 3**0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(pressure(np.stack([uniaxial, -5 * np.eye(3)])), [-1.0, 5.0])


def test_the_lowest_of_some_is_what_all_draws_give():
    energies = np.array([3.0, -1.0, 0.5, 2.0])
    every = np.array([min(draw) for draw in product(energies, repeat=3)])
    mean, spread = lowest_of(energies, np.array([1, 3]))
    np.testing.assert_allclose((mean[1], spread[1]), (every.mean(), every.std()))
    np.testing.assert_allclose((mean[0], spread[0]), (energies.mean(), energies.std()))


def test_histograms_are_densities_in_the_same_bins():
    one, other = histograms({"a": np.linspace(0, 1, 1000), "b": np.linspace(0, 2, 1000)})
    np.testing.assert_array_equal(one.x, other.x)
    area = lambda c: ((c.x[1::2] - c.x[::2]) * c.y[::2]).sum()
    assert 0.97 < area(one) <= 1
    assert 0.97 < area(other) <= 1


@pytest.mark.slow
def test_stresses_of_atoms_add_up_to_that_of_the_structure():
    """The virial of the structure is tested against finite differences elsewhere."""
    potential = BinaryLennardJones(minimum_image=True)
    system = periodic(np.repeat(potential.species, [6, 2]), potential, np.eye(3) * 2.2)
    grid = np.stack(np.meshgrid(*[[0.0, 1.1]] * 3), -1).reshape(-1, 3)
    x = (grid + np.random.default_rng(1).uniform(-0.15, 0.15, grid.shape))[None]
    made = Liquid("lj8", potential, system, system.structure(x), np.zeros(1))
    energies, stress = atomic(made, x)
    out = potential.evaluate(system.structure(x))
    assert out.virial is not None
    np.testing.assert_allclose(energies.sum(1), out.energy, rtol=1e-5)
    np.testing.assert_allclose(stress.mean(1), -np.asarray(out.virial) / 2.2**3, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_quick_table_runs_and_is_kept(tmp_path):
    of, options = trainings.ESTIMATED, Options(quick=True)
    cells = Cells(tmp_path / "cells.json", "stridernet")
    rows = run_table(of, of.quick, ("pathwise", "score"), options, cells, lambda text: None)
    assert [r["method"] for r in Cells(tmp_path / "cells.json", "stridernet").rows] == ["pathwise", "score"]
    pathwise, score = rows
    assert pathwise["courses"][0][0] == score["courses"][0][0]  # the same network on the same episodes
    assert pathwise["courses"][0][-1][1] < pathwise["courses"][0][0][1] - 1
    assert pathwise["significance"] > 2 * score["significance"]
    assert fits(of.sections(rows)[0])
