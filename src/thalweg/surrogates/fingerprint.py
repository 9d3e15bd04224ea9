"""A fingerprint of a whole structure: how many pairs at which distance, how many triples at which angle.

A. R. Oganov and M. Valle, J. Chem. Phys. 130, 104504 (2009), doi:10.1063/1.3079326; with angles and as a surrogate's
descriptor: M. K. Bisbo and B. Hammer, Phys. Rev. Lett. 124, 086102 (2020), doi:10.1103/PhysRevLett.124.086102.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.structure import Structure
from thalweg.surrogates.surroundings import Surroundings, largest, smooth_step, surroundings
from thalweg.typing import Array


class Fingerprint(eqx.Module):
    """Gaussian-smeared histograms of distances for all pairs of species, and of angles for all triples.

    Distances: weights 1/r^2 (r in units of `unit`) up to 6 Å, smooth to zero over the last 1 Å, smeared by `width` and
    sampled at `bins` centres. Angles: weights f(r_ij) f(r_ik), f(r) = 1 + gamma (r/c)^(gamma+1) - (gamma+1) (r/c)^gamma up to
    c = 4 Å, smeared by `angle_width`. The smeared histogram of angles (folded at 0 and pi) is a cosine series whose n-th
    coefficient is exp(-angle_width^2 n^2 / 2) sum w cos(n theta): its `terms` coefficients stand for the bins, scaled so that
    distances between fingerprints are those of `bins` literal bins, and cos(n theta) comes by recurrence from the scalar
    product, without an arc cosine. `eta` is the weight of the angular part.

    Lengths are in Å where `unit` is 1; in another unit of length they scale with it. Invariant to rotation, translation,
    mirrors and exchange of equal atoms; smooth where neighbours come and go.
    """

    radial_cutoff: float = 6.0
    angular_cutoff: float = 4.0
    width: float = 0.2
    angle_width: float = 0.2
    gamma: float = 2.0
    eta: float = 1.0
    unit: float = 1.0
    bins: int = eqx.field(static=True, default=30)
    terms: int = eqx.field(static=True, default=16)

    @property
    def reach(self) -> float:
        """Distance up to which atoms are seen; on the host."""
        return largest(largest(self.radial_cutoff, self.angular_cutoff) * self.unit)

    def __call__(self, structure: Structure, species: tuple[int, ...], images=(0, 0, 0), crowd: int | None = None) -> Array:
        """The fingerprint (features,) of a single structure with atoms of these `species`.

        `images` are summed to each side; `crowd` neighbours of each atom, the nearest, make angles (None: all).
        """
        near = surroundings(structure, species, jnp.maximum(self.radial_cutoff, self.angular_cutoff) * self.unit, images)
        near = near._replace(distances=near.distances / self.unit)
        return jnp.concatenate([self.radial(near), self.angular(near.nearer(self.angular_cutoff, crowd))])

    def radial(self, near: Surroundings) -> Array:
        """Histograms of distances, for all pairs of species one after the other."""
        r = near.distances
        step = self.radial_cutoff / self.bins
        centres = (jnp.arange(self.bins) + 0.5) * step
        weight = smooth_step(r, self.radial_cutoff, 1.0) / (r * r)
        bumps = jnp.exp(-(((r[..., None] - centres) / self.width) ** 2) / 2)
        # Each pair of different species once; those of one species twice, and halved.
        n = near.centres.shape[1]
        rows = [
            (near.centres[:, a, None] * near.kinds[..., b] * weight * (0.5 if a == b else 1.0)).reshape(-1)
            for a in range(n)
            for b in range(a, n)
        ]
        return (jnp.stack(rows) @ bumps.reshape(-1, self.bins)).reshape(-1)

    def angular(self, near: Surroundings) -> Array:
        """Cosine series of the histograms of angles, for all species of the centre and pairs of the others."""
        t = near.distances / self.angular_cutoff
        fall = jnp.maximum(1 + self.gamma * t ** (self.gamma + 1) - (self.gamma + 1) * t**self.gamma, 0)
        weighted = near.kinds * fall[..., None]  # (atoms, near, species)
        cosine = jnp.einsum("ijx,ikx->ijk", near.directions, near.directions)
        terms = jnp.stack(chebyshev(cosine, self.terms), 1)  # (atoms, terms, near, near)
        sums = jnp.einsum("itjk,ikc->itjc", terms, weighted)
        sums = jnp.einsum("itjc,ijb->itbc", sums, weighted)
        # Each atom met itself as the other neighbour, at the angle 0.
        own = (weighted * fall[..., None]).sum(1)
        n = near.centres.shape[1]
        sums = sums - (jnp.eye(n) * own[:, :, None])[:, None]
        of_species = jnp.einsum("itbc,ia->abct", sums, near.centres)
        half, other = np.triu_indices(n)
        pairs = of_species[:, half, other] * np.where(half == other, 0.5, 1.0)[None, :, None].astype(sums.dtype)
        return (pairs * self.series().astype(sums.dtype)).reshape(-1)

    def series(self) -> Array:
        """Scale (terms,) of the cosine terms, by which distances are those of literal bins (Parseval)."""
        n = np.arange(self.terms)
        scale = np.where(n == 0, np.sqrt(2), 2.0) * np.sqrt(self.bins / np.pi)
        return self.eta * scale * self.angle_width * jnp.exp(-((self.angle_width * n) ** 2) / 2)


def chebyshev(cosine, terms: int) -> list:
    """cos(n theta) for n = 0 .. terms - 1 from cos(theta)."""
    rows = [jnp.ones_like(cosine), cosine]
    while len(rows) < terms:
        rows.append(2 * cosine * rows[-1] - rows[-2])
    return rows[:terms]
