"""Imitation: how molecules are taken apart, what is said to be right and wrong, and a training that can be stopped."""

import dataclasses

import jax
import numpy as np
import pytest
from ase.build import molecule
from ase.data import covalent_radii
from ase.data.g2 import molecule_names

from thalweg.errors import InputError
from thalweg.learning import imitation
from thalweg.learning.imitation import Labelled, Molecules, Settings, batches, begin, epochs, padded_sizes, samples
from thalweg.learning.imitation_states import APART, MASKED, RIGHT
from thalweg.networks.builder import BuilderNetwork

NET = BuilderNetwork.random(np.random.default_rng(0), width=16, blocks=2, heads=2)
NONE = len(NET.species)


def padded(molecules):
    numbers = np.full((len(molecules), max(map(len, molecules))), -1)
    x = np.full((*numbers.shape, 3), np.nan)
    for row, atoms in enumerate(molecules):
        numbers[row, : len(atoms)], x[row, : len(atoms)] = atoms.numbers, atoms.positions
    return numbers, x


def held(*molecules):
    numbers, x = padded(molecules)
    return Molecules.of(NET, numbers, x, np.zeros(len(x)), np.zeros_like(x))


def bonded(atoms):
    r = covalent_radii[atoms.numbers]
    return (atoms.get_all_distances() < 1.3 * (r[:, None] + r)) & ~np.eye(len(atoms), dtype=bool)


@pytest.mark.parametrize(("name", "last"), [("CH3CH2OH", True), ("CH3CH2OH", False), ("CH3CONH2", True), ("H2O", True)])
def test_states_are_builds_atom_by_atom_and_places_are_right_or_wrong(name, last):
    atoms = molecule(name)
    states = samples(np.random.default_rng(0), held(atoms), 300, hydrogens_last=last, jitter=0.0)
    bonds, species = bonded(atoms), NET.kinds(atoms.numbers)
    heavy, far, right_ones = atoms.numbers > 1, [], set()
    for kinds, x, bag, query, label in zip(states.kinds, states.positions, states.bag, states.query, states.label, strict=True):
        there = kinds >= 0
        np.testing.assert_array_equal(kinds[there], species[there])
        np.testing.assert_allclose(x[there], atoms.positions[there], atol=1e-6)
        np.testing.assert_array_equal(bag + np.bincount(species[there], minlength=NONE), np.bincount(species, minlength=NONE))
        reached = np.zeros(len(atoms), bool)
        reached[np.flatnonzero(there)[:1]] = True
        for _ in atoms:
            reached |= there & bonds[reached].any(0)
        assert (reached == there).all()  # in one piece
        may = ~there & (bonds[there].any(0) | ~there.any())
        if last:
            assert there[heavy].all() or not there[~heavy].any()
            may &= heavy | there[heavy].all()
        away = np.linalg.norm(query[:, None] - atoms.positions, axis=-1)
        right = (label != MASKED) & (label != NONE)
        assert right.sum() == min(may.sum(), RIGHT)
        nearest = away[right].argmin(1)
        assert (away[right].min(1) < 1e-5).all()
        assert may[nearest].all()
        assert len(set(nearest)) == len(nearest)
        np.testing.assert_array_equal(label[right], species[nearest])
        assert (away[label == NONE][:, may] > APART).all()
        assert there.any() or not (label == NONE).any()
        far.append(away[label == NONE][:, may].min(1))
        right_ones |= set(nearest)
    assert right_ones == set(range(len(atoms)))
    low, high = np.quantile(np.concatenate(far), [0.1, 0.9])
    assert 0.3 < low < 1 < 1.5 < high < 4
    assert {int((k >= 0).sum()) for k in states.kinds} == set(range(len(atoms)))


def test_what_cannot_be_learned_from_is_said():
    numbers, x = padded([molecule("CH3Cl")])
    with pytest.raises(InputError, match="no Cl"):
        Molecules.of(NET, numbers, x, [0.0], x)
    numbers, x = padded([molecule("H2O"), molecule("NH3")])
    with pytest.raises(InputError, match="molecule 1 are not finite"):
        Molecules.of(NET, numbers, x, [0.0, np.inf], x)
    with pytest.raises(InputError, match="batch is 0"):
        Settings(batch=0)


