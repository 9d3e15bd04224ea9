"""Annealing, parallel tempering, and relaxations that are given up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import InputError
from thalweg.generators.random import RandomBall
from thalweg.leaves import as_leaves
from thalweg.potentials.base import EnergyPotential
from thalweg.potentials.pair import LennardJones
from thalweg.prng import normals
from thalweg.relax.annealing import Annealing, langevin
from thalweg.relax.base import CONVERGED
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.run import Settings, Stop, run
from thalweg.search.base import Outcome, State, structures_of
from thalweg.search.parallel_tempering import ParallelTempering
from thalweg.structure import Structure
from thalweg.system import cluster

LJ7, LJ13 = -16.505384, -44.326801


class Springs(EnergyPotential):
    """Every atom on a spring of its own: the distribution at a temperature is known exactly."""

    def atomic_energies(self, structure):
        return (structure.positions**2).sum(-1) / 2


def test_normals_are_standard_and_differ_between_lanes_and_counters():
    words = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, (2, 40), dtype=np.uint32))
    draw = jax.jit(lambda counters: normals(words, counters, (100, 3, 40), jnp.float32))
    x = np.stack([draw(jnp.asarray(np.full(40, c))) for c in range(20)])
    n = x.size
    assert abs(x.mean()) < 5 / n**0.5
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert 2.6 < (x**4).mean() < 2.8  # four bytes: 3 - 1.2/4
    flat = x.reshape(20, 300, 40)
    for axis in range(3):  # neighbours along every axis are independent
        a, b = np.delete(flat, 0, axis), np.delete(flat, -1, axis)
        assert abs((a * b).mean()) < 5 / a.size**0.5


def test_langevin_samples_boltzmann():
    # Springs of unit stiffness: <x^2> = kT exactly, also at this large a step (BAOAB, doi:10.1093/amrx/abs010).
    kt, n_lanes = 0.7, 64
    words = jnp.asarray(np.random.default_rng(1).integers(0, 2**32, (2, n_lanes), dtype=np.uint32))

    @jax.jit
    def walk():
        def one(k, carry):
            x, v, total = carry
            noise = normals(words, k, x.shape, x.dtype)
            move, v = langevin(v, -x, kt, noise, 0.5, 1.0, 100.0)
            x = x + move
            return x, v, total + jnp.where(k >= 200, (x * x).mean(), 0)

        x = jnp.ones((8, 3, n_lanes))
        return jax.lax.fori_loop(0, 2200, one, (x, 0 * x, 0.0))[2] / 2000

    assert abs(float(walk()) / kt - 1) < 0.015


def test_annealing_ends_in_a_lower_minimum_than_relaxing():
    rng = np.random.default_rng(2)
    starts = Structure.create(rng.uniform(-1.6, 1.6, (16, 13, 3)))
    plain = relax(starts, Relaxation(LennardJones(), LBFGS(max_step=0.15), 1e-3))
    cooling = Annealing(n_steps=3000, hot=0.35, cold=0.05, dt=0.02, friction=0.5, then=LBFGS(max_step=0.15))
    annealed = relax(starts, Relaxation(LennardJones(), cooling, 1e-3, 6000))
    assert (annealed.status == CONVERGED).all()
    assert annealed.energy.mean() < plain.energy.mean() - 0.5
    np.testing.assert_allclose(annealed.energy.min(), LJ13, atol=1e-4)
    assert (annealed.steps > 3000).all()  # a small force on the way is no reason to stop


def test_an_annealing_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(3)
    starts = Structure.create(rng.uniform(-1.2, 1.2, (3, 5, 3)))
    task = Relaxation(LennardJones(), Annealing(n_steps=60, dt=0.01), 1e-6, 400)
    together, alone = relax(starts, task), relax(starts[1:2], task)
    np.testing.assert_allclose(together.energy[1], alone.energy[0], atol=1e-9)
    other = relax(starts[1:2], Relaxation(LennardJones(), Annealing(n_steps=60, dt=0.01, seed=1), 1e-6, 400))
    assert np.abs(other.structures.positions - alone.structures.positions).max() > 1e-3


@pytest.mark.parametrize("field", ["hot", "cold", "dt", "n_steps", "friction"])
def test_an_annealing_refuses_what_makes_no_sense(field):
    with pytest.raises(InputError, match=f"{field} .* positive"):
        Annealing(**{field: -1})


@jax.jit
def rungs_told(seeds, constant, state, outcome):
    """Rungs (seeds, walkers) after one `tell`."""
    search, system = constant
    return jax.vmap(lambda seed: search.tell(jax.random.key(seed), state, outcome, system).walkers.rung)(seeds)


class TestParallelTempering:
    def search(self, **fields):
        return ParallelTempering((RandomBall(),), **{"rungs": 4, "cold": 0.1, "hot": 0.35, "segment": 50, "look": 4, **fields})

    @pytest.mark.slow
    def test_it_finds_the_published_minimum(self):
        potential = LennardJones()
        stop = Stop(evaluations=3_000_000, target=LJ13 + 1e-4)
        result = run(
            self.search(), Relaxation(potential, LBFGS(max_step=0.15)), cluster([0] * 13, potential), Settings(walkers=16), stop
        )
        np.testing.assert_allclose(result.energy, LJ13, atol=1e-6)
        assert result.progress.evaluations <= 3_000_000 + 16 * 1200

    def exchange(self, energies, rungs, seeds):
        """Rungs of one ladder after one `tell` with these energies, with as many seeds, and its temperatures."""
        search = as_leaves(self.search(rungs=len(energies)), np.float32)
        system = cluster([0] * 3, LennardJones())
        state = search.init(system, len(energies), jnp.float32)
        walkers = state.walkers
        walkers = type(walkers)(**{**vars(walkers), "rung": jnp.asarray(rungs, jnp.int32)})
        energy = jnp.asarray(energies, jnp.float32)
        none = jnp.zeros(len(energies), jnp.int32)
        outcome = Outcome(structures_of(system, walkers.positions), energy, none, none, none, none == 0)
        told = rungs_told(jnp.arange(seeds), as_leaves((search, system), np.float32), State(walkers, None), outcome)
        return np.asarray(told), np.asarray(search.temperatures(jnp.arange(len(energies)), jnp.float32))

    def test_a_lower_energy_always_goes_to_the_colder_rung(self):
        rungs, _ = self.exchange([-1.0, -9.0, -2.0, -8.0], [0, 1, 2, 3], 20)
        assert (rungs == [1, 0, 3, 2]).all()

    def test_exchanges_obey_metropolis(self):
        energies = [-3.0, -2.85]
        n = 400
        rungs, kt = self.exchange(energies, [0, 1], n)
        chance = np.exp((1 / kt[0] - 1 / kt[1]) * (energies[0] - energies[1]))
        assert 0.1 < chance < 0.9
        assert abs((rungs[:, 0] == 1).mean() - chance) < 4 * (chance * (1 - chance) / n) ** 0.5

    def test_rungs_stay_a_permutation(self):
        rungs, _ = self.exchange([0.1, -0.1, 0.6, 0.2], [3, 0, 2, 1], 20)
        np.testing.assert_array_equal(np.sort(rungs, axis=1), np.tile(np.arange(4), (20, 1)))
        assert np.ptp(rungs, axis=0).any()  # the seeds differ

    @pytest.mark.parametrize(
        ("fields", "says"),
        [({"hot": 0.05}, "not above"), ({"cold": -1.0}, "positive"), ({"rungs": 1}, "at least 2"), ({"dt": 0.0}, "positive")],
    )
    def test_bad_ladders_are_refused(self, fields, says):
        with pytest.raises(InputError, match=says):
            self.search(**fields)

    def test_walkers_must_make_whole_ladders(self):
        potential = LennardJones()
        with pytest.raises(InputError, match="whole ladders"):
            run(
                self.search(),
                Relaxation(potential, LBFGS()),
                cluster([0] * 7, potential),
                Settings(walkers=6),
                Stop(relaxations=1),
            )
