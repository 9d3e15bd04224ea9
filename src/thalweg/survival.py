"""What repeated searches say about a method: success curves with bounds, medians, energy curves, and two methods compared.

A restart either reached its target at some cost (an event), or was stopped before it did (it is censored there). Both count:
leaving out those that were stopped would flatter a method, and calling them failures would punish it for a short budget.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Intervals are of 95 %: 1.96 standard errors (1.959964 to be exact) to either side, or all of this risk at one end.
RISK = 0.05


@dataclass(frozen=True)
class Curve:
    """Chance to have succeeded by a cost, with 95 % bounds; constant between the `cost` of one event and the next.

    Before the first event the upper bound is that of the restarts still `followed`, so it rises where one is stopped there.
    """

    cost: np.ndarray  # (events,) ascending
    success: np.ndarray
    low: np.ndarray
    high: np.ndarray
    followed: np.ndarray  # (restarts,) ascending: to which cost each restart was followed
    hits: int
    common: float  # to which every restart was followed, unless it succeeded before: shares until here need no model

    @property
    def restarts(self) -> int:
        return len(self.followed)

    def at(self, cost: float) -> tuple[float, float, float]:
        """Success, and its bounds, after this cost; nothing is known after the last restart, so there its end counts."""
        k = int(np.searchsorted(self.cost, cost, side="right")) - 1
        if k < 0:
            return 0.0, 0.0, 1 - RISK ** (1 / int((self.followed >= min(cost, self.followed[-1])).sum()))
        return float(self.success[k]), float(self.low[k]), float(self.high[k])


@dataclass(frozen=True)
class Median:
    """Cost at which half of all restarts succeed, with 95 % bounds; inf where the curve (or its bound) never gets there."""

    value: float
    low: float
    high: float
    budget: float = math.inf  # the highest cost that any restart was followed to

    def __str__(self) -> str:
        shown = lambda v: (
            f"{v:,.6g}" if math.isfinite(v) else f"> {self.budget:,.6g}" if math.isfinite(self.budget) else "never"
        )
        return f"{shown(self.value)} [{shown(self.low)}, {shown(self.high)}]"


def success_curve(hits, spent) -> Curve:
    """Kaplan-Meier curve of restarts that each `spent` a cost (n,), until their success where `hits`, else until stopped.

    E. L. Kaplan and P. Meier, J. Am. Stat. Assoc. 53, 457 (1958), doi:10.1080/01621459.1958.10501452. The bounds are those of
    Greenwood's variance on the scale log(-log S), the exponential ones, which stay within 0 and 1 (J. D. Kalbfleisch and
    R. L. Prentice, The Statistical Analysis of Failure Time Data, Wiley 1980). They do not exist where all n have
    succeeded, or none: there the exact one-sided bounds hold, success of at least .05^(1/n) or at most 1 - .05^(1/n). Where
    some restarts were stopped before, n is the number of unstopped ones that would know as much: those still followed,
    divided by the survival until then (R. Peto et al., Br. J. Cancer 35, 1 (1977), doi:10.1038/bjc.1977.1).
    """
    hits, spent = _checked(hits, spent)
    from scipy import stats  # takes a second to import

    followed = np.sort(spent)
    if not hits.any():
        none = np.zeros(0)
        return Curve(none, none, none, none, followed, 0, float(followed[0]))
    left = stats.ecdf(stats.CensoredData.right_censored(spent, ~hits)).sf
    cost = np.unique(spent[hits])
    survival = left.evaluate(cost)
    inside = survival > 0
    as_many = (spent >= cost[-1]).sum() / (survival[-2] if len(cost) > 1 else 1.0)
    low, high = np.full(len(cost), RISK ** (1 / as_many)), np.ones(len(cost))
    if inside.any():
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # that they do not exist at the ends, as said above
            bounds = left.confidence_interval(1 - RISK, method="log-log")
        low[inside] = 1 - bounds.high.evaluate(cost[inside])
        high[inside] = 1 - bounds.low.evaluate(cost[inside])
        low[~inside] = np.maximum(low[~inside], low[inside].max())  # what was succeeded before stays so
    common = float(followed[-1] if hits.all() else spent[~hits].min())
    return Curve(cost, 1 - survival, low, high, followed, int(hits.sum()), common)


def median(curve: Curve, spent=None) -> Median:
    """n50, with the bounds of R. Brookmeyer and J. Crowley, Biometrics 38, 29 (1982), doi:10.2307/2530286.

    The bounds are the costs at which the curve's own bounds pass one half. `spent` are the costs of all restarts.
    """
    near = 0.5 - 1e-9  # a product of fractions that is one half may come out a little less

    def passes(values) -> float:
        reached = np.flatnonzero(values >= near)
        return float(curve.cost[reached[0]]) if len(reached) else math.inf

    low = min(passes(curve.high), _few_left(curve))
    budget = math.inf if spent is None or not len(spent) else float(np.max(spent))
    return Median(passes(curve.success), low, passes(curve.low), budget)


def _few_left(curve: Curve) -> float:
    """The cost from which on, before any event, too few restarts are followed to say that fewer than half succeed: four."""
    few = int(math.log(RISK) / math.log(0.5))
    if curve.restarts <= few:
        return 0.0
    stopped, end = curve.followed[-few - 1], curve.cost[0] if len(curve.cost) else curve.followed[-1]
    return float(stopped) if stopped < end else math.inf


@dataclass(frozen=True)
class EnergyCurve:
    """Lowest energy so far against the cost: the median restart, and the quartiles around it."""

    cost: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray


def energy_curve(traces: Sequence[Sequence[tuple[float, float]]], n_points: int = 200) -> EnergyCurve:
    """Quartiles over restarts of the lowest energy so far; `traces` hold (cost, energy) rows of each.

    A restart that has no energy yet counts as infinitely high, and one that ended keeps its last. The quantiles are energies
    of restarts (the lowest that a share q does not exceed), so that infinity stays where it belongs. At most `n_points`
    costs, evenly chosen among those at which something changed.
    """
    if not traces:
        raise ValueError("no traces to take quartiles of")
    cost = np.unique([c for trace in traces for c, _ in trace]) if any(len(t) for t in traces) else np.zeros(1)
    if len(cost) > n_points:
        cost = cost[np.unique(np.linspace(0, len(cost) - 1, n_points).round().astype(int))]
    table = np.full((len(traces), len(cost)), np.inf)
    for row, trace in zip(table, traces, strict=True):
        if len(trace):
            at, energy = np.asarray(sorted(trace), float).T
            k = np.searchsorted(at, cost, side="right") - 1
            row[:] = np.where(k >= 0, np.minimum.accumulate(energy)[np.maximum(k, 0)], np.inf)
    table.sort(axis=0)
    quantile = lambda q: table[max(math.ceil(q * len(table)) - 1, 0)]
    return EnergyCurve(cost, quantile(0.25), quantile(0.5), quantile(0.75))


@dataclass(frozen=True)
class Comparison:
    """Log-rank test of two methods: the probability of a difference as large by chance, and which one is ahead."""

    p: float
    statistic: float  # standard normal if both are alike; positive where the first succeeds earlier
    ahead: str | None  # "first", "second", or None where nothing is known


def log_rank(first_hits, first_spent, second_hits, second_spent) -> Comparison:
    """Do two methods succeed at the same rate? N. Mantel, Cancer Chemother. Rep. 50, 163 (1966).

    Two-sided, from restarts that each `spent` a cost, until success where `hits`. Without any event p is 1.
    """
    a, b = _checked(first_hits, first_spent), _checked(second_hits, second_spent)
    if not (a[0].any() or b[0].any()):
        return Comparison(1.0, 0.0, None)
    from scipy import stats

    censored = lambda hits, spent: stats.CensoredData.right_censored(spent, ~hits)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = stats.logrank(censored(*a), censored(*b))
    statistic = float(result.statistic)
    if not math.isfinite(statistic):  # every event at a cost that only one restart was followed to: no comparison
        return Comparison(1.0, 0.0, None)
    return Comparison(float(result.pvalue), statistic, "first" if statistic > 0 else "second" if statistic < 0 else None)


def _checked(hits, spent) -> tuple[np.ndarray, np.ndarray]:
    """The two as arrays of one length, with finite costs."""
    hits, spent = np.asarray(hits, bool), np.asarray(spent, float)
    if hits.shape != spent.shape or hits.ndim != 1 or not len(hits):
        raise ValueError(f"{hits.shape} hits and {spent.shape} costs; one of each per restart is needed")
    if not (np.isfinite(spent).all() and (spent >= 0).all()):
        raise ValueError("a cost is negative or not finite; give censored restarts the cost at which they were stopped")
    return hits, spent
