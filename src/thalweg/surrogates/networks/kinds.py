"""The networks of energies by name; a new one is a class in a file of its own and a line here."""

from __future__ import annotations

from thalweg.surrogates.networks.base import EnergyNetwork
from thalweg.surrogates.networks.graph import Graph
from thalweg.surrogates.networks.occupancy import Occupancy
from thalweg.surrogates.networks.pair import Pair
from thalweg.surrogates.networks.perceptron import Coordinates
from thalweg.surrogates.networks.schnet import SchNet

KINDS: dict[str, type[EnergyNetwork]] = {each.kind: each for each in (Coordinates, Occupancy, Graph, SchNet, Pair)}
