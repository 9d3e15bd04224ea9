"""Structures as the report shows them: species, bonds, a view, a still picture, XYZ text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

import numpy as np

from thalweg.report.cell import drawn_axes, edges, full, with_images, wrapped
from thalweg.report.data import Minimum
from thalweg.report.format import esc

#: Atoms nearer than this many times the typical contact of their two species are drawn with a bond.
BOND_REACH = 1.25
#: Radius of a ball, as a part of the contact radius of its species.
BALL = 0.55
_MODEL_COLOUR, _MODEL_RADIUS = "#4f86c6", 0.5
#: Colours for species whose own would be taken for another's, and how far apart (of 441) colours must be.
_SPARE, _DISTINCT = ("#4f86c6", "#e8833a", "#5aa469", "#b05cc6", "#c94f4f"), 100.0


def atoms_of(minimum: Minimum) -> tuple[np.ndarray, np.ndarray]:
    """Positions (atoms, 3), in the cell where there is one, and numbers (atoms,), without padding."""
    numbers = np.asarray(minimum.numbers, int)
    return wrapped(np.asarray(minimum.positions, float)[numbers >= 0], minimum), numbers[numbers >= 0]


def symbol(number: int) -> str:
    """Chemical symbol; X for a particle of a model system."""
    from ase.data import chemical_symbols

    return chemical_symbols[number]


def colours(species: Iterable[int]) -> dict[int, str]:
    """A colour #rrggbb for each species: Jmol's of the element, blue for model particles, another where two look alike."""
    from ase.data.colors import jmol_colors

    chosen: dict[int, str] = {}
    for z in sorted(set(species), reverse=True):
        own = _MODEL_COLOUR if z == 0 else "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[z])
        distinct = [c for c in (own, *_SPARE) if all(_apart(c, other) > _DISTINCT for other in chosen.values())]
        chosen[z] = (distinct or [own])[0]
    return chosen


def _apart(one: str, other: str) -> float:
    """How different two colours are, from 0 to 441."""
    return float(np.linalg.norm(np.subtract(_levels(one), _levels(other))))


def _levels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def contact_radii(minima: Sequence[Minimum]) -> dict[int, float]:
    """Radius of each species, such that two species in contact are typically the sum of their radii apart.

    Ratios come from covalent radii (Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j), the common scale
    from the structures, so that it holds in Å and in reduced units: the median over atoms of the nearest contact is 1.
    """
    from ase.data import covalent_radii

    species = sorted({int(z) for m in minima for z in atoms_of(m)[1]})
    radius = {z: _MODEL_RADIUS if z == 0 else float(covalent_radii[z]) for z in species}
    nearest = []
    for minimum in minima:
        numbers = atoms_of(minimum)[1]
        if len(numbers) > 1 or any(minimum.pbc):
            nearest.append(_contacts(minimum, np.array([radius[int(z)] for z in numbers])))
    scale = float(np.median(np.concatenate(nearest))) if nearest else 1.0
    return {z: r * (scale if scale > 0 else 1.0) for z, r in radius.items()}


def _contacts(minimum: Minimum, radii: np.ndarray) -> np.ndarray:
    """Distance (atoms,) of each atom from its nearest contact, images included, in units of the sum of their radii."""
    positions = atoms_of(minimum)[0]
    nearest = _relative_distances(positions, radii, positions, radii).min(1)
    if not any(minimum.pbc):
        return nearest
    # No contact is farther than that to the nearest image of the atom itself.
    repeat = min(float(np.linalg.norm(v)) for v, p in zip(full(minimum), minimum.pbc, strict=True) if p)
    reach = float((np.minimum(nearest, repeat / (2 * radii)) * (radii + radii.max())).max())
    everything, owner = with_images(positions, minimum, reach)
    return _relative_distances(positions, radii, everything, radii[owner]).min(1)


def _relative_distances(positions, radii, others, other_radii) -> np.ndarray:
    """Distances (atoms, others) in units of the contact distance; inf where an atom meets itself."""
    distance = np.linalg.norm(positions[:, None] - others[None], axis=-1) / (radii[:, None] + other_radii[None])
    np.fill_diagonal(distance, np.inf)
    return distance


