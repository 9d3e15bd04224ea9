"""The disconnectivity graph: which minima can reach each other below an energy, as a tree, and where to draw it.

O. M. Becker and M. Karplus, J. Chem. Phys. 106, 1495 (1997), doi:10.1063/1.473299; D. J. Wales, M. A. Miller and T. R. Walsh,
Nature 394, 758 (1998), doi:10.1038/29487. NumPy only: reports use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thalweg.landscape.states import Network


@dataclass
class Node:
    """A minimum, or the minima that reach each other at `energy` and at no level below; `x` is where it is drawn."""

    energy: float
    children: tuple[Node, ...] = ()
    minimum: int = -1
    x: float = 0.0

    def __post_init__(self):
        #: Energy of its lowest minimum, and how many minima there are in it.
        self.lowest: float = min((c.lowest for c in self.children), default=self.energy)
        self.size: int = sum(c.size for c in self.children) or 1


def trees(network: Network, levels: int | None = None) -> list[Node]:
    """One tree for each set of minima that saddles join, the one with the lowest minimum first.

    Minima meet at the energy of the lowest pass between them, or at the next of so many equal `levels` above it.
    """
    nodes: dict[int, Node] = {k: Node(m.energy, minimum=k) for k, m in enumerate(network.minima)}
    root = {k: k for k in nodes}
    step = _step(network, levels)
    for _, saddle, ends in sorted(network.joining(), key=lambda row: row[1].energy):
        i, j = (root[k] for k in ends)
        if i == j:
            continue
        energy = saddle.energy if step is None else step * np.ceil(saddle.energy / step)
        a, b = nodes[i], nodes.pop(j)
        nodes[i] = Node(energy, (*_parts(a, energy), *_parts(b, energy)))
        root = {k: i if r == j else r for k, r in root.items()}
    found = sorted(nodes.values(), key=lambda n: n.lowest)
    _place(found)
    return found


def _step(network: Network, levels: int | None) -> float | None:
    """Distance of levels."""
    tops = [s.energy for _, s, _ in network.joining()]
    if levels is None or not tops:
        return None
    return max(max(tops) - min(m.energy for m in network.minima), 1e-12) / levels


def _parts(node: Node, energy: float) -> tuple[Node, ...]:
    """What of a node meets others at an energy: its children where they met at this very level."""
    return node.children if node.minimum < 0 and node.energy >= energy else (node,)


def _place(found: list[Node]) -> None:
    """Columns of all minima, one each: lowest parts in the middle, the others alternately beside them."""
    at = 0.0
    for top in found:
        stack, order = [(top, False)], []
        while stack:  # no recursion: trees of thousands of minima are deep
            node, seen = stack.pop()
            if node.minimum >= 0:
                node.x, at = at, at + 1
            elif not seen:
                order.append(node)
                stack += [(c, False) for c in reversed(_spread(node.children))]
        for node in reversed(order):
            lowest = min(node.children, key=lambda c: c.lowest)
            node.x = lowest.x if len(node.children) > 1 else node.children[0].x
        at += 1


def _spread(children: tuple[Node, ...]) -> list[Node]:
    """Children with the lowest in the middle."""
    ranked = sorted(children, key=lambda c: c.lowest)
    return [*reversed(ranked[1::2]), *ranked[0::2]]


def barriers(network: Network) -> np.ndarray:
    """For each minimum (n,) how high the lowest pass to a lower minimum lies above it; infinite where none is known."""
    energies = np.array([m.energy for m in network.minima])
    found = np.full(len(energies), np.inf)
    group = [[k] for k in range(len(energies))]
    for _, saddle, (i, j) in sorted(network.joining(), key=lambda row: row[1].energy):
        a, b = group[i], group[j]
        if a is b:
            continue
        low_a, low_b = (min(g, key=lambda k: (energies[k], k)) for g in (a, b))
        loser = low_b if (energies[low_a], low_a) < (energies[low_b], low_b) else low_a
        found[loser] = saddle.energy - energies[loser]
        a += b
        for k in b:
            group[k] = a
    return found
