"""Tasks for workers and what comes back: plain data that can be pickled, sent and stored."""

from __future__ import annotations

import abc
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from thalweg.structure import Structure


@dataclass(frozen=True)
class Task:
    """One structure to evaluate (NumPy, no batch axis).

    `lowest` is the lowest energy known when the task was made: what comes out lower is evaluated once more by a fresh
    calculator. `velocities` (atoms, 3) are for evaluations that follow dynamics first (`thalweg.search.base.Proposals`).
    """

    number: int
    structure: Structure
    lowest: float = -np.inf
    velocities: np.ndarray | None = None


@dataclass(frozen=True)
class Evaluated:
    """What became of a task; an evaluation that fails is a value here, never an exception.

    `energy` is inf where `status` is FAILED, and `error` then says why in one line. The arrays hold every point at which the
    energy was evaluated successfully, in order: `positions` (k, atoms, 3), `cells` (k, 3, 3), `energies` (k,), `forces`
    (k, atoms, 3). `evaluations` counts all that were begun, failed and repeated ones too. `structure` is the last point, and
    `largest` the largest force of the filter there (NaN where it failed).
    """

    number: int
    structure: Structure
    energy: float
    status: int
    error: str | None = None
    evaluations: int = 0
    seconds: float = 0.0
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3)))
    cells: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 3)))
    energies: np.ndarray = field(default_factory=lambda: np.zeros(0))
    forces: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3)))
    largest: float = float("nan")


class WorkerLost(Exception):
    """A worker died with its task: nothing is known of it, and it may be submitted again.

    A calculator that brings its process down does so each time; who submits again counts how often.
    """


class Objective(abc.ABC):
    """What is done with a task. Picklable, without state between calls; never raises for what a calculator does."""

    @abc.abstractmethod
    def __call__(self, task: Task) -> Evaluated:
        """Evaluate on the worker that calls."""

    def within(self, seconds: float | None) -> Objective:
        """The same with a limit to the time of one task; this one where it cannot look at the time."""
        return self


class Workers(abc.ABC):
    """Where tasks are evaluated. The futures fail only where a worker was lost (`WorkerLost`, or an executor's own)."""

    count: int  # how many tasks run at the same time

    @abc.abstractmethod
    def submit(self, task: Task) -> Future:
        """A future of the task's `Evaluated`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give the workers back, without waiting for what still runs; safe to call twice."""
