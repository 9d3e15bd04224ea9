"""Networks without local minima: their bounds against singular values of Jacobians, for any weights; inversion; fits."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest

from thalweg.errors import InputError
from thalweg.networks import pl_fit
from thalweg.networks.pl_fit import fitted
from thalweg.networks.pl_network import Cayley, Contraction, Householder, MonotoneLipschitz, PLNetwork

MU, NU = 0.3, 4.0
#: Dimension, hidden units, depth and orthogonal layers.
NETWORKS = {
    "two hidden layers": (10, (32, 5), 2, "householder"),
    "more dimensions than units": (50, (8,), 3, "none"),
    "large": (1000, (128,), 2, "householder"),
}
FAST = [pytest.param(n, marks=pytest.mark.slow) if n == "large" else n for n in NETWORKS]


def wild(name: str, size: float = 6.0) -> PLNetwork:
    """A network with large random numbers for all that it learns."""
    dim, hidden, depth, orthogonal = NETWORKS[name]
    rng = np.random.default_rng(5)
    made = PLNetwork.random(rng, dim, hidden, depth, MU, NU, orthogonal, centre=rng.normal(size=dim), width=2.0, height=3.0)
    learned, fixed = eqx.partition(made, made.learned)
    drawn = lambda a: np.float32(size * rng.normal(size=np.shape(a)) / np.sqrt(np.shape(a)[-1] if np.ndim(a) else 1))
    return eqx.combine(jax.tree.map(drawn, learned), fixed)


@eqx.filter_jit
def looked_at(net: PLNetwork, v, few, x):
    """G, its inverse there and its Jacobian; f and its gradients."""
    there = net.mapped(v)
    jacobians = jax.vmap(jax.jacrev(lambda a: net.mapped(a[None])[0]))(few)
    return there, net.unmapped(there), jacobians, net.values_and_gradients(x)


@pytest.mark.parametrize("name", FAST)
def test_bounds_hold_for_all_weights(name):
    net, rng = wild(name), np.random.default_rng(0)
    least = net.minimiser()
    assert least.error < 1e-3
    v = np.float32(rng.normal(size=(80, net.dim)) * 3)
    x = np.float32(least.x + rng.normal(size=(200, net.dim)) * 3)
    there, back, jacobians, (values, gradients) = looked_at(net, v, v[: 3 if net.dim > 100 else 20], x)
    stretch = np.linalg.norm(there[1:] - there[:-1], axis=-1) / np.linalg.norm(v[1:] - v[:-1], axis=-1)
    slopes = np.linalg.svd(np.asarray(jacobians, float), compute_uv=False)
    for found in (stretch, slopes):
        assert MU * (1 - 1e-4) < found.min() < found.max() < NU * (1 + 1e-4)
    np.testing.assert_allclose(net.bounds, (MU, NU), rtol=1e-5)
    np.testing.assert_allclose(back, v, atol=1e-4)
    # What follows for f: the inequality, and a parabola below it.
    above = np.asarray(values, float) - least.value
    assert (np.linalg.norm(gradients, axis=1) ** 2 / 2 >= net.pl_constant * above * (1 - 1e-4)).all()
    assert (above >= net.pl_constant * ((x - least.x) ** 2).sum(-1) / 2 * (1 - 1e-4)).all()
    # A line of finite differences in float64; kinks are nowhere on it but by chance.
    with jax.enable_x64(True):
        along, one = rng.normal(size=net.dim), jax.tree.map(lambda a: np.asarray(a, float), net)
        ends = np.asarray(eqx.filter_jit(one.values)(x[0] + np.outer([1e-6, -1e-6], along)))
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, gradients[0] @ along, rtol=1e-3)


def test_descent_from_everywhere_ends_in_one_point():
    net = wild("two hidden layers", 1.0)
    x = np.float32(np.random.default_rng(2).normal(size=(200, net.dim)) * 6)
    # A step below 1 / smoothness, which decays so that kinks do not keep points from settling.
    descend = lambda k, x: x - 0.1 * 0.997**k * net.gradients(x)
    ends = np.asarray(jax.jit(lambda x: jax.lax.fori_loop(0, 3000, descend, x))(x))
    np.testing.assert_allclose(ends, np.broadcast_to(net.minimiser().x, ends.shape), atol=1e-3)


def test_orthogonal_layers_are_orthogonal():
    rng, dim = np.random.default_rng(3), 10
    layers = [Cayley.random(rng, dim), Householder.random(rng, dim)]
    # Larger weights, and vectors of zeros.
    layers += [Cayley(30 * layers[0].weights), Householder(layers[1].vectors * (np.arange(8) % 3))]
    v = np.float32(rng.normal(size=(3, dim)))
    turned = eqx.filter_jit(lambda layer: (layer.matrix(), layer.inverse(layer(v))))
    for layer in layers:
        matrix, back = turned(layer)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=1e-5)
        np.testing.assert_allclose(back, v, atol=1e-4)
    # One reflection, by its own formula.
    normal = rng.normal(size=(dim, 1))
    plain = np.eye(dim) - 2 * normal @ normal.T / (normal**2).sum()
    np.testing.assert_allclose(turned(Householder(np.float32(normal)))[0], plain, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_contractions_have_norms_up_to_one_and_not_more(shape):
    rng = np.random.default_rng(9)
    made = eqx.filter_jit(lambda w: Contraction.of(w)(np.eye(shape[0], dtype=np.float32)))
    weights = np.float32(rng.normal(size=shape) * [[1], [3], [10], [0], [0], [0], [0]][: shape[0]])
    raw = np.linalg.svd(np.asarray(weights, float), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(made(weights), compute_uv=False), raw / np.sqrt(1 + raw**2), rtol=1e-4, atol=1e-6)
    # Huge weights of rank one, whose Gram matrix is singular to rounding.
    weights = np.float32(1e5 * np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1])))
    np.testing.assert_allclose(np.linalg.norm(made(weights), 2), 1, atol=1e-5)


def test_a_layer_reaches_its_bounds_and_no_rotation_is_needed():
    one = np.full((1, 1), 1e3, np.float32)
    layer = MonotoneLipschitz((one, one), (np.zeros(1, np.float32),), np.zeros(1), np.float32(0.5), np.float32(2.0))
    np.testing.assert_allclose(eqx.filter_jit(layer)(np.float32([[3.0], [-3.0]])), [[6.0], [-1.5]], rtol=1e-5)
    # The same function f without rotations: weights are rotated instead.
    rng = np.random.default_rng(4)
    net = PLNetwork.random(rng, 6, (5,), 3, MU, NU, "cayley")
    turned, layers = np.eye(6), []
    for layer, rotation in zip(net.layers, net.rotations, strict=True):
        turned = turned @ np.asarray(rotation.matrix(), float)
        weights = (np.float32(turned @ layer.weights[0]), np.float32(layer.weights[1] @ turned.T))
        layers.append(eqx.tree_at(lambda t: t.weights, layer, weights))
    plain = PLNetwork(net.shift, net.scale, net.height, net.offset, tuple(layers), ())
    x = np.float32(rng.normal(size=(30, 6)))
    np.testing.assert_allclose(eqx.filter_jit(plain.values)(x), eqx.filter_jit(net.values)(x), rtol=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_a_network_begins_as_the_quadratic_that_it_is_given(full):
    rng = np.random.default_rng(6)
    dim, root = 7, rng.normal(size=(7, 7))
    centre, curvature = rng.uniform(-50, 50, dim), root @ root.T + np.eye(dim)
    matrix = curvature if full else np.diag(np.diag(curvature))
    net = PLNetwork.of_quadratic(rng, centre, curvature if full else np.diag(curvature), -4.0, width=100.0, orthogonal="cayley")
    off = rng.uniform(-100, 100, (50, dim))
    np.testing.assert_allclose(
        eqx.filter_jit(net.values)(np.float32(centre + off)), -4 + np.einsum("bi,ij,bj->b", off, matrix, off) / 2, rtol=1e-4
    )
    least = net.minimiser()
    np.testing.assert_allclose(least.x, centre, atol=1e-9)
    assert least.value == pytest.approx(-4, abs=1e-3)
    assert net.bounds[1] / net.bounds[0] == pytest.approx(2)


def bent(x):
    """A bent valley (n,) with its minimum 20 at (30.2, -40.3), and its gradients (n, 2)."""
    a, b = (x[:, 0] - 30.2) / 50, (x[:, 1] + 40.3) / 50
    across = b - a**2
    return 20 + 5 * a**2 + 10 * across**2, np.stack([10 * a - 40 * a * across, 20 * across], 1) / 50


def begun(rng, y) -> PLNetwork:
    return PLNetwork.of_quadratic(rng, np.zeros(2), np.full(2, y.std() / 2000), y.min(), width=100.0, hidden=(32,), tau=30.0)


def test_a_fit_finds_the_bottom_of_a_bent_valley_and_compiles_once():
    rng = np.random.default_rng(7)
    x = rng.uniform(-100, 100, (2000, 2))
    y, _ = bent(x)
    start, count = begun(rng, y), pl_fit._advanced._cache_size()
    fits = [fitted(rng, start, x, y + k * 1e6, rate=1e-2, steps=(k + 1) * 600, batch=64) for k in range(2)]
    assert pl_fit._advanced._cache_size() == count + 1
    # A quadratic by least squares has its minimum off the valley.
    terms = lambda x: np.stack([np.ones(len(x)), *x.T, *(x.T**2), x[:, 0] * x[:, 1]], 1)
    c = np.linalg.lstsq(terms(x), y, rcond=None)[0]
    bottom = np.linalg.solve([[2 * c[3], c[5]], [c[5], 2 * c[4]]], -c[1:3])
    for k, fit in enumerate(fits):
        least = fit.network.minimiser()
        assert fit.held_out_losses.min() < 0.03 < 0.5 < fit.held_out_losses[0]
        assert abs(least.value - 20 - k * 1e6) < 20
        assert bent(least.x[None])[0] - 20 < 0.2 * (bent(bottom[None])[0] - 20)
    assert start.layers[0].weights[-1].max() == 0
    # Too long a step: the network that it began with is what is kept.
    worse = fitted(rng, fits[0].network, x, y, rate=10.0, steps=600, batch=64, patience=2)
    assert worse.steps == 0
    np.testing.assert_array_equal(worse.network.layers[0].weights[0], fits[0].network.layers[0].weights[0])


def test_gradients_are_fitted():
    rng = np.random.default_rng(8)
    x = rng.uniform(-100, 100, (2000, 2))
    y, dy = bent(x)
    start = begun(rng, y)
    fit = fitted(rng, start, x, y, dy=dy, rate=1e-2, steps=600, batch=64, gradient_weight=1.0)
    new = rng.uniform(-90, 90, (500, 2))
    error = lambda net: ((eqx.filter_jit(net.gradients)(np.float32(new)) - bent(new)[1]) ** 2).mean() / bent(new)[1].var()
    assert error(fit.network) < 0.1 < 0.5 < error(start)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r: PLNetwork.random(r, 3, mu=2.0, nu=1.0), "mu < nu"),
        (lambda r: PLNetwork.random(r, 3, orthogonal="cayly"), 'Did you mean "cayley"'),
        (lambda r: PLNetwork.random(r, 3, hidden=()), "empty layer"),
        (lambda r: PLNetwork.random(r, 500, orthogonal="cayley"), "householder"),
        (lambda r: PLNetwork.of_quadratic(r, np.zeros(3), np.array([1.0, -1.0, 1.0])), "clip"),
        (lambda r: PLNetwork.of_quadratic(r, np.zeros(3), np.ones(3), np.nan), "not finite"),
        (lambda r: fitted(r, PLNetwork.random(r, 3), np.zeros((9, 2)), np.zeros(9)), r"\(n, 3\)"),
        (lambda r: fitted(r, PLNetwork.random(r, 3), np.zeros((9, 3)), np.full(9, np.inf)), "finite"),
    ],
)
def test_wrong_input_is_one_clear_line(make, says):
    with pytest.raises(InputError, match=says) as caught:
        make(np.random.default_rng(0))
    assert "\n" not in str(caught.value)
