"""Names of components: what `kind` in an input, and options of the command line, may say.

A name is one of the tables below, one that an installed package offers as an entry point (`thalweg.potential`,
`thalweg.generator`, `thalweg.relaxer`, `thalweg.filter`, `thalweg.search`), or an import path: `my_file:MyClass` or
`my_package.module:MyClass`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

from thalweg.errors import InputError, suggest

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
        "gupta": "thalweg.potentials.many_body:Gupta",
        "sutton-chen": "thalweg.potentials.many_body:SuttonChen",
    },
    "relaxer": {
        "lbfgs": "thalweg.relax.lbfgs:LBFGS",
        "fire": "thalweg.relax.fire:FIRE",
        "adam": "thalweg.relax.adapters:Adam",
        "gradient-descent": "thalweg.relax.adapters:GradientDescent",
        "annealing": "thalweg.relax.annealing:Annealing",
    },
    "filter": {
        "positions": "thalweg.relax.filters:Positions",
        "plane": "thalweg.relax.filters:Plane",
        "unit-cell": "thalweg.relax.filters:UnitCell",
        "frechet": "thalweg.relax.filters:Frechet",
    },
    "generator": {
        "displace": "thalweg.generators.mutation:Displace",
        "squeeze": "thalweg.generators.mutation:Squeeze",
        "twist": "thalweg.generators.mutation:Twist",
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
        "random": "thalweg.search.random_search:RandomSearch",
        "annealing": "thalweg.search.simulated_annealing:SimulatedAnnealing",
        "parallel-tempering": "thalweg.search.parallel_tempering:ParallelTempering",
    },
}

#: What a component of each kind has to be derived from.
BASES = {
    "potential": "thalweg.potentials.base:Potential",
    "relaxer": "thalweg.relax.base:Relaxer",
    "filter": "thalweg.relax.filters:Filter",
    "generator": "thalweg.generators.base:Generator",
    "search": "thalweg.search.base:Search",
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
    file = _file(where)
    if file is not None:
        module = _module_of_file(file)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name and (where == error.name or where.startswith(error.name + ".")):
                raise InputError(f"there is no file {where}.py here and no installed module {where} (for {path})") from None
            raise InputError(f"{where} cannot be imported: {_reason(error)}") from error
        except Exception as error:
            raise InputError(f"{where} cannot be imported: {_reason(error)}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        own = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise InputError(f'{where} has no class "{name}".{suggest(name, own)}')
    return found


def absolute(path: str) -> str:
    """A name or import path that still holds in another directory: files become absolute paths."""
    where, colon, name = path.rpartition(":")
    file = _file(where) if colon and where else None
    return path if file is None else f"{file.resolve()}:{name}"


def _file(where: str) -> Path | None:
    """The Python file that the left side of an import path names; None for a module."""
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        return path
    path = Path(*where.split("."))
    path = path.with_name(path.name + ".py")
    return path if path.is_file() else None


def _module_of_file(file: Path):
    """The module of a user's file, loaded once; its directory can be imported from, as when Python runs a script."""
    file = file.resolve()
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {_reason(error, file)}") from error
    return module


def _reason(error: Exception, file: Path | None = None) -> str:
    """What went wrong in a user's module, in one line, with the line of the file."""
    said = str(error).strip().splitlines()
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    lines, trace = [], error.__traceback__
    while trace is not None:
        if file is not None and trace.tb_frame.f_code.co_filename == str(file):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"line {lines[-1]}: {text}" if lines else text


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
        raise InputError(f'"{name}" of {point.value} cannot be imported: {_reason(error)}') from error
