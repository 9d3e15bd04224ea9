"""The device loop: a search's `ask` and `tell` fused with the relaxation driver, for as long as the host lets it run."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.relax.base import RUNNING
from thalweg.relax.driver import Lanes, Relaxation, advance, empty_lanes, load, unpacked
from thalweg.search.base import Outcome, Search, State, structures_of
from thalweg.space import Space
from thalweg.system import System
from thalweg.typing import Array


class Finished(eqx.Module):
    """Relaxations that finished during one visit to the device, in order; rows with `valid` False are empty."""

    positions: Array  # (blocks, rows, atoms, 3)
    energy: Array  # (blocks, rows), likewise below
    steps: Array
    status: Array
    origin: Array
    walker: Array
    run: Array
    valid: Array
    cells: Array | None = None  # (blocks, rows, 3, 3) where the search moves the cell


class DeviceState(eqx.Module):
    """Everything that a fused search needs to go on, exactly: this is what a checkpoint holds."""

    lanes: Lanes
    search: State
    origin: jax.Array  # (lanes,) generator of the structure in each lane
    asked: jax.Array  # (lanes,) False before a lane's first proposal


class Limits(eqx.Module):
    """When the device hands back to the host: a full log, spent evaluations, the target reached, or `looks` taken."""

    evaluations: Array | np.integer | int
    target: Array | float
    looks: Array | np.integer | int


class Constant(eqx.Module):
    """What a search is made of and does not change: the key of its random numbers, and the objects of the run."""

    key: Array
    search: Search
    relaxation: Relaxation
    system: System
    space: Space | None  # of the system's cell


def begin(constant: Constant, n_lanes: int, dtype) -> DeviceState:
    """The state before the first step."""
    search, system = constant.search, constant.system
    lanes = empty_lanes(constant.relaxation, len(system.numbers), n_lanes, dtype, constant.space)
    return DeviceState(lanes, search.init(system, n_lanes, dtype), jnp.zeros(n_lanes, jnp.int32), jnp.zeros(n_lanes, bool))


def group_size(n_lanes: int) -> int:
    """How many finished lanes are told and asked together."""
    return max(1, n_lanes // 8)


def _fair_ranks(done, energies):
    """Ranks (lanes,) of those that are done, counted from a lane that changes from turn to turn.

    Where all finish at once, as relaxations of a fixed length do, those that are left over would else always be the last
    ones, which would never come to their turn. Which lane is first is a hash of the state, so that resuming is exact.
    """
    lane, total = jnp.arange(len(done)), done.sum()
    bits = lax.bitcast_convert_type(energies.astype(jnp.float32), jnp.uint32)
    first = (bits.sum(dtype=jnp.uint32) % len(done)).astype(lane.dtype)
    before = (done & (lane < first)).sum()
    return jnp.cumsum(done) - 1 - before + jnp.where(lane < first, total, 0)


@eqx.filter_jit
def visit(constant: Constant, state: DeviceState, limits: Limits, n_blocks: int):
    """Run on the device until a limit is met. Returns the new state, what finished, and the number of blocks filled.

    How long a visit lasts does not change the course of the search: the state alone determines what comes next, which is
    what makes resuming exact.
    """
    key, search, relaxation, system, space = (getattr(constant, k) for k in ("key", "search", "relaxation", "system", "space"))
    n_slots, n_lanes = len(system.numbers), state.lanes.energy.shape[0]
    rows = group_size(n_lanes)
    dtype = state.lanes.coordinates.dtype
    numbers = jnp.asarray(system.numbers)[:, None]
    free = (~jnp.asarray(system.fixed)).astype(dtype)[:, None, None]

    empty = lambda shape, kind: jnp.zeros((n_blocks, rows, *shape), kind)
    whole = empty((), jnp.int32)
    log = Finished(empty((n_slots, 3), dtype), empty((), dtype), whole, whole, whole, whole, whole, empty((), bool))
    if state.lanes.origin is not None:
        log = eqx.tree_at(lambda k: k.cells, log, empty((3, 3), dtype), is_leaf=lambda k: k is None)

    def relaxing(carry):
        lanes, _ = carry
        lanes = advance(lanes, relaxation, numbers, free, space)
        return lanes, (lanes.status != RUNNING).sum()

    def turn(carry):
        state, log, block, spent, lowest, looks = carry
        ready = (state.lanes.status != RUNNING).sum()
        lanes, _ = lax.while_loop(lambda c: c[1] < rows, relaxing, (state.lanes, ready))
        done = lanes.status != RUNNING
        rank = _fair_ranks(done, lanes.energy)
        selected = done & (rank < rows)
        # index[r]: the lane in row r; row[l]: the row of lane l (only meaningful where selected).
        index = ((rank == jnp.arange(rows)[:, None]) & done).argmax(1)
        row = jnp.clip(rank, 0, rows - 1)
        take = lambda tree: jax.tree.map(lambda a: a[index], tree)
        put = lambda old, new: jax.tree.map(
            lambda o, n: jnp.where(selected.reshape(-1, *[1] * (o.ndim - 1)), n[row], o), old, new
        )
        positions, cells = jax.tree.map(lambda a: a[..., index], unpacked(lanes, relaxation, numbers))
        if space is not None:
            wrapped = (space if cells is None else eqx.tree_at(lambda s: s.cell, space, cells)).wrap(positions)
            positions = jnp.where(free > 0, wrapped, positions)  # fixed atoms stay where they are, to the last digit
        positions, cells = jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), (positions, cells))
        walkers = take(state.search.walkers)
        sub = State(walkers, state.search.shared)
        outcome = Outcome(
            structures_of(system, positions, cells),
            lanes.energy[index],
            lanes.steps[index],
            lanes.status[index],
            state.origin[index],
            state.asked[index],
        )
        entry = Finished(
            positions, outcome.energy, outcome.steps, outcome.status, outcome.origin, walkers.index, walkers.run, outcome.valid,
            cells,
        )  # fmt: skip
        log = jax.tree.map(lambda a, b: lax.dynamic_update_index_in_dim(a, b.astype(a.dtype), block, 0), log, entry)
        sub = search.tell(key, sub, outcome, system)
        proposals = search.ask(key, sub, system)
        spread = lambda a: jnp.moveaxis(a, 0, -1).astype(dtype)[..., row]
        moved = proposals.structures
        lanes = load(lanes, relaxation, selected, spread(moved.positions), None if cells is None else spread(moved.cell))
        new = DeviceState(
            lanes,
            State(put(state.search.walkers, sub.walkers), sub.shared),
            jnp.where(selected, proposals.origin[row], state.origin),
            state.asked | selected,
        )
        usable = outcome.good
        lowest = jnp.minimum(lowest, jnp.where(usable, outcome.energy, jnp.inf).min())
        spent = spent + jnp.where(outcome.valid, outcome.steps, 0).sum()
        return new, log, block + 1, spent, lowest, looks + 1

    def more(carry):
        _, _, block, spent, lowest, looks = carry
        return (block < n_blocks) & (spent < limits.evaluations) & (lowest > limits.target) & (looks < limits.looks)

    carry = (state, log, jnp.asarray(0), jnp.asarray(0), jnp.asarray(jnp.inf, dtype), jnp.asarray(0))
    state, log, block, *_ = lax.while_loop(more, turn, carry)
    return state, log, block
