"""`thalweg train` of an input with a [builder]: a network that learns from molecules where atoms belong."""

from __future__ import annotations

import datetime
import platform
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

import jax  # noqa: E402

import thalweg  # noqa: E402
from thalweg.agents.builder_files import save_builder  # noqa: E402
from thalweg.commands import train_epochs  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.display import StatusLine, plural, seconds, table  # noqa: E402
from thalweg.learning import builder_recipe, checkpoint  # noqa: E402
from thalweg.learning.builder_recipe import BuilderRecipe  # noqa: E402
from thalweg.learning.imitation import Progress  # noqa: E402
from thalweg.learning.molecule_set import load_molecules  # noqa: E402
from thalweg.learning.surrogate_files import write_json  # noqa: E402

#: Files of a training's folder.
BUILDER, METRICS, MOLECULES = "builder.json", "metrics.json", "molecules.npz"


def concerns(options: Namespace) -> bool:
    """Whether the input, or the training to be resumed, has a [builder]."""
    return train_epochs.concerns("builder", builder_recipe.INPUTS, options)


def train(options: Namespace, fresh: Callable[[Path], None]) -> int:
    """Train what a TOML input says, in a new folder that `fresh` makes, or go on with a training."""
    refuse = lambda recipe: builder_recipe.untrained((1, 6), recipe.sizes, 0)  # what no network can be made of
    folder, recipe = train_epochs.begun(builder_recipe, options, fresh, refuse)
    line = StatusLine(options.quiet)
    recipe = _with_molecules(recipe, folder, line)
    note = lambda: line.note("stopping after this epoch; Ctrl-C again stops at once")
    with Interrupt(note) as interrupt:
        progress = train_epochs.run(recipe, checkpoint.kept(folder, recipe.begun()), folder, line, interrupt, _said)
        done = progress.ended(recipe.settings)
        line.clear()
    if progress.epoch:
        _results(recipe, progress, folder)
    if options.out is not None and progress.epoch:
        train_epochs.write(Path(options.out), (folder / BUILDER).read_text(encoding="utf-8"))
    return 0 if done else train_epochs.stopped(folder)


def _with_molecules(recipe: BuilderRecipe, folder: Path, line: StatusLine) -> BuilderRecipe:
    """The recipe with its molecules at hand; those that are made are kept in the folder, and not made again."""
    kept = folder / MOLECULES
    if recipe.source.file is not None or kept.is_file():
        return replace(recipe, made=load_molecules(kept if kept.is_file() else recipe.source.file or kept))
    line.show(f"{recipe.name}  making molecules")
    told = lambda done, failed: line.show(f"{recipe.name}  {done:,} molecules labelled, {failed:,} left out")
    made = recipe.source.molecules(told)
    made.save(kept)
    line.clear()
    return replace(recipe, made=made)


def _said(row: Mapping) -> list[str]:
    return [
        f"validation {row['validation']:.4f}",
        f"energy {1000 * row['energy']:.0f} meV/atom",
        f"force {row['force']:.3f} eV/Å",
        f"actions {row['accuracy']:.1%}",
    ]


def _results(recipe: BuilderRecipe, progress: Progress, folder: Path) -> None:
    """The builder and its scores into the folder, and a table on standard output."""
    kept = progress.history[progress.best_epoch - 1]
    cpu = sum(row["cpu"] for row in progress.history)
    held = [len(part) for part in recipe.parts]
    scores = {k: kept[k] for k in ("validation", "energy", "force", "action", "accuracy", "chosen")}
    about = {
        "input": recipe.tables, "molecules": {"digest": recipe.molecules.digest, **recipe.molecules.about},
        "structures": dict(zip(("train", "test"), held, strict=True)), "epochs": progress.epoch, "kept": progress.best_epoch,
        "scores": scores, "cpu_seconds": round(cpu, 1), "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "machine": platform.machine(), "thalweg": thalweg.__version__, "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    isomers = {name: round(value, 4) for name, value in recipe.molecules.isomers.items()}
    save_builder(folder / BUILDER, progress.best, {**about, "isomers": isomers})
    write_json(folder / METRICS, {**about, "history": list(progress.history)})
    print(
        f"{recipe.name}: {progress.epoch} of {plural(recipe.settings.epochs, 'epoch')}, {seconds(cpu)} CPU; best at epoch "
        f"{progress.best_epoch}; {progress.best.n_parameters:,} parameters, {held[0]:,} structures of "
        f"{len(recipe.molecules.smiles):,} molecules"
    )
    head = ["of molecules held out", "energy, meV/atom", "force, eV/Å", "actions right", "best action right"]
    print(table(head, [[f"{held[1]:,} structures", f"{1000 * kept['energy']:.1f}", f"{kept['force']:.3f}",
                        f"{kept['accuracy']:.1%}", f"{kept['chosen']:.1%}"]]))  # fmt: skip
    print(f"builder   {folder / BUILDER}")


__all__ = ["concerns", "train"]
