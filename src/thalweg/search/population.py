"""Populations of minima that walkers share: who is in, who is a duplicate, who becomes a parent."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.generators.sites import gumbel
from thalweg.geometry import squared_distances, traced_space
from thalweg.system import System

#: Distances that `pair_histogram` counts, in mean bond lengths: from contact to the fourth shell of neighbours.
NEAREST, FARTHEST, WIDTH = 0.7, 3.7, 0.125
_BINS = int((FARTHEST - NEAREST) / WIDTH) + 1


def pair_histogram(x, cell, system: System):
    """Numbers (d,) that two descriptions of one structure (atoms, 3) share: a smooth histogram of distances, per atom.

    Pairs are counted three times, with weights that tell species apart. In a cell only the nearest image of a pair
    counts. Traceable and cheap; `thalweg.similarity` is the exact comparison, on the host. Variables of a function, which
    share nothing, give random projections, in lengths of the system.
    """
    if system.variables is not None:
        return _projections(x.ravel()[: system.variables], system)
    mask, numbers = system.mask, jnp.asarray(system.numbers)
    space = traced_space(cell, system.pbc)
    bond = jnp.asarray(system.bond, x.dtype)
    pair = mask[:, None] & mask & ~jnp.eye(len(mask), dtype=bool)
    d2 = jnp.where(pair, squared_distances(x, x, space), 1)
    r = jnp.sqrt(d2) / bond
    kind = jnp.sin(1.7 * numbers.astype(x.dtype))  # different for any two species, of order 1
    weights = jnp.stack([jnp.ones_like(r), kind[:, None] * kind, (kind[:, None] + kind) / 2])
    weights = jnp.where(pair, weights, 0).reshape(3, -1)
    centres = NEAREST + WIDTH * jnp.arange(_BINS, dtype=x.dtype)
    peaks = jnp.exp(-(((r.reshape(-1, 1) - centres) / WIDTH) ** 2) / 2)
    return ((weights @ peaks) / mask.sum()).ravel()


def _projections(x, system: System):
    """Numbers (d,) between which vectors that differ in any variable differ by about as much."""
    ways = np.random.default_rng(0).choice([-1.0, 1.0], size=(n_features(), len(x)))
    return jnp.asarray(ways, x.dtype) @ x / jnp.asarray(system.bond, x.dtype)


def n_features() -> int:
    """Length of `pair_histogram`."""
    return 3 * _BINS


class Pool(eqx.Module):
    """Populations; every leaf has a leading axis of populations. Places with infinite energy are empty."""

    positions: jax.Array  # (populations, size, atoms, 3)
    cell: jax.Array  # (populations, size, 3, 3)
    energy: jax.Array  # (populations, size)
    feature: jax.Array  # (populations, size, d)

    @classmethod
    def empty(cls, system: System, populations: int, size: int, dtype) -> Pool:
        """Populations without anyone."""
        shape = (populations, size)
        cell = jnp.broadcast_to(jnp.asarray(system.cell, dtype), (*shape, 3, 3))
        positions = jnp.zeros((*shape, len(system.numbers), 3), dtype)
        return cls(positions, cell, jnp.full(shape, jnp.inf, dtype), jnp.zeros((*shape, n_features()), dtype))


def admit(pool: Pool, p, positions, cell, energy, feature, good, similar) -> Pool:
    """The pool after one structure asked to enter population `p`.

    It replaces its duplicates (features nearer than `similar`) if it is lower than all of them; without duplicates it
    takes an empty place, or that of the highest if it is lower.
    """
    energies = pool.energy[p]
    far = jnp.abs(pool.feature[p] - feature).max(-1)
    twins = jnp.isfinite(energies) & (far < similar)
    rival = jnp.where(twins.any(), jnp.where(twins, energies, jnp.inf).min(), energies.max())
    enters = good & (energy < rival)
    place = jnp.where(twins.any(), jnp.argmin(jnp.where(twins, far, jnp.inf)), jnp.argmax(energies))
    # A lower twin may be near to two that were apart: all of them go.
    energies = jnp.where(twins & enters, jnp.inf, energies)
    old = Pool(pool.positions[p, place], pool.cell[p, place], energies[place], pool.feature[p, place])
    new = jax.tree.map(lambda a, b: jnp.where(enters, a, b), Pool(positions, cell, energy, feature), old)
    return Pool(
        pool.positions.at[p, place].set(new.positions),
        pool.cell.at[p, place].set(new.cell),
        pool.energy.at[p].set(energies.at[place].set(new.energy)),
        pool.feature.at[p, place].set(new.feature),
    )


def fitness(energy):
    """Fitness (size,) between 0 and 1 of energies (size,), 0 for empty places.

    A smooth step in the energy between the lowest and the highest of the population (Vilhelmsen and Hammer, J. Chem.
    Phys. 141, 044711 (2014), doi:10.1063/1.4886337).
    """
    there = jnp.isfinite(energy)
    low = jnp.where(there, energy, jnp.inf).min()
    high = jnp.where(there, energy, -jnp.inf).max()
    share = (energy - low) / jnp.maximum(high - low, 1e-12)
    return jnp.where(there, (1 - jnp.tanh(2 * jnp.where(there, share, 0) - 1)) / 2, 0)


def parents(key, energy):
    """Places of two different members drawn by fitness; the same twice where there is only one."""
    k_first, k_second = jax.random.split(key)
    chance = jnp.log(fitness(energy))
    first = jnp.argmax(chance + gumbel(k_first, energy))
    others = jnp.where(jnp.arange(len(energy)) == first, -jnp.inf, chance)
    others = jnp.where(jnp.isfinite(others).any(), others, chance)
    return first, jnp.argmax(others + gumbel(k_second, energy))
