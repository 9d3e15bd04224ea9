"""`thalweg minimize`: the lowest point of a function of many variables."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import prepare_jax, value, whole

prepare_jax()  # before the imports below bring JAX in

import numpy as np  # noqa: E402

import thalweg  # noqa: E402
from thalweg import registry, schema  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.display import StatusLine, plural, seconds  # noqa: E402
from thalweg.errors import InputError, RunFolderError, suggest  # noqa: E402
from thalweg.importing import module_at  # noqa: E402
from thalweg.minimizers import base  # noqa: E402
from thalweg.minimizers.function import Function, function_of  # noqa: E402
from thalweg.potentials.landscapes import Landscape  # noqa: E402

#: Evaluations of a search, unless told.
EVALUATIONS = 300_000
#: Variables of the minimum that are printed.
SHOWN = 6


def minimize(options: Namespace) -> int:
    """Minimise, print what was found, and write it to a file."""
    function = _function(options)
    method = _method(options)
    budget, seed = whole(options, "evaluations", 1) or EVALUATIONS, whole(options, "seed", 0) or 0
    limit = _seconds(options)
    output = _output(options, function)
    line = StatusLine(options.quiet)
    show = lambda c: line.show(f"{c.evaluations:,} evaluations, lowest {c.lowest:.6g}, {seconds(c.cpu_seconds)}")
    with Interrupt(lambda: line.note("finishing; what was found is kept")) as interrupt:
        name = options.method or "zoom"
        found = base.minimize(function, None, None, method, budget, seed, limit, interrupt.pressed, show)
        stopped = interrupt.pressed()
    line.clear()
    _write(output, function, found, name, seed, budget)
    if not options.quiet:
        print(_said(function, found, name, seed))
    print(f"written to {output}")
    return INTERRUPTED if stopped else 0


def _function(options: Namespace) -> Function:
    """What is minimised: `my_file:f`, or a landscape by its name."""
    dim = whole(options, "dim", 1)
    box = None if options.box is None else [_number("--box", side) for side in options.box]
    if ":" not in options.function:
        return function_of(_landscape(options.function, dim), None, box, options.function)
    where, _, name = options.function.rpartition(":")
    found = getattr(module_at(where, options.function), name, None)
    if found is None:
        own = [k for k, v in vars(module_at(where)).items() if callable(v) and not k.startswith("_")]
        raise InputError(f'{where} has no function "{name}".{suggest(name, own)}')
    return function_of(found, dim, box, name)


def _landscape(name: str, dim: int | None) -> Landscape:
    known = [n for n in registry.names("potential") if n in registry.COMPONENTS["potential"]]
    landscapes = [n for n in known if issubclass(registry.find("potential", n), Landscape)]
    if name not in landscapes:
        raise InputError(
            f'there is no landscape called "{name}".{suggest(name, landscapes)} A function of your own is written my_file:f'
        )
    if dim is None:
        raise InputError(f"how many variables {name} has is missing; give --dim N")
    made = schema.build("potential", schema.fill("potential", {"kind": name, "dim": dim}, "[potential]"))
    assert isinstance(made, Landscape)
    return made


def _method(options: Namespace) -> base.Minimizer:
    table: dict = {"kind": options.method or "zoom"}
    for pair in options.set:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: write KEY=VALUE, such as pairs_per_variable=4")
        table[key] = value(text)
    return schema.build("minimizer", schema.fill("minimizer", table, "--set"))


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} {text} is no number") from None


def _seconds(options: Namespace) -> float | None:
    if options.time is None:
        return None
    limit = _number("--time", options.time)
    if not limit > 0:
        raise InputError(f"--time {options.time} is no time; give CPU seconds above 0")
    return limit


def _output(options: Namespace, function: Function) -> Path:
    """Where the minimum is written; a file that is there already is never written over."""
    if options.output:
        path = Path(options.output)
        if path.exists():
            raise RunFolderError(f"{path} exists already; give another --output")
        if not path.parent.is_dir():
            raise RunFolderError(f"there is no folder {path.parent} for {path.name}; make it first")
        return path
    stem = f"{function.name}-{function.dim}-minimum"
    return next(p for k in range(1, 10**9) if not (p := Path(f"{stem}{'' if k == 1 else f'-{k}'}.json")).exists())


def _write(path: Path, function: Function, found: base.Minimum, method: str, seed: int, budget: int) -> None:
    document = {
        "function": function.name,
        "dim": function.dim,
        "low": _short(function.low),
        "high": _short(function.high),
        "method": method,
        "seed": seed,
        "budget": budget,
        "value": found.value,
        "x": found.x.tolist(),
        "believed": None if found.believed is None else np.asarray(found.believed, float).tolist(),
        "evaluations": found.evaluations,
        "gradients": found.gradients,
        "failed": found.failed,
        "cpu_seconds": round(found.cpu_seconds, 3),
        "history": [list(row) for row in found.history],
        "version": thalweg.__version__,
    }
    try:
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}; the lowest value was {found.value!r}") from error


def _short(ends: np.ndarray) -> float | list[float]:
    return float(ends[0]) if np.ptp(ends) == 0 else ends.tolist()


def _said(function: Function, found: base.Minimum, method: str, seed: int) -> str:
    """What a user reads."""
    x = ", ".join(f"{v:.6g}" for v in found.x[:SHOWN]) + (", ..." if function.dim > SHOWN else "")
    spent = plural(found.evaluations, "evaluation") + (f", {plural(found.gradients, 'gradient')}" if found.gradients else "")
    reached = found.history[-1][0] if found.history else found.evaluations
    lines = [
        f"{function.name} of {plural(function.dim, 'variable')}, {method}, seed {seed}",
        f"  lowest value  {found.value:.10g}",
        f"  at            ({x})",
        f"  spent         {spent}, {seconds(found.cpu_seconds)} of CPU time; the lowest came after {reached:,} evaluations",
    ]
    if found.failed:
        lines.append(f"  not finite    {plural(found.failed, 'evaluation')}")
    return "\n".join(lines)
