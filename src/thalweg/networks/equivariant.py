"""Displacements that turn with the structure: numbers without direction times vectors that have one."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from thalweg.networks.graph import Graph
from thalweg.networks.layers import Edges, Stack, activated, normalised
from thalweg.networks.strider import SMALL, DisplacementNetwork
from thalweg.typing import Array


class Equivariant(DisplacementNetwork):
    """The messages of StriderNet between numbers that rotations and reflections leave alone, and an equivariant head.

    An atom moves by the sum over its neighbours of a number times the unit vector to them, and by another number times the
    force on it. The first is how E(n)-equivariant networks move points: V. Garcia Satorras, E. Hoogeboom, M. Welling, ICML
    2021 (arXiv:2102.09844). Both numbers are zero in an untrained network, which so does nothing.
    """

    equivariant: ClassVar[bool] = True
    published: ClassVar[tuple[int, int]] = (48, 1)

    scale: Array
    shift: Array
    node_embedding: Stack
    edge_embedding: Stack
    node_updates: tuple[Stack, ...]
    edge_updates: tuple[Stack, ...]
    along_edges: Stack
    along_force: Stack

    @classmethod
    def random(cls, rng, n_nodes: int, n_edges: int, hidden: int = 48, layers: int = 1) -> Equivariant:
        h = hidden
        return cls(
            np.ones(n_nodes, np.float32),
            np.zeros(n_nodes, np.float32),
            Stack.random(rng, n_nodes, h, h),
            Stack.random(rng, n_edges, h, h),
            tuple(Stack.random(rng, 3 * h, h, h) for _ in range(layers)),
            tuple(Stack.random(rng, 3 * h, h, h) for _ in range(layers)),
            Stack.zero_output(rng, 3 * h, h, 1),
            Stack.zero_output(rng, 3 * h, h, 1),
        )

    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        nodes = self.node_embedding(activated(normalised(graph, nodes, self.scale, self.shift)))
        held = Edges.of(graph, self.edge_embedding, self.edge_embedding.layers[0](edges))
        for update_nodes, update_edges in zip(self.node_updates, self.edge_updates, strict=True):
            nodes = update_nodes(nodes, held.received(graph), held.sent(graph))
            held = held.updated(graph, update_edges, nodes)
        push = self.along_force(nodes, held.sent(graph), held.received(graph)) * forces
        units = graph.vectors / jnp.where(graph.real, graph.lengths, 1)[..., None]
        pull = graph.sent(held.updated(graph, self.along_edges, nodes).values() * units)
        return SMALL * (pull + push)
