"""A function that counts what it is asked, remembers the lowest value, and ends a method when its budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from thalweg.errors import PotentialError
from thalweg.minimizers.function import Function

#: Evaluations of which one at least must be finite.
FIRST = 100


class Spent(Exception):
    """The budget is spent, or the user wants to stop: a method ends, and what it found is kept."""


@dataclass
class Counted:
    """What a method sees of a function. A value counts as one evaluation, a value with its gradient as one and one gradient.

    `budget` of evaluations, `seconds` of this process's CPU time, `stop` asks whether to end early. What is asked beyond the
    budget is not evaluated: `Spent` is raised. Values that are not finite come back as inf and never are the lowest.
    `best` (dim,) has the lowest value; `believed` (dim,) is where a method's model has its minimum.
    """

    function: Function
    budget: int
    seconds: float | None = None
    stop: Callable[[], bool] | None = None
    progress: Callable[[Counted], None] | None = None
    lowest: float = np.inf
    best: np.ndarray | None = None
    believed: np.ndarray | None = None
    evaluations: int = 0
    gradients: int = 0
    failed: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    began: float = field(default_factory=time.process_time)

    @property
    def dim(self) -> int:
        """Number of variables."""
        return self.function.dim

    @property
    def low(self) -> np.ndarray:
        """Lower ends (dim,) of the box."""
        return self.function.low

    @property
    def high(self) -> np.ndarray:
        """Upper ends (dim,) of the box."""
        return self.function.high

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self.budget - self.evaluations

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process since it began."""
        return time.process_time() - self.began

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values (n,) of points (n, dim); inf where not finite."""
        x = self._allowed(x)
        values = self._kept(x, self.function.values(x))
        self._enough()
        return values

    def slopes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and gradients (n, dim) of points (n, dim); inf and zeros where either is not finite."""
        x = self._allowed(x)
        values, slopes = self.function.gradients(x)
        fine = np.asarray(np.isfinite(slopes).all(axis=1))
        self.gradients += len(x)
        values = self._kept(x, np.where(fine, values, np.nan))
        self._enough()
        return values, np.where(fine[:, None], slopes, 0.0)

    def _allowed(self, x: np.ndarray) -> np.ndarray:
        """As many of the points as the budget has; `Spent` where that is not all of them."""
        x = np.atleast_2d(x)
        if len(x) > self.left or (self.seconds is not None and self.cpu_seconds > self.seconds):
            raise Spent
        if self.stop is not None and self.stop():
            raise Spent
        return x

    def _kept(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        fine = np.isfinite(values)
        self.evaluations += len(x)
        self.failed += int((~fine).sum())
        values = np.where(fine, values, np.inf)
        k = int(values.argmin()) if len(values) else 0
        if len(values) and values[k] < self.lowest:
            self.lowest, self.best = float(values[k]), np.array(x[k], np.float64)
            self.history.append((self.evaluations, self.lowest))
        if self.progress is not None:
            self.progress(self)
        return values

    def _enough(self) -> None:
        if self.best is None and self.evaluations >= FIRST:
            raise PotentialError(
                f"{self.function.name} is not finite at any of the first {self.evaluations} points of the box, such as "
                f"at its middle; is it defined there?"
            )
