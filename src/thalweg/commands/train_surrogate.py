"""`thalweg train` of an input with a [surrogate]: a network of energies, after a search for hyper-parameters where wanted."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

from thalweg.commands import train_epochs  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.display import StatusLine, plural, seconds, table  # noqa: E402
from thalweg.learning import checkpoint, surrogate_files, surrogate_recipe  # noqa: E402
from thalweg.learning.surrogate_files import INPUT, METRICS, TRIALS, WEIGHTS  # noqa: E402
from thalweg.learning.surrogate_recipe import SurrogateRecipe  # noqa: E402
from thalweg.learning.tuning import Trial, tune  # noqa: E402
from thalweg.surrogates.networks.metrics import constants, metrics  # noqa: E402
from thalweg.surrogates.networks.training import Progress, predicted, trained  # noqa: E402


def concerns(options: Namespace) -> bool:
    """Whether the input, or the training to be resumed, has a [surrogate]."""
    return train_epochs.concerns("surrogate", surrogate_recipe.INPUTS, options)


def train(options: Namespace, fresh: Callable[[Path], None]) -> int:
    """Train what a TOML input says, in a new folder that `fresh` makes, or go on with a training."""
    refuse = lambda recipe: recipe.network()  # what no network can be made of
    folder, recipe = train_epochs.begun(surrogate_recipe, options, fresh, refuse)
    line = StatusLine(options.quiet)
    note = lambda: line.note("stopping after this epoch; Ctrl-C again stops at once")
    with Interrupt(note) as interrupt:
        if recipe.tune is not None:
            found = _search(recipe, folder, options, line, interrupt)
            if found is None:
                return train_epochs.stopped(folder)
            recipe = found
            checkpoint.keep(folder, recipe.text)
            train_epochs.write(folder / INPUT, recipe.text)
        line.show(f"{recipe.name}  making the data")
        progress = train_epochs.run(recipe, checkpoint.kept(folder, recipe.begun()), folder, line, interrupt, _said)
        done = progress.ended(recipe.settings)
        line.clear()
    if progress.epoch:
        _results(recipe, progress, folder)
    if options.out is not None and progress.epoch:
        train_epochs.write(Path(options.out), (folder / WEIGHTS).read_text(encoding="utf-8"))
    return 0 if done else train_epochs.stopped(folder)


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


def _said(row: Mapping) -> list[str]:
    return [f"validation MAE {row['validation']:.4f}", f"MAPE {row['validation_mape']:.2f} %", f"loss {row['loss']:.4f}"]


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


__all__ = ["concerns", "train", "trial_loss"]
