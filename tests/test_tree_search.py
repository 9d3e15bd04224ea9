"""Tree search against games that can be enumerated, and its evaluator on builds."""

import itertools

import numpy as np
import pytest

from thalweg.agents.tree_search import Evaluator, Node, TreeSearch, Views

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
    game, search, node = Game(0), TreeSearch(exploration=2.0, mixing=0.5, temperature=0.5), Node(())
    actions = search.considered(np.random.default_rng(0), game.look([()]).maps[0], np.ones((1, VOXELS), bool), game)
    node.expand(actions, 0.0)
    expected = game.expected[()][actions.voxels]
    np.testing.assert_allclose(actions.priors, np.exp(expected / 0.5) / np.exp(expected / 0.5).sum(), rtol=1e-6)
    np.testing.assert_allclose(search.scores(node), expected + 2 * actions.priors)
    search._back_up(node, 0, game.best + 0.5, game)  # its reward is .5
    node.visits[0] = 4
    by_hand = expected + 2 * actions.priors * 2
    by_hand[0] = 0.5 * 0.5 + 0.5 * expected[0] + 2 * actions.priors[0] * 2 / 5
    np.testing.assert_allclose(search.scores(node), by_hand)


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
