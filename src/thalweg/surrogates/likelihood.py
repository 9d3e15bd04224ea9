"""Marginal likelihood of a Gaussian process with two length scales, on the host in float64 NumPy."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize


def squared_distances(a, b) -> np.ndarray:
    """Squared distances (n, m) of rows."""
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def correlation(d2, lengths, weight: float) -> np.ndarray:
    """(1 - weight) exp(-d2 / 2 long^2) + weight exp(-d2 / 2 short^2), with `lengths` (long, short)."""
    long, short = lengths
    return (1 - weight) * np.exp(-d2 / (2 * long**2)) + weight * np.exp(-d2 / (2 * short**2))


def amplitude_and_likelihood(d2, y, noise, lengths, weight: float):
    """(theta0, log marginal likelihood there): the amplitude that maximises it is y C^-1 y / n, C = correlation + noise.

    `noise` is a number or one per row, relative to theta0. (-inf likelihood where C is not positive definite.)
    """
    value, _, amplitude = _concentrated(d2, y, noise, np.log(lengths), weight, gradient=False)
    return amplitude, -value


def fit_lengths(d2, y, noise, lengths, weight: float, bounds, iterations: int = 20) -> np.ndarray:
    """The (long, short) length scales of highest marginal likelihood, by L-BFGS-B on their logarithms from `lengths`.

    `bounds` is ((low, high), (low, high)). Where nothing better is found, `lengths` come back.
    """
    bounds = np.log(np.asarray(bounds, float))
    start = np.clip(np.log(lengths), bounds[:, 0], bounds[:, 1])
    found = minimize(
        lambda x: _concentrated(d2, y, noise, x, weight)[:2],
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations},
    )
    return np.exp(found.x if np.isfinite(found.fun) else start)


def _concentrated(d2, y, noise, log_lengths, weight, gradient: bool = True):
    """(minus the log likelihood at the best amplitude, its gradient by the log lengths, the amplitude)."""
    n = len(y)
    lengths = np.exp(log_lengths)
    parts = [w * np.exp(-d2 / (2 * s**2)) for w, s in zip((1 - weight, weight), lengths, strict=True)]
    c = parts[0] + parts[1]
    c[np.diag_indices(n)] += noise
    try:
        factor = cholesky(c, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return np.inf, np.zeros(2), 1.0
    alpha = cho_solve((factor, True), y, check_finite=False)
    amplitude = max(float(y @ alpha) / n, 1e-12)
    value = 0.5 * n * (np.log(2 * np.pi * amplitude) + 1) + np.log(np.diag(factor)).sum()
    if not gradient:
        return value, None, amplitude
    inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
    middle = inverse - np.outer(alpha, alpha) / amplitude
    slopes = [0.5 * (middle * part * (d2 / s**2)).sum() for part, s in zip(parts, lengths, strict=True)]
    return value, np.array(slopes), amplitude


def solved(d2, y, noise, lengths, weight: float):
    """(C^-1 y, inverse of the lower Cholesky factor of C, C = correlation + noise), with more noise where C needs it."""
    c = correlation(d2, lengths, weight)
    for more in (0.0, 1e-10, 1e-8, 1e-6, 1e-4):
        try:
            factor = cholesky(c + np.diag(np.broadcast_to(noise, len(y)) + more), lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return cho_solve((factor, True), y), solve_triangular(factor, np.eye(len(y)), lower=True)
    raise FloatingPointError("the covariance of the training data is not positive definite")
