"""Functions without local minima: networks whose only stationary point is their minimum, which is found by inverting them.

R. Wang, K. Dvijotham, I. R. Manchester, "Monotone, Bi-Lipschitz, and Polyak-Łojasiewicz Networks", ICML 2024, arXiv:2402.01344.
f(x) = height (offset + |G(v)|² / 2) with v = (x - shift) scale and a map G with mu |v - w| <= |G(v) - G(w)| <= nu |v - w|. Then
the gradient vanishes where G does and nowhere else, that is at one point, however G bends space.

What is certified there is that a layer F lies in a sector: (ΔF - low Δ) · (high Δ - ΔF) >= 0. Completing the square, this
is the same as |ΔF - middle Δ| <= radius |Δ| with middle = (low + high) / 2 and radius = (high - low) / 2. So all such layers
are F(v) = middle v + radius N(v) with N nonexpansive, |ΔN| <= |Δ|, and a layer may have any nonexpansive N.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from thalweg.errors import InputError, ThalwegError, suggest
from thalweg.typing import Array

#: Reflections of a Householder layer.
REFLECTIONS = 8
#: Variables up to which there are Cayley layers: equations take long to compile and to solve.
LARGEST_CAYLEY = 300
#: Of the trace of a matrix, what rounding of float32 may take from its least eigenvalue.
ROUNDING = 3e-7
#: Error of an inverse, relative to the size of its target, that iterations are counted for: rounding of float32.
TOLERANCE = 1e-7
#: A residual above this, relative to sizes in the network, is no rounding: weights are not finite.
LARGE_RESIDUAL = 1e-3


class Minimum(NamedTuple):
    """The minimiser `x` (dim,) of a network and its `value`; |G| there is `residual`, so that the true minimiser is no further
    than `error` away. Lengths in units of x."""

    x: np.ndarray
    value: float
    residual: float
    error: float


class Orthogonal(eqx.Module):
    """A rotation or reflection of rows (batch, dim), exact for all raw weights."""

    @abc.abstractmethod
    def __call__(self, v) -> Array:
        """Rows turned."""

    @abc.abstractmethod
    def inverse(self, v) -> Array:
        """Rows turned back."""


class Cayley(Orthogonal):
    """(1 - A) / (1 + A) with A = W - W' of `weights` W (dim, dim): a solution of dim equations per call, for small dim."""

    weights: Array

    @classmethod
    def random(cls, rng: np.random.Generator, dim: int) -> Cayley:
        if dim > LARGEST_CAYLEY:
            raise InputError(f'Cayley layers are for up to {LARGEST_CAYLEY} variables, not {dim}; use "householder" or "none"')
        return cls((rng.normal(size=(dim, dim)) / np.sqrt(dim)).astype(np.float32))

    def matrix(self) -> Array:
        """The matrix (dim, dim) that rows are multiplied by."""
        skew, one = self.weights - self.weights.T, jnp.eye(self.weights.shape[0], dtype=self.weights.dtype)
        return jnp.linalg.solve(one + skew, one - skew)

    def __call__(self, v):
        return v @ self.matrix()

    def inverse(self, v):
        return v @ self.matrix().T


class Householder(Orthogonal):
    """A product of reflections by `vectors` (dim, k) in compact form, 1 - V T V' with 1 / T + 1 / T' = V' V.

    T. Joffrain, T. M. Low, E. S. Quintana-Ortí, R. van de Geijn, F. G. Van Zee, ACM Trans. Math. Softw. 32, 169 (2006),
    doi:10.1145/1141885.1141886. A vector of zeros reflects nothing.
    """

    vectors: Array

    @classmethod
    def random(cls, rng: np.random.Generator, dim: int) -> Householder:
        return cls((rng.normal(size=(dim, min(REFLECTIONS, dim))) / np.sqrt(dim)).astype(np.float32))

    def matrix(self) -> Array:
        """The matrix (dim, dim) that rows are multiplied by."""
        return self(jnp.eye(self.vectors.shape[0], dtype=self.vectors.dtype))

    def __call__(self, v):
        return v - (v @ self.vectors) @ self._between() @ self.vectors.T

    def inverse(self, v):
        return v - (v @ self.vectors) @ self._between().T @ self.vectors.T

    def _between(self):
        products = self.vectors.T @ self.vectors
        squares = jnp.diagonal(products)
        return jnp.linalg.inv(jnp.triu(products, 1) + jnp.diag(jnp.where(squares > 0, squares, 1) / 2))


