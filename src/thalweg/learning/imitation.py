"""How a builder learns from molecules: energies, forces, and which atom belongs where, in one loss and one compiled step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from thalweg.errors import InputError
from thalweg.learning.imitation_states import MASKED, Molecules, States, samples
from thalweg.networks.builder import BuilderNetwork
from thalweg.networks.builder_losses import (
    ENERGY_KNEE,
    FORCE_KNEE,
    Labelled,
    energy_loss,
    force_loss,
    huber,
    residual_energies_and_slopes,
)
from thalweg.networks.progress import Progress

#: Molecules and states that are validated at a time.
BLOCK = 64
#: Seed of the states of the validation: the same in every epoch and every training.
HELD = 4621


@dataclass(frozen=True)
class Settings:
    """How to imitate: Adam with its rate warmed up in the first epoch, then falling as a cosine to a hundredth after `epochs`.

    The loss is `energy_weight` times that of energies per atom plus `force_weight` times that of components of forces (Huber)
    plus the cross-entropy of actions. An epoch is every molecule once, and as many states of molecules in the making. Sizes
    of molecules are padded to `sizes` different ones. Training ends early after `patience` epochs without a lower loss in
    validation, for which `states` states are kept. `hydrogens_last` and `jitter` as of `samples`.
    """

    epochs: int = 100
    batch: int = 32
    rate: float = 1e-3
    energy_weight: float = 0.1
    force_weight: float = 0.9
    sizes: int = 2
    patience: int = 100
    states: int = 512
    hydrogens_last: bool = True
    jitter: float = 0.05

    def __post_init__(self):
        for key in ("epochs", "batch", "sizes", "patience", "states"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}; it must be at least 1")
        if not self.rate > 0 or min(self.energy_weight, self.force_weight, self.jitter) < 0:
            raise InputError("rate must be positive, energy_weight, force_weight and jitter at least 0")


class Losses(NamedTuple):
    """What training lowers, in its parts."""

    energy: jax.Array
    force: jax.Array
    action: jax.Array


def begin(seed: int, network: BuilderNetwork, train: Molecules, settings: Settings) -> Progress:
    """The start of a training: references and scale of the network are made those of the molecules."""
    start = jax.tree.map(np.asarray, network.referenced(train.kinds, train.energies))
    state = _optimiser(settings, len(train)).init(eqx.filter(start, start.trainable()))
    return Progress(start, jax.tree.map(np.asarray, state), start, seed)


def epochs(progress: Progress, train: Molecules, validation: Molecules, settings: Settings) -> Iterator[Progress]:
    """Progress after each epoch, until it has ended.

    Batches follow from the seed and the number of the epoch: a training that was stopped and continued gives the same
    network, to the last bit, as one that was not.
    """
    step = _step(settings, len(train))
    held = _held(validation, settings)
    while not progress.ended(settings):
        start, used = time.perf_counter(), time.process_time()
        network, state, losses = progress.network, progress.optimiser, []
        for labelled, states in batches(progress, train, settings):
            network, state, parts = step(network, state, labelled, states)
            losses.append(parts)
        network, state = jax.tree.map(np.asarray, (network, state))
        parts = {f"loss_{k}": float(np.mean([getattr(each, k) for each in losses])) for k in Losses._fields}
        if not all(map(math.isfinite, parts.values())):
            raise InputError(f"the loss of epoch {progress.epoch + 1} is not finite; lower the rate")
        row = {"epoch": progress.epoch + 1, **parts, **validated(network, validation, held, settings)}
        row |= {"cpu": time.process_time() - used, "wall": time.perf_counter() - start}
        lowest = min((r["validation"] for r in progress.history), default=math.inf)
        best = network if row["validation"] < lowest else progress.best
        progress = replace(progress, network=network, optimiser=state, best=best, history=(*progress.history, row))
        yield progress


def trained(
    seed: int,
    network: BuilderNetwork,
    train: Molecules,
    validation: Molecules,
    settings: Settings | None = None,
    progress: Progress | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train to the end; `progress` continues where another training stopped, `report` is called after every epoch."""
    settings = settings or Settings()
    progress = progress or begin(seed, network, train, settings)
    for after in epochs(progress, train, validation, settings):
        progress = after
        if report is not None:
            report(progress)
    return progress


