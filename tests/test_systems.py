"""Systems: templates, regions, limits, and the generators and screens that keep them."""

import ase
import ase.build
import ase.io
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from thalweg import Gupta, InputError, Structure, ThalwegCalculator, prng, resolve
from thalweg.assemble import ordered
from thalweg.generators import screens
from thalweg.generators.mutation import Displace, Relocate, Swap
from thalweg.generators.placed import Permute, RandomPlaced, Rattle
from thalweg.region import Box, Plane, Slab, Sphere
from thalweg.run import run
from thalweg.search.base import generate, structures_of
from thalweg.system import confined
from thalweg.toml import parse_toml, to_toml

GUPTA = {"kind": "gupta", "cutoff": 5.5}
PT, AG = 78, 47


def surface(layers=2, fixed=1, size=2):
    """Pt(111) whose lowest `fixed` layers are fixed, periodic in its plane."""
    slab = ase.build.fcc111("Pt", (size, size, layers), vacuum=6.0)
    slab.info.clear()
    slab.set_constraint(FixAtoms(mask=slab.get_tags() > layers - fixed))
    return slab


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with slab.xyz in it."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("slab.xyz", surface())
    return tmp_path


def resolved(system, **more):
    return resolve({"system": system, "potential": GUPTA, **more})


# Regions

REGIONS = {
    "box": Box(np.diag([3.0, 4.0, 5.0]), (1.0, -2.0, 0.5)),
    "sphere": Sphere(2.5, (1.0, 2.0, -3.0)),
    "slab": Slab(2.0, 3.5, [[4.0, 0.0], [2.0, 3.0]]),
    "plane": Plane([[4.0, 0.0], [0.0, 3.0]], 1.5, (-2.0, 1.0)),
}
VOLUMES = {"box": 60.0, "sphere": 4 / 3 * np.pi * 2.5**3, "slab": 18.0, "plane": 12.0}


@pytest.mark.parametrize("kind", REGIONS)
def test_region_samples_contains_and_projects(kind):
    region = REGIONS[kind]
    contains, project = (eqx.filter_jit(lambda x, f=f: f(x)) for f in (region.contains, region.project))
    inside = np.asarray(eqx.filter_jit(region.sample)(prng.key(1), (4000,), jnp.float32))
    assert np.asarray(contains(inside)).all()
    np.testing.assert_allclose(project(inside), inside, atol=1e-5)
    np.testing.assert_allclose(region.volume, VOLUMES[kind], rtol=1e-9)
    np.testing.assert_allclose(region.swollen(0.0), region.volume, rtol=1e-9)
    np.testing.assert_allclose(inside.mean(0), region.centre, atol=0.1)
    for direction in np.eye(3):
        low, high = region.span(direction)
        along = inside @ direction
        assert low - 1e-5 <= along.min() <= low + 0.1
        assert high - 0.1 <= along.max() <= high + 1e-5
    outside = np.random.default_rng(2).normal(0, 8, (4000, 3)).astype(np.float32)
    projected = np.asarray(project(outside))
    assert np.asarray(contains(projected)).all()
    there = np.asarray(contains(outside))
    np.testing.assert_array_equal(projected[there], outside[there])
    # No point of the region is nearer; a slab goes on for ever in its plane, so that its samples prove nothing less.
    nearest = KDTree(inside).query(outside)[0]
    assert (np.linalg.norm(outside - projected, axis=1) <= nearest + 1e-4).all()


def test_ball_is_filled_evenly():
    radii = np.linalg.norm(np.asarray(REGIONS["sphere"].sample(prng.key(3), (4000,), jnp.float32)) - [1, 2, -3], axis=1)
    # Of a uniform ball the share within half the radius is an eighth: 500 +- 3 x 21 of 4000.
    assert abs((radii < 1.25).sum() - 500) < 63


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Box(np.ones((3, 3))), "span no volume"),
        (lambda: Sphere(-1.0), "must be positive"),
        (lambda: Slab(3.0, 2.0, np.eye(2)), "low must be below high"),
        (lambda: Plane([[1.0, 0.0], [2.0, 0.0]]), "span no area"),
        (lambda: Sphere(1.0, (1.0, 2.0)), "is not three numbers"),
    ],
)
def test_regions_that_are_none(make, said):
    with pytest.raises(InputError, match=said):
        make()


