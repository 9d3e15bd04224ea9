"""Small molecules of carbon, nitrogen, oxygen and fluorine as graphs: all that written rules allow, grown atom by atom.

The rules are this project's own. They are cautious: what is strained, cumulated, or a less stable tautomer is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from thalweg.errors import InputError
from thalweg.similarity.isomers import chemistry, named

#: Version of the rules: a set of molecules says which it was made by.
RULES = 1
#: Bonds that an uncharged atom has.
VALENCES = {"C": 4, "N": 3, "O": 2, "F": 1}
#: Heavy atoms beyond which growing takes hours.
LARGEST = 8


class Graph(NamedTuple):
    """Heavy atoms, and the order of the bond between each two: 0 where there is none."""

    elements: str
    orders: tuple[tuple[int, ...], ...]

    @property
    def free(self) -> list[int]:
        """Bonds of each atom that hydrogen has, or another heavy atom may take."""
        return [VALENCES[e] - sum(row) for e, row in zip(self.elements, self.orders, strict=True)]

    def around(self, i: int) -> list[int]:
        """The atoms that atom i is bonded to."""
        return [j for j, order in enumerate(self.orders[i]) if order]


def enumerated(heavy: int, elements: str = "CNOF", stereo: bool = True) -> list[str]:
    """Canonical SMILES of all molecules with 1 to `heavy` heavy atoms of these elements, smallest first.

    Neutral closed shells of a single connected part, whose remaining valences (C 4, N 3, O 2, F 1) hydrogen fills. None of
    these is in them; the first nine hold for whatever is left of a molecule without an atom too, so that growing atom by
    atom (bonded in every way to what is there) from molecules that keep them misses nothing:

    1. a bond between two oxygen atoms, or of fluorine to anything but carbon;
    2. three nitrogen or oxygen atoms in a row;
    3. an atom with two double bonds (allenes, ketenes, isocyanates, carbon dioxide);
    4. a triple bond in a ring;
    5. a double bond in a ring of three, or two in a ring of four;
    6. two nitrogen or oxygen atoms in a ring of three;
    7. two rings of three or four atoms with a bond in common;
    8. rings with more than one bond in common (bridges) of which one has three or four atoms, or with a double bond at the
       atoms where they part (J. Bredt, 1924);
    9. a double bond at an atom of a ring of three or four with three bonds in rings;
    10. OH at C=C, C#C, C=N or C#N, and NH at C=C or C#C, but for aromatic rings of five atoms or more: the tautomer is lower;
    11. OH or NH at a carbon of single bonds that has another nitrogen, oxygen or fluorine: it would be eliminated;
    12. a hydrogen atom at N=N or at the nitrogen of N=O, or at the carbon next to N=O.

    A ring is one without a bond across it. With `stereo` every stereo isomer counts, one of two mirror images: distances,
    and energies, are those of both. Some of them can only be drawn; the embedding finds that out. Raises `InputError` for
    elements that it does not know, and without RDKit.
    """
    from rdkit import rdBase

    elements = _checked(heavy, elements)
    with rdBase.BlockLogs():
        found = [name for level in _levels(heavy, elements) for name in sorted(n for n, graph in level.items() if _kept(graph))]
        return [isomer for name in found for isomer in stereo_isomers(name)] if stereo else found


def allowed(smiles: str) -> bool:
    """Whether a molecule, of any size, keeps the rules of `enumerated`; other elements, charges and radicals do not."""
    from rdkit import rdBase

    chem = chemistry()
    with rdBase.BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
    if molecule is None or len(chem.GetMolFrags(molecule)) != 1:
        return False
    chem.Kekulize(molecule, clearAromaticFlags=True)
    atoms = list(molecule.GetAtoms())
    if any(a.GetSymbol() not in VALENCES or a.GetFormalCharge() or a.GetNumRadicalElectrons() for a in atoms):
        return False
    orders = np.rint(chem.GetAdjacencyMatrix(molecule, useBO=True)).astype(int)
    graph = Graph("".join(a.GetSymbol() for a in atoms), tuple(tuple(map(int, row)) for row in orders))
    return _allowed_bonds(graph) and _allowed_rings(graph) and _kept(graph)


def _checked(heavy: int, elements: str) -> str:
    chemistry()
    strange = sorted(set(elements) - set(VALENCES))
    if strange or not elements:
        raise InputError(f'molecules are made of {"".join(VALENCES)} and hydrogen, not of "{elements}"; name some of these')
    if not 1 <= heavy <= LARGEST:
        raise InputError(f"molecules of {heavy} heavy atoms are not enumerated; ask for 1 to {LARGEST}")
    return "".join(e for e in VALENCES if e in elements)


def stereo_isomers(smiles: str) -> list[str]:
    """SMILES of the stereo isomers of a molecule, one of two mirror images."""
    chem = chemistry()
    from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers

    return sorted({named(one).stereo for one in EnumerateStereoisomers(chem.MolFromSmiles(smiles))})


def _levels(heavy: int, elements: str) -> Iterator[dict[str, Graph]]:
    """Graphs by SMILES that keep rules 1 to 9: of one atom, of two, ..."""
    level = {_smiles(g): g for g in (Graph(e, ((0,),)) for e in elements)}
    yield level
    for _ in range(heavy - 1):
        larger: dict[str, Graph] = {}
        for graph in level.values():
            for element in elements:
                for grown in _grown(graph, element):
                    if _allowed_bonds(grown):
                        larger.setdefault(_smiles(grown), grown)
        # Rings are looked at once for each molecule, as that costs more than its name.
        level = {name: graph for name, graph in larger.items() if _allowed_rings(graph)}
        yield level


def _grown(graph: Graph, element: str) -> Iterator[Graph]:
    """The graph with one atom more, bonded in every way that valences allow."""
    free, most = graph.free, VALENCES[element]
    places = [i for i, bonds in enumerate(free) if bonds]
    for size in range(1, most + 1):
        for ends in combinations(places, size):
            if element == "F" and graph.elements[ends[0]] != "C":
                continue
            for orders in product(*(range(1, min(free[i], most, 3) + 1) for i in ends)):
                if sum(orders) <= most:
                    yield _with_atom(graph, element, dict(zip(ends, orders, strict=True)))


def _with_atom(graph: Graph, element: str, bonds: dict[int, int]) -> Graph:
    last = tuple(bonds.get(i, 0) for i in range(len(graph.elements)))
    rows = tuple((*row, order) for row, order in zip(graph.orders, last, strict=True))
    return Graph(graph.elements + element, (*rows, (*last, 0)))


def _smiles(graph: Graph) -> str:
    return chemistry().MolToSmiles(_molecule(graph))


def _molecule(graph: Graph):
    """The RDKit molecule of a graph."""
    chem = chemistry()
    kinds = {1: chem.BondType.SINGLE, 2: chem.BondType.DOUBLE, 3: chem.BondType.TRIPLE}
    molecule = chem.RWMol()
    for element in graph.elements:
        molecule.AddAtom(chem.Atom(element))
    for i, j in combinations(range(len(graph.elements)), 2):
        if graph.orders[i][j]:
            molecule.AddBond(i, j, kinds[graph.orders[i][j]])
    chem.SanitizeMol(molecule)
    return molecule


def _allowed_bonds(graph: Graph) -> bool:
    """Rules 1 to 3."""
    for i, element in enumerate(graph.elements):
        others = [graph.elements[j] for j in graph.around(i)]
        if sum(order > 1 for order in graph.orders[i]) > 1:
            return False
        if (element == "O" and "O" in others) or (element == "F" and set(others) - {"C"}):
            return False
        if element in "NO" and sum(other in "NO" for other in others) > 1:
            return False
    return True


def _allowed_rings(graph: Graph) -> bool:
    """Rules 4 to 9."""
    rings = _rings(graph)
    return all(_sound(graph, ring) for ring in rings) and _parts_allowed(graph, [_bonds(graph, ring) for ring in rings])


def _rings(graph: Graph) -> list[tuple[int, ...]]:
    """Sets of atoms, each bonded to two of the others and all connected: rings without a bond across."""
    n = len(graph.elements)
    around = [sum(1 << j for j in graph.around(i)) for i in range(n)]
    if sum(mask.bit_count() for mask in around) < 2 * n:
        return []
    found = []
    for size in range(3, n + 1):
        for atoms in combinations(range(n), size):
            inside = sum(1 << i for i in atoms)
            if all((around[i] & inside).bit_count() == 2 for i in atoms) and _reached(atoms[0], inside, around) == inside:
                found.append(atoms)
    return found


def _reached(start: int, inside: int, around: Sequence[int]) -> int:
    """Atoms (bits) of `inside` that are connected to the first."""
    seen, edge = 0, 1 << start
    while edge:
        seen |= edge
        step = 0
        for i, mask in enumerate(around):
            if edge >> i & 1:
                step |= mask
        edge = step & inside & ~seen
    return seen


def _bonds(graph: Graph, ring: tuple[int, ...]) -> frozenset[tuple[int, int]]:
    return frozenset((i, j) for i, j in combinations(ring, 2) if graph.orders[i][j])


def _sound(graph: Graph, ring: tuple[int, ...]) -> bool:
    """Rules 4 to 6, of one ring."""
    orders = [graph.orders[i][j] for i, j in _bonds(graph, ring)]
    if 3 in orders or orders.count(2) > {3: 0, 4: 1}.get(len(ring), len(ring)):
        return False
    return len(ring) > 3 or sum(graph.elements[i] in "NO" for i in ring) < 2


def _parts_allowed(graph: Graph, rings: list[frozenset[tuple[int, int]]]) -> bool:
    """Rules 7 to 9, of what rings (as bonds) have in common."""
    double = lambda i: 2 in graph.orders[i]
    for one, other in combinations(rings, 2):
        shared, small = one & other, min(len(one), len(other))
        if (shared and max(len(one), len(other)) <= 4) or (len(shared) > 1 and small <= 4):
            return False
        ends = [i for bond in shared for i in bond]
        if len(shared) > 1 and any(double(i) for i in ends if ends.count(i) == 1):
            return False
    in_rings = [i for bond in set().union(*rings) for i in bond]
    strained = {i for ring in rings if len(ring) <= 4 for bond in ring for i in bond if in_rings.count(i) >= 3}
    return not any(double(i) for i in strained)


def _kept(graph: Graph) -> bool:
    """Rules 10 to 12, which are those of whole molecules."""
    free, molecule = graph.free, _molecule(graph)
    for i, element in enumerate(graph.elements):
        atom = molecule.GetAtomWithIdx(i)
        if element != "C" or (atom.GetIsAromatic() and not atom.IsInRingSize(4)):
            continue
        around = graph.around(i)
        acid = [j for j in around if graph.elements[j] in "NO" and graph.orders[i][j] == 1 and free[j]]
        others = [j for j in around if graph.elements[j] != "C"]
        multiple = {graph.elements[j] for j in around if graph.orders[i][j] > 1}
        if ("C" in multiple and acid) or ("N" in multiple and any(graph.elements[j] == "O" for j in acid)):
            return False
        if not multiple and acid and len(others) > 1:
            return False
    return not any(_unstable_nitrogen(graph, i, free) for i, element in enumerate(graph.elements) if element == "N")


def _unstable_nitrogen(graph: Graph, i: int, free: list[int]) -> bool:
    """Rule 12, of the nitrogen atom i."""
    partners = {graph.elements[j] for j in graph.around(i) if graph.orders[i][j] == 2}
    if "N" in partners:
        return bool(free[i])
    return "O" in partners and (bool(free[i]) or any(free[j] for j in graph.around(i)))
