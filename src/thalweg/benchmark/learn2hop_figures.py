"""What learned optimisers do, drawn as in section 5 of the paper, and the hulls of its Figure 7: SVG files.

Energies and lengths of updates of Adam, FIRE and the learned methods from the same starts; their updates while they are held at
one minimum; and the minima whose basins they pass through: what L-BFGS makes of the structures along a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.benchmark.experiments import Options, Skipped
from thalweg.benchmark.learn2hop_hulls import ATOMS, ends_of, hull, lowest, mixing
from thalweg.benchmark.learn2hop_methods import Problem, horizon_for, method, problem, starts, weights_for
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.relax.base import Relaxer, largest_norm
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.report.charts import WIDTH, Axis, _x_axis, _y_axis
from thalweg.report.format import esc

#: Methods whose trajectories are drawn, where weights ship.
DRAWN = ("adam", "fire", "annealed", "learned", "learn2hop")
#: The system of the trajectories, what is left after the longest annealing for the descent, and relaxations along one.
SYSTEM, DESCENT, LOOKS = "LJ13", 100, 100
#: Largest force (energies of a bond per bond) at which a descent ends.
DONE = 1e-4
#: Lengths of updates below this are drawn as this.
STILL = 1e-8
#: A method has the same colour in all figures.
COLOURS = {
    "adam": "#2b7bba", "fire": "#d1662b", "annealed": "#3a9a6a", "learned": "#a352a3", "learn2hop": "#b8434e", "hop": "#8a8a2e",
    "hop-10": "#5a6b7b", "tuned": "#2aa0a0", "learned-other": "#c2418c", "learned-hop": "#7a5230", "hull": "#161b22",
    "start": "#5a6b7b", "policy": "#b8434e", "policy, middle": "#8a8a2e", "FIRE": "#d1662b", "adaptation": "#a352a3",
    "basin hopping": "#3a9a6a",
}  # fmt: skip
STYLE = (
    "svg{font:13px sans-serif;background:#fff}.grid{stroke:#e4e8ed;fill:none}.tick{fill:#56606b;font-size:12px}"
    ".label{fill:#56606b}.curve{fill:none;stroke-width:1.8;stroke-linejoin:round}"
)
_TOP, _BOTTOM, _LEFT, _RIGHT = 30.0, 268.0, 70.0, WIDTH - 10.0


@dataclass(frozen=True)
class Curve:
    """Points of a line; `dots` marks them, `spread` is drawn on both sides of it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    dots: bool = False
    spread: np.ndarray | None = None


@dataclass(frozen=True)
class Trace:
    """One method from many starts, and held at a minimum."""

    energies: np.ndarray  # (steps, starts)
    updates: np.ndarray  # (steps, starts) root mean square over atoms
    positions: np.ndarray  # (looks, starts, atoms, 3)
    held: np.ndarray  # (steps,) length of the update that it would make at a minimum


@eqx.filter_jit
def _followed(potential: Potential, relaxer: Relaxer, numbers, x, looks: int, every: int, moving: bool):
    """Energies, updates (looks, every, lanes) and positions (looks, atoms, 3, lanes) of steps that move, or only would."""
    mine = relaxer.bound(numbers, None)

    def step(carry, _):
        x, state = carry
        out = potential.lanes(x, numbers, None)
        done = mine.settled(state) & (largest_norm(out.forces) < DONE) & moving
        move, state = mine.step(x, out.forces, out.energy, state)
        move = jnp.where(done, 0.0, move)
        length = jnp.sqrt((move * move).sum(1).mean(0))
        return (x + move if moving else x, state), (out.energy, length)

    def look(carry, _):
        after, measured = lax.scan(step, carry, None, length=every)
        return after, (*measured, carry[0])

    return lax.scan(look, (x, relaxer.init(x)), None, length=looks)[1]


