"""GOFEE and what it is made of: acquisition, samplers, memory, resumption, and that it saves evaluations."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from scipy.special import softmax
from scipy.stats import chisquare, norm
from simple_surrogate import Simple, SimpleSurrogate

from thalweg import prng
from thalweg.config import resolve
from thalweg.generators.judged import Judge, informed
from thalweg.generators.mutation import Displace
from thalweg.generators.placed import RandomPlaced
from thalweg.generators.strained import Strained
from thalweg.ledger import load_state, save_state
from thalweg.potentials.many_body import Gupta
from thalweg.potentials.pair import LennardJones
from thalweg.region import Sphere
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.relax.single import single_points
from thalweg.search import fitting
from thalweg.search.base import Outcome, Points, State
from thalweg.search.gofee import Gofee
from thalweg.search.memory import Memory
from thalweg.search.postprocess import Centre, Postprocessor
from thalweg.search.sampling import KernelSimilarity, KMeans, Population, clusters
from thalweg.search.surrogate_hopping import SurrogateHopping
from thalweg.structure import Structure, stack
from thalweg.surrogates.acquisition import Acquired, AnnealedKappa, ExpectedImprovement, LowerConfidenceBound
from thalweg.system import System, cluster

LJ = cluster([0] * 5, LennardJones())


def searches():
    options = {"n_initial": 4, "candidates": 4, "steps": 20}
    return Gofee((Displace(),), (RandomPlaced(),), SimpleSurrogate(), **options)


def evaluated(x, energy=None, status=CONVERGED, points=True, origin=0):
    """The outcome of one structure, with Lennard-Jones unless an energy is given."""
    structure = LJ.structure(np.asarray(x)[None])
    out = single_points(structure, LennardJones())
    value = np.asarray(out.energy) if energy is None else np.array([energy])
    all_points = Points(structure.positions, structure.cell, value, np.asarray(out.forces)) if points else None
    return Outcome(structure, value, np.ones(1, int), np.array([status]), np.array([origin]), np.ones(1, bool), all_points)


def turns(search, state, count, seed=0):
    """Ask, evaluate and tell `count` times; the positions asked, and the state."""
    asked = []
    for _ in range(count):
        p = search.ask(prng.key(seed), state, LJ)
        asked.append(np.asarray(p.structures.positions[0]))
        state = search.tell(prng.key(seed), state, evaluated(asked[-1], origin=int(p.origin[0])), LJ)
    return asked, state


def test_expected_improvement_is_that_of_a_normal_distribution():
    mean, std, best = np.linspace(-3, 3, 7), np.array([2.0, 1, 0.5, 0.1, 1e-3, 1, 3]), -0.4
    energies = np.linspace(-30, 30, 600_001)[:, None]
    with jax.enable_x64(True):
        got = np.asarray(ExpectedImprovement(0.1)(jnp.asarray(mean), jnp.asarray(std), best, 5))
    gain = best - 0.1 - mean
    np.testing.assert_allclose(-got, gain * norm.cdf(gain / std) + std * norm.pdf(gain / std), rtol=1e-9, atol=1e-15)
    integral = (np.maximum(best - 0.1 - energies, 0) * norm.pdf(energies, mean, std)).sum(0) * 1e-4
    np.testing.assert_allclose(-got[:4], integral[:4], rtol=1e-4, atol=1e-8)


def test_no_uncertainty_leaves_the_certain_improvement():
    got = ExpectedImprovement()(jnp.array([-2.0, 1.0]), jnp.zeros(2), -1.0, 0)
    np.testing.assert_allclose(got, [-1.0, 0.0])


def test_kappa_is_annealed():
    mean, std = jnp.array([1.0]), jnp.array([2.0])
    np.testing.assert_allclose(LowerConfidenceBound(3.0)(mean, std, 0.0, 7), [-5.0])
    falling = AnnealedKappa(first=4.0, last=1.0, over=100.0)
    got = [float(falling(mean, std, 0.0, n)[0]) for n in (0, 50, 100, 1000)]
    np.testing.assert_allclose(got, [1 - 8, 1 - 5, 1 - 2, 1 - 2], atol=1e-6)


@pytest.mark.parametrize("acquisition", [LowerConfidenceBound(), ExpectedImprovement()])
def test_relaxers_may_run_on_an_acquisition_function(acquisition):
    """Its forces are the derivative of its value, lane by lane."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3, 4)) + 8
    posterior = Simple(features, rng.normal(size=3) * 3, np.eye(3) * 0.3, np.array(-2.0))
    potential = Acquired(posterior, acquisition, -4.0, 3)
    x, step = rng.normal(size=(5, 3, 2)), rng.normal(size=(5, 3, 2))
    numbers = np.zeros((5, 1), np.int32)
    with jax.enable_x64(True):
        energy = lambda t: np.asarray(potential.lanes(jnp.asarray(x + t * step), numbers).energy)
        work = -(np.asarray(potential.lanes(jnp.asarray(x), numbers).forces) * step).sum((0, 1))
        np.testing.assert_allclose(work, (energy(1e-5) - energy(-1e-5)) / 2e-5, rtol=1e-6)


