"""How an agent learns: the value of a placement is the best outcome that ever followed it.

M. S. Jørgensen, H. L. Mortensen, S. A. Meldgaard, E. L. Kolsbjerg, T. L. Jacobsen, K. H. Sørensen and B. Hammer, J. Chem. Phys.
151, 054111 (2019), doi:10.1063/1.5108871. What is placed and what it leads to are the same thing here: two placements that
lead to the same set of atoms have one value, whatever was there before.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax

from thalweg.agents.agent import Agent
from thalweg.agents.building import Site
from thalweg.agents.replay import Replay
from thalweg.agents.symmetry import Operations
from thalweg.typing import Array, PyTree


class Batch(NamedTuple):
    """Placements to learn from, each in its own frame: float32, one axis of pairs in front."""

    positions: Array  # (pairs, atoms, 3)
    there: Array  # (pairs, atoms)
    voxel: Array  # (pairs,)
    offset: Array  # (pairs, 3) from the voxel to where the atom was put
    kind: Array  # (pairs,)
    target: Array  # (pairs,)


def rewards(energy, lowest: float, span: float) -> np.ndarray:
    """What energies are worth, between -1 and 1: 1 at the lowest, -1 where they are `span` above it or more, or failed."""
    above = np.asarray(energy, float) - lowest if np.isfinite(lowest) else np.full(np.shape(energy), np.inf)
    return np.clip(1 - 2 * above / span, -1, 1)


def batch_of(
    rng: np.random.Generator, replay: Replay, site: Site, operations: Operations, span: float, snapped: bool, others: int = 3
) -> Batch:
    """All placements of the newest, the best and random `others` episodes, each turned or mirrored at random."""
    rows = np.repeat(replay.drawn(rng, others), site.n_placed)
    steps = np.tile(np.arange(site.n_placed), len(rows) // site.n_placed)
    order = replay.order[rows]
    slot = np.argmax(order == steps[:, None], 1)
    held = ~np.asarray(site.system.searched) & np.asarray(site.system.mask)
    there = held | ((order >= 0) & (order < steps[:, None]))
    x = np.asarray(site.grid.position(np.maximum(replay.where[rows], 0)), float)
    if site.system.positions is not None:
        x = np.where(held[:, None], np.asarray(site.system.positions, float), x)
    pick = np.arange(len(rows))
    target = rewards(replay.best[rows, slot], replay.lowest, span)
    first = np.argmax(order == 0, 1)
    x, put = turned(rng, x, x[pick, slot], x[pick, first], operations, site.grid.dimensions == 2)
    voxel, inside = (np.asarray(a) for a in site.grid.nearest(put.astype(np.float32)))
    offset = np.where(snapped, 0.0, put - np.asarray(site.grid.position(voxel), float))
    # A placement that was turned out of the grid teaches nothing about places on it.
    weightless = ~inside
    x, there, voxel, slot, target = (np.where(_wide(weightless, a), a[:1], a) for a in (x, there, voxel, slot, target))
    offset = np.where(weightless[:, None], offset[:1], offset)
    single = lambda a: np.asarray(a, np.float32)
    return Batch(single(x), there, voxel.astype(np.int32), single(offset), np.asarray(site.kinds)[slot], single(target))


def turned(rng: np.random.Generator, x: np.ndarray, put: np.ndarray, about: np.ndarray, operations: Operations, flat: bool):
    """Positions (pairs, atoms, 3) and (pairs, 3), each pair turned by an operation of its own; free ones about (pairs, 3)."""
    pairs = len(x)
    if operations.continuous:
        turns = random_turns(rng, pairs, flat)
        shift = about - np.einsum("pij,pj->pi", turns, about)
    else:
        which = rng.integers(len(operations.rotations), size=pairs)
        turns, shift = operations.rotations[which], operations.shifts[which]
    return np.einsum("pij,paj->pai", turns, x) + shift[:, None], np.einsum("pij,pj->pi", turns, put) + shift


def random_turns(rng: np.random.Generator, count: int, flat: bool) -> np.ndarray:
    """Rotations and mirrors (count, 3, 3), uniform; in a plane those that leave z alone."""
    if not flat:
        q, r = np.linalg.qr(rng.normal(size=(count, 3, 3)))
        return q * np.sign(np.einsum("pii->pi", r))[:, None]
    angle, mirror = rng.uniform(0, 2 * np.pi, count), rng.choice([-1.0, 1.0], count)
    turns = np.zeros((count, 3, 3))
    turns[:, 0, 0], turns[:, 0, 1] = np.cos(angle), -np.sin(angle) * mirror
    turns[:, 1, 0], turns[:, 1, 1], turns[:, 2, 2] = np.sin(angle), np.cos(angle) * mirror, 1
    return turns


def begin(agent: Agent) -> PyTree:
    """The state of Adam before anything was learned."""
    return optax.adam(1.0).init(learned(agent)[0])  # type: ignore[arg-type]


def learned(agent: Agent) -> tuple[Agent, Agent]:
    """What is learned of an agent, and the rest of it; None in each in place of the other's."""
    names = type(agent.representation).learned
    which = eqx.tree_at(lambda a: a.network, jax.tree.map(lambda _: False, agent), jax.tree.map(lambda _: True, agent.network))
    if names:
        which = eqx.tree_at(lambda a: [getattr(a.representation, n) for n in names], which, [True] * len(names))
    return eqx.partition(agent, which)


@eqx.filter_jit
def improved(agent: Agent, state: PyTree, site: Site, batch: Batch, rate) -> tuple[Agent, PyTree, Array]:
    """The agent after a step on a batch, the optimiser's state, and the loss before."""
    params, rest = learned(agent)

    def loss(params):
        made = eqx.combine(params, rest)
        values = made.values(
            site.grid, batch.positions, site.kinds, batch.there, batch.voxel, batch.kind, site.system.cell, batch.offset
        )
        return ((values - batch.target) ** 2).mean() + made.representation.penalty()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optax.adam(rate).update(gradient, state, params)  # type: ignore[arg-type]
    agent = eqx.combine(eqx.apply_updates(params, updates), rest)
    sums, _ = agent.sums(site.grid, batch.positions, site.kinds, batch.there, batch.voxel, site.system.cell, batch.offset)
    settled = agent.representation.settled(sums)
    return eqx.tree_at(lambda a: a.representation, agent, settled), state, value


def _wide(flags: np.ndarray, like: np.ndarray) -> np.ndarray:
    return flags.reshape(-1, *[1] * (like.ndim - 1))
