"""The building environment: a template, a bag of atoms, a grid, and the rules by which one follows the other."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from thalweg.agents.agent import Agent
from thalweg.agents.grid import Grid, ratios
from thalweg.agents.policy import Policy
from thalweg.errors import InputError
from thalweg.geometry import nearest_squared, traced_space
from thalweg.system import System
from thalweg.typing import Array, Bool, Float, Int


class Site(eqx.Module):
    """Where something is built and of what: everything that stays the same in an episode, in float32.

    `kinds` (atoms,) are the species of the system's slots as indices among those of the agent; -1 in padding. An atom may be
    put on a voxel that keeps the system's limits: no atom nearer than the lower one, and one at least within the upper one.
    """

    grid: Grid
    system: System
    kinds: Int[Array, " atoms"]
    n_kinds: int = eqx.field(static=True)
    hydrogens_last: bool = eqx.field(static=True, default=False)

    @classmethod
    def of(cls, system: System, grid: Grid, species: tuple[int, ...], hydrogens_last: bool = False) -> Site:
        """The site of a system; raises `InputError` for atoms that an agent of these `species` does not know."""
        numbers = np.asarray(system.numbers)
        strange = sorted({int(z) for z in numbers if z >= 0} - set(species))
        if strange:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in strange)
            known = ", ".join(chemical_symbols[z] for z in species)
            raise InputError(f"the agent was made for {known} and does not know {names}; train another one")
        kinds = np.array([species.index(int(z)) if z >= 0 else -1 for z in numbers], np.int32)
        hydrogens = hydrogens_last and bool((numbers[np.asarray(system.searched)] > 1).any())
        return cls(grid, system, kinds, len(species), hydrogens)

    @property
    def n_placed(self) -> int:
        """Number of atoms that are placed in an episode; on the host."""
        return int(np.asarray(self.system.searched).sum())

    @property
    def free(self) -> bool:
        """Whether nothing says where the first atom goes: then it goes to the middle."""
        return self.system.template is None


class Build(eqx.Module):
    """Structures in the making. `clear` and `linked` (batch, kinds, voxels): where the limits to all, and to any atom hold.

    `order` (batch, atoms) is the step at which an atom was placed; -1 before, and for the template.
    """

    positions: Float[Array, "batch atoms 3"]
    there: Bool[Array, "batch atoms"]
    clear: Bool[Array, "batch kinds voxels"]
    linked: Bool[Array, "batch kinds voxels"]
    order: Int[Array, "batch atoms"]

    @property
    def steps(self):
        """Atoms placed so far (batch,)."""
        return self.order.max(1) + 1


def begun(site: Site, positions, there, order) -> Build:
    """Builds that go on from what is `there` (batch, atoms), at positions (batch, atoms, 3), placed in this `order`.

    Atoms of the template are put where it has them and are always there.
    """
    system = site.system
    held = jnp.asarray(system.mask) & ~jnp.asarray(system.searched)
    if system.positions is not None:
        positions = jnp.where(held[:, None], jnp.asarray(system.positions, jnp.float32), positions)
    there = (there & jnp.asarray(system.mask)) | held
    batch, voxels = len(positions), site.grid.size
    shape = (batch, site.n_kinds, voxels)
    start = Build(positions, there, jnp.ones(shape, bool), jnp.zeros(shape, bool), jnp.asarray(order, jnp.int32))

    def one(build, slot):
        clear, linked = _limits(site, positions[:, slot], jnp.full(batch, slot))
        mine = there[:, slot][:, None, None]
        build = eqx.tree_at(
            lambda b: (b.clear, b.linked), build, (build.clear & (clear | ~mine), build.linked | (linked & mine))
        )
        return build, None

    return lax.scan(one, start, jnp.arange(len(system.numbers)))[0]


def empty(site: Site, batch: int) -> Build:
    """Builds in which nothing was placed yet."""
    atoms = len(site.system.numbers)
    where = jnp.broadcast_to(site.grid.position(site.grid.middle), (batch, atoms, 3))
    return begun(site, where, jnp.zeros((batch, atoms), bool), jnp.full((batch, atoms), -1))


def allowed(site: Site, build: Build) -> Array:
    """Where an atom of each species may be put: (batch, kinds, voxels)."""
    left = jnp.asarray(site.system.searched) & ~build.there
    bag = jnp.stack([(left & (site.kinds == k)).any(1) for k in range(site.n_kinds)], 1)
    if site.hydrogens_last:
        others = (left & (jnp.asarray(site.system.numbers) > 1)).any(1)
        light = jnp.stack([((site.kinds == k) & (jnp.asarray(site.system.numbers) == 1)).any() for k in range(site.n_kinds)])
        bag = bag & ~(others[:, None] & light)
    alone = ~jnp.asarray(build.there).any(1)[:, None, None]
    first = jnp.arange(site.grid.size) == site.grid.middle if site.free else jnp.asarray(site.grid.allowed)
    places = jnp.where(alone, first, build.clear & build.linked & jnp.asarray(site.grid.allowed))
    return bag[:, :, None] & places


def placed(site: Site, build: Build, kind, voxel, go=None) -> Build:
    """With one more atom of `kind` (batch,) on `voxel` (batch,) in every build, in those that `go` (batch,)."""
    searched = jnp.asarray(site.system.searched)
    fits = searched & ~build.there & (site.kinds == kind[:, None])
    slot = jnp.argmax(fits, 1)
    go = fits.any(1) if go is None else go & fits.any(1)
    here = (jnp.arange(fits.shape[1]) == slot[:, None]) & go[:, None]
    x = site.grid.position(voxel)
    clear, linked = _limits(site, x, slot)
    stay = ~go[:, None, None]
    return Build(
        jnp.where(here[..., None], x[:, None], build.positions),
        build.there | here,
        build.clear & (clear | stay),
        build.linked | (linked & ~stay),
        jnp.where(here, build.steps[:, None], build.order),
    )


def _limits(site: Site, x, slot):
    """Where atoms of each species are clear of, and linked to, atoms at x (batch, 3) in slots (batch,).

    Both are (batch, kinds, voxels).
    """
    system, grid = site.system, site.grid
    bonds = jnp.asarray(system.bond_lengths, jnp.float32)
    own = jnp.stack([jnp.where(site.kinds == k, bonds, 0).max() for k in range(site.n_kinds)])
    # In units of 1: of bonds (1 + 1) / 2; then of the pairs of species.
    length = ratios(grid, x, jnp.ones(len(x)), 1.0, system).T[:, None]
    pair = (own[None] + bonds[slot][:, None]) / 2
    ratio = length / pair[..., None]
    low, high = system.limits
    return ratio >= low, ratio <= high


def built(key, agent: Agent | None, site: Site, policy: Policy, start: Build) -> tuple[Build, Array]:
    """Builds that were gone on with until their bags were empty, and which of them (batch,) are whole.

    An agent is None where the policy does not read values. A build in which nothing is allowed any more stays as it is. The
    loop is on the host: it ends with the last of them, and a step costs far more than its dispatch.
    """
    agent, site, policy, build = jax.tree.map(_on_device, (agent, site, policy, start))
    stuck, step, more = jnp.zeros(len(start.positions), bool), 0, True
    while more:
        build, stuck, more = _advanced(key, agent, site, policy, build, stuck, np.int32(step))
        step += 1
    return build, ~stuck


def _on_device(leaf):
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


@eqx.filter_jit
def _advanced(key, agent: Agent | None, site: Site, policy: Policy, build: Build, stuck, step):
    """After one more placement in each build, which of them are stuck (batch,), and whether any is yet to be gone on with."""
    batch, searched = len(build.positions), jnp.asarray(site.system.searched)
    may = allowed(site, build).reshape(batch, -1)
    open_ = (searched & ~build.there).any(1) & ~stuck
    values = jnp.zeros(may.shape, jnp.float32)
    if agent is not None and policy.reads_values:
        values = agent.maps(site.grid, build.positions, site.kinds, build.there, site.system.cell).reshape(batch, -1)
    keys = jax.vmap(lambda k: jr.fold_in(k, step))(jr.split(key, batch))
    action = jax.vmap(policy)(keys, values, may)
    kind, voxel = jnp.divmod(action, site.grid.size)
    build = placed(site, build, kind, voxel, open_ & may.any(1))
    stuck = stuck | (open_ & ~may.any(1))
    return build, stuck, ((searched & ~build.there).any(1) & ~stuck).any()


def removed(rng: np.random.Generator, site: Site, positions: np.ndarray, count: int) -> np.ndarray:
    """True (atoms,) for what is taken out to be built again: a random searched atom and its nearest `count` - 1."""
    searched = np.flatnonzero(np.asarray(site.system.searched))
    x = np.asarray(positions, np.float32)[searched]
    space = traced_space(jnp.asarray(site.system.cell, jnp.float32), site.system.pbc)
    middle = x[rng.integers(len(x))][None]
    near = np.argsort(np.asarray(nearest_squared(jnp.asarray(middle), jnp.asarray(x), space))[0], kind="stable")
    out = np.zeros(len(site.system.numbers), bool)
    out[searched[near[:count]]] = True
    return out


def opened(rng: np.random.Generator, site: Site, x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A structure with positions (atoms, 3) without `count` neighbouring atoms: positions, which atoms are there (atoms,), and
    the order (atoms,) in which those count as placed."""
    searched = np.asarray(site.system.searched)
    there = searched & ~removed(rng, site, x, count)
    kept, order = np.flatnonzero(there), np.full(len(searched), -1, np.int32)
    order[kept] = np.arange(len(kept))
    if site.free:  # anywhere will do: on voxels, in the middle
        seat = seated(site, x, np.where(order < 0, len(order), order))
        with jax.enable_x64(False):
            x = x + np.asarray(site.grid.position(max(seat.voxels[kept[0]], 0)), float) - x[kept[0]]
    return x.astype(np.float32), there, order


