"""Searches each from a given start of its own, side by side and without a word between them, at equal cost.

`fresh_starts` lets walkers make their starts and learn from each other; where methods are compared on the same given
structures, each start is a search of its own: what a walker learns about its moves, and where it begins anew, is its alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg import prng
from thalweg.leaves import as_leaves
from thalweg.relax.base import FAILED, RUNNING
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import energy_scale
from thalweg.search import fused
from thalweg.search.base import Outcome, Proposals, Search, State
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, PyTree

#: Evaluations kept back at most, and as a share of a budget, to relax each start's lowest structure in float64.
POLISH, POLISH_SHARE = 200, 0.1
#: Lanes come in such numbers, as vector instructions do; those beyond the starts run beside them and are not looked at.
WIDTH = 8
#: Finished relaxations that one visit to the device may log.
PAGE = 64


class Alone(eqx.Module):
    """One walker and what it would share with others; every leaf has a leading axis of walkers in a `State`."""

    walker: PyTree
    shared: PyTree
    index: jax.Array
    run: jax.Array


class Apart(Search):
    """The walkers of `inner` made strangers: each has the shared memory for itself and begins from a start of its own.

    `starts` (starts, atoms, 3); walker k has start k, modulo their number, and comes back to it where `inner` would draw a
    new one (its walkers have an infinite energy then).
    """

    inner: Search
    starts: Array

    @property
    def origins(self) -> tuple[str, ...]:
        return self.inner.origins

    def init(self, system: System, n_walkers: int, dtype) -> State:
        state = self.inner.init(system, n_walkers, dtype)
        shared = jax.tree.map(lambda a: jnp.broadcast_to(a, (n_walkers, *a.shape)), state.shared)
        return State(Alone(state.walkers, shared, state.walkers.index, state.walkers.run), None)

    def ask(self, key, state: State, system: System) -> Proposals:
        def one(alone: Alone):
            return jax.tree.map(lambda a: a[0], self.inner.ask(key, _single(alone), system))

        # One after the other: mapped over, every walker would make the proposals of all generators.
        made = lax.map(one, state.walkers)
        walkers = state.walkers.walker
        own = jnp.asarray(self.starts, made.structures.positions.dtype)[walkers.index % len(self.starts)]
        x = jnp.where(jnp.isinf(walkers.energy)[:, None, None], own, made.structures.positions)
        return eqx.tree_at(lambda p: p.structures.positions, made, x)

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        def one(row):
            alone, told = row
            return self.inner.tell(key, _single(alone), jax.tree.map(lambda a: a[None], told), system)

        new = jax.vmap(one)((state.walkers, outcome))
        walkers = jax.tree.map(lambda a: a[:, 0], new.walkers)
        return State(Alone(walkers, new.shared, walkers.index, walkers.run), None)


def _single(alone: Alone) -> State:
    """The state of a search with this walker alone."""
    return State(jax.tree.map(lambda a: a[None], alone.walker), alone.shared)


@dataclass(frozen=True)
class Walk:
    """A search and how its hops relax: until `fmax` (energies of a bond per bond), in `max_steps` evaluations at most."""

    search: Search
    relaxation: Relaxation
    fmax: float
    max_steps: int


@dataclass(frozen=True)
class Found:
    """Lowest structures of the starts, relaxed in float64, and what they cost; `compiling` seconds are not in `cpu_seconds`."""

    energies: np.ndarray  # (starts,)
    positions: np.ndarray  # (starts, atoms, 3)
    evaluations: np.ndarray  # (starts,) everything: unfinished relaxations and the last one in float64
    cpu_seconds: float  # of all starts together
    compiling: float


class _Walkers:
    """The walkers on the device, and the lowest minimum of each so far. `lanes` of them, each with a start."""

    def __init__(self, walk: Walk, system: System, starts: np.ndarray, lanes: int, seed: int):
        scale, bond = energy_scale(walk.relaxation, system), float(np.mean(system.bond_lengths))
        hop = replace(walk.relaxation, fmax=walk.fmax * scale / bond, max_steps=walk.max_steps)
        apart, space = Apart(walk.search, starts), hop.space(system.cell, system.pbc)
        self.constant = as_leaves(fused.Constant(prng.key(seed), apart, hop, system, space), np.float32)
        self.n_atoms = starts.shape[1]
        with jax.enable_x64(False):
            self.state = fused.begin(self.constant, lanes, np.float32)
        self.spent, self.lowest = np.zeros(lanes, np.int64), np.full(lanes, np.inf)
        self.structures = np.array(starts[np.arange(lanes) % len(starts)], np.float64)

    def compile(self) -> None:
        """Make the program, without a trace of it in the walkers."""
        with jax.enable_x64(False):
            jax.block_until_ready(fused.visit(self.constant, self.state, self._limits(1, 1), PAGE))

    def _limits(self, evaluations: int, looks: int) -> fused.Limits:
        most = np.int32(np.clip(evaluations, 1, 2**31 - 1))
        return fused.Limits(most, np.asarray(-np.inf, np.float32), np.int32(looks))

    def visit(self, evaluations: int, budget: float, looks: int = PAGE) -> None:
        """Go on for about so many evaluations; minima that a walker finishes beyond its `budget` do not count."""
        with jax.enable_x64(False):
            self.state, log, filled = fused.visit(self.constant, self.state, self._limits(evaluations, looks), PAGE)
            filled = int(filled)
        flat = {k: np.asarray(v)[:filled].reshape(-1, *np.shape(v)[2:]) for k, v in vars(log).items() if v is not None}
        bad = (flat["status"] == FAILED) | ~np.isfinite(flat["energy"])
        for row in np.flatnonzero(flat["valid"]):
            walker, energy = flat["walker"][row], float(flat["energy"][row])
            self.spent[walker] += flat["steps"][row]
            if not bad[row] and energy < self.lowest[walker] and self.spent[walker] <= budget:
                self.lowest[walker], self.structures[walker] = energy, flat["positions"][row]

    def in_flight(self) -> np.ndarray:
        """Evaluations (lanes,) of relaxations that are not finished."""
        lanes = self.state.lanes
        return np.where(np.asarray(lanes.status) == RUNNING, np.asarray(lanes.steps), 0)

    def in_hand(self) -> np.ndarray:
        """What each walker has to show (lanes, atoms, 3): its lowest minimum, or where its first relaxation has come to."""
        now = np.moveaxis(np.asarray(self.state.lanes.coordinates, np.float64), -1, 0)
        begun = np.asarray(self.state.asked) & ~np.isfinite(self.lowest) & np.isfinite(now).all((1, 2))
        return np.where(begun[:, None, None], now, self.structures)


def kept_back(evaluations: int) -> int:
    """Evaluations of a budget that are left for the last relaxation."""
    return min(POLISH, int(evaluations * POLISH_SHARE))


def polish(potential, system: System, max_steps: int) -> Relaxation:
    """The last relaxation, in float64."""
    bond = float(np.mean(system.bond_lengths))
    relaxation = Relaxation(potential, LBFGS(max_step=0.15 * bond))
    return replace(relaxation, fmax=1e-4 * energy_scale(relaxation, system) / bond, max_steps=max_steps)


def relaxed(structures: Structure, relaxation: Relaxation):
    """`relax` in as many lanes as structures; energies (structures,) are infinite where it failed."""
    out = relax(structures, relaxation, len(structures))
    return np.where((out.status == FAILED) | ~np.isfinite(out.energy), np.inf, out.energy), out


def for_evaluations(walk: Walk, system: System, starts: np.ndarray, evaluations: int, seed: int) -> Found:
    """One walker for each of `starts` (starts, atoms, 3), each with so many evaluations at most.

    What a walker had not finished within them does not count, but its cost does: it is the whole budget.
    """
    begun, count = time.process_time(), len(starts)
    kept = kept_back(evaluations)
    last = polish(walk.relaxation.potential, system, kept)
    # A policy is matrices for each lane, and gains nothing by more of them.
    lanes = count if walk.relaxation.relaxer.reads_energies else -(-count // WIDTH) * WIDTH
    walkers = _Walkers(walk, system, starts, lanes, seed)
    walkers.compile()
    relaxed(system.structure(starts), replace(last, max_steps=1))
    compiling, begun = time.process_time() - begun, time.process_time()
    budget = evaluations - kept
    while (left := np.maximum(budget - walkers.spent[:count], 0)).any():
        walkers.visit(max(1, int(min(left.sum() / count, budget // 16) * lanes)), budget)
    energies, out = relaxed(system.structure(walkers.in_hand()[:count]), last)
    cost = np.minimum(walkers.spent[:count], budget) + out.steps
    return Found(energies, np.asarray(out.structures.positions), cost, time.process_time() - begun, compiling)


def pace(walk: Walk, system: System, start: np.ndarray, seed: int, lanes: int = WIDTH) -> tuple[float, float]:
    """Evaluations per CPU second of `lanes` walkers from one start (atoms, 3); also the seconds it took to find out."""
    begun = time.process_time()
    walkers = _Walkers(walk, system, start[None], lanes, seed)
    walkers.compile()
    compiled = time.process_time()
    while (spent := time.process_time() - compiled) < 0.2:
        walkers.visit(200 * lanes, np.inf)
    done = walkers.spent.sum() + walkers.in_flight().sum()
    return done / spent, time.process_time() - begun


def for_seconds(
    walk: Walk, system: System, start: np.ndarray, seconds: float, seed: int, lanes: int = WIDTH, enough: float = np.inf
) -> Found:
    """`lanes` walkers from one start (atoms, 3) until so many CPU seconds are over, the last relaxation included.

    They also stop when each has spent `enough` evaluations. The lowest structure of all of them is relaxed in float64.
    """
    begun = time.process_time()
    last = polish(walk.relaxation.potential, system, POLISH)
    # An annealing draws its random numbers from where it begins: the same for all, were it not for these differences.
    noise = 1e-4 * float(np.mean(system.bond_lengths)) * np.random.default_rng(seed).standard_normal((lanes, *start.shape))
    walkers = _Walkers(walk, system, start + noise, lanes, seed)
    walkers.compile()
    relaxed(system.structure(start[None]), replace(last, max_steps=1))
    compiled = time.process_time()
    relaxed(system.structure(start[None]), last)
    reserve = time.process_time() - compiled  # what the last relaxation will cost
    begun, compiling = time.process_time(), compiled - begun
    end, step = begun + seconds - reserve, 200 * lanes
    while (now := time.process_time()) < end and (walkers.spent < enough).any():
        if walkers.spent.any():  # some fifty visits, none longer than what is left
            step = walkers.spent.sum() / (now - begun) * min(seconds / 50, end - now)
        walkers.visit(max(1, int(step)), np.inf)
    best = int(np.argmin(walkers.lowest))
    energies, out = relaxed(system.structure(walkers.in_hand()[best][None]), last)
    cost = walkers.spent.sum() + walkers.in_flight().sum() + out.steps
    return Found(energies, np.asarray(out.structures.positions), cost, time.process_time() - begun, compiling)
