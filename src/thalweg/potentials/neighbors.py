"""`Neighbors`: which atoms are near each other, kept in a table that is rebuilt inside jit when atoms have moved.

A table holds every pair nearer than the potential's reach plus a skin, so it stays right until two atoms together have
moved by the skin. Its size is a shape of the program, chosen on the host with some margin; where an atom has more
neighbours than slots the table says so (`overflow`), everything computed since is wrong, and `grown` makes a larger one:

    neighbors = neighbors_for(potential, positions, numbers, space)     # on the host
    neighbors = refreshed(neighbors, positions, space)                  # in the loop, before every evaluation
    evaluation = potential.lanes(positions, numbers, space, neighbors)
    if neighbors.overflow: neighbors = grown(neighbors)                 # on the host, and repeat from the last good state
"""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.potentials.bins import WIDTH, Bins, all_pairs, binned, bins_for, extracted, most_in_column
from thalweg.space import MOST_IMAGES, Space, cell_heights
from thalweg.typing import Array

#: Skin as a fraction of the reach: rebuilding less often against more pairs to look at.
SKIN = 0.15
#: Room for more neighbours than there were when the table was made.
MARGIN = 1.25
#: Atoms above which bins find neighbours faster than looking at all pairs.
BINNED = 600
#: Pairs per atom, images counted, below which no list is faster than all of them.
CROSSOVER = 100


class Neighbors(eqx.Module):
    """Table of near pairs. A pair stands in the columns of both of its atoms."""

    #: (slots, atoms, *lanes) int32; an empty slot holds the atom itself. With `images`, the neighbour is atom
    #: index % atoms in the image index // atoms of the cell, the first of which is the cell itself.
    index: Array
    kind: Array  # (atoms, *lanes) int32: index of each atom's species in `species`
    real: Array  # (atoms, *lanes) bool: False for padding, which has no neighbours
    reference: Array  # (atoms, 3, *lanes): positions when the table was built
    space: Space | None  # cell when the table was built
    reach: Array
    skin: Array
    most: Array  # (): the most neighbours of an atom; slots behind are empty
    #: () bool: atoms had more neighbours than slots, or the cell shrank too far. Stays True until `grown`.
    overflow: Array
    needed: Array  # (): slots that were needed since the sizes were chosen
    crowd: Array  # (): the most candidates of an atom in one column of bins
    #: (atoms, 3, *lanes): cell vectors by which atoms lay outside of the cell when the table was built; None without images.
    turns: Array | None
    species: tuple[int, ...] = eqx.field(static=True)
    bins: Bins | None = eqx.field(static=True)  # None: all pairs are searched
    #: Images of the cell to either side that hold neighbours, in narrow cells; otherwise the nearest image is the only one.
    images: tuple[int, int, int] = eqx.field(static=True)

    def ghosts(self, positions, space: Space):
        """Positions (images * atoms, 3, *lanes) of all atoms in all images, those in the cell first."""
        cell = space.cell.reshape(*space.cell.shape, *[1] * (positions.ndim - space.cell.ndim))
        by = lambda turns: turns[:, 0, None] * cell[0] + turns[:, 1, None] * cell[1] + turns[:, 2, None] * cell[2]
        shifts = replace(space, images=self.images).shifts(positions.dtype)
        shifts = shifts.reshape(*shifts.shape, *[1] * (positions.ndim - 2))
        return (by(shifts)[:, None] + (positions - by(self.turns))).reshape(-1, *positions.shape[1:])

    @property
    def slots(self) -> int:
        """Neighbours an atom may have."""
        return self.index.shape[0]


def worthwhile(n_atoms: int, space: Space | None, reach: float | None, skin: float | None = None, narrow: bool = False) -> bool:
    """Whether a list pays for structures of this size; on the host (`python benchmarks/scaling.py --crossover`).

    False without a cutoff. In cells narrower than two reaches and skins, where an atom has several images of another one
    as neighbours, lists pay from a few atoms on, but need sizes that suit all lanes: such cells count if `narrow`.
    """
    if reach is None:
        return False
    far = reach + (SKIN * reach if skin is None else skin)
    images = 1
    if not fits(space, far):
        if not narrow:
            return False
        images = int(np.prod([2 * m + 1 for m in _images(space, far)]))
    if space is None or not all(space.pbc):
        return n_atoms * images > 4 * CROSSOVER
    cells = np.moveaxis(np.asarray(space.cell, np.float64).reshape(3, 3, -1), -1, 0)
    near = 4 / 3 * np.pi * far**3 * n_atoms / np.abs(np.linalg.det(cells)).min()
    return bool(n_atoms * images > max(CROSSOVER, 2.5 * near))


