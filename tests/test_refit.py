"""Relaxing on a surrogate that learns: true energies fall and never rise, no collapse, and as low as relaxing directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.errors import InputError
from thalweg.learning.refit import Core, Loop, evaluated, nearest, refit
from thalweg.potentials.base import finish
from thalweg.potentials.pair import LennardJones
from thalweg.relax.filters import Plane
from thalweg.surrogates.base import Posterior, Surrogate
from thalweg.system import cluster

POTENTIAL = LennardJones()
SYSTEM = cluster(np.zeros(5, int), POTENTIAL)
STARTS = np.random.default_rng(0).uniform(-1.7, 1.7, (60, 5, 3)) * (1, 1, 0)
STARTS = STARTS[nearest(STARTS) > 0.8][:6]


class Model(Posterior):
    """Lennard-Jones with parameters from somewhere, and a pull to the middle."""

    inner: LennardJones
    pull: float = 0.0

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        out = self.inner.lanes(positions, numbers)
        away = positions - positions.mean(0)
        energy = out.energy + self.pull * (away**2).sum((0, 1))
        return finish(energy, out.forces - 2 * self.pull * away, out.atomic_energies)

    def mean_std(self, positions, numbers, space=None):
        return self.lanes(positions, numbers, space).energy, jnp.zeros(positions.shape[2:])


class Teachable(Surrogate):
    """Both parameters by least squares on the energies, wrong ones at first; it notes what it saw."""

    seen: list

    def fit(self, key, data, previous=None):
        x, valid = np.asarray(data.positions), np.asarray(data.valid)
        self.seen.append((int(valid.sum()), np.isfinite(np.asarray(data.forces)[valid]).all()))
        if previous is None:
            return Model(LennardJones(2.0, 1.15))
        first, second = np.triu_indices(x.shape[1], 1)
        six = ((x[valid][:, first] - x[valid][:, second]) ** 2).sum(-1) ** -3
        (a, b), *_ = np.linalg.lstsq(np.stack([(six**2).sum(1), -six.sum(1)], 1), np.asarray(data.energy)[valid])
        return Model(LennardJones(float(b**2 / (4 * a)), float((a / b) ** (1 / 6))))


class Falling(Surrogate):
    """Nothing but the pull, whatever the data."""

    def fit(self, key, data, previous=None):
        return Model(LennardJones(0.0), 10.0)


def plane(x):
    """True energy and gradient of coordinates (10,) in the plane."""
    energy, forces = evaluated(POTENTIAL, SYSTEM, np.pad(x.reshape(1, 5, 2), ((0, 0), (0, 0), (0, 1))))
    return energy[0], -forces[0, :, :2].ravel()


def test_a_surrogate_that_learns_comes_to_where_direct_relaxations_end():
    seen: list = []
    made = refit(Teachable(seen), POTENTIAL, SYSTEM, STARTS, Loop(rounds=30), filter=Plane())
    theirs = [minimize(plane, x[:, :2].ravel(), jac=True, method="L-BFGS-B") for x in STARTS]
    assert made.stalled
    assert made.collapses == 0
    np.testing.assert_allclose(made.energies.min(), min(t.fun for t in theirs), rtol=1e-3)
    assert np.all(np.diff([r.mean for r in made.rounds]) <= 0)
    assert made.rounds[-1].error < 1e-6 < made.rounds[0].error
    assert all(forces for _, forces in seen)
    assert made.evaluations == len(STARTS) * (1 + len(made.rounds)) < sum(t.nfev for t in theirs)
    assert np.abs(made.positions[..., 2]).max() == 0
    with jax.enable_x64(True):
        np.testing.assert_allclose(POTENTIAL.evaluate(SYSTEM.structure(made.positions)).energy, made.energies, rtol=1e-12)


def test_what_falls_through_the_core_is_counted_and_never_kept():
    """A pull to the middle: without the core atoms fall into each other, with it they do not; neither raises an energy."""
    before, _ = evaluated(POTENTIAL, SYSTEM, STARTS)
    loops = Loop(rounds=12, trust=4.0, core=0.0), Loop(rounds=12, trust=4.0)
    fallen, kept = (refit(Falling(), POTENTIAL, SYSTEM, STARTS, own, filter=Plane()) for own in loops)
    assert fallen.collapses > 0
    assert kept.collapses == 0
    for made in (fallen, kept):
        assert np.all(made.energies <= before)
        assert np.isfinite(made.energies).all()
        assert nearest(made.positions).min() > 0.7


def test_the_core_is_smooth_and_its_force_is_its_gradient():
    r = np.array([0.5, 0.6, 0.9, 0.999, 1.0, 1.3])
    x = np.zeros((3, len(r), 2, 3))
    x[:, :, 1, 0] = r + np.array([-1e-6, 0, 1e-6])[:, None]
    core = Core(LennardJones(epsilon=0.0), 1.0, 2.0)
    energy, forces = evaluated(core, cluster(np.zeros(2, int), POTENTIAL), x.reshape(-1, 2, 3))
    energy, force = energy.reshape(3, -1), forces.reshape(3, -1, 2, 3)[1, :, 1, 0]
    np.testing.assert_allclose(energy[1, 0], 2 * 63**2, rtol=1e-12)
    assert energy[1, 4] == energy[1, 5] == 0
    np.testing.assert_allclose(force, (energy[0] - energy[2]) / 2e-6, rtol=1e-5, atol=1e-4)


def test_starts_without_an_energy_are_refused():
    with pytest.raises(InputError, match="finite energy"):
        refit(Falling(), POTENTIAL, SYSTEM, np.zeros((2, 5, 3)))
    with pytest.raises(InputError, match="rounds"):
        Loop(rounds=0)
