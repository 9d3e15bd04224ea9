"""Relaxers against ASE, optax and scipy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.optimize import FIRE as AseFIRE
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.potentials.pair import LennardJones
from thalweg.relax.adapters import Adam, GradientDescent
from thalweg.relax.base import CONVERGED, FAILED, STEP_LIMIT
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.testing.relaxers import compact_icosahedron


@eqx.filter_jit
def _trajectory(relaxer, x, n_steps: int):
    def one(carry, _):
        x, state = carry
        out = LennardJones().lanes(x, jnp.zeros((x.shape[0], 1), jnp.int32))
        move, state = relaxer.step(x, out.forces, out.energy, state)
        return (x + move, state), x + move

    return jax.lax.scan(one, (x, relaxer.init(x)), None, length=n_steps)[1]


def trajectory(relaxer, x, n_steps):
    """Positions after each step (steps, atoms, 3, lanes), no convergence test."""
    with jax.enable_x64(True):
        return np.asarray(_trajectory(relaxer, jnp.asarray(x), n_steps))


def disturbed(amplitude, seed=0, lanes=None):
    shape = (13, 3) if lanes is None else (13, 3, lanes)
    base = compact_icosahedron() if lanes is None else compact_icosahedron()[..., None]
    return base + amplitude * np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("amplitude", [0.03, 0.15])
def test_fire_is_ase_fire_step_by_step(amplitude):
    """Large disturbances bring uphill steps and capped displacements, small ones the acceleration."""
    x = disturbed(amplitude)
    atoms = Atoms("X13", positions=x, calculator=AseLennardJones(rc=1e4))
    theirs = []
    optimiser = AseFIRE(atoms, logfile=None)
    for _ in optimiser.irun(fmax=0.0, steps=80):
        theirs.append(atoms.positions.copy())
    ours = trajectory(FIRE(), x[..., None], 80)[..., 0]
    # A chaotic start amplifies rounding: compare while that is impossible, then in the energy valley.
    np.testing.assert_allclose(ours, theirs[1:], atol=1e-10 if amplitude < 0.1 else 1e-8)


@pytest.mark.parametrize(
    ("relaxer", "transform"),
    [
        (GradientDescent(learning_rate=2e-3), optax.sgd(2e-3)),
        (Adam(learning_rate=0.02, b1=0.8, b2=0.99), optax.adam(0.02, b1=0.8, b2=0.99)),
    ],
    ids=["gradient-descent", "adam"],
)
def test_adapters_are_optax(relaxer, transform):
    x = disturbed(0.05, lanes=2)
    ours = trajectory(relaxer, x, 30)[-1]
    force = jax.jit(lambda y: LennardJones().lanes(y, jnp.zeros(13, jnp.int32)).forces)
    update = jax.jit(transform.update)
    with jax.enable_x64(True):
        for lane in range(2):
            y = jnp.asarray(x[..., lane])
            state = transform.init(y)
            for _ in range(30):
                change, state = update(-force(y), state, y)
                y = y + change
            np.testing.assert_allclose(ours[..., lane], y, atol=1e-12)


def energy_and_gradient(flat):
    x = flat.reshape(-1, 3)
    d = x[:, None] - x
    s = 1 / ((d**2).sum(-1) + 1e9 * np.eye(len(x)))
    return 2 * (s**6 - s**3).sum(), ((-48 * s**7 + 24 * s**4)[..., None] * d).sum(1).ravel()


@pytest.mark.parametrize("n", [13, 38])
def test_lbfgs_relaxes_every_random_start(n):
    rng = np.random.default_rng(n)
    direction = rng.normal(size=(64, n, 3))
    radius = rng.uniform(size=(64, n, 1)) ** (1 / 3) * 0.75 * n ** (1 / 3)
    x = direction / np.linalg.norm(direction, axis=-1, keepdims=True) * radius
    out = relax(Structure.create(x), Relaxation(LennardJones(), LBFGS(max_step=0.1), fmax=1e-6))
    assert (out.status == CONVERGED).all()
    for positions, energy in zip(out.structures.positions, out.energy, strict=True):
        again = minimize(energy_and_gradient, positions.ravel(), jac=True, method="L-BFGS-B", options={"gtol": 1e-9})
        np.testing.assert_allclose(energy, energy_and_gradient(positions.ravel())[0], rtol=1e-11)
        np.testing.assert_allclose(again.fun, energy, atol=1e-8)


def test_status_of_each_structure():
    """Side by side: one that relaxes, one without the time to, one that cannot."""
    good, hard, broken = disturbed(0.001), disturbed(0.3, seed=3), disturbed(0.01)
    broken[1] = broken[0]
    out = relax(
        Structure.create(np.stack([good, hard, broken])), Relaxation(LennardJones(), LBFGS(), fmax=1e-2, max_steps=8), n_lanes=3
    )
    assert list(out.status) == [CONVERGED, STEP_LIMIT, FAILED]
    assert out.steps[1] == 8
    assert not np.isfinite(out.energy[2])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=11, unique=True), st.integers(0, 2**16))
def test_fixed_atoms_stay(held, seed):
    x = disturbed(0.05, seed)
    fixed = np.isin(np.arange(13), held)
    out = relax(Structure.create(x, fixed=fixed), Relaxation(LennardJones(), LBFGS(), fmax=1e-5), n_lanes=1)
    np.testing.assert_array_equal(out.structures.positions[fixed], x[fixed])
    assert out.converged
    assert out.energy < energy_and_gradient(x.ravel())[0]


def test_the_queue_does_not_change_results():
    """Structures reloaded into a few lanes come out as when each has its own."""
    x = np.stack([disturbed(0.1, seed) for seed in range(7)])
    wide = relax(Structure.create(x), Relaxation(LennardJones(), FIRE(), fmax=1e-4), n_lanes=8)
    narrow = relax(Structure.create(x), Relaxation(LennardJones(), FIRE(), fmax=1e-4), n_lanes=2)
    np.testing.assert_allclose(narrow.energy, wide.energy, rtol=1e-12)
    np.testing.assert_array_equal(narrow.steps, wide.steps)
    np.testing.assert_allclose(narrow.structures.positions, wide.structures.positions, atol=1e-9)