def padded_sizes(atoms: np.ndarray, most: int) -> list[int]:
    """At most so many sizes for molecules of `atoms` (rows,) atoms: even numbers that hold equal shares of them."""
    ends = np.quantile(atoms, np.arange(1, most + 1) / most, method="higher")
    return sorted({int(2 * np.ceil(end / 2)) for end in ends})


def batches(progress: Progress, train: Molecules, settings: Settings) -> Iterator[tuple[Labelled, States]]:
    """The minibatches of the epoch that comes, each of molecules of one padded size. A last one that is not full repeats
    some of its size."""
    rng = np.random.default_rng([progress.seed, progress.epoch])
    size = min(settings.batch, len(train))
    ends = padded_sizes(train.atoms, settings.sizes)
    group = np.searchsorted(ends, train.atoms)
    parts, pools = [], {}
    for k, end in enumerate(ends):
        rows = rng.permutation(np.flatnonzero(group == k))
        whole = rows[train.whole[rows]]
        pools[end] = train.taken(whole if len(whole) else rows, end)
        for at in range(0, len(rows), size):
            few = rows[at : at + size]
            parts.append((end, np.concatenate([few, rng.choice(rows, size - len(few))])))
    for k in rng.permutation(len(parts)):
        end, rows = parts[k]
        states = samples(rng, pools[end], size, settings.hydrogens_last, settings.jitter)
        yield _labelled(progress.network, train.taken(rows, end)), states


def losses_of(network: BuilderNetwork, labelled: Labelled, states: States) -> Losses:
    """Losses of energies per atom (eV), of components of forces (eV/Å) and of actions (nats per place)."""
    energies, slopes = residual_energies_and_slopes(network, labelled)
    logits = _logits(network, states)
    right = jnp.take_along_axis(logits, jnp.maximum(states.label, 0)[..., None], -1)[..., 0]
    entropy = jnp.where(states.label != MASKED, jax.nn.logsumexp(logits, -1) - right, 0)
    places = (states.label != MASKED).sum()
    return Losses(energy_loss(energies, labelled), force_loss(slopes, labelled), entropy.sum() / places)


def validated(network: BuilderNetwork, molecules: Molecules, states: States, settings: Settings) -> dict[str, float]:
    """Errors on molecules that were not learned from.

    `validation` the loss; `energy` mean absolute error, eV per atom; `force` that of components, eV/Å; `action` cross-entropy;
    `accuracy` share of places that are labelled right; `chosen` share of states in which, of all places and species, the
    highest value is a right one.
    """
    whole = _labelled(network, molecules)
    molecules_sums = _summed(_errors, network, whole)
    action_sums = _summed(_actions, network, states)
    energy, force, energy_loss, force_loss, n, components = molecules_sums
    entropy, right, places, chosen, several = action_sums
    loss = settings.energy_weight * energy_loss / n + settings.force_weight * force_loss / components + entropy / places
    return {
        "validation": loss, "energy": energy / n, "force": force / components, "action": entropy / places,
        "accuracy": right / places, "chosen": chosen / max(several, 1),
    }  # fmt: skip


def _held(validation: Molecules, settings: Settings) -> States:
    """The states of the validation."""
    rows = np.flatnonzero(validation.whole) if validation.whole.any() else np.arange(len(validation))
    rng = np.random.default_rng(HELD)
    return samples(rng, validation.taken(rows), settings.states, settings.hydrogens_last, settings.jitter)


