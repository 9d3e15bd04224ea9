"""The full graph network: atoms, edges and the structure as a whole tell each other."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from thalweg.networks.graph import Graph
from thalweg.networks.layers import Edges, Stack, activated, normalised
from thalweg.networks.strider import SMALL, DisplacementNetwork
from thalweg.typing import Array


class FullGraph(DisplacementNetwork):
    """P. W. Battaglia et al., "Relational inductive biases, deep learning, and graph networks" (arXiv:1806.01261): embeddings,
    `layers` blocks and a head.

    A block updates edges, then atoms, then one row of features of the whole structure, which begins as zeros; all sums of
    the paper are means here. Every update has two linear layers.
    """

    published: ClassVar[tuple[int, int]] = (32, 2)

    scale: Array
    shift: Array
    node_embedding: Stack
    edge_embedding: Stack
    edge_updates: tuple[Stack, ...]
    node_updates: tuple[Stack, ...]
    whole_updates: tuple[Stack, ...]
    head: Stack

    @classmethod
    def random(cls, rng, n_nodes: int, n_edges: int, hidden: int = 32, layers: int = 2) -> FullGraph:
        h = hidden
        blocks = lambda inputs: tuple(Stack.random(rng, inputs * h, h, h) for _ in range(layers))
        return cls(
            np.ones(n_nodes, np.float32),
            np.zeros(n_nodes, np.float32),
            Stack.random(rng, n_nodes, h, h),
            Stack.random(rng, n_edges, h, h),
            blocks(4),
            blocks(4),
            blocks(3),
            Stack.random(rng, 2 * h, h, 3),
        )

    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        nodes = self.node_embedding(activated(normalised(graph, nodes, self.scale, self.shift)))
        held = Edges.of(graph, self.edge_embedding, self.edge_embedding.layers[0](edges))
        whole = jnp.zeros_like(nodes, shape=nodes.shape[-1:])
        for of_edges, of_nodes, of_whole in zip(self.edge_updates, self.node_updates, self.whole_updates, strict=True):
            held = held.updated(graph, of_edges, nodes, whole)
            nodes = of_nodes(nodes, held.received(graph), held.sent(graph), whole)
            whole = of_whole(whole, graph.average(nodes), held.everywhere(graph))
        return SMALL * self.head(nodes, whole)
