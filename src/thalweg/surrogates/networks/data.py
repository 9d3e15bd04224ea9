"""Structures and their energies to learn from: the two-dimensional Lennard-Jones sets, and data of any source in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from thalweg.errors import InputError
from thalweg.surrogates.networks.base import Subject

#: Structures whose pairs are computed at a time: their distances stay in the cache.
BLOCK = 256
#: Added to energies of the two-dimensional Lennard-Jones system before the logarithm is taken.
OFFSET = 32.0
#: Highest target of the low-energy set: log(V + 32) below it.
LOW = 7.0


@dataclass(frozen=True)
class EnergyData:
    """Structures (rows, atoms, 3) float32 of one composition (atoms,), and their energies (rows,) float64.

    `forces` (rows, atoms, 3), NaN where unknown, or None: they are learned from too where the target is the energy itself.
    """

    positions: np.ndarray
    numbers: np.ndarray
    energy: np.ndarray
    subject: Subject
    name: str = ""
    forces: np.ndarray | None = None

    def __post_init__(self):
        if len(self.positions) != len(self.energy):
            raise InputError(f"there are {len(self.positions)} structures and {len(self.energy)} energies; give one to each")
        bad = np.flatnonzero(~(np.isfinite(self.energy) & np.isfinite(self.positions).all((1, 2))))
        if len(bad):
            raise InputError(f"structure {bad[0]} of {len(self.energy)} has no finite energy or position; leave it out")

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def target(self) -> np.ndarray:
        """What is learned (rows,) float64."""
        return self.subject.target(self.energy)

    def rows(self, which) -> EnergyData:
        """Some of the structures, by index or slice."""
        forces = None if self.forces is None else self.forces[which]
        return replace(self, positions=self.positions[which], energy=self.energy[which], forces=forces)

    def with_more(self, positions, energy, forces=None) -> EnergyData:
        """These and other structures of the same composition; forces that are not given are unknown."""
        both = None
        if self.forces is not None:
            more = np.full(np.shape(positions), np.nan) if forces is None else np.asarray(forces)
            both = np.concatenate([self.forces, more])
        return replace(
            self,
            positions=np.concatenate([self.positions, np.asarray(positions, np.float32)]),
            energy=np.concatenate([self.energy, np.asarray(energy, np.float64)]),
            forces=both,
        )

    def split(self, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> Parts:
        """Training, validation and test rows, drawn without replacement: the same for the same seed and size."""
        count = len(self)
        held = [round(count * part) for part in (validation, test)]
        if min(held) < 1 or count - sum(held) < 1:
            raise InputError(f"{count} structures are too few to hold out {validation:g} and {test:g} of them; take more")
        order = np.random.default_rng([seed, count]).permutation(count)
        ends = np.cumsum([count - sum(held), held[0]])
        return Parts(*(self.rows(np.sort(part)) for part in np.split(order, ends)))


class Parts(NamedTuple):
    """Disjoint parts of a set."""

    train: EnergyData
    validation: EnergyData
    test: EnergyData


def lennard_jones(positions) -> np.ndarray:
    """Energies (rows,) float64 of structures (rows, atoms, 3): every pair once, 4 (r^-12 - r^-6), no cutoff, no images."""
    n = positions.shape[1]
    first, second = np.triu_indices(n, 1)
    out = np.empty(len(positions))
    for at in range(0, len(positions), BLOCK):
        x = np.asarray(positions[at : at + BLOCK], np.float64)
        d = x[:, first] - x[:, second]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            six = (d * d).sum(-1) ** -3
            out[at : at + BLOCK] = 4 * (six * six - six).sum(1)
    return out


def full(rng: np.random.Generator, count: int, atoms: int = 32, box: float = 32.0, offset: float = OFFSET) -> EnergyData:
    """Atoms placed uniformly in a square box, everything kept: a quarter of the energies is negative, the highest are 1e30.

    The target is log(V + `offset`). The energy of 32 atoms in a plane can be below -32, where it has no logarithm: random
    structures never come near, relaxed ones do. There it is an error and not a number, and mended by a larger offset.
    """
    return _drawn(rng, count, (atoms, box, offset), np.isfinite, "full")


def low_energy(
    rng: np.random.Generator,
    count: int,
    atoms: int = 32,
    box: float = 32.0,
    offset: float = OFFSET,
    highest: float = LOW,
) -> EnergyData:
    """The same, of which only structures with log(V + `offset`) < `highest` are kept: a little more than half of them.

    Where the limit of the published set was is not known; this one is such that a constant does as well as it did there.
    """
    limit = np.exp(highest) - offset
    return _drawn(rng, count, (atoms, box, offset), lambda energy: energy < limit, "low-energy")


def _drawn(rng, count: int, made: tuple[int, float, float], kept: Callable, name: str) -> EnergyData:
    """Uniform structures of so many atoms in a box of such an edge and with this offset (`made`), those that are `kept`.

    Raises `InputError` where nearly none is.
    """
    atoms, box, offset = made
    if count < 1 or atoms < 2 or not box > 0:
        raise InputError(f"{count} structures of {atoms} atoms in a box of {box:g}: all must be positive, and atoms at least 2")
    found, energies, tried, have = [], [], 0, 0
    while have < count:
        x = np.zeros((max(2 * BLOCK, count // 4), atoms, 3), np.float32)
        x[..., :2] = box * rng.random((len(x), atoms, 2), np.float32)
        energy = lennard_jones(x)
        good = kept(energy)
        found.append(x[good])
        energies.append(energy[good])
        tried, have = tried + len(x), have + int(good.sum())
        if tried >= 10_000 and have < tried / 1000:
            raise InputError(f"of {tried} random structures {have} are low enough; raise the limit or enlarge the box")
    subject = Subject(atoms, (0,), 2, float(box), 1.0, float(offset))
    numbers = np.zeros(atoms, np.int32)
    return EnergyData(np.concatenate(found)[:count], numbers, np.concatenate(energies)[:count], subject, name)


#: Sets that can be generated, by name.
SETS: dict[str, Callable[..., EnergyData]] = {"full": full, "low-energy": low_energy}
