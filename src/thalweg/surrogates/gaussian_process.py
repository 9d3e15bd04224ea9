"""A Gaussian process of the energy on fingerprints of whole structures: the surrogate of GOFEE."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.structure import Structure
from thalweg.surrogates import likelihood
from thalweg.surrogates.base import Dataset, Posterior, Surrogate
from thalweg.surrogates.batched import StructurePosterior, in_blocks
from thalweg.surrogates.fingerprint import Fingerprint
from thalweg.surrogates.prior import Repulsion
from thalweg.surrogates.selection import chosen, padded_size
from thalweg.surrogates.surroundings import crowd_of, images_of, largest, unit_of
from thalweg.system import System
from thalweg.typing import Array, Float


class GaussianProcessPosterior(StructurePosterior):
    """A fitted `GaussianProcess`. Rows of `features` without data have `weights` 0 and a row of 0 in `whiten`.

    energy = prior + mean + sum weights k(f, features); its standard deviation is that of the energy itself, without the
    noise of an observation. Energies per atom are the prior's and equal shares of the rest: the model knows the whole only.
    """

    fingerprint: Fingerprint
    prior: Repulsion
    origin: Float[Array, " features"]  # taken off all fingerprints: smaller numbers, more digits in their differences
    features: Float[Array, "rows features"]
    weights: Float[Array, " rows"]
    whiten: Float[Array, "rows rows"]  # inverse of the lower Cholesky factor of the correlation matrix
    mean: Array
    amplitude: Array  # theta0, eV^2
    lengths: Array  # (long, short)
    weight: Array
    fitted: int  # rows that the length scales were fitted to; not static, or every new fit would compile anew
    species: tuple[int, ...] = eqx.field(static=True)
    images: tuple[int, int, int] = eqx.field(static=True)
    crowd: int | None = eqx.field(static=True)

    @property
    def reach(self) -> float:
        return largest(self.fingerprint.reach, self.prior.reach)

    def atomic_energies(self, structure: Structure, images) -> Array:
        each = self.prior.atomic_energies(structure, images)
        rest = self.mean + self._correlations(structure, images) @ (self.amplitude * self.weights)
        return each + jnp.where(structure.mask, rest / jnp.maximum(structure.mask.sum(), 1), 0)

    def mean_and_std(self, structure: Structure, images) -> tuple[Array, Array]:
        k = self._correlations(structure, images)
        spread = 1 - ((self.whiten @ k) ** 2).sum()
        mean = self.prior.atomic_energies(structure, images).sum() + self.mean + k @ (self.amplitude * self.weights)
        return mean, jnp.sqrt(self.amplitude * jnp.maximum(spread, 0))

    def _correlations(self, structure: Structure, images) -> Array:
        """Correlation (rows,) of a single structure with the data."""
        own = self.fingerprint(structure, self.species, images, self.crowd) - self.origin
        # As a product of matrices: differences of every feature would be most of the work.
        d2 = (self.features**2).sum(1) + (own * own).sum() - 2 * (self.features @ own)
        long, short = self.lengths[0], self.lengths[1]
        return (1 - self.weight) * jnp.exp(-d2 / (2 * long**2)) + self.weight * jnp.exp(-d2 / (2 * short**2))


class GaussianProcess(Surrogate):
    """Squared exponentials of two length scales on fingerprints, over a repulsive prior; learns from energies.

    M. K. Bisbo and B. Hammer, Phys. Rev. Lett. 124, 086102 (2020), doi:10.1103/PhysRevLett.124.086102: covariance
    theta0 [(1 - weight) exp(-d^2 / 2 long^2) + weight exp(-d^2 / 2 short^2)], noise `noise` x theta0. The amplitude theta0
    has a closed form and the length scales maximise the marginal likelihood; they are fitted again when there are `refit`
    times as many data. Forces are known with most energies: with `displaced` > 0 (Å) each structure is also shown displaced by
    that much down its force, its energy to first order.

    Fitted to at most `most` structures less than `window` above the lowest (`thalweg.surrogates.selection.chosen`).
    `energy_unit` is one eV in the unit of the energies.
    """

    fingerprint: Fingerprint = eqx.field(default_factory=Fingerprint)
    weight: float = 0.01
    noise: float = 1e-5
    window: float = 60.0
    highest_prior: float = 5.0
    most: int = eqx.field(static=True, default=500)
    refit: float = 1.2
    iterations: int = eqx.field(static=True, default=20)
    displaced: float = 0.0
    displaced_noise: float = 1e-4
    energy_unit: float = 1.0

    def fit(self, key, data: Dataset, previous: Posterior | None = None) -> GaussianProcessPosterior:
        numbers = np.asarray(data.numbers)
        species = tuple(int(z) for z in np.unique(numbers) if z >= 0)
        unit = float(self.fingerprint.unit)
        prior = Repulsion.of(species, unit, float(self.energy_unit))
        valid = np.asarray(data.valid)
        if not valid.any():
            raise InputError("there is nothing to fit to: no row of the data is valid")
        x, cells = np.asarray(data.positions, float)[valid], np.asarray(data.cell, float)[valid]
        energy, forces = np.asarray(data.energy, float)[valid], np.asarray(data.forces, float)[valid]
        reach = max(self.fingerprint.reach, prior.reach)
        images = images_of(cells, data.pbc, reach)
        near = float(self.fingerprint.angular_cutoff) * unit
        crowd = crowd_of(x, cells, data.pbc, numbers, near)
        if isinstance(previous, GaussianProcessPosterior) and crowd is not None and previous.crowd is not None:
            crowd = max(crowd, previous.crowd)  # one program for longer
        scheme = (self.fingerprint, prior, species, images, crowd)
        features, repulsion = described(scheme, x, numbers, cells, data.pbc)
        repulsive = self.highest_prior * self.energy_unit
        rows = chosen(energy, repulsion, np.isfinite(features).all(1), self.window * self.energy_unit, repulsive, self.most)
        if len(rows) == 0:
            raise InputError("there is nothing to fit to: no valid row has a finite energy")
        x, cells, energy, forces = x[rows], cells[rows], energy[rows], forces[rows]
        features, repulsion = features[rows], repulsion[rows]
        target = energy - repulsion
        noise = np.full(len(rows), float(self.noise))
        count = len(rows)
        mean = float(target.mean())
        if self.displaced > 0:
            moved, gain, has = downhill(x, forces, float(self.displaced) * unit)
            more, push = described(scheme, moved[has], numbers, cells[has], data.pbc)
            features, target = np.concatenate([features, more]), np.concatenate([target, (energy - gain)[has] - push])
            noise = np.concatenate([noise, np.full(int(has.sum()), float(self.displaced_noise))])
        return self._posterior(features, target, noise, mean, count, previous, scheme)

    def suited(self, system: System, energy_unit: float = 1.0) -> GaussianProcess:
        """This with the lengths of a model system in units of its bond; the same for real species."""
        at = lambda g: (g.fingerprint.unit, g.energy_unit)
        return eqx.tree_at(at, self, (unit_of(system), energy_unit))

    def _posterior(self, features, target, noise, mean, count, previous, scheme) -> GaussianProcessPosterior:
        """Length scales, amplitude and weights, padded."""
        y = target - mean
        origin = features.mean(0)
        features = features - origin
        d2 = likelihood.squared_distances(features, features)
        lengths, fitted = self._lengths(d2, y, noise, count, previous)
        weight = float(self.weight)
        solution, whiten = likelihood.solved(d2, y, noise, lengths, weight)
        amplitude = max(float(y @ solution) / len(y), 1e-12)
        size = padded_size(len(y))
        extra = size - len(y)
        fingerprint, prior, species, images, crowd = scheme
        return GaussianProcessPosterior(
            fingerprint=as_leaves(fingerprint, np.float64),
            prior=as_leaves(prior, np.float64),
            origin=origin,
            features=np.pad(features, ((0, extra), (0, 0))),
            weights=np.pad(solution / amplitude, (0, extra)),
            whiten=np.pad(whiten, ((0, extra), (0, extra))),
            mean=np.asarray(mean),
            amplitude=np.asarray(amplitude),
            lengths=np.asarray(lengths),
            weight=np.asarray(weight),
            fitted=fitted,
            species=species,
            images=images,
            crowd=crowd,
        )

    def _lengths(self, d2, y, noise, count: int, previous) -> tuple[np.ndarray, int]:
        """The length scales, and the number of structures they were fitted to."""
        if isinstance(previous, GaussianProcessPosterior):
            lengths = np.asarray(previous.lengths, float)
            if count < self.refit * previous.fitted:
                return lengths, previous.fitted
        else:
            lengths = None
        positive = d2[d2 > 1e-12]
        typical = float(np.sqrt(np.median(positive))) if len(positive) else 1.0
        # Of the likelihood's flat ends: a long scale beyond all data, and a short one that sees single structures.
        bounds = ((0.3 * typical, 30 * typical), (0.03 * typical, 1 * typical))
        start = np.array([2 * typical, 0.3 * typical]) if lengths is None else lengths
        if count < 4:
            return start, 1
        return likelihood.fit_lengths(d2, y, noise, start, float(self.weight), bounds, self.iterations), count


def downhill(positions, forces, step: float):
    """Structures (rows, atoms, 3) moved by `step` along the force, the energy this gains, and which have a force.

    The atom of the largest force moves by `step`; the gain is to first order.
    """
    forces = np.where(np.isfinite(forces), forces, 0)
    largest = np.sqrt((forces**2).sum(-1)).max(-1)
    has = largest > 1e-3
    scale = np.where(has, step / np.where(has, largest, 1), 0)[:, None, None]
    move = scale * forces
    return positions + move, (move * forces).sum((1, 2)), has


def described(scheme, positions, numbers, cells, pbc) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints (rows, features) and repulsions (rows,) of structures, in blocks of one compiled shape."""
    fingerprint, prior, species, images, crowd = scheme
    if not len(positions):
        return np.zeros((0, 0)), np.zeros(0)
    with jax.enable_x64(True):
        fingerprint, prior = as_leaves((fingerprint, prior), np.float64)
        describe = lambda many: _described(fingerprint, prior, many, species, images, crowd)
        prints, repulsions = in_blocks(describe, positions, numbers, cells, pbc)
    return prints, repulsions


@eqx.filter_jit
def _described(fingerprint, prior, structures, species, images, crowd):
    describe = lambda s: (fingerprint(s, species, images, crowd), prior.atomic_energies(s, images).sum())
    return jax.vmap(describe)(structures)
