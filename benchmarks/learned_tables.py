"""Writes the pages docs/benchmarks-*.md of experiments from the results of `thalweg reproduce` in benchmarks/results/:
`python benchmarks/learned_tables.py`."""

from __future__ import annotations

import json
from pathlib import Path

from thalweg.benchmark.action_functional import WHAT
from thalweg.benchmark.asla import TABLES as ASLA_TABLES
from thalweg.benchmark.builder import METHODS as BUILDERS
from thalweg.benchmark.deep_surrogates import METHODS as NETWORKS
from thalweg.benchmark.experiments import Experiment, Table, experiment
from thalweg.benchmark.learn2hop_methods import METHODS
from thalweg.benchmark.stridernet_methods import learned
from thalweg.benchmark.stridernet_opponents import METHODS as OPPONENTS

ROOT = Path(__file__).parent


LEARN2HOP = """# Results of learned relaxers

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/learned/`, which hold what every start found, its seed
and its evaluations. The command that runs them is

```bash
thalweg reproduce learn2hop --json learned.json
thalweg reproduce learn2hop --quick --figures figures  # LJ13 only, and the drawings of the paper's section 5
```

A cell (one method on one system) is kept as soon as it is done, and the same command does not run it again. `thalweg reproduce`
lists the tables.

Published numbers are those of A. Merchant, L. Metz, S. Schoenholz and E. Cubuk, "Learn2Hop", ICML 2021 (arXiv:2107.09661). All
methods begin from the same kind of start (uniform in a cube of three bonds, or in the cell, pushed apart by soft spheres), but
`tuned`, which has its own. All have the same evaluations, those of the last relaxation included. A start has succeeded when a
relaxation of it ended within the tolerance of the lowest known energy and a tight relaxation in double precision confirmed it.
Bounds are at 95 %: Clopper-Pearson for fractions, exact Poisson ones for evaluations per success, 1.96 standard errors for
means. "Better" and "worse" mean bounds that do not overlap; each line stands for itself, without a correction for how many
there are. CPU seconds include compilation, on a two-core virtual machine (AMD EPYC) with both cores in use: upper bounds.
"Annealing" is the number of steps of one annealing.

{methods}

{tables}
{notes}"""


STRIDERNET = """# Results of policies that displace atoms

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/stridernet/`, which hold the energy of every start,
its evaluations and its seed. The command that runs them is

```bash
thalweg reproduce stridernet --json stridernet.json
thalweg reproduce stridernet --quick --figures figures  # LJ100 only, and drawings of energies, stresses and time
```

Published numbers are those of V. Bihani et al., "StriderNet", ICML 2023 (arXiv:2301.12477). All methods of a section relax the
same fresh starts, made here (`thalweg.benchmark.liquids`), which no weights were trained and nothing was tuned on; every
evaluation counts, those by which a policy adapts and those of the last relaxation too. Training is not counted: it stands in
the [model cards](model-cards.md). "Better" and "worse" mean that means +- 1.96 standard errors do not overlap, without a
correction for how many comparisons there are. CPU seconds are per start, compilation apart, on a two-core virtual machine (AMD
EPYC) whose other core was busy.

{methods}

{tables}
{notes}"""


ASLA = """# Results of agents that build

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/asla/`, which hold for every restart its seed, the
episode of its first success, its episodes and CPU seconds. The command that runs them is

```bash
thalweg reproduce asla --json asla.json
thalweg reproduce asla --quick --methods asla-pa
```

A restart is kept as soon as it is done, and the same command does not run it again. Every episode ends with one evaluation, in
every method; a restart ends with its first success or with its budget. Molecules and graphene are found when the bonds of a
structure, as it was evaluated, are those of the known one, atom by atom (`thalweg.similarity.bonds`); metals when the energy is
near the lowest known one and a relaxation ends there. Success is the fraction of restarts with 95 % bounds
([Kaplan-Meier](statistics.md)), n50 where half of all restarts succeed. Seeds from 100 on were never tuned on. CPU seconds hold
everything, on a two-core virtual machine (AMD EPYC) with both cores in use: upper bounds. There was no GPU.

{tables}
{notes}"""


DEEP_SURROGATES = """# Results of networks of energies

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/deep-surrogates/`. The command that runs them is

```bash
thalweg reproduce deep-surrogates --json deep.json
thalweg reproduce deep-surrogates --quick
```

Data are 32 particles, uniform in a box of 32 x 32, sigma and epsilon 1, every pair counted once; the target is log(V + 32). A
quarter of the energies is negative and the highest are 1e30, so percentages of that logarithm say little by themselves: every
table has the rows of constants. Networks are measured on structures that none of them has seen and all of them share. CPU
seconds are of one core of a two-core virtual machine (AMD EPYC) with both cores in use. How the networks are trained is on
[their page](surrogate-networks.md).

{methods}

{tables}
{notes}"""


