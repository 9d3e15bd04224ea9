"""Which atoms sit badly and where others could sit: choices that several generators make."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import inside
from thalweg.geometry import (
    contact_energies,
    distances_from,
    landing_sites,
    nearest_image,
    random_direction,
    squared_distances,
    touching_points,
)
from thalweg.space import Space
from thalweg.system import System


def gumbel(key, like):
    """Gumbel noise of the shape of `like`: argmax(a + gumbel) draws from softmax(a)."""
    u = jr.uniform(key, like.shape, like.dtype, minval=1e-6)
    return -jnp.log(-jnp.log(u))


def weakest(key, x, system: System, greed: float, space: Space | None = None):
    """Index of an atom drawn with a preference for few contacts (softmax of `greed` x contact energy)."""
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    energy = contact_energies(x, x, bonds, bonds, system.mask, space=space)
    return jnp.argmax(jnp.where(system.searched, greed * energy + gumbel(key, energy), -jnp.inf))


def fill_up(key, x, count, system: System, rays: int):
    """Put the atoms that are still missing, from `count` on, one by one on the best landing site."""
    dtype = x.dtype
    bonds = jnp.asarray(system.bond_lengths, dtype)

    def one(i, x):
        placed = jnp.arange(x.shape[0]) < i
        directions = random_direction(jr.fold_in(key, i), (rays,), dtype)
        sites = landing_sites(directions, x, bonds[i], bonds, placed)
        score = contact_energies(sites, x, jnp.full(rays, bonds[i]), bonds, placed)
        return x.at[i].set(sites[jnp.argmin(score)])

    return lax.fori_loop(count, system.n_atoms, one, x)


def draw_of(u, allowed):
    """One index per row of `allowed` (rows, n), uniform among the True ones, from uniform numbers `u` (rows,)."""
    rank = jnp.cumsum(allowed, 1)
    wanted = 1 + (u * rank[:, -1]).astype(rank.dtype)
    return jnp.argmax(rank == jnp.minimum(wanted, rank[:, -1])[:, None], 1)


def pockets(key, x, bond, bonds, mask, count: int, space: Space | None):
    """Points (2 * count, 3) where a probe touches three atoms at once, and their binding (hard contacts, lower is better).

    In a cell there is no outside from which a probe could land. Here a random atom, a neighbour of it and a common
    neighbour of both span a triangle, and the probe touches all three on either side of it: every surface site, vacancy
    and hole is such a point. `bond` is the probe's bond length, `mask` says which of the atoms are there.
    """
    ua, ub, uc = jr.uniform(key, (3, count), x.dtype)
    a = draw_of(ua, jnp.broadcast_to(mask, (count, len(mask))))
    contact = (bond + bonds) / 2  # from the probe to each atom
    from_a = squared_distances(x[a], x, space)
    # Corners farther apart than the probe's diameter would leave it no place in between.
    near = lambda d2, k: mask & (d2 < (0.95 * (contact[k, None] + contact)) ** 2) & (jnp.arange(len(mask)) != k[:, None])
    near_a = near(from_a, a)
    b = draw_of(ub, near_a)
    near_b = near(squared_distances(x[b], x, space), b)
    c = draw_of(uc, near_a & near_b)
    at = lambda k: x[a] + nearest_image(x[k] - x[a], space)
    points, exist = touching_points(x[a], at(b), at(c), contact[a], contact[b], contact[c])
    points = points.reshape(-1, 3)
    score = contact_energies(points, x, jnp.full(2 * count, bond), bonds, mask, hard=True, space=space)
    exist = exist & (b != a) & (c != a) & (b != c)
    return points, jnp.where(jnp.concatenate([exist, exist]), score, 1e4)


def settle(key, x, atom, placed, system: System, rays: int, greed: float, space: Space | None):
    """Positions with `atom` moved to one of the best pockets of the `placed` atoms, not its own; `greed` is per contact."""
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    k_sites, k_choice = jr.split(key)
    others = placed & (jnp.arange(len(placed)) != atom)
    points, score = pockets(k_sites, x, bonds[atom], bonds, others, rays, space)
    own = distances_from(x[atom], points, space) < (0.5 * bonds[atom]) ** 2
    if system.region is not None:
        score = jnp.where(inside(points, system, space), score, 1e4)
    best = jnp.argmin(jnp.where(own, 1e3, score) - gumbel(k_choice, score) / greed)
    return x.at[atom].set(jnp.where(score[best] < 1e3, points[best], x[atom]))
