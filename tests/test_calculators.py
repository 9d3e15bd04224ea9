"""Calculators as potentials, and what evaluating by them means."""

import tomllib

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.optimize import FIRE as AseFire
from calculators import PATH

from thalweg import InputError, LennardJones, PotentialError, StructureError, cli, from_ase
from thalweg.objective.base import Task
from thalweg.objective.evaluate import Evaluate
from thalweg.potentials import black_box
from thalweg.potentials.black_box import BlackBox
from thalweg.relax.ase import ThalwegOptimizer
from thalweg.relax.base import CONVERGED, FAILED, STEP_LIMIT
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.filters import Frechet, Plane
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure

BENZENE = ase.build.molecule("C6H6")
#: GFN1-xTB energy of ASE's benzene as it is, and relaxed (tblite 0.4 and later).
AS_IT_IS, RELAXED = -432.50728850, -432.5157


def mine(name, **arguments):
    """A calculator of tests/calculators.py."""
    return BlackBox(f"{PATH}:{name}", arguments)


def single(potential, atoms, number=0, **task):
    """Evaluate one point."""
    return Evaluate(Relaxation(potential, LBFGS(), 1e-3, 1))(Task(number, from_ase(atoms), **task))


def alloy():
    """Eight atoms of copper and aluminium, shaken."""
    atoms = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True).repeat((2, 1, 1))
    atoms.numbers[1::2] = 13
    atoms.rattle(0.1, seed=1)
    atoms.pbc = False
    atoms.cell = None
    return atoms


def test_a_single_point_is_what_ase_computes():
    atoms = alloy()
    out = single(BlackBox("emt"), atoms)
    atoms.calc = EMT()
    assert out.error is None
    np.testing.assert_allclose(out.energy, atoms.get_potential_energy(), rtol=1e-13)
    np.testing.assert_allclose(out.forces[0], atoms.get_forces(), atol=1e-12)
    assert (out.status, out.evaluations, out.error, len(out.energies)) == (STEP_LIMIT, 1, None, 1)


@pytest.mark.parametrize("name", ["emt", "EMT", "ase.calculators.emt:EMT", f"{PATH}:emt", EMT])
def test_calculators_have_many_names(name):
    potential = BlackBox(name)
    assert isinstance(potential.create(), EMT)
    assert potential == BlackBox(name)
    assert hash(potential) == hash(BlackBox(name))


@pytest.mark.parametrize("relaxer", [LBFGS(), FIRE()])
def test_relaxation_ends_where_ase_ends(relaxer):
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0, 3]))
    start = from_ase(atoms)
    out = Evaluate(Relaxation(BlackBox("emt"), relaxer, 2e-4, 300))(Task(3, start))
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    assert (out.number, out.status) == (3, CONVERGED)
    np.testing.assert_allclose(out.energy, atoms.get_potential_energy(), atol=3e-6)
    np.testing.assert_array_equal(out.structure.positions[[0, 3]], start.positions[[0, 3]])
    assert out.evaluations == len(out.energies) == len(out.positions)
    np.testing.assert_allclose(out.energies[-1], out.energy, rtol=1e-14)
    # Forces of fixed atoms are kept as they are: models learn from them.
    assert np.abs(out.forces[-1, 0]).max() > 1e-2


def test_steps_are_those_of_the_device_driver():
    rng = np.random.default_rng(0)
    start = Structure.create(rng.normal(size=(7, 3)) * 1.2)
    relaxation = Relaxation(LennardJones(), LBFGS(), 1e-6, 31)
    kept = Evaluate(relaxation)(Task(0, start))
    driven = relax(start, relaxation)
    assert kept.evaluations == len(kept.energies) == int(driven.steps) == 31
    np.testing.assert_allclose(kept.energy, driven.energy, rtol=1e-9)
    np.testing.assert_allclose(kept.structure.positions, driven.structures.positions, atol=1e-8)
    long = Evaluate(Relaxation(LennardJones(), LBFGS(), 1e-6, 1000))(Task(0, start))
    assert long.status == CONVERGED
    assert len(long.energies) == 1 < long.evaluations
    assert np.abs(long.forces).max() < 1e-6


