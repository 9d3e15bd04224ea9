"""Radius graphs inside jit: which atoms are nearer than a cutoff that depends on their species.

Every pair is looked at, or, in large structures, those of a list that somebody keeps anyway: then the cost is linear. Slots
are a shape of the program; an atom with more neighbours makes the graph say `overflow`, and whoever uses it must not
believe anything computed from it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from thalweg.networks.graph import Graph
from thalweg.potentials.bins import WIDTH, extracted
from thalweg.potentials.neighbors import Neighbors
from thalweg.space import Space


def radius_graph(
    cutoffs, positions, kinds, slots: int, space: Space | None = None, neighbors: Neighbors | None = None
) -> Graph:
    """The `Graph` of atoms `positions` (atoms, 3) nearer than `cutoffs` (species, species).

    `kinds` (atoms,) are rows of `cutoffs`, -1 where there is no atom. An edge goes to the nearest image, whatever else is in
    reach. `neighbors` is a list of this structure that reaches as far as the largest cutoff. Which atoms are neighbours is
    not differentiable; the vectors are.
    """
    n, kinds, cutoffs = positions.shape[0], jnp.asarray(kinds), jnp.asarray(cutoffs)
    owner = jnp.arange(n, dtype=jnp.int32)
    dense = neighbors is None or neighbors.turns is not None  # of narrow cells it lists images, whose atoms come twice
    if neighbors is None or neighbors.turns is not None:
        candidates, covered = jnp.broadcast_to(owner[:, None], (n, n)), jnp.ones((), bool)
    else:
        candidates = neighbors.index
        covered = ~neighbors.overflow & (neighbors.reach >= jnp.max(cutoffs) * (1 - 1e-5))
    near = _near(candidates, positions, kinds, cutoffs, space) & (candidates != owner)
    # Barriers keep XLA from computing what stands before them again in every loop behind.
    words = lax.optimization_barrier(_packed(near))
    table, count = lax.optimization_barrier(extracted(words, owner, slots, _named(candidates)))
    real = jnp.arange(slots)[:, None] < count
    vectors = jnp.where(real[..., None], _displacements(table, positions, space), 0)
    back = _ranks(table, words) if dense else _searched(table, real)
    reverse = jnp.where(real, back * n + table, jnp.arange(slots, dtype=jnp.int32)[:, None] * n + owner)
    return Graph(table, reverse, real, vectors, kinds >= 0, (count.max() > slots) | ~covered)


def _displacements(table, positions, space: Space | None):
    """Vectors (slots, atoms, 3) from each atom to those of a table, to the nearest image."""
    other = positions.at[table].get(mode="promise_in_bounds")
    d = [other[..., k] - positions[:, k] for k in range(3)]
    return jnp.stack(d if space is None else space.minimum_image(*d), -1)


def _near(candidates, positions, kinds, cutoffs, space):
    # Column by column: rows of three are gathered number by number, which takes several times as long.
    columns = [lax.stop_gradient(positions[:, k]) for k in range(3)]
    there = lambda a: a.at[candidates].get(mode="promise_in_bounds")
    d = [there(column) - column for column in columns]
    dx, dy, dz = d if space is None else space.minimum_image(*d)
    theirs = there(kinds)
    # Sums over the few species instead of a gather from their table.
    cutoff = sum(cutoffs[a, b] * ((theirs == a) & (kinds == b)) for a in range(len(cutoffs)) for b in range(len(cutoffs)))
    return dx * dx + dy * dy + dz * dz < cutoff * cutoff


def _packed(near):
    """Bits (words, atoms) of a table of booleans (candidates, atoms)."""
    n_words = -(-near.shape[0] // WIDTH)
    near = jnp.pad(near, ((0, n_words * WIDTH - near.shape[0]), (0, 0))).reshape(n_words, WIDTH, -1)
    bits = jnp.arange(WIDTH, dtype=jnp.uint32)[:, None]
    return (near.astype(jnp.uint32) << bits).sum(1, dtype=jnp.uint32)


def _named(candidates):
    """Which atom a bit stands for."""

    def atom(w, bit):
        place = jnp.minimum(w * WIDTH + bit, candidates.shape[0] - 1)
        return jnp.take_along_axis(candidates, place[None], axis=0, mode="promise_in_bounds")[0]

    return atom


def _ranks(table, words):
    """Slot of each atom among the neighbours of each of its own, where these are in the order of atoms: how many of the bits
    before it are set."""
    n = table.shape[1]
    counts = lax.population_count(words).astype(jnp.int32)
    before = jnp.cumsum(counts, 0) - counts
    word, bit = jnp.arange(n, dtype=jnp.int32) // WIDTH, jnp.arange(n, dtype=jnp.uint32) % WIDTH
    at = lambda a: a.reshape(-1).at[word * n + table].get(mode="promise_in_bounds")
    below = at(words) & ((jnp.uint32(1) << bit) - 1)
    return at(before) + lax.population_count(below).astype(jnp.int32)


def _searched(table, real):
    """The same where they are in any order: every slot of the other atom is looked at."""
    atom = jnp.arange(table.shape[1], dtype=jnp.int32)
    back = jnp.zeros_like(table)
    for k in range(len(table)):
        at = lambda a, k=k: a[k].at[table].get(mode="promise_in_bounds")
        back = jnp.where((at(table) == atom) & at(real), k, back)
    return back
