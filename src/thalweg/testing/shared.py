"""What the conformance checks share: one-sentence failures, a test structure, and the check that floats are traced."""

from __future__ import annotations

from typing import NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.typing import Array, Callable


def compact_cluster(bond_lengths, seed: int = 0, noise: float = 0.06) -> np.ndarray:
    """Positions (atoms, 3) near sites of an fcc lattice about the origin, disturbed by `noise` bonds: no symmetry left."""
    bonds = np.asarray(bond_lengths, float)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = grid[grid.sum(1) % 2 == 0] / np.sqrt(2)
    nearest = np.argsort(((sites - [0.11, 0.23, 0.37]) ** 2).sum(1), kind="stable")[: len(bonds)]
    rng = np.random.default_rng(seed)
    return (sites[nearest] * 1.04 + noise * rng.uniform(-1, 1, (len(bonds), 3))) * bonds.mean()


def check_traced(name: str, module, function: Callable) -> None:
    """Floats of a module must be traceable: then changing one never compiles again."""
    is_number = lambda leaf: eqx.is_inexact_array_like(leaf)
    floats, rest = eqx.partition(module, is_number)
    floats = jax.tree.map(jnp.asarray, floats)
    try:
        jax.eval_shape(lambda floats: function(eqx.combine(floats, rest)), floats)
    except jax.errors.JAXTypeError as error:
        reason = str(error).splitlines()[0]
        fail(f"a float field of {name} is used where JAX needs a constant, so each value of it would compile anew ({reason})")


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
