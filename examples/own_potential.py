"""A pair potential of your own in one file: write the energy of a pair, get forces, relaxers and searches.

python examples/own_potential.py
thalweg check examples/own_potential.py:Buckingham
"""

import jax.numpy as jnp
import numpy as np

from thalweg import LBFGS, PairPotential, Potential, Relaxation, cluster
from thalweg.relax.driver import relax
from thalweg.testing import check_potential, compact_cluster


class Buckingham(PairPotential):
    """Exp-6: a [6 exp(alpha (1 - r/r0)) - alpha (r0/r)^6], a = epsilon/(alpha - 6); minimum -epsilon at r0.

    R. A. Buckingham, Proc. R. Soc. A 168, 264 (1938), doi:10.1098/rspa.1938.0173, in the form with the well's depth and place
    as parameters. The published function falls to minus infinity as r goes to 0; inside `core` x r0 it is continued here by its
    tangent plus a repulsion that grows without bound, so that two atoms at one place have no finite energy.
    """

    epsilon: float = 1.0
    alpha: float = 13.5
    r0: float = 1.0
    core: float = 0.5

    def pair(self, r2):
        x = jnp.sqrt(r2) / self.r0
        inside = jnp.maximum(x, self.core)
        value = self._exp6(inside)
        slope = -6 * self.alpha * (jnp.exp(self.alpha * (1 - inside)) - inside**-7)
        depth = jnp.maximum(self.core - x, 0)
        value = value - slope * depth + 100 * self.alpha * depth**2 * self.core / x
        return self.epsilon / (self.alpha - 6) * value

    def _exp6(self, x):
        return 6 * jnp.exp(self.alpha * (1 - x)) - self.alpha * x**-6

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), float(self.r0))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


def lowest(potential: Potential, n_atoms: int, tries: int = 32) -> float:
    """Lowest energy of `tries` disturbed compact clusters, all relaxed together."""
    system = cluster([0] * n_atoms, potential)
    starts = system.structure(np.stack([compact_cluster(system.bond_lengths, seed=k, noise=0.5) for k in range(tries)]))
    done = relax(starts, Relaxation(potential, LBFGS(max_step=0.1), fmax=1e-6), n_lanes=tries)
    return float(done.energy[done.converged].min())


def main() -> None:
    potential = Buckingham()
    check_potential(potential, [0] * 7)
    print("the conformance check passed")
    for n in (2, 4):
        print(f"{n} atoms: {lowest(potential, n):.6f}")  # one bond, six bonds


if __name__ == "__main__":
    main()
