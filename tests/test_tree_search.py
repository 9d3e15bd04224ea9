"""Tree search against games that can be enumerated, and its evaluator on builds."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import maximum_filter1d

from thalweg.agents import building, lookahead
from thalweg.agents.agent import Agent
from thalweg.agents.building import Site
from thalweg.agents.grid import Grid, grid_of
from thalweg.agents.images import Gaussian
from thalweg.agents.lookahead import Lookahead, built_ahead
from thalweg.agents.tree_search import Evaluator, Node, TreeSearch, Views, backed_up, scores
from thalweg.errors import InputError
from thalweg.leaves import as_leaves
from thalweg.networks.voxel import VoxelNetwork
from thalweg.region import Plane
from thalweg.surrogates.base import Dataset, Posterior
from thalweg.surrogates.gaussian_process import GaussianProcess
from thalweg.surrogates.local import LocalGaussianProcess
from thalweg.system import System

VOXELS = 4
DEPTH = 3


class Game(Evaluator):
    """DEPTH different ones of VOXELS voxels in order, one energy for every full order; an agent that is wrong on purpose."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.leaves = {way: float(rng.normal()) for way in itertools.permutations(range(VOXELS), DEPTH)}
        self.best = min(self.leaves.values())
        self.guess = {way: float(rng.normal()) for n in range(DEPTH) for way in itertools.permutations(range(VOXELS), n)}
        self.expected = {}
        for way in self.guess:
            # An agent that knows nothing, and expects most of the first placement from which the worst follows.
            below = [max(e for leaf, e in self.leaves.items() if leaf[0] == v) if not way else 0 for v in range(VOXELS)]
            expected = 0.1 * rng.normal(size=VOXELS) + 0.3 * (np.array(below) == max(below)) * (not way)
            self.expected[way] = np.where(np.isin(np.arange(VOXELS), way), -np.inf, expected)
        self.asked: list[tuple[int, ...]] = []

    def energies(self, states):
        return np.array([self.leaves[s] if len(s) == DEPTH else 5 + self.guess[s] for s in states])

    def look(self, states):
        self.asked += states
        maps = np.stack([self.expected.get(s, np.full(VOXELS, -np.inf)) for s in states])[:, None]
        return Views(self.energies(states), maps, np.isfinite(maps), np.array([len(s) == DEPTH for s in states]))

    def reward(self, energy):
        return float(np.clip(1 - (energy - self.best), -1, 1))

    def place(self, state, kind, voxel):
        assert kind == 0
        assert voxel not in state
        return (*state, voxel)


def played(search: TreeSearch, game: Game, seed: int = 0) -> tuple[int, ...]:
    """The order that a build with this search comes to."""
    rng, node = np.random.default_rng(seed), Node(())
    while (action := search.choose(rng, node, game)) is not None:
        node = search.follow(node, *action, game)
    assert node.done
    return node.state


@pytest.mark.parametrize("together", [1, 6])
def test_a_search_finds_the_best_of_all_orders_where_the_agent_alone_is_wrong(together):
    """Of six games with 24 orders each, an agent that expects most of the worst; no state is looked at twice."""
    found, alone = 0, 0
    for seed in range(6):
        game = Game(seed)
        best = min(game.leaves, key=lambda way: game.leaves[way])
        alone += played(TreeSearch(iterations=0), Game(seed)) == best
        found += played(TreeSearch(iterations=150, exploration=8.0, mixing=1.0, together=together), game) == best
        assert len(game.asked) == len(set(game.asked))
    assert alone <= 1
    assert found >= 5


def test_energies_go_up_the_tree_as_minima():
    """Every action holds the lowest energy of all states that were evaluated below it."""
    game, root = Game(3), Node(())
    TreeSearch(iterations=30, together=4).choose(np.random.default_rng(0), root, game)
    energy = dict(zip(game.asked, game.energies(game.asked), strict=True))
    checked, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        for k, child in enumerate(node.children):
            if child is None:
                assert node.visits[k] == 0
                assert node.lowest[k] == np.inf
                continue
            below = [e for way, e in energy.items() if way[: len(child.state)] == child.state]
            assert node.lowest[k] == min(below)
            assert node.visits[k] >= len(below)
            checked += len(below) > 1
            waiting.append(child)
    assert checked > 3
    assert root.visits.sum() == 30


