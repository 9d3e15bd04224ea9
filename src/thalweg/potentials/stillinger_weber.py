"""Stillinger-Weber silicon without sums over triplets.

The three-body energy of atom i, a sum over pairs of its neighbours of g_j g_k (cos(theta_jik) - cos0)^2, is a polynomial in
three moments of its neighbours' unit vectors u: M0 = sum g, M1 = sum g u, M2 = sum g u u. So two passes over pairs do:
moments first; then forces, which are linear in the moments of both atoms of a pair.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation, Potential, assembled
from thalweg.potentials.rows import sum_rows

#: Axes of the six components of a symmetric tensor: xx, yy, zz, yz, xz, xy (Voigt's order).
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class StillingerWeber(Potential):
    """Silicon of F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262; eV and Å.

    A pair has epsilon A (B (sigma/r)^4 - 1) exp(sigma/(r - a sigma)), and each angle at i
    lambda epsilon (cos(theta) - cos0)^2 exp(gamma sigma/(r_ij - a sigma)) exp(gamma sigma/(r_ik - a sigma)); both vanish with
    all derivatives at a sigma. `epsilon` is the 2.16826 eV that give silicon's cohesive energy (the paper rounds to
    50 kcal/mol = 2.1682 eV). `species` is the atomic number treated; other one-component crystals of this form (germanium,
    water-like mW) are a matter of parameters.
    """

    epsilon: float = 2.16826
    sigma: float = 2.0951
    A: float = 7.049556277
    B: float = 0.6022245584
    lambda_: float = 21.0
    gamma: float = 1.2
    cos0: float = -1 / 3
    a: float = 1.8
    species: int = eqx.field(static=True, default=14, kw_only=True)
    minimum_image: bool = eqx.field(static=True, default=False, kw_only=True)

    @property
    def reach(self) -> float:
        return float(self.a) * float(self.sigma)

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        dtype = positions.dtype
        # A stranger makes the sums of everything near it NaN, instead of passing for silicon.
        zero = jnp.where((numbers == self.species) | (numbers < 0), 0, jnp.nan).astype(dtype)
        zero = zero + jnp.zeros((positions.shape[0], *positions.shape[2:]), dtype)

        def moments(_pairs, r2, d, row, carry):
            _, inverse, t = self._decay(r2)
            g = jnp.exp(self.gamma * t)
            u = [inverse * c for c in d]
            gu = [g * c for c in u]
            tensor = [gu[i] * u[j] for i, j in _VOIGT]
            pair, _ = self._two_body(inverse, t)
            return tuple(sum_ + c for sum_, c in zip(carry, (pair, g * g, g, *gu, *tensor), strict=True))

        # The unit vectors here point from neighbour to atom, which only changes the sign of the vectorial moment.
        two, square, *moment = sum_rows(moments, positions, numbers, (zero,) * 12, None, space, neighbors)
        atomic = 0.5 * two + self._three_body(moment, square)

        def forces(pairs, r2, d, row, carry):
            # Moments of both atoms as seen along d: odd ones change sign with the direction.
            even = [pairs.own(m) + pairs.partner(m) for m in (moment[0], *moment[4:])]
            odd = [pairs.own(m) - pairs.partner(m) for m in moment[1:4]]
            push = self._push(r2, d, even, odd)
            pushed = tuple(f + p for f, p in zip(carry[0], push, strict=True))
            if not virial:
                return pushed, ()
            return pushed, tuple(
                w + 0.25 * (push[i] * d[j] + push[j] * d[i]) for w, (i, j) in zip(carry[1], _VOIGT, strict=True)
            )

        start = ((zero,) * 3, (zero,) * 6 if virial else ())
        total, virials = sum_rows(forces, positions, numbers, start, None, space, neighbors)
        return assembled(atomic, total, virials, numbers, space, self.a * self.sigma)

    def _decay(self, r2):
        """r, 1/r and sigma/(r - a sigma), the latter so negative beyond the cutoff that its exponential is exactly 0."""
        r = jnp.sqrt(r2)
        gap = jnp.minimum(r - self.a * self.sigma, -1e-3 * self.sigma)
        both = 1 / (r * gap)  # one division serves two inverses
        return r, both * gap, self.sigma * (both * r)

    def _two_body(self, inverse, t):
        """Energy of a pair and its derivative by the distance."""
        s2 = (self.sigma * inverse) ** 2
        s4 = s2 * s2
        decay = self.A * self.epsilon * jnp.exp(t)
        bracket = self.B * s4 - 1
        # d/dr of sigma/(r - a sigma) is -t^2/sigma.
        return decay * bracket, -decay * (4 * self.B * s4 * inverse + bracket * t * t / self.sigma)

    def _three_body(self, moment, square):
        """Three-body energy of each atom from its moments: half the sum over ordered pairs of different neighbours."""
        m0, m1, m2 = moment[0], moment[1:4], moment[4:]
        c = self.cos0
        tensor = sum(m * m for m in m2[:3]) + 2 * sum(m * m for m in m2[3:])
        vector = sum(m * m for m in m1)
        return 0.5 * self.lambda_ * self.epsilon * (tensor - 2 * c * vector + c * c * m0 * m0 - (1 - c) ** 2 * square)

    def _push(self, r2, d, even, odd):
        """Force (three components) of a pair on its atom, from the pair itself and the angles at both of its atoms.

        With u = d/r, V' the slope of the pair energy, T0 and T2 the sums and T1 the difference (atom less partner) of the
        moments, and Q = u.T2 u, L = cos0 T1.u, the force is -u V' - lambda epsilon times
        u [g' (Q - 2 L + cos0^2 T0 - 2 (1 - cos0)^2 g) - 2 g/r (Q - L)] + 2 g/r [T2 u - cos0 T1].
        """
        r, inverse, t = self._decay(r2)
        c, (t0, xx, yy, zz, yz, xz, xy), (x, y, z) = self.cos0, even, d
        g = self.lambda_ * self.epsilon * jnp.exp(self.gamma * t)
        toward = (xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z)
        inverse2 = inverse * inverse
        quadratic = sum(v * k for v, k in zip(toward, d, strict=True)) * inverse2
        linear = c * inverse * sum(o * k for o, k in zip(odd, d, strict=True))
        own = 2 * (1 - c) ** 2 / (self.lambda_ * self.epsilon) * g
        # g' is -gamma/sigma t^2 g.
        bend = self.gamma / self.sigma * t * t * (quadratic - 2 * linear + c * c * t0 - own)
        along = self._two_body(inverse, t)[1] - g * (bend + 2 * inverse * (quadratic - linear))
        # A division, because XLA computes its result once for all three components; a product it would compute thrice,
        # with everything above. That is a third of the whole cost.
        along = along / r
        across = 2 * g * inverse2
        return [-(along * k + across * (v - c * r * o)) for k, v, o in zip(d, toward, odd, strict=True)]

    def check(self, numbers: np.ndarray) -> None:
        strangers = set(np.unique(numbers)) - {self.species, -1}
        if strangers:
            from ase.data import chemical_symbols

            known, other = chemical_symbols[self.species], chemical_symbols[min(strangers)]
            raise InputError(f"these Stillinger-Weber parameters are for {known}, not {other}; set potential.species")

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        """The minimum of the pair energy, 2^(1/6) sigma for silicon's A, B and a; the crystal has it too."""
        return np.full(len(numbers), 2 ** (1 / 6) * float(self.sigma))

    def energy_scale(self, numbers: np.ndarray) -> float:
        return float(self.epsilon)
