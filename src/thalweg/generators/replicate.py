"""The move from liquid to crystal: part of a cell is repeated over the rest."""

from __future__ import annotations

import itertools
from functools import cache
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator, moved, require_cell
from thalweg.generators.sites import gumbel
from thalweg.geometry import distances_from, in_ball, traced_space
from thalweg.space import Space
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import Array, Float, Int

#: How often the repeated part fits into the cell.
ORDERS = (2, 3, 4, 5, 6, 8, 9, 12, 16, 18, 24, 27, 32, 36, 54, 64)
#: Orders up to which every translation group is looked at; beyond, those of divided and centred cells.
ALL_UP_TO = 9
#: Groups kept of each order, those with the most even parts first.
MOST_PER_ORDER = 35
#: Points of the centred lattices, beside the corner: P, A, B, C, I, F.
CENTRINGS = ([], [(0, 1, 1)], [(1, 0, 1)], [(1, 1, 0)], [(1, 1, 1)], [(0, 1, 1), (1, 0, 1), (1, 1, 0)])


class TranslationTable(eqx.Module):
    """Groups of fractional translations that divide a cell into equal parts, padded to one order.

    `bases[g]` are three short vectors of the finer lattice, `shifts[g]` (order, 3) its points in the cell, zero first.
    """

    bases: Float[Array, "groups 3 3"]
    shifts: Float[Array, "groups order 3"]
    orders: Int[Array, " groups"]

    @property
    def n_groups(self) -> int:
        return self.bases.shape[0]


