"""Binary Lennard-Jones mixtures: the Kob-Andersen glass former and its relatives."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation, Potential, assembled
from thalweg.potentials.pair import check_truncation, truncated_at_square
from thalweg.potentials.rows import push, sum_rows


class BinaryLennardJones(Potential):
    """4 epsilon_ab [(sigma_ab/r)^12 - (sigma_ab/r)^6] of two species A and B; reduced units, cutoff in units of sigma_ab.

    W. Kob and H. C. Andersen, Phys. Rev. E 51, 4626 (1995), doi:10.1103/PhysRevE.51.4626. `epsilon` and `sigma` are those
    of AA, AB and BB. `species` are the atomic numbers that stand for A and B: argon and neon by default, so that files of a
    mixture show a large and a small atom. `truncation` is "cut" (unshifted), "shift" or "smooth" (see `truncated`; `onset`
    is in units of sigma_ab too); `minimum_image` counts only the nearest image of each atom, as in published energies
    of small boxes. With `cutoff` None every pair of a free cluster interacts.
    """

    epsilon: tuple[float, float, float] = (1.0, 1.5, 0.5)
    sigma: tuple[float, float, float] = (1.0, 0.8, 0.88)
    cutoff: float | None = eqx.field(default=2.5, kw_only=True)
    truncation: str = eqx.field(static=True, default="cut", kw_only=True)
    onset: float | None = eqx.field(default=None, kw_only=True)
    minimum_image: bool = eqx.field(static=True, default=False, kw_only=True)
    species: tuple[int, int] = eqx.field(static=True, default=(18, 10), kw_only=True)

    def __check_init__(self):
        check_truncation(self.truncation, self.cutoff, self.onset)
        if len(self.species) != 2 or self.species[0] == self.species[1] or min(self.species) < 0:
            raise InputError(f"species are {self.species}; a binary mixture needs two different atomic numbers")
        for name, values in (("epsilon", self.epsilon), ("sigma", self.sigma)):
            numbers = [v for v in values if isinstance(v, int | float)]
            if len(values) != 3 or (numbers and not min(numbers) > 0):
                raise InputError(f"{name} is {values}; give three positive numbers, of AA, AB and BB")

    @property
    def reach(self) -> float | None:
        return None if self.cutoff is None else float(self.cutoff) * float(max(self.sigma))

    def units(self, numbers: np.ndarray) -> tuple[str, str]:
        return "ε", "σ"

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        dtype = positions.dtype
        # 0 for A, 1 for B, NaN for anything else, which so has no energy. Parameters of a pair are bilinear in these two
        # numbers: arithmetic, where tables (atoms, atoms, lanes) of mixtures that swap atoms would not fit the caches.
        a, b = self.species
        kind = jnp.where(numbers == b, 1, jnp.where((numbers == a) | (numbers < 0), 0, jnp.nan)).astype(dtype)
        sigma2, epsilon4 = (_bilinear(c, kind) for c in ([s**2 for s in self.sigma], [4 * e for e in self.epsilon]))
        shape = (positions.shape[0], *positions.shape[2:])

        def row(pairs, r2, d, row, carry):
            energy, push_sums, virial_sums = carry
            partner, mine = pairs.partner, pairs.own(kind)
            own2 = partner(sigma2[0]) + partner(sigma2[1]) * mine
            strength = partner(epsilon4[0]) + partner(epsilon4[1]) * mine
            value, slope = self._pair(r2, own2, strength)
            return energy + 0.5 * value, *push(push_sums, virial_sums, -2 * slope, d)

        zero = jnp.zeros(shape, dtype)
        start = (zero + kind * 0, (zero,) * 3, (zero,) * 6 if virial else ())
        atomic, forces, virials = sum_rows(row, positions, numbers, start, None, space, neighbors)
        farthest = None if self.cutoff is None else self.cutoff * jnp.max(jnp.asarray(self.sigma))
        return assembled(atomic, forces, virials, numbers, space, farthest)

    def _pair(self, r2, sigma2, epsilon4):
        """Energy of pairs and its slope by the squared distance."""

        def pair(r2):
            inverse = 1 / r2
            s2 = sigma2 * inverse
            s6 = s2 * s2 * s2
            return epsilon4 * s6 * (s6 - 1), -3 * epsilon4 * s6 * (2 * s6 - 1) * inverse

        if self.cutoff is None:
            return pair(r2)
        if self.truncation == "cut":
            # As `truncated`, but a sixth faster: everything follows from one inverse. A NaN is not beyond, and stays.
            beyond = sigma2 * (1 / r2) * self.cutoff**2 <= 1
            return tuple(jnp.where(beyond, 0, v) for v in pair(r2))
        on2 = None if self.onset is None else self.onset**2 * sigma2
        return truncated_at_square(pair, r2, self.cutoff**2 * sigma2, self.truncation, on2)

    def check(self, numbers: np.ndarray) -> None:
        strangers = set(np.unique(numbers)) - {*self.species, -1}
        if strangers:
            from ase.data import chemical_symbols

            a, b = (chemical_symbols[z] for z in self.species)
            raise InputError(
                f"the species of this mixture are {a} (A) and {b} (B), and {chemical_symbols[min(strangers)]} is neither; "
                "set potential.species"
            )

    def _kinds(self, numbers: np.ndarray) -> np.ndarray:
        self.check(numbers)
        return (np.asarray(numbers) == self.species[1]).astype(int)

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Pair minima of each atom with its own kind."""
        return 2 ** (1 / 6) * np.asarray(self.sigma, float)[2 * self._kinds(numbers)]

    def energy_scale(self, numbers: np.ndarray) -> float:
        """Well depth of a pair, averaged over the pairs of a random mixture of this composition."""
        atoms = np.asarray(numbers)
        share = self._kinds(atoms[atoms >= 0]).mean() if (atoms >= 0).any() else 0.0
        return float(np.dot(self.epsilon, [(1 - share) ** 2, 2 * share * (1 - share), share**2]))


def _bilinear(values, kind):
    """c and k with parameter(i, j) = c_i + k_i kind_j, from the parameters of AA, AB and BB."""
    aa, ab, bb = values
    return aa + (ab - aa) * kind, (ab - aa) + (aa - 2 * ab + bb) * kind
