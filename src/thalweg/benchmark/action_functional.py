"""The action-functional method, what makes it work, and what it has to beat, on landscapes whose minimum is not in the middle.

The published test has its minimum in the middle of the box, where an untrained network and the middle itself are: here it is
drawn from the middle half of the box in every variable, and the unmoved one is a table of its own that says so. `err` is the
root of the mean square of x - x_true over variables: `believed` where the method's model has its minimum, `found` at the
lowest value. All methods have the same evaluations, and the same CPU time (--horizon, in seconds), whichever ends first; a
gradient is an evaluation, and is counted beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from scipy.stats import binomtest

from thalweg import registry
from thalweg.benchmark.action_functional_cluster import CLUSTER
from thalweg.benchmark.experiments import Experiment, Options, Section, Table
from thalweg.errors import InputError
from thalweg.minimizers.base import Minimizer, minimize
from thalweg.minimizers.counted import Counted
from thalweg.networks.pl_network import PLNetwork
from thalweg.potentials.landscapes import Landscape
from thalweg.potentials.moved import Moved

#: Landscapes of a system's name, without its number of variables: kind, its fields, and how it is moved.
SHIFTED: dict[str, tuple[str, dict, dict]] = {
    "alpine-1": ("alpine-1", {}, {}),
    "schaffer-f7": ("schaffer-f7", {}, {}),
    "rastrigin": ("rastrigin", {}, {}),
}
FUNNELS: dict[str, tuple[str, dict, dict]] = {
    "bent-rastrigin": ("curved-rastrigin", {"bend": 0.03}, {"rotated": True}),
    "much-bent-rastrigin": ("curved-rastrigin", {"bend": 0.1}, {"rotated": True}),
    "narrow-rastrigin": ("rastrigin", {}, {"rotated": True, "condition": 1e4}),
    "rotated-schaffer-f7": ("schaffer-f7", {}, {"rotated": True}),
    "rotated-rosenbrock": ("rosenbrock", {}, {"rotated": True}),
    "two-funnel-rastrigin": ("two-funnel-rastrigin", {}, {"rotated": True, "within": (-10.0, 10.0)}),
}
LANDSCAPES = {**SHIFTED, **FUNNELS}
BOX = (-100.0, 100.0)
#: Evaluations for each variable of moved landscapes up to `LARGE` variables, and those and the CPU seconds of all.
EACH, LARGE, EVALUATIONS, SECONDS = 2_000, 150, 300_000, 60
#: Seeds of a cell; with --quick, and its evaluations.
SEEDS, FUNNEL_SEEDS, QUICK_SEEDS, QUICK_EVALUATIONS = 3, 10, 1, 6_000
#: An end is a success where no variable is farther than this from the true minimum: within its ripple, or the zero beside it
NEAR = 0.15  # Alpine has a zero at -0.1002
#: What the paper has (D = 1000, minimum in the middle, 20 hours of a V100).
PUBLISHED = {"alpine-1": "err 3.60", "schaffer-f7": "err 3.24"}


class Middle(Minimizer):
    """The middle of the box: what a method that has learned nothing may answer."""

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        counted.believed = (counted.low + counted.high) / 2
        counted.values(counted.believed[None])


class Untrained(Minimizer):
    """The minimum of a network with random weights."""

    def __call__(self, counted: Counted, rng: np.random.Generator) -> None:
        middle, half = (counted.low + counted.high) / 2, (counted.high - counted.low) / 2
        network = PLNetwork.random(rng, counted.dim, (128,), 2, 0.5, 4.0, centre=middle, width=half)
        counted.believed = np.clip(network.minimiser().x, counted.low, counted.high)
        counted.values(counted.believed[None])


#: Minimizers by name: what the registry calls them, or one of here, and fields.
METHODS: dict[str, tuple[str | type[Minimizer], dict[str, Any]]] = {
    "middle": (Middle, {}),
    "untrained": (Untrained, {}),
    "action-functional": ("action-functional", {}),
    "action-functional-mixed": ("action-functional", {"uniform": 0.5}),
    "uniform-samples": ("uniform-samples", {}),
    "adam-grid": ("adam-grid", {}),
    "hops": ("hops", {}),
    "cma-es": ("cma-es", {}),
    "zoom-once": ("zoom", {"repeats": 1, "polish": 0}),
    "zoom": ("zoom", {}),
    "plnet-zoom": ("plnet-zoom", {}),
}
#: What they are, in words.
WHAT = {
    "middle": "the middle of the box",
    "untrained": "the minimum of a network with random weights",
    "action-functional": "Algorithm 1 as published: a network without local minima learns along its own ways down",
    "action-functional-mixed": "the same with half as many uniform samples in every round",
    "uniform-samples": "the paper's baseline: the network fitted to uniform samples only",
    "adam-grid": "the paper's baseline: Adam from uniform starts with several rates",
    "hops": "monotonic basin hopping of the vector",
    "cma-es": "separable CMA-ES of the package cmaes",
    "zoom-once": "least-squares quadratics in smaller and smaller boxes, once; 30 gradients down from each centre, no more",
    "zoom": "the same with the way down, again in other boxes while there are evaluations left",
    "plnet-zoom": "the zoom with a network without local minima in every box, begun as its quadratic",
    "plnet-zoom-mixed": "the same with half of the samples along ways down on the network",
    "plnet-zoom-gradients": "the same with gradients matched too",
    "basin-hopping": "of atoms: the default search, half of its moves exchange two unlike atoms",
    "random-relaxed": "of atoms: relaxed random starts",
}
#: Of funnels: what the network can be told besides values evenly in the box.
FUNNEL_METHODS: dict[str, tuple[str | type[Minimizer], dict[str, Any]]] = {
    **{k: METHODS[k] for k in ("middle", "zoom", "plnet-zoom")},
    "plnet-zoom-mixed": ("plnet-zoom", {"mixed": 0.5}),
    "plnet-zoom-gradients": ("plnet-zoom", {"gradient_weight": 0.3}),
    **{k: METHODS[k] for k in ("action-functional", "hops", "cma-es")},
}
#: Of large landscapes: a network costs tens of milliseconds a step there, so it gets few.
FEW_STEPS = {"plnet-zoom": {"steps": 50, "rate": 1e-3, "tau": 2.0}, "uniform-samples": {"steps": 800}}


def landscape(system: str, seed: int, moved: bool = True) -> Landscape:
    """The landscape of a name such as alpine-1-1000, moved by a seed."""
    name, _, dim = system.rpartition("-")
    if name not in LANDSCAPES or not dim.isdigit() or int(dim) < 1:
        raise InputError(
            f'there is no landscape "{system}"; it is a name and a number of variables, such as {next(iter(SHIFTED))}-1000, '
            f"and names are {', '.join(LANDSCAPES)}"
        )
    kind, own, how = LANDSCAPES[name]
    inner = registry.find("potential", kind)(int(dim), **own)
    return Moved(inner, seed, **{"within": BOX, **how}) if moved else inner


def minimizer(method: Mapping) -> Minimizer:
    """The method of a row."""
    own = {"middle": Middle, "untrained": Untrained}.get(method["kind"])
    fields = {k: v for k, v in method.items() if k != "kind"}
    return (own or registry.find("minimizer", method["kind"]))(**fields)


def settings_for(methods: Mapping, seeds: int, moved: bool = True) -> Callable[[str, str, Options], dict]:
    """What cells are run with."""

    def settings(system: str, method: str, options: Options) -> dict:
        kind, fields = methods[method]
        dim = landscape(system, 0, moved).dim
        if dim > LARGE and isinstance(kind, str):
            fields = {**fields, **FEW_STEPS.get(kind, {})}
        usual = QUICK_EVALUATIONS if options.quick else min(EACH * dim, EVALUATIONS) if dim <= LARGE else EVALUATIONS
        return {
            "count": options.count or (QUICK_SEEDS if options.quick else seeds),
            "evaluations": options.evaluations or usual,
            "seed": options.seed,
            "horizon": options.horizon or SECONDS,
            "moved": moved,
            "minimizer": {"kind": kind if isinstance(kind, str) else method, **fields},
        }

    return settings


def parts(settings: dict) -> list[dict]:
    """One row for each seed."""
    return [{**settings, "count": 1, "seed": settings["seed"] + k} for k in range(settings["count"])]


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """How far one seed came."""
    of, begun = landscape(settings["system"], settings["seed"], settings["moved"]), time.process_time()
    found = minimize(
        of, box=of.domain if settings["moved"] else BOX, method=minimizer(settings["minimizer"]),
        evaluations=settings["evaluations"], seed=settings["seed"], seconds=settings["horizon"],
    )  # fmt: skip
    err = lambda x: None if x is None else round(float(np.sqrt(((x - of.minimiser) ** 2).mean())), 6)
    row = {
        "believed": err(found.believed),
        "found": err(found.x),
        "farthest": round(float(np.abs(found.x - of.minimiser).max()), 6),
        "above": float(f"{found.value - of.minimum:.6g}"),
        "evaluations_spent": found.evaluations,
        "gradients": found.gradients,
        "failed": found.failed,
        "cpu_seconds": round(time.process_time() - begun, 2),
    }
    note(f"  err {row['believed']} believed, {row['found']} found; {row['above']:.3g} above, {row['cpu_seconds']:.0f} CPU-s")
    return row


HEAD = ("method", "err believed", "err found", "above the minimum", "at it", "evaluations", "gradients", "CPU-s", "settings")


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Medians over seeds, with the worst; how often the true minimum was found; and signs against the zoom."""
    made = []
    for system, group in groupby(rows, key=lambda r: r["system"]):
        found = {name: list(own) for name, own in groupby(group, key=lambda r: r["method"])}
        first = next(iter(found.values()))[0]
        seeds = sorted({r["seed"] for own in found.values() for r in own})
        title = f"{system}: {first['evaluations']:,} evaluations or {first['horizon']} CPU-s; seeds {_ranges(seeds)}"
        notes = [
            "medians over seeds (worst); at it: every variable within 0.15 of the true minimum; err of the middle is chance"
        ]
        if not first["moved"]:
            notes += ["DEGENERATE: the minimum is the middle of the box, which a method answers that has learned nothing"]
            notes += [f"published: {PUBLISHED[k]}" for k in PUBLISHED if system.startswith(k)]
        notes += [_signs(found, name) for name in found if name.startswith("plnet-zoom") and "zoom" in found]
        made.append(Section(title, HEAD, tuple(_line(name, own) for name, own in found.items()), tuple(notes)))
    return made


