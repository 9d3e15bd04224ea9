"""Ensembles at constant pressure: stochastic cell rescaling."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.dynamics.base import Ensemble, Motion, Setting
from thalweg.dynamics.ensembles import exchange
from thalweg.dynamics.units import check_positive
from thalweg.errors import InputError, suggest
from thalweg.space import cross
from thalweg.typing import Array, PyTree

#: Which strains of the cell fluctuate: its volume, three lengths along fixed directions, or all six.
SHAPES = ("isotropic", "orthorhombic", "triclinic")

#: A cell that deforms by more in one time step has no dynamics, and fails: the time step is too long, or `tau` too short.
LARGEST_STRAIN = 0.2


class NPT(Ensemble):
    """Constant temperature and pressure: Langevin dynamics in a cell that is rescaled stochastically.

    M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020), doi:10.1063/5.0020514; with more than one strain, V. Del
    Tatto et al., Appl. Sci. 12, 1139 (2022), doi:10.3390/app12031139. The strain is an overdamped Langevin coordinate, so
    that cells cannot ring and volumes have the fluctuations of the ensemble. Different here: positions are rescaled and
    velocities are not, which is the same ensemble with N kT in place of twice the kinetic energy over three, and does
    not carry the integrator's error of velocities into the volume.

    `pressure` is in energy per cubed length (eV/Å^3; 1 GPa is 0.00624), `compressibility` its inverse: only its ratio to
    `tau` counts, the time in which the volume relaxes, and only for speed. `shape` is one of "isotropic",
    "orthorhombic" (three lengths) and "triclinic". Times are in fs, or reduced. A cell that shrinks below what the images
    of its start cover fails, and says so. Atoms must not be fixed.
    """

    moves_cell: ClassVar[bool] = True
    keeps_momentum: ClassVar[bool] = False
    times: ClassVar[tuple[str, ...]] = ("tau",)
    rates: ClassVar[tuple[str, ...]] = ("friction",)

    temperature: float | Array
    pressure: float | Array
    compressibility: float | Array
    tau: float | Array = 1000.0
    friction: float | Array = 0.01
    shape: str = eqx.field(static=True, default="isotropic")

    def check(self):
        check_positive("temperature", self.temperature, what="; a cell at rest is relaxed, not simulated")
        check_positive("compressibility", self.compressibility)
        check_positive("tau", self.tau)
        check_positive("friction", self.friction, zero=True)
        if not np.isfinite(self.pressure).all():
            raise InputError(f"pressure is {self.pressure}; it must be finite")
        if self.shape not in SHAPES:
            raise InputError(f'no cell shape "{self.shape}".{suggest(self.shape, SHAPES)}')

    def init(self, motion, setting) -> PyTree:
        none = np.zeros_like(motion.energy)
        strain = np.zeros((3, 3, *none.shape), none.dtype)
        return {"heat": none, "work": none, "strain": strain, "pull": strain}

    def before(self, motion, setting, step):
        motion = self._rescaled(motion.kicked(setting, setting.dt / 2), setting, step).drifted(setting.dt / 2)
        return exchange(motion, setting, step, self.temperature, self.friction).drifted(setting.dt / 2)

    def after(self, motion, setting):
        motion = motion.kicked(setting, setting.dt / 2)
        bath = motion.bath
        assert motion.virial is not None
        # The energy of a rescaling by the trapezoidal rule: the virial was noted before, and is known now behind.
        work = bath["work"] - ((bath["pull"] + motion.virial) / 2 * bath["strain"]).sum((0, 1))
        return motion.bathed({**bath, "work": work})

    def _rescaled(self, motion: Motion, setting: Setting, step) -> Motion:
        """Cell and positions deformed by the strain of one time step."""
        assert motion.cell is not None
        assert motion.virial is not None
        heat = setting.boltzmann * self.temperature
        volume = volume_of(motion.cell)
        unit = jnp.eye(3, dtype=volume.dtype)[..., None]
        count = setting.free.sum((0, 1))
        excess = (count * heat * unit + motion.virial) / volume - self.pressure * unit
        mobility = self.compressibility / (3 * self.tau) * setting.dt
        drift = self._allowed(mobility * excess)
        noise = self._allowed(setting.draw(step, 1, (3, 3)).astype(volume.dtype))
        strain = drift + jnp.sqrt(2 * heat * mobility / volume) * noise
        strain = jnp.where(jnp.abs(strain).max((0, 1)) < LARGEST_STRAIN, strain, jnp.nan)
        deform = exponential(strain)
        cell = (motion.cell[:, :, None] * deform).sum(1)
        positions = (motion.positions[:, :, None] * deform).sum(1)
        bath = motion.bath
        work = bath["work"] + self.pressure * (volume_of(cell) - volume)
        bath = {"heat": bath["heat"], "work": work, "strain": strain, "pull": motion.virial}
        return eqx.tree_at(lambda m: (m.positions, m.cell), motion, (positions, cell)).bathed(bath)

    def _allowed(self, strain):
        """The part of a strain (3, 3, lanes) that the shape allows; its antisymmetric part would only turn the cell."""
        if self.shape == "triclinic":
            return (strain + jnp.swapaxes(strain, 0, 1)) / 2
        unit = jnp.eye(3, dtype=strain.dtype)[..., None]
        if self.shape == "orthorhombic":
            return strain * unit
        return (strain * unit).sum((0, 1)) / 3 * unit

    def conserved(self, motion, setting):
        enthalpy = motion.energy + motion.kinetic(setting) + self.pressure * volume_of(motion.cell)
        return enthalpy - motion.bath["heat"] - motion.bath["work"]


def volume_of(cell):
    """Volume (lanes,) of cells (3, 3, lanes)."""
    return jnp.abs((cell[0] * cross(cell[1], cell[2])).sum(0))


def exponential(strain):
    """Matrix exponential of small matrices (3, 3, lanes); strains of one time step are thousandths."""
    unit = jnp.eye(3, dtype=strain.dtype)[..., None]
    result = unit + strain / 6
    for k in (5, 4, 3, 2, 1):
        result = unit + (strain[:, :, None] * result).sum(1) / k
    return result
