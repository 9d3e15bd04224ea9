"""A small fully connected network, written for atoms of many structures side by side, lanes last."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.typing import Array


class Perceptron(eqx.Module):
    """Layers of tanh and a linear last one: `weights[k]` (out, in), `biases[k]` (out,).

    A trailing axis of lanes on all of them gives each lane weights of its own, as populations in training have them.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    @classmethod
    def zero_output(cls, rng: np.random.Generator, sizes: tuple[int, ...]) -> Perceptron:
        """Random hidden layers (variance 1 / inputs) and a last layer of zeros: a network whose output is exactly zero."""
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        weights = [rng.normal(size=s) / np.sqrt(s[1]) for s in shapes]
        weights[-1] = np.zeros(shapes[-1])
        return cls(tuple(w.astype(np.float32) for w in weights), tuple(np.zeros(s[0], np.float32) for s in shapes))

    @property
    def n_inputs(self) -> int:
        """Features that it takes."""
        return self.weights[0].shape[1]

    def __call__(self, features: list):
        """Outputs, a list of arrays (atoms, *lanes), from features: arrays that broadcast to (atoms, *lanes)."""
        shape = jnp.broadcast_shapes(*(jnp.shape(f) for f in features))
        values = jnp.stack([jnp.broadcast_to(f, shape) for f in features])
        for k, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = _product(weights, values) + _spread(biases, 1, len(shape) - 1)
            if k + 1 < len(self.weights):
                values = jnp.tanh(values)
        return list(values)


def _product(weights, values):
    """Sums over inputs (out, atoms, *lanes)."""
    if weights.ndim == 2:
        return jnp.tensordot(weights, values, 1)
    # Weights of each lane: inputs one by one, elementwise over lanes, which the compiler fuses and vectorises.
    spread = _spread(weights, 2, values.ndim - 2)
    return sum((spread[:, i] * values[i] for i in range(1, len(values))), start=spread[:, 0] * values[0])


def _spread(a, axes: int, lanes: int):
    """(*axes, 1, *lanes or ones): to broadcast with (atoms, *lanes)."""
    own = a.shape[axes:]
    return jnp.reshape(a, (*a.shape[:axes], 1, *(own or (1,) * lanes)))
