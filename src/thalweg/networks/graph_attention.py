"""Graph attention: every atom weighs what its neighbours say."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.networks.graph import Graph
from thalweg.networks.layers import Dense, Stack, normalised
from thalweg.networks.strider import SMALL, DisplacementNetwork
from thalweg.typing import Array

#: Heads of a layer, where the number of hidden units can be divided by it.
HEADS = 4
#: Slope of scores for negative values.
SCORE_LEAK = 0.2


class Attention(eqx.Module):
    """One layer: values of atoms and edges, and vectors that score them, for each head."""

    values: Dense
    edge_values: Array  # (edge features, hidden)
    own: Array  # (heads, size)
    theirs: Array  # (heads, size)
    along: Array  # (edge features, heads)

    @classmethod
    def random(cls, rng: np.random.Generator, n_in: int, n_edges: int, hidden: int) -> Attention:
        heads = math.gcd(hidden, HEADS)
        size = hidden // heads
        draw = lambda inputs, *shape: (rng.normal(size=shape) / np.sqrt(max(inputs, 1))).astype(np.float32)
        return cls(
            Dense.random(rng, n_in, hidden),
            draw(n_edges, n_edges, hidden),
            draw(size, heads, size),
            draw(size, heads, size),
            draw(n_edges, n_edges, heads),
        )

    def __call__(self, graph: Graph, nodes, edges):
        """Values (atoms, hidden) of atoms from their own and those of their neighbours and edges."""
        heads, size = self.own.shape
        # From heads to features and back by a matrix: vector instructions do not run over axes as short as heads.
        spread = np.repeat(np.eye(heads, dtype=np.float32), size, axis=1)
        values = self.values(nodes)
        own, theirs = (values * self.own.reshape(-1)) @ spread.T, (values * self.theirs.reshape(-1)) @ spread.T
        alone = jax.nn.leaky_relu(own + theirs, SCORE_LEAK)  # an atom is a neighbour of its own
        scores = jax.nn.leaky_relu(own + graph.partners(theirs) + edges @ self.along, SCORE_LEAK)
        scores = jnp.where(graph.real[..., None], scores, -jnp.inf)
        highest = lax.stop_gradient(jnp.maximum(scores.max(0), alone))
        weights, alone = jnp.exp(scores - highest), jnp.exp(alone - highest)
        said = (weights @ spread * (graph.partners(values) + edges @ self.edge_values)).sum(0) + alone @ spread * values
        return said / ((weights.sum(0) + alone) @ spread)


class GraphAttention(DisplacementNetwork):
    """P. Velickovic et al., "Graph attention networks", ICLR 2018 (arXiv:1710.10903), with a head for displacements.

    Different from there: edges have a part in scores and values, for without them no atom would know a direction; heads are
    concatenated in the last layer as well, which two linear layers follow.
    """

    published: ClassVar[tuple[int, int]] = (48, 3)

    scale: Array
    shift: Array
    attentions: tuple[Attention, ...]
    head: Stack

    @classmethod
    def random(cls, rng, n_nodes: int, n_edges: int, hidden: int = 48, layers: int = 3) -> GraphAttention:
        widths = [n_nodes, *[hidden] * (layers - 1)]
        return cls(
            np.ones(n_nodes, np.float32),
            np.zeros(n_nodes, np.float32),
            tuple(Attention.random(rng, width, n_edges, hidden) for width in widths),
            Stack.random(rng, hidden, hidden, 3),
        )

    def __call__(self, graph: Graph, nodes, edges, forces) -> Array:
        nodes = normalised(graph, nodes, self.scale, self.shift)
        for attention in self.attentions:
            nodes = jax.nn.elu(attention(graph, nodes, edges))
        return SMALL * self.head(nodes)
