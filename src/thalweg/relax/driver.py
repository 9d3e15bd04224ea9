"""The device driver: many relaxations side by side, each lane reloaded as soon as its structure is done.

A lock-step batch waits for its slowest member and wastes half the work. Here all lanes step together, and lanes that
finished are frozen until the caller loads the next structure into them: from a queue (`relax`), or from the search that
proposes it (`thalweg.search.fused`).
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import StructureError
from thalweg.potentials.base import Potential
from thalweg.relax.base import CONVERGED, FAILED, RUNNING, STEP_LIMIT, Relaxer, largest_norm
from thalweg.structure import Structure
from thalweg.typing import PyTree

#: Steps between two looks at which lanes are done. Small against a relaxation (some 100), large against the look's cost.
CHUNK = 4


class Lanes(eqx.Module):
    """Structures under relaxation, lanes last. `positions` are those `energy` and `forces` belong to once done."""

    positions: jax.Array  # (atoms, 3, lanes)
    energy: jax.Array  # (lanes,)
    forces: jax.Array  # (atoms, 3, lanes)
    status: jax.Array  # (lanes,) RUNNING, CONVERGED, STEP_LIMIT or FAILED
    steps: jax.Array  # (lanes,) evaluations spent on the structure in the lane
    state: PyTree  # of the relaxer


def empty_lanes(relaxer: Relaxer, n_slots: int, n_lanes: int, dtype) -> Lanes:
    """Lanes that hold nothing and count as done."""
    x = jnp.zeros((n_slots, 3, n_lanes), dtype)
    return Lanes(
        positions=x,
        energy=jnp.zeros(n_lanes, dtype),
        forces=x,
        status=jnp.full(n_lanes, CONVERGED, jnp.int32),
        steps=jnp.zeros(n_lanes, jnp.int32),
        state=relaxer.init(x),
    )


def load(lanes: Lanes, relaxer: Relaxer, mask, positions) -> Lanes:
    """Put new structures (atoms, 3, lanes) into the lanes of `mask` (lanes,)."""
    return Lanes(
        positions=jnp.where(mask, positions, lanes.positions),
        energy=lanes.energy,
        forces=lanes.forces,
        status=jnp.where(mask, RUNNING, lanes.status),
        steps=jnp.where(mask, 0, lanes.steps),
        state=relaxer.reset(lanes.state, positions, mask),
    )


def advance(lanes: Lanes, potential: Potential, relaxer: Relaxer, numbers, free, fmax, max_steps, n_steps: int = CHUNK):
    """Take `n_steps` steps in every lane that runs. Returns the lanes; `numbers` is (atoms, lanes or 1).

    `free` (atoms, 1, 1 or lanes) is 0 for atoms that must not move. Each step evaluates once; a lane that meets
    `fmax`, uses up `max_steps` or has no finite energy stops moving there.
    """

    def one(_, lanes: Lanes) -> Lanes:
        out = potential.lanes(lanes.positions, numbers)
        forces = out.forces * free
        running = lanes.status == RUNNING
        steps = lanes.steps + running
        status = jnp.where(steps >= max_steps, STEP_LIMIT, RUNNING)
        status = jnp.where(largest_norm(forces) < fmax, CONVERGED, status)
        status = jnp.where(out.ok, status, FAILED)
        status = jnp.where(running, status, lanes.status).astype(jnp.int32)
        move, state = relaxer.step(lanes.positions, forces, out.energy, lanes.state)
        going = status == RUNNING
        return Lanes(
            positions=jnp.where(going, lanes.positions + move, lanes.positions),
            energy=jnp.where(running, out.energy, lanes.energy),
            forces=jnp.where(running, forces, lanes.forces),
            status=status,
            steps=steps,
            state=state,
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


@eqx.filter_jit
def _relax_queue(potential, relaxer, positions, numbers, free, fmax, max_steps, n_lanes: int):
    """Relax all of `positions` (atoms, 3, queue) in `n_lanes` lanes; the queue is reloaded inside the loop."""
    n = positions.shape[2]
    lanes = empty_lanes(relaxer, positions.shape[0], n_lanes, positions.dtype)
    held = jnp.full(n_lanes, n)  # which structure of the queue each lane holds; n: none
    out = (positions, jnp.zeros(n, positions.dtype), jnp.zeros(n, positions.dtype), jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.int32))

    def refill(carry):
        lanes, held, following, out = carry
        done = lanes.status != RUNNING
        where = jnp.where(done, held, n)  # n is out of range and dropped
        put = lambda a, v: a.at[..., where].set(v, mode="drop")  # noqa: E731
        results = (lanes.positions, lanes.energy, largest_norm(lanes.forces), lanes.steps, lanes.status)
        out = jax.tree.map(put, out, results)
        rank = jnp.cumsum(done) - 1
        held = jnp.where(done, jnp.minimum(following + rank, n), held)
        fresh = done & (held < n)
        lanes = load(lanes, relaxer, fresh, positions[..., jnp.minimum(held, n - 1)])
        return lanes, held, jnp.minimum(following + done.sum(), n), out

    def body(carry):
        lanes, held, following, out = carry
        index = jnp.minimum(held, n - 1)
        lanes = advance(lanes, potential, relaxer, numbers[..., index], free[..., index], fmax, max_steps)
        carry = (lanes, held, following, out)
        done = (lanes.status != RUNNING) & (held < n)
        return lax.cond(done.any(), refill, lambda c: c, carry)

    carry = refill((lanes, held, jnp.asarray(0), out))
    carry = lax.while_loop(lambda c: (c[1] < n).any(), body, carry)
    return carry[3]


def relax(
    structures: Structure,
    potential: Potential,
    relaxer: Relaxer,
    fmax: float = 1e-5,
    max_steps: int = 2000,
    n_lanes: int = 64,
) -> Relaxed:
    """Relax a structure or a one-axis batch in float64 until max |F| < `fmax` (eV/Å, or reduced units).

    Never raises for a structure that fails: its `status` says so (`thalweg.relax.STATUS_NAMES`) and its energy is as
    the potential gave it. `max_steps` counts evaluations per structure.
    """
    if len(structures.batch) > 1:
        raise StructureError(f"relax takes one structure or one batch axis, not batch shape {structures.batch}")
    single = not structures.batch
    lift = lambda a: np.asarray(a)[None] if single else np.asarray(a)  # noqa: E731
    positions = np.moveaxis(lift(structures.positions).astype(np.float64), 0, -1)
    numbers = np.moveaxis(lift(structures.numbers), 0, -1)
    free = ~np.moveaxis(lift(structures.fixed), 0, -1)
    with jax.enable_x64(True):
        out = _relax_queue(
            potential, relaxer, jnp.asarray(positions), jnp.asarray(numbers), jnp.asarray(free[:, None], jnp.float64),
            fmax, max_steps, min(n_lanes, positions.shape[-1]),
        )  # fmt: skip
        out = [np.asarray(a) for a in out]
    out[0] = np.moveaxis(out[0], -1, 0)
    x, energy, largest, steps, status = (a[0] for a in out) if single else out
    done = Structure(x, structures.numbers, structures.cell, structures.fixed, structures.pbc)
    return Relaxed(done, energy, largest, steps, status)
