"""L-BFGS on the host: downhill on a surface, or on what is left of one when a direction is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from thalweg.landscape.surface import largest

#: Steps that are remembered, and how often one that goes uphill is shortened.
MEMORY, SHORTER = 12, 10


class Descent(NamedTuple):
    """Where a descent ended: coordinates (d,), energy, gradient (d,), and whether its gradient fell below the limit."""

    x: np.ndarray
    energy: float
    gradient: np.ndarray
    converged: bool


def descend(function: Callable, x: np.ndarray, gmax: float, steps: int, cap: float, monotonic: bool = True) -> Descent:
    """Follow `function` (x -> value, gradient) downhill until no component of the gradient exceeds `gmax`.

    At most `steps` steps, none longer than `cap` in any coordinate. L-BFGS of J. Nocedal, Math. Comput. 35, 773 (1980),
    doi:10.1090/S0025-5718-1980-0572855-7, without a line search: a step that goes uphill is shortened, unless not
    `monotonic`, for forces that are no slope of the value. A function that fails ends it, not converged.
    """
    value, gradient = function(x)
    past: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(steps):
        if not np.isfinite(value) or largest(gradient) < gmax:
            break
        move = -_scaled(gradient, past, cap)
        if move @ gradient >= 0:  # curvature that was remembered is of elsewhere
            past.clear()
            move = -_scaled(gradient, past, cap)
        move *= min(1.0, cap / np.abs(move).max())
        for _ in range(SHORTER if monotonic else 1):
            new, slope = function(x + move)
            if not monotonic or new <= value + 1e-12 * abs(value):
                break
            bend = move @ (slope - gradient) if np.isfinite(new) else 0.0
            part = -(move @ gradient) / bend if bend > 0 else 0.1
            move, past = move * min(max(part, 0.1), 0.5), []
        else:
            if not np.isfinite(new) or new > value + 1e-8 * abs(value):
                break
        past = [*past, (move, slope - gradient)][-MEMORY:]
        x, value, gradient = x + move, new, slope
    return Descent(x, float(value), gradient, largest(gradient) < gmax)


def _scaled(gradient: np.ndarray, past: list, cap: float) -> np.ndarray:
    """The inverse Hessian that the past steps tell of, times the gradient; a tenth of the longest step without a past."""
    useful = [(s, y) for s, y in past if s @ y > 1e-12 * (y @ y)]
    if not useful:
        return gradient * min(1.0, 0.1 * cap / max(np.abs(gradient).max(), 1e-300))
    q, kept = gradient.copy(), []
    for s, y in reversed(useful):
        a = (s @ q) / (s @ y)
        q -= a * y
        kept.append(a)
    s, y = useful[-1]
    q *= (s @ y) / (y @ y)
    for (s, y), a in zip(useful, reversed(kept), strict=True):
        q += s * (a - (y @ q) / (s @ y))
    return q
