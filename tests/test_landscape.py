"""Transition states, point groups, disconnectivity and harmonic thermodynamics against published numbers and other programs."""

from itertools import islice

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.cluster import Icosahedron, Octahedron
from ase.constraints import FixAtoms
from ase.vibrations import Vibrations
from scipy.integrate import quad
from scipy.optimize import rosen, rosen_der
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.transform import Rotation

from thalweg.errors import RunFolderError
from thalweg.landscape import files, saddles
from thalweg.landscape.alignment import alignments
from thalweg.landscape.descent import descend
from thalweg.landscape.explore import enter_given, explore
from thalweg.landscape.network import enter_minimum, enter_saddle
from thalweg.landscape.paths import summits
from thalweg.landscape.point_groups import point_group
from thalweg.landscape.states import Network, State
from thalweg.landscape.surface import Surface
from thalweg.landscape.thermodynamics import of_wells, superposition
from thalweg.landscape.tree import barriers, trees
from thalweg.potentials.black_box import BlackBox
from thalweg.potentials.landscapes import Landscape
from thalweg.potentials.pair import LennardJones
from thalweg.structure import Structure, from_ase
from thalweg.symmetry import GENERATORS, operations

#: The minima of LJ7: C. J. Tsai and K. D. Jordan, J. Phys. Chem. 97, 11227 (1993), doi:10.1021/j100145a019, and the Cambridge
#: Landscape Database.
LJ7 = (-16.505384, -15.935043, -15.593211, -15.533060)


