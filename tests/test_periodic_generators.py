"""Moves in periodic cells: right across the boundary, and doing what they are named for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from ase.build import bulk

from thalweg import prng
from thalweg.errors import InputError
from thalweg.generators.bonds import BondSwitch
from thalweg.generators.mutation import Relocate, Squeeze
from thalweg.generators.periodic import LocalDisplace, LocalSqueeze, LocalTwist, NearSwap, Wave
from thalweg.generators.replicate import Replicate, translation_table
from thalweg.generators.sites import pockets
from thalweg.geometry import traced_space
from thalweg.leaves import as_leaves
from thalweg.potentials.pair import LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure
from thalweg.system import System

SKEWED = np.array([[6.0, 0.3, 0], [1.1, 6.4, -0.4], [-0.9, 0.7, 7.0]])


def system_of(numbers, cell, bond=1.12, pbc=(True, True, True)):
    numbers = np.asarray(numbers, np.int32)
    return System(numbers, np.full(len(numbers), bond), np.zeros(len(numbers), bool), np.asarray(cell, float), pbc)


def draws(generator, system, x, n=16, seed=0):
    """Positions (n, atoms, 3) and cells drawn from one parent in float32."""
    generator, system = as_leaves(generator, np.float32), jax.tree.map(jnp.asarray, as_leaves(system, np.float32))

    @eqx.filter_jit
    def run(generator, system, x, keys):
        parent = Structure(x[None], system.numbers[None], system.cell[None], system.fixed[None], system.pbc)
        return jax.lax.map(lambda k: (lambda s: (s.positions, s.cell))(generator(k, parent, system)), keys)

    x, cells = run(generator, system, jnp.asarray(x, jnp.float32), jr.split(prng.key(seed), n))
    return np.asarray(x, np.float64), np.asarray(cells, np.float64)


def vectors(a, b, cell):
    """Shortest vectors (n, m, 3) from points b to points a over 125 images: slow, and another way than the package's."""
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    d = a[:, None] - b[None]
    d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
    images = d[:, :, None] + shifts
    return np.take_along_axis(images, (images**2).sum(-1).argmin(2)[:, :, None, None], 2)[:, :, 0]


def distances(a, b, cell):
    return np.linalg.norm(vectors(a, b, cell), axis=-1)


def spread_out(n, cell, seed=0, apart=0.7):
    """Random points no two of which are near each other."""
    rng, points = np.random.default_rng(seed), []
    while len(points) < n:
        p = rng.uniform(size=3) @ cell
        if not points or distances(p[None], np.array(points), cell).min() > apart:
            points.append(p)
    return np.array(points)


MOVES = [LocalDisplace(), LocalTwist(), LocalSqueeze(), NearSwap(), BondSwitch(), Replicate(), Relocate()]


@pytest.mark.parametrize("move", MOVES, ids=lambda g: g.name)
def test_moves_do_not_see_the_boundary(move):
    """A structure moved to another place of the cell and wrapped gives the same proposals, moved alike."""
    system = system_of([1] * 40 + [2] * 24, SKEWED)
    x = spread_out(64, SKEWED)
    shift = np.array([2.9, 1.3, 4.4])
    wrapped = ((x + shift) @ np.linalg.inv(SKEWED)) % 1 @ SKEWED
    one, other = (draws(move, system, p)[0] for p in (x, wrapped))
    difference = other - one - shift
    difference -= np.rint(difference @ np.linalg.inv(SKEWED)) @ SKEWED
    np.testing.assert_allclose(difference, 0, atol=2e-3)
    assert np.abs(one - x).max() > 0.1


