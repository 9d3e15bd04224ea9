"""Monte Carlo against exact distributions: quadrature, enumeration, the ideal gas, and dynamics."""

from math import factorial

import jax
import numpy as np
import pytest

from thalweg.dynamics.driver import lane_keys, simulate
from thalweg.dynamics.ensembles import Langevin
from thalweg.dynamics.monte_carlo import sample
from thalweg.dynamics.moves import GrandCanonical, Metropolis
from thalweg.errors import InputError, StructureError
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import CSHGel, LennardJones, PairPotential
from thalweg.structure import Structure, pad

PERIODIC = (True, True, True)


class Opaque(Potential):
    """A potential of which nobody knows that it is a sum over pairs."""

    inside: Potential

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        return self.inside.lanes(positions, numbers, space, neighbors, virial)

    @property
    def reach(self):
        return self.inside.reach

    def units(self, numbers):
        return self.inside.units(numbers)


class Wrong(PairPotential):
    """A pair potential whose pairs are not what its energy is."""

    cutoff: float = 1.0

    def pair(self, r2):
        return r2 * 1.0

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        return LennardJones(cutoff=1.0).lanes(positions, numbers, space, neighbors, virial)


def box(side, n_atoms, n_lanes, seed=0, numbers=None):
    x = np.random.default_rng(seed).uniform(0, side, (n_lanes, n_atoms, 3))
    return Structure.create(x, numbers, side * np.eye(3), pbc=PERIODIC)


def pair_integral(side, cutoff, kt, points=96):
    """(mean energy, mean of exp(-u/kT)) of two atoms in a cubic box, nearest image, by quadrature over their distance."""
    at = (np.arange(points) + 0.5) / points * side / 2
    r2 = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).ravel()
    s6 = 1 / r2**3
    u = np.where(r2 < cutoff**2, 4 * s6 * (s6 - 1), 0)
    weight = np.exp(-u / kt)
    return (np.where(weight > 0, u, 0) * weight).sum() / weight.sum(), weight.mean()


PAIR = {"side": 3.0, "cutoff": 1.5}


def pairs(potential, kt=None, n_lanes=64, n_sweeps=3000, every=10, **options):
    """Two atoms in a box."""
    kt = np.repeat([0.7, 1.5], n_lanes // 2) if kt is None else kt
    return sample(box(3.0, 2, n_lanes), potential, Metropolis(kt, 0.7), n_sweeps, every=every, **options)


def test_two_atoms_have_their_exact_energy():
    out = pairs(LennardJones(cutoff=1.5))
    assert not out.failed.any()
    for kt, lanes in ((0.7, slice(0, 32)), (1.5, slice(32, 64))):
        exact, _ = pair_integral(kt=kt, **PAIR)
        means = out.energy[30:, lanes].mean(0)
        error = means.std(ddof=1) / np.sqrt(32)
        assert error < 0.05 * abs(exact)
        np.testing.assert_allclose(means.mean(), exact, atol=4 * error)


@pytest.mark.slow
def test_differences_are_those_of_the_whole_energy():
    """The same random numbers make the same chain, whether a trial costs a sum over one atom's pairs or over all.

    The cell is narrower than two cutoffs, so that atoms interact with several images, their own among them.
    """
    mixture = BinaryLennardJones(cutoff=1.4, truncation="shift")
    x = np.random.default_rng(1).uniform(0, 2.2, (3, 5, 3))
    structures = pad(Structure.create(x, [18, 18, 10, 18, 10], 2.2 * np.eye(3), pbc=PERIODIC), 6)
    moves = Metropolis(3.0, 0.2, swaps=5)
    fast = sample(structures, mixture, moves, 20)
    slow = sample(structures, Opaque(mixture), moves, 20)
    assert not fast.failed.any()
    assert all(a.mean() > 0.05 for a in fast.acceptance.values())
    np.testing.assert_allclose(fast.structures.positions, slow.structures.positions, atol=1e-12)
    np.testing.assert_array_equal(fast.structures.numbers, slow.structures.numbers)
    np.testing.assert_allclose(fast.energy, slow.energy, rtol=1e-9)
    np.testing.assert_array_equal(np.sort(fast.structures.numbers), np.sort(structures.numbers))


def test_swaps_sample_every_arrangement_by_its_energy():
    """Five sites that hardly move, two of them B: ten arrangements, enumerated."""
    x = np.random.default_rng(4).normal(size=(5, 3))
    x *= 1.0 / np.sort(np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(5, 1)])[0]
    start = np.array([18, 18, 18, 10, 10])
    kt, lanes = 0.6, 64
    mixture = BinaryLennardJones(cutoff=None)
    out = sample(
        Structure.create(np.broadcast_to(x, (lanes, 5, 3)), start), mixture, Metropolis(kt, 1e-9, swaps=20), 150, frames=True
    )
    np.testing.assert_allclose(out.structures.positions[0], x, atol=1e-6)
    where = [tuple(np.flatnonzero(row == 10)) for row in np.asarray(out.frames.numbers)[10:].reshape(-1, 5)]
    arrangements = [(i, j) for i in range(5) for j in range(i)]
    counts = np.array([sum(set(w) == set(a) for w in where) for a in arrangements]) / len(where)
    every = np.where([[k in a for k in range(5)] for a in arrangements], 10, 18)
    with jax.enable_x64(True):
        energy = np.asarray(mixture.evaluate(Structure.create(np.broadcast_to(x, (10, 5, 3)), every)).energy)
    exact = np.exp(-energy / kt) / np.exp(-energy / kt).sum()
    assert exact.max() > 3 * exact.min()
    np.testing.assert_allclose(counts, exact, atol=0.015)


