"""Ensembles at fixed volume: NVE, Langevin, Nose-Hoover chains."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.dynamics.base import Ensemble, Motion, Setting
from thalweg.dynamics.units import check_positive
from thalweg.errors import InputError
from thalweg.typing import Array, PyTree


class NVE(Ensemble):
    """Constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637 (1982), doi:10.1063/1.442716)."""

    def before(self, motion, setting, step):
        return motion.kicked(setting, setting.dt / 2).drifted(setting.dt)

    def after(self, motion, setting):
        return motion.kicked(setting, setting.dt / 2)


class Langevin(Ensemble):
    """Constant temperature by friction and noise on every atom: BAOAB splitting.

    B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010: configurations are right to
    fourth order in the time step at high friction. `friction` is in 1/fs, or reduced. The conserved quantity is the total
    energy less the heat taken from the bath. `temperature` may be an array, one per structure.
    """

    keeps_momentum: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("friction",)

    temperature: float | Array
    friction: float | Array = 0.01

    def check(self):
        check_positive("temperature", self.temperature, zero=True)
        check_positive("friction", self.friction, zero=True)

    def init(self, motion, setting):
        return {"heat": np.zeros_like(motion.energy)}

    def before(self, motion, setting, step):
        motion = motion.kicked(setting, setting.dt / 2).drifted(setting.dt / 2)
        return exchange(motion, setting, step, self.temperature, self.friction).drifted(setting.dt / 2)

    def after(self, motion, setting):
        return motion.kicked(setting, setting.dt / 2)

    def conserved(self, motion, setting):
        return motion.energy + motion.kinetic(setting) - motion.bath["heat"]


def exchange(motion: Motion, setting: Setting, step, temperature, friction) -> Motion:
    """An exact Ornstein-Uhlenbeck step of the velocities over `setting.dt`; the heat it brings is noted in the bath."""
    keep = jnp.exp(-friction * setting.dt)
    # 1 - keep^2 without cancellation at low friction.
    spread = jnp.sqrt(-jnp.expm1(-2 * friction * setting.dt) * setting.boltzmann * temperature / setting.masses)
    velocities = keep * motion.velocities + spread * setting.noise(step)
    warmed = motion.moving(velocities)
    heat = motion.bath["heat"] + warmed.kinetic(setting) - motion.kinetic(setting)
    return warmed.bathed({**motion.bath, "heat": heat})


class NoseHoover(Ensemble):
    """Constant temperature by a chain of thermostats; time-reversible, and deterministic.

    Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992), doi:10.1063/1.463940, integrated as in Martyna et al.,
    Mol. Phys. 87, 1117 (1996), doi:10.1080/00268979600100761, with the fourth-order weights of Yoshida. Thermostat masses
    are kT `tau`^2 (the first times the degrees of freedom); `tau` is in fs, or reduced. The total momentum is zero and
    stays so: 3N - 3 degrees of freedom are thermostatted.
    """

    times: ClassVar[tuple[str, ...]] = ("tau",)

    temperature: float | Array
    tau: float | Array = 100.0
    length: int = eqx.field(static=True, default=3)

    def check(self):
        check_positive("temperature", self.temperature, what="; without motion there is nothing to thermostat")
        check_positive("tau", self.tau)
        if self.length < 1:
            raise InputError(f"the chain has {self.length} thermostats; it needs at least one")

    def init(self, motion, setting) -> PyTree:
        none = np.zeros((self.length, *motion.energy.shape), motion.energy.dtype)
        return {"place": none, "speed": none}

    def _masses(self, motion, setting):
        """kT and the masses of the thermostats, a list of (lanes,)."""
        heat = setting.boltzmann * self.temperature + jnp.zeros_like(motion.energy)
        one = heat * self.tau**2
        return heat, [one * setting.freedom] + [one] * (self.length - 1)

    def _half(self, motion, setting) -> Motion:
        """The chain acts on the velocities for half a time step."""
        heat, masses = self._masses(motion, setting)
        place, speed = list(motion.bath["place"]), list(motion.bath["speed"])
        last = self.length - 1
        double = 2 * motion.kinetic(setting)
        factor = jnp.ones_like(double)

        def push(j, time):
            damp = 1.0 if j == last else jnp.exp(-time / 4 * speed[j + 1])
            force = double - setting.freedom * heat if j == 0 else masses[j - 1] * speed[j - 1] ** 2 - heat
            speed[j] = (speed[j] * damp + time / 2 * force / masses[j]) * damp

        for weight in YOSHIDA:
            time = weight * setting.dt / 2
            for j in reversed(range(self.length)):
                push(j, time)
            for j in range(self.length):
                place[j] = place[j] + time * speed[j]
            slower = jnp.exp(-time * speed[0])
            factor, double = factor * slower, double * slower**2
            for j in range(self.length):
                push(j, time)
        return motion.moving(motion.velocities * factor).bathed({"place": jnp.stack(place), "speed": jnp.stack(speed)})

    def before(self, motion, setting, step):
        return self._half(motion, setting).kicked(setting, setting.dt / 2).drifted(setting.dt)

    def after(self, motion, setting):
        return self._half(motion.kicked(setting, setting.dt / 2), setting)

    def conserved(self, motion, setting):
        heat, masses = self._masses(motion, setting)
        place, speed = motion.bath["place"], motion.bath["speed"]
        moving = sum(m * v**2 for m, v in zip(masses, speed, strict=True)) / 2
        return motion.energy + motion.kinetic(setting) + moving + heat * (setting.freedom * place[0] + place[1:].sum(0))


#: Weights of three steps that together are one of fourth order: H. Yoshida, Phys. Lett. A 150, 262 (1990),
#: doi:10.1016/0375-9601(90)90092-3.
YOSHIDA = (1 / (2 - 2 ** (1 / 3)), 1 - 2 / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))
