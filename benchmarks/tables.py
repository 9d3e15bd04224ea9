# ruff: noqa: E501 - lines of the page it writes
"""Write the results in docs/benchmarks.md and README.md from the files in benchmarks/results, so that no number is typed by hand.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE, README, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "README.md", ROOT / "benchmarks" / "results"
MARK = "## Results\n"


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def three(x: float) -> str:
    """Three significant digits, with thousands separators."""
    if x == float("inf"):
        return "∞"
    return f"{float(f'{x:.2g}'):,.2g}" if x < 1 else f"{float(f'{x:.3g}'):,.10g}"


def bounded(mean: dict) -> str:
    return f"{three(mean['value'])} [{three(mean['low'])}, {three(mean['high'])}]"


def first_hits() -> str:
    rows = ["| cluster | hits | CPU seconds | relaxations | evaluations |", "|---|---|---|---|---|"]
    for n in (13, 26, 38, 55, 75, 98):
        d = load(f"lj{n}")
        costs = " | ".join(bounded(d[k]) for k in ("cpu_seconds", "relaxations", "evaluations"))
        rows.append(f"| LJ{n} | {d['hits']} of {len(d['seeds'])} | {costs} |")
    return "\n".join(rows)


def peers() -> str:
    rows = ["| | hits | CPU seconds to first hit | relaxations per CPU second |", "|---|---|---|---|"]
    for name, d in load("peers-lj38").items():
        rows.append(f"| {name} | {d['hits']} of {d['tries']} | {bounded(d['cpu'])} | {d['rate']:,.0f} |")
    return "\n".join(rows)


def sweeps() -> str:
    rows = ["| | found | CPU seconds, compilation included |", "|---|---|---|"]
    for name in ("lj-sweep", "lj-sweep-unseeded"):
        d = load(name)
        kind = "seeded from neighbouring sizes" if d["seeded"] else "unseeded"
        rows.append(f"| {kind} | {149 - len(d['missing'])} of 149 | {d['cpu_seconds']:.0f} |")
    return "\n".join(rows)


def calibration() -> str:
    d = load("calibration")
    rows = d["rows"]
    sizes, sure = sorted({r["atoms"] for r in rows}), [r for r in rows if r["sure"]]
    wrong = [r for r in sure if not r["right"]]
    rest = [r for r in rows if not r["sure"]]
    return (
        f"Sizes {sizes[0]}-{sizes[-1]}, {len(rows)} searches: {len(sure)} ended because they were {d['confidence']:.0%} sure, "
        f"and {len(wrong)} of these were wrong. Of the {len(rest)} that ran out of time, {sum(r['right'] for r in rest)} had "
        "the known minimum."
    )


def metals() -> str:
    d = load("metals")
    rows = [
        "| composition | parameters | reference, eV | found, eV | seeds at or below the reference |",
        "|---|---|---|---|---|",
    ]
    for r in d["rows"]:
        reached = sum(e <= r["reference"] + 1e-4 for e in r["energies"])
        rows.append(
            f"| {r['formula']} | {r['parameters']} | {r['reference']:.4f} | {min(r['energies']):.4f} "
            f"| {reached} of {len(r['energies'])} |"
        )
    return "\n".join(rows)


def plain(x: float | None) -> str:
    """An energy with digits that suit its size; empty where there is none."""
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 1e3 else f"{x:.3f}" if abs(x) < 20 else f"{x:.2f}"


def baselines() -> str:
    d = load("baselines")
    units = {"ε": "", "eV": ", eV", "kcal/mol": ", kcal/mol"}
    parts = []
    for table, title in (("stridernet", "StriderNet, Table 1"), ("learn2hop", "Learn2Hop, Table 2")):
        rows = [
            f"{title}:\n",
            "| system | starts | method | lowest | mean | published lowest | published mean | difference, σ | checked before | not converged |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for r in (r for r in d["rows"] if r["table"] == table):
            count, ended = len(r["energies"]), r["ended"]
            low, mean = r["published"] or (None, None)
            method = f"{r['method']}{', ' if r['settings'] else ''}{r['settings']}; {r['max_steps']:,} steps"
            left = [f"{n} {name}" for name, n in ended.items() if name != "converged"]
            deviation = "" if r["deviation"] is None else f"{r['deviation']:+.1f}"
            rows.append(
                f"| {r['system']}{units[r['unit']]} | {count} | {method} | {plain(r['min'])} | {plain(r['mean'])} ± {plain(r['error'])} "
                f"| {plain(low)} | {plain(mean)} | {deviation} | {r['checked']} | {', '.join(left)} |"
            )
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def baseline_cost() -> str:
    return f"{load('baselines')['cpu_seconds']:.0f}"


def baseline_command() -> str:
    return load("baselines")["command"]


def lj_start() -> str:
    return started("LJ100")


def gel_start() -> str:
    return started("C-S-H")


def started(system: str) -> str:
    """Mean and spread of the energies of a system's starts."""
    row = next(r for r in load("baselines")["rows"] if r["system"] == system)
    return f"{plain(row['start_mean'])} ± {plain(row['start_spread'])} (spread)"


