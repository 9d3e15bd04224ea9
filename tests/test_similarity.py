"""When two clusters are the same minimum: invariances, exactness against all permutations, and the archive built on it."""

from itertools import combinations, permutations

import numpy as np
import pytest
from ase.cluster import Icosahedron, Octahedron
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from thalweg.archive import Archive
from thalweg.errors import StructureError
from thalweg.potentials.pair import LennardJones
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.similarity import fingerprints, rmsd_aligned, same_structure
from thalweg.structure import Structure


def disguised(x, numbers, rng, mirror=None):
    """The same structure turned, moved, perhaps mirrored, its equal atoms exchanged."""
    mirror = rng.random() < 0.5 if mirror is None else mirror
    image = np.empty_like(x)
    for z in np.unique(numbers):
        of = np.flatnonzero(numbers == z)
        image[of] = x[rng.permutation(of)]
    return image @ Rotation.random(rng=rng).as_matrix() * (-1 if mirror else 1) + rng.normal(size=3)


def random_cluster(n, rng):
    """Points in a ball at a density of about one per unit volume, none nearer than 0.3."""
    while True:
        v = rng.normal(size=(n, 3))
        x = v / np.linalg.norm(v, axis=1, keepdims=True) * rng.random((n, 1)) ** (1 / 3) * (0.75 * n ** (1 / 3))
        if n == 1 or pdist(x).min() > 0.3:
            return x


def best_superpositions(a, b, numbers):
    """(rms, max) deviation of every species-keeping permutation and handedness, superposed by SciPy."""
    a, b = a - a.mean(0), b - b.mean(0)
    for order in permutations(range(len(a))):
        if (numbers[list(order)] == numbers).all():
            for image in (b[list(order)], -b[list(order)]):
                turn = Rotation.align_vectors(a, image)[0]
                d2 = ((a - turn.apply(image)) ** 2).sum(1)
                yield np.sqrt(d2.mean()), np.sqrt(d2.max())


SYMMETRIC = {
    "LJ13": Icosahedron("Ar", 2).positions / 3.0,
    "LJ38": Octahedron("Au", 4, 1).positions / 2.9,
    "LJ55": Icosahedron("Ar", 3).positions / 3.0,
    "square": np.array([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]) / 2,
    "hexagon": np.array([[np.cos(t), np.sin(t), 0] for t in np.arange(6) * np.pi / 3]),
    "chain": np.array([[k * 1.1, 0, 0] for k in range(7)]),
    "tetrahedron": np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 2.8,
    "dimer": np.array([[0.0, 0, 0], [1.1, 0, 0]]),
    "atom": np.zeros((1, 3)),
}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_disguised_random_clusters_are_the_same(n, n_species, seed):
    rng = np.random.default_rng(seed)
    x, numbers = random_cluster(n, rng), rng.integers(0, n_species, n)
    y = disguised(x, numbers, rng)
    prints = fingerprints(np.stack([x, y]), numbers)
    np.testing.assert_allclose(prints[0], prints[1], atol=1e-6 * np.abs(x).max() + 1e-9)
    assert same_structure(x, y, numbers, 1e-4)
    assert rmsd_aligned(x, y, numbers) < 1e-6
    # Noise of 1e-3 (each atom at most that far) stays within the screen's and the exact tolerance.
    noise = rng.normal(size=x.shape)
    y = y + 1e-3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert np.abs(fingerprints(y[None], numbers)[0] - prints[0]).max() < 0.01
    assert same_structure(x, y, numbers, 0.01)
    assert rmsd_aligned(x, y, numbers) < 1e-3 + 1e-9


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_clusters(name):
    x, rng = SYMMETRIC[name], np.random.default_rng(0)
    numbers = np.zeros(len(x), int)
    for _ in range(10):
        noise = 0.01 * rng.uniform(-1, 1, x.shape)
        y = disguised(x + noise, numbers, rng)
        assert same_structure(x, y, numbers, 0.04)
        assert same_structure(y, x, numbers, 0.04)
        assert rmsd_aligned(x, y, numbers) <= np.sqrt((noise**2).sum(1).mean()) + 1e-9
    if len(x) > 2:  # one atom out of its place
        y, outward = x.copy(), x[-1] - x.mean(0)
        y[-1] += 0.2 * outward / np.linalg.norm(outward)
        y = disguised(y, numbers, rng)
        assert not same_structure(x, y, numbers, 0.04)
        assert rmsd_aligned(x, y, numbers) > 0.01
        assert np.abs(np.diff(fingerprints(np.stack([x, y]), numbers), axis=0)).max() > 0.03


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_agrees_with_all_permutations_when_it_is_a_close_call(n):
    """Deviations about as large as the tolerance: exactly those within it, of all permutations, are the same."""
    rng = np.random.default_rng(n)
    verdicts = []
    for _ in range(20):
        numbers = rng.integers(0, 2, n)
        x = random_cluster(n, rng)
        y = disguised(x + 0.04 * rng.normal(size=x.shape), numbers, rng)
        rms, largest = np.array(list(best_superpositions(x, y, numbers))).T
        verdicts.append(largest.min() <= 0.06)
        assert same_structure(x, y, numbers, 0.06) == verdicts[-1]
        np.testing.assert_allclose(rmsd_aligned(x, y, numbers), rms.min(), atol=1e-7)
    assert n == 2 or 3 <= sum(verdicts) <= 17  # both answers occur


