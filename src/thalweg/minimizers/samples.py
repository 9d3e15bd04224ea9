"""Points to look at: pairs on both sides of a centre, and boxes that stay in the box."""

from __future__ import annotations

import numpy as np


def inner_box(centre: np.ndarray, half: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half widths (dim,) of the box of this size nearest to a centre that is inside of low and high (dim,)."""
    half = np.minimum(half, (high - low) / 2)
    return np.clip(centre, low + half, high - half), half


def pairs(rng: np.random.Generator, count: int, centre: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u (count, dim), uniform in [-1, 1], and the points (2 count, dim) centre + half u and then centre - half u; float32."""
    u = rng.random((count, len(centre)), dtype=np.float32) * 2 - 1
    away, middle = u * half.astype(np.float32), centre.astype(np.float32)
    return u, np.concatenate([middle + away, middle - away])
