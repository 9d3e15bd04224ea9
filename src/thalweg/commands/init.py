"""`thalweg init`: a commented input."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import prepare_jax
from thalweg.commands.inputs import tables_of
from thalweg.errors import InputError

_COMMENTS = {
    "system": 'What is searched: formula = "LJ38", "Au55", "KA100", or structure = "file.xyz" (also a start then).',
    "system.cell": "edge of a cube, three edges, edges and angles, or vectors",
    "system.pbc": 'periodic axes; "none" for a free cluster',
    "system.density": "atoms per volume, of a cubic cell",
    "potential": '`thalweg list potentials` names them; your own: kind = "my_file:MyPotential".',
    "potential.minimum_image": "count only the nearest image of each atom; the default sums all images within the cutoff",
    "filter": 'What may move; `thalweg list filters`. kind = "frechet" moves the cell as well.',
    "filter.scalar_pressure": "adds pressure x volume: the enthalpy is lowered",
    "relaxer": "How proposals are relaxed; `thalweg list relaxers`.",
    "relaxer.max_step": "an atom moves no further in one step (0.15 bonds)",
    "search": "The method; `thalweg list searches`. Lines with # show defaults.",
    "search.temperature": "kT of the Metropolis test, in energy scales",
    "search.energy_scale": "energy of one bond, from the potential",
    "search.patience": "hops (gofee: evaluations) without a lower energy before an independent run begins",
    "search.candidates": "made for each proposal, relaxed on the model; the best is evaluated",
    "search.n_initial": "random structures before the model is asked",
    "workers": "Where the calculator's energies are evaluated: serial, threads, processes, dask://HOST:PORT.",
    "workers.count": "tasks at a time",
    "workers.order": "arrival: no worker waits, but the course is not repeatable",
    "workers.timeout": "seconds for one task",
    "search.explore": "share of moves drawn by weight alone, not by what was learned",
    "run.seed": "the same seed gives the same search",
    "run.walkers": "walkers side by side",
    "run.precision": "of the hops; everything reported is float64",
    "run.fmax": "at which a hop's relaxation ends, in energy scales per bond length",
    "run.max_steps": "evaluations per relaxation at most",
    "run.keep": "how many of the lowest distinct minima are kept",
    "run.finish": "relax the lowest structure to fmax when a search of expensive energies ends",
    "stop": 'Whichever comes first ends the search; "none" lifts a limit.',
    "stop.time": "seconds of this session",
    "stop.cpu": "CPU seconds of this session",
    "stop.evaluations": "energy evaluations",
    "stop.target": "energy to reach",
    "stop.confidence": "probability that no lower minimum remains",
}


def init(options: Namespace) -> int:
    """Write a commented input with the defaults for a system."""
    prepare_jax()
    from thalweg.config import resolve
    from thalweg.toml import to_toml

    given = tables_of(options)
    resolved = resolve(given)
    # A box that was not given, as that of a mixture, is shown: it is half of what the energy means.
    box = {k: v for k, v in resolved.tables["system"].items() if k != "formula" and "density" not in given["system"]}
    tables = {**resolved.tables, "system": {**given["system"], **{k: v for k, v in box.items() if k not in given["system"]}}}
    # What the user did not give is shown as a comment, so that it follows the system when that is changed.
    shown = {"potential", "run.seed", "run.walkers", "stop.time", "stop.confidence"}
    written = {f"{s}.{k}" for s, t in given.items() for k in t} | {f"{s}.kind" for s in tables}
    quiet = {
        f"{s}.{k}" for s, t in tables.items() for k in t
        if s not in shown and f"{s}.{k}" not in shown | written
    }  # fmt: skip
    text = "# Input of thalweg. Run it with: thalweg run input.toml\n\n" + to_toml(tables, _COMMENTS, frozenset(quiet))
    if options.output is None:
        sys.stdout.write(text)
        return 0
    path = Path(options.output)
    if path.exists():
        raise InputError(f"{path} exists already; choose another name")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from None
    print(f"wrote {path}; run it with: thalweg run {path}")
    return 0
