"""No graph at all: each atom by itself, as a baseline."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from thalweg.networks.graph import Graph
from thalweg.networks.layers import Stack, normalised
from thalweg.networks.strider import SMALL, DisplacementNetwork
from thalweg.typing import Array


class NodePerceptron(DisplacementNetwork):
    """Features of an atom through `layers` hidden layers to its displacement: what StriderNet's authors call MLP.

    Features of atoms are numbers without direction, so that it cannot know one: what it cannot do, the graph is for.
    """

    published: ClassVar[tuple[int, int]] = (128, 6)

    scale: Array
    shift: Array
    stack: Stack

    @classmethod
    def random(cls, rng, n_nodes: int, n_edges: int, hidden: int = 128, layers: int = 6) -> NodePerceptron:
        stack = Stack.random(rng, n_nodes, *[hidden] * layers, 3)
        return cls(np.ones(n_nodes, np.float32), np.zeros(n_nodes, np.float32), stack)

    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        return SMALL * self.stack(normalised(graph, nodes, self.scale, self.shift))
