"""Running a search: the loop between device and store, and what it knows at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from thalweg import prng
from thalweg.errors import PotentialError
from thalweg.finish import finish
from thalweg.host import HostSession
from thalweg.leaves import as_leaves
from thalweg.ledger import Ledger, load_state, save_state
from thalweg.objective.base import Workers
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import open_workers
from thalweg.potentials.base import Potential
from thalweg.relax.base import RUNNING
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.search import fused, tempering
from thalweg.search.base import Search, State
from thalweg.settings import Hosting, Progress, Settings, Stop
from thalweg.store import Record, Store
from thalweg.system import System

#: Finished relaxations the device may log before it hands back (blocks of a few each).
LOG_BLOCKS = 128
#: Atom counts that structures are padded to, so that a sweep over sizes compiles few programs.
BUCKETS = (8, 16, 24, 32, 40, 56, 80, 104, 128, 152)


@dataclass
class Result:
    """What a search found: the ledger with its archive of minima, the last snapshot, and why it ended.

    `final` is the lowest structure where it was relaxed once more after the end (`Settings.finish`): the ledger does not
    know of it, the snapshot does. `state` is the last one of a search around workers.
    """

    ledger: Ledger
    progress: Progress
    reason: str
    moves: list[dict] = field(default_factory=list)
    final: Record | None = None
    state: State | None = None

    @property
    def energy(self) -> float:
        """Energy of the best minimum, float64; inf if nothing was found."""
        return self.progress.best

    @property
    def best(self):
        """The lowest minimum as a store `Record`, or None."""
        return self.final or self.ledger.archive.best


def bucket(n_atoms: int) -> int:
    """The padded size for this many atoms."""
    for size in BUCKETS:
        if n_atoms <= size:
            return size
    return -(-n_atoms // 32) * 32


def slots_for(system: System) -> int:
    """Slots that a search of the system runs in. Sweeps over sizes are made with clusters; a cell keeps its own size."""
    n_atoms = len(system.numbers)
    return n_atoms if any(system.pbc) else bucket(n_atoms)


class Session:
    """One search in progress: `advance` visits the device once; `result` is what is known so far.

    The only mutable object of the package: it holds the device state, the ledger and the clocks.
    """

    def __init__(self, search: Search, relaxation: Relaxation, system: System, settings: Settings, energy_scale: float):
        self.search, self.settings = search, settings
        self.dtype = np.dtype(settings.precision)
        n_slots = slots_for(system)
        padded = system.padded(n_slots)
        bond = float(np.mean(system.bond_lengths))
        self.ledger = Ledger(system, search.origins, settings.keep, energy_scale, n_slots)
        self.energy_scale = energy_scale
        unit = energy_scale / bond
        potential, filter = relaxation.potential, relaxation.filter
        hop = Relaxation(potential, relaxation.relaxer, settings.fmax * unit, settings.max_steps, filter)
        self.polish = Relaxation(potential, LBFGS(max_step=0.1 * bond), 1e-4 * unit, 1000, filter)
        constant = fused.Constant(prng.key(settings.seed), search, hop, padded, hop.space(system.cell, system.pbc))
        self._constant: fused.Constant = as_leaves(constant, self.dtype)
        with jax.enable_x64(self.dtype == np.float64):
            self._driver: Any = tempering if search.dynamic else fused
            self.state: Any = self._driver.begin(self._constant, settings.walkers, self.dtype)
        # Pages of a fixed length: what the ledger sees together is then the same however often a run is resumed.
        # Shorter ones where relaxations are long, as annealings are: limits and Ctrl-C are looked at between them.
        share = min(1.0, Settings.max_steps / settings.max_steps)
        self._page = max(1, int(np.clip(4e5 / len(padded.numbers) ** 2, 16, LOG_BLOCKS) * share))
        self._elapsed = self._cpu = 0.0  # of earlier sessions
        self._wall0, self._cpu0 = time.perf_counter(), time.process_time()

    def visit(self, stop: Stop) -> None:
        """Let the device run for one page of finished relaxations (well under a second), then take them in."""
        left = lambda limit, used: 2**31 - 1 if limit is None else max(1, min(limit - used, 2**31 - 1))
        target = -np.inf
        if stop.target is not None:
            # Loose relaxations in low precision end a little above; the polished energy decides.
            target = stop.target + 2e-3 * self.energy_scale + 2e-6 * abs(stop.target)
        blocks = self._page
        rows = fused.group_size(self.settings.walkers)
        if stop.relaxations is not None:
            blocks = min(blocks, max(1, -(-(stop.relaxations - self.ledger.relaxations) // rows)))
        limits = fused.Limits(
            np.int32(left(stop.evaluations, self.ledger.evaluations)), np.asarray(target, self.dtype), np.int32(blocks)
        )
        with jax.enable_x64(self.dtype == np.float64):
            self.state, log, filled = self._driver.visit(self._constant, self.state, limits, LOG_BLOCKS)
            filled = int(filled)
            log = jax.tree.map(lambda a: np.asarray(a)[:filled], log)
        self.ledger.take(log, self.polish, self.clocks()[0])

    def close(self) -> None:
        """Nothing to give back."""

    def hopeless(self) -> str | None:
        """Why it makes no sense to go on, or None."""
        if self.ledger.relaxations < 200 or self.ledger.failures < self.ledger.relaxations:
            return None
        return (
            f"none of the first {self.ledger.relaxations} relaxations has a finite energy; "
            "check the potential on one structure with `thalweg check`"
        )

    def in_flight(self) -> tuple[int, int]:
        """Relaxations begun but not finished, and the evaluations spent on them: part of an honest cost."""
        running = np.asarray(self.state.lanes.status) == RUNNING
        return int(running.sum()), int(np.asarray(self.state.lanes.steps)[running].sum())

    def clocks(self) -> tuple[float, float]:
        """Wall and CPU seconds, earlier sessions included."""
        return (
            self._elapsed + time.perf_counter() - self._wall0,
            self._cpu + time.process_time() - self._cpu0,
        )

    def progress(self) -> Progress:
        """The snapshot now."""
        session = time.perf_counter() - self._wall0, time.process_time() - self._cpu0
        return self.ledger.progress(*self.clocks(), *session, self.in_flight())

    def moves(self) -> list[dict]:
        """Statistics of each generator, with its present chance where the search learns one."""
        chances = None
        probabilities = getattr(self._constant.search, "move_probabilities", None)
        if probabilities is not None:
            chances = np.asarray(probabilities(self.state.search.shared))
        lowered = getattr(self.state.search.shared, "lowered", None)
        return self.ledger.statistics(chances, None if lowered is None else np.asarray(lowered))

    def checkpoint(self) -> bytes:
        """Everything needed to go on exactly from here, besides the store's minima."""
        elapsed, cpu = self.clocks()
        return save_state(self.state, {**self.ledger.arrays(), "clocks": np.array([elapsed, cpu])})

    def restore(self, store: Store) -> None:
        """Go on from the store's last checkpoint; a run that was stopped before its first begins anew."""
        data = store.checkpoint()
        if data is None:
            return
        self.state, arrays = load_state(data, self.state)
        self.ledger.restore(store.minima(), arrays)
        self._elapsed, self._cpu = arrays["clocks"].tolist()

    def commit(self, store: Store) -> None:
        """Rows and checkpoint in one transaction."""
        archive, row = self.ledger.archive, self.ledger.row(self.progress())
        store.commit(
            minima=archive.dirty, dropped=archive.dropped, progress=row, checkpoint=self.checkpoint(), moves=self.moves()
        )
        archive.clean()


