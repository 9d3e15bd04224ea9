"""The action-functional tables: landscapes that are moved, errors made by hand, and networks that follow what bends."""

import numpy as np
import pytest

from thalweg.benchmark import action_functional as tables
from thalweg.benchmark.experiments import Cells, Options, chosen, run_table
from thalweg.errors import InputError
from thalweg.minimizers.action_functional import ways
from thalweg.minimizers.counted import Counted
from thalweg.minimizers.function import function_of
from thalweg.minimizers.plnet_zoom import PLNetZoom
from thalweg.minimizers.quadratic import Quadratic
from thalweg.minimizers.zoom import Stage, look
from thalweg.networks.pl_network import PLNetwork
from thalweg.potentials.moved import Moved
from thalweg.potentials.valleys import CurvedRastrigin


def test_moved_minima_are_where_the_tables_say_and_not_in_the_middle():
    for name in tables.LANDSCAPES:
        of = tables.landscape(f"{name}-4", 7)
        x = np.asarray(of.minimiser, np.float64)
        low, high = of.domain
        assert np.abs(x - (low + high) / 2).max() > 0.05 * (high - low)
        # A function of values alone: whatever is written down, nothing near is lower.
        near = x[:, None] + np.random.default_rng(0).normal(size=(4, 500)) * 0.3
        values = function_of(of).values(np.concatenate([x[:, None], near], 1).T)
        assert values[0] == pytest.approx(of.minimum, abs=1e-6)
        assert values.min() >= of.minimum - 1e-6
    with pytest.raises(InputError, match="there is no landscape"):
        tables.landscape("alpine-1000", 0)


def test_errors_are_distances_and_baselines_are_chance(tmp_path):
    of = tables.EXPERIMENT.table("shifted")
    options = Options(count=2, seed=3, evaluations=500)
    rows = run_table(of, ["alpine-1-20"], ["middle", "zoom"], options, Cells(tmp_path / "r.json", "x"), lambda said: None)
    assert [r["seed"] for r in rows] == [3, 4, 3, 4]
    place = tables.landscape("alpine-1-20", 3).minimiser
    assert rows[0]["believed"] == pytest.approx(np.sqrt((place**2).mean()), rel=1e-6)
    (section,) = of.sections(rows)
    assert "0 of 2" in section.lines[0]
    # Nothing is run again, and a name that stands for no landscape is told.
    again = run_table(of, ["alpine-1-20"], ["middle"], options, Cells(tmp_path / "r.json", "x"), pytest.fail)
    assert again == rows[:2]
    with pytest.raises(InputError, match='no system "alpine-9-20"'):
        chosen(of, ["alpine-9-20"], None)


def test_signs_count_ties_for_nobody():
    rows = lambda values: [{"seed": k, "above": v} for k, v in enumerate(values)]
    found = {"zoom": rows([1.0, 2.0, 3.0, 1e-9]), "plnet-zoom": rows([0.5, 1.0, 4.0, 0.0])}
    said = tables._signs(found, "plnet-zoom")
    assert "lower than zoom in 2 of 4 seeds, higher in 1" in said
    assert "p = 1" in said


@pytest.mark.parametrize("own", [{"gradient_weight": 0.0}, {"mixed": 0.5}, {"gradient_weight": 0.5}])
def test_a_network_in_the_box_sees_what_a_quadratic_cannot(own):
    """Of a valley that is bent, in one box: the network's minimum is nearer than the quadratic's, and lower."""
    of = Moved(CurvedRastrigin(2, bend=0.05, amplitude=0.0), within=(-40.0, 40.0), place=np.array([15.0, 10.0]))
    method, away = PLNetZoom(least=400, cloud=0.1, **own), []
    function = function_of(of)
    for seed in range(3):
        counted, rng = Counted(function, 20_000), np.random.default_rng(seed)
        stage = look(counted, rng, np.zeros(2), np.full(2, 40.0), method.count(2))
        assert stage is not None
        low, error = method.lowest(counted, rng, stage)
        assert error >= stage.error
        away.append([np.linalg.norm(x - of.minimiser) for x in (low, stage.minimum)])
    network, quadratic = np.array(away).T
    assert (network <= quadratic).all()
    assert np.mean(network) < 0.9 * np.mean(quadratic)


def test_a_network_that_begins_as_a_quadratic_has_its_minimum():
    rng, half = np.random.default_rng(0), np.array([2.0, 5.0, 1.0])
    curvature = np.array([[3.0, 0.4, 0.0], [0.4, 1.0, 0.2], [0.0, 0.2, 8.0]])
    low = Quadratic(np.ones(3), 2.0, np.array([0.3, -0.4, 0.5]), curvature)
    u = rng.uniform(-1, 1, (20, 3))
    stage = Stage(np.ones(3), half, u, low.values(1 + u * half), low.values(1 - u * half), low, 0.1)
    network = PLNetZoom()._begun(rng, stage)
    np.testing.assert_allclose(network.minimiser().x, np.ones(3) - np.linalg.solve(curvature, low.slope), atol=1e-4)
    x, y = stage.samples
    flat = np.asarray(network.values(x.astype(np.float32)))
    np.testing.assert_allclose(flat - flat.min(), y - y.min(), atol=1e-3)


def test_ways_lead_down_for_any_scale():
    rng = np.random.default_rng(1)
    m = rng.normal(size=(4, 4))
    for curvature in (np.array([1.0, 50.0, 2.0, 0.1]), m @ m.T + 0.1 * np.eye(4)):
        network = PLNetwork.of_quadratic(rng, np.zeros(4), curvature, tau=4.0)
        points = ways(network, rng.normal(size=(6, 4)).astype(np.float32), 5).reshape(6, 6, 4)
        values = np.asarray(network.values(points.reshape(-1, 4))).reshape(6, 6)
        assert (np.diff(values, axis=0) <= 1e-5).all()


def test_mistakes_of_the_network_are_told():
    for own, said in (
        ({"mixed": 1.0}, "mixed is 1"),
        ({"tau": 1.0}, "tau 1"),
        ({"pairs_per_variable": 1.0}, "must be above 1"),
    ):
        with pytest.raises(InputError, match=said):
            PLNetZoom(**own)


@pytest.mark.thorough
def test_cells_are_the_same_by_processes(tmp_path):
    """Two of them, in an order of their own; what is kept is not run again, and rows come as the table has them."""
    of, options = tables.EXPERIMENT.table("shifted"), Options(count=1, seed=3, evaluations=500)
    methods, said = ("middle", "zoom-once", "zoom"), []
    cells = Cells(tmp_path / "p.json", "action-functional")
    rows = run_table(of, ["alpine-1-20"], methods, options, cells, said.append, workers=2)
    alone = run_table(of, ["alpine-1-20"], methods, options, Cells(tmp_path / "a.json", "x"), said.append)
    assert [r["method"] for r in rows] == [r["method"] for r in alone]
    for ours, theirs in zip(rows, alone, strict=True):
        timed = [k for k in ours if "second" in k]
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert sum(text.count("seed 3") for text in said) == 2 * len(rows)
    run_table(of, ["alpine-1-20"], methods, options, Cells(tmp_path / "p.json", "action-functional"), pytest.fail, workers=2)
