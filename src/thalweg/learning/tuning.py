"""Hyper-parameters by search: trials chosen by Optuna, measured in processes of their own, kept in a journal.

Optuna's tree-structured Parzen estimator (J. Bergstra et al., NeurIPS 2011; T. Akiba et al., KDD 2019,
doi:10.1145/3292500.3330701) chooses `group` trials at a time from those that are finished. So what is tried depends on the seed
and on `group`, not on how many processes there are or which of them is faster, and a search that was killed goes on with the
trials it would have made. Optuna is the extra `tune` of this package.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from thalweg.errors import InputError, RunFolderError, ThalwegError

#: What is measured: values by name and the number of the trial in, a loss out. A function of a module, for processes.
Objective = Callable[[dict[str, Any], int], float]
#: Name of the study in its journal.
STUDY = "thalweg"
#: Seeds of the sampler of two searches are this far apart.
SPREAD = 1_000_003
#: What a range of an input may say.
KEYS = {"low", "high", "log", "whole"}
#: One thread for each process: more would share the cores that the other processes use.
ALONE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: as many between 1 and 10 as between 10 and 100."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"a range from {self.low:g} to {self.high:g} holds nothing; begin below its end")
        if self.log and not self.low > 0:
            raise InputError(f"a logarithmic range cannot begin at {self.low:g}; begin above 0")


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple

    def __post_init__(self):
        if not self.values:
            raise InputError("there is nothing to choose from; give values")


@dataclass(frozen=True)
class Trial:
    """What was tried, and its loss; None where it failed, with the reason."""

    number: int
    values: dict[str, Any]
    loss: float | None
    reason: str = ""


@dataclass(frozen=True)
class Tuned:
    """All trials, by number."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The one of the lowest loss. Raises `InputError` where all of them failed."""
        done = [t for t in self.trials if t.loss is not None]
        if not done:
            raise InputError(f"all {len(self.trials)} trials failed, the first with: {self.trials[0].reason or 'no loss'}")
        return min(done, key=lambda t: t.loss)  # type: ignore[arg-type, return-value]


