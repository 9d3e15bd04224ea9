"""What runs in a worker process. Imports nothing heavy: the limits on threads must be set before libraries that read them."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Mapping

#: One thread per worker process; JAX on the CPU, so that workers do not share out a GPU's memory.
LIMITS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
XLA = "--xla_cpu_multi_thread_eigen=false"

_objective, _trouble = None, "it was given none"


def begin(objective: bytes, environment: Mapping[str, str], path: list[str]) -> None:
    """Prepare this process for tasks of a pickled objective; standard output goes nowhere from here on."""
    global _objective, _trouble
    os.environ.update({**LIMITS, **environment})
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA}".strip()
    sys.path += [p for p in path if p not in sys.path]
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    try:
        _objective = pickle.loads(objective)
    except Exception as error:  # each task then says so; an exception here would end the pool with a traceback
        _trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after its parent: a run that was killed would leave calculations of hours behind."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def work(task: bytes) -> bytes:
    """Evaluate a pickled task; the pickled result."""
    if _objective is None:
        raise RuntimeError(f"a worker process cannot make what it should evaluate ({_trouble})")
    return pickle.dumps(_objective(pickle.loads(task)))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without standard output, of compiled libraries too, for as long as this lasts; the whole process is meant."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed, as in a daemon
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")) as text, text:
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
