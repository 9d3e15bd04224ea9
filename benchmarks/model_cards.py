"""Writes docs/model-cards.md from the weights that ship: `python benchmarks/model_cards.py`."""

from __future__ import annotations

import json
from pathlib import Path

from ase.data import chemical_symbols

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "src" / "thalweg" / "networks" / "shipped"
INPUTS = ROOT / "src" / "thalweg" / "learning" / "inputs"
BUILDER = ROOT / "src" / "thalweg" / "agents" / "shipped" / "builder.json"
PAGE = ROOT / "docs" / "model-cards.md"

TEXT = """# Model cards

Written by `python benchmarks/model_cards.py` from the files that ship in `src/thalweg/networks/shipped/`. Each holds its
input, seed and the table below, measured by `thalweg train` on fresh starts that neither training nor validation saw. The
bounds are exact 95 % bounds of a success rate (Clopper and Pearson). *Untrained* is the same method with a network of zeros
at the same number of evaluations, the descent at the end counted. How the weights do against basin hopping is in
[the benchmarks of learned methods](benchmarks-learned.md).

All were trained on one core of a two-core virtual machine (AMD EPYC), no GPU; `thalweg train NAME` trains them again (the
inputs are in `src/thalweg/learning/inputs/`, that of the builder in `builder_inputs/`).

"""

#: What each is for, and what it is not for.
NOTES = {
    "lennard-jones": (
        "The default of `--relaxer learned` for Lennard-Jones clusters of up to 34 particles.",
        "Larger clusters (there are others), periodic systems, and clusters that are not compact: it presses atoms together "
        "first. LJ31, whose minimum is of another kind than those around it, is hardly ever found.",
    ),
    "lennard-jones-38": (
        "The default of `--relaxer learned` for Lennard-Jones clusters of 35 to 45 particles: its last stage saw LJ31 and LJ38 "
        "alone.",
        "Smaller clusters: what it learned for LJ38, which is a piece of a crystal, it has paid for with LJ19 and LJ26.",
    ),
    "lennard-jones-large": (
        "The default of `--relaxer learned` for Lennard-Jones clusters of more than 45 particles.",
        "LJ75 and what lies in a funnel of its own: few annealings end there (see the benchmarks). Basin hopping with all "
        "moves, the default without `--relaxer`, does better.",
    ),
    "gupta-gold": (
        "The default for gold in the Gupta potential with the parameters of Learn2Hop's Table 2 (`gold55`).",
        "Alloys, bulk and surfaces. Its training knew no surface that is not a cluster's.",
    ),
    "gupta-silver-gold": (
        "Clusters of silver and gold, trained on 38 atoms at five compositions.",
        "The order of the two metals on given sites: dynamics seldom exchanges atoms. Use it in basin hopping with swaps, or "
        "let those finish.",
    ),
    "gupta-alloys": (
        "The default for alloys of silver, gold, platinum and palladium, trained on three pairs of them.",
        "As for silver and gold.",
    ),
    "stillinger-weber": (
        "The default for silicon in a cell.",
        "The crystal: it makes good glasses and does not crystallise. Basin hopping with the move `replicate` finds it.",
    ),
    "strider-binary": (
        "The default policy for Kob-Andersen mixtures in a cell: the published network of StriderNet, trained on 100 particles "
        "of density 1.2 from the liquid of temperature 2.",
        "The lowest glasses: it descends well and hardly exchanges particles, which decides there; basin hopping with "
        "exchanges does better. Clusters.",
    ),
    "strider-binary-250": (
        "The same network trained on 250 particles, for Table 3 of StriderNet's paper.",
        "Anything but that comparison.",
    ),
    "strider-silicon": (
        "The published network of StriderNet for 64 silicon atoms from the liquid of 3500 K.",
        "Anything but a comparison: the equivariant one is better.",
    ),
    "strider-silicon-equivariant": (
        "The default policy for silicon in a cell: an equivariant network that reads forces too.",
        "The crystal, and the lowest glasses: basin hopping and annealing do better.",
    ),
    "strider-gel": (
        "The default policy for the gel of cement: the published network of StriderNet, 152 grains in a cube of 300 Å. It is "
        "the network of the end of the first stage: the second, with longer horizons, has not improved it.",
        "Long searches: within a thousand evaluations it is better than annealing and hops that know no crystals; with more of "
        "them, hops that repeat parts of the cell win by much.",
    ),
    "learn2hop-lj13": (
        "The published network (`--relaxer learn2hop`), trained on LJ13 by ESMC, for comparison.",
        "Anything but LJ13 and clusters of that size; the learned annealer is better there too (see the benchmarks).",
    ),
    "hop-lennard-jones": (
        "The learned hop (`--method learned-hopping`) for Lennard-Jones clusters.",
        "Periodic systems and alloys.",
    ),
}


