"""Potentials against published energies, ASE, and formulas written out here."""

import csv
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.cluster import Octahedron
from ase.data import atomic_numbers
from ase.optimize import BFGS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.errors import InputError, StructureError
from thalweg.potentials.ase import ThalwegCalculator
from thalweg.potentials.base import EnergyPotential
from thalweg.potentials.many_body import Gupta, SuttonChen
from thalweg.potentials.pair import LennardJones, Morse
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure, pad, stack
from thalweg.testing import compact_cluster
from thalweg.testing.relaxers import compact_icosahedron

#: Cohesive energies of the fcc metals (eV per atom): C. Kittel, Introduction to Solid State Physics.
COHESIVE = {
    "Ni": 4.44, "Cu": 3.49, "Rh": 5.75, "Pd": 3.89, "Ag": 2.95, "Ir": 6.94, "Pt": 5.84, "Au": 3.81, "Al": 3.39, "Pb": 2.03,
}  # fmt: skip


@eqx.filter_jit
def _lanes(potential, positions, numbers):
    return potential.lanes(positions, numbers)


def evaluate(potential, positions, numbers):
    with jax.enable_x64(True):
        out = _lanes(potential, jnp.asarray(positions, jnp.float64), jnp.asarray(numbers, jnp.int32))
        return jax.tree.map(np.asarray, out)


def ring(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) / (2 * np.sin(np.pi / n))


def bipyramid(n):
    """Two apexes over a regular n-gon of edge 1."""
    apex = np.sqrt(max(1 - (ring(n) ** 2).sum(1)[0], 0.3))
    return np.concatenate([ring(n), [[0, 0, apex], [0, 0, -apex]]])


def relaxed(shapes, potential, unit=1.0):
    """Energies of clusters of particles X (edges near 1) relaxed together, padded to the largest."""
    size = max(map(len, shapes))
    batch = stack([pad(Structure.create(x * unit), size) for x in shapes])
    out = relax(batch, Relaxation(potential, LBFGS(max_step=0.1 * unit), fmax=1e-7), n_lanes=len(shapes))
    assert out.converged.all()
    return out.energy


TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)


# --- pair potentials ------------------------------------------------------------------------------------------------------