def test_clusters_of_an_exact_case():
    """Three clumps of which two are near each other: the best partition into 3 and into 2 are plain."""
    points = np.array([[0.0, 0], [10, 0], [0.2, 0], [12, 0], [10.2, 0.2], [12.1, 0]])
    labels = clusters(points, 3)
    np.testing.assert_array_equal(labels[[0, 2]], labels[0])
    assert labels[1] == labels[4] != labels[3] == labels[5]
    two = clusters(points, 2)
    np.testing.assert_array_equal(two == two[0], [True, False, True, False, False, False])
    energies = np.array([3.0, 1.0, 2.0, 4.0, 0.5, 30.0])
    np.testing.assert_array_equal(KMeans(3)(points, energies), [4, 2, 3])
    # Rows 20 above the lowest are no parents even where they are a cluster of their own.
    np.testing.assert_array_equal(KMeans(3, window=2.0)(points, energies), [4, 1, 2])


def test_groups_and_populations_keep_the_lowest_of_a_kind():
    points = np.array([[0.0], [0.001], [5.0], [5.001], [9.0]])
    energies = np.array([1.0, 0.0, 3.0, 4.0, 2.0])
    for sampler in (KernelSimilarity(), Population()):
        np.testing.assert_array_equal(sampler(points, energies), [1, 4, 2])
    np.testing.assert_array_equal(Population(count=2)(points, energies), [1, 4])


def test_memory_grows_and_keeps_what_failed_apart():
    memory = Memory.empty(2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 2, 3))
    energy = rng.normal(size=150)
    energy[7] = np.nan
    for k in range(0, 150, 3):
        rows = slice(k, k + 3)
        memory = memory.with_points(Points(x[rows], np.zeros((3, 3, 3)), energy[rows], -x[rows]))
    assert len(memory.energy) == 256
    assert (memory.rows, memory.told) == (150, 50)
    assert memory.best == np.nanmin(energy)
    data = memory.dataset(cluster([0, 0], LennardJones()), 100)
    np.testing.assert_array_equal(np.flatnonzero(data.valid), np.delete(np.arange(100), 7))
    np.testing.assert_array_equal(memory.positions[:150], x)


def test_a_resumed_search_asks_the_same_to_the_last_bit():
    search = searches()
    asked, state = turns(search, search.init(LJ, 1, np.float64), 8)
    saved = save_state(state, {})
    onward, _ = turns(search, state, 3)
    fitting.forget()
    loaded, _ = load_state(saved, search.init(LJ, 1, np.float64))
    again, _ = turns(search, loaded, 3)
    np.testing.assert_array_equal(onward, again)
    assert len(np.unique(np.round(asked + onward, 6), axis=0)) == 11  # and never the same thing twice


@contextlib.contextmanager
def compilations():
    """The number of programs compiled within."""
    count, here = [], [True]

    def listen(name, *_, **__):
        if here and name == "/jax/core/compile/backend_compile_duration":
            count.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    here.clear()


def test_nothing_is_compiled_while_the_data_grow():
    search = searches()
    _, state = turns(search, search.init(LJ, 1, np.float64), 7)
    with compilations() as count:
        turns(search, state, 6)
    assert count == []
    with compilations() as count:  # the listener listens
        jax.jit(lambda x: x + 1.2345)(1.0)
    assert len(count) == 1


