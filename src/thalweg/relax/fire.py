"""FIRE: molecular dynamics that is steered downhill."""

from __future__ import annotations

import jax.numpy as jnp

from thalweg.relax.base import Relaxer, dot
from thalweg.typing import PyTree


class FIRE(Relaxer):
    """Fast inertial relaxation engine (Bitzek et al., PRL 97, 170201 (2006), doi:10.1103/PhysRevLett.97.170201).

    Parameters and the order of operations are those of `ase.optimize.FIRE`, so trajectories are the same step by step.
    """

    dt: float = 0.1
    dt_max: float = 1.0
    max_step: float = 0.2
    n_min: int = 5
    f_inc: float = 1.1
    f_dec: float = 0.5
    a_start: float = 0.1
    f_a: float = 0.99

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        return {
            "v": jnp.zeros_like(x),
            "dt": jnp.full(lanes, self.dt, x.dtype),
            "a": jnp.full(lanes, self.a_start, x.dtype),
            "n": jnp.zeros(lanes, jnp.int32),
            "started": jnp.zeros(lanes, bool),
        }

    def step(self, x, force, energy, state):
        v, dt, a, n, started = state["v"], state["dt"], state["a"], state["n"], state["started"]
        downhill = dot(force, v) > 0
        speed = jnp.sqrt(dot(v, v))
        strength = jnp.sqrt(jnp.maximum(dot(force, force), jnp.finfo(x.dtype).tiny))
        mixed = (1 - a) * v + a * force / strength * speed
        patient = downhill & (n > self.n_min)
        # ASE tests the power only from the second step on.
        uphill = started & ~downhill
        v = jnp.where(downhill, mixed, 0.0)
        dt = jnp.where(patient, jnp.minimum(dt * self.f_inc, self.dt_max), jnp.where(uphill, dt * self.f_dec, dt))
        a = jnp.where(patient, a * self.f_a, jnp.where(uphill, self.a_start, a))
        n = jnp.where(downhill, n + 1, 0)
        v = v + dt * force
        move = dt * v
        length = jnp.sqrt(dot(move, move))
        move = move * jnp.minimum(1.0, self.max_step / jnp.maximum(length, jnp.finfo(x.dtype).tiny))
        return move, {"v": v, "dt": dt, "a": a, "n": n, "started": jnp.ones_like(started)}
