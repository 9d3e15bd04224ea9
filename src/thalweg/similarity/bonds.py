"""Which atoms are bonded, and whether two structures are bonded alike: the same molecule, whatever its exact geometry."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from thalweg.structure import Structure

#: Atoms are bonded up to this many sums of their covalent radii, and are no structure below the second.
LONGEST, CLOSEST = 1.3, 0.6


class Bonds(NamedTuple):
    """Species (atoms,), bonds (atoms, atoms), and whether no two atoms are too close to be a structure."""

    numbers: np.ndarray
    bonded: np.ndarray
    sound: bool


def bonds_of(structure: Structure, longest: float = LONGEST) -> Bonds:
    """Bonds of one structure: of atoms nearer than `longest` times the sum of their covalent radii, nearest images."""
    present = np.asarray(structure.numbers) >= 0
    x = np.asarray(structure.positions, np.float64)[present]
    numbers = np.asarray(structure.numbers)[present]
    radii = covalent_radii[numbers]
    ratio = nearest(x, structure) / (radii[:, None] + radii)
    np.fill_diagonal(ratio, np.inf)
    return Bonds(numbers, ratio < longest, bool((ratio > CLOSEST).all()))


def nearest(x: np.ndarray, structure: Structure) -> np.ndarray:
    """Distances (atoms, atoms) of positions (atoms, 3) to the nearest images, in cells that are not very oblique."""
    shifts = np.stack(
        np.meshgrid(*[(-1, 0, 1) if wraps else (0,) for wraps in structure.pbc], indexing="ij"), -1
    ).reshape(-1, 3)  # fmt: skip
    d = x[:, None] - x
    if any(structure.pbc):
        cell = np.asarray(structure.cell, np.float64)
        fractions = d @ np.linalg.inv(cell)
        d = d - (np.round(fractions) * np.asarray(structure.pbc)) @ cell
        d = d[..., None, :] + shifts @ cell
        return np.linalg.norm(d, axis=-1).min(-1)
    return np.linalg.norm(d, axis=-1)


def same_bonds(one: Bonds, other: Bonds) -> bool:
    """Whether there is a mapping of atoms that keeps species and bonds: the two graphs are isomorphic."""
    if not (one.sound and other.sound) or len(one.numbers) != len(other.numbers):
        return False
    ours, theirs = _colours(one), _colours(other)
    if sorted(ours) != sorted(theirs):
        return False
    return _matched(one.bonded, other.bonded, ours, theirs, _order(one.bonded, ours), {})


def _colours(of: Bonds) -> list[int]:
    """A number for each atom by its species and, over and over, by the numbers of those it is bonded to.

    Numbers that two graphs give to equal surroundings are equal (B. Weisfeiler and A. Lehman, 1968).
    """
    colours = [int(z) for z in of.numbers]
    for _ in range(len(colours)):
        around = [tuple(sorted(colours[j] for j in np.flatnonzero(row))) for row in of.bonded]
        named = [hash((c, a)) for c, a in zip(colours, around, strict=True)]
        if len(set(named)) == len(set(colours)):
            return named
        colours = named
    return colours


def _order(bonded: np.ndarray, colours: list[int]) -> list[int]:
    """Atoms in an order in which each, where possible, is bonded to one before it; rare ones begin."""
    rarity = lambda i: (colours.count(colours[i]), i)
    left, order = set(range(len(colours))), []
    while left:
        near = [i for i in left if bonded[i, order].any()] if order else []
        order.append(min(near or left, key=rarity))
        left.remove(order[-1])
    return order


def _matched(ours: np.ndarray, theirs: np.ndarray, a: list[int], b: list[int], order: list[int], map: dict[int, int]) -> bool:
    """Whether the mapping of the first atoms of `order` can be completed."""
    if len(map) == len(order):
        return True
    i = order[len(map)]
    for j in range(len(b)):
        fits = a[i] == b[j] and j not in map.values() and all(ours[i, k] == theirs[j, m] for k, m in map.items())
        if fits and _matched(ours, theirs, a, b, order, {**map, i: j}):
            return True
    return False
