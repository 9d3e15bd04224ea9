"""What a learned optimiser of glasses has to beat: relaxations, basin hopping and annealing from the same given structures.

The systems are those of StriderNet (V. Bihani et al., ICML 2023, arXiv:2301.12477), recognised by their potential: the binary
Lennard-Jones mixture of any size, the C-S-H gel, Stillinger-Weber silicon. Each start is a search of its own, and whatever
a method evaluates counts. At equal evaluations the starts run side by side; at equal CPU time one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from thalweg import presets
from thalweg.benchmark import baselines, own_starts
from thalweg.benchmark.own_starts import Found, Walk
from thalweg.errors import InputError, suggest
from thalweg.generators.base import Generator
from thalweg.generators.mutation import Relocate, Swap
from thalweg.generators.periodic import LocalSqueeze
from thalweg.generators.replicate import Replicate
from thalweg.generators.seeded import given
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import CSHGel
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.annealing import Annealing
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import energy_scale
from thalweg.search.basin_hopping import BasinHopping
from thalweg.search.simulated_annealing import SimulatedAnnealing
from thalweg.structure import Structure
from thalweg.system import System

#: A walk or a series of annealings that never begins anew.
NEVER = 10**6
#: The smallest budget of a search: the first relaxation has to fit, and the last one.
LEAST = 500
#: Evaluations by which an annealing is shorter than what is left of a budget, for it ends at a look every few steps.
SLACK = 8
#: Steps by which the time of a descent is measured.
PROBE = 400
#: Walkers of one start where the time of the CPU is what counts: vector instructions make eight cost little more than one.
LANES = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one start: energy (of `positions`, float64; infinite where a relaxation blew up), and all it took.

    `cpu_seconds` are those of the start alone, or its share of those of all starts that ran beside it; `compiling` (CPU
    seconds, of all starts together) comes on top.
    """

    energy: float
    evaluations: int
    cpu_seconds: float
    positions: np.ndarray  # (atoms, 3)
    compiling: float = 0.0


@dataclass(frozen=True)
class Effort:
    """A budget: so many evaluations or CPU seconds for each start; `evaluations` is an estimate where `seconds` are given."""

    evaluations: int
    seconds: float | None = None


@dataclass(frozen=True)
class Opponent:
    """A method: `what` it is, and how a walk of it is made; None for those that relax a start once."""

    what: str
    walk: Callable[[Potential, System, Structure, int, int], Walk] | None = None


@dataclass(frozen=True)
class Hops:
    """Tuned basin hopping: moves with their shares (learned from there where `explore` < 1), kT in energies of a bond."""

    moves: tuple[tuple[Generator, float], ...]
    temperature: float
    explore: float = 1.0
    patience: int = NEVER
    fmax: float = 0.3
    max_steps: int = 500


@dataclass(frozen=True)
class Cooling:
    """Tuned annealing: kT from `hot` to `cold` in energies of a bond, `dt` and 1 / `friction` in sqrt(bond^2 / energy)."""

    hot: float
    cold: float
    dt: float
    friction: float
    cycles: int = 1
    fmax: float = 0.1
    quench: int = 200  # evaluations kept for the relaxation after it


def _shares(**shares: float) -> tuple[tuple[Generator, float], ...]:
    """Moves and their shares by short names."""
    made = {"swap": Swap(), "relocate": Relocate(), "replicate": Replicate(), "squeeze": LocalSqueeze()}
    return tuple((made[name], share) for name, share in shares.items())


# All below was tuned by means of 16 starts of seed 100 (comparisons have seeds from 0 on) at 1,000 and 15,000 evaluations for
# each start; 150,000 have the settings of 15,000, untuned. Tried, with what was more than a standard error:
# Mixture, hops: shares of exchanges .9 .7 .5 .2; kT .2 .5 1; hops as loose as fmax .1 .3 1; 1 or 2 pairs exchanged, near ones
# only; 3 or 6 particles relocated; squeezes, displacements, replications beside exchanges. Relocations as often as exchanges
# are 2 to 3 lower than squeezes or displacements in their place, kT 1 is 1 higher; the rest is within the errors.
# Gel, hops: relocations of up to 3 or 8 grains, squeezes (to .5, to .4 in larger balls), displacements, relocations and
# squeezes with learned shares; kT .2 .5 1 1.5 2. Relocations are 15 to 25 epsilon lower than other single moves at 15,000.
# Silicon, hops: squeezes (to .5, to .3 with more noise), displacements, switches, relocations, these together with learned
# shares; kT .1 .2 .3 .5. Squeezes and displacements are alike, switches 1.6 eV higher, relocations 4 eV higher.
# With replications (silicon, gel): all moves with learned shares, and those alone, which are better.
# Annealings, (hot, cold): mixture .5-.8, .2-.3, dt .01 .015, friction .1 .5 2, all alike. Gel .3-.6, .1-.25, dt .005-.015,
# friction .1-.5: longer steps and a warmer end are 30 epsilon lower. Silicon .072 .1, .04 .05, dt .06-.1, friction .05 .2:
# hotter is 1.7 eV higher.

