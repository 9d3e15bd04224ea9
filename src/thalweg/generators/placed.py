"""Generators that place atoms one by one: on templates, in regions, and wherever distances must stay within limits.

What they make keeps `System.limits`: no two atoms nearer than the lower one, and each atom no farther than the upper one
from some other, in units of the mean bond length of a pair. Fixed heights stay: in a plane everything is drawn in it.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, confine, inside, moved
from thalweg.geometry import distances_from, in_ball, nearest_image, nearest_squared, random_direction, traced_space
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.system import System


class RandomPlaced(Generator):
    """Atoms in random order, each within the limits of one that is already there, in the region.

    The first is near the template, where the region reaches it; without a template anywhere in the region, in the cell, or
    at the origin. A point is drawn at a random distance and direction from a random atom that is there, `tries` of them at
    once, `rounds` times; where none fits, the whole structure is begun again, at most `restarts` times. If that does not
    help either, atoms without a place take the point with the most room: a start too dense to be made at random.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "random-placed"
    tries: int = eqx.field(static=True, default=32)
    rounds: int = eqx.field(static=True, default=8)
    restarts: int = eqx.field(static=True, default=5)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        dtype = parent.positions.dtype
        n = parent.positions.shape[0]
        space = traced_space(parent.cell, system.pbc)
        home = parent.positions if system.positions is None else jnp.asarray(system.positions).astype(dtype)
        searched = jnp.asarray(system.searched)
        k_order, k_place = jr.split(key)
        reach = _reachable(home, system, space)

        def attempt(carry):
            _, _, trial = carry
            k = jr.fold_in(k_place, trial)
            order = jnp.argsort(jnp.where(searched, jr.uniform(jr.fold_in(k_order, trial), (n,)), 2.0))

            def one(i, carry):
                x, there, misfits = carry
                atom = order[i]
                point, fits = self._place(jr.fold_in(k, i), x, there, atom, reach, system, space)
                return x.at[atom].set(point), there.at[atom].set(True), misfits + ~fits

            there = jnp.asarray(system.mask) & ~searched
            return *lax.fori_loop(0, searched.sum(), one, (home, there, jnp.zeros((), jnp.int32)))[::2], trial + 1

        start = (home, jnp.ones((), jnp.int32), jnp.zeros((), jnp.int32))
        x, _, _ = lax.while_loop(lambda c: (c[1] > 0) & (c[2] < self.restarts), attempt, start)
        return moved(parent, x)

    def _place(self, key, x, there, atom, reach, system: System, space: Space | None):
        """A point (3,) for `atom` beside those that are `there`, and whether it keeps the limits."""
        low, high = system.limits
        bonds = jnp.asarray(system.bond_lengths, x.dtype)
        pair = (bonds[atom] + bonds) / 2
        anchors = there & (reach | jnp.asarray(system.searched))
        alone = ~anchors.any()

        def round_(carry):
            trial, best, best_room, found = carry
            k_anchor, k_shell, k_free, k_way = jr.split(jr.fold_in(key, trial), 4)
            weight = jnp.where(anchors, jr.uniform(k_anchor, (self.tries, len(bonds)), x.dtype), -1)
            anchor = jnp.argmax(weight, 1)
            # Uniform in the volume of the shell: as many points for every bit of it.
            u = jr.uniform(k_shell, (self.tries, 1), x.dtype)
            length = jnp.cbrt(low**3 + u * (high**3 - low**3)) * pair[anchor][:, None]
            way = random_direction(k_way, (self.tries,), x.dtype)
            beside = x[anchor] + length * _flat(way, system)
            points = jnp.where(alone, _anywhere(k_free, self.tries, system, space, x.dtype), beside)
            if system.region is not None and system.region.dimensions == 2:
                points = points.at[:, 2].set(jnp.asarray(system.region.centre, x.dtype)[2])
            within = inside(points, system, space)
            ratio = jnp.sqrt(nearest_squared(points, x, space)) / pair
            ratio = jnp.where(there, ratio, jnp.inf).min(1)
            fits = within & (ratio >= low) & ((ratio <= high) | alone)
            room = jnp.where(fits, jnp.inf, jnp.where(within, jnp.minimum(ratio, high), -0.5))
            choice = jnp.argmax(room)
            room = room[choice]
            better = room > best_room
            point = jnp.where(better, points[choice], best)
            return trial + 1, point, jnp.maximum(room, best_room), found | fits.any()

        begun = (jnp.zeros((), jnp.int32), x[atom], jnp.asarray(-1.0, x.dtype), jnp.zeros((), bool))
        _, point, _, found = lax.while_loop(lambda c: (c[0] < self.rounds) & ~c[3], round_, begun)
        return point, found


