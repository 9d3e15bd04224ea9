"""Energies, forces and virials of LAMMPS for rigid ions: writes data/ionic.npz anew.

    pip install "thalweg[peers]"
    python tests/ionic_peer.py

Quartz and rutile disturbed by 0.08 Å, in cells with coul/dsf and Buckingham pairs shifted at the cutoff, and fragments of both
as free clusters with every pair counted. LAMMPS knows nothing of the repair of close pairs, so no pair here is closer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lammps_peer import _instance

DATA = Path(__file__).parent / "data" / "ionic.npz"
CUTOFF, ALPHA = 8.0, 0.2
#: Charges by atomic number; Buckingham A, 1/rho and C by pair.
SILICA = ({14: 2.4, 8: -1.2}, {(14, 8): (18003.7572, 4.87318, 133.5381), (8, 8): (1388.7730, 2.76, 175.0)})
#: As tabulated in eV and Å by users of the potential, rounded to what is printed here.
TITANIA = (
    {22: 2.196, 8: -1.098},
    {
        (22, 8): (16957.652, 1 / 0.194, 12.592588), (8, 8): (11782.8437, 1 / 0.234, 30.22221),
        (22, 22): (31120.421, 1 / 0.154, 5.246912),
    },
)  # fmt: skip


def structures() -> dict[str, tuple]:
    """positions, cell (zero for clusters), numbers and the parameters of each case."""
    from ase.spacegroup import crystal

    rng = np.random.default_rng(0)
    quartz = crystal(
        ["Si", "O"], [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.7858)], spacegroup=154, cellpar=[4.916, 4.916, 5.4054, 90, 90, 120]
    )
    rutile = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90])
    made = {}
    for name, atoms, model in (("silica", quartz, SILICA), ("titania", rutile, TITANIA)):
        large = atoms.repeat((1, 1, 2))
        x = large.positions + rng.uniform(-0.08, 0.08, large.positions.shape)
        made[f"{name}_cell"] = (x, np.array(large.cell), large.numbers, model)
        made[f"{name}_cluster"] = (x, np.zeros((3, 3)), large.numbers, model)
    return made


def evaluate(positions, cell, numbers, model):
    """Energy, forces (atoms, 3) and virial (3, 3); the cell is lower triangular, or zero for a cluster."""
    charges, pairs = model
    species = list(charges)
    lammps = _instance()
    free = not np.any(cell)
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = np.eye(3) * 200 if free else cell
    shift = 100 if free else 0
    style = "hybrid/overlay buck 190 coul/cut 190" if free else f"hybrid/overlay buck {CUTOFF} coul/dsf {ALPHA} {CUTOFF}"
    head = [
        "units metal", "atom_style charge", "atom_modify map array sort 0 0", f"boundary {'f f f' if free else 'p p p'}",
        "box tilt large", f"region box prism 0 {lx:.17g} 0 {ly:.17g} 0 {lz:.17g} {xy:.17g} {xz:.17g} {yz:.17g}",
        f"create_box {len(species)} box", "mass * 1.0", "neighbor 0.5 bin", f"pair_style {style}",
        f"pair_coeff * * {'coul/cut' if free else 'coul/dsf'}",
        *(
            f"pair_coeff {' '.join(map(str, sorted((species.index(i) + 1, species.index(j) + 1))))} buck {a!r} {1 / b!r} {c!r}"
            for (i, j), (a, b, c) in pairs.items()
        ),
        *([] if free else ["pair_modify pair buck shift yes"]),
        "compute push all pressure NULL virial", "thermo_style custom pe c_push[*]", "thermo_modify norm no",
    ]  # fmt: skip
    for command in head:
        lammps.command(command)
    types = [species.index(z) + 1 for z in numbers]
    lammps.create_atoms(len(types), None, types, np.ravel(positions + shift).tolist())
    assert lammps.get_natoms() == len(types)
    for z, q in charges.items():
        lammps.command(f"set type {species.index(z) + 1} charge {q}")
    lammps.command("run 0 post no")
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
    volume = 200**3 if free else np.linalg.det(cell)
    xx, yy, zz, xy, xz, yz = np.array(lammps.numpy.extract_compute("push", 0, 1)) * volume / 1.6021765e6
    energy = lammps.get_thermo("pe")
    lammps.close()
    return energy, forces, np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def write() -> None:
    held = {}
    for case, (positions, cell, numbers, model) in structures().items():
        held |= {f"{case}.positions": positions, f"{case}.cell": cell, f"{case}.numbers": np.asarray(numbers, np.int8)}
        results = zip(("energy", "forces", "virial"), evaluate(positions, cell, numbers, model), strict=True)
        held |= {f"{case}.{key}": value for key, value in results}
    np.savez_compressed(DATA, **held)


if __name__ == "__main__":
    write()