def fits(space: Space | None, far: float) -> bool:
    """Whether one image of each pair at most is nearer than `far` (reach and skin), or counts; on the host."""
    if space is None or space.nearest:
        return True
    cells = np.moveaxis(np.asarray(space.cell, np.float64).reshape(3, 3, -1), -1, 0)
    return bool((cell_heights(cells)[:, list(space.pbc)] >= 2 * far).all())


def neighbors_for(potential, positions, numbers, space: Space | None = None, skin=None, slots: int | None = None) -> Neighbors:
    """A list for structures `positions` (atoms, 3, *lanes) of one potential, built; on the host.

    Measures how many neighbours atoms have and leaves room for more. `skin` is a distance (by default a fraction of the
    reach). Raises `InputError` where no list can serve.
    """
    reach = potential.reach
    if reach is None:
        raise InputError(f"{type(potential).__name__} has no cutoff, and a neighbour list needs one; set potential.cutoff")
    skin = SKIN * reach if skin is None else float(skin)
    positions = jnp.asarray(positions)
    shape = (positions.shape[0], *positions.shape[2:])
    numbers = np.broadcast_to(np.asarray(numbers), shape)
    species = tuple(int(z) for z in np.unique(numbers) if z >= 0)
    leaf = lambda v, dtype: jnp.asarray(v, dtype)
    empty = Neighbors(
        index=jnp.zeros((0, *shape), jnp.int32),
        kind=leaf(np.maximum(np.searchsorted(species, numbers), 0), jnp.int32),
        real=leaf(numbers >= 0, bool),
        reference=positions,
        space=None if space is None else eqx.tree_at(lambda s: s.cell, space, leaf(space.cell, positions.dtype)),
        reach=leaf(reach, positions.dtype),
        skin=leaf(skin, positions.dtype),
        most=leaf(0, jnp.int32),
        overflow=leaf(True, bool),
        needed=leaf(0 if slots is None else slots / MARGIN, jnp.int32),
        crowd=leaf(0, jnp.int32),
        turns=None,
        species=species,
        bins=None,
        images=(0, 0, 0),
    )
    return grown(empty)


