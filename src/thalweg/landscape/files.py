"""`landscape.json`: a network on disk, from which the search for saddles goes on. Needs no JAX."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

import thalweg
from thalweg.errors import RunFolderError
from thalweg.landscape.states import Network, State

#: What the file is called in a run's folder, and the version of what is in it.
FILE, FORMAT = "landscape.json", 1
_PLAIN = ("name", "length", "energy_tolerance", "boltzmann", "variables", "evaluations", "seconds", "failed")


def write(path: Path, network: Network, about: dict) -> None:
    """Write a network; `about` is what it is a network of, which `read` gives back. A file is replaced as a whole."""
    document = {
        "format": FORMAT,
        "thalweg": thalweg.__version__,
        "about": about,
        **{key: getattr(network, key) for key in _PLAIN},
        "units": list(network.units),
        "numbers": np.asarray(network.numbers).tolist(),
        "cell": np.asarray(network.cell).tolist(),
        "pbc": [bool(p) for p in network.pbc],
        "fixed": np.asarray(network.fixed).tolist(),
        "minima": [_plain(m) for m in network.minima],
        "saddles": [_plain(s) for s in network.saddles],
        "tried": [[*pair, count] for pair, count in network.tried.items()],
    }
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        part.write_text(json.dumps(document) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another --output") from None
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> tuple[Network, dict]:
    """The network in a file, and what it is one of. Raises `RunFolderError` where the file is no landscape."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("format") != FORMAT:
            raise RunFolderError(f"{path} has format {document.get('format')}, and this thalweg reads {FORMAT}; move it away")
        network = Network(
            **{key: document[key] for key in _PLAIN},
            units=tuple(document["units"]),
            numbers=np.array(document["numbers"], np.int32),
            cell=np.array(document["cell"], float),
            pbc=tuple(document["pbc"]),
            fixed=np.array(document["fixed"], bool),
            minima=[_state(row) for row in document["minima"]],
            saddles=[_state(row) for row in document["saddles"]],
            tried={(i, j): count for i, j, count in document["tried"]},
        )
        return network, document["about"]
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path} holds no landscape, or was cut off; move it away to begin anew") from None


def _plain(state: State) -> dict:
    rows = {"positions": np.asarray(state.positions).tolist(), "vibrations": np.asarray(state.vibrations).tolist()}
    return {**vars(state), **rows, "ends": None if state.ends is None else list(state.ends)}


def _state(row: dict) -> State:
    arrays = {key: np.array(row[key], float) for key in ("positions", "vibrations")}
    return State(**{**row, **arrays, "ends": None if row["ends"] is None else tuple(row["ends"])})
