"""The start structures of StriderNet's three systems, made here: Lennard-Jones mixtures, liquid silicon, hot C-S-H gel.

V. Bihani, S. Manchanda, S. Sastry, S. Ranu, N. M. A. Krishnan, ICML 2023 (arXiv:2301.12477). Nothing is read from the
authors' files; means over their frames stand here as numbers, and `compare` puts starts of our own beside them. Every start
is a run of its own: a random structure, its own dynamics, one frame.

Gel: grand-canonical Monte Carlo at 300 K and a chemical potential of 2 kT, then hot dynamics in the same cell (that of the
published frames is the same before and after; there is no relaxation of the cell here). Published are 152 grains and
-958,861 kcal/mol. At 300 K kT is 0.0002 epsilon, so that grains come wherever there is room and never leave: how many there
are is a matter of time. Ours do not stop at 152: with 1 displacement in 5 attempts they are 161 to 172 after 100,000
attempts, and grow on. A chain is therefore taken when it first has 152, after some 40,000 attempts. The share of
displacements is not published either; `DISPLACEMENTS` is the one with which the energy is then as published (-960,000 +-
4,000 in 20 chains; about -830,000 at 0.02 and -1,010,000 at 0.2 in 16). The first published frame is that structure relaxed
a little, to -1,029,908, and so do we. The temperature of the hot dynamics is not published: squared forces over the Laplacian
of the energy (B. D. Butler et al., J. Chem. Phys. 109, 6519 (1998), doi:10.1063/1.477301) give (0.386 +- 0.006) epsilon in
the frames, and `HOT` is the round number of K next to it, 0.373 epsilon. The gel is not in equilibrium: it coarsens, and
energies fall all along the run. Published frames are those of one run in even distances; ours are from as many runs as there
are starts, each at a moment of its own, evenly over the same time.

Silicon: published is a run at zero pressure from the crystal, whose cell changed by 0.05 % in all: it is one at constant
volume. Lennard-Jones mixtures: constant volume; the first 80 frames, before the authors cool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from ase.units import kB, kcal, mol

from thalweg.benchmark.experiments import Options
from thalweg.dynamics.driver import simulate
from thalweg.dynamics.ensembles import Langevin
from thalweg.dynamics.monte_carlo import sample
from thalweg.dynamics.moves import GrandCanonical
from thalweg.errors import InputError, suggest
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import CSHGel, SoftSphere
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.adapters import GradientDescent
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import PADDING, Structure
from thalweg.system import System, periodic

#: Sizes of the publication; any other "ljN" is made as well.
NAMES = ("lj25", "lj50", "lj100", "lj250", "lj500", "lj1000", "sw64", "c-s-h")
#: Starts are made so many at a time, always: dynamics is chaotic, and only the same program repeats it to the last digit.
BATCH = 10
PERIODIC = (True, True, True)
#: Particles of the smallest mixture that has both species in their ratio.
SMALLEST = 5

DENSITY, MIXTURE_TEMPERATURE = 1.2, 2.0
SILICON_SIDE, SILICON_ATOMS, SILICON_TEMPERATURE = 10.866, 64, 3500.0

GEL_SIDE, GRAINS = 300.0, 152
#: Of the Monte Carlo: K, chemical potential in kT, share and largest length (Å) of displacements, attempts between looks.
COLD, POTENTIAL_IN_KT, DISPLACEMENTS, STEP, ATTEMPTS = 300.0, 2.0, 0.12, 1.0, 500
#: Looks in one call, after which chains that are not full yet go on.
LOOKS = 40
#: Steps of gradient descent (rate in Å^2 mol/kcal) before the gel is heated, which take it to about the published energy there.
RELAXED, RATE = 24, 4e-4
#: Of the hot dynamics: K; steps of 0.4 fs between frames, of which there are `FRAMES`. A grain weighs 1 amu, which sets the
#: pace alone; the length of the run is such that grains come as far as in the published one (2000 Å^2 in half of it).
HOT, FRAME_STEPS, FRAMES = 500_000.0, 12, 100
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Liquid:
    """Start structures of a system; energies (starts,) in the potential's unit, structures in the order of the system."""

    name: str
    potential: Potential
    system: System
    structures: Structure
    energies: np.ndarray


