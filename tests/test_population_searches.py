"""Searches whose walkers share a population, a ladder or a swarm, minima hopping, and the crossover of two structures."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import prng, registry, schema
from thalweg.config import resolve
from thalweg.errors import InputError
from thalweg.generators.crossover import CutAndSplice
from thalweg.generators.mutation import Displace
from thalweg.generators.random import RandomBall
from thalweg.objective.base import Task
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.softening import REACH, softened
from thalweg.potentials.black_box import BlackBox
from thalweg.potentials.pair import LennardJones
from thalweg.relax.base import CONVERGED
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import Settings, Stop, run
from thalweg.search.base import Outcome, generate, structures_of
from thalweg.search.evolutionary import Evolutionary
from thalweg.search.minima_hopping import MinimaHopping, random_velocities
from thalweg.search.particle_swarm import difference
from thalweg.search.population import Pool, admit, fitness, pair_histogram
from thalweg.search.tempered_hopping import TemperedHopping
from thalweg.structure import Structure
from thalweg.system import System, cluster
from thalweg.testing import check_generator, check_search, compact_cluster

LJ7 = cluster([0] * 7, LennardJones())


# -- crossover -----------------------------------------------------------------------------------------------------------


def alloy(pbc=(False, False, False), fixed=0):
    numbers = np.repeat([28, 79], [4, 5]).astype(np.int32)
    cell = np.array([[5.0, 0, 0], [0.3, 5, 0], [0, 0, 9]])
    return System(numbers, np.ones(9), np.arange(9) < fixed, cell, pbc)


@eqx.filter_jit
def spliced(keys, positions, system):
    parents = structures_of(system, positions)
    return jax.vmap(lambda key: CutAndSplice()(key, parents, system).positions)(keys)


def marked(system, seed):
    """Two parents without two atoms in one place: where an atom of the child is tells whose it was."""
    rng = np.random.default_rng(seed)
    return np.stack([compact_cluster(system.bond_lengths, seed=s, noise=0.2) for s in rng.permutation(99)[:2]])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), pbc=st.sampled_from([(False, False, False), (True, True, False)]))
def test_every_atom_of_a_child_is_one_of_its_species_of_a_parent(seed, pbc):
    """With a fixed atom nothing is shifted or turned, so that where each atom comes from can be read off."""
    system = alloy(pbc, fixed=1)
    x = np.asarray(marked(system, seed), np.float32)
    children = np.asarray(spliced(jr.split(prng.key(seed), 16), x, system))
    from_both = 0
    for child in children:
        origin = []
        for i, z in enumerate(system.numbers):
            kin = np.flatnonzero((system.numbers == z) & ~system.fixed)
            here = [(p, k) for p in range(2) for k in kin if same_place(child[i], x[p, k], system)]
            if not system.fixed[i]:
                assert here, f"atom {i} is nobody's"
                origin.append(here[0])
        assert len(set(origin)) == len(origin)  # nobody's atom twice
        from_both += len({p for p, _ in origin}) == 2
    assert from_both == len(children)


def same_place(a, b, system):
    f = (a - b) @ np.linalg.inv(system.cell)
    f -= np.where(system.pbc, np.round(f), 0)
    return np.abs(f @ system.cell).max() < 1e-5


def test_a_child_of_one_cluster_with_itself_cut_without_turning_is_the_cluster():
    """What one side gives, the other side leaves: nothing is lost, nothing is there twice."""
    system = alloy(fixed=1)
    x = np.repeat(np.asarray(marked(system, 3), np.float32)[:1], 2, 0)
    for child in np.asarray(spliced(jr.split(prng.key(1), 16), x, system)):
        for z in (28, 79):
            np.testing.assert_allclose(*(np.sort(y[system.numbers == z], 0) for y in (child, x[0])), atol=1e-6)


def test_only_added_atoms_are_exchanged():
    system = System(
        np.array([29] * 4 + [8] * 5), np.ones(9), np.arange(9) < 2, np.diag([4.0, 4, 12]), (True, True, False),
        positions=np.zeros((9, 3)), template=np.arange(9) < 4,
    )  # fmt: skip
    x = np.random.default_rng(0).uniform(0, 4, (2, 9, 3)).astype(np.float32)
    children = np.asarray(spliced(jr.split(prng.key(1), 16), x, system))
    np.testing.assert_array_equal(children[:, :4], np.broadcast_to(x[0, :4], (16, 4, 3)))
    added = x[:, 4:].reshape(-1, 3)
    for child in children:
        nearest = np.abs(child[4:, None] - added).max(-1).argmin(1)
        np.testing.assert_allclose(child[4:], added[nearest], atol=1e-6)
        assert {k // 5 for k in nearest} == {0, 1}
        assert len(set(nearest)) == 5


def test_crossover_passes_the_public_check():
    check_generator(CutAndSplice(), alloy())


@pytest.mark.slow
def test_crossover_of_cells_passes_the_public_check():
    x = np.random.default_rng(1).uniform(0, 5, (2, 9, 3))
    system = alloy((True, True, True))
    check_generator(CutAndSplice(), system, Structure.create(x, system.numbers, system.cell, pbc=system.pbc))


def test_crossover_in_a_search_without_a_population_says_so():
    parents = structures_of(LJ7, jnp.zeros((2, 7, 3)))
    with pytest.raises(InputError, match="needs two parents"):
        generate((CutAndSplice(),), jnp.zeros(2, jnp.int32), jr.split(prng.key(0), 2), parents, LJ7)


# -- populations ---------------------------------------------------------------------------------------------------------


def test_the_histogram_is_blind_to_motion_and_exchange_and_sees_a_moved_atom_and_species():
    system, rng = alloy(), np.random.default_rng(0)
    x = compact_cluster(system.bond_lengths, seed=1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = np.r_[rng.permutation(4), 4 + rng.permutation(5)]
    histogram = jax.jit(lambda x: pair_histogram(x, jnp.zeros((3, 3)), system))
    with jax.enable_x64(True):
        first = np.asarray(histogram(x))
        np.testing.assert_allclose(histogram((x @ turn + 3.0)[order]), first, atol=1e-12)
        away = x.copy()
        away[8] += [0.5, 0, 0]
        assert np.abs(np.asarray(histogram(away)) - first).max() > 0.05
        assert np.abs(np.asarray(histogram(x[::-1])) - first).max() > 0.05  # species exchanged


def test_a_population_has_no_duplicates_and_keeps_the_lowest():
    """Against a plain reading of the rule: structures as points, near ones are twins."""
    rng = np.random.default_rng(2)
    pool = Pool.empty(cluster([0], LennardJones()), 1, 4, np.float32)
    pool = eqx.tree_at(lambda p: p.feature, pool, pool.feature[..., :1])
    enter = jax.jit(lambda pool, e, f: admit(pool, 0, jnp.zeros((1, 3)), jnp.zeros((3, 3)), e, f, True, 0.1))
    lowest = np.inf
    for _ in range(200):
        energy, feature = np.float32(rng.normal()), rng.uniform(0, 1, 1).astype(np.float32)
        pool = enter(pool, energy, feature)
        lowest = min(lowest, energy)
        there = np.isfinite(pool.energy[0])
        features = np.sort(np.asarray(pool.feature)[0, there, 0])
        assert (np.diff(features) >= 0.1).all()
        assert np.asarray(pool.energy).min() == lowest
    assert there.sum() >= 3


def test_fitness_falls_with_energy_and_empty_places_have_none():
    f = np.asarray(fitness(jnp.asarray([-3.0, -1.0, jnp.inf, -2.0])))
    assert f[0] > f[3] > f[1] > f[2] == 0
    np.testing.assert_allclose(f[3], 0.5, atol=1e-6)  # half way between the lowest and the highest


def test_a_share_of_the_children_of_a_population_are_new_starts():
    search, n = Evolutionary([Displace()], [RandomBall()], size=4, renewed=0.3), 400
    ask = eqx.filter_jit(lambda search, state: search.ask(prng.key(3), state, LJ7).origin)
    state = search.init(LJ7, n, np.float32)
    assert (np.asarray(ask(search, state)) == 1).all()  # there are no parents yet
    at = lambda s: (s.shared.told, s.shared.pool.energy)
    state = eqx.tree_at(at, state, (jnp.full(1, 4, jnp.int32), -jnp.arange(4, dtype=jnp.float32)[None]))
    new = (np.asarray(ask(search, state)) == 1).sum()
    assert abs(new - 0.3 * n) < 4 * np.sqrt(n * 0.3 * 0.7)
    assert (np.asarray(ask(eqx.tree_at(lambda s: s.renewed, search, 0.0), state)) == 0).all()
    with pytest.raises(InputError, match=r"search\.renewed is 1\.5"):
        Evolutionary([Displace()], [RandomBall()], renewed=1.5)


# -- the ladder ----------------------------------------------------------------------------------------------------------


def test_exchanges_on_the_ladder_sample_the_exact_distribution_of_places():
    """Three walkers whose energies never change: each of the 6 orders is as likely as its Boltzmann weight."""
    energy = np.array([0.0, 0.7, 1.5])
    search = TemperedHopping([Displace()], [RandomBall()], rungs=3, cold=0.5, hot=2.0, patience=10**6)
    system = cluster([0], LennardJones())
    state = search.init(system, 3, np.float32)
    key, steps = prng.key(4), 40000

    def turn(state, k):
        x = structures_of(system, state.walkers.positions)
        none = jnp.zeros(3, jnp.int32)
        outcome = Outcome(x, jnp.asarray(energy, jnp.float32), none, none + CONVERGED, none, jnp.arange(3) == k % 3)
        state = search.tell(key, state, outcome, system)
        return state, state.shared.rung

    with jax.enable_x64(False):
        state, rungs = jax.jit(lambda s: jax.lax.scan(turn, s, jnp.arange(steps)))(state)
    beta = 1 / np.asarray(search.temperatures(np.arange(3), np.dtype(float)))
    orders = list(itertools.permutations(range(3)))  # rung of each walker
    weight = np.exp([-(beta[list(o)] * energy).sum() for o in orders])
    rungs = np.asarray(rungs)[100:]
    seen = np.array([(rungs == o).all(1).mean() for o in orders])
    np.testing.assert_allclose(seen, weight / weight.sum(), atol=0.015)
    assert (state.shared.made > 0).all()
    assert (state.shared.made < state.shared.tried).all()


def test_walkers_that_are_no_whole_ladders_are_refused():
    with pytest.raises(InputError, match="whole ladders"):
        TemperedHopping([Displace()], [RandomBall()], rungs=4).init(LJ7, 6, np.float32)


# -- minima hopping ------------------------------------------------------------------------------------------------------


def test_feedback_of_minima_hopping():
    """A walker falls back, comes to a new minimum, and back to one it knows: factors as the method says."""
    search = MinimaHopping([RandomBall()], kinetic=1.0, window=0.5)
    a, b = (compact_cluster(LJ7.bond_lengths, seed=s, noise=0.3) for s in (1, 2))
    tell = eqx.filter_jit(lambda state, outcome: search.tell(prng.key(0), state, outcome, LJ7))
    state = search.init(LJ7, 1, np.dtype(np.float32))

    def told(state, x, energy):
        none = jnp.zeros(1, jnp.int32)
        x = structures_of(LJ7, jnp.asarray(x, jnp.float32)[None])
        state = tell(state, Outcome(x, jnp.asarray([energy], jnp.float32), none, none + CONVERGED, none, none == 0))
        w = state.walkers
        return state, [float(v[0]) for v in (w.energy, w.kinetic, w.window)]

    state, now = told(state, a, -10.0)
    np.testing.assert_allclose(now, [-10, 1, 0.5])
    state, now = told(state, a, -10.0)  # fell back: hotter
    np.testing.assert_allclose(now, [-10, 1.1, 0.5], rtol=1e-6)
    state, now = told(state, b, -9.0)  # new, but too high: cooler, a wider window
    np.testing.assert_allclose(now, [-10, 1.1 * 0.9, 0.5 * 1.02], rtol=1e-6)
    state, now = told(state, b, -9.0)  # known, and too high: hotter, wider
    np.testing.assert_allclose(now, [-10, 1.1 * 0.9 * 1.1, 0.5 * 1.02**2], rtol=1e-6)
    state, now = told(state, b + 0.0, -9.6)  # another minimum of that shape, low enough: cooler, narrower
    np.testing.assert_allclose(now, [-9.6, 1.1 * 0.9 * 1.1 * 0.9, 0.5 * 1.02**2 * 0.98], rtol=1e-6)


def test_velocities_have_the_energy_asked_for_and_no_drift():
    with jax.enable_x64(True):
        x = compact_cluster(np.ones(9), seed=1)
        v = np.asarray(random_velocities(prng.key(1), jnp.asarray(x), 0.3, alloy()))
        mass = np.repeat([58.6934, 196.96657], [4, 5])[:, None]  # Ni, Au
        np.testing.assert_allclose((mass * v * v).sum() / 2 / 9, 0.3, rtol=1e-6)
        np.testing.assert_allclose((mass * v).sum(0), 0, atol=1e-6)
        np.testing.assert_allclose(np.cross(x, mass * v).sum(0), 0, atol=1e-2 * np.abs(mass * v).sum())
        v = np.asarray(random_velocities(prng.key(1), jnp.asarray(x), 0.3, alloy(fixed=2)))
    assert (v[:2] == 0).all()
    assert (v[2:] != 0).all()


class Quadratic:
    """Forces of 5 atoms of different masses around a minimum, with the vibrations that `eigh` finds: stiff and soft ones."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        frame, _ = np.linalg.qr(self.rng.normal(size=(15, 15)))
        hessian = frame * np.r_[0.1, np.linspace(1, 3, 8), np.geomspace(20, 80, 6)] @ frame.T
        self.masses = self.rng.uniform(1, 4, (5, 1))
        self.root = np.repeat(np.sqrt(self.masses.ravel()), 3)
        self.hessian, self.minimum, self.count = hessian, self.rng.normal(size=(5, 3)), 0
        self.squares, self.modes = np.linalg.eigh(hessian / self.root / self.root[:, None])

    def forces(self, x):
        self.count += 1
        return -(self.hessian @ (x - self.minimum).ravel()).reshape(5, 3)

    def shares(self, v):
        """Of the kinetic energy, in each mode."""
        share = (self.modes.T @ (self.root * v.ravel())) ** 2
        return share / share.sum()

    def softened(self, v, steps):
        self.count = 0
        return softened(self.forces, self.minimum, np.zeros((5, 3)), v, self.masses, steps)


