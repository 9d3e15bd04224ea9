"""`BuilderNetwork`: energies of molecules, and what it is worth to put the next atom of a molecule in the making anywhere.

After S. A. Meldgaard, J. Köhler, H. L. Mortensen, M.-P. V. Christiansen, F. Noé and B. Hammer, Mach. Learn.: Sci. Technol. 3,
015008 (2022), doi:10.1088/2632-2153/ac3eb4. Batch in front: positions (batch, atoms, 3) in Å, kinds (batch, atoms) indices
into `species` or -1 where there is no atom, bags (batch, species) counts of what is still to be placed, queries
(batch, queries, 3) places in Å. Everything in float32; energies in eV.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.networks.layers import Dense, Stack
from thalweg.networks.schnet import Gaussians, Messages, cosine_cutoff, shifted_softplus, smooth
from thalweg.networks.weights import symbols
from thalweg.typing import Array

#: Features of a bag.
BAG = 32
#: Squared distances (Å^2) below this count as this: the derivative of a root has no value at zero.
TINY = 1e-8
#: Distances at which filters of many places are tabulated: 0.005 Å apart, where they are straight to the fourth digit.
TABLE = 1024
#: The logit of what cannot be done.
NEVER = -1e4


class Attention(eqx.Module):
    """What atoms (or places) learn of all atoms, however far: a weighted mean of values, with several sets of weights (heads).

    A. Vaswani et al., Advances in Neural Information Processing Systems 30 (2017), arXiv:1706.03762. Half as wide inside as
    the features are.
    """

    asking: Array  # (width, inner)
    keys: Array
    values: Array
    outwards: Dense
    heads: int = eqx.field(static=True)

    @classmethod
    def random(cls, rng: np.random.Generator, width: int, heads: int) -> Attention:
        """Of features of this width."""
        inner = width // 2
        if inner < heads or inner % heads:
            raise InputError(f"{heads} heads do not divide half the width of {width}; use a width that they do divide")
        asking, keys, values = (Dense.random(rng, width, inner).weights for _ in range(3))
        return cls(asking, keys, values, Dense.random(rng, inner, width), heads)

    def __call__(self, asking, atoms, there):
        """Changes (batch, asking, width) of what asks (batch, asking, width), from atoms (batch, atoms, width).

        Atoms that are not `there` (batch, atoms) have no weight at all; without any atom the change is a constant.
        """
        parts = lambda x, w: (x @ w).reshape(*x.shape[:2], self.heads, -1)
        q, k, v = parts(asking, self.asking), parts(atoms, self.keys), parts(atoms, self.values)
        there = there[:, None, None, :]
        scores = jnp.einsum("bqhd,bnhd->bhqn", q, k) / np.float32(np.sqrt(q.shape[-1]))
        weights = jax.nn.softmax(jnp.where(there, scores, NEVER), -1) * there
        mixed = jnp.einsum("bhqn,bnhd->bqhd", weights, v)
        return self.outwards(mixed.reshape(*asking.shape[:2], -1))


class BuilderNetwork(eqx.Module):
    """A trunk of SchNet interactions, one head for energies of atoms, and one for the value of putting an atom at a place.

    It reads distances alone: moving, turning or mirroring a molecule together with its queries, and the order of its atoms,
    change nothing, and neither does padding. The interactions have the same weights and filters in every block, unless `random`
    was told otherwise: filters, most of the work, are then made once.

    `reference` and `scale` are set from data (`referenced`) and not trained.
    """

    reference: Array  # (species,) eV
    scale: Array  # () eV
    embedding: Array  # (species, width)
    messages: tuple[Messages, ...]
    energy: Stack
    bag: Stack
    bag_inwards: Dense
    attention: Attention
    query: Messages
    query_attention: Attention
    state: Stack
    advantage: Stack
    gaussians: Gaussians
    species: tuple[int, ...] = eqx.field(static=True)
    blocks: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        species: tuple[int, ...] = (1, 6, 7, 8),
        width: int = 64,
        gaussians: int = 20,
        blocks: int = 5,
        heads: int = 8,
        cutoff: float = 5.0,
        shared: bool = True,
    ) -> BuilderNetwork:
        """Untrained, of atomic numbers; `cutoff` in Å. Not `shared`, every block has weights and filters of its own."""
        n = len(species)
        if not n or len(set(species)) < n:
            raise InputError(f"the species {tuple(species)} of a builder must be different atomic numbers, at least one")
        return cls(
            reference=np.zeros(n, np.float32),
            scale=np.ones((), np.float32),
            embedding=rng.normal(size=(n, width)).astype(np.float32),
            messages=tuple(Messages.random(rng, gaussians, width) for _ in range(1 if shared else blocks)),
            energy=Stack.random(rng, width, width // 2, 1),
            bag=Stack.random(rng, 2 * n, BAG, BAG),
            bag_inwards=Dense.random(rng, BAG, width),
            attention=Attention.random(rng, width, heads),
            query=Messages.random(rng, gaussians, width),
            query_attention=Attention.random(rng, width, heads),
            state=Stack.random(rng, width + BAG, width // 2, 1),
            advantage=Stack.random(rng, width + BAG, width, n + 1),
            gaussians=Gaussians(0.0, cutoff, gaussians),
            species=tuple(int(z) for z in species),
            blocks=blocks,
            cutoff=cutoff,
        )

    def kinds(self, numbers) -> np.ndarray:
        """Indices int32 of atomic numbers (...) among `species`, -1 where they are negative. On the host.

        Raises `InputError` for elements that it does not know.
        """
        numbers = np.asarray(numbers)
        strange = sorted({int(z) for z in numbers[numbers >= 0].ravel()} - set(self.species))
        if strange:
            raise InputError(
                f"this builder knows {symbols(self.species)} and no {symbols(strange)}; use one that was trained on molecules "
                "with them"
            )
        made = np.full(numbers.shape, -1, np.int32)
        for k, z in enumerate(self.species):
            made[numbers == z] = k
        return made

    def trunk(self, positions, kinds):
        """Features (batch, atoms, width) of the surroundings of atoms; of padding they mean nothing."""
        there, (i, j, pair) = kinds >= 0, _pairs_once(kinds.shape[1])
        squares = ((positions[:, i] - positions[:, j]) ** 2).sum(-1)
        radial, weight = self._radial(squares, there[:, i] & there[:, j])
        # A filter is the same from either end: each is made once and taken twice, and zero from an atom to itself.
        filters = [jnp.pad(each.filtered(radial, weight), [(0, 0), (0, 1), (0, 0)])[:, pair] for each in self.messages]
        atoms = jax.nn.one_hot(kinds, len(self.species)) @ self.embedding
        for k in range(self.blocks):
            own = k % len(self.messages)
            atoms = atoms + self.messages[own].passed(atoms, filters[own])
        return atoms

    def atomic_residuals(self, positions, kinds):
        """Energies (batch, atoms) eV of atoms above the references of their species, zero on padding."""
        each = smooth(self.energy, self.trunk(positions, kinds), shifted_softplus)[..., 0]
        return self.scale * jnp.where(kinds >= 0, each, 0)

    def residuals(self, positions, kinds):
        """Energies (batch,) eV above the references of the species: what training compares."""
        return self.atomic_residuals(positions, kinds).sum(-1)

    def energies(self, positions, kinds):
        """Energies (batch,) eV: sums over atoms of what a head makes of the trunk's features, above references by species."""
        return self.residuals(positions, kinds) + _counts(kinds, len(self.species)) @ self.reference

    def energies_and_forces(self, positions, kinds):
        """Energies (batch,) eV and forces (batch, atoms, 3) eV/Å, zero on padding."""
        energies, back = jax.vjp(lambda x: self.energies(x, kinds), jnp.asarray(positions))
        return energies, -back(jnp.ones_like(energies))[0]

    def features(self, positions, kinds, bag):
        """Features (batch, atoms, width) of a molecule in the making: the trunk's, what is left to place, and attention."""
        atoms = self.trunk(positions, kinds) + self.bag_inwards(self._bag(bag))[:, None]
        return atoms + self.attention(atoms, atoms, kinds >= 0)

    def logits(self, features, positions, kinds, bag, query):
        """Logits (batch, queries, species + 1) of what belongs at places: an atom of a species, or, last, none.

        Features as of `features`. Those of a place begin as messages from the atoms around it and attend to all atoms. Of
        them and of the bag comes an advantage for each species and for none, whose mean is taken away; of the mean of the
        atoms' features and of the bag a value of the state, which is added for the species and not for none: so it says how
        likely anything is to be right. What the bag has none of is impossible (`NEVER`).
        """
        there = kinds >= 0
        squares = ((query[:, :, None] - positions[:, None]) ** 2).sum(-1)
        places = self.query.passed(features, self._query_filters(squares, jnp.broadcast_to(there[:, None], squares.shape)))
        places = places + self.query_attention(places, features, there)
        left = self._bag(bag)
        mean = jnp.where(there[..., None], features, 0).sum(1) / jnp.maximum(there.sum(1), 1)[:, None]
        value = _told(self.state, mean, left)
        advantage = _told(self.advantage, places, jnp.broadcast_to(left[:, None], (*places.shape[:2], BAG)))
        advantage = advantage - advantage.mean(-1, keepdims=True)
        species = jnp.where(bag[:, None] > 0, advantage[..., :-1] + value[:, None], NEVER)
        return jnp.concatenate([species, advantage[..., -1:]], -1)

    def values(self, features, positions, kinds, bag, query):
        """Q (batch, queries, species), each in [0, 1]: the softmax of `logits` over the species and none, without none.

        Imitation trains them as probabilities, by cross-entropy: that this atom stands here in a molecule of the training
        set. Reinforcement goes on with the same numbers and trains them by squared error on the best reward, between 0 and 1,
        of the builds that went this way. At one place they sum up to at most one.
        """
        return jax.nn.softmax(self.logits(features, positions, kinds, bag, query), -1)[..., :-1]

    def referenced(self, kinds, energies) -> BuilderNetwork:
        """The same network with energies of the species by least squares of these energies (rows,) of molecules (rows, atoms).

        `scale` becomes the spread of what they leave, per root of the number of atoms. Species that do not occur get zero.
        """
        kinds = np.asarray(kinds)
        counts = np.stack([(kinds == k).sum(-1) for k in range(len(self.species))], -1).astype(np.float64)
        reference = np.linalg.lstsq(counts, np.asarray(energies, np.float64), rcond=None)[0]
        left = (energies - counts @ reference) / np.sqrt(np.maximum(counts.sum(-1), 1))
        values = reference.astype(np.float32), np.array(max(float(np.sqrt((left**2).mean())), 1e-3), np.float32)
        return eqx.tree_at(lambda n: (n.reference, n.scale), self, values)

    def trainable(self) -> BuilderNetwork:
        """The same tree with True in place of every array that training may change, and False in place of the others."""
        every = jax.tree.map(eqx.is_inexact_array, self)
        return eqx.tree_at(lambda n: (n.reference, n.scale), every, (False, False))

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.size(a)) for a in jax.tree.leaves(eqx.filter(self, self.trainable())))

    def _query_filters(self, squares, real):
        """Filters (batch, queries, atoms, width) of squared distances; of many, between neighbours in a table.

        A filter is a smooth function of a distance alone, and costs a hundred times as much as looking it up.
        """
        if squares.size < 4 * TABLE:
            return self.query.filtered(*self._radial(squares, real))
        lengths = jnp.linspace(0, self.cutoff, TABLE)
        table = self.query.filtered(*self._radial(lengths**2, jnp.ones(TABLE, bool)))
        r = jnp.sqrt(jnp.maximum(squares, TINY)) * ((TABLE - 1) / self.cutoff)
        at = jnp.clip(r.astype(jnp.int32), 0, TABLE - 2)
        share = jnp.clip(r - at, 0, 1)[..., None]
        return jnp.where(real[..., None], table[at] * (1 - share) + table[at + 1] * share, 0)

    def _radial(self, squares, real):
        """Features (..., Gaussians) of squared distances, and weights: zero at the cutoff and where not `real`."""
        r = jnp.sqrt(jnp.maximum(jnp.where(real, squares, self.cutoff**2), TINY))
        return self.gaussians(r), jnp.where(real, cosine_cutoff(r, self.cutoff), 0)

    def _bag(self, bag):
        """Features (batch, BAG): of how many there are, and of which there are any."""
        read = jnp.concatenate([jnp.log1p(bag), (bag > 0).astype(jnp.float32)], -1)
        return smooth(self.bag, read.astype(jnp.float32), shifted_softplus)


def _counts(kinds, species: int):
    """Numbers of atoms (batch, species)."""
    return jax.nn.one_hot(kinds, species).sum(1)


def _pairs_once(atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of atoms once, as indices (pairs,), and the place (atoms, atoms) of each among them: one beyond the last for
    an atom and itself."""
    i, j = np.triu_indices(atoms, 1)
    pair = np.full((atoms, atoms), len(i))
    pair[i, j] = pair[j, i] = np.arange(len(i))
    return i, j, pair


def _told(stack: Stack, *parts):
    """Values of a stack with shifted softplus between its layers, of several parts beside each other."""
    return stack.layers[1](shifted_softplus(stack.layers[0](*parts)))
