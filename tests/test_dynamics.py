"""Molecular dynamics against ASE, exact distributions and conservation laws."""

import ase.units
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from thalweg.dynamics import driver
from thalweg.dynamics.driver import lane_keys, simulate
from thalweg.dynamics.ensembles import NVE, Langevin, NoseHoover
from thalweg.dynamics.pressure import NPT
from thalweg.dynamics.units import EV, KCAL, REDUCED
from thalweg.errors import InputError, StructureError
from thalweg.potentials.base import Potential, finish
from thalweg.potentials.pair import CSHGel, LennardJones
from thalweg.prng import key
from thalweg.relax.base import FAILED
from thalweg.structure import Structure, pad, stack

#: Argon in eV and Å, and a box of 32 atoms that is just wider than two cutoffs.
SIGMA, EPSILON = 3.4, 0.0104
ARGON = LennardJones(EPSILON, SIGMA, cutoff=1.7 * SIGMA, truncation="smooth")


#: One entry for every time that `Springs` is traced.
TRACES = []


class Springs(Potential):
    """Every atom on a spring of strength 1 to the origin: exact averages are known for any time step."""

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        TRACES.append(1)
        real = (numbers >= 0)[:, None]
        each = jnp.where(real, positions**2, 0).sum(1) / 2
        return finish(each.sum(0), jnp.where(real, -positions, 0), each)


class NoForce(Potential):
    """The ideal gas."""

    cutoff: float = 1e-3

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        each = positions[:, 0] * 0
        tensor = jnp.zeros((3, 3, *positions.shape[2:]), positions.dtype)
        return finish(each.sum(0), positions * 0, each, tensor, space.covers(self.cutoff))


def argon(seed=0, density=0.8, rattle=0.05) -> Atoms:
    """32 argon atoms near their fcc places, moving at about 80 K."""
    atoms = bulk("Ar", "fcc", a=(4 / density) ** (1 / 3) * SIGMA, cubic=True) * 2
    rng = np.random.default_rng(seed)
    atoms.positions += rattle * SIGMA * rng.normal(size=(32, 3))
    velocities = np.sqrt(ase.units.kB * 80 / 39.95) * rng.normal(size=(32, 3))
    atoms.set_velocities(velocities - velocities.mean(0))
    atoms.calc = AseLennardJones(sigma=SIGMA, epsilon=EPSILON, rc=1.7 * SIGMA, ro=0.66 * 1.7 * SIGMA, smooth=True)
    return atoms


def structure_of(atoms: Atoms) -> Structure:
    return Structure.create(atoms.positions, atoms.numbers, atoms.cell.array, None, atoms.pbc)


def nve(n_steps, dt, atoms=None, every=1, velocities=None, structures=None):
    """All runs of one program: argon, one lane, with frames."""
    atoms = argon() if atoms is None else atoms
    structures = structure_of(atoms) if structures is None else structures
    velocities = atoms.get_velocities() if velocities is None else velocities
    return simulate(structures, ARGON, NVE(), n_steps, dt, velocities=velocities, every=every, frames=True)


def test_nve_is_ase_step_by_step():
    atoms = argon()
    ours = nve(30, 4.0, atoms)
    dynamics = VelocityVerlet(atoms, 4 * ase.units.fs)
    steps = zip(ours.frames.positions, ours.energy, ours.kinetic, ours.pressure, ours.temperature, strict=True)
    for k, (positions, energy, kinetic, pressure, temperature) in enumerate(steps):
        np.testing.assert_allclose(positions, atoms.positions, atol=1e-9, err_msg=f"step {k}")
        np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-10)
        np.testing.assert_allclose(kinetic, atoms.get_kinetic_energy(), rtol=1e-9)
        stress = -atoms.get_stress(voigt=False, include_ideal_gas=True).trace() / 3
        np.testing.assert_allclose(pressure, stress, rtol=1e-7, atol=1e-9)
        # ASE counts 3 N degrees of freedom here, the total momentum is zero.
        np.testing.assert_allclose(temperature, atoms.get_temperature() * 32 / 31, rtol=1e-9)
        dynamics.run(1)
    np.testing.assert_array_equal(ours.time, 4.0 * np.arange(31))


