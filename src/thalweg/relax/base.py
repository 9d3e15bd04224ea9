"""What a relaxer is: forces in, displacement out; it never sees a potential."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.typing import PyTree

#: Status of a relaxation, per structure.
RUNNING, CONVERGED, STEP_LIMIT, FAILED = 0, 1, 2, 3
STATUS_NAMES = ("running", "converged", "step limit", "not finite")


class Relaxer(eqx.Module):
    """A local minimiser by reverse communication.

    Arrays are (n, 3, *lanes) with lanes last, scalars per structure (*lanes): the same code relaxes one structure or
    many. The state is a pytree whose leaves carry the lanes on their last axis.
    """

    #: True where a relaxation leaves the basin it begins in and is long: hops between minima make no sense with it.
    wanders: ClassVar[bool] = False
    #: True where the energies of single atoms are read, which calculators do not give.
    reads_energies: ClassVar[bool] = False

    def check(self, numbers, pbc) -> None:
        """Raise `InputError` for atoms (atoms,) or boundaries that this relaxer was not made for; by default nothing is."""

    def bound(self, numbers, space, evaluation=None, neighbors=None) -> Relaxer:
        """This relaxer for certain atoms: `numbers` (atoms, *lanes or 1) and their `Space` or None.

        Drivers ask for it before they step. Minimisers do not care; what reads species or neighbours keeps them in itself.
        `evaluation` is that of the present structures, with the energies of their atoms, `neighbors` the potential's list of
        them; both only where there are any.
        """
        return self

    @abc.abstractmethod
    def init(self, x) -> PyTree:
        """State before the first step, for degrees of freedom of this shape."""

    @abc.abstractmethod
    def step(self, x, force, energy, state) -> tuple:
        """The displacement (n, 3, *lanes) to add to `x`, and the next state."""

    def settled(self, state):
        """False (*lanes) while small forces are no reason to stop, as on the hot part of an annealing."""
        return True

    def reset(self, state, x, mask) -> PyTree:
        """The state with the lanes of `mask` as before their first step; a relaxer may do this more cheaply."""
        return jax.tree.map(lambda new, old: jnp.where(mask, new, old), self.init(x), state)


def dot(a, b):
    """Inner product per lane of two arrays (n, 3, *lanes)."""
    return (a * b).sum(axis=(0, 1))


def largest_norm(x):
    """Largest length of a row vector per lane: max_i |x_i|, the `fmax` of ASE when x are forces."""
    return jnp.sqrt((x * x).sum(axis=1).max(axis=0))


def capped(step, max_step):
    """The step scaled as a whole so that no atom moves further than `max_step`."""
    longest = largest_norm(step)
    return step * jnp.minimum(1.0, max_step / jnp.maximum(longest, 1e-30))
