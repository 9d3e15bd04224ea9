"""Calculators that misbehave, for tests; named in inputs as `tests/calculators.py:Name`."""

import contextlib
import os
import time
from pathlib import Path

import numpy as np
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT

PATH = Path(__file__).resolve()


class _Springs(Calculator):
    """Atoms on springs to the origin: energy sum of r^2 / 2."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, list(properties), system_changes)
        self.misbehave()
        x = self.atoms.positions
        self.results = {"energy": float((x**2).sum() / 2), "forces": -x}

    def misbehave(self):
        pass


class Springs(_Springs):
    pass


class Raises(_Springs):
    def misbehave(self):
        raise RuntimeError("the SCF did not converge\nafter 100 cycles")


class Unknowing(_Springs):
    def misbehave(self):
        raise RuntimeError(f"no parameters for {self.atoms.symbols[0]}")


class RaisesFarOut(_Springs):
    """Fails where the first atom is beyond 5 Å."""

    def misbehave(self):
        if self.atoms.positions[0, 0] > 5:
            raise RuntimeError("too far out")


class NotANumber(_Springs):
    def misbehave(self):
        self.atoms.positions[:] = np.nan


class Sleeps(_Springs):
    def __init__(self, seconds=60.0):
        super().__init__()
        self.seconds = seconds

    def misbehave(self):
        time.sleep(self.seconds)


class SaysWhere(_Springs):
    """Writes the number of its process into a file, and then takes two minutes."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def misbehave(self):
        Path(self.path + ".part").write_text(str(os.getpid()))
        os.rename(self.path + ".part", self.path)
        time.sleep(120)


class Dies(_Springs):
    """Takes its process with it where the first atom is beyond 5 Å."""

    def misbehave(self):
        if self.atoms.positions[0, 0] > 5:
            os._exit(3)


class Leaves(_Springs):
    def misbehave(self):
        raise SystemExit(1)


class Talks(_Springs):
    """Prints, as Python and as a compiled library would."""

    def misbehave(self):
        print("iteration 1")
        os.write(1, b"iteration 2\n")


class Forgets(_Springs):
    """Right the first time, 7 eV too low from then on unless it is a new object: a spoilt restart."""

    asked = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] -= 7.0 * (self.asked > 0)
        self.asked += 1


class Environment(_Springs):
    """The energy is the number of threads that the process may use."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = float(os.environ["OMP_NUM_THREADS"])


def emt():
    """A factory that is a function."""
    return EMT()


_SPOILT: list = []


def spoilt():
    """The first time a tblite calculator after an SCF that failed, then new ones."""
    import ase.build
    from tblite.ase import TBLite

    calculator = TBLite(method="GFN1-xTB", max_iterations=60, verbosity=0)
    if not _SPOILT:
        _SPOILT.append(calculator)
        atoms = ase.build.molecule("C6H6")
        atoms.calc = calculator
        atoms.get_potential_energy()
        atoms.positions = np.random.default_rng(0).uniform(0, 8, (12, 3))
        with contextlib.suppress(CalculationFailed):
            atoms.get_potential_energy()
    return calculator
