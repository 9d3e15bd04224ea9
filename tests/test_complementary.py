"""Complementary energy: features, role models, the landscape, and the moves in it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import prng
from thalweg.generators.complementary import ComplementaryEnergy, walls
from thalweg.geometry import in_ball
from thalweg.leaves import as_leaves
from thalweg.structure import Structure
from thalweg.surrogates.complementary import (
    ComplementaryLandscape,
    Density,
    RoleModels,
    Species,
    assign,
    choose,
    distances,
)
from thalweg.system import System
from thalweg.testing import check_generator, check_potential

SILICA = System(
    np.repeat([8, 14], [6, 3]).astype(np.int32), np.repeat([1.32, 2.22], [6, 3]), np.zeros(9, bool), np.zeros((3, 3))
)
SPECIES = Species(np.array([8, 14]), np.ones(2))


#: One compiled program per shape.
chosen = jax.jit(choose, static_argnums=5)
density = eqx.filter_jit(lambda density, structure, species: density(structure, species))
energy_and_forces = eqx.filter_jit(
    lambda potential, structure: (potential.evaluate(structure).energy, potential.evaluate(structure).forces)
)


def some_structure(seed=0, pbc=(False, False, False)):
    rng = np.random.default_rng(seed)
    cell = np.diag([5.0, 5.5, 6.0]) + rng.uniform(-0.3, 0.3, (3, 3))
    return Structure.create(rng.uniform(0, 5, (9, 3)), SILICA.numbers, cell, pbc=pbc)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False)])
def test_features_are_sums_over_neighbours_and_images(pbc):
    """Against ASE's neighbour list; one image to each side reaches 1.5 heights."""
    from ase.neighborlist import neighbor_list

    from thalweg.structure import to_ase

    structure = some_structure(1, pbc)
    cutoff = 7.0
    atoms = to_ase(structure)
    i, j, r = neighbor_list("ijd", atoms, cutoff)
    weight = np.exp(-r / 1.3) * (1 + np.cos(np.pi * r / cutoff)) / 2
    expected = np.zeros((9, 2))
    np.add.at(expected, (i, (structure.numbers[j] == 14).astype(int)), weight)
    with jax.enable_x64(True):
        found = density(Density(1.3, cutoff), structure, SPECIES)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_columns_for_every_atom_give_the_same_distances():
    """Inside compiled moves species are not known: there every atom has a column."""
    structure = some_structure()
    with jax.enable_x64(True):
        a = np.asarray(density(Density(), structure, SPECIES))
        b = np.asarray(density(Density(), structure, Species.of(SILICA.numbers)))
    apart = lambda f: ((f[:, None] - f[None]) ** 2).sum(-1)
    np.testing.assert_allclose(apart(a), apart(b), rtol=1e-10, atol=1e-12)


def test_role_models_differ_and_atoms_follow_their_own_species():
    features = jnp.asarray([[0.0, 0], [0.005, 0], [1, 0], [2, 0], [0, 3]])
    numbers = np.array([8, 8, 8, 8, 14])
    for seed in range(5):
        models = chosen(prng.key(seed), features, numbers, np.ones(5, bool), 5, 6)
        # The first two are the same place: one of them serves.
        assert sorted(np.asarray(models.numbers)) == [-1, -1, 8, 8, 8, 14]
    models = RoleModels(features[jnp.asarray([2, 3, 4])], jnp.asarray([8, 8, 14]))
    np.testing.assert_array_equal(assign(features, numbers, models), [0, 0, 0, 1, 2])
    # Where a species has no model, the nearest of any; empty slots never.
    models = RoleModels(jnp.asarray([[1.0, 0], [0, 0], [0, 3]]), jnp.asarray([8, 8, -1]))
    np.testing.assert_array_equal(assign(features, numbers, models)[4:], [1])


def landscape(assigned):
    structure = some_structure(2)
    with jax.enable_x64(True):
        features = density(Density(), structure, SPECIES)
        models = chosen(prng.key(0), features, SILICA.numbers, np.ones(9, bool), 3, 4)
        follow = np.asarray(jax.jit(assign)(features, SILICA.numbers, models)) if assigned else None
    return ComplementaryLandscape(jax.tree.map(np.asarray, models), SPECIES, assigned=follow), some_structure(3)


