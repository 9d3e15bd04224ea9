"""What a builder thinks of energies, as a potential: molecules are relaxed in it before they are evaluated."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from thalweg.networks.builder import BuilderNetwork
from thalweg.potentials.base import Evaluation, Potential, finish


class BuilderEnergy(Potential):
    """Energies (eV) of free molecules by a network, in float32; atoms of elements that it does not know count as nothing."""

    network: BuilderNetwork

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        shape, dtype = positions.shape, positions.dtype
        x = jnp.moveaxis(positions.reshape(*shape[:2], -1), -1, 0).astype(jnp.float32)
        species = jnp.broadcast_to(numbers, (numbers.shape[0], *shape[2:])).reshape(numbers.shape[0], -1).T
        kinds = jnp.full(species.shape, -1, jnp.int32)
        for k, z in enumerate(self.network.species):
            kinds = jnp.where(species == z, k, kinds)

        def total(x):
            each = self.network.atomic_residuals(x, kinds)
            return each.sum(-1), each

        energy, back, each = jax.vjp(total, x, has_aux=True)
        (slope,) = back(jnp.ones_like(energy))
        reference = jnp.where(kinds >= 0, jnp.asarray(self.network.reference)[kinds], 0).astype(dtype)
        # In the precision that was asked for: total energies have few digits left in float32.
        energy = energy.astype(dtype) + reference.sum(-1)
        each = jnp.moveaxis(each.astype(dtype) + reference, 0, -1).reshape(numbers.shape[0], *shape[2:])
        forces = -jnp.moveaxis(slope.astype(dtype), 0, -1).reshape(shape)
        return finish(energy.reshape(shape[2:]), forces, each)
