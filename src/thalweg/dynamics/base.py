"""What an ensemble is: forces in, motion out; it never sees a potential."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.typing import Array, PyTree


class Setting(eqx.Module):
    """What stays the same during a run, lanes last. Times are in sqrt(mass length^2 / energy)."""

    dt: Array
    boltzmann: Array  # energy per unit of temperature
    masses: Array  # (atoms, 1, lanes or 1)
    free: Array  # (atoms, 1, lanes or 1): 1 for atoms that move, 0 for fixed ones and padding
    freedom: Array  # (lanes or 1,) degrees of freedom of the kinetic energy
    keys: Array  # (lanes,) one key per lane: a lane's random numbers do not depend on its neighbours

    def noise(self, step, which: int = 0):
        """Standard normal numbers (atoms, 3, lanes) for a step, zero where nothing moves.

        They are drawn in float32, which is cheaper: nobody can tell 24 random bits from 53.
        """
        shape = (self.masses.shape[0], 3)
        return self.draw(step, which, shape).astype(self.masses.dtype) * self.free

    def draw(self, step, which: int, shape: tuple[int, ...]):
        """Standard normal numbers (*shape, lanes) in float32 for a step; `which` tells draws of one step apart."""

        def one(key):
            return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), which), shape, jnp.float32)

        return jax.vmap(one, out_axes=-1)(self.keys)


class Motion(eqx.Module):
    """Where all atoms are and go, lanes last; forces and energy belong to the positions."""

    positions: Array  # (atoms, 3, lanes)
    velocities: Array  # (atoms, 3, lanes)
    cell: Array | None  # (3, 3, lanes), None for free clusters
    energy: Array  # (lanes,)
    forces: Array  # (atoms, 3, lanes)
    virial: Array | None  # (3, 3, lanes), where the ensemble moves the cell
    bath: PyTree  # what the ensemble remembers: thermostat, barostat, heat exchanged

    def kinetic(self, setting: Setting):
        """Kinetic energy (lanes,)."""
        return (setting.masses * self.velocities**2).sum((0, 1)) / 2

    def kicked(self, setting: Setting, time) -> Motion:
        """Velocities changed by the forces for a time."""
        return self.moving(self.velocities + time * setting.free * self.forces / setting.masses)

    def drifted(self, time) -> Motion:
        """Positions moved on by the velocities for a time."""
        return eqx.tree_at(lambda m: m.positions, self, self.positions + time * self.velocities)

    def moving(self, velocities) -> Motion:
        """The same with other velocities."""
        return eqx.tree_at(lambda m: m.velocities, self, velocities)

    def bathed(self, bath) -> Motion:
        """The same with another state of the thermostat or barostat."""
        return eqx.tree_at(lambda m: m.bath, self, bath, is_leaf=lambda x: x is None)


class Ensemble(eqx.Module):
    """An integrator by reverse communication: `before` moves the atoms, the driver evaluates there, `after` ends the step."""

    #: True where the cell moves, so that the driver asks for virials.
    moves_cell: ClassVar[bool] = False
    #: True where total momentum stays what it is: it is zero then, and three degrees of freedom are missing.
    keeps_momentum: ClassVar[bool] = True
    #: Fields that are times, and fields that are rates (one over time), in the user's unit of time.
    times: ClassVar[tuple[str, ...]] = ()
    rates: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raise `InputError` for parameters that make no sense. Called on the host."""

    def init(self, motion: Motion, setting: Setting) -> PyTree:
        """State of the bath before the first step, on the host; `motion.bath` does not exist yet."""
        return None

    @abc.abstractmethod
    def before(self, motion: Motion, setting: Setting, step) -> Motion:
        """The first part of step number `step`, up to where forces are needed."""

    @abc.abstractmethod
    def after(self, motion: Motion, setting: Setting) -> Motion:
        """The rest of the step: energy, forces and virial are those of the new positions."""

    def conserved(self, motion: Motion, setting: Setting):
        """The quantity (lanes,) that exact integration would not change: the total energy, and what the baths hold of it."""
        return motion.energy + motion.kinetic(setting)
