"""Softening: velocities turned away from stiff bonds before an escape, by a few forces beside the minimum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: How far the atom that moves most is displaced, in the potential's unit of length: forces there are linear in it, and far
#: above what is left of them in a relaxed structure.
REACH = 0.01


def softened(
    forces: Callable[[np.ndarray], np.ndarray],
    positions: np.ndarray,
    at_rest: np.ndarray,
    velocities: np.ndarray,
    masses: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Velocities (atoms, 3) with more of the soft modes around `positions` and the same kinetic energy.

    `forces` gives those (atoms, 3) at other positions, once per step; `at_rest` are those at `positions`, `masses` (atoms, 1).
    After Sicher, Mohr and Goedecker, J. Chem. Phys. 134, 044106 (2011), doi:10.1063/1.3530590: the direction slides down its
    curvature with its length kept, a few steps and not to the end, as the softest mode is one and escapes are to differ. Here
    directions are mass-weighted, so that modes are those of the vibrations, and the size of steps comes from the forces: one
    over the largest curvature that the steps have shown.
    """
    root = np.sqrt(masses)
    size = np.linalg.norm(velocities * root)
    if not steps or size == 0:
        return velocities
    u, stiffest, last = velocities * root / size, 0.0, None
    for _ in range(steps):
        reach = REACH / np.linalg.norm(u / root, axis=1).max()
        bent = (at_rest - forces(positions + reach * u / root)) / (reach * root)  # the mass-weighted Hessian times u
        curvature = float((u * bent).sum())
        stiffest = max(stiffest, float(np.linalg.norm(bent)))
        if last is not None:  # steps go along what is stiff: their curvature sees it better than the direction's
            stiffest = max(stiffest, float(np.linalg.norm(bent - last[1]) / max(np.linalg.norm(u - last[0]), 1e-12)))
            if curvature > last[2]:  # the step was too long: the same again, shorter
                u, bent, curvature = last
        if stiffest == 0:  # nothing pulls: all directions are soft
            break
        last = u, bent, curvature
        u = u - (bent - curvature * u) / stiffest
        u = u / np.linalg.norm(u)
    return size * u / root
