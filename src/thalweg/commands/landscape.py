"""`thalweg landscape`: transition states between minima, the disconnectivity graph, and harmonic thermodynamics."""

from __future__ import annotations

import re
import time
import tomllib
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from thalweg.commands.environment import assign, duration, prepare_jax, whole

prepare_jax()  # before the imports below bring JAX in

import numpy as np  # noqa: E402

from thalweg import report_run, schema  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.inputs import enter_calculator  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.relax import positive, structures_and_potential  # noqa: E402
from thalweg.composition import formula_of  # noqa: E402
from thalweg.database import DATABASE  # noqa: E402
from thalweg.display import StatusLine, energy, paragraph, percent, plural, seconds, table  # noqa: E402
from thalweg.errors import InputError, PotentialError, RunFolderError  # noqa: E402
from thalweg.landscape import files, thermodynamics  # noqa: E402
from thalweg.landscape.explore import enter_given, explore  # noqa: E402
from thalweg.landscape.states import Network  # noqa: E402
from thalweg.landscape.surface import Surface  # noqa: E402
from thalweg.landscape.tree import barriers  # noqa: E402
from thalweg.potentials.base import Potential  # noqa: E402
from thalweg.potentials.landscapes import Landscape  # noqa: E402
from thalweg.report.landscape import write_landscape  # noqa: E402
from thalweg.store import Store  # noqa: E402
from thalweg.structure import Structure  # noqa: E402
from thalweg.system import bonds_of  # noqa: E402

#: Minima that are begun with, searches around each, and seconds, unless told.
MINIMA, AROUND, TIME = 10, 6, 60.0
#: What the page is called, and seconds between two writings of the network.
PAGE, EVERY = "landscape.html", 10.0
#: Largest force, and how near energies of one minimum are: of potentials that are traced, and of calculators.
EXACT, ROUGH = (1e-6, 1e-5), (1e-3, 1e-3)
#: Temperature of occupations, in K, unless told; rows of the table.
ROOM, SHOWN = 300.0, 20


@dataclass(frozen=True)
class Source:
    """What a landscape is of: structures, the lowest first, their potential and its table, and where the results go."""

    name: str
    structures: list[Structure]
    potential: Potential
    table: dict
    folder: Path


def landscape(options: Namespace) -> int:
    """Search, print what was found, and write landscape.json and the page; Ctrl-C keeps what was found."""
    count = whole(options, "minima") or MINIMA
    source = _source(options, count)
    around = AROUND if whole(options, "around", 0) is None else int(options.around)
    temperature = positive(options.temperature, "temperature", 0.0)
    usual, tolerance = EXACT if source.potential.traceable else ROUGH
    fmax = positive(options.fmax, "fmax", usual)
    surface, network = _begun(source, fmax, tolerance)
    line = StatusLine(options.quiet)
    with Interrupt(lambda: line.note("stopping after this search; what was found is kept")) as interrupt:
        given = _enter(surface, network, source, fmax, line, interrupt)
        stopped = _search(surface, network, options, _pairs(options, given), around, fmax, line, interrupt, source, given)
        interrupted = interrupt.pressed()
    line.clear()
    _write(source, network, fmax)
    page = source.folder / PAGE
    temperature = temperature or _telling(network)
    write_landscape(page, network, temperature)
    if (source.folder / DATABASE).is_file():  # the run's report has a section on it
        with Store.open(source.folder) as store:
            report_run.write(store)
    if not options.quiet:
        print(_said(network, temperature, stopped))
    print(paragraph("files", f"{source.folder}: {PAGE}, {files.FILE}"))
    return INTERRUPTED if interrupted else 0


