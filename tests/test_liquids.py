"""Start structures of StriderNet's systems against the authors' frames, exact distributions, and sampling written here."""

import numpy as np
import pytest

from thalweg.benchmark.liquids import PUBLISHED, PUBLISHED_GEL, compare, condensed, liquid, neighbours
from thalweg.dynamics.monte_carlo import sample
from thalweg.dynamics.moves import GrandCanonical
from thalweg.errors import InputError
from thalweg.potentials.pair import LennardJones
from thalweg.structure import Structure

PERIODIC = (True, True, True)


def rows(x, i, new, kinds, side):
    """Energies (chains,) of particle i at `new` (chains, 3) with the others of x, by the published definition."""
    epsilon, sigma = np.array([[1, 1.5], [1.5, 0.5]])[kinds[i], kinds], np.array([[1, 0.8], [0.8, 0.88]])[kinds[i], kinds]
    d = new[:, None] - x
    d -= side * np.round(d / side)
    r2 = (d**2).sum(-1)
    r2[:, i] = np.inf
    s6 = (sigma**2 / r2) ** 3
    return np.where(s6 > 2.5**-6, 4 * epsilon * s6 * (s6 - 1), 0).sum(1)


def metropolis(n, kt, chains, sweeps, rng):
    """Energies (chains,) of mixtures after sweeps of single displacements, from a lattice in random order."""
    side, n_b = (n / 1.2) ** (1 / 3), n // 5
    kinds = np.repeat([0, 1], [n - n_b, n_b])
    edge = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * side / edge
    x = np.stack([rng.permutation(grid) for _ in range(chains)])
    for _ in range(sweeps):
        for i in range(n):
            new = x[:, i] + 0.12 * rng.uniform(-1, 1, (chains, 3))
            cost = rows(x, i, new, kinds, side) - rows(x, i, x[:, i], kinds, side)
            good = np.log(rng.uniform(size=chains)) < -cost / kt
            x[good, i] = new[good]
    return np.sum([rows(x, i, x[:, i], kinds, side) for i in range(n)], 0) / 2


@pytest.mark.slow
def test_a_gas_of_at_most_so_many_atoms_has_a_poisson_distribution_cut_there():
    """Ideal, mean 9 without the limit, which most sweeps then meet; slots are as many as the limit and do not grow."""
    nothing, most, mean = LennardJones(epsilon=0.0, cutoff=1.0), 8, 9.0
    empty = Structure.create(np.zeros((64, most, 3)), np.full(most, -1), 3 * np.eye(3), pbc=PERIODIC)
    moves = GrandCanonical(1.0, np.full(64, np.log(mean / 27)), moves=20, displacements=0.0, capacity=most)
    out = sample(empty, nothing, moves, 300, every=3)
    assert out.structures.n_slots == most
    weights = np.cumprod([1, *(mean / np.arange(1, most + 1))])
    shares = np.array([(out.count[10:] == n).mean(0) for n in range(most + 1)])
    error = shares.std(1, ddof=1) / 8
    np.testing.assert_array_less(np.abs(shares.mean(1) - weights / weights.sum()), 4.5 * error + 1e-3)
    assert error.max() < 0.01


def test_neighbours_of_a_crystal():
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fcc = grid[grid.sum(-1) % 2 == 0] * 1.0
    crystal = Structure.create(np.stack([fcc, fcc + 0.4]), np.zeros(len(fcc), int), 6 * np.eye(3), pbc=PERIODIC)
    np.testing.assert_array_equal(neighbours(crystal, 1.5), [12, 12])
    np.testing.assert_array_equal(neighbours(crystal, 2.1), [18, 18])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: liquid("sw63", 1, 0), 'no liquid "sw63". Did you mean "sw64"?'),
        (lambda: liquid("lj4", 1, 0), "lj4 has 4 particles; .* at least 5"),
        (lambda: liquid("lj25", 0, 0), "number of starts is 0"),
        (lambda: compare("lj25", 5, 0), 'no frames of "lj25" were published'),
        (lambda: compare("lj100", 1, 0), "at least 2"),
        (lambda: GrandCanonical(1.0, 0.0, capacity=0).check(), "capacity is 0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_more_starts_leave_the_first_ones_as_they_are():
    """To the last digit, though dynamics is chaotic."""
    made = liquid("lj25", 12, 3)
    np.testing.assert_array_equal(made.structures.positions[:3], liquid("lj25", 3, 3).structures.positions)
    assert np.abs(made.structures.positions[:2] - made.structures.positions[10:]).min(0).max() > 0.1
    assert np.abs(made.energies[:3] - liquid("lj25", 3, 4).energies).min() > 0.1
    assert made.structures.positions.shape == (12, 25, 3)
    np.testing.assert_array_equal(made.structures.numbers[0], made.system.numbers)
    kinds = (np.asarray(made.system.numbers) == 10).astype(int)  # neon is B
    assert kinds.sum() == 5
    side = (25 / 1.2) ** (1 / 3)
    x = np.asarray(made.structures.positions)
    by_hand = sum(rows(x, i, x[:, i], kinds, side) for i in range(25)) / 2
    np.testing.assert_allclose(made.energies, by_hand, rtol=1e-9)


@pytest.mark.slow
def test_the_smallest_mixture_is_that_of_plain_monte_carlo():
    """Cutoffs beyond half the cell and nearest images: no published number; sampled here in NumPy."""
    ours, theirs = liquid("lj25", 300, 0).energies, metropolis(25, 2.0, 300, 300, np.random.default_rng(1))
    error = np.sqrt((ours.var() + theirs.var()) / 300)
    assert error < 1.2
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=4 * np.sqrt(1 / 300))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("lj100", 40), ("sw64", 40), ("c-s-h", 20)])
def test_energies_and_neighbours_are_those_of_the_published_frames(name, count):
    found, known = compare(name, count, 1), PUBLISHED[name]
    assert abs(found["deviation"]) < 4
    assert abs(found["neighbours_deviation"]) < 4
    # A test only if errors are small beside what energies fall by when such structures are relaxed (a tenth and more).
    assert np.hypot(found["error"], found["published_error"]) < 0.03 * abs(known.energy)
    assert 0.6 < found["spread"] / known.spread < 2  # of gel the authors have as much as three independent frames


@pytest.mark.slow
def test_cold_gels_have_as_many_contacts_as_the_published_one():
    """4.37 neighbours within 56 Å in the authors' structure, of which the energy chose the share of displacements here."""
    structures, energies = condensed(2)
    assert np.asarray(structures.mask).sum(-1).tolist() == [152] * len(energies)
    assert abs(energies.mean() - PUBLISHED_GEL) < 4 * energies.std(ddof=1) / np.sqrt(len(energies)) + 1e4
    contacts = neighbours(structures, 56.0)
    assert abs(contacts.mean() - 4.37) < 3 * contacts.std(ddof=1)