@dataclass(frozen=True)
class Melt:
    """How a liquid is made of random structures: pushed apart to `contact`, relaxed by steps of at most `step`, then heated.

    Lengths are those of the potential; `dt` is in fs, or reduced, as is the inverse of `friction`.
    """

    potential: Potential
    system: System
    contact: float
    step: float
    temperature: float
    friction: float
    dt: float
    steps: int


@dataclass(frozen=True)
class Published:
    """Means over the authors' frames of energy and of neighbours per atom within `reach`, with their errors.

    An error is the spread by the square root of the number of frames less their correlation in time (A. D. Sokal's initial
    sequence, cut where the correlation is first negative); `spread` is that of energies.
    """

    frames: int
    energy: float
    error: float
    spread: float
    reach: float
    neighbours: float
    neighbours_error: float


PUBLISHED = {
    "lj100": Published(80, -517.78, 2.59, 21.43, 1.2, 9.539, 0.015),
    "sw64": Published(99, -222.21, 0.31, 3.06, 2.8, 3.678, 0.014),
    "c-s-h": Published(100, -1_110_882.0, 27_600.0, 45_971.0, 56.0, 5.147, 0.146),
}
#: Energy of the authors' 152 grains before they are heated, kcal/mol.
PUBLISHED_GEL = -958_860.69