@pytest.mark.slow
def test_the_landscape_is_a_potential():
    potential = eqx.tree_at(lambda p: p.density, landscape(False)[0], Density(1.0, 4.0, images=4))
    check_potential(potential, SILICA.numbers)


def test_forces_with_frozen_role_models_are_the_derivative():
    potential, structure = landscape(True)
    step = np.random.default_rng(5).normal(size=(9, 3))
    with jax.enable_x64(True):
        at = lambda t: energy_and_forces(
            potential, eqx.tree_at(lambda s: s.positions, structure, structure.positions + t * step)
        )
        work = -(np.asarray(at(0)[1]) * step).sum()
        slope = (at(1e-5)[0] - at(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(work, slope, rtol=1e-6)


def compact(seed):
    """A structure of nine atoms within the distance limits."""
    rng = np.random.default_rng(seed)
    x = [np.zeros(3)]
    radii = SILICA.bond_lengths / 2
    while len(x) < 9:
        point = x[rng.integers(len(x))] + rng.normal(size=3) * 1.5
        ratio = np.linalg.norm(np.array(x) - point, axis=1) / (radii[: len(x)] + radii[len(x)])
        if 0.8 < ratio.min() < 1.2:
            x.append(point)
    return np.array(x)


@eqx.filter_jit
def draw(generator, keys, x, system):
    """What a generator makes of each of the parents x (n, atoms, 3)."""
    one = lambda key, x: generator(key, Structure(x[None], system.numbers[None], system.cell[None], system.fixed[None]), system)
    return jax.vmap(one)(keys, x).positions


def drawn(generator, keys, x, system):
    """As `draw`, in one compiled program for all generators and systems."""
    return np.asarray(draw(*as_leaves((generator, keys, jnp.asarray(x, jnp.float32), system), np.float32)))


def test_moves_lead_atoms_towards_role_models():
    """With all atoms the misfit to the parent's own models falls far below what the displacement alone leaves."""

    @jax.jit
    def left(key, x, new):
        """Misfit of an atom's new place over that of its displaced one, and what the walls say of the new places."""
        at = lambda x: Structure(x, SILICA.numbers, SILICA.cell, SILICA.fixed)
        features = lambda x: Density()(at(x), Species.of(SILICA.numbers))
        misfit = lambda x, m: distances(f := features(x), assign(f, SILICA.numbers, m), m).sum()
        k_count, k_models, _, _, k_rattle = jax.random.split(key, 5)
        count = jax.random.randint(k_count, (), 3, 5)
        models = choose(k_models, features(x), SILICA.numbers, SILICA.mask, count, 4)
        displaced = x + in_ball(k_rattle, (9,)) * np.float32(SILICA.bond_lengths.mean())
        return misfit(new, models) / misfit(displaced, models), walls(new, at(x), SILICA, jnp.ones(9))

    x = np.float32([compact(seed) for seed in range(8)])
    keys = jax.random.split(prng.key(0), 8)
    new = drawn(ComplementaryEnergy(few=0.0, fewest=3), keys, x, SILICA)
    ratios, outside = np.transpose([left(*row) for row in zip(keys, x, new, strict=True)])
    assert outside.max() < 0.3
    assert np.median(ratios) < 0.5


def test_few_atoms_move_and_fixed_ones_stay():
    system = eqx.tree_at(lambda s: s.fixed, SILICA, np.arange(9) < 2)
    x = compact(1)
    moved = []
    for seed in range(5):
        keys = jax.random.split(prng.key(seed), 8)
        new = drawn(ComplementaryEnergy(few=1.0), keys, np.repeat(x[None], 8, 0), system)
        moved.append((np.abs(new - np.float32(x)) > 1e-3).any(-1))
    moved = np.concatenate(moved)
    assert not moved[:, :2].any()
    assert set(moved.sum(1)) == set(range(1, 8))  # uniform in how many


def test_generator():
    check_generator(ComplementaryEnergy(), SILICA)
