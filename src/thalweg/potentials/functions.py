"""Test functions of two variables, on which a search can be drawn on paper: a particle's x and y are the variables.

z has no part in the energy. Particles do not see each other, so that a system of n of them is n functions added up; problems
have one. Reduced units, and no cells.
"""

from __future__ import annotations

import abc
from math import pi

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.potentials.base import Evaluation, Potential, finish


class PlaneFunction(Potential):
    """Energy of each particle as a function of its x and y; forces by autodiff."""

    @abc.abstractmethod
    def value(self, x, y):
        """The function, element by element."""

    @property
    @abc.abstractmethod
    def half_width(self) -> float:
        """Starts are drawn from the square of twice this side about the origin."""

    @property
    @abc.abstractmethod
    def minimum(self) -> tuple[float, float]:
        """Where the global minimum is, or very nearly."""

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        x, y = positions[:, 0], positions[:, 1]
        one, zero = jnp.ones_like(x), jnp.zeros_like(x)
        each, slope_x = jax.jvp(self.value, (x, y), (one, zero))
        _, slope_y = jax.jvp(self.value, (x, y), (zero, one))
        real = numbers >= 0
        each = jnp.where(real, each, 0)
        forces = jnp.where(real[:, None], -jnp.stack([slope_x, slope_y, 0 * positions[:, 2]], axis=1), 0)
        return finish(each.sum(0), forces, each, jnp.zeros((3, 3, *each.shape[1:]), each.dtype) if virial else None)

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        """1, the distance between the ripples."""
        return np.ones(len(numbers))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return 1.0


class Rastrigin(PlaneFunction):
    """20 + x^2 + y^2 - 10 (cos 2 pi x + cos 2 pi y): a paraboloid with about a hundred minima, the lowest, 0, at the origin.

    L. A. Rastrigin, Systems of Extremal Control, Nauka, Moscow 1974 (in Russian); here in two dimensions, for starts
    in the usual square of side 10.24.
    """

    amplitude: float = 10.0

    def value(self, x, y):
        ripple = 2 - jnp.cos(2 * pi * x) - jnp.cos(2 * pi * y)
        return x * x + y * y + self.amplitude * ripple

    @property
    def half_width(self) -> float:
        return 5.12

    @property
    def minimum(self) -> tuple[float, float]:
        return 0.0, 0.0


class TwoFunnel(PlaneFunction):
    """Two funnels that mirror each other, at x = -4 and x = +4, of which the right one is deeper at its very bottom.

    h ((x/4)^2 - 1)^2 + k y^2 + a (2 - cos 2 pi x - cos 2 pi y) - d exp(-((x - 4)^2 + y^2) / (2 s^2)), with barrier h = 20,
    k = 0.5, ripples of a = 2, depth d = 1 and width s = 0.25. Defined here. Ripples make some dozens of local minima; down
    a funnel a walk by small steps passes from one to the next, but between the funnels are the h of the barrier. All but
    the last well is the same for x and -x, so half of all starts find themselves in the funnel without the global minimum,
    and nothing tells them.
    """

    barrier: float = 20.0
    stiffness: float = 0.5
    ripple: float = 2.0
    depth: float = 1.0
    width: float = 0.25

    def value(self, x, y):
        along = (x * x / 16 - 1) ** 2
        ripple = 2 - jnp.cos(2 * pi * x) - jnp.cos(2 * pi * y)
        well = jnp.exp(-((x - 4) ** 2 + y * y) / (2 * self.width**2))
        return self.barrier * along + self.stiffness * y * y + self.ripple * ripple - self.depth * well

    @property
    def half_width(self) -> float:
        return 6.0

    @property
    def minimum(self) -> tuple[float, float]:
        return 4.0, 0.0
