"""Minima and the transition states between them, as plain records. Needs no JAX: reports read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class State:
    """A minimum, or the transition state between the minima of numbers `ends`.

    `vibrations` are ħω (eV; ω in reduced units), the imaginary one of a transition state negative. `group` is the point group
    of free clusters and `order` how many of its operations there are (empty and 1 for all else).
    """

    energy: float
    positions: np.ndarray  # (atoms, 3)
    vibrations: np.ndarray
    group: str = ""
    order: int = 1
    ends: tuple[int, int] | None = None
    given: bool = False  # a minimum that was there before the search for saddles
    hits: int = 1


@dataclass
class Network:
    """Minima and saddles in order of discovery; `tried` counts searches by the pair of minima that they set out from.

    `length` is a bond length, `variables` as in `thalweg.potentials.base.Potential`, `boltzmann` the energy per unit of
    temperature.
    """

    name: str
    numbers: np.ndarray  # (atoms,)
    cell: np.ndarray  # (3, 3)
    pbc: tuple[bool, bool, bool]
    fixed: np.ndarray  # (atoms,) bool
    length: float
    energy_tolerance: float
    units: tuple[str, str] = ("ε", "σ")
    boltzmann: float = 1.0
    variables: int | None = None
    minima: list[State] = field(default_factory=list)
    saddles: list[State] = field(default_factory=list)
    tried: dict[tuple[int, int], int] = field(default_factory=dict)  # (i, i): from one minimum alone
    evaluations: int = 0
    seconds: float = 0.0
    failed: int = 0  # searches that led to no saddle

    def joined(self, below: float = np.inf) -> np.ndarray:
        """For each minimum (n,) the lowest number of a minimum that saddles, none of them above an energy, join it with."""
        root = np.arange(len(self.minima))
        for _, s, (i, j) in self.joining():
            if s.energy <= below and root[i] != root[j]:
                root[root == max(root[i], root[j])] = min(root[i], root[j])
        return root

    def order(self) -> np.ndarray:
        """Numbers of the minima, the lowest first."""
        return np.argsort([m.energy for m in self.minima], kind="stable")

    def joining(self) -> Iterator[tuple[int, State, tuple[int, int]]]:
        """Saddles between two different minima: their numbers, themselves, and their ends."""
        for k, s in enumerate(self.saddles):
            if s.ends is not None and s.ends[0] != s.ends[1]:
                yield k, s, s.ends
