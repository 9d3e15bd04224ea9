"""Every component passes the public checks, and the checks catch components that are wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from simple_surrogate import SimpleSurrogate

from thalweg import prng
from thalweg.generators.base import Generator, moved
from thalweg.generators.bonds import BondSwitch
from thalweg.generators.cells import LatticeFragment, RandomCell
from thalweg.generators.crystals import SymmetricCell, VariableCell
from thalweg.generators.mutation import Displace, Interior, Relocate, Squeeze, Swap, Twist
from thalweg.generators.periodic import LocalDisplace, LocalSqueeze, LocalTwist, NearSwap, Slip, Wave
from thalweg.generators.placed import Permute, RandomPlaced, Rattle
from thalweg.generators.random import RandomBall, SymmetricRandom
from thalweg.generators.replicate import Replicate
from thalweg.generators.strained import Strained
from thalweg.networks.weights import parameters, with_parameters
from thalweg.potentials.base import EnergyPotential, Evaluation
from thalweg.potentials.many_body import Gupta, SuttonChen
from thalweg.potentials.pair import LennardJones, Morse, PairPotential, SoftSphere
from thalweg.relax.adapters import Adam, GradientDescent
from thalweg.relax.base import Relaxer
from thalweg.relax.filters import Frechet, Plane, Positions, UnitCell
from thalweg.relax.fire import FIRE
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.learn2hop import Learn2Hop
from thalweg.relax.learned_annealing import LearnedAnnealing
from thalweg.search.base import generate, structures_of
from thalweg.search.gofee import Gofee
from thalweg.search.surrogate_hopping import SurrogateHopping
from thalweg.structure import Structure
from thalweg.system import System, cluster
from thalweg.testing import check_filter, check_generator, check_potential, check_relaxer, check_search

AG, PT, AU = 47, 78, 79


class Yukawa(PairPotential):
    """A user's pair potential: only the energy is written. Finite nowhere at contact."""

    screening: float = 0.5

    def pair(self, r2):
        r = jnp.sqrt(r2)
        return jnp.exp(-r / self.screening) / r - 0.3 * jnp.exp(-((r - 1.2) ** 2))

    def bond_lengths(self, numbers):
        return np.ones(len(numbers))


class Dense(EnergyPotential):
    """A user's potential by per-atom energies: Lennard-Jones as a matrix. Mutants below spoil it in one place each."""

    def matrix(self, structure):
        x = structure.positions
        some = structure.mask[:, None] & structure.mask & ~jnp.eye(len(x), dtype=bool)
        r2 = jnp.where(some, ((x[:, None] - x) ** 2).sum(-1), 1)
        return jnp.where(some, 2 * (r2**-6 - r2**-3), 0)

    def atomic_energies(self, structure):
        return self.matrix(structure).sum(1)

    def bond_lengths(self, numbers):
        return np.full(len(numbers), 1.12)


POTENTIALS = {
    "lennard-jones": (LennardJones(), [0] * 6),
    "morse": (Morse(rho=14.0), [0] * 6),
    "soft-sphere": (SoftSphere(sigma=1.2), [0] * 6),
    "gupta-alloy": (Gupta(), [AG] * 3 + [PT] * 3),
    "gupta-cutoff": (Gupta("gold55"), [AU] * 6),
    "sutton-chen": (SuttonChen(), [AG] * 3 + [AU] * 3),
    "user-pair": (Yukawa(), [0] * 6),
    "user-energy": (Dense(), [0] * 6),
}


@pytest.mark.parametrize("row", POTENTIALS)
def test_potential(row):
    check_potential(*POTENTIALS[row])


class WrongForces(LennardJones):
    def pair_and_slope(self, r2):
        value, slope = LennardJones().pair_and_slope(r2)
        return value, 1.0001 * slope


class Patched(LennardJones):
    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        out = LennardJones().lanes(positions, numbers, space, neighbors, virial)
        clean = [jnp.nan_to_num(a, posinf=0, neginf=0) for a in (out.energy, out.forces, out.atomic_energies)]
        return Evaluation(*clean, jnp.ones_like(out.ok))


class Ordered(Dense):
    def atomic_energies(self, structure):
        return self.matrix(structure).sum(1) * (1 + 0.1 * jnp.arange(structure.n_slots))


