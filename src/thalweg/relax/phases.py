"""Relaxers of two phases: so many steps of one kind, then another relaxer to the bottom."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from thalweg.relax.base import Relaxer


def descended(then: Relaxer, n_steps, x, force, energy, state):
    """(displacement, next state) of the relaxer that follows after `n_steps`, in lanes that have got there.

    `state` holds the "step" of each lane and what "then" keeps; it begins anew where the first phase ends. Nothing is
    computed while all lanes are in the first one.
    """
    first = state["step"] < n_steps

    def descend(x, force, energy, held):
        begun = then.reset(held, x, first | (state["step"] == n_steps))
        return then.step(x, force, energy, begun)

    wait = lambda x, force, energy, held: (jnp.zeros_like(x), held)
    return lax.cond(first.all(), wait, descend, x, force, energy, state["then"])
