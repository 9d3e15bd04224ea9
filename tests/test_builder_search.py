"""Builders that search: how molecules are put together, what counts as the same, what is learned, and the search made of it."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ase.build import molecule

from thalweg.agents import builder_learning
from thalweg.agents.assembly import HYDROGENS_APART, assembled
from thalweg.agents.builder_energy import BuilderEnergy
from thalweg.agents.builder_files import SHIPPED, load_builder, save_builder
from thalweg.agents.constitution import bonded, constitutions
from thalweg.agents.policy import Softmax, Uniform
from thalweg.agents.replay import Replay
from thalweg.config import resolve
from thalweg.errors import InputError
from thalweg.learning import builder_recipe
from thalweg.networks.builder import BuilderNetwork
from thalweg.networks.builder_losses import Labelled
from thalweg.potentials.black_box import BlackBox
from thalweg.search.builder import Builder
from thalweg.structure import Structure
from thalweg.system import cluster
from thalweg.testing import check_search

SIZES = {"width": 16, "gaussians": 8, "blocks": 2, "heads": 2}
EMT = {"kind": "calculator", "calculator": "emt"}
QUICK = {"candidates": 2, "steps": 5}


@pytest.fixture(scope="module")
def network():
    return jax.tree.map(np.asarray, BuilderNetwork.random(np.random.default_rng(0), (1, 6, 8), **SIZES))


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("builder") / "builder.json"
    save_builder(path, network, {})
    return str(path)


@pytest.fixture(scope="module")
def methanol():
    return cluster(molecule("CH3OH").numbers, BlackBox("emt"))


@pytest.mark.parametrize(("anew", "known", "temperatures"), [(3, 2, [1, 2, 4]), (3, 9, [1, 2, 4, 8]), (0, 9, [1])])
def test_what_was_seen_before_is_built_anew_at_higher_temperatures(monkeypatch, methanol, anew, known, temperatures):
    """By builds that are handed out: the first `known` of them are known, the lowest of which is taken where all are."""
    asked, search = [], Builder(anew=anew, policy=Softmax(0.05))

    def built(self, key, network, system, policy):
        asked.append(policy.temperature)
        return SimpleNamespace(whole=np.ones(2, bool))

    def relaxed(self, network, built, system):
        return np.full((2, 6, 3), float(len(asked))), np.full((2, 6), len(asked)), np.array([-5.0, -4.0]) + len(asked)

    monkeypatch.setattr(Builder, "_built", built)
    monkeypatch.setattr(Builder, "_relaxed", relaxed)
    monkeypatch.setattr("thalweg.search.builder._one_molecule", lambda system, x: True)
    monkeypatch.setattr("thalweg.search.builder._whole", lambda system, x: int(x[0, 0]))
    shared = SimpleNamespace(network=None, replay=SimpleNamespace(knows=lambda m: m <= known))
    x, _, origin = search._proposed(jax.random.key(0), shared, methanol, [])  # type: ignore[arg-type]
    np.testing.assert_allclose(asked, 0.05 * np.array(temperatures))
    assert x[0, 0] == (len(temperatures) if known < len(temperatures) else 1)
    assert origin == 0


@pytest.mark.parametrize("numbers", [[8, 1, 6, 1, 6, 1, 1, 1, 1], [1, 1], [6], [6, 6, 8]])
def test_a_build_places_every_atom_of_the_bag_once(network, numbers):
    numbers = np.array(numbers)
    built = assembled(jax.random.key(0), network, numbers, 3, Softmax(0.1))
    assert built.positions.shape == (3, len(numbers), 3)
    assert built.whole.all()
    for x, order in zip(built.positions, built.order, strict=True):
        assert sorted(order) == list(range(len(numbers)))
        if (numbers == 1).any() and (numbers != 1).any():  # hydrogens last
            assert order[numbers == 1].min() > order[numbers != 1].max()
        away = np.linalg.norm(x[:, None] - x, axis=-1)
        if (numbers == 1).sum() > 1 and (numbers != 1).any():
            two = numbers == 1
            assert away[np.ix_(two, two)][~np.eye(two.sum(), dtype=bool)].min() > HYDROGENS_APART * 0.62 - 1e-4
        # Each is at the distance of a bond from one that was there before.
        for k in np.flatnonzero(order):
            near = away[k][order < order[k]].min()
            assert 0.6 < near < 1.9
    if len(numbers) > 3:
        assert np.abs(built.positions[0] - built.positions[1]).max() > 0.1


def test_a_build_follows_from_its_key(network):
    numbers = np.array([6, 8, 1, 1])
    one, two = (assembled(jax.random.key(1), network, numbers, 2, Softmax(0.1)) for _ in range(2))
    np.testing.assert_array_equal(one.positions, two.positions)
    assert assembled(jax.random.key(1), network, numbers, 2, Uniform()).whole.all()


def test_the_share_of_a_placement_follows_from_its_value():
    """Boltzmann's: e^2 to 1 for two placements two temperatures apart; never what is not allowed."""
    draw = jax.vmap(lambda key: Softmax(0.1)(key, np.array([0.5, 0.3, 0.9]), np.array([True, True, False])))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    share = np.mean(drawn == 0)
    assert not (drawn == 2).any()
    assert abs(share - np.exp(2) / (1 + np.exp(2))) < 4 * np.sqrt(0.12 * 0.88 / len(drawn))


