"""Published baselines on fresh starts: gradient descent, Adam and FIRE of StriderNet's Table 1 and Learn2Hop's Table 2.

The learned methods of V. Bihani et al., ICML 2023 (arXiv:2301.12477) and of A. Merchant et al., ICML 2021 (arXiv:2107.09661)
are compared there with plain relaxations. Here the same relaxations start from structures made with seeds of our own: if
their means come out as published, energies, conventions and starts are understood. Nothing is read from the authors' files.

FIRE has no limit on its step, as in jax-md, which both papers used; one evaluation is one step of every method.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.units import kB, kcal, mol

from thalweg.dynamics.driver import simulate
from thalweg.dynamics.ensembles import Langevin
from thalweg.errors import InputError
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.many_body import Gupta
from thalweg.potentials.pair import CSHGel, LennardJones, SoftSphere
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.adapters import Adam, GradientDescent
from thalweg.relax.base import STATUS_NAMES, Relaxer
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure

#: Names of the tables, as the command line has them.
TABLES = ("stridernet", "learn2hop")
FREE = float("inf")
#: (temperature, friction, dt, steps) of the dynamics that makes a liquid, in the user's units of the potential.
Heat = tuple[float, float, float, int]


@dataclass(frozen=True)
class Method:
    """A relaxer with its limits, and what was published of it: (min, mean).

    `checked` is the mean, or its range, that an evaluation of the authors' own starts gave before this package.
    """

    name: str
    relaxer: Relaxer
    max_steps: int = 1000
    published: tuple[float | None, float] | None = None
    checked: str = ""
    fmax: float = 1e-6

    @property
    def settings(self) -> str:
        """The parameters that matter, for tables."""
        r = self.relaxer
        if isinstance(r, FIRE):
            return f"dt {r.dt:g}, at most {r.dt_max:g}"
        return f"rate {r.learning_rate:g}" if isinstance(r, Adam | GradientDescent) else ""


@dataclass(frozen=True)
class Task:
    """Starts of one system and the methods that relax them.

    A start is uniform in a cube of `side`, periodic with `pbc`, pushed apart by soft spheres of diameter `contact`; with
    `heat` it is then loosely relaxed and melted. `divide` is what energies are divided by in the table.
    """

    table: str
    name: str
    potential: Potential
    numbers: np.ndarray
    side: float
    contact: float
    starts: int
    methods: tuple[Method, ...]
    pbc: bool = True
    heat: Heat | None = None
    step: float = 0.2  # of the loose relaxation before the dynamics
    divide: int = 1

    def make(self, count: int, seed: int) -> tuple[Structure, np.ndarray | None]:
        """The first `count` starts of a seed, and the energies of those that were melted.

        More starts do not change the first ones.
        """
        x = np.random.default_rng(seed).uniform(0, self.side, (count, len(self.numbers), 3))
        cell = np.eye(3) * self.side if self.pbc else None
        starts = Structure.create(x, self.numbers, cell, None, (self.pbc,) * 3)
        spheres = SoftSphere(self.contact, self.contact**2, cutoff=self.contact)  # of curvature 1
        starts = relax(starts, Relaxation(spheres, GradientDescent(0.1), 1e-3, 300)).structures
        if self.heat is None:
            return starts, None
        loose = Relaxation(self.potential, LBFGS(max_step=self.step), 1e-3, 40)
        temperature, friction, dt, steps = self.heat
        starts = relax(starts, loose).structures
        liquid = simulate(starts, self.potential, Langevin(temperature, friction), steps, dt, seed=seed, every=steps)
        return liquid.structures, liquid.energy[-1]


@dataclass(frozen=True)
class Row:
    """What a method made of the starts of a task; energies divided by the task's `divide`."""

    table: str
    system: str
    unit: str
    method: str
    settings: str
    max_steps: int
    published: tuple[float | None, float] | None
    checked: str
    energies: list[float]  # of all starts, infinite or NaN where a relaxation blew up
    start_mean: float | None  # of starts that were melted
    start_spread: float | None
    ended: dict[str, int]
    evaluations: float  # per start, mean
    cpu_seconds: float

    @property
    def finite(self) -> np.ndarray:
        """Energies of the relaxations that did not blow up; the numbers below are of these."""
        energies = np.asarray(self.energies)
        return energies[np.isfinite(energies)]

    @property
    def lowest(self) -> float:
        """Lowest energy."""
        return float(self.finite.min())

    @property
    def mean(self) -> float:
        """Mean energy."""
        return float(self.finite.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.finite.std(ddof=1) / np.sqrt(len(self.finite)))

    @property
    def deviation(self) -> float | None:
        """Mean less published mean, in standard errors of the difference if the published mean is as uncertain as ours."""
        return None if self.published is None else (self.mean - self.published[1]) / (np.sqrt(2) * self.error)


