"""Monte Carlo tree search while a structure is built: a look at what may follow a placement before it is made.

The tree is held on the host; networks and energies are asked through an `Evaluator`, several states at a time.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from thalweg.errors import InputError

#: What becomes of an unfinished build.
COMPLETIONS = ("far-away", "uniform", "greedy")


class Views(NamedTuple):
    """What an evaluator says of states."""

    #: What these builds become in the end, or a guess at it (states,); inf or NaN where it cannot be.
    energies: np.ndarray
    #: What the agent expects (states, species, voxels), in [-1, 1]; -inf where a placement is not allowed.
    maps: np.ndarray
    #: Where the maps are not lower than at any voxel beside it.
    peaks: np.ndarray
    #: Whether nothing is left to be placed (states,).
    done: np.ndarray


class Evaluator(abc.ABC):
    """What a tree search asks about builds. States are whatever `place` makes of them."""

    @abc.abstractmethod
    def look(self, states: list) -> Views:
        """Energies and maps of states that were not looked at before, at most `TreeSearch.together` of them."""

    @abc.abstractmethod
    def reward(self, energy: float) -> float:
        """An energy on the scale of the agent, between 1 for the best and -1, which is also that of inf."""

    @abc.abstractmethod
    def place(self, state, kind: int, voxel: int) -> Any:
        """The state after an atom of `kind` was put on `voxel`."""

    def squared_distances(self, voxel: int, voxels: int) -> np.ndarray:
        """Squared distances (voxels,) in Å^2 from one voxel to all; without an order of voxels none is near another."""
        return np.where(np.arange(voxels) == voxel, 0.0, np.inf)


class Actions(NamedTuple):
    """The placements that a search considers in one state, each array (actions,)."""

    kinds: np.ndarray
    voxels: np.ndarray
    values: np.ndarray  # what the agent expects of each
    priors: np.ndarray  # of sum 1


NOTHING = Actions(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))


class Node:
    """A state and what was found below it. `actions` is None until the state was looked at."""

    __slots__ = ("actions", "children", "done", "energy", "lowest", "state", "values", "visits")

    def __init__(self, state):
        self.state = state
        self.done = False
        self.actions: Actions | None = None
        self.energy = np.inf  # of its own completion
        self.children: list[Node | None] = []

    def expand(self, actions: Actions, energy: float, done: bool = False) -> None:
        """Take what the evaluator said of the state."""
        self.actions, self.done = actions, done
        self.energy = float(energy) if np.isfinite(energy) else np.inf
        self.visits = np.zeros(len(actions.kinds), int)
        self.lowest = np.full(len(actions.kinds), np.inf)  # the lowest energy seen below each action
        self.values = np.array(actions.values)  # what the search thinks of each
        self.children = [None] * len(actions.kinds)

    @property
    def stuck(self) -> bool:
        """Whether nothing that was considered here leads to an end."""
        return self.actions is not None and not self.done and not (self.values > -np.inf).any()

    def child(self, action: int, evaluator: Evaluator) -> Node:
        """The node after one of the actions; the one that is there, or a new one."""
        found = self.children[action]
        if found is None:
            assert self.actions is not None
            kind, voxel = int(self.actions.kinds[action]), int(self.actions.voxels[action])
            found = self.children[action] = Node(evaluator.place(self.state, kind, voxel))
        return found


#: Actions taken on the way from the root to a leaf.
Path = list[tuple[Node, int]]


class TreeSearch(eqx.Module):
    """Looks ahead before every placement: `iterations` states of the tree that an agent's maps span are evaluated.

    The rule of D. Silver et al., Nature 550, 354 (2017), doi:10.1038/nature24270, for a builder with one player: down the tree
    goes the action of the largest value + `exploration` P sqrt(max(1, sum N)) / (1 + N). The value of an action that was
    visited is `mixing` x reward(lowest energy below it) + (1 - `mixing`) x what the agent expects, of another what the agent
    expects alone; energies go up the tree as minima, as the best that an action leads to is what is sought, not its mean.

    Considered are at most `actions` placements of a state: the highest local maxima of the agent's maps, those of one species
    at least 2 `spread` (Å) apart, and voxels drawn from Gaussians of width `spread` about these. Priors P are the sums of these
    Gaussians, whose weights are exp(value / `temperature`).

    `completion` says what the energy of an unfinished build is ("far-away": its atoms as if the others were far from them;
    "uniform": others at random places; "greedy": where the agent would put them). Used from `first_episode` on: an agent that
    knows nothing has nothing to look at. `together` states are evaluated at a time.
    """

    iterations: int = eqx.field(static=True, default=50)
    actions: int = eqx.field(static=True, default=10)
    exploration: float = 1.0
    mixing: float = 0.5
    spread: float = 0.3
    temperature: float = 0.25
    completion: str = eqx.field(static=True, default="far-away")
    first_episode: int = eqx.field(static=True, default=100)
    together: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        if self.completion not in COMPLETIONS:
            raise InputError(f"completion of the tree is {self.completion!r}; it is one of {', '.join(COMPLETIONS)}")
        for name, least in (("iterations", 0), ("actions", 1), ("together", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} of the tree is {getattr(self, name)}; it must be at least {least}")
        for name in ("spread", "temperature"):
            if isinstance(getattr(self, name), int | float) and not getattr(self, name) > 0:
                raise InputError(f"{name} of the tree is {getattr(self, name):g}; it must be positive")
        if isinstance(self.mixing, int | float) and not 0 <= self.mixing <= 1:
            raise InputError(f"mixing of the tree is {self.mixing:g}; it is a share, between 0 and 1")

    def choose(self, rng: np.random.Generator, node: Node, evaluator: Evaluator) -> tuple[int, int] | None:
        """(kind, voxel) of the placement to make; None where no placement is allowed, or all that were considered lead nowhere.

        The tree below `node` grows by `iterations` evaluations and visits; `follow` keeps what belongs to the choice.
        """
        if node.actions is None:
            self.look(rng, [node], evaluator)
        actions = node.actions
        assert actions is not None
        if not len(actions.kinds):
            return None
        left = self.iterations
        while left > 0:
            left -= self._round(rng, node, evaluator, min(left, self.together))
        if node.stuck:
            return None
        best = max(range(len(actions.kinds)), key=lambda k: (node.values[k], node.visits[k]))
        return int(actions.kinds[best]), int(actions.voxels[best])

    def follow(self, node: Node, kind: int, voxel: int, evaluator: Evaluator) -> Node:
        """The root for the next placement, after this one was made: with its part of the tree if it was considered."""
        if node.actions is not None:
            for k in np.flatnonzero((node.actions.kinds == kind) & (node.actions.voxels == voxel)):
                return node.child(int(k), evaluator)
        return Node(evaluator.place(node.state, kind, voxel))

    def considered(self, rng: np.random.Generator, values, peaks, evaluator: Evaluator) -> Actions:
        """The actions of a state from its maps and where they peak, both (species, voxels)."""
        values = np.asarray(values, float)
        allowed = np.isfinite(values)
        if not allowed.any():
            return NOTHING
        tops, near = self._maxima(rng, values, np.asarray(peaks) & allowed, evaluator)
        height = np.array([values[kind, voxel] for kind, voxel in tops])
        weights = np.exp((height - height.max()) / self.temperature)
        density = np.zeros(values.shape)
        for (kind, _), weight, d2 in zip(tops, weights, near, strict=True):
            # Beyond three widths there is nothing to be drawn.
            density[kind] += weight * np.where(d2 <= 9 * self.spread**2, np.exp(-d2 / (2 * self.spread**2)), 0)
        density = np.where(allowed, density, 0)
        flat = [kind * values.shape[1] + voxel for kind, voxel in tops]
        rest = density.copy().ravel()
        rest[flat] = 0
        count = min(self.actions - len(flat), int((rest > 0).sum()))
        if count > 0:
            flat += rng.choice(rest.size, count, replace=False, p=rest / rest.sum()).tolist()
        chosen = density.ravel()[flat]
        kinds, voxels = np.divmod(np.array(flat, int), values.shape[1])
        return Actions(kinds, voxels, values.ravel()[flat], chosen / chosen.sum())

    def _maxima(self, rng, values, peaks, evaluator: Evaluator) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
        """(kind, voxel) of the highest peaks, and squared distances (voxels,) from each."""
        # Where the agent sees nothing its values are equal: without noise the first voxels would always win.
        left = np.where(peaks, values + 1e-9 * rng.random(values.shape), -np.inf)
        tops, near = [], []
        for _ in range(self.actions):
            kind, voxel = divmod(int(left.argmax()), left.shape[1])
            if left[kind, voxel] == -np.inf:
                break
            d2 = evaluator.squared_distances(voxel, values.shape[1])
            left[kind, d2 < (2 * self.spread) ** 2] = -np.inf
            left[kind, voxel] = -np.inf
            tops.append((kind, voxel))
            near.append(d2)
        return tops, near

    def _round(self, rng, root: Node, evaluator: Evaluator, most: int) -> int:
        """Go down the tree up to `most` times, evaluate what was reached together, and take the energies up."""
        exploration, mixing = float(self.exploration), float(self.mixing)
        ways: list[tuple[Path, Node]] = []
        fresh: list[Node] = []
        while len(ways) < most:
            path, leaf = _descended(root, exploration, evaluator)
            if any(leaf is other for other in fresh):
                break  # it waits for the energy of this one
            for node, action in path:
                if not node.visits[action]:
                    # Until its energy is there it counts as a bad one, so that the next goes elsewhere.
                    backed_up(node, action, np.inf, mixing, evaluator)
                node.visits[action] += 1
            ways.append((path, leaf))
            if leaf.actions is None:
                fresh.append(leaf)
        if fresh:
            self.look(rng, fresh, evaluator)
        for path, leaf in ways:
            for node, action in path:
                if leaf.energy < node.lowest[action]:
                    backed_up(node, action, leaf.energy, mixing, evaluator)
            if leaf.stuck:
                _closed(path)
        return len(ways)

    def look(self, rng: np.random.Generator, nodes: list[Node], evaluator: Evaluator) -> None:
        """Energies and actions of nodes."""
        views = evaluator.look([n.state for n in nodes])
        for node, energy, maps, peaks, done in zip(nodes, *views, strict=True):
            node.expand(NOTHING if done else self.considered(rng, maps, peaks, evaluator), energy, bool(done))
            if node.stuck:
                node.energy = np.inf


# Functions, not methods: those of an Equinox module cost more than what they do here, thousands of times in an episode.


def scores(node: Node, exploration: float) -> np.ndarray:
    """Which action goes down the tree: that of the largest score (actions,)."""
    assert node.actions is not None
    visits = node.visits
    return node.values + exploration * np.sqrt(max(1, visits.sum())) * node.actions.priors / (1 + visits)


def backed_up(node: Node, action: int, energy: float, mixing: float, evaluator: Evaluator) -> None:
    """Take a new lowest energy below an action."""
    assert node.actions is not None
    node.lowest[action] = energy
    node.values[action] = mixing * evaluator.reward(energy) + (1 - mixing) * node.actions.values[action]


def _descended(root: Node, exploration: float, evaluator: Evaluator) -> tuple[Path, Node]:
    """The way to a state that was not looked at or from which nothing follows."""
    node, path = root, []
    while node.actions is not None and not node.done and not node.stuck:
        action = int(scores(node, exploration).argmax())
        path.append((node, action))
        node = node.child(action, evaluator)
    return path, node


def _closed(path: Path) -> None:
    """Never again the way to a build that cannot go on, nor what leads to nothing else."""
    for node, action in reversed(path):
        node.values[action] = -np.inf
        if not node.stuck:
            return