def network_of(surface: Surface, tolerance: float = 1e-5) -> Network:
    """An empty network of what a surface is of."""
    s = surface.template
    boltzmann = surface.units.boltzmann if surface.units else 1.0
    return Network(
        "test", np.asarray(s.numbers), np.asarray(s.cell), s.pbc, np.asarray(s.fixed), surface.length, tolerance,
        boltzmann=boltzmann, variables=surface.potential.variables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lj7():
    """Surface and network of LJ7, searched until its four minima are joined."""
    surface = Surface(LennardJones(), Structure.create(np.zeros((7, 3))), 1.12)
    network, rng = network_of(surface), np.random.default_rng(0)
    while len(network.minima) < 4:
        enter_given(surface, network, rng.normal(size=(7, 3)) * 0.8, 1e-7)
    for _ in explore(surface, network, 1e-7, around=0):
        pass
    return surface, network


def test_minima_of_lj7(lj7):
    network = lj7[1]
    order = network.order()
    np.testing.assert_allclose([network.minima[k].energy for k in order], LJ7, atol=1e-6)
    assert [network.minima[k].group for k in order] == ["D5h", "C3v", "C3v", "C2"]


def test_saddles_of_lj7_are_saddles(lj7):
    """Forces vanish, one curvature is negative and energies lie above both ends, as ASE's Lennard-Jones has them."""
    network = lj7[1]
    assert len(set(network.joined().tolist())) == 1
    for s in network.saddles:
        atoms = Atoms("Ar7", s.positions)
        atoms.calc = AseLennardJones(sigma=1, epsilon=1, rc=100.0)
        shift = 4 * (100.0**-12 - 100.0**-6) * 21  # ASE moves the energy to 0 at the cutoff
        assert atoms.get_potential_energy() + shift == pytest.approx(s.energy, abs=1e-8)
        assert np.abs(atoms.get_forces()).max() < 1e-6
        hessian = np.zeros((21, 21))
        for k in range(21):
            ends = []
            for sign in (1, -1):
                moved = s.positions.copy()
                moved.flat[k] += sign * 1e-4
                atoms.positions = moved
                ends.append(atoms.get_forces().ravel())
            hessian[k] = (ends[1] - ends[0]) / 2e-4
        values = np.linalg.eigvalsh((hessian + hessian.T) / 2)
        assert (values < -1e-2).sum() == 1
        assert (np.abs(values) < 1e-3).sum() == 6
        assert s.energy > max(network.minima[k].energy for k in s.ends)
        np.testing.assert_allclose(
            np.sort(np.sign(s.vibrations) * s.vibrations**2), np.sort(values[np.abs(values) > 1e-3]), rtol=1e-4
        )


def test_the_first_step_from_a_saddle_matters_not(lj7):
    """Both ways down from a saddle lead to its ends from ten times as far off it."""
    surface, network = lj7
    _, saddle, ends = next(network.joining())
    found = saddles.described(surface, surface.coordinates(saddle.positions), saddle.energy)
    push = 0.2 * found.mode / np.abs(found.mode).max()
    energies = [saddles.minimum_at(surface, found.x + sign * push, 1e-6).energy for sign in (1, -1)]
    np.testing.assert_allclose(sorted(energies), sorted(network.minima[k].energy for k in ends), atol=1e-8)


def test_a_search_taken_up_again_goes_on_as_it_would_have(lj7, tmp_path):
    surface, network = lj7
    steps = lambda net, n: list(islice(explore(surface, net, 1e-7, around=3), n))
    path = tmp_path / "landscape.json"
    files.write(path, network, {"a": 1})
    first, _ = files.read(path)
    whole = steps(first, 3)
    second, about = files.read(path)
    begun = steps(second, 1)
    files.write(path, second, about)
    third, _ = files.read(path)
    assert begun + steps(third, 2) == whole
    assert about == {"a": 1}
    assert third.tried == first.tried
    np.testing.assert_array_equal([s.energy for s in third.saddles], [s.energy for s in first.saddles])


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_file_is_one_line(tmp_path, text):
    path = tmp_path / "landscape.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match="move it away") as error:
        files.read(path)
    assert "\n" not in str(error.value)


class MullerBrown(Landscape):
    """K. Muller and L. D. Brown, Theor. Chim. Acta 53, 75 (1979), doi:10.1007/BF00547608."""

    dim: int = eqx.field(static=True, default=2)
    domain = (-1.5, 2.0)
    minimiser = np.array([-0.558, 1.442])
    minimum = -146.7
    ripple = (1.0, 40.0)

    def value(self, x):
        rows = (
            (-200, -1, 0, -10, 1, 0),
            (-100, -1, 0, -10, 0, 0.5),
            (-170, -6.5, 11, -6.5, -0.5, 1.5),
            (15, 0.7, 0.6, 0.7, -1, 1),
        )
        terms = (
            s * jnp.exp(a * (x[0] - p) ** 2 + b * (x[0] - p) * (x[1] - q) + c * (x[1] - q) ** 2) for s, a, b, c, p, q in rows
        )
        return sum(terms)


def test_muller_brown():
    """Three minima and two saddles, at the published energies and places."""
    surface = Surface(MullerBrown(), Structure.create(np.zeros((1, 3))), 0.5)
    network = network_of(surface)
    for start in ((-0.5, 1.4), (0.0, 0.4), (0.6, 0.0)):
        enter_given(surface, network, np.array([[*start, 0.0]]), 1e-6)
    for _ in explore(surface, network, 1e-6, around=2):
        pass
    np.testing.assert_allclose(sorted(m.energy for m in network.minima), [-146.6995, -108.1667, -80.7678], atol=1e-3)
    low, high = sorted(network.saddles, key=lambda s: s.energy)
    np.testing.assert_allclose([low.energy, high.energy], [-72.2489, -40.6648], atol=1e-3)
    np.testing.assert_allclose(low.positions[0, :2], [0.2125, 0.2930], atol=1e-3)
    np.testing.assert_allclose(high.positions[0, :2], [-0.8220, 0.6243], atol=1e-3)
    assert len(network.saddles) == 2


def test_vibrations_around_a_calculator():
    """Carbon monoxide and a bent trimer in EMT, against ASE's own finite differences."""
    for atoms in (Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), Atoms("Cu3", [[0, 0, 0], [2.3, 0, 0], [1.2, 2.0, 0.1]])):
        surface = Surface(BlackBox("emt"), from_ase(atoms), 2.0)
        found = saddles.minimum_at(surface, surface.coordinates(atoms.positions), 1e-5)
        atoms.positions = surface.positions(found.x)
        atoms.calc = EMT()
        theirs = Vibrations(atoms, name=str(np.random.default_rng(0).integers(1e9)), delta=0.002, nfree=2)
        real = np.sort(theirs_energies(theirs))[-len(found.vibrations) :]
        np.testing.assert_allclose(found.vibrations, real, rtol=2e-3)


