"""A small convolutional network over voxels: what an agent expects of an atom placed on each of them."""

from __future__ import annotations

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.layers import activated
from thalweg.typing import Array, Bool, Float, Int

#: How the sites along an axis are read: those about a voxel, all that there are, or those with their periodic images.
CROP, ALL, WRAPPED = "crop", "all", "wrapped"


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

    def maps(self, images, periodic: tuple[bool, bool, bool], empty) -> Array:
        """Values (batch, outputs, nx, ny, nz) of images (batch, inputs, nx, ny, nz); `empty` (inputs,) is an empty voxel."""
        x = jnp.moveaxis(images, 1, 0)
        reads = [WRAPPED if p else ALL for p in periodic]
        for k, vacuum in enumerate(self._vacua(empty)):
            y = _convolved(self.weights[k], x - _wide(vacuum), self.kernel, self.dilation, self.dimensions, reads)
            x = self._activated(k, y, vacuum)
        return jnp.moveaxis(x, 0, 1)

    def sites(self, voxels: Int[Array, "batch 3"], shape: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Sites:
        """What is to be read of a grid for the values of `voxels`: with dilation d every d-th voxel only."""
        reads, axes, middle = self._reads(shape, periodic), [], []
        for k, read in enumerate(reads):
            v = voxels[:, k, None]
            crop = self._crops[0] if k < self.dimensions else 1
            if read == ALL:
                axes.append(v % self.dilation + self.dilation * np.arange(-(-shape[k] // self.dilation)))
                middle.append(v[:, 0] // self.dilation)
            else:
                axes.append(v + self.dilation * (np.arange(crop) - crop // 2))
                middle.append(jnp.full(len(v), crop // 2))
        full = [len(voxels), *[a.shape[1] for a in axes]]
        wide = [a.reshape(len(a), *[-1 if i == k else 1 for i in range(3)]) for k, a in enumerate(axes)]
        at = jnp.stack([jnp.broadcast_to(a, full) for a in wide], -1)
        inside = (jnp.asarray(periodic) | ((at >= 0) & (at < np.asarray(shape)))).all(-1)
        return Sites(at, inside, jnp.stack(middle, -1), reads)

    def values(self, images, sites: Sites, empty) -> Array:
        """Values (batch, outputs) of voxels from `images` (batch, inputs, *sites) of the sites that `sites` names for them."""
        x, inside, half = jnp.moveaxis(images, 1, 0), sites.inside, self.kernel // 2
        *hidden, last = self._vacua(empty)
        for k, vacuum in enumerate(hidden):
            off = jnp.where(inside, x - _wide(vacuum), 0.0)
            x = self._activated(k, _convolved(self.weights[k], off, self.kernel, 1, self.dimensions, sites.reads), vacuum)
            trims = [half if k < self.dimensions and r == CROP else 0 for k, r in enumerate(sites.reads)]
            inside = inside[(slice(None), *[slice(t, n - t) for t, n in zip(trims, inside.shape[1:], strict=True)])]
        off = jnp.where(inside, x - _wide(last), 0.0)
        near = _about(off, sites, self.kernel, self.dimensions)
        y = jnp.einsum("oit,ibt->ob", jnp.asarray(self.weights[-1]), near, precision=lax.Precision.HIGHEST)
        return self._activated(-1, y[:, :, None, None, None], last)[:, :, 0, 0, 0].T

    @property
    def _crops(self) -> list[int]:
        """Along an axis, in kernels' steps, on how many sites of what each layer reads one value depends."""
        return [1 + k * (self.kernel - 1) for k in range(len(self.weights), 0, -1)]

    def _reads(self, shape, periodic) -> tuple[str, str, str]:
        """Whether the sites about a voxel are read along each axis, or all that there are, where those are fewer."""
        sides = [-(-n // self.dilation) + self.kernel // 2 for n in shape]
        fewer = [1.2 * (len(self.weights) - 1) * n < sum(self._crops) for n in sides]
        found = [ALL if k < self.dimensions and fewer[k] and not periodic[k] else CROP for k in range(3)]
        return found[0], found[1], found[2]

    def _vacua(self, empty) -> list:
        """What each layer reads (in,) where there is nothing."""
        found = [jnp.asarray(empty, jnp.float32)]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            found.append(activated(jnp.asarray(w).sum(-1) @ found[-1] + b))
        return found

    def _activated(self, layer: int, values, vacuum):
        """A layer's values of sums over what was read above the `vacuum`."""
        layer %= len(self.weights)
        values = values + _wide(jnp.asarray(self.weights[layer]).sum(-1) @ vacuum + self.biases[layer])
        return activated(values) if layer + 1 < len(self.weights) else jnp.tanh(values)


class Sites(eqx.Module):
    """What is read for the values of some voxels: indices `at` (batch, *sites, 3) on the grid, which of them are `inside` of
    it (their images, where an axis is periodic), the place (batch, 3) of each voxel among them, and how axes are read."""

    at: Int[Array, "batch *sites 3"]
    inside: Bool[Array, "batch *sites"]
    middle: Int[Array, "batch 3"]
    reads: tuple[str, str, str] = eqx.field(static=True)


def _wide(channels):
    return channels.reshape(-1, 1, 1, 1, 1)


def _about(x, sites: Sites, kernel: int, dimensions: int):
    """What the last kernel reads (in, batch, taps) of x (in, batch, *sites)."""
    edges = [kernel if k < dimensions else 1 for k in range(3)]
    whole = [r == ALL for r in sites.reads]
    x = jnp.pad(x, [(0, 0), (0, 0), *[(e // 2, e // 2) if w else (0, 0) for e, w in zip(edges, whole, strict=True)]])
    if any(whole):
        start = jnp.where(np.asarray(whole), sites.middle, 0)
        cut = lambda one, at: lax.dynamic_slice(one, (jnp.zeros_like(at[0]), *at), (len(x), *edges))
        x = jax.vmap(cut, (1, 0), 1)(x, start)
    return x.reshape(*x.shape[:2], -1)


def _convolved(weights, x, kernel: int, dilation: int, dimensions: int, reads):
    """Sums over taps (out, batch, nx', ny', nz') of x (in, batch, nx, ny, nz), `dilation` apart, axes read as `reads` says.

    The taps leave as many interleaved images to themselves: each goes through a kernel without gaps.
    """
    apart = [dilation if k < dimensions else 1 for k in range(3)]
    edges = [kernel if k < dimensions else 1 for k in range(3)]
    shape = [n - (e - 1) * d if r == CROP else n for n, e, d, r in zip(x.shape[2:], edges, apart, reads, strict=True)]
    split = _interleaved(_padded(x, [d * (e // 2) for e, d in zip(edges, apart, strict=True)], reads), apart)
    # Of voxels along axes that there are, so that nothing is transformed for the third axis of a plane.
    split = split.reshape(*split.shape[: 2 + dimensions])
    kernels = jnp.reshape(weights, (*weights.shape[:2], *edges[:dimensions]))
    y = _correlated(kernels, split)
    y = y.reshape(*y.shape, *[1] * (3 - dimensions))
    return _woven(y, apart, x.shape[1])[:, :, : shape[0], : shape[1], : shape[2]]


def _padded(x, half: list[int], reads):
    """Half a kernel more on each side: images of what is periodic, zeros beside what is whole, nothing beside a crop.

    Transforms are of periodic images, so that zeros before the first voxel are also behind the last one.
    """
    zeros = [(h, 0) if r == ALL else (0, 0) for h, r in zip(half, reads, strict=True)]
    images = [(h, h) if r == WRAPPED else (0, 0) for h, r in zip(half, reads, strict=True)]
    return jnp.pad(jnp.pad(x, [(0, 0), (0, 0), *zeros]), [(0, 0), (0, 0), *images], mode="wrap")


@jax.custom_vjp
def _correlated(kernels, x):
    """Sums over taps (out, batch, ...) of x (in, batch, ...); those that would need padding, and more, mean nothing.

    By Fourier transforms, on a CPU faster than windows for all but the smallest kernels (`benchmarks/voxels.py`).
    """
    return _transformed(kernels, x)[0]


def _transformed(kernels, x):
    axes, size = tuple(range(2, x.ndim)), [_fast(n) for n in x.shape[2:]]
    waves, images = jnp.fft.rfftn(kernels, size, axes), jnp.fft.rfftn(x, size, axes)
    # y[p] = sum_t k[t] x[p + t]
    return jnp.fft.irfftn(_products(waves.conj(), images), size, axes), (waves, images, kernels, x)


def _transformed_back(kept, g):
    """Gradients by kernels and x, in real transforms: JAX's own of one is a complex one of twice the numbers."""
    waves, images, kernels, x = kept
    axes, size = tuple(range(2, g.ndim)), g.shape[2:]
    known = jnp.fft.rfftn(g, size, axes)
    back = lambda f, like: jnp.fft.irfftn(f, size, axes)[tuple(slice(n) for n in like.shape)]
    # k[t]: sum_p g[p] x[p + t], over the batch; x[q]: sum_t k[t] g[q - t].
    by_kernels = _products(known.conj(), images.swapaxes(0, 1))
    return back(by_kernels, kernels), back(_products(waves.swapaxes(0, 1), known), x)


_correlated.defvjp(_transformed, _transformed_back)


def _products(a, b):
    """Products (n, m, ...) of matrices of complex numbers (n, k, ...) and (k, m, ...), one for each place.

    Elementwise in real numbers: the compiler vectorises that, not complex products, nor ten channels.
    """
    r, i, s, t = a.real, a.imag, b.real, b.imag
    real = sum(r[:, k, None] * s[k] - i[:, k, None] * t[k] for k in range(len(b)))
    imaginary = sum(r[:, k, None] * t[k] + i[:, k, None] * s[k] for k in range(len(b)))
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