def _ranges(seeds: Sequence[int]) -> str:
    """Sorted numbers, those in a row as their ends."""
    ends = [[k, k] for k in seeds[:1]]
    for k in seeds[1:]:
        if k == ends[-1][1] + 1:
            ends[-1][1] = k
        else:
            ends.append([k, k])
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in ends)


def _line(name: str, rows: Sequence[Mapping]) -> tuple[str, ...]:
    form = lambda v: f"{v:.3g}" if 1e-3 <= abs(v) < 1e4 or v == 0 else f"{v:.1e}"

    def over(key: str) -> str:
        values = [r[key] for r in rows if r[key] is not None]
        return f"{form(float(np.median(values)))} ({form(max(values))})" if values else ""

    middle = lambda key: f"{np.median([r[key] for r in rows]):,.0f}"
    own = {k: v for k, v in rows[0]["minimizer"].items() if k != "kind"}
    return (
        name, over("believed"), over("found"), over("above"), f"{sum(r['farthest'] < NEAR for r in rows)} of {len(rows)}",
        middle("evaluations_spent"), middle("gradients"), middle("cpu_seconds"), " ".join(f"{k}={v}" for k, v in own.items()),
    )  # fmt: skip


def _signs(found: Mapping[str, Sequence[Mapping]], name: str) -> str:
    """In how many seeds a method ends lower than the zoom, and whether a fair coin does that."""
    other = {r["seed"]: r["above"] for r in found["zoom"]}
    pairs = [(r["above"], other[r["seed"]]) for r in found[name] if r["seed"] in other]
    same = lambda a, b: abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1.0)
    lower, higher = (sum(not same(a, b) and s * (a - b) < 0 for a, b in pairs) for s in (1, -1))
    p = binomtest(lower, lower + higher).pvalue if lower + higher else 1.0
    return f"{name} ends lower than zoom in {lower} of {len(pairs)} seeds, higher in {higher}; sign test p = {p:.2g}"


