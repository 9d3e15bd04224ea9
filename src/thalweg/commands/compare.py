"""`thalweg compare`: several methods on one system, by restarts at equal evaluations and at equal CPU time."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from thalweg.commands.environment import duration, prepare_jax, value, whole

prepare_jax()  # before the imports below bring JAX in

import jax  # noqa: E402

from thalweg.benchmark.compare import CPU, EVALUATIONS, Verdict, judge  # noqa: E402
from thalweg.benchmark.methods import PAGE, RESULTS, Kept, Method, Restart, measured, methods_of, read  # noqa: E402
from thalweg.benchmark.restarts import TOLERANCE  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.folders import new_folder  # noqa: E402
from thalweg.commands.inputs import enter_energy_of, known_target, tables_of  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.config import Resolved, resolve  # noqa: E402
from thalweg.display import bold, plural  # noqa: E402
from thalweg.errors import InputError  # noqa: E402
from thalweg.references import best_known  # noqa: E402
from thalweg.report import success  # noqa: E402
from thalweg.report.page import written  # noqa: E402
from thalweg.run import energy_scale  # noqa: E402
from thalweg.toml import to_toml  # noqa: E402

#: Sections of an input that say what is searched, and where its energies are evaluated; the rest belongs to a method.
SYSTEM = ("system", "potential", "filter")
#: An energy within this many energy scales counts where a method does not relax to the end.
NEAR = 0.03


def compare(options: Namespace) -> int:
    """Run the restarts that are not yet done, and say what all of them show."""
    restarts = whole(options, "restarts")
    workers = whole(options, "workers") or 1
    if options.resume is None:
        about = _asked(options)
        folder = Path(options.output) if options.output else new_folder(f"compare-{about['name']}")
    else:
        folder = Path(options.resume)
        about = _begun(options, folder)
    kept = Kept(folder / RESULTS, {**about, "restarts": restarts or about["restarts"]})
    _share_programs()
    seeds = range(kept.about["seed"], kept.about["seed"] + kept.about["restarts"])
    with Interrupt(lambda: print("stopping after this restart; Ctrl-C again stops at once", flush=True)) as interrupt:
        if not options.quiet:
            many = f"{plural(len(seeds), 'restart')} of {plural(len(kept.methods), 'method')}"
            print(f"{about['name']}: {many}, kept in {folder}", flush=True)
        tell = (lambda row: None) if options.quiet else (lambda row: _tell(row, about["unit"]))
        measured(kept.methods, seeds, kept, kept.about["tolerance"], workers, tell, interrupt.pressed)
        if not kept.rows:
            return INTERRUPTED
        verdict = _verdict(kept)
        _say(verdict)
        kept.write({"methods": verdict.results, "notes": verdict.notes})
        written(folder / PAGE, _page(verdict, kept.about["command"]))
        print(f"wrote {folder / RESULTS} and {folder / PAGE}")
        if interrupt.pressed():
            print(f"to go on: thalweg compare --resume {shlex.quote(str(folder))}")
            return INTERRUPTED
    return 0 if any(j.hits.any() for j in verdict.judged) else 1


def _asked(options: Namespace) -> dict:
    """What is compared, from the options; every method is resolved before any is run."""
    if options.what is None and options.formula is None:
        raise InputError("the following arguments are required: SYSTEM, or --resume FOLDER; see `thalweg compare --help`")
    if options.methods is None:
        raise InputError("no method is named; write for example --methods basin-hopping,gofee")
    tables = _tables(options)
    enter_energy_of(tables, *(name.strip() for name in options.methods.split(",")))
    base = {k: v for k, v in tables.items() if k in (*SYSTEM, "workers")}
    made = resolve({k: v for k, v in base.items() if k in SYSTEM})
    budget = {"evaluations": whole(options, "evaluations"), "cpu": _seconds(options)}
    if not any(budget.values()):
        raise InputError("a restart has no budget; give --evaluations, or --cpu with seconds")
    target, origin = _target(options, tables, made)
    limits = {k: v for k, v in {**budget, "target": target}.items() if v is not None} | {"confidence": "none"}
    walkers = whole(options, "walkers")
    methods = methods_of(options.methods, base, limits, walkers)
    run = {k for k in tables.get("run", {}) if k != "walkers" or walkers is None}
    ignored = [f"[{section}]" for section in ("search", "relaxer", *(["run"] if run else [])) if section in tables]
    if ignored and not options.quiet:
        print(f"{', '.join(ignored)} of the input is not used: methods have their own defaults; name=FILE.toml enters another")
    return {
        "name": made.name,
        "system": to_toml({k: v for k, v in made.tables.items() if k in SYSTEM}),
        "unit": made.units[0],
        "seed": whole(options, "seed", 0) or 0,
        "restarts": 20,
        "limits": {k: v for k, v in budget.items() if v is not None},
        "target": target,
        "origin": origin,
        "tolerance": _tolerance(options, made, methods),
        "command": shlex.join(["thalweg", *sys.argv[1:]]),
        "methods": {m.name: m.row for m in methods},
    }


def _begun(options: Namespace, folder: Path) -> dict:
    """What a folder compares; nothing of it can be changed but how many restarts there are."""
    for name in ("what", "formula", "methods", "evaluations", "cpu", "target", "tolerance", "seed", "walkers", "output"):
        if getattr(options, name) is not None:
            raise InputError(f"--resume goes on with what {folder} compares; leave {'SYSTEM' if name == 'what' else name} out")
    return read(folder / RESULTS)["about"]


def _tables(options: Namespace) -> dict:
    """The tables of the input, without anything that options of other commands could say."""
    others = ("relaxer", "method", "executor", "order", "agent", "time", "relaxations", "confidence")
    none = dict.fromkeys((*others, "seed", "workers", "cpu", "evaluations", "target"))
    return tables_of(Namespace(**{**vars(options), **none}))


def _target(options: Namespace, tables: dict, made: Resolved) -> tuple[float | None, str]:
    """The energy that restarts have to reach, None for the lowest that any finds, and where it comes from."""
    text = options.target
    if text is None:
        formula = isinstance(tables.get("system", {}).get("formula"), str)
        known = best_known(len(made.system.numbers), made.tables["potential"]) if formula else None
        return (None, "found") if known is None else (known.energy, "known")
    if text == "best":
        return None, "found"
    if text == "known":
        return known_target(tables), "known"
    number = value(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f'a target is "{text}"; write an energy, "known" or "best"')
    return float(number), "given"


def _tolerance(options: Namespace, made: Resolved, methods: list[Method]) -> float:
    """How near to the target counts."""
    if options.tolerance is None:
        scale = energy_scale(made.relaxation, made.system)
        return (TOLERANCE if all(m.relaxes for m in methods) else NEAR) * scale
    number = value(options.tolerance)
    if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
        raise InputError(f"a tolerance is {options.tolerance}; write a positive number of energy")
    return float(number)


def _seconds(options: Namespace) -> float | None:
    """The CPU time of a restart."""
    if options.cpu is None:
        return None
    seconds = duration(options.cpu)
    if isinstance(seconds, str) or not seconds > 0:
        raise InputError(f"--cpu {options.cpu} is no time; write seconds, or for example 10m")
    return seconds


def _share_programs() -> None:
    """Let processes that run restarts find the programs that others have compiled."""
    folder = jax.config.values.get("jax_compilation_cache_dir")
    if folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def _tell(row: Restart, unit: str) -> None:
    print(
        f"{row.method:20s} seed {row.seed:4d}  {row.energy:16,.5f} {unit}  {row.evaluations:10,d} evaluations  "
        f"{row.cpu_seconds:8.2f} CPU-s  {row.reason}",
        flush=True,
    )


def _verdict(kept: Kept) -> Verdict:
    about = kept.about
    return judge(
        about["name"], about["unit"], kept.methods, kept.rows, about["target"], about["origin"], about["tolerance"],
        about["limits"],
    )  # fmt: skip


def _say(verdict: Verdict) -> None:
    """The tables and notes, for a terminal."""
    for section in verdict.sections:
        print(f"\n{bold(f'{verdict.system} {section.title}')}\n{section.text.split(chr(10), 1)[1].rstrip()}")
    print()
    for note in verdict.notes:
        print(f"- {note}")


def _page(verdict: Verdict, command: str) -> str:
    """The same with curves."""
    shown = []
    for section, cost, words in zip(verdict.sections, (EVALUATIONS, CPU), (success.EVALUATIONS, success.CPU), strict=True):
        series = [
            (j.method.name, j.curve(cost), float(j.spent(cost).max()), [[(f[cost], f[2]) for f in r.falls] for r in j.rows])
            for j in verdict.judged
        ]
        shown.append(success.Shown(section.title[0].upper() + section.title[1:], section.head, section.lines, series, words))
    title = f"{verdict.system}: {', '.join(j.method.name for j in verdict.judged)}"
    return success.compared(title, command, shown, verdict.notes, verdict.unit)
