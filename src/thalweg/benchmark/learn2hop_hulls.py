"""Convex hulls of 38 atoms of two metals, all 39 compositions: the systems of the paper's Figure 7.

The mixing energy of A(38-m)B(m) is E(A(38-m)B(m)) - (38-m)/38 E(A38) - m/38 E(B38), in eV. Annealings place atoms and do not
order species: they get half of the evaluations, and exchanges of species from the lowest that they found the other half.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from thalweg import presets
from thalweg.benchmark.experiments import Options, Section, Skipped, Table, numbers
from thalweg.benchmark.fresh_starts import Finds, find
from thalweg.benchmark.learn2hop_methods import ALLOYS, LEARNED, MODELS, horizon_for, method, problem, result, weights_for
from thalweg.generators.mutation import Swap
from thalweg.generators.seeded import given
from thalweg.networks.weights import shipped
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.search.basin_hopping import BasinHopping

ATOMS = 38
#: Upper bounds (eV) from short basin hopping with swaps, by family and number of atoms of the second metal; no proven minima.
BOUNDS = {
    "AgAu": {
        0: -96.8800, 3: -100.8295, 7: -105.6347, 15: -113.3183, 19: -116.9363, 22: -119.4745, 30: -126.1956, 38: -132.3536,
    },
    "PdPt": {
        0: -131.3757, 3: -139.4255, 7: -148.5446, 15: -164.3647, 19: -171.0204, 22: -176.0172, 30: -188.1328, 38: -199.6755,
    },
}  # fmt: skip
METHODS = ("adam", "fire", "annealed", "hop", "hop-10", "tuned", "learned", "learned-other", "learned-hop")
#: Weights that ship and were trained on other alloys.
OTHER = {"AgAu": "gupta-alloys", "PdPt": "gupta-silver-gold"}
#: Energies (eV) this near are equal, and a bound of four decimals is met.
EQUAL = 5e-4
#: kT of exchanges of species, in energies of a bond.
EXCHANGING = 0.1


def compositions(name: str) -> tuple[str, ...]:
    """All compositions of a family, or the one that is named."""
    if name not in ALLOYS:
        return (name,)
    first, second = name[:2], name[2:]
    part = lambda symbol, n: f"{symbol}{n}" if n else ""
    return tuple(part(first, ATOMS - m) + part(second, m) for m in range(ATOMS + 1))


def family(name: str) -> tuple[str, int] | None:
    """Family and number of atoms of the second metal of a composition of 38 atoms."""
    for pair in ALLOYS:
        found = re.fullmatch(f"(?:{pair[:2]}(\\d+))?(?:{pair[2:]}(\\d+))?", name)
        if found and int(found[1] or 0) + int(found[2] or 0) == ATOMS:
            return pair, int(found[2] or 0)
    return None


def settings(system: str, name: str, options: Options) -> dict:
    """16 starts of 6,000 evaluations; ten times as many where the method says so."""
    made = problem(system)
    place = family(system)
    assert place is not None
    of, chosen = name, options
    if name == "learned-other":
        file = options.weights.get(name, OTHER[place[0]])
        if file == OTHER[place[0]] and file not in shipped():
            raise Skipped(f"the weights {file} do not ship")
        of, chosen = "learned", replace(options, weights={"learned": file})
    elif name == "learned" and name not in options.weights:
        # One set of weights for all compositions, the pure metals too.
        mixed = problem(compositions(place[0])[1])
        file = presets.suited_weights(MODELS[of], mixed.system, mixed.potential)
        chosen = replace(options, weights={**options.weights, **({of: file} if file else {})})
    return {
        "count": options.count or 16,
        "evaluations": (options.evaluations or 6000) * (10 if name == "hop-10" else 1),
        "seed": options.seed,
        "horizon": horizon_for(of, made, options),
        **weights_for(of, made, chosen),
    }


def measure(cell: dict, note: Callable[[str], None]) -> dict:
    """The starts of one composition."""
    made = problem(cell["system"])
    how = method(cell["method"], made, cell["evaluations"], cell["horizon"], cell.get("weights"), swaps=True)
    ordered = cell["method"] in ("annealed", "learned", "learned-other") and len(np.unique(made.system.numbers)) > 1
    budget = cell["evaluations"] // 2 if ordered else cell["evaluations"]
    found = find(how.search, how.relaxation, made.system, cell["count"], budget, cell["seed"], how.fmax, how.max_steps)
    row = result(made, found)
    if ordered:
        after = result(made, _exchanged(made, found, cell, budget))
        row = {
            "first": row["first"],
            "energies": [
                min(pair, key=lambda e: np.inf if e is None else e)
                for pair in zip(row["energies"], after["energies"], strict=True)
            ],
            "spent": row["spent"] + after["spent"],
            "cpu_seconds": round(row["cpu_seconds"] + after["cpu_seconds"], 2),
        }
    return row


def _exchanged(made, found: Finds, cell: dict, budget: int) -> Finds:
    """Exchanges of species from the lowest structure of an annealing, in as many walks as there were starts."""
    start = given([made.system.structure(found.positions)], made.system)
    walk = BasinHopping([Swap()], [start], temperature=EXCHANGING, energy_scale=made.scale, patience=10**6)
    relaxation = Relaxation(made.potential, LBFGS(max_step=0.15 * made.bond))
    return find(walk, relaxation, made.system, cell["count"], budget, cell["seed"])


def lowest(rows: Sequence[Mapping]) -> dict[str, dict[str, dict[int, float]]]:
    """Lowest energies by family, method and number of atoms of the second metal."""
    found: dict = {}
    for r in rows:
        place = family(r["system"])
        energies = numbers(r["energies"])
        if place is not None and np.isfinite(energies).any():
            found.setdefault(place[0], {}).setdefault(r["method"], {})[place[1]] = float(energies.min())
    return found


def mixing(energies: Mapping[int, float], ends: tuple[float, float]) -> dict[int, float]:
    """Mixing energies (eV) by number of atoms of the second metal."""
    return {m: e - (ATOMS - m) / ATOMS * ends[0] - m / ATOMS * ends[1] for m, e in sorted(energies.items())}


def hull(points: Mapping[int, float]) -> list[int]:
    """Numbers of atoms at the corners of the lower convex hull."""
    corners: list[int] = []
    for m in sorted(points):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (points[b] - points[a]) * (m - a) < (points[m] - points[a]) * (b - a):
                break
            corners.pop()
        corners.append(m)
    return corners


def ends_of(pair: str, methods: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    """Energies of the pure metals: the lowest that any method found, or the bounds."""
    best = lambda m: min([e[m] for e in methods.values() if m in e] + [BOUNDS[pair][m]])
    return best(0), best(ATOMS)


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies of all compositions by each method; bounds, hulls, and at how many compositions which is lower."""
    made = []
    for pair, methods in lowest(rows).items():
        own = [r for r in rows if (family(r["system"]) or ("",))[0] == pair]
        ends = ends_of(pair, methods)
        lines = []
        every = sorted({m for e in methods.values() for m in e})
        best = {m: min(e[m] for e in methods.values() if m in e) for m in every}
        mixed = mixing(best, ends)
        for m in every:
            shown = [f"{e[m]:.4f}" if m in e else "" for e in methods.values()]
            bound = BOUNDS[pair].get(m)
            lines.append((str(m), *shown, "" if bound is None else f"{bound:.4f}", f"{mixed[m]:.4f}"))
        notes = [f"corners of the hull of the lowest: m = {', '.join(map(str, hull(mixed)))}"]
        notes += [said for name, e in methods.items() for said in _against(pair, name, e, methods)]
        cpu = {name: sum(r["cpu_seconds"] for r in own if r["method"] == name) for name in methods}
        notes.append("CPU-s: " + ", ".join(f"{name} {value:,.0f}" for name, value in cpu.items()))
        notes += _steps(own)
        head = ("m", *methods, "bound", "mixing energy of the lowest")
        first, second = pair[:2], pair[2:]
        base = [r for r in own if r["method"] != "hop-10"] or own
        title = (
            f"{first}(38-m){second}(m): lowest energies in eV ({base[0]['count']} starts, seed {base[0]['seed']}, "
            f"{base[0]['evaluations']:,} evaluations each"
        )
        title += "; hop-10 ten times as many)" if "hop-10" in methods else ")"
        made.append(Section(title, head, tuple(lines), tuple(notes)))
    return made