def space_of(table: Mapping, where: str = "[tune.space]") -> dict[str, Range | Choice]:
    """A space as an input has it: [low, high], { low, high, log, whole } or { choices = [...] }, by the name of a key.

    Ends that are whole numbers make a range of whole numbers, unless they are said not to be.
    """
    space: dict[str, Range | Choice] = {}
    for name, given in table.items():
        one: Any = {"low": given[0], "high": given[1]} if isinstance(given, list) and len(given) == 2 else given
        if isinstance(one, Mapping) and set(one) == {"choices"} and isinstance(one["choices"], list):
            space[name] = Choice(tuple(one["choices"]))
        elif isinstance(one, Mapping) and set(one) <= KEYS and all(_number(one.get(end)) for end in ("low", "high")):
            whole = one.get("whole", isinstance(one["low"], int) and isinstance(one["high"], int))
            space[name] = Range(float(one["low"]), float(one["high"]), bool(one.get("log", False)), bool(whole))
        else:
            raise InputError(
                f"{name} in {where} is {given!r}; write [low, high], {{ low = 1e-4, high = 1e-2, log = true }} or "
                "{ choices = [32, 64] }"
            )
    if not space:
        raise InputError(
            f'{where} is empty; name what is searched, such as "train.rate" = {{ low = 1e-4, high = 1e-2, log = true }}'
        )
    return space


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tune(
    objective: Objective,
    space: Mapping[str, Range | Choice],
    *,
    trials: int = 20,
    group: int = 2,
    processes: int = 1,
    seed: int = 0,
    journal: Path | None = None,
    note: Callable[[Trial], None] = lambda trial: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Search `space` for the lowest loss in so many trials; those in the `journal` count and are not measured again.

    `note` hears of every trial when its group is done; `stopped` is asked between groups. A trial that raises, or whose loss
    is not finite, has failed: the search goes on. Raises `InputError` where Optuna is missing.
    """
    for name, value in (("trials", trials), ("group", group), ("processes", processes)):
        if value < 1:
            raise InputError(f"{name} of a search for hyper-parameters is {value}; it must be at least 1")
    optuna = _optuna()
    study = _study(optuna, journal)
    _belongs(study, space, seed, group)
    held = lambda: study.get_trials(deepcopy=False)
    with _Measured(objective, processes) as measured:
        while not stopped():
            # Those that a killed search left unfinished come first, as they are.
            waiting = [t for t in held() if not t.state.is_finished()]
            finished = len(held()) - len(waiting)
            if finished >= trials:
                break
            study.sampler = optuna.samplers.TPESampler(seed=SPREAD * seed + finished, constant_liar=True)
            ids = [t._trial_id for t in waiting]
            while len(ids) < min(group, trials - finished):
                ids.append(study.ask()._trial_id)
            running = [optuna.trial.Trial(study, i) for i in ids]
            values = [{name: _suggested(trial, name, one) for name, one in space.items()} for trial in running]
            outcomes = measured([(each, trial.number) for each, trial in zip(values, running, strict=True)])
            for trial, each, (loss, reason) in zip(running, values, outcomes, strict=True):
                if reason:
                    trial.set_user_attr("reason", reason)
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial.number, loss)
                note(Trial(trial.number, each, None if reason else loss, reason))
    return Tuned(tuple(_trial(t) for t in held() if t.state.is_finished()))


class _Measured:
    """Objectives measured side by side in processes, or one after the other in this one."""

    def __init__(self, objective: Objective, processes: int):
        self.objective, self.processes = objective, processes
        self.pool: Any = nullcontext()

    def __enter__(self):
        if self.processes > 1:
            # Fresh processes: a forked one would share the threads of JAX, and hang.
            self.pool = ProcessPoolExecutor(self.processes, get_context("spawn"), initializer=_alone)
        return self

    def __exit__(self, *exception):
        if self.processes > 1:
            self.pool.shutdown(cancel_futures=True)

    def __call__(self, arguments: list[tuple[dict, int]]) -> list[tuple[float, str]]:
        if self.processes == 1:
            return [_measure(self.objective, *each) for each in arguments]
        waiting = [self.pool.submit(_measure, self.objective, *each) for each in arguments]
        try:
            return [future.result() for future in waiting]
        except BrokenProcessPool:
            raise RunFolderError("a process of the search was killed; use fewer processes, then go on with it") from None


def _measure(objective: Objective, values: dict, number: int) -> tuple[float, str]:
    """Loss of a trial and "", or the reason why it has none."""
    try:
        loss = float(objective(dict(values), number))
    except ThalwegError as error:
        return math.inf, str(error)
    except Exception as error:
        return math.inf, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return (loss, "") if math.isfinite(loss) else (math.inf, "its loss is not finite")


def _alone() -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ALONE}".strip()


def _optuna():
    try:
        import optuna
    except ImportError:
        raise InputError(
            "a search for hyper-parameters needs the package optuna, which is not installed: pip install thalweg[tune]"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna, journal: Path | None):
    """The study in a journal, begun where there is none; in memory without one."""
    if journal is None:
        return optuna.create_study()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"the journal {journal} cannot be used ({error}); name another, or remove it") from None


def _suggested(trial, name: str, one: Range | Choice):
    if isinstance(one, Choice):
        return trial.suggest_categorical(name, one.values)
    if one.whole:
        return trial.suggest_int(name, round(one.low), round(one.high), log=one.log)
    return trial.suggest_float(name, one.low, one.high, log=one.log)


def _belongs(study, space: Mapping, seed: int, group: int) -> None:
    """Refuse a journal of another search."""
    mine = {"space": {name: repr(one) for name, one in space.items()}, "seed": seed, "group": group}
    kept = study.user_attrs.get("search")
    if kept is not None and kept != mine:
        other = next(k for k in mine if kept.get(k) != mine[k])
        raise RunFolderError(f"the journal is of a search with another {other}; name another journal, or remove it")
    study.set_user_attr("search", mine)


def _trial(held) -> Trial:
    loss = held.value if held.state.name == "COMPLETE" else None
    return Trial(held.number, dict(held.params), loss, held.user_attrs.get("reason", ""))


__all__ = ["Choice", "Range", "Trial", "Tuned", "space_of", "tune"]
