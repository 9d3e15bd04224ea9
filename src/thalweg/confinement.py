"""Regions that suit a system where its input names none, and systems that no region can make possible.

Above the topmost atoms of a slab, in the void of a bulk, around a cluster, or a ball that a molecule fills to less than half.
"""

from __future__ import annotations

import numpy as np

from thalweg.errors import InputError
from thalweg.geometry import nearest_squared
from thalweg.prng import key as random_key
from thalweg.space import Space, completed
from thalweg.structure import Structure
from thalweg.system import System

#: A gap along the third cell vector wider than this many bonds is a vacuum, and what lies below it is a slab.
VACUUM = 2.0
#: Densest packing of equal balls and discs: what no arrangement exceeds.
DENSEST = {3: 0.7405, 2: 0.9069}


def suited_regions(template: Structure | None, bonds, cell, pbc, dimensions: int = 3) -> tuple[str | None, dict[str, dict]]:
    """The kind of region that suits, None where none is needed, and fields of each kind by class name.

    `bonds` (added,) are bond lengths of the atoms to be placed, `cell` (3, 3) the completed cell.
    """
    bonds, cell, periodic = np.asarray(bonds, np.float64), np.asarray(cell, np.float64), np.asarray(pbc)
    x = np.zeros((0, 3)) if template is None else np.asarray(template.positions, np.float64)
    most = bonds.max()
    # What the atoms fill close-packed, 2.5 times: random structures are loose.
    volume = 2.5 * (bonds**3).sum() / np.sqrt(2)
    width = 2 * np.cbrt(3 / (4 * np.pi) * volume) + most
    low, high = (x.min(0) - width / 2, x.max(0) + width / 2) if len(x) else (np.full(3, -width / 2), np.full(3, width / 2))
    middle = (low + high) / 2
    radius = (np.linalg.norm(x - middle, axis=1).max() if len(x) else 0.0) + width / 2
    height = _height(x, most) if len(x) else float(cell[2, 2] / 2) if periodic.any() else 0.0
    edge = np.sqrt(4 * np.pi / 4 * (bonds**2).sum()) + most
    known: dict[str, dict] = {}
    if not periodic.any():
        flat = np.maximum(high - low, edge)[:2] if len(x) else np.full(2, edge)
        known["Box"] = {"vectors": np.diag(high - low).tolist(), "origin": low.tolist()}
        known["Sphere"] = {"radius": float(radius), "center": middle.tolist()}
        known["Plane"] = {"vectors": np.diag(flat).tolist(), "height": height, "corner": (middle[:2] - flat / 2).tolist()}
        kind = "sphere" if len(x) else None
    else:
        walled = np.where(periodic, 1.0, width / np.linalg.norm(cell, axis=1))[:, None] * cell
        about = (x.mean(0) if len(x) else cell.sum(0) / 2) - walled.sum(0) / 2
        corner = np.where(periodic, 0.0, np.linalg.solve(cell.T, about)) @ cell
        known["Box"] = {"vectors": walled.tolist(), "origin": corner.tolist(), "periodic": list(pbc)}
        flat_cell = periodic[:2].all() and not np.abs(cell[:2, 2]).any()
        if flat_cell:
            known["Slab"] = {"vectors": cell[:2, :2].tolist()}
            known["Plane"] = {"vectors": cell[:2, :2].tolist(), "height": height, "periodic": [True, True]}
        heights = _above(x, volume, most, cell, periodic) if flat_cell else None
        center = cell.sum(0) / 2
        if heights is not None:
            center = np.append(cell[:2, :2].sum(0) / 2, sum(heights) / 2)
        widest = (1 / np.linalg.norm(np.linalg.inv(cell), axis=0))[periodic].min()
        known["Sphere"] = {"center": center.tolist(), "radius": float(min(width, widest) / 2)}
        if heights is not None:
            known["Slab"] |= {"low": heights[0], "high": heights[1]}
        kind = None if not len(x) else "box" if heights is None else "slab"
    return "plane" if dimensions == 2 else kind, known


def _height(x, bond) -> float:
    """Where a plane goes: through a flat template, a little above a thick one."""
    z = x[:, 2]
    return float(z.mean()) if np.ptp(z) < 0.5 * bond else float(z.max() + 0.85 * bond)


