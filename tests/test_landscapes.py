"""Functions of vectors: their formulas, minima and forces; moved ones; what makes searches run on them as they are."""

import re
from itertools import pairwise
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import rosen

from thalweg import prng, registry, schema
from thalweg.archive import Archive
from thalweg.config import resolve
from thalweg.errors import InputError
from thalweg.generators.vectors import Kick, Mix, Redraw, Uniform
from thalweg.io import write_structure
from thalweg.leaves import as_leaves
from thalweg.potentials.landscapes import Ackley, Alpine1, Formula, Landscape, Rastrigin, SchafferF7, Weierstrass
from thalweg.potentials.moved import Moved, Rotation
from thalweg.potentials.pair import LennardJones
from thalweg.potentials.valleys import CurvedRastrigin, Ellipsoid, TwoFunnelRastrigin
from thalweg.run import run
from thalweg.search.population import pair_histogram
from thalweg.structure import Structure
from thalweg.system import cluster, confined
from thalweg.testing import check_potential

DIM = 7
KINDS = [k for k in registry.COMPONENTS["potential"] if issubclass(registry.find("potential", k), Formula)]
ALL = {kind: registry.find("potential", kind)(dim=DIM) for kind in KINDS}
PI = np.pi


def schaffer_f6(a, b):
    return 0.5 + (np.sin(np.sqrt(a**2 + b**2)) ** 2 - 0.5) / (1 + 0.001 * (a**2 + b**2)) ** 2


def lunacek(x):
    s = 1 - 1 / (2 * np.sqrt(len(x) + 20) - 8.2)
    other = -np.sqrt((2.5**2 - 1) / s)
    funnels = min(sum((x - 2.5) ** 2), len(x) + s * sum((x - other) ** 2))
    return funnels + 10 * sum(1 - np.cos(2 * PI * (x - 2.5)))


def weierstrass(x):
    terms = [(0.5**k, 3.0**k) for k in range(21)]
    return sum(a * np.cos(2 * PI * b * (v + 0.5)) - a * np.cos(PI * b) for v in x for a, b in terms)


#: As they are printed in doi:10.3390/data7040046, one vector at a time (Schaffer's F7 without its square).
PRINTED = {
    "alpine-1": lambda x: sum(abs(x * np.sin(x) + 0.1 * x)),
    "schaffer-f7": lambda x: np.mean(
        [s**0.5 + s**0.5 * np.sin(50 * s**0.2) ** 2 for s in (np.sqrt(a**2 + b**2) for a, b in pairwise(x))]
    ),
    "rastrigin": lambda x: 10 * len(x) + sum(x**2 - 10 * np.cos(2 * PI * x)),
    "ackley": lambda x: -20 * np.exp(-0.2 * np.sqrt(sum(x**2) / len(x))) - np.exp(sum(np.cos(2 * PI * x)) / len(x)) + 20 + np.e,
    "griewank": lambda x: sum(x**2) / 4000 - np.prod([np.cos(v / np.sqrt(k + 1)) for k, v in enumerate(x)]) + 1,
    "weierstrass": weierstrass,
    "quintic": lambda x: sum(abs(x**5 - 3 * x**4 + 4 * x**3 + 2 * x**2 - 10 * x - 4)),
    "drop-wave": lambda x: 1 - (1 + np.cos(12 * np.sqrt(sum(x**2)))) / (0.5 * sum(x**2) + 2),
    "expanded-schaffer-f6": lambda x: sum(schaffer_f6(a, b) for a, b in pairwise(x)) + schaffer_f6(x[-1], x[0]),
    "xin-she-yang-3": lambda x: 1e4 * (1 + (np.exp(-sum((x / 15) ** 10)) - 2 * np.exp(-sum(x**2))) * np.prod(np.cos(x) ** 2)),
    "xin-she-yang-5": lambda x: (
        1e4 * (1 + (sum(np.sin(x) ** 2) - np.exp(-sum(x**2))) * np.exp(-sum(np.sin(np.sqrt(abs(x))) ** 2)))
    ),
    "happy-cat": lambda x: abs(sum(x**2) - len(x)) ** 0.25 + (0.5 * sum(x**2) + sum(x)) / len(x) + 0.5,
    "hgbat": lambda x: abs(sum(x**2) ** 2 - sum(x) ** 2) ** 0.5 + (0.5 * sum(x**2) + sum(x)) / len(x) + 0.5,
    "rosenbrock": rosen,
    "ellipsoid": lambda x: sum((k + 1) * v**2 for k, v in enumerate(x)),
    "different-powers": lambda x: sum(abs(v) ** (k + 2) for k, v in enumerate(x)),
    "discus": lambda x: 1e6 * x[0] ** 2 + sum(x[1:] ** 2),
    "bent-cigar": lambda x: x[0] ** 2 + 1e6 * sum(x[1:] ** 2),
    "two-funnel-rastrigin": lunacek,
    "curved-rastrigin": lambda x: sum(
        u**2 + 10 * (1 - np.cos(2 * PI * u)) + 10 * (v - 0.2 * u**2) ** 2 + 10 * (1 - np.cos(2 * PI * (v - 0.2 * u**2)))
        for u, v in zip(x[::2], [*x[1::2], 0.2 * x[-1] ** 2], strict=True)
    ),
}


