"""Embedded-atom potentials of metals: the second-moment (Gupta) and Sutton-Chen forms.

The energy of atom i is a pair sum plus a function F of its density: E_i = sum_j v(r_ij) + F(sum_j rho(r_ij)). Two passes
over the rows of pairs: sums of v and rho first; then forces, for which F'(rho) of both atoms must be known. With a cutoff
both v and rho end there.
"""

from __future__ import annotations

import abc
import csv
from functools import cache
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.potentials.base import Evaluation, Potential, assembled
from thalweg.potentials.pair import check_truncation, truncated
from thalweg.potentials.rows import once, per_pair, push, sum_rows

#: Neighbours of an fcc atom shell by shell and their squared distances in units of the nearest.
_FCC_COUNTS = np.array([12, 6, 24, 12, 24, 8, 48, 6, 36, 24])
_FCC_SQUARES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], float)


class EmbeddedPotential(Potential):
    """Base of embedded-atom potentials whose pair functions are symmetric: v_ij = v_ji and rho_ij = rho_ji.

    Subclasses write `coefficients`, `pair` and `embedding`; `pair_and_slopes` may be written instead of differentiating
    `pair` in forward mode. `cutoff`, `truncation`, `onset` and `minimum_image` are those of pair potentials and apply to
    v and to rho.
    """

    cutoff: float | None = eqx.field(default=None, kw_only=True)
    truncation: str = eqx.field(static=True, default="cut", kw_only=True)
    onset: float | None = eqx.field(default=None, kw_only=True)
    minimum_image: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        check_truncation(self.truncation, self.cutoff, self.onset)

    @abc.abstractmethod
    def coefficients(self, numbers) -> tuple[dict, dict]:
        """Parameters of pairs, arrays (atoms, atoms, *lanes), and of atoms, arrays (atoms, *lanes)."""

    @abc.abstractmethod
    def pair(self, r2, row) -> tuple:
        """v and rho at squared distance `r2` (atoms, *lanes); `row` holds one row of the pair parameters.

        v is what the pair adds to each of its two atoms.
        """

    @abc.abstractmethod
    def embedding(self, density, atoms) -> tuple:
        """F and dF/d(density), element by element; finite also where the density is 0."""

    def pair_and_slopes(self, r2, row) -> tuple:
        """((v, rho), their derivatives with respect to the squared distance)."""
        return jax.jvp(lambda r2: self.pair(r2, row), (r2,), (jnp.ones_like(r2),))

    def _truncated(self, r2, row) -> tuple:
        """`pair_and_slopes` with v and rho zero beyond the cutoff."""
        if self.cutoff is None:
            return self.pair_and_slopes(r2, row)

        def one(k):
            def value_and_slope(r2):
                values, slopes = self.pair_and_slopes(r2, row)
                return values[k], slopes[k]

            return truncated(value_and_slope, r2, self.cutoff, self.truncation, self.onset)

        return tuple(zip(one(0), one(1), strict=True))

    def lanes(self, positions, numbers, space=None, neighbors=None, virial: bool = False) -> Evaluation:
        dtype = positions.dtype
        pairs = per_pair(lambda z: self.coefficients(z)[0], numbers, neighbors, dtype)
        atoms = {k: v.astype(dtype) for k, v in self._of_atoms(numbers, neighbors).items()}
        zero = jnp.zeros((positions.shape[0], *positions.shape[2:]), dtype)

        def sums(_pairs, r2, d, row, carry):
            (v, rho), _ = self._truncated(r2, row)
            return carry[0] + v, carry[1] + rho

        repulsion, density = sum_rows(sums, positions, numbers, (zero, zero), pairs, space, neighbors)
        embedded, pull = self.embedding(density, atoms)

        def pushed(at, r2, d, row, carry):
            _, (v_slope, rho_slope) = self._truncated(r2, row)
            g = -2 * (2 * v_slope + (at.own(pull) + at.partner(pull)) * rho_slope)
            return push(carry[0], carry[1], once(g, d), d)

        start = ((zero,) * 3, (zero,) * 6 if virial else ())
        forces, virials = sum_rows(pushed, positions, numbers, start, pairs, space, neighbors)
        return assembled(repulsion + embedded, forces, virials, numbers, space, self.cutoff)

    def _of_atoms(self, numbers, neighbors) -> dict:
        """Parameters of atoms, without tables of all pairs where there is a neighbour list."""
        if neighbors is None:
            return self.coefficients(numbers)[1]
        return {k: v[neighbors.kind] for k, v in self.coefficients(jnp.asarray(neighbors.species))[1].items()}


