"""Our potentials as calculators of ASE, for its optimisers, dynamics and everything else that takes a calculator."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential


@eqx.filter_jit
def _evaluate(potential: Potential, positions, numbers):
    out = potential.lanes(positions, numbers)
    return out.energy, out.forces, out.atomic_energies, out.ok


class ThalwegCalculator(Calculator):
    """An ASE calculator of a traceable potential: float64, compiled once for each number of atoms.

    Energies are in eV when the potential's are; potentials in reduced units give reduced units. Raises `InputError` for
    species the potential does not know and for periodic cells, `StructureError` where there is no finite energy.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces"]  # noqa: RUF012 (as ASE declares it)
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
        if atoms.pbc.any():
            raise InputError(f"{type(self.potential).__name__} treats free clusters only; set atoms.pbc = False")
        self.potential.check(atoms.numbers)
        with jax.enable_x64(True):
            positions, numbers = jnp.asarray(atoms.positions), jnp.asarray(atoms.numbers, jnp.int32)
            energy, forces, energies, ok = (
                np.asarray(a) for a in _evaluate(as_leaves(self.potential, np.float64), positions, numbers)
            )
        if not ok:
            raise StructureError(f"{type(self.potential).__name__} has no finite energy and forces here; do atoms coincide?")
        self.results = {
            "energy": float(energy),
            "free_energy": float(energy),
            "energies": energies.astype(float),
            "forces": forces.astype(float),
        }
