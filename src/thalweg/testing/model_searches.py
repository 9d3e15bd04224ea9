"""The conformance check of searches that run on the host and fit models."""

from __future__ import annotations

import copy
from typing import Any

import jax
import numpy as np

from thalweg import prng
from thalweg.generators.base import inside
from thalweg.geometry import traced_space
from thalweg.ledger import load_state, save_state
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.search import fitting
from thalweg.search.base import ModelSearch, Outcome, Points, Proposals, State
from thalweg.search.guard import pair_ratios
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.testing.shared import fail, require

#: Proposals beyond the initial ones that are asked for, by turns of all walkers.
TURNS = 2
#: Share of the lower distance limit that atoms of a proposal must keep, and of the upper one for the nearest neighbour.
NEAREST, ALONE = 0.9, 1.5


class ModelChecks:
    """Asks and tells as the host loop does: walkers one by one, with what others wait for, and energies of springs."""

    def __init__(self, name: str, search: ModelSearch, system: System, walkers: int):
        self.name, self.search, self.system, self.walkers = name, search, system, walkers
        self.key = prng.key(5)

    def run(self) -> None:
        state = self.search.init(self.system, self.walkers, np.dtype(np.float64))
        self._check_walkers(state, state)
        self._check_asking(state)
        for _ in range(-(-int(getattr(self.search, "n_initial", 1)) // self.walkers) + TURNS):
            state = self._turn(state)
        asked = self._check_asking(state)
        self._check_saved(state, asked)
        self._check_failures(state)

    # -- as the host loop does it ------------------------------------------------------------------------------------------

    def _ask(self, state: State, row: int, waiting: list) -> Proposals:
        pending = self._structures(np.stack(waiting)) if waiting else None
        return jax.tree.map(np.asarray, self.search.ask(self.key, _row(state, row), self.system, pending))

    def _tell(self, state: State, row: int, outcome: Outcome) -> State:
        before = copy.deepcopy(jax.tree.map(np.asarray, state))
        try:
            told = self.search.tell(self.key, _row(state, row), outcome, self.system)
        except Exception as error:
            failed = int(outcome.status[0]) == FAILED
            fail(f"{self.name} raises {type(error).__name__} when it is told {'a failure' if failed else 'an energy'}: {error}")
        self._same(before, state, "changes the state that it was given instead of returning a new one")
        walkers = jax.tree.map(lambda old, new: _put(old, row, new), state.walkers, told.walkers)
        after = State(walkers, told.shared)
        self._check_walkers(state, after)
        return after

    def _turn(self, state: State) -> State:
        """The state after all walkers were asked, and told one after the other."""
        asked: list[Proposals] = []
        for row in range(self.walkers):
            asked.append(self._ask(state, row, [p.structures.positions[0] for p in asked]))
            self._check_proposal(asked[-1])
        for row, proposal in enumerate(asked):
            state = self._tell(state, row, self._outcome(proposal))
        return state

    def _structures(self, positions: np.ndarray) -> Structure:
        return Structure.create(
            positions, self.system.numbers, np.asarray(self.system.cell), self.system.fixed, self.system.pbc
        )

    def _outcome(self, proposal: Proposals, *, lost: bool = False, points: bool = True) -> Outcome:
        """Energies and forces of springs to the centroid; `lost`: what came after that point failed, or the first one did."""
        x = np.asarray(proposal.structures.positions, np.float64)
        mask = np.asarray(self.system.mask)[:, None]
        away = np.where(mask, x - x[:, mask[:, 0]].mean(1, keepdims=True), 0)
        energy = (away**2).sum((1, 2)) / 2
        known = [x, np.asarray(proposal.structures.cell, np.float64), energy, -away]
        if lost and not points:
            known = [a[:0] for a in known]
        one = np.ones(1, np.int32)
        status = one * (FAILED if lost else CONVERGED)
        value = np.full(1, np.inf) if lost else energy
        valid, points_ = np.ones(1, bool), Points(*known)
        return Outcome(proposal.structures, value, one, status, proposal.origin, valid, points_, proposal.notes)

    # -- what is looked at -------------------------------------------------------------------------------------------------

    def _check_walkers(self, before: State, after: State) -> None:
        for leaf in ("index", "run"):
            value = getattr(after.walkers, leaf, None)
            require(value is not None and value.shape == (self.walkers,), f"the walkers of {self.name} lack the leaf {leaf}.")
        for leaf in jax.tree.leaves(after):
            require(hasattr(leaf, "dtype"), f"the state of {self.name} holds a {type(leaf).__name__}; arrays alone are saved.")
        same = (np.asarray(after.walkers.index) == np.asarray(before.walkers.index)).all()
        require(same, f"{self.name} changes the index of a walker.")
        grown = (np.asarray(after.walkers.run) >= np.asarray(before.walkers.run)).all()
        require(grown, f"{self.name} counts independent runs down.")

    def _check_proposal(self, proposal: Proposals) -> None:
        x, atoms = np.asarray(proposal.structures.positions), np.asarray(self.system.mask)
        shape = (1, len(self.system.numbers), 3)
        require(x.shape == shape, f"{self.name} asks one walker with positions of shape {x.shape}; it must be {shape}.")
        require(bool(np.isfinite(x[:, atoms]).all()), f"{self.name} asks with positions that are not finite.")
        origin, count = np.asarray(proposal.origin), len(self.search.origins)
        require(
            origin.shape == (1,) and 0 <= int(origin[0]) < count,
            f"{self.name} gives the origin {origin.tolist()} for {count} generators.",
        )
        self._check_limits(x[0], np.asarray(proposal.structures.cell)[0], self.search.origins[int(origin[0])])

    def _check_limits(self, x: np.ndarray, cell: np.ndarray, made_by: str) -> None:
        """Calculators fail where atoms are too near, or far from all others."""
        s = self.system
        low, high = s.limits
        nearest = np.asarray(pair_ratios(x, cell, s)).min(1)[np.asarray(s.searched)]
        require(
            nearest.min() > NEAREST * low,
            f"{self.name} asks with atoms at {nearest.min():.2f} bonds, nearer than the limit {low:g} (made by {made_by}).",
        )
        alone = int(s.n_atoms) > 1 and nearest.max() > ALONE * high
        require(not alone, f"{self.name} asks with an atom {nearest.max():.2f} bonds from all others (made by {made_by}).")
        within = np.asarray(inside(x, s, traced_space(cell, s.pbc)))[np.asarray(s.searched)]
        require(bool(within.all()), f"{self.name} asks with atoms outside the region (made by {made_by}).")
        if s.positions is not None:
            held = np.asarray(s.fixed) & np.asarray(s.mask)
            moved = np.abs(x - np.asarray(s.positions))[held].max(initial=0) > 1e-9
            require(not moved, f"{self.name} asks with fixed atoms that have moved.")

    def _check_asking(self, state: State) -> list[Proposals]:
        """Asking changes nothing, and the same state is asked the same; two walkers do not ask for one structure."""
        before = copy.deepcopy(jax.tree.map(np.asarray, state))
        asked: list[Proposals] = []
        for row in range(self.walkers):
            waiting = [p.structures.positions[0] for p in asked]
            proposal = self._ask(state, row, waiting)
            fitting.forget()
            self._same(proposal, self._ask(state, row, waiting), "asks differently when it is asked again")
            for other in asked:
                far = np.abs(other.structures.positions - proposal.structures.positions).max() > 1e-6
                require(far, f"{self.name} asks the same structure of two walkers.")
            asked.append(proposal)
        self._same(before, state, "changes its state when it is asked")
        return asked

    def _check_saved(self, state: State, asked: list[Proposals]) -> None:
        like = self.search.init(self.system, self.walkers, np.dtype(np.float64))
        again, _ = load_state(save_state(state, {}), like)
        self._same(state, again, "does not save all of its state")
        self._same(asked[0], self._ask(again, 0, []), "asks differently after its state was saved")

    def _check_failures(self, state: State) -> None:
        """Failures are outcomes: with points that were true before, and without any."""
        for points in (True, False):
            proposal = self._ask(state, 0, [])
            empty = _without(self._outcome(proposal))
            self._same(state, self._tell(state, 0, empty), "changes its state by rows that hold no outcome")
            state = self._tell(state, 0, self._outcome(proposal, lost=True, points=points))
            following = self._ask(state, 0, [])
            self._check_proposal(following)
            far = np.abs(following.structures.positions - proposal.structures.positions).max() > 1e-6
            require(far, f"{self.name} asks again for a structure whose evaluation failed.")

    def _same(self, wanted: Any, given: Any, sentence: str) -> None:
        pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves(given), strict=True)
        same = all(np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        require(same, f"{self.name} {sentence}.")


def _row(state: State, row: int) -> State:
    return State(jax.tree.map(lambda a: np.asarray(a)[row : row + 1], state.walkers), state.shared)


def _put(old, row: int, new) -> np.ndarray:
    old = np.array(old)
    old[row] = np.asarray(new)[0]
    return old


def _without(outcome: Outcome) -> Outcome:
    """The same in a row that does not count."""
    o = outcome
    return Outcome(o.structures, o.energy, o.steps, o.status, o.origin, np.zeros(1, bool), o.points, o.notes)
