"""Graphs of atoms as tables of neighbours: what passes between atoms and edges is gathered, forwards and backwards.

A directed edge goes from an atom to each of its neighbours, and every edge has its reverse. Edges stand in a table (slots,
atoms): slot k of atom i is the edge i -> `partner[k, i]`. Sums over the edges of an atom are sums over slots, and because
the reverse of each edge is known, the derivative of a gather is a gather as well: there is no scatter, which XLA does one
element after the other on a CPU.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.typing import Array


class Graph(eqx.Module):
    """Edges of one structure. Empty slots hold an edge of the atom to itself, with `real` False."""

    partner: Array  # (slots, atoms) int32: the atom at the other end
    reverse: Array  # (slots, atoms) int32: where the edge back stands, slot * atoms + atom; of an empty slot, itself
    real: Array  # (slots, atoms) bool
    vectors: Array  # (slots, atoms, 3): from the atom to its neighbour; zero in empty slots
    present: Array  # (atoms,) bool: False where a slot holds no atom
    overflow: Array  # () bool: an atom had more neighbours than slots; the graph is not one then

    @property
    def degree(self):
        """Number of neighbours (atoms,)."""
        return self.real.sum(0)

    @property
    def lengths(self):
        """Distances (slots, atoms), zero in empty slots; differentiable there too."""
        square = (self.vectors**2).sum(-1)
        return jnp.where(self.real, jnp.sqrt(jnp.where(self.real, square, 1)), 0)

    def partners(self, values):
        """Values (atoms, features) of the atom at the other end of each edge: (slots, atoms, features)."""
        return _partners(values, self.partner, self.reverse, self.real)

    def sent(self, edges):
        """Sums (atoms, features) over the edges (slots, atoms, features) that leave each atom."""
        return _sum(edges, self.real)

    def received(self, edges):
        """Sums over the edges that end in each atom."""
        return _received(edges, self.partner, self.reverse, self.real)

    def mean(self, sums):
        """Means from such sums; zero for an atom without any edge."""
        return sums / jnp.maximum(self.degree, 1)[:, None]

    def average(self, nodes):
        """Mean (features,) of values (atoms, features) over the atoms that there are."""
        return jnp.where(self.present[:, None], nodes, 0).sum(0) / jnp.maximum(self.present.sum(), 1)


def rows(edges, where):
    """Rows (..., features) of a table at places `where` (...) in it."""
    flat = edges.reshape(math.prod(edges.shape[:-1]), edges.shape[-1])  # not -1, which no features do not determine
    return flat.at[where].get(mode="promise_in_bounds")


def _no_pull(*arrays):
    """The derivatives by integers and booleans, as JAX wants them."""
    return tuple(np.zeros(a.shape, jax.dtypes.float0) for a in arrays)


def _sum(edges, real):
    return jnp.where(real[..., None], edges, 0).sum(0)


@jax.custom_vjp
def _received(edges, partner, reverse, real):
    return _sum(rows(edges, reverse), real)


def _received_backward(kept, pull):
    partner, _, real = kept
    return jnp.where(real[..., None], rows(pull, partner), 0), *_no_pull(*kept)


_received.defvjp(
    lambda edges, partner, reverse, real: (_sum(rows(edges, reverse), real), (partner, reverse, real)), _received_backward
)


@jax.custom_vjp
def _partners(values, partner, reverse, real):
    return rows(values, partner)


def _partners_backward(kept, pull):
    # What an atom gave to the edges that end in it: those are the reverses of the edges that leave it. An empty slot read the
    # atom itself.
    _, reverse, real = kept
    return _sum(rows(pull, reverse), real) + _sum(pull, ~real), *_no_pull(*kept)


_partners.defvjp(lambda values, partner, reverse, real: (rows(values, partner), (partner, reverse, real)), _partners_backward)
