"""What training has come to: success and energies from starts that were never trained on, beside the method untrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from thalweg import prng
from thalweg.confidence import success_bounds
from thalweg.errors import PotentialError
from thalweg.generators.base import Generator
from thalweg.generators.harmonic import Harmonic
from thalweg.learning.meta import RUINED
from thalweg.learning.recipe import Recipe, Task
from thalweg.learning.trainer import MEASUREMENT, Trainer
from thalweg.potentials.base import Potential
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure

#: An end this near to the lowest energy, in energies of a bond, has found it.
TOLERANCE = 2e-3
#: Plain relaxations whose best is what losses are divided by, where no energy is known.
BASELINE_STARTS = 64


def baselines(recipe: Recipe) -> dict[str, float]:
    """Energies of the best of some relaxations by L-BFGS, of the systems without a known energy."""
    return {
        t.name: best_of_relaxations(t, recipe.potential, recipe.train.seed)
        for t in recipe.tasks
        if t.reference is None and t.baseline is None
    }


def best_of_relaxations(task: Task, potential: Potential, seed: int, generator: Generator = Harmonic()) -> float:  # noqa: B008
    """Lowest energy of `BASELINE_STARTS` relaxations of starts."""
    system = task.system
    blank = system.structure(np.zeros((1, len(system.numbers), 3)))
    with jax.enable_x64(True):
        keys = jax.random.split(prng.key(seed), BASELINE_STARTS)
        x = np.asarray(jax.jit(jax.vmap(lambda key: generator(key, blank, system).positions))(keys))
    bond = float(np.mean(system.bond_lengths))
    starts: Structure = system.structure(x)
    found = relax(starts, Relaxation(potential, LBFGS(max_step=0.15 * bond), 1e-3 / bond, 2000))
    good = np.isfinite(found.energy)
    if not good.any():
        raise PotentialError(
            f"none of {BASELINE_STARTS} relaxations of {task.name} has a finite energy; check the potential on one structure "
            "with `thalweg check`"
        )
    return float(found.energy[good].min())


def measured(trainer: Trainer, recipe: Recipe, untrained: np.ndarray) -> list[dict]:
    """One row per system of the last stage: the best parameters and the untrained ones on the same `test` fresh starts.

    Energies are those of the training's float32 after the longest horizon of the stage, all evaluations counted. Bounds are
    Clopper-Pearson at 95 %.
    """
    k, count = len(trainer.stages) - 1, recipe.train.test
    members = recipe.members(-1)
    if not count:
        return []
    assert trainer.state is not None
    programs = trainer.programs(k)
    stage = trainer.stages[-1]
    fewest = min(np.bincount(programs.groups, minlength=len(members)))
    rounds = -(-count // max(1, int(fewest)))
    plan = stage.loss.typical(most=True)
    losses = trainer.compared([trainer.state.best, untrained], rounds, programs, plan, MEASUREMENT, stage.loss.measuring())
    groups = np.tile(programs.groups, rounds)
    scale = [recipe.potential.energy_scale(np.asarray(t.system.numbers)) or 1.0 for t in members]
    return [row(t, losses[:, groups == g][:, :count] * t.unit, int(plan), TOLERANCE * scale[g]) for g, t in enumerate(members)]


def row(task: Task, energies: np.ndarray, evaluations: int, tolerance: float) -> dict:
    """What is written of energies (2, starts): trained and untrained."""
    ruined = energies >= RUINED * task.unit
    held = np.where(ruined, np.nan, energies)
    lowest = float(np.nanmin(held)) if np.isfinite(held).any() else None
    target = task.reference if task.reference is not None else lowest
    out: dict = {"system": task.name, "evaluations": evaluations, "starts": energies.shape[1], "target": target}
    out["known"] = task.reference is not None
    for which, name in enumerate(("", "untrained ")):
        one = held[which]
        hits = 0 if target is None else int(np.sum(one <= target + tolerance))
        low, high = success_bounds(hits, len(one))
        fine = np.isfinite(one).any()
        out |= {
            f"{name}hits": hits, f"{name}success": hits / len(one), f"{name}low": round(low, 4), f"{name}high": round(high, 4),
            f"{name}mean": float(np.nanmean(one)) if fine else None, f"{name}lowest": float(np.nanmin(one)) if fine else None,
        }  # fmt: skip
    return out


def summary(rows: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """Rows of a table for people: system, evaluations, starts, success and mean energy, trained and untrained."""
    number = lambda value: "none" if value is None else f"{value:.4f}"
    sure = lambda r, name: f"{r[name + 'success']:.2f} ({r[name + 'low']:.2f}-{r[name + 'high']:.2f})"
    return [
        (
            r["system"], f"{r['evaluations']:,}", str(r["starts"]), sure(r, ""), sure(r, "untrained "), number(r["mean"]),
            number(r["untrained mean"]),
        )
        for r in rows
    ]  # fmt: skip
