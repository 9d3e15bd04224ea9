"""`Structure`: one atomic configuration, or a batch of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np

from thalweg.errors import StructureError
from thalweg.typing import Array, Bool, Float, Int

if TYPE_CHECKING:
    import ase

#: `numbers` of a slot that holds no atom (structures are padded to few sizes, so that compilation is shared).
PADDING = -1


class Structure(eqx.Module):
    """Positions, species and cell of a configuration; a batch when its arrays carry leading axes.

    Lengths are in Å, or in the reduced unit of a model potential. `numbers` are atomic numbers; 0 is ASE's `X`
    (a particle of a model system) and -1 marks padding. Rows of `cell` are the cell vectors.
    """

    positions: Float[Array, "*batch atoms 3"]
    numbers: Int[Array, "*batch atoms"]
    cell: Float[Array, "*batch 3 3"]
    fixed: Bool[Array, "*batch atoms"]
    pbc: tuple[bool, bool, bool] = eqx.field(static=True, default=(False, False, False))

    @classmethod
    def create(cls, positions, numbers=None, cell=None, fixed=None, pbc=(False, False, False)) -> Structure:
        """Build a float64 structure from anything array-like; species default to 0, nothing is fixed.

        Raises `StructureError` when shapes disagree.
        """
        positions = np.asarray(positions, dtype=np.float64)
        if positions.ndim < 2 or positions.shape[-1] != 3:
            raise StructureError(f"positions have shape {positions.shape}; they need (..., atoms, 3)")
        batch, atoms = positions.shape[:-2], positions.shape[-2]
        numbers = np.zeros(atoms, np.int32) if numbers is None else np.asarray(numbers, np.int32)
        if numbers.shape[-1:] != (atoms,):
            raise StructureError(f"{numbers.shape[-1:]} numbers for {atoms} positions")
        cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, np.float64)
        fixed = np.zeros(atoms, bool) if fixed is None else np.asarray(fixed, bool)
        return cls(
            positions,
            np.broadcast_to(numbers, (*batch, atoms)),
            np.broadcast_to(cell, (*batch, 3, 3)),
            np.broadcast_to(fixed, (*batch, atoms)),
            tuple(bool(p) for p in pbc),  # type: ignore[arg-type]
        )

    @property
    def n_slots(self) -> int:
        """Number of atom slots, padding included."""
        return self.positions.shape[-2]

    @property
    def mask(self):
        """True where a slot holds an atom, shape (*batch, atoms)."""
        return self.numbers >= 0

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the leading axes; () for a single structure."""
        return self.positions.shape[:-2]

    def __getitem__(self, index) -> Structure:
        """Structure(s) of a batch by index, slice or mask."""
        if not self.batch:
            raise StructureError("a single structure cannot be indexed; only a batch can")
        return Structure(self.positions[index], self.numbers[index], self.cell[index], self.fixed[index], self.pbc)

    def __len__(self) -> int:
        if not self.batch:
            raise StructureError("a single structure has no length; only a batch has")
        return self.batch[0]


def stack(structures: list[Structure]) -> Structure:
    """Join single structures of the same size into a batch."""
    if not structures:
        raise StructureError("no structures to stack")
    first = structures[0]
    return Structure(
        np.stack([s.positions for s in structures]),
        np.stack([s.numbers for s in structures]),
        np.stack([s.cell for s in structures]),
        np.stack([s.fixed for s in structures]),
        first.pbc,
    )


def pad(structure: Structure, n_slots: int) -> Structure:
    """The structure with empty slots appended up to `n_slots`."""
    extra = n_slots - structure.n_slots
    if extra < 0:
        raise StructureError(f"cannot pad {structure.n_slots} atoms into {n_slots} slots")
    lead = [(0, 0)] * len(structure.batch)
    return Structure(
        np.pad(np.asarray(structure.positions), [*lead, (0, extra), (0, 0)]),
        np.pad(np.asarray(structure.numbers), [*lead, (0, extra)], constant_values=PADDING),
        structure.cell,
        np.pad(np.asarray(structure.fixed), [*lead, (0, extra)], constant_values=True),
        structure.pbc,
    )


def from_ase(atoms: ase.Atoms) -> Structure:
    """Structure of an `ase.Atoms`; atoms under `FixAtoms` are fixed."""
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
    return Structure.create(atoms.positions, atoms.numbers, atoms.cell.array, fixed, atoms.pbc)


def to_ase(structure: Structure, **info) -> ase.Atoms:
    """`ase.Atoms` of a single structure, padding dropped; keyword arguments go to `atoms.info`."""
    import ase
    from ase.constraints import FixAtoms

    if structure.batch:
        raise StructureError("to_ase takes one structure; index the batch first")
    mask = np.asarray(structure.mask)
    atoms = ase.Atoms(
        numbers=np.asarray(structure.numbers)[mask],
        positions=np.asarray(structure.positions)[mask],
        cell=np.asarray(structure.cell),
        pbc=structure.pbc,
        info=info,
    )
    fixed = np.asarray(structure.fixed)[mask]
    if fixed.any():
        atoms.set_constraint(FixAtoms(mask=fixed))
    return atoms
