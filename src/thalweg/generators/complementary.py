"""Complementary energy as a move: atoms are led to places like those of a few role models in the same structure."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.generators.base import Generator, confine, moved
from thalweg.geometry import in_ball, nearest_image, traced_space
from thalweg.structure import Structure
from thalweg.surrogates.complementary import Density, Species, assign, choose, distances
from thalweg.system import System

#: Energies of a pair that is too near, of an atom without a neighbour and of an atom outside the region, in units of
#: (length of violation / bond)^2. A step in the complementary landscape gains about .1.
TOO_NEAR, ALONE, OUTSIDE = 30.0, 3.0, 30.0


class ComplementaryEnergy(Generator):
    """Relaxation in the landscape of complementary energy (`thalweg.surrogates.complementary`) of the parent's role models.

    `fewest` to `most` atoms of the parent are the role models. With probability `few` only some atoms move: R of those that
    resemble the role models least, R uniform from 1 to all. They are first displaced by up to `rattle` bonds, then all that
    move descend for a fixed number of `steps`, each atom by at most `longest` bonds at a time; who follows whom is frozen
    when it begins. Distance limits and the region of the system are kept by soft walls.
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "complementary"
    few: float = 0.5
    rattle: float = 1.0
    longest: float = 0.1
    apart: float = 0.01
    fewest: int = 2
    most: int = eqx.field(static=True, default=4)
    steps: int = eqx.field(static=True, default=60)
    decay: float = 1.0
    cutoff: float = 11.9

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        x, dtype = parent.positions, parent.positions.dtype
        k_count, k_models, k_mode, k_number, k_rattle = jr.split(key, 5)
        unit = jnp.where((system.numbers > 0).any(), 1.0, system.bond).astype(dtype)
        density, species = Density(self.decay, self.cutoff), Species.of(system.numbers)
        features_of = lambda x: density(moved(parent, x), species, unit)
        count = jr.randint(k_count, (), self.fewest, self.most + 1)
        now = features_of(x)
        models = choose(k_models, now, system.numbers, system.mask, count, self.most, self.apart)
        free = jnp.asarray(system.searched & ~system.fixed)
        misfit = jnp.where(free, distances(now, assign(now, system.numbers, models), models), -jnp.inf)
        n = jr.randint(k_number, (), 1, jnp.maximum(free.sum(), 1) + 1)
        worst = jnp.argsort(jnp.argsort(-misfit)) < n
        goes = (free & (worst | (jr.uniform(k_mode) >= self.few))).astype(dtype)[:, None]
        bond = jnp.asarray(system.bond, dtype)
        start = x + goes * in_ball(k_rattle, x.shape[:1], dtype) * (self.rattle * bond).astype(dtype)
        start = confined(start, parent, system, goes)
        assigned = assign(features_of(start), system.numbers, models)

        def energy(x):
            led = (distances(features_of(x), assigned, models) * system.mask).sum()
            return led + walls(x, parent, system, goes[:, 0])

        x = descend(jax.value_and_grad(energy), start, goes, self.steps, (self.longest * bond).astype(dtype))
        return moved(parent, confined(x, parent, system, goes).astype(dtype))


def confined(x, parent: Structure, system: System, goes):
    """Positions (atoms, 3) with the atoms that go, `goes` (atoms, 1), back in the region of the system."""
    if system.region is None:
        return x
    return jnp.where(goes > 0, confine(x, system, traced_space(parent.cell, parent.pbc)), x).astype(x.dtype)


def walls(x, parent: Structure, system: System, goes):
    """Energy of pairs below the distance limits, of moving atoms without a neighbour within them and of those outside."""
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    d = nearest_image(x[:, None] - x[None], traced_space(parent.cell, parent.pbc))
    pair = jnp.asarray(system.mask)[:, None] & jnp.asarray(system.mask)[None] & ~jnp.eye(len(x), dtype=bool)
    r = jnp.sqrt(jnp.where(pair, (d * d).sum(-1) + 1e-12, 1.0))
    ratio = jnp.where(pair, r / ((bonds[:, None] + bonds[None]) / 2), 1e3)
    low, high = system.limits
    near = (jnp.where(pair, jnp.maximum(low - ratio, 0), 0) ** 2).sum() / 2
    alone = (goes * jnp.where(len(x) > 1, jnp.maximum(ratio.min(1) - high, 0), 0) ** 2).sum()
    total = TOO_NEAR * near + ALONE * jnp.minimum(alone, 1e3)
    if system.region is not None:
        out = (x - lax.stop_gradient(confined(x, parent, system, goes[:, None]))) / jnp.asarray(system.bond, x.dtype)
        total = total + OUTSIDE * (out * out).sum()
    return total


def descend(value_and_gradient, x, goes, steps: int, longest):
    """The lowest point met in a fixed number of steps along the gradient with momentum, no atom further than `longest`.

    Momentum is dropped where it points uphill; the length of a step adapts, as in FIRE, between 1e-3 and 1 of the longest.
    """

    def one(_, carry):
        x, v, scale, best, lowest = carry
        value, gradient = value_and_gradient(x)
        good = jnp.isfinite(value) & jnp.isfinite(gradient).all()
        force = jnp.where(good, -gradient, 0) * goes
        better = good & (value < lowest)
        best, lowest = jnp.where(better, x, best), jnp.where(better, value, lowest)
        downhill = (force * v).sum() >= 0
        scale = jnp.clip(jnp.where(downhill, scale * 1.1, scale * 0.5), 1e-3, 1.0)
        v = jnp.where(downhill, 0.8 * v, 0) + force
        size = jnp.sqrt((v * v).sum(-1).max() + 1e-20)
        return x + v / size * scale * longest, v, scale, best, lowest

    first = (x, jnp.zeros_like(x), jnp.ones((), x.dtype), x, jnp.full((), jnp.inf, x.dtype))
    return lax.fori_loop(0, steps, one, first)[3]
