"""Inputs: TOML tables become the objects of a run, with every default written out.

`resolve` takes tables as a user wrote them and gives a `Resolved`: the objects, and the full tables they were made of.
Resolving those again gives the same, so that the input kept with a run repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import equinox as eqx
import jax
import numpy as np

from thalweg import choice, presets, prng, registry, schema
from thalweg.assemble import assembled, is_placed, ordered, seed_table, with_seeds
from thalweg.composition import KEYS, Composition, composition, formula_of
from thalweg.errors import InputError
from thalweg.formula import MODELS
from thalweg.potentials.base import Potential
from thalweg.potentials.landscapes import Landscape
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import CellFilter, Filter
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.stiffness import annealing_for
from thalweg.run import needs_host
from thalweg.search.base import Search
from thalweg.search.basin_hopping import BasinHopping
from thalweg.settings import Hosting, Settings, Stop
from thalweg.structure import Structure
from thalweg.system import System

SECTIONS = ("system", "potential", "filter", "relaxer", "search", "run", "workers", "stop")
#: Limits that hold where an input gives no other: a minute, and as sure as is usual. Naming a target replaces the second,
#: counting CPU seconds, evaluations or relaxations the first.
DEFAULT_TIME, DEFAULT_CONFIDENCE = 60.0, 0.95
#: A target counts as reached within this many energy scales: users type energies rounded.
TARGET_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Resolved:
    """Everything that a search needs, and the full `tables` it was made from; `name` is the formula."""

    tables: dict
    name: str
    system: System
    potential: Potential
    relaxation: Relaxation
    search: Search
    settings: Settings
    stop: Stop
    hosting: Hosting | None = None  # where energies are evaluated one by one

    @property
    def units(self) -> tuple[str, str]:
        """Units of energy and length: reduced ones for model particles."""
        return self.potential.units(np.asarray(self.system.numbers))


def resolve(tables: Mapping) -> Resolved:
    """Build what a search needs from the tables of an input; the tables are not changed."""
    schema.check_sections(tables, SECTIONS)
    schema.refuse_unknown(tables.get("system", {}), KEYS, "[system]")
    made = composition(tables.get("system", {}))
    usual = "plane" if made.dimensions == 2 else "positions"
    filter_table, filter = resolve_filter({"kind": usual, **tables.get("filter", {})}, made.cell, made.pbc)
    if filter.moves_cell and made.template is not None and np.asarray(made.template.fixed).any():
        raise InputError(
            f"the filter {filter_table['kind']} moves the cell, and fixed atoms cannot follow; leave the filter out"
        )
    potential_table = full_potential(tables.get("potential", {}), made, filter)
    potential = schema.build("potential", potential_table)
    if potential.traceable:
        require_cutoff(potential, made.numbers, made.pbc, potential_table["kind"])
    system, system_table = assembled(made, potential)
    if made.seeds and "starts" in tables.get("search", {}) and "structure" not in tables["system"]:
        raise InputError("seeds in [system] and starts in [search] are given; give one, or the file to a start of kind seeded")
    defaults = preset_defaults(system, potential, filter, list(made.seeds))
    energy = defaults["BasinHopping"]["energy_scale"]
    given = with_seeds(tables.get("search", {}), system, filter)
    usual = "annealing" if wanders(tables.get("relaxer", {})) else choice.usual(potential, filter.moves_cell)
    search_table = schema.fill("search", {"kind": usual, **given}, "[search]", defaults)
    search = schema.build("search", search_table)
    if {"operators", "moves", "starts"} & set(tables.get("search", {})):
        _check_generators(search, system)
    # A search may bring its relaxer, as annealing does.
    usual = getattr(type(search), "relaxer_kind", "lbfgs")
    relaxer_table = schema.fill("relaxer", {"kind": usual, **tables.get("relaxer", {})}, "[relaxer]", defaults)
    own = {}
    if made.periodic and isinstance(search, BasinHopping):
        own = presets.TEMPLATE_SETTINGS if is_placed(system, potential) else presets.periodic_settings(system)
    relaxer_class = registry.find("relaxer", relaxer_table["kind"])
    choice.check(search_table["kind"], search, relaxer_class, potential, system, filter.moves_cell)
    if relaxer_table["kind"] == "annealing":
        relaxer_table, own = _suited_annealing(tables.get("relaxer", {}), system, potential, search, defaults)
    elif wanders(relaxer_table):
        own = presets.wandering_settings(schema.build("relaxer", relaxer_table))
    workers_table, hosting = resolve_workers(tables.get("workers", {}), needs_host(search, potential))
    if hosting is not None:
        own = {**own, **presets.hosted_settings(search, hosting)}
    run_table = schema.fill_fields(plain_fields(Settings), {**own, **tables.get("run", {})}, "[run]")
    stop_table, stop = resolve_stop(tables.get("stop", {}), energy)
    relaxer = schema.build("relaxer", relaxer_table)
    relaxer.check(system.numbers, system.pbc)
    search.check(system)
    return Resolved(
        {
            "system": system_table,
            "potential": potential_table,
            **({"filter": filter_table} if made.periodic or filter_table["kind"] != "positions" else {}),
            "relaxer": relaxer_table,
            "search": search_table,
            "run": run_table,
            **({"workers": workers_table} if hosting is not None else {}),
            "stop": stop_table,
        },
        made.name,
        system,
        potential,
        Relaxation(potential, relaxer, filter=filter),
        search,
        Settings(**run_table),
        stop,
        hosting,
    )


def resolve_workers(table: Mapping, hosted: bool) -> tuple[dict, Hosting | None]:
    """The full [workers] and what it says; None where everything runs on the device."""
    if not hosted:
        if table:
            raise InputError(
                "[workers] are for calculators and for searches that fit models; this search runs on the device, where "
                "`walkers` in [run] says how much runs side by side"
            )
        return {}, None
    full = schema.fill_fields(plain_fields(Hosting), table, "[workers]")
    if "executor" not in table and full["count"] > 1:
        full["executor"] = "processes"
    if full["executor"].startswith("dask://") and "count" not in table:
        raise InputError("how many tasks the cluster is given at a time decides the course of the search; say it by --workers")
    return full, Hosting(**full)


def resolve_filter(table: Mapping, cell, pbc) -> tuple[dict, Filter]:
    """The full [filter] and what it says, for a cell (3, 3) with these periodic axes."""
    full = schema.fill("filter", {"kind": "positions", **table}, "[filter]")
    filter = schema.build("filter", full)
    if filter.moves_cell and not any(pbc):
        raise InputError(f"the filter {full['kind']} moves the cell, and there is none; give a cell, or leave the filter out")
    if filter.moves_cell and not all(pbc) and isinstance(filter, CellFilter) and full.get("mask") is None:
        # A slab has no stress across its vacuum: only the plane of the periodic axes may be strained.
        cell = np.asarray(cell)
        if any(cell[k][~np.asarray(pbc)].any() for k in range(3) if pbc[k]):
            raise InputError("the periodic axes of this cell are not along x, y, z; say by filter.mask which strains are free")
        x, y, z = pbc
        full["mask"] = [x, y, z, y and z, x and z, x and y]
        filter = schema.build("filter", full)
    return full, filter


def require_cutoff(potential: Potential, numbers, pbc, kind: str) -> None:
    """Raise `InputError` for a potential without cutoff in a periodic system, with the mend."""
    if any(pbc) and potential.variables is not None:
        raise InputError(f"{kind} is a function of a vector, which is in no periodic cell; leave out the cell")
    if any(pbc) and potential.traceable and potential.reach is None:  # calculators see to their own images
        bonds = potential.bond_lengths(np.asarray(numbers))
        far = 2.5 if bonds is None else float(f"{2.5 * np.mean(bonds):.2g}")
        raise InputError(f"{kind} has no cutoff, and a periodic sum needs one; add --set potential.cutoff={far:g}")


def resolve_stop(table: Mapping, energy_scale: float) -> tuple[dict, Stop]:
    """The limits with their defaults, and the rule made of them."""
    known = plain_fields(Stop)
    full = schema.fill_fields(known, table, "[stop]")
    counted = any(full[key] is not None for key in ("cpu", "evaluations", "relaxations"))
    if "time" not in table and not counted:
        full["time"] = DEFAULT_TIME
    if "confidence" not in table and full["target"] is None:
        full["confidence"] = DEFAULT_CONFIDENCE
    for name, value in full.items():
        if value is not None and math.isnan(value):
            raise InputError(f'{name} in [stop] is not a number; give one, or "none"')
        if name != "target" and value is not None and value <= 0:
            raise InputError(f'{name} in [stop] is {value:g}; it must be positive, or "none"')
    if full["confidence"] is not None and not full["confidence"] < 1:
        raise InputError(f"confidence in [stop] is {full['confidence']:g}; it must be below 1, such as 0.95")
    if all(value is None for value in full.values()):
        raise InputError("[stop] has no limit left; give a time, evaluations, relaxations, a target or a confidence")
    target = full["target"]
    values = {**full, "target": None if target is None else target + TARGET_TOLERANCE * energy_scale}
    return full, Stop(**values)


def full_potential(table: Mapping, made: Composition, filter: Filter) -> dict:
    """The full [potential], of the kind that the formula names where it names one."""
    kind = table.get("kind", made.named)
    if kind is None:
        raise InputError(f"{made.name} needs a potential: {_potentials_for(made.numbers)}")
    own = {}
    if made.named == kind == "kob-andersen" and made.periodic:
        # What published energies of this mixture are, where it is defined.
        own = {"minimum_image": not filter.moves_cell and not made.cell[~np.eye(3, dtype=bool)].any()}
    sizes = {"Formula": {"dim": 3 * len(made.numbers)}}  # every coordinate a variable, where an input does not say
    full = schema.fill("potential", {**own, **table, "kind": kind}, "[potential]", sizes)
    if made.named is not None and full["kind"] != made.named:
        raise InputError(f"{made.name} means the {made.named} potential; for {kind} write {formula_of(made.numbers)}")
    return full


def _potentials_for(numbers: np.ndarray) -> str:
    """Which of the package's potentials have parameters for these species."""
    fitting = []
    for kind in registry.COMPONENTS["potential"]:
        cls = registry.find("potential", kind)
        if cls.check is Potential.check or not cls.traceable or issubclass(cls, Landscape):
            continue  # one that takes all species has parameters for none, and test functions are asked for
        try:
            cls().check(numbers)
            fitting.append(kind)
        except InputError:
            pass
    if fitting:
        return f"add --potential {' or --potential '.join(fitting)}"
    prefixes = ", ".join(f"{k} ({v})" for k, v in MODELS.items() if v)
    return (
        f"none of the package has parameters for it; add --calculator NAME (any of ASE's: tblite, my_file:make), or "
        f"--potential my_file:MyPotential, or write a model system by its prefix: {prefixes}"
    )


