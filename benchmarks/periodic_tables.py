# ruff: noqa: E501 - lines of the page it writes
"""Write docs/benchmarks-periodic.md from the files in benchmarks/results, so that no number is typed by hand.

python benchmarks/periodic_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "benchmarks-periodic.md", ROOT / "benchmarks" / "results"

TEXT = """# Results on periodic systems

Written by `python benchmarks/periodic_tables.py` from `benchmarks/results/`, which hold every seed. One core of a two-core virtual
machine (AMD EPYC, AVX-512) that others used as well, 2026-11-21: CPU seconds are upper bounds. Energies are means over seeds
with their standard errors.

## Lowest energies

References are the lowest energies known before (upper bounds), for silicon the crystal. CPU seconds include everything but
compilation and the making of the liquids; evaluations include those of relaxations that had begun.

{strong}

- **Kob-Andersen**, 100 particles at density 1.2, minimum image, unshifted. The reference is the lowest of earlier basin-hopping
  runs of some 15 CPU seconds by other code, seven of them, whose mean was -822.4; the lowest published value (StriderNet) is -815.63, its mean of
  ten runs -811.99. The default search also starts from pieces of crystals and makes crystals by repeating a part of the cell, and
  these are far below any glass: the lowest energies in the literature on this benchmark are those of glasses. The comparison within
  glasses is the second line: random starts, and as moves one A and one B that change places, near or far, and a few neighbours that
  are shaken. The lowest structure is `benchmarks/results/ka100.extxyz`.
- **C-S-H**, 152 grains, within 52,000 evaluations. The lowest published value (StriderNet) is -1,671,917 kcal/mol. The lowest structure is
  `benchmarks/results/c-s-h.extxyz`.
- **Silicon** from the liquid: each seed melts 64 atoms at 3500 K in the crystal's cell and searches from there. The default search finds
  the crystal by repeating a part of the liquid (the move `replicate`): it is told that crystals repeat. Methods that are not are
  measured by `thalweg bench sw64-tempering` and `thalweg bench sw64-annealing`, of an earlier state of the code as the cost of a step
  below is. The lowest published value of a learned method is -264.17 eV (Learn2Hop).

## Cost of a step

`python benchmarks/scaling.py --fresh`: nanoseconds per atom and step of NVE dynamics, one core, the peers in the same run; compilation
not counted. "32 side by side" is the cost per structure of 32 in one batch, the way searches run.

{scaling}
"""


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def strong() -> str:
    rows = [
        "| command | reference | mean | lowest | at or below | evaluations | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    tasks = {
        "ka100": "`thalweg bench ka100 --seeds 10`",
        "ka100-swaps": "`thalweg bench ka100-glass --seeds 10`",
        "c-s-h": "`thalweg bench c-s-h --seeds 5`",
        "sw64": "`thalweg bench sw64 --seeds 10`",
        "sw64-tempering": "`thalweg bench sw64-tempering --seeds 3 --cpu 700`",
        "sw64-annealing": "`thalweg bench sw64-annealing --seeds 3`",
    }
    for name, command in tasks.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        d = load(name)
        n = len(d["rows"])
        mean = lambda key, rows=d["rows"], n=n: sum(r[key] for r in rows) / n
        digits = 0 if abs(d["reference"]) > 1e4 else 3
        reached = sum(r["energy"] <= d["reference"] + 0.01 for r in d["rows"])
        rows.append(
            f"| {command} | {d['reference']:,.{digits}f} | {d['mean']:,.{digits}f} ± {d['standard_error']:,.{max(digits, 1)}f} | {d['lowest']:,.{digits}f} | "
            f"{reached} of {n} | {mean('evaluations'):,.0f} | {mean('cpu_seconds'):,.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    PAGE.write_text(TEXT.format(strong=strong(), scaling=scaling()))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def scaling() -> str:
    """Cheapest of lists and all pairs for each system, size and precision, beside the peers."""
    if not (RESULTS / "scaling.json").exists():
        return "Not measured for this version."
    d = load("scaling")
    names = {"lj": "Lennard-Jones liquid", "sw": "silicon (Stillinger-Weber)", "ka": "Kob-Andersen"}
    rows = [
        "| system | atoms | LAMMPS | jax-md, float64 | float64 | float32 | float64, 32 side by side | float32, 32 side by side |",
        "|---|---|---|---|---|---|---|---|",
    ]
    seen = sorted({(r["system"], r["atoms"]) for r in d["rows"].values()}, key=lambda k: (list(names).index(k[0]), k[1]))
    for system, atoms in seen:
        here = {
            r["contender"]: r["ns"] for r in d["rows"].values() if (r["system"], r["atoms"]) == (system, atoms) and "ns" in r
        }

        def best(dtype, many, here=here):
            costs = [v for k, v in here.items() if k.startswith(f"thalweg {dtype}") and ("side by side" in k) == many]
            return f"{min(costs):,.0f}" if costs else "-"

        peer = lambda name, here=here: f"{here[name]:,.0f}" if name in here else "-"
        cells = [peer("LAMMPS"), peer("jax-md float64")] + [best(t, m) for m in (False, True) for t in ("float64", "float32")]
        rows.append(f"| {names[system]} | {atoms:,} | {' | '.join(cells)} |")
    growth = "; ".join(f"{names[k.split()[0]]} ({k.split()[2].rstrip(',')}) {v:.2f}" for k, v in sorted(d["exponents"].items()))
    table = "\n".join(rows)
    return (
        table
        if not growth
        else table + f"\n\nExponent of the cost of a whole step against the number of atoms, above 10,000: {growth}."
    )


if __name__ == "__main__":
    main()
