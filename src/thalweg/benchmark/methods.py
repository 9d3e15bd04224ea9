"""Restarts of one system by several methods: what each is, how one restart is run, and the file that keeps them.

A restart is an ordinary run in a folder of its own (`thalweg.benchmark.restarts`). Its row is in compare.json as soon as it is
done, so that a comparison that was killed loses only the restarts that were under way.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from thalweg import __version__, presets, registry
from thalweg.agents import builder_files
from thalweg.benchmark.processes import results
from thalweg.benchmark.restarts import restart
from thalweg.config import Resolved, resolve
from thalweg.errors import InputError, PotentialError, RunFolderError, ThalwegError, suggest
from thalweg.networks.weights import SHIPPED, shipped
from thalweg.run import run
from thalweg.search.base import ModelSearch
from thalweg.settings import Stop
from thalweg.store import Store
from thalweg.toml import parse_toml, read_input, to_toml

#: Version of what compare.json holds, its name, and that of the page beside it.
SCHEMA, RESULTS, PAGE = 1, "compare.json", "compare.html"
#: The method that uses the weights that ship for a system, beside the kinds of searches.
LEARNED = "learned"
#: What a file that describes a method may say of it.
SECTIONS = ("search", "relaxer", "run")
#: The seed of the run by which a process compiles a method before it is measured.
WARM_SEED = 2**32 - 1


@dataclass(frozen=True)
class Method:
    """A `name`, the full input as text, its search's kind, and what its weights took: (name, CPU seconds or None) of each."""

    name: str
    text: str
    kind: str
    training: tuple[tuple[str, float | None], ...] = ()
    relaxes: bool = True  # False where proposals get a few steps only

    @property
    def row(self) -> dict:
        """As JSON holds it, by name."""
        return {k: v for k, v in vars(self).items() if k != "name"}

    @property
    def training_seconds(self) -> float | None:
        """CPU seconds of all its training; None where a file does not say."""
        costs = [seconds for _, seconds in self.training]
        return None if None in costs else float(sum(c for c in costs if c is not None))


@dataclass(frozen=True)
class Restart:
    """One restart: what it spent and found, and (evaluations, CPU seconds, energy) at each fall of its lowest energy."""

    method: str
    seed: int
    evaluations: int
    cpu_seconds: float
    energy: float
    reason: str
    falls: tuple[tuple[int, float, float], ...]

    def reached(self, threshold: float) -> tuple[int, float] | None:
        """Evaluations and CPU seconds until the energy was this low; None if it never was."""
        return next(((n, cpu) for n, cpu, energy in self.falls if energy <= threshold), None)

    @property
    def row(self) -> dict:
        """As JSON holds it."""
        return {**vars(self), "energy": self.energy if math.isfinite(self.energy) else None}


def method_from(name: str, row: Mapping) -> Method:
    """A method as it was before it became JSON."""
    return Method(name, row["text"], row["kind"], tuple((n, c) for n, c in row["training"]), row["relaxes"])


def restart_from(row: Mapping) -> Restart:
    """A restart as it was before it became JSON."""
    energy = math.inf if row["energy"] is None else float(row["energy"])
    return Restart(**{**row, "energy": energy, "falls": tuple((int(n), float(c), float(e)) for n, c, e in row["falls"])})


# -- what methods are ----------------------------------------------------------------------------------------------------


def methods_of(names: str, base: Mapping, limits: Mapping, walkers: int | None = None) -> list[Method]:
    """The methods in a list with commas, on the system of `base`, with these [stop] limits and, if given, so many walkers.

    Each is the kind of a search with its own defaults, `learned`, or name=FILE.toml with [search], [relaxer] or [run]. Raises
    `InputError` for those that are unknown, there twice, or cannot work on the system.
    """
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise InputError("no method is named; write for example --methods basin-hopping,gofee")
    made = []
    for one in given:
        name, equals, file = one.partition("=")
        if name in [m.name for m in made]:
            raise InputError(f'the method "{name}" is there twice; give the second a name: {name}-2=FILE.toml')
        tables = _from_file(file) if equals else _tables(name, base)
        if walkers is not None:
            tables["run"] = {**tables.get("run", {}), "walkers": walkers}
        made.append(_method(name, tables, base, limits))
    return made


