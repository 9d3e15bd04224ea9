"""`thalweg relax`: local minimisation of the structures in a file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import assign, prepare_jax, value

prepare_jax()  # before the imports below bring JAX in

import numpy as np  # noqa: E402

from thalweg import schema  # noqa: E402
from thalweg.config import formula_of, preset_defaults, units  # noqa: E402
from thalweg.display import energy, plural, table  # noqa: E402
from thalweg.errors import InputError  # noqa: E402
from thalweg.io import read_structures, write_structure  # noqa: E402
from thalweg.potentials.base import Potential  # noqa: E402
from thalweg.relax.base import CONVERGED, STATUS_NAMES  # noqa: E402
from thalweg.relax.driver import Relaxation, Relaxed  # noqa: E402
from thalweg.relax.driver import relax as relax_batch  # noqa: E402
from thalweg.structure import Structure, stack  # noqa: E402
from thalweg.system import cluster  # noqa: E402


def relax(options: Namespace) -> int:
    """Relax every structure in a file; the exit code is 1 if one does not converge."""
    source = Path(options.file)
    target = Path(options.output) if options.output else source.with_name(f"{source.stem}-relaxed.extxyz")
    fmax = _positive(options.fmax, "fmax", 1e-4)
    max_steps = int(_positive(options.max_steps, "max-steps", 2000))
    tables: dict[str, dict] = {"potential": {}, "relaxer": {}}
    assign(tables, options.set, ("potential", "relaxer"))
    for section in tables:
        if getattr(options, section) is not None:
            tables[section]["kind"] = getattr(options, section)
    structures = read_structures(source)
    if "kind" not in tables["potential"]:
        raise InputError("relaxing needs a potential; add --potential gupta, or another of `thalweg list potentials`")
    if any(any(s.pbc) for s in structures):
        raise InputError(f"{source} is periodic; only free clusters can be relaxed (set pbc to false for a cluster in a box)")
    potential = schema.build("potential", schema.fill("potential", tables["potential"], "[potential]"))
    for structure in structures:
        potential.check(np.asarray(structure.numbers))

    done: list[Relaxed] = [None] * len(structures)  # type: ignore[list-item]
    for size in sorted({s.n_slots for s in structures}):
        members = [k for k, s in enumerate(structures) if s.n_slots == size]
        batch = _relaxed([structures[k] for k in members], potential, tables["relaxer"], fmax, max_steps)
        for row, k in enumerate(members):
            done[k] = Relaxed(batch.structures[row], batch.energy[row], batch.fmax[row], batch.steps[row], batch.status[row])

    names = [STATUS_NAMES[int(d.status)] for d in done]
    write_structure(target, [d.structures for d in done], [float(d.energy) for d in done], [{"status": n} for n in names])
    if not options.quiet:
        unit, _ = units(np.concatenate([np.asarray(s.numbers) for s in structures]))
        rows = [
            (str(k), formula_of(d.structures.numbers), energy(float(d.energy)), f"{d.fmax:.1e}", str(d.steps), name)
            for k, (d, name) in enumerate(zip(done, names, strict=True))
        ]
        print(table(("#", "formula", f"energy {unit}", "largest force", "evaluations", "status"), rows, left=(1, 5)))
    failed = sum(int(d.status) != CONVERGED for d in done)
    print(f"wrote {plural(len(done), 'structure')} to {target}" + (f"; {failed} did not converge" if failed else ""))
    return 1 if failed else 0


def _relaxed(structures: list[Structure], potential: Potential, table: dict, fmax: float, max_steps: int) -> Relaxed:
    """Structures of one size, relaxed side by side; lengths are those of the first."""
    defaults = preset_defaults(cluster(structures[0].numbers, potential), potential)
    full = schema.fill("relaxer", {"kind": "lbfgs", **table}, "[relaxer]", defaults)
    return relax_batch(stack(structures), Relaxation(potential, schema.build("relaxer", full), fmax, max_steps))


def _positive(text: str | None, name: str, default: float) -> float:
    """A positive number of an option."""
    if text is None:
        return default
    number = value(text)
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        raise InputError(f"--{name} is {text}; it must be a positive number")
    return number
