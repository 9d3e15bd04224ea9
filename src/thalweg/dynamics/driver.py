"""The driver of molecular dynamics: many structures side by side, in one loop on the device."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.dynamics.base import Ensemble, Motion, Setting
from thalweg.dynamics.loop import Run, State, advance
from thalweg.dynamics.units import Units, check_positive, masses_of, units_of
from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.potentials.neighbors import Neighbors, grown, neighbors_for, worthwhile
from thalweg.prng import key as key_of
from thalweg.relax.base import FAILED, RUNNING, STEP_LIMIT
from thalweg.space import Space, cell_heights
from thalweg.structure import Structure

#: Records kept on the device between two visits of the host, and bytes of frames among them.
RECORDS, FRAME_BYTES = 256, 2**25
#: Factors by which a fluctuating cell may shrink before images are missing and the host is asked for more: small at the
#: start, as images are costly; larger once a cell did shrink, and beyond what one step can do.
SHRINKING, SHRINKING_MORE = 0.95, 0.75


class Trajectory(eqx.Module):
    """What `simulate` returns, batch axes as in the structures; series have the records in front.

    Records are taken every so many steps, from the first to the last configuration; those of a structure after it failed
    are NaN. Velocities are in sqrt(energy / mass): ASE's unit where energies are in eV. `pressure` (the mean of the three
    normal components, kinetic part included) and `volume` are None without periodic boundaries along all axes.
    """

    structures: Structure
    velocities: np.ndarray
    status: np.ndarray  # (*batch,) STEP_LIMIT: all steps done; FAILED: no finite energy, and left where it was before
    steps: np.ndarray  # (records,)
    time: np.ndarray  # (records,) in fs, or reduced
    energy: np.ndarray  # (records, *batch) potential energy
    kinetic: np.ndarray
    temperature: np.ndarray
    conserved: np.ndarray
    pressure: np.ndarray | None = None
    volume: np.ndarray | None = None
    frames: Structure | None = None  # (records, *batch)

    @property
    def failed(self) -> np.ndarray:
        """True for structures whose dynamics met no finite energy, or a cell that collapsed."""
        return self.status == FAILED


def simulate(
    structures: Structure,
    potential: Potential,
    ensemble: Ensemble,
    n_steps: int,
    dt: float,
    *,
    seed: int | jax.Array = 0,
    temperature=None,
    velocities=None,
    masses=None,
    every: int = 100,
    frames: bool = False,
    dtype: type = np.float64,
) -> Trajectory:
    """Molecular dynamics of a structure or a one-axis batch: `n_steps` steps of `dt` (fs, or reduced time).

    Velocities at the start are drawn at `temperature` (K, or kT in reduced units; by default that of the ensemble) with zero
    total momentum, unless `velocities` (*batch, atoms, 3) are given. `masses` (atoms,) default to those of the elements, or
    to 1 for model potentials. `seed` is an integer, a key, or one key per structure (see `lane_keys`): a structure moves the
    same alone and in a batch. Series are recorded every `every` steps, positions too with `frames`.

    Never raises for a structure that fails: see `Trajectory.status`. Raises `InputError` for parameters that make no sense
    and for cells that the potential cannot treat.
    """
    if len(structures.batch) > 1:
        raise StructureError(f"simulate takes one structure or one batch axis, not batch shape {structures.batch}")
    single = not structures.batch
    batch = jax.tree.map(lambda a: np.asarray(a)[None], structures) if single else structures
    units = units_of(potential, batch.numbers)
    _check(batch, potential, ensemble, n_steps, dt, every)
    space = _space(batch, potential, ensemble)
    with jax.enable_x64(True):
        run = Run(
            potential=as_leaves(potential, dtype),
            ensemble=as_leaves(_in_units(ensemble, units), dtype),
            setting=_setting(batch, units, dt, masses, lane_keys(seed, len(batch)), dtype),
            numbers=_common(_last(batch.numbers)),
            space=None if space is None else as_leaves(space, dtype),
            reach=np.asarray(potential.reach or 0, dtype),
        )
        motion, setting = _start(run, batch, _first_temperature(ensemble, temperature, velocities), velocities, dtype)
        run = eqx.tree_at(lambda r: r.setting, run, setting)
        host = _Host(batch, potential, ensemble)
        motion, status, series = _whole(run, host, motion, n_steps, every, frames)
    return _trajectory(structures, single, units, dt, motion, status, series)


def lane_keys(seed, n_lanes: int) -> jax.Array:
    """One key per lane (lanes,) from an integer, a key, or as many keys as there are lanes."""
    if not isinstance(seed, jax.Array):
        seed = key_of(int(seed))
    if seed.ndim == 0:
        return _folded(seed, n_lanes)
    if seed.shape != (n_lanes,):
        raise InputError(f"{seed.shape} keys for {n_lanes} structures; give one for all, or one for each")
    return seed


def _check(batch: Structure, potential: Potential, ensemble: Ensemble, n_steps, dt, every) -> None:
    """Raise `InputError` for what cannot be simulated."""
    if not potential.traceable:
        raise InputError(f"{type(potential).__name__} is not a JAX potential; run its dynamics in its own program")
    check_positive("dt", dt)
    if n_steps < 0 or every < 1:
        raise InputError(f"n_steps is {n_steps} and every {every}; they must be at least 0 and 1")
    if len(batch) == 0 or not np.asarray(batch.mask).any(-1).all():
        raise StructureError("there is nothing to simulate: a structure has no atoms")
    if not np.isfinite(batch.positions).all():
        raise StructureError("positions are not finite")
    potential.check(np.unique(batch.numbers))
    ensemble.check()
    for field in dataclasses.fields(ensemble):
        shape = np.shape(getattr(ensemble, field.name))
        if shape not in ((), (1,), (len(batch),)):
            raise InputError(f"{field.name} has shape {shape}; give one number, or one per structure ({len(batch)})")
    if ensemble.moves_cell:
        if not all(batch.pbc):
            raise InputError(f"{type(ensemble).__name__} moves the cell and needs periodic boundaries along all axes")
        if (np.asarray(batch.fixed) & np.asarray(batch.mask)).any():
            raise InputError(f"{type(ensemble).__name__} deforms the cell, and fixed atoms cannot follow; free them")


def _space(batch: Structure, potential: Potential, ensemble: Ensemble, running=slice(None), slack=SHRINKING) -> Space | None:
    """The `Space` of a batch, with room for cells that shrink (by the factor `slack`) and shear where they may.

    Only the cells of the lanes that are `running` (lanes,) have to have all their images.
    """
    if not ensemble.moves_cell:
        space = potential.space(batch.cell, batch.pbc)
        return None if space is None else eqx.tree_at(lambda s: s.cell, space, _common(np.asarray(space.cell)))
    cells = np.asarray(batch.cell)
    space = potential.space(cells[running], batch.pbc, slack)
    assert space is not None
    space = eqx.tree_at(lambda s: s.cell, space, _last(cells))
    if getattr(ensemble, "shape", None) == "triclinic":
        reach = potential.reach or 0.0
        if space.nearest and cell_heights(batch.cell).min() * SHRINKING < 2 * reach:
            raise InputError(
                f"a cell that shears needs heights above {2 * reach / SHRINKING:.3g} with the minimum image convention; "
                "take a larger one, or a shape that stays rectangular"
            )
        space = dataclasses.replace(space, orthogonal=False)
    return space


def _in_units(ensemble: Ensemble, units: Units) -> Ensemble:
    """The ensemble with its times and rates in units of sqrt(mass length^2 / energy)."""
    scaled = {name: np.asarray(getattr(ensemble, name)) * units.time for name in ensemble.times}
    scaled |= {name: np.asarray(getattr(ensemble, name)) / units.time for name in ensemble.rates}
    return dataclasses.replace(ensemble, **scaled)


def _last(a) -> np.ndarray:
    """Lanes from the front to the end."""
    return np.moveaxis(np.asarray(a), 0, -1)


def _common(a: np.ndarray) -> np.ndarray:
    """What all lanes have in common held once: parameters of pairs are then made once and not per lane."""
    return a[..., :1] if (a == a[..., :1]).all() else a


def _setting(batch: Structure, units: Units, dt, masses, keys, dtype) -> Setting:
    free = _common(_last(batch.mask & ~np.asarray(batch.fixed))[:, None]).astype(dtype)
    return Setting(
        dt=np.asarray(dt * units.time, dtype),
        boltzmann=np.asarray(units.boltzmann, dtype),
        masses=_common(_last(masses_of(batch, units, masses))[:, None]).astype(dtype),
        free=free,
        freedom=np.ones(len(batch), dtype),
        keys=keys,
    )


def _first_temperature(ensemble: Ensemble, temperature, velocities):
    """The temperature at which velocities are drawn; 0 where they are given."""
    if velocities is not None:
        return 0.0
    temperature = getattr(ensemble, "temperature", None) if temperature is None else temperature
    if temperature is None:
        raise InputError("give the temperature at which velocities start, or the velocities themselves")
    check_positive("temperature", temperature, zero=True)
    return temperature


def _start(run: Run, batch: Structure, temperature, velocities, dtype) -> tuple[Motion, Setting]:
    """Motion before the first step, not yet evaluated, and the setting with its degrees of freedom."""
    setting = run.setting
    positions = _last(batch.positions).astype(dtype)
    pinned = (np.asarray(batch.fixed) & np.asarray(batch.mask)).any(-1)
    if velocities is None:
        moving = np.asarray(_maxwell_boltzmann(setting, np.asarray(temperature, dtype)))
        # In NumPy: a compiler may draw float32 numbers twice, for the sum and for what it is taken from, and round them apart.
        weights = np.asarray(setting.masses * setting.free)
        drift = (weights * moving).sum(0) / np.where(weights.any(0), weights.sum(0), 1)
        moving = (moving - np.asarray(setting.free) * ~pinned * drift).astype(dtype)
    else:
        velocities = np.asarray(velocities, np.float64)
        if velocities.shape not in (batch.positions.shape, batch.positions.shape[1:]):
            raise InputError(f"velocities have shape {velocities.shape}, positions {batch.positions.shape}")
        moving = (_last(np.broadcast_to(velocities, batch.positions.shape)) * setting.free).astype(dtype)
    freedom = 3 * np.broadcast_to(setting.free, (*positions.shape[:1], 1, len(batch))).sum((0, 1))
    if run.ensemble.keeps_momentum:
        momentum = np.abs((setting.masses * moving).sum(0)).max(0)
        at_rest = momentum <= 1e-5 * np.abs(setting.masses * moving).sum((0, 1))
        freedom = np.maximum(freedom - np.where(at_rest & ~pinned, 3, 0), 1)
    setting = eqx.tree_at(lambda s: s.freedom, setting, freedom.astype(dtype))
    zero = np.zeros(len(batch), dtype)
    cell = None if run.space is None else np.broadcast_to(run.space.cell, (3, 3, len(batch))).astype(dtype)
    virial = np.zeros((3, 3, len(batch)), dtype) if run.ensemble.moves_cell else None
    motion = Motion(positions, moving, cell, zero, np.zeros_like(positions), virial, None)
    return motion.bathed(run.ensemble.init(motion, setting)), setting


@eqx.filter_jit
def _maxwell_boltzmann(setting: Setting, temperature):
    """Velocities (atoms, 3, lanes) at a temperature; their total momentum is not zero yet."""
    return jnp.sqrt(setting.boltzmann * temperature / setting.masses) * setting.noise(jnp.uint32(2**32 - 1))


@eqx.filter_jit
def _folded(seed, n_lanes: int):
    """As many keys as there are lanes, all different."""
    return jax.vmap(lambda k: jax.random.fold_in(seed, k))(jnp.arange(n_lanes))


class _Host(eqx.Module):
    """What the host needs to make larger spaces and lists: the structures, and parameters that are not traced."""

    batch: Structure
    potential: Potential
    ensemble: Ensemble

    def neighbors(self, run: Run, motion: Motion) -> Neighbors | None:
        """A list of neighbours where one pays."""
        if not worthwhile(motion.positions.shape[0], run.space_of(motion), self.potential.reach):
            return None
        return neighbors_for(self.potential, motion.positions, run.numbers, run.space_of(motion))

    def widened(self, run: Run, state: State):
        """(run, status) with as many images as cells that shrank need; lanes whose cell collapsed fail."""
        status = np.asarray(state.status)
        cells = np.moveaxis(np.asarray(state.motion.cell, np.float64), -1, 0)
        batch = eqx.tree_at(lambda b: b.cell, self.batch, cells)
        try:
            space = _space(batch, self.potential, self.ensemble, status == RUNNING, SHRINKING_MORE)
        except StructureError:
            space = run.space
        assert space is not None
        assert run.space is not None
        if space.images == run.space.images:  # it collapsed
            return run, np.where(state.narrow, FAILED, status).astype(np.int32)
        return eqx.tree_at(lambda r: r.space, run, as_leaves(space, state.motion.energy.dtype)), status


def _whole(run: Run, host: _Host, motion: Motion, n_steps: int, every: int, frames: bool):
    """All steps, in as many calls of the compiled loop as records and growing lists need."""
    room = RECORDS
    if frames:
        room = int(np.clip(FRAME_BYTES // max(motion.positions.nbytes, 1), 1, RECORDS))
    clock = np.asarray(n_steps, np.int32), np.asarray(every, np.int32)
    neighbors = host.neighbors(run, motion)
    status, step, parts = np.full(motion.energy.shape, RUNNING, np.int32), np.asarray(0, np.int32), []
    while True:
        state, series = advance(run, motion, neighbors, status, step, *clock, room, frames)
        motion, neighbors, status, step = state.motion, state.neighbors, state.status, state.step
        parts.append({k: np.asarray(v)[: int(state.count)] for k, v in series.items()})
        if state.done:
            break
        if neighbors is not None and neighbors.overflow:
            try:
                neighbors = grown(neighbors)
            except InputError:  # a cell that became too narrow for lists
                neighbors = None
        if state.narrow.any():
            run, status = host.widened(run, state)
    series = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    status = np.where(np.asarray(status) == FAILED, FAILED, STEP_LIMIT)
    return motion, status, series


def _trajectory(structures: Structure, single: bool, units: Units, dt, motion: Motion, status, series) -> Trajectory:
    """The result with the batch axes of the structures."""
    front = lambda a: np.asarray(np.moveaxis(np.asarray(a), -1, 0), np.float64)
    pick = lambda a: a[0] if single else a
    cell = structures.cell if motion.cell is None else pick(front(motion.cell))
    final = Structure(pick(front(motion.positions)), structures.numbers, cell, structures.fixed, structures.pbc)
    values = {k: np.asarray(v, np.float64) for k, v in series.items() if k not in ("steps", "frames", "cells")}
    values = {k: v[:, 0] if single else v for k, v in values.items()}
    movie = None
    if "frames" in series:
        records = len(series["steps"])
        lanes = lambda a: np.asarray(np.moveaxis(a, -1, 1), np.float64)
        take = lambda a: lanes(a)[:, 0] if single else lanes(a)
        spread = lambda a: np.broadcast_to(a, (records, *np.shape(a)))
        cells = take(series["cells"]) if "cells" in series else spread(cell)
        movie = Structure(take(series["frames"]), spread(structures.numbers), cells, spread(structures.fixed), structures.pbc)
    return Trajectory(
        structures=final,
        velocities=pick(front(motion.velocities)),
        status=pick(status),
        steps=series["steps"],
        time=series["steps"] * float(dt),
        frames=movie,
        **values,
    )
