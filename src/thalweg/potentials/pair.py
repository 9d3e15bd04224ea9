"""Pair potentials of clusters: Lennard-Jones, Morse, soft sphere, and any pair function a user writes."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.potentials.rows import sum_rows


class PairPotential(Potential):
    """Sum over pairs of one function of the squared distance, the same for all species.

    Subclasses write `pair(r2)`; `pair_and_slope` may be overridden only by writing it instead (see `LennardJones`):
    the default differentiates `pair` in forward mode inside the loop, at about a third more cost than by hand.
    """

    @abc.abstractmethod
    def pair(self, r2):
        """Energy of a pair at squared distance `r2`, element by element."""

    def pair_and_slope(self, r2):
        """The pair energy and its derivative with respect to the squared distance."""
        return jax.jvp(self.pair, (r2,), (jnp.ones_like(r2),))

    def lanes(self, positions, numbers, cell=None) -> Evaluation:
        zero = jnp.zeros((positions.shape[0], *positions.shape[2:]), positions.dtype)

        def row(i, r2, d, _, carry):
            energy, fx, fy, fz = carry
            value, slope = self.pair_and_slope(r2)
            g = -2 * slope
            return energy + value / 2, fx + g * d[0], fy + g * d[1], fz + g * d[2]

        atomic, fx, fy, fz = sum_rows(row, positions, numbers, (zero, zero, zero, zero))
        # Padding slots collected the far-away value of rows that exist; they hold no atom and no energy.
        real = numbers >= 0
        atomic = jnp.where(real, atomic, 0)
        forces = jnp.where(real[:, None], jnp.stack([fx, fy, fz], axis=1), 0)
        return finish(atomic.sum(0), forces, atomic)


class LennardJones(PairPotential):
    """4 epsilon [(sigma/r)^12 - (sigma/r)^6], each pair once, no cutoff; reduced units, or eV and Å as given.

    With epsilon = sigma = 1 the pair minimum is -1 at 2^(1/6) and energies are those of the Cambridge Cluster Database.
    """

    epsilon: float = 1.0
    sigma: float = 1.0

    def pair(self, r2):
        return self.pair_and_slope(r2)[0]

    def pair_and_slope(self, r2):
        inverse = self.sigma**2 / r2
        s6 = inverse * inverse * inverse
        # d/d(r2) of s6 is -3 s6 / r2.
        return 4 * self.epsilon * s6 * (s6 - 1), -12 * self.epsilon / self.sigma**2 * s6 * (2 * s6 - 1) * inverse

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), 2 ** (1 / 6) * float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


class Morse(PairPotential):
    """epsilon [exp(-2 rho (r/r0 - 1)) - 2 exp(-rho (r/r0 - 1))], no cutoff; well depth epsilon at r0.

    `rho` is the range parameter of Doye and Wales, J. Chem. Soc., Faraday Trans. 93, 4233 (1997),
    doi:10.1039/a706221d: 3, 6, 10 and 14 go from long- to short-ranged.
    """

    rho: float = 6.0
    epsilon: float = 1.0
    r0: float = 1.0

    def pair(self, r2):
        return self.pair_and_slope(r2)[0]

    def pair_and_slope(self, r2):
        r = jnp.sqrt(r2)
        decay = jnp.exp(-self.rho * (r / self.r0 - 1))
        value = self.epsilon * decay * (decay - 2)
        return value, -self.epsilon * self.rho / self.r0 * decay * (decay - 1) / r

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), float(self.r0))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


class SoftSphere(PairPotential):
    """epsilon/alpha (1 - r/sigma)^alpha below `sigma`, zero beyond: pushes overlapping atoms apart.

    Used to prepare starts (jax-md's `soft_sphere`; Learn2Hop's harmonic initialisation is alpha = 2).
    """

    sigma: float = 1.0
    epsilon: float = 1.0
    alpha: float = 2.0

    def pair(self, r2):
        r = jnp.sqrt(jnp.maximum(r2, 1e-12))
        gap = jnp.maximum(1 - r / self.sigma, 0)
        return self.epsilon / self.alpha * gap**self.alpha

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)
