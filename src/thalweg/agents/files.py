"""Agent files: what was learned in one search as one JSON document, for the next search of the same species."""

from __future__ import annotations

import base64
import binascii
import hashlib
import inspect
import itertools
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from thalweg.agents import images
from thalweg.agents.agent import Agent
from thalweg.agents.images import Representation
from thalweg.errors import InputError, suggest
from thalweg.networks.voxel import VoxelNetwork
from thalweg.networks.weights import filled, named, symbols

#: Version of the format. A file of another version is refused, not guessed at.
SCHEMA = 1
#: How far, of the agent's own, voxels may be apart elsewhere: what it sees of atoms is scaled by as much.
SPACING_TOLERANCE = 0.02
#: Between the path of a file and the digest of what was in it when an input named it.
MARK = "@sha256:"
#: Where files of each kind come from.
HINTS = {"agent": "agent.json in the folder of a run is one", "builder": "`thalweg train` writes one"}


def agent_text(agent: Agent, spacing: float, dimensions: int, about: Mapping) -> str:
    """The text of an agent file: `spacing` (Å) of the voxels it learned on, and `about` (JSON), what it was trained on.

    Arrays are the bytes of their float32 numbers (little-endian, C order) in base64: they come back to the last bit.
    """
    net, seen = agent.network, agent.representation
    plain = inspect.signature(type(seen)).parameters
    own = {f: getattr(seen, f) for f in _grown(seen)}
    arrays = named({"network": {"weights": net.weights, "biases": net.biases}, "representation": own})
    document = {
        "thalweg-agent": SCHEMA,
        "species": list(agent.species),
        "dimensions": int(dimensions),
        "spacing": float(spacing),
        "representation": {"class": type(seen).__name__, **{f: _plain(getattr(seen, f)) for f in plain}},
        "network": {"kernel": net.kernel, "dilation": net.dilation, "dimensions": net.dimensions},
        "about": {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in about.items()},
        "arrays": {k: packed(a) for k, a in arrays.items()},
    }
    return json.dumps(document, indent=1) + "\n"


def save_agent(path: str | Path, agent: Agent, spacing: float, dimensions: int, about: Mapping) -> None:
    """Write an agent file; arguments as of `agent_text`."""
    Path(path).write_text(agent_text(agent, spacing, dimensions, about), encoding="utf-8")


