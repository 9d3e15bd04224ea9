"""Neighbour lists: pairs against ASE's, forces against sums over all pairs, overflow, growth, and when they are rebuilt."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.potentials import bins, neighbors, rows
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.neighbors import fits, grown, neighbors_for, refreshed, worthwhile
from thalweg.potentials.pair import LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber

PERIODIC = (True, True, True)
FREE = (False, False, False)
refresh = eqx.filter_jit(refreshed)


@eqx.filter_jit
def lanes(potential, positions, numbers, space, table=None):
    return potential.lanes(positions, numbers, space, table, virial=True)


def prepared(potential, positions, numbers, cell, pbc, dtype=np.float64):
    """Leaves of a program: potential, positions, numbers and space in one precision; inside the scope of x64."""
    space = as_leaves(potential.space(cell, pbc), dtype)
    return as_leaves(potential, dtype), jnp.asarray(positions, dtype), jnp.asarray(numbers, jnp.int32), space


def pairs_of(table):
    """The set of ordered pairs in a table of one structure, none of which may stand there twice."""
    index = np.asarray(table.index)
    atoms = np.broadcast_to(np.arange(index.shape[1]), index.shape)
    listed = np.stack([atoms[index != atoms], index[index != atoms]], axis=1)
    found = {(int(i), int(j)) for i, j in listed}
    assert len(found) == len(listed)
    return found


def ase_pairs(positions, cell, pbc, reach):
    return {
        (int(i), int(j))
        for i, j in zip(*neighbor_list("ij", Atoms(positions=positions, cell=cell, pbc=pbc), reach), strict=True)
    }


def gas(rng, n, cell, pbc):
    """Atoms at random, also far outside of the cell."""
    return rng.uniform(-1.5, 2.5, (n, 3)) @ cell if any(pbc) else rng.uniform(0, 1, (n, 3)) @ cell


CELL = np.array([[9.0, 0.3, -1.2], [1.4, 10.5, 0.8], [-0.7, 1.1, 12.0]])


@pytest.mark.parametrize(
    ("pbc", "least"),
    [
        *[(pbc, 10) for pbc in (PERIODIC, (True, False, True), (False, True, False), FREE)],
        (PERIODIC, 10**6),
    ],
)
def test_pairs_are_those_of_ase(pbc, least, monkeypatch):
    """By bins, and by looking at all pairs."""
    monkeypatch.setattr(neighbors, "BINNED", least)
    rng = np.random.default_rng(list(pbc))
    n, reach = 300, 2.6
    x = gas(rng, n, CELL, pbc)
    numbers = np.zeros(n, int)
    numbers[rng.random(n) < 0.1] = -1  # padding, anywhere
    real = np.flatnonzero(numbers >= 0)
    want = {(int(real[i]), int(real[j])) for i, j in ase_pairs(x[real], CELL, pbc, reach)}
    with jax.enable_x64(True):
        potential = LennardJones(cutoff=reach)
        table = neighbors_for(potential, x, numbers, as_leaves(potential.space(CELL, pbc), np.float64), skin=0.0)
        assert (table.bins is None) == (least > n)
        found = pairs_of(table)
        assert int(table.most) == np.bincount([i for i, _ in want]).max()
    # Bins test in single precision with a margin: a pair at the very edge may be there in addition.
    assert want <= found
    assert all(2.6 < np.linalg.norm(_nearest(x[i] - x[j], pbc)) < 2.6 * (1 + 1e-4) for i, j in found - want)


def _nearest(d, pbc):
    turns = np.stack(np.meshgrid(*[np.arange(-6, 7) if p else [0] for p in pbc], indexing="ij"), -1).reshape(-1, 3)
    images = d + turns @ CELL
    return images[np.argmin((images**2).sum(1))]


def test_blocks_of_atoms_make_one_table(monkeypatch):
    """More atoms than fit one block of the search and of the sum, in single precision."""
    rng = np.random.default_rng(3)
    cell, n = np.diag([14.0, 17.0, 20.0]), 700
    x = gas(rng, n, cell, PERIODIC)
    want = ase_pairs(x, cell, PERIODIC, 2.0)
    monkeypatch.setattr(bins, "BLOCK", 256)
    monkeypatch.setattr(neighbors, "BINNED", 10)
    potential = LennardJones(cutoff=2.0)
    space = as_leaves(potential.space(cell, PERIODIC), np.float32)
    table = neighbors_for(potential, jnp.asarray(x, jnp.float32), np.zeros(n, int), space, skin=0.0)
    assert len(pairs_of(table) ^ want) <= 4  # pairs at the cutoff up to the rounding of positions


def silicon(rng):
    atoms = bulk("Si", "diamond", a=5.431, cubic=True) * (2, 2, 2)
    return atoms.positions + rng.normal(0, 0.2, (64, 3)), atoms.numbers, atoms.cell[:] @ _shear()


def liquid(rng, species=(0,)):
    side = 6.4
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3) * side / 6
    return grid + rng.normal(0, 0.06, grid.shape), rng.choice(species, len(grid)), np.eye(3) * side


def _shear():
    return np.eye(3) + np.array([[0.0, 0.08, 0], [0, 0, -0.05], [0.03, 0, 0]])


@pytest.mark.parametrize("name", ["lj", "ka", "sw"])
def test_forces_and_virial_are_those_of_all_pairs(name, monkeypatch):
    """Several lanes with different positions, atoms moved by cell vectors, padding; sums done in blocks."""
    rng = np.random.default_rng(5)
    potential, (x, numbers, cell) = {
        "lj": lambda: (LennardJones(cutoff=2.5, truncation="smooth"), liquid(rng)),
        "ka": lambda: (BinaryLennardJones(), liquid(rng, (18, 10))),
        "sw": lambda: (StillingerWeber(), silicon(rng)),
    }[name]()
    n_lanes = 3
    x = np.stack([x + rng.normal(0, 0.02, x.shape) + rng.integers(-2, 3, x.shape) @ cell for _ in range(n_lanes)], -1)
    numbers = np.append(numbers, -1)
    x = np.concatenate([x, rng.normal(0, 1, (1, 3, n_lanes))])
    monkeypatch.setattr(rows, "BLOCK", 100)
    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, numbers[:, None], cell, PERIODIC)
        table = neighbors_for(potential, x, numbers, space, skin=0.2)
        listed, dense = (jax.tree.map(np.asarray, lanes(traced, x, numbers, space, t)) for t in (table, None))
    assert listed.ok.all()
    np.testing.assert_allclose(listed.energy, dense.energy, rtol=1e-12)
    np.testing.assert_allclose(listed.forces, dense.forces, rtol=1e-9, atol=1e-10 * np.abs(dense.forces).max())
    np.testing.assert_allclose(listed.virial, dense.virial, rtol=1e-9, atol=1e-10 * np.abs(dense.virial).max())


def test_a_structure_of_one_lane_has_the_same_list(monkeypatch):
    """Bins with lanes: one and two of them, against none."""
    monkeypatch.setattr(neighbors, "BINNED", 10)
    rng = np.random.default_rng(6)
    x, numbers, cell = liquid(rng)
    potential = LennardJones(cutoff=2.5)
    with jax.enable_x64(True):
        _, x, numbers, space = prepared(potential, x, numbers, cell, PERIODIC)
        want = pairs_of(neighbors_for(potential, x, numbers, space, skin=0.1))
        other = x + 0.05 * rng.normal(size=x.shape)
        cells = eqx.tree_at(lambda s: s.cell, space, jnp.asarray(np.stack([cell, cell * 1.001], -1)))
        two = neighbors_for(potential, jnp.stack([x, other], -1), numbers[:, None], cells, skin=0.1)
        one = eqx.tree_at(lambda t: t.index, two, two.index[..., 0])
        assert two.bins is not None
        assert pairs_of(one) == want


def test_overflow_is_seen_and_mended():
    """A gas is compressed: its list overflows inside jit, says so until it is grown, and is then right."""
    rng = np.random.default_rng(7)
    potential = LennardJones(cutoff=2.5)
    cell, n = np.eye(3) * 16.0, 200
    x = rng.uniform(0, 16, (n, 3))
    crowd = 8 + (x - 8) * 0.3
    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, np.zeros(n, int), cell, PERIODIC)
        table = neighbors_for(potential, x, numbers, space)
        assert not table.overflow
        crowd = jnp.asarray(crowd)
        full = refresh(table, crowd, space)
        assert full.overflow
        assert int(full.needed) > table.slots
        assert int(full.most) == table.slots
        assert refresh(full, x, space).overflow  # what was computed in between stays wrong
        larger = grown(full)
        assert not larger.overflow
        assert larger.slots >= int(full.needed)
        listed, dense = lanes(traced, crowd, numbers, space, larger), lanes(traced, crowd, numbers, space)
        np.testing.assert_allclose(listed.energy, dense.energy, rtol=1e-12)


def test_too_many_atoms_in_a_bin_are_seen_and_mended(monkeypatch):
    monkeypatch.setattr(neighbors, "BINNED", 10)
    rng = np.random.default_rng(8)
    potential = LennardJones(cutoff=1.0)
    x = rng.uniform(0, 12, (400, 3))
    heap = np.concatenate([x[:200], rng.uniform(5, 6, (200, 3))])
    with jax.enable_x64(True):
        table = neighbors_for(potential, x, np.zeros(400, int), skin=0.0, slots=250)
        full = refresh(table, jnp.asarray(heap), None)
        assert int(full.crowd) > bins.WIDTH * table.bins.depth
        assert full.overflow
        assert pairs_of(grown(full)) == ase_pairs(heap, None, FREE, 1.0)


def test_a_cell_that_shrinks_too_far_is_no_silent_error():
    """Narrower than two cutoffs it takes a list of images; narrower by far there is none."""
    rng = np.random.default_rng(9)
    potential = LennardJones(cutoff=2.5)
    x, numbers, cell = liquid(rng)
    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, numbers, cell, PERIODIC)
        table = neighbors_for(potential, x, numbers, space, skin=0.2)
        small = as_leaves(potential.space(cell * 0.7, PERIODIC), np.float64)
        shrunk = refresh(table, x * 0.7, small)
        assert shrunk.overflow
        table = grown(shrunk)
        assert table.images == (1, 1, 1)
        listed, dense = lanes(traced, x * 0.7, numbers, small, table), lanes(traced, x * 0.7, numbers, small)
        np.testing.assert_allclose(listed.energy, dense.energy, rtol=1e-12)
        tiny = eqx.tree_at(lambda s: s.cell, space, space.cell * 0.05)
        shrunk = refresh(table, x * 0.05, tiny)
        assert shrunk.overflow
        with pytest.raises(InputError, match="too narrow for a neighbour list"):
            grown(shrunk)
    with pytest.raises(InputError, match=r"set potential\.cutoff"):
        neighbors_for(LennardJones(), np.zeros((2, 3)), np.zeros(2, int))


@pytest.mark.parametrize("pbc", [PERIODIC, (True, False, True)])
def test_narrow_cells_list_images(pbc):
    """Two lanes of a skew cell in which atoms see images of others and of themselves, as they move and cross the cell."""
    rng = np.random.default_rng(13)
    potential = BinaryLennardJones()
    cell, n = np.diag([2.4, 3.1, 4.4]) @ _shear(), 24
    x = rng.uniform(0, 1, (n, 3, 2))
    x = np.einsum("nkl,kc->ncl", x + rng.integers(-2, 3, x.shape) * np.array(pbc)[:, None], cell)
    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, rng.choice((18, 10), n)[:, None], cell, pbc)
        table = neighbors_for(potential, x, numbers, space, skin=0.3)
        assert table.images == (2, int(pbc[1]), 1)
        for shift in (0.05, 0.1, cell[0][:, None]):
            table = refresh(table, x + shift, space)
            listed, dense = (lanes(traced, x + shift, numbers, space, t) for t in (table, None))
            np.testing.assert_allclose(listed.energy, dense.energy, rtol=1e-11)
            scale = np.abs(dense.forces).max()
            np.testing.assert_allclose(listed.forces, dense.forces, rtol=1e-8, atol=1e-10 * scale)
            np.testing.assert_allclose(listed.virial, dense.virial, rtol=1e-8, atol=1e-10 * scale)


def test_moved_atoms_and_strained_cells_rebuild_the_list():
    rng = np.random.default_rng(10)
    potential = LennardJones(cutoff=2.5)
    x, numbers, cell = liquid(rng)
    with jax.enable_x64(True):
        _, x, numbers, space = prepared(potential, x, numbers, cell, PERIODIC)
        table = neighbors_for(potential, x, numbers, space, skin=0.4)
        anew = lambda y, s=space: bool((refresh(table, y, s).reference == y).all())
        moved = lambda by: x.at[17, 1].add(by)
        assert not anew(moved(0.19))
        assert anew(moved(0.21))
        assert not anew(x + cell[0])  # an atom that crosses the cell has gone nowhere
        strained = lambda e: (x @ (np.eye(3) + e), eqx.tree_at(lambda s: s.cell, space, space.cell @ (np.eye(3) + e)))
        squeezed = np.diag([-1.0, 0, 0])
        assert not anew(*strained(0.01 * squeezed))  # all atoms go along: 2.9 becomes 2.87
        assert anew(*strained(0.15 * squeezed))
        y, smaller = strained(0.07 * squeezed)  # 2.9 becomes 2.7: less is left for the atoms
        assert not anew(y, smaller)
        assert anew(y.at[17, 1].add(0.15), smaller)


def test_species_and_vacancies_may_change_inside_jit():
    rng = np.random.default_rng(11)
    potential = BinaryLennardJones()
    x, numbers, cell = liquid(rng, (18, 10))
    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, numbers, cell, PERIODIC)
        table = neighbors_for(potential, x, numbers, space)
        swapped = numbers.at[3].set(-1).at[7].set(28 - numbers[7])
        table = refresh(table, x, space, swapped)
        listed, dense = lanes(traced, x, swapped, space, table), lanes(traced, x, swapped, space)
        np.testing.assert_allclose(listed.energy, dense.energy, rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(table.kind)[7], (10, 18).index(int(swapped[7])))


def test_a_trajectory_is_that_of_all_pairs_and_compiles_once():
    """Newton's equations in a hot liquid with lists rebuilt many times over; one program from first to last."""
    rng = np.random.default_rng(12)
    potential = LennardJones(cutoff=2.5, truncation="smooth")
    x, numbers, cell = liquid(rng)
    traces = []

    @eqx.filter_jit
    def run(potential, x, v, numbers, space, table, n_steps):
        traces.append(table is None)
        h = 0.004

        def step(_, state):
            x, v, f, table, built = state
            v = v + h / 2 * f
            x = x + h * v
            if table is not None:
                before = table.reference
                table = refreshed(table, x, space)
                built = built + (table.reference != before).any()
            f = potential.lanes(x, numbers, space, table).forces
            return x, v + h / 2 * f, f, table, built

        f = potential.lanes(x, numbers, space, table).forces
        return jax.lax.fori_loop(0, n_steps, step, (x, v, f, table, jnp.zeros((), jnp.int32)))

    with jax.enable_x64(True):
        traced, x, numbers, space = prepared(potential, x, numbers, cell, PERIODIC)
        v = jnp.asarray(rng.normal(0, 1.2, x.shape))
        table = neighbors_for(potential, x, numbers, space)
        energy = lambda x, v: float(lanes(traced, x, numbers, space).energy + 0.5 * (v * v).sum())
        xd, *_ = run(traced, x, v, numbers, space, None, jnp.asarray(40))
        xl, vl, _, after, built = run(traced, x, v, numbers, space, table, jnp.asarray(40))
        assert int(built) >= 2
        np.testing.assert_allclose(xl, xd, atol=1e-9)
        before = energy(xl, vl)
        x2, v2, _, after, built = run(traced, xl, vl, numbers, space, after, jnp.asarray(400))
        assert int(built) > 20
        assert not after.overflow
        assert abs(energy(x2, v2) - before) < 2e-3 * len(numbers)
        assert traces == [True, False]


def test_where_lists_can_serve():
    potential = LennardJones(cutoff=2.5)
    space = lambda side: potential.space(np.eye(3) * side, PERIODIC)
    assert not worthwhile(64, space(4.2), 2.5)
    assert worthwhile(10_000, space(22.8), 2.5)
    assert not worthwhile(10_000, space(22.8), None)
    assert not worthwhile(10_000, space(5.4), 2.5)  # narrower than two reaches and skins
    assert worthwhile(64, space(4.2), 2.5, narrow=True)
    assert not worthwhile(50, None, 2.5)
    assert worthwhile(5_000, None, 2.5)
    assert fits(space(5.8), 2.9)
    assert not fits(space(5.7), 2.9)
