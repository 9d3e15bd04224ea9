"""`thalweg reproduce`: published tables, run again beside strong baselines and this package's methods."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import prepare_jax, whole

prepare_jax()  # before the imports below bring JAX in

from thalweg.benchmark.checks import checked  # noqa: E402
from thalweg.benchmark.experiments import EXPERIMENTS, Cells, Experiment, Options, Table, chosen, experiment, run_table  # noqa: E402
from thalweg.benchmark.headlines import shipped  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.display import bold, paragraph, table  # noqa: E402
from thalweg.errors import InputError  # noqa: E402


def reproduce(options: Namespace) -> int:
    """Run the tables of an experiment that are not yet in the results file, and print them."""
    if options.check:
        return _check(options)
    if options.experiment is None:
        return _list()
    made = experiment(options.experiment)
    given, workers = _options(options), whole(options, "workers", 1) or 1
    tables = [made.table(name) for name in _names(options.table) or ()]
    tables = tables or [t for t in made.tables if (t.quick or not given.quick) and (given.full or not t.expensive)]
    wanted = [(t, *chosen(t, _names(options.systems), _names(options.methods), given.quick)) for t in tables]
    for one, *_ in wanted:
        if one.expensive and not given.full:
            raise InputError(f"the table {one.name} is expensive: {one.expensive}; add --full to run it")
    path = Path(options.json or f"thalweg-runs/{made.name}{'-quick' if given.quick else ''}.json")
    cells = Cells(path, made.name)
    note = lambda text: print(text, flush=True)
    with Interrupt(lambda: note("stopping after this cell; Ctrl-C again stops at once")) as interrupt:
        print(f"{made.source}; cells are kept in {path}")
        for one, systems, methods in wanted:
            if interrupt.pressed():
                break
            _print(one, run_table(one, systems, methods, given, cells, note, interrupt.pressed, workers))
        if options.figures and not interrupt.pressed():
            _draw(made, Path(options.figures), cells.rows, given)
        return INTERRUPTED if interrupt.pressed() else 0


def _print(of: Table, rows: list[dict]) -> None:
    """Show a table, as far as it got."""
    print(f"\n{of.name}: {of.what}\n")
    for section in of.sections(rows):
        print(section.text)


def _draw(made: Experiment, folder: Path, rows: list[dict], given: Options) -> None:
    if made.figures is None:
        raise InputError(f"{made.name} has no figures; leave --figures out")
    for path in made.figures(folder, rows, given, lambda text: print(text, flush=True)):
        print(f"wrote {path}")


def _check(options: Namespace) -> int:
    """Whether cells that take seconds still give what they gave when results were committed; 1 where one does not."""
    if options.experiment is not None:
        raise InputError("--check runs cells of all experiments; leave the name out")
    lines, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for check, value, fine in checked(Path(folder)):
            where = f"{check.experiment} {check.table} {check.system} {check.method}"
            lines.append([where, check.what, f"{value:.6g}", f"{check.low:g} to {check.high:g}", "" if fine else "CHANGED"])
            print(f"{where}: {value:.6g}{'' if fine else ', which is not what was committed'}", flush=True)
            wrong += not fine
    print()
    print(table(["cell", "", "now", "committed", ""], lines, (0, 1)))
    if wrong:
        print(f"{wrong} of {len(lines)} cells have changed: run their tables again and commit what they give")
    return int(wrong > 0)


def _list() -> int:
    """What was published, what is found here, and what can be run."""
    for said in shipped():
        print(bold(f"{said.work}: {said.what}"))
        print(paragraph("published", said.published))
        print(paragraph("here", said.here))
        print(paragraph("beside it", said.beside))
        print(paragraph("again", said.command))
    print()
    for name in EXPERIMENTS:
        made = experiment(name)
        print(f"{name}: {made.source}")
        for one in made.tables:
            print(f"  {one.name:17s}{one.what}{' (only with --full)' if one.expensive else ''}")
            print(f"  {'':17s}systems: {', '.join(one.systems)}; methods: {', '.join(one.methods)}")
    return 0


def _options(options: Namespace) -> Options:
    """What the user changes."""
    weights = {}
    for pair in options.weights:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise InputError(f"--weights {pair}: write METHOD=NAME, such as learned=my-weights.json")
        weights[name] = file
    return Options(
        count=whole(options, "count"),
        evaluations=whole(options, "evaluations"),
        horizon=whole(options, "horizon"),
        seed=whole(options, "seed", 0) or 0,
        weights=weights,
        quick=options.quick,
        full=options.full,
    )


def _names(text: str | None) -> list[str] | None:
    """The names of a list with commas."""
    return None if text is None else [name for name in text.split(",") if name]
