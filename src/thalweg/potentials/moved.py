"""A landscape shifted, rotated, stretched and scaled: the same difficulty with the minimum where nobody looks first.

The centre of a box is where averages, untrained networks and many starts are: a function with its minimum there is found
by methods that find nothing.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.landscapes import Landscape
from thalweg.typing import Array

#: Most variables that are rotated together. Beyond, several rounds of rotated blocks, shuffled in between, mix all with all.
TOGETHER, ROUNDS = 64, 3


class Rotation(eqx.Module):
    """An orthogonal map of vectors, random by Haar's measure up to `TOGETHER` variables.

    Beyond, `ROUNDS` times: put the variables into the order `orders` (rounds, dim) and turn blocks of neighbours by
    `blocks` (rounds, number, size, size); the few that fill no block stay. D^2 products per vector would be dearer than
    the functions.
    """

    orders: Array
    blocks: Array

    @classmethod
    def random(cls, rng: np.random.Generator, dim: int) -> Rotation:
        """For vectors of `dim` variables."""
        rounds, size = (1, dim) if dim <= TOGETHER else (ROUNDS, max(2, round(dim**0.5)))
        gauss = rng.normal(size=(rounds, dim // size, size, size))
        q, r = np.linalg.qr(gauss)
        # With R's diagonal positive Q is uniform (F. Mezzadri, Notices AMS 54, 592 (2007)).
        blocks = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
        return cls(np.stack([rng.permutation(dim) for _ in range(rounds)]).astype(np.int32), blocks)

    def __call__(self, x):
        """Vectors (dim, *lanes) turned."""
        rounds, number, size, _ = self.blocks.shape
        for k in range(rounds):
            x = x[self.orders[k]]
            head = x[: number * size].reshape(number, size, -1)
            turned = jnp.einsum("nij,njl->nil", jnp.asarray(self.blocks[k], x.dtype), head)
            x = jnp.concatenate([turned.reshape(number * size, *x.shape[1:]), x[number * size :]])
        return x


class Moved(Landscape):
    """scale * inner(stretch * R (x - place) + the inner minimiser) + offset: the minimum is at `place`.

    Without a `place` it is drawn uniform in the middle half of the box `within`, by `seed`. `rotated` puts in a random
    rotation R. `condition` stretches the inner axes by factors around 1 whose squares differ by up to so much.
    """

    inner: Landscape
    place: Array
    rotation: Rotation | None
    stretch: Array
    scale: float
    offset: float
    within: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        inner: Landscape,
        seed: int = 0,
        within: tuple[float, float] = (-100.0, 100.0),
        rotated: bool = False,
        condition: float = 1.0,
        scale: float = 1.0,
        offset: float = 0.0,
        place: Array | None = None,
    ):
        low, high = float(within[0]), float(within[1])
        if not low < high:
            raise InputError(f"within is {low:g} to {high:g}; the box needs its lower end first, such as [-100, 100]")
        if not condition >= 1:
            raise InputError(f"the condition is {condition:g}; it must be at least 1")
        if not scale > 0:
            raise InputError(f"the scale is {scale:g}; it must be positive, or the minimum is none")
        if not np.isfinite(inner.minimiser).all():
            raise InputError(f"the minimum of {type(inner).__name__} is not known, so it cannot be put anywhere")
        rng, quarter = np.random.default_rng(seed), (high - low) / 4
        drawn = (low + high) / 2 + rng.uniform(-quarter, quarter, inner.dim)
        self.place = drawn if place is None else np.asarray(place, np.float64)
        if np.shape(self.place) != (inner.dim,):
            raise InputError(
                f"the place has shape {np.shape(self.place)}; it needs one number for each of {inner.dim} variables"
            )
        self.inner, self.scale, self.offset, self.within = inner, scale, offset, (low, high)
        self.rotation = Rotation.random(rng, inner.dim) if rotated else None
        self.stretch = condition ** (np.linspace(-0.25, 0.25, inner.dim) if inner.dim > 1 else np.zeros(1))

    @classmethod
    def random(
        cls, rng: np.random.Generator, inner: Landscape, within: tuple[float, float] = (-100.0, 100.0), rotated: bool = False,
        condition: float = 1.0,
    ) -> Moved:  # fmt: skip
        """With a place, and a rotation, drawn by `rng`."""
        return cls(inner, int(rng.integers(2**31)), within, rotated, condition)

    def value(self, x):
        column = lambda a: jnp.asarray(a, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        away = x - column(self.place)
        away = away if self.rotation is None else self.rotation(away)
        return self.scale * self.inner.value(away * column(self.stretch) + column(self.inner.minimiser)) + self.offset

    @property
    def dim(self) -> int:
        return self.inner.dim

    @property
    def domain(self) -> tuple[float, float]:
        return self.within

    @property
    def minimiser(self) -> np.ndarray:
        return np.asarray(self.place, np.float64)

    @property
    def minimum(self) -> float:
        return float(self.scale * self.inner.minimum + self.offset)

    @property
    def ripple(self) -> tuple[float, float]:
        length, height = self.inner.ripple
        return length, float(self.scale * height)
