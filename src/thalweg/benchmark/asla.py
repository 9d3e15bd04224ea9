"""ASLA: agents that learn to build structures, beside controls that do not learn, by restarts at equal numbers of episodes.

Tables follow M. S. Jørgensen et al., J. Chem. Phys. 151, 054111 (2019), doi:10.1063/1.5108871, M.-P. V. Christiansen et al.,
J. Chem. Phys. 153, 044107 (2020), doi:10.1063/5.0015571, and what came of them. An episode ends with one energy, in every
method; a restart ends at its first success, judged on structures as they were evaluated. Kept restart by restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from thalweg.benchmark import asla_costs
from thalweg.benchmark.asla_restarts import parts, restart
from thalweg.benchmark.asla_systems import PROBLEMS, problem
from thalweg.benchmark.experiments import Experiment, Options, Section, Table
from thalweg.survival import Median, log_rank, median, success_curve

#: Restarts of a cell; with --quick, and their episodes then.
RESTARTS, QUICK_RESTARTS, QUICK_EPISODES = 15, 1, 10
#: [search] of the methods: without a model of the energy, with one to relax in, and choosing among several candidates by it.
PLAIN = {"kind": "asla", "surrogate": "none"}
RELAXED = {"kind": "asla", "candidates": 1}
CHOOSING = {"kind": "asla"}
UNIFORM, BLIND = ({**one, "policy": {"kind": "uniform"}} for one in (CHOOSING, PLAIN))
MOLECULES = {"asla": PLAIN, "asla-p": RELAXED, "asla-pa": CHOOSING, "uniform-pa": UNIFORM, "gofee": {"kind": "gofee"}}
#: Kernels and dilations that reach 41, 49, 49 and 33 voxels.
CONVOLUTIONS = {
    "full": {**CHOOSING, "kernel": 11, "dilation": 1},
    "dilated-2": {**CHOOSING, "kernel": 7, "dilation": 2},
    "dilated-3": {**CHOOSING, "kernel": 5, "dilation": 3},
    "dilated-4": {**CHOOSING, "kernel": 3, "dilation": 4},
    "dilated-3-plain": {**PLAIN, "kernel": 5, "dilation": 3},
    "uniform-pa": UNIFORM,
    "uniform-plain": BLIND,
}
#: How often and how much is rebuilt.
REBUILDING = {
    **{k: v for k, v in MOLECULES.items() if k != "asla"},
    "rebuild": {**CHOOSING, "rebuild": 0.5},
    "rebuild-always": {**CHOOSING, "rebuild": 1.0},
    "rebuild-of-5": {**CHOOSING, "rebuild": 0.5, "sampler": {"kind": "kernel-similarity", "count": 5}},
    "rebuild-2-3": {**CHOOSING, "rebuild": 0.5, "least_removed": 2, "most_removed": 3},
    "uniform-rebuild": {**UNIFORM, "rebuild": 0.5},
}
#: What the network sees, where one candidate is built and relaxed on a model: with more of them, the model would choose.
REPRESENTATIONS = {
    **{
        name: {**RELAXED, "representation": own}
        for name, own in {
            "one-hot": {"kind": "one-hot"},
            "gaussian-0.2": {"kind": "gaussian", "width": 0.2},
            "gaussian-0.4": {"kind": "gaussian", "width": 0.4},
            "gaussian-0.8": {"kind": "gaussian", "width": 0.8},
            "gaussian-0.4-bias": {"kind": "gaussian", "width": 0.4, "bias": 0.1},
            "gaussian-0.4-negative": {"kind": "gaussian", "width": 0.4, "bias": -0.1},
            "automatic": {"kind": "automatic-gaussian"},
            "displaced": {"kind": "displaced"},
            "circular": {"kind": "circular-harmonics"},
        }.items()
    },
    "uniform": {**RELAXED, "policy": {"kind": "uniform"}},
    "plain": {**PLAIN, "representation": {"kind": "gaussian", "width": 0.4}},
    "gofee": MOLECULES["gofee"],
}
#: Where most atoms are given: what is built has to fit in between.
BETWEEN = {
    **{k: REPRESENTATIONS[k] for k in ("one-hot", "gaussian-0.4", "uniform", "gofee")},
    "asla-pa": CHOOSING,
    "uniform-pa": UNIFORM,
}
#: An agent that learned elsewhere, one that did not, and a control that does not learn.
CONTROLLED = {
    "asla-pa": CHOOSING,
    "transferred-pa": CHOOSING,
    "uniform-pa": UNIFORM,
    "asla-p": RELAXED,
    "transferred-p": RELAXED,
    "asla": PLAIN,
    "transferred": PLAIN,
    "uniform": BLIND,
}
ADATOMS = {"asla": PLAIN, "uniform": BLIND, "asla-pa": CHOOSING, "uniform-pa": UNIFORM}
LOOKING = {
    "asla-pa": CHOOSING,
    **{
        # From the start: half of the restarts succeed before the tree would grow by default.
        f"mcts-{name}": {**CHOOSING, "tree": {"kind": "tree-search", "completion": name, "first_episode": 20}}
        for name in ("far-away", "uniform", "greedy")
    },
    "uniform-pa": UNIFORM,
    "gofee": MOLECULES["gofee"],
}
#: Of what an agent that is taken elsewhere learned before, and for how many episodes.
LEARNED_ON = {
    "surface-2": ("surface", {"transferred": 500, "transferred-pa": 150, "transferred-p": 150}),
    "graphene": ("graphene-12", {"transferred": 500, "transferred-pa": 60, "transferred-p": 60}),
}


@dataclass(frozen=True)
class Restarts:
    """The restarts of one cell: successes (n,), episodes and CPU seconds (n,) until then or until stopped."""

    method: str
    hits: np.ndarray
    spent: np.ndarray
    seconds: np.ndarray
    rows: tuple[Mapping, ...]

    @property
    def n50(self) -> Median:
        """Episodes at which half of all restarts succeed."""
        return median(success_curve(self.hits, self.spent), self.spent)

    @property
    def n50_seconds(self) -> Median:
        """The same in CPU seconds."""
        return median(success_curve(self.hits, self.seconds), self.seconds)

    def success(self, episodes: float) -> str:
        """Share of successes after so many episodes, with bounds."""
        value, low, high = success_curve(self.hits, self.spent).at(episodes)
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def restarts_of(rows: Sequence[Mapping]) -> Restarts:
    """The restarts of rows of one method."""
    return Restarts(
        rows[0]["method"],
        np.array([r["first"] is not None for r in rows]),
        np.array([r["episodes"] if r["first"] is None else r["first"] for r in rows], float),
        np.array([r["cpu_seconds"] for r in rows], float),
        tuple(rows),
    )


def cells(rows: Sequence[Mapping]) -> Iterator[tuple[str, list[Restarts]]]:
    """Systems, and the restarts of each of their methods."""
    for system, group in groupby(rows, key=lambda r: r["system"]):
        yield system, [restarts_of(list(g)) for _, g in groupby(group, key=lambda r: r["method"])]


def settings_for(searches: Mapping[str, Mapping]) -> Callable[[str, str, Options], dict]:
    """What cells of these methods are run with."""

    def settings(system: str, method: str, options: Options) -> dict:
        episodes = QUICK_EPISODES if options.quick else problem(system).budget
        own = dict(searches[method])
        if own["kind"] == "asla":
            own.setdefault("spacing", problem(system).spacing)
        made = {
            "count": options.count or (QUICK_RESTARTS if options.quick else RESTARTS),
            "evaluations": options.evaluations or episodes,
            "seed": options.seed,
            "horizon": None,
            "search": own,
        }
        if method.startswith("transferred"):
            elsewhere, learned = LEARNED_ON[system]
            made["agent"] = {"system": elsewhere, "episodes": options.horizon or learned[method], "seed": options.seed}
        return made

    return settings


def measure(settings: dict, note: Callable[[str], None]) -> dict:
    """One restart."""
    row = restart(settings)
    said = f"found in episode {row['first']}" if row["first"] is not None else f"not found in {row['episodes']} episodes"
    note(f"  {said}, {row['cpu_seconds']:.1f} CPU-s")
    return row


HEAD = ("method", "found", "success", "n50, episodes", "n50, CPU-s", "CPU-s per episode", "log-rank p")


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Successes with Kaplan-Meier bounds, medians, and the log-rank test of every method against the first."""
    made = []
    for system, methods in cells(rows):
        budget = max(float(r["evaluations"]) for m in methods for r in m.rows)
        lines = [_line(m, methods[0], budget) for m in methods]
        seeds = sorted({r["seed"] for m in methods for r in m.rows})
        known = PROBLEMS.get(system)
        title = f"{system}: {'' if known is None else known.what + '; '}success after {budget:,.0f} episodes"
        failed = sum(r["failed"] for m in methods for r in m.rows)
        notes = [f"seeds {seeds[0]} to {seeds[-1]}; the first restart of a method compiles, which its CPU seconds hold"] + (
            [f"{failed} episodes ended without an energy"] if failed else []
        )
        taught = {m.method: m.rows[0]["agent"] for m in methods if m.rows[0].get("agent")}
        notes += [
            f"{k}: the agent learned from {a['episodes']} episodes of {a['system']} before, which are not counted"
            for k, a in taught.items()
        ]
        notes += [f"published: {said}" for said in (known.published if known else ())]
        made.append(Section(title, HEAD, tuple(lines), tuple(notes)))
    return made


