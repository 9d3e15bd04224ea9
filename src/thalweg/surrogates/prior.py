"""What a model believes before it has seen anything: atoms repel at short distances."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from thalweg.structure import Structure
from thalweg.surrogates.surroundings import covalent_radii, kinds_of, largest, surroundings
from thalweg.typing import Array


class Repulsion(eqx.Module):
    """Sum over pairs of strength (factor (R_i + R_j) / r)^12, R the covalent radii.

    As in GOFEE (M. K. Bisbo and B. Hammer, doi:10.1103/PhysRevLett.124.086102). With the factor .7 it is negligible at bond
    lengths, and it keeps a model with few data from finding its minimum where atoms coincide. Smoothly 0 from `cutoff` (in
    sums of radii) on.
    """

    radii: Array
    strength: float = 1.0
    factor: float = 0.7
    cutoff: float = 2.0
    species: tuple[int, ...] = eqx.field(static=True, default=())

    @classmethod
    def of(cls, species: tuple[int, ...], unit: float = 1.0, strength: float = 1.0) -> Repulsion:
        """Of these atomic numbers; `unit` is one Å in the system's unit of length."""
        return cls(covalent_radii(species, unit), strength, species=species)

    @property
    def reach(self) -> float:
        """Distance beyond which nothing repels; on the host."""
        return largest(2 * self.cutoff * largest(self.radii))

    def atomic_energies(self, structure: Structure, images=(0, 0, 0)) -> Array:
        """Half of each pair's energy (atoms,) for a single structure."""
        radii = jnp.asarray(self.radii, structure.positions.dtype)
        near = surroundings(structure, self.species, 2 * self.cutoff * radii.max(), images)
        own = kinds_of(structure.numbers, self.species, radii.dtype) @ radii
        contact = own[:, None] + near.kinds @ radii
        ratio = contact / near.distances
        # (1 - (ratio cutoff)^-2)^3 takes the sum to zero smoothly; it is 1 - 1e-1 where the sum is 1e-5.
        fade = jnp.maximum(1 - 1 / jnp.maximum(ratio * self.cutoff, 1e-6) ** 2, 0) ** 3
        each = jnp.where(near.kinds.any(-1), self.strength * (self.factor * ratio) ** 12 * fade, 0)
        return each.sum(1) / 2
