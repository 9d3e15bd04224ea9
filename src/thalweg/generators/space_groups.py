"""Space groups as operations on fractional coordinates, taken from ASE's tables, ready for a device loop."""

from __future__ import annotations

from functools import cache

import equinox as eqx
import numpy as np

from thalweg.errors import InputError
from thalweg.typing import Array, Float, Int


class SpaceGroupTable(eqx.Module):
    """Several space groups padded to one order. Operation k of group g takes a point x (fractions of the cell's vectors)
    to `rotations[g, k] @ x + translations[g, k]`; the identity comes first."""

    rotations: Float[Array, "groups order 3 3"]
    translations: Float[Array, "groups order 3"]
    orders: Int[Array, " groups"]

    @property
    def n_groups(self) -> int:
        return self.rotations.shape[0]


@cache
def space_group_table(groups: tuple[int, ...] | None, primitive: bool, max_order: int) -> SpaceGroupTable:
    """The table of the numbered space groups (all where None) with at most `max_order` operations in their cell.

    `primitive`: in the smallest cell, so that the order is that of the point group; otherwise in the conventional cell,
    where centred groups hold pure translations too.
    """
    found = []
    for number in groups or range(1, 231):
        rotations, translations = operations(number, primitive)
        if len(rotations) <= max_order:
            found.append((rotations, translations))
    if not found:
        raise InputError(f"none of the space groups {groups} has at most {max_order} operations; raise max_order")
    size = max(len(r) for r, _ in found)
    rotations, translations = np.zeros((len(found), size, 3, 3)), np.zeros((len(found), size, 3))
    for k, (r, t) in enumerate(found):
        rotations[k, : len(r)], translations[k, : len(t)] = r, t
    orders = np.array([len(r) for r, _ in found], np.int32)
    return SpaceGroupTable(rotations.astype(np.float32), translations.astype(np.float32), orders)


def operations(number: int, primitive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (order, 3, 3) and translations (order, 3) of a space group by its number in the International Tables."""
    from ase.spacegroup import Spacegroup

    if not 1 <= number <= 230:
        raise InputError(f"there is no space group {number}; numbers go from 1 to 230")
    group = Spacegroup(number)
    rotations, translations = (np.asarray(a, float) for a in group.get_op())
    if primitive:
        # Rows of `cell` are the primitive vectors in the conventional ones: points are related by x = cell.T @ x'.
        cell = np.asarray(group.scaled_primitive_cell, float)
        inverse = np.linalg.inv(cell)
        rotations = np.rint(inverse.T @ rotations @ cell.T)
        translations = translations @ inverse
    translations = np.round(translations, 9) % 1
    translations[translations > 1 - 1e-6] = 0
    whole = np.concatenate([rotations.reshape(-1, 9), np.round(translations * 24)], 1)
    _, first = np.unique(whole, axis=0, return_index=True)
    first = np.sort(first)
    rotations, translations = rotations[first], translations[first]
    one = np.argmin(np.abs(rotations - np.eye(3)).sum((1, 2)) + translations.sum(1))
    order = [one, *(k for k in range(len(rotations)) if k != one)]
    return rotations[order], translations[order]
