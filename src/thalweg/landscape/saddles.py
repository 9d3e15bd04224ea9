"""Transition states from one end: hybrid eigenvector-following, and the two minima that lie on either side of one.

L. J. Munro and D. J. Wales, Phys. Rev. B 59, 3969 (1999), doi:10.1103/PhysRevB.59.3969: uphill along the softest mode,
downhill across it. Here the softest mode comes from Lanczos iterations on products with the Hessian that begin at the mode of
the step before (R. Malek and N. Mousseau, Phys. Rev. E 62, 7723 (2000), doi:10.1103/PhysRevE.62.7723), products that are exact
for traceable potentials; and where a saddle is near, Newton's steps with the whole Hessian end the search.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thalweg.landscape.descent import Descent, descend
from thalweg.landscape.surface import Surface, largest

#: Lanczos: at most so many products; the residual of the mode, as part of its curvature, that is small enough.
PRODUCTS, RESIDUAL = 24, 0.03
#: Up to so many coordinates of a traceable potential the whole Hessian, made in one piece, takes less time.
WHOLE = 120
#: Longest step uphill, longest across it, and the first step off a saddle, in bond lengths.
UPHILL, ACROSS, OFF = 0.15, 0.08, 0.02
#: Steps across the mode between two uphill: while the mode still curves upwards, and once it curves down.
FEW, MORE = 4, 12
#: Steps uphill, and bond lengths, before a search is given up; steps down from a saddle.
CLIMBS, FAR, DOWNS = 50, 3.0, 3000
#: Below this many times the wanted gradient, Newton's steps take over; at most so many of them.
NEAR, NEWTONS = 300.0, 12


class Found(NamedTuple):
    """A stationary point: coordinates (d,), energy, ħω of its vibrations, the direction (d,) of its lowest curvature."""

    x: np.ndarray
    energy: float
    vibrations: np.ndarray
    mode: np.ndarray

    @property
    def index(self) -> int:
        """How many curvatures are negative: 0 for minima, 1 for transition states."""
        return int((self.vibrations < 0).sum())


def softest(surface: Surface, x: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, float]:
    """Direction (d,) of the lowest curvature at x, and that curvature, by Lanczos iterations from a guess."""
    if surface.potential.traceable and surface.dim <= WHOLE:
        found = surface.spectrum(x)
        return (found[1][0], float(found[0][0])) if np.isfinite(found[0]).all() else (guess, float("nan"))
    zero = surface.zero_modes(x)
    v = _clean(guess, zero)
    basis, images = [v], []
    for k in range(min(PRODUCTS, surface.dim - len(zero))):
        image = surface.products(x, basis[-1][None])[0]
        if not np.isfinite(image).all():
            return guess, float("nan")
        image -= zero.T @ (zero @ image)
        images.append(image)
        q, h = np.array(basis), np.array(images)
        values, vectors = np.linalg.eigh((q @ h.T + h @ q.T) / 2)
        mode, left = vectors[:, 0] @ q, vectors[:, 0] @ h
        residual = left - values[0] * mode
        if k and np.linalg.norm(residual) < RESIDUAL * max(abs(values[0]), 1e-3 * np.abs(values).max()):
            break
        nxt = image - q.T @ (q @ image)
        nxt -= q.T @ (q @ nxt)
        size = np.linalg.norm(nxt)
        if size < 1e-10 * max(np.linalg.norm(image), 1e-300):
            break
        basis.append(nxt / size)
    return np.asarray(mode / np.linalg.norm(mode)), float(values[0])


def climb(surface: Surface, x: np.ndarray, mode: np.ndarray, gmax: float) -> Found | None:
    """The transition state that is met from x; None where none is.

    A state is one with a single negative curvature and no component of the gradient above `gmax`. As long as no direction
    curves down, the way goes along `mode` (d,), as in the activation of Malek and Mousseau.
    """
    longest, cap = UPHILL * surface.length, ACROSS * surface.length
    _, gradient = surface(x)
    begun, ahead, down = x, _clean(mode, surface.zero_modes(x)), False
    for k in range(CLIMBS):
        new, curvature = softest(surface, x, ahead)
        if not (np.isfinite(gradient).all() and np.isfinite(curvature)) or np.abs(x - begun).max() > FAR * surface.length:
            return None
        down = down or curvature < 0
        if down:
            ahead = new if new @ ahead >= 0 else -new
        slope = float(gradient @ ahead)
        if curvature < 0 and largest(gradient) < NEAR * gmax:
            found = sharpened(surface, x, gmax)
            if found is not None and found.index == 1:
                return found
            if found is not None:  # by symmetry on one that is higher still: off it
                x = found.x + OFF * surface.length * np.cos((k + 1.0) * np.arange(1, len(x) + 1) ** 2)
        newton = 2 * slope / (abs(curvature) * (1 + np.sqrt(1 + (2 * slope / curvature) ** 2)))
        step = newton if curvature < 0 else longest  # onwards as it went
        x = x + np.clip(step, -longest, longest) * ahead
        x, gradient = _across(surface, x, ahead, gmax, cap, MORE if curvature < 0 else FEW)
    return None


def _across(surface: Surface, x, mode, gmax: float, cap: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Downhill across a direction; coordinates and the whole gradient there."""
    whole = None

    def function(x):
        nonlocal whole
        energy, whole = surface(x)
        return energy, whole - (whole @ mode) * mode

    end = descend(function, x, gmax / 2, steps, cap)
    return end.x, end.gradient + ((whole @ mode) if whole is not None else 0) * mode


