"""Our relaxers as optimisers of ASE, for its calculators, filters, trajectories and everything that takes an `Optimizer`."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.optimize.optimize import Optimizer

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.relax.base import Relaxer
from thalweg.relax.lbfgs import LBFGS
from thalweg.space import Space, completed


@eqx.filter_jit
def _step(relaxer: Relaxer, x, force, energy, state):
    return relaxer.step(x, force, energy, state)


class ThalwegOptimizer(Optimizer):
    """An `ase.optimize` optimiser whose steps are those of a relaxer, in float64, compiled once for each number of atoms.

    `atoms` may be an ASE filter. Constraints are ASE's: it takes them out of the forces and holds them when atoms move.
    `restart` names a JSON file that is written after each step and read where it exists; files are those of ASE otherwise.
    """

    def __init__(
        self,
        atoms: Atoms | Any,
        relaxer: Relaxer | None = None,
        restart: str | Path | None = None,
        logfile: IO | str | Path | None = "-",
        trajectory: str | Path | None = None,
        append_trajectory: bool = False,
    ):
        self.relaxer = LBFGS() if relaxer is None else relaxer
        with jax.enable_x64(True):
            self._traced = as_leaves(self._bound(atoms), np.float64)
        self._state: Any = None
        super().__init__(atoms, restart, logfile, trajectory, append_trajectory)

    def _bound(self, atoms) -> Relaxer:
        """The relaxer for these atoms; one that must know them cannot work on what a filter makes of them."""
        if not isinstance(atoms, Atoms):
            return self.relaxer
        x, y, z = (bool(p) for p in atoms.pbc)
        pbc = (x, y, z)
        self.relaxer.check(atoms.numbers, pbc)
        space = Space(completed(np.asarray(atoms.cell), pbc)[..., None], pbc) if any(pbc) else None
        return self.relaxer.bound(np.asarray(atoms.numbers, np.int32)[:, None], space)

    def todict(self) -> dict:
        """What trajectories say of the optimiser."""
        return {**super().todict(), "relaxer": type(self.relaxer).__name__}

    def read(self) -> None:
        """Take up the state in the restart file; raises `InputError` for that of another relaxer or structure."""
        kept: Any = self.load()
        blank = self._blank()
        leaves, shape = jax.tree.flatten(blank)
        found = [np.asarray(leaf) for leaf in kept["state"]]
        same = kept["relaxer"] == type(self.relaxer).__name__ and [a.shape for a in found] == [b.shape for b in leaves]
        if not same:
            raise InputError(
                f"{self.restart} is of another relaxer or structure ({kept['relaxer']}); delete it, or name another"
            )
        with jax.enable_x64(True):
            self._state = jax.tree.unflatten(shape, [jnp.asarray(a, b.dtype) for a, b in zip(found, leaves, strict=True)])

    def step(self, forces=None) -> None:
        """One step; forces are asked of the atoms, which keep those of the last look."""
        x, force, energy = self._here()
        state = self._blank() if self._state is None else self._state
        with jax.enable_x64(True):
            lane = lambda a: jnp.asarray(a, jnp.float64)[..., None]
            move, self._state = _step(self._traced, lane(x), lane(force), lane(energy), state)
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self._state)]
            onward = x + np.asarray(move)[..., 0]
        if hasattr(self.optimizable, "set_x"):
            self.optimizable.set_x(onward.ravel())
        else:  # ASE before 3.26
            self.optimizable.set_positions(onward)  # type: ignore[attr-defined]
        self.dump({"relaxer": type(self.relaxer).__name__, "state": leaves})

    def _here(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates and forces (rows, 3), and the energy."""
        what: Any = self.optimizable
        if hasattr(what, "get_x"):
            x, force, energy = what.get_x(), -what.get_gradient(), what.get_value()
        else:
            x, force, energy = what.get_positions(), what.get_forces(), what.get_potential_energy()
        if x.size % 3:
            raise InputError(f"{x.size} coordinates are not those of atoms; this optimiser takes three for each")
        return np.array(x).reshape(-1, 3), np.array(force).reshape(-1, 3), np.asarray(energy, np.float64)

    def _blank(self):
        """The relaxer's state before its first step."""
        what: Any = self.optimizable
        rows = (what.ndofs() if hasattr(what, "ndofs") else 3 * len(what)) // 3
        with jax.enable_x64(True):
            return self._traced.init(jnp.zeros((rows, 3, 1)))