def theirs_energies(vibrations) -> np.ndarray:
    """Energies of ASE's vibrations, computed in memory."""
    with pytest.MonkeyPatch.context():
        vibrations.run()
        energies = np.real(vibrations.get_energies())
        vibrations.clean()
    return energies


def test_a_hop_on_a_surface():
    """A gold atom on aluminium(100) in EMT: the barrier that ASE's climbing NEB (0.37447 eV, fmax 0.001) finds."""
    slab = fcc100("Al", size=(2, 2, 3))
    add_adsorbate(slab, "Au", 1.7, "hollow")
    slab.center(axis=2, vacuum=4.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    other = slab.copy()
    other.positions[-1, 0] += slab.cell[0, 0] / 2
    surface = Surface(BlackBox("emt"), from_ase(slab), 2.9)
    start, end = (saddles.minimum_at(surface, surface.coordinates(a.positions), 1e-3) for a in (slab, other))
    (x, mode), *_ = summits(surface, start.x, end.x)
    top = saddles.climb(surface, x, mode, 1e-3)
    assert top.index == 1
    assert top.energy - start.energy == pytest.approx(0.37447, abs=1e-4)
    energies = [m.energy for m in saddles.sides(surface, top, 1e-3)]
    np.testing.assert_allclose(energies, start.energy, atol=1e-4)


MOLECULES = {
    "H2O": ("C2v", 4), "NH3": ("C3v", 6), "CH4": ("Td", 24), "C6H6": ("D6h", 24), "C2H6": ("D3d", 12), "C2H4": ("D2h", 8),
    "C3H4_D2d": ("D2d", 8), "BF3": ("D3h", 12), "CO2": ("D∞h", 4), "HCN": ("C∞v", 2), "N2": ("D∞h", 4), "H2O2": ("C2", 2),
    "CH3OH": ("Cs", 2), "O": ("Kh", 2), "C60": ("Ih", 120),
}  # fmt: skip


@pytest.mark.parametrize("name", MOLECULES)
def test_point_groups_of_molecules(name):
    """The groups that the geometries of the G2 set are known to have; any orientation, a mirror, and any order of atoms."""
    atoms = molecule(name)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(atoms))
    turned = -atoms.positions[order] @ Rotation.random(rng=rng).as_matrix() + 1.0
    assert point_group(turned, atoms.numbers[order], 0.03) == MOLECULES[name]


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "Ih"])  # C60 has that
def test_point_groups_of_orbits(name):
    """Two points in general position, moved by every operation of a group, have that group and no other."""
    group = operations(name)
    points = np.array([[0.9, 0.35, 0.62], [1.4, -0.4, 0.23]])
    positions = np.concatenate([points @ m.T for m in group])
    kinds = np.tile([1, 2], len(group))
    if name in ("C1", "Cs", "Ci", "C2"):  # too few points to have no symmetry by themselves
        more = np.array([[0.3, 1.1, 1.7], [-0.8, 0.2, 2.3]])
        positions = np.concatenate([positions, *(more @ m.T for m in group)])
        kinds = np.concatenate([kinds, np.tile([3, 4], len(group))])
    assert point_group(positions, kinds, 1e-3) == (name, len(group))


def test_point_groups_of_clusters():
    for atoms, wanted in ((Icosahedron("Cu", 3), ("Ih", 120)), (Octahedron("Cu", 4, 1), ("Oh", 48))):
        assert point_group(atoms.positions, atoms.numbers, 0.05) == wanted
        atoms.positions += np.random.default_rng(0).normal(size=atoms.positions.shape) * 0.2
        assert point_group(atoms.positions, atoms.numbers, 0.05) == ("C1", 1)


