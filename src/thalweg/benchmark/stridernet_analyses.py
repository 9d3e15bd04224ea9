"""What StriderNet's authors vary: rates and time steps of plain relaxations (Table 10), the policy's covariance (Table 14).

V. Bihani et al., ICML 2023 (arXiv:2301.12477). Starts are liquids made here (`thalweg.benchmark.liquids`). Tables for which
policies are trained stand in `stridernet_trainings`, figures in `stridernet_figures`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.benchmark.experiments import Estimate, Options, Section, Skipped, Table, digest, listed, mean_of, numbers
from thalweg.benchmark.learn2hop import by_system
from thalweg.benchmark.liquids import Liquid, liquid
from thalweg.benchmark.stridernet_methods import policy
from thalweg.benchmark.stridernet_opponents import published
from thalweg.leaves import as_leaves
from thalweg.networks.weights import SHIPPED, ZERO, shipped
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.adapters import Adam, GradientDescent
from thalweg.relax.base import FAILED, Relaxer
from thalweg.relax.driver import Relaxation, advance, empty_lanes, load, relax
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.single import single_points

#: Starts of each cell, and of a quick one.
STARTS, QUICK_STARTS = 10, 3
#: Rates, or largest time steps, in those of the table of baselines.
FACTORS, QUICK_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0), (0.3, 1.0, 10.0)
#: The largest time step of FIRE that the paper prints for mixtures, ten times the one that gives its energies.
PRINTED = {("LJ100", "FIRE"): 0.4}
#: Variances of the Gaussian policy, in squared bonds, and the published one.
ALPHAS, QUICK_ALPHAS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), (1e-5, 1e-2)
PUBLISHED_ALPHA = 1e-5
#: Displacements of the frozen policy; episodes of an adaptation, of which each is `TURN` evaluations, and Adam's rate.
DISPLACEMENTS, EPISODES, QUICK_EPISODES, TURN, RATE = 100, 100, 20, 16, 1e-3
#: What weights a policy of these tables has, where a user names none.
WEIGHTS = "strider-binary"


@lru_cache(maxsize=4)
def starts_of(name: str, count: int, seed: int) -> Liquid:
    """Starts of a system of a table."""
    return liquid(name.lower(), count, seed)


def weights_of(method: str, options: Options) -> dict:
    """Settings that name the weights of a policy. Raises `Skipped` where none ship and the user names none."""
    name = options.weights.get(method, WEIGHTS)
    if name == ZERO:
        return {"weights": name, "digest": ""}
    if name == WEIGHTS and name not in shipped():
        raise Skipped(f"the weights {name} do not ship; name a file by --weights {method}=FILE")
    return {"weights": name, "digest": digest(SHIPPED / f"{name}.json" if name in shipped() else Path(name))}


# What all of these tables need ----------------------------------------------------------------------------------------


@eqx.filter_jit
def _followed(relaxation: Relaxation, numbers, space, x, looks: int, every: int):
    """Positions (looks + 1, atoms, 3, lanes) at the start and after every so many steps."""
    n_atoms, _, n_lanes = x.shape
    lanes = load(empty_lanes(relaxation, n_atoms, n_lanes, x.dtype, space), relaxation, jnp.ones(n_lanes, bool), x)
    free = jnp.ones((n_atoms, 1, 1), x.dtype)

    def look(lanes, _):
        return advance(lanes, relaxation, numbers, free, space, every), lanes.coordinates

    last, seen = lax.scan(look, lanes, None, length=looks)
    return jnp.concatenate([seen, last.coordinates[None]])


def followed(made: Liquid, relaxer: Relaxer, looks: int, every: int) -> np.ndarray:
    """Positions (looks + 1, starts, atoms, 3) of the starts under a relaxer that nothing stops, in the searches' precision."""
    relaxation = Relaxation(made.potential, relaxer, 0.0, 2**30)
    space = made.potential.space(made.system.cell, made.system.pbc)
    with jax.enable_x64(False):
        relaxation, space = as_leaves((relaxation, space), np.float32)
        x = jnp.asarray(np.moveaxis(np.asarray(made.structures.positions), 0, -1), jnp.float32)
        out = _followed(relaxation, jnp.asarray(made.system.numbers)[:, None], space, x, looks, every)
    return np.moveaxis(np.asarray(out, np.float64), -1, 1)


def energies_of(made: Liquid, x: np.ndarray) -> np.ndarray:
    """Energies (structures,) of positions (structures, atoms, 3) in float64; NaN where these are no numbers."""
    fine, x = finite(x)
    return np.where(fine, single_points(made.system.structure(x), made.potential).energy, np.nan)


