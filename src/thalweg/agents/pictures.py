"""What an agent thinks while it builds, as a picture: a map of values for each species at every placement."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.agents import building
from thalweg.agents.agent import Agent
from thalweg.agents.building import Build, Site
from thalweg.agents.grid import Grid
from thalweg.leaves import as_leaves
from thalweg.system import System

#: Maps in a picture at most: of longer builds only some placements are shown, evenly spread.
MAPS = 60
#: Edge of a map, and width of the picture, in units of its own.
EDGE, WIDTH = 150.0, 1000.0
#: Colours from low to high values: dark blue, green, yellow, light; between them they are mixed.
_STOPS = ((38, 34, 98), (40, 98, 140), (50, 158, 132), (150, 206, 84), (253, 236, 110))
_SHADES = 63
INK, SOFT, CHOSEN = "#161b22", "#56606b", "#d1133b"


class Step(NamedTuple):
    """One placement: what was placed before, values of all that might follow (-inf where not allowed), and what was chosen."""

    positions: np.ndarray  # (atoms placed, 3)
    kinds: np.ndarray  # (atoms placed,) indices among the agent's species
    maps: np.ndarray  # (species, voxels)
    voxel: int
    kind: int


def greedy(agent: Agent, site: Site) -> list[Step]:
    """The placements of a build by the most valuable one at a time; in float32, as agents are."""
    agent, site = as_leaves((agent, site), np.float32)
    build, steps = building.empty(site, 1), []
    for _ in range(site.n_placed):
        values, action, following = _step(agent, site, build)
        maps = np.asarray(values)
        if not np.isfinite(maps).any():  # no place is left: greedy builds may run into a corner
            break
        there, kinds = np.asarray(build.there)[0] & np.asarray(site.system.searched), np.asarray(site.kinds)
        kind, voxel = divmod(int(action), site.grid.size)
        steps.append(Step(np.asarray(build.positions)[0][there], kinds[there], maps, voxel, kind))
        build = following
    return steps


@eqx.filter_jit
def _step(agent: Agent, site: Site, build: Build):
    """Values (species, voxels) of what is allowed, the best flat index, and the build after that."""
    values = agent.maps(site.grid, build.positions, site.kinds, build.there, site.system.cell)
    values = jnp.where(building.allowed(site, build), values, -jnp.inf)
    action = jnp.argmax(values.reshape(1, -1), 1)
    kind, voxel = jnp.divmod(action, site.grid.size)
    return values[0], action[0], building.placed(site, build, kind, voxel)


def q_maps(agent: Agent, grid: Grid, system: System, steps: Sequence[Step]) -> str:
    """The placements as SVG: values by colour, atoms that are there as circles, a ring around the place that was chosen.
    Atoms of the system's template are pale.

    In three dimensions a map shows the highest value along the last axis of the grid. All maps have one scale of colours.
    """
    # Species of the template alone have nothing to show.
    names = {s: symbol(z) for s, z in enumerate(agent.species) if any(np.isfinite(step.maps[s]).any() for step in steps)}
    shown = spread(len(steps), max(MAPS // max(len(names), 1), 1))
    frame = _Frame(grid, _window(grid, [steps[k] for k in shown]))
    low, high = _range([steps[k].maps for k in shown])
    across = len(names) * (frame.width + 6) + 14
    columns = max(int(WIDTH // across), 1)
    height, parts = frame.height + 40, []
    below = _below(frame, system)
    for place, k in enumerate(shown):
        atoms = _circles(frame, steps[k].positions, [agent.species[kind] for kind in steps[k].kinds])
        below += f'<g id="atoms-{k}">{atoms}</g>'
        x, y = (place % columns) * across + 4, (place // columns) * height + 62
        parts.append(label(x, y + 12, f"{k + 1}. {names[steps[k].kind]}", weight=600))
        for column, s in enumerate(names):
            parts.append(_panel(frame, steps[k], k, s, names[s], (x + column * (frame.width + 6), y + 18), (low, high)))
    width = max(min(columns, len(shown)) * across, 520)
    bottom = 62 + -(-len(shown) // columns) * height
    some = "" if len(shown) == len(steps) else f"; {len(shown)} of {len(steps)} placements"
    head = label(4, 18, f"Expected outcomes of every placement, as the agent sees them while it builds{some}", 14, weight=600)
    return drawing(width, bottom, f"<defs>{below}</defs>{head}{_scale(low, high)}{''.join(parts)}")


class _Frame:
    """The plane of the first two axes of a grid in units of the picture; y points up in the plane and down on the page.

    `window` (2, 2) are the first voxel that is shown along each axis, and the one behind the last.
    """

    def __init__(self, grid: Grid, window: np.ndarray):
        self.grid, self.window = grid, window
        a, b, _ = np.asarray(grid.steps, float)
        along = a / np.linalg.norm(a)
        self.axes = np.array([[np.linalg.norm(a), 0.0], [b @ along, np.linalg.norm(b - (b @ along) * along)]])
        (i, k), (j, m) = window - 0.5
        around = np.array([[i, j], [k, j], [k, m], [i, m]])
        corners = around @ self.axes
        self.low, size = corners.min(0), np.ptp(corners, axis=0)
        self.scale = EDGE / size.max()
        self.width, self.height = self.scale * size
        self.edge = self.page(around)
        self.inverse = np.linalg.inv(np.asarray(grid.steps, float))

    def page(self, uv: np.ndarray) -> np.ndarray:
        """Where voxel coordinates (n, 2) are on the page, from the upper left corner of a map."""
        flat = self.scale * (uv @ self.axes - self.low)
        return np.stack([flat[:, 0], self.height - flat[:, 1]], 1)

    def places(self, positions) -> np.ndarray:
        """The same of positions (n, 3), along periodic axes brought to the map."""
        u = (np.asarray(positions, float) - np.asarray(self.grid.origin, float)) @ self.inverse
        size = np.asarray(self.grid.shape, float)
        u = np.where(self.grid.periodic, (u + 0.5) % size - 0.5, u)
        return self.page(u[:, :2])

    def matrix(self) -> str:
        """The transform of an image with one pixel for each voxel of the window, in SVG."""
        zero = self.page(self.window[None, :, 0] - 0.5)[0]
        (ax, ay), (bx, by) = self.scale * self.axes
        return f"matrix({ax:.4f} {-ay:.4f} {bx:.4f} {-by:.4f} {zero[0]:.2f} {zero[1]:.2f})"


def _panel(frame: _Frame, step: Step, number: int, species: int, name: str, at, limits) -> str:
    """One map with its atoms."""
    values = np.asarray(step.maps[species], float).reshape(frame.grid.shape).max(2)[tuple(slice(*w) for w in frame.window)]
    best = values.max()
    parts = [f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in frame.edge)}" fill="#eceff3"/>']
    if np.isfinite(best):
        data = base64.b64encode(_png(_shades(values.T, limits))).decode()
        parts.append(
            f'<image width="{len(values)}" height="{values.shape[1]}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" transform="{frame.matrix()}" href="data:image/png;base64,{data}"/>'
        )
    parts.append(f'<use href="#template"/><use href="#atoms-{number}"/>')
    if species == step.kind:
        x, y = frame.page(np.array(np.unravel_index(step.voxel, frame.grid.shape), float)[None, :2])[0]
        parts.append(ring(x, y))
    said = f"{name} {best:.2f}".replace("-", "−") if np.isfinite(best) else name
    parts.append(label(0, frame.height + 13, said, 11, SOFT))
    return f'<g transform="translate({at[0]:.1f} {at[1]:.1f})">{"".join(parts)}</g>'


def _below(frame: _Frame, system: System) -> str:
    """The atoms of the template, once for all maps."""
    held = np.asarray(system.mask) & ~np.asarray(system.searched)
    if system.positions is None or not held.any():
        return '<g id="template"/>'
    circles = _circles(frame, np.asarray(system.positions)[held], np.asarray(system.numbers)[held].tolist())
    return f'<g id="template" opacity=".35">{circles}</g>'


def _circles(frame: _Frame, positions: np.ndarray, numbers: Sequence[int]) -> str:
    """Atoms as circles, those nearer to the eye later."""
    positions = np.asarray(positions).reshape(-1, 3)
    places, parts = frame.places(positions), []
    for k in np.argsort(positions[:, 2], kind="stable"):
        x, y = places[k]
        if -8 < x < frame.width + 8 and -8 < y < frame.height + 8:
            colour, radius = look(numbers[k])
            size = np.clip(0.5 * radius * frame.scale, 2.5, 11)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}"/>')
    return f'<g stroke="{INK}" stroke-width=".8">{"".join(parts)}</g>'


def _window(grid: Grid, steps: Sequence[Step]) -> np.ndarray:
    """First voxels, and those behind the last, (2, 2) of what is shown: where an atom is or may be, and two around."""
    size = np.asarray(grid.shape)
    used = np.zeros(grid.shape, bool)
    for step in steps:
        used |= np.isfinite(step.maps).any(0).reshape(grid.shape)
        used.flat[step.voxel] = True
    window = np.stack([np.zeros(2, int), size[:2]], 1)
    for axis in (0, 1):
        found = np.flatnonzero(used.any((1 - axis, 2)))
        if len(found) and not grid.periodic[axis]:
            window[axis] = max(found[0] - 2, 0), min(found[-1] + 3, size[axis])
    return window


def _scale(low: float, high: float) -> str:
    """The bar of colours with its ends."""
    stops = "".join(f'<stop offset="{k / 8:.3f}" stop-color="rgb{tuple(_colour(k / 8))}"/>' for k in range(9))
    digits = 2 if high - low >= 0.05 else 4
    ends = [f"{v:.{digits}f}".replace("-", "−") for v in (low, high)]
    return (
        f'<defs><linearGradient id="q">{stops}</linearGradient></defs>'
        f'{label(4, 44, ends[0], 12, SOFT)}<rect x="52" y="34" width="142" height="12" fill="url(#q)"/>'
        f"{label(200, 44, ends[1], 12, SOFT)}"
        f'<circle cx="246" cy="40" r="6" fill="none" stroke="{CHOSEN}" stroke-width="2"/>'
        f"{label(258, 44, 'chosen; grey: no atom may be put there', 12, SOFT)}"
    )


def drawing(width: float, height: float, parts: str) -> str:
    """A document in SVG, on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui, Helvetica, Arial, sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{parts}</svg>\n'
    )


