"""`Ledger`: what a run has counted and found, taken from the device's logs."""

from __future__ import annotations

import io
from dataclasses import replace

import jax
import numpy as np

from thalweg.archive import Archive
from thalweg.confidence import probability_lower_remains
from thalweg.errors import InputError
from thalweg.relax.base import FAILED
from thalweg.relax.driver import Relaxation, Relaxed, relax
from thalweg.search.fused import Finished
from thalweg.settings import Progress
from thalweg.store import Record
from thalweg.structure import pad
from thalweg.system import System
from thalweg.typing import PyTree

#: Structures polished after one visit at most.
POLISHED = 32


class Ledger:
    """Counts evaluations and relaxations, polishes and archives low minima, and keeps the outcome of independent runs.

    The outcome of a run (one walker from one start until it gives up) is its lowest energy. Runs that still go on
    are not counted: a run that hits the best goes on for a while, one that fails ends early.
    """

    def __init__(self, system: System, origins: tuple[str, ...], keep: int, energy_scale: float, n_slots: int):
        self.system, self.origins, self.energy_scale = system, origins, energy_scale
        self.n_slots = n_slots
        bond = float(np.mean(system.bond_lengths))
        self.archive = Archive(
            system.numbers, keep, energy_scale, bond, cell=system.cell, pbc=system.pbc, fixed=system.fixed,
            variables=system.variables,
        )  # fmt: skip
        self.evaluations = self.relaxations = self.failures = 0
        self._counts = np.zeros((len(origins), 3), np.int64)  # per generator: relaxations, evaluations, new best
        self._going: dict[int, tuple[int, float]] = {}  # walker -> its run and that run's lowest energy
        self._ended: list[float] = []  # lowest energy of each run that ended
        #: (evaluations, relaxations, energy) at each fall of the lowest energy within the last page.
        self.trace: list[tuple[int, int, float]] = []

    def take(self, log: Finished, polish: Relaxation | None, seconds: float) -> None:
        """Enter what finished, in order. Without `polish` structures are archived as they are."""
        valid = log.valid.ravel()
        present = {name: np.asarray(value) for name, value in vars(log).items() if value is not None}  # no cells where fixed
        flat = {name: value.reshape(-1, *value.shape[2:])[valid] for name, value in present.items()}
        if not len(flat["energy"]):
            return
        flat["positions"] = flat["positions"][:, : len(self.system.numbers)]
        counted = self.evaluations + np.cumsum(flat["steps"], dtype=np.int64)
        good = np.isfinite(flat["energy"]) & (flat["status"] != FAILED)
        if "cells" in flat:
            good &= _voluminous(flat["cells"])
        self.evaluations = int(counted[-1])
        self.relaxations += len(good)
        self.failures += int((~good).sum())
        for column, amount in ((0, 1), (1, flat["steps"])):
            np.add.at(self._counts[:, column], flat["origin"], amount)
        self._follow_runs(flat, good)
        self._trace(flat, good, counted)
        self._enter(flat, good, counted, polish, seconds)

    def _trace(self, flat, good, counted) -> None:
        """Where within this page the lowest energy fell (as loosely relaxed; what is archived is polished)."""
        known = self.archive.best.energy if self.archive.best else np.inf
        energy = np.where(good, flat["energy"].astype(np.float64), np.inf)
        lowest = np.minimum.accumulate(energy)
        before = np.minimum(np.concatenate([[np.inf], lowest[:-1]]), known - 1e-3 * self.energy_scale)
        falls = np.flatnonzero(lowest < before)
        first = self.relaxations - len(good) + 1
        self.trace = [(int(counted[k]), first + int(k), float(lowest[k])) for k in falls]

    def _enter(self, flat, good, counted, polish: Relaxation | None, seconds: float) -> None:
        """Count hits of known minima; polish and archive what is new and low."""
        margin = 1e-3 * self.energy_scale
        before = self.archive.best
        low = np.flatnonzero(good & (flat["energy"] <= self.archive.threshold + margin))
        known = lambda rows: self.archive.known(flat["energy"][rows], flat["positions"][rows], _cells(flat, rows))
        ids = known(low)
        seen = low[ids >= 0]
        self.archive.hit(ids[ids >= 0], flat["walker"][seen], flat["run"][seen])
        # Only the lowest new ones: at first nearly everything is new and low, and what is left out comes again.
        new = low[ids < 0]
        new = new[np.argsort(flat["energy"][new], kind="stable")]
        # Of those that end at nearly one energy the first stands for all, or one minimum would take all the places.
        apart = np.diff(flat["energy"][new], prepend=-np.inf) > margin / 2
        if polish is None:
            self._archive(new[apart], flat, flat["energy"][new[apart]], flat["positions"][new[apart]], counted, seconds)
        else:
            self._polish(new[apart][:POLISHED], flat, counted, polish, seconds)
        others = np.sort(new[~apart])
        ids = known(others)
        self.archive.hit(ids, flat["walker"][others], flat["run"][others])
        best = self.archive.best
        if best is not None and (before is None or best.energy < before.energy - margin):
            self._counts[self.origins.index(best.origin), 2] += 1

    def _polish(self, rows, flat, counted, polish: Relaxation, seconds: float) -> None:
        """Relax these tightly in float64 and archive them."""
        cells = _cells(flat, rows)
        if cells is not None:
            rows = rows[[self._summable(cell, polish) for cell in cells]]
            cells = _cells(flat, rows)
        if not len(rows):
            return
        structures = self.system.structure(flat["positions"][rows])
        if cells is not None:
            structures = replace(structures, cell=cells.astype(np.float64))
        # Padded like the search, so that a sweep over sizes compiles no more programs here than there.
        structures = pad(structures, self.n_slots)
        done = relax(structures, polish, n_lanes=POLISHED)
        # A polish that does not converge would enter an energy that is not a minimum's. But functions may have minima at
        # kinks, where no force vanishes: there the lower end stands for what it is.
        kept = done.converged & np.isfinite(done.energy)
        if self.system.variables is not None:
            begun = relax(structures, replace(polish, max_steps=1), n_lanes=POLISHED)
            done = lower(begun, done)
            kept = np.isfinite(done.energy)
        self.evaluations += int(done.steps.sum())
        cells = None if cells is None else np.asarray(done.structures.cell)[kept]
        positions = np.asarray(done.structures.positions)[kept, : len(self.system.numbers)]
        self._archive(rows[kept], flat, done.energy[kept], positions, counted, seconds, cells)

    def _archive(self, rows, flat, energy, positions, counted, seconds: float, cells=None) -> None:
        names = [self.origins[k] for k in flat["origin"][rows]]
        walkers, runs = flat["walker"][rows], flat["run"][rows]
        cells = _cells(flat, rows) if cells is None else cells
        self.archive.add(energy, positions, walkers, runs, names, counted[rows], seconds, cells)

    def _summable(self, cell, polish: Relaxation) -> bool:
        """Whether the potential can be summed in a cell that a search moved; one that collapsed ends nobody's run."""
        try:
            polish.space(cell, self.system.pbc)
        except InputError:
            return False
        return True

    def _follow_runs(self, flat, good) -> None:
        """Update the lowest energy of each walker's run; a record of the next run ends the one before."""
        energy = np.where(good, flat["energy"].astype(np.float64), np.inf)
        order = np.lexsort((flat["run"], flat["walker"]))
        walker, run, energy = flat["walker"][order], flat["run"][order], energy[order]
        first = np.flatnonzero(np.r_[True, (np.diff(walker) != 0) | (np.diff(run) != 0)])
        for w, r, e in zip(walker[first], run[first], np.minimum.reduceat(energy, first), strict=True):
            before_run, before = self._going.get(int(w), (int(r), np.inf))
            if r < before_run:  # late: walkers that share a run were still at it when it ended
                continue
            if before_run != r:
                self._ended.append(before)
                before = np.inf
            self._going[int(w)] = (int(r), min(before, float(e)))

    @property
    def n_runs(self) -> int:
        """Independent runs that ended."""
        return len(self._ended)

    def run_hits(self) -> int:
        """Runs that ended with the best minimum as their lowest."""
        best = self.archive.best
        if best is None:
            return 0
        near = 1e-3 * self.energy_scale + 2e-6 * abs(best.energy)
        return int((np.asarray(self._ended) <= best.energy + near).sum())

    def lower_remains(self) -> float:
        """Probability that a lower minimum remains (`thalweg.confidence`)."""
        return probability_lower_remains(self.n_runs, self.run_hits())

    def progress(self, elapsed, cpu, session, session_cpu, in_flight: tuple[int, int]) -> Progress:
        """A snapshot at these clocks (s)."""
        best = self.archive.best
        return Progress(
            elapsed=elapsed,
            session=session,
            session_cpu=session_cpu,
            cpu_seconds=cpu,
            evaluations=self.evaluations,
            relaxations=self.relaxations,
            best=best.energy if best else np.inf,
            hits=best.hits if best else 0,
            independent_hits=best.independent_hits if best else 0,
            distinct=len(self.archive),
            in_flight=in_flight,
            runs=self.n_runs,
            run_hits=self.run_hits(),
            lower_remains=self.lower_remains(),
        )

    def row(self, now: Progress) -> dict:
        """The snapshot as a row of the store's progress, with the trace of the last page."""
        row = {k: v for k, v in vars(now).items() if k not in ("session", "session_cpu", "in_flight")}
        return {**row, "best": now.best if np.isfinite(now.best) else None, "trace": self.trace}

    def statistics(self, chances: np.ndarray | None, lowered: np.ndarray | None) -> list[dict]:
        """One row per generator: relaxations, evaluations, new bests, lowered walkers, its present chance."""
        at = lambda values, k: None if values is None or k >= len(values) else values[k].item()
        rows = []
        for k, name in enumerate(self.origins):
            n, evaluations, best = self._counts[k].tolist()
            row = {"name": name, "trials": n, "evaluations": evaluations, "new_best": best}
            rows.append({**row, "lowered": at(lowered, k), "chance": at(chances, k)})
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """The ledger besides the archive's records, for a checkpoint."""
        going = [(w, r, e) for w, (r, e) in self._going.items()]
        return {
            "counts": self._counts,
            "totals": np.array([self.evaluations, self.relaxations, self.failures]),
            "going": np.array(going, np.float64).reshape(-1, 3),
            "ended": np.array(self._ended, np.float64),
            **{f"archive_{k}": v for k, v in self.archive.state().items()},
        }

    def restore(self, minima: list[Record], arrays: dict[str, np.ndarray]) -> None:
        """The ledger as it was when `arrays` were saved with these minima."""
        self.archive.restore(minima, {k.removeprefix("archive_"): v for k, v in arrays.items() if k.startswith("archive_")})
        self._counts = arrays["counts"]
        self.evaluations, self.relaxations, self.failures = arrays["totals"].tolist()
        self._going = {int(w): (int(r), float(e)) for w, r, e in arrays["going"]}
        self._ended = arrays["ended"].tolist()


