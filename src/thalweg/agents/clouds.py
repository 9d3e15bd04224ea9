"""What a builder of molecules thinks while it builds, as a picture: clouds of places for the next atom, by their values.

After figure 5 of S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022), doi:10.1088/2632-2153/ac3eb4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.formula import Formula

from thalweg.agents.assembly import DIRECTIONS, Chance, Stage, placements, weighed
from thalweg.agents.constitution import bonded
from thalweg.agents.pictures import INK, SOFT, drawing, label, look, ring, spread, symbol
from thalweg.agents.policy import Greedy
from thalweg.networks.builder import BuilderNetwork

#: Directions about every atom in a cloud: as often as it takes, places are offered anew in others.
DENSE = 384
#: Placements of hydrogens, and of others, in a picture at most, evenly spread; dots in a cloud.
HYDROGENS, OTHERS, DOTS = 3, 16, 700
#: Places that are worth less than this share of the best one are left out, and how many shades there are for the others.
SHARE, SHADES = 0.05, 10
#: Longer side of a cloud, width of the picture, room above and between clouds, in units of the picture.
EDGE, WIDTH, ABOVE, GAP = 188.0, 1000.0, 38.0, 12.0
#: Colours of elements that are hard to see, or to tell apart, on white; the others have their usual ones.
_COLOURS = {1: "#0b9aa8", 6: "#39424e", 7: "#3050f8", 8: "#e0201b", 9: "#4c9a1f"}


class Placement(NamedTuple):
    """One placement: what was there, positions (atoms, 3) in Å and atomic numbers (atoms,); what might be put where, places
    (choices, 3), atomic numbers (choices,) and values (choices,); and what was put where, a place (3,) and a number."""

    positions: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    elements: np.ndarray
    values: np.ndarray
    point: np.ndarray
    number: int


def greedy(network: BuilderNetwork, numbers: np.ndarray, count: int = 1) -> list[Placement]:
    """The placements of a build of these atomic numbers (atoms,) by the most valuable one at a time; where no place is left
    for an atom, those before it.

    The first of `count` builds: programs are compiled for as many side by side, and a search has those for its candidates.
    """
    steps: list[Placement] = []
    with jax.enable_x64(False):
        network = jax.tree.map(jnp.asarray, network)
        for before, chance, after in placements(jax.random.key(0), network, np.asarray(numbers), count, Greedy()):
            if np.asarray(after.stuck)[0]:
                break
            steps.append(_placement(network, before, chance, after))
    return steps


def _placement(network: BuilderNetwork, before: Stage, chance: Chance, after: Stage) -> Placement:
    """As much of a step as can be seen."""
    species = np.asarray(network.species)
    elements = species[np.maximum(np.asarray(before.target), 0)]
    there, now = np.asarray(before.there)[0], np.asarray(after.there)[0]
    (slot,) = np.flatnonzero(now & ~there)
    places, kinds, values = [], [], []
    for k in range(-(-DENSE // DIRECTIONS) if there.any() else 0):
        offer, _, worth = weighed(jax.random.key(k), network, before, chance)
        place, kind = np.nonzero(np.asarray(offer.fine)[0])
        places.append(np.asarray(offer.query)[0][place])
        kinds.append(kind)
        values.append(np.asarray(worth)[0][place, kind])
    joined = lambda parts, like: np.concatenate([like, *parts])
    x = np.asarray(after.positions)[0]
    return Placement(
        x[there], elements[there], joined(places, np.zeros((0, 3))), species[joined(kinds, np.zeros(0, int))],
        joined(values, np.zeros(0)), x[slot], int(elements[slot]),
    )  # fmt: skip


def q_clouds(steps: Sequence[Placement]) -> str:
    """Placements (one at least) as SVG: a dot for every place that is worth something, the stronger the more, coloured by what
    may be put there; atoms that are there; a ring around the place that was taken. Beside them what came of it.

    All are seen along the shortest axis of what was built. The first atom of a build has no choice, and is not shown.
    """
    last = steps[-1]
    x, numbers = np.vstack([last.positions, last.point]), np.append(last.numbers, last.number)
    shown = _shown([step.number for step in steps])
    clouds = [_cloud(steps[k]) for k in shown]
    frame = _Frame(x, np.vstack([x, *(cloud.places for cloud in clouds)]))
    panels = [(_caption(k + 1, steps[k]), _scene(frame, cloud)) for k, cloud in zip(shown, clouds, strict=True)]
    panels.append((label(0, 14, "as it was built", 13, weight=600), _atoms(frame, x, numbers)))
    head, top = _head(numbers, [steps[k].number for k in shown])
    return _arranged(frame, panels, head, top)


def _arranged(frame: _Frame, panels: Sequence[tuple[str, str]], head: str, top: float) -> str:
    """Captions and scenes in rows below the head of a picture, which is `top` high."""
    across, down = frame.width + GAP, frame.height + ABOVE + GAP
    columns, parts = max(int(WIDTH // across), 1), [head]
    for k, (words, scene) in enumerate(panels):
        at = f"translate({k % columns * across + GAP / 2:.1f} {k // columns * down + top:.1f})"
        floor = f'<rect width="{frame.width:.1f}" height="{frame.height:.1f}" rx="6" fill="#f4f6f8"/>'
        parts.append(f'<g transform="{at}">{words}<g transform="translate(0 {ABOVE:.0f})">{floor}{scene}</g></g>')
    return drawing(max(min(columns, len(panels)) * across, 760), top + -(-len(panels) // columns) * down, "".join(parts))


class _Frame:
    """The plane of the two longest axes of atoms `about` (atoms, 3), as wide as it takes to hold `all_of` (points, 3)."""

    def __init__(self, about: np.ndarray, all_of: np.ndarray):
        away = np.linalg.svd(about - about.mean(0))[2]
        # Of an axis and its opposite the one along which the farthest atom lies.
        along = (about - about.mean(0)) @ away.T
        far = np.take_along_axis(along, np.abs(along).argmax(0)[None], 0)[0]
        self.middle, self.axes = about.mean(0), np.where(far < -1e-6, -1, 1)[:, None] * away
        flat = self._flat(all_of)[:, :2]
        self.low, self.high = flat.min(0) - 0.45, flat.max(0) + 0.45
        self.scale = min(EDGE / (self.high - self.low).max(), 45.0)
        self.width, self.height = self.scale * (self.high - self.low)

    def _flat(self, positions: np.ndarray) -> np.ndarray:
        return (np.asarray(positions, float).reshape(-1, 3) - self.middle) @ self.axes.T

    def page(self, positions: np.ndarray) -> np.ndarray:
        """Where positions (n, 3) are, (n, 2), from the upper left corner; up is up."""
        flat = self.scale * (self._flat(positions)[:, :2] - self.low)
        return np.stack([flat[:, 0], self.height - flat[:, 1]], 1)

    def depth(self, positions: np.ndarray) -> np.ndarray:
        """How near to the eye positions (n, 3) are."""
        return self._flat(positions)[:, 2]


def _shown(numbers: Sequence[int]) -> list[int]:
    """Which placements are drawn: of hydrogens few, as they are many and alike."""
    every = range(1, len(numbers))
    light, others = [k for k in every if numbers[k] == 1], [k for k in every if numbers[k] != 1]
    return [others[k] for k in spread(len(others), OTHERS)] + [light[k] for k in spread(len(light), HYDROGENS)]


def _cloud(step: Placement) -> Placement:
    """With the choices alone that are worth drawing."""
    order = np.argsort(-step.values, kind="stable")[:DOTS]
    keep = order[step.values[order] >= SHARE * step.values.max(initial=0)]
    return step._replace(places=step.places[keep], elements=step.elements[keep], values=step.values[keep])


def _scene(frame: _Frame, step: Placement) -> str:
    """A cloud with the atoms, and the place that was taken."""
    taken = ring(*frame.page(step.point[None])[0])
    return _dots(frame, step) + _atoms(frame, step.positions, step.numbers) + taken


def _dots(frame: _Frame, step: Placement) -> str:
    """A cloud, the best places in front; the dots of a shade are one path, in which they do not add up."""
    shade, at, parts = np.ceil(np.clip(step.values, 0, 1) * SHADES), frame.page(step.places), []
    for level in np.unique(shade):
        for z in np.unique(step.elements):
            here = at[(shade == level) & (step.elements == z)]
            if len(here):
                path = "".join(f"M{x:.1f} {y:.1f}h.1" for x, y in here)
                parts.append(f'<path d="{path}" stroke="{_colour(int(z))}" stroke-opacity="{level / SHADES:.2g}"/>')
    wide = 0.16 * frame.scale
    return f'<g fill="none" stroke-linecap="round" stroke-width="{wide:.1f}">{"".join(parts)}</g>'


def _atoms(frame: _Frame, positions: np.ndarray, numbers: np.ndarray) -> str:
    """Atoms as discs with their symbols, and their bonds as lines behind them."""
    at, parts = frame.page(positions), []
    for i, j in zip(*np.nonzero(np.triu(bonded(numbers, positions))), strict=True):
        (ax, ay), (bx, by) = at[i], at[j]
        parts.append(f'<path d="M{ax:.1f} {ay:.1f}L{bx:.1f} {by:.1f}" stroke="{INK}" stroke-width="2"/>')
    for k in np.argsort(frame.depth(positions), kind="stable"):
        (x, y), z = at[k], int(numbers[k])
        size = 5.5 if z == 1 else 8
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{_colour(z)}" stroke="#fff"/>')
        parts.append(_symbol_at(x, y, symbol(z), size + 3))
    return "".join(parts)


def _symbol_at(x: float, y: float, name: str, size: float) -> str:
    return (
        f'<text x="{x:.1f}" y="{y + 0.36 * size:.1f}" font-size="{size:g}" font-weight="600" fill="#fff" '
        f'text-anchor="middle">{name}</text>'
    )


def _caption(number: int, step: Placement) -> str:
    """What was placed, and what the best place for each element was worth."""
    parts, x = [label(0, 14, f"{number}. {symbol(step.number)}", 13, weight=600)], 0.0
    for z in sorted(set(step.elements.tolist()), key=lambda z: -step.values[step.elements == z].max()):
        said = f"{symbol(z)} {step.values[step.elements == z].max():.2f}"
        parts.append(label(x, 30, said, 11, _colour(z), 600 if z == step.number else 400))
        x += 7 * len(said) + 4
    return "".join(parts)


def _head(numbers: np.ndarray, shown: Sequence[int]) -> tuple[str, float]:
    """Title, how the picture of these atoms and these of their placements is read, and the colours; and how high that is."""
    formula = Formula.from_list([symbol(int(z)) for z in numbers]).format("hill")
    words = (
        f"A build of {formula}, seen along its shortest axis: every atom goes where it is worth most, hydrogens come last.",
        "A dot is a place where the next atom may go, in the colour of that atom: the stronger, the more it is worth to put it",
        f"there, from 0 to 1; numbers are the best of each element. The first atom has no choice.{_left_out(numbers, shown)}",
    )
    parts = [label(6, 20, "What the builder values at each placement", 15, weight=600)]
    parts += [label(6, 40 + 16 * k, line, 12, SOFT) for k, line in enumerate(words)]
    x = 14.0
    for z in sorted(set(numbers.tolist())):
        parts.append(f'<circle cx="{x:.0f}" cy="94" r="6" fill="{_colour(z)}"/>{label(x + 10, 98, symbol(z))}')
        x += 40
    for k in range(1, SHADES + 1):
        parts.append(f'<rect x="{x + 10 * k:.0f}" y="89" width="10" height="10" fill="{INK}" opacity="{k / SHADES:g}"/>')
    parts += [label(x, 98, "0", 12, SOFT), label(x + 10 * SHADES + 14, 98, "1", 12, SOFT)]
    x += 10 * SHADES + 50
    return "".join(parts) + ring(x, 94) + label(x + 12, 98, "where it went", 12, SOFT), 116.0


def _left_out(numbers: np.ndarray, shown: Sequence[int]) -> str:
    """How many placements are shown, where that is not all; a sentence."""
    light, others = int((numbers == 1).sum()), int((numbers != 1).sum())
    few, some = sum(z == 1 for z in shown), sum(z != 1 for z in shown)
    if few + some == len(numbers) - 1:
        return ""
    return f" Shown are {few} of {light} hydrogens" + ("." if some >= others - 1 else f" and {some} of {others} other atoms.")


def _colour(number: int) -> str:
    """That of an element, for dots and discs."""
    return _COLOURS.get(number) or look(number)[0]
