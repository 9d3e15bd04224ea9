"""The conformance check of relaxers."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.potentials.pair import LennardJones
from thalweg.relax.base import Relaxer
from thalweg.testing.shared import check_traced, close, require

#: Energy of 13 Lennard-Jones atoms, an icosahedron (Cambridge Cluster Database).
LJ13 = -44.326801


def check_relaxer(relaxer: Relaxer, max_steps: int = 20000) -> None:
    """Check that a relaxer minimises, and that its lanes know nothing of each other."""
    name = type(relaxer).__name__
    require(isinstance(relaxer, Relaxer), f"{name} is not a thalweg Relaxer; derive it from Relaxer.")
    check_traced(name, relaxer, lambda r: r.step(*_quadratic_arguments(r))[0])
    relaxer = as_leaves(relaxer, np.float64)
    with jax.enable_x64(True):
        _check_steps(name, relaxer)
        _check_lanes(name, relaxer)
        _check_minima(name, relaxer, max_steps)


def compact_icosahedron() -> np.ndarray:
    """The icosahedron of 13 Lennard-Jones atoms (sigma = 1), near its minimum."""
    from ase.cluster import Icosahedron

    x = Icosahedron("Ar", 2, latticeconstant=1.0).positions
    return x * (2 ** (1 / 6) * 0.98 / np.sqrt(((x[1:] - x[0]) ** 2).sum(1).min()))


def _quadratic_arguments(relaxer):
    x = jnp.ones((5, 3, 2), jnp.float32)
    return x, -x, (x * x).sum((0, 1)) / 2, relaxer.init(x)


@eqx.filter_jit
def _init(relaxer, x):
    return relaxer.init(x)


@eqx.filter_jit
def _reset(relaxer, state, x, mask):
    return relaxer.reset(state, x, mask)


@eqx.filter_jit
def _first_step(relaxer, x, state):
    """A step on half the square of the coordinates."""
    return relaxer.step(x, -x, (x * x).sum((0, 1)) / 2, state)


def _check_steps(name, relaxer) -> None:
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, 3, 2)))
    state = _init(relaxer, x)
    for leaf in jax.tree.leaves(state):
        require(
            jnp.shape(leaf)[-1:] in ((2,), (1,)),
            f"a state array of {name} has shape {jnp.shape(leaf)}; its last axis must be the lanes.",
        )
    move, new = _first_step(relaxer, x, state)
    require(move.shape == x.shape, f"{name} returns a displacement of shape {move.shape} for positions of shape {x.shape}.")
    require(move.dtype == x.dtype, f"{name} returns a displacement of type {move.dtype} for positions of type {x.dtype}.")
    kinds = lambda tree: [(jnp.shape(a), jnp.result_type(a)) for a in jax.tree.leaves(tree)]
    same = kinds(state) == kinds(new) and jax.tree.structure(state) == jax.tree.structure(new)
    require(same, f"the state of {name} changes its shapes or types from step to step.")
    downhill = (np.asarray(move) * -np.asarray(x)).sum((0, 1))
    require(bool((downhill > 0).all()), f"the first step of {name} does not go along the force.")


def _lennard_jones(x):
    out = LennardJones().lanes(x, jnp.zeros((x.shape[0], 1), jnp.int32))
    return out.energy, out.forces


def _quadratic(x):
    stiffness = jnp.linspace(1.0, 5.0, x.shape[0] * 3, dtype=x.dtype).reshape(-1, 3, 1)
    return (stiffness * x * x).sum((0, 1)) / 2, -stiffness * x


@eqx.filter_jit
def _steps(relaxer, x, state, n_steps):
    """`n_steps` (traced) steps on the Lennard-Jones energy."""

    def one(_, carry):
        x, state = carry
        energy, force = _lennard_jones(x)
        move, state = relaxer.step(x, force, energy, state)
        return x + move, state

    return jax.lax.fori_loop(0, n_steps, one, (x, state))


@eqx.filter_jit
def _minimise(relaxer, x, energy_and_force, max_steps, fmax):
    """Steps until the largest force in each lane is below `fmax`; lanes that are done stay, as in the drivers."""

    def largest(force):
        return jnp.abs(force).max((0, 1))

    def one(carry):
        x, energy, force, state, n = carry
        move, state = relaxer.step(x, force, energy, state)
        x = jnp.where(largest(force) > fmax, x + move, x)
        return x, *energy_and_force(x), state, n + 1

    more = lambda carry: (carry[4] < max_steps) & (largest(carry[2]) > fmax).any()
    _, energy, force, _, _ = jax.lax.while_loop(more, one, (x, *energy_and_force(x), relaxer.init(x), 0))
    return energy, largest(force)


def _check_lanes(name, relaxer) -> None:
    rng = np.random.default_rng(4)
    ico = compact_icosahedron()[..., None]
    x = ico + 0.03 * rng.normal(size=(13, 3, 3))
    other = x.copy()
    other[..., 1], other[..., 2] = ico[..., 0] * 1.07, np.nan
    mask = np.array([False, True, False])

    def walk(x, state, n):
        # By way of NumPy, so that types are the same at every call and one compilation serves all.
        out = _steps(relaxer, jnp.asarray(x), jax.tree.map(jnp.asarray, state), jnp.asarray(n))
        return jax.tree.map(np.asarray, out)

    begin = lambda x: jax.tree.map(np.asarray, _init(relaxer, jnp.asarray(x)))
    alone, _ = walk(x, begin(x), 25)
    beside, spoilt = walk(other, begin(other), 25)
    close(
        beside[..., 0],
        alone[..., 0],
        1e-12,
        f"a structure moves differently under {name} when its neighbours in the batch change",
    )
    half, state = walk(x, begin(x), 10)
    fresh = np.where(mask, x[..., ::-1], half)
    after, _ = walk(fresh, jax.tree.map(np.asarray, _reset(relaxer, state, fresh, mask)), 15)
    close(after[..., 0], alone[..., 0], 1e-12, f"resetting one lane of {name} changes another")
    new, _ = walk(fresh, begin(fresh), 15)
    close(after[..., 1], new[..., 1], 1e-9, f"a lane of {name} that was reset does not behave like a new one")
    failed = np.array([False, False, True])
    after, _ = walk(fresh, jax.tree.map(np.asarray, _reset(relaxer, spoilt, fresh, failed)), 15)
    close(after[..., 2], new[..., 2], 1e-9, f"a lane of {name} in which a structure failed is not like a new one when reset")


def _check_minima(name, relaxer, max_steps) -> None:
    rng = np.random.default_rng(5)
    limits = (jnp.asarray(max_steps), jnp.asarray(1e-3))
    _, left = _minimise(relaxer, jnp.asarray(rng.uniform(-0.3, 0.3, (5, 3, 2))), _quadratic, *limits)
    worst = float(np.max(left))
    require(worst <= 1e-3, f"{name} does not reach the minimum of a quadratic in {max_steps} steps (force left {worst:.2e}).")
    start = compact_icosahedron()[..., None] + 0.03 * rng.normal(size=(13, 3, 3))
    energy, left = _minimise(relaxer, jnp.asarray(start), _lennard_jones, *limits)
    sentence = f"{name} does not reach the minimum of 13 Lennard-Jones atoms from nearby in {max_steps} steps"
    require(float(np.max(left)) <= 1e-3, f"{sentence} (force left {float(np.max(left)):.2e}).")
    gap = float(np.abs(np.asarray(energy) - LJ13).max())
    require(gap < 1e-4, f"{sentence}: it stops {gap:.2e} away from the energy {LJ13}.")