def test_alignment_undoes_rotation_mirror_and_exchange():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(12, 3)) * 2
    numbers = np.array([18] * 8 + [36] * 4)
    order = np.concatenate([rng.permutation(8), 8 + rng.permutation(4)])
    b = -a[order] @ Rotation.random(rng=rng).as_matrix().T + [3.0, 1.0, -2.0]
    best = alignments(a, b, Structure.create(a, numbers), rng)[0]
    np.testing.assert_allclose(best, a, atol=1e-8)


def test_alignment_in_a_cell():
    """Moved over the border and with atoms exchanged, a crystal lies on itself; with a fixed atom none is moved as a whole."""
    crystal = bulk("Cu", cubic=True).repeat(2)
    crystal.rattle(0.1, seed=3)
    rng = np.random.default_rng(3)
    order = rng.permutation(len(crystal))
    b = crystal.positions[order] + [0.7, 5.0, -9.3] + crystal.cell.array[0] * rng.integers(-1, 2, len(crystal))[:, None]
    best = alignments(crystal.positions, b, from_ase(crystal), rng)[0]
    np.testing.assert_allclose(best, crystal.positions, atol=1e-6)
    crystal.set_constraint(FixAtoms([0]))
    held = alignments(crystal.positions, crystal.positions + 0.05, from_ase(crystal), rng)
    np.testing.assert_allclose(held[0], crystal.positions + 0.05)


def test_descent_to_the_bottom_of_rosenbrocks_valley():
    end = descend(lambda x: (rosen(x), rosen_der(x)), np.array([1.4, 0.6, 0.4, -0.7]), 1e-8, 500, 0.3)
    assert end.converged
    np.testing.assert_allclose(end.x, 1.0, atol=1e-6)


def test_a_descent_into_nothing_ends():
    broken = lambda x: (np.nan if x[0] < 0 else x[0], np.ones(1))
    assert not descend(broken, np.array([0.5]), 1e-6, 100, 0.2).converged


def invented(rng, n: int, passes: int) -> Network:
    """A network of energies alone: minima between 0 and 1, saddles above both their ends."""
    network = Network("x", np.zeros(1, int), np.zeros((3, 3)), (False,) * 3, np.zeros(1, bool), 1.0, 1e-9)
    state = lambda energy, ends=None: State(energy, np.zeros((1, 3)), np.ones(3), ends=ends)
    network.minima = [state(e) for e in rng.uniform(size=n)]
    for _ in range(passes):
        i, j = (int(k) for k in rng.integers(0, n, 2))
        height = max(network.minima[i].energy, network.minima[j].energy) + rng.uniform()
        network.saddles.append(state(height, (i, j)))
    return network


@pytest.mark.parametrize("passes", [10, 30, 90])
def test_the_graph_against_a_minimum_spanning_tree(passes):
    """The lowest passes between minima are the largest edges on paths of SciPy's minimum spanning tree."""
    rng = np.random.default_rng(passes)
    network, n = invented(rng, 20, passes), 20
    weights = np.zeros((n, n))
    for _, s, (i, j) in network.joining():
        weights[i, j] = weights[j, i] = min(s.energy, weights[i, j] or np.inf)
    spanning = minimum_spanning_tree(weights).toarray()
    highest = np.where(spanning + spanning.T > 0, spanning + spanning.T, np.inf)
    for k in range(n):  # Floyd and Warshall, with the larger of two passes instead of their sum
        highest = np.minimum(highest, np.maximum(highest[:, k, None], highest[k]))
    energies = np.array([m.energy for m in network.minima])
    wanted = [
        min([highest[k, j] for j in range(n) if energies[j] < energies[k]], default=np.inf) - energies[k] for k in range(n)
    ]
    np.testing.assert_allclose(barriers(network), wanted)
    met = np.full((n, n), np.inf)
    for top in trees(network):
        stack = [top]
        while stack:
            node = stack.pop()
            groups = [[leaf.minimum for leaf in leaves(c)] for c in node.children]
            for a in groups:
                for b in groups:
                    if a is not b:
                        met[np.ix_(a, b)] = node.energy
            stack += node.children
    np.fill_diagonal(highest, np.inf)
    np.testing.assert_allclose(met, highest)
    for levels in (5, 40):  # drawn at levels, minima meet at the next one above
        columns = [leaf.x for top in trees(network, levels) for leaf in leaves(top)]
        assert len(set(columns)) == len(columns) == n