def test_an_epoch_is_every_molecule_in_few_sizes_and_follows_from_the_seed():
    some = held(*(molecule(n) for n in ("H2O", "NH3", "CH4", "CH3OH", "CH3CH2OH", "C6H6", "H2CO")))
    some = dataclasses.replace(some, energies=np.arange(7.0), whole=some.atoms != 12)  # benzene is no minimum
    settings = Settings(batch=2, sizes=2)
    assert padded_sizes(some.atoms, 2) == [6, 12]
    start = begin(0, NET, some, settings)
    one, again = list(batches(start, some, settings)), list(batches(start, some, settings))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert sorted({states.kinds.shape[1] for _, states in one}) == [6, 12]
    known = {
        tuple(k)
        for labelled, _ in one
        for k in np.sort(np.pad(labelled.kinds, [(0, 0), (0, 12 - labelled.kinds.shape[1])], constant_values=-1))
    }
    assert known == {tuple(k) for k in np.sort(some.kinds)}
    assert not any((states.bag[:, 1] + (states.kinds == 1).sum(1) == 6).any() for _, states in one)
    later = dataclasses.replace(start, history=({"validation": 1.0},))
    differ = [not np.array_equal(a.kinds, b.kinds) for (_, a), (_, b) in zip(one, batches(later, some, settings), strict=True)]
    assert any(differ)
    # Energies are compared without the references of the species.
    labelled = Labelled.of(start.network, some.positions, some.kinds, some.energies, some.forces)
    counts = np.stack([(some.kinds == k).sum(1) for k in range(NONE)], 1)
    np.testing.assert_allclose(labelled.energies + counts @ start.network.reference, some.energies, atol=1e-5)


def repelled(atoms, x):
    """Energy and forces of atoms that repel each other the more the larger they are, and of species."""
    i, j = np.triu_indices(len(atoms), 1)
    size = covalent_radii[atoms.numbers][i] + covalent_radii[atoms.numbers][j]
    d = x[i] - x[j]
    r = np.linalg.norm(d, axis=1)
    energies = 40 * np.exp(-3 * r / size)
    push = (3 * energies / size / r)[:, None] * d
    forces = np.zeros_like(x)
    np.add.at(forces, i, push)
    np.add.at(forces, j, -push)
    return energies.sum() - 5 * atoms.numbers.sum(), forces


@pytest.mark.slow
def test_training_learns_goes_on_where_it_was_stopped_and_compiles_once_for_each_size(monkeypatch):
    rng = np.random.default_rng(0)
    whole = [molecule(n) for n in molecule_names]
    whole = [a for a in whole if set(a.numbers) <= {1, 6, 7, 8} and len(a) > 3]
    frames = [a for a in whole for _ in range(4)]
    moved = [a.positions + rng.normal(size=(len(a), 3)) * 0.05 * (k % 4 > 0) for k, a in enumerate(frames)]
    energies, forces = zip(*map(repelled, frames, moved), strict=True)
    numbers, x = padded(frames)
    f = np.zeros_like(x)
    for row, (place, push) in enumerate(zip(moved, forces, strict=True)):
        x[row, : len(place)], f[row, : len(place)] = place, push
    every = Molecules.of(NET, numbers, x, energies, f, np.arange(len(x)) % 4 == 0)
    out = np.arange(len(x)) // 4 % 5 == 0
    train, validation = every.taken(~out), every.taken(out)
    settings = Settings(epochs=24, batch=16, rate=3e-3, energy_weight=1.0, states=128)
    traced, inner = [], imitation.losses_of
    monkeypatch.setattr(imitation, "losses_of", lambda *a: traced.append(1) or inner(*a))
    done = list(epochs(begin(3, NET, train, settings), train, validation, settings))
    kept, last = done[4], done[-1]
    restored = begin(3, NET, train, settings).restored(kept.arrays(), kept.history)
    *_, again = epochs(restored, train, validation, settings)
    assert len(traced) == len(padded_sizes(train.atoms, settings.sizes)) == 2
    for name, array in last.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
    assert [r["validation"] for r in again.history] == [r["validation"] for r in last.history]
    first, best = last.history[0], last.history[last.best_epoch - 1]
    present = validation.kinds >= 0
    assert best["force"] < 0.6 * np.abs(validation.forces[present]).mean()
    assert best["energy"] < first["energy"]
    assert best["accuracy"] > max(first["accuracy"], 0.86)
    assert best["chosen"] > 0.4 > first["chosen"]
    assert last.history[-1]["loss_action"] < 0.6 * first["loss_action"]
    wider = begin(3, BuilderNetwork.random(rng, width=32, blocks=2, heads=2), train, settings)
    with pytest.raises(InputError, match="the checkpoint does not fit"):
        wider.restored(kept.arrays(), kept.history)
