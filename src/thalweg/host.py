"""The host loop: a search's `ask` and `tell` around energies that workers evaluate one by one.

The store's entries are the log of a run: what is told is committed with it, so that a run killed at any moment is rebuilt by
telling again what it was told, and evaluates again only what was in flight.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np

from thalweg import prng
from thalweg.journal import Entry
from thalweg.leaves import as_leaves
from thalweg.ledger import Ledger, load_state, save_state
from thalweg.objective.base import Evaluated, Task, Workers
from thalweg.outcomes import GROUPS, arrays, evaluated, filled, finished, outcome_of, padded, parts, put, structure_of
from thalweg.relax.base import FAILED
from thalweg.search.base import Outcome, Search, State
from thalweg.settings import Progress, Settings, Stop
from thalweg.store import Store
from thalweg.structure import Structure, stack
from thalweg.system import System

#: Seconds that a visit waits for results at most: limits and Ctrl-C are looked at between visits.
PATIENCE = 0.5
#: Seconds between checkpoints. What was told since the last one is told again when a run is resumed.
BETWEEN_CHECKPOINTS = 5.0
#: Failures, and nothing else, after which a run ends.
HOPELESS = 10
#: How often a task is tried again whose worker was lost.
TRIES = 3


class HostSession:
    """One search in progress around expensive energies; the counterpart of `thalweg.run.Session`.

    Each walker has at most one proposal in flight.
    """

    def __init__(
        self,
        search: Search,
        system: System,
        settings: Settings,
        energy_scale: float,
        workers: Callable[[], Workers],
        order: str = "submission",
    ):
        self.search, self.settings, self.system, self.energy_scale = search, settings, system, energy_scale
        self.order = order
        self._origins = search.origins
        self.ledger = Ledger(system, search.origins, settings.keep, energy_scale, len(system.numbers))
        self._open, self._workers = workers, None
        key = prng.key(settings.seed)
        self._key, self._plain = key, (search, system)
        with jax.enable_x64(True):
            self._constant = as_leaves((key, search, system), np.dtype(np.float64))
            self.state = search.init(system, settings.walkers, np.dtype(np.float64))
        self._entries: dict[int, Entry] = {}  # asked, not yet told
        self._tries: dict[int, int] = {}
        self._submitted: set[int] = set()
        self._dirty: list[Entry] = []
        self._arrived: queue.SimpleQueue = queue.SimpleQueue()
        self._next = self._batches = 0
        self._elapsed = self._cpu = 0.0
        self._checkpointed = -np.inf
        #: The entry of the lowest energy that was told, and what was relaxed from such after the end (`thalweg.finish`).
        self.lowest: Entry | None = None
        self.finals: list[Entry] = []
        self._stale: list[int] = []  # minima in the store that only those know of
        self._wall0, self._cpu0 = time.perf_counter(), time.process_time()
        self.last_error: str | None = None

    # -- what `run` asks of a session --------------------------------------------------------------------------------

    def visit(self, stop: Stop) -> None:
        """Ask for idle walkers, wait for results, and tell the search what may be told."""
        if self._workers is None:
            self._workers = self._open()
        if self._next == 0:
            self._ask(np.arange(self.settings.walkers))
        room = np.inf if stop.evaluations is None else stop.evaluations - self.ledger.evaluations
        for entry in list(self._entries.values())[: int(min(room, len(self._entries)))]:
            self._submit(entry)
        self._collect(PATIENCE)
        ready = self._tellable(room)
        # One by one in the order of submission: grouped by chance, searches would learn by chance.
        for group in parts(ready, 1 if self.order == "submission" else GROUPS[-1]):
            self._tell(group)

    def close(self) -> None:
        """Give the workers back."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def hopeless(self) -> str | None:
        """Why it makes no sense to go on, or None."""
        book = self.ledger
        if book.relaxations < HOPELESS or book.failures < book.relaxations:
            return None
        return f"none of the first {book.relaxations} evaluations succeeded; the last said: {self.last_error}"

    def in_flight(self) -> tuple[int, int]:
        """Proposals asked for and not yet told; what they cost is known only then."""
        return len(self._entries), 0

    def clocks(self) -> tuple[float, float]:
        """Wall and CPU seconds, earlier sessions included; what workers in other processes use is not in the second."""
        return self._elapsed + time.perf_counter() - self._wall0, self._cpu + time.process_time() - self._cpu0

    def progress(self) -> Progress:
        """The snapshot now."""
        elapsed, cpu = self.clocks()
        session = time.perf_counter() - self._wall0, time.process_time() - self._cpu0
        return self.ledger.progress(elapsed, cpu, *session, self.in_flight())

    def moves(self) -> list[dict]:
        """Statistics of each generator, with its present chance where the search learns one."""
        probabilities = getattr(self.search, "move_probabilities", None)
        chances = None if probabilities is None else np.asarray(probabilities(self.state.shared))
        lowered = getattr(self.state.shared, "lowered", None)
        return self.ledger.statistics(chances, None if lowered is None else np.asarray(lowered))

    def commit(self, store: Store) -> None:
        """Entries and what they did to the minima in one transaction; now and then a checkpoint."""
        archive = self.ledger.archive
        if not (self._dirty or archive.dirty):
            return
        due = time.perf_counter() - self._checkpointed > BETWEEN_CHECKPOINTS
        store.commit(
            minima=archive.dirty,
            dropped=[*archive.dropped, *self._stale],
            progress=self.ledger.row(self.progress()),
            moves=self.moves() if due else (),
            checkpoint=self.checkpoint() if due else None,
            evaluations=self._dirty,
        )
        self._dirty, self._stale = [], []
        archive.clean()
        if due:
            self._checkpointed = time.perf_counter()

    def checkpoint(self) -> bytes:
        """The state of the search after the batches told so far; the ledger is made again from the entries."""
        return save_state(self.state, {"batches": np.array(self._batches)})

    def restore(self, store: Store) -> None:
        """Go on from the store: its last checkpoint, then everything told since, then what was in flight."""
        every = store.evaluations()
        self.finals = sorted((e for e in every if e.number < 0), key=lambda e: -e.number)
        entries = [e for e in every if e.number >= 0]
        if not entries:
            return
        data = store.checkpoint()
        if data is not None:
            self.state, arrays = load_state(data, self.state)
            self._batches = int(arrays["batches"])
        self._next = entries[-1].number + 1
        told: dict[int, list[Entry]] = {}
        for entry in entries:
            if entry.batch is not None:
                told.setdefault(entry.batch, []).append(entry)
        for batch in sorted(told):
            # Counts and minima from the first, which costs little; the search from its checkpoint.
            self._enter(told[batch], search=batch >= self._batches)
        self._batches = len(told)
        archive = self.ledger.archive
        if self.finals:  # then the store's minima are not those of the search
            self._stale = [m.id for m in store.minima() if m.id not in archive]
        else:
            archive.clean()
        self._entries = {e.number: e for e in entries if e.batch is None}
        last = (store.progress() or [{}])[-1]
        self._elapsed, self._cpu = last.get("elapsed") or self._elapsed, last.get("cpu_seconds") or self._cpu

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, walkers: np.ndarray) -> None:
        """New tasks for these idle walkers."""
        if self.search.traceable:
            for part in parts(walkers, GROUPS[-1]):
                self._asked(part, *self._ask_traced(part))
            return
        for walker in walkers:  # each sees what was asked for the others
            with jax.enable_x64(True):
                proposals = self.search.ask(self._key, self._sub(np.array([walker])), self.system, self._pending())  # type: ignore[call-arg]
            self._asked(np.array([walker]), *arrays(proposals, 1))

    def _ask_traced(self, walkers: np.ndarray):
        rows = filled(walkers)
        with jax.enable_x64(True):
            return arrays(_ask(self._constant, self._sub(rows)), len(walkers))

    def _asked(self, walkers: np.ndarray, structures: Structure, origin: np.ndarray, velocities, notes) -> None:
        runs = np.asarray(self.state.walkers.run)
        best = self.ledger.archive.best
        for k, walker in enumerate(walkers):
            entry = Entry(
                self._next,
                int(walker),
                int(runs[walker]),
                self._origins[int(origin[k])],
                np.inf if best is None else best.energy,
                np.asarray(structures.positions[k]),
                np.asarray(structures.cell[k]),
                None if velocities is None else velocities[k],
                notes=None if notes is None else np.asarray(notes[k], np.float64),
            )
            self._entries[entry.number] = entry
            self._dirty.append(entry)
            self._next += 1

    def _pending(self) -> Structure | None:
        waiting = [structure_of(e, self.system) for e in self._entries.values()]
        return stack(waiting) if waiting else None

    # -- evaluating ----------------------------------------------------------------------------------------------------

    def _submit(self, entry: Entry) -> None:
        if entry.number in self._submitted or entry.status is not None:
            return
        self._submitted.add(entry.number)
        task = Task(entry.number, structure_of(entry, self.system), entry.lowest, entry.velocities)
        assert self._workers is not None
        future = self._workers.submit(task)
        future.add_done_callback(lambda f, number=entry.number: self._arrived.put((number, f)))

    def _collect(self, patience: float) -> None:
        """Take in what has arrived; wait for the first if nothing can be told without."""
        wait = not self._tellable(np.inf)
        while True:
            try:
                number, future = self._arrived.get(block=wait, timeout=patience if wait else None)
            except queue.Empty:
                return
            wait = False
            self._receive(number, future)

    def _receive(self, number: int, future) -> None:
        entry = self._entries.get(number)
        if entry is None or future.cancelled():
            return
        error = future.exception()
        if error is None:
            found: Evaluated = future.result()
        elif self._tries.get(number, 0) + 1 < TRIES:
            self._tries[number] = self._tries.get(number, 0) + 1
            self._submitted.discard(number)  # goes to another worker at the next visit
            return
        else:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            text = f"its worker was lost {TRIES} times: {said}"
            found = Evaluated(number, structure_of(entry, self.system), np.inf, FAILED, text, 1)
        entry = evaluated(entry, found)
        self._entries[number] = entry
        self._dirty.append(entry)

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tellable(self, limit: float) -> list[Entry]:
        """What may be told now: in the order of submission only up to the first that is still in flight.

        No more than fit into `limit` evaluations, so that budgets are kept as exactly as proposals allow.
        """
        found, spent = [], 0
        for number in sorted(self._entries):
            entry = self._entries[number]
            if entry.status is None:
                if self.order == "submission":
                    break
                continue
            if spent >= limit:
                break
            spent += entry.evaluations
            found.append(entry)
        return found

    def _tell(self, entries: list[Entry]) -> None:
        elapsed = self.clocks()[0]
        entries = [replace(e, batch=self._batches, elapsed=elapsed) for e in entries]
        self._batches += 1
        self._enter(entries)
        numbers = {e.number for e in entries}
        for number in numbers:
            del self._entries[number]
            self._submitted.discard(number)
            self._tries.pop(number, None)
        # An entry that arrived and was told between two commits is written once.
        self._dirty = [e for e in self._dirty if e.number not in numbers] + entries
        self._ask(np.array([e.walker for e in entries]))

    def _enter(self, entries: list[Entry], search: bool = True) -> None:
        """Tell the ledger and the search; the same whether entries are new or of an earlier session."""
        for entry in entries:
            if entry.error is not None:
                self.last_error = entry.error
            lowest = np.inf if self.lowest is None or self.lowest.energy is None else self.lowest.energy
            if entry.points is not None and entry.energy is not None and entry.energy < lowest:
                self.lowest = entry
        outcome = outcome_of(entries, self._origins, self.system, points=not self.search.traceable)
        # Walkers with one index share their runs: a population is one.
        who = np.asarray(self.state.walkers.index)[[e.walker for e in entries]]
        self.ledger.take(finished(entries, outcome, who, self.system), None, entries[0].elapsed)
        if search:
            self._tell_search(np.array([e.walker for e in entries]), outcome)

    def _tell_search(self, walkers: np.ndarray, outcome: Outcome) -> None:
        if self.search.traceable:
            rows = filled(walkers)
            with jax.enable_x64(True):
                sub = _tell(self._constant, self._sub(rows), padded(outcome, len(rows)))
        else:
            with jax.enable_x64(True):
                sub = self.search.tell(self._key, self._sub(walkers), outcome, self.system)
        self.state = State(put(self.state.walkers, sub.walkers, walkers), sub.shared)

    def _sub(self, rows: np.ndarray) -> State:
        return State(jax.tree.map(lambda a: np.asarray(a)[rows], self.state.walkers), self.state.shared)


@eqx.filter_jit
def _ask(constant, state: State):
    key, search, system = constant
    return search.ask(key, state, system)


@eqx.filter_jit
def _tell(constant, state: State, outcome: Outcome) -> State:
    key, search, system = constant
    return search.tell(key, state, outcome, system)
