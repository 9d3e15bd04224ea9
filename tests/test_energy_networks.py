"""Networks of energies: symmetries, derivatives, what is learned from what, and that nothing compiles twice."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from scipy.spatial.transform import Rotation
from scipy.stats import median_abs_deviation
from test_surrogates import NUMBERS, clusters, dataset, mean_std

from thalweg import prng
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.surrogates.base import Dataset
from thalweg.surrogates.network import NetworkSurrogate
from thalweg.surrogates.networks import training
from thalweg.surrogates.networks.augment import mirrored, permuted
from thalweg.surrogates.networks.base import Subject
from thalweg.surrogates.networks.data import EnergyData, full, lennard_jones, low_energy
from thalweg.surrogates.networks.kinds import KINDS
from thalweg.surrogates.networks.metrics import constants, metrics
from thalweg.surrogates.networks.pairs import distances
from thalweg.surrogates.networks.schnet import SchNet
from thalweg.surrogates.networks.training import Parts, Settings, begin, epochs, predicted, trained
from thalweg.testing import check_potential

# --- data


def test_energies_of_the_plane_are_those_of_another_program():
    data = full(np.random.default_rng(3), 4, atoms=6, box=5.0)
    for x, energy in zip(data.positions, data.energy, strict=True):
        atoms = Atoms("Ar6", positions=x, calculator=LennardJones(rc=1e4))
        np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-6)


def test_constants_score_on_the_full_set_what_networks_were_published_to_score():
    """A mean absolute percentage error of 78 % is that of the published perceptron, and of the mean of all targets."""
    data = full(np.random.default_rng(0), 10_000)
    rows = constants(data, data)
    assert 74 < rows["constant mean"]["MAPE"] < 82
    assert 49 < rows["constant median"]["MAPE"] < 54
    assert abs(rows["constant mean"]["R2"]) < 1e-9
    assert 0.23 < (data.energy < 0).mean() < 0.27
    assert -9 < data.energy.min() < -4
    low = low_energy(np.random.default_rng(0), 5_000)
    assert low.target.max() < 7
    assert 0.71 < constants(low, low)["constant median"]["MAE"] < 0.81


def test_parts_are_disjoint_and_the_same_for_the_same_seed():
    data = full(np.random.default_rng(1), 100, atoms=4, box=8.0)
    parts, again = data.split(5), data.split(5)
    assert [len(part) for part in parts] == [80, 10, 10]
    energies = np.concatenate([part.energy for part in parts])
    np.testing.assert_array_equal(np.sort(energies), np.sort(data.energy))
    np.testing.assert_array_equal(parts.test.energy, again.test.energy)
    assert (data.split(6).test.energy != parts.test.energy).any()
    np.testing.assert_allclose(data.subject.energy(data.target), data.energy, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_learned_is_said():
    data = full(np.random.default_rng(1), 10, atoms=4, box=8.0)
    with pytest.raises(InputError, match=r"energy -40 of structure 3 has no log\(V \+ 32\); use a larger offset"):
        data.subject.target(np.array([0, 1, 2, -40.0]))
    with pytest.raises(InputError, match="structure 2 of 10 has no finite energy"):
        EnergyData(data.positions, data.numbers, np.where(np.arange(10) == 2, np.nan, data.energy), data.subject)
    with pytest.raises(InputError, match="10 structures are too few to hold out"):
        data.split(0, 0.01, 0.01)
    with pytest.raises(InputError, match="raise the limit or enlarge the box"):
        low_energy(np.random.default_rng(0), 10, atoms=12, box=1.5)
    with pytest.raises(InputError, match=r'no loss "hubert"\. Did you mean "huber"'):
        Settings(loss="hubert")
    with pytest.raises(InputError, match='"occupancy" needs atoms in a plane and a box'):
        KINDS["occupancy"].random(np.random.default_rng(0), Subject(4))


def test_metrics_by_hand():
    found = metrics([1.0, 2.0, 5.0], [2.0, 2.0, 4.0])
    np.testing.assert_allclose([found["MAE"], found["MAPE"], found["R2"]], [2 / 3, 25, 1 - 2 / (8 / 3)])


# --- networks

#: Subjects: a plane with a box and the target log(V + 8), and two species in space with the energy itself.
PLANE = Subject(7, (0,), 2, 6.0, 1.0, 8.0)
SPACE = Subject(7, (28, 79), 3, None, 2.0)
ROWS = {
    "mlp": ("mlp", PLANE, {}),
    "occupancy": ("occupancy", PLANE, {"shared": True}),
    "graph": ("graph", PLANE, {}),
    "graph-distances": ("graph", SPACE, {"logarithmic": False}),
    "schnet": ("schnet", PLANE, {}),
    "schnet-space": ("schnet", SPACE, {}),
    "pair": ("pair", PLANE, {}),
    "pair-space": ("pair", SPACE, {}),
}


@pytest.mark.parametrize("row", ROWS)
def test_networks_have_the_symmetries_of_energies_and_true_derivatives(row):
    """One batch, one program: a structure, two displaced ones, and four that must have the same energy."""
    kind, subject, options = ROWS[row]
    rng = np.random.default_rng(7)
    # The last slot holds no atom.
    numbers = np.array([*(subject.species * 6)[:6], -1])
    x = 1.0 + 1.1 * np.indices((3, 2, 2)).reshape(3, -1).T[:7] + rng.normal(size=(7, 3)) * 0.1
    x[:, 2] *= subject.dimensions == 3
    step = np.zeros((7, 3))
    step[:6, : subject.dimensions] = 1e-5 * rng.normal(size=(6, subject.dimensions))
    turn = Rotation.from_rotvec([0, 0, 1.0] if subject.dimensions == 2 else [0.4, -0.5, 0.9]).as_matrix()
    middle = x[:6].mean(0)
    moved, turned, nowhere = x + np.array([0.3, -0.2, 0]), (x - middle) @ turn + middle, x + (numbers < 0)[:, None]
    batch = np.stack([x, x + step, x - step, x[_exchanged(numbers)], moved, turned, nowhere])
    with jax.enable_x64(True):
        network = KINDS[kind].random(np.random.default_rng(0), subject, **options)
        network = as_leaves(eqx.tree_at(lambda n: (n.shift, n.scale), network, (np.array(0.7), np.array(1.3))), np.float64)
        energies, slopes = (np.asarray(a) for a in eqx.filter_jit(_with_slopes)(network, batch, numbers))
    difference = (energies[1] - energies[2]) / 2
    assert abs(difference) > 1e-8
    np.testing.assert_allclose(difference, (slopes[0] * step).sum(), rtol=1e-5)
    assert energies.dtype == np.float64
    assert np.isfinite(energies).all()
    assert np.isfinite(slopes).all()
    if kind in ("graph", "schnet", "pair"):
        np.testing.assert_allclose(energies[3:], energies[0], rtol=1e-9)
        np.testing.assert_array_equal(slopes[:, 6], 0)
    if kind == "occupancy":
        np.testing.assert_allclose(energies[3], energies[0], rtol=1e-9)


def _exchanged(numbers):
    """A permutation that exchanges equal atoms."""
    order = np.array([2, 3, 4, 1, 0, 5, 6])
    np.testing.assert_array_equal(numbers[order], numbers)
    return order


def _with_slopes(network, batch, numbers):
    energies, back = jax.vjp(lambda x: network.energies(x, numbers), jnp.asarray(batch))
    return energies, back(jnp.ones_like(energies))[0]


def test_few_neighbours_give_what_all_give():
    data = full(np.random.default_rng(2), 64, atoms=20, box=24.0)
    network = SchNet.random(np.random.default_rng(0), data.subject, width=8)
    few = network.for_training(data.positions, data.numbers)
    with jax.enable_x64(True):
        r = np.asarray(distances(jnp.asarray(data.positions, jnp.float64), data.numbers, data.subject))
    assert few.near == (r < network.cutoff).sum(-1).max() < 10
    assert few.for_use().near is None
    np.testing.assert_allclose(predicted(few, data), predicted(network, data), rtol=2e-5, atol=2e-5)


def test_augmented_structures_have_the_same_energy_and_forces():
    rng = np.random.default_rng(0)
    data = full(rng, 50, atoms=6, box=5.0)
    mixed = EnergyData(data.positions, np.array([0, 1, 0, 1, 1, 0]), data.energy, data.subject)
    x, forces = permuted(rng, mixed.positions, 2 * mixed.positions, mixed)
    np.testing.assert_array_equal(forces, 2 * x)
    assert (x != mixed.positions).any((1, 2)).mean() > 0.9
    for kind in (0, 1):
        at = mixed.numbers == kind
        np.testing.assert_array_equal(np.sort(x[:, at, 0]), np.sort(mixed.positions[:, at, 0]))
    x, _ = mirrored(rng, data.positions, None, data)
    assert x.min() >= 0
    assert x.max() <= 5
    np.testing.assert_allclose(np.log(lennard_jones(x) + 32), data.target, rtol=1e-3)
    assert len(np.unique(np.round(x[:, 0, :2] - data.positions[:, 0, :2], 4), axis=0)) > 40


# --- training


def small(count: int, seed: int = 0) -> Parts:
    data = low_energy(np.random.default_rng(seed), count, atoms=5, box=5.0, offset=16.0)
    return data.split(0)


def test_training_goes_on_where_it_was_stopped_and_compiles_once(monkeypatch):
    parts = small(600)
    network = KINDS["pair"].random(np.random.default_rng(0), parts.train.subject, width=16)
    settings = Settings(epochs=6, batch=32, rate=1e-2)
    traced = []
    inner = training.loss_of
    monkeypatch.setattr(training, "loss_of", lambda *a: traced.append(1) or inner(*a))
    whole = list(epochs(begin(3, network, parts, settings), parts, settings))
    assert len(traced) == 1
    kept = whole[2]
    fresh = begin(3, network, parts, settings)
    restored = fresh.restored(kept.arrays(), kept.history)
    *_, last = epochs(restored, parts, settings)
    for name, array in whole[-1].arrays().items():
        np.testing.assert_array_equal(array, last.arrays()[name], err_msg=name)
    assert [r["loss"] for r in last.history] == [r["loss"] for r in whole[-1].history]
    other = begin(3, KINDS["pair"].random(np.random.default_rng(0), parts.train.subject, width=8), parts, settings)
    with pytest.raises(InputError, match="the checkpoint does not fit"):
        other.restored(kept.arrays(), kept.history)
    untrained = metrics(predicted(fresh.network, parts.test), parts.test.target)["MAE"]
    assert metrics(predicted(last.best, parts.test), parts.test.target)["MAE"] < untrained / 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("graph", 0.5), ("schnet", 0.1), ("pair", 0.1)])
def test_networks_learn_a_small_set(kind, share):
    """Errors on structures not seen, as a share of those of a constant."""
    parts = small(2500)
    network = KINDS[kind].random(np.random.default_rng(0), parts.train.subject)
    found = trained(0, network, parts, Settings(epochs=12))
    constant = constants(parts.train, parts.test)["constant median"]["MAE"]
    assert found.metrics["test"]["MAE"] < share * constant
    assert found.cpu > 0


@pytest.mark.slow
def test_a_perceptron_of_coordinates_learns_nothing_and_pictures_little():
    """The rows of the published table that a constant beats, or nearly."""
    data = full(np.random.default_rng(0), 2000)
    parts = data.split(0)
    constant = constants(parts.train, parts.test)["constant median"]["MAPE"]
    for kind in ("mlp", "occupancy"):
        network = KINDS[kind].random(np.random.default_rng(0), data.subject)
        found = trained(0, network, parts, Settings(epochs=3))
        assert found.metrics["test"]["MAPE"] > 0.8 * constant


# --- the surrogate of searches


def test_the_surrogate_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match=r'no network "schnat"\. Did you mean "schnet"'):
        NetworkSurrogate(network="schnat")
    n = 3
    rows = Dataset(
        positions=np.ones((n, 2, 3)),
        cell=np.tile(9 * np.eye(3), (n, 1, 1)),
        energy=np.ones(n),
        forces=np.ones((n, 2, 3)),
        valid=np.ones(n, bool),
        numbers=np.array([0, 0]),
        pbc=(True, True, True),
    )
    with pytest.raises(InputError, match='free structures only; use "local"'):
        NetworkSurrogate().fit(None, rows)


@pytest.mark.slow
def test_the_surrogate_learns_energies_and_knows_how_well():
    """Clusters of EMT, no sum over pairs: as good as a tenth of what a constant misses, and sure by as much as it is right."""
    x, energy, forces = clusters(160)
    order = np.random.default_rng(0).permutation(160)
    train, test = order[:100], order[100:]
    surrogate = NetworkSurrogate()
    posterior = surrogate.fit(prng.key(0), dataset(x[train], energy[train], forces[train]))
    mean, std = mean_std(posterior, x[test])
    assert np.abs(mean - energy[test]).mean() < 0.1 * median_abs_deviation(energy) / 0.6745 + 0.05
    assert 0.3 < np.median(np.abs(mean - energy[test]) / std) / 0.6745 < 3
    again = surrogate.fit(prng.key(1), dataset(x[train], energy[train], forces[train]), posterior)
    assert np.abs(mean_std(again, x[test])[0] - energy[test]).mean() < 1.5 * np.abs(mean - energy[test]).mean()
    check_potential(posterior, NUMBERS, x[5], extensive=False)
    # Atoms on top of each other: the prior says what no data do.
    close = x[:1].copy()
    close[0, 1] = close[0, 0] + [0.3, 0, 0]
    assert mean_std(posterior, close)[0][0] > energy.max()
