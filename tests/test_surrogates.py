"""Surrogates: descriptors against literal sums, fits against SciPy, forces against finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from scipy.stats import multivariate_normal

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.search.guard import relax_on, settled
from thalweg.structure import Structure
from thalweg.surrogates import likelihood
from thalweg.surrogates.base import Dataset
from thalweg.surrogates.environments import Environments
from thalweg.surrogates.fingerprint import Fingerprint
from thalweg.surrogates.gaussian_process import GaussianProcess, described
from thalweg.surrogates.local import LocalGaussianProcess
from thalweg.surrogates.prior import Repulsion
from thalweg.surrogates.selection import chosen
from thalweg.surrogates.surroundings import crowd_of, images_of
from thalweg.system import System
from thalweg.testing import check_potential

NUMBERS = np.array([28] * 3 + [79] * 3)


def clusters(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Octahedra of Ni3Au3, rattled more and more: positions, EMT energies and forces."""
    rng = np.random.default_rng(seed)
    corners = 1.9 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1.0]])
    x = corners + rng.normal(size=(count, 6, 3)) * np.linspace(0.05, 0.2, count)[:, None, None]
    energies, forces = [], []
    for each in x:
        atoms = Atoms(numbers=NUMBERS, positions=each, calculator=EMT())
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    return x, np.array(energies), np.array(forces)


def dataset(x, energy, forces) -> Dataset:
    n = len(x)
    return Dataset(x, np.zeros((n, 3, 3)), energy, forces, np.ones(n, bool), NUMBERS)


@pytest.fixture(scope="module")
def data():
    return clusters(60)


@eqx.filter_jit
def _mean_std(posterior, x, numbers):
    return posterior.mean_std(x, numbers)


