"""The conformance check of filters, and of relaxers with filters."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.potentials.pair import LennardJones
from thalweg.relax.base import Relaxer, dot, largest_norm
from thalweg.relax.filters import Filter
from thalweg.relax.fire import FIRE
from thalweg.structure import PADDING
from thalweg.testing.shared import check_traced, close, require

#: Cubic cell of four atoms, a little larger than that of least energy, and room for it to shrink.
LENGTH, SLACK = 1.6, 0.7


def check_filter(filter: Filter, relaxers: Sequence[Relaxer] = (FIRE(),), max_steps: int = 4000) -> None:
    """Check a filter on a small Lennard-Jones crystal, and that each of the relaxers gets to a minimum through it.

    The force must be minus the derivative of the energy along the coordinates that are free. Coordinates that are not free
    have no force.
    """
    name = type(filter).__name__
    require(isinstance(filter, Filter), f"{name} is not a thalweg Filter; derive it from Filter.")
    with jax.enable_x64(True):
        _Checks(name, filter).run(relaxers, max_steps)


@eqx.filter_jit
def _evaluate(potential, positions, numbers, space):
    return potential.lanes(positions, numbers, space, virial=True)


@eqx.filter_jit
def _step(relaxer, x, force, energy, state):
    return relaxer.step(x, force, energy, state)


@eqx.filter_jit
def _unpack(filter, x, origin, numbers):
    return filter.unpack(x, origin, numbers)


@eqx.filter_jit
def _pull(filter, x, origin, out, cell, numbers):
    return filter.pull(x, origin, out, cell, numbers)


class _Checks:
    """Two crystals side by side, the same compiled sum over pairs for all filters."""

    def __init__(self, name, filter):
        rng = np.random.default_rng(0)
        sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * LENGTH / 2
        strain = np.eye(3)[..., None] + 0.03 * rng.normal(size=(3, 3, 2))
        self.name, self.given = name, filter
        self.filter, self.potential = as_leaves((filter, LennardJones(cutoff=2.5, truncation="smooth")), np.float64)
        self.positions = np.einsum("ni,ijl->njl", sites, strain) + 0.04 * rng.normal(size=(4, 3, 2))
        self.cell = LENGTH * strain
        self.numbers = np.zeros((4, 1), np.int32)
        space = LennardJones(cutoff=2.5).space(np.moveaxis(self.cell, -1, 0), (True, True, True), SLACK)
        self.space = eqx.tree_at(lambda s: s.cell, space, self.cell)

    def run(self, relaxers, max_steps) -> None:
        x = np.asarray(self.filter.pack(jnp.asarray(self.positions), jnp.asarray(self.cell)))
        check_traced(
            self.name, self.given, lambda f: f.unpack(jnp.asarray(x, jnp.float32), jnp.asarray(self.cell), self.numbers)
        )
        positions, cell = _unpack(self.filter, x, self.cell, self.numbers)
        close(positions, self.positions, 1e-12, f"{self.name} does not unpack the positions that it packed")
        close(cell, self.cell, 1e-12, f"{self.name} does not unpack the cell that it packed")
        x = x + 0.02 * np.random.default_rng(1).normal(size=x.shape)  # where forces on atoms depend on the cell
        self._check_force(x)
        self._check_lanes(x)
        self._check_padding(x)
        for relaxer in relaxers:
            self._check_minimum(relaxer, max_steps)

    def force(self, x, origin=None, numbers=None):
        """(force, energy) at coordinates (rows, 3, 2)."""
        origin = self.cell if origin is None else origin
        numbers = self.numbers if numbers is None else numbers
        positions, cell = _unpack(self.filter, x, origin, numbers)
        out = _evaluate(self.potential, positions, numbers, eqx.tree_at(lambda s: s.cell, self.space, cell))
        return _pull(self.filter, x, origin, out, cell, numbers)

    def _check_force(self, x) -> None:
        force, energy = self.force(x)
        require(
            force.shape == x.shape and force.dtype == x.dtype,
            f"{self.name} pulls with forces of shape {force.shape} and type {force.dtype} on coordinates of shape {x.shape}.",
        )
        require(energy.shape == (2,), f"{self.name} gives energies of shape {energy.shape} for two structures.")
        size = np.sqrt(dot(force, force))
        require(bool((size > 0).all()), f"{self.name} lets nothing move.")
        step = 1e-5 * np.asarray(force) / size
        slope = (self.force(x - step)[1] - self.force(x + step)[1]) / 2e-5
        close(slope, size, 1e-6, f"the force of {self.name} is not minus the derivative of its energy")

    def _check_lanes(self, x) -> None:
        other, cell = x.copy(), self.cell.copy()
        other[..., 1], cell[..., 1] = x[..., 1] * 1.01, self.cell[..., 1] * 1.02
        beside, alone = self.force(other, cell)[0], self.force(x)[0]
        close(beside[..., 0], alone[..., 0], 1e-12, f"{self.name} pulls differently when its neighbours in the batch change")

    def _check_padding(self, x) -> None:
        extra = np.concatenate([x[:4], np.zeros((1, *x.shape[1:])), x[4:]])
        numbers = np.concatenate([self.numbers, [[PADDING]]]).astype(np.int32)
        padded = np.delete(self.force(extra, numbers=numbers)[0], 4, 0)
        close(padded, self.force(x)[0], 1e-10, f"{self.name} counts a padding slot as an atom")

    def _check_minimum(self, relaxer, max_steps) -> None:
        both = f"{type(relaxer).__name__} with {self.name}"
        relaxer = as_leaves(relaxer, np.float64)
        x = self.filter.pack(jnp.asarray(self.positions), jnp.asarray(self.cell))
        state = relaxer.init(x)
        force, energy = self.force(x)
        start = np.asarray(energy)
        for _ in range(max_steps):
            if np.max(largest_norm(force)) < 1e-3:
                break
            move, state = _step(relaxer, x, force, energy, state)
            x = x + move
            force, energy = self.force(x)
        left = float(np.max(largest_norm(force)))
        require(left < 1e-3, f"{both} does not reach a minimum of four atoms in {max_steps} steps (force left {left:.2e}).")
        require(bool((np.asarray(energy) < start).all()), f"{both} does not lower the energy.")