def test_scores_by_hand():
    """An action that was visited has half its reward; another what the agent expects, and its prior says how curious it is."""
    game, search, node = Game(0), TreeSearch(temperature=0.5), Node(())
    actions = search.considered(np.random.default_rng(0), game.look([()]).maps[0], np.ones((1, VOXELS), bool), game)
    node.expand(actions, 0.0)
    expected = game.expected[()][actions.voxels]
    np.testing.assert_allclose(actions.priors, np.exp(expected / 0.5) / np.exp(expected / 0.5).sum(), rtol=1e-6)
    np.testing.assert_allclose(scores(node, 2.0), expected + 2 * actions.priors)
    backed_up(node, 0, game.best + 0.5, 0.5, game)  # its reward is .5
    node.visits[0] = 4
    by_hand = expected + 2 * actions.priors * 2
    by_hand[0] = 0.5 * 0.5 + 0.5 * expected[0] + 2 * actions.priors[0] * 2 / 5
    np.testing.assert_allclose(scores(node, 2.0), by_hand)


class Line(Game):
    """Voxels on a line, 0.1 Å apart."""

    def squared_distances(self, voxel, voxels):
        return (0.1 * (np.arange(voxels) - voxel)) ** 2


def test_considered_are_maxima_and_voxels_near_them():
    """Two hills of one species and one of another: their tops, then what Gaussians about them draw, none of it forbidden."""
    x = 0.1 * np.arange(40)
    q = np.stack([np.exp(-((x - 1) ** 2)) * 0.5 + 0.3 * np.exp(-((x - 3) ** 2) / 0.1), -0.3 - (x - 2) ** 2])
    q[0, 12:15] = -np.inf
    peaks = (q > np.roll(q, 1, 1)) & (q >= np.roll(q, -1, 1))
    # 1.1 and 1.5 Å are maxima too (of the edges), the first of them within 2 x .1 Å of the top at 1.0 Å.
    peaks[0, [11, 15]] = True
    actions = TreeSearch(actions=8, spread=0.1).considered(np.random.default_rng(0), q, peaks, Line(0))
    assert list(zip(actions.kinds[:4], actions.voxels[:4], strict=True)) == [(0, 10), (0, 15), (0, 30), (1, 20)]
    assert len(actions.kinds) == 8 == len({*zip(actions.kinds, actions.voxels, strict=True)})
    for kind, voxel in zip(actions.kinds[4:], actions.voxels[4:], strict=True):
        assert min(abs(x[voxel] - x[top]) for top in ([10, 15, 30], [20])[kind]) < 0.301
    assert np.isfinite(actions.values).all()
    assert (actions.priors > 0).all()
    assert actions.priors.sum() == pytest.approx(1)


def test_a_build_that_cannot_go_on_is_hopeless():
    """It is not chosen though it looks best, and a state in which nothing is allowed has no choice at all."""
    game = Game(1)
    trap = int(game.expected[()].argmax())
    game.expected = {way: np.full(VOXELS, -np.inf) if way[:1] == (trap,) else q for way, q in game.expected.items()}
    assert TreeSearch(iterations=0).choose(np.random.default_rng(0), Node(()), game) == (0, trap)
    assert played(TreeSearch(iterations=50), game)[0] != trap
    assert TreeSearch().choose(np.random.default_rng(0), Node((trap,)), game) is None
    nowhere = Game(1)
    nowhere.expected = {way: q for way, q in nowhere.expected.items() if len(way) < 2}
    assert TreeSearch(iterations=50).choose(np.random.default_rng(0), Node(()), nowhere) is None


