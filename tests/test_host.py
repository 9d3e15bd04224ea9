"""The host loop: expensive energies one by one, exact resume, any order of arrival, lost workers, bad luck as values."""

import dataclasses
import threading
import time
from concurrent.futures import Future

import equinox as eqx
import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.spatial.distance import pdist

from thalweg.finish import finish
from thalweg.host import HostSession
from thalweg.objective.base import Evaluated, Objective, Task, WorkerLost, Workers
from thalweg.objective.evaluate import Evaluate
from thalweg.potentials.pair import LennardJones
from thalweg.presets import cluster_search
from thalweg.relax.base import CONVERGED, FAILED, STEP_LIMIT
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.search.base import ModelSearch, Proposals, State
from thalweg.settings import Hosting, Settings, Stop
from thalweg.store import Store
from thalweg.structure import Structure
from thalweg.system import cluster

POTENTIAL = LennardJones()
SYSTEM = cluster([0] * 7, POTENTIAL)
SEARCH = cluster_search(SYSTEM, POTENTIAL)
LJ7 = -16.505384  # doi:10.1021/jp970984n


class Relaxing(Objective):
    """Relaxations on the device driver, in the place of a calculator's."""

    relaxation = Relaxation(POTENTIAL, LBFGS(max_step=0.15), 1e-3, 300)

    def __call__(self, task: Task) -> Evaluated:
        done = relax(task.structure, self.relaxation)
        x = np.asarray(done.structures.positions)[None]
        return Evaluated(
            task.number, done.structures, float(done.energy), CONVERGED, None, int(done.steps), 0.0,
            x, np.zeros((1, 3, 3)), np.array([float(done.energy)]), np.zeros_like(x),
        )  # fmt: skip


class Later(Workers):
    """Workers that take the newest of the waiting tasks first, where `newest`."""

    def __init__(self, objective, newest=False):
        self.objective, self.count, self.newest = objective, 1, newest
        self.waiting: list[tuple[Task, Future]] = []
        self.evaluated: list[int] = []
        self.closed = False
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, task):
        future = Future()
        self.waiting.append((task, future))
        return future

    def _work(self):
        while not self.closed:
            if not self.waiting:
                time.sleep(1e-3)
                continue
            task, future = self.waiting.pop(-1 if self.newest else 0)
            self.evaluated.append(task.number)
            future.set_result(self.objective(task))

    def close(self):
        self.closed = True


def session(workers=None, walkers=1, order="submission", seed=0, search=SEARCH):
    made = workers or Later(Relaxing())
    return HostSession(search, SYSTEM, Settings(seed=seed, walkers=walkers), 1.0, lambda: made, order)


def drive(host, store, evaluations, visits=None):
    """What `run` does, for so many visits."""
    stop = Stop(evaluations=evaluations)
    count = 0
    while host.ledger.evaluations < evaluations and count != visits:
        host.visit(stop)
        host.commit(store)
        count += 1
        assert count < 10_000
    host.close()


def course(store):
    """Everything that a run keeps, besides how long it took."""
    told = [e for e in store.evaluations() if e.batch is not None and e.number >= 0]
    entries = [dataclasses.replace(e, seconds=0.0, elapsed=0.0) for e in told]
    minima = [dataclasses.replace(m, seconds=0.0) for m in store.minima()]
    return entries, minima


def same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for f in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f.name)


def test_a_search_around_single_evaluations_finds_the_minimum(tmp_path):
    with Store.create(tmp_path, {"name": "LJ7"}) as store:
        host = session()
        drive(host, store, 2000)
        entries = store.evaluations()
        np.testing.assert_allclose(store.best().energy, LJ7, atol=1e-5)
        assert sum(e.evaluations for e in entries if e.batch is not None) == host.ledger.evaluations
        assert [e.number for e in entries] == list(range(len(entries)))


@pytest.mark.parametrize("visits", [1, 7, 20])
def test_a_run_that_was_cut_goes_on_as_if_it_were_not(tmp_path, visits):
    with Store.create(tmp_path / "whole", {"name": "LJ7"}) as store:
        drive(session(), store, 1500)
        whole = course(store)
    with Store.create(tmp_path / "cut", {"name": "LJ7"}) as store:
        drive(session(), store, 1500, visits)
    with Store.open(tmp_path / "cut", write=True) as store:
        host = session()
        host.restore(store)
        host._checkpointed = time.perf_counter() if visits == 7 else -np.inf  # with and without a checkpoint on the way
        drive(host, store, 1500, visits)
    with Store.open(tmp_path / "cut", write=True) as store:
        host = session()
        host.restore(store)
        drive(host, store, 1500)
        for a, b in zip(whole, course(store), strict=True):
            same(a, b)


