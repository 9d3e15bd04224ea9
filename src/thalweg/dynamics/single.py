"""What a Monte Carlo move costs: the change of energy where one or two atoms change, in time proportional to their number."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.pair import LennardJones, PairPotential, TypedPairPotential, truncated
from thalweg.space import Space
from thalweg.typing import Array

#: Potentials that are sums over pairs, of which `pair_energy` knows the pair.
PAIRWISE = (PairPotential, TypedPairPotential, BinaryLennardJones)


def pair_energy(potential: Potential, species: tuple[int, ...], r2, mine, theirs):
    """Energies of pairs at squared distances `r2` (atoms, lanes) between atomic numbers (lanes,) and (atoms, lanes)."""
    if isinstance(potential, PairPotential):
        if potential.cutoff is None:
            return potential.pair_and_slope(r2)[0]
        return truncated(potential.pair_and_slope, r2, potential.cutoff, potential.truncation, potential.onset)[0]
    if isinstance(potential, BinaryLennardJones):
        kinds = (mine == potential.species[1]).astype(r2.dtype) + (theirs == potential.species[1])
        of = lambda values: jnp.where(kinds == 0, values[0], jnp.where(kinds == 1, values[1], values[2]))
        r2, unit = r2 / of(potential.sigma) ** 2, LennardJones().pair_and_slope
        if potential.cutoff is None:
            return of(potential.epsilon) * unit(r2)[0]
        return of(potential.epsilon) * truncated(unit, r2, potential.cutoff, potential.truncation, potential.onset)[0]
    assert isinstance(potential, TypedPairPotential)
    tables = {k: v.astype(r2.dtype) for k, v in potential.coefficients(np.asarray(species)).items()}
    # Chosen by comparison: a gather from a small table costs more than the pair.
    by = lambda number, values: sum(jnp.where(number == z, v, 0) for z, v in zip(species, values, strict=True))
    row = {k: by(theirs, [by(mine, list(v[:, m])) for m in range(len(species))]) for k, v in tables.items()}
    return potential.pair_and_slope(r2, row)[0]


class Trial(eqx.Module):
    """What some slots would become: places (sites, 3, lanes), atomic numbers (sites, lanes), -1 for no atom."""

    sites: Array  # (sites, lanes)
    places: Array
    species: Array

    @classmethod
    def of(cls, positions, numbers, sites) -> Trial:
        """The slots as they are."""
        place = lambda site: jnp.take_along_axis(positions, site[None, None], 0)[0]
        number = lambda site: jnp.take_along_axis(numbers, site[None], 0)[0]
        return cls(sites, jnp.stack([place(s) for s in sites]), jnp.stack([number(s) for s in sites]))

    def applied(self, positions, numbers, mask):
        """Positions and numbers after it, in the lanes of `mask`."""
        for site, place, number in zip(self.sites, self.places, self.species, strict=True):
            positions, numbers = put(positions, site, place, mask), put(numbers, site, number, mask)
        return positions, numbers


class Energies(eqx.Module):
    """Energies of configurations and of changes, lanes last. `species` are all atomic numbers that occur."""

    potential: Potential
    space: Space | None
    species: tuple[int, ...] = eqx.field(static=True)

    @property
    def pairwise(self) -> bool:
        """True where a move costs a sum over one atom's pairs instead of over all."""
        return isinstance(self.potential, PAIRWISE)

    def whole(self, positions, numbers, virial: bool = False):
        """The evaluation of configurations."""
        return self.potential.lanes(positions, numbers, self.space, virial=virial)

    def change(self, energy, positions, numbers, trial: Trial):
        """Energy (lanes,) after a trial less that before, which is `energy`, of positions (atoms, 3, lanes) and numbers.

        Of two sites the pair between them counts twice, before and after; so it must stay at its distance.
        """
        if not self.pairwise:
            out = self.whole(*trial.applied(positions, numbers, True))
            return jnp.where(out.ok, out.energy - energy, jnp.inf)
        before = Trial.of(positions, numbers, trial.sites)
        sites = jnp.concatenate([trial.sites, trial.sites])
        places = jnp.concatenate([trial.places, before.places])
        species = jnp.concatenate([trial.species, before.species])
        one = len(trial.sites) == 1
        if not one:
            after = trial.applied(positions, numbers, True)[1]
            numbers = jnp.stack([after] * len(trial.sites) + [numbers] * len(trial.sites))
        # One kernel for all of them: compiled once, and twice as long where there are few lanes.
        each = jax.vmap(self.of_atom, in_axes=(None, None if one else 0, 0, 0, 0))(positions, numbers, sites, places, species)
        return each[: len(trial.sites)].sum(0) - each[len(trial.sites) :].sum(0)

    def of_atom(self, positions, numbers, site, place, mine):
        """Energy (lanes,) of an atom `mine` (lanes,) at `place` (3, lanes) with all atoms but that in slot `site` (lanes,).

        Its own images are counted by half; no atom (a negative number) has no energy.
        """
        slot = jnp.arange(numbers.shape[0])[:, None]
        d = tuple(positions[:, k] - place[k] for k in range(3))
        absent = (numbers < 0) | (slot == site) | (mine < 0)
        if self.space is not None:
            d = self.space.minimum_image(*d)
        if self.space is None or max(self.space.images) == 0:
            return self._sum(d, absent, mine, numbers)
        space, shifts = self.space, self.space.shifts(positions.dtype)

        def with_image(k, total):
            by = space.displacement(shifts[k])
            others = self._sum(tuple(v + w for v, w in zip(d, by, strict=True)), absent, mine, numbers)
            # The first shift is none: there the atom would meet itself.
            itself = self._sum(tuple((w + 0 * place[0])[None] for w in by), ((mine < 0) | (k == 0))[None], mine, mine[None])
            return total + others + itself / 2

        return lax.fori_loop(0, len(shifts), with_image, jnp.zeros_like(place[0]))

    def _sum(self, d, absent, mine, theirs):
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        value = pair_energy(self.potential, self.species, jnp.where(absent, 1, r2), mine, theirs)
        return jnp.where(absent, 0, value).sum(0)


def put(values, site, value, mask) -> Array:
    """Values (atoms, ..., lanes) with `value` (..., lanes) at slots `site` (lanes,), in the lanes of `mask`."""
    slot = jnp.arange(values.shape[0]).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where((slot == site) & mask, value, values)
