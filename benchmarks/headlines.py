"""Writes what each work behind this package published and what it gives here, from benchmarks/results/: what ships with the
package, the table of the README and docs/reproductions.md. `python benchmarks/headlines.py`."""

from __future__ import annotations

import json
from pathlib import Path

from thalweg.benchmark.headlines import HEADLINES, SHIPPED, Said

ROOT = Path(__file__).parent.parent
RESULTS, README, PAGE = ROOT / "benchmarks" / "results", ROOT / "README.md", ROOT / "docs" / "reproductions.md"
#: Between these lines of the README stands the table.
BEGIN, END = "<!-- headlines: written by python benchmarks/headlines.py -->", "<!-- end of headlines -->"

TEXT = """# What the works behind this package published, and what it gives

Written by `python benchmarks/headlines.py` from `benchmarks/results/`; `thalweg reproduce` prints the same. Every table is
run again by its command: `--quick` in minutes, `--workers N` by processes, and what was stopped goes on by the same
command. *Beside it* is the strongest opponent in the same table, at equal evaluations. Seeds, bounds, costs and all else
are on the pages of results: [Learn2Hop](benchmarks-learned.md), [StriderNet](benchmarks-stridernet.md),
[ASLA](benchmarks-asla.md), [builders](benchmarks-builder.md), [the action functional](benchmarks-action-functional.md),
[deep surrogates](benchmarks-deep-surrogates.md).

"""


def said() -> list[Said]:
    """All headlines with what is in the results."""
    return [one.of(RESULTS) for one in HEADLINES]


def table(rows: list[Said]) -> str:
    """For the README."""
    head = ["| work | measured | published | here | beside it |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {r.work} | {r.what} | {r.published} | {r.here} | {r.beside} |" for r in rows)])


def page(rows: list[Said]) -> str:
    """The page of all."""
    parts = [
        f"## {r.work}: {r.what}\n\n{r.source[0].upper()}{r.source[1:]}.\n\n| | |\n|---|---|\n| published | {r.published} |\n"
        f"| here | {r.here} |\n| beside it | {r.beside} |\n\n```bash\n{r.command}\n```\n\n"
        f"All cells of this table took {r.cost}.\n"
        for r in rows
    ]
    return TEXT + "\n".join(parts)


def readme(rows: list[Said]) -> str:
    """The README with the table of today."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write all three."""
    rows = said()
    SHIPPED.write_text(json.dumps([r._asdict() for r in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(readme(rows), encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