def test_settings_that_mean_nothing_are_refused():
    """In one line, with what is possible."""
    with pytest.raises(InputError, match="'far-off'; it is one of far-away, uniform, greedy"):
        TreeSearch(completion="far-off")
    with pytest.raises(InputError, match="mixing of the tree is 2; it is a share"):
        TreeSearch(mixing=2.0)


# --- builds


class Pairs(Posterior):
    """Morse pairs of the atoms that are there: a posterior whose energies are quickly told by hand."""

    lengths: np.ndarray  # of numbers up to 9

    @property
    def reach(self):
        return 10.0

    def lanes(self, positions, numbers, space=None, neighbors=None, virial=False):
        raise NotImplementedError

    def mean_std(self, positions, numbers, space=None):
        d = positions[:, None] - positions[None]
        there = (numbers[:, None] >= 0) & (numbers[None] >= 0) & ~jnp.eye(len(numbers), dtype=bool)[..., None]
        r = jnp.sqrt(jnp.where(there, (d * d).sum(2), 1.0))
        best = (self.lengths[numbers][:, None] + self.lengths[numbers][None]) / 2
        each = (1 - jnp.exp(-2 * (r - best))) ** 2 - 1
        energy = jnp.where(there, each, 0).sum((0, 1)) / 2
        return energy, jnp.zeros_like(energy)


LENGTHS = {6: 1.5, 8: 1.3}
PAIRS = Pairs(np.array([LENGTHS.get(z, 1.0) for z in range(10)]))


def by_hand(x, numbers) -> float:
    """The same sum over pairs."""
    total = 0.0
    for i, j in itertools.combinations(range(len(x)), 2):
        best = (LENGTHS[numbers[i]] + LENGTHS[numbers[j]]) / 2
        total += (1 - np.exp(-2 * (np.linalg.norm(x[i] - x[j]) - best))) ** 2 - 1
    return total


def site_of(numbers) -> Site:
    """A plane of 15 x 15 voxels for carbon and oxygen."""
    n = len(numbers)
    plane = Plane(np.diag([4.2, 4.2]), 0.0, np.array([-2.1, -2.1]))
    bonds = np.array([LENGTHS[z] for z in numbers])
    system = System(np.array(numbers), bonds, np.zeros(n, bool), np.zeros((3, 3)), region=plane, limits=(0.6, 1.4))
    with jax.enable_x64(False):
        return Site.of(system, grid_of(system, 0.3), (6, 8))


def agent_of(seed: int) -> Agent:
    network = VoxelNetwork.random(np.random.default_rng(seed), 2, 2, kernel=3, dilation=2, hidden=3)
    return Agent(network, Gaussian(0.3), (6, 8))


_empty = eqx.filter_jit(building.empty)


def begun(site: Site):
    with jax.enable_x64(False):
        return _empty(as_leaves(site, np.float32), 1)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("uniform", "greedy")]


@pytest.mark.parametrize("completion", ["far-away", *SLOW])
def test_builds_are_looked_ahead(completion):
    """They are whole, keep the limits, cost no compilation after the first, and are good where the agent alone is not."""
    numbers = [6, 6, 8]
    site, search = site_of(numbers), TreeSearch(iterations=20, completion=completion, together=4)
    bonds = np.array([LENGTHS[z] for z in numbers])
    ahead, greedy = [], []
    for seed in range(3):
        evaluator = Lookahead(agent_of(seed), site, PAIRS, search, -3.0, 3.0)
        build, whole = built_ahead(np.random.default_rng(seed), search, evaluator, begun(site))
        assert whole
        x, order = np.asarray(build.positions[0], float), np.asarray(build.order[0])
        assert sorted(order) == [0, 1, 2]
        ratio = np.linalg.norm(x[:, None] - x[None], axis=-1) / ((bonds[:, None] + bonds) / 2)
        assert ratio[~np.eye(3, dtype=bool)].min() >= 0.6 - 1e-5
        assert np.sort(ratio, 1)[:, 1].max() <= 1.4 + 1e-5
        alone, _ = built_ahead(np.random.default_rng(seed), TreeSearch(iterations=0, together=4), evaluator, begun(site))
        ahead.append(by_hand(x, numbers))
        greedy.append(by_hand(np.asarray(alone.positions[0], float), numbers))
        if seed == 0:
            compiled = [f._cached._cache_size() for f in (lookahead._placed, lookahead._valued, lookahead._mean)]
    assert [f._cached._cache_size() for f in (lookahead._placed, lookahead._valued, lookahead._mean)] == compiled
    # Three bonds are -3 at best. An untrained agent puts atoms anywhere.
    assert max(ahead) < -2
    assert max(greedy) > 0