def test_cells_relax_as_ase_relaxes_them():
    atoms = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=2)
    out = Evaluate(Relaxation(BlackBox("emt"), LBFGS(), 1e-3, 200, Frechet()))(Task(0, from_ase(atoms)))
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4)
    assert out.status == CONVERGED
    np.testing.assert_allclose(out.energy, atoms.get_potential_energy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(out.structure.cell), atoms.get_volume(), rtol=1e-4)
    assert out.cells.shape == (out.evaluations, 3, 3)


def test_a_plane_stays_flat():
    rng = np.random.default_rng(3)
    flat = np.concatenate([rng.uniform(0, 6, (4, 2)), np.ones((4, 1))], 1)
    start = Structure.create(flat, [6] * 4)
    out = Evaluate(Relaxation(mine("Springs"), LBFGS(), 1e-4, 50, Plane()))(Task(0, start))
    assert np.abs(out.positions[..., 2] - 1).max() == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Raises", "Raises: RuntimeError: the SCF did not converge after 100 cycles"),
        ("NotANumber", "NotANumber: the energy is nan"),
        ("Leaves", "Leaves: SystemExit: 1"),
    ],
)
def test_whatever_a_calculator_does_is_a_value(name, says):
    out = single(mine(name), ase.Atoms("Cu2", positions=[[0, 0, 0], [3, 0, 0]]), number=7)
    assert (out.number, out.status, out.energy, out.error, out.evaluations) == (7, FAILED, np.inf, says, 1)
    assert out.energies.shape == (0,)
    assert out.positions.shape == (0, 2, 3)


def test_points_before_a_failure_are_kept():
    start = Structure.create([[4.9, 0, 0], [0, 3, 0]], [6, 6])
    velocities = np.array([[5.0, 0, 0], [0, 0, 0]])
    out = Evaluate(Relaxation(mine("RaisesFarOut"), LBFGS(), 1e-3, 9), dt=0.5)(Task(0, start, velocities=velocities))
    assert out.status == FAILED
    assert out.error == "RaisesFarOut: RuntimeError: too far out"
    assert 1 <= len(out.energies) == out.evaluations - 1
    np.testing.assert_allclose(out.energies, (out.positions**2).sum((1, 2)) / 2)


def test_atoms_on_top_of_each_other_never_reach_a_calculator():
    near = ase.Atoms("C2H", positions=[[0, 0, 0], [3, 0, 0], [3, 0, 1e-3]])
    out = single(mine("Springs"), near)
    assert out.error == "atoms 1 and 2 are 0.001 Å apart, too near for a calculator"
    across = ase.Atoms("Cu2", positions=[[0, 0, 0.01], [0, 0, 3.99]], cell=[4, 4, 4], pbc=True)
    assert single(BlackBox("emt"), across).error == "atoms 0 and 1 are 0.02 Å apart, too near for a calculator"


def test_a_new_lowest_energy_is_asked_for_again():
    atoms = ase.Atoms("C2", positions=[[0, 0, 0], [3, 0, 0]])
    spoilt = BlackBox(f"{PATH}:Forgets", fresh=False)
    objective = Evaluate(Relaxation(spoilt, LBFGS(), 1e-9, 3))
    assert objective(Task(0, from_ase(atoms), lowest=-100)).status != FAILED
    out = objective(Task(0, from_ase(atoms), lowest=0.0))
    assert out.status == FAILED
    assert "lower than all before" in out.error
    assert out.evaluations == 4
    honest = Evaluate(Relaxation(mine("Forgets"), LBFGS(), 1e-9, 3))(Task(0, from_ase(atoms), lowest=5.0))
    assert honest.status != FAILED
    assert honest.evaluations == 4
    assert len(honest.energies) == 3


def test_time_runs_out_between_single_points():
    objective = Evaluate(Relaxation(mine("Sleeps", seconds=0.2), LBFGS(), 1e-9, 50), timeout=0.3)
    out = objective(Task(0, Structure.create([[0.0, 0, 0], [3, 0, 0]], [6, 6])))
    assert out.status == FAILED
    assert "more than the 0.3 s allowed" in out.error
    assert out.seconds < 2


