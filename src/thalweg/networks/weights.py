"""Weights files: what a learned component was trained to, on what, and how well it did, in one small JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.typing import PyTree

#: Version of the format. A file of another version is refused, not guessed at.
SCHEMA = 1
#: Weights that ship with the package, by name.
SHIPPED = Path(__file__).parent / "shipped"
#: The name that stands for a network whose output is zero: the base method itself.
ZERO = "zero"


@dataclass(frozen=True)
class Weights:
    """A trained component: `model` names its class, `features` the inputs in order, `arrays` the parameters by path.

    `units` says what lengths and energies are measured in, `periodic` and `species` what it was trained on (atomic numbers;
    0 is the model particle), `trained` how (configuration, seed, updates, CPU seconds, version), `measured` how well.
    """

    model: str
    features: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    units: Mapping[str, str] = field(default_factory=dict)
    species: tuple[int, ...] = ()
    periodic: bool = False
    trained: Mapping = field(default_factory=dict)
    measured: tuple[Mapping, ...] = ()

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(a.size for a in self.arrays.values())


@dataclass(frozen=True)
class Trained:
    """What weights were trained on: atomic numbers, and under which boundaries. No species: anything goes."""

    species: tuple[int, ...] = ()
    periodic: bool = False

    def check(self, name: str, numbers, pbc) -> None:
        """Raise `InputError` where they are used for something else."""
        if not self.species:
            return
        if any(pbc) != self.periodic:
            made, here = ("periodic systems", "a free cluster") if self.periodic else ("free clusters", "periodic")
            raise InputError(
                f'the weights "{name}" were trained on {made}, and this system is {here}; train others by `thalweg train`'
            )
        unknown = sorted({int(z) for z in np.asarray(numbers).ravel() if z >= 0} - set(self.species))
        if unknown:
            raise InputError(
                f'the weights "{name}" were trained on {symbols(self.species)} and know no {symbols(unknown)}; train others by '
                "`thalweg train`, or set transfer = true beside them to use them all the same"
            )


def symbols(numbers) -> str:
    """Chemical symbols of atomic numbers for messages; 0 is a model particle."""
    from ase.data import chemical_symbols

    return ", ".join("model particles" if z == 0 else chemical_symbols[z] for z in numbers)


def read(untrained: PyTree, weights: str, model: str, features: tuple[str, ...]) -> tuple[PyTree, Trained]:
    """Parameters of a component by the name of its weights, in the shape of `untrained`, and what they were trained on.

    `ZERO` gives back `untrained`. Raises `InputError` for what is not there or does not fit.
    """
    if weights == ZERO:
        return untrained, Trained()
    if not weights:
        raise InputError(
            f"no weights ship for this potential and system; train some by `thalweg train`, name a file, or use one of "
            f"{', '.join(shipped()) or 'none'} with transfer = true"
        )
    held = load(weights, model, features)
    return filled(untrained, held.arrays, weights), Trained(held.species, held.periodic)


def parameters(component: eqx.Module) -> dict[str, PyTree]:
    """What is learned of a component: the fields that its class names in `learned`."""
    return {name: getattr(component, name) for name in type(component).learned}  # type: ignore[attr-defined]


def with_parameters(component, tree: Mapping[str, PyTree]):
    """The component with other parameters, as `parameters` gives them."""
    names = list(type(component).learned)
    return eqx.tree_at(lambda c: [getattr(c, n) for n in names], component, [tree[n] for n in names])


def named(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays of a pytree by their path, such as network.weights.0."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def filled(tree: PyTree, arrays: Mapping[str, np.ndarray], where: str) -> PyTree:
    """The pytree with arrays by their path. Raises `InputError` where paths or shapes are others."""
    wanted = named(tree)
    if list(wanted) != list(arrays):
        missing = [k for k in wanted if k not in arrays] or [k for k in arrays if k not in wanted]
        raise InputError(f"{where} does not fit this model: {missing[0]} is in one and not in the other; train it again")
    for name, array in wanted.items():
        if array.shape != np.shape(arrays[name]):
            raise InputError(
                f"{where} does not fit this model: {name} has shape {np.shape(arrays[name])} instead of {array.shape}; "
                "train it again"
            )
    leaves = [np.asarray(arrays[k], np.float32) for k in wanted]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def save(path: str | Path, weights: Weights) -> None:
    """Write a weights file; float32 numbers are written so that they are read back to the last bit."""
    document = {
        "thalweg-weights": SCHEMA,
        "model": weights.model,
        "features": list(weights.features),
        "units": dict(weights.units),
        "species": list(weights.species),
        "periodic": weights.periodic,
        "trained": dict(weights.trained),
        "measured": [dict(row) for row in weights.measured],
        "arrays": {k: _written(a) for k, a in weights.arrays.items()},
    }
    Path(path).write_text(_text(document), encoding="utf-8")


def load(name: str | Path, model: str, features: tuple[str, ...]) -> Weights:
    """Weights by the name under which they ship, or of a file. Raises `InputError` for what is not there or does not fit."""
    path = _path(str(name))
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the weights {name} cannot be read: {error}") from None
    if not isinstance(held, dict) or "thalweg-weights" not in held:
        raise InputError(f"{name} is no weights file; `thalweg train` writes them")
    if held["thalweg-weights"] != SCHEMA:
        raise InputError(f"{name} has version {held['thalweg-weights']} of the format and this is {SCHEMA}; train it again")
    if held.get("model") != model:
        raise InputError(f'{name} holds weights of "{held.get("model")}", not of "{model}"; use that relaxer or search')
    if tuple(held.get("features", ())) != tuple(features):
        other = set(held.get("features", ())) ^ set(features)
        raise InputError(
            f"{name} was trained on other features ({', '.join(sorted(other)) or 'another order'}); train it again"
        )
    try:
        arrays = {k: np.asarray(v, np.float32) for k, v in held["arrays"].items()}
        broken = next((k for k, a in arrays.items() if not np.isfinite(a).all()), None)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{name} holds no arrays of numbers; train it again") from None
    if broken:
        raise InputError(f"{broken} in {name} is not finite; train it again")
    return Weights(
        model, tuple(features), arrays, held.get("units", {}), tuple(held.get("species", ())), bool(held.get("periodic")),
        held.get("trained", {}), tuple(held.get("measured", ())),
    )  # fmt: skip


def trained_component(name: str) -> dict:
    """The table of the component that a weights file was trained as; empty for `ZERO`. Raises `InputError` as `load` does."""
    if name == ZERO:
        return {}
    try:
        return dict(json.loads(_path(name).read_text(encoding="utf-8"))["trained"]["input"]["component"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the weights {name} do not say how they were trained ({error}); train them again") from None


def shipped() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(p.stem for p in SHIPPED.glob("*.json"))


def _path(name: str) -> Path:
    if name in shipped():
        return SHIPPED / f"{name}.json"
    path = Path(name)
    if path.suffix != ".json" and not path.exists():
        raise InputError(f'there are no weights "{name}".{suggest(name, [ZERO, *shipped()])} A file of your own ends in .json')
    return path


def _written(a: np.ndarray):
    """Nested lists of the shortest decimals that give the same float32."""
    a = np.asarray(a, np.float32)
    return [_written(row) for row in a] if a.ndim else float(str(a))


def _text(document: dict) -> str:
    """JSON with one line per array and one per measured row."""
    lines = []
    for key, value in document.items():
        if key in ("arrays", "measured"):
            pairs = value.items() if isinstance(value, dict) else [(None, row) for row in value]
            rows = [("" if k is None else f"{json.dumps(k)}: ") + json.dumps(v) for k, v in pairs]
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            body = ",\n  ".join(rows)
            lines.append(f'"{key}": {opening}\n  {body}\n {closing}' if rows else f'"{key}": {opening}{closing}')
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"