TEXT = """
Version 0.1.0, 2026-11-21, one core of a two-core virtual machine (AMD EPYC, AVX-512), Python 3.11, JAX 0.10.2. This section is
written by `python benchmarks/tables.py` from the files in `benchmarks/results/`, which hold every seed. Brackets are 95 %
bounds of the mean (exponential model of the waiting time). Costs count what the other walkers had begun when the first one
arrived: a search of 64 walkers cannot cost fewer than 64 relaxations. The other core was busy during most of these runs.
LJ38, LJ75 and the seeded sweep were measured in the present state; the other tables of clusters, those of peers, calibration and
metals, before periodic cells and the present sums over few lanes came in.

### First hit of the published minimum

`thalweg bench ljN --seeds 20` (LJ75 with `--time 200`, LJ98 with `--time 300`): unseeded, seeds 0-19, compilation not counted.

{first_hits}

What makes the small ones so cheap is that starts with point-group symmetry and symmetrised moves suit symmetric minima. A search
whose minimum has no symmetry gains nothing from them; "displace only" below shows the same walkers without.

### Peers on LJ38

`python benchmarks/peers.py LJ38 --seeds 20 --time 60 --slow-seeds 2`, all on one core in one run. "displace only" is the peers' own
method: random starts, random displacements, no restart. 60 CPU seconds allowed per search; where nothing was found within that
the mean has only a lower bound. This run was made just before walkers got runs of several lengths; that changes nothing before a
walker's first new start, and the relaxations to first hit are the same, seed by seed, as in the table above.

{peers}

### All 149 published minima

`thalweg bench lj-sweep` (cold: empty compilation cache) and `thalweg bench lj-sweep --unseeded --cpu 200`, seed 0, one run each.

{sweeps}

Targets are known to the sweep: it measures the time to known minima, not that of a blind search. Nothing below a reference was
found. The unseeded sweep is cut off by its time, most of which goes to sizes that it does not finish.

### Is the estimate right?

`thalweg bench calibration --sizes 10-40 --seeds 1 --time 15`. {calibration} One seed per size, on a landscape that suits the
starts: a check that the estimate is not absurd, no proof that it is right elsewhere.

### Metals and alloys

`thalweg bench metals --seeds 2 --time 15`: 15 CPU seconds per seed, compilation included. References are the lowest energies known
before (upper bounds from short basin hopping; for Au55 the published value). Where the two seeds differ, 15 seconds are not
enough, and longer searches go lower still: these are not proven minima.

{metals}

### Published baselines on fresh starts

`{baseline_command}`, {baseline_cost} CPU seconds, the making of the starts included and most of the compilation cached. Plain relaxations, with
which two papers on learned optimisers compare theirs, from structures that this command makes with a seed of its own. ± is the
standard error over starts; "difference" is ours less the published mean, in standard errors if the published mean has one like
ours; "checked before" is the mean on the authors' own starts by code written before this package. Relaxations that blew up are
left out of the means. FIRE has no limit on its step; where a relaxation converges (force below 1e-3, 1e-2 for Adam, 1e-6 for the
mixtures and 1e-4 or less for silicon's liquids) it stops before its limit of steps.

{baselines}

What basin hopping, squeezes and learned relaxers find for the systems of Learn2Hop's table with equal evaluations is in
[benchmarks-learned.md](benchmarks-learned.md).

Starts and conventions:

- **LJN**: Kob-Andersen 80:20 at density 1.2, nearest images, cut at 2.5 σ and unshifted; liquids of T = 2 (Langevin, 2000 steps of
  0.003 from a random start): mean energy {lj_start} for 100 particles. Of FIRE at 1,000 we know no published mean; that of the learned
  policy there is -8.12 per atom. **C-S-H**: 152 grains in 300 Å, hot fluid
  at kT = 0.45 ε from a random start, mean energy {gel_start} kcal/mol; how the authors heated
  theirs is not published, and the relaxed energy depends on it: at kT = 0.3 ε the fluid has condensed before it is
  quenched. **SW64**, first table: liquid of 3500 K in 10.866 Å; second table: random starts in 10.856 Å, pushed apart to σ by soft spheres.
- **Learn2Hop's clusters** start in a cube of side 2 (d0, and Å for gold), whatever the number of atoms, pushed apart by harmonic
  soft spheres of diameter 1. The start is not stated in our sources: this one was chosen since it gives the published means
  of LJ13 and of LJ75, each with two methods. "loose" are starts from cubes in which the clusters fit (side 3 d0 for LJ13, scaled by
  the number of atoms; soft spheres of one bond): all of them end higher. Compressed starts relax to lower minima.

What is not reproduced:

- **LJ100**: the mean of FIRE is higher than the published one by more than the errors, and agrees with the check on the authors'
  own liquids; L-BFGS to full convergence gives the same, so it is a matter of starts. Adam's is lower than published. The
  gradient descent of the check (-754) is not reproduced, the published one nearly: at this rate one of 80 of the authors' liquids
  blows up and none of ours, and one that nearly does spoils a mean.
- **C-S-H, gradient descent**: at the largest rate without blow-ups it is far from converged after 2000 steps, and the published
  mean would take about twice as many; neither rate nor steps are known.
- **Au55, Adam**: converged, it is lower than published by many errors. The published mean is what the same run
  has after some 6000 steps at a rate of .03: from a compressed start its second moment, filled by the first forces, decays slowly.
- **SW64 from the liquid, FIRE**: ours is lower, as are those of the other methods here; the published lowest and mean are so close
  together (one minimum spreads by 1.4 eV) that they must come from few starts.
- Published lowest energies are of one start each and compare only in kind.
"""


