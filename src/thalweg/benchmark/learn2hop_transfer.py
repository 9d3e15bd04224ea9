"""Learn2Hop's Table 6, weights on what they were not trained on, and Table 3, the published network without groups of features.

The second needs one training for each group: `thalweg train` runs it, and what it writes is measured like everything else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from thalweg.benchmark.experiments import Options, Section, Skipped, Table, mean_of, numbers, verdict
from thalweg.benchmark.fresh_starts import POLISH, find, fraction
from thalweg.benchmark.learn2hop_methods import finds, horizon_for, problem, result, weights_for
from thalweg.errors import ThalwegError
from thalweg.generators.harmonic import Harmonic
from thalweg.networks.weights import shipped
from thalweg.relax.component_features import GROUPS
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.learn2hop import Learn2Hop
from thalweg.search.random_search import RandomSearch

#: Table 6: (lowest energy with weights trained on the other system, with those trained on it); the second of LJ13 is Table 2's.
PUBLISHED = {"SW64": (-261.7, -261.8), "LJ13": (-35.6, -44.33)}
#: Weights that ship and were trained on the other system.
OTHER = {"SW64": "lennard-jones", "LJ13": "stillinger-weber"}
#: Table 3, of LJ75: change of the lowest energy against Adam's -390.3, by ESMC and by GA.
WITHOUT = {
    "gradients": (0.2, -0.8), "positions": (0.2, -1.2), "decays": (-2.0, -2.0), "Adam-like": (-1.0, -2.8),
    "singular": (-1.0, -2.9), "species": (-0.5, -2.4), "sine": (-2.3, -3.6), "radial": (-3.4, -4.4),
}  # fmt: skip
TRANSFER_METHODS = ("annealed", "learned", "transferred")
#: What trains the published network here, and the evaluations that it was trained for.
RECIPE, EVALUATIONS = "learn2hop-lj13", 500


def transfer_settings(system: str, name: str, options: Options) -> dict:
    """What a cell of this table is run with: own weights, or those of the other system."""
    made = problem(system)
    of = "learned" if name == "transferred" else name
    if name == "transferred":
        file = options.weights.get(name, OTHER[system])
        if file == OTHER[system] and file not in shipped():
            raise Skipped(f"the weights {file} do not ship")
        options = replace(options, weights={of: file})
    return {
        "count": options.count or 150,
        "evaluations": options.evaluations or (50_000 if system == "SW64" else 2000),
        "seed": options.seed,
        "horizon": horizon_for(of, made, options),
        **weights_for(of, made, options),
    }


def transfer_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """What its starts found."""
    of = "learned" if cell["method"] == "transferred" else cell["method"]
    return result(*finds({**cell, "method": of}, cell["evaluations"]))


def transfer_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies with one's own weights, with the other system's, and with none."""
    made = []
    for system, held in groupby(rows, key=lambda r: r["system"]):
        group = list(held)
        published = PUBLISHED[system]
        lines = [
            ("trained on the other system", "paper", f"{published[0]:.2f}", "", "", "", ""),
            ("trained on this one", "paper", f"{published[1]:.2f}", "", "", "", ""),
        ]
        for r in group:
            e = mean_of(r)
            lines.append(
                (r["method"], "here", f"{numbers(r['energies']).min():.4f}", f"{e.value:.3f} ± {(e.high - e.value) / 1.96:.3f}",
                 r.get("weights", "zero"), f"{r['horizon']:,}", f"{r['cpu_seconds']:,.0f}")
            )  # fmt: skip
        estimates = {r["method"]: mean_of(r) for r in group}
        notes = []
        if {"transferred", "annealed"} <= set(estimates):
            base = {"annealed": estimates["annealed"]}
            notes.append(verdict(system, "transferred", estimates["transferred"], base, False, "mean energy"))
        if {"transferred", "learned"} <= set(estimates):
            base = {"transferred": estimates["transferred"]}
            notes.append(verdict(system, "learned", estimates["learned"], base, False, "mean energy"))
        r = group[0]
        title = f"{system}: energies ({r['count']} starts, seed {r['seed']}, {r['evaluations']:,} evaluations each)"
        head = ("method", "from", "lowest", "mean ± standard error", "weights", "annealing", "CPU-s")
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


def ablation_settings(system: str, name: str, options: Options) -> dict:
    """What a cell of this table is trained and measured with."""
    return {
        "count": options.count or 150,
        "evaluations": options.evaluations or EVALUATIONS,
        "seed": options.seed,
        "horizon": options.horizon or EVALUATIONS - 60,
        "recipe": RECIPE,
    }


def ablation_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """Train the published network without a group of features, and measure it."""
    group = cell["method"].removeprefix("without ")
    without = () if cell["method"] == "all" else (group,)
    made = problem(cell["system"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.json"
        begun = time.perf_counter()
        groups = ", ".join(f'"{name}"' for name in without)
        command = [
            *(sys.executable, "-m", "thalweg", "train", cell["recipe"], "--set", f"component.without=[{groups}]"),
            *("--seed", str(cell["seed"]), "--out", str(file), "-o", str(Path(folder) / "training"), "-q"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ThalwegError(f"the training of {cell['method']} has failed: {done.stderr.strip()[-300:]}")
        note(f"  trained in {time.perf_counter() - begun:,.0f} s")
        then = LBFGS(max_step=0.15 * made.bond)
        relaxer = Learn2Hop(str(file), cell["horizon"], without=without, then=then, **made.units)
    most = cell["horizon"] + 300
    found = find(
        RandomSearch([Harmonic()]), Relaxation(made.potential, relaxer), made.system, cell["count"],
        cell["evaluations"] + POLISH, cell["seed"], 0.02, most,
    )  # fmt: skip
    return {**result(made, found), "training_seconds": round(time.perf_counter() - begun, 1)}


def ablation_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Mean energies and success without each group."""
    made = []
    for system, held in groupby(rows, key=lambda r: r["system"]):
        group = list(held)
        lines = []
        for r in group:
            e = mean_of(r)
            rate, low, high = fraction(int(np.isfinite(numbers(r["first"])).sum()), r["count"])
            published = WITHOUT.get(r["method"].removeprefix("without "))
            said = "" if published is None else f"{published[0]:+.1f} / {published[1]:+.1f}"
            mean = f"{e.value:.3f} ± {(e.high - e.value) / 1.96:.3f}"
            lines.append((r["method"], mean, f"{rate:.2f} [{low:.2f}, {high:.2f}]", said, f"{r['training_seconds']:,.0f}"))
        estimates = {r["method"]: mean_of(r) for r in group}
        notes = [verdict(system, k, e, {"all": estimates["all"]}, False, "mean energy")
                 for k, e in estimates.items() if k != "all" and "all" in estimates]  # fmt: skip
        r = group[0]
        head = ("features", "mean ± standard error", "success", "paper, LJ75, against Adam: ESMC / GA", "training, s")
        title = (
            f"{system}: the published network ({r['count']} starts, seed {r['seed']}, {r['evaluations']:,} evaluations each)"
        )
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


TRANSFER = Table(
    "transfer", "weights on a system that they were not trained on (Table 6)", tuple(PUBLISHED), TRANSFER_METHODS,
    transfer_settings, transfer_measure, transfer_sections,
)  # fmt: skip
ABLATION = Table(
    "ablation", "the published network without a group of its features (Table 3)", ("LJ13",),
    ("all", *[f"without {name}" for name in GROUPS]), ablation_settings, ablation_measure, ablation_sections,
    expensive="nine trainings of about a CPU minute each on LJ13; the published ones are of LJ75",
)  # fmt: skip