@pytest.fixture(scope="module")
def evaluated():
    """Of every landscape: points (DIM, 8), the first the minimum, then values and slopes there, all in one program."""
    rng = np.random.default_rng(0)
    points = {}
    for kind, landscape in ALL.items():
        low, high = landscape.domain
        points[kind] = np.column_stack([landscape.minimiser, *rng.uniform(low, high, (3, DIM)), *rng.normal(size=(4, DIM))])

    def evaluate(at):
        both = {}
        for kind, x in at.items():
            value, pull = jax.vjp(ALL[kind].value, x)
            both[kind] = value, pull(jnp.ones_like(value))[0]
        return both

    fast = jax.jit(evaluate, compiler_options={"xla_backend_optimization_level": 0})  # of the compiler, not the program
    with jax.enable_x64(True):
        both = jax.tree.map(np.asarray, fast({k: jnp.asarray(x) for k, x in points.items()}))
    return points, {k: v for k, (v, _) in both.items()}, {k: s for k, (_, s) in both.items()}


def test_every_landscape_is_compared():
    assert set(PRINTED) == set(KINDS)
    assert len(KINDS) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_printed_formula(kind, evaluated):
    points, value, _ = evaluated
    printed = [PRINTED[kind](x) for x in points[kind].T[1:]]
    # The printed Weierstrass turns 3^20 times before it takes a cosine, which costs digits.
    np.testing.assert_allclose(value[kind][1:], printed, rtol=1e-5 if kind == "weierstrass" else 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_is_where_it_is_said_to_be(kind, evaluated):
    points, value, slope = evaluated
    assert abs(value[kind][0] - ALL[kind].minimum) <= 1e-10
    assert (value[kind] >= ALL[kind].minimum).all()
    assert np.isfinite(slope[kind]).all()
    low, high = ALL[kind].domain
    assert ((points[kind][:, 0] >= low) & (points[kind][:, 0] <= high)).all()
    near = points[kind][:, 0] + 1e-3 * np.random.default_rng(1).normal(size=(20, DIM))
    assert min(PRINTED[kind](x) for x in near) > ALL[kind].minimum


def test_slopes_are_those_of_finite_differences(evaluated):
    points, _, slope = evaluated
    for kind in set(KINDS) - {"weierstrass"}:  # whose slopes change within any step
        for k in (1, 5):
            x, h = points[kind][:, k], 1e-6 * max(1, abs(points[kind][:, k]).max())
            steps = h * np.eye(DIM)
            rise = [(PRINTED[kind](x + s) - PRINTED[kind](x - s)) / (2 * h) for s in steps]
            np.testing.assert_allclose(
                slope[kind][:, k], rise, rtol=2e-4, atol=2e-4 * abs(slope[kind][:, k]).max(), err_msg=kind
            )


def test_single_precision_stays_single(evaluated):
    """Also where double precision is switched on, as it is around a search in single precision."""
    points, value, _ = evaluated
    names = ("hgbat", "ellipsoid", "two-funnel-rastrigin")
    with jax.enable_x64(True):
        out = jax.jit(lambda at: {k: ALL[k].value(at[k]) for k in names})({k: points[k].astype(np.float32) for k in names})
    for kind in names:
        assert out[kind].dtype == jnp.float32
        np.testing.assert_allclose(out[kind], value[kind], rtol=2e-5, atol=1e-4)


def test_smoothest_terms_of_weierstrass_have_their_slope():
    x, h = np.array([0.13, -0.41]), 3e-6
    smooth = lambda x: sum(0.5**k * (1 - np.cos(2 * PI * 3**k * v)) for v in x for k in range(3))
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda x: Weierstrass(2, terms=2).value(x)))(x)
    rise = [(smooth(x + s) - smooth(x - s)) / (2 * h) for s in h * np.eye(2)]
    np.testing.assert_allclose(slope, rise, rtol=1e-6)