def test_steps_adapt_to_the_acceptance_asked_for_and_then_stay():
    """Two atoms that cold stay together: long steps are rejected."""
    x = np.broadcast_to(np.array([[0, 0, 0], [1.12, 0, 0]]), (64, 2, 3))
    start = Structure.create(x, cell=3 * np.eye(3), pbc=PERIODIC)
    moves = Metropolis(np.full(64, 0.02), 0.7, target=0.3)
    out = sample(start, LennardJones(cutoff=1.5), moves, 800, equilibration=400, every=20)
    assert (out.step[20] < 0.3).all()
    np.testing.assert_array_equal(out.step[20:], np.broadcast_to(out.step[20], (21, 64)))
    np.testing.assert_allclose(out.acceptance["displacement"][21:].mean(), 0.3, atol=0.05)


def test_alone_in_a_batch_and_without_compiling_again(monkeypatch):
    run = lambda: pairs(LennardJones(cutoff=1.5), kt=np.full(64, 0.7), n_sweeps=20)
    together = run()
    traces, pair = [], LennardJones.pair_and_slope
    monkeypatch.setattr(LennardJones, "pair_and_slope", lambda self, r2: traces.append(1) or pair(self, r2))
    run()
    assert not traces
    single = box(3.0, 2, 64)[5]
    alone = lambda **options: sample(single, LennardJones(cutoff=1.5), Metropolis(0.7, 0.7), 20, every=10, **options)
    one = alone(seed=lane_keys(0, 64)[5:6])
    np.testing.assert_allclose(one.structures.positions, together.structures.positions[5], atol=1e-12)
    traced = len(traces)
    assert traced > 0
    assert np.abs(alone(seed=1).structures.positions - one.structures.positions).max() > 0.1
    sample(single, LennardJones(cutoff=1.4), Metropolis(0.3, 0.1, target=0.2), 700, equilibration=3)
    assert len(traces) == traced


EMPTY = np.zeros((64, 0, 3))


@pytest.mark.slow
def test_ideal_gas_has_a_poisson_distribution():
    """Density exp(mu/kT)/wavelength^3, variance equal to the mean; slots grow from none and change nothing."""
    nothing = LennardJones(epsilon=0.0, cutoff=1.0)
    empty = Structure.create(EMPTY, cell=np.diag([2.0, 3.0, 4.0]), pbc=PERIODIC)
    kt, wavelength, mean = 1.3, 0.7, 15.0
    mu = np.full(64, kt * np.log(mean / 24 * wavelength**3))
    out = sample(empty, nothing, GrandCanonical(kt, mu, wavelength, moves=20), 800, every=10)
    count = out.count[10:]
    error = count.mean(0).std(ddof=1) / 8
    assert error < 0.3
    np.testing.assert_allclose(count.mean(), mean, atol=4 * error)
    np.testing.assert_allclose(count.var(), mean, rtol=0.08)
    np.testing.assert_allclose(out.pressure, out.count * kt / 24)
    assert out.structures.n_slots == 64
    np.testing.assert_array_equal(out.structures.mask.sum(-1), out.count[-1])
    # Atoms stand without holes, and everywhere in the cell.
    np.testing.assert_array_equal(np.sort(out.structures.mask, -1)[:, ::-1], out.structures.mask)
    fraction = out.structures.positions[out.structures.mask] / [2, 3, 4] % 1
    np.testing.assert_allclose(fraction.mean(0), 0.5, atol=4 * np.sqrt(1 / 12 / len(fraction)))


