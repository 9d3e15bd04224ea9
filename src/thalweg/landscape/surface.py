"""`Surface`: energy, gradient and curvature of one system as functions of the coordinates that may move.

What saddle searches need of a potential, the same for traceable ones (compiled, curvature by forward differentiation of the
forces) and for calculators (curvature by central differences of the forces).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.dynamics.units import masses_of, units_of
from thalweg.errors import InputError
from thalweg.importing import reason
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.potentials.black_box import BlackBox, atoms_of, single_point
from thalweg.structure import Structure

#: Displacement of central differences of forces, in bond lengths: errors of the forces over it, and of its square, are small.
DIFFERENCE = 2e-3
#: Parts of the fastest vibration below which it is not known whether one is real: of exact Hessians, and by differences.
EXACT, DIFFERED = 1e-5, 4e-3
#: Columns of a Hessian computed side by side.
_COLUMNS = 64
#: ħ in sqrt(eV amu) Å: energies of vibration are ħ times the root of the mass-weighted curvature.
HBAR = 0.06465415


@eqx.filter_jit
def _evaluated(potential: Potential, positions, numbers, space):
    out = potential.lanes(positions, numbers, space)
    return out.energy, -out.forces, out.ok


@eqx.filter_jit
def _products(potential: Potential, positions, directions, numbers, space):
    """Hessian times directions (atoms, 3, lanes) at positions (atoms, 3)."""
    gradient = lambda x: -potential.lanes(x, numbers, space).forces
    along = lambda v: jax.jvp(gradient, (positions,), (v,))[1]
    return jax.vmap(along, in_axes=-1, out_axes=-1)(directions)


class Surface:
    """The energy of structures that differ from `template` only in the positions of atoms that are not fixed.

    Coordinates x (d,) are those of the free atoms, one after the other, or the variables of a function of vectors.
    `evaluations` counts energies with forces, and each product with the Hessian as one (two by differences). Where a
    potential fails, energy and gradient are NaN, and `failure` says what a calculator said. `length` is a bond length, or
    for functions of vectors a step.
    """

    def __init__(self, potential: Potential, template: Structure, length: float):
        self.potential, self.template, self.length = potential, template, float(length)
        self.numbers = np.asarray(template.numbers, np.int32)
        self.evaluations, self.failure = 0, ""
        self._calculator: Any = None
        variables = potential.variables
        free = np.repeat((self.numbers >= 0) & ~np.asarray(template.fixed), 3)
        self.free = np.flatnonzero(free) if variables is None else np.arange(variables)
        self._rest = np.asarray(template.positions, np.float64).ravel()
        if variables is None:
            self.units = units_of(potential, self.numbers)
            self.mass = np.repeat(masses_of(template, self.units), 3)[self.free]
        else:
            self.units, self.mass = None, np.ones(len(self.free))
        self._space = potential.space(template.cell, template.pbc)
        if potential.traceable:
            with jax.enable_x64(True):
                self._traced, self._space = as_leaves((potential, self._space), np.float64)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.free)

    def coordinates(self, positions) -> np.ndarray:
        """Coordinates (..., d) of positions (..., atoms, 3)."""
        x = np.asarray(positions, np.float64)
        return x.reshape(*x.shape[:-2], -1)[..., self.free]

    def positions(self, x) -> np.ndarray:
        """Positions (..., atoms, 3) of coordinates (..., d)."""
        x = np.asarray(x)
        whole = np.broadcast_to(self._rest, (*x.shape[:-1], len(self._rest))).copy()
        whole[..., self.free] = x
        return whole.reshape(*x.shape[:-1], -1, 3)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (k,) and gradients (k, d) of coordinates (k, d), or of one (d,)."""
        rows = np.atleast_2d(x)
        self.evaluations += len(rows)
        energy, gradient = self._traced_points(rows) if self.potential.traceable else self._points(rows)
        return (energy, gradient) if np.ndim(x) == 2 else (energy[0], gradient[0])

    def products(self, x: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """The Hessian at x (d,) times directions (k, d): (k, d)."""
        if self.potential.traceable:
            self.evaluations += len(directions)
            return self._traced_products(x, directions)
        size = np.linalg.norm(directions, axis=1, keepdims=True)
        step = DIFFERENCE * self.length * directions / np.maximum(size, 1e-300)
        _, ahead = self(x + step)
        _, behind = self(x - step)
        return (ahead - behind) / (2 * DIFFERENCE * self.length) * size

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Second derivatives (d, d), symmetric."""
        basis = np.eye(self.dim)
        blocks = [self.products(x, basis[k : k + _COLUMNS]) for k in range(0, self.dim, _COLUMNS)]
        h = np.concatenate(blocks)
        return (h + h.T) / 2

    def zero_modes(self, x: np.ndarray) -> np.ndarray:
        """Orthonormal directions (m, d) along which the energy cannot change: translations, and rotations of clusters.

        None where atoms are fixed, nor for functions of vectors.
        """
        if self.potential.variables is not None or np.asarray(self.template.fixed)[self.numbers >= 0].any():
            return np.zeros((0, self.dim))
        points = np.asarray(x).reshape(-1, 3)
        modes = [np.tile(axis, len(points)) for axis in np.eye(3)]
        if not any(self.template.pbc):
            modes += [np.cross(axis, points - points.mean(0)).ravel() for axis in np.eye(3)]
        _, size, rows = np.linalg.svd(np.array(modes), full_matrices=False)
        return rows[size > 1e-4 * size[0]]  # atoms on a line do not turn about it

    def spectrum(self, x: np.ndarray, hessian: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Curvatures, ascending, and their directions (m, d) without the zero modes, not weighted by masses."""
        return self._modes(x, np.ones(self.dim), hessian)

    def vibrations(self, x: np.ndarray, hessian: np.ndarray | None = None) -> np.ndarray:
        """Energies ħω of the harmonic vibrations (eV; ω in reduced units), ascending; those of negative curvature negative.

        What is negative by no more than errors of the curvature count as positive.
        """
        curvature = self._modes(x, 1 / np.sqrt(self.mass), hessian)[0]
        scale = HBAR if self.units is not None and self.units.real else 1.0
        values = scale * np.sign(curvature) * np.sqrt(np.abs(curvature))
        least = (EXACT if self.potential.traceable else DIFFERED) * np.abs(values).max()
        return np.where(np.abs(values) < least, np.maximum(np.abs(values), 1e-9 * least), values)

    def _modes(self, x: np.ndarray, weight: np.ndarray, hessian: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the Hessian scaled on both sides by `weight` (d,), across the zero modes; NaN where
        it is not known."""
        hessian = self.hessian(x) if hessian is None else hessian
        if not np.isfinite(hessian).all():
            return np.full(1, np.nan), np.zeros((1, self.dim))
        zero = self.zero_modes(x) / weight  # what moves nothing, in scaled coordinates
        q = np.linalg.qr(zero.T, mode="complete")[0][:, len(zero) :] if len(zero) else np.eye(self.dim)
        values, vectors = np.linalg.eigh(q.T @ (weight[:, None] * hessian * weight) @ q)
        return values, (q @ vectors).T

    def _traced_points(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = 1 << (len(rows) - 1).bit_length()  # few sizes are compiled
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), 0)])
        with jax.enable_x64(True):
            out = _evaluated(self._traced, np.moveaxis(self.positions(padded), 0, -1), self.numbers[:, None], self._space)
        energy, gradient, ok = (np.asarray(a) for a in out)
        gradient = np.moveaxis(gradient, -1, 0).reshape(size, -1)[: len(rows), self.free]
        return self._checked(energy[: len(rows)], gradient, ok[: len(rows)])

    def _traced_products(self, x: np.ndarray, directions: np.ndarray) -> np.ndarray:
        size = 1 << (len(directions) - 1).bit_length()
        whole = np.zeros((size, len(self._rest)))
        whole[: len(directions), self.free] = directions
        with jax.enable_x64(True):
            along = np.moveaxis(whole.reshape(size, -1, 3), 0, -1)
            out = _products(self._traced, self.positions(x), along, self.numbers, self._space)
        return np.moveaxis(np.asarray(out), -1, 0).reshape(size, -1)[: len(directions), self.free]

    def _points(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = [self._point(x) for x in rows]
        energies, gradients = np.array([e for e, _ in out]), np.array([g for _, g in out])
        return self._checked(energies, gradients, np.isfinite(energies) & np.isfinite(gradients).all(1))

    def _point(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """One point by a calculator, which serves on if it may and nothing failed."""
        assert isinstance(self.potential, BlackBox)
        present, t = self.numbers >= 0, self.template
        calculator, self._calculator = self._calculator, None
        try:
            calculator = self.potential.create() if calculator is None or self.potential.fresh else calculator
            out = single_point(atoms_of(t, present, self.positions(x), t.cell), present, calculator)
        except InputError:
            raise
        except Exception as error:  # of the calculator
            self.failure = reason(error)
            return np.nan, np.full(self.dim, np.nan)
        self._calculator = calculator
        return out.energy, -out.forces.ravel()[self.free]

    def _checked(self, energy: np.ndarray, gradient: np.ndarray, ok: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(ok, energy, np.nan), np.where(ok[:, None], gradient, np.nan)


def largest(gradient: np.ndarray) -> float:
    """The largest component of a gradient; infinite where it is not known."""
    return float(np.abs(gradient).max()) if np.isfinite(gradient).all() else float("inf")
