"""Writes docs/benchmarks-learned.md from benchmarks/results/learned/: `python benchmarks/learned_tables.py`."""

from __future__ import annotations

import json
from pathlib import Path

from thalweg.benchmark.experiments import Table, experiment
from thalweg.benchmark.learn2hop_methods import METHODS

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "learned"
PAGE = ROOT.parent / "docs" / "benchmarks-learned.md"
#: Written by hand, below the tables.
NOTES = ROOT / "learned_notes.md"

TEXT = """# Results of learned relaxers

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


def cells() -> list[dict]:
    """All cells of all files, each system's together, in the order of the experiment."""
    made = experiment("learn2hop")
    held = [row for path in sorted(RESULTS.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))["cells"]]
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
    return "\n".join([f"## {table.name}: {table.what}", "", *[s.markdown for s in table.sections(rows)]])


def main() -> None:
    rows = cells()
    tables = experiment("learn2hop").tables
    texts = [written(t, [r for r in rows if r["table"] == t.name]) for t in tables]
    methods = "\n".join(f"- `{name}`: {what}" for name, what in METHODS.items())
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    PAGE.write_text(TEXT.format(methods=methods, tables="\n".join(filter(None, texts)), notes=notes), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