def test_lennard_jones_equals_ase():
    x = compact_cluster(np.full(9, 1.12))
    atoms = Atoms("X9", positions=x, calculator=AseLennardJones(epsilon=0.7, sigma=0.95, rc=1e4))
    out = evaluate(LennardJones(epsilon=0.7, sigma=0.95), x, [0] * 9)
    np.testing.assert_allclose(out.energy, atoms.get_potential_energy(), rtol=1e-12)
    np.testing.assert_allclose(out.forces, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(out.atomic_energies, atoms.get_potential_energies(), atol=1e-11)


def test_lennard_jones_published_minima():
    text = resources.files("thalweg.benchmark").joinpath("data", "lennard_jones_clusters.csv").read_text()
    table = {int(row["atoms"]): float(row["energy"]) for row in csv.DictReader(text.splitlines())}
    assert list(table) == list(range(2, 151))
    shapes = [np.eye(3)[:2], ring(3), TETRAHEDRON, bipyramid(3), bipyramid(4), bipyramid(5), compact_icosahedron()]
    energies = relaxed(shapes, LennardJones())
    np.testing.assert_allclose(energies, [table[len(x)] for x in shapes], atol=6e-7)


@pytest.mark.parametrize(
    ("rho", "published"),
    [
        (3.0, [-9.2995, -13.5442, -17.5530]),
        (6.0, [-9.0449, -12.4878, -16.2076]),
        (10.0, [-9.0036, -12.0949, -15.9565]),
        (14.0, [-9.0003, -12.0182, -15.8831]),
    ],
)
def test_morse_published_minima(rho, published):
    """5A, 6A and 7A of J. P. K. Doye and D. J. Wales, J. Chem. Soc., Faraday Trans. 93, 4233 (1997)."""
    shapes = [bipyramid(3), bipyramid(4), bipyramid(5)]
    np.testing.assert_allclose(relaxed(shapes, Morse(rho=rho)), published, atol=6e-5)


# --- Gupta ----------------------------------------------------------------------------------------------------------------


def gupta_parameters():
    text = resources.files("thalweg.potentials").joinpath("data", "gupta.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if line[0] != "#")
    keys = ("A", "xi", "p", "q", "r0")
    return {(r["set"], frozenset((r["first"], r["second"]))): [float(r[k]) for k in keys] for r in rows}


PARAMETERS = gupta_parameters()


def gupta_by_hand(name, symbols, x, cutoff=np.inf):
    """The formula, term by term."""
    total = 0.0
    for i in range(len(x)):
        repulsion = bond = 0.0
        for j in range(len(x)):
            r = np.linalg.norm(x[i] - x[j])
            if i != j and r < cutoff:
                a, xi, p, q, r0 = PARAMETERS[name, frozenset((symbols[i], symbols[j]))]
                repulsion += a * np.exp(-p * (r / r0 - 1))
                bond += xi**2 * np.exp(-2 * q * (r / r0 - 1))
        total += repulsion - np.sqrt(bond)
    return total


PURE = sorted({next(iter(k[1])) for k in PARAMETERS if k[0] == "cleri-rosato"})
ALLOYS = {"ag-au": ("Ag", "Au"), "ag-pt": ("Ag", "Pt"), "pd-au": ("Pd", "Au"), "pd-pt": ("Pd", "Pt")}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([*PURE, *ALLOYS]), st.integers(1, 4), st.integers(0, 2**16))
def test_gupta_equals_the_formula(which, n_first, seed):
    """One compiled program serves every metal and alloy: "auto" chooses the set inside."""
    symbols = [which] * 5 if which in PURE else [ALLOYS[which][0]] * n_first + [ALLOYS[which][1]] * (5 - n_first)
    x = compact_cluster([2.8] * 5, seed=seed, noise=0.15)
    by_hand = gupta_by_hand(which if which in ALLOYS else "cleri-rosato", symbols, x)
    numbers = [atomic_numbers[s] for s in symbols]
    np.testing.assert_allclose(evaluate(Gupta(), x, numbers).energy, by_hand, rtol=1e-11)


def test_gold55_is_the_published_form():
    """U/2 sum [A sum exp - sqrt(sum exp)] with U = 3.454 eV, A = 0.118428, p = 10.15, q = 4.13, r0 = 2.96 Å, cutoff 8 Å."""
    x = compact_cluster([2.9] * 55)
    r = np.linalg.norm(x[:, None] - x, axis=-1)
    y = np.where((r > 0) & (r < 8), r, np.inf) / 2.96 - 1
    energy = 3.454 / 2 * (0.118428 * np.exp(-10.15 * y).sum(1) - np.sqrt(np.exp(-2 * 4.13 * y).sum(1))).sum()
    out = evaluate(Gupta("gold55"), x, [79] * 55)
    np.testing.assert_allclose(out.energy, energy, rtol=1e-11)
    assert (r > 8).any()


def gupta_and_gradient(flat, a, xi, p, q, r0):
    x = flat.reshape(-1, 3)
    d = x[:, None] - x
    r = np.sqrt((d**2).sum(-1)) + 1e6 * np.eye(len(x))
    repulsion, bond = a * np.exp(-p * (r / r0 - 1)), xi**2 * np.exp(-2 * q * (r / r0 - 1))
    root = np.sqrt(bond.sum(1))
    slope = (-2 * p * repulsion + q * bond * (1 / root[:, None] + 1 / root)) / r0
    return repulsion.sum() - root.sum(), ((slope / r)[..., None] * d).sum(1).ravel()


@pytest.mark.parametrize(("name", "bounds"), [("ag-au", {"Ag": -96.8800}), ("pd-pt", {"Pd": -131.3757, "Pt": -199.6755})])
def test_gupta_38_atom_octahedra(name, bounds):
    """Truncated octahedra: the minimum that scipy finds, and at or below the best of an independent short search."""
    parameters = [PARAMETERS[name, frozenset((symbol,))] for symbol in bounds]
    shape = Octahedron("Ag", 4, cutoff=1, latticeconstant=np.sqrt(2)).positions
    starts = [Structure.create(shape * p[-1], [atomic_numbers[s]] * 38) for s, p in zip(bounds, parameters, strict=True)]
    out = relax(stack(starts), Relaxation(Gupta(name), LBFGS(), fmax=1e-6), n_lanes=2)
    for energy, start, p in zip(out.energy, starts, parameters, strict=True):
        x = np.ravel(start.positions)
        found = minimize(gupta_and_gradient, x, tuple(p), jac=True, method="L-BFGS-B", options={"gtol": 1e-7})
        np.testing.assert_allclose(energy, found.fun, atol=1e-5)
    assert (out.energy < list(bounds.values())).all()


def test_gupta_crystal_energies():
    scales = {symbol: 6 * Gupta().energy_scale(np.array([atomic_numbers[symbol]])) for symbol in PURE}
    for symbol, energy in scales.items():
        np.testing.assert_allclose(energy, COHESIVE[symbol], rtol=0.06, err_msg=symbol)


@pytest.mark.parametrize(
    ("potential", "numbers", "message"),
    [
        (Gupta(), [3], "Li"),
        (Gupta(), [28, 79], "Ni-Au"),
        (Gupta("ag-au"), [78], "Pt"),
        (SuttonChen(), [26], "Fe"),
        (SuttonChen("12-6"), [47], "Ag"),
    ],
)
def test_unknown_species(potential, numbers, message):
    with pytest.raises(InputError, match=message):
        potential.check(np.array(numbers))


@pytest.mark.parametrize(("potential", "numbers"), [(Gupta(), [28, 79]), (SuttonChen(), [47, 26])])
def test_unknown_species_have_no_energy(potential, numbers):
    """Also where nobody asked `check`: not a silently wrong number."""
    assert not evaluate(potential, compact_cluster([2.8] * 2), numbers).ok


@pytest.mark.parametrize("kind", [Gupta, SuttonChen])
def test_unknown_set_suggests(kind):
    with pytest.raises(InputError, match=r"Did you mean|Known"):
        kind("cleri-rosatto")


# --- Sutton-Chen ----------------------------------------------------------------------------------------------------------


def test_sutton_chen_published_minima():
    """12-6 clusters of 3 to 6 atoms in units of epsilon: J. P. K. Doye and D. J. Wales, New J. Chem. 22, 733 (1998)."""
    energies = relaxed([ring(3), TETRAHEDRON, bipyramid(3), bipyramid(4)], SuttonChen("12-6"), unit=0.6)
    np.testing.assert_allclose(energies, [-1704.6905, -2601.8447, -3461.3452, -4378.8875], atol=6e-5)


def test_sutton_chen_crystal_energies():
    """The sum over ten shells leaves out some of the long-ranged tail, hence the tolerance."""
    for symbol, energy in COHESIVE.items():
        np.testing.assert_allclose(
            6 * SuttonChen().energy_scale(np.array([atomic_numbers[symbol]])), energy, rtol=0.13, err_msg=symbol
        )


def test_sutton_chen_unlike_pairs_lie_between_the_like():
    energies = [evaluate(SuttonChen(), [[0, 0, 0], [0, 0, 2.6]], z).energy for z in ([47, 47], [47, 79], [79, 79])]
    assert min(energies[0], energies[2]) < energies[1] < max(energies[0], energies[2])


# --- calculators ----------------------------------------------------------------------------------------------------------


def test_calculator_equals_ase_and_runs_its_optimisers():
    x = compact_icosahedron() + 0.05 * np.random.default_rng(0).normal(size=(13, 3))
    ours, theirs = Atoms("X13", positions=x), Atoms("X13", positions=x)
    ours.calc, theirs.calc = ThalwegCalculator(LennardJones()), AseLennardJones(rc=1e4)
    np.testing.assert_allclose(ours.get_potential_energy(), theirs.get_potential_energy(), rtol=1e-12)
    np.testing.assert_allclose(ours.get_potential_energy(force_consistent=True), ours.get_potential_energy(), rtol=0)
    np.testing.assert_allclose(ours.get_potential_energies(), theirs.get_potential_energies(), atol=1e-11)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-10)
    BFGS(ours, logfile=None).run(fmax=1e-4, steps=200)
    np.testing.assert_allclose(ours.get_potential_energy(), -44.326801, atol=1e-6)


