"""Potentials under periodic boundaries against LAMMPS, ASE, published energies and formulas written out here."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lammps_peer
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.tersoff import Tersoff as AseTersoff
from ase.calculators.tersoff import TersoffParameters as AseTersoffParameters
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.leaves import as_leaves
from thalweg.potentials.ase import ThalwegCalculator
from thalweg.potentials.base import EnergyPotential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.many_body import Gupta, SuttonChen
from thalweg.potentials.neighbors import neighbors_for
from thalweg.potentials.pair import CSHGel, GeneralisedLennardJones, LennardJones, Morse, SoftSphere
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.tersoff import Tersoff
from thalweg.space import Space
from thalweg.testing import check_potential
from thalweg.testing.periodic import check_periodic

PERIODIC = (True, True, True)
SLOW = pytest.mark.slow
FRAMES = lammps_peer.frames()
#: Which potential is that of a case of `lammps_peer`.
OURS = {
    "silicon": StillingerWeber(),
    "liquid": StillingerWeber(),
    "skew_silicon": StillingerWeber(),
    "mixture": BinaryLennardJones(),
    "skew_mixture": BinaryLennardJones(),
    "shifted_mixture": BinaryLennardJones(truncation="shift"),
    "gel": CSHGel(),
}


@eqx.filter_jit
def _lanes(potential, positions, numbers, space):
    return potential.lanes(positions, numbers, space, virial=True)


def evaluate(potential, positions, numbers, cell, pbc=PERIODIC):
    """One structure in float64, as NumPy arrays: comparisons outside of the scope of x64 would round to float32."""
    with jax.enable_x64(True):
        traced, space = as_leaves((potential, potential.space(cell, pbc)), np.float64)
        out = _lanes(traced, jnp.asarray(positions, jnp.float64), jnp.asarray(numbers, jnp.int32), space)
        out = jax.tree.map(np.asarray, out)
    assert out.energy.dtype == np.float64
    return out


def diamond(a, repeat=2):
    return bulk("Si", "diamond", a=a, cubic=True) * (repeat, repeat, repeat)


def rattled(atoms, scale, seed=0):
    atoms = atoms.copy()
    atoms.positions += scale * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return atoms


# --- LAMMPS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", OURS)
def test_equals_lammps(case):
    """Numbers that LAMMPS (22 Jul 2025) gave; skew cells and the mixtures are smaller than two cutoffs."""
    frame = FRAMES[case]
    out = evaluate(OURS[case], frame["positions"], frame["numbers"], frame["cell"])
    assert out.ok
    for key in ("energy", "forces", "virial"):
        scale = np.abs(frame[key]).max()
        np.testing.assert_allclose(getattr(out, key), frame[key], rtol=0, atol=1e-11 * scale, err_msg=key)


@pytest.mark.skipif(lammps_peer.missing() is not None, reason=str(lammps_peer.missing()))
@pytest.mark.parametrize("case", OURS)
def test_lammps_says_so_still(case):
    """The numbers kept are those of LAMMPS: also of frames that nobody has looked at."""
    frame = FRAMES[case]
    noise = 0.02 * np.random.default_rng(7).normal(size=frame["positions"].shape)
    for x in (frame["positions"], frame["positions"] + noise):
        energy, forces, virial = lammps_peer.evaluate(case, x, frame["cell"], frame["numbers"])
        out = evaluate(OURS[case], x, frame["numbers"], frame["cell"])
        np.testing.assert_allclose(out.energy, energy, rtol=1e-11)
        np.testing.assert_allclose(out.forces, forces, rtol=0, atol=1e-11 * np.abs(forces).max())
        np.testing.assert_allclose(out.virial, virial, rtol=0, atol=1e-11 * np.abs(virial).max())


# --- published energies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "a", "energy"),
    [(2.16826, 5.433, -277.537), (2.1683, 5.431, -277.5424), (1.0, 5.431, -128.0)],
)
def test_stillinger_weber_crystal(epsilon, a, energy):
    """64 atoms at -2 epsilon each near the best lattice constant (Stillinger and Weber, 1985); 2.1683 eV is LAMMPS' epsilon."""
    out = evaluate(StillingerWeber(epsilon=epsilon), diamond(a).positions, [14] * 64, diamond(a).cell.array)
    np.testing.assert_allclose(out.energy, energy, atol=6e-4 if a == 5.433 else 5e-5)
    np.testing.assert_allclose(out.atomic_energies, out.energy / 64, rtol=1e-12)
    np.testing.assert_allclose(out.forces, 0, atol=1e-12)


