"""Entering minima and transition states into a network, each once, whatever way it was told; and how unlike minima are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thalweg.landscape.states import Network, State
from thalweg.similarity import fingerprints, labels, same_structure, vectors

#: Positions of one state agree within so many bond lengths.
SAME_PLACE = 0.05


def enter_minimum(network: Network, state: State) -> int:
    """The number of a minimum, which is entered unless it is there.

    Minima that an isometry and exchanges of like atoms lay upon each other are one.
    """
    known = _found(network, state, network.minima)
    if known is None:
        network.minima.append(state)
        return len(network.minima) - 1
    before = network.minima[known]
    network.minima[known] = replace(before, hits=before.hits + 1, given=before.given or state.given)
    return known


def enter_saddle(network: Network, state: State) -> tuple[int, bool]:
    """The number of a transition state, and whether it is new. Those of one shape between other minima are others."""
    ends = sorted(state.ends or ())
    alike = [k for k, s in enumerate(network.saddles) if sorted(s.ends or ()) == ends]
    known = _found(network, state, [network.saddles[k] for k in alike])
    if known is None:
        network.saddles.append(state)
        return len(network.saddles) - 1, True
    k = alike[known]
    network.saddles[k] = replace(network.saddles[k], hits=network.saddles[k].hits + 1)
    return k, False


def distances(network: Network) -> np.ndarray:
    """How unlike minima are (n, n): distances of their fingerprints, in units of length."""
    x = np.array([m.positions for m in network.minima])
    if network.variables is not None:
        prints = vectors(x, network.variables)
    else:
        prints = fingerprints(x, labels(network.numbers, network.fixed), network.cell, network.pbc, network.length)
    return np.sqrt(((prints[:, None] - prints) ** 2).sum(-1))


def _found(network: Network, state: State, among: list[State]) -> int | None:
    near = (k for k, s in enumerate(among) if abs(s.energy - state.energy) <= network.energy_tolerance)
    return next((k for k in near if _same(network, among[k].positions, state.positions)), None)


def _same(network: Network, a: np.ndarray, b: np.ndarray) -> bool:
    tolerance = SAME_PLACE * network.length
    if network.variables is not None:
        return bool(np.abs(vectors(a - b, network.variables)).max() <= tolerance)
    return same_structure(a, b, labels(network.numbers, network.fixed), tolerance, network.cell, network.pbc)
