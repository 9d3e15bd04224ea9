"""What the conformance checks share: one-sentence failures, a test structure, and the check that floats are traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

import jax
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.typing import Array, Callable


def compact_cluster(bond_lengths, seed: int = 0, noise: float = 0.06) -> np.ndarray:
    """Positions (atoms, 3) near sites of an fcc lattice about the origin, disturbed by `noise` bonds: no symmetry left."""
    bonds = np.asarray(bond_lengths, float)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = grid[grid.sum(1) % 2 == 0] / np.sqrt(2)
    nearest = np.argsort(((sites - [0.11, 0.23, 0.37]) ** 2).sum(1), kind="stable")[: len(bonds)]
    rng = np.random.default_rng(seed)
    return (sites[nearest] * 1.04 + noise * rng.uniform(-1, 1, (len(bonds), 3))) * bonds.mean()


@contextlib.contextmanager
def numbers_traced(name: str) -> Iterator[None]:
    """What is compiled herein takes the numbers of a module as the drivers hand them over; then changing one never compiles."""
    try:
        yield
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        reason = str(error).splitlines()[0]
        fail(
            f"a number among the fields of {name} is used where JAX needs a constant; trace it, or mark a size with "
            f"eqx.field(static=True) ({reason})"
        )


def check_traced(name: str, module, function: Callable) -> None:
    """Numbers of a module must be traceable, in `function` of the module."""
    with numbers_traced(name):
        jax.eval_shape(function, as_leaves(module, np.float32))


def require(condition, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless the condition holds."""
    if not condition:
        fail(sentence)


def fail(sentence: str) -> NoReturn:
    """Raise `AssertionError` with the sentence."""
    raise AssertionError(sentence)


def close(actual: Array, wanted: Array, tolerance: float, sentence: str) -> None:
    """Largest difference below `tolerance` relative to the largest magnitude (at least 1)."""
    actual, wanted = np.asarray(actual, np.float64), np.asarray(wanted, np.float64)
    if actual.size == 0:
        return
    difference = np.abs(actual - wanted).max()
    require(difference <= tolerance * max(1.0, np.abs(wanted).max()), f"{sentence} (by {difference:.2e}).")