def test_gel_published_energy():
    """The structure from grand-canonical Monte Carlo of StriderNet's authors, kcal/mol."""
    np.testing.assert_allclose(FRAMES["gel"]["energy"], -958_860.69, atol=5e-3)
    assert CSHGel().units(np.zeros(1)) == ("kcal/mol", "Å")


def test_kob_andersen_published_energy():
    """The first frame of StriderNet's 100 atoms by the convention of its paper, only the nearest image of each atom."""
    frame = FRAMES["mixture"]
    nearest, every = (
        evaluate(BinaryLennardJones(minimum_image=m), frame["positions"], frame["numbers"], frame["cell"])
        for m in (True, False)
    )
    np.testing.assert_allclose(nearest.energy, -510.19, atol=5e-3)
    np.testing.assert_allclose(every.energy - nearest.energy, -3.77, atol=5e-3)


@pytest.mark.parametrize("symbol", ["Cu", "Ag", "Au", "Pt"])
def test_cleri_rosato_cohesive_energy(symbol):
    """Fitted to the fcc crystal with interactions to the fifth neighbours (Cleri and Rosato, 1993)."""
    energies = {"Cu": 3.544, "Ag": 2.960, "Au": 3.779, "Pt": 5.853}
    r0 = Gupta("cleri-rosato").bond_lengths(np.array(Atoms(symbol).numbers))[0]
    crystal = bulk(symbol, "fcc", a=np.sqrt(2) * r0)
    out = evaluate(Gupta(cutoff=2.34 * r0), crystal.positions, crystal.numbers, crystal.cell.array)
    np.testing.assert_allclose(-out.energy, energies[symbol], rtol=5e-3)


# --- formulas, term by term -----------------------------------------------------------------------------------------------


def triplets(atoms):
    """Energy of Stillinger and Weber, every angle by itself, over ASE's neighbours."""
    i, d, r = neighbor_list("iDd", atoms, 1.8 * 2.0951)
    x = r / 2.0951
    pairs = 7.049556277 * (0.6022245584 / x**4 - 1) * np.exp(1 / (x - 1.8))
    energy = pairs.sum() / 2
    for atom in range(len(atoms)):
        mine = np.flatnonzero(i == atom)
        for a in range(len(mine)):
            for b in range(a):
                j, k = mine[a], mine[b]
                cosine = d[j] @ d[k] / (r[j] * r[k])
                energy += 21 * np.exp(1.2 / (x[j] - 1.8) + 1.2 / (x[k] - 1.8)) * (cosine + 1 / 3) ** 2
    return 2.16826 * energy


@pytest.mark.parametrize("pbc", [PERIODIC, (True, True, False), (False, False, False)])
def test_stillinger_weber_equals_triplets(pbc):
    atoms = rattled(bulk("Si", "diamond", a=5.2), 0.2)
    atoms = atoms * (1, 2, 2)
    atoms.pbc = pbc
    out = evaluate(StillingerWeber(), atoms.positions, atoms.numbers, atoms.cell.array, pbc)
    np.testing.assert_allclose(out.energy, triplets(atoms), rtol=1e-12)


