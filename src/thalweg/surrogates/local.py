"""Sums of local energies: a sparse Gaussian process of atomic environments that learns from energies and forces."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.structure import Structure
from thalweg.surrogates.base import Dataset, Posterior, Surrogate
from thalweg.surrogates.batched import StructurePosterior
from thalweg.surrogates.environments import Environments
from thalweg.surrogates.looks import looked, projected, pushed
from thalweg.surrogates.prior import Repulsion
from thalweg.surrogates.selection import chosen
from thalweg.surrogates.surroundings import crowd_of, images_of, kinds_of, largest, unit_of
from thalweg.system import System
from thalweg.typing import Array, Float

#: Structures whose rows of the design are made at a time.
DESIGNED = 16


class LocalModel(eqx.Module):
    """The basis: covariances of atomic environments with inducing ones (species x count rows), squared exponential.

    Features are projected on their leading directions first. Atoms of different species have no covariance.
    """

    environments: Environments
    prior: Repulsion
    projection: Float[Array, "features kept"]
    inducing: Float[Array, "rows kept"]
    kinds: Float[Array, "rows species"]  # all 0 in rows without an environment
    length: Array
    species: tuple[int, ...] = eqx.field(static=True)
    crowd: int | None = eqx.field(static=True)

    def features(self, structure: Structure, images) -> Array:
        """Projected features (atoms, kept)."""
        radial, angular = self.environments(structure, self.species, images, self.crowd)
        return jnp.concatenate([radial, angular], 1) @ self.projection

    def covariances(self, features, numbers) -> tuple[Array, Array]:
        """With the inducing environments (atoms, rows), and of the structure with itself (a scalar)."""
        kinds = kinds_of(numbers, self.species, features.dtype)
        cross = self._covariance(features, self.inducing) * (kinds @ self.kinds.T)
        return cross, (self._covariance(features, features) * (kinds @ kinds.T)).sum()

    def _covariance(self, a, b) -> Array:
        d2 = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
        return jnp.exp(-d2 / (2 * self.length**2))


class LocalPosterior(StructurePosterior):
    """A fitted `LocalGaussianProcess`: energy = sum over atoms of prior, mean and covariances @ weights."""

    model: LocalModel
    weights: Float[Array, " rows"]
    whiten: Float[Array, "rows rows"]  # inverse Cholesky factor of the covariance of the inducing environments
    narrow: Float[Array, "rows rows"]  # and of the normal matrix in those units
    mean: Array  # per atom
    amplitude: Array
    fitted: int
    species: tuple[int, ...] = eqx.field(static=True)
    images: tuple[int, int, int] = eqx.field(static=True)

    @property
    def reach(self) -> float:
        return largest(self.model.environments.reach, self.model.prior.reach)

    def atomic_energies(self, structure: Structure, images) -> Array:
        cross, _ = self.model.covariances(self.model.features(structure, images), structure.numbers)
        each = self.model.prior.atomic_energies(structure, images) + cross @ self.weights
        return each + jnp.where(structure.mask, self.mean, 0)

    def mean_and_std(self, structure: Structure, images) -> tuple[Array, Array]:
        cross, own = self.model.covariances(self.model.features(structure, images), structure.numbers)
        total = cross.sum(0)
        mean = self.model.prior.atomic_energies(structure, images).sum() + total @ self.weights
        seen = self.whiten @ total
        # What no combination of inducing environments can tell, and what the data have not told.
        spread = jnp.maximum(own - seen @ seen, 0) + ((self.narrow @ seen) ** 2).sum()
        return mean + self.mean * structure.mask.sum(), jnp.sqrt(self.amplitude * spread)

    def unseen(self, count) -> Array:
        return self.mean * count


class Rows(NamedTuple):
    """Observations of structures, targets and noise (structures, ...), by design (structures, 1 + 3 told, inducing rows): of
    the energy, and of the forces on the atoms where they are told."""

    design: np.ndarray
    own: np.ndarray  # covariance of each structure with itself (structures,)
    target: np.ndarray
    noise: np.ndarray


class LocalGaussianProcess(Surrogate):
    """A sparse Gaussian process of atomic energies, fitted to energies and forces; cost linear in the number of structures.

    A. P. Bartók, M. C. Payne, R. Kondor and G. Csányi, Phys. Rev. Lett. 104, 136403 (2010),
    doi:10.1103/PhysRevLett.104.136403, with the sparse posterior of J. Quiñonero-Candela and C. E. Rasmussen, J. Mach. Learn.
    Res. 6, 1939 (2005). `inducing` environments of each species, the most different ones of the data; covariance
    amplitude x exp(-d^2 / 2 length^2) of their features, `length` in units of the typical distance between environments.
    Noise of energies (eV per sqrt(atom)) and forces (eV/Å), more for high energies and large forces: `energy_noise` (1 + E /
    10 eV) and `force_noise` (1 + F / 10 eV/Å). The amplitude is calibrated by leaving out each structure in turn.
    """

    environments: Environments = eqx.field(default_factory=Environments)
    inducing: int = eqx.field(static=True, default=150)
    kept: int = eqx.field(static=True, default=64)
    length: float = 3.0
    signal: float = 1.0  # eV per atom, against which noise is measured
    energy_noise: float = 0.005
    force_noise: float = 0.1
    radial_weight: float = 1.0
    window: float = 60.0
    highest_prior: float = 5.0
    most: int = eqx.field(static=True, default=500)
    energy_unit: float = 1.0

    def suited(self, system: System, energy_unit: float = 1.0) -> LocalGaussianProcess:
        """This with the lengths of a model system in units of its bond; the same for real species."""
        at = lambda g: (g.environments.unit, g.energy_unit)
        return eqx.tree_at(at, self, (unit_of(system), energy_unit))

    def fit(self, key, data: Dataset, previous: Posterior | None = None) -> LocalPosterior:
        numbers = np.asarray(data.numbers)
        species = tuple(int(z) for z in np.unique(numbers) if z >= 0)
        unit = float(self.environments.unit)
        prior = Repulsion.of(species, unit, float(self.energy_unit))
        valid = np.flatnonzero(np.asarray(data.valid))
        if len(valid) == 0:
            raise InputError("there is nothing to fit to: no row of the data is valid")
        x, cells = np.asarray(data.positions, float)[valid], np.asarray(data.cell, float)[valid]
        energy, forces = np.asarray(data.energy, float)[valid], np.asarray(data.forces, float)[valid]
        images = images_of(cells, data.pbc, max(self.environments.reach, prior.reach))
        crowd = crowd_of(x, cells, data.pbc, numbers, float(self.environments.angular_cutoff) * unit)
        with jax.enable_x64(True):
            environments, leaves = as_leaves((self.environments, prior), np.float64)
        scheme = (environments, leaves, species, images, crowd)
        repulsion, push, usable = pushed(scheme, x, numbers, cells, data.pbc)
        limit = self.highest_prior * self.energy_unit
        rows = chosen(energy, repulsion, usable, self.window * self.energy_unit, limit, self.most)
        if len(rows) == 0:
            raise InputError("there is nothing to fit to: no valid row has a finite energy")
        x, cells, energy, forces, repulsion, push = (a[rows] for a in (x, cells, energy, forces, repulsion, push))
        # Directions in the space of features change little from fit to fit, and what is projected on them need not be
        # computed again; the inducing environments must follow the newest structures.
        projection = self._kept(previous, species, images, crowd)
        if projection is None:
            radial, angular = looked(scheme, x, numbers, cells, data.pbc)
            projection = self._projection(radial, angular, numbers)
        told = np.flatnonzero(np.isfinite(forces).any((0, 2)))  # atoms on which a force is known
        features, slopes = projected(scheme, projection, x, numbers, cells, data.pbc, told)
        inducing, kinds = self._inducing(features, numbers, species)
        length = np.asarray(self.length * np.sqrt(2.0))
        model = LocalModel(environments, leaves, projection, inducing, kinds, length, species, crowd)
        design, own = _designed(model, features, slopes, numbers)
        atoms = int((numbers >= 0).sum())
        mean = float((energy - repulsion).mean()) / atoms
        known = forces[:, told]
        observed = self._observed(design, own, energy, repulsion + mean * atoms, known - push[:, told], known, atoms)
        covariance = _covariance(np.asarray(model.inducing), np.asarray(model.kinds), float(model.length))
        solution = solve(observed, covariance, float(self.signal * self.energy_unit))
        return LocalPosterior(
            model=model,
            weights=solution[0],
            whiten=solution[1],
            narrow=solution[2],
            mean=np.asarray(mean),
            amplitude=np.asarray(solution[3]),
            fitted=len(rows),
            species=species,
            images=images,
        )

    def _kept(self, previous: Posterior | None, species, images, crowd) -> np.ndarray | None:
        """The projection of a model of less data, if this one may have it too."""
        if not isinstance(previous, LocalPosterior) or previous.images != images:
            return None
        model = previous.model
        return np.asarray(model.projection) if (model.species, model.crowd) == (species, crowd) else None

    def _projection(self, radial, angular, numbers) -> np.ndarray:
        """The leading directions of features, both kinds scaled to the same spread."""
        real = numbers >= 0
        flat = [a[:, real].reshape(-1, a.shape[2]) for a in (radial, angular)]
        spread = [max(float(np.sqrt(((a - a.mean(0)) ** 2).sum(1).mean())), 1e-12) for a in flat]
        scale = np.concatenate(
            [np.full(radial.shape[2], self.radial_weight / spread[0]), np.full(angular.shape[2], 1 / spread[1])]
        )
        rows = np.concatenate(flat, 1) * scale
        away = rows - rows.mean(0)
        _, vectors = np.linalg.eigh(away.T @ away)
        return scale[:, None] * vectors[:, ::-1][:, : min(self.kept, vectors.shape[1])]

    def _inducing(self, features, numbers, species) -> tuple[np.ndarray, np.ndarray]:
        """Inducing environments (species x count, kept) and their kinds: the most different ones of each species."""
        real, kept = numbers >= 0, features.shape[-1]
        rows = features[:, real].reshape(-1, kept)
        of_atoms = np.tile(numbers[real], len(features))
        inducing = np.zeros((len(species), self.inducing, kept))
        kinds = np.zeros((len(species), self.inducing, len(species)))
        for k, z in enumerate(species):
            mine = rows[of_atoms == z]
            chosen_rows = mine[farthest(mine, self.inducing)]
            inducing[k, : len(chosen_rows)] = chosen_rows
            kinds[k, : len(chosen_rows), k] = 1
        return inducing.reshape(-1, kept), kinds.reshape(-1, len(species))

    def _observed(self, design, own, energy, offset, forces, raw, atoms) -> Rows:
        """Targets and noise of energies and force components; forces that are not known have infinite noise."""
        n = len(energy)
        unit = float(self.energy_unit)
        known = np.isfinite(forces)
        high = np.nan_to_num(np.abs(raw)).max((1, 2), initial=0) / unit
        above = (energy - energy.min()) / unit
        sigma_e = self.energy_noise * unit * np.sqrt(atoms) * (1 + above / 10)
        sigma_f = np.where(known, (self.force_noise * unit * (1 + high / 10))[:, None, None], np.inf)
        target = np.concatenate([(energy - offset)[:, None], np.where(known, forces, 0).reshape(n, -1)], 1)
        return Rows(design, own, target, np.concatenate([sigma_e[:, None], sigma_f.reshape(n, -1)], 1))


def farthest(rows, count: int) -> np.ndarray:
    """Indices of `count` rows chosen one after the other, each the farthest from those before; fewer where rows repeat."""
    if len(rows) == 0:
        return np.zeros(0, int)
    chosen_rows = [int(((rows - rows.mean(0)) ** 2).sum(1).argmin())]
    squares = (rows * rows).sum(1)
    nearest = np.full(len(rows), np.inf)
    while len(chosen_rows) < min(count, len(rows)):
        last = chosen_rows[-1]
        nearest = np.minimum(nearest, squares + squares[last] - 2 * rows @ rows[last])
        following = int(nearest.argmax())
        if nearest[following] < 1e-8:
            break
        chosen_rows.append(following)
    return np.array(chosen_rows)


def solve(rows: Rows, covariance, signal: float):
    """(weights, whiten, narrow, amplitude) of the sparse posterior; `covariance` is that of the inducing environments.

    In coordinates in which the prior is the unit matrix, the normal matrix is 1 + Z^T Z, well-conditioned by construction.
    The amplitude is `signal`^2 times the squared error of energies left out in units of their predicted variance, its median
    (over that of a normal distribution): outliers are no reason to doubt everything.
    """
    n, m = rows.design.shape[0], rows.design.shape[2]
    factor = cholesky(covariance + 1e-8 * np.eye(m), lower=True)
    whiten = solve_triangular(factor, np.eye(m), lower=True)
    scale = (signal / rows.noise)[..., None]
    z = (rows.design * scale).reshape(-1, m) @ whiten.T
    y = np.where(np.isfinite(rows.noise), rows.target / rows.noise, 0).reshape(-1)
    normal = cholesky(np.eye(m) + z.T @ z, lower=True)
    solution = cho_solve((normal, True), z.T @ y)
    narrow = solve_triangular(normal, np.eye(m), lower=True)
    weights = signal * (whiten.T @ solution)
    residual = (y - z @ solution).reshape(n, -1)
    hat = (z @ narrow.T).reshape(n, -1, m)
    seen = rows.design[:, 0] @ whiten.T
    unseen = np.maximum(rows.own - (seen * seen).sum(1), 0)
    ratios = []
    for r, h, sigma, gap in zip(residual, hat, rows.noise[:, 0] / signal, unseen, strict=True):
        left = np.linalg.inv(np.eye(len(r)) - h @ h.T + 1e-10 * np.eye(len(r)))
        # Residual left out, over the deviation that the others alone predict.
        ratios.append(sigma * (left @ r)[0] / np.sqrt(gap + sigma**2 * max(left[0, 0] - 1, 1e-12)))
    return weights, whiten, narrow, signal**2 * max(float(np.median(np.abs(ratios)) / 0.6745) ** 2, 1e-6)


def _covariance(inducing, kinds, length: float) -> np.ndarray:
    """Covariance of the inducing environments; empty rows are the unit matrix."""
    squares = (inducing * inducing).sum(1)
    d2 = np.maximum(squares[:, None] + squares - 2 * inducing @ inducing.T, 0)
    same = kinds @ kinds.T
    return np.where(same > 0, np.exp(-d2 / (2 * length**2)), 0) + np.diag(1 - kinds.sum(1))


def _designed(model: LocalModel, features, slopes, numbers):
    """What inducing environments add to energy and forces (structures, 1 + 3 told, rows); own covariances (structures,)."""
    parts = []
    with jax.enable_x64(True):
        model = as_leaves(model, np.float64)
        for at in range(0, len(features), DESIGNED):
            these, those = features[at : at + DESIGNED], slopes[at : at + DESIGNED]
            fill = DESIGNED - len(these)
            grow = lambda a, fill=fill: np.concatenate([a, np.repeat(a[:1], fill, 0)]) if fill else a
            made = _design_block(model, grow(these), grow(those), numbers)
            parts.append([np.asarray(a)[: len(these)] for a in made])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


@eqx.filter_jit
def _design_block(model: LocalModel, features, slopes, numbers):
    def one(own, slope):
        cross, total = model.covariances(own, numbers)
        # d/dx exp(-|f - m|^2 / 2 l^2) = exp(..) (m - f) df/dx / l^2
        toward = slope @ model.inducing.T.astype(slope.dtype) - (slope * own).sum(-1, keepdims=True)  # (3 told, atoms, rows)
        forces = -(toward * (cross / model.length**2)).sum(1)
        return jnp.concatenate([cross.sum(0)[None], forces]), total

    return jax.vmap(one)(features, slopes)