def test_results_in_any_order_give_the_same_search(tmp_path):
    courses = []
    for newest in (False, True):
        with Store.create(tmp_path / str(newest), {"name": "LJ7"}) as store:
            drive(session(Later(Relaxing(), newest), walkers=6), store, 1500)
            courses.append(course(store))
    for a, b in zip(*courses, strict=True):
        same(a, b)


class Row(eqx.Module):
    """The walkers of `Noting`."""

    index: np.ndarray
    run: np.ndarray
    asked: np.ndarray


class Noting(ModelSearch):
    """Asks for atoms at random, notes the centre and its first atom, and remembers the walker, the notes and the energy."""

    origins = ("noting",)

    def init(self, system, n_walkers, dtype):
        zero = np.zeros(n_walkers, np.int32)
        return State(Row(np.arange(n_walkers, dtype=np.int32), zero, zero), np.zeros((0, 8)))

    def ask(self, key, state, system, pending=None):
        (walker,), (count,) = state.walkers.index, state.walkers.asked
        x = 1.2 * np.random.default_rng([walker, count]).normal(size=(1, 7, 3))
        notes = np.concatenate([x.mean(1), x[:, 0]], axis=1)
        return Proposals(Structure.create(x, system.numbers), np.zeros(1, np.int32), notes=notes)

    def tell(self, key, state, outcome, system):
        row = np.concatenate([state.walkers.index, outcome.notes[0], outcome.energy])
        walkers = Row(state.walkers.index, state.walkers.run, state.walkers.asked + 1)
        return State(walkers, np.concatenate([state.shared, row[None]]))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_search_is_told_what_it_noted_also_by_a_run_that_was_cut(tmp_path, checkpoint):
    with Store.create(tmp_path / "whole", {"name": "LJ7"}) as store:
        whole = session(walkers=3, search=Noting())
        drive(whole, store, 800)
        entries = [e for e in store.evaluations() if e.batch is not None]
    told = [[e.walker, *e.positions.mean(0), *e.positions[0], e.energy] for e in entries]
    np.testing.assert_array_equal(whole.state.shared, told)
    with Store.create(tmp_path / "cut", {"name": "LJ7"}) as store:
        cut = session(walkers=3, search=Noting())
        if not checkpoint:  # then what was told is told again from the entries
            cut._checkpointed = np.inf
        drive(cut, store, 800, 2)
        assert (store.checkpoint() is not None) == checkpoint
        assert 0 < len(cut.state.shared) < len(told)
    with Store.open(tmp_path / "cut", write=True) as store:
        again = session(walkers=3, search=Noting())
        again.restore(store)
        np.testing.assert_array_equal(again.state.shared, cut.state.shared)
        drive(again, store, 800)
    np.testing.assert_array_equal(again.state.shared, told)


class Hasty(Relaxing):
    """A few steps of each relaxation, as GOFEE takes them."""

    relaxation = Relaxation(POTENTIAL, LBFGS(max_step=0.15), 1e-3, 5)

    def __call__(self, task: Task) -> Evaluated:
        return dataclasses.replace(super().__call__(task), status=STEP_LIMIT)


def finished(store, evaluations=150):
    """A hasty run, or what is left of it, and its end."""
    host = session(Later(Hasty()))
    host.restore(store)
    drive(host, store, evaluations)
    return host, finish(host, Hasty.relaxation, Hosting(), "met a limit", store)


def lj7(x):
    d = pdist(x.reshape(-1, 3))
    return 4 * (d**-12 - d**-6).sum()


def test_the_lowest_structure_is_relaxed_when_a_run_ends(tmp_path):
    with Store.create(tmp_path, {"name": "LJ7"}) as store:
        host, record = finished(store)
        start, end = host.ledger.archive.best, store.best()
        assert end.energy == record.energy < start.energy - 1e-3
        assert end.id == start.id
        np.testing.assert_allclose(end.energy, minimize(lj7, start.positions.ravel(), tol=1e-7).fun, atol=1e-5)
        assert np.abs(approx_fprime(end.positions.ravel(), lj7)).max() < 2e-3
        (final,) = [e for e in store.evaluations() if e.number < 0]
        assert (final.number, final.origin, final.energy) == (-1, "final", end.energy)
        assert store.meta["final"]["evaluations"] == final.evaluations > 5
        assert host.ledger.evaluations == sum(e.evaluations for e in course(store)[0])
        # A run that is resumed and has nothing left to do has this already.
        again, record = finished(store)
        assert len(again.finals) == 1
        assert record.energy == end.energy == store.best().energy


