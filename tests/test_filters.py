"""Filters against ASE's filters and constraints, finite differences and known lattice constants."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.constraints import FixAtoms, FixedPlane
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import FIRE as AseFIRE
from ase.stress import voigt_6_to_full_3x3_stress
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, expm_frechet
from scipy.optimize import minimize_scalar

from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.potentials.base import Evaluation
from thalweg.potentials.pair import LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax import driver
from thalweg.relax.adapters import Adam
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Frechet, Plane, Positions, UnitCell, determinant, exponential_minus_one
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure, from_ase, pad, stack, to_ase

LJ = LennardJones(cutoff=2.5, truncation="smooth")
IN_PLANE = [1, 1, 0, 0, 0, 1]
#: Options that mean the same here and in ASE.
OPTIONS = {
    "plain": {},
    "pressure": {"scalar_pressure": 0.02},
    "diagonal": {"mask": [1, 1, 1, 0, 0, 0]},
    "in-plane": {"mask": IN_PLANE},
    "one-axis": {"mask": [[0, 0, 0], [0, 1, 0], [0, 0, 0]]},
    "hydrostatic": {"hydrostatic_strain": True},
    "constant-volume": {"constant_volume": True},
}
KINDS = {"unit-cell": (UnitCell, UnitCellFilter, "cell_factor"), "frechet": (Frechet, FrechetCellFilter, "exp_cell_factor")}


def copper(seed=0, strain=0.03):
    """Four atoms of copper in a strained cell, disturbed, with a real calculator of ASE."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.1 * rng.normal(size=(4, 3))
    atoms.calc = EMT()
    return atoms


def emt(positions, cell):
    """The `Evaluation`, one lane, of copper by ASE's EMT."""
    atoms = copper()
    atoms.set_cell(np.asarray(cell)[..., 0])
    atoms.positions = np.asarray(positions)[..., 0]
    virial = -atoms.get_volume() * voigt_6_to_full_3x3_stress(atoms.get_stress())
    arrays = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_potential_energies())
    energy, forces, each = (jnp.asarray(a)[..., None] for a in arrays)
    return Evaluation(energy, forces, each, jnp.ones(1, bool), jnp.asarray(virial)[..., None])


def coordinates(filter, atoms):
    """(x, origin, numbers) of a structure in one lane."""
    positions, origin = jnp.asarray(atoms.positions)[..., None], jnp.asarray(atoms.cell.array)[..., None]
    return filter.pack(positions, origin), origin, jnp.asarray(atoms.numbers)[:, None]


def allowed(options, strain):
    """A strain that the options permit, written down separately."""
    if options.get("hydrostatic_strain"):
        return np.eye(3) * strain[0, 0]
    if options.get("constant_volume"):
        return strain - np.eye(3) * np.trace(strain) / 3
    mask = np.asarray(options.get("mask", [1] * 6))
    return strain * (mask if mask.shape == (3, 3) else voigt_6_to_full_3x3_stress(mask))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("factor", [None, 7.0])
@pytest.mark.parametrize("kind", KINDS)
def test_forces_and_structures_are_ase_s(kind, factor, options):
    """At a strained point the same cell, positions, enthalpy and generalised forces, with EMT's forces and stress."""
    ours, theirs, factor_name = KINDS[kind]
    given = {**OPTIONS[options], **({} if factor is None else {factor_name: factor})}
    atoms = copper()
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        filter = ours(**given)
        x, origin, numbers = coordinates(filter, atoms)
        scale = 4 if factor is None else factor
        change = np.concatenate([0.05 * rng.normal(size=(4, 3)), scale * allowed(given, 0.1 * rng.normal(size=(3, 3)))])
        their = theirs(atoms, **given)
        their.set_positions(their.get_positions() + change)
        x = x + change[..., None]
        positions, cell = filter.unpack(x, origin, numbers)
        np.testing.assert_allclose(cell[..., 0], atoms.cell.array, atol=1e-12)
        np.testing.assert_allclose(positions[..., 0], atoms.positions, atol=1e-12)
        force, energy = filter.pull(x, origin, emt(positions, cell), cell, numbers)
    np.testing.assert_allclose(energy, their.get_potential_energy(), rtol=1e-12)
    np.testing.assert_allclose(force[..., 0], their.get_forces(), atol=1e-10)
    assert np.abs(np.asarray(force)[-3:]).max() > 0.1