def _from_file(file: str) -> dict:
    tables = {k: v for k, v in read_input(file).items() if k in SECTIONS}
    if not tables:
        raise InputError(f"{file} says nothing of a method; write [search], [relaxer] or [run] into it")
    return tables


def _tables(name: str, base: Mapping) -> dict:
    """The tables of a method by name."""
    if name == LEARNED:
        return _learned(base)
    if ":" not in name and name not in registry.names("search"):
        close = suggest(name, [*registry.names("search"), LEARNED])
        raise InputError(f'there is no method "{name}".{close} One of your own: name=FILE.toml')
    return {"search": {"kind": name}}


def _learned(base: Mapping) -> dict:
    """The learned method whose weights ship for this system."""
    made = resolve(base)
    if presets.suited_weights("LearnedAnnealing", made.system, made.potential):
        return {"relaxer": {"kind": LEARNED}}
    if presets.suited_weights("Strider", made.system, made.potential):
        return {"search": {"kind": "stridernet"}}
    raise InputError(
        f"no weights ship for {made.name} in this potential; leave {LEARNED} out, or train some (docs/training.md) and give "
        f"{LEARNED}=FILE.toml"
    )


def _method(name: str, tables: Mapping, base: Mapping, limits: Mapping) -> Method:
    entered = {**{k: v for k, v in base.items() if k != "workers"}, **tables, "stop": dict(limits)}
    try:
        made = resolve(entered)
        if made.hosting is not None and "workers" in base:
            made = resolve({**entered, "workers": base["workers"]})
    except ThalwegError as error:
        raise InputError(f"{name} cannot be compared on this system: {error}") from None
    kept = {**made.tables, "run": {**made.tables["run"], "finish": False}}
    relaxes = made.hosting is None or made.settings.max_steps > 10
    return Method(name, to_toml(kept), kept["search"]["kind"], training_of(made), relaxes)


def training_of(made: Resolved) -> tuple[tuple[str, float | None], ...]:
    """What a run's learned parts took to train, those that they began from included."""
    costs: dict[str, float | None] = {}
    for section in ("search", "relaxer"):
        for key in ("weights", "builder", "agent"):
            name = made.tables[section].get(key)
            if key == "builder" and name == "":
                name = str(builder_files.SHIPPED)
            while isinstance(name, str) and name not in ("", "zero", *costs):
                costs[name], name = _trained(name)
    return tuple((Path(name).stem, cost) for name, cost in costs.items())


def _trained(name: str) -> tuple[float | None, str | None]:
    """CPU seconds that a file of weights took, and the weights that it began from."""
    path = SHIPPED / f"{name}.json" if name in shipped() else Path(name)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        about = held.get("trained") or held.get("about") or {}
        began = about.get("input", {}).get("component", {}).get("weights")
        return about.get("cpu_seconds"), began
    except (OSError, ValueError, AttributeError):
        return None, None


# -- restarts ------------------------------------------------------------------------------------------------------------


def restarted(method: Method, seed: int, folder: Path, tolerance: float) -> Restart:
    """Run one restart from its beginning to its end, in a process in which the method has been compiled."""
    _warm(method.text)
    own = folder / re.sub(r"[^\w.-]", "-", method.name)
    shutil.rmtree(own / f"{seed:04d}", ignore_errors=True)  # one that was under way: its clock is not known
    try:
        row = restart(method.text, seed, own, tolerance)
    except PotentialError as error:  # no energy at all, which is an outcome of this method
        with Store.open(own / f"{seed:04d}") as store:
            spent = (_clock(store) or [(0, 0.0)])[-1]
        return Restart(method.name, seed, *spent, math.inf, " ".join(str(error).split()), ())
    with Store.open(own / f"{seed:04d}") as store:
        clock = _clock(store)
    # Processes that evaluate energies are not in the run's own clock.
    share = row.cpu_seconds / clock[-1][1] if clock and clock[-1][1] else 1.0
    at = lambda n: min(next((c for m, c in clock if m >= n), math.inf) * share, row.cpu_seconds)
    falls = tuple((cost, at(n), e) for (n, e), (cost, _) in zip(row.trace, row.costs, strict=True))
    return Restart(method.name, seed, row.evaluations, row.cpu_seconds, row.energy, row.reason, falls)


