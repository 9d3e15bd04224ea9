"""Minimising functions of vectors: what is fitted, what is counted, what is found, and what a mistake says."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from thalweg import registry
from thalweg.cli import main
from thalweg.errors import InputError, PotentialError
from thalweg.minimizers.action_functional import ActionFunctional
from thalweg.minimizers.base import minimize
from thalweg.minimizers.baselines import UniformSamples
from thalweg.minimizers.function import function_of
from thalweg.minimizers.quadratic import fitted, least_squares
from thalweg.minimizers.samples import inner_box
from thalweg.minimizers.zoom import Zoom
from thalweg.potentials.landscapes import Rastrigin

PLACE = np.array([1.3, -2.1, 0.4, 3.3, -0.7, 2.2])


def bowl(x):
    return ((x - PLACE.astype(x.dtype)) ** 2).sum()


def test_least_squares_are_those_of_numpy():
    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(60, 7)), rng.normal(size=60)
    np.testing.assert_allclose(least_squares(a, y, 0.0), np.linalg.lstsq(a, y, rcond=None)[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["one", "each", "full"])
def test_a_quadratic_is_found_exactly(kind):
    rng, dim = np.random.default_rng(1), 5
    k = {"one": np.eye(dim) * 2.5, "each": np.diag(rng.uniform(1, 4, dim))}.get(kind)
    if k is None:
        m = rng.normal(size=(dim, dim))
        k = m @ m.T + np.eye(dim)
    g, centre, half = rng.normal(size=dim), rng.normal(size=dim), np.full(dim, 3.0)
    u = rng.uniform(-1, 1, (400, dim))
    value = lambda d: 7.0 + d @ g + ((d @ k) * d).sum(1) / 2
    made = fitted(centre, half, u, value(u * half), value(-u * half))
    made_k = made.curvature if made.curvature.ndim == 2 else np.diag(np.broadcast_to(made.curvature, dim))
    np.testing.assert_allclose(made_k, k, atol=1e-4)
    np.testing.assert_allclose(made.slope, g, atol=1e-5)
    # Within the box SciPy finds the same lowest point.
    lowest = scipy.optimize.minimize(lambda d: value(d[None])[0], np.zeros(dim), bounds=[(-3, 3)] * dim, tol=1e-10).x
    np.testing.assert_allclose(made.minimum(half), centre + lowest, atol=1e-3)


def test_boxes_stay_in_the_box():
    centre, half = inner_box(np.array([9.0, 0.0]), np.array([4.0, 50.0]), np.array([-10.0, -10.0]), np.array([10.0, 10.0]))
    np.testing.assert_allclose(centre, [6, 0])
    np.testing.assert_allclose(half, [4, 10])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_zoom_finds_the_minimum_among_ripples(seed):
    rng = np.random.default_rng(seed)
    place = rng.uniform(-50, 50, 6)
    inner = Rastrigin(6)
    found = minimize(lambda x: inner.value(x - place.astype(x.dtype)), 6, (-100, 100), evaluations=20_000, seed=seed)
    assert found.value < 1e-6
    np.testing.assert_allclose(found.x, place, atol=1e-4)
    assert found.evaluations <= 20_000
    values = [v for _, v in found.history]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("method", registry.names("minimizer"))
def test_methods_keep_to_their_budget_and_repeat_themselves(method):
    if method == "cma-es":
        pytest.importorskip("cmaes", reason="the extra thalweg[minimize] is not installed")
    quick = {
        "action-functional": ActionFunctional(hidden=16, warm_steps=400, steps=50),
        "uniform-samples": UniformSamples(hidden=16, steps=400),
    }
    budget, runs, asked = 700, [], []
    for _ in range(2):
        found = minimize(
            bowl, 6, (-10, 10), quick.get(method, method), budget, seed=3, progress=lambda c: asked.append(c.evaluations)
        )
        runs.append(found)
        assert found.evaluations <= budget
        assert found.failed == 0
        np.testing.assert_allclose(found.value, float(((found.x - PLACE) ** 2).sum()), atol=1e-4)
    np.testing.assert_array_equal(runs[0].x, runs[1].x)
    assert max(asked) <= budget
    # Better than as many uniform samples, of which the best is at about 12.
    assert runs[0].value < 5


def test_a_function_that_jax_cannot_trace_is_minimised_all_the_same():
    def blind(x):
        return float(sum((float(v) - p) ** 2 for v, p in zip(x, PLACE, strict=True)))

    found = minimize(blind, 6, (-10, 10), evaluations=6_000)
    np.testing.assert_allclose(found.x, PLACE, atol=1e-2)
    assert found.gradients == 0
    with pytest.raises(InputError, match="needs gradients"):
        minimize(blind, 6, (-10, 10), "hops", 100)


def test_points_without_a_value_are_counted_and_never_the_lowest():
    found = minimize(lambda x: jnp.where(x[0] > 0, bowl(x), jnp.nan), 6, (-10, 10), evaluations=5_000)
    assert found.failed > 100
    assert np.isfinite(found.value)
    np.testing.assert_allclose(found.x, PLACE, atol=1e-2)

    def raises(x):
        if float(x[0]) < 0:
            raise RuntimeError("no")
        return float(((np.asarray(x) - PLACE) ** 2).sum())

    assert minimize(raises, 6, (-10, 10), evaluations=2_000).failed > 100
    with pytest.raises(PotentialError, match="not finite at any of the first"):
        minimize(lambda x: jnp.nan * x.sum(), 6, (-10, 10))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((bowl, 6, (1, 1)), "the box is empty: variable 0 is between 1 and 1"),
        ((bowl, 6, (1, -1)), "the box is empty"),
        ((bowl, 6, (-np.inf, 1)), "the box is not finite"),
        ((bowl, 6, ([0, 0], 1)), "two vectors of 6 numbers"),
        ((bowl, 6), "the box in which bowl is minimised is missing"),
        ((bowl, None, (0, 1)), "how many variables bowl has is missing"),
        ((bowl, 0, (0, 1)), "dim is 0"),
        ((bowl, 5, (-1, 1)), "bowl fails in the middle of the box"),
        ((lambda x: x, 3, (-1, 1)), "gives an array of shape"),
        ((lambda x: x[:1], 3, (-1, 1)), "return the number itself"),
        ((Rastrigin(4), 5), "Rastrigin has 4 variables, not 5"),
        ((3.0, 2, (0, 1)), "is no function"),
        ((bowl, 6, (-1, 1), "zooom"), 'Did you mean "zoom"'),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said):
    with pytest.raises(InputError, match=said) as error:
        minimize(*arguments)
    assert "\n" not in str(error.value)


def test_programs_are_compiled_once():
    made = function_of(bowl, 6, (-10, 10))
    for seed in range(2):
        minimize(made, method=Zoom(repeats=2), evaluations=3_000, seed=seed)
        sizes = {k: f._cache_size() for k, f in made._compiled.items()}
        if seed == 0:
            first = sizes
    assert sizes == first
    assert set(first) == {"values", "gradients"}


def test_the_command_writes_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def f(x):\n    return ((x - 1.5) ** 2).sum()\n")
    assert main(["minimize", "mine:f", "--dim", "4", "--box", "-10", "10", "--evaluations", "2,000"]) == 0
    out = capsys.readouterr().out
    assert "f of 4 variables, zoom, seed 0" in out
    document = json.loads((tmp_path / "f-4-minimum.json").read_text())
    np.testing.assert_allclose(document["x"], 1.5, atol=1e-6)
    assert (document["low"], document["high"]) == (-10, 10)
    # What was found before is never written over.
    assert main(["minimize", "mine:f", "--dim", "4", "--box", "-10", "10", "--evaluations", "500", "-q"]) == 0
    assert (tmp_path / "f-4-minimum-2.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine:g", "--dim", "3"], 'mine has no function "g"'),
        (["rastrgin", "--dim", "3"], 'Did you mean "rastrigin"'),
        (["rastrigin"], "how many variables rastrigin has is missing; give --dim N"),
        (["mine:f", "--dim", "3"], "the box in which f is minimised is missing"),
        (["mine:far", "--dim", "3", "--box", "0", "1"], "far fails for a vector of 3 variables: IndexError"),
        (["mine:f", "--dim", "x", "--box", "0", "1"], "--dim x is no whole number"),
        (["mine:f", "--dim", "3", "--box", "0", "one"], "--box one is no number"),
        (["mine:f", "--dim", "3", "--box", "0", "1", "--set", "pairs=3"], "unknown key pairs"),
        (["mine:f", "--dim", "3", "--box", "0", "1", "-o", "mine.py"], "mine.py exists already"),
    ],
)
def test_mistakes_on_the_command_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def f(x):\n    return x.sum()\n\n\ndef far(x):\n    return x[7]\n")
    assert main(["minimize", *arguments]) in (2, 3)
    assert said in " ".join(capsys.readouterr().err.split())
