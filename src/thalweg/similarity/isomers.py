"""Which molecule a structure is: its bonds and bond orders as canonical SMILES, and the distinct isomers among many structures.

Bonds are those of `thalweg.similarity.bonds`, bond orders and names RDKit's: the extra `molecules` of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from thalweg.errors import InputError
from thalweg.similarity.bonds import Bonds, bonds_of
from thalweg.structure import Structure

#: Bonds up to so many sums of covalent radii are tried where longer ones fit no molecule: across a ring of four atoms are
#: distances of 1.25, which are no bonds.
SHORTER = 1.2
#: Attempts at bond orders after which a structure has none: those of molecules need few, those of rubble very many.
ATTEMPTS = 10_000
NITROGEN = 7


class Isomer(NamedTuple):
    """Canonical SMILES without and with stereochemistry; a dot stands between molecules that are apart."""

    constitution: str
    stereo: str


class Found(NamedTuple):
    """The lowest structure of an isomer: its energy, its place among those given, how many were this isomer, and the place
    of the first of them."""

    energy: float
    index: int
    count: int
    first: int


@dataclass(frozen=True)
class Isomers:
    """Distinct isomers by SMILES, lowest first; `unnamed` counts structures without one, `broken` those of several parts."""

    constitutions: dict[str, Found] = field(default_factory=dict)
    stereo: dict[str, Found] = field(default_factory=dict)
    unnamed: int = 0
    broken: int = 0


def chemistry():
    """RDKit's module `Chem`. Raises `InputError` where RDKit is not installed."""
    try:
        from rdkit import Chem
    except ImportError:
        raise InputError("molecules need the package rdkit, which is not installed: pip install thalweg[molecules]") from None
    return Chem


def fragments(structure: Structure) -> int:
    """How many molecules a structure consists of: parts without a bond between them."""
    return _parts(bonds_of(structure))


def _parts(bonds: Bonds) -> int:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(bonds.bonded, directed=False)[0])


def smiles_of(structure: Structure) -> Isomer | None:
    """The molecule that a free structure is, uncharged as a whole; None where no bond orders fit its bonds.

    Closed shells without charges go first, then charges side by side (carbon monoxide, nitro groups), then radicals. Bond
    lengths are not asked for bond orders, so that what differs only by where the double bonds of a ring stand is one isomer,
    and equal molecules have equal names in whatever order their atoms come. Two mirror images are one isomer, as their
    energies are equal; nitrogen is no stereo centre, as it inverts, and hydrogen on the nitrogen of C=N has no side. Far from
    a minimum, where a double bond is twisted by a right angle, its sides are arbitrary. Raises `InputError` where RDKit is
    missing, and for periodic structures.
    """
    chem = chemistry()
    if any(structure.pbc):
        raise InputError("isomers are those of free molecules, and this structure is periodic; give its atoms without a cell")
    bonds = bonds_of(structure)
    if not bonds.sound or not len(bonds.numbers) or (bonds.numbers < 1).any():
        return None
    positions = np.asarray(structure.positions, np.float64)[np.asarray(structure.numbers) >= 0]
    from rdkit import rdBase

    with rdBase.BlockLogs():
        molecule = _molecule(chem, structure, bonds, positions)
        return None if molecule is None else named(molecule)


def named(molecule) -> Isomer:
    """The names of an RDKit molecule with hydrogen atoms in it or without."""
    chem = chemistry()
    flat, seen = chem.Mol(molecule), chem.Mol(molecule)
    chem.RemoveStereochemistry(flat)
    for atom in seen.GetAtoms():
        if atom.GetAtomicNum() == NITROGEN:
            atom.SetChiralTag(chem.ChiralType.CHI_UNSPECIFIED)
    return Isomer(_written(chem, flat), min(_written(chem, seen), _written(chem, _mirrored(chem, seen))))


def _written(chem, molecule) -> str:
    """Canonical SMILES, of the molecule that is read from a SMILES: that what was made in another way has the same."""
    options = chem.RemoveHsParameters()
    options.removeDefiningBondStereo = True
    bare = chem.RemoveHs(molecule, options)
    read = chem.MolFromSmiles(chem.MolToSmiles(bare))
    return chem.MolToSmiles(bare if read is None else read)


def _mirrored(chem, molecule):
    """The molecule with all its centres the other way round; sides of double bonds stay."""
    mirror = chem.Mol(molecule)
    for atom in mirror.GetAtoms():
        atom.InvertChirality()
    return mirror