class Oriented(Dense):
    def atomic_energies(self, structure):
        return self.matrix(structure).sum(1) + jnp.where(structure.mask, 0.1 * structure.positions[:, 2], 0)


class Handed(Dense):
    def atomic_energies(self, structure):
        x = jnp.where(structure.mask[:, None], structure.positions, 0)
        x = x - x.sum(0) / structure.mask.sum()
        triple = jnp.sum(x[:-2] * jnp.cross(x[1:-1], x[2:]))
        return self.matrix(structure).sum(1) + jnp.where(structure.mask, 1e-3 * triple, 0)


class CountsPadding(Dense):
    def atomic_energies(self, structure):
        return Dense().atomic_energies(structure) - 1.0


class MixesLanes(LennardJones):
    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        out = LennardJones().lanes(positions, numbers, space, neighbors, virial)
        first = out.energy.reshape(-1)[0] * 1e-3
        return Evaluation(out.energy + first, out.forces, out.atomic_energies + first / positions.shape[0], out.ok)


class Branches(Dense):
    depth: float = 1.0

    def atomic_energies(self, structure):
        return self.matrix(structure).sum(1) * (2.0 if self.depth > 1 else 1.0)


class Coarse(Dense):
    def atomic_energies(self, structure):
        return (self.matrix(structure).sum(1) + 1e4 * structure.mask) - 1e4 * structure.mask


WRONG_POTENTIALS = {
    WrongForces: "not minus the derivative",
    Patched: "NaN coordinate",
    Ordered: "equal atoms exchange places",
    Oriented: "rotated",
    CountsPadding: "padded",
    MixesLanes: "in a batch",
    Branches: "number among the fields",
    Coarse: "float32",
}


@pytest.mark.parametrize("wrong", WRONG_POTENTIALS)
def test_wrong_potential_is_caught(wrong):
    with pytest.raises(AssertionError, match=WRONG_POTENTIALS[wrong]):
        check_potential(wrong(), [0] * 6)


def test_external_field_passes_without_invariance():
    check_potential(Oriented(), [0] * 6, invariant=False)


def hopping() -> Learn2Hop:
    """The published network with weights by hand: a component goes against the sign of its gradient."""
    made = Learn2Hop(n_steps=12, then=FIRE())
    sign, on, down = (np.zeros_like(w) for w in made.network.weights)
    sign[0, 1] = on[0, 0] = 2
    down[0, 0] = -1
    return eqx.tree_at(lambda r: r.network.weights, made, (sign, on, down))


def cooled() -> LearnedAnnealing:
    """The learned annealer, too cold to wander, with weights that are not zero."""
    made = LearnedAnnealing(n_steps=15, hot=1e-12, cold=1e-12, length=2.0, then=FIRE())
    rng = np.random.default_rng(0)
    return with_parameters(
        made, jax.tree.map(lambda a: (a + 0.1 * rng.normal(size=a.shape)).astype(np.float32), parameters(made))
    )


MINIMISERS = {"fire": FIRE(), "lbfgs": LBFGS(), "adam": Adam(), "gradient-descent": GradientDescent(learning_rate=2e-3)}
RELAXERS = {**MINIMISERS, "learn2hop": hopping(), "learned": cooled()}


@pytest.mark.parametrize("row", RELAXERS)
def test_relaxer(row):
    check_relaxer(RELAXERS[row])


class Uphill(Relaxer):
    def init(self, x):
        return {}

    def step(self, x, force, energy, state):
        return -0.01 * force, state


class SharedScale(Relaxer):
    """Scales the step of all lanes by the largest force of any of them."""

    def init(self, x):
        return {}

    def step(self, x, force, energy, state):
        return 0.01 * force / jnp.maximum(1.0, jnp.abs(force).max()), state


class Forgetful(GradientDescent):
    """Counts the steps of all lanes together, so that a fresh lane is not treated as one."""

    def init(self, x):
        return {"n": jnp.zeros((1,), jnp.int32)}

    def step(self, x, force, energy, state):
        return force * 1e-3 / (1 + 0.01 * state["n"]), {"n": state["n"] + 1}

    def reset(self, state, x, mask):
        return state


