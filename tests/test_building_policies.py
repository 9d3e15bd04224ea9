"""What policies choose among placements, against how often they should."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from thalweg.agents.policy import EpsilonGreedy, Greedy, Softmax, Uniform

DRAWS, PLACEMENTS = 6000, 120
RNG = np.random.default_rng(0)
VALUES = RNG.permutation(np.linspace(-1, 1, PLACEMENTS)).astype(np.float32)
ALLOWED = RNG.uniform(size=PLACEMENTS) < 0.7
#: Allowed placements, the best first.
RANKED = np.argsort(np.where(ALLOWED, -VALUES, np.inf), kind="stable")[: ALLOWED.sum()]


def chances(*shares: tuple[float, np.ndarray]) -> np.ndarray:
    """Each share spread evenly over its placements."""
    made = np.zeros(PLACEMENTS)
    for share, where in shares:
        made[where] += share / len(where)
    return made


def boltzmann(temperature: float) -> np.ndarray:
    weight = np.where(ALLOWED, np.exp(VALUES / temperature), 0.0)
    return weight / weight.sum()


EXPECTED = {
    "greedy": (Greedy(), chances((1.0, RANKED[:1]))),
    "uniform": (Uniform(), chances((1.0, RANKED))),
    "softmax": (Softmax(0.3), boltzmann(0.3)),
    "never astray": (EpsilonGreedy(epsilon=0.0), chances((1.0, RANKED[:1]))),
    "among the best": (EpsilonGreedy(1.0, random=0.0, top=0.1), chances((1.0, RANKED[: -(-len(RANKED) // 10)]))),
    "among all": (EpsilonGreedy(1.0, random=1.0), chances((1.0, RANKED))),
    "some of each": (
        EpsilonGreedy(0.6, random=0.5, top=0.05),
        chances((0.4, RANKED[:1]), (0.3, RANKED), (0.3, RANKED[: -(-len(RANKED) // 20)])),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_placements_are_chosen_as_often_as_they_should_be(name):
    policy, expected = EXPECTED[name]
    keys = jax.random.split(jax.random.key(1), DRAWS)
    chosen = np.asarray(jax.jit(jax.vmap(lambda k: policy(k, VALUES, ALLOWED)))(keys))
    often = np.bincount(chosen, minlength=PLACEMENTS) / DRAWS
    assert not often[expected == 0].any()
    # Five standard deviations of a count, on each of some hundred placements.
    np.testing.assert_array_less(np.abs(often - expected), 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9)


def test_what_is_equal_is_chosen_by_chance():
    """Before anything was learned all values are the same, and the first voxel is a corner."""
    keys = jax.random.split(jax.random.key(2), 50)
    choose = jax.jit(jax.vmap(lambda k: EpsilonGreedy(0.0)(k, np.zeros(PLACEMENTS, np.float32), ALLOWED)))
    chosen = np.asarray(choose(keys))
    assert len(np.unique(chosen)) > 20
    assert ALLOWED[chosen].all()