def test_calculator_compiles_once_per_size():
    traces = []

    class Counted(EnergyPotential):
        def atomic_energies(self, structure):
            traces.append(structure.n_slots)
            return (structure.positions**2).sum(-1)

    calculator = ThalwegCalculator(Counted())
    for n in (2, 3, 2, 3):
        atoms = Atoms(f"X{n}", positions=np.random.default_rng(n).normal(size=(n, 3)), calculator=calculator)
        for _ in range(2):
            atoms.positions += 0.1
            np.testing.assert_allclose(atoms.get_potential_energy(), (atoms.positions**2).sum())
    assert len(set(traces)) == 2
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (Atoms("Ag2", positions=np.zeros((2, 3))), StructureError, "coincide"),
        (Atoms("AgCu", positions=np.eye(3)[:2] * 2.8), InputError, "Cu-Ag"),
        (Atoms("Ag2", positions=np.eye(3)[:2] * 2.8, cell=np.eye(3) * 9, pbc=True), InputError, "cutoff"),
        (Atoms(), StructureError, "without atoms"),
    ],
)
def test_calculator_refuses(atoms, error, message):
    atoms.calc = ThalwegCalculator(Gupta())
    with pytest.raises(error, match=message):
        atoms.get_potential_energy()


@pytest.mark.parametrize(("potential", "n_lanes"), [(LennardJones(sigma=2.5), 1), (LennardJones(sigma=2.5), 8), (Gupta(), 3)])
def test_any_number_of_lanes_gives_the_same(potential, n_lanes):
    """Few lanes work on several rows of pairs at once; 7 atoms fill no whole number of blocks, and one slot is padding."""
    x = np.random.default_rng(4).normal(size=(8, 3, 40)) * 3
    number = 79 if isinstance(potential, Gupta) else 0
    numbers = jnp.asarray([number] * 7 + [-1])[:, None]
    evaluate = jax.jit(lambda y: potential.lanes(y, numbers))
    with jax.enable_x64(True):
        few, many = evaluate(jnp.asarray(x[..., :n_lanes])), evaluate(jnp.asarray(x))
    assert np.asarray(many.ok).all()
    for name in ("energy", "forces", "atomic_energies"):
        one, all_ = np.asarray(getattr(few, name)), np.asarray(getattr(many, name))
        np.testing.assert_allclose(one, all_[..., :n_lanes], rtol=1e-9, atol=1e-9)