def leaves(node) -> list:
    return [node] if node.minimum >= 0 else [leaf for c in node.children for leaf in leaves(c)]


def test_two_wells_against_integrals():
    """Occupations, free energy and heat capacity of two wells on a line, by integrating Boltzmann's factor."""
    energies, stiff = np.array([0.0, 0.3]), np.array([4.0, 0.25])

    def wells(t):
        well = lambda e, k: quad(lambda x: np.exp(-(e + k * x * x / 2) / t), -60, 60, points=[0])[0]
        return np.array([well(e, k) for e, k in zip(energies, stiff, strict=True)])

    t = np.array([0.05, 0.1, 0.2])
    found = of_wells(energies, np.log(np.sqrt(stiff)), np.ones(2), t)
    for k, temperature in enumerate(t):
        z = wells(temperature)
        np.testing.assert_allclose(found.occupation[k], z / z.sum(), rtol=1e-6)
        assert found.free_energies[k, 1] == pytest.approx(-temperature * np.log(z[1] / z[0]), rel=1e-6)
        # The mean energy is T² d ln Z / dT, momenta add k/2.
        d = 1e-3 * temperature
        mean = [
            s * s * (np.log(wells(s + d).sum()) - np.log(wells(s - d).sum())) / (2 * d)
            for s in (temperature - d, temperature + d)
        ]
        assert found.heat_capacity[k] == pytest.approx((mean[1] - mean[0]) / (2 * d) + 0.5, rel=1e-4)


def test_versions_of_a_minimum_count():
    """Of two wells alike in all but symmetry, the one of half the order is occupied twice as often."""
    network = invented(np.random.default_rng(0), 2, 0)
    network.minima = [State(0.0, np.zeros((1, 3)), np.ones(3), order=order) for order in (2, 1)]
    np.testing.assert_allclose(superposition(network, 0.3).occupation, [[1 / 3, 2 / 3]])


def test_states_are_entered_once(lj7):
    surface, network = lj7
    copy = network_of(surface)
    first = network.minima[0]
    turned = -first.positions @ Rotation.random(rng=np.random.default_rng(4)).as_matrix().T
    again = State(first.energy, turned[::-1], first.vibrations, given=True)
    assert enter_minimum(copy, first) == enter_minimum(copy, again) == 0
    assert (len(copy.minima), copy.minima[0].hits, copy.minima[0].given) == (1, first.hits + 1, True)
    saddle = network.saddles[0]
    assert [enter_saddle(copy, saddle)[1], enter_saddle(copy, saddle)[1]] == [True, False]


class Failing(EMT):
    """A calculator that fails at every seventh point, and counts how many were made."""

    made = points = 0

    def __init__(self):
        super().__init__()
        Failing.made += 1

    def calculate(self, *arguments):
        Failing.points += 1
        if Failing.points % 7 == 0:
            raise RuntimeError("no convergence")
        super().calculate(*arguments)


def test_a_calculator_that_fails_is_no_exception():
    """Searches end without a result, and say why; a calculator that is not fresh serves until it fails."""
    atoms = Atoms("Cu3", [[0, 0, 0], [2.3, 0, 0], [1.2, 2.0, 0.1]])
    surface = Surface(BlackBox(Failing, fresh=False), from_ase(atoms), 2.5)
    assert saddles.minimum_at(surface, surface.coordinates(atoms.positions), 1e-5) is None
    assert "no convergence" in surface.failure
    x = surface.coordinates(atoms.positions)
    assert saddles.climb(surface, x, np.ones(9), 1e-3) is None
    assert Failing.made < Failing.points / 4