def card(path: Path) -> str:
    """One model."""
    held = json.loads(path.read_text(encoding="utf-8"))
    trained, name = held["trained"], path.stem
    count = sum(_size(a) for a in held["arrays"].values())
    use, avoid = NOTES.get(name, ("", ""))
    systems = ", ".join(s["formula"] for s in trained["input"]["systems"])
    begun = trained["input"]["component"].get("weights", "zero")
    origin = "" if begun == "zero" else f", beginning from `{Path(begun).stem}`"
    lines = [
        f"## {name}",
        "",
        f"`{held['model']}`, {count} parameters, {path.stat().st_size / 1024:.0f} kB. {use}",
        "",
        f"- Trained on {systems}{origin}; {trained['updates']} updates, seed {trained['seed']}, "
        f"{trained['cpu_seconds']:.0f} CPU-s and {trained['compile_cpu_seconds']:.0f} s of compiling; {trained['date']}, "
        f"JAX {trained['jax']}." + (f" `thalweg train {name}`." if (INPUTS / f"{name}.toml").exists() else ""),
        f"- Lengths in {held['units'].get('length', 'bonds')}, energies in {held['units'].get('energy', 'bond energies')}.",
        f"- **Not for:** {avoid}",
        "",
    ]
    if held["measured"]:
        lines += [
            "| system | evaluations | starts | success | untrained | mean energy | untrained | lowest |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(m) for m in held["measured"]),
            "",
        ]
        if not all(m["known"] for m in held["measured"]):
            lines += [
                "Where the lowest energy is marked \\*, none was given: success is the lowest of these starts.",
                "",
            ]
    return "\n".join(lines)


def builder_card(path: Path) -> str:
    """The builder of molecules."""
    held = json.loads(path.read_text(encoding="utf-8"))
    about, scores = held["about"], held["about"]["scores"]
    made, train = about["molecules"], about["input"]["train"]
    species = ", ".join(chemical_symbols[z] for z in held["species"])
    right = [f"{100 * scores[k]:.1f} %" for k in ("accuracy", "chosen")]
    lines = [
        "## builder",
        "",
        f"A network that builds molecules of {species} (`--method builder`), {path.stat().st_size / 1024:.0f} kB with the "
        "names and energies of the molecules that it learned from.",
        "",
        f"- Trained on {len(about['isomers']):,} molecules with up to {made['heavy']} heavy atoms, enumerated under this "
        f"project's rules, in their minima and {made['displaced']} structure beside each by {made['method']}: "
        f"{about['structures']['train']:,} structures, {about['structures']['test']:,} more held out. "
        f"{about['epochs']} epochs, seed {train['seed']}, {about['cpu_seconds']:.0f} CPU-s; {about['date']}, "
        f"JAX {about['jax']}. `thalweg train builder`.",
        f"- Errors on molecules held out: energy {1000 * scores['energy']:.1f} meV per atom, components of forces "
        f"{scores['force']:.3f} eV/Å; {right[0]} of places are judged right, and in {right[1]} of states the most valuable "
        "placement is a right one.",
        "- **Not for:** other elements, ions, radicals, and energies: those are to build and to relax with, not to report.",
        "",
    ]
    return "\n".join(lines)


def _row(m: dict) -> str:
    rate = lambda p: f"{m[p + 'success']:.2f} [{m[p + 'low']:.2f}, {m[p + 'high']:.2f}]"
    return (
        f"| {m['system']} | {m['evaluations']:,} | {m['starts']} | {rate('')} | {rate('untrained ')} "
        f"| {m['mean']:.3f} | {m['untrained mean']:.3f} | {m['lowest']:.4f}{'' if m['known'] else ' *'} |"
    )


def _size(a) -> int:
    return sum(map(_size, a)) if isinstance(a, list) else 1


def main() -> None:
    """Write the page."""
    cards = [card(path) for path in sorted(SHIPPED.glob("*.json"))]
    cards.append(builder_card(BUILDER))
    PAGE.write_text(TEXT + "\n".join(cards), encoding="utf-8")


if __name__ == "__main__":
    main()
