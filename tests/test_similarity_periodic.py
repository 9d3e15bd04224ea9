"""When two periodic structures are the same minimum: crystals, glasses, slabs and chains, in fixed and variable cells."""

from itertools import permutations, product

import numpy as np
import pytest
from ase.build import bulk, fcc111, graphene
from ase.geometry import get_distances, minkowski_reduce
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from thalweg.archive import Archive
from thalweg.similarity import fingerprints, labels, same_structure, wrapped
from thalweg.similarity.lattice import Lattice, isometries, reduced

FULL, SLAB, CHAIN = (True, True, True), (True, True, False), (True, False, False)
CELLS = {
    "cubic": np.eye(3) * 4.4,
    "orthorhombic": np.diag([4.0, 4.7, 5.3]),
    "hexagonal": np.array([[4.6, 0, 0], [-2.3, 2.3 * 3**0.5, 0], [0, 0, 5.0]]),
    "triclinic": np.array([[4.5, 0, 0], [1.0, 4.4, 0], [-0.7, 1.3, 4.8]]),
}
#: Orders of the point groups of these lattices.
ORDERS = {"cubic": 48, "orthorhombic": 8, "hexagonal": 24, "triclinic": 2}


def glass(n, cell, pbc, rng, nearest=0.72, height=None):
    """Random atoms in a cell, none nearer than `nearest` to another image; along free axes within `height`."""
    placed = np.zeros((0, 3))
    while len(placed) < n:
        f = rng.random(3)
        x = f @ cell
        if not len(placed) or get_distances(x[None], placed, cell, pbc)[1].min() > nearest:
            placed = np.concatenate([placed, [x]])
    return placed


def disguised(x, numbers, cell, pbc, rng, turn=True):
    """The same structure: operated on by the lattice's symmetry, moved, wrapped, its equal atoms exchanged.

    With `turn` the whole, cell included, is turned in space as well. Returns positions and cell.
    """
    lattice = Lattice.of(cell, pbc)
    frames = isometries(lattice, lattice, 1e-6)
    y = x @ np.linalg.inv(frames[rng.integers(len(frames))]) @ lattice.frame + rng.normal(size=3) * 5
    image = np.empty_like(y)
    for z in np.unique(numbers):
        of = np.flatnonzero(numbers == z)
        image[of] = y[rng.permutation(of)]
    image = wrapped(image + rng.integers(-2, 3, (len(x), 3)) * np.array(pbc) @ cell, cell, pbc)
    if not turn:
        return image, cell
    turn = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    return image @ turn, cell @ turn


def other_cell(cell, pbc, rng):
    """Vectors of the same lattice chosen otherwise."""
    vectors = cell.copy()
    for _ in range(4):
        i, j = rng.permutation(np.flatnonzero(pbc))[:2] if sum(pbc) > 1 else (0, 0)
        if i != j:
            vectors[i] += rng.choice([-1, 1]) * vectors[j]
    return vectors


def jostled(x, e, rng):
    """Every atom moved by `e`."""
    step = rng.normal(size=x.shape)
    return x + e * step / np.linalg.norm(step, axis=1, keepdims=True)


@pytest.mark.parametrize("name", CELLS)
def test_point_operations_of_lattices(name):
    rng = np.random.default_rng(0)
    lattice = Lattice.of(other_cell(CELLS[name], FULL, rng), FULL)
    frames = isometries(lattice, lattice, 1e-6)
    assert len(frames) == ORDERS[name]
    np.testing.assert_allclose(
        frames @ frames.transpose(0, 2, 1), np.broadcast_to(lattice.frame @ lattice.frame.T, (len(frames), 3, 3)), atol=1e-9
    )
    assert lattice.volume == pytest.approx(abs(np.linalg.det(CELLS[name])))


