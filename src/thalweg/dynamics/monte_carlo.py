"""The driver of Monte Carlo: many Markov chains side by side, in one loop on the device."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.dynamics.driver import FRAME_BYTES, RECORDS, lane_keys
from thalweg.dynamics.moves import Chain, GrandCanonical, Moves, World
from thalweg.dynamics.pressure import volume_of
from thalweg.dynamics.single import Energies
from thalweg.dynamics.units import units_of
from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.relax.base import FAILED, RUNNING, STEP_LIMIT
from thalweg.structure import Structure, pad
from thalweg.typing import Array

#: Steps are adapted by this times (acceptance - target), in logarithm, per sweep; sweeps of few attempts count for less.
GAIN, MANY = 0.5, 20
#: Energies kept up by their changes may be off by this, relative, before a chain counts as failed.
TOLERANCE = 1e-3
#: Slots are made in multiples of this, so that few sizes are compiled.
ROOM = 32


class Samples(eqx.Module):
    """What `sample` returns, batch axes as in the structures; series have the records in front.

    Records of a structure after it failed are NaN. `pressure` and `volume` are None without periodic boundaries along
    all axes; `acceptance` by kind of move is that since the record before.
    """

    structures: Structure  # with empty slots where atoms come and go
    status: np.ndarray  # (*batch,) STEP_LIMIT: all sweeps done; FAILED: no finite energy, or too many atoms
    sweeps: np.ndarray  # (records,)
    energy: np.ndarray  # (records, *batch)
    count: np.ndarray  # (records, *batch) atoms
    step: np.ndarray  # (records, *batch) largest displacement
    acceptance: dict[str, np.ndarray]  # (records, *batch)
    pressure: np.ndarray | None = None
    frames: Structure | None = None  # (records, *batch)

    @property
    def failed(self) -> np.ndarray:
        """True for structures whose chain met no finite energy, or more atoms than it may have."""
        return self.status == FAILED


def sample(
    structures: Structure,
    potential: Potential,
    moves: Moves,
    n_sweeps: int,
    *,
    seed: int | jax.Array = 0,
    equilibration: int = 0,
    every: int = 1,
    frames: bool = False,
    dtype: type = np.float64,
) -> Samples:
    """Monte Carlo of a structure or a one-axis batch: `n_sweeps` sweeps, of which the first `equilibration` adapt the step.

    Moves of pair potentials cost a sum over one atom's pairs; with other potentials every trial is an evaluation of the
    whole. `seed` is an integer, a key, or one key per structure; a structure does the same alone and in a batch. Records are
    taken every `every` sweeps. In the grand-canonical ensemble atoms that stay come first in the structures returned, and
    slots grow with the number of atoms.

    Never raises for a structure that fails: see `Samples.status`. Raises `InputError` for parameters that make no sense and
    for cells that the potential cannot treat.
    """
    if len(structures.batch) > 1:
        raise StructureError(f"sample takes one structure or one batch axis, not batch shape {structures.batch}")
    single = not structures.batch
    batch = jax.tree.map(lambda a: np.asarray(a)[None], structures) if single else structures
    _check(batch, potential, moves, n_sweeps, equilibration, every)
    if isinstance(moves, GrandCanonical):
        batch = _in_order(batch, moves.species)
    with jax.enable_x64(True):
        world = _world(batch, potential, moves, lane_keys(seed, len(batch)), dtype)
        chain, status, series = _whole(world, moves, _first(batch, moves, dtype), n_sweeps, equilibration, every, frames, dtype)
    return _samples(batch, single, chain, status, series)


def _check(batch: Structure, potential: Potential, moves: Moves, n_sweeps, equilibration, every) -> None:
    """Raise `InputError` for what cannot be sampled."""
    if not potential.traceable:
        raise InputError(f"{type(potential).__name__} is not a JAX potential; thalweg cannot sample it")
    if n_sweeps < 0 or equilibration < 0 or every < 1:
        raise InputError(f"n_sweeps is {n_sweeps}, equilibration {equilibration}, every {every}; at least 0, 0 and 1")
    if len(batch) == 0 or (not moves.changes_number and not np.asarray(batch.mask).any(-1).all()):
        raise StructureError("there is nothing to sample: a structure has no atoms")
    if not np.isfinite(batch.positions).all():
        raise StructureError("positions are not finite")
    potential.check(np.unique(batch.numbers))
    moves.check()
    for field in dataclasses.fields(moves):
        shape = np.shape(getattr(moves, field.name))
        if shape not in ((), (1,), (len(batch),)):
            raise InputError(f"{field.name} has shape {shape}; give one number, or one per structure ({len(batch)})")
    if moves.changes_number and not all(batch.pbc):
        raise InputError(f"{type(moves).__name__} needs a volume: periodic boundaries along all axes")


def _in_order(batch: Structure, species: int) -> Structure:
    """Atoms that stay first, then those that come and go, then empty slots, which are free."""
    numbers, mask, fixed = (np.asarray(a) for a in (batch.numbers, batch.mask, batch.fixed))
    rank = np.where(mask, np.where((numbers != species) | fixed, 0, 1), 2)
    order = np.argsort(rank, axis=-1, kind="stable")
    take = lambda a: np.take_along_axis(a, order, -1)
    positions = np.take_along_axis(np.asarray(batch.positions), order[..., None], -2)
    return Structure(positions, take(numbers), batch.cell, take(fixed & mask), batch.pbc)


def _world(batch: Structure, potential: Potential, moves: Moves, keys, dtype) -> World:
    units = units_of(potential, batch.numbers)
    species = {int(z) for z in np.unique(batch.numbers) if z >= 0}
    if isinstance(moves, GrandCanonical):
        species.add(moves.species)
        potential.check(np.array([moves.species]))
        units = units_of(potential, np.array(sorted(species)))
    space = potential.space(batch.cell, batch.pbc)
    energies = Energies(as_leaves(potential, dtype), None if space is None else as_leaves(space, dtype), tuple(sorted(species)))
    cell = None if energies.space is None else energies.space.cell
    return World(energies, np.asarray(units.boltzmann, dtype), cell, keys)


def _first(batch: Structure, moves: Moves, dtype) -> Chain:
    last = lambda a: np.moveaxis(np.asarray(a), 0, -1)
    n_lanes = len(batch)
    none: dict[str, Array] = {kind: np.zeros(n_lanes, np.int32) for kind in moves.kinds}
    step = np.full(n_lanes, getattr(moves, "step", 0.1), dtype)
    return Chain(
        last(batch.positions).astype(dtype), last(batch.numbers), last(batch.fixed), np.zeros(n_lanes, dtype), step, none, none
    )


def _roomy(chain: Chain, needed: int) -> Chain:
    """The chain with empty slots up to `needed`, or more."""
    slots = chain.numbers.shape[0]
    extra = -(-needed // ROOM) * ROOM - slots
    if extra <= 0:
        return chain
    grow = lambda a, value: np.pad(np.asarray(a), [(0, extra)] + [(0, 0)] * (np.ndim(a) - 1), constant_values=value)
    new = grow(chain.positions, 0), grow(chain.numbers, -1), grow(chain.fixed, False)
    return eqx.tree_at(lambda c: (c.positions, c.numbers, c.fixed), chain, new)


def _whole(world: World, moves: Moves, chain: Chain, n_sweeps, equilibration, every, frames: bool, dtype):
    """All sweeps, in as many calls of the compiled loop as records and slots need."""
    status, sweep, parts = np.full(chain.energy.shape, RUNNING, np.int32), np.asarray(0, np.int32), []
    ends, warm, gap = (np.asarray(v, np.int32) for v in (n_sweeps, equilibration, every))
    leaves = as_leaves(moves, dtype)
    while True:
        if isinstance(moves, GrandCanonical):
            present = (np.asarray(chain.numbers) >= 0).sum(0)[status == RUNNING].max(initial=0)
            needed = int(moves.needed(present, np))
            if needed > chain.numbers.shape[0]:
                chain = _roomy(chain, max(needed, min(int(1.2 * present) + moves.moves, moves.capacity)))
        room = int(np.clip(FRAME_BYTES // max(chain.positions.nbytes, 1), 1, RECORDS)) if frames else RECORDS
        progress, series = _advance(world, leaves, chain, status, sweep, ends, warm, gap, room, frames)
        chain, status, sweep = progress.chain, np.asarray(progress.status), progress.sweep
        parts.append(jax.tree.map(lambda v: np.asarray(v)[: int(progress.count)], series))  # noqa: B023
        if progress.done:
            break
    series = {k: _joined([p[k] for p in parts]) for k in parts[0]}
    return chain, np.where(status == FAILED, FAILED, STEP_LIMIT), series


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Records of several calls; frames of earlier ones have fewer slots, and get empty ones."""
    if parts[0].ndim < 3:
        return np.concatenate(parts)
    most = max(p.shape[1] for p in parts)
    empty = -1 if parts[0].dtype.kind == "i" else 0
    grown = [np.pad(p, [(0, 0), (0, most - p.shape[1])] + [(0, 0)] * (p.ndim - 2), constant_values=empty) for p in parts]
    return np.concatenate(grown)