def test_energy_error_is_of_second_order_and_does_not_drift():
    errors = {dt: np.ptp(nve(int(2400 / dt), dt, every=int(24 / dt)).conserved) for dt in (12.0, 6.0, 3.0)}
    ratios = [errors[12.0] / errors[6.0], errors[6.0] / errors[3.0]]
    np.testing.assert_allclose(ratios, 4, rtol=0.25)
    long = nve(20_000, 4.0, every=100).conserved
    half = len(long) // 2
    # Drift per atom over 40 ps against kT, 7 meV.
    assert abs(long[half:].mean() - long[:half].mean()) / 32 < 2e-6


def test_momentum_is_kept_and_time_runs_backwards():
    there = nve(250, 4.0)
    # Accelerations of 1e-3 add up to rounding errors of their own size only.
    np.testing.assert_allclose(there.velocities.mean(0), 0, atol=1e-15)
    back = nve(250, 4.0, structures=there.structures, velocities=-there.velocities)
    np.testing.assert_allclose(back.structures.positions, argon().positions, atol=1e-8)
    np.testing.assert_allclose(back.velocities, -argon().get_velocities(), atol=1e-9)


def test_float32_follows():
    atoms = argon()
    options = {"velocities": atoms.get_velocities(), "every": 1, "frames": True}
    single = simulate(structure_of(atoms), ARGON, NVE(), 30, 4.0, dtype=np.float32, **options)
    np.testing.assert_allclose(single.frames.positions, nve(30, 4.0).frames.positions, atol=2e-4)
    assert np.ptp(single.conserved) < 1e-4


@pytest.fixture(scope="module")
def canonical():
    """Sixteen boxes of argon under Nose-Hoover chains; the first starts with total momentum, as ASE's do."""
    boxes = [argon(seed) for seed in range(16)]
    velocities = np.stack([a.get_velocities() for a in boxes])
    velocities[0] += 1e-3
    boxes[0].set_velocities(velocities[0])

    def run(n_steps, every=1, broken=False):
        structures = stack([structure_of(a) for a in boxes])
        if broken:
            structures.positions[3, 0] = structures.positions[3, 1]
        return simulate(structures, ARGON, NoseHoover(200.0, 100.0), n_steps, 4.0, velocities=velocities, every=every)

    return boxes[0], run


def test_nose_hoover_is_ase_step_by_step(canonical):
    atoms, run = canonical
    ours = run(25)
    dynamics = NoseHooverChainNVT(atoms, 4 * ase.units.fs, temperature_K=200.0, tdamp=100 * ase.units.fs)
    dynamics.run(25)
    np.testing.assert_allclose(ours.structures.positions[0], atoms.positions, atol=1e-9)
    np.testing.assert_allclose(ours.velocities[0], atoms.get_velocities(), atol=1e-10)
    np.testing.assert_allclose(ours.conserved[-1, 0], dynamics.get_conserved_energy(), rtol=1e-9)


def test_nose_hoover_is_canonical(canonical):
    """Mean and variance of the kinetic energy; rescaled velocities would halve the variance, 3 N modes shift the mean by 3%."""
    out = canonical[1](5000, every=25)
    kinetic = out.kinetic[40:, 1:] / (ase.units.kB * 200.0)
    modes = 3 * 32 - 3
    # Fifteen independent lanes: the spread of their means is the error.
    error = kinetic.mean(0).std(ddof=1) / np.sqrt(15)
    assert error < 0.4
    np.testing.assert_allclose(kinetic.mean(), modes / 2, atol=4 * error)
    spread = kinetic.var(0)
    np.testing.assert_allclose(spread.mean(), modes / 2, atol=4 * spread.std(ddof=1) / np.sqrt(15))
    assert spread.std(ddof=1) / np.sqrt(15) < 4
    assert np.ptp(out.conserved, axis=0).max() < 3e-3 * ase.units.kB * 200 * 48
    assert np.ptp(out.energy + out.kinetic, axis=0).min() > 10 * np.ptp(out.conserved, axis=0).max()


def springs(n_lanes=64):
    return Structure.create(np.zeros((n_lanes, 20, 3)))


#: Like a number, but of the shape that makes the same program as the temperatures of the first test.
WARM = np.ones(64)