def measure(task: Task, count: int, seed: int, methods: tuple[Method, ...] | None = None) -> list[Row]:
    """Relax `count` starts of a seed with every method of the task, or with those given."""
    structures, energies = task.make(count, seed)
    return [measured(task, structures, energies, method)[0] for method in (task.methods if methods is None else methods)]


def measured(task: Task, starts: Structure, melted: np.ndarray | None, method: Method) -> tuple[Row, Structure]:
    """Relax starts, whose energies are `melted` if known, by one method; also what they became."""
    begun = time.process_time()
    out = relax(starts, Relaxation(task.potential, method.relaxer, method.fmax, method.max_steps))
    spent = time.process_time() - begun
    # A relaxation that blew up has no energy, however it was noticed.
    energies = np.where(out.status == STATUS_NAMES.index("not finite"), np.nan, out.energy)
    return Row(
        table=task.table,
        system=task.name,
        unit=task.potential.units(task.numbers)[0],
        method=method.name,
        settings=method.settings,
        max_steps=method.max_steps,
        published=method.published,
        checked=method.checked,
        energies=(energies / task.divide).tolist(),
        start_mean=None if melted is None else float(melted.mean() / task.divide),
        start_spread=None if melted is None else float(melted.std() / task.divide),
        ended={name: int((out.status == k).sum()) for k, name in enumerate(STATUS_NAMES) if (out.status == k).any()},
        evaluations=float(out.steps.mean()),
        cpu_seconds=spent,
    ), out.structures


def tasks(table: str | None = None, quick: bool = False) -> list[Task]:
    """All tasks, or those of one table; `quick` leaves one small system of each. Raises `InputError` for other tables."""
    if table is not None and table not in TABLES:
        raise InputError(f'no table "{table}"; use {" or ".join(TABLES)}')
    makers: dict[str, list[Callable[[], list[Task]]]] = {
        "stridernet": [mixtures] if quick else [mixtures, mixture_sizes, gel, liquid_silicon],
        "learn2hop": [clusters] if quick else [clusters, gold, random_silicon, loose_clusters],
    }
    found = [make() for name in TABLES if table in (None, name) for make in makers[name]]
    return [task for made in found for task in (made[:1] if quick else made)]


