"""The structures that `thalweg reproduce asla` lets be built: what is placed where, with which energy, and what is a success.

Nothing here is a number to be reached: the known structures are made, or read from the package's data, and relaxed by the
problem's own energy when a benchmark begins (`Problem.known`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from io import StringIO
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import fcc100, graphene, make_supercell, molecule
from ase.io import read, write

from thalweg.config import Resolved, resolve
from thalweg.errors import InputError, PotentialError, suggest
from thalweg.objective.base import Task
from thalweg.objective.evaluate import Evaluate
from thalweg.run import energy_scale
from thalweg.similarity.bonds import Bonds, bonds_of, same_bonds
from thalweg.structure import Structure

#: Evaluations of a relaxation to a known structure, or from a candidate to one.
LONGEST = 500
XTB = {"kind": "calculator", "calculator": "tblite", "arguments": {"method": "GFN1-xTB"}}
EMT = {"kind": "calculator", "calculator": "emt"}


@dataclass(frozen=True)
class Known:
    """A known structure, relaxed: `energy` (eV), `structure`, and its bonds."""

    energy: float
    structure: Structure
    bonds: Bonds


@dataclass(frozen=True)
class Problem:
    """Atoms to be placed, their energy, and what counts as having found the known structure.

    `tables` are those of an input; a `template` is written to a file for it. Success is judged on structures as they were
    evaluated, also on the voxels of a grid: with `near` None where their bonds are those of the known one, atom by atom
    (`thalweg.similarity.bonds`); else where the energy is at most `near` (eV) above the known one and a relaxation ends at
    most `tolerance` (eV) above it. `budget` is the episodes of a restart.
    """

    name: str
    what: str
    tables: Mapping
    target: Callable[[], Atoms] | None  # None: what `data` holds
    budget: int
    template: Callable[[], Atoms] | None = None
    near: float | None = None
    tolerance: float = 0.02
    spacing: float = 0.2  # of the grid (Å)
    data: str | None = None
    published: tuple[str, ...] = ()

    def resolved(
        self, search: Mapping | None = None, evaluations: int | None = None, seed: int = 0, max_steps: int = 1
    ) -> Resolved:
        """The objects of a restart by a [search], with at most `max_steps` evaluations for each structure."""
        tables = {
            **self.tables,
            "run": {"walkers": 1, "max_steps": max_steps, "precision": "float64", "seed": seed},
            "stop": {"evaluations": evaluations or self.budget},
        }
        if search is not None:
            tables["search"] = dict(search)
        if self.template is None:
            return resolve(tables)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "template.xyz"
            write(path, self.template(), format="extxyz")
            tables["system"] = {**tables["system"], "template": str(path)}
            return resolve(tables)

    @property
    def is_known(self) -> bool:
        """Whether there is a known structure (that of a new problem is found first: `thalweg reproduce asla --table known`)."""
        return self.data is None or (files("thalweg.benchmark") / "data" / f"{self.data}.xyz").is_file()

    @property
    def known(self) -> Known:
        """The known structure, relaxed by the problem's energy; computed once."""
        return _known(self.name)

    def reached(self, structure: Structure, energy: float) -> bool:
        """Whether a structure of this energy (eV), as evaluated, is a success."""
        if self.near is None:
            return np.isfinite(energy) and same_bonds(bonds_of(structure), self.known.bonds)
        if not energy <= self.known.energy + self.near:
            return False
        return relaxed(self, structure)[1] <= self.known.energy + self.tolerance


def relaxed(of: Problem, structure: Structure, fmax: float = 0.02) -> tuple[Structure, float]:
    """The minimum below a structure and its energy (eV), by a problem's energy; `fmax` in eV/Å. inf where that failed."""
    relaxation = replace(_plain(of.name).relaxation, fmax=fmax, max_steps=LONGEST)
    found = Evaluate(relaxation)(Task(0, structure, np.inf))
    return replace_positions(structure, found.positions[-1]) if len(found.energies) else structure, float(found.energy)


def replace_positions(structure: Structure, positions) -> Structure:
    """The same atoms elsewhere (atoms, 3)."""
    return Structure.create(positions, structure.numbers, structure.cell, structure.fixed, structure.pbc)


@lru_cache
def _plain(name: str) -> Resolved:
    return problem(name).resolved()


@lru_cache
def _known(name: str) -> Known:
    of, system = problem(name), _plain(name).system
    atoms = stored(of.data or name) if of.target is None else of.target()
    # Template atoms come first and stay in order, the others ascend by number: as systems have them.
    held = 0 if of.template is None else len(of.template())
    order = [*range(held), *(held + np.argsort(atoms.numbers[held:], kind="stable"))]
    if not np.array_equal(atoms.numbers[order], np.asarray(system.numbers)):
        raise InputError(f"the known structure of {name} has other atoms than its input")
    start = Structure.create(atoms.positions[order], system.numbers, system.cell, system.fixed, system.pbc)
    found, energy = relaxed(of, start)
    if not np.isfinite(energy):
        raise PotentialError(f"the known structure of {name} has no energy; is its calculator there?")
    return Known(energy, found, bonds_of(found))


