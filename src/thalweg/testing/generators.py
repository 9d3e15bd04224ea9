"""The conformance check of generators."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg import prng
from thalweg.generators.base import Generator
from thalweg.leaves import as_leaves
from thalweg.structure import Structure, pad
from thalweg.system import System
from thalweg.testing.shared import compact_cluster, numbers_traced, require


def check_generator(generator: Generator, system: System, parents: Structure | None = None) -> None:
    """Check a generator on a system; `parents` (n_parents, atoms, 3) default to compact clusters.

    Fixed atoms are not its concern: the search puts them back.
    """
    name = type(generator).__name__
    require(isinstance(generator, Generator), f"{name} is not a thalweg Generator; derive it from Generator.")
    for field in ("n_parents", "name"):
        require(hasattr(type(generator), field), f"{name} lacks the class variable {field}.")
    system = jax.tree.map(np.asarray, system)
    if parents is None:
        count = max(1, generator.n_parents)
        x = np.stack([compact_cluster(system.bond_lengths, seed=s) for s in range(count)])
        parents = Structure.create(x, system.numbers, system.cell, system.fixed, system.pbc)
    n_slots = len(system.numbers)
    draw = _draws(generator, system)
    with numbers_traced(name):
        first = draw(parents, 7)
    again = draw(parents, 7)
    x = np.asarray(first.positions)
    require(x.shape[1:] == (n_slots, 3), f"{name} returns positions of shape {x.shape[1:]} for {n_slots} slots.")
    require(x.dtype == np.float32, f"{name} returns positions of type {x.dtype} for a float32 parent.")
    mask = np.asarray(system.mask)
    require(bool(np.isfinite(x[:, mask]).all()), f"{name} returns positions that are not finite.")
    for field in ("numbers", "fixed") if generator.changes_cell else ("numbers", "fixed", "cell"):
        mine, wanted = np.asarray(getattr(first, field)), np.asarray(getattr(_single(parents), field))[0]
        require(
            bool((mine == wanted).all()),
            f"{name} changes the {field} of its parent; the number of atoms and species are the system's.",
        )
    require(bool((np.asarray(again.positions) == x).all()), f"{name} gives different structures for the same key.")
    moved = np.abs(x[1:] - x[:-1])[:, mask].max(axis=(1, 2), initial=0) > 0
    require(bool(moved.any()) or mask.sum() < 2, f"{name} gives the same structure for different keys.")
    padded = jax.tree.map(np.asarray, system.padded(n_slots + 3))
    x = np.asarray(_draws(generator, padded)(pad(parents, n_slots + 3), 8).positions)[:, np.asarray(padded.mask)]
    require(bool(np.isfinite(x).all()), f"{name} returns positions that are not finite when the system is padded.")


def _draws(generator, system):
    """A function of (parents, seed) that draws 16 structures."""

    @eqx.filter_jit
    def draw(generator, parents, system, keys):
        return jax.vmap(lambda key: generator(key, parents, system))(keys)

    def call(parents, seed):
        return draw(as_leaves(generator, np.float32), _single(parents), _single(system), jax.random.split(prng.key(seed), 16))

    return call


def _single(tree):
    """JAX arrays in float32, as the search holds them."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32 if np.asarray(a).dtype == np.float64 else None), tree)