def gupta_by_neighbours(atoms, cutoff):
    import csv
    from importlib import resources

    text = resources.files("thalweg.potentials").joinpath("data", "gupta.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if line[0] != "#")
    table = {frozenset((r["first"], r["second"])): r for r in rows if r["set"] == "ag-au"}
    i, j, r = neighbor_list("ijd", atoms, cutoff)
    symbols = np.array(atoms.get_chemical_symbols())
    of = lambda key: np.array([float(table[frozenset((a, b))][key]) for a, b in zip(symbols[i], symbols[j], strict=True)])
    y = r / of("r0") - 1
    v, rho = of("A") * np.exp(-of("p") * y), of("xi") ** 2 * np.exp(-2 * of("q") * y)
    return v.sum() - np.sqrt(np.bincount(i, rho, len(atoms))).sum()


def test_periodic_gupta_equals_the_formula():
    atoms = rattled(bulk("Ag", "fcc", a=4.0) * (2, 2, 1), 0.2)
    atoms.symbols[:2] = "Au"
    out = evaluate(Gupta("ag-au", cutoff=6.5), atoms.positions, atoms.numbers, atoms.cell.array)
    np.testing.assert_allclose(out.energy, gupta_by_neighbours(atoms, 6.5), rtol=1e-12)


def test_periodic_sutton_chen_equals_the_formula():
    atoms = rattled(bulk("Ag", "fcc", a=4.0) * (2, 2, 1), 0.2)
    i, r = neighbor_list("id", atoms, 7.0)
    v, rho = (4.09 / r) ** 12, (4.09 / r) ** 6  # silver: n 12, m 6, epsilon 2.5415e-3 eV, a 4.09 Å, c 144.41
    energy = 2.5415e-3 * (v.sum() / 2 - 144.41 * np.sqrt(np.bincount(i, rho)).sum())
    out = evaluate(SuttonChen(cutoff=7.0), atoms.positions, atoms.numbers, atoms.cell.array)
    np.testing.assert_allclose(out.energy, energy, rtol=1e-4)  # as far as the parameters are printed


@pytest.mark.parametrize(
    ("potential", "formula"),
    [
        (GeneralisedLennardJones(1.3, 0.9, 7, cutoff=2.2), lambda r: 5.2 * ((0.9 / r) ** 14 - (0.9 / r) ** 7)),
        (Morse(6.0, cutoff=2.2), lambda r: np.exp(-12 * (r - 1)) - 2 * np.exp(-6 * (r - 1))),
        (SoftSphere(sigma=1.6, alpha=2.5, cutoff=2.2), lambda r: np.maximum(1 - r / 1.6, 0) ** 2.5 / 2.5),
    ],
)
def test_periodic_pairs_equal_the_formula(potential, formula):
    atoms = rattled(
        Atoms("X4", scaled_positions=np.eye(4)[:, :3] / 2, cell=[[2, 0, 0], [0.4, 1.9, 0], [-0.3, 0.5, 2]], pbc=1), 0.05
    )
    out = evaluate(potential, atoms.positions, atoms.numbers, atoms.cell.array)
    np.testing.assert_allclose(out.energy, formula(neighbor_list("d", atoms, 2.2)).sum() / 2, rtol=1e-12)


@pytest.mark.parametrize("smooth", [False, True])
def test_lennard_jones_equals_ase(smooth):
    """ASE shifts where it does not smooth. The stress too."""
    ours = LennardJones(cutoff=2.3, truncation="smooth" if smooth else "shift", onset=1.7 if smooth else None)
    atoms = rattled(bulk("Ar", "fcc", a=1.6) * (2, 1, 1), 0.05)
    theirs = atoms.copy()
    atoms.calc, theirs.calc = ThalwegCalculator(ours), AseLennardJones(rc=2.3, ro=1.7 if smooth else None, smooth=smooth)
    np.testing.assert_allclose(atoms.get_potential_energy(), theirs.get_potential_energy(), rtol=1e-11)
    np.testing.assert_allclose(atoms.get_forces(), theirs.get_forces(), atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), theirs.get_stress(), rtol=1e-9, atol=1e-10)


def carbon(which):
    """Carbon in a crystal, a strained small cell whose atoms meet their own images, and a sheet; all shaken."""
    if which == "sheet":
        sheet = graphene(a=2.53, vacuum=4)
        sheet.pbc = True
        return rattled(sheet.repeat((2, 3, 1)), 0.1)
    return rattled(bulk("C", "diamond", a=3.566, cubic=True) * (2, 1, 1) if which == "crystal" else bulk("C", a=3.0), 0.08)


@pytest.mark.parametrize("which", ["small", pytest.param("crystal", marks=SLOW), pytest.param("sheet", marks=SLOW)])
def test_tersoff_equals_ase(which):
    """Energies, forces and stresses of ASE's implementation, which has loops of Python over triplets."""
    ours = Tersoff()
    shared = {k: getattr(ours, k) for k in ("A", "B", "lambda1", "lambda2", "beta", "n", "c", "d", "h", "R", "D")}
    parameters = AseTersoffParameters(**shared, lambda3=0.0, gamma=1.0, m=3.0)
    atoms = carbon(which)
    theirs = atoms.copy()
    atoms.calc, theirs.calc = ThalwegCalculator(ours), AseTersoff({("C", "C", "C"): parameters})
    np.testing.assert_allclose(atoms.get_potential_energy(), theirs.get_potential_energy(), rtol=1e-11)
    np.testing.assert_allclose(atoms.get_forces(), theirs.get_forces(), atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), theirs.get_stress(), rtol=1e-9, atol=1e-10)


