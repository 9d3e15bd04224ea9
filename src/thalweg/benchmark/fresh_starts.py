"""Methods from fresh starts at equal evaluations: what each start had found when it had spent its share, everything counted.

A start is one walker of a search: random restarts of a relaxer, hops, annealings. Each has the same budget of its own,
whatever the others do, and what it had not finished within the budget does not count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import jax
import numpy as np
from scipy.stats import beta, chi2

from thalweg import prng
from thalweg.leaves import as_leaves
from thalweg.relax.base import FAILED
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import energy_scale, slots_for
from thalweg.search import fused
from thalweg.search.base import Search
from thalweg.system import System

#: Evaluations kept back for the last relaxation of each start's lowest structure in float64.
POLISH = 200


@dataclass(frozen=True)
class Finds:
    """What `count` starts found: every fall of the lowest energy of each, and its last, polished lowest energy.

    `falls` has rows (start, evaluations spent by it, energy), in order. `spent` (starts,) is what each used, polish included.
    """

    count: int
    budget: int
    falls: np.ndarray
    energies: np.ndarray  # (starts,)
    spent: np.ndarray
    cpu_seconds: float
    positions: np.ndarray  # (atoms, 3) of the lowest

    def hits(self, target: float, tolerance: float, within: int | None = None) -> np.ndarray:
        """True (starts,) for starts that were at most `tolerance` above `target` within so many evaluations."""
        first = self.first_hits(target, tolerance)
        return first <= (self.budget if within is None else within)

    def first_hits(self, target: float, tolerance: float) -> np.ndarray:
        """Evaluations (starts,) until the first hit of each start; inf without one."""
        first = np.full(self.count, np.inf)
        for start, spent, energy in self.falls[::-1]:
            if energy <= target + tolerance:
                first[int(start)] = spent
        return first


def find(
    search: Search,
    relaxation: Relaxation,
    system: System,
    count: int,
    budget: int,
    seed: int,
    fmax: float = 0.02,
    max_steps: int = 300,
    target: float | None = None,
    tolerance: float = 0.0,
) -> Finds:
    """Let `count` walkers spend `budget` evaluations each, in float32, and polish what each has found in float64.

    `fmax` is in energy scales per bond. With a `target`, a walker whose lowest energy is at most `tolerance` above it has
    done its part, and all ends when all have.
    """
    begun = time.process_time()
    scale, bond = energy_scale(relaxation, system), float(np.mean(system.bond_lengths))
    padded = system.padded(slots_for(system))
    hop = replace(relaxation, fmax=fmax * scale / bond, max_steps=max_steps)
    space = hop.space(system.cell, system.pbc)
    constant: fused.Constant = as_leaves(fused.Constant(prng.key(seed), search, hop, padded, space), np.float32)
    with jax.enable_x64(False):
        state = fused.begin(constant, count, np.float32)
        spent, lowest = np.zeros(count, np.int64), np.full(count, np.inf)
        structures = np.zeros((count, len(system.numbers), 3))
        done = np.zeros(count, bool)
        falls = []
        # Looks long before the end: with long relaxations a full log would be many budgets.
        share = np.int32(min(max(count * budget // 16, 1), 2**31 - 1))
        limits = fused.Limits(share, np.asarray(-np.inf, np.float32), np.int32(2**31 - 1))
        while not done.all():
            state, log, filled = fused.visit(constant, state, limits, 64)
            rows = _rows(log, int(filled), len(system.numbers))
            for walker, steps, energy, failed, x in zip(*rows, strict=True):
                spent[walker] += steps
                if spent[walker] > budget - POLISH:
                    done[walker] = True
                elif not failed and energy < lowest[walker] and not done[walker]:
                    lowest[walker], structures[walker] = energy, x
                    falls.append((walker, spent[walker], energy))
                    done[walker] = target is not None and energy <= target + tolerance
    polished = Relaxation(relaxation.potential, LBFGS(max_step=0.1 * bond), 1e-4 * scale / bond, POLISH)
    found = np.flatnonzero(np.isfinite(lowest))
    energies, extra = np.full(count, np.nan), np.zeros(count)
    if len(found):
        out = relax(system.structure(structures[found]), polished)
        energies[found], extra[found] = np.where(out.status == FAILED, np.nan, out.energy), out.steps
        best = out.structures.positions[int(np.nanargmin(energies[found]))]
    else:
        best = structures[0]
    spent = np.minimum(spent, budget - POLISH) + extra
    return Finds(count, budget, np.array(falls).reshape(-1, 3), energies, spent, time.process_time() - begun, np.asarray(best))


def _rows(log: fused.Finished, filled: int, n_atoms: int):
    """Walkers, steps, energies, failures and positions of what finished, in order."""
    flat = {k: np.asarray(v)[:filled].reshape(-1, *np.shape(v)[2:]) for k, v in vars(log).items() if v is not None}
    keep = flat["valid"]
    failed = (flat["status"] == FAILED) | ~np.isfinite(flat["energy"])
    return (
        flat["walker"][keep], flat["steps"][keep], flat["energy"][keep].astype(np.float64), failed[keep],
        flat["positions"][keep][:, :n_atoms],
    )  # fmt: skip


def fraction(hits: int, count: int) -> tuple[float, float, float]:
    """A success rate with its exact 95 % bounds (C. Clopper and E. Pearson, Biometrika 26, 404 (1934))."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return hits / count, low, high


def per_success(evaluations: float, hits: int) -> tuple[float, float, float]:
    """Evaluations per success with exact 95 % bounds for successes at a constant rate; the upper is inf without any."""
    low = 2 * evaluations / float(chi2.ppf(0.975, 2 * hits + 2))
    if not hits:
        return np.inf, low, np.inf
    return evaluations / hits, low, 2 * evaluations / float(chi2.ppf(0.025, 2 * hits))
