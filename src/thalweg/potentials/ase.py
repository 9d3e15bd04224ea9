"""Our potentials as calculators of ASE, for its optimisers, dynamics and everything else that takes a calculator."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential


@eqx.filter_jit
def _evaluate(potential: Potential, positions, numbers, space):
    return potential.lanes(positions, numbers, space, virial=space is not None)


class ThalwegCalculator(Calculator):
    """An ASE calculator of a traceable potential: float64, compiled once for each number of atoms.

    Energies are in eV when the potential's are; potentials in reduced units give reduced units. Raises `InputError` for
    species the potential does not know and for periodic cells without a cutoff, `StructureError` where there is no finite
    energy. Stress (eV/Å^3, ASE's sign and order) is that of fully periodic cells.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (as ASE declares it)
    discard_results_on_any_change = True

    def __init__(self, potential: Potential):
        if not potential.traceable:
            raise InputError(
                f"{type(potential).__name__} is no traceable potential, so it needs no ThalwegCalculator around it"
            )
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Fill `results` for `atoms`."""
        super().calculate(atoms, list(properties), system_changes)
        atoms = self.atoms
        if atoms is None or len(atoms) == 0:
            raise StructureError("a structure without atoms has no energy")
        self.potential.check(atoms.numbers)
        space = self.potential.space(atoms.cell.array, atoms.pbc)
        with jax.enable_x64(True):
            positions, numbers = jnp.asarray(atoms.positions), jnp.asarray(atoms.numbers, jnp.int32)
            potential, space = as_leaves((self.potential, space), np.float64)
            out = jax.tree.map(np.asarray, _evaluate(potential, positions, numbers, space))
        if not out.ok:
            raise StructureError(f"{type(self.potential).__name__} has no finite energy and forces here; do atoms coincide?")
        self.results = {
            "energy": float(out.energy),
            "free_energy": float(out.energy),
            "energies": out.atomic_energies.astype(float),
            "forces": out.forces.astype(float),
        }
        if out.virial is not None and atoms.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(-out.virial / atoms.cell.volume)