def _root(density):
    """sqrt and its derivative, both 0 at density 0 (an atom without neighbours feels no force)."""
    some = density > 0
    root = jnp.sqrt(jnp.where(some, density, 1))
    return jnp.where(some, root, density), jnp.where(some, 0.5 / root, 0)


@cache
def _table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a parameter table of the package."""
    text = resources.files("thalweg.potentials").joinpath("data", name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _symbols(numbers) -> list[str]:
    """Chemical symbols of the species in `numbers`, padding ignored, each once."""
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in np.unique(np.asarray(numbers)) if z >= 0]


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    return atomic_numbers[symbol]


class Gupta(EmbeddedPotential):
    """E = sum_i [sum_j A exp(-p(r/r0-1)) - sqrt(sum_j xi^2 exp(-2q(r/r0-1)))], eV and Å; j runs over all atoms but i.

    R. P. Gupta, Phys. Rev. B 23, 6265 (1981), doi:10.1103/PhysRevB.23.6265. `parameters` names a set of the table in
    `data/gupta.csv` (sources there): "cleri-rosato" (pure Ni Cu Rh Pd Ag Ir Pt Au Al Pb), "ag-au", "ag-pt", "pd-au", "pd-pt",
    "gold55" (gold with a cutoff of 8 Å), or "auto": for each structure the first of these, gold55 left out, that knows all its
    pairs. Mixing energies need the alloy's own set also for its pure metals, which "auto" does not choose. Without a
    `cutoff` all atoms of a cluster interact; gold55 has its own.
    """

    parameters: str = eqx.field(static=True)
    sets: tuple[str, ...] = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    table: dict[str, np.ndarray]  # A, xi, p, q, r0: (sets, species, species), NaN where a set does not know the pair

    def __init__(
        self,
        parameters: str = "auto",
        *,
        cutoff: float | None = None,
        truncation: str = "cut",
        onset: float | None = None,
        minimum_image: bool = False,
    ):
        rows = _table("gupta.csv")
        known = list(dict.fromkeys(row["set"] for row in rows))
        if parameters not in ("auto", *known):
            raise InputError(f'no Gupta parameters "{parameters}".{suggest(parameters, ["auto", *known])}')
        self.parameters = parameters
        self.sets = tuple(s for s in known if s != "gold55") if parameters == "auto" else (parameters,)
        rows = [row for row in rows if row["set"] in self.sets]
        self.species = tuple(sorted({_atomic_number(row[k]) for row in rows for k in ("first", "second")}))
        n = len(self.species)
        self.table = {name: np.full((len(self.sets), n, n), np.nan) for name in ("A", "xi", "p", "q", "r0")}
        for row in rows:
            i, j = (self.species.index(_atomic_number(row[k])) for k in ("first", "second"))
            for name, values in self.table.items():
                values[self.sets.index(row["set"]), [i, j], [j, i]] = float(row[name])
        self.cutoff = 8.0 if cutoff is None and parameters == "gold55" else cutoff
        self.truncation, self.onset, self.minimum_image = truncation, onset, minimum_image

    def coefficients(self, numbers):
        lanes = numbers.shape[1:]
        spread = lambda a: a.reshape(*a.shape, *[1] * len(lanes))
        atom = numbers >= 0
        match = numbers[None] == spread(jnp.asarray(self.species)[:, None])  # (species, atoms, *lanes)
        index = jnp.argmax(match, axis=0)
        held = match.any(axis=1)  # (species, *lanes)
        unknown = spread(~jnp.isfinite(self.table["r0"]))  # (sets, species, species, ...)
        chosen = jnp.argmin((held[:, None] & held[None] & unknown).any(axis=(1, 2)), axis=0)
        both = atom[:, None] & atom[None]
        # An unknown species must not pass for the first one of the table: its pairs have no energy.
        stranger = ~(match.any(axis=0) | ~atom).all(axis=0)

        def pick(table):
            values = jnp.asarray(table)[chosen, index[:, None], index[None]]
            return jnp.where(both, jnp.where(stranger, jnp.nan, values), 1)

        a, xi, p, q, r0 = (pick(self.table[name]) for name in ("A", "xi", "p", "q", "r0"))
        # Exponents are written c - k r, which saves operations in the loop over pairs.
        return {"c_v": jnp.log(a) + p, "k_v": p / r0, "c_rho": 2 * (jnp.log(xi) + q), "k_rho": 2 * q / r0}, {}

    def pair(self, r2, row):
        return self.pair_and_slopes(r2, row)[0]

    def pair_and_slopes(self, r2, row):
        r = jnp.sqrt(r2)
        v = jnp.exp(row["c_v"] - row["k_v"] * r)
        rho = jnp.exp(row["c_rho"] - row["k_rho"] * r)
        half = -0.5 / r  # coincident atoms: no direction, and the force is NaN as it must be
        return (v, rho), (half * row["k_v"] * v, half * row["k_rho"] * rho)

    def embedding(self, density, atoms):
        root, slope = _root(density)
        return -root, -slope

    def _chosen(self, numbers: np.ndarray) -> tuple[int, np.ndarray]:
        """Index of the set that knows all pairs of `numbers`, and the index of each atom in `species`; raises `InputError`."""
        symbols = _symbols(numbers)
        index = [self.species.index(_atomic_number(s)) for s in symbols if _atomic_number(s) in self.species]
        known = np.isfinite(np.asarray(self.table["r0"]))[:, index][:, :, index].all(axis=(1, 2))
        if len(index) == len(symbols) and known.any():
            atoms = np.asarray(numbers)
            return int(np.argmax(known)), np.array([self.species.index(int(z)) for z in atoms[atoms >= 0]])
        raise InputError(f"no Gupta parameters for {'-'.join(symbols)} in {self._described()}")

    def _described(self) -> str:
        """The sets at hand with their species, for messages."""
        from ase.data import chemical_symbols

        finite = np.logical_or.reduce(np.isfinite(np.asarray(self.table["r0"])), axis=2)
        names = [" ".join(chemical_symbols[self.species[i]] for i in np.flatnonzero(row)) for row in finite]
        return "; ".join(f'"{name}" ({held})' for name, held in zip(self.sets, names, strict=True))

    def check(self, numbers: np.ndarray) -> None:
        self._chosen(numbers)

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        chosen, index = self._chosen(numbers)
        lengths = np.ones(len(numbers))
        lengths[np.asarray(numbers) >= 0] = np.asarray(self.table["r0"])[chosen, index, index]
        return lengths

    def energy_scale(self, numbers: np.ndarray) -> float:
        """Cohesive energy of the fcc crystal at r0 over 6, the bonds an atom owns there; mean over the atoms (eV)."""
        chosen, index = self._chosen(numbers)
        a, xi, p, q = (np.asarray(self.table[name], float)[chosen, index, index][:, None] for name in ("A", "xi", "p", "q"))
        x = np.sqrt(_FCC_SQUARES) - 1
        repulsion = (_FCC_COUNTS * a * np.exp(-p * x)).sum(1)
        return float((np.sqrt((_FCC_COUNTS * xi**2 * np.exp(-2 * q * x)).sum(1)) - repulsion).mean() / 6)


class SuttonChen(EmbeddedPotential):
    """E = sum_i epsilon [1/2 sum_j (a/r)^n - c sqrt(sum_j (a/r)^m)], no cutoff unless given; eV and Å, or reduced units.

    A. P. Sutton and J. Chen, Phil. Mag. Lett. 61, 139 (1990), doi:10.1080/09500839008206493. `parameters` names a set of
    `data/sutton_chen.csv`: "metals" (Ni Cu Rh Pd Ag Ir Pt Au Pb Al) or, for model particles X, "12-6", "9-6" and "10-8" with
    epsilon = a = 1. Pairs of unlike metals follow H. Rafii-Tabar and A. P. Sutton, Phil. Mag. Lett. 63, 217
    (1991): means of n and m, geometric means of epsilon and a.
    """

    parameters: str = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    table: dict[str, np.ndarray]  # n, m, epsilon, c, a: (species,)

    def __init__(
        self,
        parameters: str = "metals",
        *,
        cutoff: float | None = None,
        truncation: str = "cut",
        onset: float | None = None,
        minimum_image: bool = False,
    ):
        rows = _table("sutton_chen.csv")
        known = list(dict.fromkeys(row["set"] for row in rows))
        if parameters not in known:
            raise InputError(f'no Sutton-Chen parameters "{parameters}".{suggest(parameters, known)}')
        rows = [row for row in rows if row["set"] == parameters]
        self.parameters = parameters
        self.cutoff, self.truncation, self.onset, self.minimum_image = cutoff, truncation, onset, minimum_image
        self.species = tuple(_atomic_number(row["species"]) for row in rows)
        self.table = {name: np.array([float(row[name]) for row in rows]) for name in ("n", "m", "epsilon", "c", "a")}

    def coefficients(self, numbers):
        match = numbers[None] == jnp.asarray(self.species).reshape(-1, *[1] * numbers.ndim)
        stranger = (numbers >= 0) & ~match.any(axis=0)
        index = jnp.argmax(match, axis=0)
        one = {k: jnp.where(stranger, jnp.nan, jnp.asarray(v)[index]) for k, v in self.table.items()}
        mean = lambda v: (v[:, None] + v[None]) / 2
        pairs = {
            "log_a2": mean(2 * jnp.log(one["a"])),
            "log_half_epsilon": mean(jnp.log(one["epsilon"])) - np.log(2),
            "half_n": mean(one["n"]) / 2,
            "half_m": mean(one["m"]) / 2,
        }
        return pairs, {"strength": one["epsilon"] * one["c"]}

    def pair(self, r2, row):
        return self.pair_and_slopes(r2, row)[0]

    def pair_and_slopes(self, r2, row):
        # Powers of a/r by one logarithm and two exponentials: a general power costs both, each time.
        ratio = row["log_a2"] - jnp.log(r2)
        v = jnp.exp(row["log_half_epsilon"] + row["half_n"] * ratio)
        rho = jnp.exp(row["half_m"] * ratio)
        inverse = -1 / r2
        return (v, rho), (row["half_n"] * v * inverse, row["half_m"] * rho * inverse)

    def embedding(self, density, atoms):
        root, slope = _root(density)
        return -atoms["strength"] * root, -atoms["strength"] * slope

    def check(self, numbers: np.ndarray) -> None:
        from ase.data import chemical_symbols

        for symbol in _symbols(numbers):
            if _atomic_number(symbol) not in self.species:
                known = " ".join(chemical_symbols[z] for z in self.species)
                raise InputError(f'no Sutton-Chen parameters for {symbol} in "{self.parameters}" ({known})')

    def _own(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """A parameter of each atom; padding takes the first species'."""
        self.check(numbers)
        index = [self.species.index(int(z)) if z >= 0 else 0 for z in np.asarray(numbers)]
        return np.asarray(self.table[name], float)[index]

    def bond_lengths(self, numbers: np.ndarray) -> np.ndarray:
        return self._own("a", numbers) / np.sqrt(2)

    def energy_scale(self, numbers: np.ndarray) -> float:
        """Cohesive energy of the fcc crystal at lattice constant a over 6, the bonds an atom owns; mean over the atoms."""
        n, m, epsilon, c = (self._own(name, numbers)[:, None] for name in ("n", "m", "epsilon", "c"))
        ratio2 = 2 / _FCC_SQUARES  # (a/r)^2 of each shell
        root = np.sqrt((_FCC_COUNTS * ratio2 ** (m / 2)).sum(1, keepdims=True))
        pairs = (_FCC_COUNTS * ratio2 ** (n / 2)).sum(1, keepdims=True)
        return float((epsilon * (c * root - pairs / 2)).mean() / 6)