def finite(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which structures (structures,) have finite positions, and these, with zeros for all others."""
    fine = np.asarray(np.isfinite(x).all(axis=(1, 2)))
    return fine, np.where(fine[:, None, None], x, 0.0)


def quenched(made: Liquid, x: np.ndarray) -> np.ndarray:
    """Energies (structures,) of the minima below positions (structures, atoms, 3), by L-BFGS; NaN where that fails."""
    bond, scale = float(np.mean(made.system.bond_lengths)), made.potential.energy_scale(np.asarray(made.system.numbers)) or 1.0
    down = Relaxation(made.potential, LBFGS(max_step=0.15 * bond), 1e-3 * scale / bond, 3000)
    fine, x = finite(x)
    out = relax(made.system.structure(x), down, len(x))
    return np.where(fine & (out.status != FAILED), out.energy, np.nan)


def written(estimate: Estimate, digits: int = 2) -> str:
    """A mean with its standard error."""
    error = (estimate.high - estimate.value) / 1.96
    return f"{estimate.value:,.{digits}f} ± {error:,.{digits}f}" if np.isfinite(error) else "none"


def paired(energies, base) -> tuple[float, float]:
    """Mean difference of energies from those of the same starts in `base`, and its standard error; NaN for fewer than two.

    Starts differ more than what becomes of them, so that differences have smaller errors than means.
    """
    own, other = numbers(energies), numbers(base)
    both = np.isfinite(own) & np.isfinite(other)
    gap = own[both] - other[both]
    return (float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))) if len(gap) > 1 else (np.nan, np.nan)


def lowest(energies) -> str:
    """The lowest of some energies."""
    least = numbers(energies).min()
    return f"{least:,.2f}" if np.isfinite(least) else "none"


# Rates and time steps of plain relaxations (Table 10) -----------------------------------------------------------------


def rates_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with."""
    return {
        "count": options.count or (QUICK_STARTS if options.quick else STARTS),
        "evaluations": options.evaluations or (300 if options.quick else 1000),
        "seed": options.seed,
        "horizon": None,
        "factors": list(QUICK_FACTORS if options.quick else FACTORS),
    }


def rates_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """Energies of the starts after so many steps, by rate."""
    made, begun = starts_of(cell["system"], cell["count"], cell["seed"]), time.process_time()
    usual = published(cell["method"], made.potential).relaxer
    scan = []
    for factor in cell["factors"]:
        relaxer, setting, value = scaled(usual, factor)
        out = relax(made.structures, Relaxation(made.potential, relaxer, 1e-6, cell["evaluations"]), cell["count"])
        good = (out.status != FAILED) & (out.energy <= made.energies)  # False where an energy is no number
        energies = listed(np.where(good, out.energy, np.nan))
        scan.append({"setting": setting, "value": value, "energies": energies, "diverged": int((~good).sum())})
    return {"scan": scan, "cpu_seconds": round(time.process_time() - begun, 2)}


def scaled(usual: Relaxer, factor: float) -> tuple[Relaxer, str, float]:
    """A relaxation with another rate or largest time step: (relaxer, what it is for tables, its rate or time step)."""
    short = lambda value: float(f"{value:.6g}")
    if isinstance(usual, FIRE):
        most = short(usual.dt_max * factor)
        start = min(usual.dt, most)
        return FIRE(start, most, usual.max_step), f"dt {start:g}, at most {most:g}", most
    assert isinstance(usual, Adam | GradientDescent)
    rate = short(usual.learning_rate * factor)
    return replace(usual, learning_rate=rate), f"rate {rate:g}", rate


def rates_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies by rate, the best of each method, and what becomes of the printed settings."""
    made = []
    for system, group in by_system(rows):
        lines, notes = [], []
        for r in group:
            means = []
            for k, one in enumerate(r["scan"]):
                e = mean_of(one)
                means.append(e.value)
                marks = ["of Table 1"] if r["factors"][k] == 1 else []
                if one["value"] == PRINTED.get((system, r["method"])):
                    marks.append("printed in the paper")
                    notes.append(
                        f"{system}: {r['method']} with the printed {one['setting']} diverges from {one['diverged']} of "
                        f"{r['count']} starts"
                    )
                lines.append(
                    (r["method"], one["setting"], lowest(one["energies"]), written(e), f"{one['diverged']} of {r['count']}",
                     ", ".join(marks))
                )  # fmt: skip
            if np.isfinite(means).any():
                best = r["scan"][int(np.argmin(means))]
                notes.append(f"{system}: {r['method']} is lowest with {best['setting']}")
        r = group[0]
        head = ("method", "settings", "lowest", "mean ± standard error", "diverged", "which")
        notes.append("diverged: no finite energy, or one above the start's; in no mean")
        title = f"{system}: energies by rate or time step ({r['count']} starts, seed {r['seed']}, {r['evaluations']:,} steps)"
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


# Covariance of the policy (Table 14) ----------------------------------------------------------------------------------


def covariance_settings(system: str, method: str, options: Options) -> dict:
    """What a cell of this table is run with."""
    episodes = QUICK_EPISODES if options.quick else EPISODES
    return {
        "count": options.count or (QUICK_STARTS if options.quick else STARTS),
        "evaluations": options.evaluations or (DISPLACEMENTS if method == "policy" else episodes * TURN),
        "seed": options.seed,
        "horizon": None,
        "alphas": list(QUICK_ALPHAS if options.quick else ALPHAS),
        **weights_of(method, options),
    }


def covariance_measure(cell: dict, note: Callable[[str], None]) -> dict:
    """Energies that the policy ends with, and those of the minima below, by the variance of its displacements."""
    made, begun, scan = starts_of(cell["system"], cell["count"], cell["seed"]), time.process_time(), []
    for alpha in cell["alphas"]:
        relaxer, steps = spread_out(cell, made, float(np.sqrt(alpha)))
        x = followed(made, relaxer, 1, steps)[-1]
        scan.append({"alpha": alpha, "own": listed(energies_of(made, x)), "energies": listed(quenched(made, x))})
    return {"scan": scan, "cpu_seconds": round(time.process_time() - begun, 2)}


def spread_out(cell: Mapping, made: Liquid, noise: float) -> tuple[Relaxer, int]:
    """The frozen or the adapted policy of a cell with a standard deviation in bonds, and its steps until it has ended."""
    mine = policy(
        made.potential, made.system, cell["weights"], n_steps=cell["evaluations"], noise=noise, noise_end=noise,
        seed=cell["seed"],
    )  # fmt: skip
    if cell["method"] == "policy":
        return mine, cell["evaluations"]
    episodes = max(1, cell["evaluations"] // TURN)
    # One step more: it leads back to the lowest structure met.
    return Adaptation(mine, episodes, rate=RATE), episodes * TURN + 1


def covariance_sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies by variance, and whether other variances are better or worse than the published one."""
    made = []
    for system, group in by_system(rows):
        lines, notes = [], []
        for r in group:
            for one in r["scan"]:
                own, relaxed = mean_of({"energies": one["own"]}), mean_of(one)
                lines.append(
                    (r["method"], f"{one['alpha']:.0e}", f"{np.sqrt(one['alpha']):.2g}", written(own),
                     lowest(one["energies"]), written(relaxed), f"{r['evaluations']:,}")
                )  # fmt: skip
            notes += _against(system, r)
            notes.append(f"{r['method']}: weights {r['weights']}, {r['cpu_seconds']:.0f} CPU-s with compilation")
        r = group[0]
        head = ("method", "alpha", "noise, bonds", "before L-BFGS", "lowest", "mean ± standard error", "evaluations")
        title = f"{system}: energies by the variance of the displacements ({r['count']} starts, seed {r['seed']})"
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


def _against(system: str, row: Mapping) -> list[str]:
    """One line for each variance whose relaxed energies differ from those of the published one, start by start."""
    base = next((s["energies"] for s in row["scan"] if s["alpha"] == PUBLISHED_ALPHA), None)
    if base is None:
        return []
    said = []
    for one in row["scan"]:
        if one["alpha"] == PUBLISHED_ALPHA:
            continue
        gap, error = paired(one["energies"], base)
        word = "lower" if gap < -1.96 * error else "higher" if gap > 1.96 * error else None
        if word:
            alpha = f"{one['alpha']:.0e}"
            by = f"{abs(gap):.2f} ± {error:.2f}"
            said.append(f"{system}: {row['method']} at alpha {alpha} is {word} than at the published 1e-05 by {by}")
    return said or [f"{system}: {row['method']} at no alpha differs from the published 1e-05 by more than its error"]


RATES = Table(
    "rates", "plain relaxations over rates and time steps (Table 10)", ("LJ100", "SW64", "C-S-H"),
    ("gradient descent", "Adam", "FIRE"), rates_settings, rates_measure, rates_sections, ("LJ100",),
)  # fmt: skip
COVARIANCE = Table(
    "covariance", "the policy over variances of its displacements, frozen and adapted (Table 14)", ("LJ100",),
    ("policy", "adaptation"), covariance_settings, covariance_measure, covariance_sections, ("LJ25",),
    lambda name: name.startswith("LJ") and name[2:].isdigit() and int(name[2:]) >= 5,
)  # fmt: skip