def _molecule(chem, structure: Structure, bonds: Bonds, positions: np.ndarray) -> Any:
    """The RDKit molecule of a structure, with bond orders and stereochemistry; None where there is none."""
    skeleton = _skeleton(chem, bonds, positions)
    neutral = _ordered(chem, skeleton, False)
    if neutral is not None and not _radicals(neutral):
        return neutral
    fewer = bonds_of(structure, SHORTER)
    if (fewer.bonded != bonds.bonded).any() and _parts(fewer) == _parts(bonds):
        closed = _ordered(chem, _skeleton(chem, fewer, positions), False)
        if closed is not None and not _radicals(closed):
            return closed
    charged = _ordered(chem, skeleton, True)
    if charged is not None and not _radicals(charged) and _side_by_side(charged):
        return charged
    return neutral


def _skeleton(chem, bonds: Bonds, positions: np.ndarray):
    """All bonds single, atoms in an order that depends on the bonds alone: that of those given would choose among Kekulé's."""
    from rdkit.Geometry import Point3D

    molecule = chem.RWMol()
    for number in bonds.numbers:
        atom = chem.Atom(int(number))
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    for i, j in zip(*np.nonzero(np.triu(bonds.bonded)), strict=True):
        molecule.AddBond(int(i), int(j), chem.BondType.SINGLE)
    conformer = chem.Conformer(len(positions))
    conformer.Set3D(True)
    for i, x in enumerate(positions):
        conformer.SetAtomPosition(i, Point3D(*map(float, x)))
    molecule.AddConformer(conformer)
    molecule.UpdatePropertyCache(strict=False)
    rank = list(chem.CanonicalRankAtoms(molecule, breakTies=True))
    return chem.RenumberAtoms(molecule.GetMol(), [int(k) for k in np.argsort(rank)])


def _ordered(chem, skeleton, charges: bool):
    """The molecule with bond orders; None where none fit."""
    from rdkit.Chem import rdDetermineBonds

    molecule = chem.Mol(skeleton)
    try:
        rdDetermineBonds.DetermineBondOrders(
            molecule, charge=0, allowChargedFragments=charges, embedChiral=False, maxIterations=ATTEMPTS
        )
        chem.SanitizeMol(molecule)
        chem.AssignStereochemistryFrom3D(molecule)
    except (ValueError, RuntimeError):  # how RDKit says that valences do not fit or that it gave up
        return None
    return molecule


def _radicals(molecule) -> int:
    return sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())


def _side_by_side(molecule) -> bool:
    """Whether every charged atom is bonded to one of the opposite charge."""
    opposite = lambda atom: any(other.GetFormalCharge() * atom.GetFormalCharge() < 0 for other in atom.GetNeighbors())
    return all(opposite(atom) for atom in molecule.GetAtoms() if atom.GetFormalCharge())


def isomers_of(structures: Iterable[Structure], energies: Sequence[float]) -> Isomers:
    """Distinct isomers among structures, each with its lowest energy (in the unit of `energies`).

    Structures in several parts, and those that are no molecule, are counted and left out.
    """
    constitutions: dict[str, Found] = {}
    stereo: dict[str, Found] = {}
    unnamed = broken = 0
    for index, (structure, energy) in enumerate(zip(structures, energies, strict=True)):
        isomer = smiles_of(structure)
        if isomer is None:
            unnamed += 1
        elif "." in isomer.constitution:
            broken += 1
        else:
            _count(constitutions, isomer.constitution, float(energy), index)
            _count(stereo, isomer.stereo, float(energy), index)
    return Isomers(_lowest_first(constitutions), _lowest_first(stereo), unnamed, broken)


def _count(table: dict[str, Found], name: str, energy: float, index: int) -> None:
    before = table.get(name)
    if before is None:
        table[name] = Found(energy, index, 1, index)
        return
    energy, index = (energy, index) if energy < before.energy else (before.energy, before.index)
    table[name] = Found(energy, index, before.count + 1, before.first)


def _lowest_first(table: dict[str, Found]) -> dict[str, Found]:
    return dict(sorted(table.items(), key=lambda each: each[1].energy))


def new_ones(found: Isomers, known: Collection[str]) -> Isomers:
    """The isomers that are not among `known` SMILES, which may be with stereochemistry or without.

    A stereo isomer is new where its own SMILES is not known: of a known constitution too.
    """
    known = set(known)
    other = lambda table: {name: one for name, one in table.items() if name not in known}
    return Isomers(other(found.constitutions), other(found.stereo), found.unnamed, found.broken)
