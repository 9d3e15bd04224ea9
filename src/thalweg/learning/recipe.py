"""Inputs of `thalweg train`: from the tables of a TOML file to stages, with every default written out.

Resolving the full tables of a `Recipe` again gives the same recipe: they are kept with a training, and repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import registry, schema
from thalweg.assemble import assembled
from thalweg.composition import KEYS, Composition, composition
from thalweg.config import full_potential, plain_fields, preset_defaults, require_cutoff
from thalweg.errors import InputError, StructureError, suggest
from thalweg.learning.evolution import EvolutionStrategy, GeneticAlgorithm, Strategy
from thalweg.learning.meta import MetaLoss
from thalweg.learning.policy_gradient import PolicyGradient, PolicyLoss
from thalweg.learning.shipped import Inputs
from thalweg.learning.trainer import Stage
from thalweg.networks.weights import ZERO, parameters
from thalweg.potentials.base import Potential
from thalweg.references import best_known
from thalweg.relax.filters import Positions
from thalweg.system import System
from thalweg.toml import toml_value
from thalweg.typing import PyTree

#: Sections that are tables, and those that are lists of them.
TABLES, LISTS = ("potential", "component", "strategy", "loss", "train"), ("systems", "stages")
STRATEGIES: dict[str, type[Strategy]] = {
    "evolution": EvolutionStrategy,
    "genetic": GeneticAlgorithm,
    "policy-gradient": PolicyGradient,
}
#: The meta-loss of what is learned, by its kind of component.
LOSSES = {"relaxer": "thalweg.learning.meta:RelaxerLoss", "search": "thalweg.learning.hopping:HoppingLoss"}
#: Inputs that ship.
INPUTS = Inputs(Path(__file__).parent / "inputs", "docs/training.md")
#: Keys of [[systems]] beyond those of [system] in a search.
OWN = ("share", "reference", "baseline")


@dataclass(frozen=True)
class Train:
    """How training is run, apart from the method."""

    seed: int = 0
    updates: int = 120  # of the only stage, where no others are given
    check: int = 10  # updates between two validations
    test: int = 150  # fresh starts per system that the result is measured on; 0: none

    def __post_init__(self):
        for name, least in (("updates", 1), ("check", 1), ("test", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} in [train] is {getattr(self, name)}; it must be at least {least}")
        schema.check_seed(self.seed, "[train]")


@dataclass(frozen=True)
class Task:
    """A system that is trained on: its share of the tasks, and energies to compare with (None: not known).

    `reference` is the best energy known, `baseline` the best of some plain relaxations, where no other is known.
    """

    name: str
    system: System
    share: float = 1.0
    reference: float | None = None
    baseline: float | None = None

    @property
    def unit(self) -> float:
        """What losses are divided by."""
        known = self.reference if self.reference is not None else self.baseline
        return 1.0 if known is None else abs(known)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training needs, and the full `tables` it was made from."""

    tables: dict
    potential: Potential
    room: str
    component: Any
    tasks: tuple[Task, ...]
    train: Train
    plans: tuple[dict, ...]  # of each stage: systems, updates, and values for strategy and loss

    @property
    def name(self) -> str:
        """For folders and lines: what is trained, on the system of the last stage that comes first in it."""
        return f"train-{self.members(-1)[0].name}"

    @property
    def parameters(self) -> PyTree:
        """What is trained, as it begins."""
        return parameters(self.component)

    @property
    def untrained(self) -> PyTree:
        """Parameters of the base method: a network whose output is zero, whatever training begins with."""
        table = {k: v for k, v in self.tables["component"].items() if k != "room"}
        return parameters(schema.build(self.room, {**table, "weights": ZERO}))

    @property
    def text(self) -> str:
        """The full input as TOML."""
        return to_toml(self.tables)

    @property
    def of_course(self) -> dict:
        """What decides the course of the training: the tables without its length and what was measured before it."""
        tables = {k: v for k, v in self.tables.items() if k != "train"}
        less = lambda rows, key: [{k: v for k, v in row.items() if k != key} for row in rows]
        return {**tables, "systems": less(tables["systems"], "baseline"), "stages": less(tables.get("stages", []), "updates")}

    def members(self, k: int) -> list[Task]:
        """The systems of a stage."""
        return [t for t in self.tasks if t.name in self.plans[k]["systems"]]

    def stages(self) -> list[Stage]:
        """What `Trainer` takes."""
        return [self._stage(k) for k in range(len(self.plans))]

    def _stage(self, k: int) -> Stage:
        plan, members = self.plans[k], self.members(k)
        where = lambda section: f"stage {k + 1}" if len(self.plans) > 1 else section
        given: dict[str, Any] = {"references": [t.unit for t in members], "shares": [t.share for t in members]}
        given |= {"potential": self.potential, "systems": [t.system for t in members], self.room: self.component}
        loss = _made(loss_of(self.room, self.tables["strategy"]), plan["loss"], where("[loss]"), **given)
        strategy = _made(STRATEGIES[self.tables["strategy"]["kind"]], plan["strategy"], where("[strategy]"))
        return Stage(loss, strategy, plan["updates"], plan["check"], ", ".join(t.name for t in members))

    def with_baselines(self, baselines: Mapping[str, float]) -> Recipe:
        """The recipe with energies to compare with, by the name of the system, where none were known."""
        tasks = tuple(replace(t, baseline=baselines.get(t.name, t.baseline)) for t in self.tasks)
        rows = [
            {**row, **({} if t.baseline is None else {"baseline": t.baseline})}
            for row, t in zip(self.tables["systems"], tasks, strict=True)
        ]
        return replace(self, tasks=tasks, tables={**self.tables, "systems": rows})