def traced(made: Problem, relaxer: Relaxer, x: np.ndarray, minimum: np.ndarray, steps: int) -> Trace:
    """Follow a relaxer from starts (starts, atoms, 3), and held at a minimum (atoms, 3)."""
    every = max(1, steps // LOOKS)
    looks = -(-steps // every)
    numbers = jnp.asarray(made.system.numbers)[:, None]
    potential, mine = as_leaves((made.potential, relaxer), np.float64)
    with jax.enable_x64(True):  # in single precision the descents would end in noise
        lanes = lambda a: jnp.asarray(np.moveaxis(a, 0, -1), jnp.float64)
        e, u, p = _followed(potential, mine, numbers, lanes(x), looks, every, True)
        # Nowhere is a force exactly zero in practice, and atoms without one would count as fixed.
        _, held, _ = _followed(potential, mine, numbers, lanes(minimum[None] * (1 + 1e-6)), looks, every, False)
    flat = lambda a: np.asarray(a, np.float64).reshape(-1, a.shape[-1])[:steps]
    return Trace(flat(e), flat(u), np.moveaxis(np.asarray(p), -1, 1), flat(held)[:, 0])


def basins(made: Problem, trace: Trace, start: int) -> np.ndarray:
    """Energies (looks,) of the minima in whose basins a trajectory is."""
    out = relax(made.system.structure(trace.positions[:, start].astype(float)),
                Relaxation(made.potential, LBFGS(max_step=0.1 * made.bond), 1e-3 * made.scale / made.bond, 1000))  # fmt: skip
    return out.energy


def behaviour(folder: Path, options: Options, note: Callable[[str], None]) -> list[Path]:
    """The figures of section 5."""
    made = problem(SYSTEM)
    count = options.count or 32
    x = np.asarray(starts(made, count, options.seed).positions)
    minimum = relax(
        made.system.structure(x[:1]), Relaxation(made.potential, LBFGS(max_step=0.1), 1e-6, 1000)
    ).structures.positions[0]
    relaxers: dict[str, Relaxer] = {}
    horizons: dict[str, int] = {}
    for name in DRAWN:
        try:
            weights = weights_for(name, made, options)
        except Skipped as reason:
            note(f"skipped {name} in the figures: {reason}")
            continue
        horizon = horizon_for(name, made, options)
        horizons[name] = horizon or 0
        relaxers[name] = method(name, made, 10_000, horizon, weights.get("weights")).relaxation.relaxer
    steps = max(horizons.values()) + DESCENT
    traces = {name: traced(made, relaxer, x, np.asarray(minimum), steps) for name, relaxer in relaxers.items()}
    at = np.arange(1, steps + 1)
    best = made.best or 0.0
    energy = [Curve(n, at, np.minimum(t.energies.mean(1), best + 60)) for n, t in traces.items()]
    log = lambda a: np.log10(np.maximum(a, STILL))
    updates = [Curve(n, at, log(t.updates.mean(1))) for n, t in traces.items()]
    # Of a minimum minimisers say only how they treat rounding; what anneals has more to say, until its descent.
    held = [Curve(n, at[:h], log(t.held[:h])) for n, t in traces.items() if (h := horizons[n])]
    unit = "log10 of the update (bonds)"
    written = [
        draw(folder / name, f"{made.name}: {title}", curves, "Step", label)
        for name, title, curves, label in (
            ("energies.svg", f"mean energy of {count} starts (cut off at {best + 60:.0f})", energy, "Energy"),
            ("updates.svg", f"root mean square update, mean of {count} starts", updates, unit),
            ("updates-at-a-minimum.svg", "the update that would be made, held at one minimum", held, unit),
        )
    ]
    hops = []
    for name, trace in traces.items():
        found = basins(made, trace, 0)
        hops.append(Curve(name, np.linspace(1, steps, len(found)), found, dots=True))
        changes = int((np.abs(np.diff(found)) > 1e-3 * made.scale).sum())
        ends = f"from {found[0]:.3f} to {found[-1]:.3f}"
        note(f"{name}: {changes} changes of basin in {len(found)} looks along one trajectory, {ends}")
    title = f"{made.name}: minima whose basins one trajectory passes through"
    return [*written, draw(folder / "hops.svg", title, hops, "Step", "Energy of the minimum")]


def hulls(folder: Path, rows: Sequence[Mapping]) -> list[Path]:
    """Figure 7 of the families that rows are there for: mixing energies by each method, and the hull of the lowest."""
    written = []
    for pair, methods in lowest([r for r in rows if r["table"] == "hulls"]).items():
        ends = ends_of(pair, methods)
        curves = []
        for name, energies in methods.items():
            mixed = mixing(energies, ends)
            curves.append(Curve(name, np.array(list(mixed)), np.array(list(mixed.values())), dots=True))
        best = mixing({m: min(e[m] for e in methods.values() if m in e) for e in methods.values() for m in e}, ends)
        corners = hull(best)
        curves.append(Curve("hull", np.array(corners), np.array([best[m] for m in corners])))
        title = f"Mixing energy of {ATOMS} atoms of {pair[:2]} and {pair[2:]}"
        written.append(draw(folder / f"hull-{pair}.svg", title, curves, f"Atoms of {pair[2:]}", "Mixing energy (eV)"))
    return written


def figures(folder: Path, rows: Sequence[Mapping], options: Options, note: Callable[[str], None]) -> list[Path]:
    """All figures; those of hulls where their rows are there."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*behaviour(folder, options, note), *hulls(folder, rows)]


def draw(path: Path, title: str, curves: Sequence[Curve], x_label: str, y_label: str, log: bool = False) -> Path:
    """Write an SVG file of lines, their names below; no script, readable in any browser. `log`: the horizontal axis is."""
    x = np.concatenate([np.asarray(c.x, float) for c in curves])
    edges = [[c.y] if c.spread is None else [c.y - c.spread, c.y + c.spread] for c in curves]
    y = np.concatenate([np.asarray(a, float) for pair in edges for a in pair])
    finite = np.isfinite(y)
    low, high = float(y[finite].min()), float(y[finite].max())
    margin = 0.04 * (high - low) or 1.0
    ax, ay = Axis(float(x.min()), float(x.max()), _LEFT, _RIGHT, log), Axis(low - margin, high + margin, _BOTTOM, _TOP)
    parts = [_y_axis(ay, _LEFT, _RIGHT, y_label), _x_axis(ax, _BOTTOM, _TOP, x_label)]
    for k, curve in enumerate(curves):
        colour = COLOURS.get(curve.name, "#161b22")
        good = np.isfinite(curve.y)
        points = [(ax.at(float(a)), ay.at(float(b))) for a, b in zip(curve.x[good], curve.y[good], strict=True)]
        if curve.spread is not None:
            around = [(curve.x, curve.y + curve.spread), (curve.x[::-1], (curve.y - curve.spread)[::-1])]
            ring = [
                (ax.at(float(a)), ay.at(float(b))) for xs, ys in around for a, b in zip(xs, ys, strict=True) if np.isfinite(b)
            ]
            parts.append(f'<path fill="{colour}" fill-opacity=".15" d="M{"L".join(f"{a} {b}" for a, b in ring)}Z"/>')
        path_of = "M" + "L".join(f"{a} {b}" for a, b in points)
        width = "1" if curve.dots else "1.8"
        parts.append(f'<path class="curve" style="stroke:{colour};stroke-width:{width}" d="{path_of}"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="2.2" fill="{colour}"/>' for a, b in points if curve.dots]
        left, down = _LEFT + 96 * (k % 4), _BOTTOM + 58 + 18 * (k // 4)
        parts.append(f'<rect x="{left}" y="{down - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text class="tick" x="{left + 15}" y="{down}">{esc(curve.name)}</text>')
    height = _BOTTOM + 70 + 18 * ((len(curves) - 1) // 4)
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {WIDTH} {height + 24:g}" role="img" aria-label="{esc(title)}">'
        f'<style>{STYLE}</style><text x="2" y="-8">{esc(title)}</text>{"".join(parts)}</svg>\n'
    )
    path.write_text(text, encoding="utf-8")
    return path
