"""Models of one structure at a time, evaluated for many: what fits and posteriors share."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation, finish
from thalweg.structure import Structure
from thalweg.surrogates.base import Posterior
from thalweg.typing import Array

#: Structures that a fit describes at a time: one compiled shape for data of any size.
BLOCK = 32


class StructurePosterior(Posterior):
    """A posterior of which `atomic_energies` and `mean_and_std` of one structure are written; the rest is here.

    Forces come by the vector-Jacobian product of the whole. `images` are those of the cells it was fitted in.
    """

    species: eqx.AbstractVar[tuple[int, ...]]
    images: eqx.AbstractVar[tuple[int, int, int]]

    @abc.abstractmethod
    def atomic_energies(self, structure: Structure, images: tuple[int, int, int]) -> Array:
        """Energies (atoms,) of a single structure, their sum its mean; 0 for padding."""

    @abc.abstractmethod
    def mean_and_std(self, structure: Structure, images: tuple[int, int, int]) -> tuple[Array, Array]:
        """Mean and standard deviation, two scalars, of a single structure."""

    def check(self, numbers: np.ndarray) -> None:
        strange = sorted({int(z) for z in np.unique(numbers)} - {*self.species, -1})
        if strange:
            raise InputError(f"this model was fitted without the atomic number {strange[0]}; fit it again")

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        shape = positions.shape[2:]
        many = structures_of(positions, numbers, space)
        images = self.images if space is None else space.images

        def one(structure):
            def total(x, strain):
                deform = jnp.eye(3, dtype=x.dtype) + strain
                cell = structure.cell @ deform
                moved = Structure(x @ deform, structure.numbers, cell, structure.fixed, structure.pbc)
                each = self.atomic_energies(moved, images)
                return each.sum(), each

            def unstrained(x):
                moved = Structure(x, structure.numbers, structure.cell, structure.fixed, structure.pbc)
                each = self.atomic_energies(moved, images)
                return each.sum(), each

            x = structure.positions
            if not virial:
                (energy, each), gradient = jax.value_and_grad(unstrained, has_aux=True)(x)
                return energy, -gradient, each, jnp.zeros((3, 3), x.dtype)
            no_strain = jnp.zeros((3, 3), x.dtype)
            (energy, each), (gradient, pull) = jax.value_and_grad(total, (0, 1), has_aux=True)(x, no_strain)
            return energy, -gradient, each, -(pull + pull.T) / 2

        back = lambda a: jnp.moveaxis(a, 0, -1).reshape(*a.shape[1:], *shape)
        energy, forces, each, pull = (back(a) for a in jax.vmap(one)(many))
        forces = jnp.where((many.numbers.T >= 0).reshape(-1, 1, *shape), forces, 0)
        return finish(energy, forces, each, pull if virial else None, True if space is None else space.covers(self.reach))

    def mean_std(self, positions, numbers, space=None) -> tuple[Array, Array]:
        shape = positions.shape[2:]
        images = self.images if space is None else space.images
        mean, std = jax.vmap(lambda s: self.mean_and_std(s, images))(structures_of(positions, numbers, space))
        return mean.reshape(shape), std.reshape(shape)


def structures_of(positions, numbers, space) -> Structure:
    """Lanes (atoms, 3, *lanes) as one batch of structures, batch in front."""
    lanes = positions.shape[2:]
    flat = jnp.moveaxis(positions.reshape(*positions.shape[:2], -1), -1, 0)
    n, atoms = len(flat), positions.shape[0]
    numbers = jnp.asarray(numbers)
    numbers = numbers.reshape(*numbers.shape, *[1] * (len(lanes) + 1 - numbers.ndim))
    species = jnp.broadcast_to(numbers, (atoms, *lanes)).reshape(atoms, n).T
    cell = jnp.zeros((3, 3), flat.dtype) if space is None else jnp.asarray(space.cell)
    cell = cell.reshape(3, 3, *cell.shape[2:], *[1] * (len(lanes) + 2 - cell.ndim))
    cells = jnp.moveaxis(jnp.broadcast_to(cell, (3, 3, *lanes)).reshape(3, 3, n), -1, 0)
    pbc = (False, False, False) if space is None else space.pbc
    return Structure(flat, species, cells, jnp.zeros(species.shape, bool), pbc)


def block(positions, numbers, cells, pbc) -> Structure:
    """A batch of structures of one composition, on the host."""
    numbers = np.broadcast_to(np.asarray(numbers, np.int32), (len(positions), len(numbers)))
    return Structure(np.asarray(positions, float), numbers, np.asarray(cells, float), numbers < 0, tuple(pbc))


def in_blocks(function, positions, numbers, cells, pbc, rows: int = BLOCK) -> list[np.ndarray]:
    """Arrays (rows, ...) that a compiled `function` of a batch returns, called with `rows` structures at a time."""
    parts = []
    for at in range(0, len(positions), rows):
        x, cell = positions[at : at + rows], cells[at : at + rows]
        fill = [(0, rows - len(x)), (0, 0), (0, 0)]
        many = block(np.pad(x, fill, mode="edge"), numbers, np.pad(cell, fill, mode="edge"), pbc)
        parts.append([np.asarray(a)[: len(x)] for a in function(many)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
