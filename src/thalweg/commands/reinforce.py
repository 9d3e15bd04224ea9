"""`thalweg reinforce`: one builder learns from the molecules of several formulas at once."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.folders import new_folder  # noqa: E402
from thalweg.commands.inputs import tables_of  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.search import meta_of, write_input, write_results  # noqa: E402
from thalweg.commands.train_epochs import write  # noqa: E402
from thalweg.config import Resolved, resolve  # noqa: E402
from thalweg.display import StatusLine, energy, plural, table  # noqa: E402
from thalweg.errors import InputError  # noqa: E402
from thalweg.learning.reinforcement import Course, together  # noqa: E402
from thalweg.run import Result  # noqa: E402
from thalweg.store import Store  # noqa: E402
from thalweg.toml import to_toml  # noqa: E402

#: The builder that all have made, in the folder of all runs.
BUILDER = "builder.json"


def reinforce(options: Namespace) -> int:
    """Search for molecules of every formula with one builder, and keep what it has learned."""
    if options.method not in (None, "builder"):
        raise InputError(f"what learns from several formulas is a builder, not {options.method}; leave --method out")
    made = [_resolved(formula, options) for formula in options.formulas]
    folder = Path(options.output) if options.output else new_folder("reinforce")
    line = StatusLine(options.quiet)
    with ExitStack() as stack, Interrupt(lambda: line.note("stopping after this visit; Ctrl-C again stops at once")) as pressed:
        stores = [stack.enter_context(Store.create(folder / one.name, meta_of(one))) for one in made]
        for one, store in zip(made, stores, strict=True):
            write_input(store, to_toml(one.tables))
        line.show(f"{plural(len(made), 'formula', 'formulas')}  compiling (once for each size; some seconds)")
        results = together(list(zip(made, stores, strict=True)), lambda courses: line.show(_course(courses)), pressed.pressed)
        line.clear()
        for one, result, store in zip(made, results, stores, strict=True):
            write_results(one, result, store)
        write(folder / BUILDER, _builder(made, results))
        stopped = pressed.pressed()
    print(_summary(made, results))
    print(f"runs      {folder}: {', '.join(one.name for one in made)}")
    print(f"builder   {folder / BUILDER}")
    return INTERRUPTED if stopped else 0


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
