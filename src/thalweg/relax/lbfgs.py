"""L-BFGS with a capped step and no line search."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from thalweg.relax.base import Relaxer, capped, dot, largest_norm
from thalweg.typing import PyTree


class LBFGS(Relaxer):
    """Limited-memory BFGS, two-loop recursion (Nocedal, Math. Comp. 35, 773 (1980), doi:10.2307/2006193).

    Step control: the step is scaled so that no atom moves further than `max_step`; a pair of negative curvature is not
    remembered; a direction that points uphill is replaced by the force; a step that raised the energy by more than
    `max_rise` (relative to the energy) clears the memory. One evaluation per step, as pele and GMIN do it.
    """

    memory: int = eqx.field(static=True, default=4)
    max_step: float = 0.2
    first_step: float = 0.1  # length of the first displacement, as a fraction of max_step
    max_rise: float = 0.02

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        history = jnp.zeros((self.memory, *x.shape), x.dtype)
        return {
            "steps": history,
            "yields": history,
            "rho": jnp.zeros((self.memory, *lanes), x.dtype),
            "force": jnp.zeros_like(x),
            "step": jnp.zeros_like(x),
            "energy": jnp.full(lanes, jnp.inf, x.dtype),
            "slot": jnp.zeros((1,) * len(lanes), jnp.int32),
        }

    def reset(self, state, x, mask) -> PyTree:
        # Without rho the remembered pairs are inert, and a zero last step makes no new pair: no need to clear them.
        return {
            **state,
            "rho": jnp.where(mask, 0.0, state["rho"]),
            "step": jnp.where(mask, 0.0, state["step"]),
            "energy": jnp.where(mask, jnp.inf, state["energy"]),
        }

    def step(self, x, force, energy, state):
        m = self.memory
        s, y = state["step"], state["force"] - force
        sy, yy = dot(s, y), dot(y, y)
        rose = energy > state["energy"] + self.max_rise * jnp.abs(state["energy"])
        usable = (sy > 1e-10 * yy) & (yy > 0) & ~rose
        # All lanes write the same slot of the ring; a lane without a usable pair has rho = 0 there, which makes
        # the slot inert in both loops; it must be finite for that, and forces of a structure that failed are not.
        slot = state["slot"].reshape(())
        put = lambda ring, value: lax.dynamic_update_index_in_dim(ring, jnp.where(usable, value, 0.0), slot, 0)
        steps, yields = put(state["steps"], s), put(state["yields"], y)
        rho = jnp.where(rose, 0.0, state["rho"])
        rho = put(rho, 1 / jnp.where(usable, sy, 1))
        at = lambda ring, k: lax.dynamic_index_in_dim(ring, (slot - k) % m, 0, keepdims=False)

        q, alphas = force, []
        for k in range(m):
            alpha = at(rho, k) * dot(at(steps, k), q)
            q = q - alpha * at(yields, k)
            alphas.append(alpha)
        start = self.first_step * self.max_step / jnp.maximum(largest_norm(force), 1e-30)
        q = q * jnp.where(usable, sy / jnp.where(usable, yy, 1), start)
        for k in reversed(range(m)):
            beta = at(rho, k) * dot(at(yields, k), q)
            q = q + (alphas[k] - beta) * at(steps, k)
        downhill = dot(q, force) > 0
        move = capped(jnp.where(downhill, q, force * start), self.max_step)
        new = {
            "steps": steps,
            "yields": yields,
            "rho": jnp.where(downhill, rho, 0.0),
            "force": force,
            "step": move,
            "energy": energy,
            "slot": (state["slot"] + 1) % m,
        }
        return move, new
