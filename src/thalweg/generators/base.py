"""What a generator is: a proposal of one structure from none, one or two parents."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from thalweg.errors import InputError
from thalweg.geometry import nearest_image, traced_space
from thalweg.space import Space
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


def held(new: Structure, parent: Structure, system: System, start: bool) -> Structure:
    """What a generator made of `parent`, put right where the system has a template or a region (single structures).

    Fixed atoms stay where the parent has them. Atoms of a template do so too, or in a `start` are where the system has
    them: only relaxations move them. Other atoms that were moved are brought into the region. A system without template
    and region is left as it is but for fixed atoms.
    """
    x = new.positions.astype(parent.positions.dtype)
    home = parent.positions
    if system.region is not None:
        astray = system.searched & ((x != parent.positions).any(-1) | start)
        x = jnp.where(astray[:, None], confine(x, system, traced_space(new.cell, system.pbc)), x)
    if system.template is not None:
        template = jnp.asarray(system.template)[:, None]
        home = jnp.where(template, jnp.asarray(system.positions, x.dtype), home)
        x = jnp.where(template, home if start else parent.positions, x)
    x = jnp.where(parent.fixed[:, None], home, x)
    return Structure(x, parent.numbers, new.cell, parent.fixed, parent.pbc)


def confine(points, system: System, space: Space | None):
    """The nearest points (n, 3) inside the system's region; in a periodic cell inside any of its images."""
    if system.region is None:
        return points
    near = beside(points, system, space)
    return system.region.project(near) + (points - near)


def inside(points, system: System, space: Space | None):
    """True (n,) for points (n, 3) inside the system's region, everywhere where it has none."""
    region = system.region
    return jnp.ones(points.shape[:-1], bool) if region is None else region.contains(beside(points, system, space))


def beside(points, system: System, space: Space | None):
    """The images of points (n, 3) that are nearest to the centre of the region."""
    if space is None or system.region is None:
        return points
    d = points - jnp.asarray(system.region.centre, points.dtype)
    return points + (nearest_image(d, space) - d)


def require_cell(system: System, name: str) -> System:
    """The system, if it is periodic. Raises `InputError`."""
    if not any(system.pbc):
        raise InputError(f'the generator "{name}" needs a periodic cell; give a cell, or leave it out')
    return system


def refuse_cell(system: System, name: str, instead: str) -> None:
    """Raise `InputError` where a move about the centre of a cluster is used in a periodic cell, which has none."""
    if any(system.pbc):
        raise InputError(f'the move "{name}" is for free clusters; in a periodic cell use "{instead}"')
