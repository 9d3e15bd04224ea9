"""`thalweg list` and `thalweg check`: the components there are, and whether a new one does what it must."""

from __future__ import annotations

import inspect
import sys
import time
from argparse import Namespace

from thalweg.commands.environment import prepare_jax, value
from thalweg.display import bold
from thalweg.errors import InputError, suggest

_PLURALS = {
    "potentials": "potential",
    "relaxers": "relaxer",
    "filters": "filter",
    "generators": "generator",
    "regions": "region",
    "searches": "search",
    "surrogates": "surrogate",
    "representations": "representation",
    "minimizers": "minimizer",
}


def list(options: Namespace) -> int:
    """Print the components that inputs can name, each with its first line and its fields."""
    prepare_jax()
    from thalweg import registry, schema

    if options.what is not None and options.what not in {**_PLURALS, **{v: v for v in _PLURALS.values()}}:
        raise InputError(f'there is no kind of component "{options.what}".{suggest(options.what, _PLURALS)}')
    chosen = [k for k, v in _PLURALS.items() if options.what in (None, k, v)]
    for place, kind in enumerate(chosen):
        room = _PLURALS[kind]
        print(("\n" if place else "") + bold(kind))
        for name in registry.names(room):
            cls = registry.find(room, name)
            print(f"  {bold(name)}: {first_sentence(cls)}")
            known = schema.fields(cls).values()
            shown = [f.name if f.default is schema.MISSING else f"{f.name} = {_short(f.default)}" for f in known]
            if shown:
                print(f"      {', '.join(shown)}")
    return 0


def check(options: Namespace) -> int:
    """Run the public conformance test of a component; the exit code is 1 if it fails."""
    prepare_jax()
    import numpy as np

    from thalweg import schema, testing
    from thalweg.composition import boundaries
    from thalweg.config import resolve
    from thalweg.formula import parse_formula
    from thalweg.potentials.pair import LennardJones
    from thalweg.system import cluster, periodic

    room, name = _room_and_name(options.what)
    table: dict = {"kind": name}
    for assignment in options.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write field=value")
        table[key.strip()] = value(text.strip())
    _, numbers, _ = parse_formula(options.formula)
    if room == "search":  # its moves and starts are those of the system
        tables = {"system": {"formula": options.formula}, "potential": {"kind": "lennard-jones"}, "search": table}
        full = resolve(tables).tables["search"]
    else:
        # Functions of vectors have as many variables as there are coordinates.
        full = schema.fill(room, table, name, {"Formula": {"dim": 3 * len(numbers)}})
    component = schema.build(room, full)
    begun = time.perf_counter()
    try:
        if room == "potential":
            testing.check_potential(component, numbers)
        elif room == "relaxer":
            testing.check_relaxer(component)
        elif room == "filter":
            testing.check_filter(component)
        elif room == "generator":
            cell, pbc = boundaries({"cell": value(options.cell)} if options.cell else {}, len(numbers))
            potential = LennardJones(cutoff=2.5) if any(pbc) else LennardJones()
            testing.check_generator(component, periodic(np.asarray(numbers), potential, cell, pbc))
        elif room == "search":
            testing.check_search(component, cluster(np.asarray(numbers), LennardJones()))
        else:
            raise InputError(f"a {room} has no conformance test; potentials, relaxers, filters, generators and searches have")
    except AssertionError as error:
        print(f"thalweg: failed: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    fields = ", ".join(f"{k} = {_short(v)}" for k, v in full.items() if k != "kind")
    print(f"{type(component).__name__} passes as a {room} ({fields or 'no fields'}; {time.perf_counter() - begun:.1f} s)")
    return 0


def first_sentence(cls: type) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    end = text.find(". ")
    while end > 0 and text[:end].count("(") > text[:end].count(")"):  # a stop inside a citation
        end = text.find(". ", end + 1)
    return text if end < 0 else text[: end + 1]


def _room_and_name(what: str) -> tuple[str, str]:
    """Which kind of component a name or an import path is."""
    from thalweg import registry

    if ":" not in what:
        rooms = [room for room in registry.BASES if what in registry.names(room)]
        if not rooms:
            everything = [n for room in registry.BASES for n in registry.names(room)]
            raise InputError(f'there is no component "{what}".{suggest(what, everything)} Your own: my_file:MyClass')
        return rooms[0], what
    room = registry.room_of(registry.imported(what))
    if room is None:
        raise InputError(f"{what} is no component; derive it from Potential, Relaxer, Filter, Generator or Search")
    return room, what


def _short(thing) -> str:
    text = f'"{thing}"' if isinstance(thing, str) else str(thing)
    return text if len(text) <= 40 else text[:36] + " …)"