@eqx.filter_jit
def fire_step(filter, x, origin, numbers, out, cell, state):
    force, energy = filter.pull(x, origin, out, cell, numbers)
    move, state = FIRE().step(x, force, energy, state)
    return x + move, state, filter.unpack(x + move, origin, numbers)


def trajectory(filter, atoms, n_steps):
    """Positions and cells of FIRE through a filter, with EMT, a step at a time."""
    with jax.enable_x64(True):
        x, origin, numbers = coordinates(filter, atoms)
        state, path = FIRE().init(x), []
        positions, cell = filter.unpack(x, origin, numbers)
        for _ in range(n_steps):
            x, state, (positions, cell) = fire_step(filter, x, origin, numbers, emt(positions, cell), cell, state)
            path.append((np.asarray(positions)[..., 0], np.asarray(cell)[..., 0]))
    return path


@pytest.mark.parametrize(
    "options", ["pressure", *(pytest.param(k, marks=pytest.mark.slow) for k in ("in-plane", "constant-volume"))]
)
@pytest.mark.parametrize("kind", KINDS)
def test_fire_takes_ase_s_steps(kind, options):
    ours, theirs, _ = KINDS[kind]
    atoms = copper()
    optimiser = AseFIRE(theirs(atoms, **OPTIONS[options]), logfile=None)
    path = trajectory(ours(**OPTIONS[options]), atoms, 30)
    start = atoms.cell.array.copy()
    for step, _ in enumerate(optimiser.irun(fmax=0.0, steps=30)):
        if step:
            np.testing.assert_allclose(path[step - 1][0], atoms.positions, atol=1e-10)
            np.testing.assert_allclose(path[step - 1][1], atoms.cell.array, atol=1e-10)
    assert np.abs(atoms.cell.array - start).max() > 0.02


def test_plane_takes_the_steps_of_ase_s_constraint():
    """Atoms 0 and 2 in planes across (1, 2, -1)."""
    atoms, normal = copper(), (1.0, 2.0, -1.0)
    path = trajectory(Plane(normal, indices=(0, 2)), atoms, 30)
    start = atoms.positions @ normal
    atoms.set_constraint(FixedPlane([0, 2], normal))
    for step, _ in enumerate(AseFIRE(atoms, logfile=None).irun(fmax=0.0, steps=30)):
        if step:
            np.testing.assert_allclose(path[step - 1][0], atoms.positions, atol=1e-10)
    drift = np.abs(path[-1][0] @ normal - start)
    assert drift[[0, 2]].max() < 1e-12
    assert drift[[1, 3]].min() > 1e-3


@eqx.filter_jit
def evaluated(positions, numbers, space):
    return LJ.lanes(positions, numbers, space, virial=True)


FINITE = {
    **{f"unit-cell {k}": UnitCell(**v) for k, v in OPTIONS.items()},
    **{f"frechet {k}": Frechet(**v) for k, v in OPTIONS.items()},
    "unit-cell area": UnitCell(mask=IN_PLANE, constant_volume=True),
    "frechet area": Frechet(mask=IN_PLANE, constant_volume=True),
    "frechet shear": Frechet(mask=[0, 0, 0, 0, 0, 1], scalar_pressure=0.3),
}


