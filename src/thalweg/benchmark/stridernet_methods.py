"""StriderNet's policies as searches from given structures, each of a budget: what stands beside `stridernet_opponents`.

Every method here is a walk of `own_starts`: a search whose relaxer is a policy, or adapts one. Noise and lengths were tuned on
the starts of seed 103; tables are made of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thalweg import presets
from thalweg.benchmark.own_starts import Walk, kept_back
from thalweg.benchmark.stridernet_opponents import LEAST, NEVER, Opponent, glass_moves, kind, nearest
from thalweg.generators.seeded import given
from thalweg.potentials.base import Potential
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.strider import Strider
from thalweg.search.stridernet import StriderNet
from thalweg.structure import Structure
from thalweg.system import System

#: Evaluations of the descent behind a policy.
QUENCH = 250
#: Force at which hops end, in energies of a bond per bond.
FMAX = 0.1
#: Evaluations of one adaptation among several, and Adam's rate.
SHORT, RATE = 1850, 1e-3


@dataclass(frozen=True)
class Cooling:
    """Noise of a policy in bonds, from first to last displacement."""

    noise: float
    noise_end: float = 0.003


#: Noise of one long run, by system and evaluations.
COOLINGS: dict[str, dict[int, Cooling]] = {
    "mixture": {500: Cooling(0.003), 1500: Cooling(0.04), 5000: Cooling(0.06)},
    "gel": {500: Cooling(0.03, 0.01)},
    "silicon": {500: Cooling(0.003), 1500: Cooling(0.03)},
}


#: Displacements and noise of runs that are repeated.
REPEATS = {"mixture": (300, Cooling(0.08)), "gel": (1000, Cooling(0.03, 0.01)), "silicon": (300, Cooling(0.05))}


def policy(potential: Potential, system: System, weights: str | None = None, **others) -> Strider:
    """The policy that suits a system, with other weights than those that ship where they are given."""
    made = presets.striding(system, potential)
    if weights is not None:
        made |= {"weights": weights, "transfer": True, **presets.policy_of(weights)}
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in made.items()}
    return Strider(**{**made, **others})


def _bond(system: System) -> float:
    return float(np.mean(system.bond_lengths))


def _walk(potential: Potential, system: System, start: Structure, relaxer, max_steps: int, patience: int = NEVER) -> Walk:
    scale = potential.energy_scale(np.asarray(system.numbers)) or 1.0
    search = StriderNet((given([start], system),), None, patience, scale)  # type: ignore[arg-type]
    return Walk(search, Relaxation(potential, relaxer), FMAX, max_steps)


def one_long(weights: str | None = None):
    """One run of the frozen policy that fills the budget, its noise falling, and a descent."""

    def walk(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
        left = evaluations - kept_back(evaluations)
        tuned = COOLINGS[kind(potential)]
        cooling = tuned[nearest(tuned, evaluations)]
        steps = max(20, left - min(QUENCH, left // 2))
        then = LBFGS(max_step=0.15 * _bond(system))
        made = policy(
            potential, system, weights, n_steps=steps, noise=cooling.noise, noise_end=cooling.noise_end, seed=seed, then=then
        )
        return _walk(potential, system, start, made, left)

    return walk


def repeated(weights: str | None = None):
    """Runs of the frozen policy with falling noise, each from the lowest structure so far: the policy as its own kick."""

    def walk(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
        left = evaluations - kept_back(evaluations)
        steps, cooling = REPEATS[kind(potential)]
        made = policy(
            potential, system, weights, n_steps=min(steps, left // 2), noise=cooling.noise, noise_end=cooling.noise_end,
            seed=seed, then=LBFGS(max_step=0.15 * _bond(system)),
        )  # fmt: skip
        return _walk(potential, system, start, made, min(left, steps + 600))

    return walk


def adapting(weights: str | None = None, single: bool = True):
    """Adaptation as published: one that fills the budget, or several from the same start, each from the trained network."""

    def walk(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
        left = evaluations - kept_back(evaluations)
        each = left if single else min(left, SHORT)
        then = LBFGS(max_step=0.15 * _bond(system))
        made = policy(potential, system, weights, seed=seed)
        episodes = max(1, (each - min(QUENCH, each // 2)) // 16)
        return _walk(potential, system, start, Adaptation(made, episodes, rate=RATE, then=then), each, NEVER if single else 1)

    return walk


def hopping(weights: str | None = None, n_steps: int = 15):
    """Basin hopping whose hops are relaxed by the policy first: moves and temperature are those of "glass-hopping"."""

    def walk(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
        base = glass_moves(potential, system, start, evaluations, seed)
        then = LBFGS(max_step=0.15 * _bond(system))
        made = policy(potential, system, weights, n_steps=n_steps, noise=0.003, seed=seed, then=then)
        return Walk(base.search, Relaxation(potential, made), base.fmax, base.max_steps)

    return walk


def learned(weights: Mapping[str, str]) -> dict[str, Opponent]:
    """The learned methods by name, with the weights that a user names for them."""
    of = weights.get
    return {
        "policy": Opponent("one run of the frozen policy with falling noise, then L-BFGS", one_long(of("policy"))),
        "policy-repeated": Opponent("such runs, each from the lowest structure so far", repeated(of("policy-repeated"))),
        "adaptation": Opponent("one adaptation over the whole budget, then L-BFGS", adapting(of("adaptation"))),
        "adaptation-restarts": Opponent(
            f"adaptations of {SHORT:,} evaluations from the same start", adapting(of("adaptation-restarts"), False)
        ),
        "policy-hopping": Opponent("glass-hopping whose hops are relaxed by the policy first", hopping(of("policy-hopping"))),
    }


__all__ = ["LEAST", "learned", "policy"]