def test_dynamics_keeps_the_energy_and_stops_behind_minima():
    atoms = alloy()
    rng = np.random.default_rng(5)
    velocities = rng.normal(size=(8, 3)) * 0.02
    masses = atoms.get_masses()[:, None]
    out = Evaluate(Relaxation(BlackBox("emt"), LBFGS(), 1e-2, 200), md_steps=40, dt=2.0, mdmin=99)(
        Task(0, from_ase(atoms), velocities=velocities)
    )
    # The trajectory of ASE's own velocity Verlet, its last point being where the relaxation begins.
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms.calc = EMT()
    atoms.set_velocities(velocities)
    total = atoms.get_potential_energy() + (masses * velocities**2).sum() / 2
    VelocityVerlet(atoms, 2.0 * units.fs).run(40)
    np.testing.assert_allclose(out.positions[40], atoms.positions, atol=1e-9)
    np.testing.assert_allclose(atoms.get_total_energy(), total, atol=2e-2)
    assert out.evaluations == len(out.energies) > 41
    few = Evaluate(Relaxation(BlackBox("emt"), LBFGS(), 1e-2, 1), dt=2.0, mdmin=1)(
        Task(0, from_ase(atoms), velocities=velocities)
    )
    path = few.energies[:-1]
    inner = np.flatnonzero((path[1:-1] < path[:-2]) & (path[1:-1] < path[2:])) + 1
    assert list(inner) == [len(path) - 2]
    np.testing.assert_allclose(few.energy, path[-2], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("emtt", 'Did you mean "emt"'),
        ("nowhere.inside:Y", "no installed module nowhere.inside"),
        ("ase.calculators.emt:EMTT", 'no calculator "EMTT". Did you mean "EMT"'),
        (f"{PATH}:Spring", 'no calculator "Spring". Did you mean "Springs"'),
    ],
)
def test_a_name_of_nothing_is_one_line(name, says):
    with pytest.raises(InputError) as error:
        BlackBox(name).check(np.array([29]))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_installed_says_what_to_install():
    pytest.importorskip("ase")
    try:
        import gpaw  # noqa: F401

        pytest.skip("GPAW is installed here")
    except ImportError:
        pass
    with pytest.raises(InputError, match="pip install gpaw"):
        BlackBox("gpaw").create()


def test_unknown_elements_and_arguments_are_refused_at_once():
    with pytest.raises(PotentialError, match="EMT does not know Fe"):
        BlackBox("emt").check(np.array([29, 26]))
    BlackBox("emt").check(np.array([29, 13]))
    with pytest.raises(InputError, match=r'knows no second\. Did you mean "seconds"'):
        BlackBox(f"{PATH}:Sleeps", {"second": 1}).create()
    with pytest.raises(InputError, match="cannot be made: TypeError"):
        BlackBox(f"{PATH}:Sleeps", {"anything": 1}).create()
    with pytest.raises(InputError, match="cannot trace"):
        BlackBox("emt").lanes(np.zeros((2, 3)), np.array([29, 29]))
    with pytest.raises(StructureError, match="no volume"):
        BlackBox("emt").space([[1, 0, 0], [2, 0, 0], [0, 0, 1]], (True, True, True))


def test_expensive_calculators_are_not_tried_on_elements(monkeypatch):
    """A run of such a program for each element would take longer than anyone waits for a command to begin."""
    potential = mine("Unknowing")
    with pytest.raises(PotentialError, match="Unknowing does not know Cu"):
        potential.check(np.array([29]))
    module = type(potential.create()).__module__
    monkeypatch.setattr(black_box, "SLOW", (module,))
    mine("Unknowing", label="slow").check(np.array([29]))


@pytest.fixture(scope="module")
def tblite():
    pytest.importorskip("tblite", reason="tblite is not installed")
    return BlackBox("tblite:TBLite", {"method": "GFN1-xTB"})