def test_rmsd_of_different_structures_is_never_below_the_true_one():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(10):
        x, y, numbers = random_cluster(5, rng), random_cluster(5, rng), np.array([0, 0, 0, 1, 1])
        truth = min(rms for rms, _ in best_superpositions(x, y, numbers))
        found.append(rmsd_aligned(x, y, numbers) / truth)
    assert min(found) > 1 - 1e-7
    assert np.median(found) < 1.05


def test_enantiomers_are_the_same_minimum():
    x = np.array([[0, 0, 0], [1, 0, 0], [0, 1.2, 0], [0, 0, 1.5], [1.4, 0.3, 0.6]])
    numbers = np.array([6, 1, 9, 17, 35])  # all different: a chiral molecule
    rng = np.random.default_rng(0)
    y = disguised(x, numbers, rng, mirror=True)
    turned, _ = Rotation.align_vectors(x - x.mean(0), y - y.mean(0))
    assert np.abs(turned.apply(y - y.mean(0)) - (x - x.mean(0))).max() > 0.2  # no rotation alone does it
    assert same_structure(x, y, numbers, 1e-3)
    assert rmsd_aligned(x, y, numbers) < 1e-9
    np.testing.assert_allclose(*fingerprints(np.stack([x, y]), numbers), atol=1e-9)


def test_species_tell_homotops_apart():
    x = SYMMETRIC["LJ13"]
    centre = int(np.linalg.norm(x - x.mean(0), axis=1).argmin())
    shell = [k for k in range(13) if k != centre]
    numbers = np.full(13, 47)
    numbers[0] = 79  # the first species list; positions are permuted so that its slot lies elsewhere
    place = lambda atom: np.concatenate([x[[atom]], np.delete(x, atom, axis=0)])
    rng = np.random.default_rng(1)
    one, other, core = place(shell[0]), disguised(place(shell[5]), numbers, rng), place(centre)
    assert same_structure(one, other, numbers, 0.01)  # any vertex of the icosahedron is like any other
    assert not same_structure(one, core, numbers, 0.01)
    prints = fingerprints(np.stack([one, other, core]), numbers)
    assert np.abs(prints[0] - prints[1]).max() < 1e-9
    assert np.abs(prints[0] - prints[2]).max() > 0.1
    chain = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    numbers = np.array([1, 1, 8])
    assert same_structure(chain, [[0.0, 3, 0], [0, 2, 0], [0, 1, 0]], numbers, 0.01)  # H-H-O, lying otherwise
    assert not same_structure(chain, chain[[0, 2, 1]], numbers, 0.01)  # H-H-O is not H-O-H


