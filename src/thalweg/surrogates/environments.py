"""Descriptors of single atoms: which neighbours at which distances, and in which directions relative to each other."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import legendre

from thalweg.structure import Structure
from thalweg.surrogates.surroundings import largest, smooth_step, surroundings
from thalweg.typing import Array


class Environments(eqx.Module):
    """Radial densities of each species around an atom, and the power spectrum of those densities.

    The power spectrum is that of A. P. Bartók, R. Kondor and G. Csányi, Phys. Rev. B 87, 184115 (2013),
    doi:10.1103/PhysRevB.87.184115: sums of P_l(cos angle) over pairs of neighbours, weighted by radial functions of both; here
    by moments of the directions (the power sums of the scalar product are sums over monomials), so that no spherical
    harmonic is needed and the cost grows as the number of neighbours. `radial` Gaussians up to `cutoff` and, for angles,
    `channels` up to `angular_cutoff`, `degree` the highest l. Lengths in Å x `unit`. The two parts are scaled to
    the same spread elsewhere (`LocalGaussianProcess`); everything is invariant and smooth at the cutoffs.
    """

    cutoff: float = 5.0
    angular_cutoff: float = 3.2
    unit: float = 1.0
    radial: int = eqx.field(static=True, default=20)
    channels: int = eqx.field(static=True, default=4)
    degree: int = eqx.field(static=True, default=5)

    @property
    def reach(self) -> float:
        """Distance up to which atoms are seen; on the host."""
        return largest(largest(self.cutoff, self.angular_cutoff) * self.unit)

    def __call__(self, structure: Structure, species: tuple[int, ...], images=(0, 0, 0), crowd=None) -> tuple[Array, Array]:
        """Radial (atoms, a) and angular (atoms, b) features of a single structure."""
        near = surroundings(structure, species, jnp.maximum(self.cutoff, self.angular_cutoff) * self.unit, images)
        near = near._replace(distances=near.distances / self.unit)
        n = near.kinds.shape[0]
        shells = self._shells(near.distances, self.cutoff, self.radial)
        radial = jnp.einsum("ijr,ijs->isr", shells, near.kinds).reshape(n, -1)
        close = near.nearer(self.angular_cutoff, crowd)
        shells = self._shells(close.distances, self.angular_cutoff, self.channels)
        density = (shells[..., None, :] * close.kinds[..., None]).reshape(n, shells.shape[1], -1)
        return radial, self._power(density, close.directions)

    def _shells(self, r, cutoff, count: int) -> Array:
        """Gaussians (atoms, near, count) that overlap, from .7 Å to the cutoff, times a smooth end; less weight far off."""
        centres = 0.7 + (cutoff - 0.7) * (jnp.arange(count) + 0.3) / count
        width = 0.7 * (cutoff - 0.7) / count
        fall = smooth_step(r, cutoff, 0.6 * cutoff) / jnp.maximum(r, 0.5)
        return jnp.exp(-(((r[..., None] - centres) / width) ** 2) / 2) * fall[..., None]

    def _power(self, density, directions) -> Array:
        """Sums of sqrt(2 l + 1) P_l over pairs of neighbours (themselves included), for all pairs of densities."""
        n, _, many = density.shape
        sums = []
        for values, multiplicity in monomials(directions, self.degree):
            moments = jnp.einsum("ijc,ijm->icm", density, values)
            sums.append(jnp.einsum("icm,idm->icd", moments * multiplicity.astype(density.dtype), moments))
        mix = np.zeros((self.degree + 1, self.degree + 1))
        for degree in range(self.degree + 1):
            row = legendre.leg2poly([0] * degree + [1])
            mix[degree, : len(row)] = math.sqrt(2 * degree + 1) * row
        return jnp.einsum("lk,kip->ilp", mix.astype(density.dtype), jnp.stack(sums).reshape(-1, n, many * many)).reshape(n, -1)


def monomials(directions, degree: int):
    """For each degree up to `degree`: the monomials (..., count) in x, y, z of directions (..., 3), and their multiplicities.

    (u v)^k is the sum over monomials of degree k of multiplicity x monomial(u) x monomial(v). Those without x come last, and
    z^k at the very end, so that the next degree is made of slices.
    """
    x, y, z = (directions[..., k : k + 1] for k in range(3))
    values, powers = jnp.ones_like(x), np.zeros((1, 3), int)
    yield values, np.ones(1)
    for k in range(1, degree + 1):
        values = jnp.concatenate([x * values, y * values[..., -k:], z * values[..., -1:]], -1)
        one = np.eye(3, dtype=int)
        powers = np.concatenate([powers + one[0], powers[-k:] + one[1], powers[-1:] + one[2]])
        yield values, np.array([math.factorial(k) / math.prod(math.factorial(p) for p in row) for row in powers])
