"""Relaxation in the mean of a fitted model, with walls where the model knows nothing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from thalweg.geometry import traced_space
from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.region import Region
from thalweg.relax.base import Relaxer
from thalweg.relax.driver import Relaxation, Relaxed, relax
from thalweg.relax.filters import Filter, Positions
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.surrogates.base import Posterior
from thalweg.system import System
from thalweg.typing import Array, Bool, Float


class Walled(Potential):
    """A potential with stiff walls: no two atoms nearer than `closest` x their contact, no added atom outside of the region.

    The walls are harmonic and 0 on the allowed side: `stiffness` (energy / length^2) times half the square of how far a
    pair, or an atom, is beyond. Contact is the mean of two bond lengths. Fixed pairs do not count.
    """

    potential: Potential
    bonds: Float[Array, " atoms"]
    fixed: Bool[Array, " atoms"]
    added: Bool[Array, " atoms"]
    region: Region | None = None
    closest: float = 0.7
    stiffness: float = 200.0

    @property
    def reach(self) -> float | None:
        return self.potential.reach

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        out = self.potential.lanes(positions, numbers, space, neighbors, virial)
        lanes = [1] * (positions.ndim - 2)
        d = positions[:, None] - positions[None]  # (atoms, atoms, 3, *lanes)
        if space is not None:
            d = jnp.stack(space.minimum_image(d[:, :, 0], d[:, :, 1], d[:, :, 2]), 2)
        n = len(positions)
        free = ~(self.fixed[:, None] & self.fixed) & ~jnp.eye(n, dtype=bool)
        real = (numbers >= 0).reshape(n, *numbers.shape[1:], *[1] * (len(lanes) + 1 - numbers.ndim))
        counts = free.reshape(n, n, *lanes) & real[:, None] & real[None]
        r2 = jnp.where(counts, (d * d).sum(2), 1e6)
        r = jnp.sqrt(jnp.maximum(r2, 1e-12))
        nearest = self.closest * (self.bonds[:, None] + self.bonds) / 2
        gap = jnp.maximum(nearest.reshape(n, n, *lanes) - r, 0)
        energies = self.stiffness * (gap**2).sum(1) / 4
        forces = self.stiffness * ((gap / r)[:, :, None] * d).sum(1)
        if self.region is not None:
            x = jnp.moveaxis(positions, 1, -1)
            out_by = jnp.moveaxis(x - self.region.project(x), -1, 1)
            out_by = jnp.where((self.added.reshape(n, *lanes) & real)[:, None], out_by, 0)
            energies = energies + self.stiffness / 2 * (out_by**2).sum(1)
            forces = forces - self.stiffness * out_by
        forces, each = out.forces + forces, out.atomic_energies + energies
        return finish(out.energy + energies.sum(0), forces, each, out.virial)


def relax_on(
    posterior: Posterior,
    structures: Structure,
    system: System,
    relaxer: Relaxer | None = None,
    steps: int = 100,
    fmax: float = 0.05,
    filter: Filter = Positions(),  # noqa: B008
    n_lanes: int = 32,
) -> Relaxed:
    """Relax a batch (one axis) in the mean of `posterior`, at most `steps` steps each; see `Walled` for what holds them.

    Fixed atoms stay, and the filter says what else does (`Plane` for flat systems). Lanes are refilled as structures end.
    The cell does not move. `close_pairs` tells which results are still too dense to be evaluated.
    """
    template = np.zeros(len(system.numbers), bool) if system.template is None else np.asarray(system.template)
    walled = Walled(
        posterior, np.asarray(system.bond_lengths), np.asarray(system.fixed), ~template & (system.numbers >= 0), system.region
    )
    relaxer = LBFGS(max_step=0.1 * float(system.bond)) if relaxer is None else relaxer
    lanes = min(n_lanes, 1 << max(len(structures) - 1, 0).bit_length())
    return relax(structures, Relaxation(walled, relaxer, fmax, steps, filter), lanes)


def close_pairs(structures: Structure, system: System, closest: float = 0.65) -> np.ndarray:
    """True (*batch) for structures in which two atoms, not both fixed, are nearer than `closest` x their contact."""
    x = np.asarray(structures.positions)
    d = x[..., :, None, :] - x[..., None, :, :]
    if any(structures.pbc):
        cell = np.asarray(structures.cell).reshape(-1, 3, 3)[0]
        space = traced_space(cell, structures.pbc)
        assert space is not None
        d = np.stack([np.asarray(v) for v in space.minimum_image(d[..., 0], d[..., 1], d[..., 2])], -1)
    real, fixed, bonds = np.asarray(system.mask), np.asarray(system.fixed), np.asarray(system.bond_lengths)
    counts = real[:, None] & real & ~np.eye(len(real), dtype=bool) & ~(fixed[:, None] & fixed)
    r = np.sqrt((d * d).sum(-1))
    return (counts & (r < closest * (bonds[:, None] + bonds) / 2)).any((-2, -1))