def _steps(rows: Sequence[Mapping]) -> list[str]:
    horizons = {r["method"]: r["horizon"] for r in rows if r["horizon"] is not None}
    return ["steps of one annealing: " + ", ".join(f"{name} {steps:,}" for name, steps in horizons.items())] if horizons else []


def _against(pair: str, name: str, energies: Mapping[int, float], methods: Mapping[str, Mapping[int, float]]) -> list[str]:
    """A trained method against the bounds and against each of the others, by a sign test over compositions."""
    if name not in LEARNED:
        return []
    listed = {m: bound for m, bound in BOUNDS[pair].items() if m in energies}
    above = [m for m, bound in listed.items() if energies[m] > bound + EQUAL]
    said = [
        f"{pair}: {name} is at or below the bound at {len(listed) - len(above)} of {len(listed)} compositions"
        + (f", above it at m = {', '.join(map(str, above))}" if above else "")
    ]
    for other, theirs in methods.items():
        common = [m for m in energies if m in theirs]
        if other in LEARNED or not common:
            continue
        lower = sum(energies[m] < theirs[m] - EQUAL for m in common)
        higher = sum(energies[m] > theirs[m] + EQUAL for m in common)
        p = binomtest(lower, lower + higher).pvalue if lower + higher else 1.0
        word = "not distinguishable from" if p > 0.05 else "better than" if lower > higher else "worse than"
        said.append(
            f"{pair}: {name} is {word} {other}: lower at {lower}, equal at {len(common) - lower - higher}, higher at {higher} "
            f"compositions (sign test, p = {p:.2g})"
        )
    return said


TABLE = Table(
    "hulls", "lowest energies and mixing energies of all compositions of 38 atoms of two metals (Figure 7)", tuple(ALLOYS),
    METHODS, settings, measure, sections, (), lambda name: family(name) is not None, expand=compositions,
)  # fmt: skip
