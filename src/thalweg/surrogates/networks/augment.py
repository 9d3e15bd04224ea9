"""Other structures of the same energy, for networks that do not know that it is the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from thalweg.surrogates.networks.data import EnergyData


def permuted(rng: np.random.Generator, positions, forces, data: EnergyData):
    """Positions and forces (rows, atoms, 3) with equal atoms exchanged at random, in every structure differently."""
    numbers = np.asarray(data.numbers)
    keys = numbers + rng.random(positions.shape[:2])
    order = np.empty(keys.shape, int)
    order[:, np.argsort(numbers, kind="stable")] = np.argsort(keys, axis=1)
    at = order[..., None]
    return np.take_along_axis(positions, at, 1), None if forces is None else np.take_along_axis(forces, at, 1)


def mirrored(rng: np.random.Generator, positions, forces, data: EnergyData):
    """Under a random symmetry of the box: axes exchanged and reflected, about its middle or the origin."""
    subject = data.subject
    dims = subject.dimensions
    rows = np.arange(len(positions))[:, None]
    axes = np.argsort(rng.random((len(positions), dims)), 1)
    signs = rng.choice(np.array([-1, 1], np.float32), (len(positions), dims))
    middle = 0.0 if subject.box is None else np.float32(subject.box / 2)

    def turned(vectors, centre):
        inner = np.swapaxes(vectors[..., :dims] - centre, 1, 2)[rows, axes]
        return np.concatenate([np.swapaxes(inner, 1, 2) * signs[:, None] + centre, vectors[..., dims:]], -1)

    return turned(positions, middle), None if forces is None else turned(forces, np.float32(0))


#: Augmentations by name, as `EnergyNetwork.augmentations` lists them.
AUGMENTATIONS: dict[str, Callable] = {"permuted": permuted, "mirrored": mirrored}
