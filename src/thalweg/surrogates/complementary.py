"""Complementary energy: a landscape whose minima are structures in which every atom lives as one of a few role models.

A. M. Slavensky, M.-P. V. Christiansen and B. Hammer, J. Chem. Phys. 159, 024123 (2023), doi:10.1063/5.0156218. It is no model
of the energy: nothing is fitted. What it needs is one structure, from which the role models are taken.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.geometry import traced_space
from thalweg.potentials.base import EnergyPotential
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.typing import Array

#: Below this, a distance between features is rounded to a parabola: the landscape is smooth at its minima.
ROUND = 1e-3


class Species(eqx.Module):
    """Which atoms count in which column of the features: atomic numbers (columns,) and weights (columns,)."""

    numbers: Array
    weights: Array

    @classmethod
    def of(cls, numbers) -> Species:
        """Of a composition that may be traced: a column for every atom, equal for atoms of a species, padding without any.

        Their weights are such that distances between features count every species once.
        """
        numbers = jnp.asarray(numbers)
        count = (numbers[:, None] == numbers[None]).sum(1)
        return cls(numbers, jnp.where(numbers >= 0, 1 / jnp.sqrt(count), 0))

    def kinds(self, numbers, dtype) -> Array:
        """Rows (atoms, columns): the weight of the column for atoms of its species, else 0."""
        return ((jnp.asarray(numbers)[:, None] == self.numbers) * self.weights).astype(dtype)


class Density(eqx.Module):
    """How crowded the place of an atom is, species by species: features rho_Z = sum exp(-r / decay) g(r).

    The sum goes over atoms of species Z and their images, g falls as a cosine to 0 at `cutoff`. Lengths in Å; where all
    atoms are model particles, in the mean bond length. At most `images` images to each side are summed; in cells too small
    for that the cutoff is shorter, so that the sum has all its terms.
    """

    decay: float = 1.0
    cutoff: float = 11.9
    images: int = eqx.field(static=True, default=1)

    def __call__(self, structure: Structure, species: Species, unit: Array | float = 1.0) -> Array:
        """Features (atoms, columns) of one structure; `unit` is the length that `decay` and `cutoff` are in."""
        x, mask = jnp.asarray(structure.positions), structure.mask
        d = x[:, None] - x[None]
        far = jnp.asarray(self.cutoff, x.dtype) * unit
        space = traced_space(structure.cell, structure.pbc)
        shifts = np.zeros((1, 3))
        if space is not None:
            images = tuple(self.images if p else 0 for p in structure.pbc)
            space = Space(space.cell, space.pbc, False, images)  # type: ignore[arg-type]
            d = jnp.stack(space.minimum_image(d[..., 0], d[..., 1], d[..., 2]), -1)
            shifts = space.shifts(x.dtype) @ space.cell
            heights = jnp.stack([h for h, p in zip(space.heights, structure.pbc, strict=True) if p])
            far = jnp.minimum(far, (self.images + 0.5) * heights.min())
        d = d[:, :, None] + jnp.asarray(shifts, x.dtype)
        r2 = (d * d).sum(-1)
        itself = jnp.eye(len(x), dtype=bool)[:, :, None] & (jnp.arange(len(shifts)) == 0)
        near = ~itself & mask[:, None, None] & mask[None, :, None] & (r2 < far * far)
        r = jnp.sqrt(jnp.where(near, r2, 1.0))
        weight = jnp.where(near, jnp.exp(-r / (self.decay * unit)) * (1 + jnp.cos(jnp.pi * r / far)) / 2, 0)
        return weight.sum(-1) @ species.kinds(structure.numbers, x.dtype)


class RoleModels(eqx.Module):
    """Features (models, species) of exemplary atoms and their atomic numbers (models,), -1 in slots without one."""

    features: Array
    numbers: Array


def choose(key, features, numbers, eligible, count, slots: int, apart: float = 0.01) -> RoleModels:
    """Up to `count` role models in `slots` places from the atoms of one structure, in random order, at least `apart`."""
    order = jnp.argsort(jnp.where(eligible, jr.uniform(key, eligible.shape), 2.0))
    chosen = RoleModels(jnp.zeros((slots, features.shape[1]), features.dtype), jnp.full(slots, -1, jnp.int32))

    def consider(k, carry):
        chosen, taken = carry
        atom = order[k]
        near = jnp.sqrt(((chosen.features - features[atom]) ** 2).sum(1)) < apart
        new = eligible[atom] & (taken < count) & ~(near & (chosen.numbers == numbers[atom])).any()
        at = jnp.where(new, taken, slots)  # out of range is dropped
        put = lambda ring, value: ring.at[at].set(value.astype(ring.dtype), mode="drop")
        return RoleModels(put(chosen.features, features[atom]), put(chosen.numbers, numbers[atom])), taken + new

    numbers, eligible = jnp.asarray(numbers), jnp.asarray(eligible)
    chosen = lax.fori_loop(0, len(numbers), consider, (chosen, jnp.zeros((), jnp.int32)))[0]
    return chosen


def assign(features, numbers, models: RoleModels) -> Array:
    """Which role model (atoms,) each atom is nearest to, one of its own species where there is any."""
    d2 = ((features[:, None] - models.features[None]) ** 2).sum(-1)
    own = models.numbers[None] == jnp.asarray(numbers)[:, None]
    there = (models.numbers >= 0)[None]
    allowed = jnp.where(own.any(1, keepdims=True), own, there)
    return jnp.argmin(jnp.where(allowed, d2, jnp.inf), 1)


def distances(features, assigned, models: RoleModels) -> Array:
    """Distance (atoms,) of each atom's features to its role model."""
    d2 = ((features - models.features[assigned]) ** 2).sum(-1)
    return jnp.sqrt(d2 + ROUND**2) - ROUND


class ComplementaryLandscape(EnergyPotential):
    """The sum over atoms of the distance to the nearest role model, as a potential.

    `assigned` (atoms,) freezes which atom follows which model, as is done during one relaxation; None takes the nearest
    everywhere, and the landscape then has ridges.
    """

    models: RoleModels
    species: Species
    density: Density = Density()
    assigned: Array | None = None
    unit: float = 1.0

    @property
    def reach(self) -> float:
        """Distance up to which atoms are seen; on the host."""
        return float(self.density.cutoff) * float(self.unit)

    def atomic_energies(self, structure: Structure) -> Array:
        features = self.density(structure, self.species, self.unit)
        assigned = assign(features, structure.numbers, self.models) if self.assigned is None else self.assigned
        return jnp.where(structure.mask, distances(features, assigned, self.models), 0)