# Screens

CLOSEST, CLASHES, ISOLATED, CONNECTED, MISPLACED = (
    eqx.filter_jit(f) for f in (screens.closest, screens.clashes, screens.isolated, screens.connected, screens.misplaced)
)


def slab_system(added=(AG, PT, PT), region=None, **options):
    slab = surface(**options)
    fixed = np.isin(np.arange(len(slab)), slab.constraints[0].index)
    template = Structure.create(slab.positions, slab.numbers, slab.cell.array, fixed, slab.pbc)
    top = slab.positions[:, 2].max()
    region = region or Slab(top, top + 6.0, slab.cell.array[:2, :2])
    return confined(template, added, Gupta(cutoff=5.5), slab.cell.array, slab.pbc, region)


SLAB = slab_system()
N_SLAB = 8


def judged(x, system):
    """Distances (atoms, atoms) of one structure in bond lengths, by ASE."""
    bonds = np.asarray(system.bond_lengths)
    _, d = get_distances(np.asarray(x, float), cell=np.asarray(system.cell), pbc=system.pbc)
    return d / ((bonds[:, None] + bonds) / 2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_screens_agree_with_ase(seed):
    rng = np.random.default_rng(seed)
    top = float(SLAB.region.low)
    x = np.array(SLAB.positions)
    x[N_SLAB:] = rng.uniform([0, 0, top + 1], [8, 8, top + 6], (3, 3))
    ratio = judged(x, SLAB)
    searched = np.arange(len(x)) >= N_SLAB
    np.fill_diagonal(ratio, np.inf)
    closest = ratio[searched].min()
    np.testing.assert_allclose(CLOSEST(x, SLAB.numbers, SLAB), closest, rtol=1e-4)
    assert bool(CLASHES(x, SLAB.numbers, SLAB)) == (closest < 0.75)
    np.testing.assert_array_equal(ISOLATED(x, SLAB.numbers, SLAB), searched & (ratio.min(1) > 1.25))
    links = ratio <= 1.25
    links[:N_SLAB, :N_SLAB] = True
    assert bool(CONNECTED(x, SLAB.numbers, SLAB)) == (connected_components(coo_matrix(links))[0] == 1)
    high = x[:, 2] > SLAB.region.high
    np.testing.assert_array_equal(MISPLACED(x, SLAB), searched & high)


# Generators


#: All in one compiled program, of which each test takes its own.
GENERATORS = (
    RandomPlaced(), Rattle(amplitude=0.5, share=0.3), Permute(most=1), Swap(most=1), Displace(step=3.0), Relocate(),
)  # fmt: skip
NAMES = [g.name for g in GENERATORS]


@eqx.filter_jit
def _draw(origin, keys, parents, system, count):
    return generate(GENERATORS[:count], origin, keys, parents, system)


def draws(name, system, parents=None, count=12, seed=0, known=6):
    """Positions (count, atoms, 3) that a search would get from this generator."""
    system = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32) if np.asarray(a).dtype == np.float64 else a, system)
    x = np.broadcast_to(np.asarray(system.positions), (count, len(system.numbers), 3)) if parents is None else parents
    batch = structures_of(system, jnp.asarray(x, jnp.float32))
    keys = jax.random.split(prng.key(seed), count)
    return np.asarray(_draw(jnp.full(count, NAMES.index(name), jnp.int32), keys, batch, system, known).positions)


HOME = np.asarray(SLAB.positions, np.float32)[:N_SLAB]


@pytest.fixture(scope="module")
def placed():
    """Twelve placements on the slab."""
    return draws("random-placed", SLAB)


