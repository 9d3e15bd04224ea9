"""`thalweg search`, `thalweg run` and `thalweg resume`."""

from __future__ import annotations

import platform
import shlex
import sys
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from thalweg.commands.environment import prepare_jax

prepare_jax()  # before the imports below bring JAX in

import jax  # noqa: E402
import numpy  # noqa: E402

import thalweg  # noqa: E402
from thalweg import config, report_run  # noqa: E402
from thalweg.choice import choose  # noqa: E402
from thalweg.commands import INTERRUPTED  # noqa: E402
from thalweg.commands.folders import new_folder  # noqa: E402
from thalweg.commands.inputs import limits_of, tables_of, workers_of  # noqa: E402
from thalweg.commands.interrupt import Interrupt  # noqa: E402
from thalweg.commands.keeper import Keeper  # noqa: E402
from thalweg.commands.summary import summary  # noqa: E402
from thalweg.config import Resolved, resolve, resolve_stop, resolve_workers  # noqa: E402
from thalweg.display import Live, paragraph  # noqa: E402
from thalweg.errors import InputError, PotentialError, RunFolderError  # noqa: E402
from thalweg.export import export  # noqa: E402
from thalweg.references import best_known  # noqa: E402
from thalweg.run import Progress, Result, Stop, energy_scale  # noqa: E402
from thalweg.run import run as run_search  # noqa: E402
from thalweg.search.base import ModelSearch  # noqa: E402
from thalweg.store import Store  # noqa: E402
from thalweg.toml import parse_toml, to_toml  # noqa: E402

INPUT, BEST = "input.toml", "best.xyz"


def search(options: Namespace) -> int:
    """Find the lowest-energy structure of a formula, a structure file or an input."""
    return _begin(tables_of(options), options)


def run(options: Namespace) -> int:
    """The same from a TOML input."""
    return _begin(tables_of(options, toml_only=True), options)


def resume(options: Namespace) -> int:
    """Go on with the run in a folder."""
    with Store.open(options.folder, write=True) as store:
        meta = store.meta
        resolved, stop, anew = to_resume(store, options)
        if meta.get("finishing") and not anew:  # it was stopped as it relaxed its lowest structure: that alone is left
            return _search(resolved, Stop(evaluations=0), store, options, resumed=True, reason=meta["reason"])
        if stop is None:
            print(f"{meta['name']} in {store.folder} is done: it {meta.get('reason', 'met its limits')}.")
            print(f"To go on: thalweg resume {shlex.quote(str(store.folder))} --time 600")
            return 0
        return _search(resolved, stop, store, options, resumed=True)


def to_resume(store: Store, options: Namespace) -> tuple[Resolved, Stop | None, bool]:
    """A kept run, the limits to go on to (None where it is done), and whether any were given anew."""
    meta = store.meta
    tables, edited = _kept_input(store)
    limits = {**edited, **limits_of(options)}
    if limits.get("target") == "known":
        reference = best_known(int(meta["n_atoms"]), tables["potential"])
        if reference is None:
            raise InputError(f'no published energy of {meta["name"]} is known here for a target of "known"')
        limits["target"] = reference.energy
    resolved = _elsewhere(resolve(tables), workers_of(options))
    return resolved, _next_limits(resolved, limits, (store.progress() or [None])[-1]), bool(limits)


def _elsewhere(resolved: Resolved, workers: dict) -> Resolved:
    """The same run on other workers. What they find and in which order it is taken in stays the run's own."""
    if not workers:
        return resolved
    if "order" in workers:
        raise InputError("the order in which results are taken in belongs to the run; begin a new one to change it")
    _, hosting = resolve_workers({**resolved.tables.get("workers", {}), **workers}, resolved.hosting is not None)
    return replace(resolved, hosting=hosting)


def _begin(tables: dict, options: Namespace) -> int:
    resolved, why = chosen(tables)
    text = to_toml(resolved.tables)
    folder = Path(options.output) if options.output else new_folder(resolved.name)
    with Store.create(folder, meta_of(resolved)) as store:
        write_input(store, text)
        if why and not options.quiet:
            print(paragraph("method", f"{resolved.tables['search']['kind']}: {why}"), flush=True)
        return _search(resolved, resolved.stop, store, options, resumed=False)


def chosen(tables: dict) -> tuple[Resolved, str]:
    """The run that tables describe and, where they ask for no search, why it is this one. What they say of one is kept."""
    resolved = resolve(tables)
    if tables.get("search"):
        return resolved, ""
    wanders = config.wanders(tables.get("relaxer", {}))
    choice = choose(resolved.search, resolved.relaxation, resolved.system, resolved.settings, resolved.hosting, wanders)
    if choice.kind != resolved.tables["search"]["kind"]:
        resolved = resolve({**tables, "search": {"kind": choice.kind}})
    return resolved, choice.why


