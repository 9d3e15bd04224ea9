"""What a report is made of: plain records of NumPy arrays and builtins, filled from the store of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from thalweg.landscape.states import Network


@dataclass(frozen=True)
class Minimum:
    """One distinct local minimum of the run."""

    energy: float
    hits: int  # relaxations that ended here
    independent_hits: int  # independent runs that came here at least once
    found_by: str  # generator of the first hit
    evaluations: int  # energy evaluations of the whole run up to the first hit
    positions: np.ndarray  # (atoms, 3)
    numbers: np.ndarray  # (atoms,) atomic numbers; 0 is a particle of a model system, -1 is padding
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))  # rows are the cell vectors
    pbc: tuple[bool, bool, bool] = (False, False, False)


@dataclass(frozen=True)
class Move:
    """What one generator did during the run."""

    name: str
    trials: int  # relaxations that it proposed
    gained: int  # of these, how many lowered the energy of their walker
    weight: float | None  # probability of being chosen, at the end of the run; None for starts
    evaluations_per_trial: float
    accepted: int | None = None  # of the trials, how many the walker accepted; None where that was not recorded


@dataclass(frozen=True)
class Progress:
    """The run as a series of moments; all arrays have the same length and never decrease, but `best`, which never rises."""

    evaluations: np.ndarray
    seconds: np.ndarray  # wall clock
    best: np.ndarray  # lowest energy so far; not finite before the first minimum
    relaxations: np.ndarray
    distinct: np.ndarray  # distinct minima so far

    @classmethod
    def empty(cls) -> Progress:
        """A run that has not begun."""
        return cls(*(np.zeros(0) for _ in range(5)))


@dataclass(frozen=True)
class Reference:
    """A published energy to compare with; energies within `tolerance` count as equal."""

    energy: float
    source: str
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Confidence:
    """How sure one may be that no lower minimum remains."""

    hits: int  # independent runs that found the lowest minimum
    runs: int  # independent runs begun
    remaining: float | None  # estimated probability that a lower minimum remains; None without an estimate
    estimator: str = ""  # one sentence
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Isomer:
    """One isomer among the structures that a run evaluated."""

    smiles: str
    energy: float  # the lowest of its structures
    count: int  # structures that are this isomer
    evaluations: int  # energy evaluations of the whole run up to the first
    new: bool  # not among those known before; False where none are known


@dataclass(frozen=True)
class Isomers:
    """The isomers among the structures that a run evaluated, lowest first; what is known before is of the same formula."""

    formula: str
    constitutions: tuple[Isomer, ...] = ()
    stereo: tuple[Isomer, ...] = ()
    structures: int = 0  # that have an energy
    broken: int = 0  # of these, in several parts
    unnamed: int = 0  # of these, no molecule
    source: str = ""  # of what is known before; empty where nothing is
    known: Mapping[str, float | None] = field(default_factory=dict)  # energies by SMILES with stereochemistry
    episodes: np.ndarray = field(default_factory=lambda: np.zeros(0))  # energies of what a builder built, NaN for failures

    @property
    def again(self) -> int:
        """How many of those known before were found."""
        return sum(one.smiles in self.known for one in self.stereo)


@dataclass(frozen=True)
class ReportData:
    """Everything that the report page shows."""

    title: str  # e.g. LJ38
    formula: str
    n_atoms: int
    minima: tuple[Minimum, ...] = ()  # in any order
    progress: Progress = field(default_factory=Progress.empty)
    moves: tuple[Move, ...] = ()
    confidence: Confidence = Confidence(0, 0, None)
    reference: Reference | None = None
    model: str = ""  # what gave the energies, e.g. Lennard-Jones
    energy_unit: Literal["eV", "ε"] | str = "eV"
    length_unit: Literal["Å", "σ"] | str = "Å"
    seed: int = 0
    started: str = ""  # ISO 8601
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    command: str = ""
    resolved_input: str = ""  # TOML
    stop_reason: str = ""  # one sentence
    versions: Mapping[str, str] = field(default_factory=dict)  # thalweg, jax, numpy, python, platform
    relaxed: bool = True  # False where searches spend too few steps on structures to call them minima
    agent_maps: str = ""  # SVG: what an agent expected of every placement as it built (`thalweg.agents.pictures`)
    agent_clouds: str = ""  # SVG: the same of a builder of molecules (`thalweg.agents.clouds`)
    isomers: Isomers | None = None  # of free molecules around calculators
    landscape: Network | None = None  # what `thalweg landscape` found between the minima
    n_distinct: int | None = None  # distinct minima of the whole run, where `minima` holds only the lowest

    @property
    def kind(self) -> tuple[str, str]:
        """What the run keeps, one and many."""
        return ("minimum", "minima") if self.relaxed else ("structure", "structures")