def test_energies_of_unfinished_builds_are_those_of_the_atoms_there():
    """After any placements, in a batch with others that have more or fewer of them."""
    numbers, site, search = [6, 6, 8], site_of([6, 6, 8]), TreeSearch(together=4)
    evaluator = Lookahead(agent_of(0), site, PAIRS, search, -3.0, 3.0)
    node, waiting, checked = evaluator.root(begun(site)), [], 0
    search.choose(np.random.default_rng(0), node, evaluator)
    waiting.append(node)
    while waiting:
        node = waiting.pop()
        waiting += [child for child in node.children if child is not None and child.actions is not None]
        build = node.state.after[0]
        there = np.flatnonzero(build.there)
        assert node.energy == pytest.approx(by_hand(build.positions[there], [numbers[k] for k in there]), abs=1e-5)
        assert node.done == (len(there) == 3)
        checked += 1
    assert checked > 20


def test_peaks_are_those_of_a_maximum_filter():
    """With one axis periodic and the other not, -inf where nothing is allowed."""
    q = np.random.default_rng(0).normal(size=(2, 2, 12, 9, 1)).astype(np.float32)
    q[:, :, 3:5, 2:6] = -np.inf
    grid = Grid(np.zeros(3), np.eye(3), np.ones(108, bool), (12, 9, 1), (True, False, False))
    filtered = q
    for axis, mode in ((2, "wrap"), (3, "nearest")):
        filtered = maximum_filter1d(filtered, 3, axis, mode=mode)
    peaks = lookahead.peaks_of(jnp.asarray(q.reshape(2, 2, -1)), grid)
    np.testing.assert_array_equal(peaks, ((q == filtered) & np.isfinite(q)).reshape(2, 2, -1))


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", [GaussianProcess(), LocalGaussianProcess(inducing=20)])
def test_hidden_atoms_are_as_good_as_far_away(surrogate):
    """On fitted models: atoms that are not there yet have the energy of atoms far from all others, or the mean of all atoms."""
    rng = np.random.default_rng(0)
    numbers = np.array([6, 6, 8])
    corners = np.array([[0, 0, 0], [1.4, 0, 0], [0.7, 1.2, 0]])
    x = corners + 0.1 * rng.normal(size=(20, 3, 3))
    energy = np.array([by_hand(each, numbers) for each in x])
    data = Dataset(x, np.zeros((20, 3, 3)), energy, np.full(x.shape, np.nan), np.ones(20, bool), numbers)
    posterior = surrogate.fit(None, data)
    with jax.enable_x64(True):
        model = as_leaves(posterior, np.float64)
        hidden = np.where(np.arange(3) < 2, numbers, -1)[:, None]
        got = float(lookahead._mean(model, corners[..., None], hidden, numbers, None)[0])
        if isinstance(surrogate, GaussianProcess):
            away = corners + np.array([[0, 0, 0], [0, 0, 0], [1e3, 0, 0]])
            assert got == pytest.approx(float(model.mean_std(away[..., None], numbers[:, None])[0][0]), abs=1e-8)
        else:
            pair = model.mean_std(corners[:2, :, None], numbers[:2, None])[0][0]
            assert got == pytest.approx(float(pair + model.mean), abs=1e-8)
