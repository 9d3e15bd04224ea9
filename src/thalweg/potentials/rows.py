"""Sums over pairs: the one hot loop of all pair, embedded-atom and three-body potentials.

Dense: the loop runs over atoms i (and images); each pass adds the interaction of atom i with every atom j to arrays of shape
(atoms, *lanes) element by element. There is no scatter, no reduction and no atoms x atoms storage inside the loop, which
lets XLA turn a pass into one vectorised kernel: 1 ns per pair in float32 and 2 in float64 on one core
(benchmarks/kernels.py). Listed: the loop runs over the slots of a neighbour list instead, and gathers.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: Squared distance given to pairs that do not exist (an atom with itself, padding): far outside of any interaction, and
#: small enough that its sixth power still has an inverse in float32.
FAR = 1e6


#: Lanes that a pass should run over. Below 32, LLVM unrolls the loop over lanes before it would vectorise it.
WIDTH = 32
#: Atoms (times lanes) of a neighbour list that are summed at a time.
BLOCK = 8192


class Pairs:
    """How a sum over pairs sees arrays (atoms, *lanes) of values per atom: at its atoms, and at their partners."""

    def __init__(self, own: Callable, partner: Callable):
        self.own, self.partner = own, partner


def sum_rows(pair: Callable, positions, numbers, init, per_row=None, space=None, neighbors=None):
    """Accumulate `pair(pairs, r2, displacement, row, carry)` over all partners of every atom.

    `displacement` holds x_atom - x_partner as three arrays (atoms, *lanes); `r2` is their square, `FAR` where no pair
    exists. Values per atom, arrays (atoms, *lanes), are had by `pairs.own(array)` and `pairs.partner(array)`: lanes are not
    the caller's own inside. `per_row` is a dict of parameters of pairs, arrays (atoms, atoms, ...), or (species, species)
    with a neighbour list; `row` holds those of the pairs at hand. `init` is zero, or NaN where the sum shall be.
    `space` is a `Space` or None, `neighbors` a `Neighbors` or None.
    """
    if neighbors is not None:
        return _sum_listed(pair, positions, init, per_row, space, neighbors)
    tiling = _Tiling(positions.shape[0], positions.shape[2:])
    x, y, z = (tiling.own(positions[:, k]) for k in range(3))
    padding = numbers < 0
    slot = jnp.arange(positions.shape[0])[:, None]
    n_blocks = _blocks(numbers, tiling.tiles)
    padding, rows = tiling.own(padding), [tiling.rows(positions[:, k]) for k in range(3)]
    absent_rows = tiling.rows(numbers < 0) | tiling.behind
    if space is not None:
        blur = _blur(tiling.own(positions), space := tiling.spaced(space))
        inverse = None if space.orthogonal else space.inverse
    else:
        blur = inverse = None

    def visit(block, shift, carry):
        at = lambda a: tiling.block(a, block)
        index = tiling.indices(block)
        dx, dy, dz = x - at(rows[0]), y - at(rows[1]), z - at(rows[2])
        absent = padding | at(absent_rows)
        if space is not None:
            dx, dy, dz = space.minimum_image(dx, dy, dz, inverse)
        if shift is None or space is None:
            absent = absent | (slot == index)
        else:
            by = space.displacement(shift)
            dx, dy, dz = dx + by[0], dy + by[1], dz + by[2]
            absent = absent | ((slot == index) & (shift == 0).all())  # an atom does interact with its own images
        r2 = _squared((dx, dy, dz), blur)
        r2 = jnp.where(absent, jnp.asarray(FAR, r2.dtype), r2)
        row = None if per_row is None else {k: tiling.table(v, block) for k, v in per_row.items()}
        pairs = Pairs(tiling.own, lambda a: at(tiling.rows(a)))
        return pair(pairs, r2, (dx, dy, dz), row, carry)

    start = jax.tree.map(tiling.begun, init)
    if space is None or max(space.images) == 0:
        out = lax.fori_loop(0, n_blocks, lambda i, carry: visit(i, None, carry), start)
    else:
        shifts = space.shifts(positions.dtype)
        imaged = lambda k, carry: visit(k % n_blocks, shifts[k // n_blocks], carry)
        out = lax.fori_loop(0, n_blocks * len(shifts), imaged, start)
    return jax.tree.map(tiling.collected, out)


def _blocks(numbers, tiles: int):
    """Passes over the rows: those behind the last atom are padding in every lane.

    The number is dynamic, so that one program serves many sizes. Where `numbers` are NumPy's, and so known while the program is
    made, it is static, and the sum can be differentiated in reverse.
    """
    known = isinstance(numbers, np.ndarray)
    real = (numbers >= 0).reshape(numbers.shape[0], -1)
    if known:
        n_rows = int((real.any(1) * np.arange(1, len(real) + 1)).max(initial=0))
    else:
        n_rows = jnp.max(jnp.where(real, jnp.arange(1, len(real) + 1)[:, None], 0))
    return (n_rows + tiles - 1) // tiles


class _Tiling:
    """Several rows of pairs in one pass where the lanes alone are too few to fill it.

    Lanes (*lanes) are repeated `tiles` times to (tiles * lanes): pass b takes row b * tiles + t in tile t. At the end the tiles
    are summed. With enough lanes there is one tile, and nothing happens.
    """

    def __init__(self, n_slots: int, lanes: tuple[int, ...]):
        self.n_slots, self.lanes = n_slots, lanes
        self.width = math.prod(lanes)
        self.tiles = max(1, min(WIDTH // max(self.width, 1), n_slots))

    def _flat(self, a):
        """(atoms, ..., width or 1) from (atoms, ..., *lanes or ones)."""
        front = a.shape[: a.ndim - len(self.lanes)]
        if math.prod(a.shape[len(front) :]) == 1:
            return a.reshape(*front, 1)
        return jnp.broadcast_to(a, (*front, *self.lanes)).reshape(*front, self.width)

    def own(self, a):
        """Values per atom, the same in every tile."""
        a = self._flat(a)
        return a if a.shape[-1] == 1 else jnp.concatenate([a] * self.tiles, axis=-1)

    def spaced(self, space):
        cell = space.cell.reshape(3, 3, *space.cell.shape[2:], *[1] * (2 + len(self.lanes) - space.cell.ndim))
        return eqx.tree_at(lambda s: s.cell, space, self.own(cell))

    def rows(self, a):
        """Values per atom (atoms, *lanes) as `block` takes them, in whole blocks.

        Rows behind the last atom repeat it: whatever is finite will do, for `behind` says that they hold no pair.
        """
        a = self._flat(a)
        extra = -self.n_slots % self.tiles
        return jnp.pad(a, ((0, extra), (0, 0)), mode="edge") if extra else a

    @property
    def behind(self):
        """True for rows behind the last atom (rows, 1)."""
        return jnp.arange(self.n_slots + -self.n_slots % self.tiles)[:, None] >= self.n_slots

    def block(self, rows, block):
        """Values (tiles * width,) or (1,) of the rows of a pass."""
        if self.tiles == 1:
            return rows[block]
        part = lax.dynamic_slice_in_dim(rows, block * self.tiles, self.tiles, 0)
        return jnp.broadcast_to(part, (self.tiles, self.width)).reshape(-1)

    def indices(self, block):
        """Which row each lane of a pass works on."""
        if self.tiles == 1:
            return block
        return jnp.repeat(block * self.tiles + jnp.arange(self.tiles), self.width)

    def table(self, a, block):
        """Parameters (atoms, tiles * width or 1) of the pairs of a pass, from (atoms, atoms, *lanes)."""
        a = self._flat(a)
        if self.tiles == 1:
            return a[block]
        extra = -self.n_slots % self.tiles
        a = jnp.pad(a, ((0, extra), (0, 0), (0, 0)), mode="edge") if extra else a
        part = jnp.moveaxis(lax.dynamic_slice_in_dim(a, block * self.tiles, self.tiles, 0), 0, 1)
        return jnp.broadcast_to(part, (part.shape[0], self.tiles, self.width)).reshape(part.shape[0], -1)

    def begun(self, init):
        """The carry before the first pass."""
        return jnp.concatenate([self._flat(jnp.broadcast_to(init, (self.n_slots, *self.lanes)))] * self.tiles, axis=-1)

    def collected(self, sums):
        """(atoms, *lanes) from the sums of the tiles."""
        return sums.reshape(self.n_slots, self.tiles, *self.lanes).sum(1) if self.tiles > 1 else sums.reshape(-1, *self.lanes)


def _sum_listed(pair: Callable, positions, init, per_row, space, neighbors):
    """`sum_rows` over the slots of a neighbour list; an empty slot holds the atom itself.

    All lanes stand in one axis, and a batch of one has none, so that every gather is one of numbers from a line of them.
    Blocks of atoms are done one after the other: their sums stay in the cache from slot to slot.
    """
    n_atoms, lanes = positions.shape[0], positions.shape[2:]
    width = math.prod(lanes)
    flat = lambda a: jnp.broadcast_to(a, (a.shape[0], *lanes)).reshape(-1)
    size = n_atoms * width if jax.default_backend() != "cpu" else width * min(n_atoms, max(1, BLOCK // width))
    lane = jnp.tile(jnp.arange(width, dtype=jnp.int32), size // width)
    index = neighbors.index.reshape(neighbors.index.shape[0], -1)
    xyz = [flat(positions[:, k]) for k in range(3)]
    blur, imaged = _blur(positions, space), neighbors.turns is not None
    if imaged:  # all images of all atoms, and each pair with the one it is meant for
        ghosts = neighbors.ghosts(positions, space)
        xyz = [flat(ghosts[:, k]) for k in range(3)]
    if blur is not None and blur.size > 1:
        blur = jnp.tile(blur.reshape(-1), size // width)
    if space is not None:
        cell = space.cell.reshape(3, 3, -1)
        cell = cell[..., 0] if cell.shape[-1] == 1 else jnp.tile(cell, size // width)
        space = eqx.tree_at(lambda s: s.cell, space, cell)
    inverse = None if space is None or space.orthogonal else space.inverse

    own_line = lambda line, start: lax.dynamic_slice_in_dim(line, start, size)

    def summed(start, init):
        own = lambda a: own_line(flat(a), start)
        slot = start + jnp.arange(size, dtype=jnp.int32)
        mine = [own_line(v, start) for v in xyz]

        def visit(k, carry):
            near = lax.dynamic_slice(index, (k, start), (1, size))[0]
            place = near if width == 1 else near * width + lane
            atom = place % (n_atoms * width) if imaged else place
            partner = lambda a: flat(a).at[atom].get(mode="promise_in_bounds")
            d = [v - w.at[place].get(mode="promise_in_bounds") for v, w in zip(mine, xyz, strict=True)]
            if space is not None and not imaged:
                d = space.minimum_image(*d, inverse)
            r2 = _squared(d, blur)
            r2 = jnp.where(place == slot, jnp.asarray(FAR, r2.dtype), r2)
            pairs = Pairs(own, partner)
            return pair(pairs, r2, d, _species_row(per_row, neighbors, pairs), carry)

        # Slots behind the last neighbour of any atom are there for growth only.
        return lax.fori_loop(0, neighbors.most, visit, init)

    sums = jax.tree.map(flat, init)
    if size == n_atoms * width:
        sums = summed(0, sums)
    else:

        def block(k, sums):
            # The last block overlaps the one before it: what both hold is the same.
            start = jnp.minimum(k * size, n_atoms * width - size)
            part = summed(start, jax.tree.map(lambda a: own_line(a, start), begun))
            return jax.tree.map(lambda a, v: lax.dynamic_update_slice_in_dim(a, v, start, 0), sums, part)

        begun = sums
        sums = lax.fori_loop(0, -(-n_atoms * width // size), block, sums)
    return jax.tree.map(lambda a: a.reshape(n_atoms, *lanes), sums)


def _blur(positions, space):
    """Squared distance (*lanes) below which two atoms coincide up to rounding; None without boundaries to cross."""
    if space is None:
        return None
    size = jnp.abs(positions).max((0, 1)) + jnp.abs(space.cell).max((0, 1))
    return (4 * jnp.finfo(positions.dtype).eps * size) ** 2


def _squared(d, blur):
    """Squared distances. An atom upon the image of another is at distance 0, where the rounding of its displacement would
    leave an enormous, but finite, energy."""
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    return r2 if blur is None else jnp.where(r2 < blur, 0, r2)


def _species_row(tables, neighbors, pairs):
    """Parameters of the listed pairs from tables (species, species)."""
    if tables is None:
        return None
    n = len(neighbors.species)
    if n == 1:
        return {k: v[0, 0] for k, v in tables.items()}
    mine, theirs = pairs.own(neighbors.kind), pairs.partner(neighbors.kind)
    if n == 2:  # arithmetic, where a gather from a table would cost as much as the pair itself
        both, either = mine * theirs, mine + theirs
        weight = lambda v: (v[0, 0], v[0, 1] - v[0, 0], v[1, 1] - 2 * v[0, 1] + v[0, 0])
        parts = {k: weight(v) for k, v in tables.items()}
        return {k: a + b * either.astype(a.dtype) + c * both.astype(a.dtype) for k, (a, b, c) in parts.items()}
    return {k: v[mine, theirs] for k, v in tables.items()}


def per_pair(coefficients: Callable, numbers, neighbors, dtype):
    """Parameters of pairs as `sum_rows` wants them, from `coefficients(numbers)`: per atoms, or per species with a list."""
    if neighbors is not None:
        numbers = jnp.asarray(neighbors.species)
    return {k: v.astype(dtype) for k, v in coefficients(numbers).items()}


def once(value, d):
    """The same value, which XLA then computes once and keeps, however many sums use it; not a number where `d` is not.

    XLA's CPU compiler computes everything anew for each array that a pass writes, divisions and the like excepted. This is a
    division, by one, which XLA does not know.
    """
    return value / (1 + 0 * d[0])


def push(forces, virial, g, d):
    """Add the central force g d of a pair to the forces on its first atom, and to the virial if one is wanted.

    `virial` holds xx, yy, zz, yz, xz, xy per atom (Voigt's order), or is empty. Both atoms of a pair add half.
    """
    if not virial:
        return tuple(f + g * c for f, c in zip(forces, d, strict=True)), virial
    g = once(g, d)
    pushed = tuple(f + g * c for f, c in zip(forces, d, strict=True))
    half = g / 2
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    return pushed, tuple(w + half * d[a] * d[b] for w, (a, b) in zip(virial, pairs, strict=True))
