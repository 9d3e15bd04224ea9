"""What a generator is: a proposal of one structure from none, one or two parents."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx

from thalweg.errors import InputError
from thalweg.structure import Structure
from thalweg.system import System


class Generator(eqx.Module):
    """Proposes a structure. Traceable: written for one structure, mapped over many by the search.

    Lengths in the fields are in units of the system's bond length. Padding slots may be left anywhere, and fixed atoms too:
    the search puts them back where the parent has them (`thalweg.search.base.generate`).
    """

    n_parents: ClassVar[int]
    #: Short name in tables of move statistics.
    name: ClassVar[str]
    #: True for generators whose structures have a cell of their own, not the parent's.
    changes_cell: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, key, parents: Structure, system: System) -> Structure:
        """A new structure; `parents` has a leading axis of `n_parents` (at least one slot, ignored when 0)."""


def moved(parent: Structure, positions) -> Structure:
    """The parent with new positions."""
    return Structure(positions, parent.numbers, parent.cell, parent.fixed, parent.pbc)


def require_cell(system: System, name: str) -> System:
    """The system, if it is periodic. Raises `InputError`."""
    if not any(system.pbc):
        raise InputError(f'the generator "{name}" needs a periodic cell; give a cell, or leave it out')
    return system


def refuse_cell(system: System, name: str, instead: str) -> None:
    """Raise `InputError` where a move about the centre of a cluster is used in a periodic cell, which has none."""
    if any(system.pbc):
        raise InputError(f'the move "{name}" is for free clusters; in a periodic cell use "{instead}"')
