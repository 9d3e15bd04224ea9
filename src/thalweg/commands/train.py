"""`thalweg train`: weights of a learned relaxer or search for one's own potential."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import time
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

import thalweg  # noqa: E402
from thalweg.commands import INTERRUPTED, train_builder, train_surrogate  # noqa: E402
from thalweg.commands.environment import assign, value  # noqa: E402
from thalweg.commands.folders import new_folder  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.display import StatusLine, plural, seconds, table  # noqa: E402
from thalweg.errors import InputError, RunFolderError  # noqa: E402
from thalweg.learning import checkpoint, recipe  # noqa: E402
from thalweg.learning.measure import baselines, measured, summary  # noqa: E402
from thalweg.learning.recipe import Recipe  # noqa: E402
from thalweg.learning.trainer import Report, Trainer  # noqa: E402
from thalweg.networks.weights import Weights, named, save  # noqa: E402
from thalweg.toml import parse_toml  # noqa: E402

INPUT, BEST, LAST = "input.toml", "weights.json", "last.json"
#: Seconds between two writes of what a training is resumed from.
SAVE_EVERY = 5.0
#: Cells of the progress bar.
BAR = 20


def train(options: Namespace) -> int:
    """Train what a TOML input says, or go on with a training."""
    for other in (train_surrogate, train_builder):
        if other.concerns(options):
            return other.train(options, _fresh)
    if options.resume is not None:
        return _resume(options)
    if options.file is None:
        raise InputError("what is trained is missing; write thalweg train FILE.toml, or --resume FOLDER; see docs/training.md")
    tables = recipe.read(options.file)
    if "data" in tables:
        raise InputError(f"{options.file} has [data] to learn from and not what learns; add [builder] or [surrogate]")
    made = recipe.resolve(_with_options(tables, options))
    folder = Path(options.output) if options.output else new_folder(made.name)
    _fresh(folder)
    line = StatusLine(options.quiet)
    if any(t.reference is None and t.baseline is None for t in made.tasks):
        line.show("relaxing some starts, to know what energies are usual")
        made = made.with_baselines(baselines(made))
    _write(folder / INPUT, made.text)
    # A training is complete from the start: what is killed before the first update is resumed like any other.
    trainer = Trainer(made.stages(), made.parameters, made.train.seed)
    assert trainer.state is not None
    checkpoint.write(folder, trainer.state, made.text)
    return _train(trainer, made, folder, options, line)


def _resume(options: Namespace) -> int:
    folder = Path(options.resume)
    if options.output or options.set or options.seed is not None:
        raise InputError(
            "a training that is resumed keeps its folder, its seed and its input; only --updates may be given anew"
        )
    tables = parse_toml(checkpoint.read_document(folder), f"the input in {folder}")
    if options.file is not None:
        mine, kept = recipe.resolve(recipe.read(options.file)), recipe.resolve(tables)
        if mine.of_course != kept.of_course:
            raise InputError(f"{options.file} is not what {folder} was begun with; leave it out, or begin a new training")
    made = recipe.resolve(_with_options(tables, options))
    stages = made.stages()
    like = lambda k: stages[k].strategy.init(np.asarray(ravel_pytree(made.parameters)[0]))
    state = checkpoint.read(folder, like)
    trainer = Trainer(stages, made.parameters, made.train.seed, state)
    if trainer.done and options.updates is None and _finished(folder / BEST, trainer, made):
        print(f"{folder} is done: {plural(_total(trainer), 'update')}, weights in {folder / BEST}.")
        print(f"To go on: thalweg train --resume {shlex.quote(str(folder))} --updates {2 * stages[-1].updates}")
        return _copied(folder, options)
    _write(folder / INPUT, made.text)
    return _train(trainer, made, folder, options, StatusLine(options.quiet))


def _finished(path: Path, trainer: Trainer, made: Recipe) -> bool:
    """Whether these weights are of all updates, and measured: not if a training was stopped before it wrote them."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return held["trained"]["updates"] == _total(trainer) and bool(held["measured"] or not made.train.test)


def _with_options(tables: dict, options: Namespace) -> dict:
    """The tables with --set, --seed and --updates entered; those are of the last stage."""
    if options.seed is not None:
        tables.setdefault("train", {})["seed"] = value(options.seed)
    assign(tables, options.set, recipe.TABLES)
    if options.updates is not None:
        stages = tables.get("stages")
        last = stages[-1] if isinstance(stages, list) and stages else tables.setdefault("train", {})
        last["updates"] = value(options.updates)
    return tables


def _train(trainer: Trainer, made: Recipe, folder: Path, options: Namespace, line: StatusLine) -> int:
    """Update after update, with what the terminal shows and what is kept, to the end or to Ctrl-C."""
    saved = time.monotonic()
    note = lambda: line.note("stopping after this update; Ctrl-C again stops at once")
    with Interrupt(note) as interrupt:
        while not trainer.done and not interrupt.pressed():
            assert trainer.state is not None
            if trainer.state.update in (0, trainer.stages[trainer.state.stage].updates):
                line.show(f"{made.name}  compiling (once for each stage; some seconds)")
            report = trainer.advance()
            line.show(text_of(report, trainer, made))
            if time.monotonic() - saved >= SAVE_EVERY:
                checkpoint.write(folder, trainer.state, made.text)
                saved = time.monotonic()
        assert trainer.state is not None
        checkpoint.write(folder, trainer.state, made.text)
        stopped = not trainer.done
        rows: list[dict] = []
        if not stopped and made.train.test:
            line.show(f"{made.name}  measuring on fresh starts")
            rows = measured(trainer, made, np.asarray(ravel_pytree(made.untrained)[0]))
        line.clear()
    _save(folder / BEST, trainer, made, trainer.state.best, rows)
    _save(folder / LAST, trainer, made, trainer.state.last, [])
    _tell(trainer, made, folder, rows, stopped)
    code = _copied(folder, options)
    return INTERRUPTED if stopped else code


