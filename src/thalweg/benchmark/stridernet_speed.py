"""What policies cost: displacements, adaptation and training by the second, and how the cost grows with the number of atoms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.benchmark.experiments import Options, Section, Skipped, Table
from thalweg.benchmark.liquids import liquid
from thalweg.benchmark.stridernet_methods import policy
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.potentials.neighbors import grown, neighbors_for, worthwhile
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.base import Relaxer
from thalweg.relax.driver import Relaxation, advance, empty_lanes, load
from thalweg.relax.fire import FIRE
from thalweg.system import periodic

#: Seconds of the paper on a CPU of 24 cores: 100 displacements, 100 steps of FIRE, 100 epochs of adaptation (Tables 8 and 9).
PUBLISHED = {"policy": 54.3, "FIRE": 1.02, "adaptation": 1170.0}
SIZES = (100, 1000, 4000, 10_000)
#: Steps that are timed above 1,000 particles; their time is scaled to 100.
FEW = 20
REPEATS = 3


def settings(system: str, method: str, options: Options) -> dict:
    """What a cell is run with; timings have no seed to speak of."""
    if method == "adaptation" and system != "LJ100":
        raise Skipped("adaptation is timed on LJ100")
    return {"count": 1, "evaluations": 1600 if method == "adaptation" else 100, "seed": options.seed, "horizon": None}


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """Seconds of 100 steps or episodes of one structure: least and median of `REPEATS`, compilation apart."""
    n = int(settings["system"][2:])
    potential, system, x = start(n, settings["seed"])
    made = {
        "policy": lambda: policy(potential, system, slots=32, n_steps=10**6),
        "FIRE": lambda: FIRE(0.01, 0.04, float("inf")),
        "adaptation": lambda: Adaptation(policy(potential, system), episodes=10**6),
    }[settings["method"]]()
    steps = settings["evaluations"] if n <= 1000 else FEW
    times, compiling = timed(potential, system, x, made, steps)
    times = [t * settings["evaluations"] / steps for t in times]
    return {"seconds": round(min(times), 5), "median": round(float(np.median(times)), 5), "compiling": round(compiling, 2)}


def start(n: int, seed: int):
    """(potential, system, positions (n, 3)) of a mixture: a liquid, or, from 1,000 particles on, one of 125 repeated."""
    if n < 1000:
        made = liquid(f"lj{n}", 1, seed)
        return made.potential, made.system, np.asarray(made.structures.positions)[0]
    if n % 500:
        raise InputError(f"LJ{n} is no liquid of 125 particles repeated; sizes from 1,000 on are multiples of 500")
    copies = (2, 2, n // 500)
    base = liquid("lj125", 1, seed)
    cell, x = np.asarray(base.system.cell), np.asarray(base.structures.positions)[0]
    shifts = np.stack(np.meshgrid(*[np.arange(c) for c in copies], indexing="ij"), -1).reshape(-1, 3) @ cell
    whole = (x[None] + shifts[:, None]).reshape(-1, 3)
    numbers = np.tile(np.asarray(base.system.numbers), len(shifts))
    system = periodic(numbers, base.potential, cell * np.asarray(copies)[:, None])
    return base.potential, system, whole[np.argsort(numbers, kind="stable")]  # a system sorts its atoms by species


def timed(potential, system, x: np.ndarray, relaxer: Relaxer, n_steps: int) -> tuple[list[float], float]:
    """Seconds of `n_steps` steps in single precision, one structure, and CPU seconds of compiling."""
    relaxation = Relaxation(potential, relaxer, 1e-9, 10**9)
    space = relaxation.space(np.asarray(system.cell)[None], system.pbc)
    numbers = jnp.asarray(system.numbers)[:, None]
    positions = jnp.asarray(x, jnp.float32)[..., None]
    neighbors = None
    if worthwhile(len(x), space, potential.reach):
        neighbors = neighbors_for(potential, positions, numbers, as_leaves(space, np.float32))
    relaxation, space = as_leaves((relaxation, space), np.float32)
    free = jnp.ones((len(x), 1, 1), jnp.float32)
    begun = time.process_time()

    @eqx.filter_jit
    def run(relaxation, space, neighbors, positions):
        lanes = empty_lanes(relaxation, len(x), 1, jnp.float32, space)
        lanes = replace_neighbors(load(lanes, relaxation, jnp.ones(1, bool), positions), neighbors)
        return advance(lanes, relaxation, numbers, free, space, n_steps)

    jax.block_until_ready(out := run(relaxation, space, neighbors, positions))
    while (listed := out.neighbors) is not None and bool(listed.overflow):
        neighbors = grown(listed)
        jax.block_until_ready(out := run(relaxation, space, neighbors, positions))
    compiling, times = time.process_time() - begun, []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        jax.block_until_ready(run(relaxation, space, neighbors, positions))
        times.append(time.perf_counter() - begun)
    return times, compiling


def replace_neighbors(lanes, neighbors):
    """Lanes with a list of neighbours."""
    return eqx.tree_at(lambda k: k.neighbors, lanes, neighbors, is_leaf=lambda k: k is None)


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Seconds beside the published ones, and the exponent of the cost against size."""
    lines = []
    for r in rows:
        known = PUBLISHED[r["method"]] if r["system"] == "LJ100" else None
        paper = "" if known is None else f"{known:,.2f}"
        ratio = "" if known is None else f"{known / r['seconds']:,.0f}"
        lines.append((r["system"], r["method"], f"{r['seconds']:.4f}", f"{r['median']:.4f}", paper, ratio))
    notes = []
    for method in ("policy", "FIRE"):
        sizes = {int(r["system"][2:]): r["seconds"] for r in rows if r["method"] == method}
        large = sorted(n for n in sizes if n >= 1000)
        if len(large) > 1:
            slope = np.polyfit(np.log(large), np.log([sizes[n] for n in large]), 1)[0]
            notes.append(f"{method}: cost grows with exponent {slope:.2f} from {large[0]:,} to {large[-1]:,} particles")
    head = ("system", "100 steps or episodes of", "seconds, least of 3", "median", "paper (24 cores)", "times faster")
    return [Section("seconds of one structure on one core, compilation apart", head, tuple(lines), tuple(notes))]


TABLE = Table(
    "speed", "seconds of 100 displacements and of 100 episodes of adaptation, and the growth with size",
    tuple(f"LJ{n}" for n in SIZES), ("policy", "FIRE", "adaptation"), settings, measure, sections, ("LJ100",),
    lambda name: name.startswith("LJ") and name[2:].isdigit(),
)  # fmt: skip
