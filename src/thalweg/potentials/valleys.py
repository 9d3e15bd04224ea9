"""Landscapes that are hard though they have few minima or few funnels: valleys that are bent or narrow, and two funnels.

As in `thalweg.potentials.landscapes`, where formulas without another source are from.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from thalweg.potentials.landscapes import Formula, places, root, size


class HappyCat(Formula):
    """|sum x^2 - D|^(1/4) + (sum x^2 / 2 + sum x) / D + 1/2: F11. A valley around a sphere, without slope at its bottom."""

    box: ClassVar[tuple[float, float]] = (-20.0, 20.0)
    best: ClassVar[float] = -1.0
    source: ClassVar[str] = "F11 of doi:10.3390/data7040046"

    def value(self, x):
        # (q / 2 + sum x) / D + 1/2 as a square, which does not lose the digits of 0.
        return root(size((x * x).sum(0) - self.dim), 0.25) + ((x + 1) ** 2).mean(0) / 2


class HGBat(Formula):
    """|(sum x^2)^2 - (sum x)^2|^(1/2) + (sum x^2 / 2 + sum x) / D + 1/2: F12. A valley around a sphere through the origin."""

    box: ClassVar[tuple[float, float]] = (-15.0, 15.0)
    best: ClassVar[float] = -1.0
    source: ClassVar[str] = "F12 of doi:10.3390/data7040046"

    def value(self, x):
        q, s = (x * x).sum(0), x.sum(0)
        return root(size((q - s) * (q + s))) + ((x + 1) ** 2).mean(0) / 2


class Rosenbrock(Formula):
    """sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2: F13. A bent valley; a second minimum near (-1, 1, ..., 1) from D = 4 on."""

    box: ClassVar[tuple[float, float]] = (-10.0, 10.0)
    best: ClassVar[float] = 1.0
    fewest: ClassVar[int] = 2
    source: ClassVar[str] = "F13 of doi:10.3390/data7040046"

    def value(self, x):
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(0)


class Ellipsoid(Formula):
    """sum i x_i^2: F2."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    source: ClassVar[str] = "F2 of doi:10.3390/data7040046"

    def value(self, x):
        return (places(x) * x * x).sum(0)


class DifferentPowers(Formula):
    """sum |x_i|^(i + 1): F3. Flatter and flatter bottoms."""

    box: ClassVar[tuple[float, float]] = (-10.0, 10.0)
    source: ClassVar[str] = "F3 of doi:10.3390/data7040046"

    def value(self, x):
        return root(size(x), places(x) + 1).sum(0)


class Discus(Formula):
    """1e6 x_1^2 + the squares of all others: F15."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    source: ClassVar[str] = "F15 of doi:10.3390/data7040046"

    def value(self, x):
        return 1e6 * x[0] ** 2 + (x[1:] ** 2).sum(0)


class BentCigar(Formula):
    """x_1^2 + 1e6 times the squares of all others: F16."""

    box: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    source: ClassVar[str] = "F16 of doi:10.3390/data7040046"

    def value(self, x):
        return x[0] ** 2 + 1e6 * (x[1:] ** 2).sum(0)


class TwoFunnelRastrigin(Formula):
    """min(sum (x - m)^2, d D + s sum (x - n)^2) + A sum (1 - cos 2 pi (x - m)): two funnels, the wider one not the deeper.

    m = 2.5, d = 1 and A = 10; n = -sqrt((m^2 - d) / s) and s = 1 - 1 / (2 sqrt(D + 20) - 8.2), negative for one variable,
    are such that the second funnel is wider and ends at d D: M. Lunacek, D. Whitley and A. Sutton, PPSN X, 498 (2008),
    doi:10.1007/978-3-540-87700-4_50.
    """

    box: ClassVar[tuple[float, float]] = (-5.12, 5.12)
    best: ClassVar[float] = 2.5
    wave: ClassVar[float] = 1.0
    barrier: ClassVar[float] = 20.0
    fewest: ClassVar[int] = 2
    source: ClassVar[str] = "doi:10.1007/978-3-540-87700-4_50"

    amplitude: float = 10.0
    depth: float = 1.0

    def value(self, x):
        s = 1 - 1 / (2 * sqrt(self.dim + 20) - 8.2)
        other = -jnp.sqrt((self.best**2 - self.depth) / s)
        y = x - self.best
        funnels = jnp.minimum((y * y).sum(0), self.depth * self.dim + s * ((x - other) ** 2).sum(0))
        return funnels + self.amplitude * (1 - jnp.cos(2 * pi * y)).sum(0)

    @property
    def second(self) -> np.ndarray:
        """The bottom of the other funnel (dim,), to within a ripple."""
        s = 1 - 1 / (2 * sqrt(self.dim + 20) - 8.2)
        return np.full(self.dim, -float(np.sqrt((self.best**2 - self.depth) / s)))


class CurvedRastrigin(Formula):
    """sum over pairs (u, v) of neighbours of u^2 + k w^2 + A (2 - cos 2 pi u - cos 2 pi w), w = v - c u^2: bent ripples.

    k = 10, A = 10 and c = 0.2; a last variable without partner is a u. Rastrigin's function in coordinates that bend a narrow
    valley into a parabola, so that no paraboloid fits the whole of it. Defined here.
    """

    box: ClassVar[tuple[float, float]] = (-5.12, 5.12)
    wave: ClassVar[float] = 1.0
    barrier: ClassVar[float] = 20.0
    source: ClassVar[str] = "this package"

    bend: float = 0.2
    stiffness: float = 10.0
    amplitude: float = 10.0

    def value(self, x):
        u, v = x[::2], x[1::2]
        w = v - self.bend * u[: len(v)] ** 2
        along = u * u + self.amplitude * (1 - jnp.cos(2 * pi * u))
        across = self.stiffness * w * w + self.amplitude * (1 - jnp.cos(2 * pi * w))
        return along.sum(0) + across.sum(0)