class _Progress(eqx.Module):
    """Where the compiled loop is."""

    chain: Chain
    status: Array
    sweep: Array
    count: Array
    done: Array
    known: Array  # (): False where the energy has to be computed anew first


@eqx.filter_jit
def _advance(world: World, moves: Moves, chain: Chain, status, sweep, n_sweeps, equilibration, every, room: int, frames: bool):
    """Records and sweeps until all are done, `room` records are full, or the slots might not last for another sweep."""
    dtype = chain.positions.dtype
    periodic = world.cell is not None and world.energies.space is not None and all(world.energies.space.pbc)

    def crowded(p: _Progress):
        if not isinstance(moves, GrandCanonical):
            return jnp.zeros((), bool)
        present = jnp.where(p.status == RUNNING, (p.chain.numbers >= 0).sum(0), 0)
        return moves.needed(present.max()) > p.chain.numbers.shape[0]

    def take(p: _Progress) -> _Progress:
        before = p.chain
        after = moves.sweep(before, world, p.sweep)
        kind = moves.kinds[0]
        tried, good = (getattr(after, k)[kind] - getattr(before, k)[kind] for k in ("tried", "accepted"))
        rate = jnp.where(tried > 0, good / jnp.maximum(tried, 1), moves.target)
        change = GAIN * tried / (tried + MANY) * (rate - moves.target)
        step = jnp.where(p.sweep < equilibration, after.step * jnp.exp(change), after.step)
        after = eqx.tree_at(lambda c: c.step, after, jnp.minimum(step.astype(dtype), _largest(world, dtype)))
        going = p.status == RUNNING
        chain = jax.tree.map(lambda new, old: jnp.where(going, new, old), after, before)
        status = p.status
        if isinstance(moves, GrandCanonical):
            status = jnp.where(going & ((chain.numbers >= 0).sum(0) > moves.most), FAILED, status).astype(p.status.dtype)
        return _Progress(chain, status, p.sweep + 1, p.count, p.done, p.known)

    def record(carry):
        p, series = carry
        out = world.energies.whole(p.chain.positions, p.chain.numbers, virial=periodic)
        # What a trial costs and what the energy says must be the same: the sum of the changes is looked at here.
        count = (p.chain.numbers >= 0).sum(0)
        scale = jnp.abs(out.energy) + world.boltzmann * moves.temperature * (count + 1)
        wrong = p.known & (jnp.abs(out.energy - p.chain.energy) > TOLERANCE * scale)
        status = jnp.where((p.status == RUNNING) & (~out.ok | wrong), FAILED, p.status)
        chain = eqx.tree_at(lambda c: c.energy, p.chain, out.energy)
        now = _observed(world, moves, chain, out, count, p.sweep, periodic, frames)
        hide = lambda k, v: v if k in ("sweeps", "frames", "numbers", "count") else jnp.where(status == RUNNING, v, jnp.nan)
        due = (p.sweep % every == 0) | (p.sweep == n_sweeps)
        series = {k: series[k].at[p.count].set(hide(k, v)) for k, v in now.items()}
        fresh = jax.tree.map(lambda n: jnp.where(due, 0, n), (chain.tried, chain.accepted))
        chain = eqx.tree_at(lambda c: (c.tried, c.accepted), chain, fresh)
        until = jnp.minimum((p.sweep // every + 1) * every, n_sweeps)
        p = _Progress(chain, status, p.sweep, p.count + due, p.sweep == n_sweeps, jnp.ones((), bool))
        return lax.while_loop(lambda p: (p.sweep < until) & ~crowded(p), take, p), series

    def like(chain):
        out = world.energies.whole(chain.positions, chain.numbers, virial=periodic)
        return _observed(world, moves, chain, out, (chain.numbers >= 0).sum(0), sweep, periodic, frames)

    series = {k: jnp.zeros((room, *v.shape), v.dtype) for k, v in jax.eval_shape(like, chain).items()}
    none = jnp.zeros((), bool)
    known = jnp.asarray(sweep) > 0
    start = jax.tree.map(jnp.asarray, _Progress(chain, status, sweep, jnp.zeros_like(sweep), none, known))
    return lax.while_loop(lambda c: (c[0].count < room) & ~c[0].done & ~crowded(c[0]), record, (start, series))


def _largest(world: World, dtype):
    """Displacements beyond half the cell reach nothing new; free clusters have no such length."""
    if world.energies.space is None:
        return jnp.asarray(np.inf, dtype)
    return world.energies.space.heights.max(0) / 2


def _observed(world: World, moves: Moves, chain: Chain, out, count, sweep, periodic: bool, frames: bool) -> dict:
    """What is recorded of a moment."""
    seen = {"sweeps": sweep, "energy": out.energy, "count": count, "step": chain.step}
    for kind in moves.kinds:
        seen[f"accepted {kind}"] = chain.accepted[kind] / jnp.maximum(chain.tried[kind], 1).astype(chain.step.dtype)
    if periodic:
        volume = volume_of(world.cell)
        kinetic = count * world.boltzmann * moves.temperature
        seen["pressure"] = (kinetic + jnp.trace(out.virial) / 3) / volume
    if frames:
        seen |= {"frames": chain.positions, "numbers": chain.numbers}
    return seen


def _samples(batch: Structure, single: bool, chain: Chain, status, series) -> Samples:
    """The result with the batch axes of the structures."""
    front = lambda a: np.moveaxis(np.asarray(a), -1, 0)
    pick = lambda a: a[0] if single else a
    slots = chain.numbers.shape[0]
    held = pad(batch, slots).fixed
    final = Structure(
        pick(front(chain.positions).astype(np.float64)),
        pick(front(chain.numbers)),
        pick(np.asarray(batch.cell)),
        pick(held),
        batch.pbc,
    )
    drop = lambda v: v[:, 0] if single else v
    values = {k: drop(v) for k, v in series.items() if k not in ("sweeps", "frames", "numbers")}
    movie = None
    if "frames" in series:
        n = len(series["sweeps"])
        spread = lambda a: np.broadcast_to(a, (n, *np.shape(a)))
        lanes = lambda a: drop(np.moveaxis(a, -1, 1))
        positions = np.asarray(lanes(series["frames"]), np.float64)
        movie = Structure(positions, lanes(series["numbers"]), spread(final.cell), spread(final.fixed), batch.pbc)
    prefix = "accepted "
    return Samples(
        structures=final,
        status=pick(status),
        sweeps=series["sweeps"],
        energy=np.asarray(values["energy"], np.float64),
        count=values["count"],
        step=values["step"],
        acceptance={k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)},
        pressure=values.get("pressure"),
        frames=movie,
    )
