"""Generators for functions of vectors (`thalweg.potentials.landscapes`): what changes is variables, not atoms.

How many of them change at once is drawn too, by a chance that is log-uniform between one in all and one. Some functions
are sums over variables, of which a step that changes many improves some and spoils others; others go down along
directions that no single variable has.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr

from thalweg.errors import InputError
from thalweg.generators.base import Generator, moved
from thalweg.region import Region
from thalweg.structure import Structure
from thalweg.system import System


class Uniform(Generator):
    """All variables uniform in the system's region."""

    n_parents: ClassVar[int] = 0
    name: ClassVar[str] = "uniform"

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        x = parents.positions[0]
        return moved(parents[0], _box(system, self.name).sample(key, x.shape[:1], x.dtype))


class Kick(Generator):
    """Some of the variables change by up to `step` lengths of the system, each by a uniform amount."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "kick"
    step: float = 1.5

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_which, k_change = jr.split(key)
        x = parents.positions[0]
        some = _some(k_which, x, system, self.name)
        change = jr.uniform(k_change, x.shape, x.dtype, -1, 1) * (self.step * system.bond).astype(x.dtype)
        return moved(parents[0], jnp.where(some, x + change, x))


class Redraw(Generator):
    """Some of the variables are drawn anew, uniform in the system's region."""

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "redraw"

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        k_which, k_new = jr.split(key)
        x = parents.positions[0]
        new = _box(system, self.name).sample(k_new, x.shape[:1], x.dtype)
        return moved(parents[0], jnp.where(_some(k_which, x, system, self.name), new, x))


class Mix(Generator):
    """Each variable from one of two parents: uniform crossover (G. Syswerda, Proc. ICGA 3, 2 (1989))."""

    n_parents: ClassVar[int] = 2
    name: ClassVar[str] = "mix"

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        _variables(system, self.name)
        x = parents.positions
        return moved(parents[0], jnp.where(jr.uniform(key, x.shape[1:], x.dtype) < 0.5, x[0], x[1]))


def _some(key, x, system: System, name: str):
    """True (atoms, 3) for the variables that change, one at least."""
    n = _variables(system, name)
    k_chance, k_each = jr.split(key)
    chance = jnp.asarray(n, x.dtype) ** -jr.uniform(k_chance, (), x.dtype)
    u = jr.uniform(k_each, (x.size,), x.dtype)
    u = jnp.where(jnp.arange(x.size) < n, u, 2)
    return ((u < chance) | (jnp.arange(x.size) == jnp.argmin(u))).reshape(x.shape)


def _variables(system: System, name: str) -> int:
    if system.variables is None:
        raise InputError(f'the generator "{name}" is for functions of vectors; for atoms use "displace" or "rattle"')
    return system.variables


def _box(system: System, name: str) -> Region:
    if system.region is None:
        raise InputError(f'the generator "{name}" needs a region; give [system] a box, or leave its region out')
    return system.region
