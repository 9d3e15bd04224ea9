"""What a search is: it proposes structures (`ask`) and learns from their outcome (`tell`)."""

from __future__ import annotations

import abc

import equinox as eqx
import jax

from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import PyTree


class Proposals(eqx.Module):
    """Structures to evaluate, one per walker asked; `origin` is the index of the generator that made each."""

    structures: Structure
    origin: jax.Array


class Outcome(eqx.Module):
    """What became of proposals: relaxed structures, energies, evaluations spent, relaxation status.

    `valid` is False for rows that hold no outcome (device batches have a fixed size).
    """

    structures: Structure
    energy: jax.Array
    steps: jax.Array
    status: jax.Array
    origin: jax.Array
    valid: jax.Array


class State(eqx.Module):
    """State of a search: one row per walker, and what all walkers share."""

    walkers: PyTree  # leaves (walkers, ...)
    shared: PyTree


class Search(eqx.Module):
    """A global method. `ask` reads the state, `tell` is the only place it changes.

    Both are traceable and work on any subset of walkers, so that the device loop may ask and tell those that finished
    while the others still relax, and a host loop may take results in any order.
    """

    @abc.abstractmethod
    def init(self, system: System, n_walkers: int, dtype) -> State:
        """State of `n_walkers` walkers that have not begun."""

    @abc.abstractmethod
    def ask(self, key, state: State, system: System) -> Proposals:
        """One proposal for every walker in `state`."""

    @abc.abstractmethod
    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        """The state after outcomes of the same walkers, row by row."""

    @property
    @abc.abstractmethod
    def origins(self) -> tuple[str, ...]:
        """Names of the generators, in the order of `Proposals.origin`."""
