"""What a search is: it proposes structures (`ask`) and learns from their outcome (`tell`)."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator, held
from thalweg.relax.base import FAILED
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, PyTree


class Proposals(eqx.Module):
    """Structures to evaluate, one per walker asked; `origin` is the index of the generator that made each.

    With `velocities` (batch, atoms, 3), in units of length per (mass x length^2 / energy)^(1/2), an evaluation follows the
    dynamics out of the present basin before it relaxes (`thalweg.objective`); only the host loop knows them.

    `notes` (batch, k) float64 are what the search wants to be told again with the outcome: how it came by the proposal, say.
    They are kept with the run. A search that notes anything notes k numbers with every proposal; only the host loop does so.
    """

    structures: Structure
    origin: Array
    velocities: Array | None = None
    notes: Array | None = None


class Points(eqx.Module):
    """Everywhere the true energy was evaluated for one outcome: positions (k, atoms, 3), cells, energies, forces."""

    positions: Array
    cell: Array  # (k, 3, 3)
    energy: Array  # (k,)
    forces: Array  # (k, atoms, 3)


class Outcome(eqx.Module):
    """What became of proposals: relaxed structures, energies, evaluations spent, relaxation status.

    `valid` is False for rows that hold no outcome (device batches have a fixed size). `points` come from the host loop
    alone, which tells outcomes one by one, and so does what was noted with the proposals, `notes` (batch, k).
    """

    structures: Structure
    energy: Array
    steps: Array
    status: Array
    origin: Array
    valid: Array
    points: Points | None = None
    notes: Array | None = None

    @property
    def good(self) -> Array:
        """True (batch) for rows that hold an outcome with a finite energy."""
        return self.valid & (self.status != FAILED) & jnp.isfinite(self.energy)


class State(eqx.Module):
    """State of a search: one row per walker, and what all walkers share."""

    walkers: PyTree  # leaves (walkers, ...)
    shared: PyTree


class Search(eqx.Module):
    """A global method. `ask` reads the state, `tell` is the only place it changes.

    Both are traceable and work on any subset of walkers, so that the device loop may ask and tell those that finished
    while the others still relax, and a host loop may take results in any order.
    """

    #: True where evaluating a proposal means following its dynamics (`thalweg.search.tempering`), not relaxing it.
    dynamic: ClassVar[bool] = False
    #: False for a `ModelSearch`.
    traceable: ClassVar[bool] = True
    #: True where proposals come with velocities, which only the host loop knows to follow.
    needs_velocities: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, system: System, n_walkers: int, dtype) -> State:
        """State of `n_walkers` walkers that have not begun."""

    @abc.abstractmethod
    def ask(self, key, state: State, system: System) -> Proposals:
        """One proposal for every walker in `state`."""

    @abc.abstractmethod
    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        """The state after outcomes of the same walkers, row by row."""

    def check(self, system: System) -> None:
        """Raise `InputError` where this search cannot work on a system."""
        return

    @property
    @abc.abstractmethod
    def origins(self) -> tuple[str, ...]:
        """Names of the generators, in the order of `Proposals.origin`."""


class ModelSearch(Search):
    """A search whose `ask` and `tell` run on the host and may take seconds: those that fit models to what was evaluated.

    Rows of walkers are proposals in flight; `walkers` of the state has at least the leaves `index` and `run`. State leaves
    may grow from tell to tell (arrays only, so that a checkpoint holds them).
    """

    traceable: ClassVar[bool] = False

    @abc.abstractmethod
    def ask(self, key, state: State, system: System, pending: Structure | None = None) -> Proposals:
        """One proposal for every walker in `state`; `pending` are structures that others evaluate at present."""

    def products(self, state: State, system: System) -> dict[str, str]:
        """Files, by name their text, that a run leaves besides its structures: what was learned. From its last state."""
        return {}


def blank(system: System, n: int, dtype):
    """Positions (n, atoms, 3) before anything was proposed: the template's where there is one, else zeros."""
    positions = jnp.zeros((len(system.numbers), 3)) if system.positions is None else system.positions
    return jnp.broadcast_to(jnp.asarray(positions, dtype), (n, len(system.numbers), 3))


def weights_of(given, choices) -> np.ndarray:
    """How often each of `choices` is drawn, relative to the others: as given, or all alike."""
    return np.asarray(np.ones(len(choices)) if given is None else given, np.float32)


def structures_of(system: System, positions, cells=None) -> Structure:
    """A traced batch of the system's structures from positions (batch, atoms, 3) and cells, the system's unless given."""
    n = positions.shape[0]
    spread = lambda a, dtype=None: jnp.broadcast_to(jnp.asarray(a, dtype), (n, *a.shape))
    cells = spread(system.cell, positions.dtype) if cells is None else cells
    return Structure(positions, spread(system.numbers), cells, spread(system.fixed), system.pbc)


@jax.jit  # on the host every operation of a key would be dispatched by itself: 40 ms
def walker_keys(key, index, count):
    """One key per walker from the run's key, the walker's index and a counter: independent of who is asked when."""
    return jax.vmap(lambda i, c: jr.fold_in(jr.fold_in(key, i), c))(index, count)


def generate(
    generators: tuple[Generator, ...],
    origin,
    keys,
    parents: Structure,
    system: System,
    partners: Structure | None = None,
    own: Generator | None = None,
) -> Structure:
    """The structures proposed by generator `origin[k]` from parent k; template, region and fixed atoms are
    respected (`generators.base.held`).

    Generators with two parents take `partners` as the second; only searches with a population have them. `own` is one more
    generator, before the others, whose leaves have an axis of walkers in front: each walker's own. One walker after the
    other, so that only the generator it drew runs; mapped over, all of them would.
    """

    def branch(generator: Generator):
        if generator.n_parents > 1 and partners is None:
            raise InputError(
                f'the generator "{generator.name}" needs two parents; use it in a search with a population, such as '
                '"evolutionary"'
            )

        def call(key, parent, partner):
            both = [parent, partner] if generator.n_parents > 1 else [parent]
            new = generator(key, jax.tree.map(lambda *a: jnp.stack(a), *both), system)
            kept = held(new, parent, system, start=generator.n_parents == 0)
            return kept.positions, jnp.asarray(kept.cell, parent.cell.dtype)

        return call

    def one(row):
        choice, key, parent, partner, mine = row
        choices = generators if mine is None else (mine, *generators)
        return lax.switch(choice, [branch(g) for g in choices], key, parent, partner)

    seconds = parents if partners is None else partners
    positions, cells = lax.map(one, (origin, keys, parents, seconds, own))
    return Structure(positions, parents.numbers, cells, parents.fixed, parents.pbc)