@pytest.mark.parametrize("move", [LocalDisplace(), LocalTwist(), LocalSqueeze()], ids=lambda g: g.name)
def test_local_moves_leave_far_atoms_alone(move):
    cell = 12 * np.eye(3)
    x = spread_out(200, cell)
    for y in draws(move, system_of([0] * 200, cell), x)[0]:
        changed = np.abs(y - x).max(1) > 1e-5
        assert 0 < changed.sum() < 120
        spread = distances(x[changed], x[changed], cell)
        assert spread.max() < 2 * (3.5 + 1.0) * 1.12  # within a ball of the largest radius, about any point near an atom


def test_translation_groups_divide_the_cell():
    table = translation_table((2, 3, 4, 8, 12, 32))
    assert (np.bincount(table.orders)[[2, 3, 4]] == [7, 13, 35]).all()  # sigma numbers: all sublattices of that index
    for basis, shifts, order in zip(table.bases, table.shifts, table.orders, strict=True):
        points = shifts[:order]
        np.testing.assert_allclose(abs(np.linalg.det(basis)), 1 / order, rtol=1e-5)
        sums = (points[:, None] + points[None]).reshape(-1, 3)
        gaps = sums[:, None] - points
        assert np.abs(gaps - np.rint(gaps)).max(-1).min(1).max() < 1e-5  # closed
        gaps = points[:, None] - points + 10 * np.eye(order)[..., None]
        assert (np.abs(gaps - np.rint(gaps)).max(-1) > 1e-3).sum() == order * (order - 1)  # all different
        whole = points @ np.linalg.inv(basis)
        np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)  # the basis spans them


def test_replicate_makes_a_periodic_structure_of_the_same_composition():
    numbers = [1] * 48 + [2] * 12
    system = system_of(numbers, SKEWED)
    x = spread_out(60, SKEWED)
    for y in draws(Replicate(noise=0.0), system, x)[0]:
        shifts = vectors(y[48:], y[48:49], SKEWED)[1:, 0]
        maps = []
        for t in shifts:
            each = [distances(y[s] + t, y[s], SKEWED).min(1).max() for s in (slice(0, 48), slice(48, 60))]
            maps.append(max(each) < 1e-4)
        order = 1 + sum(maps)
        assert order in (2, 3, 4, 6, 12)


def test_replicate_leaves_no_structure_as_it_is():
    """With 7 atoms of one species and 6 of the other no group fits; atoms are displaced instead."""
    x = spread_out(13, SKEWED)
    y = draws(Replicate(), system_of([1] * 7 + [2] * 6, SKEWED), x)[0]
    assert 0.1 < np.linalg.norm(y - x, axis=-1).max() < 0.3 * 1.12 + 1e-4


def test_pockets_touch_three_atoms():
    x, bonds = spread_out(30, SKEWED, apart=0.9), np.where(np.arange(30) < 15, 1.0, 1.2)

    @jax.jit
    def run(x):
        space = traced_space(jnp.asarray(SKEWED, jnp.float32), (True, True, True))
        return pockets(prng.key(1), x, 1.1, jnp.asarray(bonds, jnp.float32), jnp.ones(30, bool), 64, space)

    points, score = map(np.asarray, run(jnp.asarray(x, jnp.float32)))
    points = points[score < 1e3]
    assert len(points) > 20
    gap = np.abs(distances(points.astype(float), x, SKEWED) - (1.1 + bonds) / 2)
    np.testing.assert_allclose(np.sort(gap, axis=1)[:, :3], 0, atol=1e-3)


def test_relocate_fills_a_vacancy():
    """An fcc crystal with an atom on an interstitial site: taking it to the vacancy restores the crystal exactly."""
    crystal = bulk("Ar", "fcc", a=2**0.5, cubic=True).repeat(3)
    x = crystal.positions.copy()
    x[17] = x[60] + [2**0.5 / 2, 0, 0]  # an octahedral hole
    system = system_of([0] * 108, crystal.cell[:], bond=1.0)
    restored = 0
    for y in draws(Relocate(most=1, rays=160), system, x)[0]:  # one pocket among 108 atoms is not in every 40 triples
        restored += distances(y, crystal.positions, crystal.cell[:]).min(1).max() < 1e-3
    assert restored >= 6