def load_agent(path: str | Path, kinds: tuple[type[Representation], ...] = ()) -> tuple[Agent, dict]:
    """The agent of a file, named as a path or as `pinned` gives it, and the rest of what the file holds.

    `kinds` are classes of representations besides those of the package. Raises `InputError` for what is no agent.
    """
    where, text = read(str(path), "agent")
    held = document(where, text, "agent", SCHEMA)
    try:
        arrays = {k: unpacked(a) for k, a in held["arrays"].items()}
        net = held["network"]
        weights, biases = ([arrays[k] for k in _series(arrays, f"network.{part}.")] for part in ("weights", "biases"))
        network = VoxelNetwork(tuple(weights), tuple(biases), net["kernel"], net["dilation"], net["dimensions"])
        seen = _representation(where, dict(held["representation"]), arrays, kinds)
        agent = Agent(network, seen, tuple(int(z) for z in held["species"]))
        held["dimensions"], held["spacing"] = int(held["dimensions"]), float(held["spacing"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise InputError(f"{where} is a damaged agent file ({said(error)}); take another copy of it") from None
    _check_shapes(where, agent)
    broken = next((k for k, a in arrays.items() if not np.isfinite(a).all()), None)
    if broken:
        raise InputError(f"{broken} in {where} is not finite; take an agent of another run")
    return agent, {**{k: v for k, v in held.items() if k != "arrays"}, "path": str(where)}


def check_agent(held: Mapping, species, dimensions: int, spacing: float) -> None:
    """Raise `InputError` where an agent (`held` of `load_agent`) does not fit: `spacing` in Å, `species` atomic numbers.

    Species that it knows and a system has not do no harm.
    """
    where = held.get("path", "the agent")
    strange = sorted({int(z) for z in np.asarray(species).ravel() if z >= 0} - set(held["species"]))
    if strange:
        raise InputError(
            f"{where} is an agent of other species: it was trained on {symbols(held['species'])} and knows no "
            f"{symbols(strange)}; leave --agent out, and this search trains one"
        )
    if dimensions != held["dimensions"]:
        made, here = ("a plane", "in space") if held["dimensions"] == 2 else ("space", "in a plane")
        raise InputError(
            f"{where} is an agent of other dimensions: it was trained in {made}, and this system is searched {here}; leave "
            "--agent out, or search where it was trained"
        )
    if abs(spacing - held["spacing"]) > SPACING_TOLERANCE * held["spacing"]:
        raise InputError(
            f"{where} was trained on voxels {held['spacing']:.4g} apart, and here they are {spacing:.4g} apart; set "
            f"spacing = {held['spacing']:.4g} in [search], with a cell that it divides to within "
            f"{100 * SPACING_TOLERANCE:g} %"
        )


def pinned(name: str, kind: str = "agent") -> str:
    """The absolute path of a file of this kind with the digest of its content: an input that says so means this one.

    One that is pinned already, or empty, stays. Raises `InputError` where there is no such file, where it is none of this
    kind, or where it was changed.
    """
    if not name:
        return name
    where, text = read(name, kind)
    document(where, text, kind, SCHEMA)
    return name if MARK in name else f"{where.resolve()}{MARK}{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(name: str, kind: str) -> tuple[Path, str]:
    """Path and text of a file of this kind, pinned or not. Raises `InputError` where there is none."""
    path, _, digest = name.partition(MARK)
    where = Path(path)
    try:
        text = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no {kind} {where}; {'put it back where it was' if digest else HINTS[kind]}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where} is no {kind} file; {HINTS[kind]}") from None
    except OSError as error:
        raise InputError(f"the {kind} {where} cannot be read: {error.strerror or error}") from None
    if digest and digest != _digest(text):
        raise InputError(
            f"the {kind} {where} was changed since the input named it (its digest is {_digest(text)}, not {digest}); bring the "
            f"old one back, or begin a new run with --agent {where}"
        )
    return where, text


def kind_of(name: str) -> str:
    """What kind of agent a file holds: "agent" of voxels, or "builder" of molecules. Raises `InputError` for neither."""
    where, text = read(name, "agent")
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    kind = next((k for k in HINTS if isinstance(held, dict) and f"thalweg-{k}" in held), None)
    if kind is None:
        raise InputError(f"{where} is no agent file; {HINTS['agent']}")
    return kind


def document(where: Path, text: str, kind: str, schema: int) -> dict:
    """The document of a file of this kind and version. Raises `InputError`."""
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    mark = f"thalweg-{kind}"
    if not isinstance(held, dict) or mark not in held:
        raise InputError(f"{where} is no {kind} file; {HINTS[kind]}")
    if held[mark] != schema:
        raise InputError(
            f"{where} has version {held[mark]} of the format of {kind}s and this thalweg reads {schema}; use the version that "
            "wrote it"
        )
    return held


def _representation(where: Path, table: dict, arrays: Mapping[str, np.ndarray], kinds: tuple) -> Representation:
    """What a file says its agent sees."""
    own = [c for c in vars(images).values() if inspect.isclass(c) and issubclass(c, Representation)]
    known = {c.__name__: c for c in (*own, *kinds) if not inspect.isabstract(c)}
    name = table.pop("class")
    if name not in known:
        raise InputError(f'{where} sees atoms by "{name}", which is not known here.{suggest(str(name), list(known))}')
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    made = known[name](**settings)
    names = _grown(made)
    given = {k.removeprefix("representation."): a for k, a in arrays.items() if k.startswith("representation.")}
    tree = filled({f: getattr(made, f) for f in names}, given, str(where))
    return eqx.tree_at(lambda r: [getattr(r, f) for f in names], made, [tree[f] for f in names]) if names else made


def _grown(seen: Representation) -> list[str]:
    """Fields that its class does not take as settings: arrays that training fills."""
    settings = inspect.signature(type(seen)).parameters
    return [f.name for f in fields(seen) if f.name not in settings]


def _check_shapes(where: Path, agent: Agent) -> None:
    """Raise where the layers do not fit each other, the species, or what the agent sees."""
    net, n = agent.network, len(agent.species)
    widths = [n * agent.representation.channels, *(b.shape[0] for b in net.biases)]
    shapes = [(b, a, net.kernel**net.dimensions) for a, b in itertools.pairwise(widths)]
    if not shapes or widths[-1] != n or [np.shape(w) for w in net.weights] != shapes:
        raise InputError(f"{where} is a damaged agent file (its layers do not fit each other); take another copy of it")


def _series(arrays: Mapping[str, Any], prefix: str) -> list[str]:
    """Names of the arrays prefix0, prefix1, ..., in order."""
    return [f"{prefix}{k}" for k in range(sum(name.startswith(prefix) for name in arrays))]


def _plain(value):
    """A setting as JSON has it; training may have made an array of a number."""
    return value.item() if hasattr(value, "item") else value


def packed(array: np.ndarray) -> dict:
    """An array as JSON has it: its shape, and the bytes of its float32 numbers (little-endian, C order) in base64."""
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"shape": list(np.shape(array)), "float32": base64.b64encode(data).decode()}


def unpacked(held: Mapping) -> np.ndarray:
    """The array that `packed` wrote, to the last bit."""
    data = base64.b64decode(held["float32"], validate=True)
    return np.frombuffer(data, "<f4").reshape(held["shape"]).astype(np.float32)


def said(error: Exception) -> str:
    """An error in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
