"""Simulated annealing as a relaxer: Langevin dynamics that cools, then another relaxer to the bottom."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.prng import normals
from thalweg.relax.base import Relaxer
from thalweg.relax.lbfgs import LBFGS
from thalweg.typing import PyTree


class Annealing(Relaxer):
    """Langevin dynamics from kT = `hot` to `cold` in `n_steps` steps, then `then` until the force limit is met.

    Kirkpatrick, Gelatt and Vecchi, Science 220, 671 (1983), doi:10.1126/science.220.4598.671; the dynamics is BAOAB with unit
    masses (Leimkuhler and Matthews, doi:10.1093/amrx/abs010), one force per step. `hot` and `cold` are in the potential's
    unit of energy, `dt` in sqrt(length^2 / energy), `friction` in its inverse: masses change how fast a landscape is
    crossed, not what is found. Cooling is geometric. The random numbers of a trajectory are a hash of the structure it
    starts from and of `seed`, so that it does not matter beside which others it runs. Before, `then` takes `settle` steps:
    the energy of overlapping atoms would otherwise become heat, and a free cluster evaporate.
    """

    wanders: ClassVar[bool] = True

    n_steps: int = 10_000
    hot: float = 0.5
    cold: float = 0.05
    dt: float = 0.01
    friction: float = 1.0
    seed: int = 0
    settle: int = 50
    max_step: float = 0.2  # of one step of the dynamics, any atom: keeps overlapping starts from exploding
    then: Relaxer = eqx.field(default_factory=LBFGS)

    def __check_init__(self):
        for name in ("n_steps", "hot", "cold", "dt", "friction"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} of an annealing is {value}; it must be positive")

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        return {
            "v": jnp.zeros_like(x),
            "step": jnp.zeros(lanes, jnp.int32),
            "words": jnp.zeros((2, *lanes), jnp.uint32),
            "then": self.then.init(x),
        }

    def settled(self, state):
        return state["step"] >= self.settle + self.n_steps

    def reset(self, state, x, mask) -> PyTree:
        return {
            "v": jnp.where(mask, 0.0, state["v"]),
            "step": jnp.where(mask, 0, state["step"]),
            "words": state["words"],
            "then": self.then.reset(state["then"], x, mask),
        }

    def step(self, x, force, energy, state):
        step = state["step"] - self.settle  # of the dynamics
        words = jnp.where(state["step"] == 0, words_of(x, self.seed), state["words"])
        through = jnp.clip(step / self.n_steps, 0.0, 1.0).astype(x.dtype)
        kt = self.hot * (self.cold / self.hot) ** through
        noise = normals(words, step, x.shape, x.dtype)
        v = jnp.where(step <= 0, jnp.sqrt(kt) * noise, state["v"])
        move, v = langevin(v, force, kt, noise, self.dt, self.friction, self.max_step)
        hot = (step >= 0) & (step < self.n_steps)
        down, then = lax.cond(hot.all(), lambda *a: self._wait(*a), lambda *a: self._descend(*a), x, force, energy, state)
        return jnp.where(hot, move, down), {"v": v, "step": state["step"] + 1, "words": words, "then": then}

    def _wait(self, x, force, energy, state):
        """Nothing yet for the second relaxer."""
        return jnp.zeros_like(x), state["then"]

    def _descend(self, x, force, energy, state):
        """The second relaxer's step, in lanes without dynamics; it begins anew where the dynamics ends."""
        step = state["step"] - self.settle
        hot = (step >= 0) & (step < self.n_steps)
        begun = self.then.reset(state["then"], x, hot | (step == self.n_steps))
        move, then = self.then.step(x, force, energy, begun)
        per_lane = lambda a: a.shape[-1:] == step.shape[-1:]
        return move, jax.tree.map(lambda new, old: jnp.where(hot, old, new) if per_lane(new) else new, then, begun)


def langevin(v, force, kt, noise, dt, friction, max_step):
    """(displacement, next velocity) of one BAOAB step with unit masses; `kt` is (*lanes), `noise` standard normal.

    Written so that one force per step is enough: both half kicks around a force are one. No atom moves further than
    `max_step`, and the velocity of one that was held back is what it really did, or it would fly off later. Atoms without
    a force (fixed, padding) are not heated either.
    """
    keep = jnp.exp(-jnp.asarray(friction * dt, v.dtype))
    before = v + dt * force
    after = keep * before + jnp.sqrt(kt * (1 - keep * keep)) * noise
    move = (before + after) * (dt / 2)
    longest = jnp.sqrt((move * move).sum(axis=1, keepdims=True))
    held = longest > max_step
    move = jnp.where(held, move * (max_step / jnp.maximum(longest, 1e-30)), move)
    still = force == 0
    return jnp.where(still, 0.0, move), jnp.where(still, 0.0, jnp.where(held, move / dt, after))


def words_of(x, seed):
    """Two words (2, *lanes) that hash positions (n, 3, *lanes) and a seed."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    odd = (2 * jnp.arange(x.shape[0] * 3, dtype=jnp.uint32) + 1).reshape(x.shape[0], 3, *[1] * (x.ndim - 2))
    mixed = (bits ^ (bits >> 15)) * odd * np.uint32(0x9E3779B9)
    first = mixed.sum(axis=(0, 1), dtype=jnp.uint32) + jnp.asarray(seed).astype(jnp.uint32) * np.uint32(0x85EBCA6B)
    return jnp.stack([first, first * np.uint32(0x2C1B3C6D) + np.uint32(0x297A2D39)])
