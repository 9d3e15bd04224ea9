"""Pictures of what an agent thinks: every voxel where it belongs, by its colour."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from thalweg.agents import building
from thalweg.agents.agent import Agent
from thalweg.agents.building import Site
from thalweg.agents.grid import Grid, grid_of
from thalweg.agents.images import Gaussian
from thalweg.agents.pictures import Step, greedy, q_maps
from thalweg.agents.policy import Greedy
from thalweg.leaves import as_leaves
from thalweg.networks.voxel import VoxelNetwork
from thalweg.potentials.pair import LennardJones
from thalweg.system import cluster

FREE = SimpleNamespace(mask=np.ones(1, bool), searched=np.ones(1, bool), numbers=np.ones(1, int), positions=None)
SVG = "{http://www.w3.org/2000/svg}"
SKEW = Grid(
    np.array([0.3, -0.2, 0.1]), np.array([[0.25, 0, 0], [0.125, 0.2, 0], [0, 0, 0.3]]), np.ones(144, bool), (8, 6, 3),
    (True, True, False),
)  # fmt: skip
SPECIES = (6, 29)
#: A carbon atom at the origin of that grid, and nothing placed so far.
SYSTEM = SimpleNamespace(
    mask=np.array([True, True]), searched=np.array([False, True]), numbers=np.array([6, 29]),
    positions=np.stack([np.asarray(SKEW.origin), np.full(3, 99.0)]),
)  # fmt: skip


def panels(text):
    """Of each map: its image as colours (rows, columns, 4), the transform of its pixels (3, 2), and circles (x, y, fill)."""
    found, tree = [], ElementTree.fromstring(text)
    drawn = {f"#{group.get('id')}": group for group in tree.find(f"{SVG}defs").iter(f"{SVG}g")}
    for group in tree.findall(f"{SVG}g"):
        image = group.find(f"{SVG}image")
        pixels = matrix = None
        if image is not None:
            data = base64.b64decode(image.get("href").removeprefix("data:image/png;base64,"))
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)
            matrix = np.array(re.findall(r"-?[\d.]+", image.get("transform")), float).reshape(3, 2)
        inside = [drawn[use.get("href")] for use in group.iter(f"{SVG}use")] + [group]
        circles = [(float(c.get("cx")), float(c.get("cy")), c.get("fill")) for g in inside for c in g.iter(f"{SVG}circle")]
        found.append((pixels, matrix, circles))
    return found


def test_voxels_atoms_and_the_choice_are_in_their_places():
    rng = np.random.default_rng(0)
    maps = np.where(rng.uniform(size=(2, 144)) < 0.2, -np.inf, rng.normal(size=(2, 144)))
    maps[0] = -np.inf  # of the template alone: it has no maps
    voxel = int(maps[1].argmax())
    at = np.asarray(SKEW.position(voxel))
    inside = at - 8 * np.asarray(SKEW.steps)[0]  # the same place by way of the next cell
    step = Step(np.stack([inside]), np.array([1]), maps, voxel, 1)
    ((pixels, matrix, circles),) = panels(q_maps(SimpleNamespace(species=SPECIES), SKEW, SYSTEM, [step]))
    highest = maps[1].reshape(8, 6, 3).max(2).T
    np.testing.assert_array_equal(pixels[..., 3] == 255, np.isfinite(highest))
    # Lighter is higher: in the order of brightness, up to the shades between which nothing is said.
    brightness = pixels[..., :3] @ [0.299, 0.587, 0.114]
    order = np.argsort(highest[np.isfinite(highest)])
    assert (np.diff(brightness[np.isfinite(highest)][order]) >= 0).all()
    row, column = np.unravel_index(np.argmax(np.where(np.isfinite(highest), brightness, -1)), brightness.shape)
    middle = np.array([column + 0.5, row + 0.5, 1]) @ matrix
    # An atom of the template, one that was placed, and a ring of two circles about the chosen voxel, which is where that is.
    assert [c[2] for c in circles] == ["#909090", "#c88033", "none", "none"]
    np.testing.assert_allclose([c[:2] for c in circles[1:]], np.tile(middle, (3, 1)), atol=0.06)
    corner = np.array([0.5, 0.5, 1]) @ matrix  # of the grid, where the template's atom is
    np.testing.assert_allclose(circles[0][:2], corner, atol=0.06)
    # Shape and handedness of the cell: lengths in proportion, up is up.
    steps = np.asarray(SKEW.steps)[:2, :2] * [1, -1]
    np.testing.assert_allclose(matrix[:2] / matrix[0, 0], steps / steps[0, 0], atol=1e-3)


def test_long_builds_stay_small():
    grid = Grid(np.zeros(3), 0.2 * np.eye(3), np.ones(41**2, bool), (41, 41, 1))
    rng = np.random.default_rng(1)
    steps = [Step(rng.uniform(0, 8, (k, 3)), np.zeros(k, int), rng.uniform(-1, 1, (3, 41**2)), k, 0) for k in range(1, 80)]
    text = q_maps(SimpleNamespace(species=(1, 6, 8)), grid, FREE, steps)
    assert len(text) < 300_000
    assert len(panels(text)) == 60
    assert "20 of 79 placements" in text
    assert not panels(q_maps(SimpleNamespace(species=(1,)), grid, FREE, []))


@pytest.mark.slow
def test_a_greedy_build_is_that_of_the_greedy_policy():
    system = cluster([0] * 4, LennardJones())
    with jax.enable_x64(False):
        site = Site.of(system, grid_of(system, 0.4), (0,))
        agent = Agent(VoxelNetwork.random(np.random.default_rng(3), 1, 1, 3, kernel=3), Gaussian(width=0.5), (0,))
        steps = greedy(agent, site)
        known, ground = as_leaves((agent, site), np.float32)
        build, whole = building.built(jax.random.key(0), known, ground, Greedy(), building.empty(ground, 1))
        assert whole.all()
        where = [np.asarray(site.grid.position(s.voxel)) for s in steps]
        np.testing.assert_allclose(np.asarray(build.positions)[0], where, atol=1e-5)
    assert [len(s.positions) for s in steps] == [0, 1, 2, 3]
    assert all(s.maps[s.kind].max() == s.maps[s.kind, s.voxel] for s in steps)