#: Basin hopping with moves that know that crystals repeat, by system and evaluations for each start.
CRYSTALLINE: dict[str, dict[int, Hops]] = {
    "mixture": {
        1000: Hops(_shares(swap=0.2, replicate=0.8), 0.5),
        15000: Hops(_shares(swap=0.3, relocate=0.2, replicate=0.5), 0.5),
    },
    "gel": {1000: Hops(_shares(replicate=1.0), 0.5)},
    "silicon": {1000: Hops(_shares(replicate=1.0), 0.5)},
}
#: Basin hopping with moves that know nothing of crystals.
GLASSY: dict[str, dict[int, Hops]] = {
    "mixture": {1000: Hops(_shares(swap=0.5, relocate=0.5), 0.2)},
    "gel": {1000: Hops(_shares(relocate=1.0), 0.5)},
    "silicon": {1000: Hops(_shares(squeeze=1.0), 0.5)},
}
#: Annealings.
COOLINGS: dict[str, dict[int, Cooling]] = {
    "mixture": {1000: Cooling(0.8, 0.2, 0.01, 0.5), 15000: Cooling(0.6, 0.3, 0.015, 0.5)},
    "gel": {1000: Cooling(0.33, 0.2, 0.015, 0.2)},
    "silicon": {1000: Cooling(0.072, 0.04, 0.06, 0.2)},
}


def kind(potential: Potential) -> str:
    """Which system a potential belongs to: "mixture", "gel" or "silicon". Raises `InputError` for others."""
    for name, known in (("mixture", BinaryLennardJones), ("gel", CSHGel), ("silicon", StillingerWeber)):
        if isinstance(potential, known):
            return name
    raise InputError(
        f"no opponents are tuned for {type(potential).__name__}; use BinaryLennardJones, CSHGel or StillingerWeber"
    )


def nearest(budgets: Iterable[int], evaluations: int) -> int:
    """The budget that is nearest to `evaluations` by its logarithm."""
    return min(budgets, key=lambda budget: abs(np.log(budget / max(evaluations, 1))))


def _hopping(table: dict[str, dict[int, Hops]], potential: Potential, system: System, start: Structure, budget: int) -> Walk:
    """The walk of a table of `Hops`."""
    tuned = table[kind(potential)]
    hops = tuned[nearest(tuned, budget)]
    relaxation = presets.periodic_relaxation(potential, system)
    moves, shares = zip(*hops.moves, strict=True)
    search = BasinHopping(
        moves, (given([start], system),), shares, None, hops.temperature, energy_scale(relaxation, system), hops.patience,
        hops.explore,
    )  # fmt: skip
    return Walk(search, relaxation, hops.fmax, hops.max_steps)


