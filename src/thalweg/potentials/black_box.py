"""Any ASE calculator as a potential: a factory that makes one where an energy is needed."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from ase import Atoms

from thalweg.errors import InputError, PotentialError, suggest
from thalweg.importing import ImportPath, absolute, module_at, reason
from thalweg.potentials.base import Evaluation, Potential
from thalweg.space import Space, space_of
from thalweg.structure import Structure

#: Short names of calculators.
SHORT = {
    "emt": "ase.calculators.emt:EMT",
    "tblite": "tblite.ase:TBLite",
    "gpaw": "gpaw:GPAW",
    "mace": "mace.calculators:mace_mp",
    "xtb": "xtb.ase.calculator:XTB",
    "dftb": "ase.calculators.dftb:Dftb",
}
#: What `pip install` calls the packages of calculators, where it is not their own name.
PIP = {"mace": "mace-torch"}
#: Arguments that keep calculators from talking, by the package they come from; what a user gives goes before them.
QUIET: dict[str, dict[str, Any]] = {"tblite": {"verbosity": 0}, "gpaw": {"txt": None}}
#: Modules, by any part of their names, whose single point of an atom costs too much for a look at what elements they know.
SLOW = (
    "gpaw", "mace", "fairchem", "abinit", "vasp", "espresso", "siesta", "castep", "cp2k", "aims", "orca", "psi4", "nwchem",
    "gaussian", "qchem", "turbomole", "octopus", "elk", "dmol", "onetep", "openmx", "fleur", "socketio",
)  # fmt: skip

#: Those of them that are models, whose energies cost milliseconds on a good machine.
MODELS = ("mace", "fairchem")
#: Packages that look for a self-consistent wave function, of which an atom costs little.
WAVE_FUNCTIONS = ("tblite", "xtb", "dftb")
#: Binding energy per atom (eV) that nothing reaches: tungsten and tantalum carbide, the strongest solids, have below 9.
STRONGEST = 12.0
#: Charge of an atom (e) that no compound has: wave functions that say more have collapsed, and their energies mean nothing.
MOST_CHARGED = 4.5


class Arguments(dict):
    """Arguments of a calculator: a dictionary that is not changed once made, and so can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


def _path(calculator: Any) -> ImportPath:
    """The import path of what was given: a short name, a path, or a class or function of a module."""
    if callable(calculator):
        calculator = f"{calculator.__module__}:{calculator.__qualname__}"
    return ImportPath(absolute(calculator))


class BlackBox(Potential):
    """The energy of an ASE calculator: `calculator` makes it from `arguments`, in eV and Å.

    `calculator` is an import path of a class or function (`tblite.ase:TBLite`, `my_file:make`), the thing itself, or a short
    name: emt, tblite, gpaw, mace, xtb, dftb. With `fresh` every single point has a new calculator. Many begin from the wave
    function of the point before, and one that failed there may then give wrong energies without saying so; without `fresh`
    one calculator serves a relaxation, until something fails.
    """

    traceable: ClassVar[bool] = False

    calculator: ImportPath = eqx.field(static=True, converter=_path)
    arguments: dict = eqx.field(static=True, converter=Arguments, default_factory=dict)
    fresh: bool = eqx.field(static=True, default=True)

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        raise InputError(
            f"{self.name} is a calculator, which JAX cannot trace; relax with thalweg.objective.evaluate.Evaluate, or search "
            "through the host loop, which the command line takes by itself"
        )

    @property
    def name(self) -> str:
        """The calculator in messages."""
        return _called(self.calculator)

    def create(self):
        """A new calculator. Raises `InputError` where it cannot be imported or made."""
        return created(self.calculator, self.arguments)

    def evaluate(self, structures: Structure) -> Evaluation:
        """One structure or a batch, one after the other; `ok` is False where the calculator failed.

        The virial is there for periodic structures if the calculator gives stresses.
        """
        if structures.batch:
            flat = [self.evaluate(structures[k]) for k in range(len(structures))]
            return Evaluation(*(_stacked([getattr(e, k) for e in flat]) for k in _FIELDS))  # type: ignore[arg-type]
        nan = np.full((structures.n_slots, 3), np.nan)
        failed = Evaluation(np.asarray(np.nan), nan, nan[:, 0], np.asarray(False))
        for virial in (True, False) if any(structures.pbc) else (False,):
            try:
                present = np.asarray(structures.numbers) >= 0
                atoms = atoms_of(structures, present, structures.positions, structures.cell)
                out = single_point(atoms, present, self.create(), virial)
                unknown = np.full(structures.n_slots, np.nan)
                return Evaluation(np.asarray(out.energy), out.forces, unknown, np.asarray(out.ok), out.virial)
            except InputError:
                raise
            except Exception:  # of the calculator, which may have no stress
                continue
        return failed

    def space(self, cell, pbc, slack: float = 1.0) -> Space | None:
        """The cell, checked for volume; the calculator sums its images itself."""
        return space_of(cell, pbc, 0.0, False, slack, self.name) if any(pbc) else None

    def units(self, numbers: np.ndarray) -> tuple[str, str]:
        return ("eV", "Å")

    def lowest_possible(self, numbers: np.ndarray) -> float:
        """Energy below which no structure of these atoms can be: `STRONGEST` eV per atom below the atoms by themselves.

        For `WAVE_FUNCTIONS`, which may converge to nonsense with energies far below; -inf for others, whose energies may be
        of any units and fields.
        """
        return _lowest_possible(self, np.ascontiguousarray(numbers, np.int32).tobytes())

    def check(self, numbers: np.ndarray) -> None:
        """Raise `InputError` where the calculator cannot be made, `PotentialError` where it does not know an element."""
        _check(self, tuple(sorted({int(n) for n in np.asarray(numbers) if n >= 0})))


