"""Coordinates as they come, through a fully connected network."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import numpy as np

from thalweg.networks.layers import Stack
from thalweg.networks.schnet import smooth
from thalweg.surrogates.networks.base import ONE, ZERO, EnergyNetwork, Subject
from thalweg.typing import Array


class Coordinates(EnergyNetwork):
    """A perceptron of all coordinates, from -1 to 1 in the box. It has no symmetry: in training it is shown permuted and
    mirrored structures.

    Without a box coordinates are those about the mean of the atoms, in typical lengths.
    """

    kind: ClassVar[str] = "mlp"
    augmentations: ClassVar[tuple[str, ...]] = ("permuted", "mirrored")

    shift: Array
    scale: Array
    layers: Stack
    subject: Subject = eqx.field(static=True)

    @classmethod
    def random(cls, rng: np.random.Generator, subject: Subject, width: int = 256, layers: int = 3) -> Coordinates:
        """Untrained, with so many hidden layers."""
        inputs = subject.atoms * subject.dimensions
        made = Stack.random(rng, inputs, *[width] * layers, 1)
        return cls(layers=made, subject=subject, shift=ZERO, scale=ONE)

    def outputs(self, positions, numbers):
        subject = self.subject
        x = positions[..., : subject.dimensions]
        x = (x - x.mean(1, keepdims=True)) / subject.length if subject.box is None else 2 * x / subject.box - 1
        return smooth(self.layers, x.reshape(len(x), -1))[:, 0]
