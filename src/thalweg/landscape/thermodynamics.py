"""Harmonic superposition: how often each minimum is occupied at a temperature, free energies, and the heat capacity.

Each minimum is a harmonic well that exists in as many versions as there are ways to exchange its like atoms and to invert it,
over the order of its point group: F. H. Stillinger and T. A. Weber, Science 225, 983 (1984), doi:10.1126/science.225.4666.983;
D. J. Wales, Mol. Phys. 78, 151 (1993), doi:10.1080/00268979300100141. Classical vibrations; turning and moving as a whole
are left out, and so is anharmonicity: near melting, populations are rough. NumPy only: reports use it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thalweg.landscape.states import Network

#: Temperature (K) up to which charts of real systems go.
HOTTEST = 3000.0


class Thermodynamics(NamedTuple):
    """At temperatures (t,): what minima (n,) are occupied with (t, n), free energies above the lowest, heat capacity (t,).

    The heat capacity is in Boltzmann's constant: vibrations (one for each) and what is taken up by changing minima.
    """

    temperatures: np.ndarray
    occupation: np.ndarray
    free_energies: np.ndarray  # (t, n)
    heat_capacity: np.ndarray


def superposition(network: Network, temperatures) -> Thermodynamics:
    """The harmonic superposition of the minima of a network, those that no saddle joins included."""
    energies = np.array([m.energy for m in network.minima])
    logs = np.array([np.log(m.vibrations).sum() + np.log(m.order) for m in network.minima])
    modes = np.array([len(m.vibrations) for m in network.minima])
    return of_wells(energies, logs, modes, temperatures, network.boltzmann)


def of_wells(energies, logs, modes, temperatures, boltzmann: float = 1.0) -> Thermodynamics:
    """The same of wells by their energies, logarithms of the product of vibrations and order (n,), and numbers of modes (n,).

    What all wells have in common (the number of exchanges) has no part in it.
    """
    t = np.atleast_1d(np.asarray(temperatures, float))
    kt = boltzmann * t[:, None]
    energies, logs, modes = (np.asarray(a, float) for a in (energies, logs, modes))
    z = -energies / kt + modes * np.log(kt) - logs
    top = z.max(1, keepdims=True)
    occupation = np.exp(z - top)
    occupation /= occupation.sum(1, keepdims=True)
    lowest = int(np.argmin(energies))
    free = -kt * (z - z[:, lowest : lowest + 1])
    inner = energies + modes * kt
    mean = (occupation * inner).sum(1, keepdims=True)
    spread = (occupation * (inner - mean) ** 2).sum(1)
    capacity = (occupation * modes).sum(1) + spread / kt[:, 0] ** 2
    return Thermodynamics(t, occupation, free, capacity)


def suited_temperatures(network: Network, count: int = 120) -> np.ndarray:
    """Temperatures (count,) from where only the lowest minimum is occupied to where it is one of many."""
    energies = np.array([m.energy for m in network.minima])
    gaps = np.sort(energies)[1:] - energies.min()
    gaps = gaps[gaps > network.energy_tolerance]
    scale = gaps[0] if len(gaps) else 1.0
    grid = np.geomspace(scale / 60, 10 * scale, 400) / network.boltzmann
    lowest = superposition(network, grid).occupation[:, int(np.argmin(energies))]
    left = np.flatnonzero(lowest < 0.02)
    high = grid[left[0]] if len(left) else grid[-1]
    if network.units[0] == "eV":
        high = min(high, HOTTEST)
    return np.linspace(high / count, high, count)
