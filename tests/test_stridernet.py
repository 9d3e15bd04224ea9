"""Training and adapting policies: gradients against differences and against each other, resuming, what users see."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import InputError
from thalweg.learning.meta import floats
from thalweg.learning.policy_gradient import PolicyGradient, PolicyLoss
from thalweg.learning.trainer import Stage, Trainer
from thalweg.networks.weights import parameters, with_parameters
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.presets import striding
from thalweg.relax.adaptation import Adaptation, returns
from thalweg.relax.driver import Relaxation, advance, empty_lanes, load
from thalweg.relax.strider import Strider
from thalweg.system import periodic

STEPS = 3


@pytest.fixture(scope="module")
def mixture():
    """(potential, system, policy without noise) of 25 particles, whose network is small."""
    potential = BinaryLennardJones(minimum_image=True)
    system = periodic(np.repeat([18, 10], [20, 5]), potential, np.eye(3) * (25 / 1.2) ** (1 / 3))
    suited = {k: tuple(v) if isinstance(v, list) else v for k, v in striding(system, potential).items()}
    return potential, system, Strider(**{**suited, "weights": "zero", "hidden": 6, "noise": 0.0, "slots": 24})


@pytest.fixture(scope="module")
def starts(mixture):
    """Six liquids, the same for all."""
    potential, system, policy = mixture
    return np.asarray(PolicyLoss(potential, policy, [system], steps=STEPS, pool=8).prepared().starts[0])


def test_returns_are_sums_of_discounted_sums():
    discount, episode = 0.8, 6
    brute = np.zeros(episode)
    for begin in range(episode):
        for t in range(begin, episode):
            brute[t] += discount ** (t - begin)
    np.testing.assert_allclose(np.asarray(returns(episode, discount)), brute / brute.sum(), rtol=1e-6)


def _gradient(mixture, starts, estimator):
    potential, system, policy = mixture
    loss = PolicyLoss(potential, policy, [system], steps=STEPS, pool=8, estimator=estimator)

    def value(tree):
        relaxer = floats(with_parameters(policy, tree))
        return loss._objective(
            relaxer, np.asarray(system.numbers), jnp.asarray(starts[0], jnp.float32), 1.0, jax.random.key(0), STEPS
        )[0]

    tree = jax.tree.map(jnp.asarray, parameters(policy))
    return jax.jit(value), jax.jit(jax.grad(value)), tree


@pytest.mark.slow
def test_the_pathwise_gradient_is_that_of_finite_differences(mixture, starts):
    value, gradient, tree = _gradient(mixture, starts, "pathwise")
    slope = gradient(tree)
    length = np.sqrt(sum(float((g * g).sum()) for g in jax.tree.leaves(slope)))
    way = jax.tree.map(lambda g: g / length, slope)
    shifted = lambda h: float(value(jax.tree.map(lambda a, b: a + h * b, tree, way)))
    difference = (shifted(2e-4) - shifted(-2e-4)) / 4e-4
    assert length > 1e-2
    np.testing.assert_allclose(length, difference, rtol=0.1)  # the loss bends, and single precision is coarse


@pytest.mark.slow
def test_adaptation_follows_the_detached_gradient_with_forces_alone(mixture, starts):
    """After one episode the network has moved by Adam's first step along the gradient that differentiates energies."""
    potential, system, policy = mixture
    _, gradient, tree = _gradient(mixture, starts, "pathwise-detached")
    slope = gradient(tree)["network"]
    adaptation = floats(Adaptation(policy, episodes=2, episode=STEPS, window=2, clip=1e9, rate=1e-3))
    relaxation = floats(Relaxation(potential, adaptation, 1e-9, 100))
    space = floats(potential.space(system.cell, system.pbc))
    x = jnp.asarray(starts[0], jnp.float32)[..., None]

    @eqx.filter_jit
    def episode(x):
        lanes = load(empty_lanes(relaxation, 25, 1, jnp.float32, space), relaxation, jnp.ones(1, bool), x)
        return advance(lanes, relaxation, jnp.asarray(system.numbers)[:, None], jnp.ones((25, 1, 1)), space, STEPS + 1)

    moved = episode(x).state["network"]
    most = max(float(np.abs(g).max()) for g in jax.tree.leaves(slope))
    for before, after, g in zip(*map(jax.tree.leaves, (policy.network, moved, slope)), strict=True):
        step, sure = np.asarray(after)[..., 0] - before, np.abs(g) > 1e-3 * most
        np.testing.assert_allclose(step[sure], -1e-3 * np.sign(np.asarray(g))[sure], rtol=0.05, atol=2e-6)


@pytest.mark.slow
def test_the_score_estimator_has_the_pathwise_gradient_as_its_mean(mixture, starts):
    """Of one displacement, along a direction; the noise is large enough for 20,000 episodes to tell."""
    potential, system, policy = mixture
    noisy = eqx.tree_at(lambda p: p.noise, policy, 0.02)
    start, numbers = jnp.asarray(starts[0], jnp.float32), np.asarray(system.numbers)
    bias = lambda tree: tree["network"].head.layers[-1].weights

    def slopes(estimator, count):
        loss = PolicyLoss(potential, noisy, [system], steps=1, pool=8, estimator=estimator, baseline="none")
        value = lambda tree, key: loss._objective(floats(with_parameters(noisy, tree)), numbers, start, 1.0, key, 1)[0]
        each = jax.jit(
            lambda keys: jax.lax.map(lambda key: bias(jax.grad(value)(floats(parameters(noisy)), key)), keys, batch_size=100)
        )
        return np.asarray(each(jax.random.split(jax.random.key(1), count)), np.float64)

    true = slopes("pathwise", 400).mean(0)
    found = slopes("score", 20_000)
    way = true / np.linalg.norm(true)
    along = (found * way).sum((1, 2))
    error = along.std() / np.sqrt(len(along))
    assert error < np.linalg.norm(true) / 2
    assert abs(along.mean() - np.linalg.norm(true)) < 4 * error


@pytest.mark.slow
def test_training_resumes_to_the_bit(mixture):
    potential, system, policy = mixture
    stage = Stage(
        PolicyLoss(potential, policy, [system], steps=STEPS, validation=STEPS, pool=8), PolicyGradient(batch=2, rate=0.02), 4, 2
    )
    straight = Trainer([stage], parameters(policy), seed=3)
    kept = None
    while not straight.done:
        straight.advance()
        kept = straight.state if straight.state.update == 2 else kept
    again = Trainer([stage], parameters(policy), seed=3, state=kept, compiled=straight.compiled)
    while not again.done:
        again.advance()
    np.testing.assert_array_equal(straight.state.last, again.state.last)
    assert np.abs(straight.state.last - kept.last).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "reinforce"}, "estimator"),
        ({"baseline": "adam"}, "baseline"),
        ({"estimator": "score"}, "noise"),
        ({"steps": 0}, "steps"),
    ],
)
def test_losses_that_make_no_sense_are_refused(mixture, change, message):
    potential, system, policy = mixture
    with pytest.raises(InputError, match=message):
        PolicyLoss(potential, policy, [system], **{"pool": 8, **change})


def test_adaptations_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="episodes"):
        Adaptation(episodes=0)
    with pytest.raises(InputError, match="window"):
        Adaptation(episode=2, window=3)
