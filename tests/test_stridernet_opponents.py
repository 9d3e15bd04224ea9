"""Opponents of StriderNet: budgets are kept, starts are searches of their own, energies are those of the published formula."""

import numpy as np
import pytest

from thalweg.benchmark.stridernet_opponents import METHODS, run
from thalweg.errors import InputError
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.structure import Structure
from thalweg.system import periodic

SIDE = (25 / 1.2) ** (1 / 3)
POTENTIAL = BinaryLennardJones(minimum_image=True)
A, B = POTENTIAL.species
SYSTEM = periodic(np.repeat([A, B], [20, 5]), POTENTIAL, np.eye(3) * SIDE)
SEARCHES = [name for name, opponent in METHODS.items() if opponent.walk is not None]


def mixtures(count, seed=0):
    """Starts (count, 25 atoms) on a shaken grid, with the species of the paper's order: A first."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * SIDE / 3
    x = np.stack([grid[rng.permutation(27)[:25]] for _ in range(count)]) + rng.uniform(-0.08, 0.08, (count, 25, 3))
    return Structure.create(x, np.repeat([A, B], [20, 5]), np.eye(3) * SIDE, None, (True,) * 3)


def energy(positions):
    """Kob-Andersen energy by the published definition: nearest images, cut at 2.5 sigma, not shifted."""
    epsilon, sigma, kinds = np.array([[1, 1.5], [1.5, 0.5]]), np.array([[1, 0.8], [0.8, 0.88]]), np.repeat([0, 1], [20, 5])
    i, j = np.triu_indices(25, 1)
    d = positions[i] - positions[j]
    d -= SIDE * np.round(d / SIDE)
    s = sigma[kinds[i], kinds[j]] / np.linalg.norm(d, axis=1)
    return (4 * epsilon[kinds[i], kinds[j]] * (s**12 - s**6))[s > 1 / 2.5].sum()


def test_relaxations_end_in_their_budget_at_energies_of_the_formula():
    starts = mixtures(3)
    few, many = run("FIRE", POTENTIAL, SYSTEM, starts, 40), run("FIRE", POTENTIAL, SYSTEM, starts, 2000)
    for start, short, long in zip(np.asarray(starts.positions), few, many, strict=True):
        np.testing.assert_allclose([short.energy, long.energy], [energy(short.positions), energy(long.positions)], rtol=1e-9)
        assert energy(start) > short.energy > long.energy
        assert short.evaluations == 40 < long.evaluations < 2000
        assert long.cpu_seconds > 0


def test_what_is_not_there_is_said_in_one_line():
    starts = mixtures(2)
    with pytest.raises(InputError, match='no opponent "annealling"'):
        run("annealling", POTENTIAL, SYSTEM, starts, 1000)
    with pytest.raises(InputError, match="not both"):
        run("FIRE", POTENTIAL, SYSTEM, starts, 1000, 1.0)
    with pytest.raises(InputError, match="at least"):
        run("annealing", POTENTIAL, SYSTEM, starts, 10)
    with pytest.raises(InputError, match="other atoms"):
        run("FIRE", POTENTIAL, SYSTEM, Structure.create(starts.positions, 25 * [A], np.eye(3) * SIDE, None, (True,) * 3), 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_starts_are_searches_of_their_own(name):
    starts, budget = mixtures(3), 1500
    together = run(name, POTENTIAL, SYSTEM, starts, budget, seed=2)
    alone = run(name, POTENTIAL, SYSTEM, starts[:1], budget, seed=2)[0]
    np.testing.assert_allclose(alone.energy, together[0].energy, rtol=1e-9)
    relaxed = run("L-BFGS", POTENTIAL, SYSTEM, starts, 2000)
    for one, plain in zip(together, relaxed, strict=True):
        np.testing.assert_allclose(one.energy, energy(one.positions), rtol=1e-9)
        assert budget - 200 < one.evaluations <= budget
        assert one.energy < plain.energy + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_seconds_are_kept(name):
    (one,) = run(name, POTENTIAL, SYSTEM, mixtures(1), cpu=0.6)
    assert 0.3 < one.cpu_seconds < 0.9
    np.testing.assert_allclose(one.energy, energy(one.positions), rtol=1e-9)
    assert one.evaluations > 3000
