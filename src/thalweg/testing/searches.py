"""The conformance check of searches."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg import prng
from thalweg.leaves import as_leaves
from thalweg.ledger import load_state, save_state
from thalweg.potentials.pair import LennardJones
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.search.base import ModelSearch, Outcome, Search, State
from thalweg.system import System, cluster
from thalweg.testing.model_searches import ModelChecks
from thalweg.testing.shared import check_traced, fail, require

WALKERS = 4


def check_search(search: Search, system: System | None = None, walkers: int = WALKERS) -> None:
    """Check a search on a system (seven Lennard-Jones atoms by default), with made-up energies; nothing is relaxed.

    `ask` must not depend on who else is asked, `tell` of several rows must be the same as of one after the other, failed
    outcomes must leave no trace but counters, and a state that was saved must go on as one that was not. A `ModelSearch` is
    asked and told as the host loop does it, see `thalweg.testing.model_searches`.
    """
    name = type(search).__name__
    require(isinstance(search, Search), f"{name} is not a thalweg Search; derive it from Search.")
    system = cluster([0] * 7, LennardJones()) if system is None else system
    if isinstance(search, ModelSearch):
        with jax.enable_x64(True):
            ModelChecks(name, search, jax.tree.map(np.asarray, system), 2).run()
        return
    require(search.traceable, f"{name} runs on the host; derive it from ModelSearch.")
    walkers = int(getattr(search, "rungs", walkers))  # whole ladders
    with jax.enable_x64(True):
        _Checks(name, search, jax.tree.map(np.asarray, system), walkers).run()


@eqx.filter_jit
def _ask(constant, state):
    key, search, system = constant
    return search.ask(key, state, system)


@eqx.filter_jit
def _tell(constant, state, outcome):
    key, search, system = constant
    return search.tell(key, state, outcome, system)


class _Checks:
    def __init__(self, name: str, search: Search, system: System, walkers: int):
        self.name, self.search, self.system, self.walkers = name, search, system, walkers
        self.constant = as_leaves((prng.key(5), search, system), np.float64)

    def run(self) -> None:
        state = self.search.init(self.system, self.walkers, np.dtype(np.float64))
        self._check_walkers(state)
        check_traced(self.name, self.search, lambda s: s.ask(prng.key(0), state, self.system).origin)
        for turn in range(3):  # starts, then what comes after them
            proposals = self._ask(state)
            self._check_proposals(proposals)
            outcome = self._outcome(proposals, turn)
            told = self._tell(state, outcome)
            if not self.search.dynamic:  # those hand over positions between asks, and are told all at once
                self._check_subsets(state, proposals)
                self._check_failures(state, outcome)
                self._check_grouping(state, outcome, told)
            state = told
        self._check_saved(state)

    def _ask(self, state: State) -> Any:
        return jax.tree.map(np.asarray, _ask(*_arrays((self.constant, state))))

    def _tell(self, state: State, outcome: Outcome) -> State:
        return jax.tree.map(np.asarray, _tell(*_arrays((self.constant, state, outcome))))

    def _check_walkers(self, state: State) -> None:
        for leaf in ("index", "run"):
            value = getattr(state.walkers, leaf, None)
            require(value is not None and value.shape == (self.walkers,), f"the walkers of {self.name} lack the leaf {leaf}.")
        for leaf in jax.tree.leaves(state.walkers):
            require(leaf.shape[:1] == (self.walkers,), f"a leaf of the walkers of {self.name} has shape {leaf.shape}.")

    def _check_proposals(self, proposals) -> None:
        x = proposals.structures.positions
        shape = (self.walkers, len(self.system.numbers), 3)
        require(x.shape == shape, f"{self.name} asks with positions of shape {x.shape}; it must be {shape}.")
        require(bool(np.isfinite(x[:, self.system.mask]).all()), f"{self.name} asks with positions that are not finite.")
        origin, count = proposals.origin, len(self.search.origins)
        require(
            origin.shape == (self.walkers,) and bool((origin >= 0).all()) and bool((origin < count).all()),
            f"{self.name} gives origins {origin.tolist()} for {count} generators.",
        )
        needs = getattr(type(self.search), "needs_velocities", False)
        require((proposals.velocities is not None) == needs, f"{self.name} has velocities, or lacks them, against its class.")

    def _check_subsets(self, state: State, proposals) -> None:
        """Asking again, in another order and one by one, gives the same proposals."""
        order = np.arange(self.walkers)[::-1]
        self._same(proposals, self._ask(state), "asks differently when it is asked again")
        turned = self._ask(_rows(state, order))
        self._same(jax.tree.map(lambda a: a[order], proposals), turned, "asks differently for walkers in another order")
        alone = np.full(self.walkers, 1)
        one = self._ask(_rows(state, alone))
        self._same(jax.tree.map(lambda a: a[alone], proposals), one, "asks differently for a walker that is asked alone")

    def _outcome(self, proposals, turn: int) -> Outcome:
        n = self.walkers
        energy = -10.0 - np.random.default_rng(turn).uniform(0, 5, n)
        none = np.zeros(n, np.int32)
        whole = np.full(n, CONVERGED, np.int32)
        return Outcome(proposals.structures, energy, none + 50, whole, proposals.origin, np.ones(n, bool))

    def _check_failures(self, state: State, outcome: Outcome) -> None:
        """Failed relaxations are outcomes: nothing of theirs enters the state."""
        lost = eqx.tree_at(
            lambda o: (o.structures.positions, o.energy, o.status),
            outcome,
            (
                np.full_like(outcome.structures.positions, np.nan),
                np.full_like(outcome.energy, np.nan),
                outcome.status * 0 + FAILED,
            ),
        )
        told = self._tell(state, lost)
        for leaf in jax.tree.leaves(told):
            require(not np.isnan(leaf).any() if leaf.dtype.kind == "f" else True, f"{self.name} keeps NaN of a failed outcome.")
        proposals = self._ask(told)
        self._check_proposals(proposals)
        empty = eqx.tree_at(lambda o: o.valid, outcome, np.zeros(self.walkers, bool))
        self._same(state, self._tell(state, empty), "changes its state by rows that hold no outcome")

    def _check_grouping(self, state: State, outcome: Outcome, told: State) -> None:
        """Rows told one by one, in the same order, give the same walkers, and nearly the same statistics."""
        walkers, shared = jax.tree.map(np.array, state.walkers), state.shared
        for k in range(self.walkers):
            # As host loops do it: copies of the row that hold no outcome fill it up, so that one program serves.
            copies = np.full(self.walkers, k)
            filled = jax.tree.map(lambda a, copies=copies: a[copies], outcome)
            filled = eqx.tree_at(lambda o: o.valid, filled, np.arange(self.walkers) == 0)
            sub = self._tell(_rows(State(walkers, shared), copies), filled)
            walkers = jax.tree.map(lambda a, b, k=k: _set(a, k, b[0]), walkers, sub.walkers)
            shared = sub.shared
        sentence = "learns other things when it is told one by one"
        self._same(told.walkers, walkers, sentence, 1e-5)
        self._same(told.shared, shared, sentence, 0.02)

    def _check_saved(self, state: State) -> None:
        like = self.search.init(self.system, self.walkers, np.dtype(np.float64))
        again, _ = load_state(save_state(state, {}), like)
        self._same(state, again, "does not save all of its state", 0)
        self._same(self._ask(state), self._ask(again), "asks differently after its state was saved", 0)

    def _same(self, wanted, given, sentence: str, tolerance: float = 1e-9) -> None:
        for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(given), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape or a.dtype != b.dtype:
                fail(f"{self.name} {sentence}: shapes {a.shape} and {b.shape}, types {a.dtype} and {b.dtype}.")
            with np.errstate(invalid="ignore"):
                far = np.abs(np.where(a == b, 0, a.astype(float) - b.astype(float))).max(initial=0)
            require(far <= tolerance, f"{self.name} {sentence} (by {far:.2e}).")


def _arrays(tree):
    """NumPy arrays as JAX ones: of the precision they have here, whatever was compiled before."""
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, tree)


def _rows(state: State, rows: np.ndarray) -> State:
    return State(jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[rows]), state.walkers), state.shared)


def _set(a: np.ndarray, k: int, value) -> np.ndarray:
    a = a.copy()
    a[k] = value
    return a
