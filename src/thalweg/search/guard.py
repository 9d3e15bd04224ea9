"""Keeping relaxations on a model where the model means something: distance limits, the region, and steps in between."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.generators.base import confine
from thalweg.geometry import nearest_image, traced_space
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.system import System

#: Energies in units of `Guarded.strength` per (violation in bonds)^2: pairs too near, atoms without a neighbour, atoms
#: outside the region.
TOO_NEAR, ALONE, OUTSIDE = 500.0, 10.0, 50.0
#: An atom counts as alone beyond this many times the upper limit.
LOOSE = 1.2


class Guarded(Potential):
    """A model of the energy with walls: for systems without a moving cell.

    Atoms outside the region are evaluated at the nearest point inside, so that in a plane the model pulls along it alone.
    """

    model: Potential
    system: System
    strength: float = 1.0

    @property
    def reach(self) -> float | None:
        """That of the model."""
        return self.model.reach

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        shape = positions.shape
        flat = positions.reshape(*shape[:2], -1)
        cell = jnp.asarray(self.system.cell, positions.dtype)
        inside, back = jax.vjp(lambda x: jax.vmap(lambda y: self._confined(y, cell), -1, -1)(x), flat)
        out = self.model.lanes(inside.reshape(shape), numbers, space, neighbors)
        (forces,) = back(out.forces.reshape(flat.shape))
        walls, push = jax.vmap(jax.value_and_grad(lambda y: self.walls(y, cell)), -1, (0, -1))(flat)
        energy = out.energy + walls.reshape(out.energy.shape)
        return finish(energy, (forces - push).reshape(shape), out.atomic_energies)

    def _confined(self, x, cell):
        if self.system.region is None:
            return x
        space = traced_space(cell, self.system.pbc)
        return jnp.where(jnp.asarray(self.system.searched)[:, None], confine(x, self.system, space), x)

    def walls(self, x, cell):
        """Energy of what violates limits and region in one structure (atoms, 3)."""
        ratio = pair_ratios(x, cell, self.system)
        low, high = self.system.limits
        near = (jnp.maximum(low - ratio, 0) ** 2).sum() / 2
        # Only the nearest neighbour counts, and model particles may be far from all others while there are few.
        alone = jnp.minimum(jnp.maximum(ratio.min(1) - LOOSE * high, 0), 10.0)
        alone = jnp.where(jnp.asarray(self.system.searched) & (self.system.n_atoms > 1), alone, 0)
        bond = jnp.asarray(self.system.bond, x.dtype)
        out = (x - jax.lax.stop_gradient(self._confined(x, cell))) / bond
        return self.strength * (TOO_NEAR * near + ALONE * (alone**2).sum() + OUTSIDE * (out * out).sum())


def pair_ratios(x, cell, system: System):
    """Distances (atoms, atoms) in units of the mean bond length of a pair; 1e3 for pairs that do not count.

    These are atoms with themselves, padding, and pairs of the template.
    """
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    d = nearest_image(x[:, None] - x[None], traced_space(cell, system.pbc))
    mask, searched = jnp.asarray(system.mask), jnp.asarray(system.searched)
    pair = mask[:, None] & mask[None] & (searched[:, None] | searched[None]) & ~jnp.eye(len(x), dtype=bool)
    r = jnp.sqrt(jnp.where(pair, (d * d).sum(-1) + 1e-12, 1.0))
    return jnp.where(pair, r / ((bonds[:, None] + bonds[None]) / 2), 1e3)


def relax_on(model: Potential, structures: Structure, system: System, steps: int = 50, strength: float = 1.0):
    """Relax a batch (n structures) in the mean of a model, between walls of this `strength` (an energy scale).

    Returns positions (n, atoms, 3), in the region, and the smallest pair distance (n,) of each in mean bond lengths, which
    tells what is still too dense to be evaluated. Fixed atoms and the cell stay.
    """
    bond = float(np.mean(system.bond_lengths))
    guarded = Guarded(model, system, strength)
    relaxation = Relaxation(guarded, LBFGS(max_step=0.15 * bond), 0.03 * strength / bond, steps)
    out = np.asarray(relax(structures, relaxation, n_lanes=min(8, len(structures))).structures.positions)
    out = np.where(np.isfinite(out).all((1, 2), keepdims=True), out, np.asarray(structures.positions))
    return settled(out, system)


def settled(positions, system: System) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, atoms, 3) brought into the region, and their smallest pair distance (n,) in mean bond lengths."""
    with jax.enable_x64(True):
        cell, leaves = np.asarray(system.cell, np.float64), as_leaves(system, np.float64)
        x, narrow = _settled(jnp.asarray(positions, jnp.float64), cell, leaves)
        return np.asarray(x), np.asarray(narrow)


@eqx.filter_jit
def _settled(positions, cell, system: System):
    def one(x):
        guard = Guarded(None, system)  # type: ignore[arg-type]
        x = guard._confined(x, cell)
        return x, pair_ratios(x, cell, system).min()

    return jax.vmap(one)(positions)