def meta_of(resolved: Resolved) -> dict:
    """What a run's store says of it from the beginning."""
    return {
        "name": resolved.name,
        "n_atoms": len(resolved.system.numbers),
        "units": resolved.units,
        "input": to_toml(resolved.tables),
        "command": shlex.join(["thalweg", *sys.argv[1:]]),
        "versions": {
            "thalweg": thalweg.__version__,
            "jax": jax.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    }


def _search(resolved: Resolved, stop: Stop, store: Store, options: Namespace, resumed: bool, reason: str = "") -> int:
    """Run, show, and write what was found."""
    energy, _ = resolved.units
    kind = ("minimum", "minima") if report_run.relaxed(resolved.tables) else ("structure", "structures")
    live = Live(resolved.name, energy, stop.time, options.quiet, kind=kind)
    keeper = Keeper(store)
    live.waiting()
    try:
        with Interrupt(lambda: live.note("stopping after this visit; Ctrl-C again stops at once")) as interrupt:
            result = run_search(
                resolved.search, resolved.relaxation, resolved.system, resolved.settings, stop, keeper,  # type: ignore[arg-type]
                live, interrupt.pressed, resume=resumed, hosting=resolved.hosting,
            )  # fmt: skip
            live.clear()
            book = result.ledger
            if result.best is None and book.failures == book.relaxations > 0:
                raise PotentialError(
                    f"none of the {book.relaxations:,} relaxations has a finite energy; check the potential on one structure "
                    "with `thalweg check`, or the calculator with `thalweg relax`"
                )
            write_results(resolved, result, store, reason)
    except (RunFolderError, InputError) as error:
        live.clear()
        keeper.rescue()
        raise error
    print(summary(store))
    return INTERRUPTED if interrupt.pressed() else 0


def write_results(resolved: Resolved, result: Result, store: Store, reason: str = "") -> None:
    """Everything that a run leaves at its end, and why it ended."""
    store.commit(meta={"reason": reason or result.reason})
    if result.best is not None:
        export(store, store.folder / BEST, limit=1)
    _write_products(resolved, result, store)
    report_run.write(store)


def _write_products(resolved: Resolved, result: Result, store: Store) -> None:
    """Write what the search leaves besides structures, such as its agent; the run keeps the names."""
    if result.state is None or not isinstance(resolved.search, ModelSearch):
        return
    files = resolved.search.products(result.state, resolved.system)
    for name, text in files.items():
        try:
            (store.folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            path = store.folder / name
            raise RunFolderError(f"cannot write {path}: {error.strerror or error}; free the place and resume the run") from None
    if files:
        store.commit(meta={"products": list(files)})


def write_input(store: Store, text: str) -> None:
    """Write the full input (TOML) beside a run's database. Raises `RunFolderError` where it cannot be written."""
    path = store.folder / INPUT
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None


def _kept_input(store: Store) -> tuple[dict, dict]:
    """The input that the run began with, from its database, and limits that were changed in the file beside it since.

    Anything else that was changed is refused: a run has one input.
    """
    text = store.meta.get("input")
    if not text:
        raise RunFolderError(f"the run in {store.folder} has no input in its database; it was not begun by the command line")
    tables = parse_toml(text, f"the input in {store.folder}")
    path = store.folder / INPUT
    if not path.exists():
        write_input(store, text)
        return tables, {}
    now = parse_toml(path.read_text(encoding="utf-8"), str(path))
    changed = [s for s in {**tables, **now} if s != "stop" and tables.get(s) != now.get(s)]
    if changed:
        raise RunFolderError(
            f"[{changed[0]}] in {path} was changed since the run began; undo that, or begin a new run: "
            f"thalweg run {shlex.quote(str(path))}"
        )
    stop, before = now.get("stop", {}), tables.get("stop", {})
    return tables, {k: v for k, v in stop.items() if before.get(k) != v}


def _next_limits(resolved: Resolved, limits: dict, last: dict | None) -> Stop | None:
    """The limits of a resumed session; None when nothing is asked for beyond what was reached.

    Limits given now go before those of the input. Of the input's, those that are met already fall away if others are given.
    """
    scale = energy_scale(resolved.relaxation, resolved.system)
    kept = resolved.tables["stop"]
    _, stop = resolve_stop({**{k: "none" if v is None else v for k, v in kept.items()}, **limits}, scale)
    if last is None:
        return stop
    best = last.get("best")
    counts: Any = {f.name: last.get(f.name) or 0 for f in fields(Progress)}
    now = Progress(**{**counts, "session": 0.0, "session_cpu": 0.0, "best": float("inf") if best is None else best})
    if not limits:
        return None if stop.reason(now) else stop
    met = [k for k in kept if k not in limits and Stop(**{k: getattr(stop, k)}).reason(now)]
    left = Stop(**{k: None if k in met else v for k, v in vars(stop).items()})
    return None if left.reason(now) else left


__all__ = ["meta_of", "resume", "run", "search", "to_resume", "write_input", "write_results"]
