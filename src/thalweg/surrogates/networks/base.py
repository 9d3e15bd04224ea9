"""What a network of energies is: positions in, one number per structure out."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.typing import Array


@dataclass(frozen=True)
class Subject:
    """What a network is made for: so many atoms of these atomic numbers (0 is a model particle), in a plane or in space.

    `box` is the edge of the box [0, box]^dimensions that all atoms are in, None where there is none; `length` a typical
    distance between neighbours. With `offset` the target of learning is log(energy + offset), else the energy itself.
    """

    atoms: int
    species: tuple[int, ...] = (0,)
    dimensions: int = 3
    box: float | None = None
    length: float = 1.0
    offset: float | None = None

    def target(self, energy) -> np.ndarray:
        """What is learned, of energies (rows,); raises `InputError` where the logarithm has no argument."""
        energy = np.asarray(energy, np.float64)
        if self.offset is None:
            return energy
        low = np.flatnonzero(~(energy > -self.offset))
        if len(low):
            value, where = energy[low[0]], low[0]
            raise InputError(
                f"the energy {value:g} of structure {where} has no log(V + {self.offset:g}); use a larger offset, or none"
            )
        return np.log(energy + self.offset)

    def target_forces(self, energy, forces) -> np.ndarray:
        """Minus the derivative of the target, from energies (rows,) and forces (rows, atoms, 3); NaN stays NaN."""
        if self.offset is None:
            return np.asarray(forces)
        return np.asarray(forces) / (np.asarray(energy) + self.offset)[:, None, None]

    def energy(self, target):
        """The energy of a target (rows,); the inverse of `target`."""
        if self.offset is None:
            return target
        exp = np.exp if isinstance(target, np.ndarray) else jnp.exp
        return exp(target) - self.offset


#: What `shift` and `scale` are before a network has seen targets.
ZERO, ONE = np.zeros((), np.float32), np.ones((), np.float32)


class EnergyNetwork(eqx.Module):
    """A network of the target of learning (`Subject.target`): `shift` + `scale` * `outputs`.

    All arrays are float32 and all of them are leaves, so that `thalweg.networks.weights.named` writes the whole network.
    `shift` and `scale`, the mean and the spread of the targets, are set before training and are not trained. A subclass is
    final; its class method `random(rng, subject, ...)` makes an untrained one, all sizes with defaults.
    """

    kind: ClassVar[str]
    #: True where the form of the energy (a sum over pairs) is built in: such a network is no fair rival.
    told: ClassVar[bool] = False
    #: Names of what is done to structures in training, where the network lacks a symmetry (`augment`).
    augmentations: ClassVar[tuple[str, ...]] = ()

    shift: eqx.AbstractVar[Array]
    scale: eqx.AbstractVar[Array]
    subject: eqx.AbstractVar[Subject]

    @classmethod
    @abc.abstractmethod
    def random(cls, rng: np.random.Generator, subject: Subject, width: int = 32, layers: int = 2) -> EnergyNetwork:
        """An untrained network for a subject; subclasses have more sizes and choices, all with defaults."""

    @abc.abstractmethod
    def outputs(self, positions, numbers) -> Array:
        """Outputs (batch,) of order one for structures (batch, atoms, 3) of one composition (atoms,); -1 is padding."""

    def energies(self, positions, numbers) -> Array:
        """Targets (batch,) of structures (batch, atoms, 3), or () of a single one (atoms, 3)."""
        positions = jnp.asarray(positions)
        many = positions if positions.ndim == 3 else positions[None]
        out = self.shift + self.scale * self.outputs(many, numbers)
        return out if positions.ndim == 3 else out[0]

    def scaled(self, target) -> EnergyNetwork:
        """The same network with `shift` and `scale` of these targets (rows,)."""
        target = np.asarray(target, np.float64)
        values = np.array(target.mean(), np.float32), np.array(max(float(target.std()), 1e-6), np.float32)
        return eqx.tree_at(lambda n: (n.shift, n.scale), self, values)

    def for_training(self, positions, numbers) -> EnergyNetwork:
        """The same network in the form that is fastest on these structures (rows, atoms, 3); its arrays are the same."""
        return self

    def for_use(self) -> EnergyNetwork:
        """The same network in the form that is right for any structure."""
        return self

    def trainable(self) -> EnergyNetwork:
        """The same tree with True in place of every array that training may change, and False in place of the others."""
        every = jax.tree.map(eqx.is_inexact_array, self)
        return eqx.tree_at(lambda n: (n.shift, n.scale), every, (False, False))

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.size(a)) for a in jax.tree.leaves(eqx.filter(self, self.trainable())))