@SLOW
@pytest.mark.parametrize(("crystal", "energy"), [("diamond", -7.37), ("sheet", -7.40)])
def test_tersoff_published_energies(crystal, energy):
    """Diamond at 3.566 Å; a sheet of graphite with bonds of 1.46 Å (Tersoff, 1988)."""
    sheet = graphene(a=1.46 * 3**0.5, vacuum=4)
    atoms = bulk("C", "diamond", a=3.566) if crystal == "diamond" else sheet
    out = evaluate(Tersoff(), atoms.positions, atoms.numbers, atoms.cell.array, tuple(atoms.pbc))
    np.testing.assert_allclose(out.energy / 2, energy, atol=0.006)


@SLOW
def test_tersoff_heaps_have_no_energy():
    """More neighbours than are looked at: not a number rather than too few."""
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
    assert np.isfinite(evaluate(Tersoff(), 1.4 * grid, [6] * 27, np.zeros((3, 3)), (False,) * 3).energy)
    assert not evaluate(Tersoff(), 0.7 * grid, [6] * 27, np.zeros((3, 3)), (False,) * 3).ok


# --- conformance: derivatives, equivalent cells, supercells ---------------------------------------------------------------

POTENTIALS = {
    "cut": (BinaryLennardJones(), [18] * 3 + [10] * 2),
    "nearest": (BinaryLennardJones(minimum_image=True), [18] * 3 + [10] * 2),
    "smooth": (BinaryLennardJones(truncation="smooth", cutoff=1.8), [18] * 3 + [10] * 2),
    "gel": (CSHGel(), [0] * 4),
    "silicon": (StillingerWeber(), [14] * 6),
    "carbon": (Tersoff(), [6] * 5),
    "gupta": (Gupta(cutoff=5.5, truncation="smooth"), [47] * 3 + [79] * 2),
    "sutton-chen": (SuttonChen(cutoff=6.0, truncation="shift"), [47] * 3 + [79] * 2),
}
FREE = BinaryLennardJones(epsilon=(1.0, 1.5, 0.62), sigma=(1.0, 1.0, 1.0), cutoff=None), [18] * 4 + [10]


@pytest.mark.parametrize("name", POTENTIALS)
def test_periodic_conformance(name):
    potential, numbers = POTENTIALS[name]
    check_periodic(potential, numbers, float(np.mean(potential.bond_lengths(np.array(numbers)))))


@pytest.mark.parametrize("name", ["free", "smooth", "silicon"])
def test_conformance(name):
    """Free clusters, padding, single precision: what the other tests here leave out."""
    potential, numbers = {**POTENTIALS, "free": FREE}[name]
    check_potential(potential, numbers)


