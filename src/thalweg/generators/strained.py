"""Moves of the atoms that pay most for where they are."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from thalweg.generators.base import moved
from thalweg.generators.judged import Judge, Judged, excesses, nobody
from thalweg.generators.placed import shaken
from thalweg.generators.sites import gumbel
from thalweg.geometry import contact_energies, traced_space
from thalweg.structure import Structure
from thalweg.system import System


class Strained(Judged):
    """Atoms whose energies are high for their species move by up to `amplitude` bonds, as in `Rattle`.

    One atom to a `share` of them all (uniformly so many), drawn one after the other with chances exp(`greed` x excess); the
    excess of an atom is its energy above the mean of its species in the parent, in units of the spread of all. Who tells the
    energies is the model of a search that has one; without one they are those of contacts (`geometry.contact_energies`).

    Energies of atoms from a model, in mutations: S. A. Meldgaard, E. L. Kolsbjerg and B. Hammer, J. Chem. Phys. 149, 134104
    (2018), doi:10.1063/1.5048290. There atoms are ranked; here what a species has by itself is left out first.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "strained"
    amplitude: float = 1.0
    share: float = 0.5
    greed: float = 1.5
    tries: int = eqx.field(static=True, default=32)
    judge: Judge | None = nobody()

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x = parents.positions[0]
        space = traced_space(parents.cell[0], system.pbc)
        k_count, k_choice, k_step = jr.split(key, 3)
        free = jnp.asarray(system.searched & ~system.fixed)
        above = excesses(self._energies(x, system, space), jnp.asarray(system.numbers), free).astype(x.dtype)
        merit = jnp.where(free, self.greed * above + gumbel(k_choice, above), -jnp.inf)
        most = jnp.maximum((self.share * free.sum()).astype(jnp.int32), 1)
        count = jnp.minimum(jr.randint(k_count, (), 1, most + 1), free.sum())
        step = (self.amplitude * system.bond).astype(x.dtype)
        return moved(parents[0], shaken(k_step, x, jnp.argsort(-merit), count, step, self.tries, system, space))

    def _energies(self, x, system: System, space):
        if self.judge is not None:
            return self.judge(x)
        bonds = jnp.asarray(system.bond_lengths, x.dtype)
        return contact_energies(x, x, bonds, bonds, system.mask, space=space)