@pytest.mark.parametrize(("lattice", "order"), [("fcc", 48), ("bcc", 48), ("hcp", 24), ("diamond", 48)])
def test_point_operations_of_primitive_cells(lattice, order):
    """Orders of the holohedries m-3m and 6/mmm."""
    one = Lattice.of(bulk("X", lattice, a=3.0, **({"c": 5.2} if lattice == "hcp" else {})).cell.array, FULL)
    assert len(isometries(one, one, 1e-6)) == order


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_reduced_vectors_are_as_short_as_those_of_ase(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 3
    for _ in range(6):
        i, j = rng.permutation(3)[:2]
        cell[i] += rng.integers(-3, 4) * cell[j]
    mine = reduced(cell)
    np.testing.assert_allclose(
        np.linalg.norm(mine, axis=1), np.sort(np.linalg.norm(minkowski_reduce(cell)[0], axis=1)), rtol=1e-9
    )
    whole = cell @ np.linalg.inv(mine)
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-6)


@pytest.mark.parametrize("pbc", [FULL, SLAB, CHAIN])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("n_species", [1, 2])
def test_disguised_structures_are_the_same(name, pbc, n_species):
    rng = np.random.default_rng(len(name) + 10 * n_species + sum(pbc))
    cell = CELLS[name]
    for n in (1, 2, 5, 30, 64):
        numbers = np.sort(rng.integers(0, n_species, n))
        x = glass(n, cell, pbc, rng)
        base = fingerprints(x[None], numbers, cell, pbc)[0]
        for turn in (False, True):
            y, turned = disguised(x, numbers, cell, pbc, rng, turn)
            prints = fingerprints(y[None], numbers, turned, pbc)[0]
            np.testing.assert_allclose(prints, base, rtol=0, atol=1e-9)
            other = turned if turn else None
            assert same_structure(x, y, numbers, 1e-4, cell, pbc, other)
            y = jostled(y, 1e-3, rng)
            assert np.abs(fingerprints(y[None], numbers, turned, pbc)[0] - base).max() < 0.01
            assert same_structure(x, y, numbers, 0.003, cell, pbc, other)
            if n > 2:
                assert not same_structure(x, jostled(y, 0.05, rng), numbers, 0.01, cell, pbc, other)
        chosen = other_cell(cell, pbc, rng)
        moved = wrapped(x + 1.3, chosen, pbc)
        np.testing.assert_allclose(fingerprints(moved[None], numbers, chosen, pbc)[0], base, rtol=0, atol=1e-9)
        assert same_structure(x, moved, numbers, 1e-4, cell, pbc, chosen)


def test_agrees_with_all_permutations_when_it_is_a_close_call():
    """Deviations about as large as the tolerance, in a cell whose point operations are written down here: sign changes
    of the axes. Exactly what some permutation lays within it is the same."""
    cell, verdicts = CELLS["orthorhombic"], []
    operations = [np.diag(s) for s in product((1.0, -1.0), repeat=3)]
    for seed in range(24):
        rng = np.random.default_rng(seed)
        numbers = np.array([0, 0, 0, 1])
        x = glass(4, cell, FULL, rng)
        y, _ = disguised(x + 0.035 * rng.normal(size=x.shape), numbers, cell, FULL, rng, turn=False)
        best = np.inf
        for operation in operations:
            for order in permutations(range(3)):
                z = y[[*order, 3]] @ operation
                gaps = z - x - (z[3] - x[3])
                gaps -= np.round(gaps / np.diag(cell)) * np.diag(cell)
                best = min(best, np.linalg.norm(gaps - gaps.mean(0), axis=1).max())
        verdicts.append(best <= 0.07)
        assert same_structure(x, y, numbers, 0.07, cell, FULL) == verdicts[-1]
    assert 4 <= sum(verdicts) <= 20


