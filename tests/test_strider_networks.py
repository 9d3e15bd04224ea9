"""Policies that displace atoms: their graphs, their networks, and what neither may depend on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from thalweg import BinaryLennardJones, InputError, Relaxation, Structure
from thalweg.networks.displacement import ARCHITECTURES
from thalweg.networks.strider import count, in_blocks
from thalweg.networks.weights import parameters, with_parameters
from thalweg.potentials.base import Evaluation
from thalweg.potentials.neighbors import neighbors_for
from thalweg.potentials.radius_graph import radius_graph
from thalweg.relax.atom_features import described
from thalweg.relax.base import FAILED
from thalweg.relax.driver import relax
from thalweg.relax.strider import Strider
from thalweg.space import Space

#: Of neon and argon, which stand for B and A: pairs BB, AB, AA.
MIXTURE = {"species": (10, 18), "cutoffs": (2.0, 1.25, 1.5), "rests": (0.88, 0.8, 1.0)}
CUTOFFS = ((1.5, 1.25), (1.25, 2.0))  # of A and B
POTENTIAL = BinaryLennardJones(minimum_image=True)


def box(n, density=1.2, seed=0):
    """(positions (n, 3), species (n,) 0 or 1, side) of a shaken lattice with vacancies."""
    rng = np.random.default_rng(seed)
    side, edge = (n / density) ** (1 / 3), int(np.ceil(n ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(edge)] * 3), -1).reshape(-1, 3)[rng.permutation(edge**3)[:n]]
    return sites * side / edge + rng.normal(size=(n, 3)) * 0.1 * side / edge, (np.arange(n) < 0.8 * n).astype(int), side


def cubic(side, pbc=True):
    return Space(jnp.eye(3) * side, (True,) * 3, True, nearest=True) if pbc else None


def literal(x, kinds, cutoffs, side):
    """Matrices of all pairs: is there an edge, and its vector."""
    d = x[None] - x[:, None]
    d = d if side is None else d - side * np.round(d / side)
    near = np.linalg.norm(d, axis=-1) < np.asarray(cutoffs)[kinds[:, None], kinds]
    return near & ~np.eye(len(x), dtype=bool) & (kinds >= 0) & (kinds >= 0)[:, None], d


def assert_graph(graph, near, d):
    graph = jax.tree.map(np.asarray, graph)
    slots, n = graph.partner.shape
    assert not graph.overflow
    found, atoms = np.zeros_like(near), np.broadcast_to(np.arange(n), (slots, n))
    found[atoms[graph.real], graph.partner[graph.real]] = True
    np.testing.assert_array_equal(found, near)
    assert graph.real.sum() == near.sum() > 0  # none twice
    np.testing.assert_allclose(graph.vectors[graph.real], d[atoms, graph.partner][graph.real], atol=2e-6)
    np.testing.assert_array_equal(graph.partner.reshape(-1)[graph.reverse][graph.real], atoms[graph.real])
    np.testing.assert_array_equal(atoms.reshape(-1)[graph.reverse][graph.real], graph.partner[graph.real])


@pytest.mark.parametrize(("n", "scale", "cutoffs"), [
    (25, 1.0, CUTOFFS), (100, 1.0, CUTOFFS), (64, 10.866 / (64 / 1.2) ** (1 / 3), ((3.77,),)),
])  # fmt: skip
def test_graph_is_that_of_all_pairs(n, scale, cutoffs):
    x, kinds, side = box(n)
    x, kinds, side = x * scale, np.minimum(kinds, len(cutoffs) - 1), side * scale
    free = kinds.copy()
    free[-3:] = -1  # padding
    for kinds_, side_ in ((kinds, side), (free, None)) if n == 25 else ((kinds, side),):
        space = None if side_ is None else cubic(side_)
        graph = jax.jit(lambda x, space=space, k=kinds_: radius_graph(cutoffs, x, k, 44, space))(jnp.asarray(x))
        assert_graph(graph, *literal(x, kinds_, cutoffs, side_))


def test_graph_from_a_neighbour_list_is_the_same():
    x, kinds, side = box(216)
    potential = BinaryLennardJones(cutoff=2.0)
    space = potential.space(np.eye(3) * side, (True,) * 3)
    near = neighbors_for(potential, x.astype(np.float32), np.where(kinds, 18, 10), space)
    of = jax.jit(lambda x, near: radius_graph(CUTOFFS, x, kinds, 44, cubic(side), near))
    assert_graph(of(jnp.asarray(x), near), *literal(x, kinds, CUTOFFS, side))
    # A list that does not reach far enough is no graph.
    assert of(jnp.asarray(x), eqx.tree_at(lambda a: a.reach, near, jnp.float32(1.9))).overflow


def test_gathers_have_the_derivatives_of_plain_indexing():
    x, kinds, side = box(25)
    graph = jax.jit(lambda x: radius_graph(CUTOFFS, x, kinds, 30, cubic(side)))(x)
    rng = np.random.default_rng(0)
    values, edges = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((25, 2), (30, 25, 2)))
    row = lambda edges: jnp.where(graph.real[..., None], edges.reshape(-1, 2)[graph.reverse], 0).sum(0)
    for ours, plain, at, weights in (
        (graph.partners, lambda v: v[graph.partner], values, edges),
        (graph.received, row, edges, values),
    ):
        of = lambda f, w=weights: jax.jit(jax.value_and_grad(lambda a: (f(a) ** 2 * w).sum()))
        (value, pull), (plain_value, plain_pull) = of(ours)(at), of(plain)(at)
        np.testing.assert_allclose(value, plain_value, rtol=1e-5)
        np.testing.assert_allclose(pull, plain_pull, rtol=1e-5, atol=1e-5)
        assert np.abs(pull).max() > 0.1


def policy(**other):
    """A policy whose parameters have all been moved, so that no part of it is zero."""
    relaxer, rng = Strider(**{**MIXTURE, "slots": 30, **other}), np.random.default_rng(1)
    moved = lambda a: (a + 0.1 * rng.normal(size=a.shape)).astype(np.float32)
    return with_parameters(relaxer, jax.tree.map(moved, parameters(relaxer)))


def moves(relaxer):
    """Displacements (atoms, 3) of one structure in a cell of any orientation, as one program."""

    def of(x, numbers, energies, forces, cell):
        out = Evaluation(energies.sum(), forces, energies, jnp.asarray(True))
        return relaxer.bound(numbers, Space(cell, (True,) * 3, nearest=True), out).means(x, forces)

    return jax.jit(of)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_displacements_must_not_depend_on(architecture):
    n = 25
    x, kinds, side = box(n)
    numbers, cell, rng = np.where(kinds, 18, 10), np.eye(3) * side, np.random.default_rng(2)
    u, f = rng.normal(size=n), 5 * rng.normal(size=(n, 3))
    two = lambda a: np.concatenate([a, a])
    double = np.concatenate([x, x + cell[0]]), two(numbers), two(u), two(f), cell * [[2], [1], [1]]
    padded = lambda a, fill: np.concatenate([a, np.full_like(a, fill)])
    with jax.enable_x64(True):
        # Below half the side: in a larger cell the nearest image of a pair would be another.
        of = moves(policy(architecture=architecture, cutoffs=(1.35, 1.2, 1.3), max_step=0.1))
        straight = np.asarray(of(*double))
        assert np.ptp(straight[:n], axis=0).min() > 1e-3
        assert np.abs(straight).max() <= 0.1
        order = rng.permutation(2 * n)
        np.testing.assert_allclose(of(*(a[order] for a in double[:4]), double[4]), straight[order], atol=1e-10)
        # One of the two copies alone, with as much padding, in its own cell.
        single = np.asarray(of(padded(x, 0.3), padded(numbers, -1), padded(u, 9.0), padded(f, 9.0), cell))
        np.testing.assert_allclose(single[:n], straight[:n], atol=1e-10)
        np.testing.assert_array_equal(single[n:], 0)
        turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix() @ np.diag([1, 1, -1.0])
        turned = np.asarray(of(double[0] @ turn, *double[1:3], double[3] @ turn, double[4] @ turn))
    if ARCHITECTURES[architecture].equivariant:
        np.testing.assert_allclose(turned, straight @ turn, atol=1e-8)
        assert (np.linalg.norm(straight, axis=1) > 0.1 - 1e-9).any()  # cut off by length
    else:
        assert np.abs(turned - straight @ turn).max() > 1e-3


def test_messages_in_blocks_are_those_of_the_whole_table():
    n, (x, kinds, side) = 60, box(60)
    kinds, rng = jnp.where(np.arange(n) % 20 == 3, -1, 1 - kinds), np.random.default_rng(4)
    u, f, p = rng.normal(size=n), rng.normal(size=(n, 3)), policy()
    with jax.enable_x64(True):

        def both(x):
            graph = radius_graph(np.flip(CUTOFFS), x, kinds, 44, cubic(side))
            nodes, edges, _ = described(p, graph, kinds, u, f)
            return in_blocks(13, network, graph, nodes, edges), network.whole(graph, nodes, edges), graph

        network = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), p.network)
        blocks, whole, graph = jax.jit(both)(jnp.asarray(x))
    assert np.ptp(graph.degree[kinds >= 0]) > 5
    assert not graph.overflow
    assert np.abs(whole).max() > 1e-3
    np.testing.assert_allclose(blocks, whole, rtol=1e-10, atol=1e-12)


VARIANTS = {
    "no features": {"nodes": (), "edges": ()},
    "no edges": {"edges": ()},
    "radial": {"nodes": ("type", "energy", "radial", "degree", "force"), "edges": ("distance",)},
    "two rounds": {"layers": 2, "nodes": ("energy",)},
    "three rounds": {"layers": 3, "hidden": 6, "edges": ("stretch",)},
}


def test_features_and_rounds_are_a_matter_of_choice():
    x, kinds, side = box(25)
    rows = jnp.asarray(1 - kinds)  # neon first
    graph = jax.jit(lambda x: radius_graph(np.flip(CUTOFFS), x, rows, 30, cubic(side)))(x)
    for variant in VARIANTS.values():
        for architecture in ARCHITECTURES:
            p = policy(architecture=architecture, **variant)
            out = jax.eval_shape(lambda g, u, f, p=p: p.network(g, *described(p, g, rows, u, f)), graph, x[:, 0], x)
            assert out.shape == (25, 3)
    # Without any feature all atoms are alike, and nothing is left of their displacements but their mean, which is removed.
    blind = moves(policy(**VARIANTS["no features"]))(x, np.where(kinds, 18, 10), x[:, 0], x, np.eye(3) * side)
    np.testing.assert_allclose(blind, 0, atol=1e-6)


def test_sizes_and_untrained_networks():
    embeddings = (5 * 48 + 48) + (4 * 48 + 48) + 2 * (48 * 48 + 48)
    updates, head = 2 * (144 * 48 + 48 + 48 * 48 + 48), (144 * 48 + 48) + 3 * (48 * 48 + 48) + (48 * 3 + 3)
    assert count(Strider(**MIXTURE).network) == 2 * 5 + embeddings + updates + head
    published = {"strider": (48, 1), "gat": (48, 3), "fgn": (32, 2), "mlp": (128, 6), "equivariant": (48, 1)}
    for name, (hidden, layers) in published.items():
        asked = Strider(architecture=name, hidden=hidden, layers=layers)
        assert count(Strider(architecture=name).network) == count(asked.network)
    assert set(published) == set(ARCHITECTURES)
    idle = Strider(architecture="equivariant").network
    assert not any(np.any(stack.layers[-1].weights) for stack in (idle.along_edges, idle.along_force))


@pytest.mark.parametrize(("settings", "message"), [
    ({"architecture": "equivariant", "edges": ("vector",)}, "must not read the components.*distance, stretch"),
    ({"architecture": "gatt"}, 'no architecture "gatt".*gat'),
    ({"edges": ("strech",)}, 'no feature "strech".*stretch'),
    ({"layers": 0}, "0 layers; both must be positive"),
    ({"cutoffs": (1.0, 2.0)}, "2 numbers.*3 pairs"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Strider(**{**MIXTURE, **settings})


def test_unknown_species_are_refused():
    strangers = Structure.create(np.eye(3)[None] * 1.1, np.array([[18, 10, 36]]))
    with pytest.raises(InputError, match=r"knows Ne, Ar and not Kr; give species"):
        relax(strangers, Relaxation(BinaryLennardJones(species=(18, 36)), Strider(**MIXTURE)))


def test_lanes_fail_alone():
    """Crowded beyond the slots and overlapping atoms end as not finite; atoms without neighbours do not mind."""
    good = np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.29, 0.82], [30, 0, 0]], float)  # three neighbours each
    crowded, overlapping, scattered = good.copy(), good.copy(), 40 * good
    crowded[4], overlapping[1] = [0.5, 0.29, -0.82], overlapping[0]
    of = lambda *batch: relax(
        Structure.create(np.stack(batch), np.full((4, 5), 18)),
        Relaxation(BinaryLennardJones(), Strider(**{**MIXTURE, "slots": 3}, n_steps=2), 1e-3, 30), n_lanes=4,
    )  # fmt: skip
    mixed, alone = of(good, crowded, overlapping, scattered), of(good, good, good, good)
    np.testing.assert_array_equal(mixed.status == FAILED, [False, True, True, False])
    np.testing.assert_array_equal(mixed.structures.positions[0], alone.structures.positions[0])
    assert np.isfinite(mixed.structures.positions[3]).all()
    assert mixed.energy[3] == 0
    assert mixed.energy[0] < -5


def test_gradient_along_a_trajectory_is_that_of_finite_differences():
    x, kinds, side = box(25)
    numbers, rng = np.where(kinds, 18, 10), np.random.default_rng(3)
    with jax.enable_x64(True):
        space = POTENTIAL.space(np.eye(3) * side, (True,) * 3)
        double = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)
        relaxer = policy()
        relaxer = with_parameters(relaxer, double(parameters(relaxer)))

        def energy(network, x):
            own = eqx.tree_at(lambda r: r.network, relaxer, network)

            def step(x, _):
                out = POTENTIAL.lanes(x, numbers, space)
                return x + own.bound(numbers, space, out).means(x, out.forces), None

            return POTENTIAL.lanes(jax.lax.scan(step, x, length=2)[0], numbers, space).energy

        grad = jax.jit(jax.value_and_grad(energy, (0, 1)))
        at = (double(relaxer.network), jnp.asarray(x))
        along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), at)
        moved = lambda t: jax.tree.map(lambda a, d: a + t * d, at, along)
        slopes = jax.tree.map(lambda g, d: (g * d).sum(), grad(*at)[1], along)
        for k in range(2):  # the network and the positions, one after the other
            ends = [grad(*(moved(t)[i] if i == k else at[i] for i in range(2)))[0] for t in (1e-6, -1e-6)]
            slope = sum(jax.tree.leaves(slopes[k]))
            assert abs(slope) > 1e-2
            np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-5)