def read(path: str | Path) -> dict:
    """The tables of a file, or of an input that ships. Names of files in it are as seen from it."""
    tables = INPUTS.read(path)
    for row in tables.get("systems", []) if isinstance(tables.get("systems"), list) else []:
        if isinstance(row, dict) and isinstance(row.get("structure"), str):
            row["structure"] = str(INPUTS.found(path).parent / row["structure"])
    return tables


def resolve(tables: Mapping) -> Recipe:
    """Build what a training needs from the tables of an input; they are not changed. Raises `InputError`."""
    _check_sections(tables)
    made = [_composition(row) for row in tables["systems"]]
    _check_names(made)
    potential_full = full_potential(tables.get("potential", {}), made[0], Positions())
    for other in made[1:]:
        full_potential(tables.get("potential", {}), other, Positions())
    potential = schema.build("potential", potential_full)
    if not potential.traceable:
        raise InputError(
            "a calculator cannot be trained on: training needs millions of evaluations inside compiled code; train on a "
            "potential of `thalweg list potentials`, or on your own"
        )
    tasks, rows = [], []
    for one, row in zip(made, tables["systems"], strict=True):
        require_cutoff(potential, one.numbers, one.pbc, potential_full["kind"])
        system, table = assembled(one, potential)
        task, own = _task(one.name, system, row, potential_full)
        tasks.append(task)
        rows.append({**table, **own})
    room, component_full, component = _component(tables.get("component", {}), tasks, potential)
    strategy_full = _strategy(tables.get("strategy", {}))
    known = {
        k: f
        for k, f in schema.fields(loss_of(room, strategy_full)).items()
        if k not in (room, "potential", "systems", "references", "shares")
    }
    defaults = preset_defaults(tasks[0].system, potential, Positions(), [])
    loss_full = schema.fill_fields(known, tables.get("loss", {}), "[loss]", defaults)
    train_full = schema.fill_fields(plain_fields(Train), tables.get("train", {}), "[train]")
    train = Train(**train_full)
    plans, stage_rows = _plans(tables.get("stages"), [t.name for t in tasks], strategy_full, loss_full, known, train, defaults)
    full = {
        "potential": potential_full,
        "component": {"room": room, **component_full},
        "systems": rows,
        "strategy": strategy_full,
        "loss": loss_full,
        "train": train_full,
        **({"stages": stage_rows} if stage_rows else {}),
    }
    recipe = Recipe(full, potential, room, component, tuple(tasks), train, tuple(plans))
    for k in range(len(plans)):
        _check_cells(recipe.members(k), k, len(plans))
    recipe.stages()  # what does not go together is refused here
    return recipe