def test_placed_atoms_keep_limits_region_and_template(placed):
    np.testing.assert_array_equal(placed[:, :N_SLAB], np.broadcast_to(HOME, (12, N_SLAB, 3)))
    for x in placed:
        ratio = judged(x, SLAB)
        np.fill_diagonal(ratio, np.inf)
        assert ratio[N_SLAB:].min() >= 0.75 - 1e-4
        assert ratio[N_SLAB:].min(1).max() <= 1.25 + 1e-4
    assert np.asarray(CONNECTED(placed, SLAB.numbers, SLAB)).all()
    assert (placed[:, N_SLAB:, 2] >= SLAB.region.low - 1e-4).all()
    assert (placed[:, N_SLAB:, 2] <= SLAB.region.high + 1e-4).all()
    assert np.ptp(placed[:, N_SLAB:], axis=0).min() > 1.0  # they differ


def test_rattle_moves_a_share_within_limits(placed):
    x = draws("rattle", SLAB, placed, seed=4)
    np.testing.assert_array_equal(x[:, :N_SLAB], placed[:, :N_SLAB])
    step = np.linalg.norm(x - placed, axis=-1)
    assert step.max() <= 0.5 * float(SLAB.bond) + 1e-4
    assert 0 < (step > 0).sum() < 36
    for new in x:
        ratio = judged(new, SLAB)
        np.fill_diagonal(ratio, np.inf)
        assert ratio[N_SLAB:].min() >= 0.75 - 1e-4
    assert not np.asarray(MISPLACED(x, SLAB)).any()


@pytest.mark.parametrize("name", ["permutation", "swap"])
def test_exchanges_are_of_unlike_atoms_that_were_added(name, placed):
    x = draws(name, SLAB, placed, seed=5)
    np.testing.assert_array_equal(x[:, :N_SLAB], placed[:, :N_SLAB])
    for new, old in zip(x, placed, strict=True):
        changed = np.flatnonzero((new != old).any(1))
        assert len(changed) == 2
        assert sorted(np.asarray(SLAB.numbers)[changed]) == [AG, PT]
        np.testing.assert_array_equal(new[changed], old[changed[::-1]])


@pytest.mark.parametrize("name", ["displace", "relocate"])
def test_any_move_leaves_the_template_and_stays_in_the_region(name, placed):
    parents = placed.copy()
    parents[:, 4:N_SLAB, 2] += 0.1  # the mobile layer, relaxed
    x = draws(name, SLAB, parents, seed=6)
    np.testing.assert_array_equal(x[:, :N_SLAB], parents[:, :N_SLAB])
    assert not np.asarray(MISPLACED(x, SLAB)).any()
    assert (x[:, N_SLAB:] != parents[:, N_SLAB:]).any((1, 2)).all()


def flat_system():
    class Radii(Gupta):
        """Takes any species."""

        def check(self, numbers):
            pass

        def bond_lengths(self, numbers):
            return None

    return confined(None, [6] * 4 + [1] * 3, Radii(), np.zeros((3, 3)), region=Plane(8 * np.eye(2), 1.25, (-4.0, -4.0)))


def test_in_a_plane_heights_stay():
    flat = flat_system()
    none = np.zeros((12, 7, 3), np.float32)
    x = draws("random-placed", flat, none, known=2)
    np.testing.assert_array_equal(x[..., 2], np.float32(1.25))
    assert np.asarray(CONNECTED(x, flat.numbers, flat)).all()
    assert not np.asarray(CLASHES(x, flat.numbers, flat)).any()
    new = draws("rattle", flat, x, seed=1, known=2)
    np.testing.assert_array_equal(new[..., 2], np.float32(1.25))
    assert (new != x).any((1, 2)).all()
    assert not np.asarray(MISPLACED(new, flat)).any()


# From inputs to systems


def test_template_comes_first_and_reproduces_without_its_file(folder):
    one = resolved({"template": "slab.xyz", "add": "AgPt2"})
    system = one.system
    np.testing.assert_array_equal(system.numbers, [PT] * 8 + [AG] + [PT] * 2)
    np.testing.assert_array_equal(system.template, np.arange(11) < 8)
    np.testing.assert_array_equal(system.fixed, np.arange(11) < 4)
    slab = ase.io.read("slab.xyz")
    np.testing.assert_array_equal(system.positions[:8], slab.positions)
    assert system.region.low == pytest.approx(slab.positions[:, 2].max())
    (folder / "slab.xyz").unlink()
    again = resolve(parse_toml(to_toml(one.tables)))
    assert again.tables == one.tables
    assert eqx.tree_equal(again.system, system)
    assert [row["kind"] for row in one.tables["search"]["starts"]] == ["random-placed"]
    assert [row["kind"] for row in one.tables["search"]["moves"]] == ["rattle", "relocate", "permutation"]