def _clock(store: Store) -> list[tuple[int, float]]:
    """(evaluations, CPU seconds) of a run at each of its visits."""
    return [(int(r["evaluations"]), float(r["cpu_seconds"])) for r in store.progress() if r.get("cpu_seconds") is not None]


@lru_cache(maxsize=64)
def _warm(text: str) -> None:
    """Compile a method in this process by a few relaxations, which are not counted. A failure is left to the restarts."""
    made = resolve(parse_toml(text))
    few = getattr(made.search, "n_initial", 10) + 2 if isinstance(made.search, ModelSearch) else 1
    most = made.stop.evaluations
    stop = Stop(relaxations=few, evaluations=None if most is None else max(1, most // 2))
    with contextlib.suppress(ThalwegError):
        run(made.search, made.relaxation, made.system, replace(made.settings, seed=WARM_SEED), stop, hosting=made.hosting)


class Kept:
    """A comparison's file: what is compared, and the restarts that are done; each is written at once, whole."""

    def __init__(self, path: Path, about: Mapping):
        self.path, self.about, self.rows = path, dict(about), []
        if path.exists():
            held = read(path)
            differs = _difference(held["about"], self.about)
            if differs:
                raise RunFolderError(f"{path.parent} holds a comparison with another {differs}; choose another folder by -o")
            self.about["methods"] = {**held["about"]["methods"], **self.about["methods"]}
            self.rows = [restart_from(row) for row in held["rows"]]

    @property
    def methods(self) -> list[Method]:
        """All methods that are compared, those of earlier times first."""
        return [method_from(name, row) for name, row in self.about["methods"].items()]

    def done(self, method: str, seed: int) -> Restart | None:
        """A restart that is done."""
        return next((r for r in self.rows if (r.method, r.seed) == (method, seed)), None)

    def add(self, row: Restart) -> None:
        """Keep a restart."""
        self.rows.append(row)
        self.write()

    def write(self, results: Mapping | None = None) -> None:
        """Write the file in one step; `results` are what the restarts say."""
        document = {
            "thalweg-comparison": SCHEMA,
            "about": self.about,
            "versions": {
                "thalweg": __version__, "python": platform.python_version(), "jax": version("jax"),
                "platform": platform.platform(),
            },
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **({} if results is None else {"results": dict(results)}),
        }  # fmt: skip
        rows = ",\n  ".join(json.dumps(r.row, allow_nan=False) for r in self.rows)
        text = json.dumps(document, indent=1, allow_nan=False).removesuffix("\n}")
        fresh = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(f'{text},\n "rows": [\n  {rows}\n ]\n}}\n', encoding="utf-8")
            fresh.replace(self.path)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path}: {error.strerror or error}; choose another folder by -o") from None


def _difference(held: Mapping, about: Mapping) -> str | None:
    """What keeps two comparisons from being one, or None."""
    for key in ("system", "seed", "limits", "target", "tolerance"):
        if held[key] != about[key]:
            return key
    both = [name for name in about["methods"] if name in held["methods"]]
    return next((f"method {n}" for n in both if held["methods"][n]["text"] != about["methods"][n]["text"]), None)


def read(path: Path) -> dict:
    """A comparison's file. Raises `InputError` where it holds none."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {path.name} in {path.parent}; `thalweg compare` writes one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        held = None
    if not isinstance(held, dict) or held.get("thalweg-comparison") != SCHEMA:
        raise InputError(f"{path} holds no comparison; choose another folder by -o")
    return held


def measured(
    methods: Sequence[Method],
    seeds: Sequence[int],
    kept: Kept,
    tolerance: float,
    workers: int = 1,
    tell: Callable[[Restart], None] = lambda row: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Run the restarts that are not yet kept, seed by seed, so that methods have equally many at any moment."""
    left = [(m, s) for s in seeds for m in methods if kept.done(m.name, s) is None]
    folder = kept.path.parent
    mend = f"go on with fewer --workers: thalweg compare --resume {folder}"
    for row in results(restarted, [(m, s, folder, tolerance) for m, s in left], workers, mend, stopped):
        kept.add(row)
        tell(row)