def test_grand_canonical_numbers_are_those_of_the_partition_function():
    """Few Lennard-Jones atoms in a small box: P(N) from configuration integrals, one by quadrature, others by sampling."""
    kt, side, mean = 1.2, 2.0, 0.35
    potential = LennardJones(cutoff=1.0, truncation="cut")
    rng = np.random.default_rng(7)

    def boltzmann(n, samples):
        x = rng.uniform(0, side, (samples, n, 3))
        d = x[:, :, None] - x[:, None]
        d -= side * np.round(d / side)
        r2 = (d**2).sum(-1)[:, *np.triu_indices(n, 1)]
        s6 = 1 / r2**3
        return np.exp(-np.where(r2 < 1, 4 * s6 * (s6 - 1), 0).sum(1) / kt).mean()

    two = pair_integral(side, 1.0, kt)[1]
    np.testing.assert_allclose(two, boltzmann(2, 200_000), rtol=5e-3)
    integrals = np.array([1, 1, two, boltzmann(3, 200_000), boltzmann(4, 200_000)])
    exact = integrals * np.array([mean**n / factorial(n) for n in range(5)])
    exact /= exact.sum()
    assert exact[4] < 2e-4
    out = sample(
        Structure.create(EMPTY, cell=side * np.eye(3), pbc=PERIODIC),
        potential,
        GrandCanonical(kt, np.full(64, kt * np.log(mean / side**3)), moves=20, displacements=0.2),
        1000,
        every=4,
    )
    numbers = np.asarray(out.count)[5:]
    for n in range(4):
        share = (numbers == n).mean(0)
        np.testing.assert_allclose(share.mean(), exact[n], atol=4 * share.std(ddof=1) / 8 + 1e-4, err_msg=f"{n} atoms")


def test_guests_come_and_go_and_hosts_stay():
    """Fixed atoms of the same species are no guests; a mixture's other species is none either."""
    x = np.array([[0.0, 0, 0], [1.5, 1.5, 1.5], [0.5, 2, 2], [2.5, 1, 0]])
    start = Structure.create(x, [18, 10, 18, 18], 4 * np.eye(3), [False, False, True, True], PERIODIC)
    out = sample(start, BinaryLennardJones(cutoff=1.5), GrandCanonical(1.5, -4.0, species=18, moves=20), 60)
    assert not out.failed
    final = out.structures
    assert len(set(out.count)) > 4
    np.testing.assert_array_equal(final.numbers[:3], [10, 18, 18])
    np.testing.assert_array_equal(final.positions[1:3], x[2:])
    np.testing.assert_array_equal(final.fixed[:3], [False, True, True])
    assert np.abs(final.positions[0] - x[1]).max() > 0.1
    assert set(final.numbers[final.mask]) == {10, 18}


def test_too_many_atoms_fail_and_say_so():
    empty = Structure.create(EMPTY, cell=3 * np.eye(3), pbc=PERIODIC)
    mu = np.where(np.arange(64) == 7, 5.0, -2.0)
    out = sample(empty, LennardJones(epsilon=0.0, cutoff=1.0), GrandCanonical(1.0, mu, moves=20, most=40), 40, every=10)
    assert list(np.flatnonzero(out.failed)) == [7]
    assert out.count[-1, 7] > 40
    assert np.isnan(out.energy[-1, 7])
    assert np.isfinite(np.delete(out.energy, 7, 1)).all()
    # With a capacity none come beyond it, and slots are no more than it needs.
    out = sample(
        empty, LennardJones(epsilon=0.0, cutoff=1.0), GrandCanonical(1.0, mu, moves=20, most=40, capacity=30), 40, every=10
    )
    assert not out.failed.any()
    assert out.count[-1, 7] == 30
    assert out.structures.n_slots == 32