def _mixture(n: int, starts: int, methods: tuple[Method, ...], divide: int = 1) -> Task:
    """Kob-Andersen liquid at T = 2 and density 1.2, minimum image and unshifted as published."""
    potential = BinaryLennardJones(minimum_image=True)
    numbers = np.repeat(potential.species, [n - n // 5, n // 5])
    name = f"LJ{n}" if divide == 1 else f"LJ{n}, per atom"
    heat = (2.0, 1.0, 0.003, 2000)
    return Task("stridernet", name, potential, numbers, (n / 1.2) ** (1 / 3), 0.8, starts, methods, heat=heat, divide=divide)


def mixtures() -> list[Task]:
    """Binary Lennard-Jones, 100 particles."""
    methods = (
        Method("gradient descent", GradientDescent(5e-4), 1000, (-799.53, -795.38), "-754"),
        Method("Adam", Adam(0.05), 1000, (-808.62, -801.96), "-804.6"),
        Method("FIRE", FIRE(0.01, 0.04, FREE), 1000, (-813.66, -806.29), "-803 to -806"),
        Method("L-BFGS", LBFGS()),
    )
    return [_mixture(100, 100, methods)]


def mixture_sizes() -> list[Task]:
    """The other sizes of StriderNet's figure: FIRE, energy per atom; of 1000 only the learned mean (-8.12) is known to us."""
    known = {25: (-6.81, "-6.886"), 50: (-7.63, "-7.650"), 250: (-8.11, "-8.102"), 500: (-8.12, "-8.132"), 1000: (None, "")}
    made = []
    for n, (published, checked) in known.items():
        of_fire = None if published is None else (None, published)
        fire = Method("FIRE", FIRE(0.01, 0.04, FREE), 1000, of_fire, checked)
        made.append(_mixture(n, 40 if n < 100 else 16 if n < 1000 else 8, (fire,), n))
    return made


def gel() -> list[Task]:
    """C-S-H, 152 grains in a cube of 300 Å, hot enough (kT = 0.45 epsilon) for energies of -1.0e6 to -1.2e6 kcal/mol.

    The mass of a grain is 1 amu, which sets the pace of the dynamics and not what it samples.
    """
    potential = CSHGel(minimum_image=True)
    heat = (0.45 * potential.epsilon / (kB * mol / kcal), 0.02, 0.5, 4000)
    methods = (
        Method("gradient descent", GradientDescent(4e-4), 2000, (-1583539, -1548799)),
        Method("Adam", Adam(1.0), 1000, (-1622906, -1596680)),
        Method("FIRE", FIRE(0.005, 0.02, FREE), 2000, (-1637194, -1588792), "-1,582,688", 1e-3),
        Method("L-BFGS", LBFGS(max_step=10.0), 5000, None, "-1,594,612", 1e-3),
    )
    return [Task("stridernet", "C-S-H", potential, np.zeros(152, int), 300.0, 51.0, 40, methods, heat=heat, step=10.0)]


def liquid_silicon() -> list[Task]:
    """Stillinger-Weber silicon, 64 atoms, liquid of 3500 K."""
    methods = (
        Method("gradient descent", GradientDescent(1e-3), 1000, (-249.22, -247.56)),
        Method("Adam", Adam(0.05), 1000, (-258.86, -256.93)),
        Method("FIRE", FIRE(0.01, 0.04, FREE), 1000, (-256.98, -256.37)),
        Method("L-BFGS", LBFGS(), 5000, None, "-257.15", 1e-4),
    )
    heat = (3500.0, 0.02, 1.0, 2000)
    return [Task("stridernet", "SW64", StillingerWeber(), np.full(64, 14), 10.866, 2.3, 40, methods, heat=heat)]


#: Energies no longer change in the digits shown below these forces. Adam's steps do not shrink, so that it seldom gets lower.
CLOSE, CLOSE_ADAM = 1e-3, 1e-2
#: Of Learn2Hop.
LIMIT = 50_000


def _fire(published) -> Method:
    return Method("FIRE", FIRE(0.01, 0.1, FREE), LIMIT, published, "", CLOSE)


def _adam(rate: float, published) -> Method:
    return Method("Adam", Adam(rate), LIMIT, published, "", CLOSE_ADAM)


def clusters() -> list[Task]:
    """Lennard-Jones clusters r^-12 - 2 r^-6 from a cube of side 2, whatever their size."""
    potential = LennardJones(sigma=2 ** (-1 / 6))
    known = {13: ((-44.33, -40.58), (-44.33, -40.45)), 75: ((-390.34, -380.52), (-389.12, -380.23))}
    return [
        Task("learn2hop", f"LJ{n}", potential, np.zeros(n, int), 2.0, 1.0, 150, (_adam(0.01, a), _fire(f)), pbc=False)
        for n, (a, f) in known.items()
    ]


def gold() -> list[Task]:
    """Gupta gold from the same starts in Å: a ball compressed to a quarter of its bonds."""
    methods = (_adam(0.01, (-180.94, -179.94)), _fire((-181.75, -180.94)))
    return [Task("learn2hop", "Au55", Gupta("gold55"), np.full(55, 79), 2.0, 1.0, 150, methods, pbc=False)]


def random_silicon() -> list[Task]:
    """Stillinger-Weber silicon in 2x2x2 cells of 5.428 Å, random starts pushed apart to sigma."""
    potential = StillingerWeber()
    methods = (_adam(0.05, (-260.08, -256.83)), _fire((-261.44, -257.01)))
    return [Task("learn2hop", "SW64", potential, np.full(64, 14), 10.856, potential.sigma, 150, methods)]


def loose_clusters() -> list[Task]:
    """The same clusters from cubes in which they would fit: what the start is worth."""
    made = []
    for task in (*clusters(), *gold()):
        n, bond = len(task.numbers), 2.96 if task.name == "Au55" else 1.0
        side = 3.0 * bond * (n / 13) ** (1 / 3)
        fire = task.methods[-1]
        made.append(Task(task.table, f"{task.name}, loose", task.potential, task.numbers, side, bond, 150, (fire,), pbc=False))
    return made


def line(row: Row) -> str:
    """A row for the terminal."""
    known = ""
    if row.published is not None:
        lowest, mean = row.published
        known = f"{'' if lowest is None else f'{lowest:,.2f}':>14s} {mean:14,.2f} {row.deviation:+6.1f}"
    return (
        f"{row.system:16s} {row.method:16s} {row.lowest:14,.3f} {row.mean:14,.3f} ± {row.error:<9,.3f}{known:>36s}  "
        f"{row.checked:>12s}  {', '.join(f'{n} {name}' for name, n in row.ended.items())}; {row.cpu_seconds:.1f} CPU-s"
    )