def bonds(minimum: Minimum, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contacts nearer than `BOND_REACH`: pairs (bonds, 2) within the cell, and those that leave it.

    The latter are atoms (stubs,) and the points (stubs, 3) half way to their partners; every such bond has two stubs.
    """
    positions = atoms_of(minimum)[0]
    everything, owner = with_images(positions, minimum, BOND_REACH * 2 * radii.max(initial=0))
    near = _relative_distances(positions, radii, everything, radii[owner]) < BOND_REACH
    n = len(positions)
    atom, image = np.nonzero(near[:, n:])
    return np.argwhere(np.triu(near[:, :n])), atom, (positions[atom] + everything[n + image]) / 2


def frame_of(minimum: Minimum) -> tuple[np.ndarray, np.ndarray]:
    """Edges (edges, 2, 3) of the cell, none for clusters, and the centre (3,) about which a structure turns."""
    positions = atoms_of(minimum)[0]
    axes = drawn_axes(positions, minimum)
    if not axes:
        return np.zeros((0, 2, 3)), positions.mean(0)
    cell = full(minimum)
    centre = (positions @ np.linalg.inv(cell)).mean(0)
    centre[axes] = 0.5
    return edges(axes) @ cell, centre @ cell


def view(minimum: Minimum) -> np.ndarray:
    """Rotation (3, 3) that shows a cluster from its flat side, long side across, a cell with its first vector across and
    its last one up, tilted to look solid."""
    if any(minimum.pbc):
        cell = full(minimum)
        across = cell[0] / np.linalg.norm(cell[0])
        up = cell[2] - (cell[2] @ across) * across
        axes = np.stack([across, up / np.linalg.norm(up), np.zeros(3)])
    else:
        positions = atoms_of(minimum)[0]
        centred = positions - positions.mean(0)
        axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1].copy()
    axes[2] = np.cross(axes[0], axes[1])
    a, b = np.radians(14.0), np.radians(-20.0)
    tilt_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    tilt_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return tilt_x @ tilt_y @ axes


def xyz(minimum: Minimum, rank: int) -> str:
    """Extended XYZ text, one frame; the viewer's script writes the same."""
    positions, numbers = atoms_of(minimum)
    lines = [
        str(len(numbers)),
        f"{lattice(minimum)}Properties=species:S:1:pos:R:3 energy={float(minimum.energy):.9f} minimum={rank} "
        f'pbc="{" ".join("FT"[bool(p)] for p in minimum.pbc)}"',
        *(f"{symbol(int(z))} " + " ".join(f"{c:.8f}" for c in p) for z, p in zip(numbers, positions, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def lattice(minimum: Minimum) -> str:
    """The cell as extended XYZ has it, with a blank after it; nothing where there is none."""
    cell = np.asarray(minimum.cell, float)
    return f'Lattice="{" ".join(f"{v:.8f}" for v in cell.ravel())}" ' if cell.any() else ""


def xyz_link(minimum: Minimum, rank: int) -> str:
    """The XYZ text as a data address, for a download without a server."""
    return "data:chemical/x-xyz;charset=utf-8," + quote(xyz(minimum, rank), safe="=:/.,")


def still(minimum: Minimum, radii: dict[int, float], label: str, size: int = 480) -> str:
    """An SVG picture of a structure, for pages without scripts: balls and bonds in slabs from back to front."""
    positions, numbers = atoms_of(minimum)
    radius = np.array([radii[int(z)] for z in numbers])
    frame, centre = frame_of(minimum)
    turned = lambda points: (points - centre) @ view(minimum).T
    x, frame = turned(positions), turned(frame)
    corner = np.sqrt((frame**2).sum(-1)).max(initial=0)
    scale = 0.46 * size / max(np.sqrt((x**2).sum(1)).max() + BALL * radius.max(), corner, 1e-9)
    on_page = lambda points: np.round(size / 2 + scale * points[..., :2] * [1, -1], 1)
    pixels = on_page(x)
    pairs, outward, half = bonds(minimum, radius)
    lines = np.concatenate([x[pairs], np.stack([x[outward], turned(half)], axis=1)])
    # From just under one ball's surface to just under the other's: then the middle's depth decides rightly.
    under = 0.8 * BALL * np.concatenate([radius[pairs], np.stack([radius[outward], np.zeros(len(outward))], axis=1)])
    along = (lines[:, 1] - lines[:, 0]) / np.maximum(np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1), 1e-9)[:, None]
    lines = lines + np.array([1, -1])[:, None] * under[..., None] * along[:, None]
    # Edges in pieces, so that balls hide what is behind them.
    ends = frame[:, :1] + np.linspace(0, 1, 13)[:, None] * (frame[:, 1:] - frame[:, :1])
    pieces = np.stack([ends[:, :-1], ends[:, 1:]], axis=2).reshape(-1, 2, 3)
    slabs = np.linspace(x[:, 2].min(), x[:, 2].max(), 17)[1:-1]
    slab_of = lambda z: np.digitize(z, slabs)
    slab_atom, slab_line = slab_of(x[:, 2]), slab_of(lines[..., 2].mean(1))
    slab_piece = slab_of(pieces[..., 2].mean(1) - BALL * radius.max())  # those inside a ball are behind its front
    width = max(1.0, round(0.19 * BALL * scale * float(radius.mean()), 1))
    parts = []
    for slab in range(len(slabs) + 1):
        for kind, drawn in (
            (f'class="bond" stroke-width="{width}"', lines[slab_line == slab]),
            ('class="cell"', pieces[slab_piece == slab]),
        ):
            path = "".join(f"M{a[0]:g} {a[1]:g}L{b[0]:g} {b[1]:g}" for a, b in on_page(drawn))
            if path:
                parts.append(f'<path {kind} d="{path}"/>')
        inside = np.flatnonzero(slab_atom == slab)
        for i in inside[np.argsort(x[inside, 2])]:
            parts.append(
                f'<circle cx="{pixels[i, 0]:g}" cy="{pixels[i, 1]:g}" r="{BALL * scale * radius[i]:.1f}" '
                f'fill="url(#ball{int(numbers[i])})"/>'
            )
    gradients = "".join(_gradient(z, c) for z, c in colours(radii).items())
    return (
        f'<svg class="still" viewBox="0 0 {size} {size}" role="img" aria-label="{esc(label)}"><title>{esc(label)}</title>'
        f"<defs>{gradients}</defs>{''.join(parts)}</svg>"
    )


def _gradient(species: int, base: str) -> str:
    """Shading of a ball, lit from above left."""
    stops = ((0, _mix(base, 255, 0.55)), (0.5, base), (1, _mix(base, 0, 0.5)))
    inner = "".join(f'<stop offset="{at}" stop-color="{c}"/>' for at, c in stops)
    return f'<radialGradient id="ball{species}" cx=".38" cy=".34" r=".7">{inner}</radialGradient>'


def _mix(colour: str, towards: int, part: float) -> str:
    """The colour moved by `part` of the way to grey level `towards`."""
    return "#" + "".join(f"{round(c + part * (towards - c)):02x}" for c in _levels(colour))


def payload(minima: Sequence[Minimum], radii: dict[int, float], name: str) -> dict:
    """What the viewer's script needs, as JSON values; positions in the minimum's own frame, 8 decimals."""
    species, colour = sorted(radii), colours(radii)
    shown = []
    for minimum in minima:
        positions, numbers = atoms_of(minimum)
        periodic = {}
        if any(minimum.pbc):
            frame, centre = frame_of(minimum)
            _, atom, half = bonds(minimum, np.array([radii[int(z)] for z in numbers]))
            periodic = {
                "centre": np.round(centre, 5).tolist(),
                "edges": np.round(frame, 5).reshape(-1, 6).tolist(),
                "stubs": [[int(i), *point] for i, point in zip(atom, np.round(half, 4).tolist(), strict=True)],
            }
        shown.append(
            {
                "energy": round(float(minimum.energy), 9),
                "species": [species.index(int(z)) for z in numbers],
                "positions": np.round(positions, 8).ravel().tolist(),
                "view": np.round(view(minimum), 5).ravel().tolist(),
                "head": lattice(minimum),
                "pbc": " ".join("FT"[bool(p)] for p in minimum.pbc),
                **periodic,
            }
        )
    return {
        "name": name,
        "reach": BOND_REACH,
        "ball": BALL,
        "species": [{"symbol": symbol(z), "colour": colour[z], "radius": round(radii[z], 6)} for z in species],
        "minima": shown,
    }
