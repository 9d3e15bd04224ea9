"""Searches against published minima, the learned choice of moves, and random search as the control."""

import numpy as np
import pytest

from thalweg.benchmark.clusters import first_hit, reference_energies, sweep
from thalweg.generators.mutation import Displace
from thalweg.generators.random import RandomBall
from thalweg.potentials.many_body import Gupta
from thalweg.potentials.pair import LennardJones
from thalweg.presets import cluster_relaxation, cluster_search
from thalweg.relax.adapters import GradientDescent
from thalweg.relax.driver import Relaxation
from thalweg.run import Settings, Stop, open_session, run
from thalweg.search.basin_hopping import LONGEST, BasinHopping, run_length
from thalweg.search.random_search import RandomSearch
from thalweg.system import cluster


def default(n):
    potential = LennardJones()
    return cluster_search(cluster(np.zeros(n, int), potential), potential)


@pytest.mark.parametrize("atoms", [13, 15, *(pytest.param(n, marks=pytest.mark.slow) for n in (26, 38, 55, 75))])
def test_published_minimum_is_found(atoms):
    hit = first_hit(atoms, 1, default(atoms), Settings(), 120)
    assert hit.hit
    assert hit.energy > reference_energies()[atoms] - 1e-5  # nor anything below


@pytest.mark.slow
def test_a_sweep_finds_every_size_to_30():
    state = sweep(1, Settings(), 120, range(2, 31), tell=lambda line: None)
    assert state.missing() == [n for n in reference_energies() if n > 30]
    assert state.below() == []


@pytest.mark.slow
def test_an_alloy_comes_below_what_was_known_before():
    potential = Gupta("ag-au")
    system = cluster([47] * 19 + [79] * 19, potential)
    search, relaxation = cluster_search(system, potential), cluster_relaxation(potential, system)
    assert "swap" in search.origins
    assert run(search, relaxation, system, Settings(seed=1), Stop(relaxations=6000)).energy < -116.9363


def lj8(search, **stop):
    potential = LennardJones()
    system = cluster([0] * 8, potential)
    return run(search, cluster_relaxation(potential, system), system, Settings(walkers=16, seed=2), Stop(**stop))


def test_the_bandit_leaves_a_move_that_never_pays():
    """A step of nothing lowers nothing; explore = 0.3 of two moves leaves it at least 15 %."""
    result = lj8(BasinHopping([Displace(step=0.0), Displace()], [RandomBall()]), relaxations=2000)
    useless, useful = result.moves[0], result.moves[1]
    assert useless["lowered"] == 0 < useful["lowered"]
    assert 0.15 <= useless["chance"] < 0.35
    assert useful["trials"] > useless["trials"]


def test_random_search_makes_every_proposal_a_start():
    result = lj8(RandomSearch([RandomBall()]), relaxations=512)
    assert result.moves[0]["trials"] == result.progress.relaxations == 512
    np.testing.assert_allclose(result.energy, -19.821489, atol=1e-6)  # the Cambridge Cluster Database
    # Every start is a run of its own; the last of each walker has not been followed by another.
    assert result.progress.runs >= 512 - 2 * 16


def test_relaxations_of_one_length_leave_no_walker_behind():
    """All 17 finish at once and are served two at a time: the one that is left over is not always the same."""
    potential = LennardJones()
    relaxation = Relaxation(potential, GradientDescent(1e-6))  # never gets anywhere: every relaxation has its 8 steps
    settings = Settings(walkers=17, max_steps=8)
    session = open_session(RandomSearch([RandomBall()]), relaxation, cluster([0] * 5, potential), settings)
    while session.ledger.relaxations < 17 * 12:
        session.visit(Stop(relaxations=17 * 12))
    starts = np.asarray(session.state.search.walkers.run)
    assert starts.min() >= 10
    assert starts.max() <= 14


def test_run_lengths_are_the_ruler_and_each_scale_gets_the_same_share():
    lengths = np.asarray(run_length(np.arange(LONGEST * 64)))
    assert lengths[:16].tolist() == [1, 2, 1, 4, 1, 2, 1, 8, 1, 2, 1, 4, 1, 2, 1, 16]
    shares = [lengths[lengths == k].sum() for k in (1, 2, 4, 8, 16)]
    np.testing.assert_array_equal(shares, LONGEST * 32)
    assert lengths.max() == LONGEST
