"""An ensemble of networks of the energy as a surrogate: fitted to what a search has evaluated, over a repulsive prior."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax

from thalweg import prng
from thalweg.errors import InputError, suggest
from thalweg.leaves import as_leaves
from thalweg.structure import Structure
from thalweg.surrogates.base import Dataset, Posterior, Surrogate
from thalweg.surrogates.batched import StructurePosterior, in_blocks
from thalweg.surrogates.networks.base import EnergyNetwork, Subject
from thalweg.surrogates.networks.kinds import KINDS
from thalweg.surrogates.networks.training import loss_of
from thalweg.surrogates.prior import Repulsion
from thalweg.surrogates.selection import chosen, padded_size
from thalweg.surrogates.surroundings import unit_of
from thalweg.system import System
from thalweg.typing import Array


class NetworkPosterior(StructurePosterior):
    """A fitted `NetworkSurrogate`: prior and mean of the members; `spread` times their standard deviation.

    Energies per atom are the prior's and equal shares of the rest: not every network has energies of atoms.
    """

    members: EnergyNetwork  # every array with an axis of members in front
    prior: Repulsion
    spread: Array
    fitted: int
    species: tuple[int, ...] = eqx.field(static=True)
    images: tuple[int, int, int] = eqx.field(static=True)

    @property
    def reach(self) -> float | None:
        """None: a network reads the whole structure."""
        return None

    def atomic_energies(self, structure: Structure, images) -> Array:
        each = self.prior.atomic_energies(structure, images)
        rest = self._outputs(structure).mean()
        return each + jnp.where(structure.mask, rest / jnp.maximum(structure.mask.sum(), 1), 0)

    def mean_and_std(self, structure: Structure, images) -> tuple[Array, Array]:
        every = self._outputs(structure)
        # One more under the root: the derivative of a root at zero is not finite.
        std = self.spread * jnp.sqrt(every.var() + 1e-12 * self.members.scale.mean() ** 2)
        return self.prior.atomic_energies(structure, images).sum() + every.mean(), std

    def _outputs(self, structure: Structure) -> Array:
        """What each member adds to the prior (members,)."""
        return _each(lambda network: network.energies(structure.positions, structure.numbers), self.members)


class Rows(NamedTuple):
    """What is fitted to, padded: `allowed` (members, rows) are the rows that a member may see, `counts` (members,) so many."""

    positions: np.ndarray
    target: np.ndarray
    forces: np.ndarray
    allowed: np.ndarray
    counts: np.ndarray


class NetworkSurrogate(Surrogate):
    """`members` networks of one kind (`thalweg.surrogates.networks.kinds`), each trained from a start of its own.

    They learn what a repulsive prior leaves of energies and forces: without it a network has no reason to keep atoms apart
    nearer than any that it has seen. Each structure is hidden from one member, and the standard deviation over members is
    scaled by what those miss: ensembles of networks are surer than they should be (B. Lakshminarayanan, A. Pritzel and
    C. Blundell, NIPS 2017, arXiv:1612.01474, for the ensemble without hiding). The first fit takes `steps` steps of Adam on
    `batch` structures, those that follow `steps` / `again` from where the last one ended.

    For free structures in space; `width` and `layers` are those of the network.
    """

    network: str = eqx.field(static=True, default="schnet")
    members: int = eqx.field(static=True, default=4)
    width: int = eqx.field(static=True, default=32)
    layers: int = eqx.field(static=True, default=2)
    batch: int = eqx.field(static=True, default=16)
    steps: int = 400
    again: float = 4.0
    rate: float = 3e-3
    force_weight: float = 1.0
    window: float = 60.0
    highest_prior: float = 5.0
    most: int = eqx.field(static=True, default=500)
    unit: float = 1.0
    energy_unit: float = 1.0

    def __check_init__(self):
        if self.network not in KINDS:
            raise InputError(f'there is no network "{self.network}".{suggest(self.network, KINDS)}')
        if min(self.members, self.width, self.layers, self.batch) < 1 or self.members < 2:
            raise InputError("members of a network surrogate must be at least 2, width, layers and batch at least 1")

    def suited(self, system: System, energy_unit: float = 1.0) -> NetworkSurrogate:
        """This with the lengths of a model system in units of its bond; the same for real species."""
        return eqx.tree_at(lambda s: (s.unit, s.energy_unit), self, (unit_of(system), energy_unit))

    def fit(self, key, data: Dataset, previous: Posterior | None = None) -> NetworkPosterior:
        key = prng.key(0) if key is None else key
        numbers = np.asarray(data.numbers)
        species = tuple(int(z) for z in np.unique(numbers) if z >= 0)
        if any(data.pbc):
            raise InputError('the surrogate "network" knows free structures only; use "local" for periodic ones')
        valid = np.asarray(data.valid)
        if not valid.any():
            raise InputError("there is nothing to fit to: no row of the data is valid")
        x, cells = np.asarray(data.positions, float)[valid], np.asarray(data.cell, float)[valid]
        energy, forces = np.asarray(data.energy, float)[valid], np.asarray(data.forces, float)[valid]
        prior = Repulsion.of(species, float(self.unit), float(self.energy_unit))
        repulsion, push = _repelled(prior, x, numbers, cells)
        limit = float(self.highest_prior * self.energy_unit)
        good = np.isfinite(push).all((1, 2))
        rows = chosen(energy, repulsion, good, float(self.window * self.energy_unit), limit, self.most)
        if len(rows) == 0:
            raise InputError("there is nothing to fit to: no valid row has a finite energy")
        target = (energy - repulsion)[rows]
        held = self._rows(x[rows], target, (forces - push)[rows])
        subject = Subject(len(numbers), species, 3, None, 1.5 * float(self.unit))
        start, steps = self._start(key, subject, target, previous)
        members = _fitted(
            start, held, numbers, jr.key_data(key)[-1], np.int32(steps), np.float32(self.rate), np.float32(self.force_weight),
            self.batch,
        )  # fmt: skip
        members = jax.tree.map(np.asarray, members)
        spread = self._spread(members, held, numbers, len(rows))
        return NetworkPosterior(
            members=members,
            prior=as_leaves(prior, np.float64),
            spread=np.asarray(spread),
            fitted=len(rows),
            species=species,
            images=(0, 0, 0),
        )

    def _rows(self, x, target, forces) -> Rows:
        """Padded to few sizes; which member is not shown a structure follows from the structure, in every fit the same."""
        count, size = len(x), padded_size(len(x))
        hidden = np.array([blake2b(each.tobytes(), digest_size=4).digest()[0] % self.members for each in x])
        if count < 2 * self.members:
            hidden[:] = -1
        seen = [np.flatnonzero(hidden != m) for m in range(self.members)]
        seen = [rows if len(rows) else np.arange(count) for rows in seen]
        fill = lambda a: np.concatenate([a, np.repeat(a[:1], size - count, 0)]).astype(np.float32)
        allowed = np.stack([np.resize(rows, size) for rows in seen]).astype(np.int32)
        counts = np.array([len(rows) for rows in seen], np.int32)
        return Rows(fill(x), fill(target), fill(forces), allowed, counts)

    def _start(self, key, subject: Subject, target, previous) -> tuple[EnergyNetwork, int]:
        """Networks to begin with, an axis of members in front of their arrays, and how many steps to take."""
        scale = max(float(target.std()), 1e-3 * float(self.energy_unit))
        if isinstance(previous, NetworkPosterior) and previous.members.subject == subject:
            before = float(np.mean(previous.members.scale))
            if 0.5 < scale / before < 2:
                return as_leaves(previous.members, np.float32), max(int(self.steps / self.again), 1)
        rng = np.random.default_rng(np.asarray(jr.key_data(key)).ravel())
        made = KINDS[self.network].random
        each = [made(rng, subject, width=self.width, layers=self.layers).scaled(target) for _ in range(self.members)]
        each = [eqx.tree_at(lambda n: n.scale, one, np.float32(scale)) for one in each]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each), int(self.steps)

    def _spread(self, members, rows: Rows, numbers, count: int) -> float:
        """The factor on standard deviations with which those who had not seen a structure missed it as they should."""
        every = np.concatenate([
            np.asarray(_predicted(members, rows.positions[at : at + 32], numbers)) for at in range(0, len(rows.target), 32)
        ], 1)[:, :count]  # fmt: skip
        unseen = np.array([~np.isin(np.arange(count), part[:n]) for part, n in zip(rows.allowed, rows.counts, strict=True)])
        if not unseen.any():
            return 3.0
        missed = np.abs(every - rows.target[:count])[unseen]
        std = np.broadcast_to(every.std(0), every.shape)[unseen]
        return float(np.clip(np.median(missed / np.maximum(std, 1e-9)) / 0.6745, 1.0, 20.0))


def _each(function, members: EnergyNetwork):
    """A function of each member, stacked."""
    arrays, rest = eqx.partition(members, eqx.is_array)
    return jax.vmap(lambda part: function(eqx.combine(part, rest)))(arrays)


@eqx.filter_jit
def _predicted(members, positions, numbers):
    return _each(lambda network: network.energies(positions, numbers), members)


@eqx.filter_jit
def _fitted(members, rows: Rows, numbers, word, steps, rate, force_weight, batch: int):
    """Members after so many steps of Adam with a rate that falls as a cosine; each step of each on rows of its own."""
    part, rest = eqx.partition(members, members.trainable())
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    def one(part, rest, state, allowed, count, key, fall):
        at = allowed[jr.randint(key, (batch,), 0, count)]
        data = rows.positions[at], numbers, rows.target[at], rows.forces[at]
        gradient = jax.grad(lambda p: loss_of(eqx.combine(p, rest), *data, "huber", force_weight))(part)
        change, state = adam.update(gradient, state)
        return jax.tree.map(lambda p, c: p - fall * c, part, change), state

    def step(k, carry):
        part, state = carry
        keys = jr.split(jr.fold_in(jr.key(word), k), len(rows.counts))
        fall = rate * 0.5 * (1 + jnp.cos(np.pi * k / steps))
        return jax.vmap(one, in_axes=(0, 0, 0, 0, 0, 0, None))(part, rest, state, rows.allowed, rows.counts, keys, fall)

    part, _ = lax.fori_loop(0, steps, step, (part, jax.vmap(adam.init)(part)))
    return eqx.combine(part, rest)


def _repelled(prior: Repulsion, x, numbers, cells):
    """Energies (rows,) and forces (rows, atoms, 3) of the prior, float64."""
    with jax.enable_x64(True):
        leaves = as_leaves(prior, np.float64)
        return in_blocks(lambda many: _repulsions(leaves, many), x, numbers, cells, (False,) * 3)


@eqx.filter_jit
def _repulsions(prior: Repulsion, structures: Structure):
    def one(s):
        at = lambda x: Structure(x, s.numbers, s.cell, s.fixed, s.pbc)
        energy, slope = jax.value_and_grad(lambda x: prior.atomic_energies(at(x)).sum())(s.positions)
        return energy, -slope

    return jax.vmap(one)(structures)
