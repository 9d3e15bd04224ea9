"""The action-functional method as published: a network without local minima is taught along its own ways down."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np

from thalweg.errors import InputError
from thalweg.minimizers.base import Minimizer
from thalweg.minimizers.counted import Counted
from thalweg.networks.pl_fit import fitted
from thalweg.networks.pl_network import PLNetwork


class ActionFunctional(Minimizer):
    """Algorithm 1: a warm start on uniform samples, then rounds of ways down on the network and lessons along them.

    `warm` of all evaluations are uniform samples that a `PLNetwork` is fitted to in `warm_steps`. Then `walkers` points go
    `moves` steps of gradient descent down the network, in a round; the function is evaluated along their ways, and the network
    learns the values there in `steps` steps, with a share `uniform` of new uniform samples among them where that is not 0. The
    minimum of the network with the lowest true value is kept. The network's slopes are between `low` and `high`, in units of
    the half box.

    As published it is not followed by the way down on the function itself, nor begun with a quadratic.
    """

    hidden: int = eqx.field(static=True, default=128)
    depth: int = eqx.field(static=True, default=2)
    low: float = 0.5
    high: float = 4.0
    warm: float = 0.2
    warm_steps: int = 1000
    walkers: int = 64
    moves: int = 10
    steps: int = 100
    rate: float = 1e-3
    uniform: float = 0.0

    def __check_init__(self):
        if not 0 < self.warm <= 1:
            raise InputError(f"warm is {self.warm:g}; it is the share of evaluations before the first way down, at most 1")

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        middle, half = (counted.low + counted.high) / 2, (counted.high - counted.low) / 2
        draw = lambda n: rng.uniform(counted.low, counted.high, (n, counted.dim)).astype(np.float32)
        x = draw(max(int(self.warm * counted.budget), 2))
        y = counted.values(x)
        x, y = _finite(x, y)
        unit = float(y.std() or 1.0)
        network = PLNetwork.random(
            rng,
            counted.dim,
            (self.hidden,),
            self.depth,
            self.low,
            self.high,
            centre=middle,
            width=half,
            height=unit,
        )
        network = fitted(rng, network, x, y, rate=self.rate, steps=self.warm_steps).network
        best = self._judged(counted, network, np.inf)
        each = (self.moves + 1) * (1 + self.uniform)
        while walkers := min(self.walkers, int((counted.left - 1) / each)):
            along = ways(network, draw(walkers), self.moves)
            if self.uniform > 0:
                along = np.concatenate([along, draw(int(self.uniform * len(along)))])
            x, y = _finite(along, counted.values(along))
            network = fitted(rng, network, x, y, rate=self.rate, steps=self.steps, held_out=0.0).network
            best = self._judged(counted, network, best)

    def _judged(self, counted: Counted, network: PLNetwork, best: float) -> float:
        """The lowest true value at a minimum of the network so far."""
        x = np.clip(network.minimiser().x, counted.low, counted.high)
        value = float(counted.values(x[None])[0])
        if value < best:
            counted.believed = x
        return min(best, value)


def ways(network: PLNetwork, x: np.ndarray, moves: int) -> np.ndarray:
    """Points (walkers (moves + 1), dim) on the ways down a network from x (walkers, dim)."""
    # The steepest direction has a curvature of about height (high scale)^2: a step of its inverse does not overshoot.
    scale = np.asarray(network.scale)
    steepest = scale if scale.ndim == 1 else np.linalg.norm(scale, 2)
    step = 1 / (float(network.height) * (network.bounds[1] * steepest) ** 2)
    points = [x]
    for _ in range(moves):
        points.append((points[-1] - step * np.asarray(_slopes(network, points[-1]))).astype(np.float32))
    return np.concatenate(points)


@eqx.filter_jit
def _slopes(network: PLNetwork, x):
    return network.gradients(jax.numpy.asarray(x))


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose value is finite."""
    fine = np.isfinite(y)
    return x[fine], y[fine]