def loss_of(room: str, strategy: Mapping) -> type[MetaLoss]:
    """The class of the loss of a kind of component under a strategy."""
    if STRATEGIES[strategy["kind"]].gradient:
        return PolicyLoss
    return registry.imported(LOSSES[room])


def to_toml(tables: Mapping) -> str:
    """The tables as TOML."""
    lines: list[str] = []
    for section, value in tables.items():
        for row in value if isinstance(value, list) else [value]:
            lines.append(f"[[{section}]]" if isinstance(value, list) else f"[{section}]")
            lines += [f"{key} = {toml_value(v)}" for key, v in row.items()]
            lines.append("")
    return "\n".join(lines)


def _check_sections(tables: Mapping) -> None:
    for section, value in tables.items():
        if section in TABLES and not isinstance(value, Mapping):
            raise InputError(f"{section} must be a table [{section}], not {value!r}")
        if section in LISTS and not (isinstance(value, list) and value and all(isinstance(r, Mapping) for r in value)):
            raise InputError(f"{section} must be tables [[{section}]], not {value!r}")
        if section not in TABLES + LISTS:
            raise InputError(f"unknown section [{section}].{suggest(section, TABLES + LISTS)}")
    if "systems" not in tables:
        raise InputError('there is nothing to train on; write [[systems]] with formula = "LJ13"')


def _composition(row: Mapping) -> Composition:
    schema.refuse_unknown(row, (*KEYS, *OWN), "[[systems]]")
    for key in ("template", "add", "region", "seeds", "fix"):
        if key in row:
            raise InputError(
                f"{key} in [[systems]] is for searches; training starts from whole clusters and cells: leave it out"
            )
    return composition({k: v for k, v in row.items() if k not in OWN})


def _check_names(made: Sequence[Composition]) -> None:
    names = [m.name for m in made]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is twice in [[systems]]; give it a share instead")


def _task(name: str, system: System, row: Mapping, potential: Mapping) -> tuple[Task, dict]:
    """A system of [[systems]], and what its full table has beyond that of the system itself."""
    number = lambda key: float(schema.convert(row[key], float, f"{key} of {name} in [[systems]]"))  # type: ignore[arg-type]
    share = number("share") if "share" in row else 1.0
    if not 0 < share < float("inf"):
        raise InputError(f"share of {name} in [[systems]] is {share:g}; it must be positive")
    baseline = number("baseline") if "baseline" in row else None
    if "reference" in row:
        reference = number("reference")
    else:
        known = None if any(system.pbc) else best_known(len(system.numbers), potential)
        reference = None if known is None else known.energy
    own = {"share": share, "reference": reference, "baseline": baseline}
    return Task(name, system, share, reference, baseline), {k: v for k, v in own.items() if v is not None}


def _component(table: Mapping, tasks: list[Task], potential: Potential) -> tuple[str, dict, Any]:
    """Kind of component, full table and object of what is trained, in units that suit the systems."""
    kind = table.get("kind", "learned")
    room = table.get(
        "room", "relaxer" if kind not in registry.names("search") or kind in registry.names("relaxer") else "search"
    )
    if room not in LOSSES:
        raise InputError(f'room in [component] is "{room}".{suggest(str(room), LOSSES)}')
    given = {k: v for k, v in table.items() if k != "room"}
    given.setdefault("kind", kind)
    if not isinstance(given["kind"], str):
        raise InputError(f"kind in [component] is {given['kind']}; it must be a name")
    cls = registry.find(room, given["kind"])
    if not getattr(cls, "learned", ()):
        raise InputError(f"{given['kind']} has nothing to learn; what has: {', '.join(learners()) or 'nothing here'}")
    defaults = preset_defaults(tasks[0].system, potential, Positions(), [])
    own: dict[str, Any] = {"weights": ZERO}
    if "length" in schema.fields(cls):
        own["length"] = float(f"{np.mean([np.mean(t.system.bond_lengths) for t in tasks]):.6g}")
    defaults = {**defaults, cls.__name__: {**defaults.get(cls.__name__, {}), **own}}
    full = schema.fill(room, given, "[component]", defaults)
    component = schema.build(room, full)
    if room == "relaxer":
        for task in tasks:
            component.check(task.system.numbers, task.system.pbc)
    return room, full, component


