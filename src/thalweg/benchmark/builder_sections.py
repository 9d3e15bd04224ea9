"""What `thalweg reproduce builder` prints of restarts: every stoichiometry, and what those with known isomers say together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from thalweg.benchmark.builder_restarts import atoms_of
from thalweg.benchmark.experiments import Section

#: How counts are written, and seconds.
COUNT = ".0f"
#: Methods whose difference is tested: the second against the first.
TESTED = ("imitation", "reinforced")
PUBLISHED = (
    "published (another set and another method): 1769 of 1850 known isomers found again with learning and 1649 without, 15.6 % "
    "more molecules, the lowest .04 eV/atom below that of the set on average"
)
HEAD = (
    "method", "restarts", "found again", "by all restarts", "constitutions", "novel", "above the lowest known, eV/atom",
    "one molecule", "failed", "CPU-s", "in equal CPU-s",
)  # fmt: skip
TOGETHER = (
    "method", "restarts", "found again", "of", "by all restarts", "isomers", "novel", "above the lowest known, eV/atom",
    "lower than known", "CPU-s",
)  # fmt: skip


def sections(rows: Sequence[Mapping]) -> list[Section]:
    """Every stoichiometry, then sums over all of those with known isomers, and a test of learning."""
    made = [_of_system(system, methods) for system, methods in cells(rows)]
    known = dict(cells([row for row in rows if row["known"]]))
    return made + (_together(known) if len(known) > 1 else [])


def cells(rows: Sequence[Mapping]) -> Iterator[tuple[str, dict[str, list[Mapping]]]]:
    """Systems, and the restarts of each of their methods."""
    for system, group in groupby(rows, key=lambda r: r["system"]):
        yield system, {method: list(own) for method, own in groupby(group, key=lambda r: r["method"])}


def at(row: Mapping, mark: int, of: str = "marks") -> Mapping[str, Any]:
    """What a restart had found at a mark of evaluations, or (`of` "clock") of CPU seconds, that it has reached."""
    return next(each for each in row[of] if each["mark"] == mark)


def end(row: Mapping) -> Mapping[str, Any]:
    """What it had found when its evaluations were spent: it may have gone on, for its CPU seconds."""
    return at(row, row["evaluations"])


def common(rows: Iterable[Mapping], of: str = "marks") -> list[int]:
    """Marks that all of these restarts have reached."""
    return sorted(set.intersection(*({each["mark"] for each in row[of]} for row in rows)))


def best(row: Mapping) -> float | None:
    """The lowest energy (eV) of a molecule in one part, of the lowest structures after relaxing and of all before."""
    whole = [energy for name, energy in row["ends"] if name is not None and "." not in name]
    return min([*whole, *([] if end(row)["lowest"] is None else [end(row)["lowest"]])], default=None)


def spread(values: Sequence[float | None], form: str) -> str:
    """Mean, and the least and the most of restarts; a dash where there is nothing."""
    there = [v for v in values if v is not None]
    if not there:
        return "-"
    if len(there) == 1:
        return f"{there[0]:{form}}"
    # A mean of counts is none.
    return f"{np.mean(there):{'.1f' if form == COUNT else form}} [{min(there):{form}}, {max(there):{form}}]"


def _of_system(system: str, methods: Mapping[str, list[Mapping]]) -> Section:
    rows = [row for own in methods.values() for row in own]
    first, clock = rows[0], max(common(rows, "clock"), default=None)
    level = first["known_lowest"] or min((e for e in map(best, rows) if e is not None), default=None)
    lines = [_line(system, method, own, level, clock) for method, own in methods.items()]
    seeds, known = sorted({row["seed"] for row in rows}), first["known"]
    notes = [f"seeds {seeds[0]} to {seeds[-1]}; the first restart of a method compiles, which its CPU seconds hold"]
    if clock is not None:
        notes.append(f"equal CPU-s: {'known ones' if known else 'isomers'} found in {clock} s")
    if not known:
        notes.append("energies are above the lowest that any of these restarts found")
    notes += _novel(rows, level) if known else []
    extra = [row["ends_evaluations"] for row in rows]
    notes.append(f"relaxing the lowest structures after the end took {spread(extra, COUNT)} evaluations more")
    what = f"{known} known isomers" if known else "no isomer is known"
    return Section(f"{system}: {what}; {first['evaluations']:,} evaluations", HEAD, tuple(lines), tuple(notes))


def _novel(rows: Sequence[Mapping], level: float | None) -> list[str]:
    """The lowest constitution that nobody knew, as it was evaluated."""
    new = min(((energy, name) for row in rows for name, energy in row["novel"][:1]), default=None)
    if new is None or level is None:
        return []
    return [f"the lowest novel constitution is {new[1]}, {new[0] - level:+.2f} eV from the lowest known, as it was evaluated"]


def _line(system: str, method: str, own: Sequence[Mapping], level: float | None, clock: int | None) -> tuple[str, ...]:
    ends, known = [end(row) for row in own], own[0]["known"]
    timed = [] if clock is None else [at(row, clock, "clock")["again" if known else "isomers"] for row in own]
    whole = sum(e["molecules"] for e in ends) / max(sum(e["proposals"] for e in ends), 1)
    of = lambda key: spread([each[key] for each in ends], COUNT)
    return (
        method, str(len(own)), f"{of('again')} of {known}" if known else "-",
        str(len(_again(own))) if known else "-", of("constitutions"), of("novel"), spread(_above(system, own, level), "+.3f"),
        f"{whole:.0%}", str(sum(e["failed"] for e in ends)), of("cpu_seconds"), spread(timed, COUNT),
    )  # fmt: skip


def _again(own: Sequence[Mapping]) -> set[int]:
    """Known isomers that any of these restarts found."""
    return {k for row in own for k in row["again"]}


def _above(system: str, own: Sequence[Mapping], level: float | None) -> list[float | None]:
    """How far the best of each restart is above a level (eV), per atom."""
    atoms = len(atoms_of(system))
    return [None if e is None or level is None else (e - level) / atoms for e in map(best, own)]


# All stoichiometries ---------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """The restarts of a method: `rows` by system and seed, of all systems that all methods have, and `seeds` of all those."""

    name: str
    rows: dict[tuple[str, int], Mapping]
    systems: list[str]
    seeds: list[int]

    def sums(self, key: str, mark: int | None = None, of: str = "marks") -> list[float]:
        """Sums over systems, one of each seed, at the end or at a mark."""
        found = lambda row: end(row) if mark is None else at(row, mark, of)
        return [sum(found(self.rows[system, seed])[key] for system in self.systems) for seed in self.seeds]

    def above(self, seed: int) -> list[float]:
        """How far (eV/atom) the best of each system is above the lowest known; systems without a molecule are left out."""
        each = [_above(s, [self.rows[s, seed]], self.rows[s, seed]["known_lowest"])[0] for s in self.systems]
        return [value for value in each if value is not None]


def _methods(known: Mapping[str, Mapping[str, list[Mapping]]]) -> list[Method]:
    """Methods, on the systems that all of them were run on."""
    names = list(dict.fromkeys(name for methods in known.values() for name in methods))
    systems = [system for system, methods in known.items() if len(methods) == len(names)]
    made = []
    for name in names if systems else ():
        rows = {(s, row["seed"]): row for s in systems for row in known[s][name]}
        seeds = set.intersection(*({row["seed"] for row in known[s][name]} for s in systems))
        made.append(Method(name, rows, systems, sorted(seeds)))
    return [one for one in made if one.seeds]


def _together(known: Mapping[str, Mapping[str, list[Mapping]]]) -> list[Section]:
    methods = _methods(known)
    if not methods:
        return []
    systems = methods[0].systems
    total = sum(next(iter(known[s].values()))[0]["known"] for s in systems)
    lines = tuple(_sums(one, total) for one in methods)
    notes = ["sums over stoichiometries, one of each seed: their mean, and the least and the most of them", *_tests(methods)]
    made = [Section(f"together: {', '.join(systems)}", TOGETHER, lines, (*notes, PUBLISHED))]
    for of, what in (("marks", "evaluations"), ("clock", "CPU seconds")):
        marks = common([row for one in methods for row in one.rows.values()], of)
        if marks:
            cost = lambda one, mark, of=of: spread(one.sums("again", mark, of), COUNT)
            rows = tuple((one.name, *(cost(one, mark) for mark in marks)) for one in methods)
            made.append(Section(f"found again, by {what} of a restart", ("method", *map(str, marks)), rows))
    return made


def _sums(one: Method, total: int) -> tuple[str, ...]:
    above = [one.above(seed) for seed in one.seeds]
    of = lambda key: spread(one.sums(key), COUNT)
    union = sum(len(_again([one.rows[s, seed] for seed in one.seeds])) for s in one.systems)
    return (
        one.name, str(len(one.seeds)), of("again"), str(total), str(union), of("isomers"), of("novel"),
        spread([float(np.mean(each)) if each else None for each in above], "+.3f"),
        f"{sum(v < 0 for each in above for v in each)} of {len(one.seeds) * len(one.systems)}", of("cpu_seconds"),
    )  # fmt: skip


def _tests(methods: Sequence[Method]) -> list[str]:
    """Whether the second of `TESTED` finds more than the first: paired by system and seed, two-sided."""
    named = {one.name: one for one in methods}
    if not set(TESTED) <= set(named):
        return []
    first, second = (named[name] for name in TESTED)
    pairs = sorted(first.rows.keys() & second.rows.keys())
    said = []
    for key, what in (("again", "known isomers"), ("isomers", "isomers")):
        ours, theirs = (np.array([end(one.rows[pair])[key] for pair in pairs]) for one in (second, first))
        gain = f"{ours.sum() / theirs.sum() - 1:+.1%}" if theirs.sum() else "not defined"
        said.append(f"{what}, {second.name} against {first.name}: {gain}; {paired(ours, theirs)}")
    return said


def paired(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Sign test and signed-rank test of pairs of counts (n,), two-sided: F. Wilcoxon, Biometrics Bull. 1, 80 (1945)."""
    from scipy import stats  # takes a second to import

    more, fewer = int((ours > theirs).sum()), int((ours < theirs).sum())
    said = f"more in {more}, fewer in {fewer} of {len(ours)} pairs"
    if not more + fewer:
        return said
    sign = float(stats.binomtest(more, more + fewer).pvalue)
    ranked: Any = stats.wilcoxon(ours, theirs)
    return f"{said} (sign test p = {sign:.2g}, signed ranks p = {ranked.pvalue:.2g})"
