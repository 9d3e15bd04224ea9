"""Pair potentials: Lennard-Jones of any exponent, Morse, soft sphere, and any pair function a user writes."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.potentials.base import Evaluation, Potential, assembled
from thalweg.potentials.rows import FAR, per_pair, push, sum_rows

#: What becomes of a pair energy at its cutoff.
TRUNCATIONS = ("cut", "shift", "smooth")
#: Where smoothing begins, as a fraction of the cutoff, unless an onset is given (ASE's choice).
ONSET = 0.66


def pair_sum(pair, positions, numbers, tables, space, neighbors, virial: bool, reach) -> Evaluation:
    """Energy and forces of `pair(r2, row)`, which gives the energy of a pair and its derivative by the squared distance."""
    zero = jnp.zeros((positions.shape[0], *positions.shape[2:]), positions.dtype)

    def row(_pairs, r2, d, row, carry):
        energy, push_sums, virial_sums = carry
        value, slope = pair(r2, row)
        return energy + value / 2, *push(push_sums, virial_sums, -2 * slope, d)

    start = (zero, (zero,) * 3, (zero,) * 6 if virial else ())
    atomic, forces, virials = sum_rows(row, positions, numbers, start, tables, space, neighbors)
    return assembled(atomic, forces, virials, numbers, space, reach)


def truncated(pair, r2, cutoff, truncation: str, onset=None):
    """Energy and slope of `pair(r2)` (value, slope), zero beyond `cutoff`.

    "cut" leaves the step at the cutoff, "shift" lowers the energy by its value there (forces unchanged), "smooth"
    multiplies it from `onset` on by a polynomial of the squared distance that goes from 1 to 0 with vanishing slope at
    both ends (that of ASE's and jax-md's Lennard-Jones).
    """
    square = lambda length: None if length is None else jnp.asarray(length, r2.dtype) ** 2
    return truncated_at_square(pair, r2, square(cutoff), truncation, square(onset))


def truncated_at_square(pair, r2, rc2, truncation: str, on2=None):
    """`truncated` with squares of cutoff and onset, which may differ from pair to pair."""
    value, slope = pair(r2)
    if truncation == "shift":
        value = value - pair(rc2)[0]
    elif truncation == "smooth":
        on2 = (ONSET * ONSET) * rc2 if on2 is None else on2
        width3 = (rc2 - on2) ** 3
        factor = (rc2 - r2) ** 2 * (rc2 + 2 * r2 - 3 * on2) / width3
        bend = 6 * (rc2 - r2) * (on2 - r2) / width3
        begun = r2 > on2
        factor, bend = jnp.where(begun, factor, 1), jnp.where(begun, bend, 0)
        value, slope = value * factor, slope * factor + value * bend
    inside = r2 < rc2
    # Not a product with 0: a NaN must stay one.
    return jnp.where(inside, value, r2 * 0), jnp.where(inside, slope, r2 * 0)


def check_truncation(truncation: str, cutoff, onset=None) -> None:
    """Raise `InputError` for truncations that do not exist or make no sense."""
    if truncation not in TRUNCATIONS:
        raise InputError(f'no truncation "{truncation}".{suggest(truncation, TRUNCATIONS)}')
    if cutoff is None:
        if truncation != "cut":
            raise InputError(f'truncation "{truncation}" needs a cutoff; set potential.cutoff')
        return
    numbers = [x for x in (cutoff, onset) if isinstance(x, int | float)]
    if any(not 0 < x < float("inf") for x in numbers):
        raise InputError(f"the cutoff is {cutoff} and the onset {onset}; both must be positive")
    if any(x * x >= FAR for x in numbers):
        raise InputError(f"the cutoff is {cutoff}; it must be below {FAR**0.5:g}, so take a larger unit of length")
    if len(numbers) == 2 and onset >= cutoff:
        raise InputError(f"smoothing begins at {onset}, beyond the cutoff {cutoff}; lower potential.onset")


class PairPotential(Potential):
    """Sum over pairs of one function of the squared distance, the same for all species.

    Subclasses write `pair(r2)`; `pair_and_slope` may be overridden only by writing it instead (see `LennardJones`):
    the default differentiates `pair` in forward mode inside the loop, at about a third more cost than by hand. With a
    `cutoff` pairs beyond it do not interact; `truncation` says what happens there (see `truncated`). Periodic systems
    need one. `minimum_image` counts only the nearest image of each atom (see `thalweg.space`).
    """

    cutoff: float | None = eqx.field(default=None, kw_only=True)
    truncation: str = eqx.field(static=True, default="cut", kw_only=True)
    onset: float | None = eqx.field(default=None, kw_only=True)
    minimum_image: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        check_truncation(self.truncation, self.cutoff, self.onset)

    @abc.abstractmethod
    def pair(self, r2):
        """Energy of a pair at squared distance `r2`, element by element."""

    def pair_and_slope(self, r2):
        """The pair energy and its derivative with respect to the squared distance."""
        return jax.jvp(self.pair, (r2,), (jnp.ones_like(r2),))

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        if self.cutoff is None:
            pair = lambda r2, row: self.pair_and_slope(r2)
        else:
            pair = lambda r2, row: truncated(self.pair_and_slope, r2, self.cutoff, self.truncation, self.onset)
        return pair_sum(pair, positions, numbers, None, space, neighbors, virial, self.cutoff)


class TypedPairPotential(Potential):
    """Sum over pairs of a function of the squared distance whose parameters depend on both species.

    Subclasses write `coefficients` and `pair_and_slope`, truncation included, and `reach`.
    """

    @abc.abstractmethod
    def coefficients(self, numbers) -> dict:
        """Parameters of pairs: arrays (atoms, atoms, *lanes)."""

    @abc.abstractmethod
    def pair_and_slope(self, r2, row) -> tuple:
        """Energy of pairs and its derivative by the squared distance; `row` holds their parameters."""

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        tables = per_pair(self.coefficients, numbers, neighbors, positions.dtype)
        return pair_sum(self.pair_and_slope, positions, numbers, tables, space, neighbors, virial, self.farthest())

    @abc.abstractmethod
    def farthest(self):
        """The largest cutoff, traced or not."""


class LennardJones(PairPotential):
    """4 epsilon [(sigma/r)^12 - (sigma/r)^6], each pair once, no cutoff unless given; reduced units, or eV and Å as given.

    With epsilon = sigma = 1 the pair minimum is -1 at 2^(1/6) and energies are those of the Cambridge Cluster Database.
    """

    epsilon: float = 1.0
    sigma: float = 1.0

    def pair(self, r2):
        return self.pair_and_slope(r2)[0]

    def pair_and_slope(self, r2):
        inverse = self.sigma**2 / r2
        s6 = inverse * inverse * inverse
        # d/d(r2) of s6 is -3 s6 / r2.
        return 4 * self.epsilon * s6 * (s6 - 1), -12 * self.epsilon / self.sigma**2 * s6 * (2 * s6 - 1) * inverse

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), 2 ** (1 / 6) * float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


class GeneralisedLennardJones(PairPotential):
    """4 epsilon [(sigma/r)^2n - (sigma/r)^n]: Lennard-Jones is n = 6, larger `n` are narrower wells of the same depth.

    The minimum, -epsilon, is at 2^(1/n) sigma. n is a whole number, so that powers are multiplications.
    """

    epsilon: float = 1.0
    sigma: float = 1.0
    n: int = eqx.field(static=True, default=6)

    def __check_init__(self):
        if self.n < 1:
            raise InputError(f"the exponent n is {self.n}; it must be a positive whole number")

    def pair(self, r2):
        return self.pair_and_slope(r2)[0]

    def pair_and_slope(self, r2):
        inverse = self.sigma**2 / r2
        s = jax.lax.integer_pow(inverse, self.n // 2)
        s = s * jnp.sqrt(inverse) if self.n % 2 else s
        # d/d(r2) of s is -n/2 s / r2.
        return 4 * self.epsilon * s * (s - 1), -2 * self.n * self.epsilon / self.sigma**2 * s * (2 * s - 1) * inverse

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), 2 ** (1 / self.n) * float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


class CSHGel(GeneralisedLennardJones):
    """Grains of calcium-silicate-hydrate, the glue of cement: a 28-14 Lennard-Jones of 50 Å grains, in kcal/mol and Å.

    E. Masoero, E. Del Gado, R. J.-M. Pellenq, F.-J. Ulm, S. Yip, Phys. Rev. Lett. 109, 155503 (2012),
    doi:10.1103/PhysRevLett.109.155503, for grains of one size; epsilon and the cutoff of three diameters as in
    StriderNet (ICML 2023).
    """

    epsilon: float = 2660.77425533
    sigma: float = 50.0
    n: int = eqx.field(static=True, default=14)
    cutoff: float | None = eqx.field(default=150.0, kw_only=True)

    def units(self, numbers: np.ndarray) -> tuple[str, str]:
        return "kcal/mol", "Å"


class Morse(PairPotential):
    """epsilon [exp(-2 rho (r/r0 - 1)) - 2 exp(-rho (r/r0 - 1))], no cutoff; well depth epsilon at r0.

    `rho` is the range parameter of Doye and Wales, J. Chem. Soc., Faraday Trans. 93, 4233 (1997),
    doi:10.1039/a706221d: 3, 6, 10 and 14 go from long- to short-ranged.
    """

    rho: float = 6.0
    epsilon: float = 1.0
    r0: float = 1.0

    def pair(self, r2):
        return self.pair_and_slope(r2)[0]

    def pair_and_slope(self, r2):
        r = jnp.sqrt(r2)
        decay = jnp.exp(-self.rho * (r / self.r0 - 1))
        value = self.epsilon * decay * (decay - 2)
        return value, -self.epsilon * self.rho / self.r0 * decay * (decay - 1) / r

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), float(self.r0))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)


class SoftSphere(PairPotential):
    """epsilon/alpha (1 - r/sigma)^alpha below `sigma`, zero beyond: pushes overlapping atoms apart.

    Used to prepare starts (jax-md's `soft_sphere`; Learn2Hop's harmonic initialisation is alpha = 2).
    """

    sigma: float = 1.0
    epsilon: float = 1.0
    alpha: float = 2.0

    def pair(self, r2):
        r = jnp.sqrt(jnp.maximum(r2, 1e-12))
        gap = jnp.maximum(1 - r / self.sigma, 0)
        return self.epsilon / self.alpha * gap**self.alpha

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return np.full(len(numbers), float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)