#: Orthogonal layers by name; "none" has no such layers.
ORTHOGONAL = {"cayley": Cayley, "householder": Householder, "none": None}


class Contraction(eqx.Module):
    """Rows (batch, in) times a matrix T (in, out) of norm below one, whatever the raw `weights` R (in, out) are.

    With the Cholesky factor L of 1 + R'R it is R / L': T'T = 1 - 1 / (L L'), and every T of norm below one is reached. It costs
    a product of the smaller side squared with the larger, and starts from zero where a Cayley map cannot.
    """

    weights: Array
    factor: Array  # inverse of the Cholesky factor, (n, n) with n the smaller side

    @classmethod
    def of(cls, weights) -> Contraction:
        """From raw weights; computed once for a whole batch."""
        wide = weights.shape[0] < weights.shape[1]
        gram = weights @ weights.T if wide else weights.T @ weights
        one = jnp.eye(gram.shape[0], dtype=gram.dtype)
        # More than 1 on the diagonal only lowers the norm, and keeps the factor finite where weights are large.
        return cls(
            weights, solve_triangular(jnp.linalg.cholesky((1 + ROUNDING * jnp.trace(gram)) * one + gram), one, lower=True)
        )

    def __call__(self, v):
        if self.weights.shape[0] < self.weights.shape[1]:
            return (v @ self.factor) @ self.weights
        return (v @ self.weights) @ self.factor.T


class MonotoneLipschitz(eqx.Module):
    """F(v) = middle v + radius N(v) + shift in the sector [low, high], for all raw `weights` (in, out) and `biases` (out,).

    N is contractions with |.| between them: hidden units are pairs of rectified ones, relu(s) + relu(-s), which lose no slope
    where relu loses half (C. Anil, J. Lucas, R. Grosse, ICML 2019, arXiv:1811.05381). The published layer with one hidden
    layer, low v + (high - low) S relu(S'v + b), is the one with S' before and S behind where SS' = 1. With different matrices
    before and behind, as here, its Jacobian need not be symmetric: one layer bends a valley.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]  # of hidden units
    shift: Array  # (dim,)
    low: Array
    high: Array

    @classmethod
    def random(
        cls, rng: np.random.Generator, dim: int, hidden: Sequence[int], low: float, high: float, linear: bool = False
    ) -> MonotoneLipschitz:
        """Normal weights, and hidden units whose kinks lie where v of size one per component is. `linear`: N starts as zero."""
        shapes = list(pairwise([dim, *hidden, dim]))
        weights = [2 * rng.normal(size=s) / np.sqrt(max(s)) for s in shapes]
        if linear:
            weights[-1] = np.zeros(shapes[-1])
        biases = [rng.normal(size=n) * np.sqrt(m / max(m, n)) for m, n in shapes[:-1]]
        cast = lambda arrays: tuple(np.asarray(a, np.float32) for a in arrays)
        return cls(cast(weights), cast(biases), np.zeros(dim, np.float32), *cast((low, high)))

    @property
    def middle(self) -> Array:
        """The slope around which those of F are."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Array:
        """How much slopes of F may differ from it."""
        return (self.high - self.low) / 2

    def bend(self):
        """The function N of rows (batch, dim), with all that does not depend on them computed."""
        steps = [Contraction.of(w) for w in self.weights]

        def nonexpansive(v):
            for step, bias in zip(steps, self.biases, strict=False):
                v = jnp.abs(step(v) + bias)
            return steps[-1](v)

        return nonexpansive

    def __call__(self, v):
        return self.middle * v + self.radius * self.bend()(v) + self.shift

    def inverse(self, y):
        """Rows v with F(v) = y: v <- v - (F(v) - y) / middle contracts by radius / middle."""
        bend, ratio = self.bend(), self.radius / self.middle
        turns = jnp.ceil(math.log(TOLERANCE) / jnp.log(jnp.clip(ratio, 1e-6, 1))).astype(jnp.int32)
        y = (y - self.shift) / self.middle
        return lax.fori_loop(0, turns, lambda _, v: y - ratio * bend(v), y)