def _above(x, volume, bond, cell, periodic) -> tuple[float, float] | None:
    """Heights from the topmost atom of a slab to where the atoms have room, within its vacuum; None for a bulk."""
    area = abs(np.linalg.det(cell[:2, :2]))
    wanted = 1.5 * bond + volume / area
    if not len(x):
        middle = cell[2, 2] / 2
        return (float(middle - wanted / 2), float(middle + wanted / 2)) if not periodic[2] else None
    if not periodic[2]:
        return float(x[:, 2].max()), float(x[:, 2].max() + wanted)
    length = abs(cell[2, 2])
    z = np.sort(x[:, 2] % length)
    gaps = np.diff(np.append(z, z[0] + length))
    if gaps.max() < VACUUM * bond:
        return None
    top = float(z[gaps.argmax()])
    top -= length * round((top + min(wanted, gaps.max()) / 2 - length / 2) / length)  # its middle is in the cell
    return top, top + min(wanted, max(float(gaps.max()) - 0.75 * bond, 0.5 * bond))


def refuse_impossible(system: System) -> None:
    """Raise `InputError` for atoms that cannot be placed: outside of the cell, too many, or out of reach."""
    region, added = system.region, np.asarray(system.searched)
    if region is None or not added.any():
        return
    _refuse_outside(system)
    dimensions, bonds = region.dimensions, np.asarray(system.bond_lengths)[added]
    nearest = system.limits[0] * bonds
    if system.positions is not None and dimensions == 3:  # what of the template lies in it takes room as well
        template = np.asarray(system.mask) & ~added
        within = np.asarray(region.contains(np.asarray(system.positions, np.float32)[template]))
        nearest = np.concatenate([nearest, system.limits[0] * np.asarray(system.bond_lengths)[template][within]])
    needed = (np.pi / 6 * nearest**3 if dimensions == 3 else np.pi / 4 * nearest**2).sum()
    # Centres lie inside, so that half an atom may stick out on every side.
    room = DENSEST[dimensions] * region.swollen(float(nearest.max()) / 2)
    if needed > room and added.sum() > 1:
        what = "volume" if dimensions == 3 else "area"
        raise InputError(
            f"the region is too small: {len(nearest)} atoms need a {what} of {needed:.3g} at {system.limits[0]:g} bond lengths "
            f"from each other, and it has room for {room:.3g}; make it larger"
        )
    _refuse_unreachable(system, added)


def _refuse_outside(system: System) -> None:
    region, cell = system.region, np.asarray(system.cell)
    assert region is not None
    if not any(system.pbc):
        return
    reciprocal = np.linalg.inv(completed(cell, system.pbc))
    for k in range(3):
        if not system.pbc[k]:
            continue
        low, high = region.span(reciprocal[:, k])
        if not -1e-6 <= (low + high) / 2 <= 1 + 1e-6 or high - low > 1 + 1e-6:
            raise InputError(
                f"the region is outside of the cell: it reaches from {low:.3g} to {high:.3g} along its vector {'abc'[k]}, "
                "where the cell goes from 0 to 1; move it or make it smaller"
            )


def _refuse_unreachable(system: System, added: np.ndarray, points: int = 4096) -> None:
    """Raise where no point of many in the region suits the first atom of any species."""
    template = np.asarray(system.mask) & ~added
    if system.region is None or system.positions is None or not template.any():
        return
    samples = np.asarray(system.region.sample(random_key(0), (points,), np.float32), np.float64)
    x, bonds = np.asarray(system.positions)[template], np.asarray(system.bond_lengths)
    d = distances(samples, x, system)
    best, near, worst = -np.inf, np.inf, np.inf
    for bond in np.unique(bonds[added]):
        ratio = (d / ((bond + bonds[template]) / 2)).min(1)
        if ((ratio >= system.limits[0]) & (ratio <= system.limits[1])).any():
            return
        best, near, worst = max(best, ratio.max()), min(near, ratio.min()), min(worst, d.min())
    if best < system.limits[0]:
        raise InputError(
            f"the region is too small: the template leaves no place in it farther than {system.limits[0]:g} bond lengths from "
            f"its atoms (at most {best:.2g}); move it, or make it larger"
        )
    if near > system.limits[1]:
        raise InputError(
            f"the region is out of reach: its nearest point is {worst:.3g} from the template, beyond {system.limits[1]:g} bond "
            "lengths of any atom; move it nearer"
        )


def distances(a, b, system: System) -> np.ndarray:
    """Distances (n, m) to nearest images, on the host, in single precision."""
    single = lambda x: np.asarray(x, np.float32)
    space = Space(single(completed(np.asarray(system.cell), system.pbc)), system.pbc) if any(system.pbc) else None
    return np.sqrt(np.asarray(nearest_squared(single(a), single(b), space), np.float64))