def test_proposals_avoid_what_is_pending_and_what_failed():
    search = searches()
    _, state = turns(search, search.init(LJ, 1, np.float64), 8)
    first = search.ask(prng.key(0), state, LJ)
    pending = stack([first.structures[0]])
    second = search.ask(prng.key(0), state, LJ, pending)
    assert np.abs(second.structures.positions - first.structures.positions).max() > 1e-3
    failed = evaluated(first.structures.positions[0], np.inf, FAILED)
    failed = eqx.tree_at(lambda o: (o.points.energy, o.structures.positions), failed, (np.array([np.nan]), pending.positions))
    after = search.tell(prng.key(0), state, failed, LJ)
    assert np.isfinite(after.shared.best)
    assert after.shared.best == state.shared.best
    rewound = State(state.walkers, after.shared)  # the same random numbers, and one failure more to remember
    third = search.ask(prng.key(0), rewound, LJ)
    assert np.abs(third.structures.positions - first.structures.positions).max() > 1e-3


def test_a_run_without_progress_ends_and_the_next_knows_nothing_of_it():
    search = eqx.tree_at(lambda s: s.patience, searches(), 3)
    state = search.init(LJ, 2, np.float64)
    x = np.random.default_rng(0).normal(size=(5, 3)) * 1.5
    one = lambda s, k: State(jax.tree.map(lambda a: a[k : k + 1], s.walkers), s.shared)
    told = one(state, 0)
    for _ in range(4):  # one that lowers, three that do not
        told = search.tell(prng.key(0), told, evaluated(x), LJ)
    assert told.walkers.run[0] == 1
    assert told.shared.rows == 0
    assert np.isinf(told.shared.best)
    # What was still being evaluated for the other walker belongs to the old run.
    late = search.tell(prng.key(0), State(one(state, 1).walkers, told.shared), evaluated(x), LJ)
    assert late.shared.rows == 0
    assert late.walkers.run[0] == 1


def test_hops_start_where_the_walker_stands():
    options = {"n_initial": 3, "candidates": 4, "steps": 20, "temperature": 1e-9}
    search = SurrogateHopping((Displace(),), (RandomPlaced(),), SimpleSurrogate(), **options)
    _, state = turns(search, search.init(LJ, 1, np.float64), 8)
    w, memory = state.walkers, state.shared
    # At no temperature a walker stands at the lowest it has met.
    assert w.energy[0] == memory.best == memory.energy[w.row[0]]
    parents = search.parents(np.random.default_rng(0), memory, np.arange(4), w, 0)
    np.testing.assert_array_equal(parents, np.full(4, w.row[0]))
    refused = search.tell(prng.key(1), state, evaluated(memory.positions[0] * 1.01, float(memory.best) + 1), LJ)
    assert refused.walkers.row[0] == w.row[0]
    taken = search.tell(prng.key(1), state, evaluated(memory.positions[0] * 1.01, float(memory.best) - 1), LJ)
    assert taken.walkers.row[0] == int(memory.rows)


class Told(Judge):
    """Says what it was told to say."""

    energies: jax.Array

    def __call__(self, positions):
        return self.energies


def test_atoms_move_as_often_as_their_energies_say():
    """One at a time, with chances softmax(greed x excess); a constant of each species changes nothing."""
    numbers = np.repeat([47, 79], 4)
    system = cluster(numbers, Gupta())
    turn = np.arange(8) * np.pi / 4
    x = 3.7 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    energies = np.array([1.0, 2, 3, 6, -1, 0, 0, 1])
    parents = jax.tree.map(jnp.asarray, system.structure(x[None]))
    keys = jax.random.split(prng.key(0), 4000)

    @jax.jit
    def moved(energies):
        generator = informed((Strained(amplitude=0.05, share=0.0, greed=1.2),), Told(energies))[0]
        new = jax.vmap(lambda key: generator(key, parents, system).positions)(keys)
        return jnp.abs(new - x).max(-1) > 1e-4

    which = np.asarray(moved(energies))
    np.testing.assert_array_equal(which.sum(1), 1)
    excess = energies - np.repeat([3.0, 0.0], 4)
    assert chisquare(which.sum(0), 4000 * softmax(1.2 * excess / excess.std())).pvalue > 1e-3
    np.testing.assert_array_equal(which, moved(energies + np.repeat([64.0, -32.0], 4)))


