"""Adaptation: a relaxer that trains its policy on the structure it relaxes, as StriderNet does with unseen ones."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.weights import Trained
from thalweg.prng import normals
from thalweg.relax.annealing import words_of
from thalweg.relax.base import Relaxer
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.phases import descended
from thalweg.relax.strider import Strider
from thalweg.typing import PyTree


class Adaptation(Relaxer):
    """Episodes of a policy that learns from each of them, then `then` to the bottom from the lowest structure met.

    V. Bihani et al., ICML 2023 (arXiv:2301.12477), section 3.4: roll out `episode` displacements from a target, improve the
    network by the energies along the way (Adam with `rate`, gradients cut off at `clip`, discount `discount`), and take the
    lowest of the last `window` structures as the next target, `episodes` times; each lane has a network of its own. The
    gradient is the pathwise one with what the network reads held fixed: how an energy changes with a displacement is a force,
    and forces come with energies, so that no potential is differentiated and every evaluation is counted where all
    others are. A target with a higher energy than the one before is taken with probability exp(-difference / `temperature`),
    which falls linearly to zero over the episodes (authors: any; then an episode that went astray is built upon).

    One episode costs `episode` + 1 evaluations. The noise is that of `policy`, falling to its `noise_end` over all episodes.
    """

    wanders: ClassVar[bool] = True
    reads_energies: ClassVar[bool] = True

    policy: Any  # a `Strider`
    episodes: int
    episode: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    rate: float
    clip: float
    discount: float
    temperature: float
    then: Relaxer

    def __init__(
        self,
        policy: Relaxer = Strider(),  # noqa: B008 (immutable)
        episodes: int = 300,
        episode: int = 15,
        window: int = 3,
        rate: float = 5e-3,
        clip: float = 0.1,
        discount: float = 0.9,
        temperature: float = 0.0,
        then: Relaxer = LBFGS(max_step=0.15),  # noqa: B008 (immutable)
    ):
        self.policy = policy
        if not isinstance(policy, Strider):
            raise InputError(f'the policy of an adaptation is a "{type(policy).__name__}"; it must be of kind "stridernet"')
        for name, value in {"episodes": episodes, "episode": episode, "window": window, "rate": rate, "clip": clip}.items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} of an adaptation is {value}; it must be positive")
        if window > episode:
            raise InputError(f"window of an adaptation is {window}, and an episode has {episode} displacements")
        self.episodes, self.episode, self.window = episodes, episode, window
        self.rate, self.clip, self.discount, self.temperature, self.then = rate, clip, discount, temperature, then

    @property
    def n_steps(self):
        """Evaluations before `then`."""
        return self.episodes * (self.episode + 1)

    @property
    def trained(self) -> Trained:
        """What the policy was trained on."""
        return self.policy.trained

    def check(self, numbers, pbc) -> None:
        self.policy.check(numbers, pbc)

    def bound(self, numbers, space, evaluation=None, neighbors=None):
        return eqx.tree_at(lambda r: r.policy, self, self.policy.bound(numbers, space, evaluation, neighbors))

    def _optimiser(self):
        return optax.chain(optax.clip(self.clip), optax.adam(self.rate))

    def init(self, x) -> PyTree:
        lanes, turns = x.shape[2:], self.episode + 1
        spread = lambda a: jnp.broadcast_to(
            jnp.asarray(a, x.dtype if jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating) else None).reshape(
                *jnp.shape(a), *[1] * len(lanes)
            ),
            (*jnp.shape(a), *lanes),
        )
        network = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), self.policy.network)
        row = lambda a: jnp.zeros((turns, *a), x.dtype)
        return {
            "step": jnp.zeros(lanes, jnp.int32),
            "words": jnp.zeros((2, *lanes), jnp.uint32),
            "network": jax.tree.map(spread, network),
            "optimiser": jax.tree.map(spread, self._optimiser().init(network)),
            "x": row(x.shape), "force": row(x.shape), "atomic": row((x.shape[0], *lanes)), "energy": row(lanes),
            "target": jnp.full(lanes, jnp.inf, x.dtype),
            "best": x, "lowest": jnp.full(lanes, jnp.inf, x.dtype),
            "then": self.then.init(x),
        }  # fmt: skip

    def settled(self, state):
        return state["step"] > self.n_steps

    def reset(self, state, x, mask) -> PyTree:
        new = self.init(x)
        then = self.then.reset(state["then"], x, mask)
        held = {k: jax.tree.map(lambda a, b: jnp.where(mask, a, b), new[k], state[k]) for k in state if k != "then"}
        return {**held, "then": then}

    def step(self, x, force, energy, state):
        step = state["step"]
        words = jnp.where(step == 0, words_of(x, self.policy.seed), state["words"])
        learning = step < self.n_steps
        move, learned = lax.cond(
            learning.any(), lambda *a: self._learn(*a), lambda *a: self._stand(*a), x, force, energy, {**state, "words": words}
        )
        home = step == self.n_steps  # to the lowest structure met, where the other relaxer begins
        down, then = descended(self.then, self.n_steps + 1, x, force, energy, state)
        move = jnp.where(learning, move, jnp.where(home, learned["best"] - x, down))
        return move, {**learned, "step": step + 1, "words": words, "then": then}

    def _stand(self, x, force, energy, state):
        return jnp.zeros_like(x), state

    def _learn(self, x, force, energy, state):
        """One displacement of an episode, or, at its end, what is learned from it and the way to the next target."""
        turn = state["step"] % (self.episode + 1)
        kept = lambda a, v: jnp.where(jnp.arange(self.episode + 1).reshape(-1, *[1] * v.ndim) == turn, v, a)
        ever = jnp.isfinite(energy) & (energy < state["lowest"])
        state = {
            **state,
            "x": kept(state["x"], x), "force": kept(state["force"], force), "energy": kept(state["energy"], energy),
            "atomic": kept(state["atomic"], self.policy.energies),
            "best": jnp.where(ever, x, state["best"]), "lowest": jnp.where(ever, energy, state["lowest"]),
        }  # fmt: skip
        ends = turn == self.episode
        through = jnp.clip(state["step"] / jnp.maximum(self.n_steps, 1), 0.0, 1.0).astype(x.dtype)
        first, last = self.policy.noise, self.policy.last_noise
        spread = first * (last / jnp.maximum(first, 1e-30)) ** through * self.policy.length
        stride = self.policy.means(x, force, state["network"])
        stride = stride + spread * normals(state["words"], state["step"], x.shape, x.dtype)
        stride = jnp.where((force != 0).any(1, keepdims=True), stride, 0)
        jump, state = lax.cond(
            ends.any(), lambda s: self._improved(x, s, ends, through), lambda s: (jnp.zeros_like(x), s), state
        )
        return jnp.where(ends, jump, stride), state

    def _improved(self, x, state, ends, through):
        """(the way to the next target, the state with better networks) in lanes whose episode `ends`."""
        lanes = x.shape[2:]
        flat = lambda a: a.reshape(*a.shape[: a.ndim - len(lanes)], -1)
        rows = lambda a: jnp.moveaxis(flat(a), -1, 0)
        own = {k: jax.tree.map(rows, state[k]) for k in ("network", "optimiser", "x", "force", "atomic", "energy")}
        setting = self._setting(x)

        def lane(args):
            here, setting, ends = args
            network, optimiser = lax.cond(
                ends, lambda *a: self._updated(*a), lambda here, _: (here["network"], here["optimiser"]), here, setting
            )
            return network, optimiser

        args = (own, setting, ends.reshape(-1))
        # One by one on a CPU: what ends nowhere costs nothing, and arrays stay in the caches.
        network, optimiser = lax.map(lane, args) if jax.default_backend() == "cpu" else jax.vmap(lane)(args)
        back = lambda a, like: jnp.moveaxis(a, 0, -1).reshape(like.shape)
        new = {
            "network": jax.tree.map(back, network, state["network"]),
            "optimiser": jax.tree.map(back, optimiser, state["optimiser"]),
        }
        target, to = self._target(state, ends, through)
        return to - x, {**state, **new, "target": target}

    def _setting(self, x):
        """Numbers and cells of each lane, in front."""
        lanes = x.shape[2:]
        spread = lambda a: jnp.broadcast_to(a, (*a.shape[: a.ndim - len(lanes)], *lanes))
        front = lambda a: jnp.moveaxis(spread(a).reshape(*a.shape[: a.ndim - len(lanes)], -1), -1, 0)
        cell = None if self.policy.space is None else self.policy.space.cell
        if cell is not None:
            cell = front(cell.reshape(3, 3, *(cell.shape[2:] or (1,) * len(lanes))))
        return front(jnp.asarray(self.policy.numbers)), cell

    def _updated(self, here, setting):
        """(network, optimiser) of one lane after its episode."""
        numbers, cell = setting
        space = self.policy.space if cell is None else eqx.tree_at(lambda s: s.cell, self.policy.space, cell)
        n_atoms = jnp.maximum((numbers >= 0).sum(), 1)
        weights = returns(self.episode, self.discount) / (n_atoms * self.policy.energy)
        # How the loss changes with each displacement: the forces at all later structures, as far as these count.
        pull = -here["force"][1:] * jnp.asarray(weights, here["force"].dtype)[:, None, None]
        pull = jnp.cumsum(pull[::-1], 0)[::-1]

        def total(network, at):
            x, u, f, g = at
            return (self.policy.displacements(network, x, numbers, u, f, space) * g).sum()

        def add(sum_, at):
            return jax.tree.map(jnp.add, sum_, jax.grad(total)(here["network"], at)), None

        steps = (here["x"][:-1], here["atomic"][:-1], here["force"][:-1], pull)
        gradient, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, here["network"]), steps)
        update, optimiser = self._optimiser().update(gradient, here["optimiser"])
        network = optax.apply_updates(here["network"], update)
        fine = jnp.isfinite(sum(jnp.sum(a) for a in jax.tree.leaves(network)))  # what is no number is no improvement
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
        return choose(network, here["network"]), choose(optimiser, here["optimiser"])

    def _target(self, state, ends, through):
        """(energy, positions) of the next target in lanes whose episode ends."""
        energies = state["energy"]
        last = energies[-self.window :]
        last = jnp.where(jnp.isfinite(last), last, jnp.inf)
        k = last.argmin(0)
        energy = last.min(0)
        chosen = (jnp.arange(self.window).reshape(-1, *[1] * k.ndim) == k)[:, None, None]
        found = jnp.where(chosen, state["x"][-self.window :], 0).sum(0)
        warm = self.temperature * (1 - through)
        words = state["words"]
        dice = normals(words, state["step"] + 2**30, (1, 1, *k.shape), energies.dtype)[0, 0]
        chance = 0.5 * (1 + lax.erf(dice / np.sqrt(2)))
        taken = energy < energies[0] - warm * jnp.log(jnp.clip(chance, 1e-12, 1.0))
        return jnp.where(ends, jnp.where(taken, energy, energies[0]), state["target"]), jnp.where(taken, found, state["x"][0])


def returns(episode: int, discount) -> Any:
    """How much the energy after each displacement (episode,) counts in the sum of the discounted returns of all of them."""
    powers = discount ** jnp.arange(episode)
    return jnp.cumsum(powers) / jnp.cumsum(powers).sum()
