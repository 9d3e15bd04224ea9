"""The energy of a free cluster as a function of a vector: the coordinates of its atoms in a cube, one atom after the other.

What holds for functions of vectors does not hold here: atoms of one species can be exchanged and the cluster can be turned, so
that every minimum is there more often than could be counted, all over the box, and the mean over a box that is the same for all
atoms says nothing about any of them. Two atoms in one place have no energy, and random points have such of 1e9 and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import InputError
from thalweg.minimizers.function import Function, box_of
from thalweg.potentials.base import Potential
from thalweg.system import bonds_of

#: Points that are evaluated together: arrays over pairs of atoms then stay in the caches, and few lanes are padding where a
#: method asks for a few points at a time.
LANES = 32
#: Radius of the sphere of close-packed atoms that the cube is drawn around, times this: clusters are not packed so well.
ROOM = 1.1


class Compressed(eqx.Module):
    """A monotonic map of energies: (E - above) / unit up to `above`, the logarithm of 1 + that beyond.

    Its minimum is that of the energy, and below `above` it is the energy in units: 0, of atoms that do not see each other, is
    above all that matters. Smooth to the first derivative.
    """

    above: float = 0.0
    unit: float = 1.0

    def __check_init__(self):
        if not self.unit > 0:
            raise InputError(f"the unit is {self.unit:g}; it must be positive, or the map is not monotonic")

    def __call__(self, energy):
        excess = (energy - self.above) / self.unit
        return jnp.where(excess > 0, jnp.log1p(jnp.maximum(excess, 0)), excess)


@dataclass(frozen=True, kw_only=True)
class AtomsFunction(Function):
    """Energies of points (n, 3 atoms); forces are the potential's own. `seen` maps energies to what a method sees of them."""

    potential: Potential
    numbers: np.ndarray
    seen: Compressed | None = None

    @property
    def block(self) -> int:
        """Points of one call."""
        return LANES

    @property
    def in_energy(self) -> AtomsFunction:
        """The same without a map."""
        return replace(self, seen=None, _compiled={})

    def energies(self, x: np.ndarray) -> np.ndarray:
        """True energies (n,) in float64 of points (n, dim), whatever a method sees."""
        return self.in_energy.values(np.asarray(x, np.float64))

    def positions(self, x: np.ndarray) -> np.ndarray:
        """Positions (*batch, atoms, 3) of points (*batch, dim)."""
        return np.asarray(x, np.float64).reshape(*np.shape(x)[:-1], -1, 3)

    def wider(self, factor: float) -> AtomsFunction:
        """The same in a cube so much wider: what is relaxed is not to lean on the walls."""
        middle, half = (self.low + self.high) / 2, factor * (self.high - self.low) / 2
        return replace(self, low=middle - half, high=middle + half, _compiled={})

    def _many(self, x):
        energy = _energies(self.potential, self.numbers)(x.T)
        return energy if self.seen is None else self.seen(energy)


def function_of_atoms(
    potential: Potential, numbers: Sequence[int] | np.ndarray, box: Sequence | None = None, seen: Compressed | None = None,
    name: str | None = None,
) -> AtomsFunction:  # fmt: skip
    """The energy of a free cluster of these atomic numbers (atoms,) as a function of 3 atoms variables.

    `box` = (low, high), numbers or (dim,), is by default the cube of `half_edge` about the origin. A method sees the energy
    itself, or `seen` of it. Raises `InputError` for species that the potential does not know and for calculators.
    """
    numbers = np.asarray(numbers, np.int32)
    if len(numbers) == 0:
        raise InputError("a cluster needs at least one atom; zero were asked for")
    if not potential.traceable:
        raise InputError(f"{type(potential).__name__} cannot be traced by JAX; a calculator is for `thalweg run`")
    potential.check(numbers)
    half = half_edge(potential, numbers)
    low, high = box_of((-half, half) if box is None else box, 3 * len(numbers))
    one = lambda x: _energies(potential, numbers)(x[:, None])[0]
    made = name or f"{type(potential).__name__} of {len(numbers)} atoms"
    return AtomsFunction(made, one, low, high, potential=potential, numbers=numbers, seen=seen)


def half_edge(potential: Potential, numbers: np.ndarray) -> float:
    """Half the edge of a cube with room for a compact cluster, however it is turned: `ROOM` times the radius of a sphere with
    the volume of so many close-packed atoms at their bond length."""
    bonds = bonds_of(np.asarray(numbers), potential)
    return ROOM * float((3 / (4 * np.pi * np.sqrt(2)) * (bonds**3).sum()) ** (1 / 3))


def _energies(potential: Potential, numbers: np.ndarray):
    """Energies (*lanes) of x (3 atoms, *lanes), with forces for gradients: no pass back through loops over pairs."""
    species = jnp.asarray(numbers)[:, None]

    def evaluated(x):
        return potential.lanes(x.reshape(-1, 3, x.shape[-1]), species)

    @jax.custom_vjp
    def energies(x):
        return evaluated(x).energy

    def forward(x):
        out = evaluated(x)
        return out.energy, out.forces.reshape(x.shape)

    energies.defvjp(forward, lambda forces, weight: (-forces * weight,))
    return energies
