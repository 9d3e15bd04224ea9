"""`MoleculeSet`: molecules near and in their minima with energies and forces, in one file of arrays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from thalweg.errors import InputError, RunFolderError
from thalweg.structure import PADDING, Structure

#: Version of the format. A file of another version is refused, not guessed at.
SCHEMA = 1
#: Arrays of a set and the types they are kept in.
KEPT = {
    "numbers": np.int8, "positions": np.float32, "energies": np.float64, "forces": np.float32, "molecule": np.int32,
    "displaced": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class MoleculeSet:
    """Frames of molecules: n of them, padded to as many atoms as the largest molecule has.

    `numbers` (n, atoms) atomic numbers, -1 where nothing is; `positions` (n, atoms, 3) in Å; `energies` (n,) in eV; `forces`
    (n, atoms, 3) in eV/Å; `displaced` (n,) is False for minima and True for frames beside them; `molecule` (n,) is the place
    of each in `smiles` and `constitutions`: canonical SMILES with stereochemistry and without. `about` (JSON) says how the
    set was made, and what was left out.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    molecule: np.ndarray
    displaced: np.ndarray
    smiles: tuple[str, ...]
    constitutions: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.energies)

    def __getitem__(self, index: int) -> Structure:
        """The structure of one frame, without padding."""
        present = self.numbers[index] != PADDING
        return Structure.create(self.positions[index][present], self.numbers[index][present])

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers of all elements that are in it."""
        return tuple(sorted({int(z) for z in np.unique(self.numbers)} - {PADDING}))

    @property
    def rejected(self) -> tuple[tuple[str, str], ...]:
        """SMILES that were asked for and are not in the set, each with the reason."""
        return tuple((smiles, reason) for smiles, reason in self.about.get("rejected", ()))

    @property
    def minima(self) -> MoleculeSet:
        """The frames that are minima: one of each molecule."""
        return self.taken(np.flatnonzero(~self.displaced))

    @property
    def isomers(self) -> dict[str, float]:
        """The lowest energy (eV) of each molecule, by its SMILES with stereochemistry."""
        lowest = np.full(len(self.smiles), np.inf)
        np.minimum.at(lowest, self.molecule, self.energies)
        return {name: float(value) for name, value in zip(self.smiles, lowest, strict=True)}

    @property
    def digest(self) -> str:
        """SHA-256 of all arrays and names: equal for equal sets, wherever they are kept."""
        held = hashlib.sha256(json.dumps([self.smiles, self.constitutions]).encode())
        for name, kind in KEPT.items():
            array = np.ascontiguousarray(getattr(self, name), np.dtype(kind).newbyteorder("<"))
            held.update(f"{name}{array.shape}".encode() + array.tobytes())
        return held.hexdigest()

    def taken(self, frames) -> MoleculeSet:
        """The set of these frames (indices), with the molecules that they are of; the padding stays as wide."""
        frames = np.asarray(frames, np.int64)
        molecules, place = np.unique(self.molecule[frames], return_inverse=True)
        arrays = {name: getattr(self, name)[frames] for name in KEPT if name != "molecule"}
        names = [tuple(one[m] for m in molecules) for one in (self.smiles, self.constitutions)]
        return MoleculeSet(**arrays, molecule=place.astype(np.int32), smiles=names[0], constitutions=names[1], about=self.about)

    def split(self, seed: int, test: float = 0.1) -> tuple[MoleculeSet, MoleculeSet]:
        """Frames to train on, and the share `test` of molecules to test on.

        All frames and stereo isomers of a constitution are on one side: what is tested on was seen in no form.
        """
        distinct, of = np.unique(np.asarray(self.constitutions), return_inverse=True)
        if not 0 < test < 1 or len(distinct) < 2:
            raise InputError(f"{len(distinct)} molecules cannot be split with a share of {test:g} to test on; use 0 < test < 1")
        held = min(max(1, round(test * len(distinct))), len(distinct) - 1)
        tested = np.isin(of[self.molecule], np.random.default_rng(seed).permutation(len(distinct))[:held])
        return self.taken(np.flatnonzero(~tested)), self.taken(np.flatnonzero(tested))

    def save(self, path: str | Path) -> None:
        """Write the set as a NumPy archive, as a whole or not at all."""
        header = {
            "thalweg-molecules": SCHEMA, "digest": self.digest, "about": dict(self.about),
            "smiles": self.smiles, "constitutions": self.constitutions,
        }  # fmt: skip
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name), kind) for name, kind in KEPT.items()}
        path = Path(path)
        fresh = path.with_name(f".{path.name}.new")
        try:
            with fresh.open("wb") as file:
                np.savez_compressed(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
            os.replace(fresh, path)
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error.strerror or error}; name another place") from None


def load_molecules(path: str | Path) -> MoleculeSet:
    """The set in a file. Raises `InputError` for what is none, is of another version, or was changed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"there are no molecules at {path}") from None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise InputError(f"{path} cannot be read as a set of molecules ({' '.join(str(error).split())[:100]})") from None
    try:
        header = json.loads(held["header"].tobytes())
        version = header["thalweg-molecules"]
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InputError(f"{path} is no set of molecules; make one by thalweg.learning.molecules.molecule_set") from None
    if version != SCHEMA:
        raise InputError(f"{path} has version {version} of the format and this is {SCHEMA}; make it again")
    try:
        arrays = {name: held[name] for name in KEPT}
        found = MoleculeSet(**arrays, smiles=tuple(header["smiles"]), constitutions=tuple(header["constitutions"]),
                            about=header["about"])  # fmt: skip
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error} is missing); take another copy of it") from None
    if found.digest != header.get("digest"):
        raise InputError(f"{path} is damaged: its arrays are not those that were written; take another copy of it")
    return found
