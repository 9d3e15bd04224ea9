"""Which prediction is most worth an evaluation: acquisition functions, as numbers to compare and as a potential to relax in."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from thalweg.potentials.base import Evaluation, Potential, finish
from thalweg.surrogates.base import Posterior
from thalweg.typing import Array


class Acquisition(eqx.Module):
    """What an evaluation is worth, as an energy: the lowest value is evaluated next."""

    @abc.abstractmethod
    def __call__(self, mean, std, best, evaluations) -> Array:
        """Values (*lanes) of predictions (*lanes); `best` is the lowest energy evaluated, after so many `evaluations`."""


class LowerConfidenceBound(Acquisition):
    """mean - kappa std: what an energy may well be if one is lucky.

    M. K. Bisbo and B. Hammer, Phys. Rev. Lett. 124, 086102 (2020), doi:10.1103/PhysRevLett.124.086102.
    """

    kappa: float = 2.0

    def __call__(self, mean, std, best, evaluations):
        return mean - self.kappa * std


class AnnealedKappa(Acquisition):
    """The lower confidence bound with a kappa that falls as a cosine from `first` to `last` over `over` evaluations."""

    first: float = 4.0
    last: float = 0.5
    over: float = 200.0

    def __call__(self, mean, std, best, evaluations):
        share = jnp.clip(jnp.asarray(evaluations, mean.dtype) / self.over, 0, 1)
        kappa = self.last + (self.first - self.last) * (1 + jnp.cos(jnp.pi * share)) / 2
        return mean - kappa * std


class ExpectedImprovement(Acquisition):
    """Minus the expectation of max(best - margin - energy, 0), the energy being normal about the mean.

    D. R. Jones, M. Schonlau and W. J. Welch, J. Global Optim. 13, 455 (1998), doi:10.1023/A:1008306431147.
    """

    margin: float = 0.0

    def __call__(self, mean, std, best, evaluations):
        gain = best - self.margin - mean
        spread = jnp.maximum(std, jnp.finfo(mean.dtype).tiny ** 0.5)
        z = jnp.clip(gain / spread, -1e6, 1e6)
        expected = jnp.where(std > 0, gain * norm.cdf(z) + spread * norm.pdf(z), jnp.maximum(gain, 0))
        return -expected


class Acquired(Potential):
    """An acquisition function of a posterior as a potential: relaxers walk to where an evaluation is worth most.

    Bounds on the energy fall wherever nothing is known, so a relaxation in them has to be kept from pushing atoms together
    (`thalweg.search.guard`).
    """

    posterior: Posterior
    acquisition: Acquisition
    best: Array | float = 0.0
    evaluations: Array | float = 0.0

    @property
    def reach(self) -> float | None:
        """That of the posterior."""
        return self.posterior.reach

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        lanes = positions.shape[2:]
        eye = jnp.eye(3, dtype=positions.dtype).reshape(3, 3, *[1] * len(lanes))

        def value(x, strain):
            # Rows (atoms, 3) times the deformation, lane by lane.
            bend = lambda rows: (rows[:, :, None] * (eye + strain)[None]).sum(1)
            here = space if space is None else eqx.tree_at(lambda s: s.cell, space, bend(_spread(space.cell, lanes)))
            mean, std = self.posterior.mean_std(bend(x), numbers, here)
            return self.acquisition(mean, std, self.best, self.evaluations)

        no_strain = jnp.zeros((3, 3, *lanes), positions.dtype)
        if virial and space is not None:
            energy, back = jax.vjp(value, positions, no_strain)
            gradient, strained = back(jnp.ones_like(energy))
            pull = -(strained + strained.swapaxes(0, 1)) / 2
        else:
            # Lanes do not know each other: the gradient of their sum is the gradient of each.
            energy, back = jax.vjp(lambda x: self._plain(x, numbers, space), positions)
            (gradient,), pull = back(jnp.ones_like(energy)), None
        atoms = jnp.maximum((numbers >= 0).sum(0), 1).astype(energy.dtype)
        each = jnp.where(numbers >= 0, energy / atoms, 0)
        return finish(energy, -gradient, each, pull)

    def _plain(self, x, numbers, space):
        return self.acquisition(*self.posterior.mean_std(x, numbers, space), self.best, self.evaluations)


def _spread(cell, lanes):
    """The cell (3, 3, ...) with an axis for every lane."""
    return jnp.broadcast_to(cell.reshape(3, 3, *cell.shape[2:], *[1] * (len(lanes) + 2 - cell.ndim)), (3, 3, *lanes))
