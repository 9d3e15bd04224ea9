"""`thalweg train` of an input with a [surrogate]: a network of energies, after a search for hyper-parameters where wanted."""

from __future__ import annotations

import shlex
import time
from argparse import Namespace
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.environment import assign, value  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.search import new_folder  # noqa: E402
from thalweg.config import parse_toml  # noqa: E402
from thalweg.display import StatusLine, plural, seconds, table  # noqa: E402
from thalweg.errors import InputError, RunFolderError  # noqa: E402
from thalweg.learning import checkpoint, surrogate_files, surrogate_recipe  # noqa: E402
from thalweg.learning.surrogate_files import INPUT, METRICS, TRIALS, WEIGHTS  # noqa: E402
from thalweg.learning.surrogate_recipe import SurrogateRecipe  # noqa: E402
from thalweg.learning.tuning import Trial, tune  # noqa: E402
from thalweg.surrogates.networks.metrics import constants, metrics  # noqa: E402
from thalweg.surrogates.networks.training import Progress, begin, epochs, predicted, trained  # noqa: E402

#: Seconds between two writes of what a training is resumed from.
SAVE_EVERY = 5.0
#: Cells of the progress bar.
BAR = 20


def concerns(options: Namespace) -> bool:
    """Whether the input, or the training to be resumed, has a [surrogate]."""
    if options.resume is not None:
        return "surrogate" in parse_toml(checkpoint.read_document(Path(options.resume)), f"the input in {options.resume}")
    if options.file is None:
        return False
    path = surrogate_recipe.found(options.file)
    return path.is_file() and "surrogate" in surrogate_recipe.read(options.file)


def train(options: Namespace, fresh: Callable[[Path], None]) -> int:
    """Train what a TOML input says, in a new folder that `fresh` makes, or go on with a training."""
    if options.resume is None:
        recipe = surrogate_recipe.resolve(_with_options(surrogate_recipe.read(options.file), options))
        recipe.network()  # what data or network cannot be made of is refused before there is a folder
        folder = Path(options.output) if options.output else new_folder(recipe.name)
        fresh(folder)
        surrogate_files.keep(folder, recipe)  # what is killed before the first epoch is resumed like any other
    else:
        folder = Path(options.resume)
        recipe = _resumed(options, folder)
    _write(folder / INPUT, recipe.text)
    line = StatusLine(options.quiet)
    note = lambda: line.note("stopping after this epoch; Ctrl-C again stops at once")
    with Interrupt(note) as interrupt:
        if recipe.tune is not None:
            found = _search(recipe, folder, options, line, interrupt)
            if found is None:
                return _stopped(folder)
            recipe = found
            surrogate_files.keep(folder, recipe)
            _write(folder / INPUT, recipe.text)
        line.show(f"{recipe.name}  making the data")
        progress = surrogate_files.kept(folder, begin(recipe.seed, recipe.network(), recipe.parts, recipe.settings))
        progress = _train(recipe, progress, folder, line, interrupt)
        done = progress.ended(recipe.settings)
        line.clear()
    if progress.epoch:
        _results(recipe, progress, folder)
    if options.out is not None and progress.epoch:
        _write(Path(options.out), (folder / WEIGHTS).read_text(encoding="utf-8"))
    return 0 if done else _stopped(folder)


def _resumed(options: Namespace, folder: Path) -> SurrogateRecipe:
    if options.output or options.set or options.seed is not None:
        raise InputError(
            "a training that is resumed keeps its folder, its seed and its input; only --updates, its epochs, may be given anew"
        )
    tables = parse_toml(checkpoint.read_document(folder), f"the input in {folder}")
    return surrogate_recipe.resolve(_with_options(tables, options))


def _with_options(tables: dict, options: Namespace) -> dict:
    """The tables with --set, --seed and --updates entered."""
    if options.seed is not None:
        tables.setdefault("train", {})["seed"] = value(options.seed)
    assign(tables, options.set, surrogate_recipe.TABLES)
    if options.updates is not None:
        tables.setdefault("train", {})["epochs"] = value(options.updates)
    return tables


def _search(
    recipe: SurrogateRecipe, folder: Path, options: Namespace, line: StatusLine, interrupt: Interrupt
) -> SurrogateRecipe | None:
    """The recipe with the best hyper-parameters found; None where the user stopped the search."""
    wanted, space = recipe.tune, recipe.space
    assert wanted is not None
    assert space is not None
    best: list[float] = []

    def tell(trial: Trial) -> None:
        if trial.loss is not None:
            best.append(trial.loss)
        said = trial.reason or f"validation MAE {trial.loss:.4f}, best {min(best):.4f}"
        line.show(f"trial {trial.number + 1}/{wanted.trials}  {said}")

    line.show(f"{recipe.name}  searching hyper-parameters: {plural(wanted.trials, 'trial')}")
    found = tune(
        partial(trial_loss, recipe.tables), space, trials=wanted.trials, group=wanted.group, processes=wanted.processes,
        seed=wanted.seed, journal=folder / TRIALS, note=tell, stopped=interrupt.pressed,
    )  # fmt: skip
    line.clear()
    if len(found.trials) < wanted.trials:
        return None
    names = list(space)
    rows = sorted((t for t in found.trials if t.loss is not None), key=lambda t: t.loss or 0)[:5]
    head = ["trial", "validation MAE", *names]
    print(table(head, [[str(t.number), f"{t.loss:.4f}", *(_short(t.values[n]) for n in names)] for t in rows]))
    return recipe.chosen(found.best.values)


