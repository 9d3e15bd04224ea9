"""Networks of energies of 32 Lennard-Jones particles in a plane: how well they predict, beside what knows nothing.

Tables follow a report on surrogates of this system; its own numbers are in `PUBLISHED`. Its errors are percentages of
log(V + 32), where a constant scores 52 %: so every table has the rows of a constant, and says mean absolute errors and R2 too.
Networks learn from as many structures as a system's name says (`--evaluations`), stop by a set of a tenth as many, and are
measured on others that all of them share. `--count` is how many seeds, of data and networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from thalweg.benchmark import deep_surrogates_loops as loops
from thalweg.benchmark.experiments import Experiment, Options, Section, Skipped, Table
from thalweg.learning.surrogate_recipe import untrained
from thalweg.learning.tuning import Trial, space_of, tune
from thalweg.surrogates.networks.data import SETS, Parts
from thalweg.surrogates.networks.kinds import KINDS
from thalweg.surrogates.networks.metrics import constants
from thalweg.surrogates.networks.training import Settings, trained

#: What the report has: mean absolute percentage error of the full set, mean absolute error of the low-energy set.
PUBLISHED = {"networks": {"mlp": "MAPE 78 %"}, "low-energy": {"graph-published": "MAE 0.244"}}
#: Networks and how they are trained: [surrogate] and [train] of an input. Epochs are those of a training of any length.
METHODS: dict[str, dict[str, Any]] = {
    "constant mean": {},
    "constant median": {},
    "mlp": {"surrogate": {"kind": "mlp"}, "train": {"epochs": 40}},
    "occupancy": {"surrogate": {"kind": "occupancy"}, "train": {"epochs": 12}},
    # Distances themselves, and the mean over atoms.
    "graph-published": {"surrogate": {"kind": "graph", "logarithmic": False, "largest": False}, "train": {"epochs": 40}},
    "graph": {"surrogate": {"kind": "graph"}, "train": {"epochs": 40}},
    "schnet": {"surrogate": {"kind": "schnet"}, "train": {"epochs": 40}},
    "pair": {"surrogate": {"kind": "pair"}, "train": {"epochs": 40}},
}
#: Structures to learn from, by the name of a system; those that are measured on, and epochs of a quick training.
SIZES = {"4k": 4_000, "20k": 20_000, "50k": 50_000}
TESTED, QUICK_SIZE, QUICK_EPOCHS = 4_000, 1_000, 3
#: Those that a quick run trains: compiling is most of it.
QUICK = ("constant mean", "constant median", "graph-published", "graph")
#: What the search for hyper-parameters looks through, and how.
SPACE = {
    "surrogate.width": {"choices": [16, 32, 64, 128]},
    "surrogate.layers": [1, 4],
    "train.rate": {"low": 3e-4, "high": 2e-2, "log": True},
    "train.batch": {"choices": [16, 32, 64, 128]},
    "train.decay": {"low": 1e-6, "high": 1e-2, "log": True},
}
TRIALS, TRIAL_EPOCHS, TRIAL_SIZE = 16, 10, 2_000


@lru_cache(maxsize=2)
def data(which: str, count: int, seed: int) -> Parts:
    """Training and validation structures of a seed, and test structures that are the same for every seed and count."""
    make, rng = SETS[which], np.random.default_rng
    held = max(count // 10, 200)
    return Parts(make(rng([seed, 0]), count), make(rng([seed, 1]), held), make(rng(2**31), TESTED))


def settings_for(which: str) -> Callable[[str, str, Options], dict]:
    """What cells of a set are run with."""

    def settings(system: str, method: str, options: Options) -> dict:
        if options.quick and method not in QUICK:
            raise Skipped("not with --quick")
        train = METHODS[method].get("train", {})
        epochs = options.horizon or (QUICK_EPOCHS if options.quick else train.get("epochs"))
        return {
            "count": options.count or 1,
            "evaluations": QUICK_SIZE if options.quick else options.evaluations or SIZES[system],
            "seed": options.seed,
            "horizon": epochs if train else None,
            "set": which,
            "network": METHODS[method].get("surrogate"),
        }

    return settings


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """Scores on the test structures, and what training took."""
    parts = data(settings["set"], settings["evaluations"], settings["seed"])
    if settings["network"] is None:
        return {"scores": _rounded(constants(parts.train, parts.test)[settings["method"]]), "cpu_seconds": 0.0}
    table = dict(settings["network"])
    network = untrained(table.pop("kind"), table, parts.train.subject, settings["seed"])
    wanted = {**METHODS[settings["method"]]["train"], "epochs": settings["horizon"]}
    begun = time.process_time()
    made = trained(settings["seed"], network, parts, Settings(**wanted))
    scores = made.metrics["test"]
    note(f"  MAPE {scores['MAPE']:.2f} %, MAE {scores['MAE']:.4f}")
    return {
        "scores": _rounded(scores),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "epochs": len(made.history),
        "parameters": network.n_parameters,
        "validation": [round(row["validation"], 5) for row in made.history],
    }


HEAD = ("network", "structures", "MAPE, %", "MAE", "R2", "parameters", "epochs", "CPU-s", "seeds", "published")


def sections_for(name: str) -> Callable[[Sequence[Mapping]], list[Section]]:
    """A table of scores: means over seeds, with the spread where there are several."""

    def sections(rows: Sequence[Mapping]) -> list[Section]:
        made = []
        for system, group in groupby(rows, key=lambda r: r["system"]):
            found = list(group)
            lines = [_line(name, method, list(own)) for method, own in groupby(found, key=lambda r: r["method"])]
            told = [m for m, table in METHODS.items() if table and KINDS[table["surrogate"]["kind"]].told]
            notes = [f"errors are of log(V + 32), on {TESTED:,} structures that all share"]
            notes += [f"{m} is told that the energy is a sum over pairs: no rival of the others" for m in told]
            made.append(Section(f"{system}: the {found[0]['set']} set", HEAD, tuple(lines), tuple(notes)))
        return made

    return sections


def _line(name: str, method: str, rows: Sequence[Mapping]) -> tuple[str, ...]:
    said = lambda key, form: _spread([r["scores"][key] for r in rows], form)
    learned = "parameters" in rows[0]
    return (
        method, f"{rows[0]['evaluations']:,}", said("MAPE", ".2f"), said("MAE", ".4f"), said("R2", ".4f"),
        f"{rows[0]['parameters']:,}" if learned else "", _spread([r["epochs"] for r in rows], ".0f") if learned else "",
        f"{np.mean([r['cpu_seconds'] for r in rows]):.0f}" if learned else "", ", ".join(str(r["seed"]) for r in rows),
        PUBLISHED[name].get(method, ""),
    )  # fmt: skip


def _spread(values: Sequence[float], form: str) -> str:
    low, high = min(values), max(values)
    mean = f"{np.mean(values):{form}}"
    return mean if f"{low:{form}}" == f"{high:{form}}" else f"{mean} ({low:{form}} to {high:{form}})"


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {k: float(f"{v:.6g}") for k, v in scores.items()}


def parts(settings: dict) -> list[dict]:
    """One row for each of `count` seeds."""
    return [{**settings, "count": 1, "seed": settings["seed"] + k} for k in range(settings["count"])]


# The search for hyper-parameters --------------------------------------------------------------------------------------


def tuning_settings(system: str, method: str, options: Options) -> dict:
    """What a search is run with: trials, and the epochs of each."""
    return {
        "count": options.count or TRIAL_SIZE, "evaluations": options.evaluations or TRIALS, "seed": options.seed,
        "horizon": options.horizon or TRIAL_EPOCHS, "set": system,
    }  # fmt: skip


def tuning_measure(settings: dict, note: Callable[[str], None]) -> dict:
    """All trials with their losses: validation errors (mean absolute)."""
    begun = time.process_time()

    def loss(values: dict, number: int) -> float:
        return trial_loss(settings, values)

    tell = lambda t: note(f"  trial {t.number}: {t.reason or f'MAE {t.loss:.4f}'}")
    found = tune(loss, space_of(SPACE), trials=settings["evaluations"], seed=settings["seed"], note=tell)
    return {
        "trials": [[t.values, None if t.loss is None else round(t.loss, 5)] for t in found.trials],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def trial_loss(settings: Mapping, values: Mapping[str, Any]) -> float:
    """The lowest validation error of a training with these values."""
    made = data(settings["set"], settings["count"], settings["seed"])
    tables: dict[str, dict] = {"surrogate": {}, "train": {"epochs": settings["horizon"]}}
    for name, value in values.items():
        section, _, key = name.partition(".")
        tables[section][key] = value
    network = untrained(settings["method"], tables["surrogate"], made.train.subject, settings["seed"])
    return min(row["validation"] for row in trained(settings["seed"], network, made, Settings(**tables["train"])).history)


def tuning_sections(rows: Sequence[Mapping]) -> list[Section]:
    """The best trials, the middle one and the worst."""
    made = []
    for row in rows:
        done = sorted(
            (Trial(k, v, loss) for k, (v, loss) in enumerate(row["trials"]) if loss is not None), key=lambda t: t.loss or 0
        )
        names = list(done[0].values)
        shown = list(dict.fromkeys([*range(min(5, len(done))), len(done) // 2, len(done) - 1]))
        form = lambda value: f"{value:.2g}" if isinstance(value, float) else str(value)
        lines = [
            (f"{k + 1}", f"{done[k].loss:.4f}", str(done[k].number), *(form(done[k].values[n]) for n in names)) for k in shown
        ]
        title = (
            f"{row['method']} on the {row['system']} set: {len(row['trials'])} trials of {row['horizon']} epochs on "
            f"{row['count']:,} structures, seed {row['seed']}, {row['cpu_seconds']:.0f} CPU-s"
        )
        made.append(Section(title, ("rank", "validation MAE", "trial", *names), tuple(lines)))
    return made


NETWORKS = Table(
    "networks", "networks and constants on the full set", ("4k", "50k"), tuple(METHODS), settings_for("full"), measure,
    sections_for("networks"), ("4k",), parts=parts,
)  # fmt: skip
LOW_ENERGY = Table(
    "low-energy", "the same where log(V + 32) < 7", ("4k", "20k"), tuple(METHODS), settings_for("low-energy"), measure,
    sections_for("low-energy"), parts=parts,
)  # fmt: skip
TUNING = Table(
    "tuning", "hyper-parameters by search", ("full",), ("graph", "schnet"), tuning_settings, tuning_measure, tuning_sections,
)  # fmt: skip
EXPERIMENT = Experiment(
    "deep-surrogates",
    "deep surrogates of 32 Lennard-Jones particles in a plane",
    (NETWORKS, LOW_ENERGY, TUNING, loops.RELAXATION),
)
