"""Inputs of `thalweg train` with a [builder]: a network that learns from molecules where atoms belong.

Resolving the full tables of a `BuilderRecipe` again gives the same recipe: they are kept with a training, and repeat it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from thalweg import schema
from thalweg.config import plain_fields
from thalweg.errors import InputError
from thalweg.learning.imitation import Progress, Settings, begin, epochs
from thalweg.learning.imitation_states import Molecules
from thalweg.learning.molecule_set import MoleculeSet, load_molecules
from thalweg.learning.shipped import Inputs
from thalweg.networks.builder import BuilderNetwork
from thalweg.toml import to_toml as written

#: Sections of an input, and those that ship.
TABLES = ("data", "builder", "train")
INPUTS = Inputs(Path(__file__).parent / "builder_inputs", "docs/builders.md", ("data",))


@dataclass(frozen=True)
class Source:
    """[data]: molecules of up to `heavy` atoms of `elements`, made and labelled here, or those of a `file`.

    `displaced` structures beside each minimum are labelled too. A share `test` of the molecules is held out, drawn by `seed`,
    which the making follows from too. `workers` processes label them; what comes out does not depend on how many.
    """

    file: str | None = None
    heavy: int = 5
    elements: str = "CNO"
    seed: int = 0
    displaced: int = 4
    test: float = 0.1
    workers: int = 1

    def __post_init__(self):
        for name, least in (("heavy", 1), ("displaced", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} in [data] is {getattr(self, name)}; it must be at least {least}")
        schema.check_seed(self.seed, "[data]")
        if not 0 < self.test < 1:
            raise InputError(f"test in [data] is {self.test:g}; it must be a share between 0 and 1")

    def molecules(self, note: Callable[[int, int], None]) -> MoleculeSet:
        """All of them; made where there is no file, of which `note` hears how many are done and how many failed."""
        if self.file is not None:
            return load_molecules(self.file)
        from thalweg.learning.molecules import molecule_set

        return molecule_set(
            self.heavy, self.elements, seed=self.seed, displaced=self.displaced, workers=self.workers, note=note
        )


@dataclass(frozen=True)
class BuilderRecipe:
    """Everything that a training needs, and the full `tables` it was made from. `note` is told of molecules being made."""

    tables: dict
    source: Source
    sizes: dict
    seed: int
    settings: Settings
    note: Callable[[int, int], None] = field(default=lambda done, failed: None, compare=False)
    made: MoleculeSet | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """For folders and lines."""
        what = Path(self.source.file).stem if self.source.file else f"{self.source.elements}{self.source.heavy}"
        return f"train-builder-{what}"

    @property
    def text(self) -> str:
        """The full input as TOML."""
        return written(self.tables)

    @cached_property
    def molecules(self) -> MoleculeSet:
        """All molecules; made or read once."""
        return self.source.molecules(self.note) if self.made is None else self.made

    @cached_property
    def network(self) -> BuilderNetwork:
        """The network as training begins."""
        return untrained(self.molecules.species, self.sizes, self.seed)

    @cached_property
    def parts(self) -> tuple[Molecules, Molecules]:
        """What is learned from, and what is held out."""
        train, test = (self._read(part) for part in self.molecules.split(self.source.seed, self.source.test))
        return train, test

    def _read(self, part: MoleculeSet) -> Molecules:
        return Molecules.of(self.network, part.numbers, part.positions, part.energies, part.forces, ~part.displaced)

    def begun(self) -> Progress:
        """The training as it begins."""
        return begin(self.seed, self.network, self.parts[0], self.settings)

    def epochs(self, progress: Progress) -> Iterator[Progress]:
        """The training after each epoch from there on."""
        return epochs(progress, *self.parts, self.settings)


def resolve(tables: Mapping) -> BuilderRecipe:
    """Check the tables of an input and fill in what they leave out; they are not changed. Raises `InputError`."""
    schema.check_sections(tables, TABLES)
    data = schema.fill_fields(plain_fields(Source), tables.get("data", {}), "[data]")
    sizes = schema.fill_fields(sizes_of(), tables.get("builder", {}), "[builder]")
    schema.check_positive(sizes, "[builder]")
    given = dict(tables.get("train", {}))
    seed: Any = schema.convert(given.pop("seed", 0), int, "seed in [train]")
    schema.check_seed(seed, "[train]")
    train = schema.fill_fields(plain_fields(Settings), given, "[train]")
    full = {"data": data, "builder": sizes, "train": {"seed": seed, **train}}
    return BuilderRecipe(full, Source(**data), sizes, seed, Settings(**train))  # type: ignore[arg-type]


def sizes_of() -> dict[str, schema.Field]:
    """What an input may say of the network: the arguments of its `random`."""
    hints, known = get_type_hints(BuilderNetwork.random), inspect.signature(BuilderNetwork.random).parameters
    return {n: schema.Field(n, hints[n], p.default) for n, p in known.items() if n not in ("rng", "species")}


def untrained(species: tuple[int, ...], sizes: Mapping, seed: int) -> BuilderNetwork:
    """A network for these elements. Raises `InputError` where its sizes make none."""
    try:
        return BuilderNetwork.random(np.random.default_rng(seed), species, **sizes)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"no builder of these sizes can be made: {said[0]}; change [builder]") from None


__all__ = ["INPUTS", "TABLES", "BuilderRecipe", "Source", "resolve", "sizes_of", "untrained"]
