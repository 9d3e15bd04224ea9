"""What trainings of StriderNet's policy come to by estimator of the gradient, and by features and architecture of the network.

V. Bihani et al., ICML 2023 (arXiv:2301.12477). Trainings are much shorter than those whose weights ship: long enough to tell
apart what learns from what does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg import prng
from thalweg.benchmark.experiments import Options, Section, Table, listed, mean_of, verdict
from thalweg.benchmark.learn2hop import by_system
from thalweg.benchmark.liquids import Liquid
from thalweg.benchmark.stridernet_analyses import DISPLACEMENTS, STARTS, followed, lowest, paired, quenched, starts_of, written
from thalweg.benchmark.stridernet_methods import policy
from thalweg.learning.policy_gradient import ESTIMATORS, PolicyGradient, PolicyLoss
from thalweg.learning.trainer import Stage, Trainer
from thalweg.networks.displacement import ARCHITECTURES
from thalweg.networks.strider import count
from thalweg.networks.weights import ZERO, parameters, with_parameters
from thalweg.relax.atom_features import NODES
from thalweg.relax.strider import PUBLISHED_EDGES, PUBLISHED_NODES, Strider

#: Updates of a training, of 8 episodes of 15 displacements each, and those of a quick one.
UPDATES, QUICK_UPDATES, BATCH, STEPS = 400, 60, 8, 15
#: Updates of each of the many variants of the network.
VARIED = 100
#: Trainings with each estimator, hidden units of the network, and gradients of which signal and noise are measured.
TRAININGS, HIDDEN, GRADIENTS, QUICK_GRADIENTS = 3, 16, 64, 16
#: What stands beside the networks: no policy at all.
ALONE = "L-BFGS alone"


def _without(names: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(n for n in names if n != name)


#: Arguments of `Strider` by the name of a variant: each feature off, other features, other networks, more messages.
VARIANTS: dict[str, dict] = {
    "strider": {},
    **{f"without {name}": {"nodes": _without(PUBLISHED_NODES, name)} for name in PUBLISHED_NODES},
    **{f"without {name}": {"edges": _without(PUBLISHED_EDGES, name)} for name in PUBLISHED_EDGES},
    "without edges": {"edges": ()},
    **({"radial": {"nodes": ("type", "radial")}} if "radial" in NODES else {}),
    "2 layers": {"layers": 2},
    "3 layers": {"layers": 3},
    **{name: {"architecture": name} for name in ARCHITECTURES if name != "strider"},
}


def train(made: Liquid, relaxer: Strider, updates: int, seed: int, estimator: str, shared: dict) -> Trainer:
    """A trained trainer of a policy on liquids of a system; trainings that differ in `seed` alone may share their programs."""
    trainer = begun(made, relaxer, updates, seed, estimator, shared)
    while not trainer.done:
        trainer.advance()
    return trainer


def begun(made: Liquid, relaxer: Strider, updates: int, seed: int, estimator: str, shared: dict) -> Trainer:
    """The same before its first update."""
    loss = PolicyLoss(made.potential, relaxer, [made.system], steps=STEPS, estimator=estimator)
    return Trainer(
        [Stage(loss, PolicyGradient(BATCH), updates, max(1, updates // 5))], parameters(relaxer), seed, compiled=shared
    )


def validated(trainer: Trainer) -> list[list[float]]:
    """(update, mean energy of the validation's episodes) as a training went."""
    assert trainer.state is not None
    return [[row["update"], round(row["loss"], 4)] for row in trainer.state.history]


# Estimators of the gradient -------------------------------------------------------------------------------------------


def estimators_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with: `count` trainings of `horizon` updates."""
    updates = options.horizon or (QUICK_UPDATES if options.quick else UPDATES)
    return {
        "count": options.count or (1 if options.quick else TRAININGS),
        "evaluations": updates * BATCH * STEPS,
        "seed": options.seed,
        "horizon": updates,
        "hidden": HIDDEN,
        "gradients": QUICK_GRADIENTS if options.quick else GRADIENTS,
    }


def estimators_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """Validation of every training, and how much of its first gradients is signal."""
    made, shared = starts_of(cell["system"], 1, 0), {}
    first = policy(made.potential, made.system, ZERO, hidden=cell["hidden"], seed=cell["seed"])
    signal = significance(begun(made, first, cell["horizon"], cell["seed"], cell["method"], shared), cell["gradients"])
    courses, seconds = [], []
    for seed in range(cell["seed"], cell["seed"] + cell["count"]):
        mine = policy(made.potential, made.system, ZERO, hidden=cell["hidden"], seed=seed)
        trainer = train(made, mine, cell["horizon"], seed, cell["method"], shared)
        assert trainer.state is not None
        courses.append(validated(trainer))
        seconds.append(trainer.state.cpu)
    ends = [course[-1][1] for course in courses]
    return {**signal, "courses": courses, "energies": listed(ends), "cpu_seconds": round(float(np.mean(seconds)), 2)}


def significance(trainer: Trainer, gradients: int) -> dict:
    """How much is signal in gradients (each of a batch) at the parameters with which a trainer begins.

    "significance" is the norm of their mean over its standard error, sqrt(trace of the covariance / gradients): 1 for nothing
    but noise. "ratio" is that of one gradient, its square without what noise adds to it on average.
    """
    programs, loss = trainer.programs(0), trainer.stages[0].loss
    vector = ravel_pytree(trainer.parameters)[0].astype(np.float32)[:, None]
    keys = jax.random.split(prng.key(trainer.seed + 2**20), gradients)
    found = np.stack([np.asarray(programs.gradient(key, vector, np.int32(loss.steps))[0], float) for key in keys])  # type: ignore[attr-defined]
    return signal_of(found)


def signal_of(found: np.ndarray) -> dict:
    """The numbers of `significance` from gradients (gradients, parameters)."""
    spread, mean = found.var(0, ddof=1).sum(), (found.mean(0) ** 2).sum()
    if not spread > 0:
        return {"significance": None, "ratio": None}
    error = spread / len(found)
    return {
        "significance": float(f"{np.sqrt(mean / error):.4g}"),
        "ratio": float(f"{np.sqrt(max(mean - error, 0.0) / spread):.4g}"),
    }


def estimators_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Validation energies before and after, signal and noise."""
    made = []
    for system, group in by_system(rows):
        estimates, lines = {r["method"]: mean_of(r) for r in group}, []
        for r in group:
            before = mean_of({"energies": [course[0][1] for course in r["courses"]]})
            plain = lambda v: "none" if v is None else f"{v:.3g}"
            lines.append(
                (r["method"], written(before) if r["count"] > 1 else f"{before.value:,.2f}",
                 written(estimates[r["method"]]) if r["count"] > 1 else f"{estimates[r['method']].value:,.2f}",
                 plain(r["significance"]), plain(r["ratio"]), f"{r['cpu_seconds']:,.1f}")
            )  # fmt: skip
        notes = []
        if "score" in estimates and len(estimates) > 1 and group[0]["count"] > 1:
            others = {k: v for k, v in estimates.items() if k != "score"}
            notes.append(verdict(system, "score", estimates["score"], others, False, "validation"))
        r = group[0]
        notes.append(
            f"signal and noise: of {r['gradients']} gradients of {BATCH} episodes at an untrained network; 1 is noise alone"
        )
        head = (
            "estimator", "untrained", f"after {r['horizon']} updates", "|mean| / its error", "signal / noise of a gradient",
            "CPU-s per training",
        )  # fmt: skip
        title = f"{system}: energies of validation ({r['count']} trainings, first seed {r['seed']}, {r['hidden']} hidden units)"
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


# Features and architectures -------------------------------------------------------------------------------------------


def architectures_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with: one training of `horizon` updates, `count` fresh starts."""
    return {
        "count": options.count or (4 if options.quick else STARTS),
        "evaluations": options.evaluations or DISPLACEMENTS,
        "seed": options.seed,
        "horizon": options.horizon or VARIED,
    }


def architectures_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """Train a variant; its validation, and what it makes of fresh starts."""
    made = starts_of(cell["system"], cell["count"], cell["seed"])
    if cell["method"] == ALONE:
        begun_at = time.process_time()
        energies = quenched(made, np.asarray(made.structures.positions))
        spent = round(time.process_time() - begun_at, 2)
        return {"parameters": 0, "course": [], "energies": listed(energies), "training": 0.0, "cpu_seconds": spent}
    mine = policy(made.potential, made.system, ZERO, n_steps=cell["evaluations"], seed=cell["seed"], **VARIANTS[cell["method"]])
    trainer = train(made, mine, cell["horizon"], cell["seed"], "pathwise", {})
    assert trainer.state is not None
    begun_at = time.process_time()
    x = followed(made, with_parameters(mine, trainer.best), 1, cell["evaluations"])[-1]
    return {
        "parameters": int(count(parameters(mine))), "course": validated(trainer), "energies": listed(quenched(made, x)),
        "training": round(trainer.state.cpu, 2), "cpu_seconds": round(time.process_time() - begun_at, 2),
    }  # fmt: skip


def architectures_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Validation and relaxed energies by variant, beside no policy at all."""
    made = []
    for system, group in by_system(rows):
        alone = next((r["energies"] for r in group if r["method"] == ALONE), None)
        lines, better = [], []
        for r in group:
            course = r["course"]
            best = f"{min(loss for _, loss in course):,.2f}" if course else ""
            first = f"{course[0][1]:,.2f}" if course else ""
            gap, error = (np.nan, np.nan) if alone is None or r["method"] == ALONE else paired(r["energies"], alone)
            if gap < -1.96 * error:
                better.append(r["method"])
            lines.append(
                (r["method"], f"{r['parameters']:,}", first, best, lowest(r["energies"]), written(mean_of(r)),
                 "" if np.isnan(gap) else f"{gap:+.2f} ± {error:.2f}", f"{r['training']:,.1f}")
            )  # fmt: skip
        notes = (
            [] if alone is None else [f"{system}: lower than L-BFGS alone on the same starts: {', '.join(better) or 'none'}"]
        )
        notes.append("one training each: errors are those of the starts, and not of the training")
        r = group[0]
        head = (
            "variant", "parameters", "validation, untrained", "validation, best", "lowest", "relaxed, mean ± standard error",
            "less L-BFGS alone", "CPU-s of training",
        )  # fmt: skip
        title = (
            f"{system}: energies after {r['horizon']} updates ({r['count']} fresh starts, seed {r['seed']}, {r['evaluations']} "
            "displacements, then L-BFGS; validation after 20)"
        )
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


def _mixture(name: str) -> bool:
    return name.startswith("LJ") and name[2:].isdigit() and int(name[2:]) >= 5


ESTIMATED = Table(
    "estimators", "short trainings by the estimator of the gradient, and its signal and noise", ("LJ25", "LJ100"), ESTIMATORS,
    estimators_settings, estimators_measure, estimators_sections, ("LJ25",), _mixture,
)  # fmt: skip
TRAINED = Table(
    "architectures", "short trainings by features and architecture of the network", ("LJ100",), (*VARIANTS, ALONE),
    architectures_settings, architectures_measure, architectures_sections, (), _mixture,
)  # fmt: skip
