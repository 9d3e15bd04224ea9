"""`thalweg reinforce`: one builder learns from the molecules of several formulas at once."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.folders import new_folder  # noqa: E402
from thalweg.commands.inputs import tables_of  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.search import meta_of, to_resume, write_input, write_results  # noqa: E402
from thalweg.commands.train_epochs import write  # noqa: E402
from thalweg.config import Resolved, resolve  # noqa: E402
from thalweg.display import StatusLine, energy, plural, table  # noqa: E402
from thalweg.errors import InputError, RunFolderError  # noqa: E402
from thalweg.learning.reinforcement import Course, composed, together  # noqa: E402
from thalweg.run import Result  # noqa: E402
from thalweg.store import Store  # noqa: E402
from thalweg.toml import to_toml  # noqa: E402

#: The builder that all have made, in the folder of all runs.
BUILDER = "builder.json"


def reinforce(options: Namespace) -> int:
    """Search for molecules of every formula with one builder, and keep what it has learned."""
    if options.method not in (None, "builder"):
        raise InputError(f"what learns from several formulas is a builder, not {options.method}; leave --method out")
    line, going_on = StatusLine(options.quiet), options.resume is not None
    with ExitStack() as stack, Interrupt(lambda: line.note("stopping after this visit; Ctrl-C again stops at once")) as pressed:
        folder, made, stores = _resumed(options, stack) if going_on else _begun(options, stack)
        if not made:
            print(f"all runs in {folder} are done; to go on: thalweg reinforce --resume {folder} --evaluations 1000")
            return 0
        line.show(f"{plural(len(made), 'formula', 'formulas')}  compiling (once for each size; some seconds)")
        runs = list(zip(made, stores, strict=True))
        results = together(runs, lambda courses: line.show(_course(courses)), pressed.pressed, going_on)
        line.clear()
        for one, result, store in zip(made, results, stores, strict=True):
            write_results(one, result, store)
        write(folder / BUILDER, _builder(made, results))
        stopped = pressed.pressed()
    print(_summary(made, results))
    print(f"runs      {folder}: {', '.join(one.name for one in made)}")
    print(f"builder   {folder / BUILDER}")
    if stopped:
        print(f"to go on: thalweg reinforce --resume {shlex.quote(str(folder))}")
    return INTERRUPTED if stopped else 0


def _begun(options: Namespace, stack: ExitStack) -> tuple[Path, list[Resolved], list[Store]]:
    """The runs of all formulas, each in a folder of its own below a new one."""
    if not options.formulas:
        raise InputError("the following arguments are required: FORMULA, or --resume FOLDER; see `thalweg reinforce --help`")
    made = [_resolved(formula, options) for formula in options.formulas]
    composed(made)
    folder = Path(options.output) if options.output else new_folder("reinforce")
    stores = [stack.enter_context(Store.create(folder / one.name, meta_of(one))) for one in made]
    for one, store in zip(made, stores, strict=True):
        write_input(store, to_toml(one.tables))
    return folder, made, stores


def _resumed(options: Namespace, stack: ExitStack) -> tuple[Path, list[Resolved], list[Store]]:
    """The runs in a folder that are not done."""
    folder = Path(options.resume)
    given = ("output", "agent", "calculator", "potential", "seed", "walkers", "seeds", "relaxer")
    if options.formulas or options.set or any(getattr(options, name) is not None for name in given):
        raise InputError(f"--resume goes on with the runs in {folder}; only limits and workers may be given anew")
    found = sorted(path.parent for path in folder.glob("*/run.db"))
    if not found:
        raise RunFolderError(f"{folder} holds no runs of a builder; it is the folder that `thalweg reinforce` names at its end")
    made, stores = [], []
    for one in found:
        store = stack.enter_context(Store.open(one, write=True))
        resolved, stop, _ = to_resume(store, options)
        if stop is not None:
            made.append(replace(resolved, stop=stop))
            stores.append(store)
    return folder, made, stores


def _resolved(formula: str, options: Namespace) -> Resolved:
    one = Namespace(**{**vars(options), "what": formula, "formula": None, "method": "builder"})
    return resolve(tables_of(one))


def _course(courses: Sequence[Course]) -> str:
    """One line for a terminal."""
    told = sum(c.session.ledger.evaluations for c in courses)
    done = sum(c.reason is not None for c in courses)
    return f"{len(courses)} formulas  {told:,} evaluations  {done} done"


def _builder(made: Sequence[Resolved], results: Sequence[Result]) -> str:
    """The builder of all, whose card names all formulas."""
    last, result = made[-1], results[-1]
    held = json.loads(last.search.products(result.state, last.system)["builder.json"])  # type: ignore[union-attr]
    episodes = {one.name: r.ledger.relaxations for one, r in zip(made, results, strict=True)}
    held["about"]["searched"] = {"episodes": sum(episodes.values()), "formulas": episodes}
    return json.dumps(held, indent=1) + "\n"


def _summary(made: Sequence[Resolved], results: Sequence[Result]) -> str:
    head = ["formula", "lowest, eV", "evaluations", "relaxed"]
    rows = [
        [
            one.name,
            energy(r.progress.best) if r.best is not None else "nothing",
            f"{r.progress.evaluations:,}",
            "yes" if r.final is not None else "no",
        ]
        for one, r in zip(made, results, strict=True)
    ]
    return table(head, rows)


__all__ = ["reinforce"]
