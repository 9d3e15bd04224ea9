"""`thalweg relax`: local minimisation of the structures in a file."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from thalweg.commands.environment import assign, prepare_jax, value

prepare_jax()  # before the imports below bring JAX in

import numpy as np  # noqa: E402

from thalweg import registry, schema  # noqa: E402
from thalweg.commands.inputs import enter_calculator, enter_periodic  # noqa: E402
from thalweg.composition import formula_of, placed  # noqa: E402
from thalweg.config import preset_defaults, require_cutoff, resolve_filter  # noqa: E402
from thalweg.display import energy, plural, pressure_unit, table  # noqa: E402
from thalweg.errors import InputError, StructureError  # noqa: E402
from thalweg.io import MINIMUM_DISTANCE, read_structures, write_structure  # noqa: E402
from thalweg.objective.base import Task  # noqa: E402
from thalweg.objective.evaluate import Evaluate  # noqa: E402
from thalweg.objective.workers import open_workers  # noqa: E402
from thalweg.potentials.base import Potential  # noqa: E402
from thalweg.potentials.landscapes import Landscape  # noqa: E402
from thalweg.relax.base import CONVERGED, STATUS_NAMES  # noqa: E402
from thalweg.relax.driver import Relaxation, Relaxed  # noqa: E402
from thalweg.relax.driver import relax as relax_batch  # noqa: E402
from thalweg.relax.single import single_points  # noqa: E402
from thalweg.structure import Structure, stack  # noqa: E402
from thalweg.system import periodic  # noqa: E402


def relax(options: Namespace) -> int:
    """Relax every structure in a file; the exit code is 1 if one does not converge."""
    source = Path(options.file)
    target = Path(options.output) if options.output else source.with_name(f"{source.stem}-relaxed.extxyz")
    fmax = positive(options.fmax, "fmax", 1e-4)
    max_steps = int(positive(options.max_steps, "max-steps", 2000))
    tables = component_tables(options, ("potential", "relaxer", "filter"))
    structures, potential = structures_and_potential(source, tables)
    done: list[Relaxed] = [None] * len(structures)  # type: ignore[list-item]
    for members in alike(structures):
        batch = _relaxed([structures[k] for k in members], potential, tables, fmax, max_steps)
        for row, k in enumerate(members):
            done[k] = Relaxed(batch.structures[row], batch.energy[row], batch.fmax[row], batch.steps[row], batch.status[row])

    moves_cell = tables["filter"].get("kind", "positions") != "positions"
    ends = ended([d.structures for d in done], [float(d.energy) for d in done], potential)
    names = [STATUS_NAMES[int(d.status)] for d in done]
    energies = [end.energy for end in ends]
    write_structure(
        target, [d.structures for d in done], energies, [{"status": n} for n in names], stresses=[end.stress for end in ends]
    )
    if not options.quiet:
        unit, length = potential.units(np.concatenate([np.asarray(s.numbers) for s in structures]))
        factor, pressure = pressure_unit(unit, length)
        boxed = moves_cell and any(end.stress is not None for end in ends)
        head = ["#", "formula", f"energy {unit}", "largest force", "evaluations", "status"]
        head[3:3] = [f"volume {length}³", f"pressure {pressure}"] if boxed else []
        rows = []
        for k, (d, end, name) in enumerate(zip(done, ends, names, strict=True)):
            row = [str(k), formula_of(d.structures.numbers), energy(energies[k]), f"{d.fmax:.1e}", str(d.steps), name]
            row[3:3] = [f"{end.volume:.4f}", energy(factor * end.pressure)] if boxed else []
            rows.append(row)
        print(table(head, rows, left=(1, len(head) - 1)))
    failed = sum(int(d.status) != CONVERGED for d in done)
    print(f"wrote {plural(len(done), 'structure')} to {target}" + (f"; {failed} did not converge" if failed else ""))
    return 1 if failed else 0


@dataclass(frozen=True)
class Ended:
    """What a structure has where it ended: energy, and in a cell stress (3, 3), volume and pressure."""

    energy: float
    stress: np.ndarray | None = None
    volume: float = float("nan")
    pressure: float = float("nan")


def ended(structures: list[Structure], energies: list[float], potential: Potential) -> list[Ended]:
    """What relaxed structures have; `energies` are those of free clusters, those of cells are computed anew.

    The relaxed ones of moving cells are enthalpies.
    """
    ends = [Ended(energy) for energy in energies]
    for members in alike(structures):
        pbc = structures[members[0]].pbc
        if not any(pbc):
            continue
        batch = stack([structures[k] for k in members])
        out = single_points(batch, potential) if potential.traceable else potential.evaluate(batch)
        volumes = np.abs(np.linalg.det(np.asarray(batch.cell)))
        for row, k in enumerate(members):
            if out.virial is None:
                ends[k] = Ended(float(out.energy[row]))
                continue
            stress = -np.asarray(out.virial[row]) / volumes[row]
            pressure = -float(stress.diagonal()[list(pbc)].mean())  # there is none across a vacuum
            ends[k] = Ended(float(out.energy[row]), stress, float(volumes[row]), pressure)
    return ends


def component_tables(options: Namespace, sections: tuple[str, ...]) -> dict[str, dict]:
    """The tables of these sections, and of [system], that a command's options describe."""
    tables: dict[str, dict] = {section: {} for section in (*sections, "system")}
    enter_calculator(tables, options)
    assign(tables, options.set, sections)
    for section in sections:
        kind = getattr(options, section, None)
        if kind is not None:
            tables[section]["kind"] = kind
    enter_periodic(tables, options)
    return tables