class Periodic(EnergyPotential):
    """A soft sphere with all its images, by plain JAX; or only with the nearest ones."""

    cutoff: float = 2.0
    spoil: str = eqx.field(static=True, default="")

    def atomic_energies(self, structure):
        x, cell = structure.positions, structure.cell
        grid = jnp.stack(jnp.meshgrid(*[jnp.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
        if self.spoil == "images":
            grid = grid[jnp.array([grid.shape[0] // 2])]
        grid = grid if any(structure.pbc) else grid[:1] * 0
        d = x[:, None, None] - x[None, :, None]
        if any(structure.pbc):
            d = d - jnp.round(d @ jnp.linalg.inv(cell)) @ cell
        r2 = ((d - grid @ cell) ** 2).sum(-1)
        itself = jnp.eye(len(x), dtype=bool)[..., None] & (grid == 0).all(1)
        some = structure.mask[:, None, None] & structure.mask[None, :, None] & ~itself & (r2 < self.cutoff**2)
        u = jnp.where(some, 1 - r2 / self.cutoff**2, 0) ** 3
        return u.sum((1, 2)) / 2

    def bond_lengths(self, numbers):
        return np.ones(len(numbers))


class Squeezed(LennardJones):
    """A virial that is 1 % too large: it turns with the cell, and doubles with it."""

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        out = super().lanes(positions, numbers, space, neighbors, virial)
        return out if out.virial is None else eqx.tree_at(lambda o: o.virial, out, 1.01 * out.virial)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (Periodic(spoil="images"), "energies of Periodic in a periodic cell differ for the same crystal"),
        (Squeezed(cutoff=2.0), "virials of Squeezed in a periodic cell are not minus the derivative"),
    ],
)
def test_periodic_conformance_catches(potential, message):
    with pytest.raises(AssertionError, match=message):
        check_periodic(potential, [0] * 4, 1.12)


def test_conformance_passes_what_is_right():
    check_periodic(Periodic(), [0] * 4, 1.0)


# --- neighbour lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("potential", "atoms", "noise"),
    [
        (BinaryLennardJones(), bulk("Ar", "fcc", a=1.6, cubic=True) * (4, 4, 4), 0.05),
        (StillingerWeber(), bulk("Si", "diamond", a=5.431, cubic=True) * (2, 2, 2), 0.25),
        pytest.param(
            Gupta("ag-au", cutoff=4.5, truncation="smooth"), bulk("Ag", "fcc", a=4.09) * (5, 5, 5), 0.15, marks=pytest.mark.slow
        ),
    ],
)
def test_lists_give_what_all_pairs_give(potential, atoms, noise):
    """Boxes and a skew cell; also with species in disorder. Sums run in another order, hence not to the last digit."""
    atoms = rattled(atoms, noise)
    rng = np.random.default_rng(2)
    numbers = atoms.numbers.copy()
    if not isinstance(potential, StillingerWeber):
        numbers[rng.permutation(len(atoms))[: len(atoms) // 5]] = 10 if isinstance(potential, BinaryLennardJones) else 79
    dense = evaluate(potential, atoms.positions, numbers, atoms.cell.array)
    with jax.enable_x64(True):
        traced, space = as_leaves((potential, potential.space(atoms.cell.array, PERIODIC)), np.float64)
        x, z = jnp.asarray(atoms.positions), jnp.asarray(numbers, jnp.int32)
        neighbors = neighbors_for(potential, x, z, space)
        out = jax.tree.map(np.asarray, eqx.filter_jit(lambda p, *a: p.lanes(*a, virial=True))(traced, x, z, space, neighbors))
    np.testing.assert_allclose(out.energy, dense.energy, rtol=1e-12)
    np.testing.assert_allclose(out.forces, dense.forces, rtol=0, atol=1e-11 * np.abs(dense.forces).max())
    np.testing.assert_allclose(out.virial, dense.virial, rtol=0, atol=1e-11 * np.abs(dense.virial).max())
    assert (np.abs(dense.forces).max(1) > 1e-3).all()


# --- any cell ------------------------------------------------------------------------------------------------------------

CELLS = st.tuples(*[st.floats(0.85, 1.3)] * 3, *[st.floats(-0.4, 0.4)] * 3, st.integers(0, 2**16))


@settings(max_examples=25, deadline=None)
@given(CELLS, st.sampled_from(["mixture", "silicon"]))
def test_any_cell_any_image(cell, which):
    """Against ASE's neighbours in random triclinic cells, atoms far outside of them; one program for all of them."""
    a, b, c, xy, xz, yz, seed = cell
    unit = 1.5 if which == "mixture" else 3.2
    h = unit * np.array([[a, 0, 0], [xy, b, 0], [xz, yz, c]])
    rng = np.random.default_rng(seed)
    x = (np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.5, 0.1, 0.6]]) + 0.03 * rng.normal(size=(3, 3))) @ h
    images = x + rng.integers(-3, 4, (3, 3)) @ h + rng.normal(size=3)
    potential = BinaryLennardJones(cutoff=2.0) if which == "mixture" else StillingerWeber()
    numbers = [18, 18, 10] if which == "mixture" else [14] * 3
    space = Space(h, PERIODIC, False, (2, 2, 2) if which == "silicon" else (3, 3, 3))
    with jax.enable_x64(True):
        traced, space = as_leaves((potential, space), np.float64)
        out = _lanes(traced, jnp.asarray(images), jnp.asarray(numbers, jnp.int32), space)
        energy = float(out.energy)
    atoms = Atoms("X3", x, cell=h, pbc=True)
    if which == "silicon":
        np.testing.assert_allclose(energy, triplets(atoms), rtol=1e-10)
        return
    i, j, r = neighbor_list("ijd", atoms, 2.0)
    kind = np.array([0, 0, 1])[i] + np.array([0, 0, 1])[j]
    epsilon, sigma = np.array([1, 1.5, 0.5])[kind], np.array([1, 0.8, 0.88])[kind]
    s6 = (sigma / r) ** 6 * (r < 2 * sigma)
    np.testing.assert_allclose(energy, (2 * epsilon * (s6**2 - s6)).sum(), rtol=1e-9, atol=1e-9)
