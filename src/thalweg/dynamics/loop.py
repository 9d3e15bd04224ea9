"""The compiled loop of molecular dynamics: steps and records of all lanes, until done or until the host is needed."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.dynamics.base import Ensemble, Motion, Setting
from thalweg.dynamics.pressure import volume_of
from thalweg.potentials.base import Potential
from thalweg.potentials.neighbors import Neighbors, refreshed
from thalweg.relax.base import FAILED, RUNNING
from thalweg.space import Space
from thalweg.typing import Array


class Run(eqx.Module):
    """Everything that stays the same during a run, as the compiled loop wants it: lanes last, numbers as leaves."""

    potential: Potential
    ensemble: Ensemble
    setting: Setting
    numbers: Array
    space: Space | None
    reach: Array | np.ndarray  # beyond which nothing interacts; 0 where there is no such distance

    def space_of(self, motion: Motion) -> Space | None:
        """The space with the cell that the motion has."""
        return eqx.tree_at(lambda s: s.cell, self.space, motion.cell) if self.ensemble.moves_cell else self.space

    def narrow(self, motion: Motion):
        """True (lanes,) where the space does not have all images that the cell of a motion needs."""
        space = self.space_of(motion)
        return jnp.zeros(motion.energy.shape, bool) if space is None else ~space.covers(self.reach)

    def evaluate(self, motion: Motion, neighbors: Neighbors | None, virial: bool):
        """The potential at the positions of a motion, and the list of neighbours that served."""
        space = self.space_of(motion)
        if neighbors is not None:
            neighbors = refreshed(neighbors, motion.positions, space)
        return self.potential.lanes(motion.positions, self.numbers, space, neighbors, virial=virial), neighbors


class State(eqx.Module):
    """Where the compiled loop is."""

    motion: Motion
    neighbors: Neighbors | None
    status: Array  # (lanes,)
    step: Array
    count: Array  # records taken in this call
    done: Array
    narrow: Array  # (lanes,) True where the next step needs images that the space does not have

    @property
    def held(self):
        """True where only the host can go on, with a larger list or more images."""
        full = False if self.neighbors is None else self.neighbors.overflow
        return self.narrow.any() | full


@eqx.filter_jit
def advance(run: Run, motion: Motion, neighbors, status, step, n_steps, every, room: int, frames: bool):
    """Records and steps until all are done, `room` records are full, or the host is needed."""
    moves_cell, periodic = run.ensemble.moves_cell, run.space is not None

    def take(state: State) -> State:
        ahead = run.ensemble.before(state.motion, run.setting, state.step)
        running = state.status == RUNNING
        out, neighbors = run.evaluate(ahead, state.neighbors, moves_cell)
        narrow = running & run.narrow(ahead) if moves_cell else state.narrow
        ahead = run.ensemble.after(_evaluated(ahead, out), run.setting)
        following = State(ahead, neighbors, state.status, state.step, state.count, state.done, narrow)
        # Where the host is needed nobody takes this step: it comes again with the same random numbers.
        taken = ~following.held
        going = running & out.ok & taken
        motion = jax.tree.map(lambda new, old: jnp.where(going, new, old), ahead, state.motion)
        status = jnp.where(running & ~out.ok & taken, FAILED, state.status)
        return State(motion, neighbors, status, state.step + taken, state.count, state.done, narrow)

    def record(carry):
        state, series = carry
        out, neighbors = run.evaluate(state.motion, state.neighbors, periodic)
        motion = _evaluated(state.motion, out)
        state = State(motion, neighbors, state.status, state.step, state.count, state.done, state.narrow)
        taken = ~state.held
        status = jnp.where((state.status == RUNNING) & ~out.ok & taken, FAILED, state.status)
        now = _observed(run, motion, out, state.step, frames)
        now = {k: v if k == "steps" else jnp.where(status == RUNNING, v, jnp.nan) for k, v in now.items()}
        series = {k: series[k].at[state.count].set(v) for k, v in now.items()}
        due = ((state.step % every == 0) | (state.step == n_steps)) & taken
        until = jnp.minimum((state.step // every + 1) * every, n_steps)
        done = (state.step == n_steps) & taken
        state = State(motion, neighbors, status, state.step, state.count + due, done, state.narrow)
        return lax.while_loop(lambda s: (s.step < until) & ~s.held, take, state), series

    like = jax.eval_shape(lambda m: _observed(run, m, run.evaluate(m, neighbors, periodic)[0], step, frames), motion)
    series = {k: jnp.zeros((room, *v.shape), v.dtype) for k, v in like.items()}
    none = jnp.zeros(status.shape, bool)
    start = jax.tree.map(jnp.asarray, State(motion, neighbors, status, step, jnp.zeros_like(step), none.any(), none))
    return lax.while_loop(lambda c: (c[0].count < room) & ~c[0].done & ~c[0].held, record, (start, series))


def _evaluated(motion: Motion, out) -> Motion:
    """The motion with energy, forces and virial of its positions."""
    motion = eqx.tree_at(lambda m: (m.energy, m.forces), motion, (out.energy, out.forces))
    return motion if motion.virial is None else eqx.tree_at(lambda m: m.virial, motion, out.virial)


def _observed(run: Run, motion: Motion, out, step, frames: bool) -> dict:
    """What is recorded of a moment."""
    setting = run.setting
    kinetic = motion.kinetic(setting)
    seen = {
        "steps": step,
        "energy": out.energy,
        "kinetic": kinetic,
        "temperature": 2 * kinetic / (setting.freedom * setting.boltzmann),
        "conserved": run.ensemble.conserved(_evaluated(motion, out), setting),
    }
    if run.space is not None and all(run.space.pbc):
        seen["volume"] = volume_of(motion.cell)
        seen["pressure"] = (2 * kinetic + jnp.trace(out.virial)) / (3 * seen["volume"])
    if frames:
        seen["frames"] = motion.positions
        if run.ensemble.moves_cell:
            seen["cells"] = motion.cell
    return seen
