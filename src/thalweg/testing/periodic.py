"""The conformance check of potentials under periodic boundaries: what no choice of cell, origin or image may change."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.leaves import as_leaves
from thalweg.potentials.base import Potential
from thalweg.structure import PADDING
from thalweg.testing.shared import close, require

#: Steps of the stencil in units of a bond: so short that hardly ever a pair crosses a cutoff with a step in energy.
STEP = 1e-5
_STENCIL = (-2, -1, 1, 2)


def check_periodic(potential: Potential, numbers, bond: float, extensive: bool = True) -> None:
    """Check energies, forces and virials of a potential with a cutoff in small cells; raises `AssertionError`."""
    name = type(potential).__name__
    reach = potential.reach
    assert reach is not None
    box = potential.nearest_image
    cells = [_cell(len(numbers), bond, reach if box else 0.0, seed) for seed in (0, 1)]
    cases = [_Cases(*c, bond, box) for c in cells]
    with jax.enable_x64(True):
        results, double = _evaluate(potential, np.asarray(numbers), cases)
    for case, result in zip(cases, results, strict=True):
        _check_equivalent(name, case, *result)
    _check_derivatives(name, cases, results, bond)
    if extensive and not box:  # where only the nearest image counts, a larger cell has more pairs
        _check_supercell(name, double, [a[0] for a in results[0]])


def _cell(n: int, bond: float, reach: float, seed: int):
    """Positions (atoms, 3) near a simple cubic grid and a skew cell (3, 3), or a box wider than two reaches if one is given."""
    sides = np.full(3, max(int(np.floor(n ** (1 / 3))), 1))
    while sides.prod() < n:
        sides[np.argmin(sides)] += 1
    grid = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1).reshape(-1, 3)
    rng = np.random.default_rng(seed)
    x = (grid[rng.permutation(len(grid))[:n]] + 0.08 * rng.uniform(-1, 1, (n, 3))) * 1.05 * bond
    if reach:
        return x, np.diag(np.maximum(sides * 1.05 * bond, 2.1 * reach))
    return x, np.diag(sides * 1.05 * bond) @ (np.eye(3) + np.triu(rng.uniform(-0.15, 0.15, (3, 3)), 1)).T


class _Cases:
    """One cell in many disguises, and what finite differences need."""

    def __init__(self, x, cell, bond, box: bool):
        rng = np.random.default_rng(3)
        turns = rng.integers(-2, 3, x.shape)
        other = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]]) @ cell  # other vectors of the same lattice
        named = {
            "base": (x, cell),
            "with atoms moved by cell vectors": (x + turns @ cell, cell),
            "translated": (x + np.array([0.3, -0.7, 1.1]) * bond, cell),
            "with its atoms along other vectors of the same lattice": (x, cell if box else other),
        }
        self.names = list(named)
        self.directions = rng.normal(size=(3, *x.shape))
        self.directions /= np.sqrt((self.directions**2).sum((1, 2), keepdims=True))
        strains = rng.normal(size=(3, 3, 3))
        self.strains = strains + strains.transpose(0, 2, 1)
        if box:  # a sheared box is one no more
            self.strains = self.strains * np.eye(3)
        moved = [(x + c * STEP * bond * d, cell) for d in self.directions for c in _STENCIL]
        deformed = [np.eye(3) + c * STEP * e for e in self.strains for c in _STENCIL]
        every = [*named.values(), *moved, *((x @ f, cell @ f) for f in deformed)]
        self.positions, self.cells = (np.stack(v) for v in zip(*every, strict=True))


@eqx.filter_jit
def _lanes(potential, positions, numbers, space):
    out = potential.lanes(positions, numbers, space, virial=True)
    return out.energy, out.forces, out.virial


def _evaluate(potential, numbers, cases):
    """Energies, forces (cases, atoms, 3) and virials (cases, 3, 3) of each case, and those of the first cell doubled.

    All in one batch, where single cells are padded to two: so one compilation does.
    """
    n = len(numbers)
    single = np.concatenate([case.positions for case in cases])
    cells = np.concatenate([case.cells for case in cases])
    twice = np.concatenate([single[0], single[0] + cells[0, 0]])
    positions = np.concatenate([np.concatenate([single, single[:, ::-1]], axis=1), twice[None]])
    cells = np.concatenate([cells, (np.diag([2, 1, 1]) @ cells[0])[None]])
    slots = np.tile(np.concatenate([numbers, np.full(n, PADDING)]), (len(cells), 1))
    slots[-1, n:] = numbers
    space = potential.space(cells, (True, True, True))
    traced, space = as_leaves((potential, space), np.float64)
    out = _lanes(traced, jnp.asarray(np.moveaxis(positions, 0, -1)), jnp.asarray(slots.T.astype(np.int32)), space)
    require(out[2] is not None, f"{type(potential).__name__} gives no virial where one is asked for.")
    energy, forces, virial = (np.moveaxis(np.asarray(a), -1, 0) for a in out)
    parts = np.split(np.arange(len(single)), len(cases))
    return [(energy[k], forces[k, :n], virial[k]) for k in parts], (energy[-1], forces[-1], virial[-1])


def _check_equivalent(name, case, energy, forces, virial) -> None:
    require(np.isfinite(energy[0]), f"{name} has no finite energy in an ordinary periodic cell.")
    for k, what in enumerate(case.names):
        sentence = f"of {name} in a periodic cell differ for the same crystal {what}"
        close(energy[k], energy[0], 1e-9, f"energies {sentence}")
        close(forces[k], forces[0], 1e-8, f"forces {sentence}")
        close(virial[k], virial[0], 1e-8, f"virials {sentence}")


def _check_derivatives(name, cases, results, bond) -> None:
    errors, scale = [], 0.0
    for case, (energy, forces, virial) in zip(cases, results, strict=True):
        e = energy[len(case.names) :].reshape(2, -1, 4)
        slope = (e[..., 0] - 8 * e[..., 1] + 8 * e[..., 2] - e[..., 3]) / (12 * STEP)
        along = bond * (case.directions * forces[0]).sum((1, 2)), (case.strains * virial[0]).sum((1, 2))
        errors.append(np.abs(slope + along))
        scale = max(scale, np.abs(along).max(), np.abs(energy[0]))
    # In one of two cells a pair may cross a step at its cutoff within the stencil; a wrong formula shows in both.
    for what, worst in zip(("forces", "virials"), np.min(errors, axis=0).max(1), strict=True):
        of = "the derivative of its energy" if what == "forces" else "the derivative of its energy by the strain"
        require(
            worst < 1e-6 * max(scale, 1.0),
            f"{what} of {name} in a periodic cell are not minus {of}: they differ by {worst:.2e} from finite differences.",
        )


def _check_supercell(name, double, alone) -> None:
    sentence = f"of two cells of {name} are not those of one, twice"
    close(double[0] / 2, alone[0], 1e-9, f"energies {sentence}")
    close(double[1], np.tile(alone[1], (2, 1)), 1e-8, f"forces {sentence}")
    close(double[2] / 2, alone[2], 1e-8, f"virials {sentence}")
