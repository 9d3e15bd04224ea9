"""What a worker does with a task: a single point or some true force steps, of any potential, failures as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.dynamics.units import masses_of, units_of
from thalweg.errors import ThalwegError
from thalweg.leaves import as_leaves
from thalweg.objective.base import Evaluated, Objective, Task
from thalweg.objective.record import Failure, Record
from thalweg.objective.softening import softened
from thalweg.objective.stepping import Stepper
from thalweg.potentials.base import Evaluation
from thalweg.potentials.black_box import BlackBox
from thalweg.relax.base import CONVERGED, FAILED, STEP_LIMIT
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Filter
from thalweg.structure import Structure

#: Evaluations per relaxation up to which traceable potentials are treated like calculators, with every point kept.
FEW = 32
#: Two evaluations of one structure agree within this many eV, and this share of the energy.
AGREEMENT, RELATIVE = 1e-3, 1e-6
#: Time steps: in fs, and in sqrt(mass length^2 / energy) for potentials in reduced units.
DT_REAL, DT_REDUCED = 1.0, 0.01


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
        record = Record(self.relaxation.potential, task.structure, self.closest, self.timeout)
        energy, status, error = np.inf, FAILED, None
        try:
            energy, status = _evaluated(self, task, record)
        except Failure as failure:
            energy, status, error = np.inf, FAILED, str(failure)
        return record.evaluated(task.number, energy, status, error)

    def within(self, seconds: float | None) -> Evaluate:
        return self if seconds is None else replace(self, timeout=seconds)


def _evaluated(objective: Evaluate, task: Task, record: Record) -> tuple[float, int]:
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
        second = float(record.point(*record.last, again=True).energy)
        if abs(first - second) > AGREEMENT + RELATIVE * abs(first):
            raise Failure(
                f"{record.name} gave {first:.6f} eV, lower than all before, and {second:.6f} eV when a fresh "
                "calculator was asked again"
            )
    return energy, status


def _driven(relaxation: Relaxation, structure: Structure, record: Record) -> tuple[float, int]:
    """Relax by a traceable potential on the device; only the last point is kept."""
    try:
        out = relax(structure, relaxation)
    except ThalwegError as error:
        raise Failure(str(error)) from error
    steps = int(out.steps)
    record.count += steps - 1  # the last point is evaluated twice, for its forces, and counts once
    if int(out.status) == FAILED:
        record.count, record.last = record.count + 1, _point(out.structures)
        raise Failure(f"{record.name}: the energy is not finite after {steps} evaluations")
    record.point(*_point(out.structures))
    record.largest = float(out.fmax)
    return float(out.energy), int(out.status)


def _stepwise(relaxation: Relaxation, structure: Structure, record: Record) -> tuple[float, int]:
    """Relax by reverse communication: one evaluation on the host, one compiled step of the relaxer."""
    if relaxation.max_steps <= 1 and not relaxation.filter.moves_cell:
        out = record.point(*_point(structure))
        largest = np.linalg.norm(_projected(relaxation.filter, structure, np.asarray(out.forces)), axis=-1).max(initial=0.0)
        record.largest = float(largest)
        return float(out.energy), CONVERGED if largest < relaxation.fmax else STEP_LIMIT
    stepper, fmax, last = Stepper(relaxation, structure), relaxation.fmax, relaxation.max_steps
    virial = relaxation.filter.moves_cell
    for step in range(1, last + 1):
        out = record.point(*stepper.point, virial=virial)
        energy, largest, settled = stepper.tell(out)
        record.largest = largest
        if not (isfinite(energy) and isfinite(largest)):
            raise Failure(f"{record.name}: forces on the cell are not finite")
        if largest < fmax and settled:
            return energy, CONVERGED
        if step == last:
            break
        stepper.move()
    return energy, STEP_LIMIT


def _point(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(structure.positions, np.float64), np.asarray(structure.cell)


def _projected(filter: Filter, structure: Structure, vectors: np.ndarray) -> np.ndarray:
    """Forces or velocities (atoms, 3) without what the filter and fixed atoms do not allow."""
    vectors = np.where(np.asarray(structure.fixed)[:, None], 0.0, vectors)
    if filter.moves_cell or type(filter).__name__ == "Positions":
        return vectors
    with jax.enable_x64(True):  # such filters are linear in positions and keep the cell
        x, numbers = np.asarray(structure.positions, np.float64), np.asarray(structure.numbers)
        return np.asarray(_pulled(as_leaves(filter, np.float64), x, numbers, np.asarray(vectors, np.float64)))


@eqx.filter_jit
def _pulled(filter: Filter, x, numbers, vectors):
    one = jnp.zeros(1)
    out = Evaluation(one, vectors[..., None], jnp.zeros((len(vectors), 1)), one == 0)
    lanes = numbers[:, None]
    pulled, _ = filter.pull(filter.pack(x[..., None], None), None, out, None, lanes)
    return filter.unpack(pulled, None, lanes)[0][..., 0]


def _escaped(objective: Evaluate, structure: Structure, velocities: np.ndarray, record: Record) -> Structure:
    """Where the `mdmin`-th minimum of the energy along the trajectory is, or its end after `md_steps` steps."""
    relaxation = objective.relaxation
    units = units_of(relaxation.potential, structure.numbers)
    dt = (DT_REAL if units.real else DT_REDUCED) if objective.dt is None else objective.dt
    dt *= units.time
    masses = masses_of(structure, units)[:, None]
    allowed = lambda v: _projected(relaxation.filter, structure, v)
    v, x = allowed(velocities), np.asarray(structure.positions, np.float64)
    cell = np.asarray(structure.cell)
    at = lambda x: Structure(x, structure.numbers, structure.cell, structure.fixed, structure.pbc)
    out = record.point(x, cell)
    force, energies, passed, before = allowed(np.asarray(out.forces)), [float(out.energy)], 0, x
    v = softened(lambda x: allowed(np.asarray(record.point(x, cell).forces)), x, force, v, masses, objective.soften)
    for _ in range(objective.md_steps):
        v = v + dt / 2 * force / masses
        here = x + dt * v
        out = record.point(here, cell)
        force = allowed(np.asarray(out.forces))
        v = v + dt / 2 * force / masses
        energies.append(float(out.energy))
        if len(energies) > 2 and energies[-1] > energies[-2] < energies[-3]:
            passed += 1
            if passed == objective.mdmin:
                return at(before)
        before = x = here
    return at(before)
