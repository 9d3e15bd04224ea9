"""What a method of minimisation has to beat: the paper's two, an evolution strategy, and basin hopping."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from thalweg.errors import InputError
from thalweg.minimizers.base import Minimizer
from thalweg.minimizers.counted import Counted
from thalweg.minimizers.polish import polished
from thalweg.networks.pl_fit import fitted
from thalweg.networks.pl_network import PLNetwork

#: Relative difference of values of the same minimum, and the least share of the first step of hops.
SAME, LEAST = 1e-9, 1e-3


class AdamGrid(Minimizer):
    """Adam from uniform starts, side by side, `starts` of them for each of the `rates` (in half boxes per step).

    D. P. Kingma and J. Ba, arXiv:1412.6980. Each of them has the same share of the evaluations.
    """

    slopes = True

    rates: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    starts: int = eqx.field(static=True, default=8)

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        half = (counted.high - counted.low) / 2
        x = rng.uniform(counted.low, counted.high, (self.starts * len(self.rates), counted.dim))
        rate = np.repeat(self.rates, self.starts)[:, None] * half
        first, second = np.zeros_like(x), np.zeros_like(x)
        for step in range(1, counted.left // len(x) + 1):
            _, slope = counted.slopes(x)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            move = rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            x = np.clip(x - move, counted.low, counted.high)


class UniformSamples(Minimizer):
    """A network without local minima that is fitted to uniform samples only, all of the budget."""

    hidden: int = eqx.field(static=True, default=128)
    steps: int = 2000
    rate: float = 1e-3

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        middle, half = (counted.low + counted.high) / 2, (counted.high - counted.low) / 2
        x = rng.uniform(counted.low, counted.high, (max(counted.left - 1, 2), counted.dim)).astype(np.float32)
        y = counted.values(x)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        unit = float(y.std() or 1.0)
        network = PLNetwork.random(rng, counted.dim, (self.hidden,), 2, 0.5, 4.0, centre=middle, width=half, height=unit)
        network = fitted(rng, network, x, y, rate=self.rate, steps=self.steps).network
        counted.believed = np.clip(network.minimiser().x, counted.low, counted.high)
        counted.values(counted.believed[None])


class SeparableCMA(Minimizer):
    """The separable covariance-matrix-adaptation evolution strategy, of the package `cmaes`; from the middle of the box.

    R. Ros and N. Hansen, Parallel Problem Solving from Nature X (2008), doi:10.1007/978-3-540-87700-4_30. `population` None
    takes its default. Where it has converged it begins again from a random place with twice as many (A. Auger and N. Hansen,
    CEC 2005, doi:10.1109/CEC.2005.1554902).
    """

    population: int | None = eqx.field(static=True, default=None)
    spread: float = 0.3  # half boxes

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        try:
            from cmaes import SepCMA
        except ImportError:
            raise InputError("cma-es needs the package cmaes; pip install thalweg[minimize]") from None
        middle, half = (counted.low + counted.high) / 2, (counted.high - counted.low) / 2
        start, population = np.zeros(counted.dim), self.population
        while True:
            strategy = SepCMA(
                mean=start, sigma=self.spread, bounds=np.tile([-1.0, 1.0], (counted.dim, 1)), population_size=population,
                seed=int(rng.integers(2**31)),
            )  # fmt: skip
            while not strategy.should_stop():
                points = [strategy.ask() for _ in range(strategy.population_size)]
                values = counted.values(middle + half * np.array(points))
                strategy.tell([(x, float(v)) for x, v in zip(points, np.nan_to_num(values, posinf=1e300), strict=True)])
            start, population = rng.uniform(-1, 1, counted.dim), 2 * strategy.population_size


class Hops(Minimizer):
    """Monotonic basin hopping: down by L-BFGS, a step from the lowest minimum, down again; lower ones are kept.

    R. H. Leary, J. Global Optim. 18, 367 (2000), doi:10.1023/A:1026500301312. Steps of `step` half boxes in all variables, made
    larger and smaller by a tenth until one in five succeeds; `descent` gradients each at most.
    """

    slopes = True

    step: float = 0.05
    descent: int = 200

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        half, step = (counted.high - counted.low) / 2, float(self.step)
        x = polished(counted, rng.uniform(counted.low, counted.high), self.descent)
        value = float(counted.values(x[None])[0])
        while True:
            trial = np.clip(x + step * half * rng.uniform(-1, 1, counted.dim), counted.low, counted.high)
            trial = polished(counted, trial, self.descent)
            found = float(counted.values(trial[None])[0])
            # Steps that lead back to the same minimum are too short, not too long.
            same = abs(found - value) <= SAME * max(abs(value), 1.0)
            step = min(step * 1.1**4, 1.0) if found < value or same else max(step / 1.1, LEAST * self.step)
            if found < value:
                x, value = trial, found
