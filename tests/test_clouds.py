"""Pictures of what a builder thinks: places, atoms and choices where they belong, the more valuable the stronger."""

import re
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from scipy.spatial.distance import pdist

from thalweg.agents.assembly import assembled
from thalweg.agents.builder_files import load_builder
from thalweg.agents.clouds import DOTS, Placement, greedy, q_clouds
from thalweg.agents.policy import Greedy
from thalweg.networks.builder import BuilderNetwork
from thalweg.report.data import ReportData
from thalweg.report.sections import agent

SVG = "{http://www.w3.org/2000/svg}"


def scenes(text):
    """Of each panel: its words, dots as (x, y, colour, opacity), discs (x, y, colour), symbols, and rings (x, y)."""
    found = []
    for panel in ElementTree.fromstring(text).findall(f"{SVG}g"):
        scene, dots, discs, rings = panel.find(f"{SVG}g"), [], [], []
        for path in scene.iter(f"{SVG}path"):
            for x, y in re.findall(r"M([\d.]+) ([\d.]+)h", path.get("d")):
                dots.append((float(x), float(y), path.get("stroke"), float(path.get("stroke-opacity"))))
        for circle in scene.iter(f"{SVG}circle"):
            (rings if circle.get("fill") == "none" else discs).append((float(circle.get("cx")), float(circle.get("cy"))))
        words = " ".join(t.text for t in panel.findall(f"{SVG}text"))
        found.append((words, dots, discs, [t.text for t in scene.iter(f"{SVG}text")], rings))
    return found


@pytest.fixture(scope="module")
def network():
    sizes = {"width": 16, "gaussians": 8, "blocks": 1, "heads": 2}
    return jax.tree.map(np.asarray, BuilderNetwork.random(np.random.default_rng(0), (1, 6, 8), **sizes))


def of_molecule(name):
    """Placements of a known molecule in its own order, with what might have been put there: a few places, and where it went."""
    atoms, rng, steps = molecule(name), np.random.default_rng(0), []
    for k in range(len(atoms)):
        places = np.vstack([atoms.positions[k], atoms.positions[k] + rng.normal(size=(3, 3))])
        values, elements = np.array([0.9, 0.5, 0.06, 0.01]), np.full(4, atoms.numbers[k])
        at = atoms.positions[k]
        steps.append(Placement(atoms.positions[:k], atoms.numbers[:k], places, elements, values, at, int(atoms.numbers[k])))
    return atoms, steps


def test_atoms_and_choices_are_where_the_principal_axes_put_them():
    """Against ASE's: along the axes of the two smallest moments of atoms that weigh the same, up to reflections."""
    atoms, steps = of_molecule("CH3CH2OH")
    panels = scenes(q_clouds(steps))
    _, axes = Atoms("H9", atoms.positions).get_moments_of_inertia(vectors=True)
    flat = atoms.positions @ axes[:2].T
    words, dots, discs, symbols, rings = panels[-1]
    assert words == "as it was built"
    assert (dots, rings) == ([], [])
    assert sorted(symbols) == sorted(atoms.get_chemical_symbols())
    gaps, drawn = pdist(flat), pdist(discs)
    np.testing.assert_allclose(np.sort(drawn) / drawn.max(), np.sort(gaps) / gaps.max(), atol=2e-3)
    # Two others and three hydrogens; the first atom has no choice. The ring is on the best place, which is in front.
    assert [p[0].split()[:2] for p in panels[:-1]] == [["2.", "C"], ["3.", "O"], ["4.", "H"], ["6.", "H"], ["9.", "H"]]
    for k, (words, dots, discs, _, rings) in zip((1, 2, 3, 5, 8), panels[:-1], strict=True):
        assert len(discs) == k
        assert len(dots) == 3  # the fourth is worth too little
        assert words.endswith(" 0.90")
        np.testing.assert_allclose(rings, [dots[-1][:2]] * 2, atol=1e-6)
        assert [d[3] for d in dots] == [0.1, 0.5, 0.9]
    bond = np.linalg.norm(np.subtract(panels[0][4][0], panels[0][2][0]))
    np.testing.assert_allclose(bond / drawn.max(), np.linalg.norm(flat[1] - flat[0]) / gaps.max(), atol=2e-3)


def test_long_builds_stay_small():
    rng, steps = np.random.default_rng(1), []
    for k in range(60):
        x, numbers = rng.normal(size=(k, 3)) * 3, np.where(np.arange(k) < 30, 6, 1)
        places, elements = rng.normal(size=(5000, 3)) * 5, rng.choice([6, 7, 8], 5000)
        steps.append(Placement(x, numbers, places, elements, rng.uniform(size=5000), np.zeros(3), 6 if k < 30 else 1))
    text = q_clouds(steps)
    assert len(text) < 300_000
    panels = scenes(text)
    assert len(panels) == 20
    assert all(len(dots) <= DOTS for _, dots, *_ in panels)
    assert "Shown are 3 of 30 hydrogens and 16 of 30 other atoms." in text


@pytest.mark.parametrize("numbers", [[6], [1, 1], [8, 1, 6, 1]])
def test_a_greedy_build_is_that_of_the_greedy_policy(network, numbers):
    steps = greedy(network, np.array(numbers), 2)
    built = assembled(jax.random.key(0), network, np.array(numbers), 2, Greedy())
    order = np.argsort(built.order[0])
    np.testing.assert_allclose([s.point for s in steps], built.positions[0][order], atol=1e-6)
    assert [s.number for s in steps] == np.array(numbers)[order].tolist()
    assert [len(s.numbers) for s in steps] == list(range(len(numbers)))
    ElementTree.fromstring(q_clouds(steps))


def test_values_are_those_of_the_network_without_padding(network):
    """Of the same atoms in the same places, with what is left to place, and of allowed elements alone."""
    step = greedy(network, np.array([6, 8, 6, 1]), 2)[2]
    left = np.array([1, 2, 1]) - [(step.numbers == z).sum() for z in (1, 6, 8)]
    x, kinds, bag = step.positions[None].astype(np.float32), network.kinds(step.numbers)[None], left[None].astype(np.float32)

    @jax.jit
    def every(x, places):
        return network.values(network.features(x, kinds, bag), x, kinds, bag, places)[0]

    told = np.asarray(every(x, step.places[None].astype(np.float32)))
    np.testing.assert_allclose(step.values, told[np.arange(len(told)), network.kinds(step.elements)], atol=1e-3)
    assert set(step.elements) == {z for z, n in zip((6, 8), left[1:], strict=True) if n}
    # No place is on top of an atom.
    assert np.linalg.norm(step.places[:, None] - step.positions, axis=-1).min() > 0.7


def test_the_report_shows_it_as_an_image():
    page = agent(ReportData("C2H6O", "C2H6O", 9, agent_clouds="<svg><script>alert(1)</script></svg>"))
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "alert(1)" not in page
    assert "builder" in page
    assert not agent(ReportData("C2H6O", "C2H6O", 9))


@pytest.mark.slow
def test_the_last_hydrogen_of_methane_goes_to_the_free_corner():
    """Of a tetrahedron: 109.5 degrees from the three others."""
    network, _ = load_builder()
    carbon, *others, last = (step.point for step in greedy(network, np.array([6, 1, 1, 1, 1])))
    bonds = np.array([x - carbon for x in (*others, last)])
    bonds /= np.linalg.norm(bonds, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(bonds[:3] @ bonds[3]))
    np.testing.assert_allclose(angles, 109.47, atol=20)
