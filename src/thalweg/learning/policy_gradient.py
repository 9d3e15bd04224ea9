"""Policy gradients: a strategy that follows gradients, and the loss of a policy over episodes.

Two estimators of the gradient exist. With x' = x + mean(x) + sigma * noise, the noise drawn once, the energies along an
episode are differentiable functions of the parameters: "pathwise" follows them exactly, through the features of every
structure as well, and "pathwise-detached" as far as displacements add up to positions, with what the network reads held
fixed (then only forces are needed, and energies are not differentiated). "score" is REINFORCE (R. J. Williams, Mach. Learn. 8,
229 (1992), doi:10.1007/BF00992696): log probabilities of the displacements taken, times returns that count as constants. The
published code of StriderNet calls its estimator REINFORCE, but lets gradients flow through the displacements that were drawn;
then those of the log probabilities are zero, and what trains is the pathwise gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax

from thalweg.errors import InputError
from thalweg.learning.evolution import Population, Strategy
from thalweg.learning.liquids import liquids, require_cell
from thalweg.learning.meta import RUINED, MetaLoss, floats, shared_out
from thalweg.networks.weights import with_parameters
from thalweg.potentials.base import Potential
from thalweg.relax.adaptation import returns
from thalweg.relax.fire import FIRE
from thalweg.relax.strider import Strider
from thalweg.space import Space
from thalweg.system import System
from thalweg.typing import Array

#: Estimators of the gradient.
ESTIMATORS = ("pathwise", "pathwise-detached", "score")


class Descending(eqx.Module):
    """State of a strategy that follows gradients."""

    mean: Array
    optimiser: Any
    updates: Array


class PolicyGradient(Strategy):
    """Adam with `rate` on the gradient of the mean loss of `batch` episodes, its components cut off at `clip`.

    As V. Bihani et al. (arXiv:2301.12477) train: 4 graphs in a batch, 2 batches per update are 8 episodes here. The rate
    falls by `decay` every 10 updates.
    """

    gradient: ClassVar[bool] = True

    batch: int = eqx.field(static=True, default=8)
    rate: float = 5e-3
    clip: float = 0.1
    decay: float = 1.0

    def __check_init__(self):
        for name in ("batch", "rate", "clip", "decay"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value:g}; it must be positive")

    @property
    def n_tasks(self) -> int:
        return self.batch

    def _optimiser(self):
        rate = lambda count: self.rate * self.decay ** (count // 10)
        return optax.chain(optax.clip(self.clip), optax.scale_by_adam(), optax.scale_by_learning_rate(rate))

    def init(self, parameters) -> Descending:
        mean = jnp.asarray(parameters, jnp.float32)
        return Descending(mean, self._optimiser().init(mean), jnp.asarray(0, jnp.int32))

    def ask(self, key, state: Descending) -> Population:
        task = jnp.arange(self.batch, dtype=jnp.int32)
        return Population(jnp.repeat(state.mean[:, None], self.batch, 1), task)

    def tell(self, key, state: Descending, losses, groups) -> Descending:
        """The next state; `losses` is the gradient (parameters,) here."""
        update, optimiser = self._optimiser().update(losses, state.optimiser)
        return Descending(jnp.asarray(optax.apply_updates(state.mean, update)), optimiser, state.updates + 1)


class PolicyLoss(MetaLoss):
    """What a policy makes of liquids in `steps` displacements.

    An episode begins at one of `pool` liquids of `temperature` (in bond energies; every system has its own pool, made by
    Langevin dynamics), after up to `ahead` displacements by the present policy, which no gradient goes through: with it
    training sees what the policy itself leads to, over horizons much longer than an episode. A quarter of the pool is kept
    for validation, whose episodes have `validation` displacements. The gradient is that of the energies after each
    displacement, less that of FIRE after as many steps (`baseline` "fire"; it changes the score estimator alone), discounted
    by `discount`. The loss is the last energy over `references`.
    """

    potential: Potential
    relaxer: Any
    systems: tuple[System, ...]
    starts: Any  # of each system, (pool, atoms, 3), once prepared
    numbers: tuple = eqx.field(static=True)  # of each system, as tuples: known while programs are made
    references: Array
    space: Space | None
    shares: tuple[float, ...] = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=15)
    validation: int = eqx.field(static=True, default=20)
    ahead: int = eqx.field(static=True, default=0)
    discount: float = 0.9
    estimator: str = eqx.field(static=True, default="pathwise")
    baseline: str = eqx.field(static=True, default="fire")
    temperature: float = 2.0
    pool: int = eqx.field(static=True, default=40)

    def __init__(
        self,
        potential: Potential,
        relaxer: Strider,
        systems: list[System],
        references=None,
        shares=None,
        steps: int = 15,
        validation: int = 20,
        ahead: int = 0,
        discount: float = 0.9,
        estimator: str = "pathwise",
        baseline: str = "fire",
        temperature: float = 2.0,
        pool: int = 40,
    ):
        if not isinstance(relaxer, Strider):
            raise InputError(f'a policy gradient trains components of kind "stridernet", not {type(relaxer).__name__}')
        if estimator not in ESTIMATORS:
            raise InputError(f'estimator is "{estimator}"; it is one of {", ".join(ESTIMATORS)}')
        if baseline not in ("fire", "none"):
            raise InputError(f'baseline is "{baseline}"; it is "fire" or "none"')
        if estimator == "score" and not relaxer.noise > 0:
            raise InputError("the score estimator needs a policy with noise; give the component noise > 0")
        for name, value in {"steps": steps, "validation": validation, "pool": pool // 4, "temperature": temperature}.items():
            if not value > 0:
                raise InputError(f"{name} of [loss] is too small for a policy gradient")
        for system in systems:
            require_cell(system)
        self.systems, self.starts = tuple(systems), None
        self.numbers = tuple(tuple(int(z) for z in np.asarray(s.numbers)) for s in systems)
        self.references = np.ones(len(systems), np.float32) if references is None else np.asarray(references, np.float32)
        self.shares = (1.0,) * len(systems) if shares is None else tuple(float(s) for s in shares)
        self.space = potential.space(systems[0].cell, systems[0].pbc)
        self.potential, self.relaxer, self.steps, self.validation, self.ahead = potential, relaxer, steps, validation, ahead
        self.discount, self.estimator, self.baseline = discount, estimator, baseline
        self.temperature, self.pool = temperature, pool

    def prepared(self) -> PolicyLoss:
        """With its liquids, which take seconds of dynamics."""
        if self.starts is not None:
            return self
        starts = tuple(liquids(s, self.potential, self.temperature, self.pool) for s in self.systems)
        return eqx.tree_at(lambda loss: loss.starts, self, starts, is_leaf=lambda a: a is None)

    def groups(self, n_tasks: int) -> np.ndarray:
        return shared_out(self.shares, n_tasks)

    def plan(self, rng: np.random.Generator):
        return np.int32(self.steps + rng.integers(0, self.ahead + 1))

    def typical(self, most: bool = False):
        return np.int32(self.validation + self.ahead)

    def losses(self, key, parameters, task, n_tasks: int, plan):
        """Last energies over references of validation episodes."""
        out = self._each(key, parameters, task, n_tasks, plan, validating=True)
        return jnp.where(jnp.isfinite(out), jnp.minimum(out, RUINED), RUINED)

    def objective(self, key, parameters, task, n_tasks: int, plan):
        """What the gradient is of (lanes,), and the last energies over references; parameters are those of all lanes."""
        return self._each(key, parameters, task, n_tasks, plan, validating=False)

    def _each(self, key, parameters, task, n_tasks, plan, validating: bool):
        """Episodes of every lane, from the part of the pool that is for them; lanes of one system side by side.

        Lane k is on task k, as `PolicyGradient` asks: numbers of atoms are shapes, and have to be known here.
        """
        group, keys = self.groups(n_tasks), jr.split(key, n_tasks)
        if task.shape[0] != n_tasks:
            raise InputError('this loss has one lane for each task; train it with the strategy "policy-gradient"')
        shared = jax.tree.leaves(parameters)[0].ndim == np.ndim(jax.tree.leaves(self.relaxer.network)[0])
        found: list = [None] * n_tasks
        for g in np.unique(group):
            rows = np.nonzero(group == g)[0]
            here = keys[rows]
            numbers = np.asarray(self.numbers[g])

            def one(parameters, key, numbers=numbers, g=g):
                mine, theirs = jr.split(key)
                pool, quarter = self.starts[g], self.starts[g].shape[0] // 4
                low, high = (0, quarter) if validating else (quarter, pool.shape[0])
                start = jnp.asarray(pool, jnp.float32)[jr.randint(mine, (), low, high)]
                relaxer = floats(with_parameters(self.relaxer, parameters))
                what = self._validated if validating else self._objective
                return what(relaxer, numbers, start, jnp.asarray(self.references)[g], theirs, plan)

            of = parameters if shared else jax.tree.map(lambda a, rows=rows: a[..., rows], parameters)
            out = jax.vmap(one, in_axes=(None if shared else -1, 0))(of, here)
            for k, row in enumerate(rows):
                found[row] = jax.tree.map(lambda a, k=k: a[k], out)
        return jax.tree.map(lambda *a: jnp.stack(a), *found)

    def _validated(self, relaxer, numbers, start, reference, key, plan):
        energies, _ = self.episode(
            relaxer, numbers, self._ahead(relaxer, numbers, start, key, plan - self.validation), key, self.validation
        )
        return energies[-1] / jnp.abs(reference)

    def _objective(self, relaxer, numbers, start, reference, key, plan):
        start = lax.stop_gradient(self._ahead(relaxer, numbers, start, key, plan - self.steps))
        energies, chances = self.episode(relaxer, numbers, start, key, self.steps)
        weights = returns(self.steps, jnp.asarray(self.discount, jnp.float32))
        scale = len(numbers) * jnp.asarray(relaxer.energy, jnp.float32)
        last = lax.stop_gradient(energies[-1]) / jnp.abs(reference)
        if self.estimator != "score":
            return (weights * energies[1:]).sum() / scale, last
        level = self._fire(numbers, start, energies[0])
        rewards = -(lax.stop_gradient(energies[1:]) - level) / scale
        discount = jnp.asarray(self.discount, jnp.float32)

        def add(later, reward):
            gain = reward + discount * later
            return gain, gain

        _, gains = lax.scan(add, jnp.zeros((), rewards.dtype), rewards, reverse=True)
        return -(chances * gains).mean(), last

    def _ahead(self, relaxer, numbers, start, key, count):
        """The structure after `count` displacements."""
        if not self.ahead:
            return start
        key = jr.fold_in(key, 2**20)
        move = lambda k, x: self._moved(relaxer, numbers, x, jr.fold_in(key, k))[0]
        return lax.fori_loop(0, count, move, start)

    def episode(self, relaxer, numbers, start, key, steps: int):
        """Energies (steps + 1,) from `start` on, and log probabilities (steps,) of the displacements, up to a constant."""
        moved = jax.checkpoint(lambda x, key: self._moved(relaxer, numbers, x, key))  # cheaper to repeat than to remember

        def one(x, key):
            y, energy, chance = moved(x, key)
            return y, (energy, chance)

        x, (energies, chances) = lax.scan(one, start, jr.split(key, steps))
        return jnp.append(energies, self._energy(numbers, x)), chances

    def _energy(self, numbers, x):
        return self.potential.lanes(x, numbers, floats(self.space)).atomic_energies.sum()

    def _moved(self, relaxer, numbers, x, key):
        """(next positions, energy of the present ones, log probability of the displacement)."""
        space = floats(self.space)
        out = self.potential.lanes(x, numbers, space)
        energy = out.atomic_energies.sum()
        held = (lambda a: a) if self.estimator == "pathwise" else lax.stop_gradient
        # Forces are constants where they are features: second derivatives would cost more than all the rest.
        seen = (held(x), numbers, held(out.atomic_energies), lax.stop_gradient(out.forces))
        mean = relaxer.displacements(relaxer.network, *seen, space)
        spread = jnp.asarray(relaxer.noise * relaxer.length, x.dtype)
        move = mean + spread * jr.normal(key, x.shape, x.dtype)
        if self.estimator != "score":
            return x + move, energy, jnp.zeros((), x.dtype)
        taken = lax.stop_gradient(move)
        chance = -(((taken - mean) / jnp.maximum(spread, 1e-12)) ** 2).sum() / 2
        return lax.stop_gradient(x + taken), energy, chance

    def _fire(self, numbers, start, energy):
        """Energy after as many steps of FIRE as an episode has displacements."""
        if self.baseline == "none":
            return energy
        fire = FIRE(0.01 * self.relaxer.length, 0.04 * self.relaxer.length)

        def one(carry, _):
            x, state = carry
            out = self.potential.lanes(x, numbers, floats(self.space))
            move, state = fire.step(x[..., None], out.forces[..., None], out.energy[None], state)
            return (x + move[..., 0], state), None

        (x, _), _ = lax.scan(one, (start, fire.init(start[..., None])), None, length=self.steps)
        return lax.stop_gradient(self._energy(numbers, x))
