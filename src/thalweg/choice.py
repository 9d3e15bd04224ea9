"""Which search suits a system: what cannot work on it, and what an energy has to cost before a model of it pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np

from thalweg import prng
from thalweg.errors import InputError, ThalwegError
from thalweg.objective.base import Evaluated, Task, Workers
from thalweg.objective.evaluate import Evaluate
from thalweg.objective.workers import open_workers
from thalweg.potentials.base import Potential
from thalweg.potentials.black_box import BlackBox, takes_programs
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.annealing import Annealing
from thalweg.relax.driver import Relaxation
from thalweg.relax.learn2hop import Learn2Hop
from thalweg.relax.learned_annealing import LearnedAnnealing
from thalweg.relax.strider import Strider
from thalweg.search.base import ModelSearch, Search
from thalweg.settings import Hosting, Settings
from thalweg.structure import Structure
from thalweg.system import System

#: From this many seconds of one energy on GOFEE takes less time than basin hopping, for so many atoms. It needs a seventeenth
#: to a twentieth of the evaluations (medians on Ni4Au5 and C6H6, docs/how-to-choose.md), and its proposals cost driver time
#: that grows with the square of the number of atoms.
PAYS, ATOMS = 2e-3, 9
#: The least of several measurements counts: the first one prepares things, and others share the machine. They end after so
#: many seconds together, or so many; what takes longer than the third (s) is measured once.
QUICK, TIMES, PATIENCE = 0.3, 50, 20.0
#: Starts that are tried until one has an energy.
STARTS = 3


@dataclass(frozen=True)
class Choice:
    """The `kind` of search that suits, and `why`, as the end of a line that begins with the kind."""

    kind: str
    why: str


def pays_from(n_atoms: int) -> float:
    """Seconds of one energy from which a model that chooses what to evaluate takes less time than hops do."""
    return PAYS * (max(n_atoms, ATOMS) / ATOMS) ** 2


def usual(potential: Potential, moves_cell: bool) -> str:
    """The kind of search that suits where nothing is known of what an energy costs."""
    return "basin-hopping" if potential.traceable or moves_cell else "gofee"


def check(kind: str, search: Search, relaxer: type, potential: Potential, system: System, moves_cell: bool = False) -> None:
    """Raise `InputError` where a search or the class of its relaxer makes no sense for a system, with what does."""
    learned = issubclass(relaxer, (Strider, Adaptation, Learn2Hop, LearnedAnnealing))
    if system.variables is not None and (isinstance(search, ModelSearch) or learned):
        raise InputError(
            f"{kind} looks at how atoms lie about each other, and the variables of a function are no atoms; use --method "
            "basin-hopping, or `thalweg minimize`"
        )
    if moves_cell and (learned or search.dynamic or issubclass(relaxer, Annealing)):
        raise InputError(
            f"{kind} moves atoms in a cell that stays, and the filter moves the cell; leave the filter out, or use --method "
            "basin-hopping"
        )
    if potential.traceable:
        return
    if search.dynamic:
        raise InputError(
            f"{kind} follows dynamics in compiled programs, and {_called(potential)} is a calculator; use --method "
            "minima-hopping or tempered-hopping"
        )
    if issubclass(relaxer, (Strider, Adaptation)):
        raise InputError(
            f"{kind} reads the energies of atoms, and {_called(potential)} is a calculator, which has none; use --method gofee "
            "or basin-hopping"
        )


def choose(
    search: Search, relaxation: Relaxation, system: System, settings: Settings, hosting: Hosting | None, wanders: bool = False
) -> Choice:
    """The kind of search for this system where none was asked for; `search` is the usual one, and `wanders` its relaxer.

    Around a calculator one energy is measured, of the first start that has one, by workers such as those of the search. The
    kind does not depend on anything random, but near the crossover on how busy the machine is.
    """
    potential, n_atoms = relaxation.potential, len(system.numbers)
    if wanders:
        return Choice("annealing", "its relaxer leaves the basin it begins in; --method basin-hopping is the other choice")
    if potential.traceable:
        return Choice("basin-hopping", "energies are compiled with it and cost less than a model of them")
    if relaxation.filter.moves_cell:
        return Choice("basin-hopping", "the cell moves, which the models of gofee do not learn from")
    if takes_programs(potential):
        return Choice("gofee", f"energies of {_called(potential)} are dear, and it needs the fewest; {_other('basin-hopping')}")
    seconds, trouble = measured(search, relaxation, system, settings, hosting or Hosting())
    if seconds is None:
        return Choice("gofee", f"what an energy costs is not known ({trouble}), and it needs the fewest")
    at_once = 1 if hosting is None else max(hosting.count, 1)
    return decided(seconds, n_atoms, at_once)


def decided(seconds: float, n_atoms: int, at_once: int = 1) -> Choice:
    """The kind for an energy of so many seconds, `at_once` of which are evaluated side by side: a model has one driver."""
    limit = pays_from(n_atoms) * at_once
    side = f" of {at_once} at once" if at_once > 1 else ""
    cost = f"one energy{side} takes {_seconds(seconds)}"
    model = f"for {n_atoms} atoms a model pays from about {_seconds(limit)}"
    if seconds >= limit:
        return Choice("gofee", f"{cost}, and {model}; {_other('basin-hopping')}")
    return Choice("basin-hopping", f"{cost}, and {model}; {_other('gofee')}")


def measured(
    search: Search, relaxation: Relaxation, system: System, settings: Settings, hosting: Hosting
) -> tuple[float | None, str]:
    """Seconds of one energy and its forces; None, and why, where no start has one. Failures end nothing."""
    try:
        starts = _starts(search, system, settings)
        count = hosting.count if hosting.executor.startswith("dask://") else 1
        workers = open_workers(hosting.executor, count, Evaluate(replace(relaxation, max_steps=1)), hosting.timeout)
    except ThalwegError as error:
        return None, str(error)
    try:
        return _measured(workers, starts)
    finally:
        workers.close()


def _measured(workers: Workers, starts: list[Structure], clock: Callable[[], float] = time.perf_counter):
    trouble = "there is no start"
    for k, start in enumerate(starts):
        least, together = np.inf, 0.0
        for again in range(TIMES):
            begun = clock()
            try:
                found: Evaluated = workers.submit(Task(TIMES * k + again, start, -np.inf)).result()
            except Exception as error:  # of the executor: the search itself will say more
                return None, (str(error).strip().splitlines() or [type(error).__name__])[0]
            spent, trouble = clock() - begun, found.error
            if trouble is not None:
                break
            least, together = min(least, spent), together + (spent if again else 0.0)
            if spent > PATIENCE or together > QUICK:
                break
        if trouble is None:
            return float(least), ""
    return None, f"{trouble}"


def _starts(search: Search, system: System, settings: Settings) -> list[Structure]:
    """The first starts of the search, as its first walkers propose them."""
    with jax.enable_x64(True):
        state = search.init(system, max(STARTS, getattr(search, "rungs", 1)), np.dtype(np.float64))
        structures = search.ask(prng.key(settings.seed), state, system).structures
        structures = jax.tree.map(np.asarray, structures)
    return [structures[k] for k in range(STARTS)]


def _called(potential: Potential) -> str:
    return potential.name if isinstance(potential, BlackBox) else type(potential).__name__


def _other(kind: str) -> str:
    return f"--method {kind} is the other choice"


def _seconds(value: float) -> str:
    """0.3 ms, 12 ms, 0.9 s, 40 s."""
    return f"{1e3 * value:.2g} ms" if value < 0.0995 else f"{value:.2g} s" if value < 9.95 else f"{value:,.0f} s"
