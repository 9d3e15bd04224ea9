"""Which evaluations a model is fitted to: outliers wreck it, and old bad structures teach little."""

from __future__ import annotations

import numpy as np


def chosen(energy, prior, valid, window: float = 60.0, highest_prior: float = 5.0, most: int = 500, newest: int = 50):
    """Indices of the rows to fit to, in order; on the host.

    Rows less than `window` above the lowest energy and with a repulsion below `highest_prior` (both eV): of more than `most`,
    the `newest` ones and the lowest. Where nothing passes, the lowest row alone, or no row at all.
    """
    energy, prior = np.asarray(energy, float), np.asarray(prior, float)
    usable = np.asarray(valid, bool) & np.isfinite(energy) & np.isfinite(prior)
    if not usable.any():
        return np.zeros(0, int)
    lowest = np.where(usable, energy, np.inf).min()
    good = np.flatnonzero(usable & (energy - lowest < window) & (prior < highest_prior))
    if len(good) == 0:
        return np.array([np.where(usable, energy, np.inf).argmin()])
    if len(good) <= most:
        return good
    newest = min(newest, most)
    late, rest = good[len(good) - newest :], good[: len(good) - newest]
    lower = rest[np.argsort(energy[rest], kind="stable")[: most - newest]]
    return np.sort(np.concatenate([lower, late]))


def padded_size(count: int, least: int = 32) -> int:
    """The power of two that holds `count` rows: few sizes, few compilations."""
    return max(least, 1 << max(count - 1, 0).bit_length())
