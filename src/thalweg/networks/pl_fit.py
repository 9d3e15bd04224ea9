"""Fitting a network without local minima to values of a function, and to its gradients where they are given."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.pl_network import PLNetwork
from thalweg.typing import Array

#: Steps between two looks at what is held out; they are one call of one program.
CHUNK = 50

_ADAM = optax.scale_by_adam()


class Fit(NamedTuple):
    """The `network` that was best on samples held out, and after how many `steps` it was so: 0 is the one that it began with,
    but for its offset, which always suits the samples.

    `losses` of training and `held_out_losses` are means of squared errors over the variance of the values (plus the weighted
    error of gradients): 1 is a constant. `held_out_losses[0]` is before the first step, and then there is one for each of
    `losses`, the means of `CHUNK` steps. Without samples held out they are the losses of training.
    """

    network: PLNetwork
    losses: np.ndarray
    held_out_losses: np.ndarray
    steps: int


class _Samples(NamedTuple):
    """Scaled variables (n, dim), values (n,) in units of the height, gradients (n, dim) by scaled variables or (n, 0), and what
    squared errors of both are divided by."""

    v: Array
    values: Array
    gradients: Array
    units: Array


def fitted(
    rng: np.random.Generator,
    network: PLNetwork,
    x: Array,
    y: Array,
    *,
    dy: Array | None = None,
    rate: float = 1e-3,
    steps: int = 1000,
    batch: int = 256,
    held_out: float = 0.1,
    gradient_weight: float = 0.0,
    patience: int = 10,
) -> Fit:
    """The network fitted to values y (n,), and gradients dy (n, dim), at x (n, dim), in `steps` of Adam with `batch` samples.

    The rate falls as a cosine from `rate` to zero. A share `held_out` of the samples judges, every `CHUNK` steps; after
    `patience` looks without an improvement the fit ends. The relative squared error of gradients counts `gradient_weight`
    times. Samples are scaled in float64, so that small boxes far from zero lose nothing. A fit to as many samples in batches of
    as many compiles nothing anew.
    """
    if not (rate > 0 and steps >= 1 and batch >= 1 and patience >= 1 and 0 <= held_out < 1 and gradient_weight >= 0):
        raise InputError("a fit takes rate > 0, steps, batch and patience from 1 on, held_out in [0, 1), gradient_weight >= 0")
    data, offset = _samples(network, x, y, dy if gradient_weight else None)
    train, judge = _parted(rng, data, held_out)
    weight, n = np.float32(gradient_weight), len(train.values)
    from_zero = eqx.tree_at(lambda t: t.offset, network, np.zeros((), np.float32))
    learned, fixed = eqx.partition(from_zero, network.learned)
    learned = jax.tree.map(jnp.asarray, learned)
    state = (learned, _ADAM.init(learned))
    history, best, best_chunk = [float(_loss(learned, fixed, judge, weight))], learned, 0
    losses = []
    for k in range(-(-steps // CHUNK)):
        picks = np.stack([rng.choice(n, batch, replace=n < batch) for _ in range(CHUNK)])
        state, loss, judged = _advanced(state, fixed, train, judge, picks, _rates(rate, steps, k), weight)
        losses.append(float(loss))
        history.append(float(judged))
        if history[-1] < history[best_chunk]:
            best, best_chunk = state[0], k + 1
        if k + 1 - best_chunk >= patience or not np.isfinite(history[-1]):
            break
    made = eqx.combine(jax.tree.map(np.asarray, best), network)
    made = eqx.tree_at(lambda t: t.offset, made, np.asarray(offset + float(best.offset)))
    return Fit(made, np.array(losses), np.array(history), min(best_chunk * CHUNK, steps))


@jax.jit
def _advanced(state, fixed, train: _Samples, judge: _Samples, picks, rates, weight):
    """A state (learned, Adam's) after a step for each row of picks (k, batch), the mean loss on the way, that of `judge`."""

    def step(state, chosen):
        pick, rate = chosen
        learned, adam = state
        some = train._replace(v=train.v[pick], values=train.values[pick], gradients=train.gradients[pick])
        loss, slope = jax.value_and_grad(_error)(learned, fixed, some, weight)
        change, adam = _ADAM.update(slope, adam)
        return (jax.tree.map(lambda p, c: p - rate * c, learned, change), adam), loss

    state, losses = lax.scan(step, state, (picks, rates))
    # Steps after the last one asked for have no rate, and their losses do not count.
    mean = jnp.where(rates > 0, losses, 0).sum() / (rates > 0).sum()
    return state, mean, _error(state[0], fixed, judge, weight)


def _error(learned, fixed, samples: _Samples, weight):
    """Mean squared error over the variance of values, and so of gradients, weighted."""
    network: PLNetwork = eqx.combine(learned, fixed)
    bowl = lambda v: network.offset + network.bowl(v)
    if not samples.gradients.shape[1]:
        return ((bowl(samples.v) - samples.values) ** 2).mean() / samples.units[0]
    values, pull = jax.vjp(bowl, samples.v)
    off = pull(jnp.ones_like(values))[0] - samples.gradients
    error = ((values - samples.values) ** 2).mean() / samples.units[0]
    return error + weight * (off**2).sum(-1).mean() / samples.units[1]


_loss = jax.jit(_error)
_bowl = jax.jit(PLNetwork.bowl)


def _rates(rate: float, steps: int, chunk: int) -> np.ndarray:
    """Rates (CHUNK,) of the steps of a chunk, zero after the last step."""
    k = chunk * CHUNK + np.arange(CHUNK)
    return np.where(k < steps, rate * (1 + np.cos(np.pi * np.minimum(k / steps, 1))) / 2, 0).astype(np.float32)


def _samples(network: PLNetwork, x, y, dy) -> tuple[_Samples, float]:
    """Samples, and the offset that suits them, from which their values are counted: so large ones lose no digits."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or x.shape[1] != network.dim or y.shape != x.shape[:1] or len(y) < 2:
        raise InputError(f"samples x {x.shape} and y {y.shape} are not (n, {network.dim}) and (n,) with n > 1")
    dy = np.zeros((len(y), 0)) if dy is None else np.asarray(dy, float)
    if dy.shape not in ((len(y), 0), x.shape):
        raise InputError(f"gradients dy {dy.shape} are not {x.shape}, as the samples x are")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(dy).all()):
        raise InputError("a network is fitted to finite samples only; leave out those that are not")
    scale, height = np.asarray(network.scale, float), float(network.height)
    off = x - np.asarray(network.shift, float)
    v = off * scale if scale.ndim == 1 else off @ scale
    if dy.shape[1]:
        dy = (dy / scale if scale.ndim == 1 else np.linalg.solve(scale, dy.T).T) / height
    units, y = [y.var() / height**2 or 1.0, dy.var(0).sum() or 1.0], y / height
    offset = (y - np.asarray(_bowl(network, np.asarray(v, np.float32)), float)).mean()
    return _Samples(*(np.asarray(a, np.float32) for a in (v, y - offset, dy, units))), float(offset)


def _parted(rng: np.random.Generator, data: _Samples, share: float) -> tuple[_Samples, _Samples]:
    """Samples to train on, and those held out (the same ones where none are)."""
    n = len(data.values)
    order, held = rng.permutation(n), min(round(share * n), n - 1)
    pick = lambda rows: data._replace(v=data.v[rows], values=data.values[rows], gradients=data.gradients[rows])
    return (pick(order[held:]), pick(order[:held])) if held else (data, data)
