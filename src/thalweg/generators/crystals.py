"""Symmetric starts: orbits of random points under a random space group, in a given cell or in one of their own."""

from __future__ import annotations

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator, moved, require_cell
from thalweg.generators.cells import spread
from thalweg.generators.sites import gumbel
from thalweg.generators.space_groups import SpaceGroupTable, space_group_table
from thalweg.geometry import squared_distances, traced_space
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.system import System


class Orbits(eqx.Module):
    """How orbits are placed. Lengths are in bonds.

    A random point that comes within a random distance of up to `snap` of its own images is moved to their mean, which is
    a special position: the orbit is smaller then, and the atoms sit on symmetry elements.
    """

    closest: float = 0.75
    snap: float = 0.8
    tries: int = eqx.field(static=True, default=10)
    trials: int = eqx.field(static=True, default=150)

    def __call__(self, key, rotations, translations, order, cell, parts, system: System):
        """Fractions of the whole cell (atoms, 3) and which atoms (atoms,) found a place.

        `cell` (3, 3) is one of `parts` (3,) x equal cells, each of which is filled alike.
        """
        n, dtype = system.numbers.shape[0], cell.dtype
        bonds = jnp.asarray(system.bond_lengths, dtype)
        numbers, mask = jnp.asarray(system.numbers), system.mask
        space = Space(cell)
        copies = parts[0] * parts[1] * parts[2]
        same = (numbers[:, None] == numbers) & mask
        earlier = lambda k: jnp.arange(k)[:, None] > jnp.arange(k)
        ordinal = (same & earlier(n)).sum(1)
        ops = jnp.arange(rotations.shape[0])
        real = ops < order
        images_of = lambda y: rotations @ y + translations

        def place(carry):
            x, filled, points, placed, trial = carry
            k_point, k_snap, k_atom = jr.split(jr.fold_in(key, trial), 3)
            left = mask & ~placed
            atom = jnp.argmax(jnp.where(left, jr.uniform(k_atom, (n,)), -1))
            bond = bonds[atom]
            radius = self.snap * bond * jr.uniform(k_snap, (), dtype)

            def project(_, y):
                d = images_of(y) - y
                d = d - jnp.rint(d)
                near = real & (((d @ cell) ** 2).sum(1) < radius**2)
                return y + jnp.where(near[:, None], d, 0).sum(0) / near.sum()

            y = lax.fori_loop(0, 3, project, jr.uniform(k_point, (3,), dtype))
            images = images_of(y)
            images = images - jnp.floor(images)
            places = images @ cell
            apart2 = squared_distances(places, places, space)
            equal = (apart2 < (0.05 * bond) ** 2) & real[:, None] & real
            distinct = real & ~(equal & earlier(len(ops))).any(1)
            size = distinct.sum()
            whole = size * equal[0].sum() == order  # what was snapped together is an orbit of the group

            own = jnp.where(distinct & (ops > 0), apart2[0] / bond**2, jnp.inf).min()
            contact2 = ((bond + bonds) / 2) ** 2
            others = jnp.where(placed, squared_distances(places[:1], points, space)[0] / contact2, jnp.inf).min()
            gap2 = jnp.minimum(own, others)
            # Now and then a tight place is taken, but never one on top of another atom.
            patient = trial % self.tries != self.tries - 1
            room = gap2 > jnp.where(patient, self.closest, 0.6 * self.closest) ** 2
            fits = whole & room & (size * copies <= (left & same[atom]).sum())

            rank = ordinal - filled[atom]
            slots = same[atom] & (rank >= 0) & (rank < size * copies) & fits
            number = (distinct & earlier(len(ops))).sum(1)
            image = jnp.argmax((number == (rank % jnp.maximum(size, 1))[:, None]) & distinct, axis=1)
            part = rank // jnp.maximum(size, 1)
            corner = jnp.stack([part % parts[0], part // parts[0] % parts[1], part // (parts[0] * parts[1])], -1)
            x = jnp.where(slots[:, None], (images[image] + corner) / parts, x)
            points = jnp.where(slots[:, None], places[image], points)
            filled = filled + jnp.where(same[atom] & fits, size * copies, 0)
            return x, filled, points, placed | slots, trial + 1

        nothing = jnp.zeros((n, 3), dtype)
        start = (nothing, jnp.zeros(n, jnp.int32), nothing, jnp.zeros(n, bool), 0)
        x, _, _, placed, _ = lax.while_loop(lambda c: (mask & ~c[3]).any() & (c[4] < self.trials), place, start)
        return x, placed


#: How often a cell is divided along each axis at most.
MOST_PARTS = 4


class SymmetricCell(Generator):
    """Random structures with the symmetry of a random space group that the given cell admits.

    The cell is divided into equal parts (the number of which divides the atoms of every species), the parts are filled
    alike by orbits of a space group whose rotations leave the part's shape unchanged, in one of its three cyclic
    settings. Atoms that no orbit fits are put at random. Needs periodicity along all axes; otherwise only translations
    are used.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "symmetric-cell"
    groups: SpaceGroupTable
    orbits: Orbits

    def __init__(self, groups: tuple[int, ...] | None = None, max_order: int = 48, closest: float = 0.75, snap: float = 0.8):
        self.groups = space_group_table(None if groups is None else tuple(groups), False, max_order)
        self.orbits = Orbits(closest, snap)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        dtype = parent.positions.dtype
        space = traced_space(parent.cell, require_cell(system, self.name).pbc)
        assert space is not None
        k_parts, k_group, k_turn, k_orbits, k_rest, k_origin = jr.split(key, 6)
        bond = jnp.asarray(system.bond, dtype)
        parts = self._parts(k_parts, space, system, bond)
        cell = space.cell / parts[:, None]
        turn = jr.randint(k_turn, (), 0, 3)
        axes = (jnp.arange(3) + turn) % 3
        metric = (cell @ cell.T)[axes][:, axes]
        rotations = jnp.asarray(self.groups.rotations, dtype)
        changed = jnp.abs(jnp.swapaxes(rotations, -1, -2) @ metric @ rotations - metric).max((-1, -2))
        real = jnp.arange(rotations.shape[1]) < jnp.asarray(self.groups.orders)[:, None]
        admitted = (~real | (changed < 2e-3 * jnp.trace(metric))).all(1)
        if not all(system.pbc):
            admitted = jnp.asarray(self.groups.orders) == 1
        noise = gumbel(k_group, jnp.zeros(self.groups.n_groups, dtype))
        group = jnp.argmax(jnp.where(admitted, noise, -jnp.inf))
        back = (jnp.arange(3) - turn) % 3
        rotation = rotations[group][:, back][:, :, back]
        translation = jnp.asarray(self.groups.translations, dtype)[group][:, back]
        order = jnp.where(admitted.any(), jnp.asarray(self.groups.orders)[group], 1)
        x, placed = self.orbits(k_orbits, rotation, translation, order, cell, parts, system)
        x = spread(k_rest, x @ space.cell, placed, system, space.cell, jnp.zeros(3, dtype), space, 6)
        origin = jnp.where(jnp.asarray(system.pbc), jr.uniform(k_origin, (3,), dtype), 0)
        return moved(parent, x + origin @ space.cell)

    def _parts(self, key, space: Space, system: System, bond):
        """How often (3,) each axis is divided, at random among what divides the species and leaves room for a bond."""
        table = jnp.asarray(list(itertools.product(range(1, MOST_PARTS + 1), repeat=3)), jnp.int32)
        numbers = jnp.where(system.mask, system.numbers, -2)
        counts = jnp.where(system.mask, (numbers[:, None] == numbers).sum(1), 0)
        divides = (counts % table.prod(1)[:, None] == 0).all(1)
        wide = (space.heights / table > 0.8 * bond).all(1)
        still = (table == 1) | jnp.asarray(space.pbc)
        allowed = divides & wide & still.all(1) | (table.prod(1) == 1)
        # Even divisions keep more of the cell's symmetry; without preference most draws would have none.
        shape = space.heights / table
        uneven = jnp.log(shape.max(1) / shape.min(1))
        return table[jnp.argmax(jnp.where(allowed, gumbel(key, uneven) - 3 * uneven, -jnp.inf))]


class VariableCell(Generator):
    """Random structures of a random space group in a random cell of their own: the starts of ab initio random searching.

    After Pickard and Needs, J. Phys.: Condens. Matter 23, 053201 (2011), doi:10.1088/0953-8984/23/5/053201: a sensible
    volume, no atoms too close, and some symmetry find most crystals in few relaxations. The volume per atom is
    `smallest` to `largest` times that of close packing at the bond length (diamond has 2.2). A random lattice is made to
    fit the group by averaging its metric over the rotations, so that every setting, primitive ones included, needs no
    table of crystal systems. For relaxations that move the cell.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "variable-cell"
    changes_cell: ClassVar[bool] = True
    groups: SpaceGroupTable
    orbits: Orbits
    smallest: float = 0.9
    largest: float = 2.4

    def __init__(
        self, groups: tuple[int, ...] | None = None, max_order: int = 48, smallest: float = 0.9, largest: float = 2.4,
        closest: float = 0.75, snap: float = 0.8,
    ):  # fmt: skip
        if smallest > largest:
            raise InputError(f"variable-cell: smallest is {smallest} and largest {largest}; exchange them")
        self.groups = space_group_table(None if groups is None else tuple(groups), True, max_order)
        self.orbits = Orbits(closest, snap)
        self.smallest, self.largest = smallest, largest

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        dtype = parent.positions.dtype
        if not all(system.pbc):
            raise InputError('the generator "variable-cell" needs periodicity along all axes')
        k_group, k_shape, k_volume, k_orbits, k_rest = jr.split(key, 5)
        group = jr.randint(k_group, (), 0, self.groups.n_groups)
        table = jax.tree.map(lambda a: jnp.asarray(a)[group], self.groups)
        rotations, translations = table.rotations.astype(dtype), table.translations.astype(dtype)
        bonds = jnp.where(system.mask, jnp.asarray(system.bond_lengths, dtype), 0)
        factor = self.smallest + (self.largest - self.smallest) * jr.uniform(k_volume, (), dtype)
        volume = (bonds**3).sum() / 2**0.5 * factor
        cell = random_cell(k_shape, rotations, table.orders, volume)
        x, placed = self.orbits(k_orbits, rotations, translations, table.orders, cell, jnp.ones(3, jnp.int32), system)
        x = spread(k_rest, x @ cell, placed, system, cell, jnp.zeros(3, dtype), Space(cell), 6)
        return Structure(x, parent.numbers, cell, parent.fixed, parent.pbc)


def random_cell(key, rotations, order, volume, draws: int = 8):
    """A cell (3, 3) of this volume whose shape the first `order` of `rotations` leave unchanged; the plumpest of `draws`.

    Lengths differ by up to a factor of two, angles lie between 60 and 120 degrees before the metric is averaged.
    """
    dtype = volume.dtype
    k_length, k_angle, k_choice = jr.split(key, 3)
    lengths = jnp.exp(jr.uniform(k_length, (draws, 3), dtype, -0.35, 0.35))
    cosines = jr.uniform(k_angle, (draws, 3), dtype, -0.5, 0.5)
    metric = lengths[:, :, None] * lengths[:, None] * _correlations(cosines)
    real = (jnp.arange(rotations.shape[0]) < order).astype(dtype)
    metric = jnp.einsum("kji,djl,klm,k->dim", rotations, metric, rotations, real) / order
    cells = jax.vmap(_lower)(metric)
    diagonal = jnp.diagonal(cells, axis1=1, axis2=2)
    determinant = jnp.maximum(diagonal.prod(1), 1e-6)
    cells = cells * jnp.cbrt(volume / determinant)[:, None, None]
    heights = 1 / jnp.sqrt((jax.vmap(lambda c: Space(c).inverse)(cells) ** 2).sum(1))
    # Any cell will do that is not flat; among those the choice is free.
    plump = jnp.minimum(heights.min(1) / jnp.cbrt(volume), 0.7) + 0.01 * jr.uniform(k_choice, (draws,), dtype)
    return cells[jnp.argmax(plump)]


def _correlations(c):
    one = jnp.ones_like(c[:, 0])
    rows = [[one, c[:, 2], c[:, 1]], [c[:, 2], one, c[:, 0]], [c[:, 1], c[:, 0], one]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _lower(m):
    """Lower triangular cell whose rows have the scalar products `m` (3, 3): Cholesky, written out."""
    root = lambda v: jnp.sqrt(jnp.maximum(v, 1e-8))
    a = root(m[0, 0])
    b0 = m[1, 0] / a
    b1 = root(m[1, 1] - b0 * b0)
    c0 = m[2, 0] / a
    c1 = (m[2, 1] - c0 * b0) / b1
    c2 = root(m[2, 2] - c0 * c0 - c1 * c1)
    zero = jnp.zeros_like(a)
    return jnp.stack([jnp.stack([a, zero, zero]), jnp.stack([b0, b1, zero]), jnp.stack([c0, c1, c2])])
