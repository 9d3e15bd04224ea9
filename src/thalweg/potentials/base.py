"""What a potential is: energy and forces of many structures at once.

Inside hot loops arrays carry the batch on their *last* axis ("lanes last"): positions are (atoms, 3, *lanes), energies
(*lanes). On a CPU the innermost axis is what vector instructions run over, and values per lane broadcast without
reshaping. `Potential.evaluate` is the same with batch axes in front, for everyone else.

Periodic systems bring a `Space` (cell, boundaries, images), and large ones a `Neighbors` (which atoms are near each other).
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.space import Space, space_of
from thalweg.structure import Structure
from thalweg.typing import Array, Bool, Float


class Evaluation(eqx.Module):
    """Energy, forces and per-atom energies; `ok` is False where the energy or a force is not finite.

    `virial` is -dE/d(strain) (3, 3, *lanes), or None where it was not asked for: the stress is -virial / volume.
    """

    energy: Float[Array, "*lanes"]
    forces: Float[Array, "..."]
    atomic_energies: Float[Array, "..."]
    ok: Bool[Array, "*lanes"]
    virial: Float[Array, "..."] | None = None


class Potential(eqx.Module):
    """Energy model of atoms. Subclasses write `lanes` (fast) or derive from `EnergyPotential` (easy)."""

    #: True when `lanes` can be traced by JAX (and so be fused with searches on the device).
    traceable: ClassVar[bool] = True

    @abc.abstractmethod
    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        """Evaluate structures with lanes last.

        `positions` (atoms, 3, *lanes); `numbers` (atoms, *lanes) or with lanes of 1; energies come in (*lanes),
        forces in the shape of positions, per-atom energies in (atoms, *lanes). Slots with `numbers` -1 hold no atom.
        `space` is None for free clusters, `neighbors` a list of pairs or None for all of them; `virial` is static.
        """

    @property
    def reach(self) -> float | None:
        """Distance beyond which atoms do not interact; None where there is no such distance. On the host only."""
        cutoff = getattr(self, "cutoff", None)
        return None if cutoff is None else float(cutoff)

    @property
    def nearest_image(self) -> bool:
        """True where small cells are treated by the minimum image convention instead of by full image sums."""
        return bool(getattr(self, "minimum_image", False))

    @property
    def variables(self) -> int | None:
        """None for atoms. A number where the coordinates of the particles, one after the other, are so many variables of a
        function: then particles do not change places, directions differ, and what is left over means nothing."""
        return None

    def space(self, cell, pbc, slack: float = 1.0) -> Space | None:
        """The `Space` of cells (*batch, 3, 3) for this potential; None without periodic axes.

        `slack` is the factor by which the cell's heights may yet shrink. Raises `InputError` or `StructureError`.
        """
        if not any(pbc):  # before the reach is asked for, which may be traced here
            return None
        return space_of(cell, pbc, self.reach, self.nearest_image, slack, type(self).__name__)

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray | None:
        """Typical nearest-neighbour distance of each atom (atoms,), or None to take covalent radii."""
        return None

    def energy_scale(self, numbers: np.ndarray) -> float | None:
        """Energy of one bond, the unit of search temperatures; None where it has to be measured."""
        return None

    def units(self, numbers: np.ndarray) -> tuple[str, str]:
        """Units of energy and length: reduced ones where all atoms are model particles, eV and Å otherwise."""
        return ("eV", "Å") if (np.asarray(numbers) > 0).any() else ("ε", "σ")

    def check(self, numbers: np.ndarray) -> None:
        """Raise `InputError` if a species cannot be treated. By default everything can."""

    def evaluate(self, structures: Structure) -> Evaluation:
        """Evaluate one structure or a batch: energy (*batch), forces (*batch, atoms, 3), atomic (*batch, atoms).

        Periodic structures also get their virial (*batch, 3, 3). Cells must be concrete (not traced by JAX).
        """
        n = len(structures.batch)
        last = tuple(range(-n, 0))
        to_last = lambda x: jnp.moveaxis(jnp.asarray(x), tuple(range(n)), last)
        to_first = lambda x: jnp.moveaxis(x, last, tuple(range(n)))
        space = self.space(structures.cell, structures.pbc)
        if space is not None:
            space = as_leaves(space, np.asarray(structures.positions).dtype)
        out = self.lanes(to_last(structures.positions), to_last(structures.numbers), space, virial=space is not None)
        virial = None if out.virial is None else to_first(out.virial)
        return Evaluation(out.energy, to_first(out.forces), to_first(out.atomic_energies), out.ok, virial)


class EnergyPotential(Potential):
    """A potential of which only `atomic_energies` of one structure is written; forces come by autodiff."""

    @abc.abstractmethod
    def atomic_energies(self, structure: Structure) -> Array:
        """Energies (atoms,) of a single structure; their sum is the energy. Padding slots must give 0."""

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        shape = positions.shape[2:]
        flat = positions.reshape(*positions.shape[:2], -1)
        n_lanes = flat.shape[-1]
        species = jnp.broadcast_to(numbers, (numbers.shape[0], *shape)).reshape(numbers.shape[0], -1)
        cell = jnp.zeros((3, 3), flat.dtype) if space is None else space.cell
        cell = cell.reshape(3, 3, *cell.shape[2:], *[1] * (len(shape) + 2 - cell.ndim))
        cells = jnp.broadcast_to(cell, (3, 3, *shape)).reshape(3, 3, n_lanes)
        pbc = (False, False, False) if space is None else space.pbc

        def one(x, number, cell):
            def total(x, strain):
                deform = jnp.eye(3, dtype=x.dtype) + strain
                structure = Structure(x @ deform, number, cell @ deform, jnp.zeros(number.shape, bool), pbc)
                each = self.atomic_energies(structure)
                return each.sum(), each

            no_strain = jnp.zeros((3, 3), x.dtype)
            (energy, each), (gradient, strained) = jax.value_and_grad(total, (0, 1), has_aux=True)(x, no_strain)
            return energy, -gradient, each, -(strained + strained.T) / 2

        energy, forces, each, pull = jax.vmap(one, in_axes=-1, out_axes=-1)(flat, species, cells)
        virials = pull.reshape(3, 3, *shape) if virial else None
        each = each.reshape(each.shape[0], *shape)
        return finish(energy.reshape(shape), forces.reshape(positions.shape), each, virials)


def finish(energy, forces, atomic_energies, virial=None, covered=True) -> Evaluation:
    """An `Evaluation` with `ok` set from the finiteness of energy and forces.

    `covered` is False (*lanes) where a cell shrank so that images are missing: such a sum is no energy, and becomes NaN.
    """
    energy = energy if covered is True else jnp.where(covered, energy, jnp.nan)
    # One sum tells as much as looking at every number: NaN and infinity survive it.
    ok = jnp.isfinite(energy) & jnp.isfinite(forces.sum(axis=(0, 1)))
    return Evaluation(energy, forces, atomic_energies, ok, virial)


def assembled(atomic, forces, virial, numbers, space, reach) -> Evaluation:
    """The `Evaluation` from sums over pairs: per-atom energies, three forces and six or no virials (atoms, *lanes)."""
    # Padding slots collected the far-away value of rows that exist; they hold no atom and no energy.
    real = numbers >= 0
    atomic = jnp.where(real, atomic, 0)
    forces = jnp.where(real[:, None], jnp.stack(forces, axis=1), 0)
    tensor = None
    if virial:
        xx, yy, zz, yz, xz, xy = (jnp.where(real, w, 0).sum(0) for w in virial)
        tensor = jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])
    return finish(atomic.sum(0), forces, atomic, tensor, True if space is None else space.covers(reach))
