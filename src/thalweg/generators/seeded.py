"""Starts made from known structures: those of a neighbouring size, or a user's own."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator, moved
from thalweg.generators.sites import fill_up, weakest
from thalweg.geometry import centred
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, Float, Int


class Seeded(Generator):
    """One of the `seeds`, brought to the system's size: the weakest atoms leave, or atoms land on the best sites.

    `positions` (seeds, slots, 3) holds `counts` (seeds,) atoms each. Sweeping up and down from neighbouring sizes is how
    the published tables of cluster minima were completed (Northby; Wales and Doye).
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "seeded"
    positions: Float[Array, "seeds slots 3"]
    counts: Int[Array, " seeds"]
    greed: float = 3.0
    rays: int = eqx.field(static=True, default=40)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        dtype = parent.positions.dtype
        k_seed, k_remove, k_add = jr.split(key, 3)
        seed = jr.randint(k_seed, (), 0, len(self.counts))
        x, count = jnp.asarray(self.positions, dtype)[seed], jnp.asarray(self.counts)[seed]
        n_slots = parent.positions.shape[0]
        width = max(n_slots, x.shape[0])
        x = jnp.pad(x, ((0, width - x.shape[0]), (0, 0)))

        def remove(i, x):
            # The weakest of the atoms left goes to the end of those left, and out of the count.
            left = count - i
            numbers = jnp.where(jnp.arange(width) < left, 0, -1)
            here = System(numbers, jnp.full(width, system.bond, dtype), jnp.zeros(width, bool), system.cell)
            atom = weakest(jr.fold_in(k_remove, i), x, here, self.greed)
            last = x[left - 1]
            return x.at[left - 1].set(x[atom]).at[atom].set(last)

        surplus = jnp.maximum(count - system.n_atoms, 0)
        kept = count - surplus
        x = lax.fori_loop(0, surplus, remove, x)[:n_slots]
        x = fill_up(k_add, centred(x, jnp.arange(n_slots) < kept), kept, system, self.rays)
        return moved(parent, centred(x, system.mask))


def seeds_from(structures: list[np.ndarray], n_slots: int) -> Seeded:
    """`Seeded` from position arrays (atoms, 3) of any sizes up to `n_slots`."""
    padded = np.zeros((len(structures), n_slots, 3))
    for k, x in enumerate(structures):
        padded[k, : len(x)] = x
    return Seeded(padded, np.array([len(x) for x in structures], np.int32))


class Given(Generator):
    """One of the given structures as it is, of the system's own composition and in the system's order of species.

    `positions` (structures, atoms, 3) and `cells` (structures, 3, 3): a liquid to be quenched, a crystal to be improved.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "given"
    positions: Float[Array, "structures atoms 3"]
    cells: Float[Array, "structures 3 3"]

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        which = jr.randint(key, (), 0, self.positions.shape[0])
        pick = lambda a: jnp.asarray(a, parent.positions.dtype)[which]
        extra = parent.positions.shape[0] - self.positions.shape[1]
        positions = jnp.pad(pick(self.positions), ((0, extra), (0, 0)))
        return Structure(positions, parent.numbers, pick(self.cells), parent.fixed, parent.pbc)


def given(structures: list[Structure], system: System) -> Given:
    """`Given` from single structures; raises `InputError` where one has another composition or, being fixed, another cell."""
    wanted = np.asarray(system.numbers)
    wanted = wanted[wanted >= 0]
    positions, cells = [], []
    for k, structure in enumerate(structures):
        order = np.argsort(np.asarray(structure.numbers), kind="stable")
        if np.array_equal(structure.numbers, wanted):  # with a template the order is not by species
            order = np.arange(len(wanted))
        if not np.array_equal(np.asarray(structure.numbers)[order], wanted):
            raise InputError(f"structure {k} to start from has another composition than the system")
        positions.append(np.asarray(structure.positions)[order])
        cells.append(np.asarray(structure.cell) if any(structure.pbc) else np.asarray(system.cell))
    return Given(np.stack(positions), np.stack(cells))
