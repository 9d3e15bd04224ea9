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

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.typing import Array

FREE = (False, False, False)
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


def all_pairs(positions, real, space, reach, others=None):
    """Words (ceil(candidates / 32), atoms, *lanes): bit b of word w is set where candidate 32 w + b is nearer than `reach`.

    Candidates are the atoms at their nearest image, or `others` (candidates, 3, *lanes) where they are: all images of the
    first atom to the last, those in the cell first.
    """
    n, spread = positions.shape[0], positions.ndim - 2
    copies = 1 if others is None else others.shape[0] // n
    others = positions if others is None else others
    n_words = -(-others.shape[0] // WIDTH)
    fill = lambda a: jnp.pad(a, [(0, n_words * WIDTH - others.shape[0]), *[(0, 0)] * (a.ndim - 1)])
    x, y, z = (positions[:, k] for k in range(3))
    lines = [fill(others[:, k]) for k in range(3)]
    present = fill(jnp.concatenate([real] * copies))
    slot = jnp.arange(n).reshape(-1, *[1] * spread)
    space = space if copies == 1 else None
    inverse = None if space is None or space.orthogonal else space.inverse

    def test(group, word):
        for k in range(UNROLL):
            bit = group % (WIDTH // UNROLL) * UNROLL + k
            j = group * UNROLL + k
            d = [mine - line[j] for mine, line in zip((x, y, z), lines, strict=True)]
            if space is not None:
                d = space.minimum_image(*d, inverse)
            near = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < reach * reach) & (slot != j) & real & present[j]
            word = word | (near.astype(jnp.uint32) << bit.astype(jnp.uint32))
        return word

    def fill_word(w, words):
        per = WIDTH // UNROLL
        word = lax.fori_loop(w * per, (w + 1) * per, test, jnp.zeros((n, *positions.shape[2:]), jnp.uint32))
        return lax.dynamic_update_index_in_dim(words, word, w, 0)

    return lax.fori_loop(0, n_words, fill_word, jnp.zeros((n_words, n, *positions.shape[2:]), jnp.uint32))


def extracted(words, owner, slots: int, atom_of):
    """Table (slots, atoms, *lanes) of the candidates whose bits are set in `words`, and how many bits each atom has.

    `owner` (atoms, *lanes) fills empty slots. `atom_of(w, bit)` names candidates; both arrays are (atoms, *lanes).
    """
    n_words = words.shape[0]
    count = lax.population_count(words).astype(jnp.int32).sum(0)
    words = jnp.concatenate([words, jnp.zeros_like(words[:1])])  # an empty one behind the last
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


class _Grid(NamedTuple):
    """Atoms of one structure sorted into bins."""

    bins: Bins
    pbc: tuple[bool, bool, bool]
    orthogonal: bool
    #: Position of each bin's first atom among the sorted atoms (bins + 1,); those of whole columns (columns,).
    starts: Array
    begin: Array
    end: Array
    #: Sorted atoms, column by column; along a periodic axis every column stands twice, so that no range wraps around.
    line: Array
    #: Their fractions of the cell vectors, three arrays in single precision, and the metric tensor that measures them.
    fractions: list
    metric: Array
    #: Squared reach with a margin for rounding: candidates may be too many, never too few.
    limit: Array


class _Atoms(NamedTuple):
    """What the search must know of each atom, arrays (atoms,)."""

    bin: tuple  # three
    fractions: tuple  # three
    places: tuple  # both places in the line
    real: Array
    owner: Array


def binned(positions, real, space, reach, bins: Bins, slots: int):
    """Table (slots, atoms) of one structure's neighbours from `positions` (atoms, 3), and their number (atoms,).

    Also the most candidates an atom had in one column, and whether bins of this size cover the reach.
    """
    n = positions.shape[0]
    grid, atoms, covered = _sorted(positions, real, space, reach, bins)
    if n <= BLOCK:
        return *_search(grid, atoms, slots), covered
    n_blocks = -(-n // BLOCK)
    cut = lambda a: jnp.pad(a, (0, n_blocks * BLOCK - n)).reshape(n_blocks, BLOCK)
    table, count, crowd = lax.map(lambda block: _search(grid, block, slots), jax.tree.map(cut, atoms))
    table = jnp.moveaxis(table, 0, 1).reshape(slots, -1)[:, :n]
    return table, count.reshape(-1)[:n], crowd.max(), covered


def _sorted(positions, real, space, reach, bins: Bins):
    """Grid and atoms of a structure, and whether bins within the span cover the reach."""
    dtype, n = positions.dtype, positions.shape[0]
    nx, ny, nz = bins.number
    pbc = FREE if space is None else space.pbc
    u, heights, metric = _fractions(positions, space)
    for k in range(3):
        if not pbc[k]:
            u[k] = u[k] - jnp.min(jnp.where(real, u[k], jnp.inf))
    extents = [1.0 if pbc[k] else jnp.max(jnp.where(real, u[k], 0)) for k in range(3)]
    # Along a free axis bins follow the atoms; along a periodic one their number is all there is.
    least = [reach / (heights[k] * bins.span[k]) for k in range(3)]
    width = [1 / bins.number[k] if pbc[k] else jnp.maximum(extents[k] / bins.number[k], least[k]) for k in range(3)]
    every = [pbc[k] and 2 * bins.span[k] + 1 >= bins.number[k] for k in range(3)]
    covered = jnp.stack([jnp.asarray(every[k] | (width[k] >= least[k] * (1 - 1e-6))) for k in range(3)]).all()
    # A position that is not a number falls into some bin; it has no near pairs, and its own energy tells.
    inside = tuple(jnp.clip((u[k] / width[k]).astype(jnp.int32), 0, bins.number[k] - 1) for k in range(3))

    n_bins = nx * ny * nz
    column = inside[0] * ny + inside[1]
    owner = jnp.arange(n, dtype=jnp.int32)
    key, order = lax.sort((jnp.where(real, column * nz + inside[2], n_bins), owner), num_keys=1)
    starts = jnp.searchsorted(key, jnp.arange(n_bins + 1, dtype=jnp.int32)).astype(jnp.int32)
    begin, end = starts[:-1:nz], starts[nz::nz]
    rank = jnp.zeros(n, jnp.int32).at[order].set(owner, unique_indices=True)
    line, places = jnp.asarray(order), (rank, rank)
    if pbc[2]:
        places = tuple(jnp.where(real, rank + edge[column], 2 * n) for edge in (begin, end))
        line = jnp.zeros(2 * n, jnp.int32)
        for place in places:
            line = line.at[place].set(owner, mode="drop")
    single = tuple(v.astype(jnp.float32) for v in u)
    size = jnp.stack([heights[k] * jnp.asarray(extents[k], dtype) for k in range(3)]).max()
    limit = ((reach + 2e-6 * size) ** 2).astype(jnp.float32)
    lined = [v[line] for v in single]
    orthogonal = space is None or space.orthogonal
    grid = _Grid(bins, pbc, orthogonal, starts, begin, end, line, lined, metric.astype(jnp.float32), limit)
    return grid, _Atoms(inside, single, places, real, owner), covered


def _search(grid: _Grid, atoms: _Atoms, slots: int):
    """Table (slots, block), number of neighbours (block,) and the most candidates in a column, for some of the atoms."""
    bins, shape = grid.bins, atoms.owner.shape
    offsets = _columns(bins, grid.pbc)
    shifts = jnp.asarray(offsets, jnp.int32)
    per = WIDTH // UNROLL

    def fill(c, state):
        words, firsts, crowd = state
        first, count = _range(grid, atoms, shifts[c])
        count = jnp.where(atoms.real, count, 0)
        most = count.max()

        def test(group, word):
            for k in range(UNROLL):
                near = _near(grid, atoms, first + group * UNROLL + k) & (group * UNROLL + k < count)
                word = word | (near.astype(jnp.uint32) << (group % per * UNROLL + k).astype(jnp.uint32))
            return word

        for level in range(bins.depth):
            stop = jnp.minimum((level + 1) * per, -(-most // UNROLL))
            word = lax.fori_loop(level * per, stop, test, jnp.zeros(shape, jnp.uint32))
            words = lax.dynamic_update_index_in_dim(words, word, c * bins.depth + level, 0)
            firsts = lax.dynamic_update_index_in_dim(firsts, first + level * WIDTH, c * bins.depth + level, 0)
        return words, firsts, jnp.maximum(crowd, most)

    n_words = len(offsets) * bins.depth
    start = (jnp.zeros((n_words, *shape), jnp.uint32), jnp.zeros((n_words + 1, *shape), jnp.int32), jnp.zeros((), jnp.int32))
    words, firsts, crowd = lax.fori_loop(0, len(offsets), fill, start)

    def atom_of(w, bit):
        first = jnp.take_along_axis(firsts, w[None], axis=0, mode="promise_in_bounds")[0]
        return jnp.asarray(grid.line).at[jnp.minimum(first + bit, grid.line.shape[0] - 1)].get(mode="promise_in_bounds")

    return *extracted(words, atoms.owner, slots, atom_of), crowd


def _range(grid: _Grid, atoms: _Atoms, shift):
    """First candidate of each atom in the column at offset `shift` (2,) from its own, and their number."""
    (_, ny, nz), span = grid.bins.number, grid.bins.span[2]
    c, absent = [], False
    for k in range(2):
        at = atoms.bin[k] + shift[k]
        if grid.pbc[k]:
            at = at % grid.bins.number[k]
        else:
            absent = absent | (at < 0) | (at >= grid.bins.number[k])
        c.append(at)
    column = jnp.where(absent, 0, c[0] * ny + c[1])
    start = lambda z: grid.starts[column * nz + z]
    low, high = atoms.bin[2] - span, atoms.bin[2] + span + 1
    if not grid.pbc[2]:
        first = start(jnp.maximum(low, 0))
        last = start(jnp.minimum(high, nz))
    else:
        # In the first copy of a column positions are shifted by its begin, in the second by its end.
        begin, end = grid.begin[column], grid.end[column]
        if 2 * span + 1 >= nz:
            first, last = begin + begin, begin + end
        else:
            low, high = jnp.where(low < 0, low + nz, low), jnp.where(low < 0, high + nz, high)
            first = start(low) + begin
            last = start(jnp.where(high > nz, high - nz, high)) + jnp.where(high > nz, end, begin)
    return first, jnp.where(absent, 0, last - first)


def _near(grid: _Grid, atoms: _Atoms, place):
    """Whether the atom at a place of the line is another one and near."""
    d = []
    for mine, theirs, periodic in zip(atoms.fractions, grid.fractions, grid.pbc, strict=True):
        v = mine - theirs.at[jnp.minimum(place, theirs.shape[0] - 1)].get(mode="promise_in_bounds")
        d.append(v - jnp.round(v) if periodic else v)
    other = (place != atoms.places[0]) & (place != atoms.places[1])
    return (_square(d, grid.metric, grid.orthogonal) < grid.limit) & other


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