def _summed(function, network: BuilderNetwork, rows) -> list[float]:
    """Sums of what a function gives for blocks of rows (a named tuple of arrays), the last one filled up with padding."""
    sums = []
    for at in range(0, len(rows[0]), BLOCK):
        part = [a[at : at + BLOCK] for a in rows]
        part = [np.pad(a, [(0, BLOCK - len(a))] + [(0, 0)] * (a.ndim - 1), mode="edge") for a in part]
        sums.append(np.asarray(function(network, type(rows)(*part), min(BLOCK, len(rows[0]) - at)), np.float64))
    return [float(v) for v in np.sum(sums, 0)]


@eqx.filter_jit
def _errors(network: BuilderNetwork, rows: Labelled, count):
    """Sums over the first `count` molecules: errors per atom, of components, their losses, molecules, components."""
    energies, slope = residual_energies_and_slopes(network, rows)
    real = jnp.arange(len(energies)) < count
    there = ((rows.kinds >= 0) & real[:, None])[..., None]
    e = (energies - rows.energies) / jnp.maximum((rows.kinds >= 0).sum(1), 1)
    f = jnp.where(there, slope + rows.forces, 0)
    of_energies = [jnp.where(real, v, 0).sum() for v in (jnp.abs(e), huber(e, ENERGY_KNEE))]
    return jnp.stack([
        of_energies[0], jnp.abs(f).sum(), of_energies[1], huber(f, FORCE_KNEE).sum(), real.sum(), 3 * there.sum()
    ])  # fmt: skip


@eqx.filter_jit
def _actions(network: BuilderNetwork, states: States, count):
    """Sums over the first `count` states: cross-entropy, places that are right, places, states where the choice is right, and
    states with a choice."""
    logits = _logits(network, states)
    real = (states.label != MASKED) & (jnp.arange(len(logits)) < count)[:, None]
    label = jnp.maximum(states.label, 0)
    entropy = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, label[..., None], -1)[..., 0]
    none = logits.shape[-1] - 1
    values = jnp.where(real[..., None], jax.nn.softmax(logits, -1)[..., :none], -1).reshape(len(logits), -1)
    place, species = jnp.divmod(values.argmax(-1), none)
    several = (real & (label == none)).any(-1)
    chosen = several & (jnp.take_along_axis(label, place[:, None], 1)[:, 0] == species)
    right = real & (logits.argmax(-1) == label)
    return jnp.stack([jnp.where(real, entropy, 0).sum(), right.sum(), real.sum(), chosen.sum(), several.sum()])


def _logits(network: BuilderNetwork, states: States):
    features = network.features(states.positions, states.kinds, states.bag)
    return network.logits(features, states.positions, states.kinds, states.bag, states.query)


def _labelled(network: BuilderNetwork, some: Molecules) -> Labelled:
    return Labelled.of(network, some.positions, some.kinds, some.energies, some.forces)


def _optimiser(settings: Settings, count: int) -> optax.GradientTransformation:
    steps = max(count // min(settings.batch, count), 1)
    total = max(settings.epochs * steps, 2)
    rate = optax.warmup_cosine_decay_schedule(
        settings.rate / 10, settings.rate, min(steps, total - 1), total, settings.rate / 100
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@lru_cache(maxsize=4)
def _step(settings: Settings, count: int):
    """One compiled step for the whole training, and for others of as many molecules: one program for each padded size."""
    optimiser = _optimiser(settings, count)
    weights = settings.energy_weight, settings.force_weight, 1.0

    @eqx.filter_jit
    def step(network, state, labelled, states):
        part, rest = eqx.partition(network, network.trainable())

        def loss(part):
            parts = losses_of(eqx.combine(part, rest), labelled, states)
            return sum(w * v for w, v in zip(weights, parts, strict=True)), parts

        gradient, parts = jax.grad(loss, has_aux=True)(part)
        change, state = optimiser.update(gradient, state, part)
        return eqx.combine(optax.apply_updates(part, change), rest), state, parts

    return step


__all__ = [
    "Labelled",
    "Losses",
    "Molecules",
    "Progress",
    "Settings",
    "States",
    "batches",
    "begin",
    "epochs",
    "samples",
    "trained",
]