def _source(options: Namespace, count: int) -> Source:
    """A run's minima with the potential of its input, or the structures of a file with that of the options."""
    path = Path(options.what)
    given = [f"--{k}" for k in ("potential", "calculator") if getattr(options, k) is not None] + ["--set"] * bool(options.set)
    if path.is_dir():
        if given:
            raise InputError(f"{given[0]} is given, but {path} is a run, whose input says what its energies are; leave it out")
        return _of_run(path, count, options.output)
    tables: dict[str, dict] = {"potential": {}, "system": {}}
    enter_calculator(tables, options)
    if options.potential is not None:
        tables["potential"]["kind"] = options.potential
    assign(tables, options.set, ("potential",))
    structures, potential = structures_and_potential(path, tables)
    first = structures[0]
    for k, s in enumerate(structures):
        alike = s.n_slots == first.n_slots and s.pbc == first.pbc and np.allclose(s.cell, first.cell, atol=1e-6)
        if not alike or (np.asarray(s.numbers) != np.asarray(first.numbers)).any():
            raise InputError(
                f"{path}, structure {k} is not of the same atoms in the same order and cell as the first; put them in two files"
            )
    folder = Path(options.output) if options.output else path.with_name(f"{path.stem}-landscape")
    return Source(path.stem, structures[:count], potential, tables["potential"], folder)


def _of_run(folder: Path, count: int, output: str | None) -> Source:
    with Store.open(folder) as store:
        tables, meta = tomllib.loads(store.meta.get("input", "")), store.meta
        records = store.minima(count)
    if not records:
        raise InputError(f"{folder} holds no minima yet; go on with it: thalweg resume {folder}")
    if tables.get("filter", {}).get("kind", "positions") not in ("positions", "plane"):
        raise InputError(f"{folder} is a run whose cell moves; landscapes are of atoms in a cell that stays")
    potential = schema.build("potential", schema.fill("potential", tables["potential"], "[potential]"))
    structures = [Structure.create(r.positions, r.numbers, r.cell, r.fixed, r.pbc) for r in records]
    return Source(meta.get("name", folder.name), structures, potential, tables["potential"], Path(output) if output else folder)


def _begun(source: Source, fmax: float, tolerance: float) -> tuple[Surface, Network]:
    """The surface, and the network in the folder, or an empty one."""
    first, potential = source.structures[0], source.potential
    numbers = np.asarray(first.numbers)
    vectors = isinstance(potential, Landscape)
    length = potential.ripple[0] / 2 if vectors else float(np.median(bonds_of(numbers[numbers >= 0], potential)))
    surface = Surface(potential, first, length)
    if surface.dim <= len(surface.zero_modes(surface.coordinates(first.positions))):
        raise InputError(f"nothing in {source.name} can vibrate; a landscape needs two atoms, and one that moves")
    path = source.folder / files.FILE
    if path.exists():
        network, about = files.read(path)
        if about != _about(source, fmax) or not np.array_equal(network.numbers, numbers):
            raise RunFolderError(
                f"{path} is of other atoms, another potential or another fmax; give another --output, or move it away"
            )
        return surface, network
    try:
        source.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make {source.folder}: {error.strerror or error}; choose another --output") from None
    name = source.name if potential.variables is not None else formula_of(numbers)
    boltzmann = surface.units.boltzmann if surface.units is not None else 1.0
    cell, fixed = np.asarray(first.cell), np.asarray(first.fixed)
    network = Network(
        name if (numbers > 0).any() else source.name, numbers, cell, first.pbc, fixed, length, tolerance,
        potential.units(numbers), boltzmann, potential.variables,
    )  # fmt: skip
    return surface, network


def _about(source: Source, fmax: float) -> dict:
    """What a network in a file has to be one of, to be gone on with."""
    return {"potential": {k: str(v) for k, v in source.table.items()}, "fmax": fmax}


def _enter(
    surface: Surface, network: Network, source: Source, fmax: float, line: StatusLine, interrupt: Interrupt
) -> list[int]:
    """Numbers of the minima of the given structures, in order of energy; those that are known are not relaxed again."""
    found: set[int] = {k for k, m in enumerate(network.minima) if m.given}
    if len(found) < len(source.structures):
        for k, structure in enumerate(source.structures):
            if interrupt.pressed():
                break
            line.show(f"minimum {k + 1} of {len(source.structures)}")
            number = enter_given(surface, network, np.asarray(structure.positions), fmax)
            if number is not None:
                found.add(number)
    if not found:
        why = f" ({surface.failure})" if surface.failure else ""
        raise PotentialError(
            f"none of the structures comes to rest in a minimum{why}; relax them first, with the same energies: `thalweg relax`"
        )
    return sorted(found, key=lambda k: network.minima[k].energy)


