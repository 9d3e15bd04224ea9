"""Success curves, bounds and the estimate of what remains, against SciPy and numerical integration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from thalweg.benchmark.curves import mean_cost, percentile_table, success_bounds, success_curve
from thalweg.confidence import probability_lower_remains


def test_success_curve_is_kaplan_meier():
    rng = np.random.default_rng(1)
    true, limit = rng.exponential(3, 60), rng.uniform(0, 8, 60)
    hits, spent = true <= limit, np.minimum(true, limit)
    curve = success_curve(hits, spent)
    peer = stats.ecdf(stats.CensoredData.right_censored(spent, ~hits))
    np.testing.assert_allclose(curve.success, peer.cdf.evaluate(curve.cost), atol=1e-12)
    bounds = peer.sf.confidence_interval(method="log-log")
    np.testing.assert_allclose(1 - curve.low, bounds.high.evaluate(curve.cost), atol=2e-3)
    np.testing.assert_allclose(1 - curve.high, bounds.low.evaluate(curve.cost), atol=2e-3)


def test_percentiles_are_infinite_beyond_what_was_reached():
    table = dict(percentile_table(success_curve(np.array([True, True, False]), np.array([1.0, 2.0, 3.0])), (0.3, 0.6, 0.9)))
    assert table == {0.3: 1.0, 0.6: 2.0, 0.9: np.inf}


@given(st.integers(1, 50), st.data())
def test_success_bounds_are_clopper_pearson(tries, data):
    hits = data.draw(st.integers(0, tries))
    ci = stats.binomtest(hits, tries).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(success_bounds(hits, tries), (ci.low, ci.high), atol=1e-9)


def test_bounds_of_the_mean_cost_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(2000):
        mean = mean_cost(np.ones(10), rng.exponential(7.0, 10))
        inside += mean.low <= 7.0 <= mean.high
    assert 0.935 < inside / 2000 < 0.965
    assert mean_cost(np.zeros(5), np.ones(5)).value == np.inf
    assert 1 < mean_cost(np.zeros(5), np.ones(5)).low < 2


@pytest.mark.parametrize(("runs", "hits"), [(5, 1), (40, 12), (300, 30), (2000, 3)])
def test_probability_that_a_lower_minimum_remains_is_bayes_rule(runs, hits):
    density = stats.beta(hits + 1, runs - hits + 1)
    missed, _ = quad(lambda p: density.pdf(p) * (1 - p / 10) ** runs, 0, 1, points=[density.mean()], limit=200)
    np.testing.assert_allclose(probability_lower_remains(runs, hits), missed / (1 + missed), atol=2e-3)


def test_nothing_is_known_before_the_first_run():
    assert probability_lower_remains(0, 0) == 0.5
