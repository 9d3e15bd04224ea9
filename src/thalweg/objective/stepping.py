"""A relaxer around energies that come one by one: what to evaluate next, one compiled call per evaluation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.geometry import traced_space
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Evaluation
from thalweg.potentials.black_box import SinglePoint
from thalweg.relax.base import largest_norm
from thalweg.relax.driver import Relaxation
from thalweg.space import Space, completed
from thalweg.structure import Structure

Point = tuple[np.ndarray, np.ndarray]


class Stepper:
    """A relaxer by reverse communication on the host: `point` (positions, cell) is to be evaluated.

    `tell` takes what came out, `move` then goes on to the next. One lane in float64; compiled once for each kind of relaxer
    and filter and number of atoms. Arguments of the compiled call are plain arrays: taking modules apart at each step would
    cost several times what the step does.
    """

    def __init__(self, relaxation: Relaxation, structure: Structure):
        if relaxation.filter.moves_cell and not any(structure.pbc):
            raise InputError(f"{type(relaxation.filter).__name__} moves the cell, but the structure has none; drop the filter")
        self.point: Point = np.asarray(structure.positions, np.float64), np.asarray(structure.cell)
        self._begun, held = self.point, np.asarray(structure.fixed)
        self._vectors = self._begun[1].any(-1, keepdims=True)
        origin = completed(structure.cell, structure.pbc)[..., None] if relaxation.filter.moves_cell else None
        # Rotations into a plane's frame and back would leave traces in the last digit of what does not move.
        self._held = held[:, None] if origin is None and held.any() else None
        free = np.asarray(~held, np.float64)[:, None, None]
        leaves, tree = jax.tree.flatten(as_leaves((relaxation.relaxer, relaxation.filter), np.float64))
        known = tuple((k, a) for k, a in enumerate(leaves) if not isinstance(a, np.ndarray))
        begin, self._step = _programs(tree, known, structure.pbc)
        numbers, cell = np.asarray(structure.numbers)[:, None], np.asarray(structure.cell, np.float64)
        with jax.enable_x64(True):
            arrays = tuple(leaf for leaf in leaves if isinstance(leaf, np.ndarray))
            self._fixed, self._x, self._state = begin(arrays, (origin, numbers, free, cell), self.point[0][..., None])
        self._next: tuple | None = None

    def tell(self, out: SinglePoint) -> tuple[float, float, bool]:
        """(energy that is lowered, largest generalised force, whether small forces are reason to stop) of the point."""
        energy, virial = np.asarray(out.energy, np.float64), out.virial
        with jax.enable_x64(True):
            self._next, seen = self._step(*self._fixed, self._x, self._state, energy, out.forces, virial)
        energy, largest, settled = np.asarray(seen).tolist()
        return energy, largest, settled > 0

    def move(self) -> Point:
        """The next point to evaluate."""
        if self._next is None:
            raise InputError("a relaxer moves after it was told what the present structure gave")
        self._x, self._state, moved, cell = self._next
        self._next, positions = None, np.asarray(moved)
        begun, old = self._begun
        if self._held is not None:
            positions = np.where(self._held, begun, positions)
        # Axes without periodicity keep having no vector.
        self.point = positions, old if cell is None else np.where(self._vectors, np.asarray(cell), 0)
        return self.point


@lru_cache(maxsize=64)
def _programs(tree, known: tuple, pbc: tuple[bool, bool, bool]) -> tuple[Any, Any]:
    """(the beginning, one step) of the relaxer and filter of a pytree `tree`, of whose leaves `known` are no arrays."""

    def whole(traced):
        leaves = list(traced)
        for k, leaf in known:
            leaves.insert(k, leaf)
        return jax.tree.unflatten(tree, leaves)

    @jax.jit
    def begin(traced, setting, positions):
        relaxer, filter = whole(traced)
        x = filter.pack(positions, setting[0])
        # What stays is handed back, and so is on the device: each step would bring it there.
        return (traced, setting), x, relaxer.init(x)

    @jax.jit
    def step(traced, setting, x, state, energy, forces, virial):
        """((coordinates, state, positions, cell of the next point), [energy, largest force, settled]), without lanes."""
        (relaxer, filter), (origin, numbers, free, fixed_cell) = whole(traced), setting
        virial = None if virial is None else virial[..., None]
        energy, forces = energy[None], forces[..., None]
        evaluation = Evaluation(energy, forces, jnp.full(numbers.shape, jnp.nan), jnp.isfinite(energy), virial)
        _, cell = filter.unpack(x, origin, numbers)
        forces, energy = filter.pull(x, origin, evaluation, cell, numbers)
        rows = forces.shape[0] - free.shape[0]
        forces = forces * (jnp.concatenate([free, jnp.ones((rows, 1, 1))]) if rows else free)
        space = traced_space(fixed_cell if origin is None else cell[..., 0], pbc)
        space = space and Space(space.cell[..., None], space.pbc)
        move, after = relaxer.bound(numbers, space).step(x, forces, energy, state)
        settled = jnp.broadcast_to(jnp.asarray(relaxer.settled(state)), energy.shape)
        positions, cell = filter.unpack(x + move, origin, numbers)
        onward = (x + move, after, positions[..., 0], None if origin is None else cell[..., 0])
        return onward, jnp.concatenate([energy, largest_norm(forces), settled.astype(energy.dtype)])

    return begin, step
