"""The fast-compiling generator: uniform, independent of neighbouring keys, different for every seed."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from thalweg import prng

N = 100_000


def stream():
    return jr.uniform(prng.key(0), (N,))


def of_split_keys():
    return jax.vmap(jr.uniform)(jr.split(prng.key(1), N))


def of_folded_keys():
    return jax.vmap(lambda i: jr.uniform(jr.fold_in(prng.key(2), i)))(jnp.arange(N))


def of_neighbouring_seeds():
    return jax.vmap(lambda s: jr.uniform(prng.key(s)))(jnp.arange(N))


@pytest.mark.parametrize("draw", [stream, of_split_keys, of_folded_keys, of_neighbouring_seeds])
def test_uniform_and_uncorrelated(draw):
    u = np.asarray(draw(), np.float64)
    assert kstest(u, "uniform").pvalue > 1e-4
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 5 / np.sqrt(N)
    pairs, _, _ = np.histogram2d(u[0::2], u[1::2], bins=32, range=[[0, 1], [0, 1]])
    assert chisquare(pairs.ravel()).pvalue > 1e-4


def test_every_bit_is_fair():
    words = np.asarray(jr.bits(prng.key(5), (N,), jnp.uint32))
    ones = np.array([((words >> b) & 1).mean() for b in range(32)])
    np.testing.assert_allclose(ones, 0.5, atol=5 * 0.5 / np.sqrt(N))


def test_seeds_of_all_allowed_sizes_differ():
    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    assert len({tuple(jr.key_data(prng.key(s)).tolist()) for s in seeds}) == len(seeds)


def test_float64_draws_use_more_than_32_bits():
    with jax.enable_x64(True):
        u = np.asarray(jr.uniform(prng.key(3), (N,), jnp.float64))
    assert len(np.unique(u)) == N
    assert len(np.unique(u * 2**32 % 1)) > N // 2