@pytest.mark.slow
def test_a_landscape_is_a_potential():
    check_potential(Rastrigin(17), [0] * 6)


def test_positions_are_the_variables():
    """Of 3 particles, in lanes of any shape, the first 7 coordinates; the rest has no force."""
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    out = eqx.filter_jit(Ellipsoid(DIM).evaluate)(Structure.create(x))
    wanted = (np.arange(1, 8) * x.reshape(2, 4, 9)[..., :7] ** 2).sum(-1)
    np.testing.assert_allclose(out.energy, wanted, rtol=1e-5)
    forces = np.asarray(out.forces).reshape(2, 4, 9)
    np.testing.assert_allclose(forces[..., :7], -2 * np.arange(1, 8) * x.reshape(2, 4, 9)[..., :7], rtol=1e-5)
    assert (forces[..., 7:] == 0).all()


def test_a_square_is_taken_where_it_is_asked_for():
    x = np.array([3.0, -4.0, 7.0])
    squared = jax.jit(lambda x: SchafferF7(3, squared=True).value(x))(x)
    np.testing.assert_allclose(squared, PRINTED["schaffer-f7"](x) ** 2, rtol=1e-4)


# --- moved ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [3, pytest.param(70, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.slow)])
def test_rotations_are_orthogonal_and_mix_all(dim):
    with jax.enable_x64(True):
        matrix = np.asarray(eqx.filter_jit(Rotation.random(np.random.default_rng(0), dim))(jnp.eye(dim)))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=1e-12)
    assert (np.abs(matrix) > 1e-9).mean() > 0.9
    assert abs(np.trace(matrix)) < 3  # a random one has about 1; that of the identity is dim


def test_a_moved_landscape_is_the_same_elsewhere():
    rng = np.random.default_rng(0)
    inner, place = CurvedRastrigin(5), rng.uniform(-50, 50, 5)
    moved = Moved(inner, seed=3, rotated=True, condition=100.0, scale=2.0, offset=-7.0, place=place)
    x = place + rng.normal(size=5)
    with jax.enable_x64(True):
        points = jnp.stack([x, moved.minimiser], 1)
        value, matrix = eqx.filter_jit(lambda m: (m.value(points), m.rotation(jnp.eye(5))))(moved)
    wanted = 2 * PRINTED["curved-rastrigin"](moved.stretch * (np.asarray(matrix) @ (x - place))) - 7
    np.testing.assert_allclose(value, [wanted, moved.minimum], rtol=1e-10)
    np.testing.assert_allclose((moved.stretch[-1] / moved.stretch[0]) ** 2, 100)
    np.testing.assert_array_equal(moved.minimiser, place)


def test_the_inner_minimum_goes_to_the_drawn_place():
    """TwoFunnelRastrigin has it at 2.5; drawn ones fill the middle half of the box."""
    rng = np.random.default_rng(0)
    moved = Moved.random(rng, TwoFunnelRastrigin(300), within=(0.0, 40.0))
    with jax.enable_x64(True):
        assert float(eqx.filter_jit(moved.value)(moved.minimiser)) == 0
    assert moved.domain == (0.0, 40.0)
    assert 10 <= moved.minimiser.min() < 11
    assert 29 < moved.minimiser.max() <= 30
    assert (Moved.random(rng, Alpine1(4)).minimiser != Moved.random(rng, Alpine1(4)).minimiser).all()
    np.testing.assert_array_equal(Moved(Alpine1(4), 5).minimiser, Moved(Alpine1(4), 5).minimiser)


def test_another_place_does_not_compile_again():
    traces = []

    @eqx.filter_jit
    def value(landscape, x):
        traces.append(1)
        return landscape.value(x)

    for seed in range(3):
        value(as_leaves(Moved(Rastrigin(6, amplitude=5.0 + seed), seed, rotated=True), np.float32), jnp.zeros(6))
    assert len(traces) == 1


