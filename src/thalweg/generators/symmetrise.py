"""Symmetrised moves: the core of a cluster is kept and its outer atoms are rearranged into orbits of a point group."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved
from thalweg.generators.sites import fill_up, gumbel
from thalweg.geometry import (
    centred,
    contact_energies,
    distances_from,
    landing_sites,
    random_direction,
    squared_distances,
)
from thalweg.structure import Structure
from thalweg.symmetry import GroupTable, group_table
from thalweg.system import System

#: Groups tried on a core; none of more than 24 operations, the cost grows with the largest (T and D5d lead to Ih).
CORE_GROUPS = ("C2", "C3", "C5", "C3v", "C5v", "C2v", "D2", "D3", "D5", "D2d", "D3h", "D3d", "D5h", "T", "Td", "Th", "O")


class Symmetrise(Generator):
    """Keep an inner core, fill up with orbits of the outer atoms and of surface sites under a random point group.

    The group's frame is hung on the core: its centre on the centroid of the core, its main axis on an atom, a bond or a
    triangle of the core, so that a symmetric core has a fair chance to meet its own group. Candidates (outer atoms and
    landing sites) are projected on the symmetry element they nearly lie on, which gives the special orbits; orbits are
    taken best contact first and only while they fit. After Oakley, Johnston and Wales, Phys. Chem. Chem. Phys. 15, 3965
    (2013), doi:10.1039/c3cp44332a, who let the core choose the group; here the group is drawn and the result judged by
    the search.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "symmetrise"
    groups: GroupTable
    nearest: float = 0.7  # closest distance of atoms of different orbits, in bonds
    snap: float = 0.45  # images this near (in bonds) are one atom on a symmetry element
    greed: float = 4.0  # how sharply better-bound candidates are preferred, per contact
    rays: int = eqx.field(static=True, default=40)

    def __init__(self, groups: tuple[str, ...] = CORE_GROUPS, nearest=0.7, snap=0.45, greed=4.0, rays=40):
        self.groups = group_table(tuple(groups))
        self.nearest, self.snap, self.greed, self.rays = nearest, snap, greed, rays

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        x, mask = centred(parent.positions, system.mask), system.mask
        n_slots, dtype = x.shape[0], x.dtype
        k_core, k_group, k_frame, k_rays, k_order = jr.split(key, 5)
        bond = jnp.asarray(system.bond, dtype)
        bonds = jnp.asarray(system.bond_lengths, dtype)

        # The core: the innermost atoms, a random share of them, about its own centroid.
        radius = jnp.where(mask, jnp.sqrt((x * x).sum(-1)), jnp.inf)
        share = jr.uniform(k_core, (), dtype, 0.1, 0.8)
        n_core = jnp.maximum(1, (share * system.n_atoms).astype(jnp.int32))
        rank = jnp.argsort(jnp.argsort(radius))
        inner = rank < n_core
        centre = jnp.where(inner[:, None], x, 0).sum(0) / n_core
        x = jnp.where(mask[:, None], x - centre, 0)

        table = jax.tree.map(lambda a: jnp.asarray(a)[jr.randint(k_group, (), 0, self.groups.n_groups)], self.groups)
        frame = core_frame(k_frame, x, inner, bond)
        ops = jnp.einsum("ji,ojk,kl->oil", frame, table.operations.astype(dtype), frame)
        real_op = jnp.arange(ops.shape[0]) < table.orders

        # Candidates: every atom of the parent and some surface sites, well-bound and inner ones first.
        sites = landing_sites(random_direction(k_rays, (self.rays,), dtype), x, bond, bonds, mask)
        points = jnp.concatenate([x, sites])
        usable = jnp.concatenate([mask, jnp.ones(self.rays, bool)])
        score = contact_energies(points, x, jnp.full(len(points), bond), bonds, mask)
        score = score - gumbel(k_order, score) / self.greed
        first = jnp.concatenate([inner, jnp.zeros(self.rays, bool)])
        merit = jnp.where(usable, score - 100.0 * first, jnp.inf)
        clash2 = (self.nearest * bond) ** 2

        def place(carry):
            filled, count, merit = carry
            k = jnp.argmin(merit)
            images = ops @ points[k]
            # Images that nearly coincide with the point are one atom on a symmetry element: take their mean.
            near = real_op & (distances_from(points[k], images) < (self.snap * bond) ** 2)
            images = ops @ (jnp.where(near[:, None], images, 0).sum(0) / near.sum())
            same = (squared_distances(images, images) < (0.1 * bond) ** 2) & real_op[None]
            distinct = real_op & (same.argmax(1) == jnp.arange(len(ops)))
            size = distinct.sum()
            own = jnp.where(distinct[1:], distances_from(images[0], images[1:]), jnp.inf).min()
            others = jnp.where(jnp.arange(n_slots) < count, distances_from(images[0], filled), jnp.inf).min()
            fits = (count + size <= system.n_atoms) & (jnp.minimum(own, others) > clash2)
            slot = jnp.where(distinct & fits, count + jnp.cumsum(distinct) - 1, n_slots)
            # Candidates that the new atoms cover are out, and so is this one, taken or not.
            covered = (jnp.where(real_op[None], squared_distances(points, images), jnp.inf).min(1) < clash2) & fits
            merit = jnp.where(covered | (jnp.arange(len(points)) == k), jnp.inf, merit)
            return filled.at[slot].set(images, mode="drop"), count + jnp.where(fits, size, 0), merit

        going = lambda c: (c[1] < system.n_atoms) & jnp.isfinite(c[2]).any()
        filled, count, _ = lax.while_loop(going, place, (jnp.zeros_like(x), 0, merit))
        return moved(parent, fill_up(k_rays, filled, count, system, self.rays))


def core_frame(key, x, inner, bond):
    """Rows are the axes of a frame hung on the core: z through an atom, bond or triangle of it, x through another atom."""
    k1, k2, k3 = jr.split(key, 3)
    dtype = x.dtype
    # The centroid of one to three neighbouring core atoms gives the main axis, another atom the second.
    away = ((x * x).sum(-1) > (0.3 * bond) ** 2) & inner
    pick = lambda k, allowed: jnp.argmax(jnp.where(allowed, jr.uniform(k, allowed.shape), -1))
    a = pick(k1, away)
    near = away & (((x - x[a]) ** 2).sum(-1) < (1.3 * bond) ** 2)
    k_b, k_c, k_n = jr.split(k2, 3)
    b = pick(k_b, near & (jnp.arange(len(x)) != a))
    c = pick(k_c, near & (((x - x[b]) ** 2).sum(-1) < (1.3 * bond) ** 2))
    n = jr.randint(k_n, (), 0, 3)
    z = x[a] + jnp.where(n > 0, x[b], 0) + jnp.where(n > 1, x[c], 0)
    z = jnp.where((z * z).sum() > 1e-4 * bond**2, z, random_direction(k3, (), dtype))
    z = z / jnp.sqrt((z * z).sum())
    u = x[pick(k3, away)]
    u = u - z * (u @ z)
    fallback = jnp.cross(z, jnp.where(jnp.abs(z[0]) < 0.9, jnp.eye(3, dtype=dtype)[0], jnp.eye(3, dtype=dtype)[1]))
    u = jnp.where((u * u).sum() > 1e-2 * bond**2, u, fallback)
    u = u / jnp.sqrt((u * u).sum())
    return jnp.stack([u, jnp.cross(z, u), z])
