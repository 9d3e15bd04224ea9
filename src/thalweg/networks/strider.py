"""The network of StriderNet: messages between atoms and edges of a radius graph, and a displacement for every atom.

V. Bihani et al., "StriderNet: a graph reinforcement learning approach to optimize atomic structures on rough energy
landscapes", ICML 2023 (arXiv:2301.12477), equations 3-8. It is equivariant under permutations and knows no number of atoms, so
that it works on sizes it was not trained on; under rotations it is not (displacements are read from components).
"""

from __future__ import annotations

import abc
import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.networks.blocks import BLOCK, sums_in_blocks
from thalweg.networks.graph import Graph
from thalweg.networks.layers import Edges, Stack, activated, by_feature, normalised, through
from thalweg.typing import Array

#: What the last layer's output is multiplied by.
SMALL = 0.01
#: Atoms above which messages are passed in blocks.
LARGE = 600


class DisplacementNetwork(eqx.Module):
    """From a graph and features of its nodes and edges to a displacement of every atom.

    All treat atoms alike, whatever their order and number. What reads the whole structure reads means over its atoms, so that
    padding does not matter and two copies of a structure move as one does.
    """

    #: Whether displacements turn with the structure; features must not hold components of vectors then.
    equivariant: ClassVar[bool] = False
    #: Hidden units and layers (rounds of messages) where none are asked for.
    published: ClassVar[tuple[int, int]]

    @abc.abstractmethod
    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        """Displacements (atoms, 3) from nodes (atoms, features), edges (slots, atoms, features) and forces (atoms, 3), all in
        reduced units."""

    @classmethod
    @abc.abstractmethod
    def random(cls, rng: np.random.Generator, n_nodes: int, n_edges: int, hidden: int, layers: int) -> DisplacementNetwork:
        """An untrained network for so many features of nodes and edges."""


class StriderNet(DisplacementNetwork):
    """The published network: embeddings, `layers` rounds of messages (equations 6 and 7) and a head of four hidden layers."""

    published: ClassVar[tuple[int, int]] = (48, 1)

    scale: Array
    shift: Array
    node_embedding: Stack
    edge_embedding: Stack
    node_updates: tuple[Stack, ...]
    edge_updates: tuple[Stack, ...]
    head: Stack

    @classmethod
    def random(cls, rng, n_nodes: int, n_edges: int, hidden: int = 48, layers: int = 1) -> StriderNet:
        h = hidden
        return cls(
            np.ones(n_nodes, np.float32),
            np.zeros(n_nodes, np.float32),
            Stack.random(rng, n_nodes, h, h),
            Stack.random(rng, n_edges, h, h),
            tuple(Stack.random(rng, 3 * h, h, h) for _ in range(layers)),
            tuple(Stack.random(rng, 3 * h, h, h) for _ in range(layers)),
            Stack.random(rng, 3 * h, h, h, h, h, 3),
        )

    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        if graph.present.shape[0] > LARGE and len(self.node_updates) == 1:
            return in_blocks(BLOCK, self, graph, nodes, edges)
        return self.whole(graph, nodes, edges)

    def embedded(self, graph: Graph, nodes):
        """First values (atoms, hidden) of nodes."""
        return self.node_embedding(activated(normalised(graph, nodes, self.scale, self.shift)))

    def whole(self, graph: Graph, nodes, edges) -> Array:
        """Displacements (atoms, 3) with tables of all edges."""
        nodes = self.embedded(graph, nodes)
        held = Edges.of(graph, self.edge_embedding, self.edge_embedding.layers[0](edges))
        for update_nodes, update_edges in zip(self.node_updates, self.edge_updates, strict=True):
            nodes = update_nodes(nodes, held.received(graph), held.sent(graph))
            held = held.updated(graph, update_edges, nodes)
        return SMALL * self.head(nodes, held.sent(graph), held.received(graph))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_blocks(block: int, network: StriderNet, graph: Graph, nodes, edges) -> Array:
    """What `StriderNet.whole` returns, to rounding, of a network with one round of messages, so many atoms at a time.

    Derivatives are those of `whole`, and need as much memory. Other devices than CPUs have no caches to stay in.
    """
    blocked = functools.partial(_in_blocks, block)
    return lax.platform_dependent(network, graph, nodes, edges, cpu=blocked, default=StriderNet.whole)


def _in_blocks(block: int, network: StriderNet, graph: Graph, nodes, edges):
    embedding, update, any_edge = network.edge_embedding, network.edge_updates[0], graph.degree[:, None] > 0
    first = lambda features: embedding.hidden(by_feature(embedding.layers[0], features))

    def means(stack, value, *tables):
        last = stack.layers[-1]
        sums = sums_in_blocks(graph, edges, value, last.weights.shape[0], *tables, block=block)
        return [jnp.where(any_edge, last(graph.mean(s)), 0) for s in sums]

    sent, received = means(embedding, lambda features, _: first(features))
    nodes = network.node_updates[0](network.embedded(graph, nodes), received, sent)
    of_edge, starts, ends = through(update, embedding.layers[-1], nodes)
    sent, received = means(update, lambda features, more: update.hidden(first(features) @ of_edge + more), starts, ends)
    return SMALL * network.head(nodes, sent, received)


in_blocks.defvjp(
    lambda block, network, graph, nodes, edges: jax.vjp(StriderNet.whole, network, graph, nodes, edges),
    lambda block, pull, out: pull(out),
)


def count(network) -> int:
    """Number of parameters."""
    return sum(np.size(a) for a in jax.tree.leaves(network))
