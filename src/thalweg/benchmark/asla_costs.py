"""What an episode costs, part by part, and the searches that find what a success is measured by."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import jax
import numpy as np

from thalweg.benchmark.asla_restarts import Watch, begun, parts
from thalweg.benchmark.asla_systems import PROBLEMS, problem
from thalweg.benchmark.experiments import Options, Section, Table
from thalweg.errors import PotentialError
from thalweg.host import HostSession
from thalweg.run import run
from thalweg.settings import Stop

#: Functions (file, name) in which the parts of an episode are spent, all they call included.
SPENT = {
    "building": ("asla.py", "_candidates"),
    "model": ("fitting.py", "model_of"),
    "relaxation": ("guard.py", "relax_on"),
    "choice": ("choice.py", "promises"),
    "training": ("asla.py", "_taught"),
    "energy": ("evaluate.py", "__call__"),
}
#: Episodes before the profile begins, in which most is compiled; and where one takes seconds.
WARM, FEW = 30, 14
METHODS: dict[str, dict] = {
    "asla": {"kind": "asla", "surrogate": "none"},
    "asla-pa": {"kind": "asla"},
    "uniform-pa": {"kind": "asla", "policy": {"kind": "uniform"}},
    "gofee": {"kind": "gofee"},
}
#: Networks that see as far, by more weights or fewer: 319,472, 82,352, 30,032 for two species; least: the default in space.
CONVOLUTIONS: dict[str, dict] = {
    "full": {"kind": "asla", "kernel": 11, "dilation": 1},
    "dilated-2": {"kind": "asla", "kernel": 7, "dilation": 2},
    "dilated-3": {"kind": "asla", "kernel": 5, "dilation": 3},
    "dilated-4": {"kind": "asla", "kernel": 3, "dilation": 4},
    "uniform-pa": METHODS["uniform-pa"],
}


@lru_cache
def _compilations() -> list[float]:
    """Seconds of every compilation from now on; JAX tells, and cannot be told to stop."""
    seen: list[float] = []

    def heard(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(heard)
    return seen


def costs_settings(methods: Mapping[str, dict], episodes: int, warm: int) -> Callable[[str, str, Options], dict]:
    """What the profile of a method is of."""

    def settings(system: str, method: str, options: Options) -> dict:
        own = dict(methods[method])
        if own["kind"] == "asla":
            own["spacing"] = problem(system).spacing
        usual = min(20, episodes) if options.quick else episodes
        return {
            "count": 1,
            "evaluations": options.evaluations or usual,
            "seed": options.seed,
            "horizon": None,
            "warm": warm,
            "search": own,
        }

    return settings


def costs_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """CPU seconds of the parts of so many episodes after the first ones, none of which ends the search."""
    compiled, warm = _compilations(), settings["warm"]
    session, watch = begun(problem(settings["system"]), settings["search"], settings["seed"], judged=False)
    try:
        _advance(session, watch, warm)
        before, profile, start = len(compiled), cProfile.Profile(time.process_time), time.process_time()
        profile.enable()
        _advance(session, watch, warm + settings["evaluations"])
        profile.disable()
        spent = time.process_time() - start
    finally:
        session.close()
    table: Any = pstats.Stats(profile)
    seconds = dict.fromkeys(SPENT, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in table.stats.items():
        for part, (module, function) in SPENT.items():
            if name == function and file.endswith(f"/{module}"):
                seconds[part] += cumulative
    return {
        "cpu_seconds": round(spent, 3),
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "compilations": len(compiled) - before,
        "compiling": round(sum(compiled[before:]), 3),
    }


def _advance(session: HostSession, watch: Watch, episodes: int) -> None:
    while watch.episodes < episodes:
        session.visit(Stop(relaxations=episodes))
        session.commit(watch)  # type: ignore[arg-type]


def costs_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Episodes per second, and where the time goes."""
    made = []
    for system, group in groupby(rows, key=lambda r: r["system"]):
        found = list(group)
        lines = []
        for r in found:
            rest = r["cpu_seconds"] - sum(r["seconds"].values())
            shares = [f"{v / r['cpu_seconds']:.0%}" for v in [*r["seconds"].values(), rest]]
            rate = f"{r['evaluations'] / r['cpu_seconds']:.2f}"
            lines.append((r["method"], rate, *shares, f"{r['compilations']} ({r['compiling']:.1f} s)"))
        first = found[0]
        before = first.get("warm", WARM)
        title = f"{system}: {first['evaluations']} episodes after the first {before}, seed {first['seed']}, profiled"
        head = ("method", "episodes per CPU-s", *SPENT, "rest", "compilations")
        made.append(Section(title, head, tuple(lines)))
    return made


COSTS = Table(
    "costs", "episodes per second and the shares of their parts", ("benzene",), tuple(METHODS),
    costs_settings(METHODS, 100, WARM), costs_measure, costs_sections,
)  # fmt: skip
COSTS_3D = Table(
    "costs-3d", "the same in three dimensions, by convolutions", ("ni4au5",), tuple(CONVOLUTIONS),
    costs_settings(CONVOLUTIONS, 10, FEW), costs_measure, costs_sections,
)  # fmt: skip

# Where known structures come from -------------------------------------------------------------------------------------


def known_settings(system: str, method: str, options: Options) -> dict:
    """What a search for the lowest structure is run with."""
    return {
        "count": options.count or 3,
        "evaluations": options.evaluations or 10_000,
        "seed": options.seed,
        "horizon": None,
        "search": {"kind": method},
    }


def known_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """The lowest minimum that basin hopping finds within so many evaluations."""
    of, start = problem(settings["system"]), time.process_time()
    made = of.resolved(settings["search"], settings["evaluations"], settings["seed"], max_steps=200)
    result = run(made.search, made.relaxation, made.system, made.settings, made.stop, hosting=made.hosting)
    if result.best is None:
        raise PotentialError(f"basin hopping found no minimum of {of.name}")
    return {
        "energy": round(float(result.best.energy), 5),
        "known": round(of.known.energy, 5) if of.is_known else None,
        "positions": np.round(result.best.positions, 5).tolist(),
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def known_sections(rows: Sequence[Mapping]) -> list[Section]:
    """What every search found, beside what the package holds."""
    made = []
    for system, group in groupby(rows, key=lambda r: r["system"]):
        found = list(group)
        lines = [
            (r["method"], str(r["seed"]), f"{r['energy']:.4f}", "none" if r["known"] is None else f"{r['known']:.4f}",
             f"{r['cpu_seconds']:.0f}")
            for r in found
        ]  # fmt: skip
        title = f"{system}: lowest energies in eV; {found[0]['evaluations']:,} evaluations each"
        made.append(Section(title, ("method", "seed", "lowest", "of the package", "CPU-s"), tuple(lines)))
    return made


KNOWN = Table(
    "known", "searches for the structures that a success is measured by", tuple(n for n, p in PROBLEMS.items() if p.template),
    ("basin-hopping",), known_settings, known_measure, known_sections, (), parts=parts,
)  # fmt: skip
