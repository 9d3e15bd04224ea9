"""A quadratic through noisy values, by least squares: what a rough function looks like from far away.

From pairs of points c + d and c - d, the half difference of the values is odd in d: only the slope adds to it (and what is
cubic); their mean is even: only the curvature does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize

#: Conjugate-gradient steps of a fit at most: what they have not found by then is noise.
STEPS = 40
#: Full curvatures are fitted where there are this many pairs for each of their numbers.
ENOUGH = 2.0
#: Largest number of variables with a full curvature.
FULL = 60
#: Share of the pairs that is held out to choose among curvatures.
HELD_OUT = 0.2


class Quadratic(NamedTuple):
    """offset + slope . d + d . curvature . d / 2 of d = x - centre; `curvature` is (), (dim,) or (dim, dim)."""

    centre: np.ndarray
    offset: float
    slope: np.ndarray
    curvature: np.ndarray

    def minimum(self, half: np.ndarray) -> np.ndarray:
        """Where it is lowest within centre +- half (dim,)."""
        if self.curvature.ndim == 2:
            return self.centre + _lowest_of(self.slope, self.curvature, half)
        k = np.broadcast_to(self.curvature, self.slope.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.where(k > 0, -self.slope / k, -np.sign(self.slope) * np.inf)
        return self.centre + np.clip(np.nan_to_num(inside, posinf=np.inf, neginf=-np.inf), -half, half)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values (n,) at points (n, dim)."""
        d = x - self.centre
        even = (
            ((d @ self.curvature) * d).sum(1)
            if self.curvature.ndim == 2
            else (d * d) @ np.broadcast_to(self.curvature, self.slope.shape)
        )
        return self.offset + d @ self.slope + even / 2


def fitted(centre: np.ndarray, half: np.ndarray, u: np.ndarray, above: np.ndarray, below: np.ndarray) -> Quadratic:
    """The quadratic of values `above` and `below` (pairs,) at centre + half u and centre - half u, u (pairs, dim) in [-1, 1].

    Of one curvature for all variables, one for each, and a full one (few variables), it has the one that tells held-out
    means best: more numbers than the pairs can tell would only be noise.
    """
    odd, even = (above - below) / 2, (above + below) / 2
    slope = least_squares(u, odd)
    rows = len(u) - max(int(HELD_OUT * len(u)), 1)
    best, chosen = np.inf, None
    for kind in ("one", "each", "full"):
        made = _curved(kind, u[:rows], even[:rows])
        if made is None:
            continue
        error = float(((_told(made, u[rows:]) - even[rows:]) ** 2).mean())
        if error < best:
            best, chosen = error, kind
    offset, curvature = _curved(chosen or "one", u, even) or (float(even.mean()), np.zeros(()))
    scale = half if curvature.ndim == 1 else np.outer(half, half) if curvature.ndim == 2 else float((half**2).mean())
    if curvature.ndim == 0 and np.ptp(half) > 1e-9 * half.max():
        curvature, scale = np.broadcast_to(curvature, half.shape), half**2
    elif curvature.ndim == 1:
        scale = half**2
    return Quadratic(centre, offset, slope / half, np.asarray(curvature / scale))


def least_squares(a: np.ndarray, y: np.ndarray, ridge: float = 1e-6) -> np.ndarray:
    """The x (columns,) that minimises |a x - y|^2 + ridge rows |x|^2, by conjugate gradients on the normal equations."""
    a = a if a.dtype == np.float32 else np.asarray(a, float)
    x = np.zeros(a.shape[1])
    r = np.asarray(a.T @ y.astype(a.dtype), float)
    p, rr = r.copy(), float(r @ r)
    first = rr
    for _ in range(STEPS):
        if rr <= 1e-12 * first or rr == 0:
            break
        ap = np.asarray(a.T @ (a @ p.astype(a.dtype)), float) + ridge * len(a) * p
        step = rr / float(p @ ap)
        x += step * p
        r -= step * ap
        new = float(r @ r)
        p = r + (new / rr) * p
        rr = new
    return x


def _curved(kind: str, u: np.ndarray, even: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Offset and curvature, in units of the half box, of the even part; None where the pairs cannot tell it."""
    n, dim = u.shape
    squares = u * u
    if kind == "one":
        total = squares.sum(1, dtype=float)
        return _line(total, even)
    if kind == "each":
        if n <= 2 * dim or dim == 1:
            return None
        # What one curvature for all leaves over: it is the part that differs from variable to variable.
        offset, common = _line(squares.sum(1, dtype=float), even)
        means = squares.mean(0, dtype=float)
        rest = even - offset - float(common) / 2 * squares.sum(1, dtype=float)
        own = least_squares(squares - means.astype(u.dtype), rest - rest.mean())
        return float(offset + rest.mean() - means @ own), common + 2 * own
    pairs = dim * (dim + 1) // 2
    if dim == 1 or dim > FULL or n < ENOUGH * pairs:
        return None
    i, j = np.triu_indices(dim)
    features = u[:, i] * u[:, j]
    means = features.mean(0)
    own = least_squares(features - means, even - even.mean(), 1e-9)
    curvature = np.zeros((dim, dim))
    curvature[i, j] += own
    return float(even.mean() - means @ own), curvature + curvature.T


def _line(total: np.ndarray, even: np.ndarray) -> tuple[float, np.ndarray]:
    """Offset and curvature of even = offset + curvature / 2 total."""
    away = total - total.mean()
    spread = float(away @ away)
    k = float(away @ (even - even.mean())) / spread if spread > 0 else 0.0
    return float(even.mean() - k * total.mean()), np.asarray(2 * k)


def _told(made: tuple[float, np.ndarray], u: np.ndarray) -> np.ndarray:
    offset, curvature = made
    if curvature.ndim == 2:
        return offset + ((u @ curvature) * u).sum(1) / 2
    return offset + (u * u) @ np.broadcast_to(curvature, u.shape[1:]) / 2


def _lowest_of(slope: np.ndarray, curvature: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Where slope . d + d . curvature . d / 2 is lowest within +- half; directions that curve down are made flat."""
    values, vectors = eigh(curvature)
    up = (vectors * np.maximum(values, 1e-6 * max(float(np.abs(values).max()), 1e-300))) @ vectors.T
    made = minimize(
        lambda d: (slope @ d + d @ up @ d / 2, slope + up @ d),
        np.clip(-np.linalg.solve(up, slope), -half, half),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(-half, half, strict=True)),
    )
    return np.asarray(made.x)
