"""Moves of covalent networks: which atom is bonded to which changes, the number of bonds does not."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, moved
from thalweg.geometry import distances_from, in_ball, nearest_image, traced_space, unit
from thalweg.structure import Structure
from thalweg.system import System


class BondSwitch(Generator):
    """A bond turns by a quarter about its middle, in the plane of one of its neighbours: 1 to `most` bonds.

    Let A-B-C-D be a zigzag of bonds. When B and C turn towards D and A, the bonds A-B and C-D break, A-C and B-D form
    and all others hold: the bond transposition of Wooten, Winer and Weaire, Phys. Rev. Lett. 54, 1392 (1985),
    doi:10.1103/PhysRevLett.54.1392, as a motion of two atoms. In a diamond lattice it makes the fourfold-coordinated
    defect of Goedecker, Deutsch and Billard, Phys. Rev. Lett. 88, 235501 (2002), doi:10.1103/PhysRevLett.88.235501.
    Atoms within `reach` bonds of each other count as bonded; atoms near the bond are shaken by `noise` bonds.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "bond-switch"
    most: int = 2
    reach: float = 1.25
    noise: float = 0.05

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x0 = parents.positions[0]
        n, dtype = x0.shape[0], x0.dtype
        space = traced_space(parents.cell[0], system.pbc)
        bonds = jnp.asarray(system.bond_lengths, dtype)
        k_count, key = jr.split(key)
        n_switches = jr.randint(k_count, (), 1, self.most + 1)

        def one(i, x):
            k_b, k_c, k_a, k_any, k_noise = jr.split(jr.fold_in(key, i), 5)
            pick = lambda k, allowed: jnp.argmax(jnp.where(allowed, jr.uniform(k, (n,)), -1))
            b = pick(k_b, system.mask)
            r2 = distances_from(x[b], x, space)
            bonded = system.mask & (jnp.arange(n) != b) & (r2 < (self.reach * (bonds + bonds[b]) / 2) ** 2)
            # An atom without neighbours switches with its nearest one.
            nearest = jnp.argmin(jnp.where(system.mask & (jnp.arange(n) != b), r2, jnp.inf))
            c = jnp.where(bonded.any(), pick(k_c, bonded), nearest)
            rest = bonded & (jnp.arange(n) != c)
            a = pick(k_a, rest)
            along = nearest_image(x[c] - x[b], space)
            aside = nearest_image(x[b] - x[a], space)
            aside = jnp.where(rest.any(), aside, in_ball(k_any, (), dtype))
            length2 = (along * along).sum()
            aside = unit(aside - along * ((aside @ along) / jnp.maximum(length2, 1e-12)))
            half = aside * (jnp.sqrt(length2) / 2)
            middle = x[b] + along / 2
            close = distances_from(middle, x, space) < (1.8 * bonds) ** 2
            shaken = x + in_ball(k_noise, (n,), dtype) * (self.noise * bonds)[:, None]
            turned = x.at[b].set(middle + half).at[c].set(middle - half)
            moved_atoms = jnp.where(close[:, None], turned + (shaken - x), turned)
            return moved_atoms

        return moved(parents[0], lax.fori_loop(0, n_switches, one, x0))
