"""Which atoms sit badly and where others could sit: choices that several generators make."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.geometry import contact_energies, landing_sites, random_direction
from thalweg.system import System


def gumbel(key, like):
    """Gumbel noise of the shape of `like`: argmax(a + gumbel) draws from softmax(a)."""
    u = jr.uniform(key, like.shape, like.dtype, minval=1e-6)
    return -jnp.log(-jnp.log(u))


def weakest(key, x, system: System, greed: float):
    """Index of an atom drawn with a preference for few contacts (softmax of `greed` x contact energy)."""
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    energy = contact_energies(x, x, bonds, bonds, system.mask)
    return jnp.argmax(jnp.where(system.mask, greed * energy + gumbel(key, energy), -jnp.inf))


def fill_up(key, x, count, system: System, rays: int):
    """Put the atoms that are still missing, from `count` on, one by one on the best landing site."""
    dtype = x.dtype
    bonds = jnp.asarray(system.bond_lengths, dtype)

    def one(i, x):
        placed = jnp.arange(x.shape[0]) < i
        directions = random_direction(jr.fold_in(key, i), (rays,), dtype)
        sites = landing_sites(directions, x, bonds[i], bonds, placed)
        score = contact_energies(sites, x, jnp.full(rays, bonds[i]), bonds, placed)
        return x.at[i].set(sites[jnp.argmin(score)])

    return lax.fori_loop(count, system.n_atoms, one, x)
