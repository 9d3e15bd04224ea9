"""Long relaxations, such as annealings, that the host looks at now and then: progress, and an end before the end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.leaves import as_leaves
from thalweg.potentials.neighbors import grown, neighbors_for, worthwhile
from thalweg.relax.base import RUNNING, largest_norm
from thalweg.relax.driver import CHUNK, Lanes, Relaxation, Relaxed, advance, empty_lanes, load, unpacked
from thalweg.structure import Structure


@eqx.filter_jit
def _onward(relaxation: Relaxation, lanes: Lanes, numbers, free, space, most):
    """At most `most` steps in all lanes, fewer once every lane is done."""

    def more(carry):
        taken, lanes = carry
        going = (taken < most) & (lanes.status == RUNNING).any()
        return going if lanes.neighbors is None else going & ~lanes.neighbors.overflow

    def body(carry):
        taken, lanes = carry
        return taken + CHUNK, advance(lanes, relaxation, numbers, free, space)

    return lax.while_loop(more, body, (jnp.zeros_like(most), lanes))[1]


def visits(structures: Structure, relaxation: Relaxation, precision: str = "float64", every: float = 1.0) -> Iterator[Relaxed]:
    """Relax a batch (one axis) side by side; what it has come to about `every` seconds, the last time when all are done.

    Those that still go on have the status `RUNNING` and coordinates of their way. Large structures, for which neighbour
    lists pay, are for batches of one. The first visit is short: it tells what a step costs.
    """
    dtype = np.dtype(precision)
    n = len(structures)
    space = relaxation.space(structures.cell, structures.pbc)
    listed = n == 1 and worthwhile(structures.n_slots, space, relaxation.potential.reach)
    last = lambda a: np.moveaxis(np.asarray(a), 0, -1)
    common = lambda a: a[..., :1] if (a == a[..., :1]).all() else a
    if space is not None and not relaxation.filter.moves_cell:
        space = eqx.tree_at(lambda s: s.cell, space, common(space.cell))
    with jax.enable_x64(dtype == np.float64):
        relaxation, space = as_leaves((relaxation, space), dtype)
        positions = jnp.asarray(last(structures.positions), dtype)
        numbers = jnp.asarray(common(last(structures.numbers)))
        free = jnp.asarray(~common(last(structures.fixed))[:, None], dtype)
        lanes = empty_lanes(relaxation, structures.n_slots, n, dtype, space)
        cells = None if space is None else jnp.broadcast_to(space.cell, (3, 3, n)).astype(dtype)
        lanes = load(lanes, relaxation, jnp.ones(n, bool), positions, cells)
        if listed:
            table = neighbors_for(relaxation.potential, positions, numbers, space)
            lanes = eqx.tree_at(lambda k: k.neighbors, lanes, table, is_leaf=lambda k: k is None)
    most = CHUNK
    while True:
        begun = time.perf_counter()
        with jax.enable_x64(dtype == np.float64):
            after = _onward(relaxation, lanes, numbers, free, space, np.int32(most))
            if after.neighbors is not None and after.neighbors.overflow:
                # What was computed since means nothing: again from before, with a larger list.
                lanes = eqx.tree_at(lambda k: k.neighbors, lanes, grown(after.neighbors))
                continue
            x, cell = unpacked(after, relaxation, numbers)
            largest = np.asarray(largest_norm(after.forces))
        first = lambda a: np.moveaxis(np.asarray(a), -1, 0)
        lanes, status = after, np.asarray(after.status)
        spent = time.perf_counter() - begun
        cell = first(cell) if relaxation.filter.moves_cell else np.asarray(structures.cell)
        done = Structure(first(x), structures.numbers, cell, structures.fixed, structures.pbc)
        yield Relaxed(done, np.asarray(after.energy), largest, np.asarray(after.steps), status)
        if not (status == RUNNING).any():
            return
        factor = np.clip(every / max(spent, 1e-6), 0.5, 8.0)  # the first time compiles, and may have looked slow
        most = int(np.clip(most * factor, CHUNK, 2**30)) // CHUNK * CHUNK