def _aniline() -> Atoms:
    """Benzene with an amino group in its plane in place of one hydrogen; relaxed later."""
    atoms = molecule("C6H6")
    carbons, hydrogens = atoms[atoms.numbers == 6], atoms[atoms.numbers == 1]
    out = carbons.positions[0] / np.linalg.norm(carbons.positions[0])
    side = np.array([-out[1], out[0], 0.0])
    nitrogen = carbons.positions[0] + 1.38 * out
    others = np.linalg.norm(hydrogens.positions - carbons.positions[0], axis=1) > 1.5
    amino = np.stack([nitrogen + 0.5 * out + s * 0.86 * side for s in (1, -1)])
    return Atoms("C6H5NH2", np.concatenate([carbons.positions, hydrogens.positions[others], nitrogen[None], amino]))


def _carbamic_acid() -> Atoms:
    """H2N-CO-OH in a plane, hydroxyl towards the other oxygen; relaxed later."""
    return Atoms(
        "CO2NH3",
        [(0, 0, 0), (0.0, 1.21, 0), (1.17, -0.67, 0), (-1.18, -0.68, 0), (1.83, 0.03, 0), (-2.03, -0.13, 0), (-1.2, -1.69, 0)],
    )


def stored(name: str) -> Atoms:
    """A structure of the package's data: the lowest of searches (`thalweg reproduce asla --table known`)."""
    file = files("thalweg.benchmark") / "data" / f"{name}.xyz"
    if not file.is_file():
        raise InputError(f"no structure is known of {name}; find one by thalweg reproduce asla --table known")
    text = file.read_text(encoding="utf-8")
    atoms = read(StringIO(text), format="extxyz")
    assert isinstance(atoms, Atoms)
    return atoms


def _flat(formula: str, width: float) -> dict:
    """[system] of a free molecule in a square of this edge (Å) about the origin."""
    region = {"kind": "plane", "vectors": [[width, 0.0], [0.0, width]], "corner": [-width / 2, -width / 2]}
    return {"formula": formula, "dimensions": 2, "region": region}


def _gold() -> Atoms:
    """The atom that the cluster is built on, in the middle of the box."""
    return Atoms("Au", [(0.0, 0.0, 0.0)])


def sheet(edge: float, repeats: tuple[int, int] = (3, 2)) -> Atoms:
    """Graphite in a rectangle of so many times the conventional cell of 4 atoms, `edge` (Å) that of the hexagonal one."""
    made = make_supercell(graphene(a=edge, vacuum=5.0), [[1, 0, 0], [1, 2, 0], [0, 0, 1]]).repeat((*repeats, 1))
    made.pbc = (True, True, False)
    made.positions -= made.positions[0]
    made.wrap(eps=1e-6)
    return made


#: Of the grain boundary (Å): half the width of both crystals, of what is built anew, and by how much the crystals are apart.
GRAINS, OPEN, APART = 9.5, 3.4, -0.15


def grains(edge: float) -> Atoms:
    """Two sheets of graphite that meet in a line along y, turned by 21.8 degrees: the symmetric boundary Σ7.

    One period, sqrt(7) edges (Å) long: the left crystal, with 2 a1 + a2 along y, and its mirror image; atoms that would be on
    both sides of the line are one atom on it, as in the known structure of one ring of five and one of seven (O. V. Yazyev
    and S. G. Louie, Phys. Rev. B 81, 195420 (2010), doi:10.1103/PhysRevB.81.195420). Those at most `OPEN` from it come last.
    """
    a1, a2 = edge, edge * np.exp(1j * np.pi / 3)
    along = 2 * a1 + a2
    i, j = np.mgrid[-9:10, -9:10].reshape(2, -1)
    crystal = np.concatenate([i * a1 + j * a2, i * a1 + j * a2 + (a1 + a2) / 3]) * 1j * abs(along) / along
    inside = (crystal.imag > -1e-6) & (crystal.imag < abs(along) - 1e-6) & (crystal.real > -GRAINS)
    left = crystal[inside & (crystal.real < -0.5)] - APART / 2
    middle = 1j * crystal[inside & (abs(crystal.real) <= 0.5) & (crystal.real < 1e-9)].imag
    points = np.concatenate([left, -left.conj(), middle])
    x, y = np.real(points), np.imag(points)
    last = np.argsort(abs(x) <= OPEN, kind="stable")
    positions = np.stack([x, y, np.zeros(len(x))], 1)[last]
    return Atoms(f"C{len(points)}", positions, cell=[2 * GRAINS + 10, abs(along), 10], pbc=(False, True, False))


def slab(cells: tuple[int, int]) -> Atoms:
    """Two layers of Cu(100), fixed, with the lattice constant of the potential of effective media."""
    made = fcc100("Cu", (*cells, 2), a=3.59, vacuum=6.0)
    made.positions[:, 2] -= made.positions[:, 2].max()
    made.positions[:, 2] += 8.0
    made.pbc = (True, True, False)
    made.info.clear()
    return made


