"""Success curves of repeated searches, with confidence bounds: what may be said from a few dozen seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thalweg.confidence import success_bounds
from thalweg.survival import Curve, success_curve

__all__ = ["Curve", "FirstHit", "Mean", "mean_cost", "percentile_table", "success_bounds", "success_curve"]


@dataclass(frozen=True)
class FirstHit:
    """One search: what it spent until its first hit, or until it was stopped without one."""

    seed: int
    hit: bool
    cpu_seconds: float
    relaxations: int
    evaluations: int
    energy: float


@dataclass(frozen=True)
class Mean:
    """A mean cost to first hit with its 95 % bounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_cost(hits: np.ndarray, spent: np.ndarray) -> Mean:
    """Expected cost to first hit: all that was spent, divided by the hits.

    With restarts the waiting time is close to exponential, for which this is the maximum-likelihood mean even when
    some searches were stopped before their hit; the bounds are the exact ones of that model (chi-squared). Without any
    hit only a lower bound exists.
    """
    from scipy.special import chdtri  # of the upper tail

    total, n = float(np.sum(spent)), int(np.sum(hits))
    low = 2 * total / chdtri(2 * n + 2, 0.025)
    if n == 0:
        return Mean(float("inf"), low, float("inf"))
    return Mean(total / n, low, 2 * total / chdtri(2 * n, 0.975))


def percentile_table(curve: Curve, quantiles=(0.1, 0.25, 0.5, 0.75, 0.9)) -> list[tuple[float, float]]:
    """(quantile, cost at which the curve passes it); inf where it never does."""
    at = lambda q: float(curve.cost[np.argmax(curve.success >= q)]) if (curve.success >= q).any() else float("inf")
    return [(q, at(q)) for q in quantiles]
