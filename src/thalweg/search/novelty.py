"""What of a search's candidates is new: fingerprints of them beside those of known, failed and pending structures."""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.leaves import as_leaves
from thalweg.search.base import structures_of
from thalweg.search.memory import Memory
from thalweg.surrogates.fingerprint import Fingerprint
from thalweg.surrogates.memo import Memo, digest
from thalweg.surrogates.surroundings import images_of, unit_of
from thalweg.system import System

#: Structures whose fingerprints are compared with those of candidates: low ones, failures, pending ones, and the first.
POOL, FAILURES, PENDING, FIRST = 64, 16, 48, 16
#: Neighbours within the reach of angles that fingerprints tell apart, and angles computed at a time.
CROWD, ANGLES = 40, 400_000

_DESCRIBED = Memo(5e7)


class Seen(NamedTuple):
    """Fingerprints (rows, features) that candidates are compared with."""

    low: np.ndarray  # of the lowest known structures, in the order of their energies
    others: np.ndarray  # of what failed or is being evaluated
    first: np.ndarray  # of the first structures, whose spread is the unit of distances


def lowest(memory: Memory) -> np.ndarray:
    """Rows of the memory with the lowest energies, at most `POOL`."""
    known = np.flatnonzero(memory.known)
    return known[np.argsort(memory.energy[known], kind="stable")[:POOL]]


def seen_by(memory: Memory, low: np.ndarray, waiting: list[np.ndarray], system: System) -> Seen:
    """Fingerprints of the rows `low`, of what failed, of the structures `waiting` for their energies, and of the first."""
    first = np.flatnonzero(memory.known)[:FIRST]
    failed = np.flatnonzero(np.isnan(memory.energy) & (np.arange(len(memory.energy)) < memory.rows))[-FAILURES:]
    others = [*memory.positions[failed], *waiting[-PENDING:]]
    others = np.reshape(others, (-1, *memory.positions.shape[1:]))
    features = _described_before(np.concatenate([memory.positions[low], others, memory.positions[first]]), system)
    ends = np.cumsum([len(low), len(others), len(first)])
    return Seen(features[: ends[0]], features[ends[0] : ends[1]], features[ends[1] : ends[2]])


def repeats(own: np.ndarray, mean: np.ndarray, seen: Seen, energies: np.ndarray, apart: float, gain: float) -> np.ndarray:
    """True (n,) for candidates with fingerprints `own` that have been looked at.

    They are nearer than `apart` (root mean square distances of the first structures) to what failed or is pending, or to a
    known one, of those with `energies`, unless the model's `mean` is lower there by `gain`.
    """
    near2 = apart**2 * typical2(seen.first)
    # A structure close to a known one is worth a look only where the model sees further down from there.
    distances2 = ((own[:, None] - seen.low[None]) ** 2).sum(-1)
    again = (distances2.min(1) < near2) & (mean > energies[distances2.argmin(1)] - gain)
    return again | (nearest2(own, seen.others) < near2) if len(seen.others) else again


def unsettled(own: np.ndarray, std: np.ndarray, seen: Seen) -> np.ndarray:
    """Standard deviations (n,) less what will be known when the structures under evaluation are."""
    crowding = np.exp(-nearest2(own, seen.others) / (2 * 0.25 * typical2(seen.low))) if len(seen.others) else np.zeros(len(own))
    return std * np.sqrt(np.maximum(1 - crowding, 0))


def described(x, system: System) -> np.ndarray:
    """Fingerprints (n, features) of structures (n, atoms, 3)."""
    fingerprint = Fingerprint(unit=unit_of(system))
    species = tuple(int(z) for z in np.unique(np.asarray(system.numbers)) if z >= 0)
    images = images_of(np.asarray(system.cell), system.pbc, fingerprint.reach)
    structures = structures_of(as_leaves(system, np.float64), jnp.asarray(x, jnp.float64))
    return np.asarray(_describe(as_leaves(fingerprint, np.float64), structures, species, images))


def _described_before(x: np.ndarray, system: System) -> np.ndarray:
    """The same, computed only for what was not described before: most of a memory was."""
    numbers, cell = np.asarray(system.numbers), np.asarray(system.cell, float)
    base = digest(numbers, cell, system.pbc, unit_of(system))
    look = lambda many: (described(many.positions, system),)
    return _DESCRIBED.rows(base, look, x, numbers, np.broadcast_to(cell, (len(x), 3, 3)), system.pbc)[0]


def typical2(features: np.ndarray) -> float:
    """Mean squared distance of rows; 1 where there is none."""
    d2 = 2 * ((features - features.mean(0)) ** 2).sum(1).mean()
    return float(d2) if d2 > 0 else 1.0


def nearest2(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distance (n,) of each row to the nearest of `others`."""
    return ((rows[:, None] - others[None]) ** 2).sum(-1).min(1)


@eqx.filter_jit
def _describe(fingerprint, structures, species, images):
    # Angles are between pairs of neighbours: of the nearest ones where images bring many, and few structures at a time.
    n, near = structures.positions.shape[1], structures.positions.shape[1] * math.prod(2 * k + 1 for k in images)
    crowd = CROWD if near > CROWD else None
    batch = max(1, min(len(structures), ANGLES // (n * min(near, CROWD) ** 2)))
    return lax.map(lambda s: fingerprint(s, species, images, crowd), structures, batch_size=batch)
