"""The trainer: populations of parameters, their losses on a device or several, and what is kept of it between updates.

It knows a `Strategy` and a `MetaLoss` and nothing else: any pytree of parameters is one vector to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from thalweg import prng
from thalweg.errors import InputError
from thalweg.learning.evolution import Strategy
from thalweg.learning.meta import MetaLoss
from thalweg.typing import PyTree

#: Keys of validation and of measurements are folded in from here: no update has such a number.
VALIDATION, MEASUREMENT = 2**31, 2**31 + 2**20
#: Share of the past that the moving average of the parameters keeps per update.
MEMORY = 0.9


@dataclass(frozen=True)
class Stage:
    """One part of a curriculum: what is trained on, how, for how many updates, with a validation after every `check`."""

    loss: MetaLoss
    strategy: Strategy
    updates: int
    check: int = 10
    name: str = ""

    def __post_init__(self):
        for key in ("updates", "check"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} of a stage is {getattr(self, key)}; it must be at least 1")


@dataclass(frozen=True)
class State:
    """Where training stands. Vectors are parameters; `best` is that of the lowest validation loss of this stage.

    `update` counts those done of `stage`. `average` is the moving average of the means, which is less noisy than the last of
    them and is validated beside it. `history` holds one row per validation.
    """

    stage: int
    update: int
    strategy: PyTree
    average: np.ndarray
    best: np.ndarray
    best_loss: float = float("inf")
    best_update: int = 0
    cpu: float = 0.0  # seconds, all sessions, compilation not counted
    compiling: float = 0.0  # CPU seconds
    wall: float = 0.0
    history: tuple[dict, ...] = ()

    @property
    def last(self) -> np.ndarray:
        """The parameters after the last update."""
        return np.asarray(self.strategy.mean)


@dataclass(frozen=True)
class Report:
    """What an update told: losses by group (medians of the population), and of the last validation."""

    stage: int
    update: int  # of the stage, counted from 1
    plan: Any
    medians: np.ndarray  # (groups,)
    validation: float
    improved: bool
    left: float  # wall seconds of all stages, estimated


@dataclass
class Programs:
    """What is compiled for a stage: `ask`, `losses` and `tell`, for these shapes and no others."""

    ask: Any
    losses: Any
    gradient: Any  # of strategies that follow it: (gradient, losses); None for others
    tell: Any
    task: np.ndarray  # (lanes,)
    groups: np.ndarray  # (tasks,)
    n_tasks: int
    spread: Callable  # puts populations on the devices


@dataclass
class Trainer:
    """Trains parameters through stages, update by update; each stage goes on from the best of the one before.

    The random numbers of update k are those of the key of `seed` with k folded in, and a state holds everything else: a
    trainer that is given the `state` of another goes on as that one would have, to the last bit. The mean parameters are
    validated on tasks that are never trained on, the same every time. Lanes are spread over `devices` (all there are). Trainers
    that differ in nothing but seed and state may share what is `compiled`.
    """

    stages: Sequence[Stage]
    parameters: PyTree
    seed: int = 0
    state: State | None = None
    devices: Sequence | None = None
    compiled: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        vector, self.unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), self.parameters))
        if not vector.size:
            raise InputError("there are no parameters to train")
        if not self.stages:
            raise InputError("there is nothing to train on; give at least one stage")
        self.devices = list(jax.devices() if self.devices is None else self.devices)
        self._root = prng.key(self.seed)
        if self.state is None:
            self.state = self._begun(np.asarray(vector), 0)
        self._pace = [0.0, 0.0]  # wall seconds and work of this session's updates

    @property
    def _now(self) -> State:
        assert self.state is not None
        return self.state

    @property
    def done(self) -> bool:
        """Whether all updates of all stages are."""
        return self._now.stage == len(self.stages) - 1 and self._now.update >= self.stages[-1].updates

    @property
    def best(self) -> PyTree:
        """The parameters with the lowest validation loss of the present stage."""
        return self.unravel(jnp.asarray(self._now.best))

    def _begun(self, vector: np.ndarray, stage: int) -> State:
        strategy = jax.tree.map(np.asarray, self.stages[stage].strategy.init(vector))
        if self.state is None:
            return State(stage, 0, strategy, vector, vector)
        return replace(
            self._now, stage=stage, update=0, strategy=strategy, average=vector, best=vector, best_loss=float("inf"),
            best_update=0,
        )  # fmt: skip

    def advance(self) -> Report:
        """One update, and the validation that is due after it; before the first of a stage also one of where it begins."""
        cpu, wall = time.process_time(), time.perf_counter()
        if self._now.update >= self.stages[self._now.stage].updates:
            self.state = self._begun(self._now.best, self._now.stage + 1)
        k = self._now.stage
        before = self._now.compiling
        programs = self.programs(k)
        stage = self.stages[k]
        compiled = self._now.compiling - before
        wall_compiled = self.compiled[k][1] if compiled else 0.0
        if self._now.update == 0:
            self._validate(stage, programs)
        number = np.uint32(sum(s.updates for s in self.stages[:k]) + self._now.update)
        plan = on_device(stage.loss.plan(np.random.default_rng((self.seed, int(number)))))
        strategy = on_device(self._now.strategy)
        candidates, _, key = programs.ask(self._root, number, strategy)
        if programs.gradient is None:
            told = losses = programs.losses(key, programs.spread(candidates), plan)
        else:
            told, losses = programs.gradient(key, candidates, plan)
        strategy, average = programs.tell(self._root, number, strategy, on_device(self._now.average), told)
        strategy, average = jax.tree.map(np.asarray, (strategy, average))
        self.state = replace(self._now, update=self._now.update + 1, strategy=strategy, average=average)
        improved = self._now.update % stage.check == 0 or self._now.update == stage.updates
        improved = improved and self._validate(stage, programs)
        now = self._now
        spent = time.perf_counter() - wall
        self.state = replace(now, cpu=now.cpu + time.process_time() - cpu - compiled, wall=now.wall + spent)
        self._pace = [self._pace[0] + spent - wall_compiled, self._pace[1] + effort(plan)]
        losses = np.asarray(losses)
        return Report(
            k, self.state.update, plan, medians(losses, programs.groups[programs.task]), now.history[-1]["loss"], improved,
            self._left(),
        )  # fmt: skip

    def _left(self) -> float:
        """Seconds that the remaining updates will take if all steps cost what those of this session did."""
        to_come = 0.0
        for k, stage in enumerate(self.stages):
            ahead = stage.updates - (self._now.update if k == self._now.stage else 0)
            to_come += ahead * effort(stage.loss.typical()) if k >= self._now.stage else 0
        return self._pace[0] / self._pace[1] * to_come

    def _validate(self, stage: Stage, programs: Programs) -> bool:
        """Compare mean and moving average on the tasks of validation; keep the better one if it is the best so far."""
        now = self._now
        tried = (now.last, now.average)
        table = self.compared(tried, 1, programs, stage.loss.typical(), VALIDATION)
        finite = bool(np.isfinite(table).any())
        table = tamed(table, np)
        # Groups count alike, however many tasks each has.
        by_group = np.stack([table[:, programs.groups == g].mean(1) for g in np.unique(programs.groups)])
        losses = by_group.mean(0)
        which = int(np.argmin(losses))
        row = {
            "stage": now.stage, "update": now.update, "loss": float(losses[which]), "averaged": bool(which),
            "groups": [float(v) for v in by_group[:, which]],
        }  # fmt: skip
        improved = bool(losses[which] < now.best_loss) and finite
        if improved:
            now = replace(now, best=np.asarray(tried[which]), best_loss=float(losses[which]), best_update=now.update)
        self.state = replace(now, history=(*now.history, row))
        return improved

    def compared(
        self, vectors: Sequence, rounds: int, programs: Programs, plan, number: int, loss: MetaLoss | None = None
    ) -> np.ndarray:
        """Losses (vectors, rounds x tasks) of parameters on the same tasks, by the program that training uses.

        `loss` may be one that differs from the stage's in nothing but the numbers in its arrays.
        """
        turn = occurrence(programs.task)
        turns, plan = int(turn.max()) + 1, on_device(plan)
        out = []
        for k in range(rounds):
            key = jax.random.fold_in(self._root, np.uint32(number + k))
            found = np.full((len(vectors), programs.n_tasks), np.nan)
            for first in range(0, len(vectors), turns):
                some = np.stack([np.asarray(v, np.float32) for v in vectors[first : first + turns]])
                which = np.minimum(turn, len(some) - 1)
                candidates = programs.spread(some[which].T)
                losses = np.asarray(programs.losses(key, candidates, plan, *([] if loss is None else [loss])))
                for row in range(len(some)):
                    found[first + row, programs.task[turn == row]] = losses[turn == row]
            out.append(found)
        return np.concatenate(out, 1)

    def programs(self, k: int) -> Programs:
        """What stage `k` needs, compiled when first asked for."""
        self._prepare(k)
        if k not in self.compiled:
            cpu, wall = time.process_time(), time.perf_counter()
            made = self._compiled(self.stages[k])
            self.compiled[k] = (made, time.perf_counter() - wall)
            self.state = replace(self._now, compiling=self._now.compiling + time.process_time() - cpu)
        return self.compiled[k][0]

    def _prepare(self, k: int) -> None:
        """Make what the loss of a stage needs."""
        stage = self.stages[k]
        ready = stage.loss.prepared()
        if ready is not stage.loss:
            self.stages = [*self.stages[:k], replace(stage, loss=ready), *self.stages[k + 1 :]]

    def _compiled(self, stage: Stage) -> Programs:
        loss, strategy, n_tasks = stage.loss, stage.strategy, stage.strategy.n_tasks
        groups = np.asarray(loss.groups(n_tasks))
        state = on_device(strategy.init(jnp.asarray(self._now.best)))
        number = np.uint32(0)

        def ask(root, number, state):
            mine, theirs = jax.random.split(jax.random.fold_in(root, number))
            population = strategy.ask(mine, state)
            return population.candidates, population.task, theirs

        def tell(root, number, state, average, losses):
            mine, _ = jax.random.split(jax.random.fold_in(root, number))
            told = losses if strategy.gradient else tamed(losses)
            new = strategy.tell(mine, state, told, jnp.asarray(groups))
            fine = jnp.isfinite(ravel_pytree(new)[0].astype(jnp.float32)).all()  # an update that is no number is none
            new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
            return new, MEMORY * average + (1 - MEMORY) * new.mean

        first = jax.jit(ask).lower(self._root, number, state).compile()
        candidates, task, key = first(self._root, number, state)
        task = np.asarray(task)
        plan = on_device(loss.typical())
        losses, spread = self._losses(loss, key, candidates, task, n_tasks, plan)
        gradient = self._gradient(loss, key, task, n_tasks, plan) if strategy.gradient else None
        example = jnp.zeros(candidates.shape[0] if strategy.gradient else len(task), jnp.float32)
        told = jax.jit(tell).lower(self._root, number, state, jnp.asarray(self._now.average), example).compile()
        return Programs(first, losses, gradient, told, task, groups, n_tasks, spread)

    def _losses(self, loss: MetaLoss, key, candidates, task, n_tasks: int, plan) -> tuple[Callable, Callable]:
        """The compiled losses of a population, lanes spread over the devices, and what puts populations there."""
        arrays, static = eqx.partition(loss, eqx.is_array)
        n, count = len(task), len(self.devices)  # type: ignore[arg-type]
        lanes = np.arange(-(-n // count) * count) % n  # a few lanes twice where they do not go into equal parts

        def run(arrays, key_data, candidates, task, plan):
            whole = eqx.combine(arrays, static)
            parameters = jax.vmap(self.unravel, -1, -1)(candidates)
            return whole.losses(jax.random.wrap_key_data(key_data, impl=prng.HASH32), parameters, task, n_tasks, plan)

        arrays = on_device(arrays)
        if count > 1:
            mesh = Mesh(np.asarray(self.devices), ("lanes",))
            everywhere, columns, rows = PartitionSpec(), PartitionSpec(None, "lanes"), PartitionSpec("lanes")
            specs = (everywhere, everywhere, columns, rows, everywhere)
            run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
            put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
            spread = lambda candidates: put(jnp.asarray(candidates)[:, lanes], columns)
            shared = lambda tree: put(tree, everywhere)
            where = put(jnp.asarray(task[lanes]), rows)
        else:
            spread, shared, where = jnp.asarray, (lambda tree: tree), jnp.asarray(task)
        arrays = shared(arrays)
        data = lambda key: shared(jax.random.key_data(key))
        compiled = jax.jit(run).lower(arrays, data(key), spread(candidates), where, shared(plan)).compile()

        def losses(key, candidates, plan, other: MetaLoss = loss):
            own = arrays if other is loss else shared(on_device(eqx.partition(other, eqx.is_array)[0]))
            found = compiled(own, data(key), candidates, where, shared(plan))
            return found if count == 1 else jnp.asarray(np.asarray(found)[:n])

        return losses, spread

    def _gradient(self, loss, key, task, n_tasks: int, plan) -> Callable:
        """The compiled gradient (parameters,) of the mean objective by the parameters that all lanes share, on one device.

        Also the losses of the lanes. Lanes whose gradient is not finite count as none.
        """
        arrays, static = eqx.partition(loss, eqx.is_array)

        def run(arrays, key_data, vector, plan):
            whole, key = eqx.combine(arrays, static), jax.random.wrap_key_data(key_data, impl=prng.HASH32)

            def mean(vector):
                objective, losses = whole.objective(key, self.unravel(vector), task, n_tasks, plan)
                fine = jnp.isfinite(objective)
                return jnp.where(fine, objective, 0).sum() / jnp.maximum(fine.sum(), 1), losses

            return jax.grad(mean, has_aux=True)(vector)

        arrays, data = on_device(arrays), jax.random.key_data
        example = jnp.asarray(self._now.best)
        compiled = jax.jit(run).lower(arrays, data(key), example, plan).compile()
        return lambda key, candidates, plan: compiled(arrays, data(key), candidates[:, 0], plan)


def train(
    strategy: Strategy,
    loss: MetaLoss,
    parameters: PyTree,
    seed: int = 0,
    updates: int = 100,
    check: int = 10,
    watch: Callable[[Report], None] | None = None,
) -> tuple[PyTree, State]:
    """Train parameters: those with the lowest validation loss, and the last state of a `Trainer` with one stage."""
    trainer = Trainer([Stage(loss, strategy, updates, check)], parameters, seed)
    while not trainer.done:
        report = trainer.advance()
        if watch is not None:
            watch(report)
    assert trainer.state is not None
    return trainer.best, trainer.state


def tamed(losses, xp=jnp):
    """Losses with the worst finite one in place of those that are not finite: bad, and no more than that."""
    fine = xp.isfinite(losses)
    worst = xp.where(fine.any(), xp.where(fine, losses, -xp.inf).max(), 0.0)
    return xp.where(fine, losses, worst)


def occurrence(task: np.ndarray) -> np.ndarray:
    """How many lanes before each one have the same task (lanes,)."""
    order = np.argsort(task, kind="stable")
    counts = np.bincount(task)
    starts = np.cumsum(counts) - counts
    turn = np.empty(len(task), np.int64)
    turn[order] = np.arange(len(task)) - starts[task[order]]
    return turn


def medians(losses: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Median loss of each group."""
    return np.asarray([np.median(losses[groups == g]) for g in np.unique(groups)])


def effort(plan) -> float:
    """How much work a plan means: its number of steps where it is one."""
    leaves = jax.tree.leaves(plan)
    return max(1.0, float(np.max(leaves[0]))) if leaves else 1.0


def on_device(tree: PyTree) -> PyTree:
    """Arrays and numbers as arrays of one dtype each: what a compiled program takes."""

    def leaf(a):
        kind = np.asarray(a).dtype
        if np.issubdtype(kind, np.floating):
            return jnp.asarray(a, jnp.float32)
        return jnp.asarray(a, jnp.int32) if np.issubdtype(kind, np.integer) and kind.itemsize == 8 else jnp.asarray(a)

    return jax.tree.map(leaf, tree)
