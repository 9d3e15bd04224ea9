"""Monte Carlo moves: displacements and swaps in the canonical ensemble, insertions and deletions in the grand-canonical one."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.dynamics.pressure import volume_of
from thalweg.dynamics.single import Energies, Trial, put
from thalweg.dynamics.units import check_positive
from thalweg.errors import InputError
from thalweg.typing import Array


class Chain(eqx.Module):
    """Where a Markov chain is, lanes last."""

    positions: Array  # (atoms, 3, lanes)
    numbers: Array  # (atoms, lanes)
    fixed: Array  # (atoms, lanes)
    energy: Array  # (lanes,)
    step: Array  # (lanes,) largest displacement along an axis
    tried: dict[str, Array]  # (lanes,) by kind of move, since the last record
    accepted: dict[str, Array]

    def counted(self, kind: str, tried, accepted) -> Chain:
        """One more attempt in the lanes `tried`, successful in those `accepted`."""
        tried = {**self.tried, kind: self.tried[kind] + tried}
        accepted = {**self.accepted, kind: self.accepted[kind] + accepted}
        return eqx.tree_at(lambda c: (c.tried, c.accepted), self, (tried, accepted))


class World(eqx.Module):
    """What stays the same during sampling, lanes last."""

    energies: Energies
    boltzmann: Array
    cell: Array | None  # (3, 3, lanes)
    keys: Array  # (lanes,)

    def uniform(self, sweep, shape, dtype, which: int = 0):
        """Uniform numbers (*shape, lanes) in [0, 1) for a sweep; `which` tells draws of one sweep apart."""

        def one(key):
            return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, sweep), which), shape, dtype)

        return jax.vmap(one, out_axes=-1)(self.keys)

    def accepts(self, u, exponent):
        """True with probability min(1, exp(exponent)); an exponent that is not a number is never accepted."""
        return jnp.log1p(-u) < exponent  # 1 - u is never 0


class Moves(eqx.Module):
    """A Monte Carlo ensemble: what one sweep does."""

    kinds: ClassVar[tuple[str, ...]] = ("displacement",)
    #: True where atoms come and go, so that slots are needed for more.
    changes_number: ClassVar[bool] = False

    if TYPE_CHECKING:  # every ensemble has these, in the order that suits it
        temperature: float | Array
        target: float

    def check(self) -> None:
        """Raise `InputError` for parameters that make no sense. Called on the host."""

    @abc.abstractmethod
    def sweep(self, chain: Chain, world: World, index) -> Chain:
        """The chain after sweep number `index`."""


class Metropolis(Moves):
    """The canonical ensemble by displacements of single atoms, and swaps of atoms of different species.

    N. Metropolis et al., J. Chem. Phys. 21, 1087 (1953), doi:10.1063/1.1699114. A sweep tries to move every atom once, one
    after the other, each by up to the step along every axis, then `swaps` times to exchange two atoms drawn at random (for
    mixtures: T. S. Grigera and G. Parisi, Phys. Rev. E 63, 045102 (2001), doi:10.1103/PhysRevE.63.045102; pairs of one
    species count as tried and not accepted). `step` is where the largest displacement begins; it is adapted to the
    acceptance `target` while the run equilibrates. `temperature` is in K, or kT in reduced units.
    """

    kinds: ClassVar[tuple[str, ...]] = ("displacement", "swap")

    temperature: float | Array
    step: float = 0.1
    swaps: int = 0
    target: float = 0.4

    def check(self):
        check_positive("temperature", self.temperature)
        check_positive("step", self.step)
        if self.swaps < 0:
            raise InputError(f"swaps is {self.swaps}; it must be 0 or positive")

    def sweep(self, chain, world, index):
        beta = 1 / (world.boltzmann * self.temperature)
        dtype = chain.positions.dtype
        slots, lanes = chain.numbers.shape
        draws = world.uniform(index, (slots, 4), dtype)

        def displace(i, chain):
            site = jnp.full(lanes, i)
            free = (chain.numbers[i] >= 0) & ~chain.fixed[i]
            return displaced(chain, world, beta, site, free, draws[i])

        def swap(k, chain):
            u = world.uniform(index, (3,), dtype, k + 1)
            return swapped(chain, world, beta, u)

        chain = lax.fori_loop(0, slots, displace, chain)
        return lax.fori_loop(0, self.swaps, swap, chain)


def attempted(chain: Chain, world: World, trial: Trial, possible, u, beta, gain: float | Array = 0.0):
    """(chain, mask of lanes in which the trial was accepted): with probability min(1, exp(gain - beta times its cost))."""
    cost = world.energies.change(chain.energy, chain.positions, chain.numbers, trial)
    good = possible & world.accepts(u, gain - beta * cost)
    positions, numbers = trial.applied(chain.positions, chain.numbers, good)
    energy = jnp.where(good, chain.energy + cost, chain.energy)
    return eqx.tree_at(lambda c: (c.positions, c.numbers, c.energy), chain, (positions, numbers, energy)), good


def displaced(chain: Chain, world: World, beta, site, free, u) -> Chain:
    """A trial displacement of the atoms in slots `site` (lanes,), in the lanes `free`; `u` is uniform (4, lanes)."""
    here = Trial.of(chain.positions, chain.numbers, site[None])
    trial = Trial(here.sites, here.places + chain.step * (2 * u[:3] - 1), here.species)
    chain, good = attempted(chain, world, trial, free, u[3], beta)
    return chain.counted("displacement", free, good)


def swapped(chain: Chain, world: World, beta, u) -> Chain:
    """A trial exchange of the species of two slots drawn at random; `u` is uniform (3, lanes)."""
    slots = chain.numbers.shape[0]
    sites = jnp.minimum((u[:2] * slots).astype(jnp.int32), slots - 1)
    here = Trial.of(chain.positions, chain.numbers, sites)
    one, two = here.species
    real = (one >= 0) & (two >= 0)
    differ = real & (one != two) & ~jnp.take_along_axis(chain.fixed, sites, 0).any(0)
    trial = Trial(sites, here.places, here.species[::-1])
    chain, good = attempted(chain, world, trial, differ, u[2], beta)
    return chain.counted("swap", real, good)


class GrandCanonical(Moves):
    """The grand-canonical ensemble: atoms of one `species` come and go, all atoms that are not fixed move.

    G. E. Norman and V. S. Filinov, High Temp. 7, 216 (1969); D. Frenkel and B. Smit, Understanding Molecular Simulation,
    doi:10.1016/B978-0-12-267351-1.X5000-7. A sweep is `moves` attempts: a displacement with probability `displacements`,
    otherwise an insertion or a deletion with equal chance. `chemical_potential` is in the potential's unit of energy and
    contains the ideal part with the thermal wavelength set by `wavelength` (a length, 1 by default): an ideal gas has
    the density exp(mu / kT) / wavelength^3. For the C-S-H gel mu = 2 kT at 300 K. Lanes with more than `most` atoms fail.
    With a `capacity` insertions beyond so many atoms are rejected: the same ensemble, of at most so many atoms.
    """

    kinds: ClassVar[tuple[str, ...]] = ("displacement", "insertion", "deletion")
    changes_number: ClassVar[bool] = True

    temperature: float | Array
    chemical_potential: float | Array
    wavelength: float = 1.0
    species: int = eqx.field(static=True, default=0)
    moves: int = 100
    displacements: float = 0.5
    step: float = 0.1
    target: float = 0.4
    most: int = 10_000
    capacity: int = 2**30

    def needed(self, present, xp=jnp):
        """Slots that the next sweep may fill."""
        return xp.minimum(present + self.moves, xp.maximum(present, self.capacity))

    def check(self):
        for name in ("temperature", "wavelength", "step"):
            check_positive(name, getattr(self, name))
        if not np.isfinite(self.chemical_potential).all():
            raise InputError(f"chemical_potential is {self.chemical_potential}; it must be finite")
        for name in ("moves", "most", "capacity"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.displacements < 1:
            raise InputError(f"displacements is {self.displacements}; a share from 0 to below 1 leaves room for exchanges")

    def sweep(self, chain, world, index):
        beta = 1 / (world.boltzmann * self.temperature)
        volume = volume_of(world.cell) / self.wavelength**3
        dtype = chain.positions.dtype

        def attempt(k, chain):
            return self._attempt(chain, world, beta, volume, world.uniform(index, (6,), dtype, k))

        return lax.fori_loop(0, self.moves, attempt, chain)

    def _attempt(self, chain, world, beta, volume, u) -> Chain:
        """A displacement, an insertion or a deletion, in each lane its own; `volume` is in cubed wavelengths."""
        # Atoms that stay stand in front, empty slots behind: a draw does not depend on how many slots there are.
        real = chain.numbers >= 0
        present, staying = real.sum(0), (real & ((chain.numbers != self.species) | chain.fixed)).sum(0)
        count, last = present - staying, jnp.maximum(present - 1, 0)
        moves = u[0] < self.displacements
        comes = ~moves & (u[0] < (1 + self.displacements) / 2)
        goes = ~moves & ~comes
        drawn = lambda first, n: jnp.clip(first + (u[1] * n).astype(jnp.int32), 0, last)
        site = jnp.where(moves, drawn(0, present), jnp.where(comes, present, drawn(staying, count)))
        here = Trial.of(chain.positions, chain.numbers, site[None])
        fixed = jnp.take_along_axis(chain.fixed, site[None], 0)[0]
        possible = jnp.where(moves, (present > 0) & ~fixed, jnp.where(comes, present < self.capacity, count > 0))
        random = 2 * u[2:5] - 1
        place = here.places[0] + jnp.where(moves, chain.step, 0) * random
        anywhere = (u[2:5, None] * world.cell).sum(0)
        number = jnp.where(moves, here.species[0], jnp.where(comes, self.species, -1))
        trial = Trial(here.sites, jnp.where(comes, anywhere, place)[None], number[None])
        gain = jnp.where(comes, jnp.log(volume / (count + 1)), -jnp.log(volume / jnp.maximum(count, 1)))
        gain = jnp.where(moves, 0, gain + beta * jnp.where(comes, 1, -1) * self.chemical_potential)
        chain, good = attempted(chain, world, trial, possible, u[5], beta, gain)
        # The last atom takes the place of one that left, so that no holes remain.
        left = good & goes
        end = jnp.take_along_axis(chain.positions, last[None, None], 0)[0]
        positions = put(chain.positions, site, end, left)
        numbers = put(put(chain.numbers, site, self.species, left), last, -1, left)
        chain = eqx.tree_at(lambda c: (c.positions, c.numbers), chain, (positions, numbers))
        for kind, tried in zip(self.kinds, (moves, comes, goes), strict=True):
            chain = chain.counted(kind, tried, tried & good)
        return chain
