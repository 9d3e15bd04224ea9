"""Tables of an input from the options of a command."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import assign, duration, value
from thalweg.config import SECTIONS
from thalweg.errors import InputError
from thalweg.formula import parse_formula
from thalweg.references import best_known
from thalweg.toml import read_input

#: 1 eV/Å^3 in GPa (CODATA 2018: the elementary charge is exact).
GPA = 160.2176634
#: What builders have learned from, which is what they search on unless an input says otherwise.
LEARNED_FROM = {"kind": "calculator", "calculator": "tblite", "arguments": {"method": "GFN1-xTB"}}


def enter_energy_of(tables: dict, *methods: str) -> None:
    """The energy that a method among these brings, where neither the input nor its formula names one."""
    formula = tables.get("system", {}).get("formula")
    named = tables.get("potential") or (isinstance(formula, str) and parse_formula(formula)[2])
    if "builder" in methods and not named:
        tables["potential"] = dict(LEARNED_FROM)


def tables_of(options: Namespace, toml_only: bool = False) -> dict:
    """The input that a command's arguments describe: a file or a formula, and options on top of it."""
    tables = _source(_what(options), toml_only)
    enter_calculator(tables, options)
    for section, option in (("potential", "potential"), ("relaxer", "relaxer"), ("search", "method")):
        kind = getattr(options, option)
        if kind is not None and tables.get(section, {}).get("kind") != kind:
            tables[section] = {"kind": kind}  # keys of another kind would mean nothing here
    enter_periodic(tables, options)
    enter_energy_of(tables, tables.get("search", {}).get("kind"))
    for key in ("seed", "walkers"):
        if getattr(options, key) is not None:
            tables.setdefault("run", {})[key] = value(getattr(options, key))
    workers = workers_of(options)
    if workers:
        tables["workers"] = {**tables.get("workers", {}), **workers}
    if options.seeds is not None:
        tables.setdefault("system", {})["seeds"] = seeds_file(options.seeds)
        tables.get("search", {}).pop("starts", None)  # of the file, which the option goes before
    if getattr(options, "agent", None) is not None:
        from thalweg.agents.files import kind_of

        kind = kind_of(options.agent)
        usual = {"agent": "asla", "builder": "builder"}[kind]
        tables["search"] = {"kind": usual, **tables.get("search", {}), kind: options.agent}
    assign(tables, options.set, SECTIONS)
    pin_agent(tables)
    limits = limits_of(options)
    if limits:
        tables["stop"] = {**tables.get("stop", {}), **limits}
    stop = tables.get("stop", {})
    if isinstance(stop, dict) and stop.get("target") == "known":
        stop["target"] = known_target(tables)
    return tables


def _what(options: Namespace) -> str:
    """The formula or file: the argument, or --formula."""
    what, formula = options.what, getattr(options, "formula", None)
    if what is not None and formula is not None:
        raise InputError(f"{what} and --formula {formula} are given; give one")
    if what is None and formula is None:
        if options.command == "init":
            return "LJ38"
        raise InputError("the following arguments are required: SYSTEM; see `thalweg search --help`")
    return formula or what  # type: ignore[return-value]


def enter_calculator(tables: dict, options: Namespace) -> None:
    """Enter --calculator, which is short for a potential of that kind."""
    name = getattr(options, "calculator", None)
    if name is None:
        return
    if options.potential is not None:
        raise InputError(f"--calculator {name} and --potential {options.potential} are given; give one")
    if tables.get("potential", {}).get("calculator") != name:
        tables["potential"] = {"kind": "calculator", "calculator": name}


def enter_periodic(tables: dict, options: Namespace) -> None:
    """Enter the options of periodic systems: --cell, --pbc, --density, --filter, --pressure."""
    given = {key: getattr(options, key) for key in ("cell", "pbc", "density") if getattr(options, key) is not None}
    if given:
        system = tables.setdefault("system", {})
        system |= {key: text if key == "pbc" else value(text) for key, text in given.items()}
        if "cell" in given and "density" not in given:
            system.pop("density", None)  # of the file, which the option goes before
        if "density" in given and "cell" not in given:
            system.pop("cell", None)
    if options.filter is not None and tables.get("filter", {}).get("kind") != options.filter:
        tables["filter"] = {"kind": options.filter}
    if options.pressure is not None:
        table = tables.setdefault("filter", {})
        if table.setdefault("kind", "frechet") in ("positions", "plane"):
            raise InputError(
                f"the filter {table['kind']} knows no pressure; use --filter frechet or unit-cell, which move the cell"
            )
        table["scalar_pressure"] = pressure(options.pressure)


def pin_agent(tables: dict) -> None:
    """Name the agent that a search begins with by its content too, so that the run's input means this one for ever."""
    search = tables.get("search", {})
    for kind in ("agent", "builder"):
        if isinstance(search, dict) and isinstance(search.get(kind), str):
            from thalweg.agents.files import pinned

            search[kind] = pinned(search[kind], kind)


def pressure(text: str) -> float:
    """A pressure in the potential's units of energy and length; with GPa after it, in eV/Å^3."""
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(gpa)?\s*", text, re.IGNORECASE)
    try:
        return float(match[1]) / (GPA if match[2] else 1.0)  # type: ignore[index]
    except (TypeError, ValueError):
        raise InputError(f'a pressure is "{text}"; write a number in energy per volume, or for example 5GPa') from None


def workers_of(options: Namespace) -> dict:
    """The [workers] keys that were given as options."""
    given = {"executor": options.executor, "count": options.workers, "order": options.order}
    return {key: value(text) if key == "count" else text for key, text in given.items() if text is not None}


def limits_of(options: Namespace) -> dict:
    """The [stop] keys that were given as options; "known" stays as a target."""
    limits = {}
    for key in ("time", "cpu", "evaluations", "relaxations", "target", "confidence"):
        text = getattr(options, key)
        if text is not None:
            limits[key] = duration(text) if key in ("time", "cpu") else value(text)
    return limits


def known_target(tables: dict) -> float:
    """The best published energy of what the tables describe."""
    formula = tables.get("system", {}).get("formula")
    if not isinstance(formula, str):
        raise InputError('a target of "known" needs a formula, such as LJ38')
    name, numbers, named = parse_formula(formula)
    potential = {"kind": named, **tables.get("potential", {})}
    reference = best_known(len(numbers), potential)
    if reference is None:
        raise InputError(f'no published energy of {name} is known here for a target of "known"; give the number')
    return reference.energy


def seeds_file(what: str) -> str:
    """The structures to start from: a file, or the best of a run."""
    path = Path(what)
    file = path / "best.xyz" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{what} is neither a structure file nor the folder of a run that found something")
    return str(file)


def _source(what: str, toml_only: bool) -> dict:
    if what.lower().endswith(".toml") or toml_only:
        return read_input(what)
    path = Path(what)
    # A formula has no dot and no slash, so that a file name cannot be taken for one.
    if path.is_file() or "." in what or "/" in what:
        return {"system": {"structure": what}}
    return {"system": {"formula": what}}
