"""Relaxing Lennard-Jones particles in a plane on surrogates that learn from where relaxations end, beside relaxing directly.

Chains begin at random structures; what a surrogate has seen before the first round is these and as many as `SHOWN` others, made
in the same way. Evaluations are those of the true energy, all of them counted. A collapse is a proposal with two atoms nearer
than .6 bond lengths: through the core of the atoms, where no data are and a network's energy means nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from thalweg.benchmark.experiments import Options, Section, Skipped, Table, listed, numbers
from thalweg.learning.refit import Loop, Round, direct, nearest, refit
from thalweg.potentials.pair import LennardJones
from thalweg.registry import find
from thalweg.relax.filters import Plane
from thalweg.system import System, cluster

#: How particles are placed and how many there are; a quick run has fewer.
SYSTEMS = {"compact-16": ("compact", 16), "compact-32": ("compact", 32), "gas-32": ("gas", 32)}
QUICK_ATOMS = 8
#: Chains, structures that are shown before the first round, rounds at most; and those of a quick run.
STARTS, SHOWN, ROUNDS, QUICK_ROUNDS = 8, 64, 40, 4
#: No two particles of a random structure are nearer than this.
APART = 0.9
#: Edge of the square that particles are placed in, per root of their number.
EDGES = {"compact": 1.35, "gas": 32 / 32**0.5}
#: Small networks, trained briefly: they are fitted again after every round, at first from nothing.
NETWORK = {"kind": "network", "members": 2, "width": 16, "steps": 500, "again": 2.0}
#: Surrogates by name, [surrogate] of an input, and what differs from the usual loop.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "direct": ({}, {}),
    "schnet": ({**NETWORK, "network": "schnet"}, {}),
    "graph": ({**NETWORK, "network": "graph"}, {}),
    "pair": ({**NETWORK, "network": "pair", "width": 32, "steps": 1500}, {}),  # its steps are cheap
    "schnet-energies": ({**NETWORK, "network": "schnet"}, {"forces": False}),
    "schnet-no-core": ({**NETWORK, "network": "schnet"}, {"core": 0.0}),
}
POTENTIAL = LennardJones()


def structures(kind: str, atoms: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random structures (count, atoms, 3) in a plane: particles placed one after the other, where none is too near."""
    edge, made = EDGES[kind] * atoms**0.5, []
    while len(made) < count:
        x = np.zeros((0, 3))
        for _ in range(100 * atoms):
            new = np.append(rng.uniform(0, edge, 2), 0.0)
            if len(x) == 0 or ((x - new) ** 2).sum(1).min() > APART**2:
                x = np.concatenate([x, new[None]])
            if len(x) == atoms:
                made.append(x)
                break
    return np.array(made)


def settings(system: str, method: str, options: Options) -> dict:
    """What a cell is run with."""
    if options.quick and method not in ("direct", "pair"):
        raise Skipped("not with --quick")
    surrogate, loop = METHODS[method]
    return {
        "count": options.count or STARTS,
        "evaluations": None,
        "seed": options.seed,
        "horizon": None if method == "direct" else options.horizon or (QUICK_ROUNDS if options.quick else ROUNDS),
        "placed": SYSTEMS[system][0],
        "atoms": QUICK_ATOMS if options.quick else SYSTEMS[system][1],
        "surrogate": surrogate,
        "loop": loop,
    }


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """True energies at the end of all chains, and what every round came to."""
    rng = np.random.default_rng(settings["seed"])
    kind, atoms = settings["placed"], settings["atoms"]
    starts = structures(kind, atoms, settings["count"], rng)
    system, begun = cluster(np.zeros(atoms, int), POTENTIAL), time.process_time()
    if settings["method"] == "direct":
        out = direct(POTENTIAL, system, starts, filter=Plane())
        return {
            "energies": listed(out.energy), "evaluations_spent": int(out.steps.sum()),
            "collapses": int((nearest(np.asarray(out.structures.positions)) < 0.6).sum()), "rounds": [],
            "cpu_seconds": round(time.process_time() - begun, 1),
        }  # fmt: skip
    loop = Loop(rounds=settings["horizon"], seed=settings["seed"], single=True, **settings["loop"])

    def tell(made: Round) -> None:
        note(f"  lowest {made.lowest:.4f}, mean {made.mean:.4f}, error {made.error:.3g}, {made.collapsed} collapsed")

    more = structures(kind, atoms, SHOWN, rng)
    made = refit(surrogate(settings, system), POTENTIAL, system, starts, loop, filter=Plane(), more=more, note=tell)
    return {
        "energies": listed(made.energies),
        "evaluations_spent": made.evaluations,
        "collapses": made.collapses,
        "stalled": made.stalled,
        "rounds": [[round(r.lowest, 4), round(r.mean, 4), round(r.error, 5), r.rejected, r.collapsed] for r in made.rounds],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def surrogate(settings: Mapping, system: System):
    """The surrogate of a cell in units of the system."""
    own = dict(settings["surrogate"])
    return find("surrogate", own.pop("kind"))(**own).suited(system, POTENTIAL.energy_scale(np.asarray(system.numbers)) or 1.0)


HEAD = ("method", "lowest", "mean", "from direct", "collapses", "evaluations", "rounds", "CPU-s", "seed")


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Energies of each method, and how far its lowest is from that of direct relaxations of the same starts."""
    made = []
    for system, group in groupby(rows, key=lambda r: r["system"]):
        found = list(group)
        direct_of = {r["seed"]: numbers(r["energies"]).min() for r in found if r["method"] == "direct"}
        lines = []
        for r in found:
            energies, best = numbers(r["energies"]), direct_of.get(r["seed"])
            away = "" if best is None or r["method"] == "direct" else f"{100 * (energies.min() - best) / abs(best):+.2f} %"
            ended = f"{len(r['rounds'])}{'' if r.get('stalled', True) else ' (all)'}" if r["rounds"] else ""
            mean = energies[np.isfinite(energies)].mean()
            lines.append(
                (r["method"], f"{energies.min():.4f}", f"{mean:.4f}", away, str(r["collapses"]), f"{r['evaluations_spent']:,}",
                 ended, f"{r['cpu_seconds']:.0f}", str(r["seed"]))
            )  # fmt: skip
        title = f"{system}: {found[0]['count']} starts of {found[0]['atoms']} particles"
        notes = ["from direct: of the lowest energy, below 0 is better", "pair is told that the energy is a sum over pairs"]
        notes += ["schnet-no-core: without that of the loop, the surrogate's own repulsive prior stays"]
        notes += ["schnet-energies: it is shown no forces"]
        made.append(Section(title, HEAD, tuple(lines), tuple(notes)))
    return made


RELAXATION = Table(
    "relaxation", "relaxing on surrogates that are fitted again after each round", tuple(SYSTEMS), tuple(METHODS), settings,
    measure, sections, ("compact-16",),
)  # fmt: skip
