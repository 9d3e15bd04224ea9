"""How a builder goes on learning while it searches: values of placements from the best outcome of builds, energies from all.

S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022), doi:10.1088/2632-2153/ac3eb4. The value of putting an
atom somewhere is the reward of the best molecule that ever came of it: of any build in which the same atoms were bonded alike
after the placement (`constitution`).
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from thalweg.agents.replay import Replay
from thalweg.networks.builder import BuilderNetwork
from thalweg.networks.builder_losses import Labelled, energy_loss, force_loss, residual_energies_and_slopes
from thalweg.typing import PyTree

#: Placements and evaluated structures in a batch, and other places beside each placement.
PAIRS, STRUCTURES, OTHERS = 32, 16, 8
#: How far those are from an atom: shares of the length (Å) of a single bond.
NEAREST, FARTHEST, BOND = 0.65, 1.1, 1.45


class Lesson(NamedTuple):
    """Placements: what was there, positions (pairs, atoms, 3) and kinds (pairs, atoms), -1 for what was not; what was left in
    the bag (pairs, species); the place (pairs, 1, 3) and kind (pairs,) of the atom; what came of it (pairs,); and other places
    (pairs, OTHERS, 3), of which nothing is known."""

    positions: np.ndarray
    kinds: np.ndarray
    bag: np.ndarray
    place: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    others: np.ndarray


class Weights(NamedTuple):
    """How much energies per atom and forces count beside values of placements."""

    energy: float
    force: float


def rewards(energy, lowest: float, span: float) -> np.ndarray:
    """What energies are worth, between 0 and 1: 1 at the lowest, nothing where they are `span` above it or more, or failed."""
    above = np.asarray(energy, float) - lowest if np.isfinite(lowest) else np.full(np.shape(energy), np.inf)
    return np.maximum(1 - above / span, 0.0)


def lesson_of(rng: np.random.Generator, replay: Replay, kinds: np.ndarray, species: int, span: float) -> Lesson:
    """Some placements of the newest, the best and random episodes; the first atom of each is no choice, and left out.

    `kinds` (atoms,) are those of the system's atoms.
    """
    row = rng.choice(replay.drawn(rng), PAIRS)
    order = replay.order[row]
    step = 1 + rng.integers(order.max(1), size=PAIRS)
    slot, pick = np.argmax(order == step[:, None], 1), np.arange(PAIRS)
    there = (order >= 0) & (order < step[:, None])
    x = np.where(there[..., None], replay.where[row], 0).astype(np.float32)
    bag = ((kinds == np.arange(species)[:, None]) & ~there[:, None] & (order >= 0)[:, None]).sum(-1)
    target = rewards(replay.best[row, slot], replay.lowest, span)
    place = replay.where[row, slot][:, None]
    return Lesson(
        x, np.where(there, kinds, -1).astype(np.int32), bag.astype(np.float32), place.astype(np.float32),
        kinds[slot].astype(np.int32), target[pick].astype(np.float32), _others(rng, x, there),
    )  # fmt: skip


def _others(rng: np.random.Generator, x: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Places (pairs, OTHERS, 3) about atoms that are there, at the distances of bonds."""
    about = np.where(there[:, None], rng.random((len(x), OTHERS, x.shape[1])), -1).argmax(-1)
    way = rng.normal(size=(len(x), OTHERS, 3))
    way *= (BOND * rng.uniform(NEAREST, FARTHEST, way.shape[:2]) / np.linalg.norm(way, axis=-1))[..., None]
    return (np.take_along_axis(x, about[..., None], 1) + way).astype(np.float32)


def examples_of(rng: np.random.Generator, network: BuilderNetwork, kinds: np.ndarray, positions, energies, forces) -> Labelled:
    """Some of the evaluated structures (n of them), the newest among them."""
    row = np.append(rng.integers(len(energies), size=STRUCTURES - 1), len(energies) - 1)
    there = np.isfinite(forces[row])  # a calculator that gives no forces teaches energies alone
    wide = np.broadcast_to(kinds, (STRUCTURES, len(kinds)))
    return Labelled.of(network, positions[row], wide, energies[row], np.where(there, forces[row], 0))


def begin(network: BuilderNetwork) -> PyTree:
    """The state of the optimiser before anything was learned here."""
    return _optimiser(0.0).init(eqx.filter(network, network.trainable()))


@eqx.filter_jit
def improved(
    network: BuilderNetwork,
    first: BuilderNetwork,
    state: PyTree,
    lesson: Lesson,
    examples: Labelled,
    weights: Weights,
    rate,
):
    """The network after a step, the optimiser's state, and the losses before of values, energies and forces.

    Values of other places are kept near those of the `first` network, before it learned anything here: most of what is built
    is worth something, and without that the network would soon find every place worth as much. Energies are compared up to a
    constant: another calculator than that of the training has another zero.
    """
    part, rest = eqx.partition(network, network.trainable())
    held = valued(first, lesson)

    def loss(part):
        made = eqx.combine(part, rest)
        values = valued(made, lesson)
        mine = jnp.take_along_axis(values[:, 0], lesson.kind[:, None], 1)[:, 0]
        energies, slopes = residual_energies_and_slopes(made, examples)
        offset = jax.lax.stop_gradient((energies - examples.energies).mean())
        of_values = ((mine - lesson.target) ** 2).mean() + ((values - held)[:, 1:] ** 2).sum(-1).mean()
        parts = jnp.stack([
            of_values, energy_loss(energies, examples, offset), force_loss(slopes, examples)
        ])  # fmt: skip
        return parts[0] + weights.energy * parts[1] + weights.force * parts[2], parts

    gradient, parts = jax.grad(loss, has_aux=True)(part)
    change, state = _optimiser(rate).update(gradient, state, part)
    return eqx.combine(eqx.apply_updates(part, change), rest), state, parts


def valued(network: BuilderNetwork, lesson: Lesson):
    """Values (pairs, 1 + OTHERS, species) of where atoms were placed, and of the other places."""
    features = network.features(lesson.positions, lesson.kinds, lesson.bag)
    query = jnp.concatenate([lesson.place, lesson.others], 1)
    return network.values(features, lesson.positions, lesson.kinds, lesson.bag, query)


def _optimiser(rate) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-rate))