def test_isomers_of_the_surface_are_told_apart():
    """An icosahedron without three of its twelve corners: five different clusters, whichever corners they are."""
    x = SYMMETRIC["LJ55"]
    corners = np.argsort(np.linalg.norm(x - x.mean(0), axis=1))[-12:]
    made = np.stack([np.delete(x, list(gone), axis=0) for gone in combinations(corners, 3)])
    _, kind = np.unique(np.round([np.sort(pdist(y)) for y in made], 6), axis=0, return_inverse=True)
    kind = kind.ravel()  # NumPy 2.0 gave it the shape of the rows
    first = [int(np.flatnonzero(kind == k)[0]) for k in range(kind.max() + 1)]
    assert 4 <= len(first) <= 6
    numbers = np.zeros(52, int)
    prints = fingerprints(made, numbers)
    apart = np.abs(prints[:, None] - prints[first]).max(-1)
    assert apart[kind[:, None] == np.arange(len(first))].max() < 1e-6
    assert apart[kind[:, None] != np.arange(len(first))].min() > 0.03
    for k, y in enumerate(made[::20]):
        assert [same_structure(y, made[f], numbers, 0.05) for f in first] == [kind[20 * k] == c for c in range(len(first))]


def test_flat_and_straight_shapes_that_differ():
    numbers = np.zeros(4, int)
    square, rng = SYMMETRIC["square"], np.random.default_rng(0)
    bent = square + np.array([[0, 0, 0.2], [0, 0, -0.2], [0, 0, -0.2], [0, 0, 0.2]])
    rhombus = square @ np.array([[1, 0.2, 0], [0.2, 1, 0], [0, 0, 1]])
    for other in (bent, rhombus):
        assert not same_structure(square, disguised(other, numbers, rng), numbers, 0.05)
        assert same_structure(other, disguised(other, numbers, rng), numbers, 0.05)
    chain = SYMMETRIC["chain"][:4]
    zigzag = chain + np.array([[0, 0.2, 0], [0, -0.2, 0]] * 2)
    assert not same_structure(chain, disguised(zigzag, numbers, rng), numbers, 0.05)
    assert not same_structure(zigzag, disguised(chain, numbers, rng), numbers, 0.05)
    dimer = SYMMETRIC["dimer"]
    assert not same_structure(dimer, 1.15 * dimer, np.zeros(2, int), 0.05)
    assert same_structure(dimer, 1.05 * dimer, np.zeros(2, int), 0.05)


def test_padding_is_left_out_and_bad_input_is_named():
    x, rng = SYMMETRIC["LJ13"], np.random.default_rng(0)
    padded = np.concatenate([x, rng.normal(size=(3, 3))])
    numbers = np.r_[np.zeros(13, int), [-1] * 3]
    np.testing.assert_allclose(fingerprints(padded[None], numbers), fingerprints(x[None], numbers[:13]))
    again = np.concatenate([disguised(x, numbers[:13], rng), rng.normal(size=(3, 3))])
    assert same_structure(padded, again, numbers, 0.01)
    assert fingerprints(np.zeros((0, 13, 3)), numbers[:13]).shape == fingerprints(x[None], numbers[:13])[:0].shape
    with pytest.raises(StructureError, match="need \\(structures, 4, 3\\)"):
        fingerprints(x[None], np.zeros(4))
    with pytest.raises(StructureError, match="without atoms"):
        fingerprints(x[None], np.full(13, -1))
    with pytest.raises(StructureError, match="cannot compare"):
        same_structure(x, x[:5], numbers[:13], 0.1)
    assert not same_structure(x, np.full_like(x, np.nan), numbers[:13], 0.1)


