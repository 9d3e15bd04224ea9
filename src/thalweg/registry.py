"""Names of components: what `kind` in an input, and options of the command line, may say.

A name is one of the tables below, one that an installed package offers as an entry point (`thalweg.potential`,
`thalweg.generator`, `thalweg.relaxer`, `thalweg.filter`, `thalweg.search`), or an import path: `my_file:MyClass` or
`my_package.module:MyClass`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import inspect

from thalweg.errors import InputError, suggest
from thalweg.importing import module_at, reason

#: Import paths of the package's own components.
COMPONENTS: dict[str, dict[str, str]] = {
    "potential": {
        "lennard-jones": "thalweg.potentials.pair:LennardJones",
        "morse": "thalweg.potentials.pair:Morse",
        "soft-sphere": "thalweg.potentials.pair:SoftSphere",
        "generalised-lennard-jones": "thalweg.potentials.pair:GeneralisedLennardJones",
        "c-s-h": "thalweg.potentials.pair:CSHGel",
        "kob-andersen": "thalweg.potentials.binary:BinaryLennardJones",
        "stillinger-weber": "thalweg.potentials.stillinger_weber:StillingerWeber",
        "tersoff": "thalweg.potentials.tersoff:Tersoff",
        "gupta": "thalweg.potentials.many_body:Gupta",
        "sutton-chen": "thalweg.potentials.many_body:SuttonChen",
        "bks-silica": "thalweg.potentials.ionic:BKS",
        "matsui-akaogi": "thalweg.potentials.ionic:MatsuiAkaogi",
        "alpine-1": "thalweg.potentials.landscapes:Alpine1",
        "schaffer-f7": "thalweg.potentials.landscapes:SchafferF7",
        "rastrigin": "thalweg.potentials.landscapes:Rastrigin",
        "ackley": "thalweg.potentials.landscapes:Ackley",
        "griewank": "thalweg.potentials.landscapes:Griewank",
        "weierstrass": "thalweg.potentials.landscapes:Weierstrass",
        "quintic": "thalweg.potentials.landscapes:Quintic",
        "drop-wave": "thalweg.potentials.landscapes:DropWave",
        "expanded-schaffer-f6": "thalweg.potentials.landscapes:ExpandedSchafferF6",
        "xin-she-yang-3": "thalweg.potentials.landscapes:XinSheYang3",
        "xin-she-yang-5": "thalweg.potentials.landscapes:XinSheYang5",
        "happy-cat": "thalweg.potentials.valleys:HappyCat",
        "hgbat": "thalweg.potentials.valleys:HGBat",
        "rosenbrock": "thalweg.potentials.valleys:Rosenbrock",
        "ellipsoid": "thalweg.potentials.valleys:Ellipsoid",
        "different-powers": "thalweg.potentials.valleys:DifferentPowers",
        "discus": "thalweg.potentials.valleys:Discus",
        "bent-cigar": "thalweg.potentials.valleys:BentCigar",
        "two-funnel-rastrigin": "thalweg.potentials.valleys:TwoFunnelRastrigin",
        "curved-rastrigin": "thalweg.potentials.valleys:CurvedRastrigin",
        "moved": "thalweg.potentials.moved:Moved",
        "calculator": "thalweg.potentials.black_box:BlackBox",
    },
    "relaxer": {
        "lbfgs": "thalweg.relax.lbfgs:LBFGS",
        "fire": "thalweg.relax.fire:FIRE",
        "adam": "thalweg.relax.adapters:Adam",
        "gradient-descent": "thalweg.relax.adapters:GradientDescent",
        "annealing": "thalweg.relax.annealing:Annealing",
        "learn2hop": "thalweg.relax.learn2hop:Learn2Hop",
        "learned": "thalweg.relax.learned_annealing:LearnedAnnealing",
        "stridernet": "thalweg.relax.strider:Strider",
        "adaptation": "thalweg.relax.adaptation:Adaptation",
    },
    "filter": {
        "positions": "thalweg.relax.filters:Positions",
        "plane": "thalweg.relax.filters:Plane",
        "unit-cell": "thalweg.relax.filters:UnitCell",
        "frechet": "thalweg.relax.filters:Frechet",
    },
    "region": {
        "box": "thalweg.region:Box",
        "sphere": "thalweg.region:Sphere",
        "slab": "thalweg.region:Slab",
        "plane": "thalweg.region:Plane",
    },
    "generator": {
        "random-placed": "thalweg.generators.placed:RandomPlaced",
        "rattle": "thalweg.generators.placed:Rattle",
        "strained": "thalweg.generators.strained:Strained",
        "permutation": "thalweg.generators.placed:Permute",
        "displace": "thalweg.generators.mutation:Displace",
        "learned-kick": "thalweg.generators.learned_kick:LearnedKick",
        "squeeze": "thalweg.generators.mutation:Squeeze",
        "twist": "thalweg.generators.mutation:Twist",
        "uniform": "thalweg.generators.vectors:Uniform",
        "kick": "thalweg.generators.vectors:Kick",
        "redraw": "thalweg.generators.vectors:Redraw",
        "mix": "thalweg.generators.vectors:Mix",
        "relocate": "thalweg.generators.mutation:Relocate",
        "interior": "thalweg.generators.mutation:Interior",
        "symmetrise": "thalweg.generators.symmetrise:Symmetrise",
        "swap": "thalweg.generators.mutation:Swap",
        "near-swap": "thalweg.generators.periodic:NearSwap",
        "local-displace": "thalweg.generators.periodic:LocalDisplace",
        "local-twist": "thalweg.generators.periodic:LocalTwist",
        "local-squeeze": "thalweg.generators.periodic:LocalSqueeze",
        "wave": "thalweg.generators.periodic:Wave",
        "slip": "thalweg.generators.periodic:Slip",
        "replicate": "thalweg.generators.replicate:Replicate",
        "complementary": "thalweg.generators.complementary:ComplementaryEnergy",
        "cut-and-splice": "thalweg.generators.crossover:CutAndSplice",
        "bond-switch": "thalweg.generators.bonds:BondSwitch",
        "random-cell": "thalweg.generators.cells:RandomCell",
        "lattice-fragment": "thalweg.generators.cells:LatticeFragment",
        "symmetric-cell": "thalweg.generators.crystals:SymmetricCell",
        "variable-cell": "thalweg.generators.crystals:VariableCell",
        "random": "thalweg.generators.random:RandomBall",
        "symmetric": "thalweg.generators.random:SymmetricRandom",
        "seeded": "thalweg.generators.seeded:Seeded",
        "given": "thalweg.generators.seeded:Given",
    },
    "search": {
        "basin-hopping": "thalweg.search.basin_hopping:BasinHopping",
        "learned-hopping": "thalweg.search.learned_hopping:LearnedHopping",
        "gofee": "thalweg.search.gofee:Gofee",
        "surrogate-hopping": "thalweg.search.surrogate_hopping:SurrogateHopping",
        "asla": "thalweg.search.asla:Asla",
        "builder": "thalweg.search.builder:Builder",
        "evolutionary": "thalweg.search.evolutionary:Evolutionary",
        "minima-hopping": "thalweg.search.minima_hopping:MinimaHopping",
        "particle-swarm": "thalweg.search.particle_swarm:ParticleSwarm",
        "random": "thalweg.search.random_search:RandomSearch",
        "tempered-hopping": "thalweg.search.tempered_hopping:TemperedHopping",
        "annealing": "thalweg.search.simulated_annealing:SimulatedAnnealing",
        "stridernet": "thalweg.search.stridernet:StriderNet",
        "parallel-tempering": "thalweg.search.parallel_tempering:ParallelTempering",
    },
    "surrogate": {
        "gaussian-process": "thalweg.surrogates.gaussian_process:GaussianProcess",
        "local": "thalweg.surrogates.local:LocalGaussianProcess",
        "network": "thalweg.surrogates.network:NetworkSurrogate",
    },
    "fingerprint": {
        "histograms": "thalweg.surrogates.fingerprint:Fingerprint",
    },
    "environments": {
        "power-spectrum": "thalweg.surrogates.environments:Environments",
    },
    "acquisition": {
        "lower-confidence-bound": "thalweg.surrogates.acquisition:LowerConfidenceBound",
        "annealed-kappa": "thalweg.surrogates.acquisition:AnnealedKappa",
        "expected-improvement": "thalweg.surrogates.acquisition:ExpectedImprovement",
    },
    "sampler": {
        "k-means": "thalweg.search.sampling:KMeans",
        "kernel-similarity": "thalweg.search.sampling:KernelSimilarity",
        "population": "thalweg.search.sampling:Population",
    },
    "policy": {
        "epsilon-greedy": "thalweg.agents.policy:EpsilonGreedy",
        "greedy": "thalweg.agents.policy:Greedy",
        "softmax": "thalweg.agents.policy:Softmax",
        "uniform": "thalweg.agents.policy:Uniform",
    },
    "tree": {
        "tree-search": "thalweg.agents.tree_search:TreeSearch",
    },
    "minimizer": {
        "zoom": "thalweg.minimizers.zoom:Zoom",
        "plnet-zoom": "thalweg.minimizers.plnet_zoom:PLNetZoom",
        "action-functional": "thalweg.minimizers.action_functional:ActionFunctional",
        "uniform-samples": "thalweg.minimizers.baselines:UniformSamples",
        "adam-grid": "thalweg.minimizers.baselines:AdamGrid",
        "cma-es": "thalweg.minimizers.baselines:SeparableCMA",
        "hops": "thalweg.minimizers.baselines:Hops",
    },
    "postprocessor": {
        "centre": "thalweg.search.postprocess:Centre",
    },
    "representation": {
        "one-hot": "thalweg.agents.images:OneHot",
        "gaussian": "thalweg.agents.images:Gaussian",
        "automatic-gaussian": "thalweg.agents.images:AutomaticGaussian",
        "displaced": "thalweg.agents.images:Displaced",
        "circular-harmonics": "thalweg.agents.images:CircularHarmonics",
    },
}

#: What a component of each kind has to be derived from.
BASES = {
    "potential": "thalweg.potentials.base:Potential",
    "relaxer": "thalweg.relax.base:Relaxer",
    "filter": "thalweg.relax.filters:Filter",
    "generator": "thalweg.generators.base:Generator",
    "region": "thalweg.region:Region",
    "search": "thalweg.search.base:Search",
    "surrogate": "thalweg.surrogates.base:Surrogate",
    "fingerprint": "thalweg.surrogates.fingerprint:Fingerprint",
    "environments": "thalweg.surrogates.environments:Environments",
    "acquisition": "thalweg.surrogates.acquisition:Acquisition",
    "sampler": "thalweg.search.sampling:Sampler",
    "policy": "thalweg.agents.policy:Policy",
    "tree": "thalweg.agents.tree_search:TreeSearch",
    "minimizer": "thalweg.minimizers.base:Minimizer",
    "postprocessor": "thalweg.search.postprocess:Postprocessor",
    "representation": "thalweg.agents.images:Representation",
}


def names(room: str) -> list[str]:
    """All names of a kind of component, entry points included."""
    return [*COMPONENTS[room], *(name for name in _entry_points(room) if name not in COMPONENTS[room])]


def base(room: str) -> type:
    """The abstract class of a kind of component."""
    module, name = BASES[room].split(":")
    return getattr(importlib.import_module(module), name)


def room_of(cls: type) -> str | None:
    """Which kind of component a class is."""
    return next((room for room in BASES if issubclass(cls, base(room))), None)


def find(room: str, name: str) -> type:
    """The class of a component by name or import path. Raises `InputError` where there is none."""
    if ":" in name:
        return _checked(room, name, imported(name))
    if name in COMPONENTS[room]:
        return imported(COMPONENTS[room][name])
    points = _entry_points(room)
    if name in points:
        return _checked(room, name, _loaded(name, points[name]))
    raise InputError(f'there is no {room} called "{name}".{suggest(name, names(room))}')


def name_of(room: str, cls: type) -> str:
    """The name of a component's class, or its import path where it has none."""
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, known in COMPONENTS[room].items() if known == path), path)


def imported(path: str) -> type:
    """The class at `module:Class` or `file:Class`; a file in the current directory goes before an installed module."""
    where, _, name = path.rpartition(":")
    if not where or not name:
        raise InputError(f'"{path}" is no import path; write my_file:MyClass')
    module = module_at(where, path)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        own = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise InputError(f'{where} has no class "{name}".{suggest(name, own)}')
    return found


def _checked(room: str, name: str, cls: type) -> type:
    """The class, if it is a finished component of this kind."""
    wanted = base(room)
    if not issubclass(cls, wanted):
        raise InputError(f"{name} is not a {room}; derive it from {wanted.__module__}.{wanted.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise InputError(f"{name} is not finished: it does not define {missing}")
    return cls


def _entry_points(room: str) -> dict:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"thalweg.{room}")}


def _loaded(name: str, point) -> type:
    try:
        return point.load()
    except Exception as error:
        raise InputError(f'"{name}" of {point.value} cannot be imported: {reason(error)}') from error
