"""The device driver: many relaxations side by side, each lane reloaded as soon as its structure is done.

A lock-step batch waits for its slowest member and wastes half the work. Here all lanes step together, and lanes that
finished are frozen until the caller loads the next structure into them: from a queue (`relax`), or from the search that
proposes it (`thalweg.search.fused`).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.potentials.neighbors import Neighbors, grown, neighbors_for, refreshed, worthwhile
from thalweg.relax.base import CONVERGED, FAILED, RUNNING, STEP_LIMIT, Relaxer, largest_norm
from thalweg.relax.filters import Filter, Positions
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.typing import Array, PyTree

#: Steps between two looks at which lanes are done. Small against a relaxation (some 100), large against the look's cost.
CHUNK = 4
#: Factor by which a moving cell may shrink before images are missing, which ends its relaxation as failed.
SHRINKING = 0.6


class Relaxation(eqx.Module):
    """What evaluating a proposal means: a local minimisation of `potential` by `relaxer`, of what `filter` lets move.

    Stops at max |F| < `fmax` (eV/Å, or the potential's reduced units; the filter's generalised forces) or after `max_steps`
    evaluations per structure.
    """

    potential: Potential
    relaxer: Relaxer
    fmax: float = 1e-5
    max_steps: int = 2000
    filter: Filter = Positions()

    def space(self, cell, pbc) -> Space | None:
        """The `Space` of cells (*batch, 3, 3), with room for cells that shrink where they may; None for free clusters."""
        if not self.filter.moves_cell:
            return self.potential.space(cell, pbc)
        space = self.potential.space(cell, pbc, SHRINKING)
        if space is None:
            return None
        box = space.orthogonal and self.filter.keeps_box
        if space.nearest and not box:
            raise InputError(
                "the minimum image convention needs a cell that stays rectangular while it moves; set hydrostatic_strain or "
                "mask the shears in the filter, or unset minimum_image"
            )
        return Space(space.cell, space.pbc, box, space.images, space.nearest)


class Lanes(eqx.Module):
    """Structures under relaxation, lanes last. `coordinates` are those `energy` and `forces` belong to once done.

    They are what the filter packs of positions and cell: the positions themselves unless the cell moves.
    """

    coordinates: Array  # (rows, 3, lanes)
    energy: Array  # (lanes,)
    forces: Array  # (rows, 3, lanes)
    status: Array  # (lanes,) RUNNING, CONVERGED, STEP_LIMIT or FAILED
    steps: Array  # (lanes,) evaluations spent on the structure in the lane
    state: PyTree  # of the relaxer
    origin: Array | None = None  # (3, 3, lanes) cell in which each began, where cells move
    neighbors: Neighbors | None = None  # of a single lane, where a list pays


def empty_lanes(relaxation: Relaxation, n_slots: int, n_lanes: int, dtype, space: Space | None = None) -> Lanes:
    """Lanes that hold nothing and count as done."""
    x = jnp.zeros((n_slots, 3, n_lanes), dtype)
    origin = None
    if space is not None and relaxation.filter.moves_cell:
        origin = jnp.broadcast_to(space.cell.reshape(3, 3, -1)[..., :1], (3, 3, n_lanes)).astype(dtype)
    x = relaxation.filter.pack(x, origin)
    return Lanes(
        coordinates=x,
        energy=jnp.zeros(n_lanes, dtype),
        forces=x,
        status=jnp.full(n_lanes, CONVERGED, jnp.int32),
        steps=jnp.zeros(n_lanes, jnp.int32),
        state=relaxation.relaxer.init(x),
        origin=origin,
    )


def load(lanes: Lanes, relaxation: Relaxation, mask, positions, cells: Any = None) -> Lanes:
    """Put new structures, positions (atoms, 3, lanes) and cells (3, 3, lanes), into the lanes of `mask` (lanes,)."""
    origin = None if lanes.origin is None else jnp.where(mask, cells, lanes.origin)
    x = jnp.where(mask, relaxation.filter.pack(positions, origin), lanes.coordinates)
    return Lanes(
        coordinates=x,
        energy=lanes.energy,
        forces=lanes.forces,
        status=jnp.where(mask, RUNNING, lanes.status),
        steps=jnp.where(mask, 0, lanes.steps),
        state=relaxation.relaxer.reset(lanes.state, x, mask),
        origin=origin,
        neighbors=lanes.neighbors,
    )


def unpacked(lanes: Lanes, relaxation: Relaxation, numbers):
    """Positions (atoms, 3, lanes) and cells (3, 3, lanes), None where they do not move, of what the lanes hold."""
    return relaxation.filter.unpack(lanes.coordinates, lanes.origin, numbers)


def advance(lanes: Lanes, relaxation: Relaxation, numbers, free, space: Space | None = None, n_steps: int = CHUNK) -> Lanes:
    """Take `n_steps` steps in every lane that runs; `numbers` is (atoms, lanes or 1).

    `free` (atoms, 1, 1 or lanes) is 0 for atoms that must not move. Each step evaluates once; a lane that meets
    `fmax`, uses up `max_steps` or has no finite energy stops moving there.
    """
    potential, relaxer, filter = relaxation.potential, relaxation.relaxer, relaxation.filter
    extra = lanes.coordinates.shape[0] - free.shape[0]
    free = jnp.concatenate([free, jnp.ones((extra, *free.shape[1:]), free.dtype)]) if extra else free

    def one(_, lanes: Lanes) -> Lanes:
        positions, cell = unpacked(lanes, relaxation, numbers)
        here = space if space is None or cell is None else eqx.tree_at(lambda s: s.cell, space, cell)
        neighbors = lanes.neighbors
        if neighbors is not None:
            neighbors = refreshed(neighbors, positions, here)
        out = potential.lanes(positions, numbers, here, neighbors, virial=filter.moves_cell)
        forces, energy = filter.pull(lanes.coordinates, lanes.origin, out, cell, numbers)
        forces = forces * free
        running = lanes.status == RUNNING
        steps = lanes.steps + running
        bound = relaxer.bound(numbers, here, out, neighbors)
        move, state = bound.step(lanes.coordinates, forces, energy, lanes.state)
        status = jnp.where(steps >= relaxation.max_steps, STEP_LIMIT, RUNNING)
        status = jnp.where((largest_norm(forces) < relaxation.fmax) & relaxer.settled(lanes.state), CONVERGED, status)
        status = jnp.where(out.ok, status, FAILED)
        status = jnp.where(running, status, lanes.status).astype(jnp.int32)
        going = status == RUNNING
        return Lanes(
            coordinates=jnp.where(going, lanes.coordinates + move, lanes.coordinates),
            energy=energy,  # a lane that is done stays where it is, so this is the same energy again
            forces=forces,
            status=status,
            steps=steps,
            state=state,
            origin=lanes.origin,
            neighbors=neighbors,
        )

    return lax.fori_loop(0, n_steps, one, lanes)


class Relaxed(eqx.Module):
    """Outcome of `relax`: structures, energies (batch,), largest force, evaluations and status per structure."""

    structures: Structure
    energy: np.ndarray
    fmax: np.ndarray
    steps: np.ndarray
    status: np.ndarray

    @property
    def converged(self) -> np.ndarray:
        """True where the largest force fell below `fmax`."""
        return self.status == CONVERGED


class _Queue(eqx.Module):
    """Structures that wait for a lane, lanes last: (..., structures), or (..., 1) for what all have in common."""

    positions: Array
    numbers: Array
    free: Array
    space: Space | None
    neighbors: Neighbors | None
    count: Array | np.ndarray


@eqx.filter_jit
def _relax_queue(relaxation: Relaxation, queue: _Queue, n_lanes: int):
    """Relax the first `count` structures of the queue in `n_lanes` lanes, reloaded inside the loop.

    Returns what became of them and the neighbour list, whose `overflow` says that the results mean nothing.
    """
    n_slots, _, n = queue.positions.shape
    space = queue.space
    lanes = empty_lanes(relaxation, n_slots, n_lanes, queue.positions.dtype, space)
    lanes = eqx.tree_at(lambda k: k.neighbors, lanes, queue.neighbors, is_leaf=lambda k: k is None)
    held = jnp.full(n_lanes, n)  # which structure of the queue each lane holds; n: none
    zero, none = jnp.zeros(n, queue.positions.dtype), jnp.zeros(n, jnp.int32)
    cells = None if space is None else jnp.broadcast_to(space.cell, (3, 3, n)).astype(queue.positions.dtype)
    out = (queue.positions, cells, zero, zero, none, none)
    of = lambda a, index: a if a.shape[-1] == 1 else a[..., index]

    def refill(carry):
        lanes, held, following, out = carry
        done = lanes.status != RUNNING
        where = jnp.where(done, held, n)  # n is out of range and dropped
        positions, cell = unpacked(lanes, relaxation, of(queue.numbers, jnp.minimum(held, n - 1)))
        old = out[1] if cell is None else out[1].at[..., where].set(cell, mode="drop")
        results = (positions, lanes.energy, largest_norm(lanes.forces), lanes.steps, lanes.status)
        written = jax.tree.map(lambda a, v: a.at[..., where].set(v, mode="drop"), (out[0], *out[2:]), results)
        out = (written[0], old, *written[1:])
        following_of_lane = following + jnp.cumsum(done) - 1
        held = jnp.where(done, jnp.where(following_of_lane < queue.count, following_of_lane, n), held)
        fresh = done & (held < n)
        index = jnp.minimum(held, n - 1)
        lanes = load(lanes, relaxation, fresh, queue.positions[..., index], None if cells is None else cells[..., index])
        return lanes, held, jnp.minimum(following + done.sum(), queue.count), out

    def body(carry):
        lanes, held, following, out = carry
        index = jnp.minimum(held, n - 1)
        here = space if space is None else eqx.tree_at(lambda s: s.cell, space, of(space.cell, index))
        lanes = advance(lanes, relaxation, of(queue.numbers, index), of(queue.free, index), here)
        done = (lanes.status != RUNNING) & (held < n)
        return lax.cond(done.any(), refill, lambda c: c, (lanes, held, following, out))

    def more(carry):
        lanes, held = carry[:2]
        going = (held < n).any()
        return going if lanes.neighbors is None else going & ~lanes.neighbors.overflow

    carry = refill((lanes, held, jnp.zeros_like(queue.count), out))
    carry = lax.while_loop(more, body, carry)
    return carry[3], carry[0].neighbors


def relax(structures: Structure, relaxation: Relaxation, n_lanes: int = 32) -> Relaxed:
    """Relax a structure or a one-axis batch in float64 until max |F| < `relaxation.fmax`.

    Never raises for a structure that fails: its `status` says so (`thalweg.relax.base.STATUS_NAMES`) and its energy is
    as the potential gave it. Batches are padded to powers of two, so that few sizes are ever compiled; large structures
    are relaxed one after the other with neighbour lists. Raises `InputError` or `StructureError` for cells that the
    potential cannot treat.
    """
    if len(structures.batch) > 1:
        raise StructureError(f"relax takes one structure or one batch axis, not batch shape {structures.batch}")
    if not structures.batch:
        batch = relax(jax.tree.map(lambda a: np.asarray(a)[None], structures), relaxation, 1)
        return Relaxed(batch.structures[0], *(getattr(batch, k)[0] for k in ("energy", "fmax", "steps", "status")))
    if relaxation.filter.moves_cell and not any(structures.pbc):
        raise InputError(f"{type(relaxation.filter).__name__} moves the cell, but the structure has none; drop the filter")
    count = len(structures)
    relaxation.relaxer.check(structures.numbers, structures.pbc)
    space = relaxation.space(structures.cell, structures.pbc)
    if worthwhile(structures.n_slots, space, relaxation.potential.reach):
        each = [_relaxed(structures[k : k + 1], relaxation, 1, 1, listed=True) for k in range(count)]
        arrays = [np.concatenate(parts) for parts in zip(*each, strict=True)]
    else:
        queue = 1 if count == 1 else max(n_lanes, 1 << (count - 1).bit_length())
        arrays = _relaxed(structures, relaxation, queue, min(n_lanes, queue))
    x, cells, energy, largest, steps, status = arrays
    done = Structure(x, structures.numbers, cells, structures.fixed, structures.pbc)
    return Relaxed(done, energy, largest, steps, status)


def _relaxed(structures: Structure, relaxation: Relaxation, queue: int, n_lanes: int, listed: bool = False) -> list:
    """What `_relax_queue` makes of a batch: arrays with the batch in front."""
    count = len(structures)
    last = lambda a: np.moveaxis(np.asarray(a), 0, -1)
    fill = lambda a: np.concatenate([a, np.repeat(a[..., :1], queue - count, -1)], -1)
    # What all have in common is held once: parameters of pairs are then made once and not per lane.
    common = lambda a: a[..., :1] if (a == a[..., :1]).all() else fill(a)
    space = relaxation.space(structures.cell, structures.pbc)
    if space is not None:
        cells = fill(space.cell) if relaxation.filter.moves_cell else common(space.cell)
        space = eqx.tree_at(lambda s: s.cell, space, cells)
    with jax.enable_x64(True):
        relaxation, space = as_leaves((relaxation, space), np.float64)
        positions = jnp.asarray(fill(last(structures.positions)), jnp.float64)
        numbers = jnp.asarray(common(last(structures.numbers)))
        neighbors = neighbors_for(relaxation.potential, positions, numbers, space) if listed else None
        free = jnp.asarray(~common(last(structures.fixed))[:, None], jnp.float64)
        while True:
            waiting = _Queue(positions, numbers, free, space, neighbors, np.asarray(count))
            (x, cells, *rest), neighbors = _relax_queue(relaxation, waiting, n_lanes)
            if neighbors is None or not neighbors.overflow:
                break
            neighbors = grown(neighbors)
        arrays: list[Any] = [None if a is None else np.moveaxis(np.asarray(a), -1, 0)[:count] for a in (x, cells, *rest)]
    if cells is None or not relaxation.filter.moves_cell:
        arrays[1] = np.asarray(structures.cell)
    else:  # axes without periodicity keep having no vector
        arrays[1] = np.where(np.asarray(structures.cell).any(-1, keepdims=True), arrays[1], 0)
    return arrays