@pytest.fixture(scope="module")
def minima():
    """Relaxations of 300 random LJ13 starts: loose (fmax 0.01, float32) and polished, and which polished ones are alike.

    Alike is decided without the code under test: energies and sorted pair distances agree.
    """
    rng = np.random.default_rng(0)
    x = np.stack([random_cluster(13, rng) for _ in range(300)]) * 1.1
    loose = relax(Structure.create(x), Relaxation(LennardJones(), LBFGS(), fmax=1e-2))
    polished = relax(loose.structures, Relaxation(LennardJones(), LBFGS(), fmax=1e-9))
    assert polished.converged.mean() > 0.95
    ok = polished.converged & (loose.energy - polished.energy < 5e-4)
    energies, positions = polished.energy[ok], polished.structures.positions[ok]
    lists = np.stack([np.sort(pdist(p)) for p in positions])
    apart = np.abs(lists[:, None] - lists).max(-1)
    alike = (np.abs(energies[:, None] - energies) < 1e-6) & (apart < 1e-3)
    group = alike.argmax(1)  # the first structure that is alike
    rough = loose.energy[ok].astype(np.float32), loose.structures.positions[ok].astype(np.float32)
    return rough, energies, positions, group


def test_nearly_degenerate_minima_are_told_apart(minima):
    _, energies, positions, group = minima
    numbers = np.zeros(13, int)
    first = np.unique(group)
    assert len(first) > 60
    prints = fingerprints(positions, numbers)
    close = [(i, j) for i in first for j in first if i < j and abs(energies[i] - energies[j]) < 5e-3]
    assert len(close) >= 5
    for i, j in close[:20]:
        assert not same_structure(positions[i], positions[j], numbers, 0.05)
        assert np.abs(prints[i] - prints[j]).max() > 0.03
        assert rmsd_aligned(positions[i], positions[j], numbers) > 0.05
    repeats = [k for k in range(len(group)) if group[k] != k]
    assert len(repeats) > 50
    for k in repeats[:60]:
        assert same_structure(positions[group[k]], positions[k], numbers, 0.01)
    for k in repeats[:10]:
        assert rmsd_aligned(positions[group[k]], positions[k], numbers) < 1e-3


def test_archive_holds_each_minimum_once_with_its_hits(minima):
    (rough_energies, rough_positions), energies, positions, group = minima
    k = len(energies)
    walkers, runs = np.arange(k) % 7, np.arange(k) // 100
    archive = Archive(np.zeros(13, int))
    ids = archive.add(energies, positions, walkers, runs, ["random"] * k, evaluations=np.arange(k) * 100, seconds=1.0)
    assert (ids >= 0).all()
    _, expected = np.unique(group, return_inverse=True)
    _, found = np.unique(ids, return_inverse=True)
    # The same partition: each id meets one group, each group one id.
    assert len(np.unique(np.stack([expected, found]), axis=1).T) == len(archive) == len(np.unique(group))
    lowest = archive.best
    assert lowest.energy == pytest.approx(-44.326801, abs=1e-6)  # Cambridge Cluster Database
    mine = ids == lowest.id
    assert lowest.hits == mine.sum()
    assert lowest.independent_hits == len(set(zip(walkers[mine], runs[mine], strict=True)))
    assert lowest.evaluations == 100 * int(np.flatnonzero(mine)[0])
    assert [r.energy for r in archive] == sorted(energies[np.unique(group)])
    # The screen recognises every loose relaxation, and as the right one.
    np.testing.assert_array_equal(archive.known(rough_energies, rough_positions), ids)


