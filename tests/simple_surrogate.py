"""A surrogate that is quickly fitted and compiled, for tests that are not about models."""

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.potentials.base import EnergyPotential
from thalweg.structure import Structure
from thalweg.surrogates.base import Posterior, Surrogate


def heights(x):
    """A smooth invariant of positions (atoms, 3): how crowded each place is, sorted out of the way by powers."""
    d2 = ((x[:, None] - x[None]) ** 2).sum(-1)
    crowd = (jnp.exp(-d2)).sum(1)
    return jnp.stack([crowd.sum(), (crowd**2).sum(), (crowd**3).sum() / 4, jnp.exp(-2 * d2).sum()])


_heights = jax.jit(jax.vmap(heights))


class Simple(Posterior, EnergyPotential):
    """A Gaussian process on four numbers, for tests that are not about models."""

    features: jax.Array
    weights: jax.Array
    inverse: jax.Array
    mean: jax.Array
    cutoff: float = 3.0

    def kernel(self, x):
        return jnp.exp(-((self.features - heights(x)) ** 2).sum(1) / 8)

    def atomic_energies(self, structure: Structure):
        x = structure.positions
        return jnp.full(len(x), (self.mean + self.kernel(x) @ self.weights) / len(x))

    def mean_std(self, positions, numbers, space=None):
        flat = positions.reshape(*positions.shape[:2], -1)

        def one(x):
            k = self.kernel(x)
            return self.mean + k @ self.weights, jnp.sqrt(jnp.maximum(1 - k @ self.inverse @ k, 1e-12))

        mean, std = jax.vmap(one, -1)(flat)
        return mean.reshape(positions.shape[2:]), std.reshape(positions.shape[2:])


class SimpleSurrogate(Surrogate):
    def suited(self, system, energy_unit=1.0):
        return self

    def fit(self, key, data, previous=None):
        valid = np.asarray(data.valid)
        features = np.array(_heights(data.positions))
        features = np.where(valid[:, None], features, 1e3 * (1 + np.arange(len(valid)))[:, None])
        gram = np.exp(-((features[:, None] - features) ** 2).sum(-1) / 8) + 1e-3 * np.eye(len(valid))
        energy = np.clip(data.energy, None, data.energy[valid].min() + 10)
        mean = energy[valid].mean()
        inverse = np.linalg.inv(gram)
        return Simple(features, inverse @ np.where(valid, energy - mean, 0), inverse, mean)