def grown(neighbors: Neighbors) -> Neighbors:
    """A list with room for what was needed, built at the positions of the last attempt; on the host.

    Whoever saw the overflow goes back to a state from before it.
    """
    far = float(neighbors.reach + neighbors.skin)
    images, turns = _images(neighbors.space, far), None
    if max(images) > 0:
        turns = jnp.zeros_like(neighbors.reference)
    positions, real = np.asarray(neighbors.reference, np.float64), np.asarray(neighbors.real)
    n_atoms, n_lanes = positions.shape[0], int(np.prod(positions.shape[2:]))
    bins = None
    if n_atoms > BINNED and turns is None:
        bins = _bins(positions.reshape(n_atoms, 3, n_lanes), real.reshape(n_atoms, n_lanes), neighbors.space, far)
    needed = max(int(neighbors.needed), 1, _guessed(positions.reshape(n_atoms, 3, n_lanes), real, neighbors.space, far))
    while True:
        slots = -(-int(needed * MARGIN + 2) // 4) * 4
        slots = slots if turns is not None else min(slots, max(n_atoms - 1, 1))
        none = jnp.zeros((), jnp.int32)
        index = jnp.zeros((slots, *neighbors.index.shape[1:]), jnp.int32)
        sized = replace(neighbors, index=index, overflow=jnp.zeros((), bool), needed=none, crowd=none)
        sized = replace(sized, bins=bins, images=images, turns=turns)
        built = _built(sized, neighbors.reference, neighbors.space)
        if not built.overflow:
            return built
        needed = max(int(built.needed), needed + 1)
        if bins is not None:
            bins = bins._replace(depth=max(bins.depth, -(-int(built.crowd * MARGIN) // WIDTH)))


def refreshed(neighbors: Neighbors, positions, space: Space | None = None, numbers=None) -> Neighbors:
    """The list, rebuilt if atoms have moved so far that it may miss a pair; inside jit, before every evaluation.

    `numbers` need only be given where species or the number of atoms change along the way.
    """
    if numbers is not None:
        numbers = jnp.broadcast_to(numbers, neighbors.kind.shape)
        kind = sum(((numbers == z) * k for k, z in enumerate(neighbors.species)), jnp.zeros_like(neighbors.kind))
        changed = ((numbers >= 0) != neighbors.real).any()
        neighbors = replace(neighbors, kind=kind, real=numbers >= 0)
        stale = changed | _stale(neighbors, positions, space)
    else:
        stale = _stale(neighbors, positions, space)
    return lax.cond(stale, lambda n: rebuilt(n, positions, space), lambda n: n, neighbors)


def _stale(neighbors: Neighbors, positions, space):
    """Whether two atoms together may have come nearer by the skin since the list was built."""
    reach, skin = neighbors.reach, neighbors.skin
    moved = positions - neighbors.reference
    if space is None or neighbors.space is None:
        square = (moved * moved).sum(1)
        return (jnp.where(neighbors.real, square, 0) > (0.499 * skin) ** 2).any()
    # Strain moves the atoms along with the cell: what is left of the list's radius is shorter by the worst compression.
    x = neighbors.reference
    strain = _change(neighbors.space, space)
    dragged = [sum(x[:, a] * strain[a, b] for a in range(3)) for b in range(3)]
    d = [moved[:, b] - dragged[b] for b in range(3)]
    if neighbors.turns is None:  # else the table says which image, and an atom that crosses the cell changes that
        d = space.minimum_image(*d)
    square = jnp.where(neighbors.real, d[0] * d[0] + d[1] * d[1] + d[2] * d[2], 0)
    compression = jnp.sqrt((strain * strain).sum((0, 1)))
    left = (reach + skin) * (1 - compression) - reach
    return ((left < 0) | (4 * square.max(0) > (0.998 * left) ** 2)).any()


def _change(before: Space, after: Space):
    """Deformation (3, 3, *lanes) less the identity that took one cell to another; rows as positions are."""
    difference = after.cell - before.cell
    inverse = before.inverse
    return (inverse[:, :, None] * difference[None]).sum(1)


def rebuilt(neighbors: Neighbors, positions, space: Space | None = None) -> Neighbors:
    """The list built anew; inside jit, sizes as they are."""
    far = neighbors.reach + neighbors.skin
    shape = positions.shape
    if neighbors.turns is not None and space is not None:
        neighbors = replace(neighbors, turns=_turns(positions, space))
    if neighbors.bins is None:
        index, count, crowd, covered = _searched(neighbors, positions, space, far)
    elif len(shape) == 2:
        index, count, crowd, covered = binned(positions, neighbors.real, space, far, neighbors.bins, neighbors.slots)
    else:
        index, count, crowd, covered = _each(neighbors, positions, space, far)
    if space is not None and not space.nearest:
        # Images to either side within reach; without, half a cell must be.
        within = [max(m, 0.5) * space.heights[k] >= far * (1 - 1e-6) for k, m in enumerate(neighbors.images) if space.pbc[k]]
        covered = covered & jnp.stack(within).all()
    most = count.max()
    full = (most > neighbors.slots) | ~covered
    if neighbors.bins is not None:
        full = full | (crowd > WIDTH * neighbors.bins.depth)
    return replace(
        neighbors,
        index=index,
        reference=positions,
        space=None if space is None else eqx.tree_at(lambda s: s.cell, neighbors.space, space.cell),
        most=jnp.minimum(most, neighbors.slots),
        overflow=neighbors.overflow | full,
        needed=jnp.maximum(neighbors.needed, most),
        crowd=jnp.maximum(neighbors.crowd, crowd),
    )


_built = eqx.filter_jit(rebuilt)


def _turns(positions, space: Space):
    """Cell vectors (atoms, 3, *lanes) by which atoms lie outside of the cell, as floating point numbers."""
    inverse = space.inverse
    x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
    fractions = [x * inverse[0, k] + y * inverse[1, k] + z * inverse[2, k] for k in range(3)]
    turns = [jnp.floor(u) if periodic else jnp.zeros_like(u) for u, periodic in zip(fractions, space.pbc, strict=True)]
    return jnp.stack(turns, axis=1)


def _images(space: Space | None, far: float) -> tuple[int, int, int]:
    """Images of a narrow cell to either side in which atoms in the cell have neighbours; (0, 0, 0) where one will do."""
    if space is None or fits(space, far):
        return (0, 0, 0)
    heights = cell_heights(np.moveaxis(np.asarray(space.cell, np.float64).reshape(3, 3, -1), -1, 0)).min(0)
    images = tuple(int(np.ceil(far / h * (1 - 1e-6))) if p else 0 for h, p in zip(heights, space.pbc, strict=True))
    if max(images) > MOST_IMAGES:
        raise InputError(
            f"the cell is too narrow for a neighbour list: its smallest height is {heights.min():.3g}, cutoff and skin "
            f"{far:.3g}; repeat the cell or leave the list out"
        )
    return images  # type: ignore[return-value]


def _searched(neighbors, positions, space, far):
    """All pairs searched, with lanes."""
    ghosts = None if neighbors.turns is None or space is None else neighbors.ghosts(positions, space)
    mine = positions if ghosts is None else ghosts[: positions.shape[0]]
    words = all_pairs(mine, neighbors.real, space, far, ghosts)
    owner = jnp.arange(positions.shape[0], dtype=jnp.int32).reshape(-1, *[1] * (positions.ndim - 2))
    index, count = extracted(words, owner, neighbors.slots, lambda w, bit: w * WIDTH + bit)
    return index, count, jnp.zeros((), jnp.int32), jnp.ones((), bool)


def _each(neighbors, positions, space, far):
    """Bins searched, one lane after the other: each has its own."""
    shape = positions.shape[2:]
    first = lambda a, n: jnp.moveaxis(a.reshape(*a.shape[:n], -1), -1, 0)
    x, real = first(positions, 2), first(neighbors.real, 1)
    cell = None if space is None else jnp.broadcast_to(first(space.cell, 2), (x.shape[0], 3, 3))

    def one(x, real, cell):
        at = None if space is None else eqx.tree_at(lambda s: s.cell, space, cell)
        return binned(x, real, at, far, neighbors.bins, neighbors.slots)

    if x.shape[0] == 1:
        index, count, crowd, covered = one(x[0], real[0], None if cell is None else cell[0])
        return index.reshape(*index.shape, *shape), count, crowd, covered
    index, count, crowd, covered = lax.map(lambda a: one(*a), (x, real, cell))
    return jnp.moveaxis(index, 0, -1).reshape(*index.shape[1:], *shape), count, crowd.max(), covered.all()


def _lane_cells(space: Space | None, n_lanes: int):
    """Cells (lanes, 3, 3) on the host, or None."""
    if space is None:
        return [None] * n_lanes
    cells = np.moveaxis(np.asarray(space.cell, np.float64).reshape(3, 3, -1), -1, 0)
    return np.broadcast_to(cells, (n_lanes, 3, 3))


def _guessed(positions, real, space, far: float) -> int:
    """The most neighbours among some atoms (atoms, 3, lanes), by brute force on the host."""
    n_atoms, _, n_lanes = positions.shape
    real = real.reshape(n_atoms, n_lanes)
    pbc = (False,) * 3 if space is None else space.pbc
    images = _images(space, far)
    grid = np.meshgrid(*[np.arange(-m, m + 1) for m in images], indexing="ij")
    shifts = np.stack(grid, -1).reshape(-1, 1, 3)
    most, lanes = 0, np.unique(np.linspace(0, n_lanes - 1, 8).astype(int))
    for lane in lanes:
        x = positions[real[:, lane], :, lane]
        cell = _lane_cells(space, n_lanes)[lane]
        few = max(16, int(2e6 / len(lanes) / max(len(x), 1)))
        for i in np.unique(np.linspace(0, len(x) - 1, min(few, len(x))).astype(int)):
            d = x - x[i]
            if cell is not None and max(images) > 0:
                d = ((d - np.floor(d @ np.linalg.inv(cell)) * pbc @ cell) + shifts @ cell).reshape(-1, 3)
            elif cell is not None:
                turns = np.round(d @ np.linalg.inv(cell)) * pbc
                d = d - turns @ cell
            most = max(most, int(((d * d).sum(1) < far * far).sum()) - 1)
    return most


def _bins(positions, real, space, far: float) -> Bins:
    """Bins that suit structures (atoms, 3, lanes)."""
    pbc = (False,) * 3 if space is None else space.pbc
    n_lanes = positions.shape[2]
    us, cells = [], _lane_cells(space, n_lanes)
    extents = np.full(3, np.inf)
    for lane in range(n_lanes):
        x, cell = positions[real[:, lane], :, lane], cells[lane]
        u = x if cell is None else x @ np.linalg.inv(cell)
        heights = np.ones(3) if cell is None else cell_heights(cell)
        spread = np.ptp(u, axis=0) if len(u) else np.zeros(3)
        extents = np.minimum(extents, np.where(pbc, heights, spread * heights))
        us.append((u, np.where(pbc, 1.0, np.maximum(spread, 1e-12))))
    bins = bins_for(extents, pbc, far, positions.shape[0])
    crowd = max(most_in_column(u, width, pbc, bins) for u, width in us)
    return bins._replace(depth=max(1, -(-int(crowd * MARGIN + 2) // WIDTH)))
