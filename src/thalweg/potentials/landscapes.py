"""Test landscapes: functions of any number of variables with known minima, which are potentials as well.

A vector x of `dim` variables is a structure of ceil(dim / 3) model particles without a cell: its coordinates, one after
the other, are the variables, and what is left over has no part in the energy. So every relaxer and every search runs on
them. Particles are not interchangeable and directions not equal; `Potential.variables` says so to whoever compares or moves
structures. All is in reduced units.

Formulas are those of V. Plevris and G. Solorzano, Data 7, 46 (2022), doi:10.3390/data7040046 (F1 to F30 there), but for
those whose docstring says otherwise; boxes are theirs too. Their minima lie at 0 or along the diagonal, where many methods
begin or are drawn to: compare methods on `thalweg.potentials.moved`. More of them: `thalweg.potentials.valleys`.
"""

from __future__ import annotations

import abc
from math import e, pi
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation, Potential, finish


class Landscape(Potential):
    """A function of `dim` variables as a potential of ceil(dim / 3) model particles; forces by autodiff.

    At kinks, where the function has no derivative, 0 is taken for that of |u| or a root: a force is never NaN there.
    """

    dim: eqx.AbstractVar[int]

    @abc.abstractmethod
    def value(self, x) -> jax.Array:
        """The function (*lanes,) of vectors (dim, *lanes): traceable, in their precision."""

    @property
    @abc.abstractmethod
    def domain(self) -> tuple[float, float]:
        """Ends of the usual box, the same for each variable: where searches begin. Nothing ends there."""

    @property
    @abc.abstractmethod
    def minimiser(self) -> np.ndarray:
        """Where the global minimum is (dim,), one such place where there are several; NaN where it is not known."""

    @property
    @abc.abstractmethod
    def minimum(self) -> float:
        """The lowest value; NaN where it is not known."""

    @property
    @abc.abstractmethod
    def ripple(self) -> tuple[float, float]:
        """Distance of neighbouring minima along one variable, and height of the barrier between them: a search's units."""

    @property
    def variables(self) -> int:
        return self.dim

    @property
    def n_particles(self) -> int:
        """Particles that hold the variables."""
        return -(-self.dim // 3)

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        n, shape = positions.shape[0], positions.shape[2:]
        if 3 * n < self.dim:
            raise InputError(f"{n} particles are {3 * n} coordinates, and there are {self.dim} variables; {self._wanted}")
        real = (numbers >= 0).reshape(n, 1, *numbers.shape[1:], *[1] * (1 + len(shape) - numbers.ndim))
        x = jnp.where(real, positions, 0).reshape(3 * n, *shape)[: self.dim]
        energy, pull = jax.vjp(self.value, x)  # lanes do not mix, so that one sweep gives the slopes of all
        (slope,) = pull(jnp.ones_like(energy))
        left = jnp.zeros((3 * n - self.dim, *shape), slope.dtype)
        forces = jnp.where(real, -jnp.concatenate([slope, left]).reshape(positions.shape), 0)
        each = jnp.zeros((n, *shape), energy.dtype).at[0].set(energy)  # a function as a whole has no shares of particles
        return finish(energy, forces, each, jnp.zeros((3, 3, *shape), energy.dtype) if virial else None)

    def space(self, cell, pbc, slack: float = 1.0) -> None:
        if any(pbc):
            raise InputError(
                f"{type(self).__name__} is a function of a vector, which is in no periodic cell; leave out the cell"
            )

    def check(self, numbers: np.ndarray) -> None:
        numbers = np.asarray(numbers)
        if (numbers != 0).any() or len(numbers) != self.n_particles:
            raise InputError(f"a function of {self.dim} variables has {self.n_particles} model particles; {self._wanted}")

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        """The distance of neighbouring minima."""
        return np.full(len(numbers), self.ripple[0])

    def energy_scale(self, numbers: np.ndarray) -> float:
        """The height of a ripple."""
        return self.ripple[1]

    @property
    def _wanted(self) -> str:
        return f"write the formula X{self.n_particles}, or another dim"


class Formula(Landscape):
    """A landscape of which only `value` and these constants of its class are written.

    `box`: ends of the usual box; `best`: the coordinate that the global minimum has along each variable; `lowest`: its value;
    `wave`: the distance of neighbouring minima along a variable, 0 where there are none, and then a twentieth of the box
    is taken for a length; `barrier`: their height, divided by the number of variables where the function is a mean.
    """

    box: ClassVar[tuple[float, float]]
    best: ClassVar[float] = 0.0
    lowest: ClassVar[float] = 0.0
    wave: ClassVar[float] = 0.0
    barrier: ClassVar[float] = 1.0
    mean: ClassVar[bool] = False
    fewest: ClassVar[int] = 1
    #: Where the formula is from.
    source: ClassVar[str]

    dim: int = eqx.field(static=True)

    def __check_init__(self):
        if self.dim < self.fewest:
            raise InputError(f"{type(self).__name__} is defined for {self.fewest} or more variables, not for {self.dim}")

    @property
    def domain(self) -> tuple[float, float]:
        return self.box

    @property
    def minimiser(self) -> np.ndarray:
        return np.full(self.dim, self.best)

    @property
    def minimum(self) -> float:
        return self.lowest

    @property
    def ripple(self) -> tuple[float, float]:
        low, high = self.box
        return self.wave or (high - low) / 20, self.barrier / (self.dim if self.mean else 1)


def root(s, power: float | jax.Array = 0.5):
    """s^power of s >= 0, whose derivative at 0 is taken as 0: the power has none there, and NaN would stay."""
    some = s > 0
    return jnp.where(some, jnp.where(some, s, 1) ** power, 0)


def size(u):
    """|u|, whose derivative at 0 is 0."""
    return u * lax.stop_gradient(jnp.sign(u))


def places(x):
    """1, 2, ..., dim in the shape and precision of x (dim, *lanes)."""
    return jnp.arange(1, len(x) + 1, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


# --- many minima ----------------------------------------------------------------------------------------------------------


class Alpine1(Formula):
    """sum |x_i sin x_i + 0.1 x_i|: F7. Its least value, 0, is reached wherever each x_i is 0 or has sin x_i = -0.1."""

    box: ClassVar[tuple[float, float]] = (-10.0, 10.0)
    wave: ClassVar[float] = pi
    barrier: ClassVar[float] = 5.0
    source: ClassVar[str] = "F7 of doi:10.3390/data7040046"

    def value(self, x):
        return size(x * jnp.sin(x) + 0.1 * x).sum(0)


class SchafferF7(Formula):
    """The mean over neighbours of sqrt(s) (1 + sin^2(50 s^0.2)), s = sqrt(x_i^2 + x_{i+1}^2): F18 without its square.

    With `squared` the mean is squared, as it is there. Basins near the minimum are as narrow as 1e-6, and the value grows as
    the square root of the distance: look at distances, not values.
    """

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    wave: ClassVar[float] = 1.0
    barrier: ClassVar[float] = 2.0
    mean: ClassVar[bool] = True
    fewest: ClassVar[int] = 2
    source: ClassVar[str] = "F18 of doi:10.3390/data7040046"

    squared: bool = eqx.field(static=True, default=False)

    def value(self, x):
        q = x[:-1] ** 2 + x[1:] ** 2
        log = jnp.log(jnp.where(q > 0, q, 1))  # one logarithm serves both roots and their slopes
        ripple = jnp.sin(50 * jnp.exp(0.1 * log)) ** 2
        mean = jnp.where(q > 0, jnp.exp(0.25 * log) * (1 + ripple), 0).mean(0)
        return mean**2 if self.squared else mean


class Rastrigin(Formula):
    """sum x_i^2 + A (1 - cos 2 pi x_i): F10. About ten minima in each variable, a lattice in a paraboloid."""

    box: ClassVar[tuple[float, float]] = (-5.12, 5.12)
    wave: ClassVar[float] = 1.0
    barrier: ClassVar[float] = 20.0
    source: ClassVar[str] = "F10 of doi:10.3390/data7040046"

    amplitude: float = 10.0

    def value(self, x):
        return (x * x + self.amplitude * (1 - jnp.cos(2 * pi * x))).sum(0)


class Ackley(Formula):
    """20 - 20 exp(-0.2 sqrt(mean x^2)) + e - exp(mean cos 2 pi x): F8. A hole in a rippled plain."""

    box: ClassVar[tuple[float, float]] = (-32.768, 32.768)
    wave: ClassVar[float] = 1.0
    barrier: ClassVar[float] = 2 * e
    mean: ClassVar[bool] = True
    source: ClassVar[str] = "F8 of doi:10.3390/data7040046"

    def value(self, x):
        hole, ripple = jnp.expm1(-0.2 * root((x * x).mean(0))), jnp.expm1((jnp.cos(2 * pi * x) - 1).mean(0))
        return -20 * hole - e * ripple


class Griewank(Formula):
    """1 + sum x_i^2 / 4000 - product cos(x_i / sqrt i): F9. The more variables, the fainter its ripples."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    wave: ClassVar[float] = 2 * pi
    source: ClassVar[str] = "F9 of doi:10.3390/data7040046"

    def value(self, x):
        return 1 + (x * x).sum(0) / 4000 - jnp.prod(jnp.cos(x / jnp.sqrt(places(x))), axis=0)


class Weierstrass(Formula):
    """sum over i and k to 20 of 2^-k (1 - cos(2 pi 3^k x_i)): F6 by cos(a + pi b) = -cos a for odd b, which rounds less.

    Ripples upon ripples, with slopes up to 2e4; nearly a function without derivative.
    """

    box: ClassVar[tuple[float, float]] = (-0.5, 0.5)
    wave: ClassVar[float] = 1 / 9
    barrier: ClassVar[float] = 0.5
    source: ClassVar[str] = "F6 of doi:10.3390/data7040046"

    terms: int = eqx.field(static=True, default=20)

    def value(self, x):
        total, phase = jnp.zeros_like(x), x
        for k in range(self.terms + 1):
            phase = phase - jnp.round(phase)  # whole turns are nothing, and would cost digits
            total = total + 2 * 0.5**k * jnp.sin(pi * phase) ** 2
            phase = 3 * phase
        return total.sum(0)


class Quintic(Formula):
    """sum |x^5 - 3 x^4 + 4 x^3 + 2 x^2 - 10 x - 4|: F4. 0 wherever each x_i is -1 or 2."""

    box: ClassVar[tuple[float, float]] = (-20.0, 20.0)
    best: ClassVar[float] = -1.0
    wave: ClassVar[float] = 3.0
    barrier: ClassVar[float] = 8.0
    source: ClassVar[str] = "F4 of doi:10.3390/data7040046"

    def value(self, x):
        return size(((((x - 3) * x + 4) * x + 2) * x - 10) * x - 4).sum(0)


class DropWave(Formula):
    """1 - (1 + cos 12 r) / (r^2 / 2 + 2), r = |x|: F5. Spherical shells around a drop."""

    box: ClassVar[tuple[float, float]] = (-5.12, 5.12)
    wave: ClassVar[float] = pi / 6
    barrier: ClassVar[float] = 0.5
    source: ClassVar[str] = "F5 of doi:10.3390/data7040046"

    def value(self, x):
        q = (x * x).sum(0)
        return 1 - (1 + jnp.cos(12 * root(q))) / (0.5 * q + 2)


class ExpandedSchafferF6(Formula):
    """sum over neighbours around a ring of 0.5 + (sin^2 s - 0.5) / (1 + 0.001 s^2)^2, s^2 = x_i^2 + x_{i+1}^2: F19."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    wave: ClassVar[float] = pi
    source: ClassVar[str] = "F19 of doi:10.3390/data7040046"

    def value(self, x):
        q = x * x + jnp.roll(x, -1, axis=0) ** 2
        return (0.5 + (jnp.sin(root(q)) ** 2 - 0.5) / (1 + 0.001 * q) ** 2).sum(0)


class XinSheYang3(Formula):
    """1e4 (1 + (exp(-sum (x_i / 15)^10) - 2 exp(-sum x_i^2)) product cos^2 x_i): F29. A needle: nothing leads to it."""

    box: ClassVar[tuple[float, float]] = (-20.0, 20.0)
    wave: ClassVar[float] = pi
    source: ClassVar[str] = "F29 of doi:10.3390/data7040046"

    def value(self, x):
        depth = jnp.exp(-((x / 15) ** 10).sum(0)) - 2 * jnp.exp(-(x * x).sum(0))
        return 1e4 * (1 + depth * jnp.prod(jnp.cos(x) ** 2, axis=0))


class XinSheYang5(Formula):
    """1e4 (1 + (sum sin^2 x_i - exp(-sum x_i^2)) exp(-sum sin^2 sqrt |x_i|)): F30. A needle: nothing leads to it."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    wave: ClassVar[float] = pi
    source: ClassVar[str] = "F30 of doi:10.3390/data7040046"

    def value(self, x):
        depth = (jnp.sin(x) ** 2).sum(0) - jnp.exp(-(x * x).sum(0))
        return 1e4 * (1 + depth * jnp.exp(-(jnp.sin(root(size(x))) ** 2).sum(0)))