def test_benzene_has_its_energy(tblite):
    tblite.check(np.array([1, 6]))
    out = single(tblite, BENZENE)
    np.testing.assert_allclose(out.energy, AS_IT_IS, atol=1e-6)
    out = Evaluate(Relaxation(tblite, LBFGS(), 1e-2, 60))(Task(0, from_ase(BENZENE)))
    assert out.status == CONVERGED
    np.testing.assert_allclose(out.energy, RELAXED, atol=2e-4)
    with pytest.raises(PotentialError, match="does not know Fm"):
        tblite.check(np.array([6, 100]))
    with pytest.raises(InputError, match='Did you mean "method"'):
        BlackBox("tblite", {"metod": "GFN1-xTB"}).create()


def test_an_scf_that_fails_is_a_value(tblite):
    out = single(BlackBox("tblite", {**tblite.arguments, "max_iterations": 2}), BENZENE, number=4)
    assert (out.number, out.status, out.energy) == (4, FAILED, np.inf)
    assert out.error == "TBLite: CalculationFailed: SCF not converged in 2 cycles"


#: C6H6 in a plane as a search once proposed it: GFN1-xTB converges to -523 eV, 90 eV below benzene, without complaint.
NO_STATE = [
    [3.005916, -2.963499, 0], [4.323558, -3.209477, 0], [2.308614, -4.323558, 0], [1.907558, -3.645527, 0],
    [4.286149, -2.342676, 0], [3.468544, -3.596403, 0], [0.993375, -1.450131, 0], [1.049886, -0.103136, 0],
    [3.098640, 0.471754, 0], [-0.408559, -1.668473, 0], [2.693829, -3.671454, 0], [2.298436, -0.690871, 0],
]  # fmt: skip


def test_an_energy_that_no_bonds_can_give_is_a_failure(tblite, monkeypatch):
    monkeypatch.setattr(black_box, "MOST_CHARGED", np.inf)
    atoms = ase.Atoms("H6C6", positions=NO_STATE)
    atoms.calc = tblite.create()
    assert atoms.get_potential_energy() < -500  # the reason for the test: the calculator sees nothing wrong
    out = single(tblite, atoms)
    assert out.status == FAILED
    assert np.isinf(out.energy)
    assert "far below what bonds can give" in out.error
    # Atoms by themselves, from the table of the method: 6 (-10.923 - 47.379) eV.
    np.testing.assert_allclose(tblite.lowest_possible(atoms.numbers), -349.8 - 12 * 12, atol=0.2)