def test_near_swap_exchanges_unlike_neighbours():
    numbers = np.array([1] * 40 + [2] * 24)
    x = spread_out(64, SKEWED)
    for y in draws(NearSwap(most=1), system_of(numbers, SKEWED), x)[0]:
        changed = np.flatnonzero(np.abs(y - x).max(1) > 1e-4)
        assert len(changed) == 2
        a, b = changed
        assert numbers[a] != numbers[b]
        np.testing.assert_allclose(y[[a, b]], x[[b, a]], atol=1e-4)
        assert distances(x[a : a + 1], x[b : b + 1], SKEWED)[0, 0] < 1.6 * 1.12


def bonded(x, cell, reach=2.8):
    d = distances(x, x, cell)
    return (d < reach) & (d > 0.1)


def test_bond_switch_makes_the_fourfold_defect_of_silicon():
    """One switch in the crystal, relaxed: a minimum above it with two bonds exchanged and every atom still fourfold."""
    crystal = bulk("Si", "diamond", a=5.431, cubic=True).repeat(2)
    cell, x = crystal.cell[:], crystal.positions
    system = system_of([14] * 64, cell, bond=5.431 * 3**0.5 / 4)
    proposals, _ = draws(BondSwitch(most=1, noise=0.0), system, x, n=4)
    start = Structure.create(proposals, system.numbers, cell, pbc=system.pbc)
    relaxed = relax(start, Relaxation(StillingerWeber(), LBFGS(max_step=0.3), fmax=1e-3, max_steps=1000), n_lanes=4)
    assert relaxed.converged.all()
    before = bonded(x, cell)
    for y, energy in zip(relaxed.structures.positions, relaxed.energy, strict=True):
        after = bonded(y, cell)
        assert (after.sum(1) == 4).all()
        assert (before & ~after).sum() / 2 == 2
        assert (after & ~before).sum() / 2 == 2
        assert 1.0 < energy + 277.5424 < 6.0
    np.testing.assert_allclose(relaxed.energy, relaxed.energy[0], atol=1e-3)  # all bonds of the crystal are alike


@pytest.mark.parametrize(
    ("move", "pbc"), [(Squeeze(), True), (Wave(), False), (Replicate(), False)], ids=["squeeze", "wave", "rep"]
)
def test_moves_say_where_they_do_not_apply(move, pbc):
    with pytest.raises(InputError, match=move.name):
        draws(move, system_of([0] * 8, SKEWED, pbc=(pbc,) * 3), spread_out(8, SKEWED))


def test_replicating_a_packing_finds_the_crystal():
    """Among relaxations of replicated packings of 32 atoms many are the crystal; of the packings themselves few."""
    cell = np.eye(3) * 2 * 2**0.5 * 1.11
    system = system_of([0] * 32, cell)
    relaxation = Relaxation(LennardJones(cutoff=1.55), LBFGS(max_step=0.15), fmax=1e-2, max_steps=300)
    run = lambda x: relax(Structure.create(x, system.numbers, cell, pbc=system.pbc), relaxation, n_lanes=32)
    packed = run(np.array([spread_out(32, cell, seed=s, apart=0.75) for s in range(32)]))
    sources = packed.structures.positions[:8]
    replicated = run(np.concatenate([draws(Replicate(), system, x, n=4, seed=k)[0] for k, x in enumerate(sources)]))
    crystal = bulk("Ar", "fcc", a=2**0.5 * 1.11, cubic=True).repeat(2)
    wanted = crystal.get_global_number_of_atoms() * 6 * 4 * (1.11**-12 - 1.11**-6)
    share = lambda energy: (energy < wanted + 0.1).mean()
    np.testing.assert_allclose(replicated.energy.min(), wanted, rtol=1e-4)
    assert share(replicated.energy) > 0.2
    assert share(replicated.energy) > 2 * share(packed.energy)