class Seat(NamedTuple):
    """A structure on the grid: the voxel of every atom (atoms,), -1 for what was not placed, and whether each has its own.

    `marks` (atoms,) are the same for structures that differ only in where they are, if nothing says where that is.
    """

    voxels: np.ndarray
    marks: np.ndarray
    fine: bool


def seated(site: Site, positions: np.ndarray, order: np.ndarray) -> Seat:
    """The voxels nearest to positions (atoms, 3).

    Where nothing else says where a structure is, it is shifted: its first atom on a voxel, and as a whole to the middle.
    """
    grid, mine = site.grid, np.asarray(site.system.searched)
    size, wraps = np.asarray(grid.shape), np.asarray(grid.periodic)
    first = int(np.argmax(mine & (order == order[mine].min())))
    at = (np.asarray(positions, float) - np.asarray(grid.origin, float)) @ np.linalg.inv(np.asarray(grid.steps, float))
    at = np.round(at - at[first] + np.round(at[first]) if site.free else at).astype(np.int64)
    marks = at - at[first] if site.free else at
    if site.free:
        low, high = at[mine].min(0), at[mine].max(0)
        at = at + np.where(wraps, 0, (size - 1 - low - high) // 2)
    at, marks = (np.where(wraps, a % size, a) for a in (at, marks))
    voxels = np.where(mine, (at[:, 0] * size[1] + at[:, 1]) * size[2] + at[:, 2], -1).astype(np.int32)
    inside = np.logical_and(at >= 0, at < size)[mine].all()
    fine = bool(inside) and len(np.unique(voxels[mine])) == int(mine.sum())
    return Seat(voxels, (((marks[:, 0] + 4096) << 26) + ((marks[:, 1] + 4096) << 13) + marks[:, 2] + 4096), fine)


def snapped(site: Site, x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Positions (atoms, 3) on voxels, where each atom has one of its own."""
    seat = seated(site, x, order)
    with jax.enable_x64(False):
        there = np.asarray(site.grid.position(np.maximum(seat.voxels, 0)), float)
    return np.where((order >= 0)[:, None], there, x) if seat.fine else x