def test_builds_of_one_size_share_their_programs(network):
    from thalweg.agents import assembly

    assembled(jax.random.key(0), network, np.array([6, 6, 8, 1, 1, 1, 1]), 2, Softmax(0.1))
    before = [f._cached._cache_size() for f in (assembly._offered, assembly._valued, assembly._drawn, assembly._taken)]
    assembled(jax.random.key(1), network, np.array([6, 8, 8, 1, 1, 1, 1]), 2, Softmax(0.2))
    assert [f._cached._cache_size() for f in (assembly._offered, assembly._valued, assembly._drawn, assembly._taken)] == before


def test_constitutions_are_those_of_graphs():
    """Against isomers of the same formula, whatever the order of their atoms and however they are turned."""
    rng, marks = np.random.default_rng(0), {}
    for name in ("CH3CH2OH", "CH3OCH3"):
        atoms = molecule(name)
        every = set()
        for _ in range(5):
            mixed = rng.permutation(len(atoms))
            x = atoms.positions[mixed] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
            x = x + 0.02 * rng.normal(size=x.shape)
            after = constitutions(atoms.numbers[mixed], bonded(atoms.numbers[mixed], x), np.argsort(rng.permutation(len(x))))
            order = np.zeros(len(x), int)
            every.add(int(constitutions(atoms.numbers[mixed], bonded(atoms.numbers[mixed], x), order)[0]))
            assert len(set(after)) == len(x)
        marks[name] = every
    assert all(len(v) == 1 for v in marks.values())
    assert marks["CH3CH2OH"] != marks["CH3OCH3"]


def test_the_target_of_a_placement_is_the_best_reward_that_came_of_it(network):
    """Methane's hydrogens are alike: whichever was placed first, the best outcome counts, and failures are worth nothing."""
    atoms, kinds = molecule("CH4"), np.array([1, 0, 0, 0, 0])
    replay = Replay.empty(5, places=(3,), dtype=np.float64)
    bonds = bonded(atoms.numbers, atoms.positions)
    for order, energy in (((0, 1, 2, 3, 4), -3.0), ((0, 4, 3, 2, 1), -5.0), ((0, 2, 1, 4, 3), np.inf)):
        order = np.array(order, np.int32)
        replay = replay.with_episode(atoms.positions, order, constitutions(atoms.numbers, bonds, order), energy)
    lesson = builder_learning.lesson_of(np.random.default_rng(0), replay, kinds, 3, 10.0)
    np.testing.assert_allclose(lesson.target, 1.0)
    assert set(lesson.kind) == {0}
    assert (lesson.bag[:, 1] == 0).all()
    there = (lesson.kinds >= 0).sum(1)
    np.testing.assert_array_equal(lesson.bag[:, 0], 5 - there)
    np.testing.assert_allclose(builder_learning.rewards([-5.0, -3.0, 5.1, np.inf], -5.0, 10.0), [1, 0.8, 0, 0])