def test_a_collapsed_wave_function_is_a_failure(tblite):
    """Four hydrogens in a square about a carbon, each .9 Å from it: GFN1-xTB gives 65 eV less than for methane."""
    square = ase.Atoms("CH4", positions=0.9 * np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
    square.calc = tblite.create()
    assert square.get_potential_energy() < single(tblite, molecule("CH4")).energy - 60  # the reason for the test
    out = single(tblite, square)
    assert out.status == FAILED
    assert np.isinf(out.energy)
    assert "the wave function collapsed: a charge of -6.1 on C; its energy means nothing" in out.error
    assert not tblite.evaluate(from_ase(square)).ok


@pytest.mark.parametrize("name", ["CF4", "SiF4", "SO2", "LiF", "NaCl", "CH3NO2", "H2O"])
def test_what_is_most_charged_is_no_failure(tblite, name):
    assert single(tblite, molecule(name)).error is None


def test_nothing_is_printed(tblite, capfd):
    single(tblite, BENZENE)
    out = capfd.readouterr()
    assert out.out == out.err == ""


def scattered():
    """Six carbon and six hydrogen atoms far apart: from benzene's wave function GFN1-xTB does not converge in 60 cycles."""
    atoms = BENZENE.copy()
    atoms.positions = np.random.default_rng(0).uniform(0, 8, (12, 3))
    return atoms


@pytest.mark.parametrize("fresh", [True, False])
def test_a_failed_wave_function_spoils_nothing(fresh):
    """tblite begins from its last wave function: one object that failed has been seen to be 8 eV off afterwards."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    potential = BlackBox("tblite:TBLite", {"method": "GFN1-xTB", "max_iterations": 60}, fresh)
    objective = Evaluate(Relaxation(potential, LBFGS(), 1e-3, 1))
    calculator = potential.create()
    atoms, bad = BENZENE.copy(), scattered()
    atoms.calc = bad.calc = calculator
    np.testing.assert_allclose(atoms.get_potential_energy(), AS_IT_IS, atol=1e-6)
    with pytest.raises(CalculationFailed, match="SCF not converged"):
        bad.get_potential_energy()  # the same object would go on with what this left behind
    for structure in (BENZENE, bad, BENZENE):
        out = objective(Task(0, from_ase(structure), lowest=0.0))
    np.testing.assert_allclose(out.energy, AS_IT_IS, atol=1e-6)
    assert out.evaluations == 2


def test_a_spoilt_calculator_is_found_out():
    """The one that failed, held by a potential that keeps it, against the look of a fresh one."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    potential = BlackBox(f"{PATH}:spoilt", fresh=False)
    out = Evaluate(Relaxation(potential, LBFGS(), 1e-3, 1))(Task(0, from_ase(BENZENE), lowest=0.0))
    if out.status != FAILED:
        np.testing.assert_allclose(out.energy, AS_IT_IS, atol=1e-6)  # a tblite without the flaw
        pytest.skip("this tblite recovers by itself")
    assert "-432.507289 eV when a fresh" in out.error


def optimised(tmp_path, **kwargs):
    """A cluster of copper and aluminium after an optimiser of ours."""
    atoms = alloy()
    atoms.calc = EMT()
    return atoms, ThalwegOptimizer(atoms, logfile=str(tmp_path / "log"), **kwargs)


@pytest.mark.parametrize("relaxer", [None, FIRE()])
def test_relaxers_are_optimisers_of_ase(tmp_path, relaxer):
    atoms, optimiser = optimised(tmp_path, relaxer=relaxer, trajectory=str(tmp_path / "path.traj"))
    assert optimiser.run(fmax=1e-3, steps=300)
    other = alloy()
    other.calc = EMT()
    BFGS(other, logfile=None).run(fmax=1e-3)
    np.testing.assert_allclose(atoms.get_potential_energy(), other.get_potential_energy(), atol=1e-5)
    path = ase.io.read(tmp_path / "path.traj", ":")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(path) == optimiser.nsteps + 1 == len(lines) - 1
    np.testing.assert_allclose(path[-1].get_potential_energy(), atoms.get_potential_energy())
    if relaxer is not None:  # the same steps as ASE's own FIRE
        third = alloy()
        third.calc = EMT()
        own = AseFire(third, logfile=None)
        own.run(fmax=1e-3, steps=300)
        assert own.nsteps == optimiser.nsteps
        np.testing.assert_allclose(third.positions, atoms.positions, atol=1e-9)


def test_optimisers_go_on_where_they_stopped(tmp_path):
    restart = str(tmp_path / "state.json")
    atoms, optimiser = optimised(tmp_path, restart=restart)
    optimiser.run(fmax=1e-9, steps=4)
    ThalwegOptimizer(atoms, restart=restart, logfile=None).run(fmax=1e-9, steps=4)
    whole, optimiser = optimised(tmp_path)
    optimiser.run(fmax=1e-9, steps=8)
    np.testing.assert_allclose(atoms.positions, whole.positions, atol=1e-12)
    with pytest.raises(InputError, match="another relaxer"):
        ThalwegOptimizer(atoms, FIRE(), restart=restart, logfile=None)


def test_optimisers_keep_constraints_and_take_filters():
    atoms = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=2)
    atoms.calc = EMT()
    other = atoms.copy()
    other.calc = EMT()
    assert ThalwegOptimizer(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=100)
    BFGS(FrechetCellFilter(other), logfile=None).run(fmax=1e-3)
    np.testing.assert_allclose(atoms.get_volume(), other.get_volume(), rtol=1e-3)
    np.testing.assert_allclose(atoms.get_potential_energy(), other.get_potential_energy(), atol=1e-5)
    fixed = alloy()
    fixed.set_constraint(FixAtoms([0, 3]))
    fixed.calc = EMT()
    before = fixed.positions[[0, 3]].copy()
    assert ThalwegOptimizer(fixed, logfile=None).run(fmax=1e-3, steps=200)
    np.testing.assert_array_equal(fixed.positions[[0, 3]], before)


