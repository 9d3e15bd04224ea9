"""Agents that build structures: the rules of building, what is remembered, what is learned, and the search made of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_surrogate import SimpleSurrogate

from thalweg.agents import building, q_learning
from thalweg.agents.agent import Agent
from thalweg.agents.building import Site
from thalweg.agents.images import Gaussian
from thalweg.agents.policy import EpsilonGreedy, Greedy, Uniform
from thalweg.agents.replay import Replay, histories
from thalweg.agents.symmetry import operations
from thalweg.agents.tree_search import TreeSearch
from thalweg.config import resolve
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.networks.voxel import VoxelNetwork
from thalweg.potentials.pair import LennardJones
from thalweg.search.asla import Asla
from thalweg.system import cluster
from thalweg.testing import check_search

FLAT = {"formula": "C2H3", "dimensions": 2, "region": {"kind": "plane", "vectors": [[5, 0], [0, 5]], "corner": [-2.5, -2.5]}}
EMT = {"kind": "calculator", "calculator": "ase.calculators.emt:EMT"}
SMALL = {"kind": "asla", "spacing": 0.25, "kernel": 3, "dilation": 2, "hidden": 4, "candidates": 3}


@pytest.fixture(scope="module")
def resolved():
    return resolve({"system": FLAT, "potential": EMT, "search": SMALL})


@pytest.fixture(scope="module")
def site(resolved):
    return resolved.search.site(resolved.system)


def gaps(site, positions):
    """Distances over mean bonds (pairs,) of placed atoms, by plain loops."""
    bonds = np.asarray(site.system.bond_lengths)
    pairs = itertools.combinations(range(len(bonds)), 2)
    return {(a, b): np.linalg.norm(positions[a] - positions[b]) / ((bonds[a] + bonds[b]) / 2) for a, b in pairs}


@pytest.mark.parametrize("policy", [Uniform(), EpsilonGreedy(epsilon=0.5)], ids=["uniform", "epsilon-greedy"])
def test_builds_keep_the_rules(site, resolved, policy):
    agent = as_leaves(resolved.search.begun(resolved.system, site.grid, (1, 6)), np.float32)
    build, whole = building.built(jax.random.key(3), agent, as_leaves(site, np.float32), policy, building.empty(site, 8))
    x, order = np.asarray(build.positions), np.asarray(build.order)
    assert np.asarray(whole).sum() >= 6
    points = np.asarray(site.grid.points())
    for k in np.flatnonzero(whole):
        near = gaps(site, x[k])
        assert min(near.values()) >= 0.75 - 1e-4
        for a in range(5):
            earlier = [near[tuple(sorted((a, b)))] for b in range(5) if order[k, b] < order[k, a]]
            assert not earlier or min(earlier) <= 1.25 + 1e-4
        assert np.abs(x[k][:, None] - points[None]).sum(-1).min(1).max() < 1e-5
        assert sorted(order[k]) == list(range(5))


def test_hydrogens_come_last(resolved, site):
    last = Site.of(resolved.system, site.grid, (1, 6), hydrogens_last=True)
    build, whole = building.built(jax.random.key(0), None, as_leaves(last, np.float32), Uniform(), building.empty(last, 4))
    order = np.asarray(build.order)[np.asarray(whole)]
    carbon = np.asarray(resolved.system.numbers) == 6
    assert (order[:, carbon].max(1) < order[:, ~carbon].min(1)).all()


def test_periodic_sites_are_seen_across_the_border():
    tables = {"formula": "C2", "cell": [4, 4, 12], "pbc": [True, True, False], "dimensions": 2}
    r = resolve({"system": tables, "potential": EMT, "search": SMALL})
    site = r.search.site(r.system)
    build = building.empty(site, 1)
    corner = jnp.zeros(1, jnp.int32)
    build = building.placed(site, build, corner, corner)
    may = np.asarray(building.allowed(site, build))[0, 0].reshape(site.grid.shape[:2])
    np.testing.assert_array_equal(may, np.roll(may[::-1, ::-1], (1, 1), (0, 1)))  # the same on both sides of the border
    assert may[-5, 0]
    assert not may[-2, 0]


def test_the_value_of_a_placement_is_its_best_outcome():
    """Best outcomes are those of a plain search over all episodes that share a set of placed atoms."""
    rng = np.random.default_rng(0)
    replay, kinds, seen = Replay.empty(3, capacity=4), np.array([0, 0, 1]), []
    for _ in range(60):
        places, order, energy = rng.integers(3, size=3), rng.permutation(3), float(rng.normal())
        replay = replay.with_episode(places.astype(np.int32), order.astype(np.int32), histories(places, order, kinds), energy)
        counts = [tuple(sorted((int(kinds[a]), int(places[a])) for a in range(3) if order[a] <= t)) for t in range(3)]
        seen.append((counts, order, energy))
    for row, (counts, order, _) in enumerate(seen):
        for slot in range(3):
            mine = counts[order[slot]]
            best = min(e for others, _, e in seen if mine in others)
            assert replay.best[row, slot] == pytest.approx(best)
    assert replay.knows(histories(np.asarray(replay.where[5]), replay.order[5], kinds)[np.argmax(replay.order[5])])
    assert not replay.knows(histories(np.array([7, 8, 9]), np.arange(3), kinds)[2])


def test_rewards_are_linear_between_their_ends():
    np.testing.assert_allclose(q_learning.rewards([-3.0, -0.5, 2.0, 9.0, np.inf], -3.0, 10.0), [1, 0.5, 0, -1, -1])


def test_structures_are_the_same_wherever_they_are(site):
    grid, order = site.grid, np.arange(5)
    x = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 1.25, 0], [-1.0, 0, 0], [-1.0, -1.25, 0]])
    here, there = building.seated(site, x, order), building.seated(site, x + np.array([0.31, -0.87, 0]), order)
    assert here.fine
    np.testing.assert_array_equal(here.marks, there.marks)
    np.testing.assert_array_equal(here.voxels, there.voxels)
    placed = np.asarray(grid.position(here.voxels))
    np.testing.assert_allclose(placed - placed[0], x - x[0], atol=1e-5)
    assert not building.seated(site, x * 3, order).fine


def episodes(site, count=12):
    """A memory of random builds whose energy is their sum of squared distances: compact ones are low."""
    replay, kinds = Replay.empty(5), np.asarray(site.kinds)
    build, whole = building.built(jax.random.key(1), None, as_leaves(site, np.float32), Uniform(), building.empty(site, count))
    for k in np.flatnonzero(np.asarray(whole)):
        x, order = np.asarray(build.positions)[k], np.asarray(build.order)[k]
        seat = building.seated(site, x, order)
        if seat.fine:
            replay = replay.with_episode(
                seat.voxels, order, histories(seat.marks, order, kinds), float(((x - x.mean(0)) ** 2).sum())
            )
    return replay


def test_turned_pairs_keep_all_distances(site, resolved):
    replay = episodes(site)
    turns = operations(resolved.system, site.grid)
    plain = q_learning.batch_of(np.random.default_rng(0), replay, site, turns, 10.0, False)
    assert plain.positions.shape[0] == 5 * site.n_placed
    put = np.asarray(site.grid.position(plain.voxel)) + plain.offset
    rows = replay.drawn(np.random.default_rng(0))
    home = np.asarray(site.grid.position(np.repeat(replay.where[rows], 5, 0)))
    for k in range(0, len(put), 7):
        step = plain.there[k].sum()
        slot = int(np.argmax(replay.order[rows[k // 5]] == step))
        np.testing.assert_allclose(
            np.linalg.norm(plain.positions[k] - put[k], axis=1), np.linalg.norm(home[k] - home[k, slot], axis=1), atol=1e-4
        )


def test_agents_learn_what_was_best(site, resolved):
    """After training on one memory the agent, building by value alone, repeats the best episode's worth and not the mean's."""
    replay = episodes(site)
    agent = as_leaves(Agent(VoxelNetwork.random(np.random.default_rng(0), 2, 2, 2, 3, 2), Gaussian(0.35), (1, 6)), np.float32)
    ground, turns = as_leaves(site, np.float32), operations(resolved.system, site.grid)
    state, rng, losses = q_learning.begin(agent), np.random.default_rng(0), []
    span = float(np.ptp(replay.energy[: int(replay.rows)]))
    for _ in range(300):
        batch = q_learning.batch_of(rng, replay, site, turns, span, False)
        agent, state, loss = q_learning.improved(agent, state, ground, batch, np.float32(3e-3))
        losses.append(float(loss))
    assert np.mean(losses[-30:]) < 0.5 * np.mean(losses[:10])
    build, whole = building.built(jax.random.key(0), agent, ground, Greedy(), building.empty(site, 1))
    x = np.asarray(build.positions)[0]
    assert bool(whole[0])
    held = replay.energy[: int(replay.rows)]
    assert ((x - x.mean(0)) ** 2).sum() < np.quantile(held, 0.3)


OPTIONS = {
    "plain": {"surrogate": None},
    "model": {"surrogate": SimpleSurrogate(), "steps": 20, "reuse": 2},
    "rebuilt and snapped": {"surrogate": SimpleSurrogate(), "steps": 20, "rebuild": 0.9, "rebuild_from": 3, "snap": True},
    "looking ahead": {"surrogate": SimpleSurrogate(), "steps": 20, "tree": TreeSearch(iterations=4, first_episode=4)},
}


@pytest.mark.parametrize("options", [pytest.param(k, marks=[] if k == "plain" else pytest.mark.slow) for k in OPTIONS])
def test_it_is_a_search(options):
    flat = {"kind": "plane", "vectors": [[4, 0], [0, 4]], "corner": [-2, -2]}
    plane = {"formula": "LJ5", "dimensions": 2, "region": flat}
    system = resolve({"system": plane}).system if options == "plain" else cluster([0] * 5, LennardJones())
    check_search(Asla(n_initial=4, candidates=3, spacing=0.25, kernel=3, dilation=2, hidden=4, **OPTIONS[options]), system)


WRONG = {
    "too coarse": ({"spacing": 1.5}, "too coarse"),
    "too fine": ({"spacing": 0.002}, "too fine"),
    "no candidates": ({"candidates": 0}, "candidates"),
    "even kernel": ({"kernel": 4}, "odd"),
    "no share": ({"rebuild": 1.5}, "rebuild"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_built_is_refused(case):
    options, said = WRONG[case]
    with pytest.raises(InputError, match=said):
        resolve({"system": FLAT, "potential": EMT, "search": {**SMALL, **options}})


def test_a_bag_that_cannot_be_placed_is_refused():
    full = {**FLAT, "region": {"kind": "plane", "vectors": [[0.1, 0], [0, 0.1]], "corner": [0.0, 0.0]}}
    with pytest.raises(InputError, match="too small"):
        resolve({"system": full, "potential": EMT, "search": SMALL})


@pytest.mark.slow
def test_agents_find_more_than_chance_and_compile_nothing_on_the_way():
    """Six atoms in a plane, with energies of Lennard-Jones: the agent's later episodes are better than those of the control."""
    from thalweg.host import HostSession
    from thalweg.run import open_session
    from thalweg.settings import Stop

    region = {"kind": "plane", "vectors": [[6, 0], [0, 6]], "corner": [-3, -3]}
    means = {}
    for policy in ("epsilon-greedy", "uniform"):
        tables = {
            "system": {"formula": "LJ6", "dimensions": 2, "region": region},
            "search": {**SMALL, "spacing": 0.1, "kernel": 5, "dilation": 2, "surrogate": "none", "policy": policy},
            "run": {"walkers": 1, "max_steps": 1, "seed": 3},
        }
        r = resolve(tables)
        session = open_session(r.search, r.relaxation, r.system, r.settings, r.hosting)
        assert isinstance(session, HostSession)
        while session.ledger.relaxations < 60:
            session.visit(Stop(relaxations=60))
        compiled = building._advanced._cached._cache_size()
        while session.ledger.relaxations < 240:
            session.visit(Stop(relaxations=240))
        assert building._advanced._cached._cache_size() == compiled
        session.close()
        energy = session.state.shared.replay.energy[: int(session.state.shared.replay.rows)]
        means[policy] = float(np.median(energy[-80:]))
    assert means["epsilon-greedy"] < means["uniform"] - 0.5


def test_uniform_searches_leave_no_agent(resolved):
    search = resolve({"system": FLAT, "potential": EMT, "search": {**SMALL, "policy": "uniform"}}).search
    state = search.init(resolved.system, 1, np.dtype(float))
    assert search.products(state, resolved.system) == {}