@pytest.mark.parametrize("row", FINITE)
def test_force_is_minus_the_derivative(row):
    """Central differences of the enthalpy along every coordinate of cell and atoms, as lanes, far from the start."""
    filter, h = FINITE[row], 1e-5
    rng = np.random.default_rng(2)
    cell = bulk("Ar", a=1.65).cell.array + 0.02 * rng.normal(size=(3, 3))
    positions = np.array([[0.0, 0, 0], [0.1, -0.05, 0.9], [7.0, 7.0, 7.0]])  # the last is padding
    numbers = np.array([[0], [0], [-1]], np.int32)
    cell[2] *= 2
    with jax.enable_x64(True):
        space = as_leaves(LJ.space(cell, (True,) * 3, 0.7), np.float64)
        x = np.asarray(filter.pack(positions[..., None], cell[..., None])) + 0.1 * rng.normal(size=(6, 3, 1))

        def pulled(x):
            origin = np.broadcast_to(cell[..., None], (3, 3, x.shape[-1]))
            positions, now = filter.unpack(jnp.asarray(x), jnp.asarray(origin), numbers)
            out = evaluated(positions, numbers, eqx.tree_at(lambda s: s.cell, space, now))
            assert out.ok.all()
            return filter.pull(x, origin, out, now, numbers)

        shifts = h * np.concatenate([np.eye(18), -np.eye(18)]).T.reshape(6, 3, 36)
        energies = np.asarray(pulled(x + shifts)[1])
        force = np.asarray(pulled(np.repeat(x, 36, -1))[0])[..., 0]
    numeric = (energies[18:] - energies[:18]).reshape(6, 3) / (2 * h)
    np.testing.assert_allclose(force, numeric, atol=2e-7 * np.abs(force).max())
    assert (force[2] == 0).all()
    assert np.abs(force[3:]).max() > 1e-2


@pytest.mark.parametrize("size", [1e-6, 0.1, 1.0])
def test_exponential_is_scipy_s(size):
    rng = np.random.default_rng(3)
    a, e = size * rng.normal(size=(3, 3, 2)), rng.normal(size=(3, 3, 2))
    with jax.enable_x64(True):
        ours, derivative = jax.jvp(exponential_minus_one, (jnp.asarray(a),), (jnp.asarray(e),))
    for lane in range(2):
        value, slope = expm_frechet(a[..., lane], e[..., lane])
        np.testing.assert_allclose(ours[..., lane], value - np.eye(3), rtol=1e-13, atol=1e-13 * np.abs(value).max())
        np.testing.assert_allclose(derivative[..., lane], slope, atol=1e-13 * np.abs(slope).max())
    # Small strains keep their digits in float32, where 1 + strain would lose them.
    single = exponential_minus_one(jnp.asarray(a, jnp.float32))[..., 0]
    exact = expm(a[..., 0]) - np.eye(3) if size > 0.01 else a[..., 0] + a[..., 0] @ a[..., 0] / 2
    np.testing.assert_allclose(single, exact, atol=1e-5 * np.abs(exact).max())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.01, 1.5))
def test_constant_volume_is_constant(seed, size):
    """The logarithm without its trace: exactly, at any strain."""
    cell = bulk("Cu").cell.array[..., None]
    with jax.enable_x64(True):
        filter = Frechet(constant_volume=True, exp_cell_factor=1.0)
        x = np.concatenate([np.zeros((1, 3, 1)), size * np.random.default_rng(seed).normal(size=(3, 3, 1))])
        _, now = filter.unpack(jnp.asarray(x), jnp.asarray(cell), np.zeros((1, 1), np.int32))
        np.testing.assert_allclose(determinant(now), determinant(cell), rtol=1e-9)
        assert np.abs(np.asarray(now) - cell).max() > 1e-3


def argon(seed=0, strain=0.05):
    """A cubic cell of four Lennard-Jones atoms, larger than at rest: a box at the start, and no longer one later."""
    atoms = bulk("Ar", a=1.65, cubic=True)
    rng = np.random.default_rng(seed)
    atoms.set_cell(np.diag(1.65 * (1 + strain * rng.normal(size=3))), scale_atoms=True)
    atoms.positions += 0.06 * rng.normal(size=(4, 3))
    return atoms


