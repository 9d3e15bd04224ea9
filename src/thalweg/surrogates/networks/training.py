"""How networks of energies are trained: minibatches, one compiled step, and the best network by a set of its own kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from thalweg.errors import InputError, suggest
from thalweg.networks.progress import Progress
from thalweg.surrogates.networks.augment import AUGMENTATIONS
from thalweg.surrogates.networks.base import EnergyNetwork
from thalweg.surrogates.networks.data import EnergyData, Parts
from thalweg.surrogates.networks.metrics import metrics

#: Structures predicted at a time: one compiled shape for data of any size.
BLOCK = 256
#: Error, in spreads of the targets, about which the loss "huber" goes over from squares to absolute values.
KNEE = 0.05


@dataclass(frozen=True)
class Settings:
    """How to train: Adam with its rate warmed up in the first epoch, then falling as a cosine to a hundredth after `epochs`.

    `loss` is "huber" (squares of small errors, absolute values of large ones), "squares" or "relative" (absolute errors over
    targets). `decay` is that of the weights (AdamW). Forces are learned from with `force_weight` > 0, where they are known.
    Training ends early after `patience` epochs without a lower validation error (mean absolute).
    """

    epochs: int = 30
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.0
    loss: str = "huber"
    force_weight: float = 0.0
    patience: int = 15
    augment: bool = True

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise InputError(f'there is no loss "{self.loss}".{suggest(self.loss, LOSSES)}')
        for key in ("epochs", "batch", "patience"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}; it must be at least 1")
        if not self.rate > 0 or self.decay < 0 or self.force_weight < 0:
            raise InputError("rate must be positive, decay and force_weight at least 0")


@dataclass(frozen=True)
class Trained:
    """A trained network (the best by validation), how it got there, and what it scores: `metrics` by part."""

    network: EnergyNetwork
    history: tuple[dict, ...]
    metrics: dict[str, dict]

    @property
    def cpu(self) -> float:
        """CPU seconds of all epochs, compilation included."""
        return sum(row["cpu"] for row in self.history)


def trained(
    seed: int,
    network: EnergyNetwork,
    parts: Parts,
    settings: Settings | None = None,
    progress: Progress | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train to the end; `progress` continues where another training stopped, `report` is called after every epoch.

    The order of the data and their augmentation follow from `seed` and the number of the epoch: a training that was stopped
    and continued gives the same network as one that was not.
    """
    settings = settings or Settings()
    progress = progress or begin(seed, network, parts, settings)
    for after in epochs(progress, parts, settings):
        progress = after
        if report is not None:
            report(progress)
    best = progress.best.for_use()
    scores = {
        name: metrics(predicted(progress.best.for_training(part.positions, part.numbers), part), part.target)
        for name, part in zip(Parts._fields, parts, strict=True)
        if len(part)
    }
    return Trained(best, progress.history, scores)


def begin(seed: int, network: EnergyNetwork, parts: Parts, settings: Settings) -> Progress:
    """The start of a training; the network's outputs are brought to the mean and the spread of the targets."""
    train = parts.train
    if not len(train) or not len(parts.validation):
        raise InputError("there is nothing to train on or to validate with; give more data")
    if network.subject != train.subject:
        raise InputError("the network was made for other structures than these data; make one for their subject")
    both = np.concatenate([train.positions, parts.validation.positions])
    start = network.scaled(train.target).for_training(both, train.numbers)
    start = jax.tree.map(np.asarray, start)
    state = jax.tree.map(np.asarray, _optimiser(settings, len(train)).init(eqx.filter(start, start.trainable())))
    return Progress(start, state, start, seed)


def epochs(progress: Progress, parts: Parts, settings: Settings) -> Iterator[Progress]:
    """Progress after each epoch, until it has ended."""
    optimiser = _optimiser(settings, len(parts.train))
    step = _step(optimiser, settings.loss, float(settings.force_weight))
    while not progress.ended(settings):
        start, used = time.perf_counter(), time.process_time()
        network, state, losses = progress.network, progress.optimiser, []
        for rows in batches(progress, parts.train, settings):
            network, state, loss = step(network, state, *rows)
            losses.append(loss)
        network, state = jax.tree.map(np.asarray, (network, state))
        loss = float(np.mean(losses))
        if not math.isfinite(loss):
            raise InputError(f"the loss of epoch {progress.epoch + 1} is not finite; lower the rate")
        error = metrics(predicted(network, parts.validation), parts.validation.target)
        row = {
            "epoch": progress.epoch + 1, "loss": loss, "validation": error["MAE"], "validation_mape": error["MAPE"],
            "cpu": time.process_time() - used, "wall": time.perf_counter() - start,
        }  # fmt: skip
        lowest = min((r["validation"] for r in progress.history), default=math.inf)
        best = network if error["MAE"] < lowest else progress.best
        progress = replace(progress, network=network, optimiser=state, best=best, history=(*progress.history, row))
        yield progress


