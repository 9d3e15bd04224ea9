"""Which saddles to look for next: pairs of minima that would join what is apart, then the surroundings of each minimum.

Pairs are the gaps of the shortest path, by how unlike minima are, between the lowest minimum and one that no saddle joins
with it: J. M. Carr, S. A. Trygubenko and D. J. Wales, J. Chem. Phys. 122, 234903 (2005), doi:10.1063/1.1931587. Distances are
those of fingerprints here, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from thalweg.landscape import saddles
from thalweg.landscape.alignment import alignments
from thalweg.landscape.network import distances, enter_minimum, enter_saddle
from thalweg.landscape.paths import summits
from thalweg.landscape.point_groups import point_group
from thalweg.landscape.saddles import Found
from thalweg.landscape.states import Network, State
from thalweg.landscape.surface import Surface

#: Bands between one pair of minima, each from another alignment, until it is given up.
TRIES = 4
#: How far a search from one minimum first goes along a soft mode, in bond lengths.
LEAVE = 0.12
#: Atoms within this many bond lengths of where an operation of a point group puts them have that symmetry.
SYMMETRIC = 0.02


class Step(NamedTuple):
    """What one search set out from (two equal numbers: from one minimum) and what it led to."""

    pair: tuple[int, int]
    saddles: int  # that are new
    minima: int  # that are new
    failed: bool  # no transition state with two sides was found


def explore(
    surface: Surface, network: Network, gmax: float, around: int, seed: int = 0, pairs: list[tuple[int, int]] | None = None
) -> Iterator[Step]:
    """Search on, one search for each step, until nothing is left to try; whoever asks for steps decides when it is enough.

    First pairs of minima, those that would join the given minima with the lowest, then `around` searches from each given
    minimum; or only between the `pairs`. The network is changed. A search draws from `seed` and from what was tried before
    it, so that one that is taken up again goes on as it would have.
    """
    while True:
        pair = _next_pair(network, pairs) or (_next_single(network, around) if pairs is None else None)
        if pair is None:
            return
        count = network.tried.get(pair, 0)
        rng = np.random.default_rng([seed, *pair, count])
        before, spent = (len(network.saddles), len(network.minima)), surface.evaluations
        starts = _alone(surface, network, pair[0], count, rng) if pair[0] == pair[1] else _between(surface, network, pair, rng)
        good = [_entered(surface, network, x, mode, gmax) for x, mode in starts]
        network.tried[pair] = count + 1
        network.evaluations += surface.evaluations - spent
        network.failed += not any(good)
        yield Step(pair, len(network.saddles) - before[0], len(network.minima) - before[1], not any(good))


def enter_given(surface: Surface, network: Network, positions: np.ndarray, gmax: float) -> int | None:
    """Relax a given structure (atoms, 3) onto its minimum and enter it; its number, or None where it has no minimum."""
    spent = surface.evaluations
    found = saddles.minimum_at(surface, surface.coordinates(positions), gmax)
    network.evaluations += surface.evaluations - spent
    return None if found is None else enter_minimum(network, state(surface, found, given=True))


def state(surface: Surface, found: Found, ends: tuple[int, int] | None = None, given: bool = False) -> State:
    """The record of a stationary point."""
    positions, group, order = surface.positions(found.x), "", 1
    free = not any(surface.template.pbc) and not np.asarray(surface.template.fixed)[surface.numbers >= 0].any()
    if free and surface.potential.variables is None:
        group, order = point_group(positions, surface.numbers, SYMMETRIC * surface.length)
    return State(found.energy, positions, found.vibrations, group, order, ends, given)


def _entered(surface: Surface, network: Network, x: np.ndarray, mode: np.ndarray, gmax: float) -> bool:
    """Look for a saddle from x, and for the minima at its sides; whether all were found."""
    saddle = saddles.climb(surface, x, mode, gmax)
    if saddle is None:
        return False
    sides = saddles.sides(surface, saddle, gmax)
    if sides is None:
        return False
    i, j = (enter_minimum(network, state(surface, side)) for side in sides)
    enter_saddle(network, state(surface, saddle, (i, j)))
    return True


def _between(surface: Surface, network: Network, pair: tuple[int, int], rng: np.random.Generator) -> list:
    """Summits of a band between two minima, from the nearest alignment that was not tried."""
    a, b = (network.minima[k].positions for k in pair)
    count = network.tried.get(pair, 0)
    if surface.potential.variables is not None:
        laid = [b]
    else:
        fixed_draw = np.random.default_rng(0)  # one list of alignments for all tries
        laid = alignments(a, b, surface.template, fixed_draw)
    start, end = surface.coordinates(a), surface.coordinates(laid[min(count, len(laid) - 1)])
    if count >= len(laid):  # no other alignment: a detour
        end = end + rng.normal(size=end.shape) * 1e-3 * surface.length
        middle = (start + end) / 2 + rng.normal(size=end.shape) * 0.1 * surface.length
        return [(middle, end - start)]
    return summits(surface, start, end)


def _alone(surface: Surface, network: Network, k: int, count: int, rng: np.random.Generator) -> list:
    """One start beside a minimum: along its softest modes, each both ways, then in random directions."""
    x = surface.coordinates(network.minima[k].positions)
    values, modes = surface.spectrum(x)
    if not np.isfinite(values).all():
        return []
    size = LEAVE * surface.length
    if count < 2 * min(6, len(modes)):
        direction = modes[count // 2] * (1 if count % 2 == 0 else -1)
        size *= max(np.sqrt(max(values[0], 0) / values[count // 2]), 0.3)  # stiff ways lead up steeply
    else:
        direction = rng.normal(size=len(modes)) @ modes  # soft ones alone lead to the same low saddles again and again
    direction /= np.linalg.norm(direction)
    return [(x + size * direction / np.abs(direction).max(), direction)]


def _next_pair(network: Network, pairs: list[tuple[int, int]] | None) -> tuple[int, int] | None:
    """The pair of minima to look between; None where all is joined or nothing is left to try."""
    joined = network.joined()
    if pairs is not None:
        left = [p for p in pairs if network.tried.get(p, 0) < (1 if joined[p[0]] == joined[p[1]] else TRIES)]
        return left[0] if left else None
    given = [int(k) for k in network.order() if network.minima[k].given]
    if not given or all(joined[k] == joined[given[0]] for k in given):
        return None
    cost = distances(network) ** 2 + 1e-12
    for (i, j), count in network.tried.items():
        if i != j:
            cost[i, j] = cost[j, i] = np.inf if count >= TRIES else (1 + count) * min(cost[i, j], cost[j, i])
    cost[joined[:, None] == joined] = 0
    length, before = _shortest(cost, given[0])
    apart = [k for k in given if joined[k] != joined[given[0]] and np.isfinite(length[k])]
    if not apart:
        return None
    at, gaps = min(apart, key=lambda k: length[k]), []
    while before[at] >= 0:
        if cost[at, before[at]] > 0:
            gaps.append((float(cost[at, before[at]]), (min(at, int(before[at])), max(at, int(before[at])))))
        at = int(before[at])
    return min(gaps)[1]


def _shortest(cost: np.ndarray, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Dijkstra's lengths (n,) of the shortest paths from a minimum, and the minimum before each on them, -1 at the source."""
    n = len(cost)
    length, before, open_ = np.full(n, np.inf), np.full(n, -1), np.ones(n, bool)
    length[source] = 0
    while open_.any():
        k = int(np.argmin(np.where(open_, length, np.inf)))
        if not open_[k] or not np.isfinite(length[k]):
            break
        open_[k] = False
        better = open_ & (length[k] + cost[k] < length)
        length[better], before[better] = length[k] + cost[k][better], k
    return length, before


def _next_single(network: Network, around: int) -> tuple[int, int] | None:
    """The given minimum that fewest searches set out from, the lowest of those first."""
    given = [int(k) for k in network.order() if network.minima[k].given]
    left = [k for k in given if network.tried.get((k, k), 0) < around]
    k = min(left, key=lambda k: network.tried.get((k, k), 0), default=None)
    return None if k is None else (k, k)
