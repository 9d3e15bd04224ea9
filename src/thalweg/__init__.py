"""thalweg: lowest-energy structures of atomic systems on rough energy landscapes.

The names below are imported when they are first used, so that `import thalweg` costs nothing.
Functions that share the name of their module are imported from it: `from thalweg.run import run`,
`from thalweg.relax.driver import relax`, `from thalweg.export import export`.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "structure": ("Structure", "from_ase", "to_ase"),
    "system": ("System", "cluster", "confined", "periodic"),
    "errors": ("InputError", "PotentialError", "RunFolderError", "StructureError", "ThalwegError"),
    "io": ("read_structure", "read_structures", "write_structure"),
    "potentials.base": ("EnergyPotential", "Evaluation", "Potential"),
    "potentials.pair": ("CSHGel", "GeneralisedLennardJones", "LennardJones", "Morse", "PairPotential", "SoftSphere"),
    "potentials.binary": ("BinaryLennardJones",),
    "potentials.stillinger_weber": ("StillingerWeber",),
    "potentials.tersoff": ("Tersoff",),
    "potentials.many_body": ("Gupta", "SuttonChen"),
    "potentials.ase": ("ThalwegCalculator",),
    "potentials.black_box": ("BlackBox",),
    "relax.base": ("Relaxer",),
    "relax.lbfgs": ("LBFGS",),
    "relax.fire": ("FIRE",),
    "relax.adapters": ("Adam", "GradientDescent"),
    "relax.annealing": ("Annealing",),
    "relax.ase": ("ThalwegOptimizer",),
    "relax.driver": ("Relaxation", "Relaxed"),
    "relax.filters": ("Filter", "Frechet", "Plane", "Positions", "UnitCell"),
    "generators.base": ("Generator",),
    "generators.crossover": ("CutAndSplice",),
    "generators.mutation": ("Displace", "Interior", "Relocate", "Squeeze", "Swap", "Twist"),
    "generators.symmetrise": ("Symmetrise",),
    "generators.placed": ("Permute", "RandomPlaced", "Rattle"),
    "generators.random": ("RandomBall", "SymmetricRandom"),
    "generators.seeded": ("Seeded",),
    "minimizers.base": ("Minimizer", "Minimum", "minimize"),
    "objective.base": ("Evaluated", "Objective", "Task", "WorkerLost", "Workers"),
    "objective.evaluate": ("Evaluate",),
    "objective.workers": ("from_executor", "open_workers"),
    "search.base": ("Search",),
    "search.basin_hopping": ("BasinHopping",),
    "search.evolutionary": ("Evolutionary",),
    "search.minima_hopping": ("MinimaHopping",),
    "search.particle_swarm": ("ParticleSwarm",),
    "search.random_search": ("RandomSearch",),
    "search.tempered_hopping": ("TemperedHopping",),
    "store": ("Record", "Store"),
    "run": ("Progress", "Result", "Settings", "Stop"),
    "config": ("Resolved", "resolve"),
}
_ORIGIN = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_ORIGIN)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from thalweg.config import Resolved, resolve
    from thalweg.errors import InputError, PotentialError, RunFolderError, StructureError, ThalwegError
    from thalweg.generators.base import Generator
    from thalweg.generators.crossover import CutAndSplice
    from thalweg.generators.mutation import Displace, Interior, Relocate, Squeeze, Swap, Twist
    from thalweg.generators.placed import Permute, RandomPlaced, Rattle
    from thalweg.generators.random import RandomBall, SymmetricRandom
    from thalweg.generators.seeded import Seeded
    from thalweg.generators.symmetrise import Symmetrise
    from thalweg.io import read_structure, read_structures, write_structure
    from thalweg.minimizers.base import Minimizer, Minimum, minimize
    from thalweg.objective.base import Evaluated, Objective, Task, WorkerLost, Workers
    from thalweg.objective.evaluate import Evaluate
    from thalweg.objective.workers import from_executor, open_workers
    from thalweg.potentials.ase import ThalwegCalculator
    from thalweg.potentials.base import EnergyPotential, Evaluation, Potential
    from thalweg.potentials.binary import BinaryLennardJones
    from thalweg.potentials.black_box import BlackBox
    from thalweg.potentials.many_body import Gupta, SuttonChen
    from thalweg.potentials.pair import CSHGel, GeneralisedLennardJones, LennardJones, Morse, PairPotential, SoftSphere
    from thalweg.potentials.stillinger_weber import StillingerWeber
    from thalweg.potentials.tersoff import Tersoff
    from thalweg.relax.adapters import Adam, GradientDescent
    from thalweg.relax.annealing import Annealing
    from thalweg.relax.ase import ThalwegOptimizer
    from thalweg.relax.base import Relaxer
    from thalweg.relax.driver import Relaxation, Relaxed
    from thalweg.relax.filters import Filter, Frechet, Plane, Positions, UnitCell
    from thalweg.relax.fire import FIRE
    from thalweg.relax.lbfgs import LBFGS
    from thalweg.run import Progress, Result, Settings, Stop
    from thalweg.search.base import Search
    from thalweg.search.basin_hopping import BasinHopping
    from thalweg.search.evolutionary import Evolutionary
    from thalweg.search.minima_hopping import MinimaHopping
    from thalweg.search.particle_swarm import ParticleSwarm
    from thalweg.search.random_search import RandomSearch
    from thalweg.search.tempered_hopping import TemperedHopping
    from thalweg.store import Record, Store
    from thalweg.structure import Structure, from_ase, to_ase
    from thalweg.system import System, cluster, confined, periodic


def __getattr__(name: str):
    """Import a public name, or a submodule, when it is first used."""
    import importlib

    if name in _ORIGIN:
        value = getattr(importlib.import_module(f"thalweg.{_ORIGIN[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'thalweg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ORIGIN])
