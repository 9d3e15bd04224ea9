"""The network of voxels against XLA's convolution, what agents see against direct formulas, and both together."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from thalweg import schema
from thalweg.agents.agent import Agent
from thalweg.agents.grid import Grid
from thalweg.agents.images import AutomaticGaussian, CircularHarmonics, Displaced, Gaussian, OneHot
from thalweg.errors import InputError
from thalweg.networks.voxel import VoxelNetwork

#: Shape of the grid, periodic axes, kernel, dilation.
GRIDS = {
    "plane": ((13, 9, 1), (False, False, False), 7, 1),
    "narrow periodic plane": ((8, 5, 1), (True, False, False), 5, 2),  # narrower than the kernel reaches
    "volume": ((5, 7, 6), (False, True, False), 3, 2),
}


def network(dimensions: int, kernel: int, dilation: int, inputs: int = 2, outputs: int = 2) -> VoxelNetwork:
    """A small one with biases, so that vacuum is not zero."""
    rng = np.random.default_rng(3)
    net = VoxelNetwork.random(rng, inputs, outputs, dimensions, kernel, dilation, hidden=4)
    biases = tuple(rng.normal(size=b.shape).astype(np.float32) / 4 for b in net.biases)
    return eqx.tree_at(lambda n: n.biases, net, biases)


def by_xla(net: VoxelNetwork, images, periodic, empty):
    """Maps by XLA's convolution. A layer reads the one before beside its periodic images and what an empty image gives."""
    half, edges = net.dilation * (net.kernel // 2), [net.kernel if k < net.dimensions else 1 for k in range(3)]
    x, blank = images, jnp.broadcast_to(jnp.reshape(empty, (1, -1, 1, 1, 1)), (1, images.shape[1], 1, 1, 1))
    for k, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        padded = x - blank
        for axis in range(net.dimensions):
            wide = [(half, half) if i == 2 + axis else (0, 0) for i in range(5)]
            padded = jnp.pad(padded, wide, mode="wrap" if periodic[axis] else "constant")
        kernels = jnp.reshape(w, (*w.shape[:2], *edges))
        layer = lambda a, w=kernels, b=b: (
            lax.conv_general_dilated(a, w, (1, 1, 1), "VALID", rhs_dilation=(net.dilation,) * 3) + b.reshape(1, -1, 1, 1, 1)
        )
        around = jnp.broadcast_to(blank, (1, blank.shape[1], *[1 + net.dilation * (n - 1) for n in edges]))
        x, blank = layer(padded + blank), layer(around)
        if k + 1 < len(net.weights):
            x, blank = jax.nn.leaky_relu(x, 0.01), jax.nn.leaky_relu(blank, 0.01)
    return jnp.tanh(x)


def test_as_many_weights_as_published_networks_have():
    rng = np.random.default_rng(0)
    made = [VoxelNetwork.random(rng, 1, 1, 2, 15, 1)]
    made += [VoxelNetwork.random(rng, 2, 2, 3, k, d) for k, d in ((11, 1), (7, 2), (5, 3))]
    assert [n.n_parameters for n in made] == [49531, 319472, 82352, 30032]
    assert [n.receptive_field for n in made] == [57, 41, 49, 49]


@pytest.mark.parametrize("name", GRIDS)
def test_maps_and_their_gradients_are_those_of_xla(name):
    shape, periodic, kernel, dilation = GRIDS[name]
    net, rng = network(2 if shape[2] == 1 else 3, kernel, dilation), np.random.default_rng(0)
    images, empty = rng.normal(size=(2, 2, *shape)).astype(np.float32), np.float32([0.1, -0.2])
    wanted = rng.normal(size=(2, 2, *shape)).astype(np.float32)

    def value_and_gradients(way):
        def loss(learned, images):
            out = way(eqx.tree_at(lambda n: (n.weights, n.biases), net, learned), images)
            return (wanted * out).sum(), out

        run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (_, out), gradients = run((net.weights, net.biases), images)
        return out, gradients

    own, gradients = value_and_gradients(lambda n, x: n.maps(x, periodic, empty))
    expected, expected_gradients = value_and_gradients(lambda n, x: by_xla(n, x, periodic, empty))
    np.testing.assert_allclose(own, expected, atol=2e-6)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-6)


