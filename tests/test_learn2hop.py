"""The published per-component optimiser against its definition, written out number by number."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg import registry
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.networks.weights import Weights, named, parameters, save, with_parameters
from thalweg.relax import component_features
from thalweg.relax.adapters import GradientDescent
from thalweg.relax.component_features import CUTOFF, DECAYS, ETAS, FEATURES, GROUPS, TIMES
from thalweg.relax.learn2hop import Learn2Hop, as_optax
from thalweg.space import space_of

ATOMS, STEPS, LANES = 6, 4, 2
#: Two structures of two species; the last atom is held fixed, so that no force ever acts on it.
NUMBERS = np.array([[79, 47, 79, 47, 47, 47]]).T
LENGTH, ENERGY = 2.0, 3.0


def randomised(relaxer, seed=0):
    """The relaxer with weights that are random everywhere, and an output of its own."""
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(lambda a: rng.normal(size=a.shape) * (0.5 if a.ndim == 2 else 1), parameters(relaxer))
    return with_parameters(relaxer, {**tree, "output": np.array([0.3, 0.7, -0.5])})


def made(without=(), then=GradientDescent(learning_rate=0.25), **values):  # noqa: B008 (immutable)
    values = {"n_steps": STEPS, "n_species": 2, "length": LENGTH, "energy": ENERGY, **values}
    return Learn2Hop(without=without, then=then, **values)


def pushed(seed=1):
    """Positions (atoms, 3, lanes) and forces of some steps, the same whatever the relaxer does."""
    rng = np.random.default_rng(seed)
    forces = rng.normal(size=(STEPS + 1, ATOMS, 3, LANES)) * np.exp(rng.uniform(-8, 8, (STEPS + 1, ATOMS, 1, LANES)))
    forces[:, -1] = 0
    return rng.uniform(-3, 3, (ATOMS, 3, LANES)), forces


@eqx.filter_jit
def _walk(relaxer, x, forces, numbers, space):
    bound = relaxer.bound(numbers, space)

    def one(carry, force):
        x, state = carry
        move, state = bound.step(x, force, jnp.zeros(x.shape[2:], x.dtype), state)
        return (x + move, state), move

    return jax.lax.scan(one, (x, bound.init(x)), forces)[1]


def walk(relaxer, x, forces, numbers=NUMBERS, space=None):
    """Displacements (steps, atoms, 3, lanes) in float64."""
    with jax.enable_x64(True):
        relaxer, x, forces, space = as_leaves((relaxer, x, forces, space), np.float64)
        return np.asarray(_walk(relaxer, x, forces, np.asarray(numbers, np.int32), space))


def written(value):
    """The two numbers that stand for one."""
    if abs(value) < math.exp(-10):
        return -1.0, value * math.exp(10)
    return math.log(abs(value)) / 10, math.copysign(1.0, value)


def radial_of(x, numbers, atom, species, images=((0, 0, 0),)):
    """Radial functions of an atom of one structure, by the neighbours of a species, one by one, each in its nearest image."""
    sums = [0.0] * len(ETAS)
    for other in range(len(x)):
        if other == atom or numbers[other] != species:
            continue
        r = min(math.dist(x[atom], x[other] + np.asarray(shift)) for shift in images) / LENGTH
        if r < 2.5:
            end = 0.5 * (math.cos(math.pi * r / 2.5) + 1)
            sums = [s + math.exp(-eta * r * r) * end for s, eta in zip(sums, ETAS, strict=True)]
    return sums


def quantities(x, forces, atom, axis, step):
    """All quantities of one component of one structure (atoms, 3) by name, after the forces (steps, atoms, 3) so far."""
    gradients = [-f * LENGTH / ENERGY for f in forces[: step + 1, atom, axis]]
    found = {"gradient": gradients[-1], "position": x[atom, axis] / LENGTH}
    for decay in (0.9, 0.99, 0.999, 0.9999):
        m = v = 0.0
        for g in gradients:
            m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * g * g
        found |= {f"mean gradient {decay}": m, f"mean square {decay}": v}
        found |= {f"Adam {decay}": m / math.sqrt(v + 1e-10), f"reciprocal root {decay}": 1 / math.sqrt(v + 1e-10)}
    found["species"] = float(NUMBERS[atom, 0] == 79)
    for species, eta_of in (("light", 47), ("heavy", 79)):
        values = radial_of(x, NUMBERS[:, 0], atom, eta_of)
        found |= {f"radial {eta} {species}": value for eta, value in zip(ETAS, values, strict=True)}
    found["size"] = float(len(x))
    return found | {f"sine {t}": math.sin(step / t) for t in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)}


def order(name):
    """Where a quantity comes among the inputs: by its place in the list, the radial ones of the lighter species first."""
    plain = name.removesuffix(" light").removesuffix(" heavy")
    block = [k for k, f in enumerate(FEATURES) if f.startswith("radial")]
    place = FEATURES.index(plain)
    return (block[-1] + 0.5, place) if name.endswith("heavy") else (place, 0)


def step_of(relaxer, values, off=()):
    """Equation 2 of the quantities of a component, the network written out."""
    inputs = []
    for name in sorted(values, key=order):
        inputs += (0.0, 0.0) if name.startswith(tuple(off)) and off else written(values[name])
    for k, (w, b) in enumerate(zip(relaxer.network.weights, relaxer.network.biases, strict=True)):
        inputs = [sum(w[o][i] * v for i, v in enumerate(inputs)) + b[o] for o in range(len(b))]
        inputs = inputs if k == 2 else [math.tanh(v) for v in inputs]
    alpha, beta, gamma = relaxer.output
    d, m = inputs
    return LENGTH * alpha * d / (1 + math.exp(-(beta * m + gamma)))


def test_it_has_the_published_number_of_parameters():
    """3,522 in two layers of 32: two numbers each of 37 quantities. Alpha, beta and gamma come on top."""
    relaxer = Learn2Hop()
    count = lambda tree: sum(a.size for a in jax.tree.leaves(tree))
    assert count(parameters(relaxer)["network"]) == 3522
    assert count(parameters(relaxer)) == 3525
    assert len(FEATURES) == 37 == len(set(FEATURES))
    assert relaxer.network.n_inputs == 2 * len(FEATURES)
    assert Learn2Hop(n_species=2).network.n_inputs == 2 * (len(FEATURES) + 8)
    assert DECAYS == (0.9, 0.99, 0.999, 0.9999)
    assert TIMES == (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
    assert (ETAS, CUTOFF) == ((0.0009, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.4), 2.5)
    np.testing.assert_array_equal(relaxer.output, np.float32([0.1, 1, -3]))


def test_the_representation_is_that_of_its_definition():
    values = [0.0, 1e-30, -1e-30, 4.4e-5, 4.6e-5, -4.6e-5, 1e-3, -1.0, 2.5, -1e20]
    with jax.enable_x64(True):
        found = np.asarray(component_features.represented(jnp.asarray(values)[:, None]))[:, 0].reshape(-1, 2)
    np.testing.assert_allclose(found, [written(v) for v in values], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found[0], [-1, 0])


def test_steps_are_those_written_out():
    """Every quantity, the order of the inputs, the network and equation 2, over several steps, for two species."""
    relaxer, (x, forces) = randomised(made()), pushed()
    moves = walk(relaxer, x, forces)
    for step, atom, axis, lane in itertools.product((0, STEPS - 1), range(ATOMS - 1), range(3), range(LANES)):
        here = x[..., lane] + moves[:step, :, :, lane].sum(0)
        wanted = step_of(relaxer, quantities(here, forces[..., lane], atom, axis, step))
        np.testing.assert_allclose(moves[step, atom, axis, lane], wanted, rtol=1e-9, atol=1e-12)
    assert np.abs(moves[:STEPS, :-1]).min() > 0
    np.testing.assert_array_equal(moves[:, -1], 0)  # what is fixed stays
    np.testing.assert_allclose(moves[STEPS], 0.25 * forces[STEPS], rtol=1e-12)  # and then comes the last relaxer


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_switched_off_is_not_heard(group):
    """Each group by the names of its quantities: without it the step is that of inputs of zero, and its values do nothing."""
    relaxer, (x, forces) = randomised(made()), pushed()
    step, atom, axis = 2, 1, 0
    values = quantities(x[..., 0], forces[..., 0], atom, axis, step)
    others = {name: value + 0.3 if name.startswith(GROUPS[group]) else value for name, value in values.items()}
    assert others != values

    def moved(values, without):
        rows = [values[name] for name in sorted(values, key=order)]
        blocks = np.split(np.asarray(rows)[:, None, None], [18, 18 + 17])
        return LENGTH * float(relaxer.displacement(*map(jnp.asarray, blocks), without)[0, 0])

    with jax.enable_x64(True):
        np.testing.assert_allclose(moved(values, (group,)), step_of(relaxer, values, GROUPS[group]), rtol=1e-9)
        assert moved(others, (group,)) == moved(values, (group,))
        assert abs(moved(others, ()) - moved(values, ())) > 1e-4


def test_the_groups_are_all_that_is_optional():
    """The number of particles alone is in no group of the paper's Table 3."""
    left = [name for name in FEATURES if not name.startswith(tuple(itertools.chain(*GROUPS.values())))]
    assert left == ["size"]