def _twice() -> Atoms:
    """The known structure of the small cell of the surface, two times side by side: the large one has this or better."""
    small = stored("asla-surface")
    added = small[len(slab((3, 3))) :]
    other = added.copy()
    other.positions += small.cell.array[0]
    return slab((6, 3)) + added + other


def _carbon(edge: float, potential: dict, repeats: tuple[int, int] = (3, 2)) -> dict:
    made = sheet(edge, repeats)
    cell = made.cell.array
    region = {"kind": "plane", "vectors": cell[:2, :2].tolist(), "height": 0.0, "periodic": [True, True]}
    return {"system": {"add": f"C{len(made) - 1}", "fix": "all", "dimensions": 2, "region": region}, "potential": potential}


def _between(edge: float) -> dict:
    made = grains(edge)
    half = OPEN + 0.8
    region = {
        "kind": "plane", "vectors": [[2 * half, 0.0], [0.0, float(made.cell.array[1, 1])]], "corner": [-half, 0.0],
        "height": 0.0, "periodic": [False, True],
    }  # fmt: skip
    added = f"C{int(_open(made).sum())}"
    return {"system": {"add": added, "fix": "all", "dimensions": 2, "region": region}, "potential": {"kind": "tersoff"}}


def _open(made: Atoms) -> np.ndarray:
    """Which atoms of the grains are built anew."""
    return abs(made.positions[:, 0]) <= OPEN


def _above(cells: tuple[int, int], added: str) -> dict:
    vectors = slab(cells).cell.array[:2, :2].tolist()
    return {
        "system": {"add": added, "fix": "all", "region": {"kind": "slab", "low": 9.0, "high": 12.0, "vectors": vectors}},
        "potential": EMT,
    }


def _cubic(half: float) -> dict:
    return {"kind": "box", "vectors": np.diag([2 * half] * 3).tolist(), "origin": [-half] * 3}


PROBLEMS = {
    p.name: p
    for p in (
        Problem(
            "benzene", "C6H6 in a plane, GFN1-xTB, grid of 41 x 41", {"system": _flat("C6H6", 8.0), "potential": XTB},
            lambda: molecule("C6H6"), 2000,
            published=("ASLA 10 % of restarts after about 7,000 episodes, with a model of the energy after fewer than 1,000",),
        ),
        Problem(
            "aniline", "C6H7N in a plane, GFN1-xTB, grid of 49 x 49", {"system": _flat("C6H7N", 9.6), "potential": XTB},
            _aniline, 2000,
        ),
        Problem(
            "carbamic-acid", "CH3NO2 in a plane, GFN1-xTB: seven atoms of four species, grid of 36 x 36",
            {"system": _flat("CH3NO2", 7.0), "potential": XTB}, _carbamic_acid, 1000,
        ),
        Problem(
            "ni4au5", "Ni4Au4 around one atom of gold, EMT, grid of 21 x 21 x 21",
            {"system": {"add": "Ni4Au4", "fix": "all", "region": _cubic(4.0)}, "potential": EMT},
            None, 1000, _gold, near=2.0, spacing=0.4, data="asla-ni4au5",
        ),
        Problem(
            "graphene", "23 C about one in a periodic plane, Tersoff, grid of 38 x 44", _carbon(2.53, {"kind": "tersoff"}),
            lambda: sheet(2.53), 2000, lambda: sheet(2.53)[:1],
        ),
        Problem(
            "graphene-12", "11 C about one in a periodic plane, Tersoff, grid of 38 x 22",
            _carbon(2.53, {"kind": "tersoff"}, (3, 1)), lambda: sheet(2.53, (3, 1)), 1500, lambda: sheet(2.53, (3, 1))[:1],
        ),
        Problem(
            "graphene-xtb", "23 C about one in a periodic plane, GFN1-xTB, grid of 37 x 43", _carbon(2.46, XTB),
            lambda: sheet(2.46), 1000, lambda: sheet(2.46)[:1],
        ),
        Problem(
            "grain-boundary", "16 C between two sheets of graphene turned by 21.8 degrees, Tersoff, grid of 43 x 33",
            _between(2.53), lambda: grains(2.53), 2000, lambda: grains(2.53)[~_open(grains(2.53))],
        ),
        Problem(
            "surface", "Ni2Au3 on Cu(100) of 3 x 3 atoms, EMT, grid of 19 x 19 x 8", _above((3, 3), "Ni2Au3"), None, 500,
            lambda: slab((3, 3)), near=1.0, spacing=0.4, data="asla-surface",
        ),
        Problem(
            "surface-2", "Ni4Au6 on Cu(100) of 6 x 3 atoms, EMT, grid of 38 x 19 x 8", _above((6, 3), "Ni4Au6"), _twice, 500,
            lambda: slab((6, 3)), near=1.0, spacing=0.4,
        ),
    )
}  # fmt: skip


def problem(name: str) -> Problem:
    """A problem by name. Raises `InputError` where there is none."""
    if name not in PROBLEMS:
        raise InputError(f'there is no problem "{name}".{suggest(name, PROBLEMS)}')
    return PROBLEMS[name]


def scale_of(of: Problem) -> float:
    """Energy of a bond of a problem (eV)."""
    made = _plain(of.name)
    return energy_scale(made.relaxation, made.system)
