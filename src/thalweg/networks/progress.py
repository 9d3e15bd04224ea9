"""Where a training of epochs stands: everything that it is resumed from, whatever network learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import equinox as eqx
import jax
import numpy as np

from thalweg.networks.weights import filled, named
from thalweg.typing import PyTree

Network = TypeVar("Network", bound=eqx.Module)


class Course(Protocol):
    """How long a training goes on: `epochs` at most, and `patience` without a lower error in validation."""

    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...


@dataclass(frozen=True)
class Progress(Generic[Network]):
    """Networks (the last and the best), the optimiser's state, and one row of `history` per epoch done.

    Rows have the error in `validation`, and the seconds `cpu` and `wall` that the epoch took.
    """

    network: Network
    optimiser: PyTree
    best: Network
    seed: int
    history: tuple[dict, ...] = ()

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, with the lowest error in validation; 0 before the first."""
        errors = [row["validation"] for row in self.history]
        return 1 + int(np.argmin(errors)) if errors else 0

    def ended(self, settings: Course) -> bool:
        """Whether all epochs are done, or none of late was any better."""
        return self.epoch >= settings.epochs or self.epoch - self.best_epoch >= settings.patience

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, to be written; with `seed` and `history` they are everything."""
        return named({"network": self.network, "optimiser": self.optimiser, "best": self.best})

    def restored(self, arrays: Mapping[str, np.ndarray], history, where: str = "the checkpoint") -> Progress[Network]:
        """This, as a training begins, with what `arrays` gave. Raises `InputError` where it is of another training."""
        tree = {"network": self.network, "optimiser": self.optimiser, "best": self.best}
        held = filled(tree, arrays, where)
        # Counters of the optimiser are integers.
        held = jax.tree.map(lambda a, like: np.asarray(a, np.asarray(like).dtype), held, tree)
        return replace(self, **held, history=tuple(history))
