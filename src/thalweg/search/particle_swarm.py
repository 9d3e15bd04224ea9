"""Particle swarm: minima that fly towards the best that they and their swarm have found."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from thalweg.errors import InputError
from thalweg.generators.base import Generator, held, moved
from thalweg.generators.crossover import exchanged, narrowest
from thalweg.geometry import centred, nearest_image, random_rotation, squared_distances, traced_space, unit
from thalweg.search.base import Outcome, Proposals, Search, State, generate, structures_of, walker_keys, weights_of
from thalweg.search.basin_hopping import draw
from thalweg.system import System
from thalweg.typing import Array

#: Orientations (free clusters) or shifts (cells) tried to lay one structure on another.
FRAMES = 6


class Particle(eqx.Module):
    """One particle; every leaf has a leading axis of walkers. `index` is its swarm, because a swarm is one run."""

    positions: jax.Array  # (walkers, atoms, 3) the current minimum
    velocity: jax.Array  # (walkers, atoms, 3) by how much it moved last
    cell: jax.Array  # (walkers, 3, 3)
    energy: jax.Array  # (walkers,) of the current minimum; inf before the first
    best: jax.Array  # (walkers, atoms, 3) the lowest minimum of this particle in the present run
    best_cell: Array
    best_energy: jax.Array
    index: jax.Array
    run: jax.Array  # the swarm's run when this particle last told
    member: jax.Array  # which walker this is
    count: jax.Array  # flights told, the counter of its random keys


class Swarms(eqx.Module):
    """What particles share; every leaf has a leading axis of swarms."""

    best: jax.Array  # (swarms, atoms, 3)
    cell: jax.Array  # (swarms, 3, 3)
    energy: jax.Array  # (swarms,) lowest of the present run
    stalled: jax.Array  # flights since it was lowered
    run: jax.Array  # independent runs so far, counted from 0


class ParticleSwarm(Search):
    """v = inertia v + own r (own best - x) + swarm r' (swarm's best - x), then a relaxation from x + v.

    Kennedy and Eberhart, Proc. ICNN 4, 1942 (1995), doi:10.1109/ICNN.1995.488968; for structures Call, Zubarev and
    Boldyrev, J. Comput. Chem. 28, 1177 (2007), doi:10.1002/jcc.20621, and Wang, Lv, Zhu and Ma, Phys. Rev. B 82, 094116
    (2010), doi:10.1103/PhysRevB.82.094116. The bests are first laid on x: of some random orientations (free clusters) or
    shifts (cells) the one where atoms of equal species, paired greedily, are nearest. v is what the particle really moved,
    relaxation included, no atom further than `max_step` bonds; of smaller and smaller steps the first is made that brings
    no atoms nearer than the system's limit. A share `renewed` of the proposals are new starts. Walkers form `swarms`
    independent ones, whose runs end after `patience` flights that lowered nothing.
    """

    starts: tuple[Generator, ...]
    start_weights: Array
    swarms: int = eqx.field(static=True, default=1)
    inertia: float = 0.6
    own: float = 1.0
    swarm: float = 1.0
    max_step: float = 0.8
    renewed: float = 0.3
    patience: int = 300
    energy_scale: float = 1.0

    def __init__(
        self, starts, start_weights=None, swarms=1, inertia=0.6, own=1.0, swarm=1.0, max_step=0.8, renewed=0.3, patience=300,
        energy_scale=1.0,
    ):  # fmt: skip
        self.starts = tuple(starts)
        self.start_weights = weights_of(start_weights, self.starts)
        self.swarms, self.inertia, self.own, self.swarm = swarms, inertia, own, swarm
        self.max_step, self.renewed, self.patience, self.energy_scale = max_step, renewed, patience, energy_scale

    def __check_init__(self):
        if self.swarms < 1:
            raise InputError(f"search.swarms is {self.swarms}; it must be at least 1")
        if isinstance(self.renewed, int | float) and not 0 <= self.renewed <= 1:
            raise InputError(f"search.renewed is {self.renewed}; it is a share, between 0 and 1")

    @property
    def origins(self) -> tuple[str, ...]:
        return ("flight", *(g.name for g in self.starts))

    def init(self, system: System, n_walkers: int, dtype) -> State:
        count = min(self.swarms, n_walkers)
        x = jnp.zeros((n_walkers, len(system.numbers), 3), dtype)
        cell = jnp.broadcast_to(jnp.asarray(system.cell, dtype), (n_walkers, 3, 3))
        inf, zero = jnp.full(n_walkers, jnp.inf, dtype), jnp.zeros(n_walkers, jnp.int32)
        member = jnp.arange(n_walkers, dtype=jnp.int32)
        walkers = Particle(x, x, cell, inf, x, cell, inf, member % count, zero, member, zero)
        return State(walkers, Swarms(x[:count], cell[:count], inf[:count], zero[:count], zero[:count]))

    def ask(self, key, state: State, system: System) -> Proposals:
        w: Particle = state.walkers
        shared: Swarms = state.shared
        k_choice, k_start, k_fly = jax.vmap(lambda k: tuple(jr.split(k, 3)))(walker_keys(key, w.member, w.count))
        u = jax.vmap(lambda k: jr.uniform(k, (2,)))(k_choice)
        start = draw(u[:, 0], self.start_weights / self.start_weights.sum())
        fresh = jnp.isinf(w.energy) | (u[:, 1] < self.renewed)
        current = structures_of(system, w.positions, w.cell)
        goals = shared.best[w.index], shared.cell[w.index]

        def one(row):
            fresh, start, k_start, k_fly, parent, velocity, best, best_cell, goal, goal_cell = row
            alone = jax.tree.map(lambda a: a[None], (parent, start, k_start))

            def begin():
                made = generate(self.starts, alone[1], alone[2], alone[0], system)
                return made.positions[0], made.cell[0]

            def go():
                towards = [(self.own, best, best_cell), (self.swarm, goal, goal_cell)]
                return self._fly(k_fly, parent, velocity, towards, system), parent.cell

            return lax.cond(fresh, begin, go)

        rows = (fresh, start, k_start, k_fly, current, w.velocity, w.best, w.best_cell, *goals)
        positions, cells = lax.map(one, rows)
        structures = eqx.tree_at(lambda s: (s.positions, s.cell), current, (positions, cells))
        return Proposals(structures, jnp.where(fresh, start + 1, 0).astype(jnp.int32))

    def _fly(self, key, parent, velocity, towards, system: System):
        """Positions (atoms, 3) of a particle after one step towards the `towards` (pull, positions, cell)."""
        x, dtype = parent.positions, parent.positions.dtype
        space = traced_space(parent.cell, system.pbc)
        v = self.inertia * velocity
        for k, (pull, goal, cell) in enumerate(towards):
            k_match, k_pull = jr.split(jr.fold_in(key, k))
            v = v + pull * jr.uniform(k_pull, (), dtype) * difference(k_match, x, parent.cell, goal, cell, system)
        v = limited(jnp.where(exchanged(system)[:, None], v, 0), self.max_step * jnp.asarray(system.bond, dtype))
        steps = jnp.asarray([1, 0.7, 0.4, 0.2], dtype)
        gaps = jax.vmap(lambda s: narrowest(x + s * v, system, space))(steps)
        flown = x + steps[jnp.argmax(jnp.minimum(gaps, system.limits[0]))] * v
        return held(moved(parent, flown), parent, system, start=False).positions

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        w: Particle = state.walkers
        x, cell, energy = outcome.structures.positions, outcome.structures.cell, outcome.energy.astype(w.energy.dtype)
        good = outcome.good
        rows = (w.index, w.run, x, cell, energy, good, outcome.valid)
        shared, current = lax.scan(lambda s, row: self._enter(s, *row), state.shared, rows)
        good = good & current
        flown = good & (outcome.origin == 0)
        longest = self.max_step * jnp.asarray(system.bond, x.dtype)

        def displaced(before, after, cell):
            if not any(system.pbc):
                before, after = centred(before, system.mask), centred(after, system.mask)
            return limited(nearest_image(after - before, traced_space(cell, system.pbc)), longest)

        velocity = jnp.where(flown[:, None, None], jax.vmap(displaced)(w.positions, x, cell), 0)
        better = good & (energy < w.best_energy)
        over = shared.run[w.index] > w.run
        new = lambda take, a, b: jnp.where(take.reshape(-1, *[1] * (b.ndim - 1)), a, b).astype(b.dtype)
        walkers = Particle(
            positions=new(good, x, w.positions),
            velocity=new(good, velocity, w.velocity),
            cell=new(good, cell, w.cell),
            energy=new(over, jnp.inf, new(good, energy, w.energy)),
            best=new(better, x, w.best),
            best_cell=new(better, cell, w.best_cell),
            best_energy=new(over, jnp.inf, new(better, energy, w.best_energy)),
            index=w.index,
            run=shared.run[w.index],
            member=w.member,
            count=w.count + outcome.valid,
        )
        return State(walkers, shared)

    def _enter(self, s: Swarms, p, run, x, cell, energy, good, valid):
        """One outcome after the other, as if told one by one; also whether it is of the present run."""
        live = valid & (run == s.run[p])
        lowered = good & live & (energy < s.energy[p])
        clearly = lowered & (energy < s.energy[p] - 1e-4 * self.energy_scale)
        stalled = jnp.where(clearly, 0, s.stalled[p] + live)
        over = stalled >= self.patience
        told = Swarms(
            s.best.at[p].set(jnp.where(lowered, x, s.best[p])),
            s.cell.at[p].set(jnp.where(lowered, cell, s.cell[p])),
            s.energy.at[p].set(jnp.where(over, jnp.inf, jnp.where(lowered, energy, s.energy[p]))),
            s.stalled.at[p].set(jnp.where(over, 0, stalled)),
            s.run.at[p].add(over),
        )
        return told, live


def limited(v, longest):
    """Displacements (atoms, 3), those longer than `longest` shortened to it."""
    return v * jnp.minimum(1, longest / jnp.sqrt(jnp.maximum((v * v).sum(-1, keepdims=True), 1e-12)))


def paired(x, goal, kin, space):
    """For each atom of `x` (atoms, 3) one of `goal` of its kin (atoms, atoms), nearest pairs first, and the displacements."""
    n = x.shape[0]

    def one(_, carry):
        d2, partner = carry
        k = jnp.argmin(d2)
        i, j = k // n, k % n
        partner = partner.at[i].set(jnp.where(jnp.isfinite(d2[i, j]), j, partner[i]))
        return d2.at[i].set(jnp.inf).at[:, j].set(jnp.inf), partner

    start = jnp.where(kin, squared_distances(x, goal, space), jnp.inf)
    _, partner = lax.fori_loop(0, n, one, (start, jnp.arange(n)))
    return partner, nearest_image(goal[partner] - x, space)


def difference(key, x, cell, goal, goal_cell, system: System):
    """Displacements (atoms, 3) from `x` to `goal`, laid on it: what is left of rigid motion and of exchanges of equal atoms."""
    space = traced_space(cell, system.pbc)
    part = exchanged(system)
    numbers = jnp.asarray(system.numbers)
    kin = (numbers[:, None] == numbers) & part[:, None] & part
    placed = (jnp.asarray(system.fixed) & system.mask).any()
    free = system.template is None and system.region is None
    if space is not None:
        other = traced_space(goal_cell, system.pbc)
        goal = (goal @ other.inverse.astype(x.dtype)) @ space.cell.astype(x.dtype)  # type: ignore[union-attr]
    elif free:
        x = jnp.where(placed, x, centred(x, system.mask))
        goal = jnp.where(placed, goal, centred(goal, system.mask))

    def attempt(key):
        if not free:
            laid = goal
        elif space is None:
            laid = jnp.where(placed, goal, turned(key, x, goal, kin))
        else:
            k_i, k_j = jr.split(key)
            i = jnp.argmax(jnp.where(part, jr.uniform(k_i, part.shape), -1))
            j = jnp.argmax(jnp.where(kin[i], jr.uniform(k_j, part.shape), -1))
            laid = jnp.where(placed, goal, goal + (x[i] - goal[j]) * jnp.asarray(system.pbc))
        _, d = paired(x, laid, kin, space)
        d = jnp.where(part[:, None], d, 0)
        return d, (d * d).sum()

    if not free:
        return attempt(key)[0]
    found, far = lax.map(attempt, jr.split(key, FRAMES))
    return found[jnp.argmin(far)]


def turned(key, x, goal, kin):
    """`goal` (atoms, 3) at a random orientation, then turned twice onto the atoms of `x` paired with it."""
    return lax.fori_loop(0, 2, lambda _, laid: superposed(laid, x, kin), goal @ random_rotation(key, x.dtype))


def superposed(start, x, kin):
    """`start` (atoms, 3) turned about the origin by least squares onto the atoms of `x` paired with it.

    The quaternion of the rotation is the eigenvector of the largest eigenvalue of a matrix of four rows (Horn, J. Opt.
    Soc. Am. A 4, 629 (1987), doi:10.1364/JOSAA.4.000629), here by power iteration: near enough, and quick to compile.
    """
    partner, _ = paired(x, start, kin, None)
    s = (start[partner] * kin.any(1)[:, None]).T @ x
    lower = jnp.stack([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    block = s + s.T - jnp.trace(s) * jnp.eye(3, dtype=x.dtype)
    matrix = jnp.block([[jnp.trace(s)[None, None], lower[None]], [lower[:, None], block]])
    matrix = matrix + jnp.sqrt((matrix * matrix).sum()) * jnp.eye(4, dtype=x.dtype)  # no eigenvalue is negative
    q = lax.fori_loop(0, 60, lambda _, q: unit(matrix @ q), jnp.asarray([1, 0.01, 0.02, 0.03], x.dtype))
    w, v = q[0], q[1:]
    across = jnp.cross(jnp.broadcast_to(v, start.shape), start)
    return start + 2 * (w * across + jnp.cross(jnp.broadcast_to(v, start.shape), across))