def text_of(report: Report, trainer: Trainer, made: Recipe) -> str:
    """The live line, most important first, so that a narrow terminal cuts the rest."""
    assert trainer.state is not None
    stage, members = trainer.stages[report.stage], made.members(report.stage)
    number = report.update + sum(s.updates for s in trainer.stages[: report.stage])
    total = _total(trainer)
    full = round(BAR * number / total)
    energies = ", ".join(f"{t.name} {m * t.unit:.3f}" for t, m in zip(members, report.medians, strict=False))
    words = [
        f"[{'#' * full}{'-' * (BAR - full)}] {number}/{total}",
        f"median {energies}",
        f"validation {_energies(trainer, members)}{' (best)' if trainer.state.best_update == report.update else ''}",
        f"{seconds(trainer.state.cpu)} CPU",
        f"{seconds(report.left)} left",
        f"horizon {int(np.max(report.plan)):,}",
    ]
    if len(trainer.stages) > 1:
        words.insert(1, f"stage {report.stage + 1}/{len(trainer.stages)} {report.update}/{stage.updates}")
    return "  ".join(words)


def _energies(trainer: Trainer, members) -> str:
    """Mean energies of the last validation."""
    assert trainer.state is not None
    row = trainer.state.history[-1]
    return ", ".join(f"{v * t.unit:.3f}" for t, v in zip(members, row["groups"], strict=False))


def _total(trainer: Trainer) -> int:
    return sum(s.updates for s in trainer.stages)


def _save(path: Path, trainer: Trainer, made: Recipe, vector: np.ndarray, rows: list[dict]) -> None:
    """Write a weights file; it is in place as a whole or not at all."""
    state, component = trainer.state, made.component
    assert state is not None
    energy, length = made.potential.units(np.concatenate([np.asarray(t.system.numbers) for t in made.tasks]))
    unit = lambda name, of, symbol: {name: f"{getattr(component, name):g} {symbol} ({of})"} if hasattr(component, name) else {}
    done = sum(s.updates for s in trainer.stages[: state.stage]) + state.update
    weights = Weights(
        type(component).__name__,
        tuple(component.features),
        {k: np.asarray(a, np.float32) for k, a in named(trainer.unravel(jnp.asarray(vector, jnp.float32))).items()},
        {**unit("length", "a bond", length), **unit("energy", "of a bond", energy)},
        tuple(sorted({int(z) for t in made.tasks for z in np.asarray(t.system.numbers)})),
        any(any(t.system.pbc) for t in made.tasks),
        {
            "input": made.tables, "seed": made.train.seed, "updates": done, "kept": state.best_update,
            "cpu_seconds": round(state.cpu, 2), "compile_cpu_seconds": round(state.compiling, 2),
            "seconds": round(state.wall, 2), "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
            "machine": platform.machine(), "thalweg": thalweg.__version__, "jax": jax.__version__,
            "date": datetime.date.today().isoformat(), "validation": list(state.history[-1:]),
        },
        tuple(rows),
    )  # fmt: skip
    fresh = path.with_name(f".{path.name}.new")
    try:
        save(fresh, weights)
        fresh.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; make room, then resume it") from None


def _tell(trainer: Trainer, made: Recipe, folder: Path, rows: list[dict], stopped: bool) -> None:
    """What has come of it, on standard output."""
    state = trainer.state
    assert state is not None
    done = sum(s.updates for s in trainer.stages[: state.stage]) + state.update
    print(
        f"{made.name}: {done} of {plural(_total(trainer), 'update')}, {seconds(state.cpu)} CPU and {seconds(state.compiling)} "
        f"of compiling; best at update {state.best_update} of stage {state.stage + 1}"
    )
    if rows:
        head = ["system", "evaluations", "starts", "success (95 %)", "untrained", "mean energy", "untrained"]
        print(table(head, summary(rows)))
        unknown = [r["system"] for r in rows if not r["known"]]
        if unknown:
            print(
                f"No energy is known for {', '.join(unknown)}: success is reaching the lowest that any of these starts found."
            )
    print(f"weights   {folder / BEST}")
    if stopped:
        print(f"go on     thalweg train --resume {shlex.quote(str(folder))}")


def _copied(folder: Path, options: Namespace) -> int:
    """The weights where --out wants them."""
    if options.out is not None:
        _write(Path(options.out), (folder / BEST).read_text(encoding="utf-8"))
    return 0


def _fresh(folder: Path) -> None:
    """Make the folder; refuse one that holds a training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make {folder}: {error.strerror or error}; choose another with --output") from None
    if (folder / checkpoint.NAME).exists():
        raise RunFolderError(
            f"{folder} holds a training already; go on with it by `thalweg train --resume {shlex.quote(str(folder))}`, or "
            "choose another with --output"
        )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another place") from None


__all__ = ["train"]
