"""Moves that change one structure: the steps of basin hopping."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved, refuse_cell
from thalweg.generators.sites import gumbel, settle, weakest
from thalweg.geometry import centred, contact_energies, in_ball, landing_sites, random_direction, rotation, traced_space
from thalweg.structure import Structure
from thalweg.system import System


class Displace(Generator):
    """Every atom moves by a random vector of length up to `step` bonds (Wales and Doye, doi:10.1021/jp970984n)."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "displace"
    step: float = 0.4

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x = parents.positions[0]
        return moved(parents[0], x + in_ball(key, x.shape[:1], x.dtype) * (self.step * system.bond).astype(x.dtype))


class Squeeze(Generator):
    """Positions scaled towards the centroid plus noise: compress, then relax.

    The scale is uniform between `factor` and `factor` + `spread` (1 - `factor`): with `spread` 1 anything up to no squeeze
    at all, with 0 always `factor`. The two-phase idea of Locatelli and Schoen, Comput. Optim. Appl. 21, 55 (2002),
    doi:10.1023/A:1013596313166, without a second potential: the relaxation from the compressed cluster is the second phase.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "squeeze"
    factor: float = 0.6
    noise: float = 0.2
    spread: float = 1.0

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        refuse_cell(system, self.name, "local-squeeze")
        k1, k2 = jr.split(key)
        x = centred(parents.positions[0], system.mask)
        scale = self.factor + self.spread * (1 - self.factor) * jr.uniform(k1, (), x.dtype)
        return moved(parents[0], x * scale + in_ball(k2, x.shape[:1], x.dtype) * (self.noise * system.bond).astype(x.dtype))


class Twist(Generator):
    """The atoms on one side of a random plane turn about its normal by a random angle."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "twist"

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        refuse_cell(system, self.name, "local-twist")
        k1, k2 = jr.split(key)
        x = centred(parents.positions[0], system.mask)
        axis = random_direction(k1, (), x.dtype)
        u = jr.uniform(k2, (2,), x.dtype)
        height = x @ axis
        cut = (2 * u[0] - 1) * 0.6 * jnp.abs(height).max()
        turned = x @ rotation(axis, 2 * jnp.pi * u[1]).T
        return moved(parents[0], jnp.where((height > cut)[:, None], turned, x))


class Relocate(Generator):
    """The most weakly bound atoms go to the best surface sites found by landing rays, one after the other.

    Weak and best are judged by contacts (`geometry.contact_energies`), not by the potential. `greed` is how sharply the
    better atom or site is preferred, per contact. In a periodic cell, which has no outside, on a template
    and in a region, sites are the points that touch three atoms (`sites.pockets`), `rays` triples of them.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "relocate"
    most: int = 3
    greed: float = 3.0
    rays: int = eqx.field(static=True, default=40)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_count, key = jr.split(key)
        n_moves = jr.randint(k_count, (), 1, self.most + 1)
        if any(system.pbc) or system.template is not None or system.region is not None:
            return moved(parents[0], self._in_cell(key, parents[0], system, n_moves))
        x0 = centred(parents.positions[0], system.mask)

        def one(i, x):
            k_atom, k_rays, k_site = jr.split(jr.fold_in(key, i), 3)
            atom = weakest(k_atom, x, system, self.greed)
            others = system.mask & (jnp.arange(x.shape[0]) != atom)
            bonds = jnp.asarray(system.bond_lengths, x.dtype)
            sites = landing_sites(random_direction(k_rays, (self.rays,), x.dtype), x, bonds[atom], bonds, others)
            score = contact_energies(sites, x, jnp.full(self.rays, bonds[atom]), bonds, others)
            best = jnp.argmin(score - gumbel(k_site, score) / (2 * self.greed))
            new = x.at[atom].set(sites[best])
            return jnp.where(i < n_moves, new, x)

        return moved(parents[0], lax.fori_loop(0, n_moves, one, x0))

    def _in_cell(self, key, parent: Structure, system: System, n_moves):
        space = traced_space(parent.cell, system.pbc)

        def one(i, x):
            k_atom, k_site = jr.split(jr.fold_in(key, i))
            atom = weakest(k_atom, x, system, self.greed, space)
            return settle(k_site, x, atom, system.mask, system, self.rays, 2 * self.greed, space)

        return lax.fori_loop(0, n_moves, one, parent.positions)


class Interior(Generator):
    """One of the most weakly bound atoms is pushed to a random place inside the cluster."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "interior"
    greed: float = 1.0
    depth: float = 0.5

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        refuse_cell(system, self.name, "relocate")
        x = centred(parents.positions[0], system.mask)
        k1, k2 = jr.split(key)
        atom = weakest(k1, x, system, self.greed)
        radius = jnp.sqrt((x * x).sum(-1).max())
        return moved(parents[0], x.at[atom].set(in_ball(k2, (), x.dtype) * radius * self.depth))


class Swap(Generator):
    """Pairs of atoms of different species exchange places (1 to `most` pairs)."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "swap"
    most: int = 2

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x0 = parents.positions[0]
        k_count, key = jr.split(key)
        n_swaps = jr.randint(k_count, (), 1, self.most + 1)
        numbers = jnp.asarray(system.numbers)

        def one(i, x):
            k1, k2 = jr.split(jr.fold_in(key, i))
            a = jnp.argmax(jnp.where(system.searched, jr.uniform(k1, system.mask.shape), -1))
            other = system.searched & (numbers != numbers[a])
            b = jnp.argmax(jnp.where(other, jr.uniform(k2, system.mask.shape), -1))
            b = jnp.where(other.any(), b, a)
            return x.at[a].set(x[b]).at[b].set(x[a])

        return moved(parents[0], lax.fori_loop(0, n_swaps, one, x0))