ACTION_FUNCTIONAL = """# Results of minimising functions

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/action-functional/`, which hold what every seed
found and what it cost. The command that runs them is

```bash
thalweg reproduce action-functional --json action.json
thalweg reproduce action-functional --quick
```

The published test of the action-functional method has its minimum in the middle of the box, where an untrained network has it
too. Here minima are drawn uniformly from the middle half of the box in every variable (`thalweg.potentials.moved`), by the
seed. The zooms were made while seeds 100 to 105 were looked at; seeds from 200 on were looked at by nobody before they were
run. All methods of a table have the same evaluations and the same limit of CPU seconds, whichever ends first; one that trains
a network notices the limit only between trainings. A gradient is an evaluation, and is counted beside them too. `err` is the
root of the mean over variables of the squared distance from the true minimum: *believed* where a method's model of the
function has its minimum, *found* at the lowest value. CPU seconds hold compilation, on a two-core virtual machine (AMD EPYC)
with both cores in use: upper bounds.

{methods}

{tables}
{notes}"""


BUILDER = """# Results of builders of molecules

Written by `python benchmarks/learned_tables.py` from `benchmarks/results/builder/`, which hold for every restart its seed and
what it had found after so many evaluations and so many CPU seconds. The command that runs them is

```bash
thalweg reproduce builder --json builder.json
thalweg reproduce builder --quick
thalweg reproduce builder --weights builder=my-builder.json --table stoichiometries --systems C5H8O --count 5
```

All methods look for isomers of a stoichiometry, of which they know nothing but the atoms, in the energy of GFN1-xTB (tblite),
with one walker. A restart is kept as soon as it is done, and the same command does not run it again. Every evaluation counts,
those of every relaxation of basin hopping too; an episode of a builder takes one, and another where that was the lowest so
far.

*Known* are the isomers that the [builder](builders.md) was trained or tested on: all that written rules allow with so many
heavy atoms. No method is told which they are, but a builder has seen most of them. *Found again* are known ones, with their
stereochemistry, among the structures as they were evaluated, the last point of each; *by all restarts*, by any of them.
*Constitutions* are isomers in one part without stereochemistry, and *novel* those of them that are not known and have neither
charges nor radicals: what the rules leave out, and some would relax to something else. *One molecule* is the share of
proposals in one part that have a name. After the end the three lowest structures of different constitution are relaxed; the
energy *above the lowest known* is the lowest of these that are one molecule still, or of all before.

Means are over restarts, with the least and the most of them in brackets. CPU seconds hold everything but naming, compilation
too, on a two-core virtual machine (AMD EPYC) with both cores in use: upper bounds. There was no GPU. Methods that do not
build go on after their evaluations, for counts at equal CPU seconds. Sums are over the stoichiometries that all methods were
run on.

{methods}

{tables}
{notes}"""


def methods_of(name: str) -> dict[str, str]:
    """What the methods of an experiment are."""
    if name == "learn2hop":
        return dict(METHODS)
    if name == "asla":
        return {}  # they stand in each table
    if name == "deep-surrogates":
        return {k: f"`{json.dumps(own)}`" for k, own in NETWORKS.items() if own}
    if name == "action-functional":
        return WHAT
    if name == "builder":
        return {k: f"`{json.dumps(search)}`" for k, search in BUILDERS.items()}
    return {k: v.what for k, v in (OPPONENTS | learned({})).items()}


def cells(made: Experiment, results: Path) -> list[dict]:
    """All cells of all files, each system's together, in the order of the experiment."""
    held = [row for path in sorted(results.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    place = lambda table: {name: k for k, name in enumerate([s for one in table.systems for s in table.expand(one)])}
    order = []
    for table in made.tables:
        systems = place(table)
        own = [row for row in held if row["table"] == table.name and row["method"] in table.methods]
        key = lambda r, systems=systems, table=table: (
            systems.get(r["system"], len(systems)), r["system"], table.methods.index(r["method"]),
        )  # fmt: skip
        order += sorted(own, key=key)
    return order


def written(table: Table, rows: list[dict]) -> str:
    """A table of the experiment, where it was run."""
    if not rows:
        return ""
    # The same name is another method in another table of agents.
    own = searches(rows) if table in ASLA_TABLES else []
    return "\n".join([f"## {table.name}: {table.what}", "", *own, *[s.markdown for s in table.sections(rows)]])


def searches(rows: list[dict]) -> list[str]:
    """What the methods of a table were run with."""
    own = {r["method"]: {k: v for k, v in r["search"].items() if k != "spacing"} for r in rows}
    return [*(f"- `{method}`: `{json.dumps(search)}`" for method, search in own.items()), ""]


def page(name: str, folder: str, text: str) -> None:
    """Write the page of an experiment; notes below the tables are written by hand."""
    made = experiment(name)
    rows = cells(made, ROOT / "results" / folder)
    texts = [written(t, [r for r in rows if r["table"] == t.name]) for t in made.tables]
    run = {r["method"] for r in rows}
    methods = "\n".join(
        f"- `{k}`: {what}" for k, what in methods_of(name).items() if k in run or name in ("learn2hop", "stridernet")
    )
    notes = ROOT / f"{folder}_notes.md"
    path = ROOT.parent / "docs" / f"benchmarks-{folder}.md"
    below = notes.read_text(encoding="utf-8") if notes.exists() else ""
    path.write_text(text.format(methods=methods, tables="\n".join(filter(None, texts)), notes=below), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    page("learn2hop", "learned", LEARN2HOP)
    page("stridernet", "stridernet", STRIDERNET)
    page("asla", "asla", ASLA)
    page("deep-surrogates", "deep-surrogates", DEEP_SURROGATES)
    page("action-functional", "action-functional", ACTION_FUNCTIONAL)
    page("builder", "builder", BUILDER)
