"""GOFEE: a model of the energy, learned from every evaluation, decides what is evaluated next."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from thalweg.search.base import Points
from thalweg.search.memory import Memory
from thalweg.search.model_guided import ModelGuided


class Member(eqx.Module):
    """A walker of a search with a common memory: who it is; every leaf has a leading axis of walkers."""

    index: np.ndarray
    run: np.ndarray  # independent runs begun before the one it is in
    count: np.ndarray  # outcomes it was told, the counter of its random keys


class Gofee(ModelGuided):
    """Global optimisation with first-principles energy expressions: candidates relaxed on a model, the best one evaluated.

    M. K. Bisbo and B. Hammer, Phys. Rev. Lett. 124, 086102 (2020), doi:10.1103/PhysRevLett.124.086102; Phys. Rev. B 105,
    245404 (2022), doi:10.1103/PhysRevB.105.245404. Candidates are made of parents that the `sampler` takes from all that was
    evaluated; everything else is in `ModelGuided`.
    """

    def walkers(self, n: int) -> Member:
        zero = np.zeros(n, np.int32)
        return Member(np.arange(n, dtype=np.int32), zero, zero)

    def followed(self, key, walkers: Member, row: int, points: Points, at: int, failed: bool) -> Member:
        return walkers  # they have no place of their own

    def parents(self, rng, memory: Memory, drawn: np.ndarray, walkers: Member, row: int) -> np.ndarray:
        return drawn