def _line(own: Restarts, first: Restarts, budget: float) -> tuple[str, ...]:
    said = "(first)"
    if own is not first:
        test = log_rank(first.hits, first.spent, own.hits, own.spent)
        ahead = {"first": first.method, "second": own.method, None: ""}[test.ahead]
        said = f"{test.p:.2g}" + (f", {ahead} ahead" if test.p < 0.05 and ahead else "")
    per_episode = own.seconds.sum() / max(sum(r["episodes"] for r in own.rows), 1)
    return (
        own.method, f"{int(own.hits.sum())} of {len(own.hits)}", own.success(budget), str(own.n50), str(own.n50_seconds),
        f"{per_episode:.3f}", said,
    )  # fmt: skip


def _table(name: str, what: str, systems: tuple[str, ...], searches: Mapping[str, Mapping], quick: bool = False) -> Table:
    """A table of restarts."""
    return Table(
        name, what, systems, tuple(searches), settings_for(searches), measure, sections, systems[:1] if quick else (),
        parts=parts,
    )  # fmt: skip


TABLES = (
    _table("benzene", "benzene without and with a model of the energy, beside controls", ("benzene",), MOLECULES, True),
    _table("aniline", "aniline with structures rebuilt in part", ("aniline",), REBUILDING),
    _table("graphene", "how atoms are shown to the network", ("graphene", "graphene-12", "graphene-xtb"), REPRESENTATIONS),
    _table("boundary", "between two sheets of graphene that are turned", ("grain-boundary",), BETWEEN),
    _table("clusters", "an alloy in 3D by full and dilated convolutions", ("ni4au5",), CONVOLUTIONS),
    _table("surface", "adatoms of two metals on a third", ("surface",), ADATOMS),
    _table("transfer", "a cell twice as large, begun with an agent of the small one", ("surface-2", "graphene"), CONTROLLED),
    _table("mcts", "looking ahead in a tree while building", ("carbamic-acid",), LOOKING),
    asla_costs.COSTS,
    asla_costs.COSTS_3D,
    asla_costs.KNOWN,
)
EXPERIMENT = Experiment("asla", "ASLA: structures built atom by atom (doi:10.1063/1.5108871, doi:10.1063/5.0015571)", TABLES)
