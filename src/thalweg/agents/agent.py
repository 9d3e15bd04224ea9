"""`Agent`: what it sees of a structure in the making, and what it thinks that placing one more atom is worth."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.agents.grid import Grid
from thalweg.agents.images import Representation
from thalweg.geometry import nearest_image, traced_space
from thalweg.networks.voxel import Sites, VoxelNetwork
from thalweg.space import Space
from thalweg.typing import Array


class Agent(eqx.Module):
    """A network of voxels that reads images of atoms: expected outcomes, between -1 and 1, of every possible placement.

    `species` are atomic numbers; one map of values for each. Everything in float32.
    """

    network: VoxelNetwork
    representation: Representation
    species: tuple[int, ...] = eqx.field(static=True)

    def kinds(self, numbers) -> np.ndarray:
        """Indices (atoms,) of atomic numbers among `species`; -1 for others. On the host."""
        numbers = np.asarray(numbers)
        return np.array([self.species.index(int(z)) if int(z) in self.species else -1 for z in numbers], np.int32)

    def images(self, grid: Grid, positions, kinds, there, cell=None) -> Array:
        """What it sees: (batch, channels, nx, ny, nz) of positions (batch, atoms, 3), kinds (atoms,), there (batch, atoms)."""
        points = grid.points()
        sums = self._seen(points[None], self._seated(grid, positions), kinds, there, spacing_of(grid), _space(grid, cell))
        made = self.representation.combined(sums)
        return made.reshape(*made.shape[:2], *grid.shape)

    def maps(self, grid: Grid, positions, kinds, there, cell=None) -> Array:
        """Values (batch, species, voxels) of putting an atom of each species on each voxel."""
        images = self.images(grid, positions, kinds, there, cell)
        out = self.network.maps(images, grid.periodic, self.empty)
        return out.reshape(*out.shape[:2], -1)

    def values(self, grid: Grid, positions, kinds, there, voxel, kind, cell=None, offset=None) -> Array:
        """Values (batch,) of an atom of `kind` (batch,) on `voxel` (batch,): those of `maps`, for a fraction of the cost.

        With an `offset` (batch, 3) the whole grid is shifted by it: values of places between voxels.
        """
        sums, sites = self.sums(grid, positions, kinds, there, voxel, cell, offset)
        images = self.representation.combined(sums)
        out = self.network.values(images.reshape(*images.shape[:2], *sites.inside.shape[1:]), sites, self.empty)
        return jnp.take_along_axis(out, kind[:, None], 1)[:, 0]

    def sums(self, grid: Grid, positions, kinds, there, voxel, cell=None, offset=None) -> tuple[Array, Sites]:
        """What a representation combines: (batch, species, basis, sites) for the sites that the values of voxels depend on."""
        sites = self.network.sites(grid.indices(voxel), grid.shape, grid.periodic)
        at = sites.at.reshape(len(sites.at), -1, 3).astype(positions.dtype)
        points = jnp.asarray(grid.origin, positions.dtype) + at @ jnp.asarray(grid.steps, positions.dtype)
        points = points if offset is None else points + offset[:, None]
        made = self._seen(points, self._seated(grid, positions), kinds, there, spacing_of(grid), _space(grid, cell))
        return made, sites

    @property
    def empty(self) -> Array:
        """What it sees (channels,) where there is nothing."""
        blank = jnp.zeros((1, len(self.species), self.representation.n_basis, 1))
        return self.representation.combined(blank)[0, :, 0]

    def _seated(self, grid: Grid, positions):
        """Positions (batch, atoms, 3) on voxels, where the representation knows no others."""
        return grid.position(grid.nearest(positions)[0], positions.dtype) if self.representation.snapped else positions

    def _seen(self, points, positions, kinds, there, spacing, space: Space | None):
        """Sums over atoms (batch, species, basis, sites) at points (batch or 1, sites, 3)."""
        wide = jax.nn.one_hot(kinds, len(self.species), dtype=positions.dtype) * there[..., None]  # (batch, atoms, species)

        def add(total, atom):
            x, weight = atom
            d = nearest_image(points - x[:, None], space)
            b = self.representation.basis(d, spacing)  # (batch, sites, basis)
            return total + weight[:, :, None, None] * jnp.moveaxis(b, -1, 1)[:, None], None

        begun = jnp.zeros((len(positions), len(self.species), self.representation.n_basis, points.shape[1]), positions.dtype)
        total, _ = jax.lax.scan(add, begun, (jnp.moveaxis(positions, 1, 0), jnp.moveaxis(wide, 1, 0)))
        return total


def spacing_of(grid: Grid):
    """The mean distance between voxels along the axes of the grid."""
    steps = jnp.asarray(grid.steps)[: grid.dimensions]
    return jnp.sqrt((steps * steps).sum(-1)).mean()


def _space(grid: Grid, cell) -> Space | None:
    if not any(grid.periodic):
        return None
    if cell is None:
        cell = jnp.asarray(grid.steps) * jnp.asarray(grid.shape)[:, None]
    return traced_space(jnp.asarray(cell, jnp.float32), grid.periodic)
