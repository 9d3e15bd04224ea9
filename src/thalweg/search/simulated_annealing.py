"""Simulated annealing as a search: cool, keep what is lower, reheat; begin anew where that stops paying."""

from __future__ import annotations

from typing import ClassVar

from thalweg.search.repeated_relaxation import RepeatedRelaxation


class SimulatedAnnealing(RepeatedRelaxation):
    """Annealings from starts, each repeated from its lowest minimum until `patience` of them in a row lowered nothing.

    Kirkpatrick, Gelatt and Vecchi, Science 220, 671 (1983), doi:10.1126/science.220.4598.671. The cooling itself is the
    relaxer's (`thalweg.relax.annealing.Annealing`): temperatures, steps and friction are set there. With another relaxer
    this is a search of repeated relaxations, and finds nothing by them.
    """

    relaxer_kind: ClassVar[str] = "annealing"
    again: ClassVar[str] = "reheat"