def run(
    search: Search,
    relaxation: Relaxation,
    system: System,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    stop: Stop = Stop(),  # noqa: B008
    store: Store | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    resume: bool = False,
    hosting: Hosting | None = None,
) -> Result:
    """Search until a limit of `stop` is met, or `interrupted()`; everything found is committed to `store` as it goes.

    On the device where potential and search allow it, otherwise around workers as `hosting` says. A run that is stopped and
    resumed takes the same course as one that is not. Raises `PotentialError` when no energy at all can be evaluated,
    `RunFolderError` when the store cannot be written.
    """
    session = open_session(search, relaxation, system, settings, hosting)
    try:
        if resume and store is not None:
            session.restore(store)
        now = session.progress()
        # A run that was killed after it had met a limit, and before it could say so, does not go beyond.
        reason = stop.reason(now) if resume else None
        while reason is None:
            session.visit(stop)
            if store is not None:
                session.commit(store)
            now = session.progress()
            if on_progress is not None:
                on_progress(now)
            hopeless = session.hopeless()
            if hopeless:
                raise PotentialError(hopeless)
            reason = stop.reason(now) or ("interrupted" if interrupted() else None)
        final, state = None, session.state if isinstance(session, HostSession) else None
        if settings.finish and isinstance(session, HostSession) and reason != "interrupted" and not interrupted():
            final, now = finished(session, relaxation, hosting or Hosting(), reason, store)
        return Result(session.ledger, now, reason, session.moves(), final, state)
    finally:
        session.close()


def finished(
    session: HostSession, relaxation: Relaxation, hosting: Hosting, reason: str, store: Store | None
) -> tuple[Record | None, Progress]:
    """The lowest structure relaxed after the end (`thalweg.finish`), and the snapshot with what that took."""
    final = finish(session, _hop(relaxation, session.system, session.settings), hosting, reason, store)
    now = session.progress()
    now = replace(now, evaluations=now.evaluations + sum(e.evaluations for e in session.finals))
    return final, now if final is None else replace(now, best=final.energy)


def needs_host(search: Search, potential: Potential) -> bool:
    """Whether energies are evaluated one by one: of black boxes, by searches that fit models or follow dynamics."""
    return not (potential.traceable and search.traceable) or search.needs_velocities


def open_session(
    search: Search,
    relaxation: Relaxation,
    system: System,
    settings: Settings,
    hosting: Hosting | None = None,
    workers: Callable[[], Workers] | None = None,
) -> Session | HostSession:
    """The session that suits search and potential; `workers` are others than those that `hosting` opens."""
    relaxation.relaxer.check(system.numbers, system.pbc)
    scale = energy_scale(relaxation, system)
    if not needs_host(search, relaxation.potential):
        return Session(search, relaxation, system, settings, scale)
    hosting = hosting or Hosting()
    objective = objective_of(search, relaxation, system, settings)
    usual = lambda: open_workers(hosting.executor, hosting.count, objective, hosting.timeout)
    return HostSession(search, system, settings, scale, workers or usual, hosting.order)


def objective_of(search: Search, relaxation: Relaxation, system: System, settings: Settings) -> Evaluate:
    """What workers do with a proposal of this search."""
    return Evaluate(_hop(relaxation, system, settings), soften=getattr(search, "soften", 0))


def _hop(relaxation: Relaxation, system: System, settings: Settings) -> Relaxation:
    """The relaxation of one proposal around workers."""
    bond = float(np.mean(system.bond_lengths))
    return replace(relaxation, fmax=settings.fmax * energy_scale(relaxation, system) / bond, max_steps=settings.max_steps)


def energy_scale(relaxation: Relaxation, system: System) -> float:
    """Energy of a bond, from the potential; 1 (of the potential's unit) where it does not say."""
    scale = relaxation.potential.energy_scale(np.asarray(system.numbers))
    return 1.0 if scale is None else float(scale)