def test_langevin_samples_the_exact_distribution_of_baoab():
    """BAOAB on harmonic springs, at a step of a sixth of the period: <x^2> = kT exactly, <v^2> = (1 - dt^2/4) kT."""
    kt = np.repeat([0.5, 2.0], 32)
    out = simulate(springs(), Springs(), Langevin(kt, 1.0), 4000, 1.0, every=10)
    potential, kinetic = (2 * e[20:] / (60 * kt) for e in (out.energy, out.kinetic))
    # 64 lanes of 60 oscillators, some 380 records with a correlation of two or so: error 0.2%.
    np.testing.assert_allclose(potential.mean(), 1, atol=0.006)
    np.testing.assert_allclose(kinetic.mean(), 0.75, atol=0.006)
    # Sums of 60 squares: relative variance 2/60.
    np.testing.assert_allclose(potential.var(), 2 / 60, rtol=0.06)
    np.testing.assert_allclose(kinetic.var() / 0.75**2, 2 / 60, rtol=0.06)


def test_langevin_heat_balances():
    """Energy less heat is conserved to second order in the time step, while the energy itself goes up from zero."""
    fluctuation = []
    for dt in (0.1, 0.05):
        out = simulate(springs(), Springs(), Langevin(WARM, 0.5), int(20 / dt), dt, temperature=0, every=int(1 / dt))
        assert (out.energy[-1] > 10).all()
        fluctuation.append(np.sqrt(((out.conserved - out.conserved[0]) ** 2).mean()))
    assert fluctuation[0] < 0.1
    assert fluctuation[0] / fluctuation[1] > 3


def test_alone_and_in_a_batch_a_structure_moves_the_same():
    keys = lane_keys(3, 64)
    together = simulate(springs(), Springs(), Langevin(WARM, 1.0), 50, 0.2, seed=3)
    alone = simulate(springs()[5], Springs(), Langevin(1.0, 1.0), 50, 0.2, seed=keys[5:6])
    np.testing.assert_allclose(alone.structures.positions, together.structures.positions[5], atol=1e-12)
    other = simulate(springs(), Springs(), Langevin(WARM, 1.0), 50, 0.2, seed=key(4))
    assert np.abs(other.structures.positions - together.structures.positions).max() > 0.1


def test_nothing_is_compiled_again():
    alone = springs()[0]
    simulate(alone, Springs(), Langevin(1.0, 1.0), 5, 0.1)
    traced = len(TRACES)
    simulate(alone, Springs(), Langevin(0.3, 0.7), 300, 0.2, every=1, seed=8)
    simulate(alone, Springs(), Langevin(2.0, 0.1), 1, 0.3, velocities=np.ones((20, 3)), masses=np.arange(1.0, 21))
    assert len(TRACES) == traced
    simulate(springs(), Springs(), NVE(), 0, 0.1, temperature=2.0)
    assert len(TRACES) > traced
    assert not jax.config.jax_enable_x64


def test_records_at_odd_intervals():
    out = simulate(springs()[0], Springs(), Langevin(1.0, 1.0), 700, 0.1, every=2)
    np.testing.assert_array_equal(out.steps, np.arange(0, 701, 2))
    again = simulate(springs()[0], Springs(), Langevin(1.0, 1.0), 700, 0.1, every=333)
    np.testing.assert_array_equal(again.steps, [0, 333, 666, 700])
    np.testing.assert_allclose(again.energy[[0, 2, 3]], out.energy[[0, 333, 350]], rtol=1e-9)
    np.testing.assert_allclose(again.structures.positions, out.structures.positions, rtol=1e-7)


def test_fixed_atoms_and_padding_stay():
    x = np.random.default_rng(0).normal(size=(64, 18, 3))
    structures = pad(Structure.create(x, fixed=np.arange(18) < 2), 20)
    out = simulate(structures, Springs(), Langevin(WARM, 1.0), 200, 0.1)
    np.testing.assert_array_equal(out.structures.positions[:, :2], x[:, :2])
    np.testing.assert_array_equal(out.velocities[:, [0, 1, 18, 19]], 0)
    np.testing.assert_array_equal(out.structures.positions[:, 18:], 0)
    assert (np.abs(out.structures.positions[:, 2:18] - x[:, 2:]).max((1, 2)) > 0.1).all()
    # Sixteen atoms move: none of their degrees of freedom is lost to the total momentum.
    np.testing.assert_allclose(out.temperature, 2 * out.kinetic / 48)


