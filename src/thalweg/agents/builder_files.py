"""Builder files: a network that builds molecules and what is to be known of it, as one JSON document."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from thalweg.agents.files import document, packed, read, said, unpacked
from thalweg.errors import InputError
from thalweg.networks.builder import BuilderNetwork
from thalweg.networks.weights import filled, named, symbols

#: Version of the format. A file of another version is refused, not guessed at.
SCHEMA = 1
#: The builder that ships.
SHIPPED = Path(__file__).parent / "shipped" / "builder.json"


def builder_text(network: BuilderNetwork, about: Mapping) -> str:
    """The text of a builder file; `about` (JSON) is its model card: what it was trained on, how, and how well it does.

    Arrays are the bytes of their float32 numbers: they come back to the last bit.
    """
    document = {
        "thalweg-builder": SCHEMA,
        "species": list(network.species),
        "sizes": sizes_of(network),
        "about": dict(about),
        "arrays": {k: packed(a) for k, a in named(network).items()},
    }
    return json.dumps(document, indent=1) + "\n"


def save_builder(path: str | Path, network: BuilderNetwork, about: Mapping) -> None:
    """Write a builder file, as a whole or not at all; arguments as of `builder_text`."""
    path = Path(path)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(builder_text(network, about), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise InputError(
            f"the builder {path} cannot be written: {error.strerror or error}; make room, or name another"
        ) from None


def load_builder(name: str | Path | None = None) -> tuple[BuilderNetwork, dict]:
    """The network of a file, and the rest of what the file holds; that which ships unless one is named.

    Raises `InputError` for what is no builder.
    """
    path, held = _document(name)
    try:
        sizes = {k: type(v)(v) for k, v in held["sizes"].items()}
        species = tuple(int(z) for z in held["species"])
        arrays = {k: unpacked(a) for k, a in held["arrays"].items()}
        like = BuilderNetwork.random(np.random.default_rng(0), species, **sizes)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, binascii.Error) as error:
        raise InputError(f"{path} is a damaged builder file ({said(error)}); take another copy of it") from None
    network = jax.tree.map(np.asarray, filled(like, arrays, str(path)))
    broken = next((k for k, a in arrays.items() if not np.isfinite(a).all()), None)
    if broken:
        raise InputError(f"{broken} in {path} is not finite; take a builder of another training")
    return network, {**{k: v for k, v in held.items() if k != "arrays"}, "path": str(path)}


def known_isomers(path: str | Path | None = None) -> dict[str, float]:
    """The isomers that a builder was trained and tested on: SMILES with stereochemistry, and the lowest energy (eV) of each.

    None is the builder that ships. Files that are older name none. Raises `InputError` for what is no builder.
    """
    path, held = _document(path)
    about = held.get("about")
    known = about.get("isomers", {}) if isinstance(about, dict) else {}
    try:
        return {str(name): float(value) for name, value in known.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path} is a damaged builder file (its isomers are unreadable); take another copy of it") from None


def check_builder(held: Mapping, species) -> None:
    """Raise `InputError` where a builder (`held` of `load_builder`) knows none of some atomic numbers (any shape, -1 is none).

    Species that it knows and a molecule has not do no harm.
    """
    strange = sorted({int(z) for z in np.asarray(species).ravel() if z >= 0} - set(held["species"]))
    if strange:
        where = held.get("path", "the builder")
        name = "the builder that ships" if where == str(SHIPPED) else where
        known, others = symbols(held["species"]), symbols(strange)
        raise InputError(f"{name} was trained on {known} and knows no {others}; train one on molecules with them")


def sizes_of(network: BuilderNetwork) -> dict[str, int | float | bool]:
    """What `BuilderNetwork.random` takes besides species: a network of these sizes has arrays of the same shapes."""
    return {
        "width": int(network.embedding.shape[1]),
        "gaussians": network.gaussians.count,
        "blocks": network.blocks,
        "heads": network.attention.heads,
        "cutoff": float(network.cutoff),
        "shared": len(network.messages) == 1,
    }


def _document(name: str | Path | None) -> tuple[Path, dict]:
    """Path and document of a file; of the builder that ships where there is no name."""
    where, text = read(str(name or SHIPPED), "builder")
    return where, document(where, text, "builder", SCHEMA)


__all__ = ["SCHEMA", "SHIPPED", "builder_text", "check_builder", "known_isomers", "load_builder", "save_builder", "sizes_of"]
