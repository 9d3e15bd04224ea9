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
        lanes = max(jnp.ndim(f) for f in features) - 1
        values = list(features)
        for k, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            w, b = _spread(weights, 2, lanes), _spread(biases, 1, lanes)
            # Sums over few inputs are written out: elementwise work over lanes, which the compiler fuses and vectorises.
            values = [sum((w[o, i] * v for i, v in enumerate(values)), start=b[o]) for o in range(weights.shape[0])]
            if k + 1 < len(self.weights):
                values = [jnp.tanh(v) for v in values]
        return values


def _spread(a, axes: int, lanes: int):
    """(*axes, 1, *lanes or ones): to broadcast with (atoms, *lanes)."""
    own = a.shape[axes:]
    return jnp.reshape(a, (*a.shape[:axes], 1, *(own or (1,) * lanes)))