def liquid(name: str, count: int, seed: int) -> Liquid:
    """The first `count` starts of a seed: "ljN" (25 to 1000 published), "sw64" or "c-s-h"; more do not change the first ones.

    Raises `InputError` for other names.
    """
    if count < 1:
        raise InputError(f"the number of starts is {count}; it must be positive")
    recipe = None if name == "c-s-h" else _melt(name)
    parts = [
        _gel(batch, _seed(seed, batch)) if recipe is None else _melted(recipe, _seed(seed, batch))
        for batch in range(-(-count // BATCH))
    ]
    potential, system = (_gel_potential(), _gel_system()) if recipe is None else (recipe.potential, recipe.system)
    positions, energies = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return Liquid(name, potential, system, system.structure(positions), energies)


def _seed(seed: int, batch: int) -> int:
    """A seed for one batch of starts."""
    return int(np.random.SeedSequence((seed, batch)).generate_state(1)[0])


def _melt(name: str) -> Melt:
    """The recipe of a liquid by name."""
    if name == "sw64":
        numbers, potential = np.full(SILICON_ATOMS, 14), StillingerWeber()
        system = periodic(numbers, potential, SILICON_SIDE * np.eye(3))
        return Melt(potential, system, 2.3, 0.2, SILICON_TEMPERATURE, 0.02, 1.0, 2000)
    found = re.fullmatch(r"lj(\d+)", name)
    if found is None:
        raise InputError(f'no liquid "{name}".{suggest(name, NAMES)}')
    n = int(found[1])
    if n < SMALLEST:
        raise InputError(f"{name} has {n} particles; a mixture of 4 to 1 needs at least {SMALLEST}")
    potential = BinaryLennardJones(minimum_image=True)
    numbers = np.repeat(potential.species, [n - n // 5, n // 5])
    system = periodic(numbers, potential, (n / DENSITY) ** (1 / 3) * np.eye(3))
    return Melt(potential, system, 0.8, 0.2, MIXTURE_TEMPERATURE, 1.0, 0.003, 2000)


def _melted(melt: Melt, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (BATCH, atoms, 3) and energies of one batch of liquids."""
    side = melt.system.cell[0, 0]
    x = np.random.default_rng(seed).uniform(0, side, (BATCH, len(melt.system.numbers), 3))
    spheres = SoftSphere(melt.contact, melt.contact**2, cutoff=melt.contact)  # of curvature 1
    starts = relax(melt.system.structure(x), Relaxation(spheres, GradientDescent(0.1), 1e-3, 300)).structures
    starts = relax(starts, Relaxation(melt.potential, LBFGS(max_step=melt.step), 1e-3, 40)).structures
    bath = Langevin(melt.temperature, melt.friction)
    out = simulate(starts, melt.potential, bath, melt.steps, melt.dt, seed=seed, every=melt.steps)
    return np.asarray(out.structures.positions), out.energy[-1]


def _gel_potential() -> CSHGel:
    return CSHGel(minimum_image=True)


def _gel_system() -> System:
    return periodic(np.zeros(GRAINS, int), _gel_potential(), GEL_SIDE * np.eye(3))


def _gel(batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (BATCH, grains, 3) and energies (kcal/mol) of one batch of hot gels."""
    potential = _gel_potential()
    slack = Relaxation(potential, GradientDescent(RATE), 1e-3, RELAXED)
    starts = relax(condensed(seed)[0], slack).structures
    out = simulate(starts, potential, Langevin(HOT, 0.02), FRAMES * FRAME_STEPS, 0.4, seed=seed, every=FRAME_STEPS, frames=True)
    assert out.frames is not None
    # Moments that are spread evenly however many starts there are, and that do not depend on how many.
    moments = (GOLDEN * (np.arange(BATCH) + batch * BATCH)) % 1
    record, lane = 1 + (moments * FRAMES).astype(int), np.arange(BATCH)
    return np.asarray(out.frames.positions)[record, lane], out.energy[record, lane]


def condensed(seed: int) -> tuple[Structure, np.ndarray]:
    """One batch of cold gels and their energies (kcal/mol): chains of grand-canonical Monte Carlo when first full."""
    empty = (BATCH, GRAINS, 3)
    now = Structure.create(np.zeros(empty), np.full(GRAINS, PADDING), GEL_SIDE * np.eye(3), pbc=PERIODIC)
    mu = POTENTIAL_IN_KT * kB * mol / kcal * COLD
    moves = GrandCanonical(COLD, chemical_potential=mu, moves=ATTEMPTS, displacements=DISPLACEMENTS, step=STEP, capacity=GRAINS)
    positions, energies, call = np.zeros(empty), np.full(BATCH, np.nan), 0
    while np.isnan(energies).any():  # ends: without a limit grains go on to come well beyond this number
        out = sample(now, _gel_potential(), moves, LOOKS, seed=_seed(seed, call), frames=True)
        assert out.frames is not None
        full = out.count == GRAINS
        for lane in np.flatnonzero(full.any(0) & np.isnan(energies)):
            look = int(full[:, lane].argmax())
            positions[lane], energies[lane] = out.frames.positions[look, lane], out.energy[look, lane]
        now, call = out.structures, call + 1
    return _gel_system().structure(positions), energies


def neighbours(structures: Structure, reach: float) -> np.ndarray:
    """Mean number (structures,) of atoms within `reach` of an atom in cubes, nearest images."""
    counts = []
    for x, cell in zip(np.asarray(structures.positions), np.asarray(structures.cell), strict=True):
        i, j = np.triu_indices(len(x), 1)
        d = x[i] - x[j]
        d -= cell[0, 0] * np.round(d / cell[0, 0])
        counts.append(2 * (np.linalg.norm(d, axis=1) < reach).sum() / len(x))
    return np.array(counts)


def compare(name: str, count: int, seed: int) -> dict:
    """Our starts beside the authors' frames: means, errors, and differences in standard errors.

    Ours are independent, so that `effective` is their number. Raises `InputError` for systems without published frames.
    """
    if name not in PUBLISHED:
        raise InputError(f'no frames of "{name}" were published.{suggest(name, PUBLISHED)}')
    if count < 2:
        raise InputError(f"the number of starts is {count}; a standard error needs at least 2")
    known, made = PUBLISHED[name], liquid(name, count, seed)
    near = neighbours(made.structures, known.reach)
    error, near_error = (float(v.std(ddof=1) / np.sqrt(count)) for v in (made.energies, near))
    energy = float(made.energies.mean())
    return {
        "system": name,
        "unit": made.potential.units(np.asarray(made.system.numbers))[0],
        "seed": seed,
        "effective": count,
        "energy": energy,
        "error": error,
        "spread": float(made.energies.std(ddof=1)),
        "published": known.energy,
        "published_error": known.error,
        "published_spread": known.spread,
        "published_effective": (known.spread / known.error) ** 2,
        "deviation": (energy - known.energy) / float(np.hypot(error, known.error)),
        "reach": known.reach,
        "neighbours": float(near.mean()),
        "neighbours_error": near_error,
        "published_neighbours": known.neighbours,
        "neighbours_deviation": float((near.mean() - known.neighbours) / np.hypot(near_error, known.neighbours_error)),
    }


def start_rows(options: Options) -> list[dict]:
    """`compare` of every system with published frames, 20 starts each unless told; a quick one of mixtures alone."""
    names = ("lj100",) if options.quick else tuple(PUBLISHED)
    return [compare(name, options.count or 20, options.seed) for name in names]
