"""What a builder's energies and forces are compared by, in imitation and in reinforcement."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.builder import BuilderNetwork
from thalweg.typing import Array

#: Errors (eV per atom, eV/Å) up to which the loss is one of squares.
ENERGY_KNEE, FORCE_KNEE = 0.01, 0.1


class Labelled(NamedTuple):
    """Molecules as a step reads them: positions (batch, atoms, 3) Å, kinds (batch, atoms), energies (batch,) eV above the
    references of a network, forces (batch, atoms, 3) eV/Å; float32."""

    positions: np.ndarray
    kinds: np.ndarray
    energies: np.ndarray
    forces: np.ndarray

    @classmethod
    def of(cls, network: BuilderNetwork, positions, kinds, energies, forces) -> Labelled:
        """From total energies: the difference is taken in float64, as they have few digits left in float32."""
        counts = np.stack([(kinds == k).sum(-1) for k in range(len(network.species))], -1)
        left = np.asarray(energies, np.float64) - counts @ np.asarray(network.reference, np.float64)
        single = lambda a: np.asarray(a, np.float32)
        return cls(single(positions), np.asarray(kinds, np.int32), single(left), single(forces))


def residual_energies_and_slopes(network: BuilderNetwork, labelled: Labelled):
    """Energies (batch,) above the references and their slopes (batch, atoms, 3): the forces, negative."""
    energies, back = jax.vjp(lambda x: network.residuals(x, labelled.kinds), labelled.positions)
    (slopes,) = back(jnp.ones_like(energies))
    return energies, slopes


def energy_loss(energies, labelled: Labelled, offset: Array | float = 0.0):
    """Mean loss of energies (batch,) per atom that may all be wrong by an `offset` (eV)."""
    atoms = jnp.maximum((labelled.kinds >= 0).sum(1), 1)
    return huber((energies - labelled.energies - offset) / atoms, ENERGY_KNEE).mean()


def force_loss(slopes, labelled: Labelled):
    """Mean loss of the components of forces."""
    there = (labelled.kinds >= 0)[..., None]
    return jnp.where(there, huber(slopes + labelled.forces, FORCE_KNEE), 0).sum() / jnp.maximum(3 * there.sum(), 1)


def huber(error, knee: float):
    """Squares of small errors, absolute values of large ones; its slope is one for these."""
    size = jnp.abs(error)
    return jnp.where(size < knee, error**2 / (2 * knee), size - knee / 2)