@cache
def translation_table(orders: tuple[int, ...] = ORDERS) -> TranslationTable:
    """The finer lattices of each order, the even ones first."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for order in orders:
        groups = [_finer(form) for form in (_hermite_forms(order) if order <= ALL_UP_TO else _divided_cells(order))]
        longest = [np.linalg.norm(basis, axis=1).max() for basis, _ in groups]
        found += [groups[k] for k in np.argsort(np.round(longest, 9), kind="stable")[:MOST_PER_ORDER]]
    if not found:
        raise InputError(f"no translation group has an order among {orders}; orders are whole numbers from 2 on")
    size = max(len(points) for _, points in found)
    shifts = np.zeros((len(found), size, 3))
    for k, (_, points) in enumerate(found):
        shifts[k, : len(points)] = points
    return TranslationTable(
        np.array([b for b, _ in found], np.float32),
        shifts.astype(np.float32),
        np.array([len(p) for _, p in found], np.int32),
    )


def _hermite_forms(order: int):
    """Lower triangular integer matrices of this determinant, one for each sublattice of the integer lattice."""
    for a, c in itertools.product(range(1, order + 1), repeat=2):
        if order % (a * c) == 0:
            f = order // (a * c)
            for b, d, e in itertools.product(range(a), range(a), range(c)):
                yield np.array([[a, 0, 0], [b, c, 0], [d, e, f]])


def _divided_cells(order: int):
    """The triangular forms of cells divided along each axis, with or without centring."""
    for points in CENTRINGS:
        for n in itertools.product(range(1, 5), repeat=3):
            if np.prod(n) * (len(points) + 1) == order and max(n) <= 2 * min(n):
                yield _triangular(np.array([*np.eye(3, dtype=int) * 2, *points]), np.array(n))


def _triangular(halves: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The form of the lattice spanned by `halves` / (2 n): the unit vectors in a basis of it, made triangular."""
    rows: list[np.ndarray] = list(halves)
    basis = []
    for k in (2, 1, 0):  # a triangular basis of the spanned lattice, by Euclid on one column after the other
        while sum(r[k] != 0 for r in rows) > 1:
            column = np.abs([r[k] for r in rows])
            pivot = rows[int(np.argmin(np.where(column > 0, column, column.max() + 1)))]
            rows = [r if r is pivot else r - pivot * (r[k] // pivot[k]) for r in rows]
        pivot = next(r for r in rows if r[k] != 0)
        basis.insert(0, pivot * np.sign(pivot[k]))
        rows = [r for r in rows if r is not pivot]
    form = np.rint(np.linalg.inv(np.array(basis) / (2 * n))).astype(int)
    assert np.allclose(form @ (np.array(basis) / (2 * n)), np.eye(3))
    return form


def _finer(form: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduced basis, and points in the unit cell, of the lattice in whose basis the unit vectors are the rows of `form`."""
    basis = np.linalg.inv(form)
    steps = np.array(list(itertools.product(*map(range, np.diag(form)))))  # modulo a lower triangular form: its diagonal
    points = np.round(steps @ basis, 9) % 1
    return reduced(basis), points


def reduced(basis: np.ndarray) -> np.ndarray:
    """Shorter vectors of the same lattice: each is made as short as the others allow until nothing changes."""
    basis = np.array(basis, float)
    signs = [s for s in itertools.product((-1, 0, 1), repeat=2) if any(s)]
    changed = True
    while changed:
        changed = False
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            tries = [basis[k] + s * basis[i] + t * basis[j] for s, t in signs]
            best = min(tries, key=np.linalg.norm)
            if np.linalg.norm(best) < np.linalg.norm(basis[k]) - 1e-9:
                basis[k], changed = best, True
    return basis


class Replicate(Generator):
    """The cell is divided into equal parts by a random group of translations and filled with copies of one of them.

    The part is about a random atom: for each species the atoms nearest to it that are not equivalent to one already
    taken. Only groups whose order divides the number of atoms of every species are used, and none whose translations
    are shorter than `shortest` bonds; where there is none, all atoms are displaced instead. A liquid has a crystal's
    density but not its order, and a small part of it is far more likely to find the order than the whole: from then on
    translations keep it. The idea of cut-and-splice with the structure itself as the second parent.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "replicate"
    groups: TranslationTable
    shortest: float = 0.85
    apart: float = 0.6  # atoms this near (in bonds) after a translation are the same atom
    noise: float = 0.02

    def __init__(self, orders: tuple[int, ...] = ORDERS, shortest: float = 0.85, apart: float = 0.6, noise: float = 0.02):
        self.groups = translation_table(tuple(orders))
        self.shortest, self.apart, self.noise = shortest, apart, noise

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        require_cell(system, self.name)
        parent = parents[0]
        x, cell = parent.positions, parent.cell
        n, dtype = x.shape[0], x.dtype
        mask, numbers = system.mask, system.numbers
        bond = jnp.asarray(system.bond, dtype)
        k_group, k_centre, k_noise = jr.split(key, 3)
        table = TranslationTable(
            jnp.asarray(self.groups.bases, dtype), jnp.asarray(self.groups.shifts, dtype), jnp.asarray(self.groups.orders)
        )
        allowed = self._allowed(table, cell, system, bond)
        # Every order that is possible is as likely as any other, however many groups it has.
        rivals = ((table.orders[:, None] == table.orders) & allowed).sum(1)
        weight = -jnp.log(jnp.maximum(rivals, 1).astype(dtype))
        group = jnp.argmax(jnp.where(allowed, weight + gumbel(k_group, weight), -jnp.inf))
        possible = allowed.any()
        order = table.orders[group]
        shifts = table.shifts[group] @ cell
        fine = Space(table.bases[group] @ cell)  # the nearest image under all translations of the group

        centre = jnp.argmax(jnp.where(mask, jr.uniform(k_centre, (n,)), -1))
        r2 = jnp.where(mask, distances_from(x[centre], x, traced_space(cell, system.pbc)), jnp.inf)
        near2 = (self.apart * bond) ** 2

        # The slots of each species are filled in order.
        same = (numbers[:, None] == numbers) & mask
        ordinal = (same & (jnp.arange(n)[:, None] > jnp.arange(n))).sum(1)

        def take(carry):
            new, filled, covered, count = carry
            # `filled` counts per slot how many slots of its species are.
            k = jnp.argmin(jnp.where(mask & (filled < same.sum(1)), r2 + jnp.where(covered, 1e3 * bond**2 * n, 0), jnp.inf))
            rank = ordinal - filled[k]
            slots = same[k] & (rank >= 0) & (rank < order)
            new = jnp.where(slots[:, None], x[k] + shifts[jnp.clip(rank, 0, shifts.shape[0] - 1)], new)
            covered = covered | (distances_from(x[k], x, fine) < near2)
            return new, filled + jnp.where(same[k], order, 0), covered, count + order

        start = (x, jnp.zeros(n, jnp.int32), jnp.zeros(n, bool), 0)
        new, *_ = lax.while_loop(lambda c: (c[3] < mask.sum()) & possible, take, start)
        size = jnp.where(possible, self.noise, 0.3).astype(dtype) * bond
        return moved(parent, new + in_ball(k_noise, (n,), dtype) * size)

    def _allowed(self, table: TranslationTable, cell, system: System, bond):
        """Which groups (groups,) divide every species, keep copies apart and translate along periodic axes only."""
        numbers = jnp.where(system.mask, system.numbers, -2)
        counts = jnp.where(system.mask, (numbers[:, None] == numbers).sum(1), 0)
        divides = (counts[None] % table.orders[:, None] == 0).all(1)
        vectors = table.bases @ cell
        long = ((vectors**2).sum(-1) > (self.shortest * bond) ** 2).all(1)
        still = [k for k in range(3) if not system.pbc[k]]
        along = (jnp.abs(table.shifts[:, :, still]) < 1e-6).all((1, 2)) if still else True
        return divides & long & along