def sharpened(surface: Surface, x: np.ndarray, gmax: float) -> Found | None:
    """The stationary point next to x, by Newton's steps; None where it is not near."""
    cap = ACROSS * surface.length
    for _ in range(NEWTONS):
        energy, gradient = surface(x)
        if not np.isfinite(energy):
            return None
        if largest(gradient) < gmax:
            return described(surface, x, float(energy))
        values, modes = surface.spectrum(x)
        flat = np.abs(values) < 1e-9 * np.abs(values).max()
        move = -modes.T @ np.where(flat, 0, (modes @ gradient) / np.where(flat, 1, values))
        if np.abs(move).max() > cap:
            return None
        x = x + move
    return None


def described(surface: Surface, x: np.ndarray, energy: float) -> Found | None:
    """A stationary point with its vibrations; None where the surface fails near it."""
    hessian = surface.hessian(x)
    if not np.isfinite(hessian).all():
        return None
    return Found(x, energy, surface.vibrations(x, hessian), surface.spectrum(x, hessian)[1][0])


def minimum_at(surface: Surface, x: np.ndarray, gmax: float) -> Found | None:
    """The minimum downhill of x; None where the surface fails or its bottom is not reached."""
    for _ in range(4):
        end: Descent = descend(surface, x, gmax, DOWNS, ACROSS * surface.length)
        if not end.converged:
            return None
        found = described(surface, end.x, end.energy)
        if found is None or found.index == 0:
            return found
        x = end.x + OFF * surface.length * found.mode / np.abs(found.mode).max()  # a saddle by symmetry: off it
    return None


def sides(surface: Surface, saddle: Found, gmax: float) -> tuple[Found, Found] | None:
    """The minima on either side of a transition state, downhill along its mode; None where one is not reached."""
    push = OFF * surface.length * saddle.mode / np.abs(saddle.mode).max()
    ends = [minimum_at(surface, saddle.x + sign * push, gmax) for sign in (1, -1)]
    if ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def _clean(v: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """A direction without zero modes, of length 1."""
    v = v - zero.T @ (zero @ v)
    size = np.linalg.norm(v)
    if size < 1e-8:  # all of it was one: any other will do
        v = np.cos(np.arange(1, len(v) + 1) ** 2.0)
        v -= zero.T @ (zero @ v)
        size = np.linalg.norm(v)
    return v / size
