"""Have I found it? What repeated hits of the best minimum say about a lower one."""

from __future__ import annotations

import numpy as np

#: How much harder than the best found a lower minimum is assumed to be to reach, at most (per independent run).
HARDER = 10.0

ASSUMPTIONS = (
    "Independent runs from fresh starts, each of which reaches the best minimum found with the same unknown probability p "
    "(uniform prior); beforehand, even odds that a lower minimum exists; if it does, a run reaches it with probability at "
    "least p/10. A lower minimum in a funnel that starts and moves reach more rarely than that is not excluded."
)


def probability_lower_remains(runs: int, hits: int, harder: float = HARDER) -> float:
    """Posterior probability that a minimum below the best found exists, given `hits` in `runs` independent runs.

    With p ~ Beta(hits + 1, runs - hits + 1), a lower minimum of rate q = p/harder escapes all runs with probability
    m = E[(1 - q)^runs]; with even prior odds the answer is m / (1 + m). No run finished: 1/2, nothing is known.
    See `ASSUMPTIONS`. In the spirit of the Bayesian stopping rules of Boender and Rinnooy Kan, Math. Program. 37, 59
    (1987), doi:10.1007/BF02591684, which count basins and not funnels.
    """
    if runs <= 0:
        return 0.5
    # Quantiles of the posterior integrate a bounded smooth function well enough for two digits.
    from scipy.special import betaincinv  # scipy.stats would take seconds to import

    u = (np.arange(200) + 0.5) / 200
    p = betaincinv(hits + 1, runs - hits + 1, u)
    missed = float(np.mean(np.exp(runs * np.log1p(-p / harder))))
    return missed / (1 + missed)


def success_bounds(hits: int, tries: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson bounds of a success probability."""
    from scipy.special import betaincinv

    a = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, tries - hits + 1, a))
    high = 1.0 if hits == tries else float(betaincinv(hits + 1, tries - hits, 1 - a))
    return low, high
