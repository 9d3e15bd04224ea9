"""Searches of periodic systems with known strong results: a glass former, a cement gel, silicon from the liquid.

Every seed makes its own start; nothing is read from files. References are the lowest energies known before this package,
upper bounds and not proven minima (except silicon's crystal).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from thalweg.generators.cells import RandomCell
from thalweg.generators.mutation import Swap
from thalweg.generators.periodic import LocalDisplace, NearSwap
from thalweg.ledger import POLISHED
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import CSHGel
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.presets import periodic_relaxation, periodic_search, periodic_settings, restricted
from thalweg.relax.base import Relaxer
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import Result, Session, Settings, Stop, energy_scale, run
from thalweg.search.base import Search
from thalweg.search.basin_hopping import BasinHopping
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
    settings: Settings
    relaxer: Relaxer | None = None  # where it is not that of `periodic_relaxation`

    @property
    def relaxation(self) -> Relaxation:
        """How proposals are evaluated."""
        usual = periodic_relaxation(self.potential, self.system)
        return usual if self.relaxer is None else Relaxation(self.potential, self.relaxer)


@dataclass(frozen=True)
class Outcome:
    """What one seed came to, and at what cost; `reached` is False where it stopped short of the reference."""

    seed: int
    energy: float
    evaluations: int
    relaxations: int
    cpu_seconds: float
    reason: str


def kob_andersen(n: int = 100) -> Task:
    """Kob-Andersen 80:20 at density 1.2, minimum image and unshifted as published: StriderNet's largest-studied system."""
    potential = BinaryLennardJones(minimum_image=True)
    numbers = np.repeat(potential.species, [n - n // 5, n // 5])
    system = periodic(numbers, potential, np.eye(3) * (n / 1.2) ** (1 / 3))
    search = periodic_search(system, potential)
    return Task(
        f"ka{n}", f"Kob-Andersen mixture, {n} particles", potential, system, lambda seed: search, -826.447, "ε", Stop(cpu=15.5),
        Settings(**periodic_settings(system)),
    )  # fmt: skip


def glass() -> Task:
    """The mixture of `kob_andersen` among glasses: random starts, and nothing that knows of crystals.

    The order of the species decides: nine moves of ten exchange one A and one B, half of these neighbours, the others shake
    a handful of atoms. Eight walks fill the vector units twice as well as four and are not much shorter. Only the lowest
    minimum is polished and kept.
    """
    crystals = kob_andersen()
    scale = crystals.potential.energy_scale(np.asarray(crystals.system.numbers))
    search = BasinHopping(
        (Swap(most=1), NearSwap(most=1, greed=0.0), LocalDisplace(step=0.3, radius=1.6)), (RandomCell(),),
        move_weights=[0.45, 0.45, 0.1], explore=1.0, patience=1000, temperature=0.5,
        energy_scale=1.0 if scale is None else scale,
    )  # fmt: skip
    return replace(
        crystals, name="ka100-glass", what=f"{crystals.what}, glasses", prepare=lambda seed: search,
        settings=replace(crystals.settings, walkers=8, keep=1),
    )  # fmt: skip


def cement_gel() -> Task:
    """C-S-H: 152 grains in a cube of 300 Å."""
    potential = CSHGel()
    system = periodic(np.zeros(152, int), potential, np.eye(3) * 300.0)
    search = restricted(periodic_search(system, potential), ["relocate", "local-squeeze", "slip"], ["lattice-fragment"])
    return Task(
        "c-s-h", "C-S-H gel, 152 grains", potential, system, lambda seed: search, -1_895_756.0, "kcal/mol",
        Stop(evaluations=50_500), Settings(**periodic_settings(system)),  # with what is in flight then, below 52,000
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


def annealed_silicon() -> Task:
    """Silicon annealed from the liquid by 100,000 steps of dynamics, 16 copies: what the papers' strong baseline does."""
    from ase.units import kB

    from thalweg.generators.seeded import given
    from thalweg.relax.annealing import Annealing
    from thalweg.search.simulated_annealing import SimulatedAnnealing

    potential = StillingerWeber()
    system = periodic(np.full(64, 14), potential, np.eye(3) * SILICON_EDGE)
    cooling = Annealing(
        n_steps=100_000, hot=1800 * kB, cold=600 * kB, dt=0.1, friction=0.1, max_step=0.4, then=LBFGS(max_step=0.3)
    )
    liquids = lambda seed: (given(melt(potential, system, seed), system),)
    prepare = lambda seed: SimulatedAnnealing(liquids(seed), np.ones(1), energy_scale=potential.epsilon)
    return Task(
        "sw64-annealing", "64 silicon atoms annealed from the liquid", potential, system, prepare, -264.0, "eV",
        Stop(relaxations=16), Settings(walkers=16, fmax=0.05, max_steps=102_000), cooling,
    )  # fmt: skip


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

    from thalweg.dynamics.driver import simulate
    from thalweg.dynamics.ensembles import Langevin
    from thalweg.structure import from_ase, stack

    crystal = bulk("Si", "diamond", a=SILICON_EDGE / 2, cubic=True) * (2, 2, 2)
    out = simulate(
        stack([from_ase(crystal)] * copies), potential, Langevin(temperature=SILICON_MELT), n_steps, 2.0, seed=seed,
        every=n_steps, dtype=np.float32,
    )  # fmt: skip
    return [out.structures[k] for k in range(copies)]


TASKS: dict[str, Callable[[], Task]] = {
    "ka100": kob_andersen,
    "ka100-glass": glass,
    "c-s-h": cement_gel,
    "sw64": silicon,
    "sw64-annealing": annealed_silicon,
    "sw64-tempering": lambda: silicon("parallel-tempering"),
}


def restricted_task(task: Task, moves: list[str] | None, starts: list[str] | None) -> Task:
    """The same task with only the named moves or starts of its basin hopping, for comparisons."""
    if moves is None and starts is None:
        return task
    return replace(task, prepare=lambda seed: restricted(task.prepare(seed), moves, starts))  # type: ignore[arg-type]


def compiled(task: Task) -> float:
    """CPU seconds to compile the task's programs, by a short search that is thrown away."""
    begun = time.process_time()
    if task.relaxer is not None:  # whatever runs, runs long
        return 0.0
    scale = energy_scale(task.relaxation, task.system)
    session = Session(task.prepare(0), task.relaxation, task.system, task.settings, scale)
    while (best := session.ledger.archive.best) is None:
        session.visit(Stop(relaxations=2))
    for copies in (1, 2):  # minima are polished alone or several side by side: two programs
        relax(task.system.structure(np.stack([best.positions] * copies)), session.polish, POLISHED)
    return time.process_time() - begun


def search(task: Task, seed: int, stop: Stop) -> tuple[Outcome, Result]:
    """One search; its CPU seconds count everything but the making of the start and the compilation (see `compiled`)."""
    method = task.prepare(seed)
    settings = Settings(**{**vars(task.settings), "seed": seed})
    begun = time.process_time()
    result = run(method, task.relaxation, task.system, settings, stop)
    now = result.progress
    extra = now.in_flight
    return Outcome(
        seed,
        result.energy,
        now.evaluations + extra[1],
        now.relaxations + extra[0],
        time.process_time() - begun,
        result.reason,
    ), result
