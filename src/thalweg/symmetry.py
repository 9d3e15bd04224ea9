"""Point groups as matrices, and the projectors of their special positions."""

from __future__ import annotations

from functools import cache

import equinox as eqx
import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.typing import Array, Bool, Float, Int

_GOLDEN = (1 + 5**0.5) / 2


def _turn(axis, order: float) -> np.ndarray:
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    a = 2 * np.pi / order
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


_Z, _X, _MIRROR_Z, _MIRROR_X = (0, 0, 1), (1, 0, 0), np.diag([1.0, 1, -1]), np.diag([-1.0, 1, 1])
_INVERSION = -np.eye(3)
_C3, _C2X, _C4 = _turn((1, 1, 1), 3), _turn(_X, 2), _turn(_Z, 4)
_C5 = _turn((0, 1, _GOLDEN), 5)

#: Generators of each group; the main axis is z except for the cubic and icosahedral groups.
GENERATORS: dict[str, tuple[np.ndarray, ...]] = {
    "C1": (np.eye(3),),
    "Cs": (_MIRROR_Z,),
    "Ci": (_INVERSION,),
    "C2": (_turn(_Z, 2),),
    "C3": (_turn(_Z, 3),),
    "C5": (_turn(_Z, 5),),
    "C2v": (_turn(_Z, 2), _MIRROR_X),
    "C3v": (_turn(_Z, 3), _MIRROR_X),
    "C4v": (_turn(_Z, 4), _MIRROR_X),
    "C5v": (_turn(_Z, 5), _MIRROR_X),
    "D2": (_turn(_Z, 2), _C2X),
    "D3": (_turn(_Z, 3), _C2X),
    "D4": (_turn(_Z, 4), _C2X),
    "D5": (_turn(_Z, 5), _C2X),
    "D6": (_turn(_Z, 6), _C2X),
    "D2h": (_turn(_Z, 2), _C2X, _INVERSION),
    "D2d": (-_turn(_Z, 4), _C2X),
    "D3h": (_turn(_Z, 3), _C2X, _MIRROR_Z),
    "D3d": (_turn(_Z, 3), _C2X, _INVERSION),
    "D4h": (_turn(_Z, 4), _C2X, _MIRROR_Z),
    "D5h": (_turn(_Z, 5), _C2X, _MIRROR_Z),
    "D5d": (_turn(_Z, 5), _C2X, _INVERSION),
    "D6h": (_turn(_Z, 6), _C2X, _MIRROR_Z),
    "T": (_turn(_Z, 2), _C3),
    "Td": (-_C4, _C3),
    "Th": (_turn(_Z, 2), _C3, _INVERSION),
    "O": (_C4, _C3),
    "Oh": (_C4, _C3, _INVERSION),
    "I": (_turn(_Z, 2), _C3, _C5),
    "Ih": (_turn(_Z, 2), _C3, _C5, _INVERSION),
}


@cache
def operations(name: str) -> np.ndarray:
    """All matrices (order, 3, 3) of a point group, the identity first."""
    found = [np.eye(3)]
    for m in found:
        for g in GENERATORS[name]:
            new = g @ m
            if not any(np.allclose(new, old, atol=1e-9) for old in found):
                found.append(new)
    return np.array(found)


class GroupTable(eqx.Module):
    """Several point groups padded to one order, ready for a device loop.

    `projectors[g, e]` maps a point onto the positions element e of group g leaves alone; `orbit[g, e]` marks the
    operations that give distinct images of such a point.
    """

    operations: Float[Array, "groups order 3 3"]
    projectors: Float[Array, "groups order 3 3"]
    orbit: Bool[Array, "groups order order"]
    orders: Int[Array, " groups"]

    @property
    def n_groups(self) -> int:
        return self.operations.shape[0]


@cache
def group_table(names: tuple[str, ...]) -> GroupTable:
    """The table of the named point groups (Schoenflies symbols, see `GENERATORS`)."""
    for name in names:
        if name not in GENERATORS:
            raise InputError(f'there is no point group "{name}".{suggest(name, GENERATORS)}')
    groups = [operations(n) for n in names]
    size = max(len(g) for g in groups)
    ops, proj = np.zeros((len(groups), size, 3, 3)), np.zeros((len(groups), size, 3, 3))
    orbit = np.zeros((len(groups), size, size), bool)
    probe = np.array([0.7731, 0.3119, 0.5527])  # a point in general position
    for k, group in enumerate(groups):
        ops[k, : len(group)] = group
        for e, element in enumerate(group):
            powers, m = [np.eye(3)], element
            while not np.allclose(m, np.eye(3), atol=1e-9):
                powers.append(m)
                m = m @ element
            proj[k, e] = np.mean(powers, axis=0)
            images = group @ (proj[k, e] @ probe)
            near = np.linalg.norm(images[:, None] - images[None], axis=-1) < 1e-6
            orbit[k, e, : len(group)] = near.argmax(1) == np.arange(len(group))
    return GroupTable(ops.astype(np.float32), proj.astype(np.float32), orbit, np.array([len(g) for g in groups], np.int32))