def test_silicon_and_its_defects():
    """Perfect, with an atom in a hole, with other species: where a defect is does not matter, which it is does."""
    crystal, rng = bulk("Si", "diamond", a=5.431, cubic=True).repeat(2), np.random.default_rng(0)
    cell, n, bond = crystal.cell.array, len(crystal), 2.352
    numbers = np.full(n, 14)
    x = crystal.positions

    def interstitial(atom, at):
        y = x.copy()
        y[atom] = at
        return y

    # A tetrahedral hole next to the vacancy, and one far from it.
    hole = x[0] + 5.431 / 2
    near, far = interstitial(1, hole), interstitial(40, hole)
    y, _ = disguised(x, numbers, cell, FULL, rng, turn=False)
    assert same_structure(x, y, numbers, 0.05, cell, FULL)
    for one, other in ((x, near), (x, far), (near, far)):
        prints = fingerprints(np.stack([one, other]), numbers, cell, FULL, bond)
        assert np.abs(prints[0] - prints[1]).max() > 0.1
        assert not same_structure(one, disguised(other, numbers, cell, FULL, rng, turn=False)[0], numbers, 0.1, cell, FULL)
    for _ in range(4):  # the same defect elsewhere
        there, _ = disguised(near, numbers, cell, FULL, rng, turn=False)
        assert same_structure(near, there, numbers, 0.05, cell, FULL)
    # One substituted atom: all sites of the crystal are alike. Two: only at equal distances.
    one, pair = np.full(n, 14), np.full(n, 14)
    one[0], pair[:2] = 32, 32
    swapped = lambda *to: x[[*to, *(k for k in range(n) if k not in to)]]
    assert same_structure(swapped(0), swapped(37), one, 0.05, cell, FULL)
    d = crystal.get_all_distances(mic=True)[0]
    first, second = (int(np.flatnonzero(np.isclose(d, r, atol=0.01))[0]) for r in (2.352, 3.840))
    again = int(np.flatnonzero(np.isclose(crystal.get_all_distances(mic=True)[9], 2.352, atol=0.01))[1])
    assert same_structure(swapped(0, first), swapped(9, again), pair, 0.05, cell, FULL)
    assert not same_structure(swapped(0, first), swapped(0, second), pair, 0.05, cell, FULL)


def supercell(atoms, matrix):
    """A crystal in the cell of integer combinations of its vectors."""
    from ase.build import make_supercell

    made = make_supercell(atoms, np.array(matrix))
    return made.positions, made.numbers, made.cell.array


@pytest.mark.parametrize(
    "crystal", [bulk("Ar", "fcc", a=1.55), bulk("Si", "diamond", a=5.431), bulk("Mg", "hcp", a=3.2, c=5.2)]
)
def test_supercells_of_one_crystal_are_the_same(crystal):
    """Four cells in a row, in a plane, and in two sheared ways; the crystal with one atom displaced is another."""
    bond, rng = np.sort(np.linalg.norm(get_distances(crystal.repeat(4).positions)[0][0], axis=1))[1], np.random.default_rng(0)
    choices = ([[4, 0, 0], [0, 1, 0], [0, 0, 1]], [[2, 0, 0], [0, 2, 0], [0, 0, 1]], [[1, 1, 0], [-1, 3, 1], [0, 0, 1]])
    made = [supercell(crystal, m) for m in choices]
    numbers = made[0][1]
    prints = [fingerprints(x[None], numbers, cell, FULL, bond)[0] for x, _, cell in made]
    for k, (x, _, cell) in enumerate(made):
        np.testing.assert_allclose(prints[k], prints[0], rtol=0, atol=1e-9)
        y, turned = disguised(x, numbers, cell, FULL, rng)
        assert same_structure(made[0][0], jostled(y, 0.003 * bond, rng), numbers, 0.05 * bond, made[0][2], FULL, turned)
        y[0] += 0.4 * bond
        assert not same_structure(made[0][0], y, numbers, 0.05 * bond, made[0][2], FULL, turned)