def test_learning_lowers_every_loss(network):
    atoms = molecule("CH3CH2OH")
    rng = np.random.default_rng(0)
    kinds = network.kinds(atoms.numbers)
    replay = Replay.empty(9, places=(3,), dtype=np.float64)
    order = np.arange(9, dtype=np.int32)
    for energy in (-10.0, -4.0):
        x = atoms.positions + rng.normal(size=(9, 3)) * (0.3 if energy > -5 else 0)
        replay = replay.with_episode(x, order, constitutions(atoms.numbers, bonded(atoms.numbers, x), order), energy)
    x = atoms.positions + 0.05 * rng.normal(size=(20, 9, 3))
    truth = [BlackBox("emt").evaluate(Structure.create(each, atoms.numbers)) for each in x]
    known = x, np.array([float(t.energy) for t in truth]), np.stack([np.asarray(t.forces) for t in truth])
    now, state = network, builder_learning.begin(network)
    weights = builder_learning.Weights(np.float32(1), np.float32(0.9))
    course = []
    for _ in range(100):
        lesson = builder_learning.lesson_of(rng, replay, kinds, 3, 10.0)
        examples = builder_learning.examples_of(rng, network, kinds, *known)
        now, state, losses = builder_learning.improved(now, network, state, lesson, examples, weights, np.float32(2e-3))
        course.append(np.asarray(losses))
    before, last = np.mean(course[:10], 0), np.mean(course[-10:], 0)
    assert (last < 0.9 * before).all()
    # A constant in the energies is nothing to learn.
    shifted = Labelled(examples.positions, examples.kinds, examples.energies + 7, examples.forces)
    one, two = (
        np.asarray(builder_learning.improved(now, network, state, lesson, e, weights, np.float32(0))[2])
        for e in (examples, shifted)
    )
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_its_energy_is_a_potential(network):
    atoms = molecule("CH3CH2OH")
    out = BuilderEnergy(network).evaluate(Structure.create(atoms.positions, atoms.numbers))
    x, kinds = atoms.positions[None].astype(np.float32), network.kinds(atoms.numbers)[None]
    energies, forces = network.energies_and_forces(x, kinds)
    np.testing.assert_allclose(out.energy, energies[0], rtol=1e-5)
    np.testing.assert_allclose(out.forces, forces[0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(out.atomic_energies).sum(), out.energy, rtol=1e-5)


def test_it_is_a_search(file, methanol):
    check_search(Builder(builder=file, candidates=2, steps=5, learn_from=3, updates=1), methanol)


def test_it_learns_from_an_episode_on_and_not_before(file):
    tables = {"system": {"formula": "CH4O"}, "potential": EMT}
    made = resolve({**tables, "search": {"kind": "builder", "builder": file, "learn_from": 2, "updates": 1, **QUICK}})
    from thalweg.run import open_session
    from thalweg.settings import Stop

    session = open_session(made.search, made.relaxation, made.system, made.settings, made.hosting)
    weights = lambda: np.asarray(jax.tree.leaves(session.state.shared.network)[5])
    start = weights()
    changed = []
    try:
        for _ in range(4):
            told = session.ledger.evaluations
            while session.ledger.evaluations == told:
                session.visit(Stop(evaluations=10))
            changed.append(not np.array_equal(weights(), start))
    finally:
        session.close()
    assert changed == [False, False, True, True]
    assert "thalweg-builder" in made.search.products(session.state, made.system)["builder.json"]


WRONG = {
    "elements": ({"formula": "CH3N"}, {}, "knows no N"),
    "a cell": ({"formula": "CH4O", "cell": [9, 9, 9]}, {}, "free molecules"),
    "no candidates": ({"formula": "CH4O"}, {"candidates": 0}, "candidates"),
    "no range": ({"formula": "CH4O"}, {"reward_range": 0.0}, "reward_range"),
    "no file": ({"formula": "CH4O"}, {"builder": "nowhere.json"}, "there is no builder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_built_is_refused(case, file):
    system, search, said = WRONG[case]
    with pytest.raises(InputError, match=said):
        resolve({"system": system, "potential": EMT, "search": {"kind": "builder", "builder": file, **search}})


def test_a_builder_that_was_changed_is_not_taken_for_the_old_one(file, tmp_path):
    text = Path(file).read_text(encoding="utf-8")
    mine = tmp_path / "mine.json"
    mine.write_text(text, encoding="utf-8")
    from thalweg.agents.files import kind_of, pinned

    assert kind_of(str(mine)) == "builder"
    name = pinned(str(mine), "builder")
    load_builder(name)
    mine.write_text(text + " ", encoding="utf-8")
    with pytest.raises(InputError, match="was changed"):
        load_builder(name)


def test_the_shipped_builder_knows_chemistry():
    """Of twelve molecules that it builds of a formula, most have every atom in its usual valence."""
    network, held = load_builder()
    assert SHIPPED.stat().st_size < 5e6
    assert held["about"]["isomers"]
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    built = assembled(jax.random.key(0), network, numbers, 12, Softmax(0.03))
    usual = {1: 1, 6: 4, 8: 2}
    fine = 0
    for x, whole in zip(built.positions, built.whole, strict=True):
        count = bonded(numbers, x).sum(1)
        fine += bool(whole and all(n == usual[z] for n, z in zip(count, numbers, strict=True)))
    assert fine >= 6


def test_the_shipped_builder_says_how_it_is_made():
    """The input that ships is the one that it was trained with; at most as many of its errors as its card says."""
    about = load_builder()[1]["about"]
    assert builder_recipe.resolve(builder_recipe.INPUTS.read("builder")).tables == about["input"]
    assert about["scores"]["chosen"] > 0.8
    assert len(about["isomers"]) == about["molecules"]["asked"] - len(about["molecules"]["rejected"])
