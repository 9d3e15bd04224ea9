"""The systems of Learn2Hop and the methods that are compared on them, all at equal evaluations from the same kind of start."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from thalweg import presets, prng
from thalweg.benchmark.experiments import Options, Skipped, digest, listed
from thalweg.benchmark.fresh_starts import Finds, find
from thalweg.errors import InputError
from thalweg.formula import parse_formula
from thalweg.generators.base import Generator
from thalweg.generators.harmonic import Harmonic
from thalweg.generators.mutation import Displace, Squeeze, Swap
from thalweg.generators.periodic import LocalDisplace, LocalSqueeze
from thalweg.networks.weights import SHIPPED, ZERO, load, shipped
from thalweg.potentials.base import Potential
from thalweg.potentials.many_body import Gupta
from thalweg.potentials.pair import LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.references import lennard_jones
from thalweg.relax.adapters import Adam
from thalweg.relax.base import FAILED, Relaxer
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.learn2hop import Learn2Hop
from thalweg.relax.learned_annealing import LearnedAnnealing
from thalweg.search.base import Search
from thalweg.search.basin_hopping import BasinHopping
from thalweg.search.learned_hopping import LearnedHopping
from thalweg.search.random_search import RandomSearch
from thalweg.structure import Structure
from thalweg.system import System, periodic

#: What each method is, for people.
METHODS = {
    "adam": "Adam, again from a new start whenever it has converged",
    "fire": "FIRE, likewise",
    "adam-once": "Adam, one relaxation from each start, as published",
    "fire-once": "FIRE, likewise",
    "annealed": "annealed Langevin dynamics (the learned annealer with a network of zero), then L-BFGS",
    "hop": "basin hopping with displacements of all atoms (in a cell, of those in a ball)",
    "hop-10": "the same with ten times the evaluations",
    "squeeze": "basin hopping with squeezes to 0.4 about the centroid (in a cell, of a ball)",
    "squeeze-short": "the same with hops of at most 80 evaluations, the strongest of these walks on LJ38",
    "tuned": "this package's own search of such a system: all moves, random and symmetric starts",
    "learned": "the learned annealer, then L-BFGS; again from a new start",
    "learned-other": "the same with weights of other alloys: gupta-alloys for silver and gold, gupta-silver-gold for palladium "
    "and platinum",
    "transferred": "the learned annealer with other weights: lennard-jones for silicon, stillinger-weber for LJ13",
    "learned-hop": "basin hopping whose kicks a network corrects",
    "learn2hop": "the published network, then L-BFGS; again from a new start",
}
#: Those that were trained. All others are what they have to beat.
LEARNED = ("learned", "learned-other", "learned-hop", "learn2hop")
#: Classes whose weights the trained methods take.
MODELS = {"learned": "LearnedAnnealing", "learned-hop": "LearnedHopping", "learn2hop": "Learn2Hop"}
#: Edge (Å) of the cell of 64 silicon atoms: 2x2x2 cubic ones of 5.428 Å (5.248 in print is a transposition).
SILICON_EDGE = 10.856
#: Lowest energies known (eV): gold by basin hopping, silicon the crystal.
GOLD, CRYSTAL = -181.8895, -277.2
#: Temperatures, in energies of a bond, of untrained annealings where those of free clusters do not suit: silicon freezes at
#: about 0.07, and most of an annealing from 0.3 would be spent in its vapour.
TEMPERATURES = {"StillingerWeber": (0.12, 0.03)}
#: A walk that is never begun anew.
NEVER = 10**6
#: Parameter sets of the alloys.
ALLOYS = {"AgAu": "ag-au", "PdPt": "pd-pt"}


@dataclass(frozen=True)
class Problem:
    """A system, its potential, the lowest energy known, and how near to it counts (relaxed loosely in single precision)."""

    name: str
    potential: Potential
    system: System
    best: float | None
    tolerance: float
    confirmed: float  # how near a start's energy has to be once it is relaxed tightly in double precision
    adam: float  # rate, in the unit of length

    @property
    def scale(self) -> float:
        """Energy of a bond."""
        scale = self.potential.energy_scale(np.asarray(self.system.numbers))
        return 1.0 if scale is None else float(scale)

    @property
    def bond(self) -> float:
        """Length of a bond."""
        return float(np.mean(self.system.bond_lengths))

    @property
    def in_cell(self) -> bool:
        """Whether it is periodic."""
        return any(self.system.pbc)

    @property
    def units(self) -> dict:
        """Units of the learned methods."""
        return {"length": self.bond, "energy": self.scale}


def problem(name: str) -> Problem:
    """A system by name: LJ13, Au55, SW64, or an alloy of 38 atoms such as Ag32Au6."""
    if re.fullmatch(r"LJ\d+", name) and int(name[2:]) in lennard_jones():
        n = int(name[2:])
        potential = LennardJones(sigma=2 ** (-1 / 6))  # bonds of length 1
        return _made(name, potential, np.zeros(n, np.int32), lennard_jones()[n], 0.01, 1e-3, 0.01)
    if name == "Au55":
        return _made(name, Gupta("gold55"), np.full(55, 79, np.int32), GOLD, 0.01, 1e-3, 0.01)
    if name == "SW64":
        return _made(name, StillingerWeber(), np.full(64, 14, np.int32), CRYSTAL, 0.1, 0.1, 0.05, SILICON_EDGE)
    for family, parameters in ALLOYS.items():
        if re.fullmatch(f"({family[:2]}\\d*)?({family[2:]}\\d*)?", name) and name:
            return _made(name, Gupta(parameters), parse_formula(name)[1], None, 0.01, 1e-3, 0.01)
    raise InputError(f'"{name}" is no system of this experiment; use LJ2 to LJ150, Au55, SW64 or 38 atoms such as Ag32Au6')


def _made(name: str, potential: Potential, numbers, best, tolerance, confirmed, adam, edge: float = 0.0) -> Problem:
    system = periodic(numbers, potential, np.eye(3) * edge, (edge > 0,) * 3)
    return Problem(name, potential, system, best, tolerance, confirmed, adam)


def weights_for(method: str, made: Problem, options: Options) -> dict:
    """Name and digest of the weights of a method: those given, or those that ship for such atoms. Raises `Skipped`."""
    if method not in MODELS:
        return {}
    name = options.weights.get(method) or presets.suited_weights(MODELS[method], made.system, made.potential)
    if not name:
        raise Skipped(f"no weights of {MODELS[method]} ship for this system; give some by --weights {method}=FILE")
    kinds = {"learned": LearnedAnnealing, "learned-hop": LearnedHopping, "learn2hop": Learn2Hop}
    load(name, MODELS[method], kinds[method].features)  # raises in one line what is not there or does not fit
    return {"weights": name, "digest": digest(SHIPPED / f"{name}.json" if name in shipped() else Path(name))}


def horizon_for(method: str, made: Problem, options: Options) -> int | None:
    """Steps of one annealing of a method that has such; those of training for the published network."""
    if method not in ("annealed", "learned", "learn2hop"):
        return None
    if options.horizon is not None:
        return options.horizon
    if method == "learn2hop":
        name = options.weights.get(method) or presets.suited_weights(MODELS[method], made.system, made.potential)
        if name:
            held = load(name, MODELS[method], Learn2Hop.features)
            trained = held.trained.get("input", {}).get("loss", {}).get("horizon")
            if isinstance(trained, list) and trained and isinstance(trained[-1], int):
                return trained[-1] - 60 if trained[-1] > 120 else trained[-1]
        return 440
    return presets.learned_annealing(made.system, made.potential)["n_steps"]


@dataclass(frozen=True)
class Method:
    """A method made for a system: `fmax` (energy of a bond per bond) and `max_steps` are of each relaxation."""

    search: Search
    relaxation: Relaxation
    fmax: float
    max_steps: int


def method(name: str, made: Problem, evaluations: int, horizon: int | None, weights: str | None, swaps: bool = False) -> Method:
    """A method by name; `swaps` adds exchanges of species to hops."""
    potential, bond = made.potential, made.bond
    lbfgs = LBFGS(max_step=0.15 * bond)
    starts = [Harmonic()]
    # Walks in a cell relax loosely, as the package's own do: what is lowest in the end is relaxed tightly anyway.
    loose = presets.periodic_settings(made.system)["fmax"] if made.in_cell else 0.02
    if name in ("hop", "hop-10", "squeeze", "squeeze-short", "tuned", "learned-hop"):
        return Method(_walk(name, made, weights, swaps), Relaxation(potential, lbfgs), loose, _longest(name, made))
    restarts = RandomSearch(starts)
    relaxer: Relaxer
    if name == "adam":
        relaxer = Adam(made.adam)
    elif name == "fire":
        relaxer = FIRE(0.01, 0.1, float("inf"))  # as jax-md has it, which the paper used
    elif name == "learn2hop":
        kinds = len(np.unique(made.system.numbers))
        relaxer = Learn2Hop(weights or ZERO, horizon or 440, n_species=kinds, then=lbfgs, transfer=True, **made.units)
    else:
        warm = {}
        if name == "annealed" and type(potential).__name__ in TEMPERATURES:
            warm = dict(zip(("hot", "cold"), TEMPERATURES[type(potential).__name__], strict=True))
        relaxer = LearnedAnnealing(weights or ZERO, horizon or 340, then=lbfgs, transfer=True, **made.units, **warm)
    most = evaluations if horizon is None else horizon + 300
    return Method(restarts, Relaxation(potential, relaxer), 0.02, most)


def _longest(name: str, made: Problem) -> int:
    """Evaluations of a hop at most: those of the learned hop are what it was trained with."""
    return 500 if made.in_cell else 80 if name in ("squeeze-short", "learned-hop") else 300


def _walk(name: str, made: Problem, weights: str | None, swaps: bool) -> Search:
    """A walk of hops."""
    starts = [Harmonic()]
    if name == "tuned":
        preset = presets.periodic_search if made.in_cell else presets.cluster_search
        return preset(made.system, made.potential)
    if name == "learned-hop":
        return LearnedHopping(tuple(starts), weights or ZERO, energy_scale=made.scale)
    moves: list[Generator]
    if made.in_cell:
        moves = [LocalSqueeze() if name.startswith("squeeze") else LocalDisplace()]
    else:
        moves = [Squeeze(factor=0.4, noise=0.2, spread=0.0) if name.startswith("squeeze") else Displace()]
    # A pure metal keeps the move, which does nothing there: the programs of all compositions are then the same one.
    moves = [*moves, Swap()] if swaps else moves
    temperature = 0.5 if made.in_cell else 0.8
    return BasinHopping(moves, starts, temperature=temperature, energy_scale=made.scale, patience=NEVER)


def finds(settings: dict, budget: int, stop_at_target: bool = False) -> tuple[Problem, Finds]:
    """Run the method of a cell from its starts, each with this budget, the last relaxation included."""
    made = problem(settings["system"])
    how = method(settings["method"], made, settings["evaluations"], settings["horizon"], settings.get("weights"))
    target = made.best if stop_at_target else None
    found = find(
        how.search, how.relaxation, made.system, settings["count"], budget, settings["seed"], how.fmax, how.max_steps, target,
        made.tolerance,
    )  # fmt: skip
    return made, found


def starts(made: Problem, count: int, seed: int) -> Structure:
    """The starts of all methods but the tuned ones, here for those that relax each only once."""
    generator = Harmonic()
    blank = made.system.structure(np.zeros((1, len(made.system.numbers), 3)))
    with jax.enable_x64(True):
        keys = jax.random.split(prng.key(seed), count)
        x = jax.jit(jax.vmap(lambda key: generator(key, blank, made.system).positions))(keys)
    return made.system.structure(np.asarray(x, np.float64))


def relaxed_once(settings: dict) -> dict:
    """One relaxation from each start, in double precision."""
    begun = time.process_time()
    made = problem(settings["system"])
    relaxer: Relaxer = Adam(made.adam) if settings["method"] == "adam-once" else FIRE(0.01, 0.1, float("inf"))
    relaxation = Relaxation(made.potential, relaxer, 1e-4 * made.scale / made.bond, settings["evaluations"])
    out = relax(starts(made, settings["count"], settings["seed"]), relaxation)
    energies = np.where(out.status == FAILED, np.nan, out.energy)
    return {
        "energies": listed(energies), "spent": int(out.steps.sum()), "cpu_seconds": round(time.process_time() - begun, 2),
    }  # fmt: skip


def result(made: Problem, found: Finds) -> dict:
    """What is kept of the starts of a cell: first hits (those that a tight relaxation confirms), energies, costs."""
    first = np.full(found.count, np.inf)
    if made.best is not None:
        first = found.first_hits(made.best, made.tolerance)
        first = np.where(found.energies <= made.best + made.confirmed, first, np.inf)
    return {
        "first": listed(first),
        "energies": listed(found.energies),
        "spent": int(found.spent.sum()),
        "cpu_seconds": round(found.cpu_seconds, 2),
    }
