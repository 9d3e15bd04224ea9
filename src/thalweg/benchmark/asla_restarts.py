"""Restarts of agents that build structures: from one seed to the first success or the end of the budget, in this process."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from thalweg.benchmark.asla_systems import Problem, problem, replace_positions
from thalweg.host import HostSession
from thalweg.outcomes import structure_of
from thalweg.run import open_session
from thalweg.search.asla import Asla
from thalweg.settings import Stop


class Watch:
    """Sees every structure that a session commits as evaluated, in place of a store, and knows the first success.

    `first` is its episode, counted from 1; `episodes` are those told so far, `failed` those without an energy, `lowest` the
    lowest energy (eV), and `judging` the CPU seconds that it took to look.
    """

    def __init__(self, of: Problem, system, judged: bool = True):
        self.of, self.system, self.judged = of, system, judged
        self.first: int | None = None
        self.episodes = self.failed = 0
        self.lowest, self.judging = np.inf, 0.0

    def commit(self, evaluations=(), **_rest) -> None:
        """Take in what was told since the last time; a store would write it."""
        for entry in sorted((e for e in evaluations if e.batch is not None), key=lambda e: e.batch):
            if self.first is None:
                self._take(entry)

    def _take(self, entry) -> None:
        self.episodes += 1
        if entry.error is not None or entry.points is None:
            self.failed += 1
            return
        self.lowest = min(self.lowest, entry.energy)
        if self.judged:
            start = time.process_time()
            structure = replace_positions(structure_of(entry, self.system), entry.point_positions[-1])
            if self.of.reached(structure, entry.energy):
                self.first = self.episodes
            self.judging += time.process_time() - start


def parts(settings: dict) -> list[dict]:
    """The settings of a cell as those of its restarts, one row each."""
    first = settings["seed"]
    return [{**settings, "count": 1, "seed": seed} for seed in range(first, first + settings["count"])]


def begun(of: Problem, search: Mapping, seed: int, judged: bool = True) -> tuple[HostSession, Watch]:
    """A session that has done nothing yet, and who watches it."""
    made = of.resolved(search, seed=seed)
    session = open_session(made.search, made.relaxation, made.system, made.settings, made.hosting)
    assert isinstance(session, HostSession)  # of calculators and of searches that fit models, which these are
    return session, Watch(of, made.system, judged)


def ended(of: Problem, search: Mapping, episodes: int, seed: int, judged: bool = True) -> tuple[HostSession, Watch, float]:
    """A session run to its first success (where that is `judged`) or to so many episodes, and its CPU seconds."""
    if judged:
        _ = of.known.energy  # not on this restart's clock
    start = time.process_time()
    session, watch = begun(of, search, seed, judged)
    try:
        while watch.first is None and watch.episodes < episodes:
            session.visit(Stop(relaxations=episodes))
            session.commit(watch)  # type: ignore[arg-type]
    finally:
        session.close()
    return session, watch, time.process_time() - start - watch.judging


def restart(settings: Mapping, judged: bool = True) -> dict:
    """What became of one restart: `first`, the episode of its success or None, episodes, CPU seconds and lowest energy (eV)."""
    of, search = problem(settings["system"]), dict(settings["search"])
    if not settings.get("agent"):
        _, watch, spent = ended(of, search, settings["evaluations"], settings["seed"], judged)
        return _row(watch, spent)
    learned = settings["agent"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.json"
        path.write_text(trained(learned["system"], json.dumps(search), learned["episodes"], learned["seed"]), encoding="utf-8")
        _, watch, spent = ended(of, {**search, "agent": str(path)}, settings["evaluations"], settings["seed"], judged)
    return _row(watch, spent)


def _row(watch: Watch, spent: float) -> dict:
    return {
        "first": watch.first,
        "episodes": watch.episodes,
        "failed": watch.failed,
        "lowest": round(float(watch.lowest), 4) if np.isfinite(watch.lowest) else None,
        "cpu_seconds": round(spent, 3),
    }


@lru_cache(maxsize=4)
def trained(system: str, search: str, episodes: int, seed: int) -> str:
    """The agent, as a file's text, after so many episodes of the same search (JSON) of another system, successes or not."""
    of = problem(system)
    session, _, _ = ended(of, {**json.loads(search), "spacing": of.spacing}, episodes, seed, judged=False)
    assert isinstance(session.search, Asla)
    return session.search.products(session.state, session.system)["agent.json"]
