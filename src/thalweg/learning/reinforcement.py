"""One builder that goes on learning from the molecules of several formulas at once, all evaluated by the same workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import numpy as np
import optax

from thalweg.config import Resolved
from thalweg.errors import InputError, PotentialError
from thalweg.host import HostSession
from thalweg.objective.base import Evaluated, Objective, Task, Workers
from thalweg.objective.workers import open_workers
from thalweg.run import Result, finished, objective_of, open_session
from thalweg.search.base import State
from thalweg.search.builder import Builder
from thalweg.settings import Hosting
from thalweg.store import Store

#: A composition, as what belongs to it is found by: its atomic numbers, sorted.
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Each(Objective):
    """The objective of every composition, for workers that serve several runs."""

    of: Mapping[Numbers, Objective]

    def __call__(self, task: Task) -> Evaluated:
        return self.of[_composition(task.structure.numbers)](task)

    def within(self, seconds: float | None) -> Each:
        """Each with the limit."""
        return Each({k: one.within(seconds) for k, one in self.of.items()})


class Lent(Workers):
    """Workers that belong to someone else, who closes them."""

    def __init__(self, workers: Workers):
        self._workers = workers

    @property
    def count(self) -> int:  # type: ignore[override]
        """Of the others."""
        return self._workers.count

    def submit(self, task: Task):
        return self._workers.submit(task)

    def close(self) -> None:
        """Nothing: others use them still."""


class Course:
    """The run of one formula among several."""

    def __init__(self, resolved: Resolved, store: Store, workers: Workers, resume: bool = False):
        self.resolved, self.store = resolved, store
        self.session = _opened(resolved, workers)
        if resume:
            self.session.restore(store)
        self.reason: str | None = resolved.stop.reason(self.session.progress()) if resume else None

    def visit(self, state: State | None) -> State:
        """Go on for a moment with the builder of another's state; the own state afterwards."""
        if state is not None:
            self.session.state = with_builder(self.session.state, state)
        self.session.visit(self.resolved.stop)
        self.session.commit(self.store)
        hopeless = self.session.hopeless()
        if hopeless:
            raise PotentialError(f"{self.resolved.name}: {hopeless}")
        self.reason = self.resolved.stop.reason(self.session.progress())
        return self.session.state

    def result(self, interrupted: bool) -> Result:
        """What was found, its lowest structure relaxed unless it was `interrupted`."""
        session, made = self.session, self.resolved
        final, now = None, session.progress()
        reason = self.reason or "interrupted"
        if made.settings.finish and not interrupted:
            final, now = finished(session, made.relaxation, made.hosting or Hosting(), reason, self.store)
        return Result(session.ledger, now, reason, session.moves(), final, session.state)


def together(
    runs: Sequence[tuple[Resolved, Store]],
    note: Callable[[Sequence[Course]], None] = lambda courses: None,
    interrupted: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> list[Result]:
    """Runs by builders, one after the other for a moment each until all have met their limits, with one network.

    What one of them has learned the next one builds with: after every visit its network and optimiser are handed on. The
    workers are those of the first run. Raises `InputError` where two runs are of one composition. Where they `resume`, every
    evaluation is there, and all go on with the network of the run that had learned most when it was last kept.
    """
    made = [one for one, _ in runs]
    every = {k: objective_of(*_parts(one)) for k, one in composed(made).items()}
    hosting = made[0].hosting or Hosting()
    pool = open_workers(hosting.executor, hosting.count, Each(every), hosting.timeout)
    courses = [Course(one, store, Lent(pool), resume) for one, store in runs]
    state = max((c.session.state for c in courses), key=lessons) if resume else None
    try:
        while any(c.reason is None for c in courses) and not interrupted():
            for course in courses:
                if course.reason is None and not interrupted():
                    state = course.visit(state)
            note(courses)
        if state is not None:  # all end with the same builder
            for course in courses:
                course.session.state = with_builder(course.session.state, state)
        return [course.result(interrupted()) for course in courses]
    finally:
        for course in courses:
            course.session.close()
        pool.close()


def composed(made: Sequence[Resolved]) -> dict[Numbers, Resolved]:
    """Runs by their compositions. Raises `InputError` where two are alike."""
    every = {_composition(one.system.numbers): one for one in made}
    if len(every) < len(made):
        raise InputError("two of the formulas are of the same composition; give each once")
    return every


def lessons(state: State) -> int:
    """Steps that the optimiser of a builder has taken."""
    return int(optax.tree_utils.tree_get(state.shared.optimiser, "count"))


def with_builder(state: State, other: State) -> State:
    """A state with the network and the optimiser of another one."""
    taken = (other.shared.network, other.shared.optimiser)
    return State(state.walkers, eqx.tree_at(lambda s: (s.network, s.optimiser), state.shared, taken))


def _opened(resolved: Resolved, workers: Workers) -> HostSession:
    if not isinstance(resolved.search, Builder):
        raise InputError(f"{resolved.name} is not searched by a builder, and has nothing to learn together with others")
    session = open_session(*_parts(resolved), resolved.hosting, lambda: workers)
    assert isinstance(session, HostSession)
    return session


def _parts(resolved: Resolved):
    return resolved.search, resolved.relaxation, resolved.system, resolved.settings


def _composition(numbers) -> Numbers:
    numbers = np.asarray(numbers)
    return tuple(sorted(int(z) for z in numbers[numbers >= 0]))