class Rattle(Generator):
    """A random `share` of the atoms (one at least) moves by up to `amplitude` bonds, within the limits and the region.

    Each goes to the first of `tries` random points, uniform in a ball about where it was (in a plane: a disc), that is
    neither too near to another atom nor far from all; one that finds none stays.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "rattle"
    amplitude: float = 1.0
    share: float = 0.4
    tries: int = eqx.field(static=True, default=32)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x0 = parents.positions[0]
        dtype, n = x0.dtype, x0.shape[0]
        space = traced_space(parents.cell[0], system.pbc)
        k_choice, k_step = jr.split(key)
        searched = jnp.asarray(system.searched)
        u = jnp.where(searched, jr.uniform(k_choice, (n,), dtype), 2.0)
        chosen = searched & ((u < self.share) | (jnp.arange(n) == jnp.argmin(u)))
        order = jnp.argsort(jnp.where(chosen, u, 3.0))
        step = (self.amplitude * system.bond).astype(dtype)
        return moved(parents[0], shaken(k_step, x0, order, chosen.sum(), step, self.tries, system, space))


class Permute(Generator):
    """Pairs of searched atoms of different species exchange places, 1 to `most` pairs; near ones more often.

    The second of a pair is drawn by exp(-distance / `reach` bonds): exchanges of neighbours change least and succeed most,
    all others remain possible.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "permutation"
    most: int = 2
    reach: float = 2.0

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x0 = parents.positions[0]
        space = traced_space(parents.cell[0], system.pbc)
        numbers, searched = jnp.asarray(system.numbers), jnp.asarray(system.searched)
        length = (self.reach * system.bond).astype(x0.dtype)
        k_count, key = jr.split(key)

        def one(i, x):
            k1, k2 = jr.split(jr.fold_in(key, i))
            a = jnp.argmax(jnp.where(searched, jr.uniform(k1, searched.shape), -1))
            other = searched & (numbers != numbers[a])
            noise = -jnp.log(-jnp.log(jr.uniform(k2, searched.shape, x.dtype, minval=1e-6)))
            merit = noise - jnp.sqrt(distances_from(x[a], x, space)) / length
            b = jnp.where(other.any(), jnp.argmax(jnp.where(other, merit, -jnp.inf)), a)
            return x.at[a].set(x[b]).at[b].set(x[a])

        return moved(parents[0], lax.fori_loop(0, jr.randint(k_count, (), 1, self.most + 1), one, x0))


def shaken(key, x, order, count, reach, tries: int, system: System, space: Space | None):
    """Positions (atoms, 3) with the first `count` atoms of `order` moved one after the other by up to `reach`.

    Each goes to the first of `tries` random points about where it was that is in the region and within the limits, neither
    too near to another atom nor far from all; one that finds none stays.
    """
    bonds = jnp.asarray(system.bond_lengths, x.dtype)

    def one(i, x):
        atom = order[i]
        points = x[atom] + _disc(jr.fold_in(key, i), tries, system, x.dtype) * reach
        ratio = jnp.sqrt(nearest_squared(points, x, space)) / ((bonds[atom] + bonds) / 2)
        others = jnp.asarray(system.mask) & (jnp.arange(len(x)) != atom)
        ratio = jnp.where(others, ratio, jnp.inf).min(1)
        fits = (ratio >= system.limits[0]) & ((ratio <= system.limits[1]) | ~others.any()) & inside(points, system, space)
        return x.at[atom].set(jnp.where(fits.any(), points[jnp.argmax(fits)], x[atom]))

    return lax.fori_loop(0, count, one, x)


def _flat(v, system: System):
    """Directions (..., 3), brought into the plane where the region is one."""
    if system.region is None or system.region.dimensions == 3:
        return v
    v = v.at[..., 2].set(0)
    return v / jnp.sqrt(jnp.maximum((v * v).sum(-1, keepdims=True), 1e-12))


def _disc(key, count: int, system: System, dtype):
    """Points (count, 3) uniform in the unit ball, or in the unit disc where the region is a plane."""
    if system.region is None or system.region.dimensions == 3:
        return in_ball(key, (count,), dtype)
    k1, k2 = jr.split(key)
    return _flat(random_direction(k1, (count,), dtype), system) * jnp.sqrt(jr.uniform(k2, (count, 1), dtype))


def _reachable(home, system: System, space: Space | None):
    """True (atoms,) for template atoms from which a bond reaches into the region."""
    template = jnp.asarray(system.mask) & ~jnp.asarray(system.searched)
    if system.region is None:
        return template
    bonds = jnp.asarray(system.bond_lengths, home.dtype)
    longest = jnp.where(jnp.asarray(system.searched), bonds, 0).max()
    nearest = confine(home, system, space)
    gap = nearest_image(nearest - home, space)
    return template & ((gap * gap).sum(1) < (system.limits[1] * (longest + bonds) / 2) ** 2)


def _anywhere(key, count: int, system: System, space: Space | None, dtype):
    """Points (count, 3) for an atom that has none to be near: in the region, in the cell, or at the origin."""
    if system.region is not None:
        return system.region.sample(key, (count,), dtype)
    if space is None:
        return jnp.zeros((count, 3), dtype)
    u = jr.uniform(key, (count, 3), dtype)
    # Along axes without periodicity in the middle of the cell's vector.
    return jnp.where(jnp.asarray(system.pbc), u, 0.5) @ jnp.asarray(system.cell, dtype)
