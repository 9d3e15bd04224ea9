"""Energies and stresses while StriderNet's policy, its adaptation and FIRE optimise, and what is found in a given time: SVG.

As in the appendices of V. Bihani et al., ICML 2023 (arXiv:2301.12477): courses and distributions of energy and stress, and the
comparison at a fixed running time (Figure 8). Stresses are static ones, of the potential alone: atoms have no velocities here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.benchmark import stridernet_opponents as opponents
from thalweg.benchmark.experiments import Options, Skipped
from thalweg.benchmark.learn2hop_figures import Curve, draw
from thalweg.benchmark.liquids import Liquid
from thalweg.benchmark.stridernet_analyses import (
    DISPLACEMENTS,
    EPISODES,
    QUICK_EPISODES,
    QUICK_STARTS,
    RATE,
    STARTS,
    TURN,
    finite,
    followed,
    starts_of,
    weights_of,
)
from thalweg.benchmark.stridernet_methods import policy
from thalweg.display import plural
from thalweg.geometry import nearest_image
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.base import FAILED, Relaxer
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.single import single_points
from thalweg.space import Space

#: Systems that are drawn.
SYSTEM, QUICK_SYSTEM = "LJ100", "LJ25"
#: Steps between looks at an adaptation (the ends of its episodes) and at the others; steps of a descent behind a policy.
LOOK, DESCENT = 2, 300
#: Displacements after which distributions of the policy are drawn, between start and end.
MIDDLE = 20
BINS = 40
#: CPU seconds of the comparison at equal time, structures that are relaxed again and again, and starts of basin hopping.
SECONDS, QUICK_SECONDS = (0.5, 1.0, 2.0, 4.0), (0.5, 1.0)
REPEATED, QUICK_REPEATED, HOPPED, QUICK_HOPPED = 160, 8, 4, 1
#: Structures that are relaxed side by side where time counts.
LANES = 8


# Stresses -------------------------------------------------------------------------------------------------------------


def pressure(stress: np.ndarray) -> np.ndarray:
    """Pressure of stresses (..., 3, 3): positive under compression."""
    return -np.trace(stress, axis1=-2, axis2=-1) / 3


def von_mises(stress: np.ndarray) -> np.ndarray:
    """Von Mises stress of stresses (..., 3, 3): sqrt(3/2) times the norm of the traceless part."""
    bare = stress + pressure(stress)[..., None, None] * np.eye(3)
    return np.sqrt(1.5 * (bare**2).sum((-2, -1)))


def stresses(made: Liquid, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (structures,) and stresses (structures, 3, 3) of positions (structures, atoms, 3)."""
    fine, x = finite(x)
    out = single_points(made.system.structure(x), made.potential)
    assert out.virial is not None
    volume = abs(np.linalg.det(np.asarray(made.system.cell)))
    bad = np.where(fine, 1.0, np.nan)
    return np.asarray(out.energy) * bad, -np.asarray(out.virial) / volume * bad[:, None, None]


@eqx.filter_jit
def _atomic(potential: Potential, x, numbers, space: Space):
    """Energies (atoms,) and virials (atoms, 3, 3) of one structure (atoms, 3)."""
    each = lambda x: potential.lanes(x, numbers, space).atomic_energies
    slopes = jax.jacfwd(each)(x)  # (of an atom, by the position of another, 3)
    return each(x), -jnp.einsum("ija,ijb->iab", nearest_image(x[None] - x[:, None], space), slopes)


