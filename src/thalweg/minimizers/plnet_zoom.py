"""Zooming in by networks without local minima: one that begins as a quadratic may learn how a funnel bends."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from thalweg.errors import InputError
from thalweg.minimizers.action_functional import ways
from thalweg.minimizers.counted import Counted
from thalweg.minimizers.zoom import Stage, Zoom, best_of
from thalweg.networks.pl_fit import fitted
from thalweg.networks.pl_network import PLNetwork

#: Steps of a way down on the network.
MOVES = 10
#: Share of the distance between minima of network and quadratic that counts as an error of either.
BENT = 0.25


class PLNetZoom(Zoom):
    """The zoom, with a network in every box that begins as its quadratic and learns what that leaves over.

    R. Wang, K. Dvijotham, I. R. Manchester, arXiv:2402.01344. The network's only minimum is found by inverting it; it takes the
    place of the quadratic's where a cloud of true values about it is lower beyond doubt, so that a network that has learned
    nonsense costs its samples only. Curvatures of the quadratic below a share `floor` of the largest are raised to it before
    the network begins. `tau` is the largest slope of the network's map over the smallest: 1 would be the quadratic itself.

    Each stage trains `steps` steps of Adam at `rate` in batches of `batch`, ended early by held-out samples. A share `mixed` of
    a stage's evaluations is spent along ways down on the network instead of evenly in the box, and taught in as many steps
    again. With `gradient_weight` above 0 the gradients of the function are matched too; each counts as an evaluation more.
    """

    cloud: float = 0.3
    hidden: int = eqx.field(static=True, default=64)
    depth: int = eqx.field(static=True, default=2)
    tau: float = 8.0
    floor: float = 1e-2
    steps: int = eqx.field(static=True, default=600)
    rate: float = 5e-3
    batch: int = eqx.field(static=True, default=128)
    mixed: float = 0.0
    gradient_weight: float = 0.0

    def __check_init__(self):
        if not 0 <= self.mixed < 1:
            raise InputError(f"mixed is {self.mixed:g}; it is the share of samples along ways down, from 0 to below 1")
        if not (0 < self.floor <= 1 and self.tau > 1):
            raise InputError(f"floor is {self.floor:g} and tau {self.tau:g}; they are in (0, 1] and above 1")

    def lowest(self, counted: Counted, rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, float]:
        x, y = stage.samples
        network = self._learned(counted, rng, self._begun(rng, stage), x, y)
        if self.mixed > 0:
            begin = stage.centre + stage.half * rng.uniform(-1, 1, (self._walkers(counted), counted.dim))
            way = np.clip(ways(network, begin.astype(np.float32), MOVES), counted.low, counted.high)
            values = counted.values(way)
            fine = np.isfinite(values)
            x, y = np.concatenate([x, way[fine]]), np.concatenate([y, values[fine]])
            network = self._learned(counted, rng, network, x, y)
        found = network.minimiser().x
        if not np.isfinite(found).all():
            return stage.minimum, stage.error
        found = np.clip(found, stage.centre - stage.half, stage.centre + stage.half)
        # Where it differs from the quadratic the function is no quadratic, which the error of that does not know.
        bent = float(np.sqrt((((found - stage.minimum) / stage.half) ** 2).mean()))
        return best_of(counted, rng, [stage.minimum, found], self.cloud * stage.half), float(np.hypot(stage.error, BENT * bent))

    def count(self, dim: int) -> int:
        return max(int((1 - self.mixed) * super().count(dim)), dim + 1)

    def _walkers(self, counted: Counted) -> int:
        """Ways down, so that evaluations along them are a share `mixed` of those of a stage."""
        return max(int(self.mixed / (1 - self.mixed) * 2 * self.count(counted.dim) / (MOVES + 1)), 1)

    def _begun(self, rng: np.random.Generator, stage: Stage) -> PLNetwork:
        """The network that is the stage's quadratic, made convex."""
        low, half = stage.quadratic, stage.half
        scaled = low.curvature * (np.outer(half, half) if low.curvature.ndim == 2 else half**2)
        values, vectors = (scaled, None) if scaled.ndim == 1 else np.linalg.eigh(scaled)
        # In units of the box: there its flat directions are those along which the samples differ little.
        values = np.maximum(values, max(self.floor * float(values.max()), 1e-12 * float(np.ptp(stage.above)) + 1e-30))
        kept = values / half**2 if vectors is None else (vectors * values) @ vectors.T / np.outer(half, half)
        return PLNetwork.of_quadratic(
            rng, stage.minimum, kept, low.offset, width=half, hidden=(self.hidden,), depth=self.depth, tau=self.tau
        )

    def _learned(self, counted: Counted, rng: np.random.Generator, network: PLNetwork, x, y) -> PLNetwork:
        dy = None
        if self.gradient_weight > 0:
            y, dy = counted.slopes(x)
            fine = np.isfinite(y)
            x, y, dy = x[fine], y[fine], dy[fine]
        return fitted(
            rng, network, x, y, dy=dy, rate=self.rate, steps=self.steps, batch=min(self.batch, len(x)),
            gradient_weight=self.gradient_weight,
        ).network  # fmt: skip
