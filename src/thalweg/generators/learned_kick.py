"""A kick that a small network shapes: how far each atom goes, which atoms go elsewhere, how much the whole is squeezed."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.generators.base import Generator, moved
from thalweg.generators.mutation import Displace, Swap
from thalweg.generators.sites import settle
from thalweg.geometry import contact_energies, landing_sites, nearest_image, random_direction, traced_space
from thalweg.networks.perceptron import Perceptron
from thalweg.networks.weights import ZERO, Trained, read
from thalweg.structure import Structure
from thalweg.system import System

#: Features of an atom, in the order of the network's inputs; those of the whole structure are the same for all its atoms.
FEATURES = (
    "coordination", "imbalance", "surroundings", "radius", "spread", "crowding", "species", "mixing", "size",
    "stalled", "fresh", "height", "chance",
)  # fmt: skip
#: What the network gives, per atom or (their mean) per structure. Zeros leave the kick what it is without a network.
OUTPUTS = ("amplitude", "gate", "radial", "temperature", "swap")
#: Reach, in bonds, of what counts as a neighbour.
NEAR = 1.3
#: Bounds of the logarithms of amplitudes and temperatures, and of that of the radial scale.
LOG_BOUND, TIGHTEST, WIDEST = 2.0, -1.2, 0.4
#: Landing rays, or triples of atoms in a cell, per atom that goes elsewhere.
RAYS = 8


class LearnedKick(Generator):
    """`Displace` with learned corrections: a step of basin hopping that knows where it is.

    A network of some 300 parameters reads invariants of each atom (`FEATURES`) and says how far the atom is displaced
    (a factor), with which probability it is put elsewhere on the surface instead, and for the whole structure
    by how much it is scaled about its centroid and whether two species are exchanged instead. With an output of zero it is
    `Displace(step)` to the last bit. Scaling needs a free cluster; in a cell, on a template or in a region one atom at a time
    goes elsewhere. `stalled` (hops since the walk lowered its best) and `height` (kT above it) come from the search.
    `weights` is a name that ships, a file, or "zero".
    """

    n_parents: ClassVar[int] = 1
    name: ClassVar[str] = "learned-kick"
    features: ClassVar[tuple[str, ...]] = FEATURES
    learned: ClassVar[tuple[str, ...]] = ("network",)
    #: Hidden units of a network that is trained from nothing.
    hidden: ClassVar[int] = 16

    network: Perceptron
    weights: str = eqx.field(static=True)
    trained: Trained = eqx.field(static=True)
    step: float
    stalled: float
    height: float

    def __init__(self, weights: str = ZERO, step: float = 0.4, stalled: float = 0.0, height: float = 0.0):
        network = Perceptron.zero_output(np.random.default_rng(0), (len(FEATURES), self.hidden, len(OUTPUTS)))
        found, self.trained = read({"network": network}, weights, "LearnedHopping", FEATURES)
        self.network, self.weights, self.step, self.stalled, self.height = found["network"], weights, step, stalled, height

    def __call__(self, key, parents: Structure, system: System) -> Structure:
        parent = parents[0]
        x = parent.positions
        out = self.read(key, parent, system)
        displaced = Displace(self.step)(key, parents, system).positions
        # Not a sum with a difference that rounding would spoil: what nothing is said of stays as it was, exactly.
        factor, radial = jnp.exp(out["amplitude"])[:, None], out["radial"]
        centre = jnp.where(system.mask[:, None], x, 0).sum(0) / jnp.maximum(system.n_atoms, 1).astype(x.dtype)
        learned = centre + jnp.exp(radial) * (x - centre) + factor * (displaced - x)
        new = jnp.where((factor == 1) & (radial == 0), displaced, learned)
        k_gate, k_site, k_swap, k_pair = jr.split(jr.fold_in(key, 2), 4)
        leaving = system.searched & (jr.uniform(k_gate, x.shape[:1], x.dtype) < out["gate"])
        new = lax.cond(leaving.any(), lambda x: _elsewhere(k_site, x, leaving, parent, system), lambda x: x, new)
        swapped = Swap()(k_pair, parents, system).positions
        new = jnp.where(jr.uniform(k_swap, (), x.dtype) < out["swap"], swapped, new)
        return moved(parent, new)

    def read(self, key, parent: Structure, system: System) -> dict:
        """What the network says of one structure, within bounds: amplitude (logarithm) and gate (probability) (atoms,);
        radial and temperature (logarithms) and swap (probability) (). `key` is that of the proposal."""
        dtype = parent.positions.dtype
        chance = 2 * jr.uniform(jr.fold_in(key, 1), (), dtype) - 1
        out = dict(zip(OUTPUTS, self.network(self._described(parent, system, chance)), strict=True))
        mask = jnp.asarray(system.mask)
        mean = lambda a: jnp.where(mask, a, 0).sum() / jnp.maximum(mask.sum(), 1).astype(dtype)
        numbers = jnp.asarray(system.numbers)
        several = (mask & (numbers != numbers[0])).any()
        bound = lambda a, low, high: jnp.clip(a, low, high).astype(dtype)
        return {
            "amplitude": bound(out["amplitude"], -LOG_BOUND, LOG_BOUND),
            "gate": bound(out["gate"], 0.0, 0.5),
            "radial": bound(mean(out["radial"]), TIGHTEST, WIDEST) if is_free(system) else jnp.zeros((), dtype),
            "temperature": bound(mean(out["temperature"]), -LOG_BOUND, LOG_BOUND),
            "swap": jnp.where(several, bound(mean(out["swap"]), 0.0, 1.0), 0),
        }

    def _described(self, parent: Structure, system: System, chance) -> list:
        """The features, arrays (atoms,), of a structure (atoms, 3)."""
        x, mask = parent.positions, jnp.asarray(system.mask)
        coordination, imbalance, kin, around = neighbourhood(parent, system)
        count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
        mean = lambda a: jnp.where(mask, a, 0).sum() / count
        radius = jnp.zeros_like(coordination)
        if is_free(system):
            r = x - jnp.where(mask[:, None], x, 0).sum(0) / count
            radius = jnp.sqrt((r * r).sum(-1)) / (jnp.asarray(system.bond, x.dtype) * jnp.cbrt(count))
        whole = lambda a: jnp.broadcast_to(jnp.asarray(a, x.dtype), coordination.shape)
        given = 1.0 if is_free(system) else 0.0  # what has no meaning here is always zero
        return [
            coordination / 6 - 1,
            jnp.log1p(imbalance),
            around / 6 - 1,
            given * (2 * radius - 1),
            whole(given * (2 * jnp.sqrt(mean(radius**2)) - 1)),
            whole(mean(coordination) / 6 - 1),
            species_of(system, x.dtype),
            kin,
            whole(jnp.log(count) / 2 - 1.5),
            whole(jnp.log1p(self.stalled) / 2),
            whole(jnp.exp(-jnp.asarray(self.stalled, x.dtype))),
            whole(jnp.log1p(jnp.maximum(self.height, 0))),
            whole(chance),
        ]


def is_free(system: System) -> bool:
    """Whether the system is a cluster in empty space, which has a centroid that means something."""
    return not any(system.pbc) and system.template is None and system.region is None


def species_of(system: System, dtype):
    """-1 and 1 for the lightest and the heaviest species (atoms,), 0 where there is only one, and for padding."""
    numbers, mask = jnp.asarray(system.numbers), jnp.asarray(system.mask)
    low, high = jnp.where(mask, numbers, 10**6).min(), jnp.where(mask, numbers, -1).max()
    return jnp.where(mask & (high > low), 2 * (numbers - low) / jnp.maximum(high - low, 1) - 1, 0).astype(dtype)


def neighbourhood(parent: Structure, system: System):
    """Of each atom (atoms,): a soft count of neighbours, the length of the sum of vectors to them in bonds, how many more
    of them are of its own species than of another, and their own mean count. Distances are in bonds of the two atoms."""
    x, mask = parent.positions, jnp.asarray(system.mask)
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    d = nearest_image(x[None] - x[:, None], traced_space(parent.cell.astype(x.dtype), system.pbc))
    d = d / ((bonds[:, None] + bonds) / 2)[..., None]
    r2 = (d * d).sum(-1)
    pair = mask[None] & mask[:, None] & (r2 < NEAR * NEAR) & (r2 > 0)
    weight = jnp.where(pair, (1 - r2 / (NEAR * NEAR)) ** 2 * 6, 0)  # of order one at a bond
    total = (weight[..., None] * d).sum(1)
    species, count = species_of(system, x.dtype), weight.sum(1)
    around = (weight * count).sum(1) / jnp.maximum(count, 1e-3)
    return count, jnp.sqrt((total * total).sum(-1)), (weight * species * species[:, None]).sum(1) / 6, around


def _elsewhere(key, x, leaving, parent: Structure, system: System):
    """Positions (atoms, 3) with the atoms of `leaving` put where others bind them; in a cell or region only one of them."""
    if not is_free(system):
        atom = jnp.argmax(leaving)
        space = traced_space(parent.cell, system.pbc)
        return settle(key, x, atom, system.mask, system, 5 * RAYS, 6.0, space).astype(x.dtype)
    staying = system.mask & ~leaving
    centre = jnp.where(staying[:, None], x, 0).sum(0) / jnp.maximum(staying.sum(), 1).astype(x.dtype)
    bonds = jnp.asarray(system.bond_lengths, x.dtype)
    bond = jnp.asarray(system.bond, x.dtype)
    directions = random_direction(key, (x.shape[0] * RAYS,), x.dtype)
    sites = landing_sites(directions, x - centre, bond, bonds, staying)
    score = contact_energies(sites, x - centre, jnp.full(len(sites), bond), bonds, staying).reshape(-1, RAYS)
    best = sites.reshape(-1, RAYS, 3)[jnp.arange(x.shape[0]), score.argmin(1)]
    return jnp.where(leaving[:, None], best + centre, x)