FAST, NEXT = "## How fast\n", "## How few energies\n"
SHORT = """
One core, CPU seconds to the first hit of the published minimum, mean with 95 % bounds, {seeds} seeds each of which all hit, compilation
not counted:

| | CPU seconds |
|---|---|
| LJ38 (`thalweg bench lj38 --seeds 20`) | {lj38} |
| LJ75 (`thalweg bench lj75 --seeds 20`) | {lj75} |

{found} of 149 published minima from 2 to 150 atoms in {sweep:.0f} CPU seconds, compilation included, seeding sizes from their
neighbours (`thalweg bench lj-sweep`). Symmetric minima are what the default starts are good at; conditions, peers (pele among them),
unseeded searches, alloys and where it is slow are in [docs/benchmarks.md](docs/benchmarks.md), which says what is of an earlier
state; periodic systems in [docs/benchmarks-periodic.md](docs/benchmarks-periodic.md).

"""


def short() -> str:
    """The README's section; refuses to call partial success complete."""
    lj38, lj75, sweep = load("lj38"), load("lj75"), load("lj-sweep")
    if any(r["hits"] < len(r["seeds"]) for r in (lj38, lj75)):
        raise SystemExit("a search in the README's table missed: say so there instead")
    return SHORT.format(
        seeds=len(lj38["seeds"]), lj38=bounded(lj38["cpu_seconds"]), lj75=bounded(lj75["cpu_seconds"]),
        found=149 - len(sweep["missing"]), sweep=sweep["cpu_seconds"],
    )  # fmt: skip


def main() -> None:
    page = PAGE.read_text()
    page = page[: page.index(MARK)] if MARK in page else page.rstrip() + "\n\n"
    parts = (first_hits, peers, sweeps, calibration, metals, baselines, baseline_cost, baseline_command, lj_start, gel_start)
    PAGE.write_text(page + MARK + TEXT.format(**{part.__name__: part() for part in parts}))
    text = README.read_text()
    before, after = text.split(FAST)[0].split(NEXT)[0], text.split(NEXT, 1)[1]
    README.write_text(before + FAST + short() + NEXT + after)
    print(f"wrote {PAGE.relative_to(ROOT)} and {README.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
