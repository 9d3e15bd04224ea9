"""Zooming in by least squares: quadratics in ever smaller boxes."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from thalweg.errors import InputError
from thalweg.minimizers.base import Minimizer
from thalweg.minimizers.counted import Counted
from thalweg.minimizers.polish import polished
from thalweg.minimizers.quadratic import Quadratic, fitted
from thalweg.minimizers.samples import inner_box, pairs

#: Points of a cloud whose mean value says how good a centre is: one value would only tell of the ripples there.
CLOUD = 32
#: Pairs that a fit takes at least.
FEWEST = 8
#: A mean is lower beyond doubt by this many of its standard errors.
CLEAR = 4.0
#: The box shrinks by a factor between these, however sure the fit is; the slower, the better bent funnels are followed.
SHRINK = (0.7, 0.93)
#: And to this many times the error of the average minimum.
MARGIN = 4.0
#: From where on a minimum is at the end of its interval, in half widths.
EDGE = 0.99
#: Least share of the last minimum in the average: a variable along which the function curves less than along others gets only
#: part of the way in a stage, and must not be held back by where it was.
GAIN = 0.45
#: Least error of a minimum, in half widths of its box.
SURE = 1e-3
#: Gradients spent from each centre to see how far down it leads.
TRIED = 30


class Zoom(Minimizer):
    """Least-squares quadratics in ever smaller boxes, each about the minimum so far; then down by gradients.

    A stage evaluates `pairs_per_variable` pairs of points for each variable (`least` pairs at least) and fits a quadratic.
    The minima of all stages are averaged, weighted by the inverse square of their errors: few pairs and many stages tell more
    than many pairs and few stages. The next box is about the average, unless a cloud of values (as wide as a share `cloud`
    of the box) about the last minimum or the last centre is lower, and as much smaller as the errors allow, but no sooner
    than the evaluations that are left ask for: a bent funnel is followed in small steps. It ends with a box of `smallest` (a
    share of the first), and begins again in other boxes while there are evaluations left, `repeats` times at most.
    """

    pairs_per_variable: float = 2.0
    least: int = 200
    smallest: float = 2e-3
    repeats: int = eqx.field(static=True, default=20)
    polish: int = eqx.field(static=True, default=1000)
    cloud: float = 1.0

    def __check_init__(self):
        if self.pairs_per_variable <= 1:
            raise InputError(
                f"pairs_per_variable is {self.pairs_per_variable:g}; it must be above 1: a slope has as many numbers"
            )

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        believed = np.inf
        for repeat in range(self.repeats):
            centres = self.zoomed(counted, rng, *start(rng, counted, repeat))
            value = mean_value(counted, rng, centres[-1], self.smallest * (counted.high - counted.low) / 2)
            if value < believed:
                believed, counted.believed = value, centres[-1]
            # Small boxes see ripples: an earlier centre may be in the right one already, and going down is cheap.
            ends = [polished(counted, x, TRIED) for x in centres]
            polished(counted, min(ends, key=lambda x: float(counted.values(x[None])[0])), self.polish)
            if counted.left < 4 * self.count(counted.dim):
                break

    @property
    def reserve(self) -> int:
        """Evaluations kept for the way down."""
        return 4 * CLOUD + 50 * TRIED + self.polish

    def count(self, dim: int) -> int:
        """Pairs of a stage."""
        return max(int(self.pairs_per_variable * dim), self.least)

    def lowest(self, counted: Counted, rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, float]:
        """Where a stage has its minimum (dim,), in its box, and the error of that, in half widths."""
        return stage.minimum, stage.error

    def zoomed(self, counted: Counted, rng: np.random.Generator, centre: np.ndarray, half: np.ndarray) -> list[np.ndarray]:
        """The centres (dim,) of boxes that begin with centre +- half (dim,); the last one is where they lead."""
        smallest, count, centres = self.smallest * half.max(), self.count(counted.dim), []
        total, weight = np.zeros(counted.dim), np.zeros(counted.dim)
        while half.max() > smallest and counted.left >= 2 * count + self.reserve:
            centre, half = inner_box(centre, half, counted.low, counted.high)
            stage = look(counted, rng, centre, half, count)
            if stage is None:  # the function is not there: begin anew where it is, with less
                centre, half, total, weight = np.array(counted.best), half / 2, 0 * total, 0 * weight
                continue
            lowest, error = self.lowest(counted, rng, stage)
            own = 1 / (error * half) ** 2
            # A variable whose minimum is at the end of its interval was lost: for it all begins anew.
            lost = np.abs(lowest - centre) >= EDGE * half
            kept = np.where(lost, 0, np.minimum(1, (1 / GAIN - 1) * own / np.maximum(weight, 1e-300)))
            total, weight = kept * total + own * lowest, kept * weight + own
            centre = best_of(counted, rng, [total / weight, lowest, stage.centre], self.cloud * half)
            # As slowly as what is left allows for reaching the smallest box.
            stages = max((counted.left - self.reserve) / (2 * count), 1)
            slowest = np.clip((smallest / half.max()) ** (1 / stages), *SHRINK)
            # One slow step must leave the others time: between that pace and its root.
            half = half * np.clip(MARGIN * np.sqrt((1 / weight / half**2).mean()), slowest, min(slowest**0.5, SHRINK[1]))
            centres.append(centre)
        return centres or [centre]


class Stage(eqx.Module):
    """What was seen in a box: pairs of points, their values, the quadratic, and the error of its minimum (of half widths)."""

    centre: np.ndarray
    half: np.ndarray
    u: np.ndarray
    above: np.ndarray
    below: np.ndarray
    quadratic: Quadratic
    error: float

    @property
    def minimum(self) -> np.ndarray:
        """Where the quadratic is lowest in the box."""
        return self.quadratic.minimum(self.half)

    @property
    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """All points (2 pairs, dim) and their values (2 pairs,)."""
        away = self.u * self.half
        return np.concatenate([self.centre + away, self.centre - away]), np.concatenate([self.above, self.below])


def look(counted: Counted, rng: np.random.Generator, centre: np.ndarray, half: np.ndarray, count: int) -> Stage | None:
    """Evaluate pairs in a box and fit quadratics to all of them and to halves; None where too few pairs are finite."""
    u, x = pairs(rng, count, centre, half)
    values = counted.values(x)
    above, below = values[:count], values[count:]
    fine = np.isfinite(above) & np.isfinite(below)
    u, above, below = u[fine], above[fine], below[fine]
    if len(u) < FEWEST:
        return None
    whole, ends = fitted(centre, half, u, above, below), []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        ends.append(fitted(centre, half, u[part], above[part], below[part]).minimum(half))
    # Two halves differ by twice the error of a fit to both.
    error = float(np.sqrt((((ends[0] - ends[1]) / half) ** 2).mean())) / 2
    return Stage(centre, half, u, above, below, whole, max(error, SURE))


def best_of(counted: Counted, rng: np.random.Generator, points: list[np.ndarray], half: np.ndarray) -> np.ndarray:
    """The first point, unless the values about another one are lower beyond doubt: by the same cloud of the box for all."""
    cloud = pairs(rng, CLOUD // 2, np.zeros(len(half)), half)[1]
    values = [counted.values(np.clip(p + cloud, counted.low, counted.high).astype(np.float32)) for p in points]
    best = 0
    for k in range(1, len(points)):
        with np.errstate(invalid="ignore"):  # where there is no value there is no comparison
            less = values[best] - values[k]
        if np.isfinite(less).all() and less.mean() > CLEAR * less.std() / np.sqrt(len(less)):
            best = k
    return points[best]


def mean_value(counted: Counted, rng: np.random.Generator, x: np.ndarray, half: np.ndarray) -> float:
    """The mean value of a cloud about a point."""
    cloud = pairs(rng, CLOUD // 2, np.zeros(len(half)), half)[1]
    return float(counted.values(np.clip(x + cloud, counted.low, counted.high).astype(np.float32)).mean())


def start(rng: np.random.Generator, counted: Counted, repeat: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half box of a zoom: all of the box at first, then random boxes of a half and a quarter of its width."""
    half = (counted.high - counted.low) / 2
    middle = (counted.low + counted.high) / 2
    if repeat == 0:
        return middle, half
    smaller = half * (0.5 if repeat % 2 else 0.25)
    return rng.uniform(counted.low + smaller, counted.high - smaller), smaller
