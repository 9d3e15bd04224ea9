"""The device loop of searches by dynamics: segments of Langevin dynamics between `tell`s, minima looked at now and then."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from thalweg.prng import normals
from thalweg.relax.annealing import langevin
from thalweg.relax.base import FAILED, RUNNING
from thalweg.relax.driver import Lanes, advance, empty_lanes, load
from thalweg.search.base import Outcome, State, structures_of
from thalweg.search.fused import Constant, Finished, Limits
from thalweg.search.parallel_tempering import ParallelTempering
from thalweg.typing import Array

#: No atom moves further than this in one step, in bonds: a start with overlaps does not explode.
MAX_STEP = 0.1


class DynamicState(eqx.Module):
    """Everything that such a search needs to go on, exactly."""

    lanes: Lanes  # of the copies that are relaxed
    search: State
    origin: Any  # (walkers,) generator that each replica began with
    words: Array  # (2, walkers) of the random numbers
    clock: Array  # steps of dynamics so far


def begin(constant: Constant, n_lanes: int, dtype) -> DynamicState:
    """The state before the first step."""
    n_slots = len(constant.system.numbers)
    lanes = empty_lanes(constant.relaxation, n_slots, n_lanes, dtype, constant.space)
    words = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(constant.key, i), (2,)))(jnp.arange(n_lanes)).T
    search = constant.search.init(constant.system, n_lanes, dtype)
    return DynamicState(lanes, search, jnp.zeros(n_lanes, jnp.int32), words, jnp.asarray(0, jnp.int32))


@eqx.filter_jit
def visit(constant: Constant, state: DynamicState, limits: Limits, n_blocks: int):
    """Run on the device until a limit is met; the contract of `thalweg.search.fused.visit`."""
    search, relaxation, system, space = (getattr(constant, k) for k in ("search", "relaxation", "system", "space"))
    assert isinstance(search, ParallelTempering)
    n_slots, n_lanes = len(system.numbers), state.lanes.energy.shape[0]
    rows = n_lanes // math.gcd(n_lanes, 8)
    dtype = state.lanes.coordinates.dtype
    numbers = jnp.asarray(system.numbers)[:, None]
    free = (~jnp.asarray(system.fixed)).astype(dtype)[:, None, None]
    bond = system.bond.astype(dtype)
    dt = search.dt * bond / jnp.sqrt(search.energy_scale)
    friction = search.friction * jnp.sqrt(search.energy_scale) / bond

    empty = lambda shape, kind: jnp.zeros((n_blocks, rows, *shape), kind)
    whole = empty((), jnp.int32)
    log = Finished(empty((n_slots, 3), dtype), empty((), dtype), whole, whole, whole, whole, whole, empty((), bool))
    potential = relaxation.potential

    def segment(x, v, kt, state):
        def one(k, carry):
            x, v = carry
            force = potential.lanes(x, numbers, space).forces * free
            noise = normals(state.words, state.clock + k, x.shape, dtype)
            move, v = langevin(v, force, kt, noise, dt, friction, MAX_STEP * bond)
            return x + move, v

        return lax.fori_loop(0, search.segment, one, (x, v))

    def turn(state: DynamicState) -> DynamicState:
        w, origin = state.search.walkers, state.origin
        to_last = lambda a: jnp.moveaxis(a, 0, -1).astype(dtype)
        x, v = segment(to_last(w.positions), to_last(w.velocities), search.temperatures(w.rung, dtype), state)
        x = x if space is None else space.wrap(x)
        energy = potential.lanes(x, numbers, space).energy
        steps = jnp.full(n_lanes, search.segment, jnp.int32)
        positions, velocities = jnp.moveaxis(x, -1, 0), jnp.moveaxis(v, -1, 0)
        none = jnp.zeros(n_lanes, jnp.int32)
        outcome = Outcome(structures_of(system, positions), energy, steps, none, origin, jnp.ones(n_lanes, bool))
        walkers = eqx.tree_at(lambda r: r.velocities, w, velocities)
        told = search.tell(constant.key, State(walkers, state.search.shared), outcome, system)
        return DynamicState(state.lanes, told, origin, state.words, state.clock + search.segment)

    def relaxed(positions, lanes):
        """Lanes with these structures (walkers, atoms, 3), relaxed."""
        lanes = load(lanes, relaxation, jnp.ones(n_lanes, bool), jnp.moveaxis(positions, 0, -1).astype(dtype))
        going = lambda k: (k.status == RUNNING).any()
        return lax.while_loop(going, lambda k: advance(k, relaxation, numbers, free, space), lanes)

    def begun(state: DynamicState) -> DynamicState:
        """Replicas at relaxed starts: the energy of overlaps would become heat, and a free cluster evaporate."""
        proposals = search.ask(constant.key, state.search, system)
        x = jnp.moveaxis(relaxed(proposals.structures.positions, state.lanes).coordinates, -1, 0)
        walkers = eqx.tree_at(lambda r: (r.positions, r.energy), state.search.walkers, (x, jnp.zeros(n_lanes, dtype)))
        new = DynamicState(state.lanes, State(walkers, None), proposals.origin, state.words, state.clock)
        return jax.tree.map(lambda a, b: b.astype(a.dtype), state, new)

    def looked(state: DynamicState) -> DynamicState:
        """The state with a relaxed copy of each replica in its lanes."""
        return eqx.tree_at(lambda s: s.lanes, state, relaxed(state.search.walkers.positions, state.lanes))

    def round_(carry):
        state, log, block, spent, lowest, looks = carry
        state = lax.fori_loop(0, search.look, lambda _, s: turn(s), state)
        state = looked(state)
        lanes, walkers = state.lanes, state.search.walkers
        steps = lanes.steps + search.segment * search.look
        x = lanes.coordinates if space is None else space.wrap(lanes.coordinates)
        entry = Finished(
            jnp.moveaxis(x, -1, 0), lanes.energy, steps, lanes.status, state.origin, walkers.index, walkers.run,
            jnp.ones(n_lanes, bool),
        )  # fmt: skip
        pages = lambda b: b.reshape(n_lanes // rows, rows, *b.shape[1:])
        log = jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, pages(b).astype(a.dtype), block, 0), log, entry)
        usable = (lanes.status != FAILED) & jnp.isfinite(lanes.energy)
        lowest = jnp.minimum(lowest, jnp.where(usable, lanes.energy, jnp.inf).min())
        return state, log, block + n_lanes // rows, spent + steps.sum(), lowest, looks + 1

    def more(carry):
        _, _, block, spent, lowest, looks = carry
        room = block + n_lanes // rows <= n_blocks
        return room & (spent < limits.evaluations) & (lowest > limits.target) & (looks < limits.looks)

    state = lax.cond(jnp.isinf(state.search.walkers.energy).any(), begun, lambda s: s, state)
    carry = (state, log, jnp.asarray(0), jnp.asarray(0), jnp.asarray(jnp.inf, dtype), jnp.asarray(0))
    state, log, block, *_ = lax.while_loop(more, round_, carry)
    return state, log, block