def test_atoms_that_change_places_move_alike():
    relaxer, (x, forces) = randomised(made()), pushed()
    turn = np.random.default_rng(3).permutation(ATOMS)
    moves = walk(relaxer, x, forces)
    np.testing.assert_allclose(walk(relaxer, x[turn], forces[:, turn], NUMBERS[turn]), moves[:, turn], rtol=1e-9, atol=1e-12)


def test_a_network_of_zeros_does_not_move():
    """Whatever alpha, beta and gamma are; then the last relaxer goes down from where it began."""
    x, forces = pushed()
    moves = walk(with_parameters(made(), {**parameters(made()), "output": np.array([7.0, 2, 3])}), x, forces)
    np.testing.assert_array_equal(moves[:STEPS], 0)
    np.testing.assert_allclose(moves[STEPS], 0.25 * forces[STEPS], rtol=1e-12)


def test_equation_two_and_its_bound():
    """Outputs d and m by biases alone: alpha d sigmoid(beta m + gamma), no longer than `max_step`, in bonds."""
    x, forces = pushed()
    first, second, _ = (np.zeros(2), np.array([0.8, -1.7]), None)
    for last, alpha, wanted in (
        (second, 0.4, 0.4 * 0.8 / (1 + math.exp(1.2 * 1.7 + 0.3))),
        (np.array([-5e3, 0.0]), 0.4, -1.0),
        (first, 0.4, 0.0),
    ):
        relaxer = made()
        biases = (*relaxer.network.biases[:2], last)
        relaxer = eqx.tree_at(lambda r: (r.network.biases, r.output), relaxer, (biases, np.array([alpha, 1.2, -0.3])))
        np.testing.assert_allclose(walk(relaxer, x, forces)[0, :-1], LENGTH * wanted, rtol=1e-12)


