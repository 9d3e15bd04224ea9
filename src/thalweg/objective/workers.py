"""Where tasks are evaluated: in this process, in threads, in processes, on a Dask cluster, in any executor."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from thalweg.errors import InputError, suggest
from thalweg.objective import process
from thalweg.objective.base import Evaluated, Objective, Task, WorkerLost, Workers
from thalweg.relax.base import FAILED

#: What --executor may say.
KINDS = ("serial", "threads", "processes", "dask://HOST:PORT", "dask://scheduler.json")


def open_workers(spec: str, count: int, objective: Objective, timeout: float | None = None) -> Workers:
    """Workers of the kind that `spec` names (`KINDS`), `count` of them; 0 means what there is, on a Dask cluster.

    `timeout` is in seconds per task. A process that goes beyond it is ended; elsewhere only the objective itself can look at
    the time, between two single points (`Objective.within`). Raises `InputError` for what cannot be opened.
    """
    if count < 0 or (count == 0 and not spec.startswith("dask://")):
        raise InputError(f"{count} workers are asked for; it takes at least one")
    if spec != "processes":
        objective = objective.within(timeout)
    if spec == "serial":
        return Serial(objective)
    if spec == "threads":
        return from_executor(ThreadPoolExecutor(count, "thalweg-worker"), objective, count, own=True)
    if spec == "processes":
        return Processes(objective, count, timeout)
    if spec.startswith("dask://"):
        return dask(spec.removeprefix("dask://"), objective, count)
    raise InputError(f'there is no executor "{spec}".{suggest(spec, KINDS)} Known: {", ".join(KINDS)}')


def from_executor(executor: Executor, objective: Objective, count: int, own: bool = False) -> Workers:
    """Workers that are any `concurrent.futures.Executor` with `count` places; `own` says that closing them shuts it down.

    What an executor makes of a lost worker is its own: Python's process pool gives up as a whole, and the one of
    `open_workers` does not.
    """
    return _Borrowed(executor, objective, count, own)


class Serial(Workers):
    """No workers: a task is evaluated where it is submitted, one at a time, and its future is done at once."""

    count = 1

    def __init__(self, objective: Objective):
        self._objective = objective

    def submit(self, task: Task) -> Future:
        future: Future = Future()
        with process.silent():
            future.set_result(self._objective(task))
        return future

    def close(self) -> None:
        """Nothing is held."""


class _Borrowed(Workers):
    """Any executor."""

    def __init__(self, executor: Executor, objective: Objective, count: int, own: bool):
        self.count = count
        self._executor, self._objective, self._own = executor, objective, own

    def submit(self, task: Task) -> Future:
        return self._executor.submit(self._objective, task)

    def close(self) -> None:
        if self._own:
            self._executor.shutdown(wait=False, cancel_futures=True)


class Processes(Workers):
    """Processes of this machine. One that dies fails its future with `WorkerLost`, and another takes its place.

    Processes are started afresh (not forked: JAX has threads), with one thread each and without a GPU.
    """

    def __init__(self, objective: Objective, count: int, timeout: float | None = None):
        from pebble import ProcessPool

        self.count, self._timeout = count, timeout
        self._pool = ProcessPool(
            max_workers=count,
            initializer=process.begin,
            initargs=(pickled(objective), _environment(), [p for p in sys.path if p]),
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, task: Task) -> Future:
        inner = self._pool.schedule(process.work, args=[pickle.dumps(task)], timeout=self._timeout)
        outer: Future = Future()
        outer.set_running_or_notify_cancel()
        inner.add_done_callback(lambda done: self._pass_on(task, done, outer))
        return outer

    def _pass_on(self, task: Task, inner: Future, outer: Future) -> None:
        """Turn what pebble says into what `Workers` promises."""
        from pebble import ProcessExpired

        try:
            if inner.cancelled():
                outer.set_exception(WorkerLost(f"task {task.number} was given up when its workers were closed"))
                return
            error = inner.exception()
            if error is None:
                outer.set_result(pickle.loads(inner.result()))
            elif isinstance(error, FutureTimeout):
                limit = self._timeout or 0.0
                text = f"took more than the {limit:g} s allowed, and its process was ended"
                outer.set_result(Evaluated(task.number, task.structure, float("inf"), FAILED, text, 1, limit))
            elif isinstance(error, ProcessExpired):
                code = getattr(error, "exitcode", "unknown")
                outer.set_exception(WorkerLost(f"the process of task {task.number} died (exit code {code})"))
            else:
                outer.set_exception(error)
        except Exception as error:  # a callback that raises would leave the outer future waiting for ever
            outer.set_exception(error)

    def close(self) -> None:
        self._pool.stop()


def dask(where: str, objective: Objective, count: int = 0) -> Workers:
    """Workers of a running Dask cluster at `host:port`, or at what its scheduler wrote into a file."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "a Dask cluster needs the package distributed, which is not installed: pip install thalweg[dask]"
        ) from None
    pickled(objective)  # raises here, in one line
    try:
        if where.endswith(".json"):
            if not Path(where).is_file():
                raise InputError(f"there is no scheduler file {where}; start one with: dask scheduler --scheduler-file {where}")
            client = Client(scheduler_file=where, timeout=20, set_as_default=False)
        else:
            client = Client(f"tcp://{where}", timeout=20, set_as_default=False)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"no Dask scheduler answers at {where} ({type(error).__name__}: {text})") from error
    return Dask(client, objective, count)


class Dask(Workers):
    """A client of a Dask cluster; workers may come and go. A task whose worker died is given to another by Dask."""

    def __init__(self, client, objective: Objective, count: int = 0):
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._objective = objective
        self._count = count

    @property
    def count(self) -> int:  # type: ignore[override]
        """Threads of the cluster at present, unless a number was given; at least 1."""
        return self._count or max(1, sum(self._client.nthreads().values()))

    def submit(self, task: Task) -> Future:
        return self._executor.submit(self._objective, task)

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._client.close(timeout=5)


def pickled(objective: Objective) -> bytes:
    """The objective as bytes. Raises `InputError` where it cannot be sent to another process."""
    try:
        return pickle.dumps(objective)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"this cannot be sent to workers ({text}); name calculators and classes by import path (my_file:make), or use the "
            "executor threads"
        ) from error


def _environment() -> dict[str, str]:
    """What workers share with this process: the folder of compiled programs."""
    import jax

    folder = jax.config.values.get("jax_compilation_cache_dir") or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"} if folder else {}
