"""Where tasks are evaluated, and what becomes of workers that hang, talk and die."""

import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from calculators import PATH

from thalweg import InputError
from thalweg.objective.base import Task, WorkerLost
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import from_executor, open_workers
from thalweg.potentials.black_box import BlackBox
from thalweg.relax.base import FAILED, STEP_LIMIT
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.structure import Structure


def objective(name="Springs", **arguments):
    """Single points of a calculator of tests/calculators.py."""
    return Evaluate(Relaxation(BlackBox(f"{PATH}:{name}", arguments), LBFGS(), 1e-6, 1))


def task(number, x=0.0):
    """Two atoms, the first at `x`: the energy of `Springs` is (x^2 + 9) / 2."""
    return Task(number, Structure.create([[x, 0, 0], [0, 3, 0]], [6, 6]))


def check(futures, offset=0):
    """All tasks came back, with their energies."""
    for k, future in enumerate(futures):
        out = future.result(timeout=60)
        assert (out.number, out.status, out.evaluations) == (k + offset, STEP_LIMIT, 1)
        np.testing.assert_allclose(out.energy, ((k / 4) ** 2 + 9) / 2)


@pytest.mark.parametrize("spec", ["serial", "threads"])
def test_tasks_in_this_process(spec):
    workers = open_workers(spec, 2, objective())
    assert workers.count == (1 if spec == "serial" else 2)
    check([workers.submit(task(k, k / 4)) for k in range(5)])
    workers.close()
    workers.close()


def test_any_executor():
    with ThreadPoolExecutor(3) as executor:
        workers = from_executor(executor, objective(), 3)
        check([workers.submit(task(k, k / 4)) for k in range(5)])
        workers.close()
        assert executor.submit(pow, 2, 3).result() == 8  # it is its owner's to shut down


def test_serial_workers_look_at_the_time():
    slow = Evaluate(Relaxation(BlackBox(f"{PATH}:Sleeps", {"seconds": 0.1}), LBFGS(), 1e-9, 50))
    out = open_workers("serial", 1, slow, timeout=0.15).submit(task(0)).result()
    assert out.status == FAILED
    assert out.evaluations <= 2
    assert "more than the 0.15 s allowed" in out.error


def test_serial_workers_keep_calculators_quiet(capfd):
    workers = open_workers("serial", 1, objective("Talks"))
    out = workers.submit(task(0)).result()
    print("after")
    os.write(1, b"all\n")
    assert out.status == STEP_LIMIT
    assert sorted(capfd.readouterr().out.split()) == ["after", "all"]


@pytest.fixture(scope="module")
def processes():
    """Two processes of which one dies where the first atom is beyond 5 Å; a task has 20 s."""
    workers = open_workers("processes", 2, objective("Dies"), timeout=20)
    yield workers
    workers.close()
    workers.close()


def test_a_dying_process_loses_its_own_task_only(processes):
    futures = [processes.submit(task(k, k / 4)) for k in range(4)]
    deadly = processes.submit(task(4, 6.0))
    more = [processes.submit(task(k + 5, k / 4)) for k in range(6)]
    with pytest.raises(WorkerLost, match=r"process of task 4 died \(exit code 3\)"):
        deadly.result(timeout=60)
    check(futures)
    check(more, offset=5)


def test_a_process_out_of_time_is_ended_and_replaced():
    workers = open_workers("processes", 1, objective("Sleeps", seconds=30.0), timeout=1.0)
    begun = time.perf_counter()
    out = workers.submit(task(9)).result(timeout=60)
    assert time.perf_counter() - begun < 20
    assert (out.number, out.status, out.energy, out.evaluations) == (9, FAILED, np.inf, 1)
    assert out.error == "took more than the 1 s allowed, and its process was ended"
    workers.close()


def test_processes_have_one_thread_and_no_voice(capfd):
    workers = open_workers("processes", 1, objective("Environment"))
    np.testing.assert_allclose(workers.submit(task(0)).result(timeout=60).energy, 1.0)
    workers.close()
    assert capfd.readouterr().out == ""