def preset_defaults(system: System, potential: Potential, filter: Filter, seeds: list[Structure]) -> dict[str, dict]:
    """What the shipped searches (`thalweg.presets`) take for this system, by class name: lengths, energies, moves, starts."""
    one_by_one = is_placed(system, potential)
    own = seed_table(seeds, system, filter, one_by_one=one_by_one) if seeds else {}
    if system.variables is not None:
        search = presets.vector_search(system, potential, seeds)
    elif one_by_one:
        search = presets.placed_search(system, potential, [ordered(s, system) for s in seeds])
    elif any(system.pbc):
        search = presets.periodic_search(system, potential, seeds, filter.moves_cell)
    else:
        search = presets.cluster_search(system, potential, [np.asarray(s.positions) for s in seeds])
    number = lambda weight: float(str(np.float32(weight)))  # the shortest that comes back the same
    starts = [
        {**schema.table_of("generator", g), "weight": number(w), **(own if g.name == own.get("kind") else {})}
        for g, w in zip(search.starts, search.start_weights, strict=True)
    ]
    moves = [
        {**schema.table_of("generator", g), "weight": number(w)} for g, w in zip(search.moves, search.move_weights, strict=True)
    ]
    hopping = {k: v for k, v in schema.table_of("search", search).items() if k not in ("kind", "moves", "starts")}
    scale = {"energy_scale": search.energy_scale}
    # Half of the children are crossovers, half mutations.
    total = sum(row["weight"] for row in moves)
    operators = [{"kind": "cut-and-splice" if system.variables is None else "mix", "weight": 0.5}]
    operators += [{**row, "weight": number(0.5 * row["weight"] / total)} for row in moves]
    learned = {
        **scale,
        "surrogate": {"kind": "local"},
        "moves": [
            {**schema.table_of("generator", g), "weight": w} for g, w in zip(*presets.learned_moves(system), strict=True)
        ],
        "starts": [{"kind": "random-placed", "weight": 1.0}],
    }
    relaxer: Any = presets.cluster_relaxation(potential, system).relaxer
    return {
        "ModelGuided": learned,
        "Asla": {**scale, **presets.building(system)},
        "LBFGS": {"max_step": float(relaxer.max_step)},
        "LearnedAnnealing": presets.learned_annealing(system, potential),
        "Learn2Hop": presets.learn2hop(system, potential),
        "Strider": presets.striding(system, potential),
        "BasinHopping": {**hopping, **scale, "moves": moves, "starts": starts},
        "LearnedHopping": {
            **scale,
            "patience": search.patience,
            "starts": starts,
            "weights": presets.suited_weights("LearnedHopping", system, potential),
        },
        "RandomSearch": {"starts": starts},
        "Evolutionary": {**scale, "operators": operators, "starts": starts},
        "MinimaHopping": {**scale, "starts": starts},
        "ParticleSwarm": {**scale, "starts": starts},
        "TemperedHopping": {**scale, "moves": moves, "starts": starts},
        "ParallelTempering": {**scale, "starts": starts},
        "RepeatedRelaxation": {**scale, "starts": starts},
    }


