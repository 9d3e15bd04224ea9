"""Starts in a given cell: random positions, and pieces of lattices that fit through its boundaries."""

from __future__ import annotations

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.errors import InputError, suggest
from thalweg.generators.base import Generator, moved, require_cell
from thalweg.generators.sites import draw_of, gumbel, settle
from thalweg.geometry import in_ball, random_direction, squared_distances, traced_space, unit
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, Bool, Float


def room(cell, space: Space, system: System):
    """A corner (3,) and three edges (3, 3) of the part of space that is filled at random.

    Along periodic axes that is the cell; along others as much as the atoms need at somewhat below close packing, about
    the middle of the cell's vector where it has one.
    """
    pbc = jnp.asarray(space.pbc)
    bonds = jnp.asarray(system.bond_lengths, cell.dtype)
    needed = 1.2 * jnp.where(system.mask, bonds**3, 0).sum() / jnp.sqrt(jnp.asarray(2, cell.dtype))
    free = max(1, 3 - sum(space.pbc))
    extent = (needed / space.volume) ** (1 / free)  # vectors of axes without periodicity have length 1 in `space`
    edges = jnp.where(pbc[:, None], space.cell, space.cell * extent)
    middle = jnp.where(pbc[:, None], 0, cell / 2 - edges / 2).sum(0)
    return middle, edges


def spread(key, x, placed, system: System, edges, corner, space: Space, tries: int):
    """Positions with every atom that is not `placed` put at the best of `tries` random points: farthest from all others."""
    n, dtype = x.shape[0], x.dtype
    bonds = jnp.asarray(system.bond_lengths, dtype)

    def one(i, carry):
        x, placed = carry
        points = corner + jr.uniform(jr.fold_in(key, i), (tries, 3), dtype) @ edges
        contact2 = ((bonds[i] + bonds) / 2) ** 2
        gaps = jnp.where(placed & system.mask, squared_distances(points, x, space) / contact2, jnp.inf).min(1)
        x = x.at[i].set(jnp.where(placed[i], x[i], points[jnp.argmax(gaps)]))
        return x, placed.at[i].set(True)

    return lax.fori_loop(0, n, one, (x, placed))[0]


