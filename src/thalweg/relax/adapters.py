"""Optax optimisers as relaxers: gradient descent and Adam, and any other `optax.GradientTransformation`."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
import optax

from thalweg.relax.base import Relaxer
from thalweg.typing import PyTree


class OptaxRelaxer(Relaxer):
    """A relaxer whose step is the update of an optax optimiser (element-wise ones: lanes do not mix)."""

    @abc.abstractmethod
    def transform(self) -> optax.GradientTransformation:
        """The optimiser, built from the fields."""

    def init(self, x) -> PyTree:
        # Optax counts steps in one scalar; lanes are loaded at different times, so every scalar gets its lanes.
        lanes = x.shape[2:]
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, lanes) if jnp.ndim(leaf) == 0 else leaf, self.transform().init(x)
        )

    def step(self, x, force, energy, state):
        return self.transform().update(-force, state, x)


class GradientDescent(OptaxRelaxer):
    """Displacement = learning_rate x force (Å per eV/Å)."""

    learning_rate: float = 0.001

    def transform(self) -> optax.GradientTransformation:
        return optax.sgd(self.learning_rate)


class Adam(OptaxRelaxer):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    learning_rate: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def transform(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, self.b1, self.b2, self.eps)