class Singled(Simple):
    """One of the atoms is said to have a high energy."""

    def atomic_energies(self, structure: Structure):
        return super().atomic_energies(structure) + jnp.where(jnp.arange(structure.n_slots) == 2, 4.0, -1.0)


def test_the_model_says_which_atoms_move():
    search = eqx.tree_at(lambda s: s.moves, searches(), (Strained(greed=30.0, share=0.0),))
    _, state = turns(search, search.init(LJ, 1, np.float64), 2)
    model = fitting.model_of(state.shared, search.surrogate, LJ)
    single = Singled(*(getattr(model, name) for name in ("features", "weights", "inverse", "mean")))
    rows = np.zeros(4, int)
    with jax.enable_x64(True):
        x, _, _ = search._candidates(prng.key(1), np.random.default_rng(0), state.shared, rows, rows, single, LJ)
    moved = np.abs(x - state.shared.positions[0]).max((0, 2)) > 0
    np.testing.assert_array_equal(moved, np.arange(5) == 2)


@jax.enable_x64(True)
def test_centred_as_ase_does_it():
    """Along what is not periodic, in an oblique cell too; where a template or a wall says otherwise nothing moves."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 5, 3))
    cell = np.array([[6.0, 0, 0], [1, 7, 0], [2, 1, 9]])
    for pbc, region in [((False,) * 3, None), ((True, True, False), None), ((False,) * 3, Sphere(9.0, (1.0, 2, 3)))]:
        system = eqx.tree_at(lambda s: s.cell, LJ, cell) if region is None else LJ
        system = System(system.numbers, system.bond_lengths, system.fixed, system.cell, pbc, region=region)
        for moved, before in zip(Centre()(x, system), x, strict=True):
            atoms = Atoms("X5", before, cell=system.cell, pbc=pbc)
            atoms.center(about=None if region is None else (1.0, 2, 3), axis=[k for k in range(3) if not pbc[k]])
            np.testing.assert_allclose(moved, atoms.positions, atol=1e-12)
    narrow = System(LJ.numbers, LJ.bond_lengths, LJ.fixed, LJ.cell, region=Sphere(0.3))
    np.testing.assert_array_equal(Centre()(x, narrow), x)
    held = System(LJ.numbers, LJ.bond_lengths, LJ.fixed, LJ.cell, positions=x[0], template=np.arange(5) < 2)
    np.testing.assert_array_equal(Centre()(x, held), x)


class Aside(Postprocessor):
    """Someone else's step."""

    by: float = 0.5

    def __call__(self, positions, system):
        return positions + self.by


def test_every_proposal_is_postprocessed():
    search = eqx.tree_at(lambda s: s.postprocess, searches(), (Centre(), Aside()), is_leaf=lambda s: s == ())
    asked, _ = turns(search, search.init(LJ, 1, np.float64), 5)  # starts, and what the model chose
    for x in asked:
        np.testing.assert_allclose(x.min(0) + x.max(0), 1.0, atol=1e-6)


