"""A picture of where atoms are, through a convolutional network."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.layers import Stack
from thalweg.networks.schnet import smooth
from thalweg.surrogates.networks.base import ONE, ZERO, EnergyNetwork, Subject
from thalweg.surrogates.networks.pairs import kinds
from thalweg.typing import Array


class Occupancy(EnergyNetwork):
    """Convolutions of 3 x 3 pixels, every second one at half the resolution, then mean and maximum over pixels and a head.

    A pixel holds the number of atoms in it, one channel per species. So it knows no distance within a pixel, and has no
    derivatives. With `shared` an atom is shared by the four pixels about it in proportion (cloud in cell): then it has both.
    """

    kind: ClassVar[str] = "occupancy"
    augmentations: ClassVar[tuple[str, ...]] = ("mirrored",)

    shift: Array
    scale: Array
    kernels: tuple[Array, ...]  # (3, 3, in, out)
    biases: tuple[Array, ...]
    head: Stack
    subject: Subject = eqx.field(static=True)
    pixels: int = eqx.field(static=True)
    shared: bool = eqx.field(static=True)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        subject: Subject,
        width: int = 32,
        layers: int = 4,
        pixels: int = 32,
        shared: bool = False,
    ) -> Occupancy:
        """Untrained, with `layers` convolutions to `width` channels. Raises `InputError` where there is no box or no plane."""
        if subject.box is None or subject.dimensions != 2:
            raise InputError('the network "occupancy" needs atoms in a plane and a box; use "graph" or "schnet" for others')
        channels = [len(subject.species), *[width] * layers]
        kernels = tuple((rng.normal(size=(3, 3, a, b)) / np.sqrt(9 * a)).astype(np.float32) for a, b in pairwise(channels))
        biases = tuple(np.zeros(b, np.float32) for b in channels[1:])
        head = Stack.random(rng, 2 * width, width, 1)
        return cls(
            kernels=kernels, biases=biases, head=head, subject=subject, pixels=pixels, shared=shared, shift=ZERO, scale=ONE
        )

    def outputs(self, positions, numbers):
        image = self.image(positions, numbers)
        for k, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            stride = 1 + k % 2
            image = jax.nn.silu(_convolved(image, jnp.asarray(kernel), stride) + bias)
        return smooth(self.head, jnp.concatenate([image.mean((1, 2)), image.max((1, 2))], -1))[:, 0]

    def image(self, positions, numbers):
        """Numbers of atoms (batch, pixels, pixels, species)."""
        box, pixels = self.subject.box or 1.0, self.pixels
        places = np.arange(pixels, dtype=np.float32) + 0.5
        x = positions[..., :2] * (pixels / box)
        away = jnp.abs(x[..., None] - places)  # (batch, atoms, 2, pixels)
        if self.shared:
            rows = jnp.maximum(1 - away, 0)
        else:
            # By the whole part: on the line between two pixels an atom is in one of them.
            inside = jnp.clip(jnp.floor(x), 0, pixels - 1)
            rows = (inside[..., None] == jnp.floor(places)).astype(x.dtype)
        kind = kinds(numbers, self.subject)
        return jnp.einsum("bap,baq,as->bpqs", rows[:, :, 0], rows[:, :, 1], kind)


def _convolved(image, kernel, stride: int):
    """Sums over 3 x 3 pixels, those outside being empty."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(image, kernel, (stride, stride), "SAME", dimension_numbers=layout)
