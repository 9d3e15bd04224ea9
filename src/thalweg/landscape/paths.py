"""Paths between two minima: a doubly nudged elastic band, of which the highest places are where saddles are looked for.

S. A. Trygubenko and D. J. Wales, J. Chem. Phys. 120, 2082 (2004), doi:10.1063/1.1636455; tangents of G. Henkelman and
H. Jonsson, J. Chem. Phys. 113, 9978 (2000), doi:10.1063/1.1323224; begun on the image-dependent pair potential of S. Smidstrup
et al., J. Chem. Phys. 140, 214106 (2014), doi:10.1063/1.4878664. The band need not converge: each of its summits is refined by
`thalweg.landscape.saddles`.
"""

from __future__ import annotations

import numpy as np

from thalweg.landscape.descent import descend
from thalweg.landscape.saddles import ACROSS
from thalweg.landscape.surface import Surface

#: Images between the ends: where energies are cheap, and around calculators. Steps of the band, alike.
IMAGES, FEW_IMAGES = 16, 7
STEPS, FEW_STEPS = 50, 25
#: Stiffness of the springs, as part of the stiffness of the minimum.
SPRING = 0.1
#: Summits of one band that are looked at.
SUMMITS = 3


def summits(surface: Surface, a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Highest places between coordinates a and b (d,), the highest first, and the direction (d,) of the path there."""
    cheap = surface.potential.traceable
    chain = interpolated(surface, a, b, IMAGES if cheap else FEW_IMAGES)
    ends = [surface(x)[0] for x in (a, b)]
    stiffness = _stiffness(surface, a)
    if not np.isfinite(stiffness) or not np.isfinite(ends).all():
        return []
    last = np.zeros(len(chain))

    def force(flat):
        nonlocal last
        x = flat.reshape(chain.shape)
        last, gradient = surface(x)
        if not np.isfinite(gradient).all():
            return np.nan, flat
        return 0.0, _nudged(np.array([a, *x, b]), np.array([ends[0], *last, ends[1]]), gradient, SPRING * stiffness).ravel()

    band = descend(force, chain.ravel(), 0.0, STEPS if cheap else FEW_STEPS, ACROSS * surface.length, monotonic=False)
    if not np.isfinite(band.energy):
        return []
    x = band.x.reshape(chain.shape)
    path, energies = np.array([a, *x, b]), np.array([ends[0], *last, ends[1]])
    tops = [k for k in range(1, len(path) - 1) if energies[k] >= max(energies[k - 1], energies[k + 1])]
    tops.sort(key=lambda k: -energies[k])
    along = _tangents(path, energies)
    return [(path[k], along[k - 1]) for k in tops[:SUMMITS]]


def _stiffness(surface: Surface, x: np.ndarray) -> float:
    """A typical curvature at x."""
    step = 1e-3 * surface.length * np.cos(np.arange(surface.dim) + 1.0)
    return float(np.linalg.norm(surface(x + step)[1] - surface(x - step)[1]) / np.linalg.norm(2 * step))


def _tangents(path: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Directions (images, d) of the path at its inner images, towards the higher neighbour."""
    ahead, behind = path[2:] - path[1:-1], path[1:-1] - path[:-2]
    up, down = energies[2:] - energies[1:-1], energies[1:-1] - energies[:-2]
    high, low = np.maximum(abs(up), abs(down)), np.minimum(abs(up), abs(down))
    rises, falls = (up > 0) & (down > 0), (up < 0) & (down < 0)
    first = np.where(up + down > 0, high, low)  # at extrema both count, the higher neighbour more
    second = np.where(up + down > 0, low, high)
    wa, wb = np.where(rises, 1, np.where(falls, 0, first)), np.where(rises, 0, np.where(falls, 1, second))
    flat = (wa == 0) & (wb == 0)
    t = np.where(flat, 1, wa)[:, None] * ahead + np.where(flat, 1, wb)[:, None] * behind
    return t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-300)


def _nudged(path: np.ndarray, energies: np.ndarray, gradient: np.ndarray, spring: float) -> np.ndarray:
    """Minus the forces (images, d) of the doubly nudged band."""
    t = _tangents(path, energies)
    along = lambda v: (v * t).sum(1, keepdims=True) * t
    across = gradient - along(gradient)
    ahead, behind = path[2:] - path[1:-1], path[1:-1] - path[:-2]
    length = lambda v: np.linalg.norm(v, axis=1, keepdims=True)
    pull = -spring * (length(ahead) - length(behind)) * t
    whole = -spring * (ahead - behind)
    side = whole - along(whole)
    unit = across / np.maximum(length(across), 1e-300)
    return across + pull + side - (side * unit).sum(1, keepdims=True) * unit


def interpolated(surface: Surface, a: np.ndarray, b: np.ndarray, images: int) -> np.ndarray:
    """Images (images, d) between coordinates a and b: straight, then with pair distances between those of the ends."""
    share = np.arange(1, images + 1)[:, None] / (images + 1)
    straight = (1 - share) * a + share * b
    if surface.potential.variables is not None or any(surface.template.pbc):
        return straight
    whole = surface.positions(np.array([a, b]))
    i, j = np.triu_indices(whole.shape[1], 1)
    ends = np.linalg.norm(whole[:, i] - whole[:, j], axis=-1)
    wanted = (1 - share) * ends[0] + share * ends[1]

    def strain(flat):
        x = surface.positions(flat.reshape(straight.shape))
        d = x[:, i] - x[:, j]
        r = np.maximum(np.linalg.norm(d, axis=-1), 0.05 * surface.length)
        gap = r - wanted
        slope = (2 * gap / r**4 - 4 * gap**2 / r**5) / r
        pull = np.zeros_like(x)
        for k in range(len(x)):
            np.add.at(pull[k], i, slope[k][:, None] * d[k])
            np.add.at(pull[k], j, -slope[k][:, None] * d[k])
        return float((gap**2 / r**4).sum()), surface.coordinates(pull).ravel()

    # No more than an untangling: two atoms in one place have no energy, and a bit of noise parts them.
    noise = 0.01 * surface.length * np.cos(np.arange(straight.size) ** 2.0).reshape(straight.shape)
    return descend(strain, (straight + noise).ravel(), 1e-4, 60, 0.1 * surface.length).x.reshape(straight.shape)
