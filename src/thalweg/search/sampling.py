"""Which evaluated structures become parents: the low ones, but not all of one kind."""

from __future__ import annotations

import abc

import equinox as eqx
import numpy as np


class Sampler(eqx.Module):
    """Chooses rows of a data set; everything on the host, in NumPy."""

    @abc.abstractmethod
    def __call__(self, features: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Rows that become parents, lowest energy first, at least one; `features` (rows, d), `energies` (rows,) finite."""


class KMeans(Sampler):
    """The lowest member of each of `count` clusters of fingerprints, among energies less than `window` above the lowest.

    Lloyd's algorithm from farthest points, begun at the lowest structure: no random numbers, so that the same data always
    give the same parents. N. Rønne et al., J. Chem. Phys. 157, 174115 (2022), doi:10.1063/5.0121748, sample like this.
    """

    count: int = 8
    window: float | None = 20.0
    rounds: int = 20

    def __call__(self, features, energies):
        order = within(energies, self.window)
        points = np.asarray(features, float)[order]
        labels = clusters(points, min(self.count, len(points)), self.rounds)
        # Rows are in order of energy, so that the first of each label is its lowest.
        return order[np.sort(np.unique(labels, return_index=True)[1])]


class KernelSimilarity(Sampler):
    """Groups of structures whose kernel exp(-d^2 / 2 length^2) with a lower one is above `alike`: the `count` lowest of them.

    `length` is the short length scale, in units of the root mean square distance of fingerprints.
    """

    count: int = 20
    window: float | None = 20.0
    length: float = 0.3
    alike: float = 0.5

    def __call__(self, features, energies):
        order = within(energies, self.window)
        d2 = squared(np.asarray(features, float)[order])
        scale2 = max(d2.sum() / max(len(order) * (len(order) - 1), 1), 1e-300)
        kernel = np.exp(-d2 / (2 * self.length**2 * scale2))
        return order[leaders(kernel > self.alike, self.count)]


class Population(Sampler):
    """The `count` lowest structures whose fingerprints differ by more than `apart` of the root mean square distance."""

    count: int = 10
    window: float | None = None
    apart: float = 0.05

    def __call__(self, features, energies):
        order = within(energies, self.window)
        d2 = squared(np.asarray(features, float)[order])
        scale2 = d2.sum() / max(len(order) * (len(order) - 1), 1)
        return order[leaders(d2 <= self.apart**2 * scale2, self.count)]


def within(energies: np.ndarray, window: float | None) -> np.ndarray:
    """Rows by rising energy, those up to `window` above the lowest."""
    energies = np.asarray(energies, float)
    order = np.argsort(energies, kind="stable")
    return order if window is None else order[energies[order] <= energies[order[0]] + window]


def leaders(alike: np.ndarray, count: int) -> np.ndarray:
    """Rows that are like none of the leaders before them, at most `count`; `alike` (n, n), best rows first."""
    chosen: list[int] = []
    for row in range(len(alike)):
        if len(chosen) < count and not alike[row, chosen].any():
            chosen.append(row)
    return np.asarray(chosen, int)


def clusters(points: np.ndarray, count: int, rounds: int = 20) -> np.ndarray:
    """Labels (n,) of points (n, d) in `count` clusters (Lloyd, doi:10.1109/TIT.1982.1056489), started at farthest points."""
    centres = [points[0]]
    nearest = ((points - points[0]) ** 2).sum(1)
    while len(centres) < count:
        centres.append(points[np.argmax(nearest)])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(1))
    middle, labels = np.stack(centres), np.zeros(len(points), int)
    for turn in range(max(rounds, 1)):
        before, labels = labels, squared(points, middle).argmin(1)
        if turn and (labels == before).all():
            break
        # A cluster that lost all its points stays where it is.
        middle = np.stack([points[labels == k].mean(0) if (labels == k).any() else middle[k] for k in range(count)])
    return labels


def squared(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Squared distances (n, m) of rows."""
    b = a if b is None else b
    d2 = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    d2 = np.maximum(d2, 0)
    if b is a:
        np.fill_diagonal(d2, 0)
    return d2