def _called(path: str) -> str:
    """A calculator in messages: the last part of its import path."""
    return SHORT.get(path.lower(), path).rpartition(":")[2]


# What follows runs at each single point, of which a driver with a thousand workers makes a thousand a second: functions
# of plain values, as each use of a method of an `eqx.Module` costs as much as a calculator of a few atoms.


def created(path: str, arguments: Mapping):
    """A new calculator from its import path. Raises `InputError` where it cannot be imported or made."""
    factory, quiet = _factory(path, tuple(arguments))
    try:
        calculator = factory(**{**quiet, **arguments})
    except Exception as error:
        shown = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise InputError(f"{_called(path)}({shown}) cannot be made: {reason(error)}") from error
    if not hasattr(calculator, "get_property") and not hasattr(calculator, "get_potential_energy"):
        raise InputError(f"{path} made a {type(calculator).__name__}, which is no ASE calculator")
    return calculator


@lru_cache(maxsize=64)
def _factory(path: str, given: tuple[str, ...]) -> tuple[Callable, dict[str, Any]]:
    """What makes the calculator, and the arguments that keep it from talking."""
    factory = found(path)
    _refuse_misspelt(factory, given, _called(path))
    quiet = QUIET.get(factory.__module__.partition(".")[0], {}) if isinstance(factory, type) else {}
    return factory, quiet


