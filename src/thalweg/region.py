"""Where atoms may be placed: regions that confine a search.

A region says where generators put atoms; relaxations may carry them out of it. Lengths are in Å or reduced units, in the
frame of the cell. What is periodic has no walls: a point outside is its image inside.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from thalweg.errors import InputError
from thalweg.typing import Array, Float

#: Points this far outside, in units of the region's size, count as inside: rounding of float32.
ROUNDING = 1e-5


class Region(eqx.Module):
    """A part of space. All of it is traceable; lengths in Å or reduced units, in the frame of the cell."""

    @abc.abstractmethod
    def sample(self, key, shape: tuple[int, ...], dtype) -> jax.Array:
        """Points (*shape, 3) uniform in the region."""

    @abc.abstractmethod
    def contains(self, points) -> Array:
        """True (*batch) for points (*batch, 3) inside, or within rounding of it."""

    @abc.abstractmethod
    def project(self, points) -> Array:
        """The nearest points inside (*batch, 3)."""

    @property
    @abc.abstractmethod
    def dimensions(self) -> int:
        """3, or 2 for a plane: how many directions it extends in."""

    @property
    @abc.abstractmethod
    def volume(self) -> float:
        """Volume, or area of a plane: on the host, to refuse a region too small for its atoms."""

    @property
    @abc.abstractmethod
    def centre(self) -> Array:
        """Its middle (3,). In a periodic cell points are judged by their image nearest to it."""

    @abc.abstractmethod
    def swollen(self, margin: float) -> float:
        """Volume, or area of a plane, that balls of radius `margin` with centres inside can touch at most; on the host."""

    @abc.abstractmethod
    def span(self, direction) -> tuple[float, float]:
        """The lowest and highest of the products of its points with a vector (3,); on the host."""


def _array(value) -> np.ndarray:
    return np.asarray(value, np.float64)


def _flags(value) -> Any:
    return tuple(bool(v) for v in value)


class Box(Region):
    """What three `vectors` (rows) span from `origin`, without walls along those that are `periodic`.

    In a box with oblique vectors the projection is along them: a point on the wall, not always the nearest one.
    """

    vectors: Float[Array, "3 3"] = eqx.field(converter=_array)
    origin: Float[Array, "3"] = eqx.field(converter=_array, default=(0.0, 0.0, 0.0))
    periodic: tuple[bool, bool, bool] = eqx.field(static=True, converter=_flags, default=(False, False, False))

    def __check_init__(self):
        _require(self.vectors, (3, 3), "the vectors of a box", "three rows of three numbers")
        _require(self.origin, (3,), "the origin of a box", "three numbers")
        if not self.volume > 1e-9:
            raise InputError("the vectors of the box span no volume; give three that do not lie in one plane")

    def sample(self, key, shape, dtype):
        return jr.uniform(key, (*shape, 3), dtype) @ jnp.asarray(self.vectors, dtype) + jnp.asarray(self.origin, dtype)

    def contains(self, points):
        f = self._fractions(points)
        return (jnp.asarray(self.periodic) | ((f >= -ROUNDING) & (f <= 1 + ROUNDING))).all(-1)

    def project(self, points):
        f = self._fractions(points)
        off = jnp.where(jnp.asarray(self.periodic), 0, jnp.clip(f, 0, 1) - f)
        return points + off @ jnp.asarray(self.vectors, points.dtype)

    @property
    def dimensions(self) -> int:
        return 3

    @property
    def volume(self) -> float:
        return float(abs(np.linalg.det(self.vectors)))

    @property
    def centre(self):
        return self.origin + self.vectors.sum(0) / 2

    def swollen(self, margin):
        heights = 1 / np.linalg.norm(np.linalg.inv(self.vectors), axis=0)
        return self.volume * float(np.prod(np.where(self.periodic, 1.0, 1 + 2 * margin / heights)))

    def span(self, direction):
        along = np.asarray(self.vectors) @ direction
        start = float(np.asarray(self.origin) @ direction)
        return start + float(np.minimum(along, 0).sum()), start + float(np.maximum(along, 0).sum())

    def _fractions(self, points):
        inverse = jnp.linalg.inv(jnp.asarray(self.vectors, points.dtype))
        return (points - jnp.asarray(self.origin, points.dtype)) @ inverse


class Sphere(Region):
    """Within `radius` of `center`."""

    radius: float
    center: Float[Array, "3"] = eqx.field(converter=_array, default=(0.0, 0.0, 0.0))

    def __check_init__(self):
        _require(self.center, (3,), "the center of a sphere", "three numbers")
        _positive(self.radius, "the radius of a sphere")

    def sample(self, key, shape, dtype):
        k1, k2 = jr.split(key)
        v = jr.normal(k1, (*shape, 3), dtype)
        v = v / jnp.sqrt(jnp.maximum((v * v).sum(-1, keepdims=True), 1e-20))
        radius = jnp.asarray(self.radius, dtype) * jnp.cbrt(jr.uniform(k2, (*shape, 1), dtype))
        return v * radius + jnp.asarray(self.center, dtype)

    def contains(self, points):
        d = points - jnp.asarray(self.center, points.dtype)
        return (d * d).sum(-1) <= (self.radius * (1 + ROUNDING)) ** 2

    def project(self, points):
        d = points - jnp.asarray(self.center, points.dtype)
        length = jnp.sqrt(jnp.maximum((d * d).sum(-1, keepdims=True), 1e-20))
        return points - d * jnp.maximum(1 - jnp.asarray(self.radius, points.dtype) / length, 0)

    @property
    def dimensions(self) -> int:
        return 3

    @property
    def volume(self) -> float:
        return self.swollen(0.0)

    @property
    def centre(self):
        return self.center

    def swollen(self, margin):
        return float(4 / 3 * np.pi * (self.radius + margin) ** 3)

    def span(self, direction):
        middle, size = float(self.center @ direction), float(self.radius * np.linalg.norm(direction))
        return middle - size, middle + size


class Slab(Region):
    """Heights z from `low` to `high` over all of a periodic plane; `vectors` are the x and y of its two cell vectors."""

    low: float
    high: float
    vectors: Float[Array, "2 2"] = eqx.field(converter=_array)

    def __check_init__(self):
        _require(self.vectors, (2, 2), "the vectors of a slab", "two rows of x and y")
        if isinstance(self.low, int | float) and isinstance(self.high, int | float) and not self.low < self.high:
            raise InputError(f"a slab from z = {self.low:g} to {self.high:g} has no height; low must be below high")
        _area(self.vectors, "slab")

    def sample(self, key, shape, dtype):
        u = jr.uniform(key, (*shape, 3), dtype)
        low, high = (jnp.asarray(v, dtype) for v in (self.low, self.high))
        return jnp.concatenate([u[..., :2] @ jnp.asarray(self.vectors, dtype), low + u[..., 2:] * (high - low)], -1)

    def contains(self, points):
        slack = ROUNDING * (self.high - self.low)
        return (points[..., 2] >= self.low - slack) & (points[..., 2] <= self.high + slack)

    def project(self, points):
        z = jnp.clip(points[..., 2:], jnp.asarray(self.low, points.dtype), jnp.asarray(self.high, points.dtype))
        return jnp.concatenate([points[..., :2], z], -1)

    @property
    def dimensions(self) -> int:
        return 3

    @property
    def volume(self) -> float:
        return self.swollen(0.0)

    @property
    def centre(self):
        z = jnp.asarray((self.low + self.high) / 2)
        return jnp.concatenate([jnp.asarray(self.vectors, z.dtype).sum(0) / 2, z[None]])

    def swollen(self, margin):
        return _area(self.vectors, "slab") * float(self.high - self.low + 2 * margin)

    def span(self, direction):
        along = np.asarray(self.vectors) @ np.asarray(direction)[:2]
        z = sorted(float(h * direction[2]) for h in (self.low, self.high))
        return z[0] + float(np.minimum(along, 0).sum()), z[1] + float(np.maximum(along, 0).sum())


class Plane(Region):
    """A flat piece at z = `height`: what two `vectors` (rows of x and y) span from `corner`, for two-dimensional searches.

    Without walls along the vectors that are `periodic`.
    """

    vectors: Float[Array, "2 2"] = eqx.field(converter=_array)
    height: float = 0.0
    corner: Float[Array, "2"] = eqx.field(converter=_array, default=(0.0, 0.0))
    periodic: tuple[bool, bool] = eqx.field(static=True, converter=_flags, default=(False, False))

    def __check_init__(self):
        _require(self.vectors, (2, 2), "the vectors of a plane", "two rows of x and y")
        _require(self.corner, (2,), "the corner of a plane", "x and y")
        _area(self.vectors, "plane")

    def sample(self, key, shape, dtype):
        xy = jr.uniform(key, (*shape, 2), dtype) @ jnp.asarray(self.vectors, dtype) + jnp.asarray(self.corner, dtype)
        return jnp.concatenate([xy, jnp.full((*shape, 1), jnp.asarray(self.height, dtype))], -1)

    def contains(self, points):
        f = self._fractions(points)
        inside = (jnp.asarray(self.periodic) | ((f >= -ROUNDING) & (f <= 1 + ROUNDING))).all(-1)
        return inside & (jnp.abs(points[..., 2] - self.height) < 1e-3)

    def project(self, points):
        f = self._fractions(points)
        off = jnp.where(jnp.asarray(self.periodic), 0, jnp.clip(f, 0, 1) - f)
        xy = points[..., :2] + off @ jnp.asarray(self.vectors, points.dtype)
        return jnp.concatenate([xy, jnp.full_like(points[..., 2:], self.height)], -1)

    @property
    def dimensions(self) -> int:
        return 2

    @property
    def volume(self) -> float:
        return _area(self.vectors, "plane")

    @property
    def centre(self):
        z = jnp.asarray(self.height)
        xy = jnp.asarray(self.corner, z.dtype) + jnp.asarray(self.vectors, z.dtype).sum(0) / 2
        return jnp.concatenate([xy, z[None]])

    def swollen(self, margin):
        widths = 1 / np.linalg.norm(np.linalg.inv(self.vectors), axis=0)
        return self.volume * float(np.prod(np.where(self.periodic, 1.0, 1 + 2 * margin / widths)))

    def span(self, direction):
        along = np.asarray(self.vectors) @ np.asarray(direction)[:2]
        start = float(np.asarray(self.corner) @ np.asarray(direction)[:2] + self.height * direction[2])
        return start + float(np.minimum(along, 0).sum()), start + float(np.maximum(along, 0).sum())

    def _fractions(self, points):
        inverse = jnp.linalg.inv(jnp.asarray(self.vectors, points.dtype))
        return (points[..., :2] - jnp.asarray(self.corner, points.dtype)) @ inverse


def _require(value, shape: tuple[int, ...], what: str, wanted: str) -> None:
    if value.shape != shape or not np.isfinite(value).all():
        raise InputError(f"{what} are {value.tolist()}; give {wanted}" if len(shape) > 1 else f"{what} is not {wanted}")


def _positive(value, what: str) -> None:
    if isinstance(value, int | float) and not 0 < value < np.inf:
        raise InputError(f"{what} is {value:g}; it must be positive")


def _area(vectors, what: str) -> float:
    area = float(abs(np.linalg.det(vectors)))
    if not area > 1e-9:
        raise InputError(f"the vectors of the {what} span no area; give two that are not along one line")
    return area
