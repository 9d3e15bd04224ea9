"""Success of a population on functions of two variables: what more restarts can mend, and what only more members can.

Rastrigin: N independent local searches from random starts; one of them falls into the basin of the global minimum with a
chance p, so N succeed with 1 - (1 - p)^N. Two funnels: N basin-hopping walkers by small steps, followed for so long
that time no longer helps; a population of N stagnates at 1 - .5^N, because each member stays in the funnel it began in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.random as jr
import numpy as np

from thalweg.benchmark.curves import success_bounds
from thalweg.generators.base import Generator, moved
from thalweg.generators.mutation import Displace
from thalweg.potentials.functions import PlaneFunction, Rastrigin, TwoFunnel
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import Settings, Stop, run
from thalweg.search.basin_hopping import BasinHopping
from thalweg.structure import Structure
from thalweg.system import System, cluster

#: Members of the populations that are compared.
POPULATIONS = {"rastrigin": (1, 10, 50, 100, 200, 500), "two-funnel": (1, 2, 3, 4, 6, 8)}
#: Hops of each walker, several times what a funnel needs; and its temperature, far below the barrier between the funnels.
HOPS, TEMPERATURE = 100, 0.3
#: Energies nearer than this to the minimum are the minimum.
TOLERANCE = 1e-2


class Square(Generator):
    """Starts uniform in a square of the plane z = 0 about the origin, of twice `half_width` on a side."""

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "square"
    half_width: float = 1.0

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x = parents.positions[0]
        return moved(parents[0], (jr.uniform(key, x.shape, x.dtype, -1, 1) * self.half_width).at[:, 2].set(0))


@dataclass(frozen=True)
class Point:
    """A population of `members`: successes in how many restarts, the 95 % bounds of the chance, and the law to compare."""

    members: int
    hits: int
    restarts: int
    low: float
    high: float
    law: float

    @property
    def success(self) -> float:
        """Share of the restarts that succeeded."""
        return self.hits / self.restarts


def point(members: int, hits: int, restarts: int, law: float) -> Point:
    """With Clopper-Pearson bounds."""
    return Point(members, hits, restarts, *success_bounds(hits, restarts), law)


def global_minimum(potential: PlaneFunction) -> float:
    """Energy of the lowest point, relaxed from where it is said to be."""
    x = Structure.create([[*potential.minimum, 0.0]])
    return float(relax(x, _relaxation(potential)).energy)


def _relaxation(potential: PlaneFunction) -> Relaxation:
    # Steps well below the width of a ripple: a local search that jumps over ridges would be a global one.
    return Relaxation(potential, LBFGS(max_step=0.05), 1e-3, 500)


def basin_share() -> float:
    """Share of the square from which steepest descent comes to the origin of Rastrigin's function.

    The function is a sum over x and y, so its basins are squares: the ridge is the root of x + 10 pi sin(2 pi x) near 1/2.
    """
    from scipy.optimize import brentq

    ridge = float(brentq(lambda x: x + 10 * np.pi * np.sin(2 * np.pi * x), 0.45, 0.55))  # type: ignore[arg-type]
    return (ridge / Rastrigin().half_width) ** 2


def rastrigin(restarts: int, first_seed: int = 0, populations=POPULATIONS["rastrigin"]) -> list[Point]:
    """Populations of local searches, beside 1 - (1 - p)^N with the p of `basin_share`."""
    potential, found = Rastrigin(), []
    best, share = global_minimum(potential), basin_share()
    for members in populations:
        rng = np.random.default_rng([first_seed, members])
        x = np.zeros((restarts * members, 1, 3))
        x[:, 0, :2] = rng.uniform(-1, 1, (len(x), 2)) * potential.half_width
        energy = np.concatenate(
            [relax(Structure.create(part), _relaxation(potential)).energy for part in np.split(x, range(4096, len(x), 4096))]
        )
        hits = (energy.reshape(restarts, members).min(1) < best + TOLERANCE).sum()
        found.append(point(members, int(hits), restarts, 1 - (1 - share) ** members))
    return found


def two_funnel(restarts: int, first_seed: int = 0, populations=POPULATIONS["two-funnel"]) -> list[Point]:
    """Populations of walkers, beside 1 - .5^N."""
    potential, found = TwoFunnel(), []
    best = global_minimum(potential)
    system = cluster([0], potential)
    start = Square(half_width=potential.half_width)
    search = BasinHopping([Displace(step=1.2)], [start], temperature=TEMPERATURE, patience=10**6)
    for members in populations:
        stop = Stop(relaxations=HOPS * members, target=best + TOLERANCE)
        hits = 0
        for seed in range(first_seed, first_seed + restarts):
            settings = Settings(seed=seed, walkers=members, keep=10, precision="float64")
            hits += run(search, _relaxation(potential), system, settings, stop).energy <= best + TOLERANCE
        found.append(point(members, int(hits), restarts, 1 - 0.5**members))
    return found


TASKS: dict[str, Callable[..., list[Point]]] = {"rastrigin": rastrigin, "two-funnel": two_funnel}
