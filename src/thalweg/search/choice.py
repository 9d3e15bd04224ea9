"""Which of a search's candidates are worth an evaluation, in the eyes of a model."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from thalweg.search.fitting import predicted
from thalweg.search.memory import Memory
from thalweg.search.novelty import Seen, described, repeats, unsettled
from thalweg.surrogates.acquisition import Acquisition
from thalweg.surrogates.base import Posterior
from thalweg.system import System

#: What counts as a lower energy for `patience`, in energy scales: less is refinement of what was found.
PROGRESS = 0.05
#: How much lower than a structure close by a candidate must be to be evaluated, in energy scales.
REFINED = 0.01
#: Pairs nearer than this share of the lower distance limit are too near to be evaluated.
NARROW = 0.93


def promises(
    x: np.ndarray,
    narrow: np.ndarray,
    posterior: Posterior,
    memory: Memory,
    low: np.ndarray,
    seen: Seen,
    system: System,
    acquisition: Acquisition,
    apart: float,
    energy_scale: float,
) -> np.ndarray:
    """Values (n,) of the acquisition at candidates (n, atoms, 3), the lowest promises most; `narrow` (n,) are their smallest
    pair distances in bonds.

    inf for what is too dense, and for what was looked at: nearer than `apart` to what failed or waits, or to one of the rows
    `low` of the memory without being lower.
    """  # fmt: skip
    own = described(x, system)
    mean, std = predicted(posterior, x, system)
    std = unsettled(own, std, seen)
    values = np.asarray(acquisition(jnp.asarray(mean), jnp.asarray(std), np.float64(memory.best), int(memory.told)))
    again = repeats(own, mean, seen, memory.energy[low], apart, REFINED * energy_scale)
    return np.where(np.isfinite(values) & ~again & (narrow >= NARROW * system.limits[0]), values, np.inf)