def trial_loss(tables: dict, values: dict, number: int) -> float:
    """Lowest validation error (mean absolute, of the target) of a training with these values."""
    recipe = surrogate_recipe.resolve(tables).tried(values)
    parts = _parts(recipe.source)
    network = surrogate_recipe.untrained(recipe.kind, recipe.sizes, parts.train.subject, recipe.seed)
    return min(row["validation"] for row in trained(recipe.seed, network, parts, recipe.settings).history)


@lru_cache(maxsize=1)
def _parts(source: surrogate_recipe.Source):
    """The data, made once in each process."""
    return source.parts()


def _train(recipe: SurrogateRecipe, progress: Progress, folder: Path, line: StatusLine, interrupt: Interrupt) -> Progress:
    """Epoch after epoch, with what the terminal shows and what is kept, to the end or to Ctrl-C."""
    saved = time.monotonic()
    if not progress.ended(recipe.settings):
        line.show(f"{recipe.name}  compiling (once; some seconds)")
        for progress in epochs(progress, recipe.parts, recipe.settings):  # noqa: B020 -- from where it stands
            line.show(text_of(progress, recipe))
            if time.monotonic() - saved >= SAVE_EVERY:
                surrogate_files.keep(folder, recipe, progress)
                saved = time.monotonic()
            if interrupt.pressed():
                break
    surrogate_files.keep(folder, recipe, progress)
    return progress


def text_of(progress: Progress, recipe: SurrogateRecipe) -> str:
    """The live line, most important first, so that a narrow terminal cuts the rest."""
    rows, total = progress.history, recipe.settings.epochs
    full = round(BAR * progress.epoch / total)
    spent = [r["wall"] for r in rows[1:] or rows]  # the first epoch compiles
    return "  ".join(
        [
            f"[{'#' * full}{'-' * (BAR - full)}] {progress.epoch}/{total}",
            f"validation MAE {rows[-1]['validation']:.4f}{' (best)' if progress.best_epoch == progress.epoch else ''}",
            f"MAPE {rows[-1]['validation_mape']:.2f} %",
            f"loss {rows[-1]['loss']:.4f}",
            f"{seconds(sum(r['cpu'] for r in rows))} CPU",
            f"{seconds(sum(spent) / len(spent) * (total - progress.epoch))} left",
        ]
    )


def _results(recipe: SurrogateRecipe, progress: Progress, folder: Path) -> None:
    """Weights and scores into the folder, and a table on standard output."""
    parts = recipe.parts
    scores = {}
    for name, part in zip(parts._fields, parts, strict=True):
        scores[name] = metrics(predicted(progress.best.for_training(part.positions, part.numbers), part), part.target)
    trivial = constants(parts.train, parts.test)
    surrogate_files.write_weights(folder / WEIGHTS, recipe, progress, scores)
    surrogate_files.write_json(
        folder / METRICS, {"scores": scores, "constants": trivial, "structures": {n: len(p) for n, p in
        zip(parts._fields, parts, strict=True)}, "epochs": progress.epoch, "kept": progress.best_epoch,
        "history": list(progress.history)},
    )  # fmt: skip
    cpu = sum(row["cpu"] for row in progress.history)
    print(
        f"{recipe.name}: {progress.epoch} of {plural(recipe.settings.epochs, 'epoch')}, {seconds(cpu)} CPU; best at epoch "
        f"{progress.best_epoch}; {progress.best.n_parameters:,} parameters, {len(parts.train):,} structures"
    )
    rows = {**{k: scores[k] for k in ("train", "test") if k in scores}, **trivial}
    print(table(["of the target", "MAPE, %", "MAE", "R2"], [[k, *_scored(v)] for k, v in rows.items()]))
    print(f"weights   {folder / WEIGHTS}")


def _scored(row: dict) -> list[str]:
    return [f"{row['MAPE']:.2f}", f"{row['MAE']:.4f}", f"{row['R2']:.4f}"]


def _short(what) -> str:
    return f"{what:.3g}" if isinstance(what, float) else str(what)


def _stopped(folder: Path) -> int:
    print(f"go on     thalweg train --resume {shlex.quote(str(folder))}")
    return INTERRUPTED


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another place") from None


__all__ = ["concerns", "train", "trial_loss"]
