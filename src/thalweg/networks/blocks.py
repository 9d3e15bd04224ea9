"""Messages in large graphs, some atoms at a time: nothing of the size of edges x hidden units is ever whole.

In 10,000 atoms one table (slots, atoms, hidden) has 60 MB, and every pass over it waits for the memory. Here a block of atoms
goes through its slots one by one. For the edge in a slot and for its reverse values are made from the few features they
have, and are added to the sums of the atom that sends the one and receives the other. So every value is made twice, once at
either end, which is cheaper than to fetch it. Slots that are empty in the whole block are left out.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from thalweg.networks.graph import Graph, rows

#: Atoms in a block: values of both directions of one slot stay in the second cache.
BLOCK = 512


def sums_in_blocks(graph: Graph, edges, value, width: int, starts=None, ends=None, block: int = BLOCK):
    """Sums (2, atoms, width) of `value` over the edges that leave each atom and over those that end in it.

    `value(features (2, block, features), more (2, block, hidden))` makes values (2, block, width) of the features in `edges`
    (slots, atoms, features) and of `starts` of the atom an edge leaves plus `ends` of the one it ends in (both (atoms, hidden);
    zero if not given).
    """
    slots, n = graph.partner.shape
    count = -(-n // block)
    size = -(-n // count)
    tables = [_padded(a, count * size, 1) for a in (edges, graph.partner, graph.reverse, graph.real)]
    joined = None if starts is None or ends is None else jnp.concatenate([starts, ends], -1)
    own = None if joined is None else _padded(joined, count * size, 0)
    slot = jnp.arange(1, slots + 1, dtype=jnp.int32)

    def more(mine, theirs):
        half = mine.shape[-1] // 2
        return jnp.stack([mine[:, :half] + theirs[:, half:], theirs[:, :half] + mine[:, half:]])

    def one(b):
        used = jnp.where(_cut(tables[3], 0, b * size, slots, size).any(1), slot, 0).max()
        mine = None if own is None else lax.dynamic_slice_in_dim(own, b * size, size)

        def add(k, sums):
            there, partner, reverse, real = (_cut(a, k, b * size, 1, size)[0] for a in tables)
            features = jnp.stack([there, rows(edges, reverse)])
            made = value(features, 0 if joined is None else more(mine, _copied(joined, partner)))
            return sums + jnp.where(real[:, None], made, 0)

        return lax.fori_loop(0, used, add, jnp.zeros((2, size, width), edges.dtype))

    sums = lax.map(one, jnp.arange(count, dtype=jnp.int32))
    return jnp.moveaxis(sums, 1, 0).reshape(2, count * size, width)[:, :n]


def _copied(table, where):
    """Rows (places, features) of a table, copied one after the other: XLA's gather on a CPU fetches number by number, and takes
    four times as long where rows are long."""
    row = lambda k: lax.dynamic_slice_in_dim(table, where[k], 1)
    put = lambda k, out: lax.dynamic_update_slice_in_dim(out, row(k), k, 0)
    return lax.fori_loop(0, where.shape[0], put, jnp.zeros((where.shape[0], table.shape[1]), table.dtype))


def _padded(table, n: int, axis: int):
    """A table with zeros behind its atoms, up to `n`."""
    return jnp.pad(table, [(0, n - a if k == axis else 0) for k, a in enumerate(table.shape)])


def _cut(table, slot, atom, slots: int, atoms: int):
    """So many slots and atoms of a table (slots, atoms, ...), from one on."""
    rest = table.shape[2:]
    at = [jnp.asarray(k, jnp.int32) for k in (slot, atom, *[0] * len(rest))]
    return lax.dynamic_slice(table, at, (slots, atoms, *rest))