def _cells(flat, rows) -> np.ndarray | None:
    """Cells (k, 3, 3) of finished relaxations where the search moves the cell, else None."""
    return flat["cells"][rows] if "cells" in flat else None


def lower(one: Relaxed, other: Relaxed) -> Relaxed:
    """Of two batches of relaxations of the same structures, in fixed cells, the lower one of each."""
    first = ~(other.energy <= one.energy)
    each = lambda name: np.where(first, getattr(one, name), getattr(other, name))
    x = np.where(first[:, None, None], one.structures.positions, other.structures.positions)
    structures = replace(other.structures, positions=x)
    return Relaxed(structures, each("energy"), each("fmax"), one.steps + other.steps, each("status"))


def _voluminous(cells: np.ndarray) -> np.ndarray:
    """True (k,) for cells that are finite and not flat; a search that moves them may leave others behind."""
    known = np.where(np.isfinite(cells), cells, 0).astype(np.float64)
    lengths = np.linalg.norm(known, axis=-1).prod(-1)
    return np.isfinite(cells).all((1, 2)) & (np.abs(np.linalg.det(known)) > 1e-3 * np.maximum(lengths, 1e-30))


def save_state(state: PyTree, arrays: dict[str, np.ndarray]) -> bytes:
    """The state of a search and named arrays as the bytes of a NumPy archive."""
    leaves = {f"leaf_{k}": np.asarray(a) for k, a in enumerate(jax.tree.leaves(state))}
    buffer = io.BytesIO()
    np.savez(buffer, **leaves, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load_state(data: bytes, like: PyTree) -> tuple[PyTree, dict[str, np.ndarray]]:
    """The inverse of `save_state`, with the tree structure of `like`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        arrays = {k: saved[k] for k in saved.files}
    leaves, tree = jax.tree.flatten(like)
    state = jax.tree.unflatten(tree, [arrays.pop(f"leaf_{k}") for k in range(len(leaves))])
    return state, arrays
