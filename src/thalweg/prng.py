"""A counter-based random generator that compiles quickly.

JAX's default generator (threefry) expands to some hundred operations wherever a number is drawn; a program with
many random moves then spends most of its compile time on random bits. This one is two rounds of a 32-bit integer
hash (the `lowbias32` constants of C. Wellons' hash prospector) on a counter. Its keys are ordinary typed JAX keys,
so all of `jax.random` works on them. It is meant for proposing moves, not for cryptography.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

_GOLDEN = np.uint32(0x9E3779B9)


def _hash(x):
    x = x ^ (x >> 16)
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _words(key, n: int):
    counter = jax.lax.iota(jnp.uint32, n) * _GOLDEN
    return _hash(_hash(counter ^ key[0]) + key[1])


def _seed(seed):
    seed = jnp.asarray(seed)
    low = seed.astype(jnp.uint32)
    high = (seed >> 32).astype(jnp.uint32) if seed.dtype.itemsize == 8 else jnp.zeros_like(low)
    return jnp.stack([_hash(low + _GOLDEN), _hash(high ^ np.uint32(0x85EBCA6B))])


def _split(key, shape):
    n = math.prod(shape)
    return _words(key, 2 * n).reshape(*shape, 2)


def _fold_in(key, data):
    data = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack([_hash(key[0] ^ (data * _GOLDEN)), _hash(key[1] + _hash(data))])


def _random_bits(key, bit_width: int, shape):
    n = math.prod(shape)
    if bit_width == 64:
        words = _words(key, 2 * n).astype(jnp.uint64)
        return ((words[:n] << np.uint64(32)) | words[n:]).reshape(shape)
    words = _words(key, n).reshape(shape)
    return words if bit_width == 32 else words.astype(jnp.dtype(f"uint{bit_width}"))


HASH32 = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="thalweg_hash32", tag="hash32"
)


def key(seed: int) -> jax.Array:
    """A typed JAX key of the fast-compiling generator from an integer seed."""
    return jax.random.key(seed, impl=HASH32)


def normals(words, counter, shape, dtype):
    """Standard normal numbers of `shape` (..., *lanes) from two words (2, *lanes) and a counter (*lanes) per lane.

    For loops with lanes last, where a key per lane would need a map over lanes: four random bytes are summed, which costs
    a fifth of an exact normal. Mean and variance are exact, the kurtosis is 2.7 instead of 3 and no number exceeds 3.5:
    enough for a thermostat, whose noise adds up over steps.
    """
    n = math.prod(shape[: len(shape) - len(words.shape[1:])])
    place = jax.lax.iota(jnp.uint32, n).reshape(-1, *[1] * (words.ndim - 1)) * _GOLDEN
    seed = _hash(words[0] ^ (counter.astype(jnp.uint32) * np.uint32(0x632BE5AB))) + words[1]
    bits = _hash(_hash(place ^ seed) + words[1])
    total = (bits & 0xFF) + ((bits >> 8) & 0xFF) + ((bits >> 16) & 0xFF) + (bits >> 24)
    scale = math.sqrt(4 * (256**2 - 1) / 12)
    return ((total.astype(jnp.int32) - 510).astype(dtype) * jnp.asarray(1 / scale, dtype)).reshape(shape)