def _search(
    surface: Surface, network: Network, options: Namespace, pairs, around: int, fmax: float, line: StatusLine,
    interrupt: Interrupt, source: Source, given: list[int],
) -> str:  # fmt: skip
    """Search until a limit; why it ended. The network is written now and then."""
    limit = TIME if options.time is None else duration(options.time)
    most, seed = whole(options, "evaluations", 0), whole(options, "seed", 0) or 0
    began, spent, past = time.monotonic(), network.evaluations, network.seconds
    written = began
    if interrupt.pressed():
        return "was interrupted"
    for _ in explore(surface, network, fmax, around, seed, pairs):
        now = time.monotonic()
        network.seconds = past + now - began
        apart = len(set(network.joined()[given].tolist()))
        line.show(
            f"{plural(len(network.minima), 'minimum', 'minima')}, {plural(len(network.saddles), 'saddle')}, "
            f"{'all joined' if apart == 1 else f'in {apart} parts'}, {plural(network.evaluations, 'evaluation')}, "
            f"{seconds(network.seconds)}"
        )
        if now - written > EVERY:
            _write(source, network, fmax)
            written = now
        if interrupt.pressed():
            return "was interrupted"
        if most is not None and network.evaluations - spent >= most:
            return f"used up {plural(most, 'evaluation')}"
        if not isinstance(limit, str) and now - began >= limit:
            return f"used up {seconds(limit)}"
    return "tried all that it was asked to"


def _write(source: Source, network: Network, fmax: float) -> None:
    files.write(source.folder / files.FILE, network, _about(source, fmax))


def _pairs(options: Namespace, given: list[int]) -> list[tuple[int, int]] | None:
    """Pairs of minima of an option, by their numbers in the network."""
    if options.pairs is None:
        return None
    pairs = []
    for text in options.pairs.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
        ranks = [int(k) for k in match.groups()] if match else []
        if not match or ranks[0] == ranks[1] or not all(1 <= k <= len(given) for k in ranks):
            raise InputError(
                f"--pairs {text} is no pair of minima; write two different numbers of 1 to {len(given)}, as in 1-2"
            )
        i, j = (given[k - 1] for k in ranks)
        pairs.append((min(i, j), max(i, j)))
    return pairs


def _telling(network: Network) -> float:
    """Room temperature of real systems; kT at which the lowest minimum of a model system is about half of all."""
    if network.units[0] == "eV":
        return ROOM
    grid = thermodynamics.suited_temperatures(network)
    lowest = thermodynamics.superposition(network, grid).occupation[:, network.order()[0]]
    return float(f"{grid[int(np.abs(lowest - 0.5).argmin())]:.2g}")


def _said(network: Network, temperature: float, stopped: str) -> str:
    """Table of the lowest minima and what was found, in words."""
    unit = network.units[0]
    occupied = thermodynamics.superposition(network, temperature).occupation[0]
    above, order, joined = barriers(network), network.order(), network.joined()
    at = f"{temperature:g} K" if unit == "eV" else f"kT {temperature:g}"
    head = ("#", f"energy {unit}", "above", "group", "barrier", f"share at {at}", "of the run")
    rows = []
    for rank, k in enumerate(order[:SHOWN]):
        m = network.minima[k]
        barrier = energy(float(above[k])) if np.isfinite(above[k]) else ("lowest" if rank == 0 else "")
        rows.append(
            (str(rank + 1), energy(m.energy), energy(m.energy - network.minima[order[0]].energy), m.group, barrier,
             percent(occupied[k]), "yes" if m.given else "new")
        )  # fmt: skip
    parts = len(set(joined.tolist()))
    passes = sum(1 for _ in network.joining())
    minima, saddles = plural(len(network.minima), "minimum", "minima"), plural(len(network.saddles), "transition state")
    whole = "all minima are joined" if parts == 1 else f"minima are in {parts} parts"
    found = f"{minima} and {saddles}, {passes:,} of them between two different minima; {whole}"
    tried, spent = sum(network.tried.values()), plural(network.evaluations, "evaluation")
    cost = f"{plural(tried, 'search', 'searches')}, {network.failed:,} without a saddle, {spent}, {seconds(network.seconds)}"
    return "\n".join([table(head, rows, left=(3,)), "", paragraph("found", found), paragraph("cost", f"{cost}; it {stopped}")])


__all__ = ["landscape"]
