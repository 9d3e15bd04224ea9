"""Success curves, medians and the log-rank test, against published and hand-computed values and another library."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.survival import energy_curve, log_rank, median, success_curve

SPENT = np.array([12, 30, 30, 55, 80, 100, 100, 100, 100, 100], float)
HITS = SPENT < 100


def test_the_reference_table():
    """Ten restarts, five events, five censored at 100: computed outside of this package."""
    curve = success_curve(HITS, SPENT)
    np.testing.assert_array_equal(curve.cost, [12, 30, 55, 80])
    table = np.round(np.stack([curve.success, curve.low, curve.high], 1), 4)
    wanted = [[0.1, 0.0147, 0.5270], [0.3, 0.1081, 0.6713], [0.4, 0.1728, 0.7473], [0.5, 0.2468, 0.8164]]
    np.testing.assert_array_equal(table, wanted)


def test_where_none_or_all_have_succeeded_the_bounds_are_exact_and_one_sided():
    curve = success_curve(HITS, SPENT)
    np.testing.assert_allclose(curve.at(11.9), (0, 0, 1 - 0.05**0.1))
    np.testing.assert_allclose(curve.at(12), (0.1, 0.0147, 0.5270), atol=5e-5)
    everyone = success_curve(np.ones(4, bool), np.array([1.0, 2.0, 2.0, 3.0]))
    np.testing.assert_allclose(everyone.at(3.0), (1, 0.05**0.25, 1))
    nobody = success_curve(np.zeros(20, bool), np.full(20, 7.0))
    np.testing.assert_allclose(nobody.at(7.0), (0, 0, 1 - 0.05 ** (1 / 20)))


def test_restarts_that_were_stopped_early_are_not_counted_as_followed():
    """Three of eight restarts are followed to 300, the others stopped at 100; nobody succeeds: at 300, three speak."""
    spent = np.array([100] * 5 + [300] * 3, float)
    curve = success_curve(np.zeros(8, bool), spent)
    np.testing.assert_allclose(curve.at(100)[2], 1 - 0.05 ** (1 / 8))
    np.testing.assert_allclose([curve.at(c)[2] for c in (101, 300, 900)], 1 - 0.05 ** (1 / 3))
    assert str(median(curve, spent)) == "> 300 [100, > 300]"
    assert median(success_curve(np.zeros(8, bool), np.full(8, 300.0))).low == math.inf
    # A first event after that does not take back how little is known before it.
    assert median(success_curve(np.arange(8) == 7, np.append(spent[:-1], 310))).low == 100


def test_one_late_success_of_a_restart_that_alone_was_left_says_little():
    """Nine of twenty succeed at 1, ten are stopped at 2, the last one succeeds at 3: of as many as 1 / (11 / 20) restarts."""
    curve = success_curve(np.array([1] * 9 + [0] * 10 + [1], bool), np.array([1.0] * 9 + [2.0] * 10 + [3.0]))
    before, end = curve.at(2.5), curve.at(3)
    assert end[0] == 1
    assert end[1] == max(before[1], 0.05 ** (11 / 20))
    assert end[1] < 0.4


def test_median_and_its_bounds():
    """The curve passes one half at 80, its upper bound at 12 (.5270), its lower bound never (.2468 at most)."""
    n50 = median(success_curve(HITS, SPENT), SPENT)
    assert (n50.value, n50.low, n50.high) == (80, 12, math.inf)
    assert str(n50) == "80 [12, > 100]"
    never = median(success_curve(SPENT < 20, SPENT), SPENT)
    assert str(never) == "> 100 [12, > 100]"


def test_median_of_remission_times():
    """The 6-MP arm of Freireich et al. (1963) in every textbook: median 23 weeks; the placebo arm: 8 weeks, all events."""
    n50 = median(success_curve(MP_EVENT, MP))
    assert n50.value == 23
    assert (n50.low, n50.high) == (13, math.inf)  # R's survfit with conf.type = "log-log"
    placebo = median(success_curve(np.ones(21, bool), PLACEBO))
    assert placebo.value == 8
    assert (placebo.low, placebo.high) == (4, 11)


MP = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], float)
MP_EVENT = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], bool)
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], float)


def test_log_rank_of_remission_times():
    """Chi-squared 16.79 of the same data (Kleinbaum and Klein, Survival Analysis): placebo ends earlier."""
    out = log_rank(np.ones(21, bool), PLACEBO, MP_EVENT, MP)
    np.testing.assert_allclose(out.statistic**2, 16.79, atol=0.01)
    assert out.ahead == "first"
    assert out.p < 1e-4


def test_log_rank_by_hand():
    """A: 1, 3; B: 2, 4, all events. O - E of A is 2 - (1/2 + 1/3 + 1/2 + 0) = 2/3, its variance 1/4 + 2/9 + 1/4 = 13/18."""
    out = log_rank([True, True], [1, 3], [True, True], [2, 4])
    np.testing.assert_allclose(out.statistic**2, (2 / 3) ** 2 / (13 / 18), rtol=1e-12)
    back = log_rank([True, True], [2, 4], [True, True], [1, 3])
    np.testing.assert_allclose((back.statistic, back.p), (-out.statistic, out.p))
    assert (out.ahead, back.ahead) == ("first", "second")


def test_log_rank_without_events_knows_nothing():
    out = log_rank([False] * 3, [5] * 3, [False] * 4, [9] * 4)
    assert (out.p, out.ahead) == (1.0, None)


def test_log_rank_is_wrong_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.exponential(1, (400, 2, 15))
    p = [log_rank(a < 2, np.minimum(a, 2), b < 2, np.minimum(b, 2)).p for a, b in draws]
    assert 0.025 < np.mean(np.array(p) < 0.05) < 0.085


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_curves_are_probabilities_and_bracketed(n, seed):
    rng = np.random.default_rng(seed)
    spent, hits = rng.integers(1, 12, n).astype(float), rng.random(n) < 0.6
    curve = success_curve(hits, spent)
    for values in (curve.low, curve.success, curve.high):
        assert ((values >= 0) & (values <= 1)).all()
    assert (curve.low <= curve.success + 1e-12).all()
    assert (curve.success <= curve.high + 1e-12).all()
    assert (np.diff(curve.success) > 0).all()


def test_bounds_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    inside = []
    for draw in rng.exponential(1, (400, 25)):
        _, low, high = success_curve(draw < 3, np.minimum(draw, 3)).at(0.7)
        inside.append(low <= 1 - math.exp(-0.7) <= high)
    assert 0.92 < np.mean(inside) < 0.985


def test_energy_curve_is_the_quartiles_of_restarts():
    traces = [[(1, -1.0), (5, -4.0)], [(2, -2.0)], [(3, -3.0), (4, -3.5)], []]
    curve = energy_curve(traces)
    np.testing.assert_array_equal(curve.cost, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(curve.lower, [-1, -2, -3, -3.5, -4])
    np.testing.assert_array_equal(curve.median, [np.inf, -1, -2, -2, -3.5])
    np.testing.assert_array_equal(curve.upper, [np.inf, np.inf, -1, -1, -2])
    assert len(energy_curve([[(k, -k) for k in range(1, 1000)]], 50).cost) == 50


@pytest.mark.parametrize(("hits", "spent"), [([True], [1, 2]), ([], []), ([True], [math.inf]), ([True], [-1])])
def test_impossible_data_are_refused(hits, spent):
    with pytest.raises(ValueError, match=r"restart|cost"):
        success_curve(hits, spent)