@pytest.mark.parametrize("seed", range(3))
def test_softening_moves_kinetic_energy_from_stiff_vibrations_to_soft_ones(seed):
    well = Quadratic(seed)
    v = well.rng.normal(size=(5, 3))
    np.testing.assert_array_equal(well.softened(v, 0), v)
    assert well.count == 0
    curvature = [well.shares(v) @ well.squares]
    for steps in (2, 4, 8):
        soft = well.softened(v, steps)
        assert well.count == steps
        np.testing.assert_allclose((well.masses * soft**2).sum(), (well.masses * v**2).sum(), rtol=1e-12)
        curvature.append(well.shares(soft) @ well.squares)
    assert (np.diff(curvature) < 0).all()
    assert well.shares(soft)[-6:].sum() < 0.01 < 0.1 < well.shares(v)[-6:].sum()
    far = well.shares(well.softened(v, 1000))
    np.testing.assert_allclose(far[0], 1, atol=1e-6)  # to the end it would be the softest alone
    assert well.shares(soft)[0] < 0.9  # a few steps leave a mixture, another one for each escape
    turned = well.shares(well.softened(well.rng.normal(size=(5, 3)), 8))
    assert np.abs(turned - well.shares(soft)).sum() > 0.1


def test_softening_is_counted_and_keeps_what_is_fixed():
    numbers, n_soft, md = np.repeat([28, 79], [3, 3]), 4, 3
    x = 2.6 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.7], [0.5, 0.5, -0.7], [1, 1, 0.0]])
    structure = Structure.create(x, numbers, fixed=np.arange(6) == 1)
    v = np.random.default_rng(0).normal(size=(6, 3)) * 0.02
    escape = lambda n: Evaluate(Relaxation(BlackBox("emt"), LBFGS(), 1e-2, 1), md_steps=md, soften=n)(
        Task(0, structure, velocities=v)
    )
    plain, soft = escape(0), escape(n_soft)
    assert soft.error is None
    assert soft.evaluations == len(soft.energies) == plain.evaluations + n_soft
    away = soft.positions - x
    np.testing.assert_allclose(np.linalg.norm(away[1 : 1 + n_soft], axis=-1).max(1), REACH)
    assert (away[:, 1] == 0).all()
    rise = lambda k: -((soft.forces[k] - soft.forces[0]) * away[k])[structure.fixed == 0].sum() / (away[k] ** 2).sum()
    assert rise(n_soft) < rise(1)
    assert np.abs(soft.positions[1 + n_soft] - plain.positions[1]).max() > 1e-4


