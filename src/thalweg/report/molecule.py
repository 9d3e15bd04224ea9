"""Structures as the report shows them: species, bonds, a view, a still picture, XYZ text."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from thalweg.report.data import Minimum
from thalweg.report.format import esc

#: Atoms nearer than this many times the typical contact of their two species are drawn with a bond.
BOND_REACH = 1.25
#: Radius of a ball, as a part of the contact radius of its species.
BALL = 0.55
_MODEL_COLOUR, _MODEL_RADIUS = "#4f86c6", 0.5


def atoms_of(minimum: Minimum) -> tuple[np.ndarray, np.ndarray]:
    """Positions (atoms, 3) and numbers (atoms,) without padding."""
    numbers = np.asarray(minimum.numbers, int)
    return np.asarray(minimum.positions, float)[numbers >= 0], numbers[numbers >= 0]


def symbol(number: int) -> str:
    """Chemical symbol; X for a particle of a model system."""
    from ase.data import chemical_symbols

    return chemical_symbols[number]


def colour(number: int) -> str:
    """Jmol's colour of an element as #rrggbb; model particles are blue."""
    from ase.data.colors import jmol_colors

    if number == 0:
        return _MODEL_COLOUR
    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[number])


def contact_radii(minima: Sequence[Minimum]) -> dict[int, float]:
    """Radius of each species, such that two species in contact are typically the sum of their radii apart.

    Ratios come from covalent radii (Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j), the common scale
    from the structures, so that it holds in Å and in reduced units: the median over atoms of the nearest contact is 1.
    """
    from ase.data import covalent_radii

    species = sorted({int(z) for m in minima for z in atoms_of(m)[1]})
    radius = {z: _MODEL_RADIUS if z == 0 else float(covalent_radii[z]) for z in species}
    nearest = []
    for positions, numbers in map(atoms_of, minima):
        if len(positions) > 1:
            nearest.append(_relative_distances(positions, np.array([radius[int(z)] for z in numbers])).min(1))
    scale = float(np.median(np.concatenate(nearest))) if nearest else 1.0
    return {z: r * (scale if scale > 0 else 1.0) for z, r in radius.items()}


def _relative_distances(positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Distances (atoms, atoms) in units of the contact distance; inf on the diagonal."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1) / (radii[:, None] + radii[None])
    np.fill_diagonal(distance, np.inf)
    return distance


def bonds(positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Pairs (bonds, 2) of atoms nearer than `BOND_REACH` contacts."""
    return np.argwhere(np.triu(_relative_distances(positions, radii) < BOND_REACH))


def view(positions: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that shows a structure from its flat side, long side across, tilted to look solid."""
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
        f'Properties=species:S:1:pos:R:3 energy={float(minimum.energy):.9f} minimum={rank} pbc="F F F"',
        *(f"{symbol(int(z))} " + " ".join(f"{c:.8f}" for c in p) for z, p in zip(numbers, positions, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def xyz_link(minimum: Minimum, rank: int) -> str:
    """The XYZ text as a data address, for a download without a server."""
    return "data:chemical/x-xyz;charset=utf-8," + quote(xyz(minimum, rank), safe="=:/.,")


def still(minimum: Minimum, radii: dict[int, float], label: str, size: int = 480) -> str:
    """An SVG picture of a structure, for pages without scripts: balls and bonds in slabs from back to front."""
    positions, numbers = atoms_of(minimum)
    radius = np.array([radii[int(z)] for z in numbers])
    x = (positions - positions.mean(0)) @ view(positions).T
    scale = 0.46 * size / max(np.sqrt((x**2).sum(1)).max() + BALL * radius.max(), 1e-9)
    pixels = np.round(size / 2 + scale * x[:, :2] * [1, -1], 1)
    pairs = bonds(positions, radius)
    edges = np.linspace(x[:, 2].min(), x[:, 2].max(), 17)[1:-1]
    slab_atom, slab_bond = np.digitize(x[:, 2], edges), np.digitize(x[pairs, 2].mean(1), edges)
    width = max(1.0, round(0.19 * BALL * scale * float(radius.mean()), 1))
    parts = []
    for slab in range(len(edges) + 1):
        path = "".join(
            f"M{pixels[i, 0]:g} {pixels[i, 1]:g}L{pixels[j, 0]:g} {pixels[j, 1]:g}" for i, j in pairs[slab_bond == slab]
        )
        if path:
            parts.append(f'<path class="bond" stroke-width="{width}" d="{path}"/>')
        inside = np.flatnonzero(slab_atom == slab)
        for i in inside[np.argsort(x[inside, 2])]:
            parts.append(
                f'<circle cx="{pixels[i, 0]:g}" cy="{pixels[i, 1]:g}" r="{BALL * scale * radius[i]:.1f}" '
                f'fill="url(#ball{int(numbers[i])})"/>'
            )
    gradients = "".join(_gradient(z) for z in sorted(set(numbers.tolist())))
    return (
        f'<svg class="still" viewBox="0 0 {size} {size}" role="img" aria-label="{esc(label)}"><title>{esc(label)}</title>'
        f"<defs>{gradients}</defs>{''.join(parts)}</svg>"
    )


def _gradient(species: int) -> str:
    """Shading of a ball, lit from above left."""
    base = colour(species)
    stops = ((0, _mix(base, 255, 0.55)), (0.5, base), (1, _mix(base, 0, 0.5)))
    inner = "".join(f'<stop offset="{at}" stop-color="{c}"/>' for at, c in stops)
    return f'<radialGradient id="ball{species}" cx=".38" cy=".34" r=".7">{inner}</radialGradient>'


def _mix(hex_colour: str, towards: int, part: float) -> str:
    """The colour moved by `part` of the way to grey level `towards`."""
    levels = [int(hex_colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(c + part * (towards - c)):02x}" for c in levels)


def payload(minima: Sequence[Minimum], radii: dict[int, float], name: str) -> dict:
    """What the viewer's script needs, as JSON values; positions in the minimum's own frame, 8 decimals."""
    species = sorted(radii)
    shown = []
    for minimum in minima:
        positions, numbers = atoms_of(minimum)
        shown.append(
            {
                "energy": round(float(minimum.energy), 9),
                "species": [species.index(int(z)) for z in numbers],
                "positions": np.round(positions, 8).ravel().tolist(),
                "view": np.round(view(positions), 5).ravel().tolist(),
            }
        )
    return {
        "name": name,
        "reach": BOND_REACH,
        "ball": BALL,
        "species": [{"symbol": symbol(z), "colour": colour(z), "radius": round(radii[z], 6)} for z in species],
        "minima": shown,
    }