def test_each_lane_may_have_weights_of_its_own():
    x, forces = pushed()
    each = [randomised(made(), seed) for seed in range(LANES)]
    both = with_parameters(each[0], jax.tree.map(lambda *a: np.stack(a, -1), *map(parameters, each)))
    moves = walk(both, x, forces)
    for lane, relaxer in enumerate(each):
        np.testing.assert_allclose(moves[..., lane], walk(relaxer, x, forces)[..., lane], rtol=1e-9, atol=1e-12)


def test_it_steps_as_the_same_optimiser_of_optax():
    """On parameters of other shapes too; what needs a structure is off, and no gradient is exactly zero."""
    off = ("species", "radial")
    relaxer, (x, forces) = randomised(made(without=off)), pushed()
    x, forces = x[:-1, :, :1], forces[:STEPS, :-1, :, :1]
    moves = walk(relaxer, np.pad(x, ((0, 0), (0, 0), (0, 1))), np.pad(forces, [(0, 0)] * 3 + [(0, 1)]), NUMBERS[:-1])
    with jax.enable_x64(True):
        optimiser = as_optax(as_leaves(randomised(made()), np.float64), size=ATOMS - 1)
        tree = lambda a: {"head": jnp.asarray(a[:2]), "tail": jnp.asarray(a[2:]).reshape(-1)}
        parts = tree(x[..., 0])
        state = optimiser.init(parts)
        update = jax.jit(optimiser.update)
        for step in range(STEPS):
            updates, state = update(tree(-forces[step, ..., 0]), state, parts)
            parts = optax.apply_updates(parts, updates)
            for name, wanted in tree(moves[step, ..., 0]).items():
                np.testing.assert_allclose(updates[name], wanted, rtol=1e-9, atol=1e-12)


def test_optax_wants_the_parameters_for_their_values():
    optimiser, leaf = as_optax(randomised(made())), np.ones(3, np.float32)
    with pytest.raises(InputError, match="without positions"):
        optimiser.update(leaf, optimiser.init(leaf))
    blind = as_optax(randomised(made(without=("positions",))))
    update = jax.jit(blind.update)
    at = lambda x: np.asarray(update(leaf, blind.init(leaf), x)[0])
    np.testing.assert_array_equal(at(None), at(5 * leaf))


def cell():
    """A tilted cell in which neighbours are reached through every face."""
    return np.array([[9.0, 0, 0], [1, 9.5, 0], [0, -1, 10]])


