"""What a builder imitates: molecules taken apart, with places for the next atom that are right and places that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from thalweg.errors import InputError
from thalweg.networks.builder import BuilderNetwork
from thalweg.similarity.bonds import LONGEST

#: Places per state: right ones, right ones that were moved away, too close to an atom, at the distance of a bond in a wrong
#: direction, and farther out about the hull.
RIGHT, MOVED, CLOSE, BONDED, FAR = 4, 5, 1, 4, 2
QUERIES = RIGHT + MOVED + CLOSE + BONDED + FAR
#: A wrong place is at least so far (Å) from every right one, and one that was moved at most so far from its own.
APART, MOST = 0.25, 1.5
#: Label of a place that is not there.
MASKED = -1


@dataclass(frozen=True)
class Molecules:
    """Molecules with energies and forces, padded to one size; all arrays of one length.

    `positions` (rows, atoms, 3) float32 Å; `kinds` (rows, atoms) int32 indices into the species of a network, -1 behind the
    last atom; `energies` (rows,) eV float64; `forces` (rows, atoms, 3) float32 eV/Å; `bonds` (rows, atoms, atoms);
    `heavy` (rows, atoms) what is neither hydrogen nor padding; `radii` (species,) covalent, Å; `whole` (rows,) what is taken
    apart: minima, not molecules out of shape.
    """

    positions: np.ndarray
    kinds: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    bonds: np.ndarray
    heavy: np.ndarray
    radii: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, network: BuilderNetwork, numbers, positions, energies, forces, whole=None) -> Molecules:
        """From atomic numbers (rows, atoms), negative behind the last atom of each. Raises `InputError` for strange elements
        and for what is not finite; `whole` (rows,) is all of them where it is left out."""
        kinds = network.kinds(numbers)
        there = kinds >= 0
        if not len(kinds) or not there.any(1).all():
            raise InputError("there is a molecule without atoms, or none at all; give others")
        x = np.where(there[..., None], positions, 0).astype(np.float32)
        forces = np.where(there[..., None], forces, 0).astype(np.float32)
        energies = np.asarray(energies, np.float64)
        fine = np.isfinite(energies) & np.isfinite(x).all((1, 2)) & np.isfinite(forces).all((1, 2))
        if not fine.all():
            raise InputError(f"energy, positions or forces of molecule {int(np.argmin(fine))} are not finite; leave it out")
        species = np.array(network.species)
        whole = np.ones(len(x), bool) if whole is None else np.asarray(whole, bool)
        radii = covalent_radii[species]
        return cls(x, kinds, energies, forces, _bonds(x, kinds, radii), there & (species[kinds] != 1), radii, whole)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def atoms(self) -> np.ndarray:
        """Numbers of atoms (rows,)."""
        return (self.kinds >= 0).sum(1)

    def taken(self, rows, size: int | None = None) -> Molecules:
        """Some of the rows, padded or cut to `size` atoms."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        held = {k: a if k == "radii" else a[rows] for k, a in held.items()}
        return Molecules(**held) if size is None else Molecules(**held)._cut(size)

    def _cut(self, size: int) -> Molecules:
        now = self.kinds.shape[1]
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, fill in (("positions", 0), ("kinds", -1), ("forces", 0), ("bonds", False), ("heavy", False)):
            a = held[name][:, :size]
            a = a[:, :, :size] if name == "bonds" else a
            if size > now:
                wider = [(0, size - now if axis == 1 or (axis == 2 and name == "bonds") else 0) for axis in range(a.ndim)]
                a = np.pad(a, wider, constant_values=fill)
            held[name] = a
        return Molecules(**held)


class States(NamedTuple):
    """Molecules in the making, and what belongs where.

    `positions` (batch, atoms, 3) float32 Å and `kinds` (batch, atoms) int32, -1 for what is not placed; `bag` (batch, species)
    float32; `query` (batch, QUERIES, 3) float32; `label` (batch, QUERIES) int32: a species, their number for none, or `MASKED`.
    """

    positions: np.ndarray
    kinds: np.ndarray
    bag: np.ndarray
    query: np.ndarray
    label: np.ndarray


def samples(
    rng: np.random.Generator, molecules: Molecules, batch: int, hydrogens_last: bool = True, jitter: float = 0.05
) -> States:
    """States of `batch` molecules, drawn with replacement, each before a random step of a build in random order.

    Every atom is bonded to what is there before it; with `hydrogens_last` hydrogens come after all others, and half of the
    states, where there are both, are before the last heavy atom: what those decide makes the isomer. Where nothing that is
    left is bonded, all that is left may come next. Placed atoms are off by `jitter` (Å, normal, each direction), as those of
    a build will be. Right are the places of all atoms that may come next, each for its species; wrong are the places of
    `QUERIES`, where they are more than `APART` from the right ones. The first atom has no wrong place.
    """
    some = molecules.taken(rng.integers(len(molecules), size=batch))
    there = some.kinds >= 0
    steps = _steps(rng, some, hydrogens_last)
    placed = _placed(rng, some, steps, hydrogens_last)
    n_species = len(some.radii)
    of_species = some.kinds[..., None] == np.arange(n_species)
    bag = (of_species & ~placed[..., None]).sum(1).astype(np.float32)
    x = some.positions + (jitter * rng.normal(size=some.positions.shape)).astype(np.float32)
    x = np.where(placed[..., None], x, 0)
    kinds = np.where(placed, some.kinds, -1).astype(np.int32)
    open_ = _open(some, placed, hydrogens_last) & there
    query, label = _queries(rng, some, open_, placed, x, bag, n_species)
    return States(x, kinds, bag, query.astype(np.float32), label.astype(np.int32))