class GivesUp(Relaxer):
    def init(self, x):
        return {}

    def step(self, x, force, energy, state):
        return 1e-3 * jnp.where(jnp.abs(force).max((0, 1)) > 0.1, force, 0.001 * force), state


WRONG_RELAXERS = {
    Uphill: "along the force",
    SharedScale: "neighbours in the batch",
    Forgetful: "does not behave like a new one",
    GivesUp: "minimum of a quadratic",
}


@pytest.mark.parametrize("wrong", WRONG_RELAXERS)
def test_wrong_relaxer_is_caught(wrong):
    with pytest.raises(AssertionError, match=WRONG_RELAXERS[wrong]):
        check_relaxer(wrong(), max_steps=3000)


GENERATORS = [
    RandomBall(), SymmetricRandom(), Displace(), Squeeze(), Twist(), Relocate(), Interior(), Swap(),
    RandomPlaced(), Rattle(), Permute(), Strained(),
]  # fmt: skip
ALLOY = cluster([AG] * 8 + [AU] * 5, Gupta())


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: g.name)
def test_generator(generator):
    check_generator(generator, ALLOY)


LOCAL_MOVES = [LocalDisplace(), LocalTwist(), LocalSqueeze(), NearSwap(), BondSwitch()]
CELL_MOVES = [*LOCAL_MOVES, Wave(), Slip(), Replicate(), Displace(), Swap(), Relocate()]
CELL_STARTS = [RandomCell(), LatticeFragment(), SymmetricCell(), VariableCell()]


@pytest.mark.parametrize("generator", LOCAL_MOVES, ids=lambda g: g.name)
def test_local_moves_work_on_clusters_too(generator):
    check_generator(generator, ALLOY)


def boxed(n: int, pbc=(True, True, True)):
    """An fcc crystal of 32 atoms of two species, disturbed, in a cell that is not quite a box."""
    cell = np.array([[3.2, 0, 0], [0.1, 3.2, 0], [0, -0.2, 3.3]])
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = (grid[grid.sum(1) % 2 == 0] / 4) @ cell + np.random.default_rng(n).uniform(-0.05, 0.05, (32, 3))
    numbers = np.repeat([AG, AU], 16).astype(np.int32)
    system = System(numbers, np.full(32, 1.13), np.zeros(32, bool), cell, pbc)
    return system, Structure.create(x[None], numbers, cell, pbc=pbc)


@pytest.mark.parametrize("generator", CELL_MOVES + CELL_STARTS, ids=lambda g: g.name)
def test_generator_in_a_cell(generator):
    check_generator(generator, *boxed(0))


class Still(Generator):
    n_parents = 1
    name = "still"

    def __call__(self, key, parents, system):
        return moved(parents[0], parents.positions[0])


class Transmutes(Generator):
    n_parents = 1
    name = "transmutes"

    def __call__(self, key, parents, system):
        new = moved(parents[0], parents.positions[0] + jr.normal(key, parents.positions[0].shape))
        return eqx.tree_at(lambda s: s.numbers, new, new.numbers[::-1])


class Shakes(Generator):
    """Moves every atom, fixed ones too."""

    n_parents = 1
    name = "shakes"

    def __call__(self, key, parents, system):
        return moved(parents[0], parents.positions[0] + 0.1 * jr.normal(key, parents.positions[0].shape))


