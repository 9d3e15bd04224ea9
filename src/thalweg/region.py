"""Where atoms may be placed: regions that confine a search."""

from __future__ import annotations

import abc

import equinox as eqx
import jax

from thalweg.typing import Array


class Region(eqx.Module):
    """A part of space. All of it is traceable; lengths in Å or reduced units, in the frame of the cell."""

    @abc.abstractmethod
    def sample(self, key, shape: tuple[int, ...], dtype) -> jax.Array:
        """Points (*shape, 3) uniform in the region."""

    @abc.abstractmethod
    def contains(self, points) -> Array:
        """True (*batch) for points (*batch, 3) inside, or within rounding of it."""

    @abc.abstractmethod
    def project(self, points) -> Array:
        """The nearest points inside (*batch, 3)."""

    @property
    @abc.abstractmethod
    def dimensions(self) -> int:
        """3, or 2 for a plane: how many directions it extends in."""

    @property
    @abc.abstractmethod
    def volume(self) -> float:
        """Volume, or area of a plane: on the host, to refuse a region too small for its atoms."""
