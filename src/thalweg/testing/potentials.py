"""The conformance check of potentials."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.structure import PADDING, Structure
from thalweg.testing.periodic import check_periodic
from thalweg.testing.shared import check_traced, close, compact_cluster, require
from thalweg.typing import Array


def check_potential(
    potential: Potential, numbers: Sequence[int] | Array, positions=None, invariant: bool = True, extensive: bool = True
) -> None:
    """Check a traceable potential on one composition; give `positions` (atoms, 3) where a compact cluster will not do.

    Potentials with a cutoff are checked under periodic boundaries too.
    `invariant=False` leaves out rotation, translation and mirror (for energies with an external field), `extensive=False`
    that two cells have twice the energy of one (for models of a structure as a whole). Functions of vectors
    (`Potential.variables`) have no symmetry to check.
    """
    name = type(potential).__name__
    numbers = np.asarray(numbers, np.int32)
    require(
        isinstance(potential, Potential), f"{name} is not a thalweg Potential; derive it from Potential or EnergyPotential."
    )
    require(potential.traceable, f"{name} is not traceable; these checks are for traceable potentials.")
    require(len(numbers) >= 2, f"{len(numbers)} atoms are too few to check {name}; give at least two.")
    potential.check(numbers)
    bonds = potential.bond_lengths(numbers)
    if bonds is None:
        from ase.data import covalent_radii

        bonds = 2 * np.where(numbers > 0, covalent_radii[numbers], 0.5)
    require(np.shape(bonds) == numbers.shape, f"bond_lengths of {name} has shape {np.shape(bonds)} for {len(numbers)} atoms.")
    x = compact_cluster(bonds) if positions is None else np.asarray(positions, float)
    bond = float(np.mean(bonds))
    check_traced(name, potential, lambda p: p.lanes(jnp.asarray(x, jnp.float32), jnp.asarray(numbers)).energy)
    with jax.enable_x64(True):
        cases = _PotentialCases(numbers, x, bond)
        energy, forces, atomic, ok = _evaluate(potential, cases.structures(np.float64))
        _check_shapes(name, cases, energy, forces, atomic, ok)
        _check_forces(name, cases, energy, forces)
        if potential.variables is None:  # those of a function are not interchangeable
            _check_symmetry(name, cases, energy, forces, invariant)
        _check_degenerate(name, cases, energy, ok)
        _check_layout(name, potential, cases, energy, forces, atomic)
    _check_single_precision(name, potential, cases, energy, forces)
    if potential.reach is not None:
        check_periodic(potential, numbers, bond, extensive)


class _PotentialCases:
    """Variations of one structure, evaluated together as lanes so that one compilation serves them all."""

    def __init__(self, numbers, x, bond):
        rng = np.random.default_rng(1)
        self.numbers, self.x, self.bond = numbers, x, bond
        self.rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        self.rotation *= np.sign(np.linalg.det(self.rotation))
        self.mirror = np.diag([1.0, 1.0, -1.0])
        # Permutation within each species: a cycle.
        self.permutation = np.arange(len(x))
        for z in np.unique(numbers):
            mine = np.flatnonzero(numbers == z)
            self.permutation[mine] = np.roll(mine, 1)
        self.directions = rng.normal(size=(6, *x.shape))
        self.directions[3:] = 0
        for k in range(3):  # single coordinates besides collective ones: a wrong single component must not hide in a sum
            self.directions[3 + k, rng.integers(len(x)), k] = 1
        self.directions /= np.sqrt((self.directions**2).sum((1, 2), keepdims=True))
        self.h = 3e-4 * bond
        coincident, close, lost = x.copy(), x.copy(), x.copy()
        coincident[1] = x[0]
        close[1] = x[0] + [0, 0, 1e-7 * bond]
        lost[1, 2] = np.nan
        self.named = {
            "base": x,
            "rotated": x @ self.rotation.T,
            "mirrored": x @ self.mirror,
            "translated": x + np.array([0.3, -0.7, 1.1]) * bond,
            "permuted": x[self.permutation],
            "coincident": coincident,
            "close": close,
            "lost": lost,
        }
        self.lane = {key: i for i, key in enumerate(self.named)}
        self.stencil = [x + c * self.h * d for d in self.directions for c in (-2, -1, 1, 2)]

    def structures(self, dtype) -> Structure:
        positions = np.stack([*self.named.values(), *self.stencil]).astype(dtype)
        numbers = np.broadcast_to(self.numbers, positions.shape[:2])
        return Structure(positions, numbers, np.zeros((len(positions), 3, 3), dtype), np.zeros(positions.shape[:2], bool))


@eqx.filter_jit
def _evaluate_jit(potential, structures):
    out = potential.evaluate(structures)
    return out.energy, out.forces, out.atomic_energies, out.ok


@eqx.filter_jit
def _lanes_jit(potential, positions, numbers):
    out = potential.lanes(positions, numbers)
    return out.energy, out.forces, out.atomic_energies, out.ok


def _evaluate(potential, structures):
    """Energy, forces, per-atom energies and ok, as NumPy arrays."""
    return [np.asarray(a) for a in _evaluate_jit(as_leaves(potential, np.float64), jax.tree.map(jnp.asarray, structures))]


def _check_shapes(name, cases, energy, forces, atomic, ok) -> None:
    n, b = len(cases.x), len(energy) if np.ndim(energy) else 0
    require(
        np.shape(energy) == (b,) and b > 0, f"energies of {name} have shape {np.shape(energy)}; one per structure is needed."
    )
    require(forces.shape == (b, n, 3), f"forces of {name} have shape {forces.shape}; {(b, n, 3)} is needed.")
    require(atomic.shape == (b, n), f"per-atom energies of {name} have shape {atomic.shape}; {(b, n)} is needed.")
    base = cases.lane["base"]
    require(
        bool(ok[base]) and np.isfinite(energy[base]), f"{name} has no finite energy (or ok is False) for an ordinary structure."
    )
    good = ok.astype(bool)
    finite = np.isfinite(energy) & np.isfinite(forces).all((1, 2))
    require(not (good & ~finite).any(), f"{name} says ok where its energy or a force is not finite.")
    usual = np.r_[: cases.lane["coincident"], len(cases.named) : b]
    close(atomic[usual].sum(1), energy[usual], 1e-9, f"per-atom energies of {name} do not sum to the energy")


def _check_forces(name, cases, energy, forces) -> None:
    e = energy[len(cases.named) :].reshape(len(cases.directions), 4)
    slope = (e[:, 0] - 8 * e[:, 1] + 8 * e[:, 2] - e[:, 3]) / (12 * cases.h)
    along = (cases.directions * forces[cases.lane["base"]]).sum((1, 2))
    scale = 1e-6 * (np.abs(along).max() + np.abs(energy[cases.lane["base"]]) / cases.bond)
    worst = np.abs(slope + along).max()
    require(
        worst <= scale,
        f"forces of {name} are not minus the derivative of its energy: they differ by {worst:.2e} from finite differences.",
    )


def _check_symmetry(name, cases, energy, forces, invariant) -> None:
    at = cases.lane
    e, f = energy[at["base"]], forces[at["base"]]
    close(energy[at["permuted"]], e, 1e-9, f"the energy of {name} changes when equal atoms exchange places")
    close(forces[at["permuted"]], f[cases.permutation], 1e-8, f"the forces of {name} do not follow atoms that exchange places")
    if not invariant:
        return
    for kind, matrix in (("rotated", cases.rotation), ("mirrored", cases.mirror), ("translated", np.eye(3))):
        close(energy[at[kind]], e, 1e-9, f"the energy of {name} changes when the structure is {kind}")
        close(forces[at[kind]], f @ matrix.T, 1e-8, f"the forces of {name} do not turn with the structure when it is {kind}")


def _check_degenerate(name, cases, energy, ok) -> None:
    """No silent wrong: what has no energy must say so; what claims one at contact must be the limit of near contact.

    Soft potentials may be finite when two atoms coincide. A divergent one that was patched there is not continuous.
    """
    at = cases.lane
    require(not ok[at["lost"]], f"{name} says ok for a structure with a NaN coordinate.")
    if ok[at["coincident"]]:
        gap = abs(energy[at["coincident"]] - energy[at["close"]])
        limit = 1e-4 * (1 + abs(energy[at["base"]]))
        sentence = f"{name} gives coincident atoms the energy {energy[at['coincident']]:.6g}, but nearly coincident ones "
        require(bool(gap < limit), sentence + f"{energy[at['close']]:.6g}: where the energy diverges, ok must be False.")


def _check_layout(name, potential, cases, energy, forces, atomic) -> None:
    """One structure alone, and padded: the same as in the batch; then a single atom."""
    n, base = len(cases.x), cases.lane["base"]
    # Padding lies anywhere: one slot far off, one upon an atom, one at the origin.
    x = np.concatenate([cases.x, [[50 * cases.bond] * 3], cases.x[:1], np.zeros((1, 3))])
    numbers = np.concatenate([cases.numbers, [PADDING] * 3]).astype(np.int32)
    e, f, each, ok = _evaluate(potential, Structure.create(x, numbers))
    require(np.ndim(e) == 0, f"{name} gives a single structure an energy of shape {np.shape(e)}.")
    close(e, energy[base], 1e-10, f"{name} gives a structure alone and padded another energy than in a batch")
    close(f[:n], forces[base], 1e-9, f"{name} gives a structure alone and padded other forces than in a batch")
    close(each[:n], atomic[base], 1e-9, f"{name} gives a structure alone and padded other per-atom energies than in a batch")
    require(bool((f[n:] == 0).all()), f"{name} puts forces on padding slots.")
    require(bool((each[n:] == 0).all()), f"{name} gives padding slots an energy.")
    numbers[1:] = PADDING
    e, f, _, ok = _evaluate(potential, Structure.create(x, numbers))
    require(bool(ok) and np.isfinite(e) and np.isfinite(f).all(), f"{name} has no finite energy or force for a single atom.")


def _check_single_precision(name, potential, cases, energy, forces) -> None:
    """float32 in the layout of the search: lanes last, numbers (atoms, 1) shared by all of them."""
    x = jnp.asarray(np.moveaxis(cases.structures(np.float32).positions, 0, -1))
    e, f, each, ok = (
        np.asarray(a) for a in _lanes_jit(as_leaves(potential, np.float32), x, jnp.asarray(cases.numbers)[:, None])
    )
    base = cases.lane["base"]
    shapes = (e.shape, f.shape, each.shape, ok.shape)
    wanted = ((x.shape[2],), x.shape, (x.shape[0], x.shape[2]), (x.shape[2],))
    require(shapes == wanted, f"{name} gives shapes {shapes} where its lanes share their numbers; {wanted} is needed.")
    close(e[base], energy[base], 2e-5, f"the energy of {name} in float32 is too far from float64")
    close(f[..., base], forces[base], 1e-3, f"the forces of {name} in float32 are too far from float64")
    require(not (ok & ~np.isfinite(e)).any(), f"{name} says ok in float32 where its energy is not finite.")
