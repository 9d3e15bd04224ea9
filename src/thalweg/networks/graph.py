"""Graphs of atoms as tables of neighbours: what passes between atoms and edges is gathered, forwards and backwards.

A directed edge goes from an atom to each of its neighbours, and every edge has its reverse. Edges stand in a table (slots,
atoms): slot k of atom i is the edge i -> `partner[k, i]`. Sums over the edges of an atom are sums over slots, and because
the reverse of each edge is known, the derivative of a gather is a gather as well: there is no scatter, which XLA does one
element after the other on a CPU.
"""

from __future__ import annotations

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

    def reversed(self, edges):
        """Values (slots, atoms, features) of each edge's reverse."""
        return _reversed(edges, self.reverse)

    def total(self, edges):
        """Sums (atoms, features) over the edges (slots, atoms, features) that leave each atom."""
        return jnp.where(self.real[..., None], edges, 0).sum(0)

    def mean(self, edges):
        """Means (atoms, features) over the edges that leave each atom; zero for an atom without any."""
        return self.total(edges) / jnp.maximum(self.degree, 1)[:, None]


def _rows(edges, where):
    """Rows (slots, atoms, features) of a table at places `where` (slots, atoms) in it."""
    flat = edges.reshape(-1, edges.shape[-1])
    return flat.at[where].get(mode="promise_in_bounds")


@jax.custom_vjp
def _partners(values, partner, reverse, real):
    return values.at[partner].get(mode="promise_in_bounds")


def _partners_forward(values, partner, reverse, real):
    return _partners(values, partner, reverse, real), (partner, reverse, real)


def _partners_backward(kept, pull):
    # What an atom gave to the edges that end in it: those are the reverses of the edges that leave it.
    _, reverse, real = kept
    back = jnp.where(real[..., None], _rows(pull, reverse), 0).sum(0)
    # An empty slot read the atom itself.
    own = jnp.where(real[..., None], 0, pull).sum(0)
    return back + own, *(_no_pull(a) for a in kept)


_partners.defvjp(_partners_forward, _partners_backward)


@jax.custom_vjp
def _reversed(edges, reverse):
    return _rows(edges, reverse)


_reversed.defvjp(
    lambda edges, reverse: (_rows(edges, reverse), reverse), lambda reverse, pull: (_rows(pull, reverse), _no_pull(reverse))
)


def _no_pull(a):
    """The derivative by integers and booleans, as JAX wants it."""
    return np.zeros(a.shape, jax.dtypes.float0)