def structures_and_potential(source: Path, tables: dict[str, dict]) -> tuple[list[Structure], Potential]:
    """The structures in a file, placed in the cell that [system] says, and the potential, which knows them all."""
    kind = tables["potential"].get("kind")
    # Coordinates that are variables may well be equal.
    vectors = isinstance(kind, str) and issubclass(registry.find("potential", kind), Landscape)
    read = read_structures(source, minimum_distance=0.0 if vectors else MINIMUM_DISTANCE)
    structures = [placed(s, tables["system"], str(source)) for s in read]
    if kind is None:
        raise InputError(
            "this needs a potential; add --potential gupta, or another of `thalweg list potentials`, or --calculator emt"
        )
    sizes = {"Formula": {"dim": 3 * structures[0].n_slots}}  # every coordinate a variable, where nobody says
    potential = schema.build("potential", schema.fill("potential", tables["potential"], "[potential]", sizes))
    for k, structure in enumerate(structures):
        potential.check(np.asarray(structure.numbers))
        require_cutoff(potential, structure.numbers, structure.pbc, tables["potential"]["kind"])
        try:
            potential.space(structure.cell, structure.pbc)
        except (InputError, StructureError) as error:
            raise type(error)(f"{source}{f', structure {k}' if len(structures) > 1 else ''}: {error}") from None
    return structures, potential


def alike(structures: list[Structure]) -> list[list[int]]:
    """Indices of structures that can be treated side by side: of one size, with the same periodic axes."""
    groups: dict[tuple, list[int]] = {}
    for k, s in enumerate(structures):
        groups.setdefault((s.n_slots, s.pbc), []).append(k)
    return [groups[key] for key in sorted(groups)]


def _relaxed(structures: list[Structure], potential: Potential, tables: dict, fmax: float, max_steps: int) -> Relaxed:
    """Structures of one size, relaxed side by side; lengths are those of the first."""
    first = structures[0]
    _, filter = resolve_filter(tables["filter"], first.cell, first.pbc)
    defaults = preset_defaults(periodic(first.numbers, potential, first.cell, first.pbc), potential, filter, [])
    full = schema.fill("relaxer", {"kind": "lbfgs", **tables["relaxer"]}, "[relaxer]", defaults)
    relaxation = Relaxation(potential, schema.build("relaxer", full), fmax, max_steps, filter)
    if not potential.traceable:
        return _evaluated(structures, relaxation)
    return relax_batch(stack(structures), relaxation)


def _evaluated(structures: list[Structure], relaxation: Relaxation) -> Relaxed:
    """Structures relaxed one after the other by a calculator; what went wrong is said on standard error."""
    workers = open_workers("serial", 1, Evaluate(relaxation))
    done = [workers.submit(Task(k, s)).result() for k, s in enumerate(structures)]
    for out in done:
        if out.error is not None:
            print(f"thalweg: structure {out.number}: {out.error}", file=sys.stderr)
    columns = [[o.energy for o in done], [o.largest for o in done], [o.evaluations for o in done], [o.status for o in done]]
    return Relaxed(stack([o.structure for o in done]), *(np.asarray(column) for column in columns))


def positive(text: str | None, name: str, default: float) -> float:
    """A positive number of an option."""
    if text is None:
        return default
    number = value(text)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
        raise InputError(f"--{name} is {text}; it must be a positive number")
    return number
