"""Molecules to learn from: enumerated, embedded in space, relaxed, displaced, and labelled with energies and forces.

`thalweg.learning.molecular_graphs` has the rules of what is enumerated, `thalweg.learning.molecule_set` what comes out. Needs
the extras `molecules` (RDKit) and `xtb` (tblite) of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

import thalweg
from thalweg.errors import InputError, StructureError
from thalweg.learning.molecular_graphs import RULES, allowed, enumerated, stereo_isomers
from thalweg.learning.molecule_set import MoleculeSet, load_molecules
from thalweg.objective.base import Evaluated, Objective, Task, WorkerLost, Workers
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import open_workers
from thalweg.potentials.black_box import BlackBox
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.similarity.isomers import chemistry, named, smiles_of
from thalweg.structure import PADDING, Structure, pad

__all__ = ["MoleculeSet", "allowed", "embedded", "enumerated", "labelled", "load_molecules", "molecule_set", "stereo_isomers"]

#: Heavy atoms and elements of the set that is made unless others are asked for.
HEAVY, ELEMENTS = 5, "CNO"
#: Slots that molecules are padded to while they relax: one compiled step serves many sizes.
SLOTS = 8
#: Steps of the force field before the first single point, and seconds after which a molecule is given up.
FORCE_FIELD_STEPS, PATIENCE = 1000, 120.0
#: Two atoms of a displaced frame are not nearer than this many sums of their covalent radii: energies there are no use.
CLOSEST = 0.7
#: Displaced copies that are tried for each frame that is wanted.
TRIES = 4


def embedded(smiles: str, seed: int = 0) -> Structure:
    """A molecule in space, heavy atoms first: distance geometry with torsions of crystals, then a force field (MMFF94).

    S. Riniker and G. A. Landrum, J. Chem. Inf. Model. 55, 2562 (2015), doi:10.1021/acs.jcim.5b00654 (ETKDG); T. A. Halgren, J.
    Comput. Chem. 17, 490 (1996). The same seed gives the same positions. Raises `StructureError` where there is no such
    molecule in space, as of stereo isomers that can only be drawn.
    """
    chem = chemistry()
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    with rdBase.BlockLogs():
        read = chem.MolFromSmiles(smiles)
        if read is None or not read.GetNumAtoms():
            raise StructureError(f'"{smiles}" is no SMILES of a molecule')
        molecule = chem.AddHs(read)
        options = rdDistGeom.ETKDGv3()
        options.randomSeed = seed % 2**31  # what RDKit takes
        if rdDistGeom.EmbedMolecule(molecule, options) < 0:
            raise StructureError(f"{smiles} cannot be embedded in space")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=FORCE_FIELD_STEPS)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=FORCE_FIELD_STEPS)
        positions = molecule.GetConformer().GetPositions()
    return Structure.create(positions - positions.mean(0), [atom.GetAtomicNum() for atom in molecule.GetAtoms()])


@dataclass(frozen=True)
class Labels(Objective):
    """A task's structure relaxed, then `frames` copies of the minimum displaced: energies and forces of all that succeeded.

    Displacements are normal, with a root mean square per atom (Å) that is uniform in `shake`; they follow from `seed` and the
    task's number. Of `Evaluated` the first point is the minimum. What does not converge has failed.
    """

    relaxation: Relaxation
    frames: int
    shake: tuple[float, float]
    seed: int

    def __call__(self, task: Task) -> Evaluated:
        out = Evaluate(self.relaxation)(task)
        if out.status == FAILED:
            return out
        if out.status != CONVERGED:
            text = f"not relaxed after {out.evaluations} evaluations (largest force {out.largest:.3g} eV/Å)"
            return replace(out, status=FAILED, energy=np.inf, error=text)
        points = [out, *self._beside(task, out)]
        last = lambda name: np.stack([getattr(each, name)[-1] for each in points])
        return replace(
            out, positions=last("positions"), cells=last("cells"), energies=last("energies"), forces=last("forces"),
            evaluations=out.evaluations + sum(each.evaluations for each in points[1:]),
        )  # fmt: skip

    def _beside(self, task: Task, minimum: Evaluated) -> Iterator[Evaluated]:
        """Single points of displaced copies; others take the place of those that fail."""
        rng = np.random.default_rng((self.seed, task.number))
        single = Evaluate(Relaxation(self.relaxation.potential, self.relaxation.relaxer, max_steps=1), CLOSEST)
        there = np.asarray(task.structure.numbers) != PADDING
        found = 0
        for _ in range(TRIES * self.frames):
            if found == self.frames:
                return
            size = rng.uniform(*self.shake) / np.sqrt(3.0)
            moved = np.array(minimum.positions[-1])
            moved[there] += size * rng.normal(size=(int(there.sum()), 3))
            out = single(Task(task.number, replace_positions(task.structure, moved)))
            if out.status != FAILED:
                found += 1
                yield out


def replace_positions(structure: Structure, positions) -> Structure:
    """The same slots with other positions (slots, 3)."""
    return Structure(positions, structure.numbers, structure.cell, structure.fixed, structure.pbc)


def labelled(
    smiles: Sequence[str],
    *,
    seed: int = 0,
    displaced: int = 4,
    shake: tuple[float, float] = (0.05, 0.2),
    method: str = "GFN1-xTB",
    fmax: float = 0.05,
    max_steps: int = 200,
    workers: int = 1,
    note: Callable[[int, int], None] = lambda done, failed: None,
) -> MoleculeSet:
    """Molecules in their minima by `method` (of tblite), and `displaced` frames beside each.

    Relaxed to forces below `fmax` (eV/Å) in at most `max_steps` evaluations, each by a new calculator; displacements have a
    root mean square per atom between the ends of `shake` (Å). A molecule that cannot be embedded, does not relax, or is
    another molecule afterwards is left out, with the reason in `MoleculeSet.rejected`. What comes out depends on the seed, not
    on how many `workers` (processes) there are. `note` hears how many are done, and how many of them failed.
    """
    potential = BlackBox("tblite", {"method": method})
    potential.check(np.array([1]))  # says where tblite is missing
    objective = Labels(Relaxation(potential, LBFGS(), fmax, max_steps), displaced, shake, seed)
    labels: dict[int, Evaluated] = {}
    reasons: dict[int, str] = {}
    for number, out in _evaluated(objective, smiles, seed, workers):
        reason = out if isinstance(out, str) else _wrong(smiles[number], out)
        if reason is None:
            labels[number] = out  # type: ignore[assignment]
        else:
            reasons[number] = reason
        note(len(labels) + len(reasons), len(reasons))
    if not labels:
        raise InputError(f"none of {len(smiles)} molecules could be labelled; the first: {reasons.get(0, 'none was given')}")
    rejected = [[smiles[k], reasons[k]] for k in sorted(reasons)]
    about = {
        "method": method, "seed": seed, "displaced": displaced, "shake": list(shake), "fmax": fmax, "max_steps": max_steps,
        "asked": len(smiles), "rejected": rejected, "thalweg": thalweg.__version__,
        **{package: version(package) for package in ("rdkit", "tblite")},
    }  # fmt: skip
    return _collected(smiles, labels, about)


def molecule_set(
    heavy: int = HEAVY,
    elements: str = ELEMENTS,
    *,
    seed: int = 0,
    displaced: int = 4,
    workers: int = 1,
    note: Callable[[int, int], None] = lambda done, failed: None,
) -> MoleculeSet:
    """All molecules of `enumerated`, with labels as `labelled` makes them by default."""
    made = labelled(enumerated(heavy, elements), seed=seed, displaced=displaced, workers=workers, note=note)
    return replace(made, about={**made.about, "heavy": heavy, "elements": elements, "rules": RULES})


def _evaluated(objective: Labels, smiles: Sequence[str], seed: int, workers: int) -> Iterator[tuple[int, Evaluated | str]]:
    """What became of each molecule, in order: its points, or why there are none."""
    alone = workers == 1
    pool = open_workers("serial" if alone else "processes", workers, objective, None if alone else PATIENCE)
    try:
        submitted = ((number, _submitted(pool, number, one, seed)) for number, one in enumerate(smiles))
        # Serial workers evaluate when a task is submitted; others work on while the next molecules are embedded.
        for number, future in submitted if alone else list(submitted):
            try:
                out = future if isinstance(future, str) else future.result()
            except WorkerLost as error:
                out = str(error)
            yield number, out if isinstance(out, str) else (out.error or "failed") if out.status == FAILED else out
    finally:
        pool.close()


def _submitted(pool: Workers, number: int, smiles: str, seed: int) -> Future | str:
    """The future of a molecule's labels; the reason where it cannot be embedded."""
    try:
        structure = embedded(smiles, seed)
    except StructureError as error:
        return str(error)
    return pool.submit(Task(number, pad(structure, -(-structure.n_slots // SLOTS) * SLOTS)))


def _wrong(smiles: str, out: Evaluated) -> str | None:
    """Why a relaxed structure is not the molecule that was asked for; None where it is."""
    wanted = named(chemistry().MolFromSmiles(smiles)).stereo
    found = smiles_of(replace_positions(out.structure, out.positions[0]))
    if found is not None and found.stereo == wanted:
        return None
    return f"became {found.stereo if found else 'no molecule'} when it was relaxed"


def _collected(smiles: Sequence[str], labels: dict[int, Evaluated], about: dict) -> MoleculeSet:
    """All points in one set, padded to the largest molecule."""
    order = sorted(labels)
    counts = [len(labels[k].energies) for k in order]
    present = {k: np.asarray(labels[k].structure.numbers) != PADDING for k in order}
    widest = max((int(present[k].sum()) for k in order), default=0)
    numbers = np.full((sum(counts), widest), PADDING, np.int8)
    positions, forces = np.zeros((2, sum(counts), widest, 3), np.float32)
    first = 0
    for k, count in zip(order, counts, strict=True):
        atoms, here, there = int(present[k].sum()), present[k], slice(first, first + count)
        numbers[there, :atoms] = np.asarray(labels[k].structure.numbers)[here]
        positions[there, :atoms] = labels[k].positions[:, here]
        forces[there, :atoms] = labels[k].forces[:, here]
        first += count
    of = np.repeat(np.arange(len(order), dtype=np.int32), counts)
    names = [named(chemistry().MolFromSmiles(smiles[k])) for k in order]
    return MoleculeSet(
        numbers, positions, np.concatenate([labels[k].energies for k in order] or [np.zeros(0)]), forces, of,
        np.concatenate([np.arange(count) > 0 for count in counts] or [np.zeros(0, bool)]),
        tuple(one.stereo for one in names), tuple(one.constitution for one in names), about,
    )  # fmt: skip
