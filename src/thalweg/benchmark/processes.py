"""Independent pieces of a benchmark, one after the other here or shared out to processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import jax

from thalweg.errors import RunFolderError

#: What a process of this package has set in JAX, and one that it starts should have too.
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")


def results(
    function: Callable, jobs: Sequence[tuple], workers: int, mend: str, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Any]:
    """`function(*job)` of every job, in the order in which they end; no more are begun once `stopped()`.

    `function` is one of a module. Those under way are waited for. Raises `RunFolderError` with `mend` where a process was
    killed.
    """
    if workers <= 1:
        for job in jobs:
            if stopped():
                return
            yield function(*job)
        return
    # New processes, not copies of this one: JAX has threads, which do not survive a fork.
    known = {name: jax.config.values[name] for name in CACHE}
    pool = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), get_context("spawn"), _begin, (known,))
    try:
        futures = [pool.submit(function, *job) for job in jobs]
        for future in as_completed(futures):
            if not future.cancelled():
                yield future.result()
            if stopped():
                for one in futures:
                    one.cancel()
    except BrokenProcessPool:
        raise RunFolderError(f"a process was killed, perhaps for want of memory; {mend}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(known: dict) -> None:
    """Leave Ctrl-C to the process that waits for this one, and keep compiled programs where that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in known.items():
        jax.config.update(name, value)