@pytest.mark.parametrize(
    ("fix", "fixed"),
    [("file", 4), ("all", 8), ("none", 0), (7.0, 4), (100, 8), ([0, 5], 2)],
)
def test_what_is_fixed(folder, fix, fixed):
    assert resolved({"template": "slab.xyz", "add": "Pt", "fix": fix}).system.fixed.sum() == fixed


def test_a_structure_with_fixed_atoms_is_a_template_and_a_search_of_the_rest(folder):
    shuffled = surface()[[7, 0, 3, 4, 1, 2, 6, 5]]
    shuffled.numbers[0] = AG  # of the free layer
    ase.io.write("slab.xyz", shuffled)
    one = resolved({"structure": "slab.xyz"})
    np.testing.assert_array_equal(one.system.numbers, [PT] * 4 + [AG] + [PT] * 3)
    np.testing.assert_array_equal(one.system.template, np.arange(8) < 4)
    np.testing.assert_array_equal(one.system.fixed, one.system.template)
    start = one.tables["search"]["starts"][-1]
    assert start["kind"] == "given"
    np.testing.assert_allclose(start["positions"][0][4], shuffled.positions[0])
    np.testing.assert_allclose(np.asarray(start["positions"])[0, :4], one.system.positions[:4])
    assert resolve(one.tables).tables == one.tables


def test_known_structures_come_into_the_order_of_the_system(placed):
    order = np.random.default_rng(1).permutation(11)
    one = Structure.create(placed[0][order], np.asarray(SLAB.numbers)[order], SLAB.cell, None, SLAB.pbc)
    back = ordered(one, SLAB)
    np.testing.assert_array_equal(back.numbers, SLAB.numbers)
    np.testing.assert_array_equal(back.positions[:8], placed[0][:8])
    np.testing.assert_array_equal(back.positions[8], placed[0][8])  # the silver
    with pytest.raises(InputError, match="does not hold the template"):
        ordered(Structure.create(placed[0] + [0, 0, 1], SLAB.numbers, SLAB.cell, None, SLAB.pbc), SLAB)


def test_regions_that_suit(folder):
    bulk = ase.build.bulk("Pt", cubic=True) * (2, 2, 2)
    del bulk[[5, 6]]
    ase.io.write("bulk.xyz", bulk)
    kind = lambda table: resolved(table).tables["system"].get("region", {}).get("kind")
    assert kind({"template": "bulk.xyz", "add": "Pt2"}) == "box"
    assert kind({"template": "slab.xyz", "add": "Pt2", "pbc": "xyz"}) == "slab"
    cluster = {"numbers": [PT] * 3, "positions": [[0, 0, 0], [2.7, 0, 0], [0, 2.7, 0]]}
    assert kind({"template": cluster, "add": "Pt2"}) == "sphere"
    assert kind({"formula": "Pt13"}) is None
    flat = resolved({"formula": "Pt4", "dimensions": 2})
    assert flat.tables["filter"]["kind"] == "plane"
    assert isinstance(flat.system.region, Plane)


