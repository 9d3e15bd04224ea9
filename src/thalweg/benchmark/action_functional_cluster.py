"""A free binary Lennard-Jones cluster: methods for functions of vectors beside searches that know what atoms are.

All have the same evaluations; one with forces is one evaluation. Methods for vectors see the energy below 0 and the logarithm
of 1 + energy above (`Compressed`), in a cube with room for a compact cluster; of their evaluations some are kept for the ways
down from the lowest point and from where their model has its minimum, on the same function, in a cube twice as wide. Searches
count the relaxations that they have begun and not ended too. Energies are true ones, in units of epsilon of AA.

The searches are this package's: basin hopping as it ships for clusters except that half of its moves exchange two atoms of
different species and walkers have time for that (chosen by seeds 100 to 102), and relaxations of random starts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
from scipy.stats import t as student

from thalweg import registry
from thalweg.benchmark.experiments import Estimate, Options, Section, Skipped, Table, verdict
from thalweg.generators.mutation import Swap
from thalweg.generators.random import RandomBall, SymmetricRandom
from thalweg.minimizers.atoms import AtomsFunction, Compressed, function_of_atoms
from thalweg.minimizers.base import minimize
from thalweg.minimizers.counted import Counted, Spent
from thalweg.minimizers.polish import polished
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.presets import cluster_moves, cluster_relaxation
from thalweg.run import run
from thalweg.search.base import Search
from thalweg.search.basin_hopping import BasinHopping
from thalweg.search.random_search import RandomSearch
from thalweg.settings import Settings, Stop
from thalweg.system import System, cluster

#: All particles are of one size, and unlike ones attract each other most.
POTENTIAL = BinaryLennardJones((1.0, 1.5, 0.62), (1.0, 1.0, 1.0), cutoff=None)
#: Particles of A and B by system.
SYSTEMS = {"binary-lj-100": (80, 20), "binary-lj-13": (10, 3)}
#: Lowest energies known from elsewhere: upper bounds, not proven minima.
KNOWN = {"binary-lj-100": -655.58}
#: Searches that know atoms; the other methods are minimizers of the registry.
SEARCHES = ("basin-hopping", "random-relaxed")
METHODS = (*SEARCHES, "hops", "adam-grid", "action-functional", "zoom", "plnet-zoom", "cma-es")
#: Evaluations and seeds of a cell; with --quick.
EVALUATIONS, SEEDS, SEARCH_SEEDS, QUICK_EVALUATIONS = 200_000, 3, 5, 4_000
#: CPU seconds after which a minimizer ends that still has evaluations; those with networks would take hours for all of them.
SECONDS, NETWORK_SECONDS = 180, 60
NETWORKS = ("action-functional", "plnet-zoom")
#: Of these evaluations a twentieth, and this many at most, are for each way down from where a minimizer ended.
POLISH = 1_000
#: Of basin hopping: few walkers, so that each comes far, and hops without a lower energy before it begins anew.
WALKERS, PATIENCE = 4, 200


def numbers(system: str) -> np.ndarray:
    """Atomic numbers (atoms,) that stand for the particles."""
    return np.repeat(np.asarray(POTENTIAL.species), SYSTEMS[system])


def settings(system: str, method: str, options: Options) -> dict:
    """What a cell is run with."""
    if method not in SEARCHES and method not in registry.names("minimizer"):
        raise Skipped(f"there is no minimizer {method}")
    usual = SEARCH_SEEDS if method in SEARCHES else SEEDS
    seconds = NETWORK_SECONDS if method in NETWORKS else SECONDS
    return {
        "count": options.count or (1 if options.quick else usual),
        "evaluations": options.evaluations or (QUICK_EVALUATIONS if options.quick else EVALUATIONS),
        "seed": options.seed,
        "horizon": None if method in SEARCHES else options.horizon or seconds,
    }


def parts(settings: dict) -> list[dict]:
    """One row for each seed."""
    return [{**settings, "count": 1, "seed": settings["seed"] + k} for k in range(settings["count"])]


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """How low one seed came."""
    begun = time.process_time()
    row = (searched if settings["method"] in SEARCHES else minimized)(settings)
    row["cpu_seconds"] = round(time.process_time() - begun, 2)
    note(f"  {row['energy']:.4f} after {row['evaluations_spent']:,} evaluations, {row['cpu_seconds']:.0f} CPU-s")
    return row


def search_of(method: str, system: System) -> Search:
    """Basin hopping, or relaxations of random starts, of a cluster."""
    if method == "random-relaxed":
        return RandomSearch((RandomBall(),))
    moves = (*[m for m in cluster_moves(system) if not isinstance(m, Swap)], Swap(most=1))
    return BasinHopping(
        moves, (RandomBall(), SymmetricRandom()), [0.5 / (len(moves) - 1)] * (len(moves) - 1) + [0.5], [0.1, 0.9],
        energy_scale=POTENTIAL.energy_scale(np.asarray(system.numbers)), patience=PATIENCE, explore=1.0,
    )  # fmt: skip


def searched(settings: Mapping) -> dict:
    """The lowest minimum of a search."""
    system = cluster(numbers(settings["system"]), POTENTIAL)
    now = run(
        search_of(settings["method"], system), cluster_relaxation(POTENTIAL, system), system,
        Settings(seed=settings["seed"], walkers=WALKERS), Stop(evaluations=settings["evaluations"]),
    ).progress  # fmt: skip
    spent = now.evaluations + now.in_flight[1]
    return {
        "energy": round(now.best, 6), "unpolished": None, "believed": None, "evaluations_spent": spent, "gradients": spent,
        "failed": 0,
    }  # fmt: skip


def minimized(settings: Mapping) -> dict:
    """The lowest energy below where a minimizer ended: `unpolished` is its own, `believed` that below its model's minimum."""
    function = function_of_atoms(POTENTIAL, numbers(settings["system"]), seen=Compressed())
    budget = settings["evaluations"]
    each = min(POLISH, budget // 20)
    found = minimize(
        function, method=settings["method"], evaluations=budget - 2 * each, seed=settings["seed"], seconds=settings["horizon"]
    )
    starts = [x for x in (found.x, found.believed) if x is not None]
    wide = [Counted(function.wider(2.0), each) for _ in starts]
    ends = [_below(*one) for one in zip(wide, starts, strict=True)]
    own = float(function.energies(found.x[None])[0])
    number = lambda e: round(e, 6) if np.isfinite(e) else None
    return {
        "energy": number(min([own, *ends])),
        "unpolished": number(own),
        "believed": number(ends[1]) if len(ends) > 1 else None,
        "evaluations_spent": found.evaluations + sum(one.evaluations for one in wide),
        "gradients": found.gradients + sum(one.gradients for one in wide),
        "failed": found.failed,
    }


def _below(counted: Counted, x: np.ndarray) -> float:
    """True energy of the minimum below a point, as far as the evaluations lead."""
    with contextlib.suppress(Spent):
        polished(counted, x, counted.budget)
    assert isinstance(counted.function, AtomsFunction)
    return float(counted.function.energies((x if counted.best is None else counted.best)[None])[0])


#: Share of evaluations without an energy from which on it is said.
SEEN = 0.01
HEAD = (
    "method", "lowest", "mean", "above the best", "before the way down", "below the model's minimum", "evaluations",
    "gradients", "CPU-s", "seeds",
)  # fmt: skip


def mean_of(energies: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's 95 % bounds."""
    values = np.asarray(energies, float)
    error = np.inf if len(values) < 2 else student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - error), float(values.mean() + error))


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies over seeds of the same evaluations, and whether basin hopping is lower than all others."""
    made = []
    which = lambda r: (r["system"], r["evaluations"])
    for (system, _), group in groupby(sorted(rows, key=which), key=which):
        found = {name: list(own) for name, own in groupby(group, key=lambda r: r["method"])}
        first = next(iter(found.values()))[0]
        lowest = min(r["energy"] for own in found.values() for r in own)
        best = min(lowest, KNOWN.get(system, np.inf))
        a, b = SYSTEMS[system]
        notes = [f"the best: {best:.4f}, {'of this table' if best == lowest else 'from elsewhere'}"]
        if system in KNOWN and lowest < KNOWN[system] - 0.005:  # which is known to two digits
            notes.append(f"{lowest:.4f} is below {KNOWN[system]}, the lowest known from elsewhere")
        notes.append("means over seeds, of energies with the 95 % bounds of Student's t")
        ended = [n for n, own in found.items() if any(r["horizon"] and r["cpu_seconds"] >= r["horizon"] for r in own)]
        notes += [f"{n} ended after {found[n][0]['horizon']} CPU-s" for n in ended]
        failed = [
            n for n, own in found.items() if sum(r["failed"] for r in own) > SEEN * sum(r["evaluations_spent"] for r in own)
        ]
        notes += [f"{n}: {sum(r['failed'] for r in found[n]):,} of its evaluations had no finite energy" for n in failed]
        means = {name: mean_of([r["energy"] for r in own]) for name, own in found.items()}
        if "basin-hopping" in means and len(means) > 1:
            others = {k: v for k, v in means.items() if k != "basin-hopping"}
            notes.append(verdict(system, "basin-hopping", means["basin-hopping"], others, False, "mean energy"))
        title = f"{system}: {a} A and {b} B, {3 * (a + b)} variables; {first['evaluations']:,} evaluations"
        made.append(Section(title, HEAD, tuple(_line(n, own, means[n], best) for n, own in found.items()), tuple(notes)))
    return made


def _line(name: str, rows: Sequence[Mapping], mean: Estimate, best: float) -> tuple[str, ...]:
    def over(key: str) -> str:
        values = [r[key] for r in rows if r[key] is not None]
        return f"{np.mean(values):.5g}" if values else ""

    spread = f" [{mean.low:.2f}, {mean.high:.2f}]" if np.isfinite(mean.low) else ""
    seeds = sorted(r["seed"] for r in rows)
    mean_spent = [f"{np.mean([r[k] for r in rows]):,.0f}" for k in ("evaluations_spent", "gradients", "cpu_seconds")]
    return (
        name, f"{min(r['energy'] for r in rows):.4f}", f"{mean.value:.2f}{spread}", f"{mean.value - best:.2f}",
        over("unpolished"), over("believed"), *mean_spent, f"{seeds[0]} to {seeds[-1]}",
    )  # fmt: skip


CLUSTER = Table(
    "cluster", "a binary Lennard-Jones cluster: minimizers of functions beside basin hopping", tuple(SYSTEMS)[:1], METHODS,
    settings, measure, sections, ("binary-lj-13",), accepts=lambda name: name in SYSTEMS, parts=parts,
)  # fmt: skip
