"""Layers that the networks of displacements share: linear ones for rows of features, and edges whose last one is put off."""

from __future__ import annotations

from itertools import pairwise

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.networks.graph import Graph
from thalweg.typing import Array

#: Slope of the activation for negative values.
LEAK = 0.01
#: Features that count as few.
FEW = 8


class Dense(eqx.Module):
    """A linear layer for rows of features: `weights` (in, out) and `bias` (out,)."""

    weights: Array
    bias: Array

    @classmethod
    def random(cls, rng: np.random.Generator, n_in: int, n_out: int) -> Dense:
        """Normal weights of variance 1 / inputs (LeCun), no bias."""
        weights = rng.normal(size=(n_in, n_out)) / np.sqrt(max(n_in, 1))
        return cls(weights.astype(np.float32), np.zeros(n_out, np.float32))

    def __call__(self, *parts):
        """The layer of the concatenation of `parts` (..., features), which is never made: each meets its own rows."""
        blocks = self.blocks(*(p.shape[-1] for p in parts))
        return sum((p @ rows for p, rows in zip(parts, blocks, strict=True)), start=self.bias)

    def blocks(self, *widths: int) -> list:
        """The rows of the weights that meet inputs of so many features."""
        ends = np.cumsum(widths)
        return [self.weights[end - width : end] for end, width in zip(ends, widths, strict=True)]


class Stack(eqx.Module):
    """Two linear layers or more with leaky ReLU between them; none behind the last."""

    layers: tuple[Dense, ...]

    @classmethod
    def random(cls, rng: np.random.Generator, *sizes: int) -> Stack:
        """Layers from `sizes[0]` features to `sizes[-1]`."""
        return cls(tuple(Dense.random(rng, a, b) for a, b in pairwise(sizes)))

    @classmethod
    def zero_output(cls, rng: np.random.Generator, *sizes: int) -> Stack:
        """Random hidden layers and a last one of zeros: the output is exactly zero."""
        made = cls.random(rng, *sizes)
        last = made.layers[-1]
        return cls((*made.layers[:-1], Dense(np.zeros_like(last.weights), last.bias)))

    def __call__(self, *parts):
        """Values (..., out) of the concatenation of `parts` (..., features)."""
        return self.layers[-1](self.hidden(self.layers[0](*parts)))

    def hidden(self, values):
        """What the last layer reads, from the first layer's output."""
        for layer in self.layers[1:-1]:
            values = layer(activated(values))
        return activated(values)


class Edges(eqx.Module):
    """Values of edges that a `Stack` makes, before its last layer.

    That layer is linear, and so are the means over edges and the first layer of whatever reads them next. So it is done after
    the means, per atom instead of per edge, or in one matrix with the layer that follows: a third of the arithmetic.
    """

    inner: Array  # (slots, atoms, hidden), zero in empty slots
    last: Dense

    @classmethod
    def of(cls, graph: Graph, stack: Stack, first) -> Edges:
        """From the output (slots, atoms, hidden) of the first layer of a stack."""
        return cls(jnp.where(graph.real[..., None], stack.hidden(first), 0), stack.layers[-1])

    def updated(self, graph: Graph, update: Stack, nodes, *whole) -> Edges:
        """`update` of (edge, its own atom, the atom at its other end, *whole (features,)).

        What the first layer makes of atoms and of the whole structure is computed once for each of them, not per edge.
        """
        of_edge, starts, ends = through(update, self.last, nodes, *whole)
        return Edges.of(graph, update, self.inner @ of_edge + starts + graph.partners(ends))

    def sent(self, graph: Graph):
        """Means (atoms, features) over the edges that leave each atom; zero for an atom without any."""
        return self._finished(graph.mean(graph.sent(self.inner)), graph.degree[:, None] > 0)

    def received(self, graph: Graph):
        """Means (atoms, features) over the edges that end in each atom."""
        return self._finished(graph.mean(graph.received(self.inner)), graph.degree[:, None] > 0)

    def everywhere(self, graph: Graph):
        """Mean (features,) over all edges; zero without any."""
        n = graph.degree.sum()
        return self._finished(graph.sent(self.inner).sum(0) / jnp.maximum(n, 1), n > 0)

    def values(self):
        """Values (slots, atoms, features); of empty slots they mean nothing."""
        return self.last(self.inner)

    def _finished(self, means, any_edge):
        return jnp.where(any_edge, self.last(means), 0)


def through(update: Stack, last: Dense, nodes, *whole):
    """The first layer of `update` of (edge, its own atom, the atom at its other end, *whole), in parts that are added up.

    Weights (hidden, hidden) for what `last` would read to make the edge, and values (atoms, hidden) of atoms that edges leave
    and of atoms that they end in.
    """
    first = update.layers[0]
    rows = first.blocks(last.bias.shape[0], nodes.shape[-1], nodes.shape[-1], *(w.shape[-1] for w in whole))
    own = nodes @ rows[1] + first.bias + last.bias @ rows[0]
    own = sum((w @ r for w, r in zip(whole, rows[3:], strict=True)), start=own)
    return last.weights @ rows[0], own, nodes @ rows[2]


def by_feature(layer: Dense, values):
    """The layer of `values` (..., features) that are few: adding up products is faster than a matrix of four rows."""
    if values.shape[-1] > FEW:
        return layer(values)
    return sum((values[..., k, None] * layer.weights[k] for k in range(values.shape[-1])), start=layer.bias)


def activated(values):
    """Leaky ReLU."""
    return jnp.maximum(values, LEAK * values)


def normalised(graph: Graph, values, scale, shift, eps: float = 1e-5):
    """Features (atoms, features) with mean zero and variance one over the atoms of this graph, scaled and shifted.

    Batch normalisation as the authors of StriderNet use it, always with the statistics at hand. Theirs are over the graphs of
    a batch; here each graph has its own, so that no structure depends on its neighbours in a batch.
    """
    centred = values - graph.average(values)
    return centred / jnp.sqrt(graph.average(centred**2) + eps) * scale + shift
