"""A small convolutional network over voxels: what an agent expects of an atom placed on each of them."""

from __future__ import annotations

from itertools import pairwise

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.layers import activated
from thalweg.typing import Array, Bool, Float

#: Larger kernels, and all in a volume, are much faster by Fourier transforms on a CPU: see `benchmarks/voxels.py`.
SMALL = 5


class VoxelNetwork(eqx.Module):
    """Convolutions with leaky ReLU between them and tanh at the end: values between -1 and 1 of every voxel.

    `weights[l]` (out, in, taps), taps in C order over the axes, and `biases[l]` (out,), float32. All layers have kernels of
    `kernel` voxels, `dilation` voxels apart. M. S. Jørgensen, H. L. Mortensen, S. A. Meldgaard, E. L. Kolsbjerg, T. L.
    Jacobsen, K. H. Sørensen, B. Hammer, J. Chem. Phys. 151, 054111 (2019), doi:10.1063/1.5108871.

    Beyond an edge every layer reads vacuum: what the one before it makes of an empty image. So nothing is to be seen of an
    edge where no atoms are near it, which zeros would not give.
    """

    weights: tuple[Float[Array, "out in taps"], ...]
    biases: tuple[Float[Array, " out"], ...]
    kernel: int = eqx.field(static=True)
    dilation: int = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    def __check_init__(self):
        if self.dimensions not in (2, 3):
            raise InputError(f"a network of voxels has 2 or 3 dimensions, not {self.dimensions}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"kernel is {self.kernel}; it must be odd, so that every voxel is in the middle of its kernel")
        if self.dilation < 1:
            raise InputError(f"dilation is {self.dilation}; it must be at least 1")

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        inputs: int,
        outputs: int,
        dimensions: int = 2,
        kernel: int = 5,
        dilation: int = 3,
        hidden: int = 10,
        layers: int = 4,
    ) -> VoxelNetwork:
        """Normal weights of variance 2 / (inputs x taps), that of the last layer half as much, and no bias (He)."""
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        shapes = [(b, a, kernel**dimensions) for a, b in pairwise(widths)]
        spreads = [np.sqrt((2.0 if k + 1 < layers else 1.0) / (s[1] * s[2])) for k, s in enumerate(shapes)]
        weights = tuple((rng.normal(size=s) * d).astype(np.float32) for s, d in zip(shapes, spreads, strict=True))
        return cls(weights, tuple(np.zeros(s[0], np.float32) for s in shapes), kernel, dilation, dimensions)

    @property
    def n_parameters(self) -> int:
        """How many numbers it has learned."""
        return sum(a.size for a in (*self.weights, *self.biases))

    @property
    def receptive_field(self) -> int:
        """Edge, in voxels, of the cube on which one value depends."""
        return 1 + len(self.weights) * self.dilation * (self.kernel - 1)

    @property
    def crop_offsets(self) -> np.ndarray:
        """Offsets (*crop, 3), in voxels, of the sites on which one value depends: with dilation d every d-th only."""
        m = len(self.weights) * (self.kernel - 1) + 1
        along = (np.arange(m) - m // 2) * self.dilation
        axes = [along if k < self.dimensions else np.zeros(1, int) for k in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)

    def maps(self, images, periodic: tuple[bool, bool, bool], empty) -> Array:
        """Values (batch, outputs, nx, ny, nz) of images (batch, inputs, nx, ny, nz); `empty` (inputs,) is an empty voxel."""
        x = jnp.moveaxis(images, 1, 0)
        for k, vacuum in enumerate(self._vacua(empty)):
            y = _convolved(self.weights[k], self._padded(x, vacuum, periodic), self.kernel, self.dilation, self.dimensions)
            x = self._activated(k, y)
        return jnp.moveaxis(x, 0, 1)

    def values(self, crops, inside: Bool[Array, "batch *crop"], empty) -> Array:
        """Values (batch, outputs) of the voxels in the middle of `crops` (batch, inputs, *crop): sites at `crop_offsets`, of
        which those `inside` are on the grid (their images, where an axis is periodic)."""
        x = jnp.moveaxis(crops, 1, 0)
        for k, vacuum in enumerate(self._vacua(empty)):
            x = jnp.where(inside, x, vacuum.reshape(-1, 1, 1, 1, 1))
            x = self._activated(k, _convolved(self.weights[k], x, self.kernel, 1, self.dimensions))
            trim = self.kernel // 2
            inside = inside[(slice(None), *[slice(trim, n - trim) for n in inside.shape[1 : 1 + self.dimensions]])]
        return x[:, :, 0, 0, 0].T

    def _vacua(self, empty) -> list:
        """What each layer reads (in,) where there is nothing."""
        found = [jnp.asarray(empty, jnp.float32)]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            found.append(activated(jnp.asarray(w).sum(-1) @ found[-1] + b))
        return found

    def _activated(self, layer: int, values):
        values = values + jnp.asarray(self.biases[layer]).reshape(-1, 1, 1, 1, 1)
        return activated(values) if layer + 1 < len(self.weights) else jnp.tanh(values)

    def _padded(self, x, vacuum, periodic):
        """Half a kernel more on each side: images of what is periodic, vacuum elsewhere."""
        half = self.dilation * (self.kernel // 2)
        off = x - vacuum.reshape(-1, 1, 1, 1, 1)
        wide = [(half, half) if k < self.dimensions else (0, 0) for k in range(3)]
        off = jnp.pad(off, [(0, 0), (0, 0), *[w if not p else (0, 0) for w, p in zip(wide, periodic, strict=True)]])
        off = jnp.pad(off, [(0, 0), (0, 0), *[w if p else (0, 0) for w, p in zip(wide, periodic, strict=True)]], mode="wrap")
        return off + vacuum.reshape(-1, 1, 1, 1, 1)


def _convolved(weights, x, kernel: int, dilation: int, dimensions: int):
    """Sums over taps (out, batch, nx', ny', nz') of x (in, batch, nx, ny, nz), without padding.

    The taps, `dilation` apart, leave that many interleaved images to themselves: each goes through a kernel without gaps.
    """
    apart = [dilation if k < dimensions else 1 for k in range(3)]
    edges = [kernel if k < dimensions else 1 for k in range(3)]
    shape = [n - (e - 1) * d for n, e, d in zip(x.shape[2:], edges, apart, strict=True)]
    split = _interleaved(x, apart)
    # Of voxels along axes that there are, so that nothing is transformed for the third axis of a plane.
    split = split.reshape(*split.shape[: 2 + dimensions])
    kernels = jnp.reshape(weights, (*weights.shape[:2], *edges[:dimensions]))
    by = _by_windows if dimensions == 2 and kernel <= SMALL else _by_transforms
    y = by(kernels, split)
    y = y.reshape(*y.shape, *[1] * (3 - dimensions))
    return _woven(y, apart, x.shape[1])[:, :, : shape[0], : shape[1], : shape[2]]


def _by_windows(kernels, x):
    """Sums over taps (out, batch, ...), by XLA's convolution."""
    return lax.conv_general_dilated(x, kernels, (1, 1), "VALID", dimension_numbers=("CNHW", "OIHW", "CNHW"))


def _by_transforms(kernels, x):
    """Sums over taps (out, batch, ...) by Fourier transforms, larger than without padding: at the ends they mean nothing."""
    axes = tuple(range(2, x.ndim))
    size = [_fast(n) for n in x.shape[2:]]
    return jnp.fft.irfftn(_correlated(jnp.fft.rfftn(kernels, size, axes), jnp.fft.rfftn(x, size, axes)), size, axes)


def _correlated(kernels, x):
    """Sums over inputs (out, batch, ...) of the conjugates of kernels (out, in, ...) times x (in, batch, ...), all complex.

    Elementwise in real numbers: the compiler vectorises that, not complex products, nor ten channels.
    """
    a, b, c, d = kernels.real, kernels.imag, x.real, x.imag
    real = sum(a[:, i, None] * c[i] + b[:, i, None] * d[i] for i in range(len(x)))
    imaginary = sum(a[:, i, None] * d[i] - b[:, i, None] * c[i] for i in range(len(x)))
    return lax.complex(real, imaginary)


def _interleaved(x, apart: list[int]):
    """Every d-th voxel (channels, batch * dx * dy * dz, nx / dx, ...) of x (channels, batch, nx, ny, nz), zeros at its end."""
    if apart == [1, 1, 1]:
        return x
    x = jnp.pad(x, [(0, 0), (0, 0), *[(0, -n % d) for n, d in zip(x.shape[2:], apart, strict=True)]])
    parts = x.reshape(*x.shape[:2], *[m for n, d in zip(x.shape[2:], apart, strict=True) for m in (n // d, d)])
    return parts.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(x.shape[0], -1, *parts.shape[2::2])


def _woven(y, apart: list[int], batch: int):
    """The inverse of `_interleaved`: (channels, batch, nx, ny, nz)."""
    if apart == [1, 1, 1]:
        return y
    parts = y.reshape(y.shape[0], batch, *apart, *y.shape[2:]).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(y.shape[0], batch, *[n * d for n, d in zip(y.shape[2:], apart, strict=True)])


def _fast(n: int) -> int:
    """The least number from n on without prime factors above 7: a size at which Fourier transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