def test_stackings_differ_and_strained_cells_too():
    """fcc and hcp at equal bonds have the same first shell; a cell strained by 5 % is another minimum, by 0.1 % not."""
    fcc, hcp = bulk("Ar", "fcc", a=2**0.5), bulk("Ar", "hcp", a=1.0, c=(8 / 3) ** 0.5)
    x, numbers, cell = supercell(fcc, np.diag([2, 1, 1]))
    prints = [fingerprints(p[None], numbers, c, FULL)[0] for p, c in ((x, cell), (hcp.positions, hcp.cell.array))]
    assert np.abs(prints[0] - prints[1]).max() > 0.05
    assert not same_structure(x, hcp.positions, numbers, 0.05, cell, FULL, hcp.cell.array)
    rng = np.random.default_rng(1)
    cell, numbers = CELLS["triclinic"], np.zeros(20, int)
    x = glass(20, cell, FULL, rng)
    for strain, same in ((0.001, True), (0.05, False)):
        matrix = np.eye(3) + strain * np.array([[1, 0.3, 0], [0.3, -0.5, 0], [0, 0, 0.2]])
        y, turned = disguised(x @ matrix, numbers, cell @ matrix, FULL, rng)
        assert same_structure(x, y, numbers, 0.05, cell, FULL, turned) == same


def test_slabs_lie_either_way_up_and_anywhere_along_their_normal():
    slab = fcc111("Cu", (3, 3, 3), vacuum=6.0)
    slab.pbc = SLAB
    x, cell, rng = slab.positions, slab.cell.array, np.random.default_rng(2)
    numbers = np.full(27, 29)
    low = slab.positions[:, 2].argmin()
    gap = x.copy()  # an adatom made of a surface atom, on either side
    gap[-1] += [0, 0, 2.0]
    under = x.copy()
    under[low] -= [0, 0, 2.0]
    assert same_structure(gap, disguised(gap, numbers, cell, SLAB, rng, turn=False)[0], numbers, 0.05, cell, SLAB)
    assert same_structure(gap, under, numbers, 0.05, cell, SLAB)
    assert not same_structure(x, gap, numbers, 0.1, cell, SLAB)
    # With the lower layer fixed the two sides are no longer alike, while the places of one side still are.
    fixed = x[:, 2] < x[:, 2].min() + 0.1
    told = labels(numbers, fixed)
    elsewhere = x.copy()
    elsewhere[-2] += [0, 0, 2.0]
    assert not same_structure(gap, under, told, 0.05, cell, SLAB)
    assert same_structure(gap, elsewhere, told, 0.05, cell, SLAB)
    prints = fingerprints(np.stack([gap, elsewhere, under]), told, cell, SLAB, 2.55)
    np.testing.assert_allclose(prints[0], prints[1], atol=1e-9)
    assert np.abs(prints[0] - prints[2]).max() > 0.05
    flat = graphene(size=(3, 3, 1), vacuum=None)
    y, turned = disguised(flat.positions, flat.numbers, flat.cell.array + np.diag([0, 0, 9.0]), SLAB, rng)
    assert same_structure(flat.positions, y, flat.numbers, 0.01, flat.cell.array, SLAB, turned)


def test_chains_turn_about_their_axis():
    """A zigzag, a helix and its mirror image, in a cell along an oblique axis."""
    rng = np.random.default_rng(3)
    t = np.arange(6) * np.pi / 3
    helix = np.stack([np.arange(6) * 0.5, 1.1 * np.cos(t), 1.1 * np.sin(t)], 1)
    zigzag = np.stack([np.arange(6) * 0.5, 0.4 * (-1.0) ** np.arange(6), np.zeros(6)], 1)
    numbers, cell = np.zeros(6, int), np.diag([3.0, 1, 1])
    for x in (helix, zigzag):
        about = Rotation.from_rotvec([rng.uniform(0, 6), 0, 0]).as_matrix()
        y, turned = disguised(x @ about, numbers, cell, CHAIN, rng)
        assert same_structure(x, y, numbers, 1e-3, cell, CHAIN, turned)
        assert same_structure(x, x * [1, 1, -1], numbers, 1e-3, cell, CHAIN)
    assert not same_structure(helix, zigzag, numbers, 0.1, cell, CHAIN)
    bent = helix + 0.2 * rng.normal(size=(6, 3))
    assert not same_structure(helix, bent, numbers, 0.1, cell, CHAIN)
    numbers = np.array([1, 1, 2, 2, 3, 3])
    assert not same_structure(helix, helix[[0, 2, 1, 3, 4, 5]], numbers, 0.1, cell, CHAIN)


