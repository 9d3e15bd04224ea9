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
    #: Where the coordinates of the particles are so many variables of a function (`Potential.variables`); None for atoms.
    variables: int | None = eqx.field(static=True, default=None)

    @property
    def mask(self):
        """True for slots that hold an atom (atoms,)."""
        return self.numbers >= 0

    @property
    def searched(self):
        """True for the atoms that generators place and move (atoms,): all but those of a template and padding."""
        return self.mask if self.template is None else self.mask & ~self.template

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
            self.variables,
        )

    def structure(self, positions) -> Structure:
        """A `Structure` of this system from positions (*batch, atoms, 3) in the first slots; fixed atoms of a template are
        where it has them, to the last digit."""
        positions = np.asarray(positions, np.float64)[..., : len(self.numbers), :]
        if self.positions is not None:
            positions = np.where(np.asarray(self.fixed)[:, None], np.asarray(self.positions), positions)
        return Structure.create(positions, self.numbers, self.cell, self.fixed, self.pbc)


def cluster(numbers, potential: Potential) -> System:
    """System of a free cluster of these atomic numbers, bond lengths from the potential or from covalent radii."""
    return periodic(numbers, potential, np.zeros((3, 3)), (False, False, False))


def periodic(numbers, potential: Potential, cell, pbc=(True, True, True)) -> System:
    """System of these atomic numbers in a cell (3, 3), rows its vectors; atoms are sorted by species.

    Missing vectors of axes without periodicity are completed. Raises `InputError` where the potential does not know a
    species or cannot be summed in this cell, `StructureError` for cells without volume.
    """
    return confined(None, numbers, potential, cell, pbc)


def confined(
    template: Structure | None,
    added,
    potential: Potential,
    cell,
    pbc=(False, False, False),
    region: Region | None = None,
    limits: tuple[float, float] = (0.75, 1.25),
) -> System:
    """System of a `template`, whose atoms keep their order, and atoms with the numbers `added`, sorted, in a `region`.

    Raises as `periodic` does. Bond lengths are the potential's, or twice the covalent radii (Cordero et al., Dalton Trans.
    2832 (2008), doi:10.1039/b801115j, as ASE has them).
    """
    added = np.sort(np.asarray(added, np.int32), kind="stable")
    held = np.zeros(0, np.int32) if template is None else np.asarray(template.numbers, np.int32)
    numbers = np.concatenate([held, added])
    if len(numbers) == 0:
        raise InputError("a system needs at least one atom; zero were asked for")
    potential.check(numbers)
    cell = np.asarray(cell, np.float64)
    if any(pbc):
        cell = completed(cell, pbc)
        if potential.traceable:
            potential.space(cell, pbc)  # raises here, before anything is computed
    fixed = np.zeros(len(numbers), bool)
    positions = belongs = None
    if template is not None:
        n = len(held)
        fixed[:n] = np.asarray(template.fixed)
        belongs = np.arange(len(numbers)) < n
        positions = np.pad(np.asarray(template.positions, np.float64), ((0, len(added)), (0, 0)))
    x, y, z = (bool(p) for p in pbc)
    bonds, pbc = bonds_of(numbers, potential), (x, y, z)
    return System(numbers, bonds, fixed, cell, pbc, positions, belongs, region, limits, potential.variables)


def bonds_of(numbers, potential: Potential) -> np.ndarray:
    """Bond lengths (atoms,) of each atom's own species: the potential's, or twice the covalent radii."""
    bonds = potential.bond_lengths(numbers)
    if bonds is None:
        from ase.data import covalent_radii

        bonds = 2 * np.where(numbers > 0, covalent_radii[numbers], 0.5)
    return np.asarray(bonds, np.float64)
