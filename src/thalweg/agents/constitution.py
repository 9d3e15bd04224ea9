"""Numbers that tell molecules in the making apart by their bonds: what a builder calls the same."""

from __future__ import annotations

import numpy as np

from thalweg.agents.replay import mixed
from thalweg.similarity.bonds import bonds_of
from thalweg.structure import Structure

#: Rounds in which an atom hears of others: surroundings of so many bonds are told apart.
ROUNDS = 8


def bonded(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Bonds (atoms, atoms) of a free structure with atomic numbers (atoms,) at positions (atoms, 3) in Å."""
    return bonds_of(Structure.create(positions, numbers)).bonded


def constitutions(numbers: np.ndarray, bonds: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Numbers (atoms,) of what was there after each atom was placed, by species and bonds (atoms, atoms) alone.

    `order` (atoms,) is the step of each placement. The same for two molecules whose graphs look alike from every atom,
    whatever the order of atoms (B. Weisfeiler and A. Lehman, 1968); stereo isomers and conformers have one number.
    """
    with np.errstate(over="ignore"):
        there = order[None] <= order[:, None]  # (after, atoms)
        near = bonds[None] & there[:, None] & there[:, :, None]
        colours = np.where(there, mixed(np.asarray(numbers).astype(np.uint64) + np.uint64(1)), np.uint64(0))
        for _ in range(min(len(numbers), ROUNDS)):
            around = np.where(near, mixed(colours)[:, None], np.uint64(0)).sum(-1, dtype=np.uint64)
            colours = np.where(there, mixed(colours * np.uint64(3) + around), np.uint64(0))
        return mixed(np.where(there, mixed(colours), np.uint64(0)).sum(-1, dtype=np.uint64))
