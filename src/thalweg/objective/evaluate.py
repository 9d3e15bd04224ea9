"""What a worker does with a task: a single point or some true force steps, of any potential, failures as values."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.dynamics.units import masses_of, units_of
from thalweg.errors import InputError, ThalwegError
from thalweg.leaves import as_leaves
from thalweg.objective.base import Evaluated, Objective, Task
from thalweg.objective.softening import softened
from thalweg.potentials.base import Evaluation
from thalweg.potentials.black_box import BlackBox, SinglePoint, created, single_point
from thalweg.relax.base import CONVERGED, FAILED, STEP_LIMIT, largest_norm
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Filter
from thalweg.relax.single import single_points
from thalweg.space import completed
from thalweg.structure import Structure, stack

#: Evaluations per relaxation up to which traceable potentials are treated like calculators, with every point kept.
FEW = 32
#: Two evaluations of one structure agree within this many eV, and this share of the energy.
AGREEMENT, RELATIVE = 1e-3, 1e-6
#: Time steps: in fs, and in sqrt(mass length^2 / energy) for potentials in reduced units.
DT_REAL, DT_REDUCED = 1.0, 0.01


class _Failure(Exception):
    """Why an evaluation failed, in one line."""


@dataclass(frozen=True)
class Evaluate(Objective):
    """Relax a task's structure by `relaxation`, whose potential is a calculator (`BlackBox`) or any other.

    With `max_steps` = 1 that is a single point. Whatever the calculator does (an exception, an SCF that does not converge,
    energies or forces that are not finite) becomes `Evaluated.error` with the status FAILED. Energies of calculators below
    `Task.lowest` are evaluated once more by a fresh one, and are failures unless both agree. Structures with two atoms nearer
    than `closest` times the sum of their covalent radii never reach a calculator: some return a number there without
    complaint. After `timeout` seconds no further single point of a task begins.

    Tasks with velocities follow Newton's equations first (velocity Verlet, masses of `thalweg.dynamics`, steps of `dt`: fs,
    or reduced units) until the energy along the path has passed `mdmin` minima, at most `md_steps` steps: minima hopping,
    Goedecker, J. Chem. Phys. 120, 9911 (2004), doi:10.1063/1.1724816. The relaxation begins at the last of these minima.
    `soften` evaluations turn the velocities towards soft modes before (`thalweg.objective.softening`).

    All points of calculators are kept; of relaxations of traceable potentials only the last, beyond `FEW` steps.
    """

    relaxation: Relaxation
    closest: float = 0.3
    timeout: float | None = None
    mdmin: int = 2
    md_steps: int = 300
    dt: float | None = None
    soften: int = 0

    def __call__(self, task: Task) -> Evaluated:
        record = _Record(self, task.structure)
        energy, status, error = np.inf, FAILED, None
        try:
            energy, status = _evaluated(self, task, record)
        except _Failure as failure:
            energy, status, error = np.inf, FAILED, str(failure)
        return record.evaluated(task.number, energy, status, error)

    def within(self, seconds: float | None) -> Evaluate:
        return self if seconds is None else replace(self, timeout=seconds)


@dataclass
class _Record:
    """The points of one task, and the calculator that evaluates them."""

    objective: Evaluate
    last: Structure
    begun: float = field(default_factory=time.perf_counter)
    count: int = 0
    points: list[tuple] = field(default_factory=list)
    calculator: Any = None
    largest: float = float("nan")

    def point(self, structure: Structure, virial: bool = False, again: bool = False) -> SinglePoint:
        """Evaluate a structure and keep it; raises `_Failure` for whatever goes wrong.

        `again` is for a look at a point that is kept already, by a fresh calculator.
        """
        limit, spent = self.objective.timeout, time.perf_counter() - self.begun
        if limit is not None and spent > limit:
            raise _Failure(f"took {spent:.3g} s, more than the {limit:g} s allowed")
        self.last = structure
        self.count += 1
        potential = self.objective.relaxation.potential
        out = self._black(potential, structure, virial, again) if isinstance(potential, BlackBox) else self._own(structure)
        if not out.ok:
            what = "energy" if not np.isfinite(out.energy) else "forces" if not np.isfinite(out.forces).all() else "stress"
            shown = f" is {out.energy}" if what == "energy" else " are not finite"
            raise _Failure(f"{_name(potential)}: the {what}{shown}")
        if not again:
            x, cell = np.array(structure.positions, np.float64), np.array(structure.cell, np.float64)
            self.points.append((x, cell, out.energy, np.array(out.forces, np.float64)))
        return out

    def _black(self, potential: BlackBox, structure: Structure, virial: bool, again: bool) -> SinglePoint:
        _refuse_overlap(structure, self.objective.closest)
        try:
            if potential.fresh or again or self.calculator is None:
                self.calculator = created(potential.calculator, potential.arguments)
            out = single_point(structure, self.calculator, virial)
        except (Exception, SystemExit) as error:  # some programs leave the interpreter when they fail
            self.calculator = None  # its state may be spoilt, and would spoil what comes after
            raise _Failure(f"{potential.name}: {_line(error)}") from error
        if out.energy < potential.lowest_possible(np.asarray(structure.numbers)):
            self.calculator = None
            raise _Failure(f"{potential.name}: the energy {out.energy:.6g} eV is far below what bonds can give; it is no state")
        return out

    def _own(self, structure: Structure) -> SinglePoint:
        """One structure by a traceable potential, compiled."""
        try:
            out = single_points(stack([structure]), self.objective.relaxation.potential)
        except ThalwegError as error:  # a cell that collapsed
            raise _Failure(str(error)) from error
        virial = None if out.virial is None else np.asarray(out.virial[0])
        return SinglePoint(float(out.energy[0]), np.asarray(out.forces[0]), virial, bool(out.ok[0]))

    def evaluated(self, number: int, energy: float, status: int, error: str | None) -> Evaluated:
        """What became of the task."""
        n, seconds = self.last.n_slots, time.perf_counter() - self.begun
        parts = list(zip(*self.points, strict=True)) or [np.zeros((0, n, 3)), np.zeros((0, 3, 3)), [], np.zeros((0, n, 3))]
        x, cells, energies, forces = (np.asarray(part, np.float64) for part in parts)
        largest = float("nan") if error else self.largest
        return Evaluated(number, self.last, energy, status, error, self.count, seconds, x, cells, energies, forces, largest)


def _evaluated(objective: Evaluate, task: Task, record: _Record) -> tuple[float, int]:
    """Energy and status of a task; `record` holds the structure."""
    relaxation, structure = objective.relaxation, task.structure
    black = isinstance(relaxation.potential, BlackBox)
    if task.velocities is not None and np.any(task.velocities):  # a start is at rest
        structure = _escaped(objective, structure, np.asarray(task.velocities, np.float64), record)
    if black or relaxation.max_steps <= FEW:
        energy, status = _stepwise(relaxation, structure, record)
    else:
        energy, status = _driven(relaxation, structure, record)
    if black and record.points[-1][2] < task.lowest:
        first = record.points[-1][2]
        second = float(record.point(record.last, again=True).energy)
        if abs(first - second) > AGREEMENT + RELATIVE * abs(first):
            raise _Failure(
                f"{_name(relaxation.potential)} gave {first:.6f} eV, lower than all before, and {second:.6f} eV when a fresh "
                "calculator was asked again"
            )
    return energy, status


def _driven(relaxation: Relaxation, structure: Structure, record: _Record) -> tuple[float, int]:
    """Relax by a traceable potential on the device; only the last point is kept."""
    try:
        out = relax(structure, relaxation)
    except ThalwegError as error:
        raise _Failure(str(error)) from error
    steps = int(out.steps)
    record.count += steps - 1  # the last point is evaluated twice, for its forces, and counts once
    if int(out.status) == FAILED:
        record.count, record.last = record.count + 1, out.structures
        raise _Failure(f"{_name(relaxation.potential)}: the energy is not finite after {steps} evaluations")
    record.point(out.structures)
    record.largest = float(out.fmax)
    return float(out.energy), int(out.status)


def _stepwise(relaxation: Relaxation, structure: Structure, record: _Record) -> tuple[float, int]:
    """Relax by reverse communication: one evaluation on the host, one compiled step of the relaxer."""
    if relaxation.max_steps <= 1 and not relaxation.filter.moves_cell:
        out = record.point(structure)
        largest = np.linalg.norm(_projected(relaxation.filter, structure, np.asarray(out.forces)), axis=-1).max(initial=0.0)
        record.largest = float(largest)
        return float(out.energy), CONVERGED if largest < relaxation.fmax else STEP_LIMIT
    stepper = Stepper(relaxation, structure)
    for step in range(1, relaxation.max_steps + 1):
        out = record.point(stepper.structure, virial=relaxation.filter.moves_cell)
        energy, largest, settled = stepper.tell(out)
        record.largest = largest
        if not np.isfinite(energy) or not np.isfinite(largest):
            raise _Failure(f"{_name(relaxation.potential)}: forces on the cell are not finite")
        if largest < relaxation.fmax and settled:
            return energy, CONVERGED
        if step == relaxation.max_steps:
            break
        stepper.move()
    return energy, STEP_LIMIT


class Stepper:
    """A relaxer by reverse communication on the host: `structure` is to be evaluated, `tell` takes what came out.

    `move` then goes on to the next. One lane in float64; compiled once for each relaxer, filter and number of atoms.
    """

    def __init__(self, relaxation: Relaxation, structure: Structure):
        if relaxation.filter.moves_cell and not any(structure.pbc):
            raise InputError(f"{type(relaxation.filter).__name__} moves the cell, but the structure has none; drop the filter")
        self.structure = structure
        self._begun = structure
        with jax.enable_x64(True):
            self._relaxer, self._filter = as_leaves((relaxation.relaxer, relaxation.filter), np.float64)
            self._numbers = jnp.asarray(structure.numbers)[:, None]
            self._origin = None
            if relaxation.filter.moves_cell:
                self._origin = jnp.asarray(completed(structure.cell, structure.pbc))[..., None]
            self._x = self._filter.pack(jnp.asarray(structure.positions, jnp.float64)[..., None], self._origin)
            self._state = self._relaxer.init(self._x)
            free = jnp.asarray(~np.asarray(structure.fixed), jnp.float64)[:, None, None]
            rows = self._x.shape[0] - free.shape[0]
            self._free = jnp.concatenate([free, jnp.ones((rows, 1, 1))]) if rows else free
        self._next: tuple | None = None

    def tell(self, out: SinglePoint) -> tuple[float, float, bool]:
        """(energy that is lowered, largest generalised force, whether small forces are reason to stop) of `structure`."""
        told = (np.float64(out.energy), out.forces, out.virial)
        with jax.enable_x64(True):
            self._next, (energy, largest, settled) = _step(
                self._relaxer, self._filter, self._x, self._origin, self._numbers, self._free, told, self._state
            )
        return float(energy), float(largest), bool(settled)

    def move(self) -> Structure:
        """The next structure to evaluate."""
        if self._next is None:
            raise InputError("a relaxer moves after it was told what the present structure gave")
        self._x, self._state, positions, cell = self._next
        self._next, positions = None, np.asarray(positions)
        old = self._begun
        if cell is None or self._origin is None:
            cell = old.cell
        else:  # axes without periodicity keep having no vector
            cell = np.where(np.asarray(old.cell).any(-1, keepdims=True), np.asarray(cell), 0)
        # Rotations into a plane's frame and back would leave traces in the last digit of what does not move.
        positions = np.where(np.asarray(old.fixed)[:, None] & (self._origin is None), old.positions, positions)
        self.structure = Structure(positions, old.numbers, cell, old.fixed, old.pbc)
        return self.structure


@eqx.filter_jit
def _step(relaxer, filter: Filter, x, origin, numbers, free, told, state):
    """((next coordinates, state, positions, cell), (energy, largest force, settled)); `told` is without lanes."""
    energy, forces, virial = told
    energy, forces = jnp.asarray(energy)[None], jnp.asarray(forces)[..., None]
    virial = None if virial is None else jnp.asarray(virial)[..., None]
    evaluation = Evaluation(energy, forces, jnp.full(numbers.shape, jnp.nan), jnp.isfinite(energy), virial)
    _, cell = filter.unpack(x, origin, numbers)
    forces, energy = filter.pull(x, origin, evaluation, cell, numbers)
    forces = forces * free
    move, after = relaxer.step(x, forces, energy, state)
    settled = jnp.broadcast_to(jnp.asarray(relaxer.settled(state)), energy.shape)
    positions, cell = filter.unpack(x + move, origin, numbers)
    onward = (x + move, after, positions[..., 0], None if cell is None else cell[..., 0])
    return onward, (energy[0], largest_norm(forces)[0], settled[0])


def _projected(filter: Filter, structure: Structure, vectors: np.ndarray) -> np.ndarray:
    """Forces or velocities (atoms, 3) without what the filter and fixed atoms do not allow."""
    vectors = np.where(np.asarray(structure.fixed)[:, None], 0.0, vectors)
    if filter.moves_cell or type(filter).__name__ == "Positions":
        return vectors
    with jax.enable_x64(True):  # such filters are linear in positions and keep the cell
        filter = as_leaves(filter, np.float64)
        x = jnp.asarray(structure.positions)[..., None]
        one = jnp.zeros(1)
        out = Evaluation(one, jnp.asarray(vectors)[..., None], jnp.zeros((len(vectors), 1)), one == 0)
        numbers = jnp.asarray(structure.numbers)[:, None]
        pulled, _ = filter.pull(filter.pack(x, None), None, out, None, numbers)
        return np.asarray(filter.unpack(pulled, None, numbers)[0])[..., 0]


def _escaped(objective: Evaluate, structure: Structure, velocities: np.ndarray, record: _Record) -> Structure:
    """Where the `mdmin`-th minimum of the energy along the trajectory is, or its end after `md_steps` steps."""
    relaxation = objective.relaxation
    units = units_of(relaxation.potential, structure.numbers)
    dt = (DT_REAL if units.real else DT_REDUCED) if objective.dt is None else objective.dt
    dt *= units.time
    masses = masses_of(structure, units)[:, None]
    allowed = lambda v: _projected(relaxation.filter, structure, v)
    v, x = allowed(velocities), np.asarray(structure.positions, np.float64)
    at = lambda x: Structure(x, structure.numbers, structure.cell, structure.fixed, structure.pbc)
    out = record.point(structure)
    force, energies, passed, before = allowed(np.asarray(out.forces)), [float(out.energy)], 0, structure
    v = softened(lambda x: allowed(np.asarray(record.point(at(x)).forces)), x, force, v, masses, objective.soften)
    for _ in range(objective.md_steps):
        v = v + dt / 2 * force / masses
        here = at(x + dt * v)
        out = record.point(here)
        force = allowed(np.asarray(out.forces))
        v = v + dt / 2 * force / masses
        energies.append(float(out.energy))
        if len(energies) > 2 and energies[-1] > energies[-2] < energies[-3]:
            passed += 1
            if passed == objective.mdmin:
                return before
        before, x = here, np.asarray(here.positions)
    return before


def _refuse_overlap(structure: Structure, closest: float) -> None:
    """Raise `_Failure` for two atoms nearer than `closest` times the sum of their covalent radii."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    numbers = np.asarray(structure.numbers)
    real = numbers > 0
    x, radii = np.asarray(structure.positions)[real], covalent_radii[numbers[real]] * closest
    if not np.isfinite(x).all():
        raise _Failure("positions are not finite")
    if len(x) < 2 or closest <= 0:
        return
    if any(structure.pbc):
        cell = completed(structure.cell, structure.pbc)
        i, j, d = neighbor_list("ijd", _atoms(x, cell, structure.pbc), radii)
    else:
        i, j = np.triu_indices(len(x), 1)
        d = np.linalg.norm(x[i] - x[j], axis=1)
        near = d < radii[i] + radii[j]
        i, j, d = i[near], j[near], d[near]
    if len(d):
        worst = int(np.argmin(d))
        where = np.flatnonzero(real)
        raise _Failure(f"atoms {where[i[worst]]} and {where[j[worst]]} are {d[worst]:.3g} Å apart, too near for a calculator")


def _atoms(x, cell, pbc):
    from ase import Atoms

    return Atoms(numbers=np.zeros(len(x), int), positions=x, cell=cell, pbc=pbc)


def _name(potential) -> str:
    return potential.name if isinstance(potential, BlackBox) else type(potential).__name__


def _line(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return (f"{kind}: {text}" if text and not isinstance(error, ThalwegError) else text or kind)[:300]


__all__ = ["Evaluate", "Stepper"]