class Unknown(Formula):
    """Nobody knows where its minimum is."""

    box = (-1.0, 1.0)
    best = float("nan")

    def value(self, x):
        return (x**4).sum(0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Moved(Alpine1(3), within=(1.0, -1.0)), "lower end first"),
        (lambda: Moved(Alpine1(3), place=np.zeros(4)), "one number for each of 3"),
        (lambda: Moved(Alpine1(3), condition=0.1), "at least 1"),
        (lambda: Moved(Alpine1(3), scale=-1.0), "positive"),
        (lambda: Moved(Unknown(3)), "not known"),
        (lambda: SchafferF7(1), "2 or more variables"),
        (lambda: TwoFunnelRastrigin(1), "2 or more variables"),
        (lambda: Rastrigin(7).evaluate(Structure.create(np.zeros((2, 3)))), "X3"),
        (lambda: cluster([0] * 4, Rastrigin(7)), "X3"),
        (lambda: cluster([79] * 3, Rastrigin(7)), "model particles"),
        (lambda: confined(None, [0] * 3, Rastrigin(7), np.eye(3), (True, True, True)), "no periodic cell"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


# --- searches -------------------------------------------------------------------------------------------------------------


def tables(kind="rastrigin", **potential):
    return {"system": {"formula": "X2"}, "potential": {"kind": kind, **potential}}


def test_inputs_need_no_more_than_a_formula_and_a_name():
    made = resolve(tables())
    assert made.potential == Rastrigin(6)
    assert made.system.variables == 6
    np.testing.assert_array_equal(made.system.region.vectors, np.eye(3) * 10.24)
    np.testing.assert_array_equal(made.system.region.origin, [-5.12] * 3)
    assert [g.name for g in made.search.moves] == ["kick", "redraw"]
    assert resolve(made.tables).tables == made.tables
    assert resolve(tables(dim=5)).system.variables == 5
    nested = resolve(tables("moved", inner="ackley", seed=1, within=[-10, 10]))
    assert isinstance(nested.potential.inner, Ackley)
    assert nested.system.variables == 6
    np.testing.assert_array_equal(nested.system.region.origin, [-10.0] * 3)


def test_vectors_in_a_file_are_starts(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 3))
    write_structure(tmp_path / "x.xyz", Structure.create(x))
    made = resolve({"system": {"structure": str(tmp_path / "x.xyz")}, "potential": {"kind": "rastrigin"}})
    assert [g.name for g in made.search.starts] == ["uniform", "given"]
    np.testing.assert_allclose(made.search.starts[1].positions[0], x, atol=1e-8)  # neither centred nor turned


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"formula": "X3"}, "X2"),
        ({"formula": "Au2"}, "model particles"),
        ({"formula": "X2", "cell": 10.0}, "no periodic cell"),
        ({"formula": "X2", "region": {"kind": "sphere", "radius": 3.0}}, "is a box, not a sphere"),
        ({"formula": "X2", "dimensions": 2}, "leave template and dimensions out"),
    ],
)
def test_inputs_that_no_vector_has_are_refused(table, message):
    with pytest.raises(InputError, match=message):
        resolve({"system": table, "potential": {"kind": "rastrigin", "dim": 6}})


def archived(vectors, variables, n):
    archive = Archive([0] * n, variables=variables)
    x = np.zeros((len(vectors), 3 * n))
    x[:, : len(vectors[0])] = vectors
    k = np.arange(len(vectors))
    return archive.add(np.zeros(len(k)), x.reshape(-1, n, 3), k, k, ["kick"] * len(k)).tolist(), archive


def test_vectors_that_symmetry_relates_are_different_minima():
    """The same six numbers in another order, mirrored, shifted: one cluster, but four vectors."""
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
    swapped, mirrored, shifted = x[[3, 4, 5, 0, 1, 2]], x * [-1, 1, 1, -1, 1, 1], x + 1
    ids, archive = archived([x, swapped, mirrored, shifted, x + 0.01], 6, 2)
    assert ids == [0, 1, 2, 3, 0]
    assert archive.known([0.0, 0.0], np.stack([mirrored, x + 0.2]).reshape(2, 2, 3)).tolist() == [2, -1]
    assert archived([x, swapped, mirrored, shifted], None, 2)[0] == [0, 0, 0, 0]


