"""`thalweg anneal`: simulated annealing of the structures in a file."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from thalweg.commands.environment import prepare_jax, value

prepare_jax()  # before the imports below bring JAX in

import numpy as np  # noqa: E402

from thalweg import schema  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.relax import (  # noqa: E402
    alike,
    component_tables,
    ended,
    positive,
    structures_and_potential,
)
from thalweg.composition import formula_of  # noqa: E402
from thalweg.config import resolve_filter  # noqa: E402
from thalweg.display import StatusLine, energy, plural, seconds, table  # noqa: E402
from thalweg.dynamics.units import Units, units_of  # noqa: E402
from thalweg.errors import InputError, StructureError  # noqa: E402
from thalweg.io import write_structure  # noqa: E402
from thalweg.potentials.base import Potential  # noqa: E402
from thalweg.potentials.neighbors import worthwhile  # noqa: E402
from thalweg.relax.annealing import Annealing  # noqa: E402
from thalweg.relax.base import CONVERGED, FAILED, RUNNING, STATUS_NAMES  # noqa: E402
from thalweg.relax.driver import Relaxation, relax  # noqa: E402
from thalweg.relax.filters import Filter  # noqa: E402
from thalweg.relax.lbfgs import LBFGS  # noqa: E402
from thalweg.relax.stiffness import annealing_for  # noqa: E402
from thalweg.relax.visits import visits  # noqa: E402
from thalweg.structure import Structure, stack  # noqa: E402
from thalweg.system import periodic  # noqa: E402

STEPS, COPIES = 20_000, 8
#: Trajectories that are followed side by side.
LANES = 16
#: Copies of one structure begin apart by this many bonds, and their random numbers with them.
APART = 1e-3


@dataclass
class Minimum:
    """The end of one trajectory."""

    input: int
    copy: int
    structure: Structure
    energy: float
    evaluations: int
    status: str


@dataclass(frozen=True)
class Schedule:
    """Everything about the trajectories of structures that are treated side by side."""

    potential: Potential
    filter: Filter
    annealing: Annealing
    bond: float
    loose: float  # force at which the descent in low precision ends
    fmax: float
    units: Units

    def temperature(self, kt: float) -> str:
        """A kT as a user writes it."""
        return f"{kt / self.units.boltzmann:.0f} K" if self.units.real else f"{kt:.3g}"

    def at(self, step: int) -> str:
        """The temperature after so many steps."""
        a = self.annealing
        return self.temperature(float(a.hot * (a.cold / a.hot) ** min(step / a.n_steps, 1.0)))


@dataclass(frozen=True)
class Asked:
    """What the options ask for; `span` is the temperatures at both ends as the user writes them, None to estimate them."""

    tables: dict[str, dict]
    copies: int
    n_steps: int
    seed: int
    fmax: float
    span: tuple[float, float] | None

    @classmethod
    def of(cls, options: Namespace, tables: dict[str, dict], n_structures: int) -> Asked:
        """Everything checked before anything is computed."""
        if tables["relaxer"].get("kind", "annealing") != "annealing":
            raise InputError("annealing has a relaxer of its own; set what follows it by --set relaxer.then=fire")
        schema.build("relaxer", schema.fill("relaxer", {"kind": "annealing", **tables["relaxer"]}, "[relaxer]"))
        return cls(
            tables,
            int(positive(options.copies, "copies", COPIES if n_structures == 1 else 1)),
            int(positive(options.steps, "steps", STEPS)),
            _seed(options.seed),
            positive(options.fmax, "fmax", 1e-4),
            None if options.temperature is None else _temperatures(options.temperature),
        )


def anneal(options: Namespace) -> int:
    """Anneal every structure in a file; the exit code is 1 if one does not converge."""
    source = Path(options.file)
    target = Path(options.output) if options.output else source.with_name(f"{source.stem}-annealed.extxyz")
    tables = component_tables(options, ("potential", "filter", "relaxer"))
    structures, potential = structures_and_potential(source, tables)
    asked = Asked.of(options, tables, len(structures))
    line = StatusLine(options.quiet)
    relaxed: dict[int, float] = {}
    found: list[Minimum] = []
    line.show("compiling (once for this size and machine; a few seconds)")
    with Interrupt(lambda: line.note("going down from here; Ctrl-C again stops at once")) as interrupt:
        for members in alike(structures):
            if interrupt.pressed():
                break
            schedule, energies = _schedule([structures[k] for k in members], potential, asked)
            relaxed |= dict(zip(members, energies, strict=True))
            head = f"annealing {plural(len(members), 'structure')}, {plural(asked.copies, 'copy each', 'copies each')}"
            if not options.quiet:
                line.note(f"{head}: {schedule.at(0)} to {schedule.at(2**31)} in {schedule.annealing.n_steps:,} steps")
            jobs = [(k, c) for c in range(asked.copies) for k in members]
            found += _annealed(structures, jobs, schedule, line, interrupt, asked.seed)
    line.clear()
    if not found:
        print("thalweg: interrupted before anything was annealed; nothing was written", file=sys.stderr)
        return INTERRUPTED
    found.sort(key=lambda m: (m.input, not np.isfinite(m.energy), m.energy))
    info = [{"input": m.input, "copy": m.copy, "status": m.status, "evaluations": m.evaluations} for m in found]
    # Energies without pressure x volume, by which they are sorted where the cell moves.
    ends = ended([m.structure for m in found], [m.energy for m in found], potential)
    energies = [e.energy for e in ends]
    write_structure(target, [m.structure for m in found], energies, info, stresses=[e.stress for e in ends])
    if not options.quiet:
        unit = potential.units(np.concatenate([np.asarray(s.numbers) for s in structures]))[0]
        print(_table(found, relaxed, unit))
    failed = sum(m.status != STATUS_NAMES[CONVERGED] for m in found)
    print(f"wrote {plural(len(found), 'minimum', 'minima')} to {target}" + (f"; {failed} did not converge" if failed else ""))
    return INTERRUPTED if interrupt.pressed() else 1 if failed else 0


def _table(found: list[Minimum], relaxed: dict[int, float], unit: str) -> str:
    """One row for each structure of the file."""
    head = ("#", "formula", f"relaxed {unit}", f"annealed {unit}", "mean", "copies", "evaluations", "status")
    rows = []
    for k in sorted({m.input for m in found}):
        own = [m for m in found if m.input == k]
        energies = np.array([m.energy for m in own])
        states = {m.status for m in own}
        status = states.pop() if len(states) == 1 else f"{sum(m.status == 'converged' for m in own)} converged"
        mean = energies[np.isfinite(energies)].mean() if np.isfinite(energies).any() else float("nan")
        numbers = (energy(relaxed[k]), energy(energies[0]), energy(float(mean)), str(len(own)))
        rows.append((str(k), formula_of(own[0].structure.numbers), *numbers, f"{sum(m.evaluations for m in own):,}", status))
    return table(head, rows, left=(1, 7))


def _schedule(structures: list[Structure], potential: Potential, asked: Asked) -> tuple[Schedule, list[float]]:
    """How structures of one size are annealed, and what they have when they are merely relaxed."""
    first = structures[0]
    bond = float(np.mean(periodic(first.numbers, potential, first.cell, first.pbc).bond_lengths))
    _, filter = resolve_filter(asked.tables["filter"], first.cell, first.pbc)
    down = relax(stack(structures), Relaxation(potential, LBFGS(max_step=0.15 * bond), asked.fmax, 2000, filter))
    good = np.flatnonzero(down.status != FAILED)
    if not len(good):
        raise StructureError("no structure of the file has a finite energy when it is relaxed; look at it with `thalweg relax`")
    numbers = np.asarray(first.numbers)
    units = units_of(potential, numbers)
    own: dict = {"kind": "annealing", "n_steps": asked.n_steps, "seed": asked.seed}
    if asked.span is not None:
        own["hot"], own["cold"] = (t * units.boltzmann for t in asked.span)
    suited = annealing_for(potential, down.structures[int(good[0])], bond, asked.n_steps)
    defaults = {"Annealing": {k: getattr(suited, k) for k in ("hot", "cold", "dt", "friction", "max_step")}}
    defaults["LBFGS"] = {"max_step": 0.15 * bond}
    relaxer = schema.build("relaxer", schema.fill("relaxer", {**own, **asked.tables["relaxer"]}, "[relaxer]", defaults))
    loose = 0.05 * (potential.energy_scale(numbers) or 1.0) / bond
    return Schedule(potential, filter, relaxer, bond, loose, asked.fmax, units), down.energy.tolist()


def _annealed(structures, jobs, schedule: Schedule, line: StatusLine, interrupt: Interrupt, seed: int) -> list[Minimum]:
    """The minima of these (structure, copy), some side by side."""
    first = structures[jobs[0][0]]
    lanes = 1 if worthwhile(first.n_slots, schedule.potential.space(first.cell, first.pbc), schedule.potential.reach) else LANES
    rounds = -(-len(jobs) // lanes)
    found: list[Minimum] = []
    begun = time.perf_counter()
    for k in range(rounds):
        if interrupt.pressed():
            break
        part = jobs[k * len(jobs) // rounds : (k + 1) * len(jobs) // rounds]
        found += _side_by_side(structures, part, schedule, line, interrupt, seed, (begun, k, rounds))
    return found


def _side_by_side(structures, part, schedule: Schedule, line, interrupt, seed: int, clock) -> list[Minimum]:
    """The minima of these (structure, copy) at once: hot in low precision, the rest in float64."""
    batch = stack([_apart(structures[k], c, seed, schedule.bond) for k, c in part])
    n_steps = schedule.annealing.n_steps
    relaxation = Relaxation(schedule.potential, schedule.annealing, schedule.loose, n_steps + 2000, schedule.filter)
    begun, done, rounds = clock
    now = None
    for now in visits(batch, relaxation, "float32"):
        step = int(now.steps.max())
        share = (done + min(step / n_steps, 1.0)) / rounds
        left = (time.perf_counter() - begun) * (1 / share - 1) if step > 100 else None
        lowest = np.nanmin(now.energy) if np.isfinite(now.energy).any() else float("nan")
        line.show(
            f"{done + 1} of {rounds}  step {min(step, n_steps):,}  {schedule.at(step)}  energies from {energy(lowest)}"
            + (f"  {seconds(left)} left" if left is not None else "")
        )
        if interrupt.pressed():
            break
    assert now is not None
    going = now.status == RUNNING
    down = relax(
        now.structures,
        Relaxation(schedule.potential, LBFGS(max_step=0.15 * schedule.bond), schedule.fmax, 2000, schedule.filter),
    )
    names = ["interrupted" if g else STATUS_NAMES[int(s)] for g, s in zip(going, down.status, strict=True)]
    return [
        Minimum(k, c, down.structures[row], float(down.energy[row]), int(now.steps[row] + down.steps[row]), names[row])
        for row, (k, c) in enumerate(part)
    ]


def _apart(structure: Structure, copy: int, seed: int, bond: float) -> Structure:
    """The structure, its free atoms a little beside where they were from the second copy on."""
    if copy == 0:
        return structure
    noise = np.random.default_rng([seed, copy]).normal(size=structure.positions.shape) * (APART * bond)
    x = structure.positions + np.where(structure.fixed[:, None], 0.0, noise)
    return Structure.create(x, structure.numbers, structure.cell, structure.fixed, structure.pbc)


def _seed(text: str | None) -> int:
    """The seed of an option, 0 by default."""
    number = 0 if text is None else value(text)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
        raise InputError(f"--seed is {text}; it must be a whole number from 0")
    return number


def _temperatures(text: str) -> tuple[float, float]:
    """Both ends of "3000:300", or of one temperature that is held."""
    match = re.fullmatch(r"\s*([^:\s]+?)\s*K?\s*(?::\s*([^:\s]+?)\s*K?\s*)?", text)
    try:
        hot = float(match[1])  # type: ignore[index]
        cold = hot if match[2] is None else float(match[2])  # type: ignore[index]
    except (TypeError, ValueError):
        raise InputError(f'the temperature is "{text}"; write from:to, such as 2500:500') from None
    for kelvin in (hot, cold):
        if not 0 < kelvin < float("inf"):
            raise InputError(f"a temperature is {kelvin:g}; it must be positive (in K, or kT in the units of a model)")
    return hot, cold


__all__ = ["anneal"]
