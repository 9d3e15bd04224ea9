"""Moves in a periodic cell: of the atoms near a point, of layers, of weak atoms. Most work on free clusters as well.

Everything is measured to the nearest image. In a large system a hop should change one place and leave the rest alone:
the relaxation is short then, and what is good elsewhere is kept.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved, require_cell
from thalweg.generators.sites import weakest
from thalweg.geometry import distances_from, in_ball, nearest_image, random_direction, rotation, traced_space
from thalweg.structure import Structure
from thalweg.system import System


def around_an_atom(key, parent: Structure, system: System, offset: float = 0.0):
    """Displacements (atoms, 3) from a point within `offset` bonds of a random atom, to the nearest image, and lengths."""
    x = parent.positions
    k_atom, k_off = jr.split(key)
    atom = jnp.argmax(jnp.where(system.searched, jr.uniform(k_atom, system.mask.shape), -1))
    point = x[atom] + in_ball(k_off, (), x.dtype) * (offset * system.bond).astype(x.dtype)
    d = nearest_image(x - point, traced_space(parent.cell, system.pbc))
    return d, jnp.sqrt((d * d).sum(-1))


class LocalDisplace(Generator):
    """The atoms in a ball of up to `radius` bonds about a random atom move by up to `step` bonds, all others stay."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "local-displace"
    step: float = 0.5
    radius: float = 2.5

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_ball, k_size, k_step = jr.split(key, 3)
        x = parents.positions[0]
        bond = jnp.asarray(system.bond, x.dtype)
        _, r = around_an_atom(k_ball, parents[0], system)
        inside = r < bond * jr.uniform(k_size, (), x.dtype, 1.1, self.radius)
        noise = in_ball(k_step, x.shape[:1], x.dtype) * (self.step * bond)
        return moved(parents[0], jnp.where(inside[:, None], x + noise, x))


class LocalTwist(Generator):
    """The atoms in a ball of up to `radius` bonds turn together by a random angle about a random axis."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "local-twist"
    radius: float = 2.5

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_ball, k_axis, k_rest = jr.split(key, 3)
        x = parents.positions[0]
        u = jr.uniform(k_rest, (2,), x.dtype)
        d, r = around_an_atom(k_ball, parents[0], system, 0.7)
        inside = r < jnp.asarray(system.bond, x.dtype) * (0.8 + (self.radius - 0.8) * u[0])
        turn = rotation(random_direction(k_axis, (), x.dtype), jnp.pi * (0.15 + 1.7 * u[1]))
        return moved(parents[0], jnp.where(inside[:, None], x + (d @ turn.T - d), x))


class LocalSqueeze(Generator):
    """A ball of up to `radius` bonds is pressed together, more along one axis, and shaken; the press fades to its rim.

    The relaxation lets the dense spot spring back, in general to another minimum: `mutation.Squeeze` for one place of a
    system without a centre. `factor` is the strongest press, `noise` in bonds.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "local-squeeze"
    radius: float = 3.5
    factor: float = 0.5
    noise: float = 0.25

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_ball, k_axis, k_rest, k_noise = jr.split(key, 4)
        x = parents.positions[0]
        bond = jnp.asarray(system.bond, x.dtype)
        u = jr.uniform(k_rest, (3,), x.dtype)
        d, r = around_an_atom(k_ball, parents[0], system, 1.0)
        radius = bond * (1.5 + (self.radius - 1.5) * u[0])
        window = jnp.maximum(1 - (r / radius) ** 2, 0)[:, None]
        press = (1 - self.factor) * u[1]
        axis = random_direction(k_axis, (), x.dtype)
        inward = press * d + (1 - press) * 0.5 * u[2] * (d @ axis)[:, None] * axis
        noise = in_ball(k_noise, x.shape[:1], x.dtype) * (self.noise * bond)
        return moved(parents[0], x + window * (noise - inward))


class Wave(Generator):
    """A plane wave of displacements of up to `amplitude` bonds, across or along its direction, plus noise.

    The wave fits the cell: its phase grows by whole turns (up to `turns` along each vector). Transverse ones shear the
    system as its soft vibrations do, without pressing atoms together.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "wave"
    amplitude: float = 0.7
    noise: float = 0.1
    turns: int = 2

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_turns, k_direction, k_rest, k_noise = jr.split(key, 4)
        x = parents.positions[0]
        bond = jnp.asarray(system.bond, x.dtype)
        periodic = jnp.asarray(require_cell(system, self.name).pbc)
        turns = jnp.where(periodic, jr.randint(k_turns, (3,), -self.turns, self.turns + 1), 0)
        turns = jnp.where((turns != 0).any(), turns, jnp.where(jnp.arange(3) == jnp.argmax(periodic), 1, 0)).astype(x.dtype)
        space = traced_space(parents.cell[0], system.pbc)
        wave = space.inverse @ turns  # type: ignore[union-attr]
        u = jr.uniform(k_rest, (2,), x.dtype)
        phase = jnp.sin(2 * jnp.pi * (x @ wave + u[0]))
        shift = random_direction(k_direction, (), x.dtype) * (self.amplitude * bond * u[1])
        noise = in_ball(k_noise, x.shape[:1], x.dtype) * (self.noise * bond)
        return moved(parents[0], x + phase[:, None] * shift + noise)


class Slip(Generator):
    """A layer between two planes parallel to a periodic face of the cell slides as a whole, by up to `step` bonds.

    Moves stacking faults and grain boundaries at once, for which single atoms would have to climb over barriers.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "slip"
    step: float = 1.0

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_rest, k_slide = jr.split(key)
        x = parents.positions[0]
        space = traced_space(parents.cell[0], require_cell(system, self.name).pbc)
        u = jr.uniform(k_rest, (3,), x.dtype)
        axes = jnp.asarray([k for k in range(3) if system.pbc[k]])
        across = space.inverse[:, axes[(len(axes) * u[0]).astype(jnp.int32)]]  # type: ignore[union-attr]
        height = x @ across + u[1]
        layer = height - jnp.floor(height) < 0.1 + 0.5 * u[2]
        slide = in_ball(k_slide, (), x.dtype)
        slide = slide - across * (slide @ across) / (across @ across)
        slide = slide * (self.step * system.bond).astype(x.dtype)
        return moved(parents[0], jnp.where(layer[:, None], x + slide, x))


class NearSwap(Generator):
    """Neighbours of different species exchange places, 1 to `most` pairs; weakly bound atoms more often.

    Most swaps of distant atoms are refused in a dense mixture. The first of a pair is drawn by its contacts (`greed` per
    contact), the second is an atom of another species within `radius` bonds, or any where there is none.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "near-swap"
    most: int = 2
    greed: float = 0.5
    radius: float = 1.6

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x0 = parents.positions[0]
        space = traced_space(parents.cell[0], system.pbc)
        k_count, key = jr.split(key)
        n_swaps = jr.randint(k_count, (), 1, self.most + 1)

        def one(i, x):
            k_first, k_second = jr.split(jr.fold_in(key, i))
            a = weakest(k_first, x, system, self.greed, space)
            other = system.searched & (system.numbers != system.numbers[a])
            near = distances_from(x[a], x, space) < (self.radius * system.bond) ** 2
            u = jr.uniform(k_second, system.mask.shape, x.dtype)
            b = jnp.argmax(jnp.where(other, u + near, -1))
            b = jnp.where(other.any(), b, a)
            return x.at[a].set(x[b]).at[b].set(x[a])

        return moved(parents[0], lax.fori_loop(0, n_swaps, one, x0))
