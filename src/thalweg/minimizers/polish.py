"""Down from a point by gradients, in float64: the last step of a method, whose steps before saw only the large."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from thalweg.minimizers.counted import Counted, Spent


def polished(counted: Counted, x: np.ndarray, most: int = 1000) -> np.ndarray:
    """The minimum (dim,) below a point, by SciPy's L-BFGS-B in the box with at most `most` gradients."""
    if not counted.function.traceable:
        return _downhill_without(counted, x, most)
    bounds = list(zip(counted.low, counted.high, strict=True))

    def both(point):
        values, slopes = counted.slopes(np.asarray(point, np.float64)[None])
        return float(values[0]), slopes[0]

    made = minimize(both, np.clip(x, counted.low, counted.high), jac=True, method="L-BFGS-B", bounds=bounds,
                    options={"maxfun": most, "maxiter": most, "ftol": 1e-15, "gtol": 1e-10, "maxls": 40})  # fmt: skip
    return np.asarray(made.x)


def _downhill_without(counted: Counted, x: np.ndarray, most: int) -> np.ndarray:
    """Powell's method: a function that is not traceable has no gradients."""
    left = min(counted.left - 1, most * 10)
    if left < 2 * counted.dim:
        return x
    bounds = list(zip(counted.low, counted.high, strict=True))
    # Its parabolas do not know infinity, and multiply values.
    value = lambda point: min(float(counted.values(np.asarray(point, np.float64)[None])[0]), 1e100)
    try:
        made = minimize(value, x, method="Powell", bounds=bounds, options={"maxfev": left})
    except Spent:
        return x if counted.best is None else counted.best
    return np.asarray(made.x)