HELD = """
import sys, time
from thalweg.objective.base import Task
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import open_workers
from thalweg import BlackBox, LBFGS, Relaxation, Structure

if __name__ == "__main__":
    evaluate = Evaluate(Relaxation(BlackBox(sys.argv[1], {"path": sys.argv[2]}), LBFGS(), 1e-6, 1))
    workers = open_workers("processes", 1, evaluate)
    workers.submit(Task(0, Structure.create([[0, 0, 0], [0, 3, 0]], [6, 6])))
    time.sleep(120)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    (tmp_path / "held.py").write_text(HELD)
    told = tmp_path / "pid"
    run = subprocess.Popen([sys.executable, str(tmp_path / "held.py"), f"{PATH}:SaysWhere", str(told)])
    try:
        wait_for(told.exists, 60)
        run.kill()
        run.wait()
        worker = int(told.read_text())
        wait_for(lambda: not alive(worker), 20)
    finally:
        run.kill()


def wait_for(what, seconds):
    """Wait until something is so; fail if it never is."""
    end = time.perf_counter() + seconds
    while not what():
        assert time.perf_counter() < end, "it did not happen in time"
        time.sleep(0.1)


def alive(pid):
    """Whether a process runs; one that ended and that nobody asked about does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_results_and_objectives_can_be_sent():
    whole, start = objective(), task(3, 1.0)
    here = whole(start)
    there = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(whole))(pickle.loads(pickle.dumps(start)))))
    np.testing.assert_array_equal(here.positions, there.positions)
    np.testing.assert_array_equal(here.energies, there.energies)


class Unpicklable(BlackBox):
    """Something that no other process can have."""

    def __reduce__(self):
        raise TypeError("cannot pickle this")


def test_what_cannot_be_sent_is_one_line():
    local = Evaluate(Relaxation(Unpicklable("emt"), LBFGS()))
    with pytest.raises(InputError, match="cannot be sent to workers") as error:
        open_workers("processes", 1, local)
    assert "\n" not in str(error.value)


class Elsewhere(Evaluate):
    """Something that only this process can make."""

    def __reduce__(self):
        return exec, (f"if __import__('os').getpid() != {os.getpid()}: raise RuntimeError('not here')",)


def test_what_cannot_be_made_there_is_one_line(capfd):
    workers = open_workers("processes", 1, Elsewhere(objective().relaxation))
    for k in range(2):
        with pytest.raises(RuntimeError, match=r"cannot make what it should evaluate \(RuntimeError: not here\)"):
            workers.submit(task(k)).result(timeout=60)
    workers.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("spec", "count", "says"),
    [
        ("process", 2, 'Did you mean "processes"'),
        ("threads", 0, "it takes at least one"),
        ("dask://nowhere.json", 1, "there is no scheduler file nowhere.json"),
    ],
)
def test_what_cannot_be_opened_is_one_line(spec, count, says):
    if spec.startswith("dask"):
        pytest.importorskip("distributed", reason="distributed is not installed")
    with pytest.raises(InputError) as error:
        open_workers(spec, count, objective())
    assert says in str(error.value)


def test_a_dask_cluster():
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        workers = open_workers("dask://" + cluster.scheduler_address.partition("://")[2], 0, objective())
        assert workers.count == 2
        check([workers.submit(task(k, k / 4)) for k in range(5)])
        workers.close()


def test_threads_are_kept_busy():
    """A hundred workers that sleep: 300 evaluations of .2 s would take a minute one by one, and take three rounds of them."""
    workers = open_workers("threads", 100, objective("Sleeps", seconds=0.2))
    begun = time.perf_counter()
    futures = [workers.submit(task(k, 0.0)) for k in range(300)]
    wait(futures, timeout=60)
    spent = time.perf_counter() - begun
    workers.close()
    assert all(f.result().status == STEP_LIMIT for f in futures)
    assert spent < 6  # .7 s on an idle machine


@pytest.mark.slow
def test_a_pool_of_pythons_own():
    import multiprocessing

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        workers = from_executor(executor, objective(), 1)
        check([workers.submit(task(k, k / 4)) for k in range(3)])
