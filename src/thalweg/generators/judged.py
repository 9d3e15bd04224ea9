"""Generators that look at the energies of single atoms, and who tells them."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from thalweg.generators.base import Generator
from thalweg.typing import Array


class Judge(eqx.Module):
    """Tells the energies of single atoms; traceable. A model that a search has fitted, never the system's own potential."""

    @abc.abstractmethod
    def __call__(self, positions) -> Array:
        """Energies (atoms,) of the system's atoms at positions (atoms, 3), in any unit; padding does not count."""


class Judged(Generator):
    """A generator that a judge may inform; it is None in searches without a model, which then do without.

    Declare it as `judge: Judge | None = nobody()`: it is nothing that an input can say.
    """

    judge: eqx.AbstractVar[Judge | None]


def nobody() -> Any:
    """The field of a judge that has not come yet."""
    return eqx.field(default_factory=type(None), init=False)  # a plain default would not be in the pytree


def informed(generators: tuple[Generator, ...], judge: Judge) -> tuple[Generator, ...]:
    """The same generators, those that look at energies of atoms informed by `judge`."""
    tell = lambda g: eqx.tree_at(lambda g: g.judge, g, judge, is_leaf=lambda leaf: leaf is None)
    return tuple(tell(g) if isinstance(g, Judged) else g for g in generators)


def excesses(energies, numbers, among):
    """How much higher the energy of each atom is than the mean of its species, in units of the spread of all (atoms,).

    What a species has by itself means nothing: models know sums of energies alone. Atoms not `among` (atoms,) those that are
    compared, and energies that are not finite, have none.
    """
    same = (numbers[:, None] == numbers) & among
    mean = jnp.where(same, energies, 0).sum(1) / jnp.maximum(same.sum(1), 1)
    above = energies - mean
    above = jnp.where(among & jnp.isfinite(above), above, 0)
    spread = jnp.sqrt((above * above).sum() / jnp.maximum(among.sum(), 1))
    return above / jnp.maximum(spread, jnp.finfo(above.dtype).tiny)