def test_the_search_goes_on_as_if_its_end_had_not_been_relaxed(tmp_path):
    with Store.create(tmp_path / "whole", {"name": "LJ7"}) as store:
        drive(session(Later(Hasty())), store, 300)
        whole = course(store)
    with Store.create(tmp_path / "longer", {"name": "LJ7"}) as store:
        finished(store)
    with Store.open(tmp_path / "longer", write=True) as store:
        host = session(Later(Hasty()))
        host.restore(store)
        drive(host, store, 300)
        for a, b in zip(whole, course(store), strict=True):
            same(a, b)
        record = finish(host, Hasty.relaxation, Hosting(), "met a limit", store)
        assert store.best().energy == record.energy < whole[1][0].energy
        assert store.meta["final"]["evaluations"] == sum(e.evaluations for e in host.finals)


def test_a_run_stopped_as_it_relaxes_its_lowest_structure_ends_the_same(tmp_path, monkeypatch):
    with Store.create(tmp_path / "whole", {"name": "LJ7"}) as store:
        finished(store)
        whole, ends = course(store), [e for e in store.evaluations() if e.number < 0]

    def pressed(self, task):
        raise KeyboardInterrupt

    with Store.create(tmp_path / "cut", {"name": "LJ7"}) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Evaluate, "__call__", pressed)
            with pytest.raises(KeyboardInterrupt):
                finished(store)
        assert store.meta["finishing"]
        assert all(e.number >= 0 for e in store.evaluations())
    with Store.open(tmp_path / "cut", write=True) as store:
        finished(store)
        assert not store.meta["finishing"]
        for a, b in zip(whole, course(store), strict=True):
            same(a, b)
        plain = lambda entries: [dataclasses.replace(e, seconds=0.0, elapsed=0.0) for e in entries]
        same(plain(ends), plain(e for e in store.evaluations() if e.number < 0))


class Failing(Objective):
    """A calculator that never succeeds."""

    def __call__(self, task: Task) -> Evaluated:
        return Evaluated(task.number, task.structure, np.inf, FAILED, "EMT: nothing works today", 1)


class Losing(Later):
    """Every worker that gets the task of this number is lost, so many times."""

    def __init__(self, objective, number, times):
        super().__init__(objective)
        self.number, self.times, self.lost = number, times, 0

    def submit(self, task):
        if task.number == self.number and self.lost < self.times:
            self.lost += 1
            future = Future()
            future.set_exception(WorkerLost("it was killed"))
            return future
        return super().submit(task)


def test_a_calculator_that_always_fails_ends_the_run_and_says_why(tmp_path):
    with Store.create(tmp_path, {"name": "LJ7"}) as store:
        host = session(Later(Failing()))
        while host.hopeless() is None:
            host.visit(Stop())
            host.commit(store)
            assert host.ledger.relaxations < 50
        assert host.hopeless() == "none of the first 10 evaluations succeeded; the last said: EMT: nothing works today"
        assert store.failures() == [("EMT: nothing works today", 10)]
        assert store.best() is None


@pytest.mark.parametrize(("times", "failed"), [(2, 0), (3, 1)])
def test_lost_workers_lose_nothing(tmp_path, times, failed):
    with Store.create(tmp_path, {"name": "LJ7"}) as store:
        drive(session(Losing(Relaxing(), 4, times), walkers=2), store, 600)
        told = [e for e in store.evaluations() if e.batch is not None]
        assert [e.number for e in told] == list(range(len(told)))
        errors = [e.error for e in told if e.error]
        assert len(errors) == failed
        assert all("its worker was lost 3 times" in e for e in errors)


def test_budgets_are_kept_to_the_evaluation(tmp_path):
    # Tasks beyond the budget are not even begun: they would cost hours.
    workers = Later(Relaxing())
    with Store.create(tmp_path, {"name": "LJ7"}) as store:
        host = session(workers, walkers=4)
        stop = Stop(evaluations=1)
        for _ in range(3):
            host.visit(stop)
            host.commit(store)
        assert workers.evaluated == [0]
        assert len(host._entries) == 4