def test_first_velocities():
    """Maxwell-Boltzmann at the temperature asked for, less the three modes of the total momentum; heavy atoms are slower."""
    still = simulate(springs(), Springs(), NVE(), 0, 0.1, temperature=2.0, masses=np.repeat([1.0, 4.0], 10))
    momentum = (still.velocities * np.repeat([1.0, 4.0], 10)[:, None]).sum(1)
    np.testing.assert_allclose(momentum, 0, atol=1e-12)
    np.testing.assert_allclose(still.kinetic.mean(), 57, rtol=4 / np.sqrt(57 * 32))
    np.testing.assert_allclose(still.temperature, still.kinetic * 2 / 57)
    light, heavy = (still.velocities[:, half] for half in (slice(0, 10), slice(10, 20)))
    np.testing.assert_allclose(light.var() / heavy.var(), 4 * (1 - 1 / 50) / (1 - 4 / 50), rtol=0.15)


@pytest.mark.slow
def test_ideal_gas_at_constant_pressure():
    """The volume of N free particles has a gamma distribution of order N + 1."""
    n, kt, pressure = 5, 1.5, 0.5
    x = np.random.default_rng(0).uniform(0, 2.5, (256, n, 3))
    structures = Structure.create(x, cell=2.5 * np.eye(3), pbc=(True,) * 3)
    out = simulate(structures, NoForce(), NPT(kt, pressure, 1.0, tau=10.0, friction=1.0), 6000, 0.05, every=40)
    reduced = out.volume[50:] * pressure / kt
    error = reduced.mean(0).std(ddof=1) / 16
    assert error < 0.1
    np.testing.assert_allclose(reduced.mean(), n + 1, atol=4 * error)
    np.testing.assert_allclose(reduced.var(), n + 1, rtol=0.12)
    assert not out.failed.any()


@pytest.mark.slow
def test_a_crystal_at_constant_pressure():
    """Mean pressure is the one set, the cell shears, and energy less heat and work stays though the energy does not."""
    sets, lanes = 2.0, 6
    crystal = bulk("X", "fcc", a=1.54, cubic=True) * 3
    structures = Structure.create(np.broadcast_to(crystal.positions, (lanes, 108, 3)), cell=crystal.cell.array, pbc=(True,) * 3)
    ensemble = NPT(0.3, sets, 0.02, tau=0.3, friction=2.0, shape="triclinic")
    out = simulate(structures, LennardJones(cutoff=1.9, truncation="smooth"), ensemble, 1500, 0.005, every=10)
    assert not out.failed.any()
    pressure = out.pressure[40:]
    error = pressure.mean(0).std(ddof=1) / np.sqrt(lanes)
    assert error < 0.1
    np.testing.assert_allclose(pressure.mean(), sets, atol=3 * error)
    # A quarter of a thousand degrees of freedom take up some 0.3 each.
    assert (out.energy + out.kinetic)[-1].mean() - (out.energy + out.kinetic)[0].mean() > 30
    assert abs((out.conserved[-1] - out.conserved[0]).mean()) < 2
    sheared = out.structures.cell[:, ~np.eye(3, dtype=bool)]
    assert 0.02 < np.abs(sheared).max() < 0.5
    np.testing.assert_allclose(out.structures.cell, np.swapaxes(out.structures.cell, 1, 2), atol=0.05)  # it does not turn


def test_a_cell_that_needs_more_images_gets_them_and_a_collapsed_one_fails():
    """Without forces and at high pressure a cell shrinks to nothing. Another at a pressure it can bear goes on."""
    structures = Structure.create(np.zeros((2, 8, 3)), cell=0.3 * np.eye(3), pbc=(True,) * 3)
    out = simulate(structures, NoForce(1.0), NPT(1.0, np.array([300.0, 5000.0]), 1.0, tau=100.0), 30, 0.01, every=1)
    assert list(out.failed) == [False, True]
    assert np.isfinite(out.volume[:, 0]).all()
    assert np.isnan(out.volume[-1, 1])
    # With images until there were too many: six to each side of an atom.
    smallest = np.nanmin(out.volume[:, 1]) ** (1 / 3)
    assert 1 / 6.5 < smallest < 1.25 / 6.5
    np.testing.assert_allclose(np.linalg.det(out.structures.cell[1]), smallest**3)
    with pytest.raises(StructureError, match="collapsed"):
        simulate(out.structures[1], NoForce(3.0), NVE(), 1, 0.01, temperature=1.0)


def test_a_structure_without_energy_fails_alone(canonical):
    out = canonical[1](3, broken=True)
    assert list(np.flatnonzero(out.status == FAILED)) == [3]
    assert np.isnan(out.energy[:, 3]).all()
    assert np.isfinite(np.delete(out.energy, 3, 1)).all()
    np.testing.assert_array_equal(out.structures.positions[3, 0], out.structures.positions[3, 1])