class RandomCell(Generator):
    """Atoms at random in the cell, each at the best of `tries` points: no two on top of each other.

    Fixed atoms of the parent are in place before. Along axes without periodicity atoms fill a layer, wire or ball in
    the middle of the cell.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "random-cell"
    tries: int = eqx.field(static=True, default=6)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        space = _space(parent, system, self.name)
        corner, edges = room(parent.cell, space, system)
        return moved(parent, spread(key, parent.positions, parent.fixed, system, edges, corner, space, self.tries))


#: Primitive vectors and atoms (fractions of them) of lattices with nearest neighbours at distance 1.
LATTICES: dict[str, tuple[list, list]] = {
    "fcc": ((np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2**0.5).tolist(), [[0, 0, 0]]),
    "bcc": ((np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 3**0.5).tolist(), [[0, 0, 0]]),
    "hcp": ([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, (8 / 3) ** 0.5]], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]),
    "diamond": ((np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2 / 3**0.5).tolist(), [[0, 0, 0], [0.25, 0.25, 0.25]]),
}


class LatticeTable(eqx.Module):
    """Lattices padded to two atoms."""

    vectors: Float[Array, "lattices 3 3"]
    atoms: Float[Array, "lattices 2 3"]
    real: Bool[Array, "lattices 2"]


def lattice_table(names: tuple[str, ...]) -> LatticeTable:
    """The table of the named lattices, see `LATTICES`."""
    for name in names:
        if name not in LATTICES:
            raise InputError(f'there is no lattice "{name}".{suggest(name, LATTICES)}')
    atoms = [LATTICES[n][1] for n in names]
    padded = [a + [[0, 0, 0]] * (2 - len(a)) for a in atoms]
    real = [[k < len(a) for k in range(2)] for a in atoms]
    vectors = [LATTICES[n][0] for n in names]
    return LatticeTable(np.array(vectors, np.float32), np.array(padded, np.float32), np.array(real))


class LatticeFragment(Generator):
    """A compact piece of a crystal: a ball, a rod or a layer through the boundaries of the cell, or what a void leaves.

    Gels and other sparse systems minimise their surface, and in a periodic box a rod or layer that closes on itself has
    none at its ends. Of `rotations` random orientations of the lattice, one is drawn by how little it must be strained
    to repeat with the cell along the axes it runs through; strain is against spacing at the bond length. Sites are taken
    nearest to a random point, line or plane (or farthest, around a void), species go to them at random. Sites that would
    clash with the fragment's own image are left out; atoms that find none land in pockets.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "lattice-fragment"
    lattices: LatticeTable
    tolerance: float = 0.006  # strains that differ by this much are about as likely
    stretch: float = 0.01
    closest: float = 0.9
    noise: float = 0.02
    rotations: int = eqx.field(static=True, default=512)
    rays: int = eqx.field(static=True, default=40)

    def __init__(
        self, lattices: tuple[str, ...] = ("fcc", "hcp", "bcc"), tolerance=0.006, stretch=0.01, closest=0.9, noise=0.02,
        rotations=512, rays=40,
    ):  # fmt: skip
        self.lattices = lattice_table(tuple(lattices))
        self.tolerance, self.stretch, self.closest, self.noise = tolerance, stretch, closest, noise
        self.rotations, self.rays = rotations, rays

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        n, dtype = parent.positions.shape[0], parent.positions.dtype
        space = _space(parent, system, self.name)
        bond = jnp.asarray(system.bond, dtype)
        k_lattice, k_axes, k_turn, k_cut, k_order, k_land = jr.split(key, 6)
        choice = jr.randint(k_lattice, (), 0, len(self.lattices.vectors))
        table = jax.tree.map(lambda a: jnp.asarray(a)[choice], self.lattices)
        # The first `matched` of the axes, in random order, are those the fragment runs through.
        orders = [p for p in itertools.permutations(range(3)) if all(space.pbc[k] for k in p[: sum(space.pbc)])]
        u = jr.uniform(k_axes, (4,), dtype)
        axes = space.cell[jnp.asarray(orders)[(u[0] * len(orders)).astype(jnp.int32)]]
        matched = self._matched(u[1], space, axes, system, bond)
        vectors = self._fitted(k_turn, table.vectors.astype(dtype) * bond, axes, matched)
        through = jnp.where(matched == 3, (3 * u[2]).astype(jnp.int32), matched)
        void = (matched == 3) & (through < 2) & (u[3] < 0.5)

        cut = jr.uniform(k_cut, (2, 3), dtype)
        side = 2 * width(n) + 1
        count = jnp.arange(side**3)
        grid = jnp.stack([count // side**2, count // side % side, count % side], -1) - side // 2
        sites = ((grid.astype(dtype)[:, None] + table.atoms.astype(dtype) + cut[0]) @ vectors).reshape(-1, 3)
        frame = _orthonormal(axes)
        along = sites @ frame.T
        fraction = sites @ _inverse(axes)
        heights = jnp.abs(jnp.diagonal(axes @ frame.T))
        inside = jnp.abs(along) < (heights - self.closest * bond) / 2
        inside = inside | ~jnp.asarray([True] * sum(space.pbc) + [False] * (3 - sum(space.pbc)))
        inside = jnp.where(jnp.arange(3) < matched, (fraction >= -0.5) & (fraction < 0.5), inside).all(1)
        inside = inside & jnp.tile(table.real, side**3)
        # Across the fragment every distance counts, along it a little: the last layer is an island.
        merit = jnp.sqrt((along**2 * jnp.where(jnp.arange(3) < through, 0.003, 1)).sum(1))
        merit = jnp.where(inside, jnp.where(void, merit, -merit), -jnp.inf)
        best, index = lax.top_k(merit, n)
        x = sites[index]
        found = jnp.isfinite(best)
        # Species are sorted by slot: mix the slots, real ones first, since sites come best first.
        order = jnp.argsort(jr.uniform(k_order, (n,)) + ~system.mask)
        use = jnp.arange(n) < system.n_atoms
        x = jnp.zeros_like(x).at[order].set(jnp.where(use[:, None], x, 0))
        placed = jnp.zeros(n, bool).at[order].set(found & use)
        x = x + in_ball(k_land, (n,), dtype) * (self.noise * bond)
        x = land(k_land, x, placed, system, self.rays, space)
        return moved(parent, x + cut[1] @ jnp.where(jnp.asarray(space.pbc)[:, None], space.cell, parent.cell / 2))

    def _matched(self, u, space: Space, axes, system: System, bond):
        """Along how many axes the fragment runs through the cell, by `u` in [0, 1): one of the numbers that it can."""
        n_periodic = sum(space.pbc)
        heights = 1 / jnp.sqrt((_inverse(axes) ** 2).sum(0))
        volume = system.n_atoms * bond**3 / 2**0.5
        area = jnp.abs(jnp.cross(axes[0], axes[1]))
        area = jnp.sqrt((area**2).sum())
        length = jnp.sqrt((axes[0] ** 2).sum())
        thick = [jnp.cbrt(6 / np.pi * volume), jnp.sqrt(4 / np.pi * volume / length), volume / area]
        fits = [jnp.where(jnp.arange(3) >= k, t + self.closest * bond < heights, True) for k, t in enumerate(thick)]
        free = jnp.arange(3) >= n_periodic
        fits = jnp.stack([*[(f | free).all() for f in fits], jnp.asarray(n_periodic == 3)])
        fits = fits & (jnp.arange(4) <= n_periodic)
        fits = jnp.where(fits.any(), fits, jnp.arange(4) == n_periodic)
        return draw_of(u[None], fits[None])[0]

    def _fitted(self, key, vectors, axes, matched):
        """Lattice vectors (3, 3), turned and strained so that the first `matched` of the `axes` are lattice vectors."""
        dtype = axes.dtype
        k_turn, k_scale, k_choice = jr.split(key, 3)
        # Third rows only give the sense: half of the turns are improper, which is as good for a lattice.
        turns = _orthonormal(random_direction(k_turn, (self.rotations, 3), dtype))
        scale = 1 + self.stretch * jr.uniform(k_scale, (self.rotations, 1, 1), dtype, -1, 1)
        lattices = scale * (vectors @ turns)
        inverse = _inverse(vectors)
        multiples = jnp.rint(axes @ jnp.swapaxes(turns, 1, 2) @ inverse / scale)
        runs = jnp.arange(3) < matched
        image = _completed(multiples @ lattices, axes, runs)
        wanted = _completed(axes, axes, runs)
        deform = _inverse(image) @ wanted
        strain = deform @ jnp.swapaxes(deform, 1, 2) - jnp.eye(3, dtype=dtype)
        size = jnp.sqrt((strain**2).sum((1, 2))) / 2
        size = jnp.where(jnp.isfinite(size), size, 1e3)
        best = jnp.argmin(size - self.tolerance * gumbel(k_choice, size))
        return jnp.where(matched > 0, lattices[best] @ deform[best], lattices[best])


def width(n: int) -> int:
    """Lattice steps from the middle that reach every corner of a cell of which n atoms fill a third."""
    return int(np.ceil(np.sqrt(3) / 2 * (n / 2**0.5 / 0.33) ** (1 / 3) / (2 / 3) ** 0.5)) + 1


def land(key, x, placed, system: System, rays: int, space: Space):
    """Positions with the atoms that are not `placed` brought into pockets, one after the other."""

    def one(carry):
        x, placed, count = carry
        atom = jnp.argmax(system.mask & ~placed)
        x = settle(jr.fold_in(key, count), x, atom, placed, system, rays, 6.0, space)
        return x, placed.at[atom].set(True), count + 1

    return lax.while_loop(lambda c: (system.mask & ~c[1]).any(), one, (x, placed & system.mask, 0))[0]


def _orthonormal(rows):
    """Orthonormal rows (..., 3, 3) that span the same spaces, one after the other (Gram and Schmidt)."""
    a = unit(rows[..., 0, :])
    b = rows[..., 1, :]
    b = unit(b - a * (a * b).sum(-1, keepdims=True))
    c = jnp.cross(a, b)
    return jnp.stack([a, b, c * jnp.sign((c * rows[..., 2, :]).sum(-1, keepdims=True))], -2)


def _completed(rows, axes, runs):
    """The `rows` (..., 3, 3) that run through the cell; instead of the others, unit vectors across them near the axes."""
    mixed = jnp.where(runs[:, None], rows, axes)
    return jnp.where(runs[:, None], rows, _orthonormal(mixed))


def _inverse(m):
    """Inverse of matrices (..., 3, 3) by cofactors."""
    a, b, c = m[..., 0, :], m[..., 1, :], m[..., 2, :]
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -1)
    return columns / (a * jnp.cross(b, c)).sum(-1)[..., None, None]


def _space(parent: Structure, system: System, name: str) -> Space:
    space = traced_space(parent.cell, require_cell(system, name).pbc)
    assert space is not None
    return space
