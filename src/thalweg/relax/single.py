"""Energies, forces and virials of many structures as they are, compiled and in float64."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.potentials.base import Evaluation, Potential
from thalweg.potentials.neighbors import neighbors_for, worthwhile
from thalweg.structure import Structure


@eqx.filter_jit
def _evaluate(potential: Potential, positions, numbers, space, neighbors):
    return potential.lanes(positions, numbers, space, neighbors, virial=space is not None)


def single_points(structures: Structure, potential: Potential) -> Evaluation:
    """The `Evaluation` of a batch (one axis) in NumPy arrays, batch in front; the virial is None for free clusters.

    `Potential.evaluate` does the same step by step and without compiling, which suits one structure. Large structures are
    taken one after the other with neighbour lists. Raises `InputError` or `StructureError` for cells that cannot be summed.
    """
    space = potential.space(structures.cell, structures.pbc)
    if worthwhile(structures.n_slots, space, potential.reach) and len(structures) > 1:
        each = [single_points(structures[k : k + 1], potential) for k in range(len(structures))]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *each)
    last = lambda a: np.moveaxis(np.asarray(a), 0, -1)
    with jax.enable_x64(True):
        positions, numbers = jnp.asarray(last(structures.positions), jnp.float64), jnp.asarray(last(structures.numbers))
        traced, space = as_leaves((potential, space), np.float64)
        listed = worthwhile(structures.n_slots, space, potential.reach)
        neighbors = neighbors_for(potential, positions, numbers, space) if listed else None
        out = _evaluate(traced, positions, numbers, space, neighbors)
        return jax.tree.map(lambda a: np.moveaxis(np.asarray(a), -1, 0), out)