# -- particle swarm ------------------------------------------------------------------------------------------------------


def test_a_goal_that_is_the_particle_turned_and_renumbered_does_not_pull():
    x = compact_cluster(LJ7.bond_lengths, seed=1, noise=0.15)
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    goal = (x @ turn + 5.0)[rng.permutation(7)]
    none = jnp.zeros((3, 3))
    pull = eqx.filter_jit(lambda key, goal: difference(key, jnp.asarray(x), none, goal, none, LJ7))
    with jax.enable_x64(True):
        size = [float((np.asarray(pull(prng.key(k), goal)) ** 2).sum()) for k in range(8)]
    assert min(size) < 1e-6
    assert max(size) < 0.5 * ((x - x.mean(0)) ** 2).sum()


# -- whole searches ------------------------------------------------------------------------------------------------------

#: Evaluations within which LJ13 (its icosahedron) is found from random starts with this seed, some twice what it took.
KINDS = {"evolutionary": 8000, "tempered-hopping": 8000, "particle-swarm": 12000}
ENERGY = {7: -16.505384, 13: -44.326801}  # the Cambridge Cluster Database


@pytest.mark.parametrize(
    ("kind", "atoms"),
    [pytest.param(kind, n, marks=[pytest.mark.slow] if n == 7 else []) for kind in KINDS for n in (13, 7)],
)
def test_the_minimum_is_found(kind, atoms):
    table = {"kind": kind, "starts": ["random"]}
    plain = {"evolutionary": {"operators": ["cut-and-splice", "displace"]}, "tempered-hopping": {"moves": ["displace"]}}
    made = resolve({"system": {"formula": f"LJ{atoms}"}, "search": {**table, **plain.get(kind, {})}})
    stop = Stop(evaluations=KINDS[kind], target=ENERGY[atoms] + 1e-5)
    result = run(made.search, made.relaxation, made.system, Settings(walkers=8, seed=1), stop)
    np.testing.assert_allclose(result.energy, ENERGY[atoms], atol=1e-5)


