"""The network of StriderNet: messages between atoms and edges of a radius graph, and a displacement for every atom.

V. Bihani et al., "StriderNet: a graph reinforcement learning approach to optimize atomic structures on rough energy
landscapes", ICML 2023 (arXiv:2301.12477), equations 3-8. It is equivariant under permutations and knows no number of atoms, so
that it works on sizes it was not trained on; under rotations it is not (displacements are read from components).
"""

from __future__ import annotations

import abc
from itertools import pairwise
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.graph import Graph
from thalweg.typing import Array

#: Slope of the activation for negative values.
LEAK = 0.01
#: What the last layer's output is multiplied by.
SMALL = 0.01


class Dense(eqx.Module):
    """A linear layer for rows of features: `weights` (in, out) and `bias` (out,)."""

    weights: Array
    bias: Array

    @classmethod
    def random(cls, rng: np.random.Generator, n_in: int, n_out: int) -> Dense:
        """Normal weights of variance 1 / inputs (LeCun), no bias."""
        return cls((rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)).astype(np.float32), np.zeros(n_out, np.float32))

    def __call__(self, *parts):
        """The layer of the concatenation of `parts` (..., features), which is never made: each meets its own rows."""
        return self.of_parts(*parts) + self.bias

    def of_parts(self, *parts):
        """Without the bias."""
        ends = np.cumsum([p.shape[-1] for p in parts])
        blocks = zip(parts, np.split(np.arange(ends[-1]), ends[:-1]), strict=True)
        return sum((p @ self.weights[rows[0] : rows[-1] + 1] for p, rows in blocks), start=jnp.zeros((), parts[0].dtype))


class Stack(eqx.Module):
    """Linear layers with leaky ReLU between them; none behind the last."""

    layers: tuple[Dense, ...]

    @classmethod
    def random(cls, rng: np.random.Generator, *sizes: int) -> Stack:
        """Layers from `sizes[0]` features to `sizes[-1]`."""
        return cls(tuple(Dense.random(rng, a, b) for a, b in pairwise(sizes)))

    def __call__(self, *parts):
        """Values (..., out) of the concatenation of `parts` (..., features)."""
        return self.behind(self.layers[0](*parts))

    def behind(self, values):
        """What becomes of the first layer's output."""
        for layer in self.layers[1:]:
            values = layer(activated(values))
        return values


def activated(values):
    """Leaky ReLU."""
    return jnp.maximum(values, LEAK * values)


def normalised(values, scale, bias, eps: float = 1e-5):
    """Features (atoms, features) with mean zero and variance one over the atoms of this graph, scaled and shifted.

    Batch normalisation as the authors use it, always with the statistics at hand. Theirs are over the graphs of a batch; here
    each graph has its own, so that no structure depends on its neighbours in a batch.
    """
    centred = values - values.mean(0)
    return centred / jnp.sqrt((centred**2).mean(0) + eps) * scale + bias


class DisplacementNetwork(eqx.Module):
    """From a graph and features of its nodes and edges to a displacement of every atom."""

    #: Whether displacements turn with the structure.
    equivariant: ClassVar[bool] = False

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
        nodes = self.node_embedding(activated(normalised(nodes, self.scale, self.shift)))
        edges = self.edge_embedding(edges)
        for update_nodes, update_edges in zip(self.node_updates, self.edge_updates, strict=True):
            received, sent = graph.mean(graph.reversed(edges)), graph.mean(edges)
            nodes = update_nodes(nodes, received, sent)
            edges = self._edges(update_edges, graph, nodes, edges)
        return SMALL * self.head(nodes, graph.mean(edges), graph.mean(graph.reversed(edges)))

    def _edges(self, update: Stack, graph: Graph, nodes, edges):
        """Equation 7. The parts of the first layer that see nodes are computed per atom, not per edge."""
        first, h = update.layers[0], edges.shape[-1]
        own = nodes @ first.weights[h : 2 * h] + first.bias
        theirs = graph.partners(nodes @ first.weights[2 * h :])
        return update.behind(edges @ first.weights[:h] + own + theirs)


def count(network) -> int:
    """Number of parameters."""
    return sum(np.size(a) for a in jax.tree.leaves(network))
