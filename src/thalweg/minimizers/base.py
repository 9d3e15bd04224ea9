"""What a method of minimisation is, and the one call that runs any of them."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import numpy as np

from thalweg import registry
from thalweg.errors import InputError
from thalweg.minimizers.counted import Counted, Spent
from thalweg.minimizers.function import Function, function_of


class Minimizer(eqx.Module):
    """A method; its fields are its hyper-parameters."""

    #: Whether it needs gradients.
    slopes: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        """Look for the minimum until the method ends or `Spent` is raised.

        What is evaluated is remembered by `counted`; a method with a model of the function says by `counted.believed` where
        that has its minimum.
        """


@dataclass(frozen=True)
class Minimum:
    """What was found: the lowest `value` that was evaluated, in float64, and where, `x` (dim,).

    `believed` (dim,) is where a model of the function has its minimum, before the function itself was followed down from
    there; None for methods without a model. `history` are (evaluations, lowest value) at each improvement. `failed` counts
    evaluations that were not finite.
    """

    x: np.ndarray
    value: float
    believed: np.ndarray | None
    method: str
    evaluations: int
    gradients: int
    failed: int
    cpu_seconds: float
    history: tuple[tuple[int, float], ...]


def minimize(
    function,
    dim: int | None = None,
    box: Sequence | None = None,
    method: str | Minimizer = "zoom",
    evaluations: int = 300_000,
    seed: int = 0,
    seconds: float | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[Counted], None] | None = None,
) -> Minimum:
    """The lowest point of a function of `dim` variables in a `box` = (low, high), numbers or vectors.

    `function` takes a vector (dim,) and returns a number, best written with `jax.numpy`; or it is a `Landscape` or a
    `Function`. `method` is a name of the registry's table "minimizer", or a `Minimizer`. It ends after so many evaluations,
    or `seconds` of CPU time, or when `stop()` is true; nothing found is lost then.

    Raises `InputError` for what cannot be minimised, and `PotentialError` where no value is finite.
    """
    made = function if isinstance(function, Function) else function_of(function, dim, box)
    if evaluations < 1:
        raise InputError(f"evaluations is {evaluations}; it must be at least 1")
    how = registry.find("minimizer", method)() if isinstance(method, str) else method
    name = method if isinstance(method, str) else type(method).__name__
    if how.slopes and not made.traceable:
        raise InputError(f"{name} needs gradients, and {made.name} cannot be differentiated: write it with jax.numpy")
    counted = Counted(made, evaluations, seconds, stop, progress)
    with contextlib.suppress(Spent):
        how(counted, np.random.default_rng(seed))
    if counted.best is None:
        counted.values(((made.low + made.high) / 2)[None])
    assert counted.best is not None
    exact = float(made.values(counted.best[None])[0])
    value = exact if np.isfinite(exact) else counted.lowest
    return Minimum(
        counted.best, value, counted.believed, name, counted.evaluations, counted.gradients, counted.failed,
        counted.cpu_seconds, tuple(counted.history),
    )  # fmt: skip
