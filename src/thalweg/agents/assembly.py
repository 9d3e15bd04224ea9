"""How a builder puts a molecule together: atom by atom, at places around those that are there, hydrogens last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from ase.data import covalent_radii

from thalweg.agents.policy import Policy
from thalweg.networks.builder import BuilderNetwork
from thalweg.typing import Array

#: Distances of places from an atom, in sums of covalent radii: those of single, double and triple bonds, and to hydrogen.
LENGTHS, TO_HYDROGEN = (1.0, 0.9, 0.8), (1.03,)
#: Directions from an atom to places.
DIRECTIONS = 128
#: Places that are valued at most; where more are allowed, as many are drawn.
PLACES = 768
#: Points that are tried about a place once it is chosen, and how far (Å, normal, each direction) they are from it.
POINTS, NEARBY = 64, 0.12
#: Two atoms are no nearer than this many sums of their covalent radii; two hydrogens never bond.
CLOSEST, HYDROGENS_APART = 0.75, 2.0
#: Arrays are padded to multiples of this many atoms: one compiled program serves several sizes.
SLOTS = 4


class Built(NamedTuple):
    """Molecules as they were put together: positions (batch, atoms, 3) in Å, the step at which each atom was placed (batch,
    atoms), and whether each (batch,) found a place for every atom."""

    positions: np.ndarray
    order: np.ndarray
    whole: np.ndarray


class Stage(NamedTuple):
    """A part of a build: which kinds (slots,) its slots are for, and what is placed where so far."""

    target: Array
    positions: Array  # (batch, slots, 3)
    there: Array  # (batch, slots)
    order: Array  # (batch, slots)
    stuck: Array  # (batch,)


class Turn(NamedTuple):
    """Whose turn it is, each (species,): how many are in the bag for later, what may be placed now, and about what."""

    spare: Array
    may: Array
    about: Array


class Chance(NamedTuple):
    """What may be placed where: whose turn it is, distances of places from an atom in sums of covalent radii, and about how
    many of the first slots."""

    turn: Turn
    lengths: tuple[float, ...]
    centres: int


def assembled(key, network: BuilderNetwork, numbers: np.ndarray, count: int, policy: Policy) -> Built:
    """`count` molecules of these atomic numbers (atoms,), built side by side.

    The first atom is at the origin, any that is no hydrogen. Every other one is put at one of the places about the atoms that
    are there (hydrogens: about the others), which the `policy` draws by the network's values, or near it where that is better.
    """
    numbers = np.asarray(numbers)
    for _, _, following in placements(key, network, numbers, count, policy):
        stage = following
    back = np.argsort(_hydrogens_last(numbers), kind="stable")
    x, order = (np.asarray(a)[:, : len(numbers)][:, back] for a in (stage.positions, stage.order))
    return Built(x.astype(np.float64), order.astype(np.int32), ~np.asarray(stage.stuck))


def placements(
    key, network: BuilderNetwork, numbers: np.ndarray, count: int, policy: Policy
) -> Iterator[tuple[Stage, Chance, Stage]]:
    """The same atom by atom: before each placement, what might be placed where, and after it. Slots are for hydrogens last."""
    first = _hydrogens_last(numbers)
    kinds, heavy = network.kinds(numbers[first]), int((numbers != 1).sum())
    light = np.arange(len(network.species)) == (network.species.index(1) if 1 in network.species else -1)
    spare = np.bincount(kinds[heavy:], minlength=len(network.species)).astype(np.float32)
    network, policy = jax.tree.map(jnp.asarray, (network, policy))
    key, later = jr.split(key)
    stage = _widened(None, kinds[:heavy], count)
    chance = Chance(Turn(spare, ~light, ~light), LENGTHS, len(stage.target))
    for step in range(len(numbers)):
        if step == heavy:
            stage, key = _widened(stage, kinds, count), later
            chance = Chance(Turn(0 * spare, light, ~light if heavy else light), TO_HYDROGEN, chance.centres)
        following = _advanced(jr.fold_in(key, step), network, policy, stage, chance, np.int32(step))
        yield stage, chance, following
        stage = following


def _hydrogens_last(numbers: np.ndarray) -> np.ndarray:
    """Indices (atoms,) in the order of the slots."""
    return np.argsort(numbers == 1, kind="stable")


def _widened(stage: Stage | None, kinds: np.ndarray, batch: int) -> Stage:
    """A stage with slots for these kinds (atoms,), the first of which are those of another one."""
    slots = max(-(-len(kinds) // SLOTS) * SLOTS, SLOTS)
    target = np.full(slots, -1, np.int32)
    target[: len(kinds)] = kinds
    if stage is None:
        nothing = np.zeros((batch, slots), bool)
        return Stage(target, np.zeros((batch, slots, 3), np.float32), nothing, nothing.astype(np.int32) - 1, nothing[:, 0])
    # Padding of the narrower stage becomes the place of what comes next.
    more = slots - len(stage.target)
    cut = lambda a: np.asarray(a)[:, :slots]
    wide = lambda a, fill: np.pad(cut(a), [(0, 0), (0, max(more, 0))] + [(0, 0)] * (np.ndim(a) - 2), constant_values=fill)
    return Stage(target, wide(stage.positions, 0), wide(stage.there, False), wide(stage.order, -1), np.asarray(stage.stuck))


def _advanced(key, network: BuilderNetwork, policy: Policy, stage: Stage, chance: Chance, step) -> Stage:
    """After one more placement in every build that is not stuck."""
    offer, features, values = weighed(key, network, stage, chance)
    draw = _drawn(key, policy, stage, chance.turn, offer, values)
    return _taken(key, network, stage, chance.turn, features, draw, step) if policy.reads_values else _put(stage, draw, step)


def weighed(key, network: BuilderNetwork, stage: Stage, chance: Chance):
    """What is offered, features of the atoms that are there, and values (batch, places, species) in [0, 1].

    Several programs, not one: XLA would fuse them, work places out anew wherever they are read, and compile for a minute.
    """
    offer = _offered(key, network, stage, chance.turn, chance.lengths, chance.centres)
    return offer, *_valued(network, stage, chance.turn, offer.query)


class Offer(NamedTuple):
    """Places (batch, places, 3), and which species may be put there (batch, places, species)."""

    query: Array
    fine: Array


class Draw(NamedTuple):
    """What is put where: kinds (batch,), points (batch, 3), and whether there was any place (batch,)."""

    kind: Array
    point: Array
    go: Array


@eqx.filter_jit
def _offered(key, network: BuilderNetwork, stage: Stage, turn: Turn, lengths, centres: int) -> Offer:
    """Where the next atom may go, or some of those places."""
    kinds, now = jnp.where(stage.there, stage.target, -1), _unplaced(stage, turn) * turn.may
    query, real = _places(jr.fold_in(key, 0), network, stage.positions, kinds, now, turn.about, lengths, centres)
    fine = _apart(network, query, stage.positions, kinds, turn.about) & real[..., None] & (now > 0)[:, None]
    # Half of all places are about slots that are empty or too near to others: to value them would be idle.
    _, best = jax.lax.top_k(
        jnp.where(fine.any(-1), jr.uniform(jr.fold_in(key, 4), real.shape), -1.0), min(PLACES, real.shape[1])
    )
    return Offer(jnp.take_along_axis(query, best[..., None], 1), jnp.take_along_axis(fine, best[..., None], 1))


@eqx.filter_jit
def _valued(network: BuilderNetwork, stage: Stage, turn: Turn, query):
    """Features of the atoms, and values (batch, places, species)."""
    x, kinds, bag = stage.positions, jnp.where(stage.there, stage.target, -1), _unplaced(stage, turn) + turn.spare
    features = network.features(x, kinds, bag)
    return features, network.values(features, x, kinds, bag, query)


@eqx.filter_jit
def _drawn(key, policy: Policy, stage: Stage, turn: Turn, offer: Offer, values) -> Draw:
    """The placements that the policy draws."""
    draw = jax.vmap(lambda k, v, f: policy(k, v.ravel(), f.ravel()))
    keys = jr.split(jr.fold_in(key, 1), len(stage.there))
    place, kind = jnp.divmod(draw(keys, values, offer.fine), values.shape[-1])
    # Nothing says where the first atom goes: at the origin; and any atom may be it.
    alone = jnp.logical_not(stage.there.any(1))
    now = _unplaced(stage, turn) * turn.may
    kind = jnp.where(alone, jr.categorical(jr.fold_in(key, 2), jnp.log(now + 1e-9), axis=-1), kind)
    point = jnp.where(alone[:, None], 0, jnp.take_along_axis(offer.query, place[:, None, None], 1)[:, 0])
    return Draw(kind, point, ~stage.stuck & (alone | offer.fine.any((1, 2))))


@eqx.filter_jit
def _taken(key, network: BuilderNetwork, stage: Stage, turn: Turn, features, draw: Draw, step) -> Stage:
    """With the atoms put at the most valuable of some points about those that were drawn.

    Places are some tenths of Å apart; whether a bond is single or double, and so how many hydrogens there are to come, is told
    by less.
    """
    x, kinds, bag = stage.positions, jnp.where(stage.there, stage.target, -1), _unplaced(stage, turn) + turn.spare
    noise = NEARBY * jr.truncated_normal(jr.fold_in(key, 3), -2.0, 2.0, (len(x), POINTS - 1, 3))
    near = jnp.concatenate([draw.point[:, None], draw.point[:, None] + noise], 1)
    pick = lambda a: jnp.take_along_axis(a, draw.kind[:, None, None], -1)[..., 0]
    values = pick(network.values(features, x, kinds, bag, near))
    fine = pick(_apart(network, near, x, kinds, turn.about))
    best = jnp.where(fine, values, -1.0).argmax(-1)
    moved = jnp.take_along_axis(near, best[:, None, None], 1)[:, 0]
    point = jnp.where(stage.there.any(1, keepdims=True), moved, draw.point)
    return _put(stage, Draw(draw.kind, point, draw.go), step)


@eqx.filter_jit
def _put(stage: Stage, draw: Draw, step) -> Stage:
    """With one more atom in every build that goes on."""
    slot = jnp.argmax(~stage.there & (stage.target == draw.kind[:, None]), 1)
    here = (jnp.arange(stage.there.shape[1]) == slot[:, None]) & jnp.asarray(draw.go)[:, None]
    positions = jnp.where(here[..., None], draw.point[:, None], stage.positions)
    return Stage(stage.target, positions, stage.there | here, jnp.where(here, step, stage.order), ~draw.go)


def _unplaced(stage: Stage, turn: Turn):
    """How many atoms of each species (batch, species) this stage has yet to place."""
    return jax.nn.one_hot(jnp.where(stage.there, -1, stage.target), len(turn.may)).sum(1)


def _places(key, network: BuilderNetwork, x, kinds, now, about, lengths, centres: int):
    """Places (batch, places, 3) at distances of bonds from the first `centres` atoms, and which of them are about one.

    Directions are spread evenly (Fibonacci's spiral) and turned at random. The other end of a bond is the mean of what may
    be placed (batch, species).
    """
    radii = jnp.asarray(covalent_radii[list(network.species)], jnp.float32)
    other = (now * radii).sum(-1) / jnp.maximum(now.sum(-1), 1)
    kinds = kinds[:, :centres]
    away = (jnp.where(kinds >= 0, radii[kinds], 0) + other[:, None])[..., None] * jnp.asarray(lengths, jnp.float32)
    q, _ = jnp.linalg.qr(jr.normal(key, (len(x), 3, 3)))
    ways = jnp.asarray(_spiral(DIRECTIONS)) @ q
    query = x[:, :centres, None, None] + away[..., None, None] * ways[:, None, None]
    real = jnp.broadcast_to(((kinds >= 0) & about[kinds])[:, :, None, None], query.shape[:-1])
    return query.reshape(len(x), -1, 3), real.reshape(len(x), -1)


def _apart(network: BuilderNetwork, query, x, kinds, about):
    """Whether an atom of each species may be at places: (batch, places, species)."""
    numbers = np.asarray(network.species)
    radii = covalent_radii[numbers].astype(np.float32)
    hydrogens = (numbers[:, None] == 1) & (numbers == 1)
    # Hydrogens bond to each other only where there is nothing else.
    share = jnp.where(hydrogens & ~about, HYDROGENS_APART, CLOSEST)
    least = jnp.where((kinds >= 0)[..., None], (share * (radii[:, None] + radii))[kinds], 0)  # (batch, atoms, species)
    away = jnp.sqrt(((query[:, :, None] - x[:, None]) ** 2).sum(-1) + 1e-12)
    return (away[..., None] >= least[:, None]).all(2)


def _spiral(count: int) -> np.ndarray:
    """Unit vectors (count, 3), nearly evenly spread."""
    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], -1).astype(np.float32)