def _bonds(x: np.ndarray, kinds: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Bonds (rows, atoms, atoms) by distances."""
    away = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    r, there = radii[kinds], kinds >= 0
    near = away < LONGEST * (r[:, :, None] + r[:, None])
    return near & there[:, :, None] & there[:, None] & ~np.eye(kinds.shape[1], dtype=bool)


def _steps(rng: np.random.Generator, some: Molecules, hydrogens_last: bool) -> np.ndarray:
    """How many atoms (batch,) are placed."""
    n = some.atoms
    steps = rng.integers(n)
    heavy = some.heavy.sum(1)
    if hydrogens_last:
        early = (rng.random(len(n)) < 0.5) & (heavy > 0) | (heavy == n)
        late = heavy + rng.integers(np.maximum(n - heavy, 1))
        steps = np.where(early, rng.integers(np.maximum(heavy, 1)), late)
    return steps


def _open(some: Molecules, placed: np.ndarray, hydrogens_last: bool) -> np.ndarray:
    """Atoms (batch, atoms) that may come next."""
    left = (some.kinds >= 0) & ~placed
    if hydrogens_last:
        left &= some.heavy | ~(left & some.heavy).any(1, keepdims=True)
    bonded = left & (some.bonds & placed[:, None]).any(-1)
    return np.where(bonded.any(1, keepdims=True), bonded, left)


def _placed(rng: np.random.Generator, some: Molecules, steps: np.ndarray, hydrogens_last: bool) -> np.ndarray:
    """Atoms (batch, atoms) that are placed after so many steps in random order."""
    placed = np.zeros(some.kinds.shape, bool)
    rows = np.arange(len(placed))
    for step in range(int(steps.max(initial=0))):
        open_ = _open(some, placed, hydrogens_last)
        chosen = np.where(open_, rng.random(open_.shape), -1).argmax(1)
        placed[rows, chosen] |= step < steps
    return placed


def _queries(rng, some, open_, placed, x, bag, n_species):
    """Places (batch, QUERIES, 3) and labels (batch, QUERIES)."""
    rows = np.arange(len(open_))[:, None]
    right, any_right = _drawn(rng, open_, RIGHT, repeat=False)
    places = some.positions[rows, right]
    labels = np.where(any_right, some.kinds[rows, right], MASKED)
    moved, _ = _drawn(rng, open_, MOVED, repeat=True)
    atom, any_atom = _drawn(rng, placed, CLOSE + BONDED + FAR, repeat=True)
    wanted, _ = _drawn(rng, bag > 0, CLOSE + BONDED + FAR, repeat=True)
    bond = some.radii[some.kinds[rows, atom]] + some.radii[wanted]
    shares = np.concatenate(
        [
            rng.uniform(0.1, 0.7, (len(x), CLOSE)),
            rng.uniform(0.85, 1.2, (len(x), BONDED)),
            rng.uniform(1.2, 2.5, (len(x), FAR)),
        ],
        1,
    )
    away = np.concatenate([rng.uniform(APART, MOST, (len(x), MOVED)), shares * bond], 1)
    about = np.concatenate([some.positions[rows, moved], x[rows, atom]], 1)
    wrong = about + away[..., None] * _directions(rng, away.shape)
    apart = np.linalg.norm(wrong[:, :, None] - some.positions[:, None], axis=-1)
    fine = (np.where(open_[:, None], apart, np.inf).min(-1) > APART) & any_atom[:, :1]
    return np.concatenate([places, wrong], 1), np.concatenate([labels, np.where(fine, n_species, MASKED)], 1)


def _drawn(rng: np.random.Generator, among: np.ndarray, count: int, repeat: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places (batch, count) of true entries of `among` (batch, entries), and which of them are; without `repeat` all differ."""
    if repeat:
        keys = np.where(among[:, None], rng.random((len(among), count, among.shape[1])), -1)
        found = keys.argmax(-1)
    else:
        keys = np.where(among, rng.random(among.shape), -1)
        keys = np.pad(keys, [(0, 0), (0, max(count - keys.shape[1], 0))], constant_values=-1)
        found = np.argsort(-keys, 1)[:, :count]
        inside = found < among.shape[1]
        found = np.where(inside, found, 0)
        return found, inside & (np.take_along_axis(keys, found, 1) >= 0)
    return found, np.take_along_axis(among, found, 1)


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Unit vectors (*shape, 3)."""
    v = rng.normal(size=(*shape, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


__all__ = ["MASKED", "QUERIES", "Molecules", "States", "samples"]