class PLNetwork(eqx.Module):
    """f(x) = height (offset + |G((x - shift) scale)|² / 2) of rows x (batch, dim), with G = layers, each behind a rotation.

    `scale` is (dim,), or a matrix (dim, dim) that rows are multiplied by. `offset`, `layers` and `rotations` are learned.
    Rotations may be left out, (): a rotation passes through a layer if its weights are rotated, and one behind the last layer
    changes no length, so that the functions f with rotations are those without.
    """

    shift: Array
    scale: Array
    height: Array
    offset: Array
    layers: tuple[MonotoneLipschitz, ...]
    rotations: tuple[Orthogonal, ...]

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        dim: int,
        hidden: Sequence[int] = (128,),
        depth: int = 2,
        mu: float = 0.5,
        nu: float = 2.0,
        orthogonal: str = "none",
        *,
        centre: Array | float = 0.0,
        width: Array | float = 1.0,
        height: float = 1.0,
    ) -> PLNetwork:
        """One with random weights and G in [mu, nu], for x in a box of half the edge `width` (dim,) or () around `centre`."""
        _check(dim, depth, hidden)
        if not 0 < mu < nu < math.inf:
            raise InputError(f"slopes of a PLNetwork are between mu = {mu:g} and nu = {nu:g}; give 0 < mu < nu")
        shift, scale = np.broadcast_to(centre, dim), 1 / np.broadcast_to(width, dim)
        low, high = mu ** (1 / depth), nu ** (1 / depth)
        layers = tuple(MonotoneLipschitz.random(rng, dim, hidden, low, high) for _ in range(depth))
        return cls._made(rng, shift, scale, height, 0.0, layers, orthogonal)

    @classmethod
    def of_quadratic(
        cls,
        rng: np.random.Generator,
        centre: Array,
        curvature: Array,
        offset: float = 0.0,
        *,
        width: Array | float = 1.0,
        hidden: Sequence[int] = (128,),
        depth: int = 2,
        tau: float = 2.0,
        orthogonal: str = "none",
    ) -> PLNetwork:
        """One that starts as offset + K(x - centre) / 2, K(d) = sum k_i d_i² for `curvature` k (dim,), or d'Kd for (dim, dim).

        It does so to rounding, for any rng: layers start linear, with hidden units whose kinks lie where x is in a box of half
        the edge `width` (dim,) or () around the centre. `tau` is nu / mu. With t its root by `depth`, slopes of a layer are
        between 2 / (1 + t) and 2 t / (1 + t), around 1.
        """
        centre, curvature = np.asarray(centre, float), np.asarray(curvature, float)
        dim = len(centre)
        _check(dim, depth, hidden)
        if not 1 < tau < math.inf:
            raise InputError(f"tau is {tau:g}; it must be above 1: the largest slope of a PLNetwork over the smallest")
        wide = np.broadcast_to(np.asarray(width, float), dim)
        height = np.mean((curvature if curvature.ndim == 1 else np.diag(curvature)) * wide**2)
        root = tau ** (1 / depth)
        low, high = 2 / (1 + root), 2 * root / (1 + root)
        layers = tuple(MonotoneLipschitz.random(rng, dim, hidden, low, high, linear=True) for _ in range(depth))
        scale = _root_of(curvature) / np.sqrt(height)
        return cls._made(rng, centre, scale, height, offset / height, layers, orthogonal)

    @classmethod
    def _made(cls, rng, shift, scale, height, offset, layers, orthogonal: str) -> PLNetwork:
        if orthogonal not in ORTHOGONAL:
            raise InputError(f'no orthogonal layer "{orthogonal}".{suggest(orthogonal, ORTHOGONAL)}')
        for name, value in (("centre", shift), ("scale", scale), ("height", height), ("offset", offset)):
            if not np.isfinite(value).all():
                raise InputError(f"{name} of a PLNetwork is not finite; look at the samples that it comes from")
        kind = ORTHOGONAL[orthogonal]
        rotations = () if kind is None else tuple(kind.random(rng, len(shift)) for _ in layers)
        scale, height, offset = (np.asarray(a, np.float32) for a in (scale, height, offset))
        return cls(np.array(shift, float), scale, height, offset, layers, rotations)

    @property
    def dim(self) -> int:
        """Number of variables."""
        return self.shift.shape[0]

    @property
    def bounds(self) -> tuple[float, float]:
        """(mu, nu) of G."""
        return math.prod(float(y.low) for y in self.layers), math.prod(float(y.high) for y in self.layers)

    @property
    def pl_constant(self) -> float:
        """m of the Polyak-Łojasiewicz inequality |grad f|² / 2 >= m (f - its minimum)."""
        scale = np.asarray(self.scale)
        least = np.abs(scale).min() if scale.ndim == 1 else np.linalg.svd(scale, compute_uv=False)[-1]
        return float(self.height) * (self.bounds[0] * float(least)) ** 2

    @property
    def n_parameters(self) -> int:
        """How many numbers it learns."""
        return sum(np.size(a) for a in jax.tree.leaves(eqx.filter(self, self.learned)))

    @property
    def learned(self) -> PLNetwork:
        """The same tree with True for what is learned, False for the units it is learned in and for bounds."""
        tree = jax.tree.map(lambda _: True, self)
        kept = lambda n: [n.shift, n.scale, n.height, *(b for y in n.layers for b in (y.low, y.high))]
        return eqx.tree_at(kept, tree, replace_fn=lambda _: False)

    def mapped(self, v) -> Array:
        """G(v), rows (batch, dim)."""
        for k, layer in enumerate(self.layers):
            v = layer(self.rotations[k](v) if self.rotations else v)
        return v

    def unmapped(self, y) -> Array:
        """Rows v with G(v) = y."""
        for k, layer in reversed(list(enumerate(self.layers))):
            v = layer.inverse(y)
            y = self.rotations[k].inverse(v) if self.rotations else v
        return y

    def scaled(self, x) -> Array:
        """Rows v of x (batch, dim)."""
        off = x - self.shift.astype(x.dtype)
        return off * self.scale if self.scale.ndim == 1 else off @ self.scale

    def bowl(self, v) -> Array:
        """|G|² / 2 (batch,) of rows v (batch, dim)."""
        return (self.mapped(v) ** 2).sum(-1) / 2

    def values(self, x) -> Array:
        """f (batch,) of rows x (batch, dim)."""
        return self.height * (self.offset + self.bowl(self.scaled(x)))

    def gradients(self, x) -> Array:
        """Gradients of f (batch, dim) at rows x (batch, dim)."""
        return self.values_and_gradients(x)[1]

    def values_and_gradients(self, x) -> tuple[Array, Array]:
        """Both, for little more than the gradients."""
        values, pull = jax.vjp(self.values, x)
        return values, pull(jnp.ones_like(values))[0]

    def minimiser(self) -> Minimum:
        """The one minimum, by inverting layer after layer. The shift is added in float64."""
        found, left = _inverted(self)
        v, residual = np.asarray(found, float), float(left)
        size = 1 + np.abs(v).max() + max(float(np.abs(y.shift).max()) for y in self.layers)
        if not residual <= LARGE_RESIDUAL * size * np.sqrt(self.dim):
            raise ThalwegError(f"the inverse of a PLNetwork has a residual of {residual:.1e}; its weights are too large")
        scale = np.asarray(self.scale, float)
        x = np.asarray(self.shift, float) + (v / scale if scale.ndim == 1 else np.linalg.solve(scale.T, v))
        value = float(self.height) * (float(self.offset) + residual**2 / 2)
        return Minimum(x, value, residual, residual * math.sqrt(float(self.height) / self.pl_constant))


@eqx.filter_jit
def _inverted(network: PLNetwork):
    """v (dim,) with G(v) = 0, and |G(v)|."""
    v = network.unmapped(jnp.zeros((1, network.dim), network.scale.dtype))
    return v[0], jnp.linalg.norm(network.mapped(v))


def _root_of(curvature: np.ndarray) -> np.ndarray:
    """A factor s (dim,) or (dim, dim) with |d s|² = K(d)."""
    if curvature.ndim == 1:
        least, root = curvature.min(), np.sqrt(np.abs(curvature))
    else:
        values, vectors = np.linalg.eigh(curvature)
        least, root = values.min(), vectors * np.sqrt(np.abs(values))
    if not least > 0:
        raise InputError(f"the least curvature is {least:g}; a quadratic with a minimum has positive ones: clip them")
    return root


def _check(dim: int, depth: int, hidden: Sequence[int]) -> None:
    if min(dim, depth, len(hidden), *hidden) < 1:
        raise InputError(f"a PLNetwork of {dim} variables, depth {depth} and hidden units {tuple(hidden)} has an empty layer")