def test_a_search_of_ones_own_takes_the_moves_that_suit_the_system(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text(
        "from thalweg.search.gofee import Member\nfrom thalweg.search.model_guided import ModelGuided\n\n\n"
        "class Other(ModelGuided):\n    candidates: int = 3\n    share: float = 0.5\n\n"
        "    def walkers(self, n): ...\n    def followed(self, *all): ...\n    def parents(self, *all): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    other, usual = (resolve({"system": {"formula": "LJ5"}, "search": {"kind": k}}).search for k in ("other:Other", "gofee"))
    assert other.origins == usual.origins
    assert (other.candidates, other.share, usual.candidates) == (3, 0.5, 16)


def test_postprocessing_is_named_in_an_input(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from thalweg.search.postprocess import Postprocessor\n\n\n"
        "class Aside(Postprocessor):\n    by: float = 0.5\n\n"
        "    def __call__(self, positions, system):\n        return positions + self.by\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = {"kind": "gofee", "postprocess": ["centre", {"kind": "mine:Aside", "by": 2.0}]}
    made = resolve({"system": {"formula": "LJ5"}, "search": asked})
    assert [type(p).__name__ for p in made.search.postprocess] == ["Centre", "Aside"]
    assert made.search.postprocess[1].by == 2.0
    plain = resolve({"system": {"formula": "LJ5"}, "search": {"kind": "gofee"}})
    assert plain.search.postprocess == ()
    assert resolve(plain.tables).tables == plain.tables


@pytest.mark.slow
def test_a_model_saves_evaluations():
    """Lennard-Jones 7 from single points: the model comes near the minimum (-16.505384), random structures do not."""
    from thalweg.generators.complementary import ComplementaryEnergy
    from thalweg.generators.crossover import CutAndSplice
    from thalweg.generators.placed import Rattle
    from thalweg.surrogates.local import LocalGaussianProcess

    system: System = cluster([0] * 7, LennardJones())
    moves = (Rattle(), CutAndSplice(), ComplementaryEnergy(), RandomPlaced())
    search = Gofee(moves, (RandomPlaced(),), LocalGaussianProcess(), n_initial=8)

    def lowest(search, budget):
        state = search.init(system, 1, np.float64)
        for _ in range(budget):
            p = search.ask(prng.key(0), state, system)
            out = single_points(p.structures, LennardJones())
            points = Points(p.structures.positions, p.structures.cell, np.asarray(out.energy), np.asarray(out.forces))
            one = np.ones(1, int)
            told = Outcome(p.structures, np.asarray(out.energy), one, one, p.origin, one.astype(bool), points)
            state = search.tell(prng.key(0), state, told, system)
        return float(state.shared.best)

    assert lowest(search, 70) < -16.3
    assert lowest(eqx.tree_at(lambda s: s.n_initial, search, 10**6), 300) > -12.0


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_fixed_atoms_regions_and_planes_are_kept(dimensions):
    """On a periodic slab, and in a plane: candidates of every kind, relaxed on the model, stay where atoms may be."""
    from ase.build import fcc111
    from ase.constraints import FixAtoms

    from thalweg.generators.complementary import ComplementaryEnergy
    from thalweg.generators.crossover import CutAndSplice
    from thalweg.generators.placed import Permute, Rattle
    from thalweg.region import Box, Plane
    from thalweg.structure import from_ase
    from thalweg.surrogates.gaussian_process import GaussianProcess
    from thalweg.system import confined

    added, potential = [47, 47, 78], Gupta(cutoff=6.0)
    if dimensions == 3:
        slab = fcc111("Pt", (2, 2, 2), vacuum=8.0)
        slab.set_constraint(FixAtoms(range(4)))
        slab.pbc = (True, True, False)
        cell, top = slab.cell.array, slab.positions[:, 2].max()
        region = Box(np.array([cell[0], cell[1], [0, 0, 4.0]]), np.array([0, 0, top + 0.5]), periodic=(True, True, False))
        system = confined(from_ase(slab), added, potential, cell, slab.pbc, region)
    else:
        region = Plane(np.diag([7.0, 7.0]), height=1.0)
        system = confined(None, added, potential, np.zeros((3, 3)), region=region)
    moves = (Rattle(), CutAndSplice(), ComplementaryEnergy(), Permute(), RandomPlaced())
    search = Gofee(moves, (RandomPlaced(),), GaussianProcess(displaced=0.05), n_initial=4, candidates=10, steps=20)
    state, home = search.init(system, 1, np.float64), None
    for turn in range(9):
        p = search.ask(prng.key(0), state, system)
        x = np.asarray(p.structures.positions)
        home = x if home is None else home
        np.testing.assert_array_equal(x[:, system.fixed], home[:, system.fixed])
        assert np.asarray(region.contains(x[0][np.asarray(system.searched)])).all(), turn
        out = single_points(p.structures, potential)
        points = Points(x, p.structures.cell, np.asarray(out.energy), np.asarray(out.forces))
        told = Outcome(
            p.structures, np.asarray(out.energy), np.ones(1, int), np.ones(1, int), p.origin, np.ones(1, bool), points
        )
        state = search.tell(prng.key(0), state, told, system)
    assert set(np.asarray(search.origins)) == {"rattle", "cut-and-splice", "complementary", "permutation", "random-placed"}