def test_neighbours_are_found_through_the_faces_of_a_cell():
    x = pushed()[0] * 1.5
    space = space_of(cell(), (True, True, True), 5.0)
    images = [np.asarray(n) @ cell() for n in itertools.product((-1, 0, 1), repeat=3)]
    with jax.enable_x64(True):
        rank = component_features.ranks(jnp.asarray(NUMBERS), 2)
        found = jax.jit(component_features.radial, static_argnums=2)(x, rank, 2, as_leaves(space, np.float64), LENGTH)
    np.testing.assert_array_equal(rank, (NUMBERS == 79).astype(int))
    alone = 0
    for atom, lane in itertools.product(range(ATOMS), range(LANES)):
        wanted = [radial_of(x[..., lane], NUMBERS[:, 0], atom, species, images) for species in (47, 79)]
        np.testing.assert_allclose(np.asarray(found)[:, atom, lane], np.concatenate(wanted), rtol=1e-9, atol=1e-12)
        alone += sum(radial_of(x[..., lane], NUMBERS[:, 0], atom, 47)) < sum(wanted[0]) - 0.01
    assert alone >= 3  # the faces matter here


def test_a_cell_may_be_looked_at_from_anywhere():
    """Positions are masked in a cell: moving everything, and atoms by whole cell vectors, changes nothing."""
    relaxer, (x, forces) = randomised(made()), pushed()
    space = space_of(cell(), (True, True, True), 5.0)
    elsewhere = x + 0.7
    elsewhere[2] += cell()[1][:, None]
    moves = walk(relaxer, x, forces, space=space)
    np.testing.assert_allclose(walk(relaxer, elsewhere, forces, space=space), moves, rtol=1e-8, atol=1e-11)
    free = walk(relaxer, x, forces)
    assert np.abs(walk(relaxer, x + 0.7, forces) - free).max() > 1e-3  # a cluster's positions are read


def test_rows_of_a_moving_cell_and_padding_are_no_atoms():
    """Three more rows for the cell, and a slot without an atom: neither counts as a particle or a neighbour."""
    relaxer, (x, forces) = randomised(made()), pushed()
    moves = walk(relaxer, x, forces)
    more = np.concatenate([x, np.random.default_rng(5).normal(size=(4, 3, LANES))])
    pull = np.concatenate([forces, np.zeros((STEPS + 1, 4, 3, LANES))], 1)
    padded = walk(relaxer, more, pull, np.concatenate([NUMBERS, [[-1]]]))
    np.testing.assert_allclose(padded[:, :ATOMS], moves, rtol=1e-9, atol=1e-12)


def test_species_beyond_those_that_weights_tell_apart_count_as_the_last():
    numbers = jnp.asarray([[14, 1], [8, 1], [-1, 6], [20, 8], [8, -1]])
    np.testing.assert_array_equal(component_features.ranks(numbers, 3), [[1, 0], [0, 0], [-1, 1], [2, 2], [0, -1]])
    np.testing.assert_array_equal(component_features.ranks(numbers, 2), [[1, 0], [0, 0], [-1, 1], [1, 1], [0, -1]])
    np.testing.assert_array_equal(component_features.ranks(numbers, 1), [[0, 0], [0, 0], [-1, 0], [0, 0], [0, -1]])


def test_weights_files_come_back_and_others_are_refused(tmp_path):
    relaxer = randomised(Learn2Hop())
    path = str(tmp_path / "own.json")
    save(path, Weights("Learn2Hop", FEATURES, named(parameters(relaxer))))
    again = Learn2Hop(path)
    for a, b in zip(jax.tree.leaves(parameters(again)), jax.tree.leaves(parameters(relaxer)), strict=True):
        np.testing.assert_array_equal(a, np.float32(b))
    with pytest.raises(InputError, match="does not fit"):
        Learn2Hop(path, n_species=2)
    save(path, Weights("Learn2Hop", FEATURES, named(parameters(relaxer)), species=(47,)))
    Learn2Hop(path).check([47, 47, -1], (False,) * 3)
    with pytest.raises(InputError, match="know no Au"):
        Learn2Hop(path).check([79], (False,) * 3)
    with pytest.raises(InputError, match="trained on free clusters"):
        Learn2Hop(path).check([47], (True,) * 3)
    with pytest.raises(InputError, match="n_species = 2"):
        Learn2Hop().check([79, 47, 47], (False,) * 3)
    Learn2Hop(path, transfer=True).check([79, 47], (True,) * 3)
    save(path, Weights("LearnedAnnealing", FEATURES, {}))
    with pytest.raises(InputError, match=r"not of .Learn2Hop"):
        Learn2Hop(path)
    with pytest.raises(InputError, match='Did you mean "gradients"'):
        Learn2Hop(without=("gradient",))
    for name in ("n_steps", "length", "max_step", "n_species"):
        with pytest.raises(InputError, match=name):
            Learn2Hop(**{name: 0})
    assert registry.find("relaxer", "learn2hop") is Learn2Hop
