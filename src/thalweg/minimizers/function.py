"""A function of a vector in a box: what is minimised, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.landscapes import Landscape

#: Numbers of a block of points that are evaluated by one call.
NUMBERS = 2**20
#: Points of a small block: what methods ask for that go on with few points side by side.
SOME = 32


@dataclass(frozen=True)
class Function:
    """A function of `dim` variables between `low` and `high` (dim,), evaluated for blocks of points.

    `value` takes x (dim,) and returns a number; for a `Landscape` x (dim, *lanes). What JAX can trace is compiled and has
    gradients; what it cannot is called point by point. `name` is what messages call it.
    """

    name: str
    value: Callable
    low: np.ndarray
    high: np.ndarray
    traceable: bool = True
    _compiled: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def dim(self) -> int:
        """Number of variables."""
        return len(self.low)

    @property
    def block(self) -> int:
        """Points of one call."""
        return int(np.clip(NUMBERS // self.dim, 16, 4096))

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values (n,) in float64 of points (n, dim), computed in the precision of `x`; NaN where there is none."""
        if not self.traceable:
            return np.array([_number(self.value, one) for one in x])
        run = self._program("values", lambda many: self._many(many))
        return np.concatenate([np.asarray(run(part), np.float64)[:n] for part, n in self._blocks(x)])

    def gradients(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and gradients (n, dim) in float64 of points (n, dim)."""
        if not self.traceable:
            raise InputError(
                f"{self.name} cannot be differentiated: write it with jax.numpy, or take a method without gradients"
            )
        run = self._program("gradients", _sloped(self._many))
        parts = [[np.asarray(a, np.float64)[:n] for a in run(part)] for part, n in self._blocks(x)]
        values, slopes = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(slopes)

    def _many(self, x):
        """Values (n,) of x (n, dim), traced."""
        owner = getattr(self.value, "__self__", None)
        return self.value(x.T) if isinstance(owner, Landscape) else jax.vmap(self.value)(x)

    def _program(self, name: str, function: Callable):
        if name not in self._compiled:
            self._compiled[name] = jax.jit(function)

        def run(part):
            with jax.enable_x64(part.dtype == np.float64):
                return self._compiled[name](jnp.asarray(part))

        return run

    def _blocks(self, x: np.ndarray):
        """Points in blocks of few sizes, so that few programs are compiled: single ones, some, and full blocks."""
        size = next((n for n in (1, SOME) if len(x) <= n < self.block), self.block)
        for at in range(0, len(x), size):
            part = x[at : at + size]
            yield np.pad(part, [(0, size - len(part)), (0, 0)], mode="edge"), len(part)


def function_of(value, dim: int | None = None, box: Sequence | None = None, name: str | None = None) -> Function:
    """The function of a `Landscape`, or of anything that takes a vector (dim,), in a `box`: (low, high), numbers or (dim,).

    Raises `InputError` for an empty box, a dimension that does not fit, and a function that gives no number.
    """
    if isinstance(value, Landscape):
        if dim is not None and dim != value.dim:
            raise InputError(f"{type(value).__name__} has {value.dim} variables, not {dim}")
        low, high = box_of(value.domain if box is None else box, value.dim)
        return Function(name or type(value).__name__, value.value, low, high)
    called = name or getattr(value, "__name__", type(value).__name__)
    if not callable(value):
        raise InputError(f"{called} is no function: give one that takes a vector and returns a number")
    if dim is None:
        raise InputError(f"how many variables {called} has is missing; give dim (--dim N)")
    if box is None:
        raise InputError(f"the box in which {called} is minimised is missing; give box (--box LOW HIGH)")
    if dim < 1:
        raise InputError(f"dim is {dim}; it must be at least 1")
    low, high = box_of(box, dim)
    return Function(called, value, low, high, _traceable(value, called, low, high))


def box_of(box: Sequence, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends (dim,) of a box: (low, high), numbers or vectors. Raises `InputError` where it is empty, or not finite."""
    try:
        low, high = (np.broadcast_to(np.asarray(side, float), (dim,)).copy() for side in box)
    except ValueError:
        raise InputError(
            f"the box is not (low, high) of {dim} variables: give two numbers, or two vectors of {dim} numbers"
        ) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError("the box is not finite; methods that look everywhere need its ends")
    wrong = np.flatnonzero(~(low < high))
    if len(wrong):
        k = int(wrong[0])
        raise InputError(f"the box is empty: variable {k} is between {low[k]:g} and {high[k]:g}")
    return low, high


def _traceable(value: Callable, name: str, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether JAX can trace a function; raises `InputError` where its result is no number."""
    middle = ((low + high) / 2).astype(np.float32)
    try:  # JAX reads past the end of a vector without a word, NumPy does not
        value(middle)
    except IndexError as error:
        raise InputError(f"{name} fails for a vector of {len(low)} variables: {_said(error)}") from error
    except Exception:  # of any kind: what is written for JAX alone is tried below
        pass
    try:
        shape = jax.eval_shape(value, jax.ShapeDtypeStruct(middle.shape, jnp.float32)).shape
        traced = True
    except Exception as wrong:  # of any kind: it is the user's function
        try:
            shape = np.shape(value(middle.astype(float)))
            traced = False
        except Exception as error:
            raise InputError(f"{name} fails in the middle of the box: {_said(error)}") from wrong
    if shape not in ((), (1,)):
        raise InputError(f"{name} gives an array of shape {shape} for a vector of {len(low)} variables; it must give a number")
    if shape == (1,):
        raise InputError(f"{name} gives an array of one number; return the number itself, such as x.sum()")
    return traced


def _number(value: Callable, x: np.ndarray) -> float:
    """The value at a point; NaN where the function raises, or gives no number."""
    try:
        return float(value(np.asarray(x, float)))
    except Exception:  # of any kind: it is the user's function
        return float("nan")


def _said(error: BaseException) -> str:
    """The first line of what an exception says, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''}"


def _sloped(many: Callable):
    """Values (n,) and gradients (n, dim) by one reverse pass: values of points do not depend on each other."""

    def both(x):
        values, back = jax.vjp(many, x)
        return values, back(jnp.ones_like(values))[0]

    return both
