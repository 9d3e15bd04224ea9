"""The network that builds molecules: symmetries, padding, derivatives, the edges of what it is asked, and its files."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.transform import Rotation

from thalweg.agents.builder_files import check_builder, load_builder, save_builder
from thalweg.errors import InputError
from thalweg.networks.builder import BuilderNetwork

NET = BuilderNetwork.random(np.random.default_rng(0), width=16, blocks=2, heads=2)
#: Atoms are padded to this many, so that all calls have one shape.
SIZE, QUERIES = 11, 4


def padded(atoms, at=0, fill=0.0):
    """Positions and kinds of one molecule from place `at` on; what is not there stands at `fill`."""
    x, kinds = np.full((SIZE, 3), fill, np.float32), np.full(SIZE, -1, np.int32)
    x[at : at + len(atoms)], kinds[at : at + len(atoms)] = atoms.positions, NET.kinds(atoms.numbers)
    return x, kinds


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiled in half the time
def everything(x, kinds, bag, query):
    """Energies and the slope of their sum, values, and the slope of the sum of these with respect to places and atoms."""
    energies, forces = NET.energies_and_forces(x, kinds)

    def values(x, query):
        return NET.values(NET.features(x, kinds, bag), x, kinds, bag, query)

    out, back = jax.vjp(values, x, query)
    return energies, forces, out, back(out * 0 + 1)


def asked(x, kinds, bag, query):
    return [np.asarray(a) for a in jax.tree.leaves(everything(x, kinds, bag, query))]


BAG = np.array([3, 1, 0, 1], np.float32)


def test_what_it_says_does_not_depend_on_frame_order_or_padding():
    atoms = molecule("CH3CH2OH")
    query = np.random.default_rng(1).normal(size=(QUERIES, 3)).astype(np.float32)
    turn = -Rotation.from_euler("xyz", [0.4, 1.3, -2.0]).as_matrix()  # a mirror, too
    order = np.random.default_rng(2).permutation(len(atoms))
    moved = atoms[order]
    moved.positions = moved.positions @ turn.T + [5, -3, 2]
    (x, kinds), (moved_x, moved_kinds) = padded(atoms), padded(moved, at=2, fill=7.0)
    places = np.stack([query, query @ turn.T + [5, -3, 2]]).astype(np.float32)
    found = asked(np.stack([x, moved_x]), np.stack([kinds, moved_kinds]), np.stack([BAG, BAG]), places)
    energies, forces, values, of_x, of_query = found
    assert abs(energies[0]) > 0.1
    assert np.ptp(values[0], 0).max() > 1e-3  # places differ, or equality would say nothing
    np.testing.assert_allclose(energies[0], energies[1], atol=2e-5)
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    for slope in (forces, of_x):
        np.testing.assert_allclose(slope[0, : len(atoms)][order] @ turn.T, slope[1, 2 : 2 + len(atoms)], atol=5e-5)
        assert not slope[0, len(atoms) :].any()
    np.testing.assert_allclose(of_query[0] @ turn.T, of_query[1], atol=5e-5)
    assert (values[..., 2] == 0).all()  # none left
    assert (values.sum(-1) < 1).all()
    assert (values >= 0).all()


def test_forces_are_slopes_and_the_bag_is_not_in_the_energy():
    x, kinds = padded(molecule("CH3CH2OH"))
    way = np.where(kinds[:, None] >= 0, np.random.default_rng(4).normal(size=x.shape), 0)
    h = 2e-2
    ends = np.stack([x + h * way, x - h * way]).astype(np.float32)
    query = np.zeros((2, QUERIES, 3), np.float32)
    energies = asked(ends, np.stack([kinds] * 2), np.stack([BAG, 2 * BAG]), query)[0]
    middle = asked(np.stack([x] * 2), np.stack([kinds] * 2), np.stack([BAG, 2 * BAG]), query)
    assert middle[0][0] == middle[0][1]
    assert not np.allclose(middle[2][0], middle[2][1], atol=1e-4)  # but it is in the values
    np.testing.assert_allclose((energies[0] - energies[1]) / (2 * h), -(middle[1][0] * way).sum(), rtol=5e-3, atol=5e-3)


def test_nothing_single_atoms_and_places_on_atoms_are_finite():
    nothing, (x, kinds) = padded(molecule("H2O")[:0]), padded(molecule("H2O")[:1])
    on_it = np.broadcast_to(x[0], (QUERIES, 3))
    found = asked(
        np.stack([nothing[0], x]), np.stack([nothing[1], kinds]), np.stack([BAG, 0 * BAG]), np.stack([on_it, on_it])
    )  # fmt: skip
    assert all(np.isfinite(a).all() for a in found)
    assert found[0][0] == 0
    assert (found[2][1] == 0).all()  # a finished structure takes nothing


def test_references_are_those_of_the_energies():
    counts = np.array([[4, 1, 0, 0], [6, 2, 0, 0], [6, 2, 0, 1], [2, 0, 0, 1], [4, 2, 0, 1]])
    kinds = np.array([np.pad(np.repeat(np.arange(4), c), (0, SIZE - c.sum()), constant_values=-1) for c in counts])
    own = np.array([-10.0, -50.0, 0.0, -120.0])
    net = NET.referenced(kinds, counts @ own)
    np.testing.assert_allclose(net.reference, own, atol=1e-4)
    assert net.scale == np.float32(1e-3)
    assert net.n_parameters == NET.n_parameters
    assert 6e4 < BuilderNetwork.random(np.random.default_rng(0)).n_parameters < 7e4


def test_a_file_gives_back_the_network_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "builder.json"
    save_builder(path, NET, {"molecules": 12, "licence": "GPL"})
    net, held = load_builder(path)
    assert jax.tree.structure(net) == jax.tree.structure(NET)
    for a, b in zip(jax.tree.leaves(net), jax.tree.leaves(NET), strict=True):
        np.testing.assert_array_equal(a, b)
    assert held["about"] == {"molecules": 12, "licence": "GPL"}
    check_builder(held, [[6, 1, 1, -1]])
    with pytest.raises(InputError, match=r"trained on H, C, N, O and knows no F, Si; train"):
        check_builder(held, [6, 9, 14])
    with pytest.raises(InputError, match="knows H, C, N, O and no Cl"):
        NET.kinds([17, 6])
    document = json.loads(path.read_text())
    arrays = document["arrays"]
    short = {**arrays, "embedding": {**arrays["embedding"], "float32": arrays["embedding"]["float32"][:-8]}}
    for change, said in (
        ({"thalweg-builder": 2}, "version 2 of the format of builders"),
        ({"arrays": {k: v for k, v in arrays.items() if k != "embedding"}}, "embedding is in one and not in the other"),
        ({"arrays": short}, "damaged builder file"),
        ({"sizes": {**document["sizes"], "width": 32}}, "does not fit this model"),
        ({"sizes": {"windth": 32}}, "damaged builder file"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(InputError, match=said) as error:
            load_builder(path)
        assert "\n" not in str(error.value)
    for text, said in (("{", "is no builder file"), ('{"thalweg-agent": 1}', "is no builder file")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            load_builder(path)
    with pytest.raises(InputError, match="there is no builder"):
        load_builder(tmp_path / "none.json")
