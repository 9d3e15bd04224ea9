"""The learned annealer: what it is without its network, what it must not depend on, and its weights files."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from thalweg import LBFGS, InputError, LennardJones, Relaxation, StillingerWeber, Structure
from thalweg.config import resolve
from thalweg.networks import weights as files
from thalweg.networks.weights import Weights, named, parameters, with_parameters
from thalweg.objective.stepping import Stepper
from thalweg.potentials.black_box import SinglePoint
from thalweg.presets import policy_of
from thalweg.relax.annealing import Annealing
from thalweg.relax.driver import relax
from thalweg.relax.learn2hop import Learn2Hop
from thalweg.relax.learned_annealing import FEATURES, NEAR, LearnedAnnealing
from thalweg.relax.strider import Strider
from thalweg.search.learned_hopping import LearnedHopping
from thalweg.space import space_of

DOWN = LBFGS(max_step=0.15)


def trained(seed=1, **other):
    """A learned annealer whose network does something."""
    relaxer = LearnedAnnealing(**other)
    rng = np.random.default_rng(seed)
    return with_parameters(
        relaxer, jax.tree.map(lambda a: (a + 0.3 * rng.normal(size=a.shape)).astype(np.float32), parameters(relaxer))
    )


def starts(n, count, seed=0):
    return Structure.create(np.random.default_rng(seed).uniform(-1.2, 1.2, (count, n, 3)), np.zeros((count, n), int))


def trajectory(relaxer, x, n_steps=30, numbers=None, space=None):
    """Positions (steps, atoms, 3, *lanes) on a harmonic well whose forces are those of `LennardJones`, clipped."""
    potential = LennardJones(sigma=2 ** (-1 / 6))
    numbers = jnp.zeros((x.shape[0], *[1] * (x.ndim - 2)), jnp.int32) if numbers is None else numbers

    def one(carry, _):
        x, state = carry
        out = potential.lanes(x, jnp.minimum(numbers, 0))
        move, state = relaxer.bound(numbers, space).step(x, out.forces, out.energy, state)
        return (x + move, state), x

    run = jax.jit(lambda x: jax.lax.scan(one, (x, relaxer.init(x)), None, n_steps)[1])
    return np.asarray(run(jnp.asarray(x)))


def ball(n=7, lanes=(4,), seed=3):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        lattice = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:n] * 1.1
        return lattice.reshape(n, 3, *[1] * len(lanes)) + 0.1 * rng.normal(size=(n, 3, *lanes))


def test_without_a_network_it_is_the_annealing_to_the_last_bit():
    settings = {"n_steps": 60, "hot": 0.4, "cold": 0.03, "dt": 0.03, "friction": 0.7, "seed": 5, "max_step": 0.1, "then": DOWN}
    of = lambda relaxer: relax(starts(7, 8), Relaxation(LennardJones(), relaxer, 1e-6, 70))
    base, zero = of(Annealing(settle=0, **settings)), of(LearnedAnnealing(**settings))
    np.testing.assert_array_equal(zero.structures.positions, base.structures.positions)
    np.testing.assert_array_equal(zero.energy, base.energy)
    np.testing.assert_array_equal(zero.steps, base.steps)
    assert np.abs(of(trained(**settings)).structures.positions - base.structures.positions).max() > 0.1


def test_it_turns_with_the_structure_and_follows_its_atoms():
    # The noise is a hash of the start, so it is left out: cold dynamics.
    relaxer = trained(hot=1e-30, cold=1e-30, n_steps=40)
    x = ball(lanes=(2,))
    with jax.enable_x64(True):
        straight = trajectory(relaxer, x)
        turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix() @ np.diag([1, 1, -1.0])
        turned = trajectory(relaxer, np.einsum("ij,njl->nil", turn, x) + 1.7)
        order = np.random.default_rng(0).permutation(len(x))
        renamed = trajectory(relaxer, x[order])
    assert np.abs(straight[-1] - straight[0]).max() > 0.05
    np.testing.assert_allclose(turned, np.einsum("ij,snjl->snil", turn, straight) + 1.7, atol=1e-6)
    np.testing.assert_allclose(renamed, straight[:, order], atol=1e-6)


def test_padding_changes_nothing():
    relaxer = trained(hot=1e-30, cold=1e-30, n_steps=40)
    x = ball(lanes=(2,))
    with jax.enable_x64(True):
        padded = np.concatenate([x, np.full((3, 3, 2), 7.0)])
        numbers = jnp.asarray([0] * 7 + [-1] * 3)[:, None]

        def one(carry, _):
            x, state = carry
            out = LennardJones(sigma=2 ** (-1 / 6)).lanes(x, numbers)
            move, state = relaxer.bound(numbers, None).step(x, out.forces, out.energy, state)
            return (x + move, state), x

        start = jnp.asarray(padded)
        longer = np.asarray(jax.lax.scan(one, (start, relaxer.init(start)), None, 30)[1])
        np.testing.assert_allclose(longer[:, :7], trajectory(relaxer, x), atol=1e-6)
    np.testing.assert_array_equal(longer[:, 7:], 7.0)


def test_each_lane_may_have_weights_of_its_own():
    one, two = trained(1, n_steps=40), trained(2, n_steps=40)
    both = with_parameters(one, jax.tree.map(lambda a, b: np.stack([a, b], -1), parameters(one), parameters(two)))
    x = ball(lanes=(1,))
    with jax.enable_x64(True):
        together = trajectory(both, np.concatenate([x, x], -1))
        for k, relaxer in enumerate((one, two)):
            np.testing.assert_allclose(together[..., k], trajectory(relaxer, x)[..., 0], atol=1e-6)


@pytest.mark.parametrize("cell", [None, 3.4])
def test_neighbours_are_those_of_a_literal_sum(cell):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 3.0, (9, 3))
    numbers = np.array([28] * 5 + [79] * 4)
    with jax.enable_x64(True):
        space = None if cell is None else space_of(np.eye(3) * cell, (True,) * 3, 1.2, True)
        relaxer = LearnedAnnealing().bound(jnp.asarray(numbers)[:, None], space)
        found = relaxer._neighbours(jnp.asarray(x)[..., None], jnp.ones((9, 1), bool))
    count, pull, alike = np.zeros(9), np.zeros((9, 3)), np.zeros(9)
    sign = np.where(numbers == 79, 1, -1)
    for i in range(9):
        for j in range(9):
            d = x[j] - x[i]
            d = d if cell is None else d - cell * np.round(d / cell)
            r = np.linalg.norm(d)
            if i != j and r < NEAR:
                weight = 6 * (1 - r**2 / NEAR**2) ** 2
                count[i] += weight
                pull[i] += weight * d
                alike[i] += weight * sign[i] * sign[j] / 6
    for got, wanted in zip(found, (count, pull, alike), strict=True):
        np.testing.assert_allclose(np.asarray(got)[..., 0], wanted, atol=1e-12)


def test_evaluations_are_counted_with_those_of_the_descent():
    potential = LennardJones(sigma=2 ** (-1 / 6))
    out = relax(starts(6, 8), Relaxation(potential, LearnedAnnealing(n_steps=50, then=DOWN), 1e-6, 400))
    assert ((out.steps > 50) & (out.steps < 400)).all()
    # Six atoms have two minima (J. P. K. Doye and D. J. Wales): the octahedron and the bicapped tetrahedron.
    known = np.array([-12.712062, -12.302928])
    assert np.abs(out.energy[:, None] - known).min(1).max() < 1e-4


def test_a_start_without_a_finite_energy_fails_and_harms_no_other():
    potential = LennardJones(sigma=2 ** (-1 / 6))
    batch = starts(6, 4)
    x = np.array(batch.positions)
    x[1, 0] = np.nan
    out = relax(Structure.create(x, batch.numbers), Relaxation(potential, trained(n_steps=30), 1e-3, 200))
    assert out.status[1] == 3
    assert np.isfinite(np.delete(out.energy, 1)).all()


def test_around_a_calculator_it_takes_the_same_steps():
    """By reverse communication, and as an optimiser of ASE: the same numbers of atoms, cell and forces reach it."""
    ase = pytest.importorskip("ase")
    from ase.calculators.lj import LennardJones as Calculator

    from thalweg.relax.ase import ThalwegOptimizer

    relaxer = trained(n_steps=30, length=1.12)
    x = np.array(ball(7, lanes=(1,))[..., 0])
    for cell in (None, np.eye(3) * 4.0):
        periodic = cell is not None
        atoms = ase.Atoms(numbers=[18] * 7, positions=x, cell=cell, pbc=periodic, calculator=Calculator(rc=1.9))
        structure = Structure.create(x, atoms.numbers, cell, None, (periodic,) * 3)
        stepper = Stepper(Relaxation(LennardJones(), relaxer), structure)
        optimizer = ThalwegOptimizer(atoms, relaxer, logfile=None)
        for _ in range(5):
            np.testing.assert_allclose(atoms.positions, stepper.point[0], atol=1e-9)
            stepper.tell(SinglePoint(atoms.get_potential_energy(), atoms.get_forces(), None, True))
            stepper.move()
            optimizer.step()
        assert np.abs(atoms.positions - x).max() > 1e-3


# Weights files


def held(relaxer, **other):
    settings = {"species": (0,), "units": {"length": "bond"}, "trained": {"seed": 1}, "measured": ({"n": 13},), **other}
    return Weights("LearnedAnnealing", FEATURES, named(parameters(relaxer)), **settings)


def test_weights_come_back_to_the_last_bit(tmp_path):
    relaxer = trained()
    files.save(tmp_path / "w.json", held(relaxer))
    again = LearnedAnnealing(str(tmp_path / "w.json"))
    jax.tree.map(np.testing.assert_array_equal, parameters(again), parameters(relaxer))
    assert again.trained == files.Trained((0,), False)


def edited(path, **changes):
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thalweg-weights": 99}, "version 99 of the format"),
        ({"thalweg-weights": None}, "is no weights file"),
        ({"model": "Learn2Hop"}, 'holds weights of "Learn2Hop"'),
        ({"features": ["force"]}, "trained on other features"),
        ({"arrays": {"schedule": [0, 0, 0, 0]}}, "does not fit this model"),
        ({"arrays": 3}, "holds no arrays of numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    files.save(tmp_path / "w.json", held(trained()))
    with pytest.raises(InputError, match=message) as caught:
        LearnedAnnealing(edited(tmp_path / "w.json", **changes))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(InputError, match=r'there are no weights "zerro".*Did you mean "zero"'):
        LearnedAnnealing("zerro")
    with pytest.raises(InputError, match="cannot be read"):
        LearnedAnnealing(str(tmp_path / "no.json"))
    relaxer = trained()
    broken = with_parameters(relaxer, {**parameters(relaxer), "schedule": np.array([0, np.nan, 0, 0], np.float32)})
    files.save(tmp_path / "w.json", held(broken))
    with pytest.raises(InputError, match=r"schedule in .* is not finite"):
        LearnedAnnealing(str(tmp_path / "w.json"))


def test_what_they_were_not_trained_on_is_refused_unless_asked_for(tmp_path):
    files.save(tmp_path / "w.json", held(trained()))
    path = str(tmp_path / "w.json")
    silicon = Structure.create(np.eye(3)[None] * 2.3, [[14] * 3])
    boxed = Structure.create(np.eye(3)[None] * 2.3, [[0] * 3], np.eye(3) * 9, None, (True,) * 3)
    potential = StillingerWeber()
    with pytest.raises(InputError, match="trained on model particles and know no Si"):
        relax(silicon, Relaxation(potential, LearnedAnnealing(path, n_steps=5), 1e-3, 20))
    with pytest.raises(InputError, match="trained on free clusters, and this system is periodic"):
        relax(boxed, Relaxation(LennardJones(cutoff=3.0), LearnedAnnealing(path, n_steps=5), 1e-3, 20))
    LearnedAnnealing(path, transfer=True).check(silicon.numbers, silicon.pbc)


# In an input


@pytest.mark.parametrize("name", files.shipped())
def test_what_ships_is_whole(name):
    """Each file fits its model, says where it comes from, and is small."""
    path = files.SHIPPED / f"{name}.json"
    document = json.loads(path.read_text())
    component = document["trained"]["input"]["component"]
    if document["model"] == "Strider":  # whose features are a choice
        model = Strider(name, **policy_of(name), species=tuple(component["species"]))
    else:
        model = {"LearnedAnnealing": LearnedAnnealing, "Learn2Hop": Learn2Hop, "LearnedHopping": LearnedHopping}[
            document["model"]
        ]
    held = files.load(name, document["model"], model.features)
    assert path.stat().st_size < 600_000
    assert held.species
    assert {"input", "seed", "updates", "cpu_seconds", "thalweg", "jax", "date"} <= set(held.trained)
    assert held.measured
    assert "/" not in json.dumps(document["trained"]["input"]["component"]["weights"])


def test_the_weights_and_units_that_suit_a_system_are_taken():
    made = resolve(
        {"system": {"formula": "Au20"}, "potential": {"kind": "gupta", "parameters": "gold55"}, "relaxer": {"kind": "learned"}}
    )
    table = made.tables["relaxer"]
    assert table["weights"] == "gupta-gold"
    np.testing.assert_allclose(table["length"], 2.96)  # r0 of the parameter set
    assert made.tables["search"]["kind"] == "annealing"
    assert made.tables["run"]["max_steps"] == table["n_steps"] + 1000
    assert resolve(made.tables).tables == made.tables


@pytest.mark.parametrize(
    ("system", "relaxer", "message"),
    [
        ({"formula": "Ni13"}, {}, "no weights ship for this potential and system"),
        ({"formula": "LJ32", "density": 1.0}, {}, "no weights ship for this potential and system"),
        ({"formula": "Ni13"}, {"weights": "gupta-gold"}, 'the weights "gupta-gold" were trained on Au and know no Ni'),
        ({"formula": "Au13"}, {"weights": "gupta-golf"}, r'there are no weights "gupta-golf".*Did you mean "gupta-gold"'),
        ({"formula": "Au13"}, {"n_steps": 0}, "n_steps of a learned annealing is 0; it must be positive"),
        ({"formula": "Au13"}, {"wieghts": "zero"}, 'unknown key wieghts.*Did you mean "weights"'),
    ],
)
def test_what_does_not_suit_is_refused_in_one_line(system, relaxer, message):
    potential = {"kind": "lennard-jones", "cutoff": 2.5} if system["formula"].startswith("LJ") else {"kind": "gupta"}
    with pytest.raises(InputError, match=message) as caught:
        resolve({"system": system, "potential": potential, "relaxer": {"kind": "learned", **relaxer}})
    assert "\n" not in str(caught.value)


def test_other_weights_do_not_compile_again(caplog):
    potential = LennardJones(sigma=2 ** (-1 / 6))
    once = lambda seed: relax(starts(6, 8), Relaxation(potential, trained(seed, n_steps=30), 1e-3, 100)).energy
    first = once(1)
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        second = once(2)
    assert not [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]
    assert (first != second).any()