def mean_std(posterior, x) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (rows,) of structures (rows, atoms, 3), in blocks of 32."""
    out = []
    with jax.enable_x64(True):
        model = as_leaves(posterior, np.float64)
        for at in range(0, len(x), 32):
            part = x[at : at + 32]
            full = np.pad(part, [(0, 32 - len(part)), (0, 0), (0, 0)], mode="edge")
            both = _mean_std(model, jnp.asarray(np.moveaxis(full, 0, -1)), jnp.asarray(NUMBERS)[:, None])
            out.append(np.stack(both)[:, : len(part)])
    return tuple(np.concatenate(out, 1))


# --- the fingerprint


def literal_bins(x, kinds, fingerprint, cells=None, images=0, fine=40) -> np.ndarray:
    """The same histograms, every pair and triple by itself, smeared Gaussians on `fine` points per bin."""
    n, cutoff = len(x), fingerprint.radial_cutoff
    shifts = [np.zeros(3)]
    if cells is not None:
        grid = np.stack(np.meshgrid(*[np.arange(-images, images + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        shifts = list(grid @ cells)
    near = [[] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            for s in shifts:
                d = x[j] + s - x[i]
                r = np.linalg.norm(d)
                if 1e-9 < r < cutoff:
                    near[i].append((j, r, d))
    r_grid = (np.arange(30 * fine) + 0.5) * cutoff / (30 * fine)
    angle_grid = (np.arange(30 * fine) + 0.5) * np.pi / (30 * fine)
    species = sorted(set(kinds))
    radial = {(a, b): 0 * r_grid for a in species for b in species if a <= b}
    angular = {(a, b, c): 0 * r_grid for a in species for b in species for c in species if b <= c}
    fall = lambda r: 1 + 2 * (r / 4) ** 3 - 3 * (r / 4) ** 2
    for i in range(n):
        for j, r, _ in near[i]:
            t = np.clip(r - cutoff + 1, 0, 1)
            w = (1 - t**3 * (10 - 15 * t + 6 * t**2)) / r**2 / 2  # both atoms of a pair see it
            radial[tuple(sorted((kinds[i], kinds[j])))] += w * np.exp(-((r_grid - r) ** 2) / 2 / 0.2**2)
        close = [entry for entry in near[i] if entry[1] < 4]
        for p in range(len(close)):
            for q in range(p):
                (j, rj, dj), (k, rk, dk) = close[p], close[q]
                angle = np.arccos(np.clip(dj @ dk / rj / rk, -1, 1))
                key = (kinds[i], *sorted((kinds[j], kinds[k])))
                for centre in [angle, -angle, 2 * np.pi - angle]:  # folded at 0 and at pi
                    angular[key] += fall(rj) * fall(rk) * np.exp(-((angle_grid - centre) ** 2) / 2 / 0.2**2)
    rows = [radial[k] for k in sorted(radial)] + [fingerprint.eta * angular[k] for k in sorted(angular)]
    return np.concatenate(rows) / np.sqrt(fine)


def distances(rows) -> np.ndarray:
    return np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))[np.triu_indices(len(rows), 1)]


def test_fingerprints_are_as_far_apart_as_literal_bins(data):
    fingerprint = Fingerprint(eta=2.0)
    x = data[0][[0, 20, 40, 59]]
    scheme = (fingerprint, Repulsion.of((28, 79)), (28, 79), (0, 0, 0), None)
    ours = described(scheme, x, NUMBERS, np.zeros((4, 3, 3)), (False,) * 3)[0]
    reference = np.stack([literal_bins(each, list(NUMBERS), fingerprint) for each in x])
    np.testing.assert_allclose(distances(ours), distances(reference), rtol=3e-4)


def test_fingerprints_of_cells_sum_all_images():
    rng = np.random.default_rng(3)
    cell = np.array([[4.4, 0, 0], [0.9, 4.2, 0], [0.3, -0.6, 4.6]])
    x = rng.random((3, 3)) @ cell + rng.normal(size=(3, 3, 3)) * 0.2
    numbers = np.array([28, 28, 79])
    images = images_of(np.broadcast_to(cell, (3, 3, 3)), (True,) * 3, 6.0)
    crowd = crowd_of(x, np.broadcast_to(cell, (3, 3, 3)), (True,) * 3, numbers, 4.0)
    assert crowd is not None  # the nearest are chosen among all images
    scheme = (Fingerprint(), Repulsion.of((28, 79)), (28, 79), images, crowd)
    ours = described(scheme, x, numbers, np.broadcast_to(cell, (3, 3, 3)), (True,) * 3)[0]
    reference = np.stack([literal_bins(each, list(numbers), Fingerprint(), cell, 3, fine=10) for each in x])
    np.testing.assert_allclose(distances(ours), distances(reference), rtol=1e-3)


# --- the Gaussian process


def test_marginal_likelihood_is_that_of_the_normal_distribution(data):
    rng = np.random.default_rng(1)
    f, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    d2 = likelihood.squared_distances(f, f)
    amplitude, value = likelihood.amplitude_and_likelihood(d2, y, 1e-2, (2.0, 0.5), 0.1)
    covariance = np.exp(-d2 / 8) * 0.9 + np.exp(-d2 / 0.5) * 0.1 + 1e-2 * np.eye(20)
    of = lambda theta: multivariate_normal.logpdf(y, np.zeros(20), theta * covariance)
    np.testing.assert_allclose(value, of(amplitude), rtol=1e-10)
    assert max(of(0.98 * amplitude), of(1.02 * amplitude)) < value
    better = likelihood.fit_lengths(d2, y, 1e-2, (2.0, 0.5), 0.1, ((0.1, 50), (0.01, 5)))
    assert likelihood.amplitude_and_likelihood(d2, y, 1e-2, better, 0.1)[1] > value
    around = [better * s for s in ([1.02, 1], [0.98, 1], [1, 1.02], [1, 0.98])]
    inside = [s for s in around if 0.1 <= s[0] <= 50 and 0.01 <= s[1] <= 5]
    best = likelihood.amplitude_and_likelihood(d2, y, 1e-2, better, 0.1)[1]
    assert all(likelihood.amplitude_and_likelihood(d2, y, 1e-2, s, 0.1)[1] < best + 1e-6 for s in inside)


def test_a_gaussian_process_learns(data):
    x, energy, forces = data
    train, held = np.arange(0, 60, 2), np.arange(1, 60, 2)
    posterior = GaussianProcess().fit(None, dataset(x[train], energy[train], forces[train]))
    mean, std = mean_std(posterior, x[train])
    np.testing.assert_allclose(mean, energy[train], atol=0.05)
    guess, doubt = mean_std(posterior, x[held])
    spread = np.abs(energy[held] - energy[train].mean()).mean()
    assert np.abs(guess - energy[held]).mean() < 0.25 * spread
    assert std.max() < 0.2 * np.median(doubt)
    away = mean_std(posterior, x[0] * np.array([1.0, 1.04, 1.1, 1.2])[:, None, None])[1]
    assert (np.diff(away) > 0).all()
    assert np.sqrt(np.mean(((guess - energy[held]) / doubt) ** 2)) < 3


# --- both


SMALL = Environments(radial=12, channels=3, degree=3)  # compiles sooner
MODELS = {"gaussian-process": GaussianProcess(), "local": LocalGaussianProcess(SMALL, inducing=60)}


@eqx.filter_jit
def _lanes(posterior, x, numbers):
    return posterior.lanes(x, numbers)


@pytest.mark.parametrize("name", MODELS)
def test_forces_are_derivatives_and_nothing_depends_on_the_frame(data, name):
    x, energy, forces = data
    posterior = MODELS[name].fit(None, dataset(x[::2], energy[::2], forces[::2]))
    rng = np.random.default_rng(0)
    base, h = x[30], 1e-4
    direction = rng.normal(size=(4, 6, 3))
    steps = [base + s * h * d for d in direction for s in (-1, 1)]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    exchange = np.array([1, 2, 0, 4, 5, 3])
    rows = np.stack([base, base @ turn + [1.0, -2.0, 0.5], base[exchange], *steps])
    # Two slots without an atom, one of them on top of an atom.
    rows = np.concatenate([rows, np.broadcast_to(base[:1], (len(rows), 1, 3)), np.full((len(rows), 1, 3), 9.0)], 1)
    numbers = np.concatenate([NUMBERS, [-1, -1]])[:, None]
    with jax.enable_x64(True):
        out = _lanes(as_leaves(posterior, np.float64), jnp.asarray(np.moveaxis(rows, 0, -1)), jnp.asarray(numbers))
        mean = mean_std(posterior, base[None])[0]
    value, force = np.asarray(out.energy), np.moveaxis(np.asarray(out.forces), -1, 0)
    np.testing.assert_allclose(value[:3], mean[0], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(out.atomic_energies).sum(0), value, rtol=1e-10)
    np.testing.assert_allclose(force[1, :6], force[0, :6] @ turn, atol=1e-8)
    np.testing.assert_allclose(force[2, :6], force[0, exchange], atol=1e-8)
    assert (force[:, 6:] == 0).all()
    slope = (value[4::2] - value[3::2]) / (2 * h)
    np.testing.assert_allclose(slope, -(direction * force[0, :6]).sum((1, 2)), rtol=1e-5, atol=1e-5)


def test_local_energies_learn_from_forces(data):
    x, energy, forces = data
    train, held = np.arange(0, 60, 2), np.arange(1, 60, 2)
    posterior = MODELS["local"].fit(None, dataset(x[train], energy[train], forces[train]))
    blind = MODELS["local"].fit(None, dataset(x[train], energy[train], np.full_like(forces[train], np.nan)))
    spread = np.abs(energy[held] - energy[train].mean()).mean()
    guess, doubt = mean_std(posterior, x[held])
    error = np.abs(guess - energy[held]).mean()
    assert error < 0.25 * spread
    assert error < np.abs(mean_std(blind, x[held])[0] - energy[held]).mean()
    assert np.sqrt(np.mean(((guess - energy[held]) / doubt) ** 2)) < 4


def test_relaxation_in_the_mean_holds_what_is_fixed(data):
    x, energy, forces = data
    posterior = GaussianProcess().fit(None, dataset(x[::2], energy[::2], forces[::2]))
    numbers = NUMBERS.astype(np.int32)
    bonds = 2 * np.where(numbers == 28, 1.24, 1.36)
    system = System(numbers, bonds, np.arange(6) == 0, np.zeros((3, 3)))
    starts = Structure.create(x[-4:], numbers, fixed=np.arange(6) == 0)
    positions, narrow = relax_on(posterior, starts, system, steps=60)
    np.testing.assert_array_equal(positions[:, 0], x[-4:, 0])
    assert (mean_std(posterior, positions)[0] < mean_std(posterior, x[-4:])[0]).all()
    assert (narrow > 0.65).all()
    assert (settled(0.4 * x[:1], system)[1] < 0.65).all()


def test_outliers_are_left_out():
    energy = np.array([0.0, 70.0, 3.0, np.nan, 5.0, 2.0, 1.0])
    prior = np.array([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(chosen(energy, prior, np.arange(7) != 5), [0, 4, 6])
    energy = np.arange(10.0)[::-1]
    np.testing.assert_array_equal(chosen(energy, 0 * energy, energy >= 0, most=4, newest=2), [6, 7, 8, 9])
    energy = np.arange(10.0)
    np.testing.assert_array_equal(chosen(energy, 0 * energy, energy >= 0, most=4, newest=2), [0, 1, 8, 9])


def test_nothing_to_fit_to_is_said(data):
    x, energy, forces = data
    empty = dataset(x[:2], energy[:2], forces[:2])
    empty = eqx.tree_at(lambda d: d.valid, empty, np.zeros(2, bool))
    for model in MODELS.values():
        with pytest.raises(InputError, match="nothing to fit"):
            model.fit(None, empty)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_posterior_is_a_potential(data, name):
    x, energy, forces = (a[::2] for a in data)
    rows, whole = dataset(x, energy, forces), name == "gaussian-process"
    if whole:  # how many neighbours make angles is counted in the data: all of those in cells would be too many
        cells = np.broadcast_to(np.array([[5.6, 0, 0], [0.4, 5.6, 0], [0.3, -0.5, 5.6]]), (len(x), 3, 3))
        rows = Dataset(x, cells, energy, forces, np.ones(len(x), bool), NUMBERS, (True, True, True))
    # A model of whole structures does not know that two cells have twice the energy of one.
    check_potential(MODELS[name].fit(None, rows), NUMBERS, x[5], extensive=not whole)