def test_energy_that_does_not_follow_its_pairs_is_found_out():
    out = sample(box(1.9, 6, 2), Wrong(), Metropolis(1.0, 0.3), 20)
    assert out.failed.all()


@pytest.mark.slow
def test_kob_andersen_liquid_of_the_published_starts():
    """T = 2, density 1.2, 100 atoms, nearest images: -517.8 +- 2.4, spread 21, in the 80 liquid frames of StriderNet's data.

    Sampling goes on where dynamics ended, and keeps its mean energy and pressure.
    """
    side = (100 / 1.2) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)[:100] * side / 5
    numbers = np.random.default_rng(0).permuted(np.tile([18] * 80 + [10] * 20, (16, 1)), axis=1)
    structures = Structure.create(np.broadcast_to(grid, (16, 100, 3)), numbers, side * np.eye(3), pbc=PERIODIC)
    potential = BinaryLennardJones(minimum_image=True)
    moved = simulate(structures, potential, Langevin(2.0, 1.0), 6000, 0.004, every=20)
    chains = sample(moved.structures, potential, Metropolis(2.0, 0.09, swaps=20), 250, every=5)
    followed, sampled = moved.energy[100:], chains.energy
    errors = [e.mean(0).std(ddof=1) / 4 for e in (followed, sampled)]
    assert max(errors) < 3
    np.testing.assert_allclose(followed.mean(), -517.8, atol=3 * np.hypot(errors[0], 2.4))
    np.testing.assert_allclose(followed.std(), 21.3, atol=4)
    np.testing.assert_allclose(sampled.mean(), followed.mean(), atol=3 * np.hypot(*errors))
    np.testing.assert_allclose(chains.pressure.mean(), moved.pressure[100:].mean(), rtol=0.03)


@pytest.mark.slow
def test_gel_grains_condense_at_two_kt():
    """The C-S-H potential is in kcal/mol and K: bonds of thousands of kT never break, and the box fills."""
    kt = 300 * 1.987204e-3
    empty = Structure.create(np.zeros((0, 3)), cell=300 * np.eye(3), pbc=PERIODIC)
    out = sample(empty, CSHGel(), GrandCanonical(300.0, 2 * kt, 50.0, moves=100, step=1.0), 40)
    assert not out.failed
    assert out.energy[-1] < -20 * 2660
    assert out.count[-1] > 20


ONE = Structure.create(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        (Metropolis(-1.0), "temperature is -1; it must be positive"),
        (Metropolis(0.0), "temperature is 0"),
        (Metropolis(1.0, -0.1), "step is -0.1"),
        (Metropolis(1.0, swaps=-1), "swaps is -1"),
        (Metropolis(np.ones(3)), "temperature has shape"),
        (GrandCanonical(-2.0, 0.0), "temperature is -2"),
        (GrandCanonical(1.0, np.nan), "chemical_potential is nan"),
        (GrandCanonical(1.0, 0.0, -1.0), "wavelength is -1"),
        (GrandCanonical(1.0, 0.0, displacements=1.0), "displacements is 1"),
        (GrandCanonical(1.0, 0.0), "periodic boundaries along all axes"),
    ],
)
def test_bad_input_is_one_line(moves, message):
    with pytest.raises(InputError, match=message) as error:
        sample(ONE, LennardJones(), moves, 1)
    assert "\n" not in str(error.value)


def test_collapsed_cells_and_coincident_atoms():
    with pytest.raises(StructureError, match="collapsed"):
        sample(box(1.0, 2, 1), LennardJones(cutoff=20.0), Metropolis(1.0), 1)
    x = np.zeros((64, 2, 3))
    x[1:, 1] = 1.0
    out = sample(
        Structure.create(x, cell=3 * np.eye(3), pbc=PERIODIC), LennardJones(cutoff=1.5), Metropolis(np.ones(64), 0.7), 1
    )
    np.testing.assert_array_equal(out.failed, np.arange(64) == 0)
    np.testing.assert_array_equal(out.structures.positions[0], 0)
