"""Strategies that train parameters by their losses alone: evolution strategies and a genetic algorithm.

A strategy hands out a population (`ask`) and moves by what it hears of it (`tell`). It knows neither what the parameters are
of nor what a loss is; parameters are one vector, populations have it on the first axis and candidates on the last.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

from thalweg.errors import InputError
from thalweg.typing import Array, PyTree


class Population(eqx.Module):
    """Candidates (parameters, n), and for each the task (n,) whose loss is wanted; tasks are counted from 0."""

    candidates: Array
    task: Array


class Strategy(eqx.Module):
    """Trains a vector of parameters. `ask` reads the state, `tell` is the only place it changes."""

    #: True where `tell` takes the gradient of the mean loss instead of losses; all candidates of a population are then alike.
    gradient: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def n_tasks(self) -> int:
        """Tasks that a population is tried on; the same task for several candidates means the same start and noise."""

    @abc.abstractmethod
    def init(self, parameters) -> PyTree:
        """State before the first update; it has a leaf `mean` (parameters,)."""

    @abc.abstractmethod
    def ask(self, key, state) -> Population:
        """The population of this update."""

    @abc.abstractmethod
    def tell(self, key, state, losses, groups) -> PyTree:
        """The next state, from the losses (n,) of the population that `ask` gave with the same key.

        `groups` (tasks,) says which tasks have comparable losses (structures of the same size, say).
        """


class Evolving(eqx.Module):
    """State of an evolution strategy."""

    mean: Array
    optimiser: PyTree
    updates: Array


class EvolutionStrategy(Strategy):
    """Antithetic evolution strategy: `pairs` of perturbations +-`sigma`, each pair on a task of its own, Adam on the estimate.

    I. Rechenberg's and H.-P. Schwefel's method as T. Salimans et al. (arXiv:1703.03864) and L. Metz et al. (arXiv:1810.10180)
    train networks. `shaping` is what becomes of losses: "plain"; "clipped", both losses of a pair at that of the unperturbed
    parameters on the same task (ESMC, equation 4 of A. Merchant et al., arXiv:2107.09661: losses are
    clipped from above, so that perturbations that end badly do not drown those that end well), which costs a third more; or
    "ranks" within each group, which makes the size of losses irrelevant; or "best", ranks of which the better half counts
    and the best most (utilities of D. Wierstra et al., JMLR 15, 949 (2014)), for landscapes where a few runs in a hundred
    succeed and all others end alike. The rate falls by `decay` every 10 updates.
    """

    pairs: int = eqx.field(static=True, default=64)
    sigma: float = 0.15
    rate: float = 0.03
    decay: float = 0.96
    shaping: str = eqx.field(static=True, default="ranks")

    def __check_init__(self):
        if self.shaping not in ("plain", "clipped", "ranks", "best"):
            raise InputError(f'shaping is "{self.shaping}"; it is "ranks", "best", "clipped" (ESMC) or "plain"')
        if self.pairs < 1:
            raise InputError(f"pairs is {self.pairs}; an update needs at least one")
        _refuse({"sigma": self.sigma, "rate": self.rate, "decay": self.decay})

    @property
    def n_tasks(self) -> int:
        return self.pairs

    def _optimiser(self):
        rate = lambda count: self.rate * self.decay ** (count // 10)
        return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate))

    def init(self, parameters) -> Evolving:
        mean = jnp.asarray(parameters, jnp.float32)
        return Evolving(mean, self._optimiser().init(mean), jnp.asarray(0, jnp.int32))

    def _noise(self, key, state: Evolving):
        return jr.normal(key, (state.mean.shape[0], self.pairs), jnp.float32)

    def ask(self, key, state: Evolving) -> Population:
        eps = self.sigma * self._noise(key, state)
        parts = [eps, -eps] + ([jnp.zeros_like(eps)] if self.shaping == "clipped" else [])
        task = jnp.tile(jnp.arange(self.pairs, dtype=jnp.int32), len(parts))
        return Population(state.mean[:, None] + jnp.concatenate(parts, 1), task)

    def tell(self, key, state: Evolving, losses, groups) -> Evolving:
        losses = jnp.asarray(losses, jnp.float32)
        if self.shaping in ("ranks", "best"):
            losses = ranks(losses, jnp.tile(groups, 2))
            losses = losses if self.shaping == "ranks" else -utilities(losses)
        elif self.shaping == "clipped":
            losses = jnp.minimum(losses[: 2 * self.pairs], jnp.tile(losses[2 * self.pairs :], 2))
        difference = losses[: self.pairs] - losses[self.pairs : 2 * self.pairs]
        gradient = self._noise(key, state) @ difference / (2 * self.pairs * self.sigma)
        update, optimiser = self._optimiser().update(gradient, state.optimiser)
        return Evolving(jnp.asarray(optax.apply_updates(state.mean, update)), optimiser, state.updates + 1)


class Breeding(eqx.Module):
    """State of a genetic algorithm."""

    mean: Array  # the incumbent
    updates: Array


class GeneticAlgorithm(Strategy):
    """The best of `size` mutants of the incumbent, all tried on the same `tasks`, replaces it if it is better there.

    F. Such et al., arXiv:1712.06567, without crossover, as A. Merchant et al. (arXiv:2107.09661) use it with 80 mutants.
    The incumbent is tried again with every generation: a loss that was lucky does not reign for ever.
    """

    size: int = eqx.field(static=True, default=80)
    tasks: int = eqx.field(static=True, default=64)
    sigma: float = 0.1

    def __check_init__(self):
        if self.size < 1 or self.tasks < 1:
            raise InputError(f"a generation of {self.size} on {self.tasks} tasks is empty; give at least one of each")
        _refuse({"sigma": self.sigma})

    @property
    def n_tasks(self) -> int:
        return self.tasks

    def init(self, parameters) -> Breeding:
        return Breeding(jnp.asarray(parameters, jnp.float32), jnp.asarray(0, jnp.int32))

    def _mutants(self, key, state: Breeding):
        eps = jr.normal(key, (state.mean.shape[0], self.size), jnp.float32)
        return state.mean[:, None] + self.sigma * jnp.concatenate([jnp.zeros_like(eps[:, :1]), eps], 1)

    def ask(self, key, state: Breeding) -> Population:
        task = jnp.tile(jnp.arange(self.tasks, dtype=jnp.int32), self.size + 1)
        return Population(jnp.repeat(self._mutants(key, state), self.tasks, axis=1), task)

    def tell(self, key, state: Breeding, losses, groups) -> Breeding:
        # Sizes count alike: each loss in standard deviations of its group, so that large clusters do not decide alone.
        table = standardised(jnp.asarray(losses, jnp.float32).reshape(self.size + 1, self.tasks), groups)
        best = table.mean(1).argmin()  # the incumbent comes first and stays where mutants are no better
        return Breeding(self._mutants(key, state)[:, best], state.updates + 1)


def _refuse(numbers: dict) -> None:
    """Raise `InputError` for the first that is not a positive number; traced ones are not looked at."""
    for name, value in numbers.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value:g}; it must be positive")


def ranks(losses, groups):
    """Ranks (n,) within each group, from -1/2 to 1/2; equal losses share one."""
    same = groups[:, None] == groups
    below = (same & (losses < losses[:, None])).sum(1)
    equal = (same & (losses == losses[:, None])).sum(1)
    return (below + equal / 2) / same.sum(1) - 0.5


def utilities(ranked):
    """What ranks from -1/2 to 1/2 are worth: log(1/2) - log of the rank from 0 to 1, nothing in the worse half."""
    return jnp.maximum(jnp.log(0.5) - jnp.log(ranked + 0.5), 0)


def standardised(table, groups):
    """Losses (candidates, tasks) less the mean of their task's group, in its standard deviations."""
    same = (groups[:, None] == groups).astype(table.dtype)
    same = same / same.sum(1)
    mean = (table @ same).mean(0)
    spread = jnp.sqrt((((table - mean) ** 2) @ same).mean(0))
    return (table - mean) / jnp.where(spread > 0, spread, 1)


__all__ = ["EvolutionStrategy", "GeneticAlgorithm", "Population", "Strategy"]