def test_archive_screen_knows_nothing_it_was_not_given(minima):
    (rough_energies, rough_positions), energies, positions, group = minima
    archive = Archive(np.zeros(13, int))
    np.testing.assert_array_equal(archive.known(rough_energies, rough_positions), -1)
    rarest = np.flatnonzero(group == np.arange(len(group)))[::2]  # every other minimum
    archive.add(energies[rarest], positions[rarest], 0, 0, ["a"] * len(rarest))
    given = np.isin(group, rarest)
    known = archive.known(rough_energies, rough_positions)
    assert (known[~given] == -1).all()
    assert (known[given] >= 0).all()
    assert (archive.known(rough_energies + 0.01, rough_positions) != known)[given].all()  # the energy counts too
    strange = np.array([np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(archive.known(strange, rough_positions[:3]), -1)
    np.testing.assert_array_equal(archive.add(strange, positions[:3], 0, 0, ["a"] * 3), -1)


def chains(n):
    """Archive, and the positions of n chains of ever longer bonds: simple structures that all differ."""
    x = np.zeros((n, 4, 3))
    x[:, :, 0] = np.arange(4) * (1 + 0.2 * np.arange(n)[:, None])
    return x


def test_archive_keeps_the_lowest_and_says_what_changed():
    archive, x = Archive(np.zeros(4, int), keep=3), chains(6)
    energies = np.array([-1.0, -5.0, -3.0, -4.0, -0.5, -6.0])
    assert archive.threshold == np.inf
    ids = archive.add(energies[:3], x[:3], [0, 1, 2], [0, 0, 0], ["a", "b", "c"], seconds=[1, 2, 3])
    np.testing.assert_array_equal(ids, [0, 1, 2])
    assert archive.threshold == -1.0
    assert [(r.id, r.origin, r.seconds) for r in archive.dirty] == [(1, "b", 2.0), (2, "c", 3.0), (0, "a", 1.0)]
    archive.clean()
    assert archive.dirty == []
    np.testing.assert_array_equal(archive.add(energies[3:], x[3:], 0, 0, ["d"] * 3), [3, -1, 4])
    assert [r.id for r in archive] == [4, 1, 3]
    assert [r.id for r in archive.dirty] == [4, 3]
    assert archive.dropped == [0, 2]  # the one at -0.5 never entered
    assert archive.threshold == -4.0
    archive.clean()
    archive.hit([1, 1, 0, -1, 1, 1], [1, 1, 9, 9, 1, 2], [0, 1, 0, 0, 1, 0])  # 0 was dropped; walker 1, run 0 found it
    assert [r.id for r in archive.dirty] == [1]
    assert (archive[1].hits, archive[1].independent_hits) == (5, 3)
    # A duplicate below is a hit, and the better converged copy is the one kept.
    np.testing.assert_array_equal(archive.add([-5.00001], x[1:2] + 1e-4, 3, 0, ["e"]), [1])
    assert (archive[1].energy, archive[1].hits, archive[1].origin) == (-5.00001, 6, "b")
    assert len(archive) == 3


def test_archive_goes_on_exactly_after_restore(minima):
    _, energies, positions, _ = minima
    half, k = len(energies) // 2, len(energies)
    walkers, runs = np.arange(k) % 7, np.arange(k) // 100
    whole, before = (Archive(np.r_[np.zeros(13, int), -1], keep=25) for _ in range(2))
    after = Archive(np.zeros(13, int), keep=25)
    part = lambda archive, s: archive.add(energies[s], positions[s], walkers[s], runs[s], ["a"] * len(energies[s]))
    whole_ids = np.concatenate([part(whole, slice(0, half)), part(whole, slice(half, k))])
    part(before, slice(0, half))
    after.restore(list(before), before.state())
    assert after.dirty == []
    np.testing.assert_array_equal(part(after, slice(half, k)), whole_ids[half:])
    summary = lambda archive: [(r.id, r.energy, r.hits, r.independent_hits, r.walker, r.run) for r in archive]
    assert summary(after) == summary(whole)
    with pytest.raises(StructureError, match="make a new one"):
        after.restore([], before.state())
