"""The device driver: many relaxations side by side, each lane reloaded as soon as its structure is done.

A lock-step batch waits for its slowest member and wastes half the work. Here all lanes step together, and lanes that
finished are frozen until the caller loads the next structure into them: from a queue (`relax`), or from the search that
proposes it (`thalweg.search.fused`).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.relax.base import CONVERGED, FAILED, RUNNING, STEP_LIMIT, Relaxer, largest_norm
from thalweg.structure import Structure
from thalweg.typing import Array, PyTree

#: Steps between two looks at which lanes are done. Small against a relaxation (some 100), large against the look's cost.
CHUNK = 4


class Lanes(eqx.Module):
    """Structures under relaxation, lanes last. `positions` are those `energy` and `forces` belong to once done."""

    positions: Array  # (atoms, 3, lanes)
    energy: Array  # (lanes,)
    forces: Array  # (atoms, 3, lanes)
    status: Array  # (lanes,) RUNNING, CONVERGED, STEP_LIMIT or FAILED
    steps: Array  # (lanes,) evaluations spent on the structure in the lane
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
            energy=out.energy,  # a lane that is done stays where it is, so this is the same energy again
            forces=forces,
            status=status,
            steps=steps,
            state=state,
        )

    return lax.fori_loop(0, n_steps, one, lanes)


class Relaxation(eqx.Module):
    """What evaluating a proposal means: a local minimisation of `potential` by `relaxer`.

    Stops at max |F| < `fmax` (eV/Å, or the potential's reduced units) or after `max_steps` evaluations per structure.
    """

    potential: Potential
    relaxer: Relaxer
    fmax: float = 1e-5
    max_steps: int = 2000


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
def _relax_queue(relaxation: Relaxation, positions, numbers, free, count, n_lanes: int):
    """Relax the first `count` of `positions` (atoms, 3, queue) in `n_lanes` lanes, reloaded inside the loop."""
    potential, relaxer = relaxation.potential, relaxation.relaxer
    n = positions.shape[2]
    lanes = empty_lanes(relaxer, positions.shape[0], n_lanes, positions.dtype)
    held = jnp.full(n_lanes, n)  # which structure of the queue each lane holds; n: none
    zero, none = jnp.zeros(n, positions.dtype), jnp.zeros(n, jnp.int32)
    out = (positions, zero, zero, none, none)

    def refill(carry):
        lanes, held, following, out = carry
        done = lanes.status != RUNNING
        where = jnp.where(done, held, n)  # n is out of range and dropped
        results = (lanes.positions, lanes.energy, largest_norm(lanes.forces), lanes.steps, lanes.status)
        out = jax.tree.map(lambda a, v: a.at[..., where].set(v, mode="drop"), out, results)
        following_of_lane = following + jnp.cumsum(done) - 1
        held = jnp.where(done, jnp.where(following_of_lane < count, following_of_lane, n), held)
        fresh = done & (held < n)
        lanes = load(lanes, relaxer, fresh, positions[..., jnp.minimum(held, n - 1)])
        return lanes, held, jnp.minimum(following + done.sum(), count), out

    def body(carry):
        lanes, held, following, out = carry
        index = jnp.minimum(held, n - 1)
        lanes = advance(lanes, potential, relaxer, numbers[..., index], free[..., index], relaxation.fmax, relaxation.max_steps)
        done = (lanes.status != RUNNING) & (held < n)
        return lax.cond(done.any(), refill, lambda c: c, (lanes, held, following, out))

    carry = refill((lanes, held, jnp.zeros_like(count), out))
    carry = lax.while_loop(lambda c: (c[1] < n).any(), body, carry)
    return carry[3]


def relax(structures: Structure, relaxation: Relaxation, n_lanes: int = 32) -> Relaxed:
    """Relax a structure or a one-axis batch in float64 until max |F| < `relaxation.fmax`.

    Never raises for a structure that fails: its `status` says so (`thalweg.relax.base.STATUS_NAMES`) and its energy is
    as the potential gave it. Batches are padded to powers of two, so that few sizes are ever compiled.
    """
    if len(structures.batch) > 1:
        raise StructureError(f"relax takes one structure or one batch axis, not batch shape {structures.batch}")
    single = not structures.batch
    count = 1 if single else len(structures)
    queue = 1 if single else max(n_lanes, 1 << (count - 1).bit_length())
    last = lambda a: np.moveaxis(np.asarray(a)[None] if single else np.asarray(a), 0, -1)
    fill = lambda a: np.concatenate([a, np.repeat(a[..., :1], queue - count, -1)], -1)
    with jax.enable_x64(True):
        positions = fill(last(structures.positions)).astype(np.float64)
        out = _relax_queue(
            as_leaves(relaxation, np.float64),
            jnp.asarray(positions),
            jnp.asarray(fill(last(structures.numbers))),
            jnp.asarray(~fill(last(structures.fixed))[:, None], jnp.float64),
            np.asarray(count),
            min(n_lanes, queue),
        )
        arrays = [np.moveaxis(np.asarray(a), -1, 0)[:count] for a in out]
    x, energy, largest, steps, status = (a[0] for a in arrays) if single else arrays
    done = Structure(x, structures.numbers, structures.cell, structures.fixed, structures.pbc)
    return Relaxed(done, energy, largest, steps, status)