SEARCHES = registry.COMPONENTS["search"]
#: Quick to compile; the others run with the slow tests.
FAST = {"random"}


def shipped(kind):
    tables = resolve({"system": {"formula": "LJ7"}, "search": {"kind": kind}}).tables
    return schema.build("search", tables["search"])


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] if k not in FAST else []) for k in SEARCHES])
def test_search_passes_the_public_check(kind):
    check_search(shipped(kind), LJ7)


def test_a_ladder_of_one_move_passes_the_public_check():
    check_search(TemperedHopping([Displace()], [RandomBall()]), LJ7)


class Grouped(TemperedHopping):
    """Counts the rows told together, not the outcomes among them."""

    def tell(self, key, state, outcome, system):
        told = super().tell(key, state, outcome, system)
        return eqx.tree_at(lambda s: s.walkers.count, told, state.walkers.count + 1)


class Crowded(TemperedHopping):
    """Draws one key for all who are asked together."""

    def ask(self, key, state, system):
        made = super().ask(key, state, system)
        noise = jr.normal(key, made.structures.positions.shape)
        return eqx.tree_at(lambda p: p.structures.positions, made, made.structures.positions + noise)


@pytest.mark.parametrize(("wrong", "sentence"), [(Grouped, "rows that hold no outcome"), (Crowded, "another order")])
def test_wrong_search_is_caught(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_search(wrong([Displace()], [RandomBall()]), LJ7)