def test_fixed_atoms_of_a_cluster_keep_what_is_free_apart():
    square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    numbers, fixed = np.zeros(4, int), np.array([True, True, False, False])
    side, far = square.copy(), square.copy()
    side[1] += [0.3, 0, 0]  # a fixed atom out of line ...
    far[2] += [0.3, 0, 0]  # ... and a free one: the same shape, mirrored
    assert same_structure(side, far, numbers, 0.01)
    assert not same_structure(side, far, labels(numbers, fixed), 0.01)
    np.testing.assert_array_equal(labels([5, -1, 5], [False, True, False]), [5, -1, 5])


def test_padding_and_bad_numbers():
    cell, rng = CELLS["cubic"], np.random.default_rng(0)
    x = glass(10, cell, FULL, rng)
    numbers = np.r_[np.zeros(10, int), [-1] * 2]
    padded = np.concatenate([x, rng.normal(size=(2, 3))])
    np.testing.assert_allclose(fingerprints(padded[None], numbers, cell, FULL), fingerprints(x[None], numbers[:10], cell, FULL))
    assert same_structure(padded, np.concatenate([x, x[:2]]), numbers, 0.01, cell, FULL)
    assert not same_structure(x, np.full_like(x, np.nan), numbers[:10], 0.1, cell, FULL)
    empty = fingerprints(np.zeros((0, 10, 3)), numbers[:10], cell, FULL)
    assert empty.shape == (0, fingerprints(x[None], numbers[:10], cell, FULL).shape[1])


def test_wrapping_keeps_fixed_atoms_and_free_axes():
    cell = CELLS["triclinic"]
    x = np.array([[9.0, -3, 20], [-1e-12, 0, 0], [9.0, -3, 20]])
    out = wrapped(x, cell, SLAB, fixed=[False, False, True])
    f = out @ np.linalg.inv(cell)
    assert (f[:2, :2] > -1e-6).all()
    assert (f[:2, :2] < 1 - 1e-6).all()
    np.testing.assert_allclose(out[1], x[1], atol=1e-9)
    np.testing.assert_array_equal(out[2], x[2])
    np.testing.assert_allclose(f[0, 2], (x @ np.linalg.inv(cell))[0, 2])


def test_archive_of_a_periodic_system():
    """Equal minima in other words are hits, in a fixed cell and with cells of their own; what is kept is in the cell."""
    rng, cell = np.random.default_rng(4), CELLS["hexagonal"]
    numbers = np.array([0] * 20 + [1] * 5)
    x = [glass(25, cell, FULL, rng) for _ in range(3)]
    for moving in (False, True):
        archive = Archive(numbers, cell=cell, pbc=FULL)
        seen = [disguised(y, numbers, cell, FULL, rng, turn=moving) for y in [*x, *x]]
        positions, cells = (np.stack(part) for part in zip(*seen, strict=True))
        cells = cells if moving else None
        energies = np.array([-1.0, -1.0, -2.0] * 2)
        ids = archive.add(energies, positions, 0, np.arange(6), ["a"] * 6, cells=cells)
        np.testing.assert_array_equal(ids, [0, 1, 2, 0, 1, 2])
        assert [r.hits for r in archive] == [2, 2, 2]
        loose = positions + 1e-3 * rng.normal(size=positions.shape)
        known = archive.known(energies.astype(np.float32), loose.astype(np.float32), cells)
        np.testing.assert_array_equal(known, ids)
        for record in archive:
            f = record.positions @ np.linalg.inv(record.cell)
            assert -1e-6 < f.min() <= f.max() < 1
            assert record.pbc == FULL
            assert record.fixed is None
        again = Archive(numbers, cell=cell, pbc=FULL)
        again.restore(list(archive), archive.state())
        np.testing.assert_array_equal(again.known(energies, positions, cells), ids)
        np.testing.assert_array_equal([r.cell for r in again], [r.cell for r in archive])
