"""Searches of periodic systems with known strong results: a glass former, a cement gel, silicon from the liquid.

Every seed makes its own start; nothing is read from files. References are the lowest energies known before this package,
upper bounds and not proven minima (except silicon's crystal).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import CSHGel
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.presets import periodic_relaxation, periodic_search, periodic_settings, restricted
from thalweg.run import Result, Settings, Stop, run
from thalweg.search.base import Search
from thalweg.structure import Structure
from thalweg.system import System, periodic

#: Silicon: 64 atoms in this cube (Å), melted at this temperature (K).
SILICON_EDGE, SILICON_MELT = 10.866, 3500.0


@dataclass(frozen=True)
class Task:
    """A system and its search: `prepare(seed)` gives the search, `reference` the energy to reach, `limit` the effort."""

    name: str
    what: str
    potential: Potential
    system: System
    prepare: Callable[[int], Search]
    reference: float
    unit: str
    stop: Stop
    settings: Settings = Settings()


@dataclass(frozen=True)
class Outcome:
    """What one seed came to, and at what cost; `reached` is False where it stopped short of the reference."""

    seed: int
    energy: float
    evaluations: int
    relaxations: int
    cpu_seconds: float
    compiling: float
    reason: str


def kob_andersen(n: int = 100) -> Task:
    """Kob-Andersen 80:20 at density 1.2, minimum image and unshifted as published: StriderNet's largest-studied system."""
    potential = BinaryLennardJones(minimum_image=True)
    numbers = np.repeat(potential.species, [n - n // 5, n // 5])
    system = periodic(numbers, potential, np.eye(3) * (n / 1.2) ** (1 / 3))
    search = periodic_search(system, potential)
    return Task(
        f"ka{n}", f"Kob-Andersen mixture, {n} particles", potential, system, lambda seed: search, -826.447, "ε", Stop(cpu=16.0),
        Settings(**periodic_settings(system)),
    )  # fmt: skip


def cement_gel() -> Task:
    """C-S-H: 152 grains in a cube of 300 Å."""
    potential = CSHGel()
    system = periodic(np.zeros(152, int), potential, np.eye(3) * 300.0)
    search = restricted(periodic_search(system, potential), ["relocate", "local-squeeze", "slip"], ["lattice-fragment"])
    return Task(
        "c-s-h", "C-S-H gel, 152 grains", potential, system, lambda seed: search, -1_895_756.0, "kcal/mol",
        Stop(evaluations=52_000), Settings(**periodic_settings(system)),
    )  # fmt: skip


def silicon(method: str = "basin-hopping") -> Task:
    """Silicon's crystal from the liquid: each seed melts its own 64 atoms at 3500 K and searches from there.

    `method` is "basin-hopping" (all moves, translations included) or "parallel-tempering" (dynamics alone).
    """
    potential = StillingerWeber()
    system = periodic(np.full(64, 14), potential, np.eye(3) * SILICON_EDGE)

    def prepare(seed: int) -> Search:
        liquid = melt(potential, system, seed)
        if method == "parallel-tempering":
            return tempered(system, potential, liquid)
        return periodic_search(system, potential, liquid)

    settings = Settings(**periodic_settings(system))
    if method == "parallel-tempering":
        settings = Settings(walkers=32)
    return Task(
        f"sw64 {method}",
        "64 silicon atoms from the liquid",
        potential,
        system,
        prepare,
        -277.5367,
        "eV",
        Stop(cpu=900.0),
        settings,
    )


def tempered(system: System, potential: Potential, liquid: list[Structure]):
    """Parallel tempering between 1000 and 1700 K, where silicon of this potential freezes (at 1690 K) within nanoseconds."""
    from ase.units import kB

    from thalweg.generators.seeded import given
    from thalweg.search.parallel_tempering import ParallelTempering

    scale = float(potential.energy_scale(np.asarray(system.numbers)) or 1.0)
    return ParallelTempering(
        (given(liquid, system),), rungs=16, cold=1000 * kB / scale, hot=1700 * kB / scale, dt=0.08, friction=0.1, segment=50,
        look=20, energy_scale=scale,
    )  # fmt: skip


def melt(potential: Potential, system: System, seed: int, copies: int = 32, n_steps: int = 4000) -> list[Structure]:
    """Liquids at `SILICON_MELT`, each from the crystal with its own random numbers; 2 fs steps of Langevin dynamics."""
    from ase.build import bulk

    from thalweg.dynamics import Langevin, simulate
    from thalweg.structure import from_ase, stack

    crystal = bulk("Si", "diamond", a=SILICON_EDGE / 2, cubic=True) * (2, 2, 2)
    out = simulate(
        stack([from_ase(crystal)] * copies), potential, Langevin(temperature=SILICON_MELT), seed=seed, n_steps=n_steps, dt=2.0
    )
    return [out.structures[k] for k in range(copies)]


TASKS: dict[str, Callable[[], Task]] = {
    "ka100": kob_andersen,
    "c-s-h": cement_gel,
    "sw64": silicon,
    "sw64-tempering": lambda: silicon("parallel-tempering"),
}


def compiled(task: Task) -> float:
    """CPU seconds to compile the task's programs, by a search of a few relaxations that is thrown away."""
    begun = time.process_time()
    run(task.prepare(0), periodic_relaxation(task.potential, task.system), task.system, task.settings, Stop(relaxations=2))
    return time.process_time() - begun


def search(task: Task, seed: int, stop: Stop) -> tuple[Outcome, Result]:
    """One search; its CPU seconds count everything but the making of the start and the compilation (see `compiled`)."""
    method = task.prepare(seed)
    settings = Settings(**{**vars(task.settings), "seed": seed})
    begun = time.process_time()
    result = run(method, periodic_relaxation(task.potential, task.system), task.system, settings, stop)
    now = result.progress
    extra = now.in_flight
    return Outcome(
        seed,
        result.energy,
        now.evaluations + extra[1],
        now.relaxations + extra[0],
        time.process_time() - begun,
        0.0,
        result.reason,
    ), result