class SinglePoint(NamedTuple):
    """What a calculator says of one structure: energy, forces (atoms, 3), virial (3, 3) or None; `ok` where all is finite."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None
    ok: bool


def atoms_of(structure: Structure, present, positions, cell) -> Atoms:
    """The atoms of a structure, at these positions (slots, 3) and in this cell; `present` (slots,) is False for padding."""
    return Atoms(np.asarray(structure.numbers)[present], np.asarray(positions)[present], cell=cell, pbc=structure.pbc)


def single_point(atoms: Atoms, present, calculator, virial: bool = False) -> SinglePoint:
    """Energy and forces (slots, 3) of atoms by a calculator; raises whatever the calculator raises.

    Forces are the true ones, of fixed atoms too. The virial (3, 3) is -stress x volume. Raises `PotentialError` for charges
    beyond `MOST_CHARGED`, where the calculator gives any: tight binding converges to such states, tens of eV below all others,
    where hydrogens crowd around an atom.
    """
    atoms.calc = calculator
    forces = np.zeros((len(present), 3))
    forces[present] = atoms.get_forces()
    # The forces have just been computed for these atoms, and the energy with them; asking again compares the atoms first.
    known = getattr(calculator, "results", {}).get("energy")
    energy = float(atoms.get_potential_energy() if known is None else known)
    _refuse_charges(atoms, getattr(calculator, "results", {}).get("charges"))
    pull = -atoms.get_stress(voigt=False) * atoms.get_volume() if virial else None
    ok = isfinite(energy) and bool(np.isfinite(forces).all()) and (pull is None or bool(np.isfinite(pull).all()))
    return SinglePoint(energy, forces, pull, ok)


def _refuse_charges(atoms: Atoms, charges) -> None:
    """Raise where an atom has a charge (atoms,) that no atom has."""
    if charges is None or np.shape(charges) != (len(atoms),) or not np.abs(charges).max(initial=0.0) > MOST_CHARGED:
        return
    most = int(np.argmax(np.abs(charges)))
    raise PotentialError(
        f"the wave function collapsed: a charge of {charges[most]:+.2g} on {atoms.symbols[most]}; its energy means nothing"
    )


def _refuse_misspelt(factory: Callable, arguments: tuple[str, ...], name: str) -> None:
    """Raise `InputError` for arguments near to one that is known: ASE calculators take any, and ignore most."""
    known = set(getattr(factory, "default_parameters", {})) | set(inspect.signature(factory).parameters)
    for key in set(arguments) - known:
        close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
        if close:
            raise InputError(f'{name} knows no {key}. Did you mean "{close[0]}"?')


_FIELDS = ("energy", "forces", "atomic_energies", "ok", "virial")


def _stacked(parts: list):
    return None if any(p is None for p in parts) else np.stack(parts)


def found(path: str) -> Callable:
    """The class or function at an import path or short name. Raises `InputError` where there is none."""
    full = SHORT.get(path.lower(), path)
    where, colon, name = full.rpartition(":")
    if not colon or not where or not name:
        close = suggest(path, SHORT)
        raise InputError(f'there is no calculator "{path}".{close} Others by import path: my_package.module:Calculator')
    package = where.partition(".")[0]
    try:
        module = module_at(where, full)
    except InputError as error:
        missing = str(error).startswith("there is no file")
        ours = {known.partition(":")[0].partition(".")[0] for known in SHORT.values()}
        if missing and package in ours and importlib.util.find_spec(package) is None:
            raise InputError(
                f"the calculator {path} needs the package {package}, which is not installed: pip install "
                f"{PIP.get(package, package)}"
            ) from None
        raise
    thing = getattr(module, name, None)
    for inner in ("ase", "calculator", "calculators"):  # tblite:TBLite is in tblite.ase
        if thing is None and not where.endswith(".py"):
            try:
                thing = getattr(importlib.import_module(f"{where}.{inner}"), name, None)
            except ImportError:
                continue
    if not callable(thing):
        own = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise InputError(f'{where} has no calculator "{name}".{suggest(name, own) if len(own) < 50 else ""}')
    return thing


@lru_cache(maxsize=64)
def _check(potential: BlackBox, species: tuple[int, ...]) -> None:
    """Make the calculator, and ask it for each element where that is cheap."""
    from ase.data import chemical_symbols

    potential.create()
    for number in species:
        try:
            _alone(potential, number)
        except Exception as error:
            symbol = chemical_symbols[number]
            # An atom by itself may fail for reasons of its own (its wave function does not converge), so that only errors
            # that speak of elements count.
            if _unknown(error, symbol, number):
                raise PotentialError(f"{potential.name} does not know {symbol} ({reason(error)})") from None


@lru_cache(maxsize=256)
def _alone(potential: BlackBox, number: int) -> float:
    """Energy of one atom by itself; nan where that is not cheap. Raises what the calculator raises."""
    from ase.calculators.calculator import BaseCalculator

    calculator = potential.create()
    if _files(calculator) or _parts(calculator) & set(SLOW) or not isinstance(calculator, BaseCalculator):
        return float("nan")
    atoms = Atoms(numbers=[number], positions=[[5.0, 5.0, 5.0]], cell=[10, 10, 10])
    atoms.calc = calculator
    return float(atoms.get_potential_energy())


@lru_cache(maxsize=64)
def _lowest_possible(potential: BlackBox, numbers: bytes) -> float:
    kinds, counts = np.unique(np.frombuffer(numbers, np.int32), return_counts=True)
    kinds, counts = kinds[kinds >= 0], counts[kinds >= 0]
    try:
        if not _parts(potential.create()) & set(WAVE_FUNCTIONS):
            return -np.inf
        alone = np.array([_alone(potential, int(z)) for z in kinds])
    except Exception:  # of the calculator: then nothing is known
        return -np.inf
    bound = float(counts @ (alone - STRONGEST))
    return bound if np.isfinite(bound) else -np.inf


def takes_programs(potential: Potential) -> bool:
    """Whether one energy takes a run of another program, or a density functional: then nothing is evaluated to try."""
    if not isinstance(potential, BlackBox):
        return False
    calculator = potential.create()
    return _files(calculator) or bool(_parts(calculator) & (set(SLOW) - set(MODELS)))


def _files(calculator) -> bool:
    """Whether a calculator speaks with a program by files."""
    return any("FileIO" in base.__name__ for base in type(calculator).__mro__)


def _parts(calculator) -> set[str]:
    """Names of the packages and modules that a calculator and its bases come from."""
    return {part for base in type(calculator).__mro__ for part in base.__module__.split(".")}


def _unknown(error: Exception, symbol: str, number: int) -> bool:
    """Whether an error says that there is nothing for an element."""
    if isinstance(error, KeyError):
        return error.args[:1] in ((symbol,), (number,))
    words = " ".join(str(error).split()).lower()
    speaks = ("element", "parameter", "potential", "species", "atomic number", "not supported", "no data", "basis")
    return isinstance(error, NotImplementedError) or (any(w in words for w in speaks) and "converge" not in words)