def _table(name: str, what: str, systems: tuple[str, ...], methods: Mapping, seeds: int, moved: bool, quick: str) -> Table:
    return Table(
        name, what, systems, tuple(methods), settings_for(methods, seeds, moved), measure, sections, (quick,),
        accepts=lambda system: system.rpartition("-")[0] in LANDSCAPES, parts=parts,
    )  # fmt: skip


TABLES = (
    _table(
        "shifted", "landscapes whose minimum is somewhere in the box",
        ("alpine-1-1000", "schaffer-f7-1000", "rastrigin-1000", "alpine-1-10", "alpine-1-100"), METHODS, SEEDS, True,
        "alpine-1-10",
    ),
    _table(
        "centred", "the published test, whose minimum is the middle of the box", ("alpine-1-1000", "schaffer-f7-1000"),
        {k: METHODS[k] for k in ("middle", "untrained", "action-functional", "zoom")}, SEEDS, False, "alpine-1-10",
    ),
    _table(
        "funnels", "rotated, narrow, bent and double funnels: a network beside quadratics",
        ("bent-rastrigin-10", "much-bent-rastrigin-10", "narrow-rastrigin-30", "rotated-schaffer-f7-30",
         "rotated-rosenbrock-30", "two-funnel-rastrigin-10"),
        FUNNEL_METHODS, FUNNEL_SEEDS, True, "bent-rastrigin-10",
    ),
    CLUSTER,
)  # fmt: skip
EXPERIMENT = Experiment(
    "action-functional", "the action-functional method on moved landscapes and a binary Lennard-Jones cluster", TABLES
)
