"""Rigid ions against LAMMPS, against a sum by hand, and against published lattices."""

from math import erfc, exp, pi, sqrt
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from thalweg import registry
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.potentials.ionic import BKS, MatsuiAkaogi
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Frechet
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure, from_ase, stack
from thalweg.testing import check_potential

SI, TI, OX = 14, 22, 8
DATA = np.load(Path(__file__).parent / "data" / "ionic.npz")
slow = lambda *row: pytest.param(*row, marks=pytest.mark.slow)
MODELS = {"silica": BKS, "titania": MatsuiAkaogi}


@eqx.filter_jit
def _lanes(potential, x, numbers, space):
    return potential.lanes(x, numbers, space, virial=space is not None)


def evaluated(potential, structure):
    """As `Potential.evaluate`, compiled, and with the structures of a batch on the last axis."""
    with jax.enable_x64(True):
        space = potential.space(structure.cell, structure.pbc)
        x = np.moveaxis(np.asarray(structure.positions), 0, -1) if structure.batch else structure.positions
        numbers = structure.numbers[0][:, None] if structure.batch else structure.numbers
        return jax.tree.map(np.asarray, _lanes(as_leaves(potential, np.float64), x, numbers, as_leaves(space, np.float64)))


@pytest.mark.parametrize("case", ["silica_cluster", "silica_cell", slow("titania_cluster"), slow("titania_cell")])
def test_energies_forces_and_virials_are_those_of_lammps(case):
    """To the digits of LAMMPS' Coulomb constant (14.399645 eV Å); `ionic_peer.py` wrote the numbers."""
    held = {k: DATA[f"{case}.{k}"] for k in ("positions", "numbers", "cell", "energy", "forces", "virial")}
    cell = case.endswith("cell")
    potential = MODELS[case.split("_")[0]](cutoff=8.0 if cell else None, alpha=0.2, truncation="shift")
    out = evaluated(potential, Structure.create(held["positions"], held["numbers"], held["cell"], pbc=(cell,) * 3))
    np.testing.assert_allclose(out.energy, held["energy"], rtol=5e-7)
    np.testing.assert_allclose(out.forces, held["forces"], atol=5e-6)
    if cell:
        np.testing.assert_allclose(out.virial, held["virial"], atol=1e-4)


def by_hand(positions, numbers, charges, pairs, cutoff, alpha):
    """DSF charges and smoothly ending Buckingham pairs of a free cluster, in plain loops; no pair is close."""
    k, total = 14.3996454784, 0.0
    for i in range(len(numbers)):
        for j in range(i):
            r = float(np.linalg.norm(positions[i] - positions[j]))
            if r >= cutoff:
                continue
            a, b, c = pairs.get((numbers[i], numbers[j]), pairs.get((numbers[j], numbers[i]), (0, 1, 0)))
            on = 0.66 * cutoff
            t = min(max((r * r - on * on) / (cutoff**2 - on * on), 0), 1)
            total += (a * exp(-b * r) - c / r**6) * (1 - 3 * t**2 + 2 * t**3)
            end = erfc(alpha * cutoff) / cutoff**2 + 2 * alpha / sqrt(pi) * exp(-((alpha * cutoff) ** 2)) / cutoff
            shifted = erfc(alpha * r) / r - erfc(alpha * cutoff) / cutoff + end * (r - cutoff)
            total += k * charges[numbers[i]] * charges[numbers[j]] * shifted
    self_energy = (erfc(alpha * cutoff) / cutoff + end * cutoff) / 2 + alpha / sqrt(pi)
    return total - k * self_energy * sum(charges[z] ** 2 for z in numbers)


def test_the_damped_and_smoothed_sum_is_the_written_one():
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(range(3), range(2), range(2), indexing="ij"), -1).reshape(-1, 3)[:9]
    x, numbers = grid * 2.6 + rng.uniform(-0.2, 0.2, (9, 3)), [SI] * 3 + [OX] * 6
    pairs = {(SI, OX): (18003.7572, 4.87318, 133.5381), (OX, OX): (1388.7730, 2.76, 175.0)}
    wanted = by_hand(x, numbers, {SI: 2.4, OX: -1.2}, pairs, 5.0, 0.25)
    out = evaluated(BKS(cutoff=5.0, alpha=0.25), Structure.create(x, numbers))
    np.testing.assert_allclose(out.energy, wanted, rtol=1e-9)


@pytest.mark.parametrize(("potential", "metal"), [slow(BKS(), SI), (MatsuiAkaogi(cutoff=4.5), TI)])
def test_conformance(potential, metal):
    check_potential(potential, [OX] * 4 + [metal] * 2)


@pytest.mark.parametrize(("potential", "metal"), [(MatsuiAkaogi(), TI), (BKS(cutoff=6.0), SI)])
def test_overlapping_ions_are_pushed_apart(potential, metal):
    """From contact to well inside the minimum the energy falls all the way, by a force that is its derivative."""
    r = np.concatenate([np.geomspace(1e-3, 0.1, 10), np.linspace(0.11, 1.2, 100)])
    for pair in ((metal, OX), (OX, OX)):
        x = np.zeros((len(r), 2, 3))
        x[:, 1, 0] = r
        out = evaluated(potential, Structure.create(x, pair))  # one lane per distance
        assert out.ok.all()
        assert (np.diff(out.energy) < 0).all()
        assert (out.forces[1, 0] > 0).all()
        assert out.energy[0] > 1e6


@pytest.mark.slow
def test_lattices_are_the_published_ones():
    """Rutile of the potential's own paper: a 4.493, c 3.009 Å. Quartz by BKS: 4.941, 5.449 Å, there by Ewald's sum."""
    from ase.spacegroup import crystal

    rutile = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90])
    relaxation = Relaxation(MatsuiAkaogi(cutoff=10.0), LBFGS(max_step=0.1), 1e-3, 500, Frechet())
    done = relax(stack([from_ase(rutile)]), relaxation)
    lengths = np.linalg.norm(np.asarray(done.structures.cell)[0], axis=1)
    np.testing.assert_allclose(lengths, [4.493, 4.493, 3.009], atol=0.005)


def test_strangers_and_wrong_settings_are_one_line():
    with pytest.raises(InputError, match="BKS has parameters for Si and O, not for Ti"):
        BKS().check(np.array([TI, OX]))
    with pytest.raises(InputError, match="must be positive"):
        BKS(cutoff=-1.0)
    with pytest.raises(InputError, match="damping"):
        MatsuiAkaogi(cutoff=8.0, alpha=-0.1)
    assert not evaluated(BKS(), Structure.create([[0, 0, 0], [2, 0, 0]], [TI, OX])).ok


def test_the_names_of_inputs():
    assert registry.find("potential", "bks-silica") is BKS
    assert registry.find("potential", "matsui-akaogi") is MatsuiAkaogi
