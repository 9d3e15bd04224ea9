"""What a surrogate is: a model that is fitted to evaluated structures, and the `Posterior` it becomes, which is a Potential."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp

from thalweg.potentials.base import Potential
from thalweg.system import System
from thalweg.typing import Array, Bool, Float, Int


class Dataset(eqx.Module):
    """Evaluated structures of one composition, padded to few sizes: rows with `valid` False hold nothing.

    Energies in eV (or the potential's unit), forces in eV/Å, NaN where they are unknown.
    """

    positions: Float[Array, "rows atoms 3"]
    cell: Float[Array, "rows 3 3"]
    energy: Float[Array, " rows"]
    forces: Float[Array, "rows atoms 3"]
    valid: Bool[Array, " rows"]
    numbers: Int[Array, " atoms"]
    pbc: tuple[bool, bool, bool] = eqx.field(static=True, default=(False, False, False))


class Posterior(Potential):
    """A fitted surrogate. As a potential its energy is the mean, so that every relaxer and filter works on it."""

    @abc.abstractmethod
    def mean_std(self, positions, numbers, space=None) -> tuple[Array, Array]:
        """Mean and standard deviation of the energy, both (*lanes), lanes last as in `Potential.lanes`."""

    def unseen(self, count) -> Array:
        """What to add to the mean for `count` atoms (*lanes) of the composition with padding in their place.

        By default nothing: a model of whole structures has one mean, however many atoms it is shown.
        """
        return jnp.zeros(jnp.shape(count))


class Surrogate(eqx.Module):
    """How a model is fitted: hyper-parameters alone, nothing is mutated."""

    @abc.abstractmethod
    def fit(self, key, data: Dataset, previous: Posterior | None = None) -> Posterior:
        """The posterior of this data; `previous` is one of less data, whose hyper-parameters may be kept or improved.

        Datasets that share their padded shapes share one compilation.
        """

    def suited(self, system: System, energy_unit: float = 1.0) -> Surrogate:
        """This with lengths and energies in the units of a system: of a model system its bond and `energy_unit`."""
        return self
