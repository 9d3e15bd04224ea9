"""Units of dynamics: real ones (K, fs, amu) for potentials in eV or kcal/mol, reduced ones for model potentials."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from ase import units as ase_units
from ase.data import atomic_masses

from thalweg.errors import InputError
from thalweg.potentials.base import Potential
from thalweg.structure import Structure


class Units(eqx.Module):
    """`boltzmann`: energy per unit of temperature; `time`: one unit of the user's time in sqrt(mass length^2 / energy).

    With `real` masses are those of the elements in amu, temperatures in K and times in fs; otherwise masses are 1,
    temperatures are kT in the potential's energy unit and times are reduced.
    """

    boltzmann: float
    time: float
    real: bool = eqx.field(static=True)


REDUCED = Units(1.0, 1.0, False)
EV = Units(ase_units.kB, ase_units.fs, True)
#: kcal/mol and Å: a time unit of sqrt(amu Å^2 mol/kcal), 48.888 fs.
KCAL = Units(ase_units.kB * ase_units.mol / ase_units.kcal, ase_units.fs * np.sqrt(ase_units.kcal / ase_units.mol), True)
KNOWN = {"eV": EV, "kcal/mol": KCAL, "ε": REDUCED}


def units_of(potential: Potential, numbers) -> Units:
    """Units of dynamics from the potential's unit of energy. Raises `InputError` for one that is not known."""
    unit = potential.units(np.asarray(numbers))[0]
    if unit not in KNOWN:
        raise InputError(f"{type(potential).__name__} is in {unit}; dynamics knows {', '.join(KNOWN)}")
    return KNOWN[unit]


def masses_of(structures: Structure, units: Units, masses=None) -> np.ndarray:
    """Masses (*batch, atoms): as given, of the elements in amu, or 1 in reduced units. Padding and model particles weigh 1."""
    numbers = np.asarray(structures.numbers)
    if masses is None:
        return np.where(numbers > 0, atomic_masses[np.maximum(numbers, 0)], 1.0) if units.real else np.ones(numbers.shape)
    masses = np.asarray(masses, np.float64)
    if masses.ndim and masses.shape[-1] != numbers.shape[-1]:
        raise InputError(f"{masses.shape[-1]} masses for {numbers.shape[-1]} atoms")
    if not (masses > 0).all():
        raise InputError(f"the smallest mass is {masses.min():g}; masses must be positive")
    return np.broadcast_to(masses, numbers.shape)


def check_positive(name: str, value, zero: bool = False, what: str = "") -> None:
    """Raise `InputError` unless all of `value` are finite and positive, or zero where that is allowed."""
    values = np.asarray(value, np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or (not zero and (values == 0).any()):
        shown = f"{values:g}" if values.ndim == 0 else f"{values.min():g} in one lane"
        raise InputError(f"{name} is {shown}; it must be {'zero or positive' if zero else 'positive'}{what}")
