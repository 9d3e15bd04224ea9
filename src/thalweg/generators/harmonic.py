"""Harmonic starts: uniform in a cube, then pushed apart by soft spheres, as learned optimisers were published with."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved
from thalweg.geometry import centred, nearest_image, traced_space
from thalweg.structure import Structure
from thalweg.system import System


class Harmonic(Generator):
    """Atoms uniform in a cube of `side` bonds, pushed apart by harmonic soft spheres in `steps` descents.

    The initialisation of A. Merchant et al., "Learn2Hop", ICML 2021 (arXiv:2107.09661): a cube of 3 bonds whatever the
    number of atoms, spheres of the diameter of a bond (equation 8 prints a cutoff of 0.1, which would push nothing apart).
    In a periodic cell atoms are uniform in the cell.
    """

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "harmonic"
    side: float = 3.0
    diameter: float = 1.0
    steps: int = eqx.field(static=True, default=50)

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        n, dtype = parent.positions.shape[0], parent.positions.dtype
        space = traced_space(parent.cell, system.pbc)
        u = jr.uniform(key, (n, 3), dtype)
        x = (u - 0.5) * (self.side * system.bond) if space is None else u @ parent.cell.astype(dtype)
        bonds = jnp.asarray(system.bond_lengths, dtype)
        reach = self.diameter * (bonds[:, None] + bonds) / 2
        pair = system.mask[:, None] & system.mask & ~jnp.eye(n, dtype=bool)

        def push(_, x):
            d = nearest_image(x[:, None] - x, space)
            r = jnp.sqrt((d * d).sum(-1) + 1e-12)
            overlap = jnp.where(pair, jnp.maximum(reach - r, 0), 0)
            return x + 0.25 * ((overlap / r)[..., None] * d).sum(1)

        x = lax.fori_loop(0, self.steps, push, x)
        return moved(parent, x if space is not None else centred(x, system.mask))
