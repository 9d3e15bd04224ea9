"""What a potential is: energy and forces of many structures at once.

Inside hot loops arrays carry the batch on their *last* axis ("lanes last"): positions are (atoms, 3, *lanes), energies
(*lanes). On a CPU the innermost axis is what vector instructions run over, and values per lane broadcast without
reshaping. `Potential.evaluate` is the same with batch axes in front, for everyone else.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.structure import Structure
from thalweg.typing import Array, Bool, Float


class Evaluation(eqx.Module):
    """Energy, forces and per-atom energies; `ok` is False where the energy or a force is not finite."""

    energy: Float[Array, "*lanes"]
    forces: Float[Array, "..."]
    atomic_energies: Float[Array, "..."]
    ok: Bool[Array, "*lanes"]


class Potential(eqx.Module):
    """Energy model of atoms. Subclasses write `lanes` (fast) or derive from `EnergyPotential` (easy)."""

    #: True when `lanes` can be traced by JAX (and so be fused with searches on the device).
    traceable: ClassVar[bool] = True

    @abc.abstractmethod
    def lanes(self, positions, numbers, cell=None) -> Evaluation:
        """Evaluate structures with lanes last.

        `positions` (atoms, 3, *lanes); `numbers` (atoms, *lanes) or with lanes of 1; energies come in (*lanes),
        forces in the shape of positions, per-atom energies in (atoms, *lanes). Slots with `numbers` -1 hold no atom.
        """

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray | None:
        """Typical nearest-neighbour distance of each atom (atoms,), or None to take covalent radii."""
        return None

    def energy_scale(self, numbers: np.ndarray) -> float | None:
        """Energy of one bond, the unit of search temperatures; None where it has to be measured."""
        return None

    def check(self, numbers: np.ndarray) -> None:
        """Raise `InputError` if a species cannot be treated. By default everything can."""

    def evaluate(self, structures: Structure) -> Evaluation:
        """Evaluate one structure or a batch: energy (*batch), forces (*batch, atoms, 3), atomic (*batch, atoms)."""
        n = len(structures.batch)
        last = tuple(range(-n, 0))
        to_last = lambda x: jnp.moveaxis(jnp.asarray(x), tuple(range(n)), last)
        to_first = lambda x: jnp.moveaxis(x, last, tuple(range(n)))
        out = self.lanes(to_last(structures.positions), to_last(structures.numbers), to_last(structures.cell))
        return Evaluation(out.energy, to_first(out.forces), to_first(out.atomic_energies), out.ok)


class EnergyPotential(Potential):
    """A potential of which only `atomic_energies` of one structure is written; forces come by autodiff."""

    @abc.abstractmethod
    def atomic_energies(self, structure: Structure) -> Array:
        """Energies (atoms,) of a single structure; their sum is the energy. Padding slots must give 0."""

    def lanes(self, positions, numbers, cell=None) -> Evaluation:
        shape = positions.shape[2:]
        flat = positions.reshape(*positions.shape[:2], -1)
        n_lanes = flat.shape[-1]
        species = jnp.broadcast_to(numbers, (numbers.shape[0], *shape)).reshape(numbers.shape[0], -1)
        cells = (
            jnp.zeros((3, 3, n_lanes), flat.dtype) if cell is None else jnp.broadcast_to(cell, (3, 3, *shape)).reshape(3, 3, -1)
        )

        def one(x, number, cell):
            def total(x):
                each = self.atomic_energies(Structure(x, number, cell, jnp.zeros(number.shape, bool)))
                return each.sum(), each

            (energy, each), gradient = jax.value_and_grad(total, has_aux=True)(x)
            return energy, -gradient, each

        energy, forces, each = jax.vmap(one, in_axes=-1, out_axes=-1)(flat, species, cells)
        return finish(energy.reshape(shape), forces.reshape(positions.shape), each.reshape(each.shape[0], *shape))


def finish(energy, forces, atomic_energies) -> Evaluation:
    """An `Evaluation` with `ok` set from the finiteness of energy and forces."""
    # One sum tells as much as looking at every number: NaN and infinity survive it.
    ok = jnp.isfinite(energy) & jnp.isfinite(forces.sum(axis=(0, 1)))
    return Evaluation(energy, forces, atomic_energies, ok)
