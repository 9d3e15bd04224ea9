"""Which degrees of freedom a relaxation moves: positions alone, a plane, or the cell as well.

A filter stands between the structure and the relaxer: `pack` makes generalised coordinates (rows, 3, *lanes) of it, `unpack`
goes back, `pull` turns forces and virial into forces on the coordinates. Any relaxer works with any filter.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx


class Filter(eqx.Module):
    """Generalised coordinates of a relaxation, lanes last."""

    #: True where the cell is among the coordinates, so that the driver asks for virials and rebuilds the space.
    moves_cell: ClassVar[bool] = False

    @abc.abstractmethod
    def pack(self, positions, cell):
        """Coordinates (rows, 3, *lanes) of structures at the start, in the cell (3, 3, *lanes); None for free clusters."""

    @abc.abstractmethod
    def unpack(self, x, origin):
        """(positions, cell) at coordinates `x`; `origin` is the cell at which the relaxation began."""

    @abc.abstractmethod
    def pull(self, x, origin, evaluation, cell, numbers):
        """(force on the coordinates, energy that they lower) from an `Evaluation` in `cell`."""


class Positions(Filter):
    """All atoms move, the cell does not."""

    def pack(self, positions, cell):
        return positions

    def unpack(self, x, origin):
        return x, origin

    def pull(self, x, origin, evaluation, cell, numbers):
        return evaluation.forces, evaluation.energy
