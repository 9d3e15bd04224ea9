"""Random starts: uniform in a ball, and with the symmetry of a random point group."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved
from thalweg.geometry import centred, distances_from, in_ball, random_rotation
from thalweg.structure import Structure
from thalweg.symmetry import GroupTable, group_table
from thalweg.system import System


def cluster_radius(system: System):
    """Radius of the ball that n atoms fill at close packing, plus half a bond."""
    return system.bond * (0.55 * jnp.cbrt(system.n_atoms.astype(jnp.float32)) + 0.1)


class RandomBall(Generator):
    """Atoms uniform in a ball of `spread` times the close-packed radius."""

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "random"
    spread: float = 1.1

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        x = in_ball(key, parent.positions.shape[:1], parent.positions.dtype) * cluster_radius(system) * self.spread
        return moved(parent, x.astype(parent.positions.dtype))


#: Groups that starts are drawn from: the rotation groups and their common extensions up to order 60.
START_GROUPS = (
    "C1", "Cs", "C2", "C3", "C5", "C2v", "C3v", "C5v", "D2", "D3", "D5", "D2d", "D3h", "D3d", "D5h",
    "T", "Td", "Th", "O", "I",
)  # fmt: skip


class SymmetricRandom(Generator):
    """Orbits of random points under a random point group, some projected on its elements, until all atoms are placed.

    Many global minima of clusters are symmetric, and under the constraint only a few numbers are left to guess; the
    relaxation keeps the symmetry. Facts on what this gains are in docs/benchmarks.md. An orbit that would overlap atoms
    already placed is drawn again a few times; what no orbit fits is placed at random.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "symmetric"
    groups: GroupTable
    spread: float = 1.0
    closest: float = 0.75
    special: float = 0.6
    tries: int = eqx.field(static=True, default=8)

    def __init__(
        self, groups: tuple[str, ...] = START_GROUPS, spread: float = 1.0, closest: float = 0.75, special: float = 0.6
    ):
        self.groups = group_table(tuple(groups))
        self.spread, self.closest, self.special = spread, closest, special

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        dtype = parent.positions.dtype
        n_slots = parent.positions.shape[0]
        key, k_group, k_turn, k_rest = jr.split(key, 4)
        group = jr.randint(k_group, (), 0, self.groups.n_groups)
        table = jax.tree.map(lambda a: jnp.asarray(a)[group], self.groups)
        ops, order = table.operations.astype(dtype), table.orders
        radius = (cluster_radius(system) * self.spread).astype(dtype)
        closest2 = (self.closest * system.bond) ** 2
        n_atoms = system.n_atoms

        def place(carry):
            x, count, trial, key = carry
            key, k_point, k_element, k_special = jr.split(key, 4)
            element = jr.randint(k_element, (), 0, order)
            element = jnp.where(jr.uniform(k_special) < self.special, element, 0)
            point = in_ball(k_point, (), dtype) * radius
            images = ops @ (table.projectors[element].astype(dtype) @ point)
            distinct = table.orbit[element]
            size = distinct.sum()
            # What is placed is symmetric, so one image's distances are every image's distances.
            own = jnp.where(distinct & (jnp.arange(len(ops)) > 0), distances_from(images[0], images), jnp.inf).min()
            others = jnp.where(jnp.arange(n_slots) < count, distances_from(images[0], x), jnp.inf).min()
            clash = jnp.minimum(own, others) < closest2
            overlap = jnp.minimum(own, others) < closest2 / 4  # never taken: such pairs only blow the relaxation up
            fits = (count + size <= n_atoms) & (~clash | (trial % self.tries == self.tries - 1)) & ~overlap
            slot = jnp.where(distinct & fits, count + jnp.cumsum(distinct) - 1, n_slots)
            x = x.at[slot].set(images, mode="drop")
            return x, count + jnp.where(fits, size, 0), trial + 1, key

        limit = self.tries * n_slots
        x0 = in_ball(k_rest, (n_slots,), dtype) * radius  # atoms that no orbit places stay here
        x, *_ = lax.while_loop(lambda c: (c[1] < n_atoms) & (c[2] < limit), place, (x0, 0, 0, key))
        x = x @ random_rotation(k_turn, dtype)
        return moved(parent, centred(x, system.mask))