@pytest.mark.parametrize(("wrong", "sentence"), [(Still, "different keys"), (Transmutes, "changes the numbers")])
def test_wrong_generator_is_caught(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_generator(wrong(), ALLOY)


def test_the_search_puts_fixed_atoms_back():
    system = eqx.tree_at(lambda s: s.fixed, ALLOY, np.arange(13) < 2)
    parents = structures_of(system, jnp.asarray(np.random.default_rng(0).normal(size=(3, 13, 3)), jnp.float32))
    keys = jr.split(prng.key(0), 3)
    x = generate((Shakes(),), jnp.zeros(3, jnp.int32), keys, parents, system).positions
    np.testing.assert_array_equal(x[:, :2], parents.positions[:, :2])
    assert (np.abs(np.asarray(x - parents.positions))[:, 2:].max(-1) > 0).all()


def test_mirror_image_is_told_apart():
    """The handed mutant has the same energy when turned, another one when mirrored."""
    with pytest.raises(AssertionError, match="mirrored"):
        check_potential(Handed(), [0, 1, 2, 3, 4, 5])


def test_checks_do_not_change_the_precision():
    check_relaxer(GradientDescent(learning_rate=1e-3))
    assert jax.numpy.zeros(1).dtype == jnp.float32


FILTERS = {
    "positions": Positions(),
    "plane": Plane((1.0, 2.0, -1.0)),
    "unit-cell": UnitCell(scalar_pressure=0.5),
    "frechet": Frechet(mask=[1, 1, 0, 0, 0, 1]),
}


@pytest.mark.parametrize("row", FILTERS)
def test_any_relaxer_with_any_filter(row):
    check_filter(FILTERS[row], list(MINIMISERS.values()))


class Unscaled(UnitCell):
    """Forgets that the strain is multiplied among the coordinates."""

    def strain_force(self, strain, force):
        return 4 * force


class Undeformed(Frechet):
    """Pulls at the atoms as if the cell were still what it was."""

    def pull(self, x, origin, evaluation, cell, numbers):
        force, energy = super().pull(x, origin, evaluation, cell, numbers)
        return force.at[:-3].set(evaluation.forces), energy


class CountsSlots(UnitCell):
    """Scales the cell by slots, empty ones included."""

    def _factor(self, numbers, dtype):
        return jnp.full(1, numbers.shape[0], dtype)


class OneOrigin(Frechet):
    """Takes the cell of the first lane for all."""

    def unpack(self, x, origin, numbers):
        return super().unpack(x, origin[..., :1], numbers)


WRONG_FILTERS = {
    Unscaled: "not minus the derivative",
    Undeformed: "not minus the derivative",
    CountsSlots: "padding slot",
    OneOrigin: "does not unpack the cell",
}


@pytest.mark.parametrize("wrong", WRONG_FILTERS)
def test_wrong_filter_is_caught(wrong):
    with pytest.raises(AssertionError, match=WRONG_FILTERS[wrong]):
        check_filter(wrong(), ())


#: Searches that fit models, with the programs of test_gofee.py; the others are in test_population_searches.py.
CHEAP = {"surrogate": SimpleSurrogate(), "n_initial": 4, "candidates": 4, "steps": 20}
LJ5 = cluster([0] * 5, LennardJones())
MODEL_SEARCHES = {
    "gofee": Gofee((Displace(),), (RandomPlaced(),), **CHEAP),
    "surrogate-hopping": SurrogateHopping((Displace(),), (RandomPlaced(),), **CHEAP),
}


@pytest.mark.parametrize("row", MODEL_SEARCHES)
def test_search_that_fits_models(row):
    check_search(MODEL_SEARCHES[row], LJ5)


class Restless(Gofee):
    """Draws from the world's random numbers."""

    def ask(self, key, state, system, pending=None):
        made = super().ask(key, state, system, pending)
        noise = np.random.default_rng().normal(size=3)  # a translation: no distance tells
        return eqx.tree_at(lambda p: p.structures.positions, made, made.structures.positions + noise)


class Pressed(Gofee):
    """Presses what it made."""

    def ask(self, key, state, system, pending=None):
        made = super().ask(key, state, system, pending)
        return eqx.tree_at(lambda p: p.structures.positions, made, made.structures.positions * 0.5)


class Sanguine(Gofee):
    """Takes for granted that energies are finite."""

    def tell(self, key, state, outcome, system):
        if not np.isfinite(outcome.energy).all():
            raise ValueError("no energy")
        return super().tell(key, state, outcome, system)


class Scribbles(Gofee):
    """Writes into the state that it was given."""

    def tell(self, key, state, outcome, system):
        state.shared.energy[0] = 0
        return super().tell(key, state, outcome, system)


WRONG_SEARCHES = {
    Restless: "asked again",
    Pressed: "nearer than the limit",
    Sanguine: "told a failure",
    Scribbles: "state that it was given",
}


@pytest.mark.parametrize("wrong", WRONG_SEARCHES)
def test_wrong_search_that_fits_models_is_caught(wrong):
    with pytest.raises(AssertionError, match=WRONG_SEARCHES[wrong]):
        check_search(wrong((Displace(),), (RandomPlaced(),), **CHEAP), LJ5)