BAD = {
    "overlap": ({"template": "over.xyz", "add": "Pt"}, "atoms 3 and 4 are 0.5 apart, 0.18 of a bond length; move or remove"),
    "no-add": ({"template": "slab.xyz"}, 'add in .system. is missing; .* add = "Pt4"'),
    "empty-add": ({"template": "slab.xyz", "add": " "}, "add in .system. is empty"),
    "nothing-to-do": ({"template": "slab.xyz", "fix": "none"}, "no fixed atoms and nothing is added to it"),
    "too-small": (
        {"template": "slab.xyz", "add": "Pt19", "region": {"kind": "slab", "low": 9.8, "high": 10.3}},
        "too small: 19",
    ),
    "filled": ({"template": "slab.xyz", "add": "Pt", "region": {"kind": "slab", "low": 6.3, "high": 7.9}}, "leaves no place"),
    "unreachable": ({"template": "slab.xyz", "add": "Pt", "region": {"kind": "slab", "low": 13, "high": 14}}, "out of reach"),
    "outside": (
        {"template": "slab.xyz", "add": "Pt", "region": {"kind": "sphere", "radius": 2.0, "center": [20, 0, 9]}},
        "outside of the cell",
    ),
    "reversed": ({"template": "slab.xyz", "add": "Pt", "limits": [1.25, 0.75]}, r"reversed.*write \[0.75, 1.25\]"),
    "nonsense": ({"template": "slab.xyz", "add": "Pt", "limits": [2, 3]}, "enclose 1"),
    "no-limits": ({"template": "slab.xyz", "add": "Pt", "limits": "near"}, "give two numbers"),
    "element": ({"template": "slab.xyz", "add": "Qq2"}, 'no element "Qq"'),
    "file-element": ({"template": "qq.xyz", "add": "Pt"}, 'no element "Qq" .in qq.xyz.'),
    "number": ({"template": {"numbers": [500], "positions": [[0, 0, 0]]}, "add": "Pt"}, "no element with number 500"),
    "all-fixed": ({"structure": "slab.xyz", "fix": "all"}, "nothing is left to search"),
    "add-to-formula": ({"formula": "Pt3", "add": "Pt"}, "add in .system. goes with a template"),
    "fix": ({"template": "slab.xyz", "add": "Pt", "fix": "al"}, 'it is "file", "all", "none"'),
    "kind": ({"template": "slab.xyz", "add": "Pt", "region": "spher"}, 'Did you mean "sphere"'),
    "key": ({"template": "slab.xyz", "add": "Pt", "region": {"kind": "sphere", "raduis": 3}}, 'Did you mean "radius"'),
    "dimensions": ({"template": "slab.xyz", "add": "Pt", "dimensions": 1}, "it is 3, or 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_systems_are_one_clear_line(folder, case):
    table, said = BAD[case]
    over = surface()
    over.positions[3] = over.positions[4] + [0.5, 0, 0]
    ase.io.write("over.xyz", over)
    (folder / "qq.xyz").write_text("1\n\nQq 0 0 0\n")
    with pytest.raises(InputError, match=said) as caught:
        resolved(table)
    assert "\n" not in str(caught.value)


def test_a_moving_cell_is_refused_with_fixed_atoms(folder):
    with pytest.raises(InputError, match="fixed atoms cannot follow"):
        resolved({"template": "slab.xyz", "add": "Pt"}, filter={"kind": "frechet"})


# Searches


@pytest.mark.slow
def test_an_adatom_is_found_in_a_hollow_of_the_surface(folder):
    """The lowest site of an adatom on fcc (111) touches three atoms; the fixed layer does not move by one bit."""
    one = resolved(
        {"template": "slab.xyz", "add": "Pt"},
        run={"walkers": 4, "seed": 1},
        stop={"relaxations": 24, "confidence": "none"},
        search={"moves": ["rattle"], "starts": ["random-placed"]},
    )
    result = run(one.search, one.relaxation, one.system, one.settings, one.stop)
    x = np.asarray(result.best.positions)
    np.testing.assert_array_equal(x[:4], one.system.positions[:4])
    assert np.abs(x[4:8] - one.system.positions[4:8]).max() > 0.01  # the free layer did
    atoms = ase.Atoms(numbers=one.system.numbers, positions=x, cell=one.system.cell, pbc=one.system.pbc)
    i, d = neighbor_list("id", atoms, 3.2)
    near = np.sort(d[i == 8])
    assert len(near) == 3
    np.testing.assert_allclose(near, near[0], atol=2e-3)
    atoms.calc = ThalwegCalculator(one.potential)
    np.testing.assert_allclose(atoms.get_potential_energy(), result.energy, atol=1e-8)
    assert np.abs(atoms.get_forces()[4:]).max() < 2e-3