def test_coordinates_beyond_the_variables_mean_nothing():
    assert archived([[1.0, 2.0, 3.0, 4.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0, -5.0, 0.0]], 4, 2)[0] == [0, 0]
    assert archived([[1.0, 2.0, 3.0, 4.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.2, -5.0, 0.0]], 4, 2)[0] == [0, 1]


def test_populations_tell_vectors_apart_that_symmetry_relates():
    system = cluster([0, 0], Rastrigin(5))
    x = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]])
    a, b, c = (np.asarray(pair_histogram(v, jnp.zeros((3, 3)), system)) for v in (x, x[::-1], x.at[1, 2].set(0)))
    assert np.abs(a - b).max() > 1
    np.testing.assert_array_equal(a, c)  # the sixth coordinate is no variable


def test_moves_change_variables_within_their_reach():
    system = resolve(tables(dim=5)).system
    keys = jr.split(prng.key(0), 200)
    parents = system.structure(np.stack([np.zeros((2, 3)), np.ones((2, 3))]))
    parents = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32) if a.dtype == float else jnp.asarray(a), parents)
    generators = (Uniform(), Kick(), Redraw(), Mix())
    every = jax.jit(jax.vmap(lambda k: [g(k, parents, system).positions for g in generators]))
    uniform, kicked, redrawn, mixed = (np.asarray(x).reshape(200, 6) for x in every(keys))
    assert np.abs(uniform).max() < 5.12
    assert (np.abs(uniform).max(0) > 4.8).all()
    assert np.abs(kicked).max() < 1.5
    for x in (kicked, redrawn):
        assert (x[:, 5] == 0).all()
        changed = (x != 0).sum(1)
        assert set(changed) == {1, 2, 3, 4, 5}
    assert np.abs(redrawn).max() > 4
    assert set(np.unique(mixed)) == {0, 1}
    assert 0.4 < mixed.mean() < 0.6


def test_moves_of_variables_are_not_for_atoms():
    atoms = cluster([0] * 3, LennardJones())
    parents = atoms.structure(np.zeros((2, 3, 3)))
    for generator in (Kick(), Mix()):
        with pytest.raises(InputError, match="functions of vectors"):
            generator(prng.key(0), parents, atoms)
    with pytest.raises(InputError, match="needs a region"):
        Uniform()(prng.key(0), parents, atoms)


def test_every_landscape_says_where_it_is_from():
    for kind in KINDS:
        cls = registry.find("potential", kind)
        assert cls.source == "this package" or "doi:" in cls.source
        assert set(schema.fields(cls)) >= {"dim"}
        assert issubclass(cls, Landscape)


def test_the_page_lists_every_landscape_as_it_is():
    page = (Path(__file__).parent.parent / "docs" / "landscapes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| ±([\d.]+) \| (-?[\d.]+) \|", page, re.MULTILINE)
    listed = {kind: (float(half), float(best)) for kind, half, best in rows}
    assert listed == {kind: (ALL[kind].domain[1], ALL[kind].minimiser[0]) for kind in KINDS}
    assert all(ALL[kind].domain[0] == -ALL[kind].domain[1] for kind in KINDS)
    assert all(ALL[kind].minimum == 0 for kind in KINDS)


SEARCHES = {
    "basin-hopping": ("rastrigin", {}, 1e-6),
    "evolutionary": ("rastrigin", {}, 1e-6),
    "random": ("griewank", {}, 0.5),
    "annealing": ("rastrigin", {}, 3.0),
    "at kinks": ("alpine-1", {}, 2e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_minimum(name):
    """Of five variables, moved away from the centre."""
    kind, search, worst = SEARCHES[name]
    input = {
        **tables("moved", inner={"kind": kind, "dim": 5}, seed=2, within=[-10.0, 10.0]),
        "search": {"kind": "basin-hopping" if " " in name else name, **search},
        "run": {"walkers": 16},
        "stop": {"evaluations": 400_000, "target": 0.0},
    }
    made = resolve(input)
    out = run(made.search, made.relaxation, made.system, made.settings, made.stop)
    assert 0 <= out.energy <= worst
    best = np.asarray(out.best.positions).ravel()[:5]
    if kind == "rastrigin" and worst < 1:
        np.testing.assert_allclose(best, made.potential.minimiser, atol=1e-3)