def ring(x: float, y: float) -> str:
    """The mark of a place that was chosen."""
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none"'
    return "".join(f'{circle} stroke="{colour}" stroke-width="{wide}"/>' for colour, wide in (("#fff", 4), (CHOSEN, 2)))


def label(x: float, y: float, words: str, size: int = 12, colour: str = INK, weight: int = 400) -> str:
    """Words, from a place to the right."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}">{escape(words)}</text>'


def spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly spread, first and last among them."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))}) if count else []


def _range(maps: list[np.ndarray]) -> tuple[float, float]:
    """The values between which colours change: all but the lowest of a hundred."""
    values = np.concatenate([m[np.isfinite(m)] for m in maps] or [np.zeros(0)])
    if not len(values):
        return -1.0, 1.0
    low, high = float(np.quantile(values, 0.01)), float(values.max())
    return (low, high) if high - low > 1e-6 else (low - 5e-7, high + 5e-7)


def _shades(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Indices of colours; 0 (transparent) where there is no value."""
    low, high = limits
    part = np.clip((np.where(np.isfinite(values), values, low) - low) / (high - low), 0, 1)
    return np.where(np.isfinite(values), 1 + np.round(part * (_SHADES - 1)), 0).astype(np.uint8)


def _colour(part: float) -> list[int]:
    """Red, green and blue at a part of the scale."""
    at = part * (len(_STOPS) - 1)
    return [round(float(np.interp(at, range(len(_STOPS)), [s[c] for s in _STOPS]))) for c in range(3)]


def _png(indices: np.ndarray) -> bytes:
    """A PNG image of indices (rows, columns) into the colours of the scale."""
    rows, columns = indices.shape
    palette = bytes([0, 0, 0]) + b"".join(bytes(_colour(k / (_SHADES - 1))) for k in range(_SHADES))
    raw = b"".join(b"\0" + row.tobytes() for row in indices)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"PLTE", palette) + chunk(b"tRNS", b"\0") + chunk(b"IDAT", zlib.compress(raw, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def symbol(number: int) -> str:
    """That of an element."""
    from ase.data import chemical_symbols

    return chemical_symbols[number]


def look(number: int) -> tuple[str, float]:
    """Colour and radius (Å) of an atom."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[number]), float(covalent_radii[number])