def learners() -> list[str]:
    """Names of the components that have something to learn."""
    return [name for room in LOSSES for name in registry.COMPONENTS[room] if getattr(registry.find(room, name), "learned", ())]


def _strategy(table: Mapping) -> dict:
    kind = table.get("kind", "evolution")
    if kind not in STRATEGIES:
        raise InputError(f'there is no strategy called "{kind}".{suggest(str(kind), STRATEGIES)}')
    own = {k: v for k, v in table.items() if k != "kind"}
    return {"kind": kind, **schema.fill_fields(schema.fields(STRATEGIES[kind]), own, "[strategy]")}


def _plans(
    rows: list | None, names: list[str], strategy: dict, loss: dict, loss_fields: Mapping, train: Train, defaults: Mapping
) -> tuple[list[dict], list[dict]]:
    """What each stage trains on and how, and the full tables of [[stages]]: they say what differs from the sections."""
    own = {k: v for k, v in strategy.items() if k != "kind"}
    fields = schema.fields(STRATEGIES[strategy["kind"]])
    if rows is None:
        return [{"systems": names, "updates": train.updates, "check": train.check, "strategy": own, "loss": loss}], []
    plans, full = [], []
    for k, row in enumerate(rows):
        where = f"stage {k + 1} of [[stages]]"
        schema.refuse_unknown(row, {"systems": 0, "updates": 0, "check": 0, **fields, **loss_fields}, where)
        chosen = schema.convert(row.get("systems", names), list, f"systems in {where}")
        for name in chosen:  # type: ignore[union-attr]
            if name not in names:
                raise InputError(f'there is no "{name}" in [[systems]] for {where}.{suggest(str(name), names)}')
        if not chosen:
            raise InputError(f"{where} has no systems; leave systems out to train on all")
        number = lambda key, usual, row=row, where=where: int(schema.convert(row.get(key, usual), int, f"{key} in {where}"))  # type: ignore
        part = lambda known, row=row: {name: row[name] for name in known if name in row}
        here = {
            "systems": list(chosen),  # type: ignore[arg-type]
            "updates": number("updates", train.updates),
            "check": number("check", train.check),
        }
        changed = schema.fill_fields({n: f for n, f in fields.items() if n in row}, part(fields), where)
        lost = schema.fill_fields({n: f for n, f in loss_fields.items() if n in row}, part(loss_fields), where, defaults)
        plans.append({**here, "strategy": {**own, **changed}, "loss": {**loss, **lost}})
        full.append({**here, **changed, **lost})
    return plans, full


def _made(cls: type, values: Mapping, where: str, **others):
    """An object of a class from values that `fill_fields` gave, and from others."""
    arguments = dict(others)
    for name, field in schema.fields(cls).items():
        if name in values:
            value = values[name]
            made = schema.build(field.room, value) if field.room and value is not None else value
            arguments[name] = tuple(made) if isinstance(made, list) else made
    try:
        return cls(**arguments)
    except (InputError, StructureError) as error:
        raise InputError(f"{where}: {error}") from None


def _check_cells(tasks: list[Task], k: int, count: int) -> None:
    first = tasks[0].system
    for task in tasks[1:]:
        if task.system.pbc != first.pbc or not np.array_equal(np.asarray(task.system.cell), np.asarray(first.cell)):
            where = f"stage {k + 1}" if count > 1 else "one stage"
            raise InputError(
                f"{tasks[0].name} and {task.name} have different cells, and {where} steps all its systems in one; give them "
                "stages of their own in [[stages]]"
            )
