"""Inputs of `thalweg train` with a [surrogate]: which network learns which energies, how, with every default written out.

Resolving the full tables of a `SurrogateRecipe` again gives the same recipe: they are kept with a training, and repeat it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np

from thalweg import schema
from thalweg.config import plain_fields
from thalweg.errors import InputError, suggest
from thalweg.io import read_structures
from thalweg.learning.shipped import Inputs
from thalweg.learning.tuning import Choice, Range, space_of
from thalweg.structure import Structure
from thalweg.surrogates.networks.base import EnergyNetwork, Subject
from thalweg.surrogates.networks.data import SETS, EnergyData, Parts
from thalweg.surrogates.networks.kinds import KINDS
from thalweg.surrogates.networks.training import Progress, Settings, begin, epochs
from thalweg.toml import to_toml as written

#: Sections of an input, and those that ship.
TABLES = ("data", "surrogate", "train", "tune")
INPUTS = Inputs(Path(__file__).parent / "surrogate_inputs", "docs/surrogate-networks.md", ("data",))
#: Structures of a generated set, where an input gives no number.
COUNT = 5000


@dataclass(frozen=True)
class Source:
    """[data]: energies to learn, of a set that is generated (`set`) or of the structures in a `file`.

    `count` structures are generated, or taken from the beginning of the file; the parts are drawn by `seed`. The target of
    learning is log(energy + `offset`) where there is an offset, as in the generated sets, else the energy.
    """

    set: Literal["full", "low-energy"] | None = None
    file: str | None = None
    count: int | None = None
    seed: int = 0
    validation: float = 0.1
    test: float = 0.1
    offset: float | None = None

    def __post_init__(self):
        if self.file is not None and self.set is not None:
            raise InputError("[data] has a set and a file; give one")
        if self.count is not None and self.count < 10:
            raise InputError(f"count in [data] is {self.count}; it must be at least 10")
        schema.check_seed(self.seed, "[data]")
        for name in ("validation", "test"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} in [data] is {getattr(self, name):g}; it must be a share between 0 and 1")

    def parts(self) -> Parts:
        """What is learned from, what decides when to stop, and what is measured on."""
        return self.read().split(self.seed, self.validation, self.test)

    def read(self) -> EnergyData:
        """All of it."""
        if self.file is not None:
            return from_file(self.file, self.count, self.offset)
        return SETS[self.set or "full"](np.random.default_rng(self.seed), self.count or COUNT)


@dataclass(frozen=True)
class Tune:
    """[tune]: the search for hyper-parameters before the training; `space` are keys of the other tables with their ranges.

    Every trial trains with `epochs` epochs, and is judged by its mean absolute error on the validation part.
    """

    trials: int = 20
    epochs: int = 30
    group: int = 2
    processes: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in ("trials", "epochs", "group", "processes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} in [tune] is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class SurrogateRecipe:
    """Everything that a training needs, and the full `tables` it was made from."""

    tables: dict
    source: Source
    kind: str
    sizes: dict
    seed: int
    settings: Settings
    tune: Tune | None = None
    space: dict[str, Range | Choice] | None = None

    @property
    def name(self) -> str:
        """For folders and lines: the network and what it learns."""
        of = Path(self.source.file).stem if self.source.file else self.source.set or "full"
        return f"train-{self.kind}-{of}"

    @cached_property
    def parts(self) -> Parts:
        """The data; made or read once."""
        return self.source.parts()

    def network(self) -> EnergyNetwork:
        """The network as training begins."""
        return untrained(self.kind, self.sizes, self.parts.train.subject, self.seed)

    def begun(self) -> Progress:
        """The training as it begins."""
        return begin(self.seed, self.network(), self.parts, self.settings)

    def epochs(self, progress: Progress) -> Iterator[Progress]:
        """The training after each epoch from there on."""
        return epochs(progress, self.parts, self.settings)

    @property
    def text(self) -> str:
        """The full input as TOML."""
        return written(self.tables)

    @property
    def of_course(self) -> dict:
        """What decides the course of the training: the tables without its length."""
        length = {"train": ("epochs",), "tune": ("trials", "processes")}
        return {s: {k: v for k, v in table.items() if k not in length.get(s, ())} for s, table in self.tables.items()}

    def tried(self, values: Mapping[str, Any]) -> SurrogateRecipe:
        """The recipe of a trial: with these values of the space, as many epochs as a trial has, and no search."""
        assert self.tune is not None
        return resolve(entered(self.tables, {**values, "train.epochs": self.tune.epochs}))

    def chosen(self, values: Mapping[str, Any]) -> SurrogateRecipe:
        """The recipe of the training after a search has found these values."""
        return resolve(entered(self.tables, values))


def resolve(tables: Mapping) -> SurrogateRecipe:
    """Check the tables of an input and fill in what they leave out; they are not changed. Raises `InputError`."""
    schema.check_sections(tables, TABLES)
    data_full = schema.fill_fields(plain_fields(Source), tables.get("data", {}), "[data]")
    kind, sizes = _network(tables.get("surrogate", {}))
    given = dict(tables.get("train", {}))
    seed: Any = schema.convert(given.pop("seed", 0), int, "seed in [train]")
    schema.check_seed(seed, "[train]")
    train_full = schema.fill_fields(plain_fields(Settings), given, "[train]")
    full = {"data": data_full, "surrogate": {"kind": kind, **sizes}, "train": {"seed": seed, **train_full}}
    recipe = SurrogateRecipe(full, Source(**data_full), kind, sizes, seed, Settings(**train_full))  # type: ignore[arg-type]
    if "tune" not in tables:
        return recipe
    given = dict(tables["tune"])
    space = given.pop("space", {})
    if not isinstance(space, Mapping):
        raise InputError(f"space in [tune] must be a table [tune.space], not {space!r}")
    tune_full = schema.fill_fields(plain_fields(Tune), given, "[tune]")
    made = space_of(space)
    for name in made:
        _check_searched(name, full)
    full = {**full, "tune": {**tune_full, "space": dict(space)}}
    return SurrogateRecipe(
        full, recipe.source, kind, sizes, recipe.seed, recipe.settings, Tune(**tune_full), made
    )  # fmt: skip


def entered(tables: Mapping, values: Mapping[str, Any]) -> dict:
    """The tables with values by "section.key", and without a search."""
    made = {section: dict(table) for section, table in tables.items() if section != "tune"}
    for name, value in values.items():
        section, _, key = name.partition(".")
        made[section][key] = value
    return made


def untrained(kind: str, sizes: Mapping, subject: Subject, seed: int) -> EnergyNetwork:
    """A network of a kind for these structures. Raises `InputError` where its sizes make none."""
    try:
        return KINDS[kind].random(np.random.default_rng(seed), subject, **sizes)  # type: ignore[attr-defined]
    except (ValueError, TypeError, ZeroDivisionError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"no network {kind} of these sizes can be made: {said[0]}; change [surrogate]") from None


def sizes_of(kind: str) -> dict[str, schema.Field]:
    """What an input may say of a network: the arguments of its `random`."""
    make = KINDS[kind].random  # type: ignore[attr-defined]
    hints, known = get_type_hints(make), inspect.signature(make).parameters
    return {n: schema.Field(n, hints[n], p.default) for n, p in known.items() if n not in ("rng", "subject")}


def from_file(file: str, count: int | None = None, offset: float | None = None) -> EnergyData:
    """Structures of a file with the energies and forces in it: free clusters of one composition, atoms in one order."""
    import ase.io

    structures = read_structures(file)[:count]
    frames: Any = list(ase.io.read(file, index=":"))[:count]
    first = structures[0]
    for k, one in enumerate(structures):
        if any(one.pbc):
            raise InputError(f"{file}, structure {k}, is periodic; networks of energies learn from free clusters")
        if not np.array_equal(one.numbers, first.numbers):
            raise InputError(f"{file}, structure {k}, has other atoms than the first, or in another order")
    try:
        energy = np.array([a.get_potential_energy() for a in frames])
    except Exception:
        raise InputError(f"not every structure in {file} has an energy; write them with energies, as extxyz has them") from None
    forces = np.array([a.calc.results.get("forces", np.full((len(a), 3), np.nan)) for a in frames])
    x = np.stack([np.asarray(s.positions, np.float32) for s in structures])
    known = np.isfinite(forces).any()
    return EnergyData(
        x, np.asarray(first.numbers), energy, subject_of(first, x, offset), Path(file).stem, forces if known else None
    )


def subject_of(first: Structure, x: np.ndarray, offset: float | None) -> Subject:
    """What a network of such structures (rows, atoms, 3) is made for; lengths in their shortest usual distance."""
    numbers = np.asarray(first.numbers)
    flat = bool(np.ptp(x[..., 2]) < 1e-6)
    some = x[: min(len(x), 64)].astype(float)
    d2 = ((some[:, :, None] - some[:, None]) ** 2).sum(-1) + np.where(np.eye(x.shape[1], dtype=bool), np.inf, 0)
    length = float(f"{np.median(np.sqrt(d2.min(2))):.4g}") if x.shape[1] > 1 else 1.0
    return Subject(len(numbers), tuple(int(z) for z in np.unique(numbers)), 2 if flat else 3, None, length, offset)


def _network(table: Mapping) -> tuple[str, dict]:
    """Kind and full sizes of [surrogate]."""
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        said = "[surrogate] lacks its kind." if kind is None else f'there is no network of energies called "{kind}".'
        raise InputError(f"{said}{suggest(str(kind or ''), KINDS)}")
    sizes = schema.fill_fields(sizes_of(kind), {k: v for k, v in table.items() if k != "kind"}, "[surrogate]")
    schema.check_positive(sizes, "[surrogate]")
    return kind, sizes


def _check_searched(name: str, full: Mapping) -> None:
    """Raise for a key of the space that the tables do not have."""
    known = [f"{s}.{k}" for s in ("surrogate", "train") for k in full[s] if k not in ("kind", "seed", "epochs")]
    if name not in known:
        raise InputError(f"unknown key {name} in [tune.space].{suggest(name, known)}")


__all__ = ["Source", "SurrogateRecipe", "Tune", "entered", "from_file", "resolve", "sizes_of"]
