"""The points of one task: each evaluated by a calculator or another potential, counted and kept."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from thalweg.errors import ThalwegError
from thalweg.objective.base import Evaluated
from thalweg.potentials.base import Potential
from thalweg.potentials.black_box import BlackBox, SinglePoint, atoms_of, created, single_point
from thalweg.relax.single import single_points
from thalweg.space import completed
from thalweg.structure import Structure, stack


class Failure(Exception):
    """Why an evaluation failed, in one line."""


class Record:
    """The points of one task, and the calculator that evaluates them.

    `begun` is the structure that the task is about: points are its atoms at other `positions` (atoms, 3), in other cells.
    What does not change from point to point is made once: a point costs little beside the calculator, however cheap.
    """

    def __init__(self, potential: Potential, begun: Structure, closest: float, timeout: float | None):
        self.potential, self.begun, self.timeout = potential, begun, timeout
        self.count, self.points, self.largest = 0, [], float("nan")
        self.last: tuple[np.ndarray, np.ndarray] = np.asarray(begun.positions), np.asarray(begun.cell)
        self._clock = time.perf_counter()
        self._calculator: Any = None
        self._black = isinstance(potential, BlackBox)
        if isinstance(potential, BlackBox):
            self.name, self._fresh, self._made = potential.name, potential.fresh, (potential.calculator, potential.arguments)
            self._apart = Apart(begun, closest)
        else:
            self.name = type(potential).__name__
        self._present = np.asarray(begun.numbers) >= 0
        self._atoms = self._lowest = None

    def structure(self) -> Structure:
        """The last point."""
        return Structure(*self._whole(*self.last))

    def point(self, positions, cell, virial: bool = False, again: bool = False) -> SinglePoint:
        """Evaluate a point and keep it; raises `Failure` for whatever goes wrong.

        `again` is for a look at a point that is kept already, by a fresh calculator.
        """
        spent = time.perf_counter() - self._clock
        if self.timeout is not None and spent > self.timeout:
            raise Failure(f"took {spent:.3g} s, more than the {self.timeout:g} s allowed")
        self.last = positions, cell
        self.count += 1
        out = self._asked(positions, cell, virial, again) if self._black else self._own(positions, cell)
        if not out.ok:
            what = "energy" if not np.isfinite(out.energy) else "forces" if not np.isfinite(out.forces).all() else "stress"
            shown = f" is {out.energy}" if what == "energy" else " are not finite"
            raise Failure(f"{self.name}: the {what}{shown}")
        if not again:
            copied = lambda a: np.array(a, np.float64)
            self.points.append((copied(positions), copied(cell), out.energy, copied(out.forces)))
        return out

    def _asked(self, positions, cell, virial: bool, again: bool) -> SinglePoint:
        """One point by the calculator."""
        self._apart.check(positions, cell)
        fresh = self._fresh or again or self._calculator is None
        try:
            if fresh:
                self._calculator = created(*self._made)
            if fresh or self._atoms is None:  # a calculator may change the atoms that it is given
                self._atoms = atoms_of(self.begun, self._present, positions, cell)
            else:
                self._atoms.positions[:] = positions[self._present]
                self._atoms.set_cell(cell)
            out = single_point(self._atoms, self._present, self._calculator, virial)
        except (Exception, SystemExit) as error:  # some programs leave the interpreter when they fail
            self._calculator = None  # its state may be spoilt, and would spoil what comes after
            raise Failure(f"{self.name}: {_line(error)}") from error
        if self._lowest is None:
            assert isinstance(self.potential, BlackBox)
            self._lowest = self.potential.lowest_possible(np.asarray(self.begun.numbers))
        if out.energy < self._lowest:
            self._calculator = None
            raise Failure(f"{self.name}: the energy {out.energy:.6g} eV is far below what bonds can give; it is no state")
        return out

    def _own(self, positions, cell) -> SinglePoint:
        """One point by a traceable potential, compiled."""
        try:
            out = single_points(stack([Structure(*self._whole(positions, cell))]), self.potential)
        except ThalwegError as error:  # a cell that collapsed
            raise Failure(str(error)) from error
        virial = None if out.virial is None else np.asarray(out.virial[0])
        return SinglePoint(float(out.energy[0]), np.asarray(out.forces[0]), virial, bool(out.ok[0]))

    def _whole(self, positions, cell) -> tuple:
        """The fields of a structure at a point."""
        return positions, self.begun.numbers, cell, self.begun.fixed, self.begun.pbc

    def evaluated(self, number: int, energy: float, status: int, error: str | None) -> Evaluated:
        """What became of the task."""
        n, seconds = self.begun.n_slots, time.perf_counter() - self._clock
        parts = list(zip(*self.points, strict=True)) or [np.zeros((0, n, 3)), np.zeros((0, 3, 3)), [], np.zeros((0, n, 3))]
        x, cells, energies, forces = (np.asarray(part, np.float64) for part in parts)
        largest = float("nan") if error else self.largest
        return Evaluated(
            number, self.structure(), energy, status, error, self.count, seconds, x, cells, energies, forces, largest
        )


class Apart:
    """Whether two atoms are nearer than `closest` times the sum of their covalent radii."""

    def __init__(self, structure: Structure, closest: float):
        from ase.data import covalent_radii

        numbers, self._pbc = np.asarray(structure.numbers), structure.pbc
        self._real = np.flatnonzero(numbers > 0)
        self._all = len(self._real) == len(numbers)
        self._radii = covalent_radii[numbers[self._real]] * closest
        self._some = len(self._real) > 1 and closest > 0
        if self._some and not any(self._pbc):
            self._i, self._j = np.triu_indices(len(self._real), 1)
            self._limits = (self._radii[self._i] + self._radii[self._j]) ** 2

    def check(self, positions, cell) -> None:
        """Raise `Failure` for positions (atoms, 3) with two that are."""
        x = positions if self._all else positions[self._real]
        if not np.isfinite(x).all():
            raise Failure("positions are not finite")
        if not self._some:
            return
        if any(self._pbc):
            i, j, d = self._in_cell(x, cell)
        else:
            away = x.take(self._i, 0) - x.take(self._j, 0)
            squares = np.einsum("ij,ij->i", away, away)
            near = squares < self._limits
            if not near.any():
                return
            i, j, d = self._i[near], self._j[near], np.sqrt(squares[near])
        if len(d):
            worst = int(np.argmin(d))
            pair = f"atoms {self._real[i[worst]]} and {self._real[j[worst]]}"
            raise Failure(f"{pair} are {d[worst]:.3g} Å apart, too near for a calculator")

    def _in_cell(self, x, cell):
        """Pairs that are too near, images included: (i, j, distance)."""
        from ase import Atoms
        from ase.neighborlist import neighbor_list

        atoms = Atoms(numbers=np.zeros(len(x), int), positions=x, cell=completed(cell, self._pbc), pbc=self._pbc)
        return neighbor_list("ijd", atoms, self._radii)


def _line(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return (f"{kind}: {text}" if text and not isinstance(error, ThalwegError) else text or kind)[:300]