def atomic(made: Liquid, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (structures, atoms) and stresses (structures, atoms, 3, 3) of atoms, whose mean is that of the structure.

    The virial of an atom is how its own energy changes with a strain about it; for pairs that is half of those of its bonds
    (A. P. Thompson et al., J. Chem. Phys. 131, 154107 (2009), doi:10.1063/1.3245303). Its volume is its share of the cell.
    """
    cell = np.asarray(made.system.cell)
    volume = abs(np.linalg.det(cell)) / x.shape[1]
    with jax.enable_x64(True):
        potential, space = as_leaves((made.potential, made.potential.space(cell, made.system.pbc)), np.float64)
        numbers = jnp.asarray(made.system.numbers)
        each = [_atomic(potential, jnp.asarray(one, jnp.float64), numbers, space) for one in x]
        return np.stack([np.asarray(e) for e, _ in each]), -np.stack([np.asarray(w) for _, w in each]) / volume


# Courses and distributions --------------------------------------------------------------------------------------------


def courses(made: Liquid, options: Options, note: Callable[[str], None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By method, evaluations (looks,) and positions (looks, starts, atoms, 3); policies only where weights are there."""
    bond = float(np.mean(made.system.bond_lengths))
    episodes, then = QUICK_EPISODES if options.quick else EPISODES, LBFGS(max_step=0.15 * bond)
    whole = episodes * TURN
    relaxers: dict[str, tuple[Relaxer, int, int]] = {"FIRE": (FIRE(0.01, 0.04, float("inf")), whole, LOOK)}
    for name in ("policy", "adaptation"):
        try:
            weights = weights_of(name, options)["weights"]
        except Skipped as reason:
            note(f"skipped {name} in the figures: {reason}")
            continue
        mine = policy(made.potential, made.system, weights, n_steps=DISPLACEMENTS, seed=options.seed, then=then)
        adapted = Adaptation(mine, episodes, rate=RATE, then=then)
        relaxers[name] = (mine, DISPLACEMENTS + DESCENT, LOOK) if name == "policy" else (adapted, whole + DESCENT, TURN)
    found = {}
    for name, (relaxer, steps, every) in relaxers.items():
        x = followed(made, relaxer, steps // every, every)
        found[name] = (np.maximum(np.arange(len(x)) * every, 1), x)  # the start at 1, for axes are logarithmic
    return found


def pressure_unit(made: Liquid) -> tuple[str, str]:
    """Units of energy and of stress."""
    energy, length = made.potential.units(np.asarray(made.system.numbers))
    return energy, f"{energy}/{length}³"


def drawn_courses(folder: Path, name: str, made: Liquid, found: Mapping) -> list[Path]:
    """Mean and spread of energy, pressure and von Mises stress over the starts, by evaluations."""
    curves: dict[str, list[Curve]] = {"energy": [], "pressure": [], "von-mises": []}
    energy_unit, unit = pressure_unit(made)
    for method, (at, x) in found.items():
        energy, stress = stresses(made, x.reshape(-1, *x.shape[2:]))
        for what, values in (("energy", energy), ("pressure", pressure(stress)), ("von-mises", von_mises(stress))):
            by_start = values.reshape(len(at), -1)
            curves[what].append(Curve(method, at, by_start.mean(1), spread=by_start.std(1)))
    stated = f"mean and standard deviation of {len(made.energies)} starts"
    labels = {"energy": f"Energy ({energy_unit})", "pressure": f"Pressure ({unit})", "von-mises": f"Von Mises stress ({unit})"}
    return [
        draw(folder / f"{name}-{what}.svg", f"{name}: {stated}", made_of, "Evaluations", labels[what], log=True)
        for what, made_of in curves.items()
    ]


def drawn_distributions(folder: Path, name: str, made: Liquid, found: Mapping) -> list[Path]:
    """Distributions over atoms of energy, pressure and von Mises stress: at the start, on the way, at the ends."""
    looks = {"start": found["FIRE"][1][0], **{method: x[-1] for method, (_, x) in found.items()}}
    if "policy" in found:
        looks["policy, middle"] = found["policy"][1][MIDDLE // LOOK]
    values: dict[str, dict[str, np.ndarray]] = {"energies": {}, "pressures": {}, "von-mises-stresses": {}}
    for method, x in looks.items():
        energy, stress = atomic(made, x)
        values["energies"][method] = energy.ravel()
        values["pressures"][method] = pressure(stress).ravel()
        values["von-mises-stresses"][method] = von_mises(stress).ravel()
    energy_unit, unit = pressure_unit(made)
    labels = {
        "energies": f"Energy of an atom ({energy_unit})", "pressures": f"Pressure on an atom ({unit})",
        "von-mises-stresses": f"Von Mises stress of an atom ({unit})",
    }  # fmt: skip
    stated = f"atoms of {len(made.energies)} starts; policy, middle: after {MIDDLE} displacements"
    return [
        draw(folder / f"{name}-{what}.svg", f"{name}: {stated}", histograms(by_method), labels[what], "Density")
        for what, by_method in values.items()
    ]


def histograms(values: Mapping[str, np.ndarray]) -> list[Curve]:
    """Densities of values as steps, in the same bins; beyond the middle 99 % of all values nothing is drawn."""
    every = np.concatenate(list(values.values()))
    low, high = np.nanpercentile(every, (0.5, 99.5))
    edges = np.linspace(low, high, BINS + 1)
    made = []
    for name, these in values.items():
        density = np.histogram(these, edges)[0] / (len(these) * np.diff(edges))
        made.append(Curve(name, np.repeat(edges, 2)[1:-1], np.repeat(density, 2)))
    return made


# A fixed running time (Figure 8) --------------------------------------------------------------------------------------


def fixed_time(folder: Path, name: str, options: Options, note: Callable[[str], None]) -> list[Path]:
    """The lowest energy by CPU seconds: relaxations of fresh liquids again and again, and basin hopping from one of them."""
    made = starts_of(name, QUICK_REPEATED if options.quick else REPEATED, options.seed + 1)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    fire = opponents.published("FIRE", made.potential)
    again: dict[str, Relaxation] = {"FIRE": Relaxation(made.potential, fire.relaxer, fire.fmax, fire.max_steps)}
    try:
        bond, scale = (
            float(np.mean(made.system.bond_lengths)),
            made.potential.energy_scale(np.asarray(made.system.numbers)) or 1.0,
        )
        mine = policy(
            made.potential, made.system, weights_of("policy", options)["weights"], n_steps=DISPLACEMENTS, seed=options.seed,
            then=LBFGS(max_step=0.15 * bond),
        )  # fmt: skip
        again["policy"] = Relaxation(made.potential, mine, 1e-2 * scale / bond, DISPLACEMENTS + 1000)
    except Skipped as reason:
        note(f"skipped policy in the figure of a fixed time: {reason}")
    curves = [repeated(method, made, relaxation, seconds) for method, relaxation in again.items()]
    hopped = made.structures[: QUICK_HOPPED if options.quick else HOPPED]
    ends = np.array([
        [o.energy for o in opponents.run("glass-hopping", made.potential, made.system, hopped, None, t, options.seed)]
        for t in seconds
    ])  # fmt: skip
    curves.append(Curve("basin hopping", np.asarray(seconds), ends.mean(1), True, ends.std(1)))
    note("; ".join(f"{c.name}: {c.y[-1]:.2f} after {c.x[-1]:g} CPU seconds" for c in curves))
    title = (
        f"{name}: lowest energy; {len(made.energies)} liquids relaxed once, basin hopping from {plural(len(hopped), 'start')}"
    )
    return [draw(folder / f"{name}-fixed-time.svg", title, curves, "CPU seconds", "Energy", log=True)]


def repeated(method: str, made: Liquid, relaxation: Relaxation, seconds: Sequence[float]) -> Curve:
    """The lowest energy that is to be expected after so many seconds of relaxing one fresh liquid after the other.

    Liquids themselves cost nothing here. Curves end with as many relaxations as were made.
    """
    relax(made.structures[:LANES], relaxation, LANES)  # compiled, as basin hopping is before it counts
    begun = time.process_time()
    # Side by side from first to last step: a policy costs as much for one lane that still strides as for all.
    out = [relax(made.structures[k : k + LANES], relaxation, LANES) for k in range(0, len(made.energies), LANES)]
    each = (time.process_time() - begun) / len(made.energies)
    energies, status = np.concatenate([o.energy for o in out]), np.concatenate([o.status for o in out])
    energies = energies[(status != FAILED) & np.isfinite(energies)]
    counts = np.unique(np.round(np.geomspace(1, len(energies), 24)).astype(int))
    counts = counts[counts * each <= max(seconds[-1], each)]
    mean, spread = lowest_of(energies, counts)
    return Curve(method, counts * each, mean, True, spread)


def lowest_of(energies: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (counts,) of the lowest of so many energies, drawn with replacement."""
    energies, n = np.sort(energies), len(energies)
    # The i-th of n is the lowest of k with probability ((n - i + 1)^k - (n - i)^k) / n^k.
    ranks, power = np.arange(n), np.asarray(counts)[:, None]
    chance = ((n - ranks) / n) ** power - ((n - ranks - 1) / n) ** power
    mean = chance @ energies
    return mean, np.sqrt(np.maximum(chance @ energies**2 - mean**2, 0.0))


def figures(folder: Path, rows: Sequence[Mapping], options: Options, note: Callable[[str], None]) -> list[Path]:
    """All figures; none needs rows."""
    folder.mkdir(parents=True, exist_ok=True)
    name = QUICK_SYSTEM if options.quick else SYSTEM
    made = starts_of(name, options.count or (QUICK_STARTS if options.quick else STARTS), options.seed)
    found = courses(made, options, note)
    return [
        *drawn_courses(folder, name, made, found),
        *drawn_distributions(folder, name, made, found),
        *fixed_time(folder, name, options, note),
    ]
