"""The end of a search of expensive energies: its lowest structure relaxed by true forces, which the search is not told.

Searches that spend few evaluations on each structure leave the lowest above its minimum. The relaxation is an entry of the
store like any other, with a number below 0 and an origin of its own: a run that goes on later takes the course of one that
never ended.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thalweg.host import TRIES, HostSession
from thalweg.journal import FINAL, Entry
from thalweg.objective.base import Evaluated, Task
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import open_workers
from thalweg.outcomes import evaluated, structure_of
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.relax.driver import Relaxation
from thalweg.settings import Hosting
from thalweg.store import Record, Store

#: Evaluations after which the relaxation ends, converged or not.
LONGEST = 500


def finish(session: HostSession, relaxation: Relaxation, hosting: Hosting, reason: str, store: Store | None) -> Record | None:
    """Relax the lowest structure until its forces are below the run's `fmax`; the lowest structure there is then.

    None where no relaxation led lower: where it had converged already, or failed. One that is in the store already, as a
    run that is resumed has it, is not made again. The store keeps that it is under way, and `reason`, why the search ended.
    """
    lowest = session.lowest
    if lowest is None:
        return None
    start = replace(
        lowest, number=-1 - len(session.finals), origin=FINAL, positions=lowest.point_positions[-1], velocities=None,
        cell=lowest.point_cells[-1], lowest=lowest.energy, batch=-1, points=None,
        notes=None,
    )  # fmt: skip
    made = any(np.array_equal(e.positions, start.positions) and np.array_equal(e.cell, start.cell) for e in session.finals)
    if not made and lowest.status != CONVERGED:
        if store is not None:
            store.commit(meta={"reason": reason, "finishing": True})
        session.finals.append(_relaxed(session, start, replace(relaxation, max_steps=LONGEST), hosting))
    record = _record(session)
    if store is not None and session.finals:
        last = session.finals[-1]
        told = {"evaluations": sum(e.evaluations for e in session.finals), "last": last.evaluations, "error": last.error}
        told |= {"energy": last.energy if last.error is None else None, "converged": last.status == CONVERGED}
        store.commit(
            minima=() if record is None else (record,),
            evaluations=session.finals,
            meta={"finishing": False, "final": told, "reason": reason},
        )
    return record


def _relaxed(session: HostSession, start: Entry, relaxation: Relaxation, hosting: Hosting) -> Entry:
    """The entry with what became of it."""
    structure, settings = structure_of(start, session.system), session.settings
    # What a whole proposal may take is for as many evaluations as one has.
    timeout = None if hosting.timeout is None else hosting.timeout * max(1.0, LONGEST / settings.max_steps)
    workers = open_workers(hosting.executor, 1, Evaluate(relaxation), timeout)
    try:
        found = Evaluated(start.number, structure, np.inf, FAILED, f"its worker was lost {TRIES} times", 1)
        for _ in range(TRIES):
            future = workers.submit(Task(start.number, structure, start.lowest))
            if future.exception() is None:
                found = future.result()
                break
    finally:
        workers.close()
    return evaluated(start, found)


def _record(session: HostSession) -> Record | None:
    """The lowest end of all such relaxations in place of the minimum that it began from; None where none is the lowest."""
    archive = session.ledger.archive
    energies = [np.inf if e.error is not None or e.energy is None else e.energy for e in session.finals]
    best = archive.best
    if best is None or not min(energies, default=np.inf) < best.energy:
        return None
    end = session.finals[int(np.argmin(energies))]
    known = int(archive.known(np.array([end.lowest]), end.positions[None], end.cell[None])[0])
    if known >= 0 and known in archive:
        record = archive[known]
    else:
        record = replace(best, id=1 + max(r.id for r in archive), hits=1, independent_hits=1, origin=FINAL)
    return replace(record, energy=min(energies), positions=end.point_positions[-1], cell=end.point_cells[-1])
