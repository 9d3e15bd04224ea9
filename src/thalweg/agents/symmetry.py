"""Symmetry of a building site: the operations after which training may see an episode anew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thalweg.agents.grid import Grid
from thalweg.system import System


class Operations(NamedTuple):
    """x -> R x + t: rotations and mirrors R (k, 3, 3), shifts t (k, 3) in Å, the identity first.

    `continuous` where any rotation or mirror will do (in a plane those about its normal), about any point.
    """

    rotations: np.ndarray
    shifts: np.ndarray
    continuous: bool


def operations(system: System, grid: Grid) -> Operations:
    """The operations that leave a site as it is."""
    free = system.template is None and not any(grid.periodic)
    return Operations(np.eye(3)[None], np.zeros((1, 3)), free)
