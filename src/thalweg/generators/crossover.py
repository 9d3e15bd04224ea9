"""Crossover: one structure from the pieces of two."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from thalweg.generators.base import Generator, moved
from thalweg.geometry import centred, nearest_image, random_direction, random_rotation, squared_distances, traced_space, unit
from thalweg.structure import Structure
from thalweg.system import System


class CutAndSplice(Generator):
    """One piece of the first parent and the complementary piece of the second, with exactly the system's composition.

    Deaven and Ho, Phys. Rev. Lett. 75, 288 (1995), doi:10.1103/PhysRevLett.75.288. Free clusters are turned at random
    and cut by a plane; each species gives as many atoms from above the plane of the first parent as are needed to be
    filled up by the lowest of the second, which shifts the second's plane. Cells are cut by two planes across a random
    periodic vector after random shifts, as by Glass, Oganov and Hansen, Comput. Phys. Commun. 175, 713 (2006),
    doi:10.1016/j.cpc.2006.07.020. Where there is a template only the added atoms are exchanged, by a plane that holds the
    vertical (Vilhelmsen and Hammer, J. Chem. Phys. 141, 044711 (2014), doi:10.1063/1.4886337). Of `tries` cuts the first
    without atoms nearer than the system's limit is taken, or else the one with the widest gaps.
    """

    n_parents: ClassVar[int] = 2
    name: ClassVar[str] = "cut-and-splice"
    tries: int = eqx.field(static=True, default=6)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        space = traced_space(parents.cell[0], system.pbc)

        def attempt(key):
            child = splice(key, parents, system)
            return child, narrowest(child, system, space)

        children, gaps = jax.vmap(attempt)(jr.split(key, self.tries))
        best = jnp.argmax(jnp.minimum(gaps, system.limits[0]))  # the first of equals
        return moved(parents[0], children[best])


def exchanged(system: System):
    """True for atoms (atoms,) that change parents: neither fixed nor of a template."""
    part = system.mask & ~jnp.asarray(system.fixed)
    return part if system.template is None else part & ~jnp.asarray(system.template)


def narrowest(x, system: System, space):
    """Smallest distance of a pair in units of the mean of its bond lengths; pairs within the template do not count."""
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    part = exchanged(system)
    counts = (system.mask[:, None] & system.mask) & (part[:, None] | part) & ~jnp.eye(x.shape[0], dtype=bool)
    ratio2 = squared_distances(x, x, space) / ((bonds[:, None] + bonds) / 2) ** 2
    return jnp.sqrt(jnp.where(counts, ratio2, jnp.inf).min())


def splice(key, parents: Structure, system: System):
    """Positions (atoms, 3) of a child by one random cut."""
    k_cut, k_frame = jr.split(key)
    frame = _cell if any(system.pbc) else _free
    if system.template is not None or system.region is not None:
        frame = _confined
    part = exchanged(system)
    a, b, score_a, score_b = frame(k_frame, parents, system, part)
    n_part = part.sum()
    share = jr.randint(k_cut, (), 1, jnp.maximum(n_part, 2))
    taken = part & (_rank(score_a, part[None] & part[:, None]) < share)
    # From here on species by species: the first `count` of the slots of a species are filled by the first parent.
    numbers = jnp.asarray(system.numbers)
    kin = (numbers[:, None] == numbers) & part[:, None] & part
    count = (kin & taken).sum(1)
    place = jnp.tril(kin, -1).sum(1)
    first = jnp.argmax(kin & (_rank(score_a, kin) == place[:, None]), 1)
    second = jnp.argmax(kin & (_rank(score_b, kin) == (place - count)[:, None]), 1)
    child = jnp.where((place < count)[:, None], a[first], b[second])
    return jnp.where(part[:, None], child, a)


def _rank(score, among):
    """How many of the others `among` (atoms, atoms) have a lower score (atoms,); ties go by index."""
    n = score.shape[0]
    earlier = jnp.arange(n) < jnp.arange(n)[:, None]
    lower = (score[None] < score[:, None]) | ((score[None] == score[:, None]) & earlier)
    return (among & lower).sum(1)


def _pinned(system: System):
    return (jnp.asarray(system.fixed) & system.mask).any()


def _free(key, parents: Structure, system: System, part):
    """Both clusters about their centres, turned at random (unless atoms are fixed), and cut across z."""
    k_a, k_b, k_axis = jr.split(key, 3)
    dtype = parents.positions.dtype
    pinned = _pinned(system)

    def turned(k, x):
        return jnp.where(pinned, x, centred(x, system.mask) @ random_rotation(k, dtype))

    a, b = turned(k_a, parents.positions[0]), turned(k_b, parents.positions[1])
    axis = random_direction(k_axis, (), dtype)
    return a, b, -(a @ axis), b @ axis


def _cell(key, parents: Structure, system: System, part):
    """Both in the first parent's cell, shifted at random (unless atoms are fixed), cut by two planes across a vector."""
    k_a, k_b, k_axis, k_middle = jr.split(key, 4)
    dtype = parents.positions.dtype
    pbc = jnp.asarray(system.pbc)
    spaces = [space for k in range(2) if (space := traced_space(parents.cell[k], system.pbc)) is not None]
    cell = spaces[0].cell
    shift = lambda k: jnp.where(pbc & ~_pinned(system), jr.uniform(k, (3,), dtype), 0)
    fractions = [parents.positions[k] @ spaces[k].inverse.astype(dtype) + shift(key) for k, key in enumerate((k_a, k_b))]
    axis = jnp.asarray([k for k in range(3) if system.pbc[k]])[jr.randint(k_axis, (), 0, sum(system.pbc))]
    middle = jr.uniform(k_middle, (), dtype)
    away = [jnp.abs(f[:, axis] - middle - jnp.round(f[:, axis] - middle)) for f in fractions]
    a, b = (f @ cell.astype(dtype) for f in fractions)
    return a, b, away[0], -away[1]


def _confined(key, parents: Structure, system: System, part):
    """Both where they are, cut by a plane near a random exchanged atom; with a template the plane holds the vertical."""
    k_atom, k_axis = jr.split(key)
    a, b = parents.positions[0], parents.positions[1]
    space = traced_space(parents.cell[0], system.pbc)
    axis = random_direction(k_axis, (), a.dtype)
    if system.template is not None:
        free = [k for k in range(3) if not system.pbc[k]]
        up = jnp.eye(3, dtype=a.dtype)[2] if space is None or len(free) != 1 else unit(space.cell[free[0]]).astype(a.dtype)
        axis = unit(jnp.cross(up, axis))
    centre = a[jnp.argmax(jnp.where(part, jr.uniform(k_atom, part.shape), -1))]
    height = lambda x: nearest_image(x - centre, space) @ axis
    return a, b, -height(a), height(b)
