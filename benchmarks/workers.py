"""Whether the driver keeps a thousand workers busy: `python benchmarks/workers.py`.

Workers are threads that sleep for as long as an energy would take (1 s on average, by a third shorter or longer) and return
a number; everything else is real: proposals, telling, the store's transactions on disk. Busy is the time slept over the time
that the workers were there, without the first 20 s, in which programs are compiled.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from thalweg.commands.environment import prepare_jax

prepare_jax()

from thalweg.host import HostSession  # noqa: E402
from thalweg.objective.base import Evaluated, Objective, Task  # noqa: E402
from thalweg.objective.workers import from_executor  # noqa: E402
from thalweg.potentials.pair import LennardJones  # noqa: E402
from thalweg.presets import cluster_search  # noqa: E402
from thalweg.relax.base import CONVERGED  # noqa: E402
from thalweg.settings import Settings, Stop  # noqa: E402
from thalweg.store import Store  # noqa: E402
from thalweg.system import cluster  # noqa: E402

#: Seconds before the measurement begins.
WARM_UP = 20.0


class Sleeping(Objective):
    """An energy that takes time and no computing."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.slept: list[tuple[float, float]] = []
        self.lock = threading.Lock()

    def __call__(self, task: Task) -> Evaluated:
        begun = time.perf_counter()
        time.sleep(self.seconds * (2 / 3 + (task.number * 0.6180339887 % 1) * 2 / 3))
        energy = -float(task.number * 0.7548776662 % 1)
        x = np.asarray(task.structure.positions)[None]
        with self.lock:
            self.slept.append((begun, time.perf_counter()))
        box, none = np.zeros((1, 3, 3)), np.zeros_like(x)
        return Evaluated(task.number, task.structure, energy, CONVERGED, None, 1, 0.0, x, box, np.array([energy]), none)


def measure(n_workers: int, seconds: float, duration: float) -> dict:
    """Run for `duration` seconds and return what the workers did."""
    potential = LennardJones()
    system = cluster([0] * 13, potential)
    search = cluster_search(system, potential)
    objective = Sleeping(seconds)
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "run", {"name": "LJ13"}) as store:
        pool = ThreadPoolExecutor(n_workers)
        host = HostSession(
            search, system, Settings(walkers=n_workers), 1.0, lambda: from_executor(pool, objective, n_workers), "arrival"
        )
        stop = Stop()
        started = time.perf_counter()

        def drive(until: float) -> tuple[float, float, int]:
            while time.perf_counter() < until:
                host.visit(stop)
                host.commit(store)
            return time.perf_counter(), time.process_time(), host.ledger.relaxations

        # Groups of every size come up, and are compiled for, within the first seconds.
        first, cpu, before = drive(started + WARM_UP)
        ended, after, told = drive(first + duration)
        cpu, told = after - cpu, told - before
        host.close()
        pool.shutdown(wait=True, cancel_futures=True)
        everything = host.ledger.relaxations
        size = (Path(folder) / "run" / "run.db").stat().st_size
    busy = sum(min(e, ended) - max(b, first) for b, e in objective.slept if e > first and b < ended)
    return {
        "workers": n_workers,
        "seconds_per_evaluation": seconds,
        "told": told,
        "per_second": round(told / (ended - first), 1),
        "busy": round(busy / (n_workers * (ended - first)), 4),
        "driver_cpu_ms_per_evaluation": round(1e3 * cpu / told, 3),
        "bytes_per_evaluation": round(size / everything),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--duration", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(n, options.seconds, options.duration) for n in options.workers]
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps({"command": "python benchmarks/workers.py", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
