"""Tersoff's carbon: pairs whose attraction weakens with the number and the angles of the other bonds of their atoms.

The strength of a bond is no polynomial in the directions of its neighbours, as Stillinger and Weber's angles are, so there is
no way around triplets here. But bonds end at 2.1 Å: of all atoms and images only the nearest few are looked at.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.potentials.rows import FAR
from thalweg.space import Space

#: Neighbours of an atom within the cutoff at most; close-packed carbon at 1.4 Å has 18. Denser heaps have no energy here.
SLOTS = 24


class Tersoff(Potential):
    """Carbon of J. Tersoff, Phys. Rev. Lett. 61, 2879 (1988), doi:10.1103/PhysRevLett.61.2879; eV and Å.

    Half the sum over ordered pairs of f(r) (A exp(-lambda1 r) - b B exp(-lambda2 r)), with b = (1 + (beta zeta)^n)^(-1/2n) and
    zeta the sum over other neighbours k of f(r_ik) (1 + c^2/d^2 - c^2/(d^2 + (h - cos theta_ijk)^2)). f falls from 1 to 0
    between R - D and R + D. `d` is 4.3484 as in later papers of its author; the 4.384 in print is a transposition.
    """

    A: float = 1393.6
    B: float = 346.74
    lambda1: float = 3.4879
    lambda2: float = 2.2119
    beta: float = 1.5724e-7
    n: float = 0.72751
    c: float = 38049.0
    d: float = 4.3484
    h: float = -0.57058
    R: float = 1.95
    D: float = 0.15
    species: int = eqx.field(static=True, default=6, kw_only=True)

    @property
    def reach(self) -> float:
        return float(self.R) + float(self.D)

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        shape = positions.shape[2:]
        flat = positions.reshape(*positions.shape[:2], -1)
        width, dtype = flat.shape[-1], flat.dtype
        kinds = jnp.broadcast_to(numbers, (numbers.shape[0], *shape)).reshape(numbers.shape[0], -1)
        cell = jnp.eye(3, dtype=dtype) if space is None else space.cell
        cell = cell.reshape(3, 3, *cell.shape[2:], *[1] * (len(shape) + 2 - cell.ndim))
        cells = jnp.broadcast_to(cell, (3, 3, *shape)).reshape(3, 3, width)

        def one(x, kind, cell):
            def total(x, strain):
                deform = jnp.eye(3, dtype=dtype) + strain
                # A strained box is none, whatever its cell was.
                own = None if space is None else Space(cell @ deform, space.pbc, False, space.images, space.nearest)
                each = self._each(x @ deform, kind, own)
                return each.sum(), each

            (energy, each), (slope, strained) = jax.value_and_grad(total, (0, 1), has_aux=True)(x, jnp.zeros((3, 3), dtype))
            return energy, -slope, each, -(strained + strained.T) / 2

        energy, forces, each, pull = jax.vmap(one, in_axes=-1, out_axes=-1)(flat, kinds, cells)
        return finish(
            energy.reshape(shape), forces.reshape(positions.shape), each.reshape(each.shape[0], *shape),
            pull.reshape(3, 3, *shape) if virial else None, True if space is None else space.covers(self.R + self.D),
        )  # fmt: skip

    def _each(self, x, kind, space: Space | None):
        """Energies (atoms,) of one structure of positions (atoms, 3) and species (atoms,)."""
        offsets, r2 = _partners(x, kind, space)
        slots = min(SLOTS, r2.shape[1])
        nearest = lax.top_k(-lax.stop_gradient(r2), slots)[1]
        crowded = (r2 < (self.R + self.D) ** 2).sum(1) > slots
        r2 = jnp.take_along_axis(r2, nearest, 1)
        there = r2 < FAR
        r = jnp.sqrt(r2)
        u = jnp.where(there[..., None], jnp.take_along_axis(offsets, nearest[..., None], 1), 0) / r[..., None]
        ends = jnp.where(there, self._ends(r), 0)  # (atoms, slots)
        cosine = jnp.einsum("ijc,ikc->ijk", u, u)
        away = (self.h - cosine) ** 2
        # As 1 + c^2/d^2 - c^2/(d^2 + away), without its differences of large numbers.
        bend = 1 + (self.c / self.d) ** 2 * away / (self.d**2 + away)
        zeta = jnp.where(jnp.eye(slots, dtype=bool), 0, bend * ends[:, None]).sum(-1)
        alone = zeta <= 0  # where the power has no slope
        order = (1 + (self.beta * jnp.where(alone, 1, zeta)) ** self.n) ** (-0.5 / self.n)
        order = jnp.where(alone, 1, order)
        pair = self.A * jnp.exp(-self.lambda1 * r) - order * self.B * jnp.exp(-self.lambda2 * r)
        energies = 0.5 * (ends * pair).sum(1)
        # A stranger, or more neighbours than are looked at, has no energy instead of a wrong one.
        wrong = crowded | ((kind >= 0) & (kind != self.species))
        return jnp.where(kind < 0, 0, jnp.where(wrong, jnp.nan, energies))

    def _ends(self, r):
        """f: 1, and then half a wave of the cosine down to 0."""
        phase = jnp.clip((r - self.R) / self.D, -1, 1)
        return 0.5 - 0.5 * jnp.sin(0.5 * jnp.pi * phase)

    def check(self, numbers: np.ndarray) -> None:
        strangers = set(np.unique(numbers)) - {self.species, -1}
        if strangers:
            from ase.data import chemical_symbols

            known, other = chemical_symbols[self.species], chemical_symbols[min(strangers)]
            raise InputError(f"these Tersoff parameters are for {known}, not {other}; set potential.species")

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Graphite's bond, 1.46 Å here."""
        return np.full(len(numbers), 1.46)

    def energy_scale(self, numbers: np.ndarray) -> float:
        """A third of two graphite atoms' energy: what a bond has."""
        return 4.9


def _partners(x, kind, space: Space | None):
    """Offsets (atoms, partners, 3) from all atoms and images to each atom, and their squares, FAR where there is no pair."""
    n = len(x)
    d = x[:, None] - x
    real = (kind >= 0)[:, None] & (kind >= 0) & ~jnp.eye(n, dtype=bool)
    if space is None:
        r2 = (d * d).sum(-1)
        return d, jnp.where(real, r2, FAR)
    d = jnp.stack(space.minimum_image(*(d[..., k] for k in range(3))), -1)
    shifts = space.shifts(x.dtype)
    home = (shifts == 0).all(1)
    d = d[:, :, None] + shifts @ space.cell
    # An atom does interact with its own images.
    real = jnp.where(home, real[..., None], ((kind >= 0)[:, None] & (kind >= 0))[..., None])
    blur = (4 * jnp.finfo(x.dtype).eps * (jnp.abs(x).max() + jnp.abs(space.cell).max())) ** 2
    r2 = (d * d).sum(-1)
    r2 = jnp.where(r2 < blur, 0, r2)
    return d.reshape(n, -1, 3), jnp.where(real, r2, FAR).reshape(n, -1)
