"""Rigid ions: Buckingham pairs and point charges, for oxides. Stand-ins of electronic structure that cost next to nothing.

A pair at distance r has q_i q_j / r + A exp(-b r) - C / r^6. Two things must be mended before a search may use it.

Below some distance -C / r^6 and the attraction of unlike charges win, and ions that overlap would fall into each other. Inside
the distance r_s at which the repulsion of the bare pair is strongest (its inflection) the Buckingham part is replaced
by u + v (r_s / r)^12 with the same value and slope at r_s: repulsive all the way down, and unchanged wherever ions are in
minima of ordinary energy.

The sum over charges does not converge in a cell. With a `cutoff` it is the damped shifted force (DSF) sum of C. J. Fennell and
J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006), doi:10.1063/1.2206581, after D. Wolf, P. Keblinski, S. R. Phillpot and
J. Eggebrecht, J. Chem. Phys. 110, 8254 (1999), doi:10.1063/1.478738: each ion sees its own neutralising charge on the sphere of
the cutoff, and force and energy end there smoothly. It holds for neutral systems, to some hundredths of an eV per ion.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cache
from math import pi, sqrt

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc

from thalweg.errors import InputError
from thalweg.potentials.base import Evaluation
from thalweg.potentials.pair import TypedPairPotential, check_truncation, truncated
from thalweg.potentials.rows import FAR

#: e^2 / (4 pi epsilon_0) in eV Å (CODATA 2018).
COULOMB = 14.3996454784
#: 1 kJ/mol in eV (CODATA 2018).
KJ_PER_MOL = 1 / 96.48533212331


class RigidIons(TypedPairPotential):
    """Buckingham pairs and point charges (see the module); eV and Å. Subclasses give the numbers.

    Without a `cutoff` every pair counts, by the bare Coulomb law: for free clusters. With one, in cells, charges are summed by
    DSF with the damping `alpha` (1/Å) and the Buckingham part ends by `truncation` (see `truncated` in `pair`).
    """

    cutoff: float | None
    alpha: float
    truncation: str = eqx.field(static=True)
    onset: float | None
    table: dict[str, np.ndarray]  # of pairs of species: (species, species); "charge": (species,)

    def __init__(
        self, *, cutoff: float | None = None, alpha: float = 0.2, truncation: str = "smooth", onset: float | None = None
    ):
        check_truncation("cut" if cutoff is None else truncation, cutoff, onset)
        if isinstance(alpha, int | float) and not alpha >= 0:
            raise InputError(f"alpha is {alpha}; the damping of charges must not be negative")
        self.cutoff, self.alpha, self.truncation, self.onset = cutoff, alpha, truncation, onset
        self.table = {k: v.copy() for k, v in _table(type(self)).items()}  # type: ignore[arg-type]

    @classmethod
    @abc.abstractmethod
    def charges(cls) -> dict[int, float]:
        """Charge of each species in units of e, by atomic number."""

    @classmethod
    @abc.abstractmethod
    def buckingham(cls) -> Mapping[tuple[int, int], tuple[float, float, float]]:
        """A (eV), b (1/Å) and C (eV Å^6) of pairs of species; pairs that are left out have only their charges."""

    def coefficients(self, numbers):
        species = jnp.asarray(list(self.charges()))
        match = numbers[None] == species.reshape(-1, *[1] * numbers.ndim)
        index = jnp.argmax(match, axis=0)
        # An unknown species must not pass for the first one: its pairs have no energy.
        stranger = ~(match.any(axis=0) | (numbers < 0))
        either = stranger[:, None] | stranger[None]
        pairs = {k: jnp.asarray(v) for k, v in self.table.items() if k != "charge"}
        return {k: jnp.where(either, jnp.nan, v[index[:, None], index[None]]) for k, v in pairs.items()}

    def pair_and_slope(self, r2, row):
        near2 = row["near"] ** 2

        def buckingham(r2):
            r = jnp.sqrt(r2)
            inverse2 = 1 / r2
            decay, c6 = row["A"] * jnp.exp(-row["b"] * r), row["C"] * inverse2**3
            core = row["v"] * (near2 * inverse2) ** 6
            value = jnp.where(r2 < near2, row["u"] + core, decay - c6)
            return value, jnp.where(r2 < near2, -6 * core, 3 * c6 - 0.5 * row["b"] * decay * r) * inverse2

        if self.cutoff is None:
            (value, slope), (charged, push) = buckingham(r2), _bare(r2)
            value, slope = value + row["qq"] * charged, slope + row["qq"] * push
            # Pairs that do not exist are `FAR` away, where 1/r is not yet nothing.
            return jnp.where(r2 < FAR, value, 0 * value), jnp.where(r2 < FAR, slope, 0 * slope)
        value, slope = truncated(buckingham, r2, self.cutoff, self.truncation, self.onset)
        charged, push = truncated(lambda r2: _damped(r2, self.cutoff, self.alpha), r2, self.cutoff, "cut")
        return value + row["qq"] * charged, slope + row["qq"] * push

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        out = super().lanes(positions, numbers, space, neighbors, virial)
        if self.cutoff is None:
            return out
        # Each ion with the neutralising charge on its own sphere, and the damping of a charge by itself.
        x = self.alpha * self.cutoff
        slope = erfc(x) / self.cutoff**2 + 2 * self.alpha / sqrt(pi) * jnp.exp(-x * x) / self.cutoff
        own = -COULOMB * ((erfc(x) / self.cutoff + slope * self.cutoff) / 2 + self.alpha / sqrt(pi))
        charge2 = sum(jnp.where(numbers == z, q * q, 0.0) for z, q in zip(self.charges(), self.table["charge"], strict=True))
        each = (own * charge2).astype(positions.dtype) * jnp.ones_like(out.atomic_energies)
        return Evaluation(out.energy + each.sum(0), out.forces, out.atomic_energies + each, out.ok, out.virial)

    @property
    def reach(self) -> float | None:
        return None if self.cutoff is None else float(self.cutoff)

    def farthest(self):
        return self.cutoff

    def energy_scale(self, numbers: np.ndarray) -> float:
        """1 eV: what it costs to rearrange an ion, not the tens of eV that an ion is bound by."""
        return 1.0

    def check(self, numbers: np.ndarray) -> None:
        known = self.charges()
        strangers = {int(z) for z in np.unique(numbers)} - {*known, -1}
        if strangers:
            from ase.data import chemical_symbols

            names = " and ".join(chemical_symbols[z] for z in known)
            raise InputError(f"{type(self).__name__} has parameters for {names}, not for {chemical_symbols[min(strangers)]}")


class BKS(RigidIons):
    """Silica of B. W. H. van Beest, G. J. Kramer and R. A. van Santen, PRL 64, 1955 (1990), doi:10.1103/PhysRevLett.64.1955.

    Charges Si +2.4 and O -1.2; Buckingham parts of Si-O and O-O.
    """

    @classmethod
    def charges(cls):
        return {14: 2.4, 8: -1.2}

    @classmethod
    def buckingham(cls):
        return {(14, 8): (18003.7572, 4.87318, 133.5381), (8, 8): (1388.7730, 2.76000, 175.0000)}


class MatsuiAkaogi(RigidIons):
    """Titania of M. Matsui and M. Akaogi, Mol. Simul. 6, 239 (1991), doi:10.1080/08927029108022067.

    Charges Ti +2.196 and O -1.098. The paper's pair energy is f (B_i + B_j) exp((A_i + A_j - r) / (B_i + B_j)) - C_i C_j / r^6
    with f = 4.184 kJ/(mol Å), A and B in Å, C in Å^3 (kJ/mol)^(1/2): a Buckingham potential.
    """

    @classmethod
    def charges(cls):
        return {22: 2.196, 8: -1.098}

    @classmethod
    def buckingham(cls):
        ions = {22: (1.1823, 0.077, 22.5), 8: (1.6339, 0.117, 54.0)}

        def of(i, j):
            (a, b, c), (a2, b2, c2) = ions[i], ions[j]
            return 4.184 * KJ_PER_MOL * (b + b2) * np.exp((a + a2) / (b + b2)), 1 / (b + b2), c * c2 * KJ_PER_MOL

        return {pair: of(*pair) for pair in ((22, 22), (22, 8), (8, 8))}


@cache
def _table(cls: type[RigidIons]) -> dict[str, np.ndarray]:
    """Parameters of pairs of species, with the repair of close ones."""
    charges, known = cls.charges(), cls.buckingham()
    species = list(charges)
    table = {k: np.zeros((len(species),) * 2) for k in ("A", "b", "C", "qq", "near", "u", "v")}
    for i, one in enumerate(species):
        for j, other in enumerate(species):
            a, b, c = known.get((one, other), known.get((other, one), (0.0, 0.0, 0.0)))
            qq = COULOMB * charges[one] * charges[other]
            near, u, v = _core(a, b, c, qq) if a > 0 else (0.0, 0.0, 0.0)
            for key, value in zip(table, (a, b, c, qq, near, u, v), strict=True):
                table[key][i, j] = value
    return {**table, "charge": np.array(list(charges.values()))}


def _core(a: float, b: float, c: float, qq: float) -> tuple[float, float, float]:
    """Where the bare pair pushes hardest, and u and v of the repulsion below."""
    from scipy.optimize import brentq

    bend = lambda r: 2 * qq / r**3 + a * b * b * np.exp(-b * r) - 42 * c / r**8
    grid = np.linspace(5.0, 0.3, 2000)
    last = np.flatnonzero((bend(grid)[:-1] >= 0) & (bend(grid)[1:] < 0))  # the first inflection from outside, where it pushes
    pushes = [k for k in last if qq / grid[k] ** 2 + a * b * np.exp(-b * grid[k]) - 6 * c / grid[k] ** 7 > 0]
    near = float(brentq(bend, grid[pushes[0] + 1], grid[pushes[0]], xtol=1e-14))  # type: ignore[arg-type]
    slope = 6 * c / near**7 - a * b * np.exp(-b * near)
    v = -near * slope / 12
    return near, a * np.exp(-b * near) - c / near**6 - v, v


def _bare(r2):
    """1/r and its derivative by the squared distance."""
    inverse = 1 / jnp.sqrt(r2)
    return inverse, -0.5 * inverse / r2


def _damped(r2, cutoff, alpha):
    """The damped shifted force form of 1/r, and its derivative by the squared distance."""
    r = jnp.sqrt(r2)
    width = 2 * alpha / sqrt(pi)
    at = lambda r, square: erfc(alpha * r) / square + width * jnp.exp(-(alpha * alpha) * square) / r
    rc2 = cutoff * cutoff
    end = at(cutoff, rc2)
    value = erfc(alpha * r) / r - erfc(alpha * cutoff) / cutoff + end * (r - cutoff)
    return value, 0.5 * (end - at(r, r2)) / r