def all_moves(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
    """Basin hopping with moves that know that crystals repeat."""
    return _hopping(CRYSTALLINE, potential, system, start, evaluations)


def glass_moves(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
    """Basin hopping with moves that know nothing of crystals."""
    return _hopping(GLASSY, potential, system, start, evaluations)


def annealing(potential: Potential, system: System, start: Structure, evaluations: int, seed: int) -> Walk:
    """Annealings that fill the budget; each begins from the lowest structure of those before."""
    tuned = COOLINGS[kind(potential)]
    cooling = tuned[nearest(tuned, evaluations)]
    bond, scale = float(np.mean(system.bond_lengths)), energy_scale(presets.periodic_relaxation(potential, system), system)
    clock = np.sqrt(bond**2 / scale)
    settle = 50
    each = (evaluations - own_starts.kept_back(evaluations)) // cooling.cycles
    quench = min(cooling.quench, each // 3)
    relaxer = Annealing(
        n_steps=max(1, each - settle - quench - SLACK), hot=cooling.hot * scale, cold=cooling.cold * scale,
        dt=cooling.dt * clock, friction=cooling.friction / clock, settle=settle, max_step=0.2 * bond, seed=seed,
        then=LBFGS(max_step=0.15 * bond),
    )  # fmt: skip
    search = SimulatedAnnealing((given([start], system),), np.ones(1), patience=NEVER, energy_scale=scale)
    return Walk(search, Relaxation(potential, relaxer), cooling.fmax, max(1, each))


#: What each method is, for people.
METHODS: dict[str, Opponent] = {
    "gradient descent": Opponent("steepest descent with the rate of the published table"),
    "Adam": Opponent("Adam with the rate of the published table"),
    "FIRE": Opponent("FIRE with the time steps of the published table, no limit on its step"),
    "L-BFGS": Opponent("L-BFGS"),
    "basin-hopping": Opponent("basin hopping with moves that know that crystals repeat", all_moves),
    "glass-hopping": Opponent("basin hopping with moves that know nothing of crystals", glass_moves),
    "annealing": Opponent("Langevin dynamics that cools, then L-BFGS", annealing),
}


def run(
    name: str,
    potential: Potential,
    system: System,
    starts: Structure,
    evaluations: int | None = None,
    cpu: float | None = None,
    seed: int = 0,
    opponent: Opponent | None = None,
) -> list[Outcome]:
    """What a method makes of each of `starts` (k structures) within `evaluations` or `cpu` seconds for each of them.

    Relaxations end earlier where they converge; without a budget they have the published number of steps. Raises
    `InputError` for methods, systems and budgets that there are not.
    """
    if opponent is None and name not in METHODS:
        raise InputError(f'there is no opponent "{name}".{suggest(name, METHODS)}')
    if evaluations is not None and cpu is not None:
        raise InputError("give evaluations or cpu, not both: starts run side by side for the one and in turn for the other")
    kind(potential)
    walk, x, order = (opponent or METHODS[name]).walk, np.asarray(starts.positions), in_order(starts, system)
    if walk is None:
        return _descend(name, potential, system, starts, evaluations, cpu)
    x, back = x[:, order], np.argsort(order)
    if evaluations is not None and evaluations >= LEAST:
        made = walk(potential, system, system.structure(x[0]), evaluations, seed)
        out = _outcomes(own_starts.for_evaluations(made, system, x, evaluations, seed))
    elif evaluations is None and cpu is not None:
        out = [_timed(walk, potential, system, x[k], cpu, seed + 1000 * k) for k in range(len(x))]
    else:
        raise InputError(f"{name} needs a budget: evaluations of at least {LEAST}, or cpu")
    return [replace(one, positions=one.positions[back]) for one in out]


def in_order(starts: Structure, system: System) -> np.ndarray:
    """The order (atoms,) that makes the species of all starts those of the system. Raises `InputError` if there is none."""
    numbers, wanted = np.asarray(starts.numbers), np.asarray(system.numbers)
    order = np.arange(len(wanted)) if np.array_equal(numbers[0], wanted) else np.argsort(numbers[0], kind="stable")
    if numbers.shape[1:] != wanted.shape or (numbers != numbers[0]).any() or (numbers[0][order] != wanted).any():
        raise InputError("the starts have other atoms than the system; make both with the same composition")
    return order


def _timed(walk, potential: Potential, system: System, x: np.ndarray, cpu: float, seed: int) -> Outcome:
    """One start (atoms, 3) for so many seconds, by walkers side by side; settings suit the evaluations each will have."""
    start = system.structure(x)
    rate, compiling = own_starts.pace(walk(potential, system, start, LEAST, seed), system, x, seed, LANES)
    each = max(LEAST, int(0.95 * cpu * rate / LANES))
    made = walk(potential, system, start, each, seed)
    # An annealing is as long as the time is; one more would not come to its end.
    enough = each if made.relaxation.relaxer.wanders else np.inf
    found = own_starts.for_seconds(made, system, x, cpu, seed, LANES, enough)
    return _outcomes(replace(found, compiling=found.compiling + compiling))[0]


def _descend(
    name: str, potential: Potential, system: System, starts: Structure, evaluations: int | None, cpu: float | None
) -> list[Outcome]:
    """One relaxation of each start in float64, side by side, or in turn where the time counts."""
    method = published(name, potential)
    relaxation = Relaxation(potential, method.relaxer, method.fmax, method.max_steps if evaluations is None else evaluations)
    groups = [starts] if cpu is None else [starts[k : k + 1] for k in range(len(starts))]
    begun = time.process_time()
    relax(groups[0], replace(relaxation, max_steps=1), len(groups[0]))
    compiling = time.process_time() - begun
    if cpu is not None:
        begun = time.process_time()
        relax(groups[0], replace(relaxation, fmax=0.0, max_steps=PROBE), 1)
        relaxation = replace(relaxation, max_steps=max(1, int(cpu * PROBE / (time.process_time() - begun))))
    made = []
    for group in groups:
        begun = time.process_time()
        energies, out = own_starts.relaxed(group, relaxation)
        share = (time.process_time() - begun) / len(group)
        x = np.asarray(out.structures.positions)
        made += [Outcome(float(energies[k]), int(out.steps[k]), share, x[k], compiling) for k in range(len(group))]
    return made


def published(name: str, potential: Potential) -> baselines.Method:
    """A relaxation as the table of published baselines has it for such a potential."""
    makers = {"mixture": baselines.mixtures, "gel": baselines.gel, "silicon": baselines.liquid_silicon}
    return next(m for m in makers[kind(potential)]()[0].methods if m.name == name)


def _outcomes(found: Found) -> list[Outcome]:
    count = len(found.energies)
    return [
        Outcome(float(energy), int(spent), found.cpu_seconds / count, x, found.compiling)
        for energy, spent, x in zip(found.energies, found.evaluations, found.positions, strict=True)
    ]
