"""A graph convolutional network that reads radial counts and sorted distances of every atom."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.networks.layers import Dense, Stack
from thalweg.networks.schnet import cosine_cutoff, smooth
from thalweg.surrogates.networks.base import ONE, ZERO, EnergyNetwork, Subject
from thalweg.surrogates.networks.pairs import distances, kinds, nearest
from thalweg.surrogates.networks.readout import pooled
from thalweg.typing import Array

#: Distances that an atom knows: those to so many nearest atoms.
NEAREST = 8
#: Radial bins, and where the last one ends (in typical lengths).
BINS, LAST_BIN = 16, 8.0
#: A neighbour passes from one bin to the next over so much of a typical length: counts have derivatives.
EDGE = 0.25


class Graph(EnergyNetwork):
    """Convolutions of T. N. Kipf and M. Welling, ICLR 2017 (arXiv:1609.02907), on the graph of neighbours, and a head.

    Atoms come with the numbers of neighbours in `BINS` radial bins and the sorted distances to the `NEAREST` atoms. With
    `logarithmic` these are logarithms: energies that grow as r^-12 are linear in them, and a network that reads the distances
    themselves has to find that out. Edges fall to 0 at `cutoff` typical lengths, so the graph changes smoothly; every
    convolution is added to what it reads. The head reads the mean over atoms and, with `largest`, the
    maximum: nothing says that energies add up.
    """

    kind: ClassVar[str] = "graph"

    shift: Array
    scale: Array
    embedding: Stack
    across: tuple[Dense, ...]
    own: tuple[Dense, ...]
    head: Stack
    subject: Subject = eqx.field(static=True)
    logarithmic: bool = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    largest: bool = eqx.field(static=True)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        subject: Subject,
        width: int = 64,
        layers: int = 2,
        logarithmic: bool = True,
        cutoff: float = 4.0,
        largest: bool = True,
    ) -> Graph:
        """Untrained, with `layers` convolutions of `width` features."""
        inputs = NEAREST + BINS + len(subject.species)
        return cls(
            embedding=Stack.random(rng, inputs, width, width),
            across=tuple(Dense.random(rng, width, width) for _ in range(layers)),
            own=tuple(Dense.random(rng, width, width) for _ in range(layers)),
            head=Stack.random(rng, (1 + largest) * width, width, width, 1),
            subject=subject,
            logarithmic=logarithmic,
            cutoff=cutoff,
            largest=largest,
            shift=ZERO,
            scale=ONE,
        )

    def outputs(self, positions, numbers):
        r = distances(positions, numbers, self.subject)
        near, _ = nearest(r, NEAREST)
        own = jnp.broadcast_to(kinds(numbers, self.subject), (*r.shape[:2], len(self.subject.species)))
        lengths = jnp.log(near) if self.logarithmic else near / 4
        atoms = smooth(self.embedding, jnp.concatenate([lengths, counts(r), own], -1))
        edges = normalised(r, self.cutoff)
        for across, alone in zip(self.across, self.own, strict=True):
            atoms = atoms + jax.nn.silu(across(edges @ atoms) + alone(atoms))
        return smooth(self.head, pooled(atoms, numbers, self.largest))[:, 0]


def counts(r):
    """Numbers of neighbours (batch, atoms, BINS) by distance, their edges soft."""
    edges = np.linspace(0, LAST_BIN, BINS + 1, dtype=np.float32)
    beyond = jnp.stack([_step((r - edge) / EDGE + 0.5).sum(-1) for edge in edges[1:]], -1)
    # All are beyond the first edge, which is at 0.
    every = jnp.full_like(beyond[..., :1], r.shape[-1])
    return jnp.concatenate([every, beyond[..., :-1]], -1) - beyond


def normalised(r, cutoff: float):
    """The adjacency matrix (batch, atoms, atoms) with loops, divided by the roots of the degrees at both ends."""
    edges = cosine_cutoff(r, cutoff) + np.eye(r.shape[-1], dtype=np.float32)
    root = 1 / jnp.sqrt(edges.sum(-1))
    return edges * root[:, :, None] * root[:, None]


def _step(t):
    t = jnp.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
