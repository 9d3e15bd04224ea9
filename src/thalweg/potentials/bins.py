"""Search for near pairs inside jit: candidates are tested into bits of words, and bits are read out into columns.

Compacting "the candidates that are near" into a table is what XLA does worst on a CPU: one scatter per candidate. Here the
test of 32 candidates fills one word per atom, element by element, and reading the s-th bit of every atom fills slot s of
the table, again element by element: no scatter, no sort, and a cost per candidate and per slot, not per product of both.

Two searches give words: all pairs, with lanes, and bins, at a cost linear in the atoms. Bins are columns along the third
cell vector, cut finely: sorted by bin, the candidates of an atom in one column are one contiguous range. Cells may be
triclinic; all is done in fractions of the cell vectors, distances by the metric tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

#: Candidates per word.
WIDTH = 32
#: Tests done in one pass over the atoms.
UNROLL = 8
#: Atoms searched at a time, so that their words stay in the cache.
BLOCK = 4096


class Bins(NamedTuple):
    """Sizes of a binned search: all of them are shapes of the program."""

    #: Bins along the three axes.
    number: tuple[int, int, int]
    #: Bins to either side in which neighbours are looked for.
    span: tuple[int, int, int]
    #: Words per column: an atom sees at most 32 times as many candidates in one column.
    depth: int


def all_pairs(positions, real, space, reach):
    """Words (ceil(atoms / 32), atoms, *lanes): bit b of word w is set where atom 32 w + b is nearer than `reach`."""
    n = positions.shape[0]
    n_words = -(-n // WIDTH)
    x, y, z = (jnp.pad(positions[:, k], [(0, n_words * WIDTH - n), *[(0, 0)] * (positions.ndim - 2)]) for k in range(3))
    present = jnp.pad(real, [(0, n_words * WIDTH - n), *[(0, 0)] * (real.ndim - 1)])
    slot = jnp.arange(n).reshape(-1, *[1] * (positions.ndim - 2))
    inverse = None if space is None or space.orthogonal else space.inverse

    def test(group, word):
        for k in range(UNROLL):
            bit = group % (WIDTH // UNROLL) * UNROLL + k
            j = group * UNROLL + k
            d = x[:n] - x[j], y[:n] - y[j], z[:n] - z[j]
            if space is not None:
                d = space.minimum_image(*d, inverse)
            near = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < reach * reach) & (slot != j) & real & present[j]
            word = word | (near.astype(jnp.uint32) << bit.astype(jnp.uint32))
        return word

    def fill(w, words):
        per = WIDTH // UNROLL
        word = lax.fori_loop(w * per, (w + 1) * per, test, jnp.zeros((n, *positions.shape[2:]), jnp.uint32))
        return lax.dynamic_update_index_in_dim(words, word, w, 0)

    return lax.fori_loop(0, n_words, fill, jnp.zeros((n_words, n, *positions.shape[2:]), jnp.uint32))


def extracted(words, owner, slots: int, atom_of):
    """Table (slots, atoms, *lanes) of the candidates whose bits are set in `words`, and how many bits each atom has.

    `owner` (atoms, *lanes) fills empty slots. `atom_of(w, bit)` names candidates; both arrays are (atoms, *lanes).
    """
    n_words = words.shape[0]
    count = lax.population_count(words).astype(jnp.int32).sum(0)
    words = jnp.concatenate([words, jnp.zeros_like(words[:1])])
    pick = lambda table, w: jnp.take_along_axis(table, w[None], axis=0, mode="promise_in_bounds")[0]

    # following[w]: the next word with a bit, the empty one behind the last if there is none.
    def link(k, state):
        w = n_words - k
        nearest, following = state
        following = lax.dynamic_update_index_in_dim(following, nearest, w, 0)
        return jnp.where(words[w] != 0, w.astype(jnp.int32), nearest), following

    none = jnp.full(words.shape[1:], n_words, jnp.int32)
    first, following = lax.fori_loop(0, n_words + 1, link, (none, jnp.full(words.shape, n_words, jnp.int32)))

    def emit(s, state):
        w, word, table = state
        lowest = word & (~word + 1)
        bit = lax.population_count(lowest - 1).astype(jnp.int32)
        atom = jnp.where(word == 0, owner, atom_of(w, bit & (WIDTH - 1)))
        table = lax.dynamic_update_index_in_dim(table, atom, s, 0)
        word = word ^ lowest
        empty = word == 0
        w = jnp.where(empty, pick(following, w), w)
        return w, jnp.where(empty, pick(words, w), word), table

    table = jnp.broadcast_to(owner, (slots, *words.shape[1:])).astype(jnp.int32)
    used = jnp.minimum(count.max(), slots)
    return lax.fori_loop(0, used, emit, (first, pick(words, first), table))[2], count


def binned(positions, real, space, reach, bins: Bins, slots: int):
    """Table (slots, atoms) of one structure's neighbours, their number (atoms,), the most candidates of an atom in one
    column, and whether bins of this size cover the reach; `positions` (atoms, 3)."""
    dtype, n = positions.dtype, positions.shape[0]
    nx, ny, nz = bins.number
    pbc = (False,) * 3 if space is None else space.pbc
    u, heights, metric = _fractions(positions, space)
    low, width = [], []
    for k in range(3):
        if pbc[k]:
            low.append(jnp.zeros((), dtype))
            width.append(jnp.full((), 1 / bins.number[k], dtype))
        else:
            start = jnp.min(jnp.where(real, u[k], jnp.inf))
            extent = jnp.max(jnp.where(real, u[k], -jnp.inf)) - start
            low.append(start)
            width.append(jnp.maximum(extent / bins.number[k], reach / (heights[k] * bins.span[k])))
    # Where bins within the span are all there are, they cover any reach.
    every = np.array([periodic and 2 * m + 1 >= n for periodic, m, n in zip(pbc, bins.span, bins.number, strict=True)])
    covered = jnp.stack([width[k] * heights[k] * bins.span[k] >= reach * (1 - 1e-6) for k in range(3)]) | every
    # A position that is not a number falls into some bin; it has no near pairs, and its own energy tells.
    bx, by, bz = (jnp.clip(((u[k] - low[k]) / width[k]).astype(jnp.int32), 0, bins.number[k] - 1) for k in range(3))

    # Sorted by bin; in columns along a periodic axis every atom stands twice, so that no range ever wraps around.
    n_bins = nx * ny * nz
    key = jnp.where(real, (bx * ny + by) * nz + bz, n_bins)
    sorted_key, order = lax.sort((key, jnp.arange(n, dtype=jnp.int32)), num_keys=1)
    starts = jnp.searchsorted(sorted_key, jnp.arange(n_bins + 1, dtype=jnp.int32)).astype(jnp.int32)
    begin, end = starts[:-1:nz], starts[nz::nz]
    rank = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32), unique_indices=True)
    column = bx * ny + by
    mine = rank + begin[column] if pbc[2] else rank
    again = rank + end[column] if pbc[2] else rank
    if pbc[2]:
        own = jnp.arange(n, dtype=jnp.int32)
        line = jnp.zeros(2 * n, jnp.int32)
        # Padding stands behind all bins and may be written anywhere out of their way.
        line = line.at[jnp.where(real, mine, 2 * n)].set(own, mode="drop").at[jnp.where(real, again, 2 * n)].set(own, mode="drop")
    else:
        line = order
    # Tests in single precision, with a margin for its rounding: candidates may be too many, never too few.
    single = [(u[k] - low[k]).astype(jnp.float32) for k in range(3)]
    lined = [s[line] for s in single]
    extent = jnp.stack([heights[k] * (1.0 if pbc[k] else width[k] * bins.number[k]) for k in range(3)]).max()
    limit = ((reach + 2e-6 * extent) ** 2).astype(jnp.float32)
    metric = metric.astype(jnp.float32)
    offsets = _columns(bins, pbc)
    n_words = len(offsets) * bins.depth
    shifts = jnp.asarray(offsets, jnp.int32)

    def ranges(c, bx, by, bz):
        """First candidate and their number (block,) in the column at offset `c`."""
        cx, cy = bx + shifts[c, 0], by + shifts[c, 1]
        outside = jnp.zeros(bx.shape, bool)
        if pbc[0]:
            cx = cx % nx
        else:
            outside = outside | (cx < 0) | (cx >= nx)
        if pbc[1]:
            cy = cy % ny
        else:
            outside = outside | (cy < 0) | (cy >= ny)
        col = jnp.where(outside, 0, cx * ny + cy)
        b, e = begin[col], end[col]
        if 2 * bins.span[2] + 1 >= nz and pbc[2]:
            first, count = b + b, e - b
        elif pbc[2]:
            z0 = bz - bins.span[2]
            z0 = jnp.where(z0 < 0, z0 + nz, z0)
            z1 = z0 + 2 * bins.span[2] + 1
            first = starts[col * nz + z0] + b
            last = jnp.where(z1 > nz, starts[col * nz + jnp.where(z1 > nz, z1 - nz, z1)] + e, starts[col * nz + jnp.minimum(z1, nz)] + b)
            count = last - first
        else:
            first = starts[col * nz + jnp.maximum(bz - bins.span[2], 0)]
            count = starts[col * nz + jnp.minimum(bz + bins.span[2] + 1, nz)] - first
        return first, jnp.where(outside, 0, count)

    def search(block):
        bx, by, bz, ux, uy, uz, mine, again, real, owner = block

        def fill(c, state):
            words, firsts, most = state
            first, count = ranges(c, bx, by, bz)
            count = jnp.where(real, count, 0)
            peak = count.max()

            def test(group, word):
                for k in range(UNROLL):
                    bit = group % (WIDTH // UNROLL) * UNROLL + k
                    p = first + group * UNROLL + k
                    take = lambda a: a.at[jnp.minimum(p, a.shape[0] - 1)].get(mode="promise_in_bounds")
                    d = [v - take(a) for v, a in zip((ux, uy, uz), lined, strict=True)]
                    d = [v - jnp.round(v) if periodic else v for v, periodic in zip(d, pbc, strict=True)]
                    r2 = _square(d, metric, space is None or space.orthogonal)
                    near = (r2 < limit) & (group * UNROLL + k < count) & (p != mine) & (p != again)
                    word = word | (near.astype(jnp.uint32) << bit.astype(jnp.uint32))
                return word

            per = WIDTH // UNROLL
            for level in range(bins.depth):
                stop = jnp.minimum((level + 1) * per, -(-peak // UNROLL))
                word = lax.fori_loop(level * per, stop, test, jnp.zeros(bx.shape, jnp.uint32))
                w = c * bins.depth + level
                words = lax.dynamic_update_index_in_dim(words, word, w, 0)
                firsts = lax.dynamic_update_index_in_dim(firsts, first + level * WIDTH, w, 0)
            return words, firsts, jnp.maximum(most, peak)

        zero = jnp.zeros((n_words, bx.shape[0]), jnp.uint32)
        firsts = jnp.zeros((n_words + 1, bx.shape[0]), jnp.int32)
        words, firsts, most = lax.fori_loop(0, len(offsets), fill, (zero, firsts, jnp.zeros((), jnp.int32)))

        def atom_of(w, bit):
            first = jnp.take_along_axis(firsts, w[None], axis=0, mode="promise_in_bounds")[0]
            return line.at[jnp.minimum(first + bit, line.shape[0] - 1)].get(mode="promise_in_bounds")

        return *extracted(words, owner, slots, atom_of), most

    whole = (bx, by, bz, *single, mine, again, real, jnp.arange(n, dtype=jnp.int32))
    if n <= BLOCK:
        table, count, most = search(whole)
        return table, count, most, covered.all()
    n_blocks = -(-n // BLOCK)
    cut = lambda a: jnp.pad(a, (0, n_blocks * BLOCK - n)).reshape(n_blocks, BLOCK)
    table, count, most = lax.map(search, tuple(cut(a) for a in whole))
    table = jnp.moveaxis(table, 0, 1).reshape(slots, -1)[:, :n]
    return table, count.reshape(-1)[:n], most.max(), covered.all()


def _fractions(positions, space):
    """Positions as three arrays (atoms,) of fractions of the cell vectors (wrapped where periodic), the cell's heights and
    its metric tensor; without a cell, the positions themselves."""
    if space is None:
        return list(positions.T), jnp.ones(3, positions.dtype), jnp.eye(3, dtype=positions.dtype)
    inverse = space.inverse
    u = [positions[:, 0] * inverse[0, k] + positions[:, 1] * inverse[1, k] + positions[:, 2] * inverse[2, k] for k in range(3)]
    u = [v - jnp.floor(v) if periodic else v for v, periodic in zip(u, space.pbc, strict=True)]
    return u, space.heights, space.cell @ space.cell.T


def _square(d, metric, orthogonal: bool):
    """Squared length of a displacement in fractions."""
    square = d[0] * d[0] * metric[0, 0] + d[1] * d[1] * metric[1, 1] + d[2] * d[2] * metric[2, 2]
    if orthogonal:
        return square
    return square + 2 * (d[0] * d[1] * metric[0, 1] + d[0] * d[2] * metric[0, 2] + d[1] * d[2] * metric[1, 2])


def _columns(bins: Bins, pbc) -> np.ndarray:
    """Offsets (columns, 2) of the columns in which an atom looks for neighbours, each column once."""
    along = []
    for k in range(2):
        n, m = bins.number[k], bins.span[k]
        if pbc[k] and 2 * m + 1 >= n:
            along.append(np.arange(n))
        else:
            m = min(m, n - 1)
            along.append(np.arange(-m, m + 1))
    return np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, 2)


def bins_for(extents, pbc, reach: float, n_atoms: int) -> Bins:
    """Sizes of bins, words per column aside, for heights or extents (3,) of a cell; on the host."""
    finest = (2, 2, 8)
    number = [max(1, int(np.floor(extents[k] * finest[k] / reach * (1 - 1e-9)))) for k in range(3)]
    while np.prod(number) > 8 * n_atoms + 64:  # nearly empty space: not many more bins than atoms
        k = int(np.argmax(number))
        number[k] = max(1, number[k] // 2)
    # Wide bins cover the reach with fewer of them.
    span = [min(finest[k], max(1, int(np.ceil(reach * number[k] / max(extents[k], 1e-9) * (1 - 1e-9))))) for k in range(3)]
    return Bins(tuple(number), tuple(span), 1)  # type: ignore[arg-type]


def most_in_column(u: np.ndarray, width: np.ndarray, pbc, bins: Bins) -> int:
    """The most atoms in a column within the span of a bin, from fractions (atoms, 3) on the host."""
    u = np.where(pbc, u - np.floor(u), (u - u.min(0, initial=0)) / width)
    number = np.array(bins.number)
    b = np.clip((u * number).astype(int), 0, number - 1)
    column = np.zeros((number[0] * number[1], number[2]), int)
    np.add.at(column, (b[:, 0] * number[1] + b[:, 1], b[:, 2]), 1)
    reach = min(2 * bins.span[2] + 1, number[2])
    padded = np.concatenate([column, column[:, : reach - 1] if pbc[2] else np.zeros_like(column[:, : reach - 1])], axis=1)
    total = np.concatenate([np.zeros((len(padded), 1), int), padded.cumsum(1)], axis=1)
    return int((total[:, reach:] - total[:, :-reach]).max())
