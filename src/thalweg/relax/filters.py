"""Which degrees of freedom a relaxation moves: positions alone, a plane, or the cell as well.

A filter stands between the structure and the relaxer: `pack` makes generalised coordinates (rows, 3, *lanes) of it, `unpack`
goes back, `pull` turns forces and virial into forces on the coordinates. Any relaxer works with any filter. Single atoms
that must not move are marked in `Structure.fixed`, whatever the filter.

Cells follow ASE (`ase.filters`): with F the deformation gradient since the start, rows of the cell are `origin @ F.T`, atoms
are at `x @ F.T`, and what is relaxed are the x and three more rows that stand for F.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.space import cross
from thalweg.typing import Array


class Filter(eqx.Module):
    """Generalised coordinates of a relaxation, lanes last."""

    #: True where the cell is among the coordinates, so that the driver asks for virials and rebuilds the space.
    moves_cell: ClassVar[bool] = False

    @property
    def keeps_box(self) -> bool:
        """True where a cell along x, y, z remains one, so that its images may be found as in a box."""
        return True

    @abc.abstractmethod
    def pack(self, positions, cell) -> Any:
        """Coordinates (rows, 3, *lanes) of structures at the start, in the cell (3, 3, *lanes); None for free clusters."""

    @abc.abstractmethod
    def unpack(self, x, origin, numbers) -> tuple[Any, Any]:
        """(positions, cell) at coordinates `x`; `origin` is the cell at which the relaxation began.

        `numbers` (atoms, *lanes), or with lanes of 1: cells are scaled by how many of them are atoms and not padding (-1).
        """

    @abc.abstractmethod
    def pull(self, x, origin, evaluation, cell, numbers) -> tuple[Any, Any]:
        """(force on the coordinates, energy that they lower) from an `Evaluation` in `cell`."""


class Positions(Filter):
    """All atoms move, the cell does not."""

    def pack(self, positions, cell):
        return positions

    def unpack(self, x, origin, numbers):
        return x, origin

    def pull(self, x, origin, evaluation, cell, numbers):
        return evaluation.forces, evaluation.energy


class Plane(Filter):
    """Atoms keep their distance to a plane: those of `indices`, or all; the cell does not move.

    `normal` is the plane's normal in x, y, z, of any length; (0, 0, 1) makes two-dimensional systems of flat ones. What
    `ase.constraints.FixedPlane` does, for every relaxer: coordinates lie along the plane and across it, so that relaxers
    that treat each number by itself, such as Adam, cannot leave it.
    """

    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    indices: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        known = [n for n in self.normal if isinstance(n, int | float)]
        if len(self.normal) != 3 or (len(known) == 3 and not 0 < math.hypot(*known) < math.inf):
            raise InputError(f"the normal of a plane is three numbers, not all 0; {self.normal} is not")

    def pack(self, positions, cell):
        return row_product(positions, self._axes(positions).swapaxes(0, 1))

    def unpack(self, x, origin, numbers):
        return row_product(x, self._axes(x)), origin

    def pull(self, x, origin, evaluation, cell, numbers):
        force = row_product(evaluation.forces, self._axes(x).swapaxes(0, 1))
        rows = slice(None) if self.indices is None else np.asarray(self.indices, int)
        return force.at[rows, 2].set(0), evaluation.energy

    def _axes(self, like):
        """Orthonormal rows, the last along the normal, with axes for the lanes; exactly x, y, z for (0, 0, 1).

        Duff et al., J. Comput. Graph. Tech. 6, 1 (2017): no case where the normal is near an axis.
        """
        normal = jnp.stack([jnp.asarray(n, like.dtype) for n in self.normal])
        a, b, c = normal / jnp.sqrt((normal**2).sum())
        sign = jnp.where(c < 0, -1.0, 1.0).astype(like.dtype)
        tilt = -1 / (sign + c)
        twist = a * b * tilt
        rows = [[1 + sign * a * a * tilt, sign * twist, -sign * a], [twist, sign + b * b * tilt, -b], [a, b, c]]
        return jnp.stack([jnp.stack(row) for row in rows]).reshape(3, 3, *[1] * (like.ndim - 2))


def voigt_mask(mask) -> tuple[bool, ...]:
    """Six flags (xx, yy, zz, yz, xz, xy) of None (all), six of them, or a symmetric (3, 3) of them."""
    flags = np.ones(6, bool) if mask is None else np.asarray(mask)
    if flags.shape == (3, 3) and (flags == flags.T).all():
        flags = flags[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if flags.shape != (6,) or not np.isin(flags, (0, 1)).all():
        raise InputError("the mask of a cell is six of 0 or 1 (xx, yy, zz, yz, xz, xy), or a symmetric 3 x 3 of them")
    return tuple(bool(f) for f in flags)


class CellFilter(Filter):
    """What filters that move the cell have in common: atoms (rows 0 .. atoms - 1) and a scaled strain (the last three rows).

    The strain is zero at the start. `mask` says which components of it are free (xx, yy, zz, yz, xz, xy, or 3 x 3);
    `hydrostatic_strain` lets the cell only grow and shrink, `constant_volume` only change its shape. `scalar_pressure`
    (eV/Å^3, or reduced units) adds pressure x volume, and what is lowered is the enthalpy. Components that are not free are
    projected out of the strain and of its force alike, so forces are minus the derivative of the energy for all options.
    """

    moves_cell: ClassVar[bool] = True

    mask: tuple[bool, ...] | None = eqx.field(static=True, default=None, converter=voigt_mask, kw_only=True)
    hydrostatic_strain: bool = eqx.field(static=True, default=False, kw_only=True)
    constant_volume: bool = eqx.field(static=True, default=False, kw_only=True)
    scalar_pressure: float = eqx.field(default=0.0, kw_only=True)

    def __check_init__(self):
        if self.hydrostatic_strain and not all(self.flags[:3]):
            raise InputError("a hydrostatic strain needs xx, yy and zz in its mask; drop the mask")
        if self.hydrostatic_strain and self.constant_volume:
            raise InputError("a hydrostatic strain at constant volume leaves the cell as it is; use the filter Positions")
        factor = self.factor_or_none()
        if isinstance(factor, int | float) and not factor > 0:
            raise InputError(f"the factor of a cell is {factor}; it must be positive")

    @property
    def flags(self) -> tuple[bool, ...]:
        """`mask` as six flags; None was made into them when the filter was."""
        return voigt_mask(self.mask)

    @property
    def keeps_box(self) -> bool:
        return self.hydrostatic_strain or not any(self.flags[3:])

    @abc.abstractmethod
    def factor_or_none(self):
        """What multiplies the strain among the coordinates; None for the number of atoms."""

    @abc.abstractmethod
    def deformation(self, strain) -> Array:
        """The deformation gradient F (3, 3, *lanes) of a strain (3, 3, *lanes)."""

    @abc.abstractmethod
    def strain_force(self, strain, force):
        """Force on the strain from the force on F: the derivative of `deformation`, transposed."""

    def pack(self, positions, cell):
        if cell is None:
            raise InputError(f"{type(self).__name__} moves the cell, and there is none; use the filter Positions")
        return jnp.concatenate([positions, jnp.zeros((3, *positions.shape[1:]), positions.dtype)])

    def unpack(self, x, origin, numbers):
        back = self.deformation(self._strain(x, numbers)).swapaxes(0, 1)
        return row_product(x[:-3], back), row_product(origin, back)

    def pull(self, x, origin, evaluation, cell, numbers):
        if evaluation.virial is None:
            raise InputError("this potential gives no virial, so it cannot move a cell; use the filter Positions")
        strain = self._strain(x, numbers)
        gradient = self.deformation(strain)
        work = self.scalar_pressure * jnp.abs(determinant(cell))
        virial = evaluation.virial - work * _identity(x)
        force = self.strain_force(strain, row_product(virial, inverse_transpose(gradient)))
        force = self._allowed(force) / self._factor(numbers, x.dtype)
        return jnp.concatenate([row_product(evaluation.forces, gradient), force]), evaluation.energy + work

    def _factor(self, numbers, dtype):
        factor = self.factor_or_none()
        return (numbers >= 0).sum(0).astype(dtype) if factor is None else factor

    def _strain(self, x, numbers):
        return self._allowed(x[-3:] / self._factor(numbers, x.dtype))

    def _allowed(self, strain):
        """The free part of a strain: an orthogonal projection, so that it serves for forces as well."""
        eye = _identity(strain)
        if self.hydrostatic_strain:
            return eye * (strain * eye).sum((0, 1)) / 3
        free = np.asarray(self.flags)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        lanes = [1] * (strain.ndim - 2)
        strain = jnp.where(free.reshape(3, 3, *lanes), strain, 0)
        if self.constant_volume and any(self.flags[:3]):
            share = np.diag(free.diagonal() / sum(self.flags[:3])).reshape(3, 3, *lanes)
            strain = strain - share.astype(strain.dtype) * (strain * eye).sum((0, 1))
        return strain


class UnitCell(CellFilter):
    """Atoms and cell together; the strain is F - 1. Steps are those of `ase.filters.UnitCellFilter`.

    E. B. Tadmor, G. S. Smith, N. Bernstein and E. Kaxiras, Phys. Rev. B 59, 235 (1999), doi:10.1103/PhysRevB.59.235.
    `cell_factor` multiplies the strain among the coordinates and divides its force; by default the number of atoms. With
    `constant_volume` the volume is kept to first order only; `Frechet` keeps it. Where a diagonal component is masked,
    `constant_volume` balances the free ones (ASE's takes a share from all three).
    """

    cell_factor: float | None = None

    def factor_or_none(self):
        return self.cell_factor

    def deformation(self, strain):
        return _identity(strain) + strain

    def strain_force(self, strain, force):
        return force


class Frechet(CellFilter):
    """Atoms and cell together; the strain is the logarithm of F. Steps are those of `ase.filters.FrechetCellFilter`.

    The force on the logarithm is by the Fréchet derivative of the matrix exponential, so that it is exact for large
    deformations too, and the cell cannot turn inside out. `exp_cell_factor` multiplies the strain among the coordinates and
    divides its force; by default the number of atoms. A mask of shears without the diagonals they bring (such as xy alone)
    bounds the logarithm here; ASE cuts F itself, where its forces and energies are no longer consistent.
    """

    exp_cell_factor: float | None = None

    def factor_or_none(self):
        return self.exp_cell_factor

    def deformation(self, strain):
        return _identity(strain) + exponential_minus_one(strain)

    def strain_force(self, strain, force):
        # The transpose of the derivative at U is the derivative at U transposed.
        return jax.jvp(exponential_minus_one, (strain.swapaxes(0, 1),), (force,))[1]


def row_product(rows, matrix):
    """Product of rows (n, 3, *lanes) with a matrix (3, 3, *lanes)."""
    return rows[:, 0, None] * matrix[0] + rows[:, 1, None] * matrix[1] + rows[:, 2, None] * matrix[2]


def determinant(matrix):
    """Determinant (*lanes) of a matrix (3, 3, *lanes)."""
    return (matrix[0] * cross(matrix[1], matrix[2])).sum(0)


def inverse_transpose(matrix):
    """Transpose of the inverse of a matrix (3, 3, *lanes)."""
    a, b, c = matrix[0], matrix[1], matrix[2]
    return jnp.stack([cross(b, c), cross(c, a), cross(a, b)]) / determinant(matrix)


#: exp(A) = exp(A / 2^SQUARINGS)^(2^SQUARINGS): the series then has to hold for a norm of 1/8 where that of A is 4.
SQUARINGS = 5


def exponential_minus_one(matrix):
    """exp(A) - 1 of matrices A (3, 3, *lanes), to rounding for norms up to about 4 (stretches by a factor of 50).

    Taylor series of ninth order in nested cubes, scaled and squared; the same few products for every lane. Without the 1,
    which would take the digits of a small strain: (1 + E)^2 - 1 = 2 E + E^2.
    """
    a = matrix * 0.5**SQUARINGS
    a2 = row_product(a, a)
    a3 = row_product(a2, a)
    inner = _identity(a) / 720 + a / 5040 + a2 / 40320 + a3 / 362880
    middle = _identity(a) / 6 + a / 24 + a2 / 120 + row_product(a3, inner)
    out = a + a2 / 2 + row_product(a3, middle)
    for _ in range(SQUARINGS):
        out = 2 * out + row_product(out, out)
    return out


def _identity(like):
    """The unit matrix with axes for the lanes of `like` (n, 3, *lanes)."""
    return jnp.eye(3, dtype=like.dtype).reshape(3, 3, *[1] * (like.ndim - 2))