def predicted(network: EnergyNetwork, data: EnergyData) -> np.ndarray:
    """Predicted targets (rows,) float64."""
    out = [np.zeros(0)]
    for at in range(0, len(data), BLOCK):
        x = data.positions[at : at + BLOCK]
        full = np.pad(x, [(0, BLOCK - len(x)), (0, 0), (0, 0)], mode="edge")
        out.append(np.asarray(_energies(network, full, data.numbers), np.float64)[: len(x)])
    return np.concatenate(out)


def batches(progress: Progress, train: EnergyData, settings: Settings) -> Iterator[tuple]:
    """Positions, numbers, targets and forces of the minibatches of the epoch that comes; a rest too short for one is left."""
    rng = np.random.default_rng([progress.seed, progress.epoch])
    target = train.target
    forces = train.forces
    if forces is not None and settings.force_weight:
        forces = train.subject.target_forces(train.energy, forces).astype(np.float32)
    else:
        forces = None
    size = min(settings.batch, len(train))
    order = rng.permutation(len(train))
    for at in range(0, len(train) - size + 1, size):
        rows = order[at : at + size]
        x, push = train.positions[rows], None if forces is None else forces[rows]
        for name in progress.network.augmentations if settings.augment else ():
            x, push = AUGMENTATIONS[name](rng, x, push, train)
        yield x, train.numbers, target[rows].astype(np.float32), push


@eqx.filter_jit
def _energies(network: EnergyNetwork, positions, numbers):
    return network.energies(positions, numbers)


def _optimiser(settings: Settings, count: int) -> optax.GradientTransformation:
    steps = max(count // min(settings.batch, count), 1)
    total = settings.epochs * steps
    rate = optax.warmup_cosine_decay_schedule(
        settings.rate / 10, settings.rate, min(steps, total - 1), total, settings.rate / 100
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=settings.decay))


def _step(optimiser: optax.GradientTransformation, name: str, force_weight: float):
    """One compiled step for the whole training."""

    @eqx.filter_jit
    def step(network, state, positions, numbers, target, forces):
        part, rest = eqx.partition(network, network.trainable())
        loss = lambda p: loss_of(eqx.combine(p, rest), positions, numbers, target, forces, name, force_weight)
        value, gradient = jax.value_and_grad(loss)(part)
        change, state = optimiser.update(gradient, state, part)
        return eqx.combine(optax.apply_updates(part, change), rest), state, value

    return step


def loss_of(network: EnergyNetwork, positions, numbers, target, forces, name: str, force_weight):
    """What training lowers: of targets (batch,) and, where they are given, forces (batch, atoms, 3), NaN where unknown."""
    if forces is None:
        return LOSSES[name](network.energies(positions, numbers), target, network.scale)
    energies, back = jax.vjp(lambda x: network.energies(x, numbers), positions)
    (slope,) = back(jnp.ones_like(energies))
    known = jnp.isfinite(forces)
    away = jnp.where(known, slope + jnp.where(known, forces, 0), 0) * network.subject.length
    # Large forces are of structures that nobody wants: they count by their share.
    size = 1 + jnp.abs(jnp.where(known, forces, 0)).max((1, 2), keepdims=True) * network.subject.length / network.scale
    of_forces = _huber(away / size, 0, network.scale) * away.size / jnp.maximum(known.sum(), 1)
    return LOSSES[name](energies, target, network.scale) + force_weight * of_forces


def _huber(energies, target, scale):
    away = (energies - target) / (scale * KNEE)
    return KNEE * (jnp.sqrt(1 + away**2) - 1).mean()


def _squares(energies, target, scale):
    return (((energies - target) / scale) ** 2).mean()


def _relative(energies, target, scale):
    return (jnp.abs(energies - target) / jnp.abs(target)).mean()


LOSSES = {"huber": _huber, "squares": _squares, "relative": _relative}