def test_a_value_depends_on_its_crop_and_on_nothing_else():
    for net in (network(2, 3, 3), network(3, 3, 2)):
        # Positive weights, so that no paths through the network cancel.
        means = tuple(np.full(w.shape, 1 / (w.shape[1] * w.shape[2]), np.float32) for w in net.weights)
        net = eqx.tree_at(lambda n: n.weights, net, means)
        n = net.receptive_field + 4
        shape = (n, n, n if net.dimensions == 3 else 1)
        middle = tuple(k // 2 for k in shape)
        value = lambda x, net=net, at=middle: net.maps(x, (False,) * 3, np.zeros(2, np.float32))[0, 0][at]
        seen = np.asarray(jax.jit(jax.grad(value))(jnp.ones((1, 2, *shape))))[0]
        expected = np.zeros(shape, bool)
        half = net.receptive_field // 2
        near = slice(n // 2 - half, n // 2 + half + 1, net.dilation)
        expected[near, near, near if net.dimensions == 3 else slice(None)] = True
        np.testing.assert_array_equal(seen > 1e-5 * seen.max(), np.broadcast_to(expected, seen.shape))
        assert np.abs(seen[:, ~expected]).max() < 1e-6 * seen.max()  # rounding of Fourier transforms
        along = np.flatnonzero(expected.any((1, 2)))
        assert along[-1] - along[0] + 1 == net.receptive_field


REPRESENTATIONS = {
    "plane": AutomaticGaussian((0.2, 0.5), bias=0.1),
    "narrow periodic plane": CircularHarmonics(0.4, 1),
    "volume": Gaussian(0.3, bias=-0.1),
}


@pytest.mark.parametrize("name", GRIDS)
def test_values_of_an_agent_are_its_maps_on_every_voxel(name):
    shape, periodic, kernel, dilation = GRIDS[name]
    flat, representation = shape[2] == 1, REPRESENTATIONS[name]
    grid = Grid(np.array([1.0, 0, -2]), np.diag([0.4, 0.5, 0.4]), np.ones(math.prod(shape), bool), shape, periodic)
    agent = Agent(network(2 if flat else 3, kernel, dilation, 2 * representation.channels), representation, (6, 8))
    x = grid.origin + np.random.default_rng(0).uniform(size=(1, 4, 3)) * np.array(shape) @ grid.steps * [1, 1, not flat]
    x, kinds, there = x.astype(np.float32), np.array([0, 1, 0, 1]), np.array([[True, True, True, False]])
    maps = jax.jit(lambda x: agent.maps(grid, x, kinds, there))(x)[0]
    n = grid.size
    of = lambda x, kind: agent.values(grid, x, kinds, jnp.repeat(there, n, 0), jnp.arange(n), kind)
    run = jax.jit(of)
    for kind in range(2):
        values = run(np.repeat(x, n, 0), np.full(n, kind))
        np.testing.assert_allclose(values, maps[kind], atol=2e-6)
    assert np.ptp(maps) > 0.02
    absent = x.copy()
    absent[:, 3] += 1.0  # an atom that is not there is not seen
    np.testing.assert_array_equal(run(np.repeat(absent, n, 0), np.full(n, 1)), values)


@pytest.mark.parametrize("name", GRIDS)
def test_gradients_of_values_are_those_of_maps(name):
    shape, periodic, kernel, dilation = GRIDS[name]
    flat, rng, blank = shape[2] == 1, np.random.default_rng(5), np.float32([0.2, -0.1])
    net = network(2 if flat else 3, kernel, dilation)
    images = rng.normal(size=(3, 2, *shape)).astype(np.float32)
    voxels = rng.integers(shape, size=(3, 3))

    sites = net.sites(jnp.asarray(voxels), shape, periodic)
    at = np.moveaxis(np.asarray(sites.at) % np.array(shape), -1, 0)
    seen = np.stack([images[k][:, *at[:, k]] for k in range(3)])

    def by_maps(net):
        found = net.maps(images, periodic, blank)
        return jnp.stack([found[(k, slice(None), *v)] for k, v in enumerate(voxels)])

    both = lambda way: eqx.filter_jit(eqx.filter_value_and_grad(lambda n: (lambda y: (y.sum(), y))(way(n)), has_aux=True))(net)
    found, expected = both(lambda net: net.values(seen, sites, blank)), both(by_maps)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)


def test_maps_move_with_the_atoms():
    shape, periodic, kernel, dilation = GRIDS["narrow periodic plane"]
    net = network(2, kernel, dilation)
    images = np.random.default_rng(1).normal(size=(2, 2, *shape)).astype(np.float32)
    run = jax.jit(lambda x: net.maps(x, periodic, np.zeros(2, np.float32)))
    np.testing.assert_allclose(run(np.roll(images, 3, 2)), np.roll(run(images), 3, 2), atol=1e-6)


def test_channels_are_what_their_formulas_say():
    d = np.float32([[0.3, -0.2, 0.4], [0.0, 0.0, 0.0], [-0.6, 0.1, 0.0]])
    r2 = (d * d).sum(1)
    wide = lambda width: np.exp(-r2 / (2 * width**2))
    np.testing.assert_array_equal(OneHot().basis(d, 0.2)[:, 0], [0, 1, 0])
    np.testing.assert_allclose(Gaussian(0.5).basis(d, 0.2)[:, 0], wide(0.5), rtol=1e-5)
    np.testing.assert_allclose(AutomaticGaussian((0.2, 0.7)).basis(d, 0.2), np.stack([wide(0.2), wide(0.7)], 1), rtol=1e-5)
    third = Displaced(0.5, 0.8, 3).basis(d, 0.2)[:, 1]  # towards 120 degrees
    off = d - 0.8 * np.array([-0.5, math.sqrt(0.75), 0])
    np.testing.assert_allclose(third, np.exp(-(off * off).sum(1) / 0.5), rtol=1e-5)
    made = CircularHarmonics(0.5, 3).basis(d, 0.2)
    phi, rho = np.arctan2(d[:, 1], d[:, 0]), np.hypot(d[:, 0], d[:, 1]) / 0.5
    for m in (1, 2, 3):
        radial = rho**m * wide(0.5) / (m ** (m / 2) * math.exp(-m / 2))
        np.testing.assert_allclose(made[:, 2 * m - 1], radial * np.cos(m * phi), atol=1e-6)
        np.testing.assert_allclose(made[:, 2 * m], radial * np.sin(m * phi), atol=1e-6)
    # Atoms add up, species have channels of their own.
    sums = np.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(Displaced(count=3, bias=0.5).combined(sums)[0], np.arange(12).reshape(6, 2) + 0.5)


def test_automatic_widths_are_normalised_by_what_was_seen():
    seen = np.random.default_rng(0).gamma(1.0, size=(4, 2, 3, 50)).astype(np.float32) * np.float32([1, 5, 0.1])[:, None]
    made = AutomaticGaussian((0.1, 0.2, 0.4), l1=0.5, bias=2.0).settled(seen)
    for k in range(3):
        one = eqx.tree_at(lambda r: r.weights, made, np.eye(3, dtype=np.float32)[k])
        image = np.asarray(one.combined(seen))
        assert image.shape == (4, 2, 50)
        np.testing.assert_allclose([image.mean(), image.std()], [2.0, 1.0], atol=2e-3)
    assert float(eqx.tree_at(lambda r: r.weights, made, np.float32([1, -2, 0])).penalty()) == 1.5
    # The mean of the first batches, then a running one: a shift is forgotten within some ten batches.
    again = made.settled(seen + 1.0)
    np.testing.assert_allclose(again.mean, seen.mean((0, 1, 3)) + 0.5, rtol=1e-5)
    for _ in range(60):
        again = again.settled(seen + 3.0)
    np.testing.assert_allclose(again.mean, seen.mean((0, 1, 3)) + 3.0, rtol=3e-3)


def test_representations_are_components_without_what_they_learn():
    full = schema.fill("representation", {"kind": "automatic-gaussian", "widths": [0.2, 0.4]}, "[search.representation]")
    assert full == {"kind": "automatic-gaussian", "widths": [0.2, 0.4], "l1": 0.0, "bias": 0.0}
    assert schema.build("representation", full).widths == (0.2, 0.4)
    with pytest.raises(InputError, match="width of a representation is -1; it must be positive"):
        schema.build("representation", schema.fill("representation", {"kind": "gaussian", "width": -1.0}, "[x]"))
