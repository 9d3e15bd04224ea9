"""Restarts of agents that build structures: from one seed to the first success or the end of the budget, in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.benchmark.asla_systems import Problem, problem, replace_positions
from thalweg.benchmark.experiments import Skipped
from thalweg.errors import PotentialError
from thalweg.host import HostSession
from thalweg.outcomes import structure_of
from thalweg.run import open_session, run
from thalweg.settings import Stop


class Watch:
    """Sees every structure that a session commits as evaluated, in place of a store, and knows the first success.

    `first` is its episode, counted from 1; `episodes` are those told so far, `evaluating` the seconds of their energies.
    """

    def __init__(self, of: Problem, system, judged: bool = True):
        self.of, self.system, self.judged = of, system, judged
        self.first: int | None = None
        self.episodes = self.failed = 0
        self.lowest, self.evaluating = np.inf, 0.0

    def commit(self, evaluations=(), **_rest) -> None:
        """Take in what was told since the last time; a store would write it."""
        for entry in sorted((e for e in evaluations if e.batch is not None), key=lambda e: e.batch):
            if self.first is None:
                self._take(entry)

    def _take(self, entry) -> None:
        self.episodes += 1
        self.evaluating += entry.seconds
        if entry.error is not None or entry.points is None:
            self.failed += 1
            return
        self.lowest = min(self.lowest, entry.energy)
        if self.judged:
            structure = replace_positions(structure_of(entry, self.system), entry.point_positions[-1])
            if self.of.reached(structure, entry.energy):
                self.first = self.episodes


def ended(of: Problem, search: Mapping, episodes: int, seed: int, judged: bool = True) -> tuple[HostSession, Watch, float]:
    """A session run to its first success (where that is `judged`) or to so many episodes, and its CPU seconds."""
    made = of.resolved(search, episodes, seed)
    if judged:
        _ = of.known.energy  # not on this restart's clock
    watch, begun = Watch(of, made.system, judged), time.process_time()
    session = open_session(made.search, made.relaxation, made.system, made.settings, made.hosting)
    assert isinstance(session, HostSession)
    try:
        while watch.first is None and watch.episodes < episodes:
            session.visit(Stop(relaxations=episodes))
            session.commit(watch)  # type: ignore[arg-type]
    finally:
        session.close()
    return session, watch, time.process_time() - begun


def restart(settings: Mapping, judged: bool = True) -> dict:
    """What became of one restart: `first`, the episode of its success or None, episodes, CPU seconds and lowest energy (eV)."""
    of, search = problem(settings["system"]), dict(settings["search"])
    if not settings.get("agent"):
        session, watch, spent = ended(of, search, settings["evaluations"], settings["seed"], judged)
        return _row(session, watch, spent)
    learned = settings["agent"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.json"
        path.write_text(trained(learned["system"], learned["episodes"], learned["seed"]), encoding="utf-8")
        session, watch, spent = ended(of, {**search, "agent": str(path)}, settings["evaluations"], settings["seed"], judged)
    return _row(session, watch, spent)


def _row(session: HostSession, watch: Watch, spent: float) -> dict:
    shares: Any = getattr(session.search, "seconds", None)
    return {
        "first": watch.first,
        "episodes": watch.episodes,
        "failed": watch.failed,
        "lowest": round(float(watch.lowest), 4) if np.isfinite(watch.lowest) else None,
        "cpu_seconds": round(spent, 3),
        "evaluating": round(watch.evaluating, 3),
        "shares": {k: round(float(v), 3) for k, v in (shares or {}).items()},
    }


def lowest(settings: Mapping) -> dict:
    """The lowest minimum that basin hopping finds within so many evaluations: where the known structures come from."""
    of, begun = problem(settings["system"]), time.process_time()
    made = of.resolved(settings["search"], settings["evaluations"], settings["seed"], max_steps=200)
    result = run(made.search, made.relaxation, made.system, made.settings, made.stop, hosting=made.hosting)
    if result.best is None:
        raise PotentialError(f"basin hopping found no minimum of {of.name}")
    return {
        "energy": round(float(result.best.energy), 5),
        "known": round(of.known.energy, 5) if of.is_known else None,
        "positions": np.round(result.best.positions, 5).tolist(),
        "cpu_seconds": round(time.process_time() - begun, 2),
    }


@lru_cache(maxsize=4)
def trained(system: str, episodes: int, seed: int) -> str:
    """The agent, as a file's text, after so many episodes of a search of another system, successes or not."""
    session, _, _ = ended(problem(system), {"kind": "asla"}, episodes, seed, judged=False)
    products = getattr(session.search, "products", None)
    if products is None:
        raise Skipped("this search keeps no agents")
    return products(session.state, session.system)["agent.json"]