@pytest.mark.parametrize("kind", ["unit-cell", pytest.param("frechet", marks=pytest.mark.slow)])
def test_relaxed_cells_are_ase_s(kind):
    """The driver stops after ASE's steps at ASE's cell: fixed atoms ride with the cell, empty slots count for nothing."""
    ours, theirs, _ = KINDS[kind]
    first, second = argon(0), argon(1)
    second.set_constraint(FixAtoms([1, 2]))
    begun = stack([pad(from_ase(atoms), 6) for atoms in (first, second)])
    relaxation = lambda pressure: Relaxation(LJ, FIRE(), fmax=1e-3, filter=ours(scalar_pressure=pressure))
    out = relax(begun, relaxation(0.5), n_lanes=2)
    for k, atoms in enumerate((first, second)):
        atoms.calc = AseLennardJones(rc=2.5, smooth=True)
        fractional = atoms.get_scaled_positions()[[1, 2]]
        enthalpy = theirs(atoms, scalar_pressure=0.5)
        optimiser = AseFIRE(enthalpy, logfile=None)
        optimiser.run(fmax=1e-3, steps=1000)
        assert out.status[k] == CONVERGED
        assert out.steps[k] == optimiser.nsteps + 1
        np.testing.assert_allclose(out.energy[k], enthalpy.get_potential_energy(), rtol=1e-12)
        np.testing.assert_allclose(out.structures.cell[k], atoms.cell.array, atol=1e-9)
        np.testing.assert_allclose(out.structures.positions[k, :4], atoms.positions, atol=1e-9)
    # Held apart by the fixed atoms the cell stays sheared: the images of a box would be wrong ones.
    assert np.abs(atoms.cell.array[~np.eye(3, dtype=bool)]).max() > 1e-3
    kept = to_ase(out.structures[1]).get_scaled_positions()[[1, 2]]
    np.testing.assert_allclose(kept, fractional, atol=1e-12)
    assert np.abs(out.structures.cell[1] - begun.cell[1]).max() > 0.05
    compiled = driver._relax_queue._cached._cache_size()
    assert (relax(begun, relaxation(0.6), n_lanes=2).energy > out.energy).all()
    assert driver._relax_queue._cached._cache_size() == compiled


def test_silicon():
    """A strained, disturbed crystal of Stillinger-Weber silicon relaxes to 5.431 Å and -2 epsilon per atom."""
    atoms = bulk("Si", cubic=True, a=5.6)
    rng = np.random.default_rng(4)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.05 * rng.normal(size=(8, 3))
    out = relax(from_ase(atoms), Relaxation(StillingerWeber(), LBFGS(), fmax=1e-4, filter=Frechet()))
    assert out.converged
    np.testing.assert_allclose(np.linalg.norm(out.structures.cell, axis=1), 5.431, atol=5e-4)
    np.testing.assert_allclose(out.energy / 8, -2 * 2.16826, rtol=1e-7)


def test_collapsed_cell_fails():
    """A cell that shrinks until images are missing has no energy; beside it another reaches the fcc crystal."""
    loose = bulk("Ar", a=1.6, cubic=True)
    loose.set_cell(np.diag([1.6, 1.6, 3.2]), scale_atoms=True)
    layers = [[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]]
    good = Atoms("Ar4", scaled_positions=layers, cell=[1.12, 1.12, 3.2], pbc=True)
    for seed, atoms in enumerate((loose, good)):
        atoms.rattle(0.03, seed=seed)
    relaxation = Relaxation(LJ, LBFGS(), fmax=1e-6, filter=UnitCell())
    out = relax(stack([from_ase(loose), from_ase(good)]), relaxation, n_lanes=2)
    assert list(out.status) == [FAILED, CONVERGED]
    assert not np.isfinite(out.energy[0])

    def energy(a):
        crystal = bulk("Ar", a=a)
        crystal.calc = AseLennardJones(rc=2.5, smooth=True)
        return crystal.get_potential_energy()

    best = minimize_scalar(energy, bracket=(1.5, 1.6), tol=1e-10)
    np.testing.assert_allclose(np.linalg.det(out.structures.cell[1]), best.x**3, rtol=1e-6)
    np.testing.assert_allclose(out.energy[1] / 4, best.fun, rtol=1e-9)


