"""What an agent sees of atoms: the channels that each of them makes around itself.

M.-P. V. Christiansen, H. L. Mortensen, S. A. Meldgaard, B. Hammer, "Gaussian representation for image recognition and
reinforcement learning of atomistic structure", J. Chem. Phys. 153, 044107 (2020), doi:10.1063/5.0015571. Atoms may be
anywhere: a channel is a function of the displacement from atom to voxel, and an image is the sum over the atoms.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.typing import Array

#: How much of the running statistics a batch replaces, once there are some.
MOMENTUM = 0.1
#: Least variance that is divided by: an image in which nothing is.
LEAST_VARIANCE = 1e-5


class Representation(eqx.Module):
    """Channels of an atom: `n_basis` functions of the displacement, combined to `channels` images for each species."""

    #: Fields that training changes.
    learned: ClassVar[tuple[str, ...]] = ()
    #: Whether atoms are moved to the nearest voxel before they are seen.
    snapped: ClassVar[bool] = False

    #: What is seen where nothing is.
    bias: float = eqx.field(default=0.0, kw_only=True)

    @property
    @abc.abstractmethod
    def n_basis(self) -> int:
        """Number of functions."""

    @property
    def channels(self) -> int:
        """Images for each species."""
        return self.n_basis

    @abc.abstractmethod
    def basis(self, offsets, spacing) -> Array:
        """Functions (..., n_basis) of displacements (..., 3) from atom to voxel; `spacing` of voxels, both in Å."""

    def combined(self, sums) -> Array:
        """Images (batch, species * channels, sites) of sums over atoms (batch, species, n_basis, sites)."""
        return sums.reshape(sums.shape[0], -1, sums.shape[-1]) + self.bias

    def penalty(self):
        """What training adds to its loss."""
        return jnp.zeros(())

    def settled(self, sums) -> Representation:
        """Itself with what it keeps of the images it has seen: of sums as in `combined`."""
        return self


class OneHot(Representation):
    """1 on the voxel of an atom, 0 on all others, plus `bias`. What atoms off the grid are is lost."""

    snapped: ClassVar[bool] = True

    @property
    def n_basis(self) -> int:
        return 1

    def basis(self, offsets, spacing):
        near = (offsets * offsets).sum(-1, keepdims=True) < (spacing / 4) ** 2
        return near.astype(offsets.dtype)


class Gaussian(Representation):
    """A Gaussian of `width` (Å) and height 1, plus `bias`."""

    width: float = 0.3

    def __check_init__(self):
        _positive("width", self.width)

    @property
    def n_basis(self) -> int:
        return 1

    def basis(self, offsets, spacing):
        return _gaussian((offsets * offsets).sum(-1, keepdims=True), self.width)


class AutomaticGaussian(Representation):
    """A sum over Gaussians of several `widths` (Å) whose weights are trained with the network, plus `bias`.

    The image of each width is normalised before it is weighted, by mean and variance of what training has seen so far: its
    weight says how much that width matters, which `l1` times the sum of their magnitudes in the loss then thins out.
    """

    learned: ClassVar[tuple[str, ...]] = ("weights",)

    widths: tuple[float, ...] = eqx.field(static=True)
    l1: float
    weights: Array  # (widths,)
    mean: Array  # (widths,)
    variance: Array  # (widths,)
    batches: Array  # () how many batches the statistics are of

    def __init__(self, widths: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6), l1: float = 0.0, bias: float = 0.0):
        for width in widths:
            _positive("a width of widths", width)
        if not widths:
            raise InputError("widths of an automatic-gaussian representation are none; give at least one")
        n = len(widths)
        self.widths, self.l1, self.bias = tuple(float(w) for w in widths), l1, bias
        self.weights = np.full(n, 1 / n, np.float32)
        self.mean, self.variance = np.zeros(n, np.float32), np.ones(n, np.float32)
        self.batches = np.zeros((), np.float32)

    @property
    def n_basis(self) -> int:
        return len(self.widths)

    @property
    def channels(self) -> int:
        return 1

    def basis(self, offsets, spacing):
        return _gaussian((offsets * offsets).sum(-1, keepdims=True), jnp.asarray(self.widths, offsets.dtype))

    def combined(self, sums):
        scale = jnp.asarray(self.weights) / jnp.sqrt(jnp.asarray(self.variance) + LEAST_VARIANCE)
        return jnp.einsum("bskn,k->bsn", sums, scale) - scale @ self.mean + self.bias

    def penalty(self):
        return self.l1 * jnp.abs(jnp.asarray(self.weights)).sum()

    def settled(self, sums):
        # The first batches are averaged, so that the start does not count; later ones fade out the oldest.
        rate = jnp.maximum(1 / (jnp.asarray(self.batches) + 1), MOMENTUM)
        mean, variance = sums.mean((0, 1, 3)), sums.var((0, 1, 3))
        new = (
            self.mean + rate * (mean - self.mean),
            self.variance + rate * (variance - self.variance),
            self.batches + 1,
        )
        return eqx.tree_at(lambda r: (r.mean, r.variance, r.batches), self, new)


class Displaced(Representation):
    """Gaussians of `width` in `count` channels, displaced by `radius` (both Å) in as many directions across z, plus `bias`."""

    width: float = 0.3
    radius: float = 0.5
    count: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        _positive("width", self.width)
        if self.count < 1:
            raise InputError(f"count of a displaced representation is {self.count}; it must be at least 1")

    @property
    def n_basis(self) -> int:
        return self.count

    def basis(self, offsets, spacing):
        angles = 2 * np.pi * np.arange(self.count) / self.count
        centres = self.radius * jnp.asarray(np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1), offsets.dtype)
        d = offsets[..., None, :] - centres
        return _gaussian((d * d).sum(-1), self.width)


class CircularHarmonics(Representation):
    """A Gaussian of `width` (Å) times cos(m phi) and sin(m phi), m from 0 to `order`, phi about z; plus `bias`.

    The parts of order m rise as (r / width)^m from the atom, so that they are smooth there; each has the height 1.
    """

    width: float = 0.3
    order: int = eqx.field(static=True, default=3)

    def __check_init__(self):
        _positive("width", self.width)
        if self.order < 0:
            raise InputError(f"order of a circular-harmonics representation is {self.order}; it must not be negative")

    @property
    def n_basis(self) -> int:
        return 1 + 2 * self.order

    def basis(self, offsets, spacing):
        u = offsets / self.width
        x, y = u[..., 0], u[..., 1]
        height = jnp.exp(-(u * u).sum(-1) / 2)
        real, imaginary = jnp.ones_like(x), jnp.zeros_like(x)
        parts = [height]
        for m in range(1, self.order + 1):
            real, imaginary = real * x - imaginary * y, real * y + imaginary * x
            scale = (np.e / m) ** (m / 2)  # r^m exp(-r^2 / 2) is highest at r = sqrt(m)
            parts += [scale * real * height, scale * imaginary * height]
        return jnp.stack(parts, -1)


def _gaussian(squared, width):
    return jnp.exp(-squared / (2 * width**2))


def _positive(name: str, value) -> None:
    """Raise for a length that is not positive; traced ones pass."""
    if isinstance(value, int | float) and not value > 0:
        raise InputError(f"{name} of a representation is {value:g}; it must be positive")
