"""Tables of an input from the options of a command."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import assign, duration, value
from thalweg.config import SECTIONS, read_input
from thalweg.errors import InputError
from thalweg.formula import parse_formula
from thalweg.presets import SEED_WEIGHTS
from thalweg.references import best_known


def tables_of(options: Namespace, toml_only: bool = False) -> dict:
    """The input that a command's arguments describe: a file or a formula, and options on top of it."""
    tables = _source(options.what, toml_only)
    for section, option in (("potential", "potential"), ("relaxer", "relaxer"), ("search", "method")):
        kind = getattr(options, option)
        if kind is not None and tables.get(section, {}).get("kind") != kind:
            tables[section] = {"kind": kind}  # keys of another kind would mean nothing here
    for key in ("seed", "walkers"):
        if getattr(options, key) is not None:
            tables.setdefault("run", {})[key] = value(getattr(options, key))
    if options.seeds is not None:
        tables.setdefault("search", {})["starts"] = _seeded(options.seeds)
    assign(tables, options.set, SECTIONS)
    limits = limits_of(options)
    if limits:
        tables["stop"] = {**tables.get("stop", {}), **limits}
    stop = tables.get("stop", {})
    if isinstance(stop, dict) and stop.get("target") == "known":
        stop["target"] = known_target(tables)
    return tables


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


def _seeded(what: str) -> list[dict]:
    """Starts of which most come from the structures in a file, or from the best of a run."""
    path = Path(what)
    file = path / "best.xyz" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{what} is neither a structure file nor the folder of a run that found something")
    random, symmetric, seeded = SEED_WEIGHTS
    return [
        {"kind": "random", "weight": random},
        {"kind": "symmetric", "weight": symmetric},
        {"kind": "seeded", "weight": seeded, "file": str(file)},
    ]


def _source(what: str, toml_only: bool) -> dict:
    if what.lower().endswith(".toml") or toml_only:
        return read_input(what)
    path = Path(what)
    # A formula has no dot and no slash, so that a file name cannot be taken for one.
    if path.is_file() or "." in what or "/" in what:
        return {"system": {"structure": what}}
    return {"system": {"formula": what}}