def test_layer_keeps_no_vector_across():
    """A layer without a third cell vector: the stress is relaxed along it, and the vector stays missing."""
    cell = np.diag([1.2, 1.15, 0.0])
    layer = Structure.create([[0, 0, 0], [0.6, 0.55, 0.7]], cell=cell, pbc=(True, True, False))
    out = relax(layer, Relaxation(LJ, LBFGS(), fmax=1e-6, filter=UnitCell(mask=IN_PLANE)))
    assert out.converged
    np.testing.assert_array_equal(out.structures.cell[2], 0)
    atoms = to_ase(out.structures)
    atoms.calc = AseLennardJones(rc=2.5, smooth=True)
    atoms.cell[2, 2] = 20.0
    np.testing.assert_allclose(out.energy, atoms.get_potential_energy(), rtol=1e-12)
    np.testing.assert_allclose(atoms.get_stress()[[0, 1, 5]], 0, atol=1e-6)


def test_plane_is_never_left():
    """Adam scales every number by itself; a tilted plane is kept all the same."""
    normal = np.array([3.0, -1.0, 2.0])
    basis = np.linalg.svd(normal[None])[2][1:]
    flat = np.array([[0.0, 0], [1.1, 0.1], [0.5, 1.0], [1.6, 0.9], [-0.6, 0.9]]) @ basis + 0.3 * normal
    out = relax(Structure.create(flat), Relaxation(LennardJones(), Adam(), fmax=1e-3, filter=Plane(tuple(normal))))
    assert out.converged
    np.testing.assert_allclose(out.structures.positions @ normal, flat @ normal, atol=1e-12)
    # Five atoms in a plane: a trapezium of three triangles, seven contacts and a little more.
    np.testing.assert_allclose(out.energy, -7.1781, atol=2e-3)
    assert np.abs(out.structures.positions - flat).max() > 0.05


@pytest.mark.parametrize("filter", [Positions(), Plane((0.0, 1.0, 1.0)), UnitCell(), Frechet(scalar_pressure=1.0)])
def test_single_precision_stays(filter):
    def through(filter, positions, cell):
        numbers = jnp.zeros((2, 1), jnp.int32)
        x = filter.pack(positions, cell)
        out = Evaluation(positions[0, 0], positions, positions[:, 0], positions[0, 0] > 0, cell)
        return x, *filter.unpack(x, cell, numbers), *filter.pull(x, cell, out, cell, numbers)

    shapes = jax.eval_shape(through, as_leaves(filter, np.float32), jnp.ones((2, 3, 1)), jnp.ones((3, 3, 1)))
    assert {a.dtype for a in shapes} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: UnitCell(mask=[1, 2, 0]), "six of 0 or 1"),
        (lambda: UnitCell(mask=[[1, 1, 0], [0, 1, 0], [0, 0, 1]]), "symmetric"),
        (lambda: Frechet(hydrostatic_strain=True, mask=IN_PLANE), "hydrostatic strain needs"),
        (lambda: Frechet(hydrostatic_strain=True, constant_volume=True), "leaves the cell as it is"),
        (lambda: UnitCell(cell_factor=-1.0), "must be positive"),
        (lambda: Plane((0.0, 0.0, 0.0)), "normal of a plane"),
        (lambda: UnitCell().pack(np.zeros((2, 3, 1)), None), "there is none"),
        (lambda: relax(Structure.create(np.eye(3)), Relaxation(LJ, FIRE(), filter=UnitCell())), "the structure has none"),
        (
            lambda: relax(
                from_ase(argon()),
                Relaxation(LennardJones(cutoff=2.5, minimum_image=True), FIRE(), filter=UnitCell()),
            ),
            "stays rectangular",
        ),
    ],
)
def test_bad_filters(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