def _check_generators(search: Search, system: System) -> None:
    """Trace what the user chose, so that a move that does not suit the system is refused before a run begins."""
    chosen = [g for name in ("operators", "moves", "starts") for g in getattr(search, name, ())]
    for generator in chosen:
        parents = system.structure(np.zeros((max(1, generator.n_parents), len(system.numbers), 3)))
        eqx.filter_eval_shape(lambda g, *rest: g(*rest), generator, prng.key(0), parents, system)


def _suited_annealing(
    table: Mapping, system: System, potential: Potential, search: Search, defaults: dict
) -> tuple[dict, dict]:
    """The full [relaxer] of an annealing, with the temperatures and time step that suit the system, and what [run] needs."""
    needed = {"hot", "cold", "dt", "friction", "max_step"}
    full = {"kind": "annealing", **table}
    if needed - set(table):
        if not potential.traceable:
            raise InputError(
                "an annealing around a calculator needs its temperatures and time step: give relaxer.hot, cold, dt, friction "
                "and max_step, or use --method minima-hopping"
            )
        bond = float(np.mean(system.bond_lengths))
        parent = system.structure(np.zeros((1, len(system.numbers), 3)))
        with jax.enable_x64(True):
            start = search.starts[0](prng.key(0), parent, system)  # type: ignore[attr-defined]
        start = system.structure(np.asarray(start.positions))
        minimum = relax(start, Relaxation(potential, LBFGS(max_step=0.15 * bond), 1e-3 * bond)).structures
        suited = annealing_for(potential, minimum, bond, 1)
        full = {**{name: float(f"{getattr(suited, name):.4g}") for name in needed}, **full}
    full = schema.fill("relaxer", full, "[relaxer]", defaults)
    return full, {"max_steps": full["settle"] + full["n_steps"] + 1000, "walkers": 16}


def wanders(table: Mapping) -> bool:
    """Whether a [relaxer] leaves the basin it begins in."""
    kind = table.get("kind")
    return isinstance(kind, str) and registry.find("relaxer", kind).wanders  # type: ignore[attr-defined]


def plain_fields(cls: type) -> dict[str, schema.Field]:
    """The fields of a plain dataclass as a schema."""
    hints = get_type_hints(cls)
    empty = lambda f: schema.MISSING if f.default is NO_DEFAULT else f.default
    return {f.name: schema.Field(f.name, hints[f.name], empty(f)) for f in fields(cls)}
