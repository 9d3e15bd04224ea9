"""Lennard-Jones benchmarks: first hits of one size over seeds, and the sweep over all sizes to 150."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np

from thalweg.benchmark.curves import FirstHit
from thalweg.potentials.pair import LennardJones
from thalweg.presets import cluster_relaxation, cluster_search
from thalweg.run import BUCKETS, Settings, Stop, bucket, run
from thalweg.search.basin_hopping import BasinHopping
from thalweg.system import cluster

#: A hit: the polished energy is this close to the reference.
TOLERANCE = 1e-5


@lru_cache
def reference_energies() -> dict[int, float]:
    """Best-known energies of LJ clusters, N = 2-150 (Cambridge Cluster Database), in units of epsilon."""
    text = (files("thalweg.benchmark") / "data" / "lennard_jones_clusters.csv").read_text()
    return {int(row["atoms"]): float(row["energy"]) for row in csv.DictReader(text.splitlines())}


def first_hit(n_atoms: int, seed: int, search: BasinHopping, settings: Settings, seconds: float) -> FirstHit:
    """Search LJ_n until the reference energy is reached or `seconds` of wall time are over."""
    potential = LennardJones()
    system = cluster(np.zeros(n_atoms, int), potential)
    target = reference_energies()[n_atoms] + TOLERANCE
    begun = time.process_time()
    settings = Settings(**{**vars(settings), "seed": seed})
    result = run(search, cluster_relaxation(potential, system), system, settings, Stop(time=seconds, target=target))
    spent = time.process_time() - begun
    now = result.progress
    # What the other walkers had begun when the first of them arrived is part of the cost.
    begun_too, evaluations = now.in_flight
    return FirstHit(seed, now.best <= target, spent, now.relaxations + begun_too, now.evaluations + evaluations, now.best)


def compile_for(n_atoms: int, search: BasinHopping, settings: Settings) -> float:
    """CPU seconds to compile (or load from the cache) what a search of this size needs."""
    begun = time.process_time()
    potential = LennardJones()
    system = cluster(np.zeros(n_atoms, int), potential)
    settings = Settings(**{**vars(settings), "seed": 2**31})
    run(search, cluster_relaxation(potential, system), system, settings, Stop(relaxations=1))
    return time.process_time() - begun


@dataclass
class Sweep:
    """State of a sweep over sizes: best energy and positions of each, and how it was found."""

    best: dict[int, float] = field(default_factory=dict)
    positions: dict[int, np.ndarray] = field(default_factory=dict)
    how: dict[int, str] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)
    rounds: int = 0

    def missing(self) -> list[int]:
        """Sizes whose reference energy is not reached."""
        known = reference_energies()
        return [n for n in known if self.best.get(n, np.inf) > known[n] + TOLERANCE]

    def below(self) -> list[int]:
        """Sizes where something lower than the reference was found: sensational, or wrong."""
        known = reference_energies()
        return [n for n, e in self.best.items() if e < known[n] - TOLERANCE]


def sweep(
    seed: int, settings: Settings, cpu_limit: float, sizes=None, seeded: bool = True, tell: Callable[[str], None] = print
) -> Sweep:
    """Find all minima of `sizes` (default 2-150) within `cpu_limit` seconds, compilation included.

    Rounds go through the sizes still missing, up and down in turn, each with a longer limit per size. With `seeded`,
    searches start also from the best structures of neighbouring sizes found so far, as users of such tables do; without,
    from random and symmetric starts alone. The references are targets: this measures time to known minima.
    """
    begun = time.process_time()
    spent = lambda: time.process_time() - begun
    known = reference_energies()
    sizes = sorted(known) if sizes is None else sorted(sizes)
    state = Sweep()
    left = sizes
    tell(f"sizes {sizes[0]}-{sizes[-1]} in {len({bucket(n) for n in sizes})} of {len(BUCKETS)} padded sizes")
    while left and spent() < cpu_limit:
        for n in left if state.rounds % 2 == 0 else reversed(left):
            seconds = min(1.5**state.rounds * (0.1 + (n / 100) ** 2), cpu_limit - spent())
            if seconds <= 0:
                break
            _try(n, seed + state.rounds, _neighbours(n, state) if seeded else [], settings, seconds, state)
        left = [n for n in state.missing() if n in sizes]
        tell(f"round {state.rounds}: {len(sizes) - len(left)} of {len(sizes)}, {spent():.0f} CPU-s, left {left}")
        state.rounds += 1
    return state


def _neighbours(n: int, state: Sweep) -> list[np.ndarray]:
    """Best structures of up to four sizes around n, nearest first; four always, so that shapes stay the same."""
    near = sorted((m for m in state.positions if m != n and abs(m - n) <= 4), key=lambda m: (abs(m - n), m))
    found = [state.positions[m] for m in near[:4] if len(state.positions[m]) <= bucket(n)]
    return (found * 4)[:4]


def _try(n: int, seed: int, neighbours: list[np.ndarray], settings: Settings, seconds: float, state: Sweep) -> None:
    """One search of size n, entered into the sweep when it is the best so far."""
    potential = LennardJones()
    system = cluster(np.zeros(n, int), potential)
    target = reference_energies()[n] + TOLERANCE
    search = cluster_search(system, potential, seeds=neighbours, n_seeds=4, n_slots=bucket(n))
    settings = Settings(**{**vars(settings), "seed": seed})
    begun = time.process_time()
    result = run(search, cluster_relaxation(potential, system), system, settings, Stop(cpu=seconds, target=target))
    state.cpu[n] = state.cpu.get(n, 0.0) + time.process_time() - begun
    best = result.best
    if best is not None and best.energy < state.best.get(n, np.inf) - 1e-9:
        state.best[n], state.positions[n] = best.energy, best.positions
        state.how[n] = f"round {state.rounds}, {'seeded' if neighbours else 'unseeded'}, {best.origin}"


def claim(n_atoms: int, seed: int, settings: Settings, confidence: float, cpu: float) -> tuple[bool, bool, float]:
    """One search that stops when it is as sure as asked: (was it sure, was it right, CPU seconds)."""
    potential = LennardJones()
    system = cluster(np.zeros(n_atoms, int), potential)
    begun = time.process_time()
    result = run(
        cluster_search(system, potential),
        cluster_relaxation(potential, system),
        system,
        Settings(**{**vars(settings), "seed": seed}),
        Stop(cpu=cpu, confidence=confidence),
    )
    sure = 1 - result.progress.lower_remains >= confidence
    return sure, result.energy <= reference_energies()[n_atoms] + TOLERANCE, time.process_time() - begun