@pytest.fixture
def thalweg_(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_relax_by_a_calculator(thalweg_):
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0, 3]))
    ase.io.write("in.traj", [atoms, alloy()])
    code, out, _ = thalweg_("relax", "in.traj", "--calculator", "emt", "--fmax", "0.002")
    assert code == 0
    found = ase.io.read("in-relaxed.extxyz", ":")
    for start, end in zip((atoms, alloy()), found, strict=True):
        start.calc = EMT()
        BFGS(start, logfile=None).run(fmax=1e-4)
        np.testing.assert_allclose(end.get_potential_energy(), start.get_potential_energy(), atol=1e-5)
        assert f"{end.get_potential_energy():.5f}"[:-1] in out
    np.testing.assert_allclose(found[0].positions[[0, 3]], alloy().positions[[0, 3]], atol=1e-8)


def test_relax_a_cell_by_a_calculator(thalweg_):
    crystal = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True)
    crystal.rattle(0.02, seed=2)
    ase.io.write("cu.xyz", crystal)
    code, out, _ = thalweg_("relax", "cu.xyz", "--calculator", "emt", "--filter", "frechet", "--fmax", "1e-3")
    crystal.calc = EMT()
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-4)
    assert code == 0
    relaxed = ase.io.read("cu-relaxed.extxyz")
    np.testing.assert_allclose(relaxed.get_volume(), crystal.get_volume(), rtol=1e-3)
    assert "pressure GPa" in out
    assert np.abs(relaxed.get_stress()).max() < 1e-4


def test_relax_says_what_failed(thalweg_):
    ase.io.write("two.xyz", ase.Atoms("C2", positions=[[0, 0, 0], [3, 0, 0]]))
    code, out, err = thalweg_("relax", "two.xyz", "--calculator", f"{PATH}:Raises")
    assert code == 1
    assert err == "thalweg: structure 0: Raises: RuntimeError: the SCF did not converge after 100 cycles\n"
    assert "1 did not converge" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--calculator", "emtt"], 'no calculator "emtt". Did you mean "emt"'),
        (["--calculator", "emt"], "EMT does not know Fe"),
        (["--calculator", "emt", "--potential", "gupta"], "give one"),
        (["--calculator", "emt", "--set", "asap_cutof=true"], 'Did you mean "asap_cutoff"'),
        (["--calculator", "emt", "--set", "potental.fresh=true"], 'Did you mean "potential"'),
        (["--set", "asap_cutoff=true", "--potential", "gupta"], "write section.key=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_calculator_cannot_do_is_one_line(thalweg_, arguments, says):
    ase.io.write("fe.xyz", ase.Atoms("Fe2", positions=[[0, 0, 0], [2, 0, 0]]))
    code, out, err = thalweg_("relax", "fe.xyz", *arguments)
    assert code in (2, 4)
    assert says in err
    assert err.count("\n") == 1
    assert out == ""


def test_an_input_with_a_calculator(thalweg_, tmp_path):
    (tmp_path / "mine.py").write_text("from ase.calculators.emt import EMT\n\n\ndef make(**given):\n    return EMT(**given)\n")
    code, out, err = thalweg_("init", "--formula", "Cu3Al4", "--calculator", "mine:make", "--set", "asap_cutoff=true")
    assert (code, err) == (0, "")
    table = tomllib.loads(out)["potential"]
    assert table == {
        "kind": "calculator",
        "calculator": f"{tmp_path / 'mine.py'}:make",  # so that a run can be resumed from anywhere
        "fresh": True,
        "arguments": {"asap_cutoff": True},
    }
    both = thalweg_("search", "Cu3", "--formula", "Cu4")
    assert both[0] == 2
    assert "Cu3 and --formula Cu4 are given; give one" in both[2]