@pytest.mark.slow
def test_growing_neighbour_lists_do_not_change_the_motion(monkeypatch):
    """Atoms fly into each other: the list made of the distant ones overflows, grows, and the steps come again."""
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) - 1.0
    structures = Structure.create(2.2 * grid + 0.01 * np.random.default_rng(0).normal(size=grid.shape))
    grew = []
    monkeypatch.setattr(driver, "grown", lambda n, grown=driver.grown: grew.append(n.slots) or grown(n))
    options = {"velocities": -1.5 * grid, "every": 10}
    fluid = LennardJones(cutoff=1.8, truncation="smooth")
    plain = simulate(structures, fluid, NVE(), 150, 0.003, **options)
    assert not grew
    monkeypatch.setattr(driver, "worthwhile", lambda *a: True)
    listed = simulate(structures, fluid, NVE(), 150, 0.003, **options)
    assert grew
    np.testing.assert_allclose(listed.energy, plain.energy, rtol=1e-9)
    np.testing.assert_allclose(listed.structures.positions, plain.structures.positions, atol=1e-9)


def test_units_follow_the_potential():
    assert driver.units_of(ARGON, [18]) is EV
    assert driver.units_of(LennardJones(), [0]) is REDUCED
    assert driver.units_of(CSHGel(), [0]) is KCAL
    # The gas constant in kcal/(mol K), and the time sqrt(amu Å^2 mol/kcal) in fs.
    np.testing.assert_allclose(KCAL.boltzmann, 1.987204e-3, rtol=1e-6)
    np.testing.assert_allclose(1 / KCAL.time, 48.8882, rtol=1e-5)


ONE = Structure.create(np.zeros((2, 3)))
BOX = Structure.create(np.zeros((2, 3)), cell=np.eye(3), pbc=(True,) * 3)


@pytest.mark.parametrize(
    ("ensemble", "options", "message"),
    [
        (Langevin(-1.0), {}, "temperature is -1; it must be zero or positive"),
        (Langevin(1.0, -0.1), {}, "friction is -0.1"),
        (NoseHoover(0.0), {}, "temperature is 0; it must be positive"),
        (NoseHoover(1.0, 0.0), {}, "tau is 0"),
        (NPT(-3.0, 0.0, 1.0), {}, "temperature is -3"),
        (NPT(1.0, 0.0, -1.0), {}, "compressibility is -1"),
        (NPT(1.0, 0.0, 1.0, shape="cubic"), {}, 'no cell shape "cubic"'),
        (NPT(1.0, 0.0, 1.0), {}, "needs periodic boundaries"),
        (NVE(), {}, "give the temperature at which velocities start"),
        (NVE(), {"temperature": -1.0}, "temperature is -1"),
        (NVE(), {"temperature": np.nan}, "temperature is nan"),
        (NVE(), {"temperature": 1.0, "dt": 0.0}, "dt is 0; it must be positive"),
        (NVE(), {"temperature": 1.0, "dt": -0.1}, "dt is -0.1; it must be positive"),
        (NVE(), {"temperature": 1.0, "every": 0}, "every 0"),
        (NVE(), {"temperature": 1.0, "masses": [1.0, -1.0]}, "smallest mass is -1"),
        (NVE(), {"velocities": np.zeros((3, 3))}, "velocities have shape"),
        (Langevin(np.ones(3)), {}, "temperature has shape"),
    ],
)
def test_bad_input_is_one_line(ensemble, options, message):
    with pytest.raises(InputError, match=message) as error:
        simulate(ONE, Springs(), ensemble, **{"n_steps": 1, "dt": 0.1, **options})
    assert "\n" not in str(error.value)


def test_collapsed_cells_are_refused():
    with pytest.raises(StructureError, match="collapsed"):
        simulate(BOX, LennardJones(cutoff=20.0), NVE(), 1, 0.1, temperature=1.0)
    held = Structure.create(np.zeros((2, 3)), cell=np.eye(3), pbc=(True,) * 3, fixed=[True, False])
    with pytest.raises(InputError, match="fixed atoms"):
        simulate(held, NoForce(), NPT(1.0, 1.0, 1.0), 1, 0.1)
    with pytest.raises(StructureError, match="no atoms"):
        simulate(pad(Structure.create(np.zeros((0, 3))), 2), Springs(), NVE(), 1, 0.1, temperature=1.0)
