"""`System`: what is searched, apart from the energy: how many atoms of which species, how long their bonds are."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.base import Potential
from thalweg.region import Region
from thalweg.space import completed
from thalweg.structure import PADDING, Structure
from thalweg.typing import Array, Bool, Float, Int


class System(eqx.Module):
    """Composition and length scales of a search.

    `bond_lengths` (atoms,) is the nearest-neighbour distance of each atom's own species, in Å or reduced units: generators
    take all their lengths from it, so that none of them knows units. Slots with number -1 are padding.

    Atoms of a `template` (a slab, say) have `positions`, where every start puts them; the `fixed` ones among them never
    move. They come first. The other atoms are placed in the `region` (None: anywhere), at distances between `limits` times
    the mean of the bond lengths of a pair. None for all of these in a free cluster or an empty cell.
    """

    numbers: Int[Array, " atoms"]
    bond_lengths: Float[Array, " atoms"]
    fixed: Bool[Array, " atoms"]
    cell: Float[Array, "3 3"]
    pbc: tuple[bool, bool, bool] = eqx.field(static=True, default=(False, False, False))
    positions: Float[Array, "atoms 3"] | None = None
    template: Bool[Array, " atoms"] | None = None
    region: Region | None = None
    limits: tuple[float, float] = eqx.field(static=True, default=(0.75, 1.25))

    @property
    def mask(self):
        """True for slots that hold an atom (atoms,)."""
        return self.numbers >= 0

    @property
    def n_atoms(self):
        """Number of atoms, padding not counted; traced inside a compiled function."""
        return self.mask.sum()

    @property
    def bond(self):
        """Mean nearest-neighbour distance over the atoms."""
        return jnp.where(self.mask, self.bond_lengths, 0).sum() / jnp.maximum(self.n_atoms, 1)

    def padded(self, n_slots: int) -> System:
        """The same system in `n_slots` slots."""
        extra = n_slots - len(self.numbers)
        return System(
            np.pad(np.asarray(self.numbers), (0, extra), constant_values=PADDING),
            np.pad(np.asarray(self.bond_lengths), (0, extra), constant_values=1.0),
            np.pad(np.asarray(self.fixed), (0, extra), constant_values=True),
            self.cell,
            self.pbc,
            None if self.positions is None else np.pad(np.asarray(self.positions), ((0, extra), (0, 0))),
            None if self.template is None else np.pad(np.asarray(self.template), (0, extra)),
            self.region,
            self.limits,
        )

    def structure(self, positions) -> Structure:
        """A `Structure` of this system from positions (*batch, atoms, 3) in the first slots."""
        positions = np.asarray(positions, np.float64)[..., : len(self.numbers), :]
        return Structure.create(positions, self.numbers, self.cell, self.fixed, self.pbc)


def cluster(numbers, potential: Potential) -> System:
    """System of a free cluster of these atomic numbers, bond lengths from the potential or from covalent radii."""
    return periodic(numbers, potential, np.zeros((3, 3)), (False, False, False))


def periodic(numbers, potential: Potential, cell, pbc=(True, True, True)) -> System:
    """System of these atomic numbers in a cell (3, 3), rows its vectors; atoms are sorted by species.

    Missing vectors of axes without periodicity are completed. Raises `InputError` where the potential does not know a
    species or cannot be summed in this cell, `StructureError` for cells without volume.
    """
    numbers = np.sort(np.asarray(numbers, np.int32), kind="stable")
    if len(numbers) == 0:
        raise InputError("a system needs at least one atom; zero were asked for")
    potential.check(numbers)
    cell = np.asarray(cell, np.float64)
    if any(pbc):
        cell = completed(cell, pbc)
        potential.space(cell, pbc)  # raises here, before anything is computed
    bonds = potential.bond_lengths(numbers)
    if bonds is None:
        from ase.data import covalent_radii

        bonds = 2 * np.where(numbers > 0, covalent_radii[numbers], 0.5)
    return System(numbers, np.asarray(bonds, np.float64), np.zeros(len(numbers), bool), cell, tuple(bool(p) for p in pbc))  # type: ignore[arg-type]
