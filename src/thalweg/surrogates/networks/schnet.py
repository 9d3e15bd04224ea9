"""Energies of atoms by messages along distances: SchNet."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.networks.layers import Stack
from thalweg.networks.schnet import Gaussians, Messages, cosine_cutoff, shifted_softplus, smooth
from thalweg.surrogates.networks.base import ONE, ZERO, EnergyNetwork, Subject
from thalweg.surrogates.networks.pairs import distances, kinds, nearest
from thalweg.surrogates.networks.readout import summed
from thalweg.typing import Array

#: Gaussians begin at the logarithm of this distance (in typical lengths); nearer atoms are seen by the logarithm itself.
FIRST = 0.3


class SchNet(EnergyNetwork):
    """Continuous-filter convolutions (`thalweg.networks.schnet`) and a sum over atoms; nothing says that it is one over pairs.

    Unlike the published network it measures distances by their logarithms, by Gaussians of them and the logarithm itself: so
    filters see sharply what happens about r = 1, and go on as power laws at shorter distances. Atoms interact up to `cutoff`
    typical lengths. With `near` only the nearest so many are looked at, which changes nothing as long as no atom has more
    within the cutoff, and saves most of the work in thin gases (`for_training` finds out how many).
    """

    kind: ClassVar[str] = "schnet"

    shift: Array
    scale: Array
    embedding: Array  # (species, width)
    messages: tuple[Messages, ...]
    head: Stack
    gaussians: Gaussians
    subject: Subject = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    near: int | None = eqx.field(static=True, default=None)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        subject: Subject,
        width: int = 32,
        layers: int = 2,
        gaussians: int = 24,
        cutoff: float = 4.0,
    ) -> SchNet:
        """Untrained, with `layers` interactions of `width` features and so many Gaussians of the distance."""
        return cls(
            embedding=rng.normal(size=(len(subject.species), width)).astype(np.float32),
            messages=tuple(Messages.random(rng, gaussians + 1, width) for _ in range(layers)),
            head=Stack.random(rng, width, width, 1),
            gaussians=Gaussians(float(np.log(FIRST)), float(np.log(cutoff)), gaussians),
            subject=subject,
            cutoff=cutoff,
            shift=ZERO,
            scale=ONE,
        )

    def for_training(self, positions, numbers) -> SchNet:
        real = np.asarray(numbers) >= 0
        x = np.asarray(positions)[:, real, : self.subject.dimensions] / self.subject.length
        most = 1
        for at in range(0, len(x), 256):
            part = x[at : at + 256]
            squares = ((part[:, :, None] - part[:, None]) ** 2).sum(-1)
            most = max(most, int((squares < self.cutoff**2).sum(-1).max()) - 1)
        return self._with(most if most < real.sum() // 2 else None)

    def for_use(self) -> SchNet:
        return self._with(None)

    def _with(self, near: int | None) -> SchNet:
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "near"}
        return SchNet(near=near, **kept)

    def outputs(self, positions, numbers):
        r = distances(positions, numbers, self.subject)
        partner = None
        if self.near is not None:
            r, partner = nearest(r, self.near)
        weight = cosine_cutoff(r, self.cutoff)
        log = jnp.log(r)
        radial = jnp.concatenate([self.gaussians(log), log[..., None]], -1)
        atoms = kinds(numbers, self.subject) @ self.embedding
        atoms = jnp.broadcast_to(atoms, (*r.shape[:2], atoms.shape[-1]))
        for each in self.messages:
            atoms = atoms + each(atoms, radial, weight, partner)
        return summed(self, smooth(self.head, atoms, shifted_softplus)[..., 0], numbers)
