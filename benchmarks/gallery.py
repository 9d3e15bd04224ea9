"""Draws docs/pictures/ and docs/gallery.md: `python benchmarks/gallery.py` (some minutes; `--only NAME` for one of them).

What is drawn comes from runs of the commands beside each picture, made in a folder of their own, or from committed results.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from choose_tables import compared

from thalweg.benchmark.compare import CPU
from thalweg.report.success import COLOURS, success
from thalweg.report.success import CPU as SECONDS
from thalweg.report.success import EVALUATIONS as PAID

ROOT = Path(__file__).parent.parent
PICTURES, PAGE = ROOT / "docs" / "pictures", ROOT / "docs" / "gallery.md"
STYLE = ROOT / "src" / "thalweg" / "report" / "style.css"


@dataclass(frozen=True)
class Picture:
    """One picture: what it shows, the commands it comes from, and how it is cut out of what they wrote."""

    name: str
    title: str
    words: str
    commands: tuple[str, ...]
    cut: Callable[[Path], str]
    more: str = ""  # the page that says more


def from_page(file: str, mark: str) -> Callable[[Path], str]:
    """The drawing of a page whose first tag has this in it."""

    def cut(folder: Path) -> str:
        text = (folder / file).read_text(encoding="utf-8")
        found = [svg for svg in re.findall(r"<svg .*?</svg>", text, re.DOTALL) if mark in svg.split(">", 1)[0]]
        if not found:
            raise SystemExit(f"{file} has no drawing with {mark}")
        return alone(found[0], text)

    return cut


def whole(file: str) -> Callable[[Path], str]:
    """A drawing that a run wrote."""
    return lambda folder: (folder / file).read_text(encoding="utf-8")


def alone(svg: str, page: str = "") -> str:
    """A drawing of a page as a file of its own: with the page's style, on white."""
    style = "\n".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL)) or STYLE.read_text(encoding="utf-8")
    first = svg.index(">") + 1
    x, y, width, height = box_of(svg)
    ground = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="#fff"/>'
    head = svg[: first - 1].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    size = f' width="{min(width, 760):g}"'
    return f"{head}{size}><style>{used(style, svg)}</style>{ground}{svg[first:]}\n"


def box_of(svg: str) -> tuple[float, ...]:
    """Left, top, width and height of a drawing."""
    return tuple(float(v) for v in re.findall(r'viewBox="([^"]*)"', svg)[0].split())


def used(style: str, svg: str) -> str:
    """The rules of a style sheet for a light page that a drawing can use."""
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
    names = set(re.findall(r'class="([^"]*)"', svg))
    names = {part for name in names for part in name.split()}
    kept = []
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        parts = set(re.findall(r"\.([\w-]+)", selectors))
        if ":root" in selectors or (parts and parts & names and ":" not in selectors) or re.search(r"\bsvg\b", selectors):
            kept.append(f"{selectors.strip()}{{{' '.join(body.split())}}}")
    return "".join(kept)


def curves(name: str, cost: int) -> Callable[[Path], str]:
    """Success curves of a committed comparison."""

    def cut(_: Path) -> str:
        verdict = compared(name)[1]
        held = [(j.method.name, j.curve(cost)) for j in verdict.judged]
        series = [(method, curve, float(curve.followed[-1]), []) for method, curve in held]
        return alone(with_legend(success(series, SECONDS if cost == CPU else PAID), [s[0] for s in series]))

    return cut


def with_legend(svg: str, names: list[str]) -> str:
    """A chart with the names of its curves below, in a row."""
    _, _, width, height = box_of(svg)
    parts, across = [], 40.0
    for k, name in enumerate(names):
        parts.append(f'<rect x="{across:g}" y="{height + 4:g}" width="10" height="10" fill="{COLOURS[k % len(COLOURS)]}"/>')
        parts.append(f'<text class="tick" x="{across + 15:g}" y="{height + 13:g}">{name}</text>')
        across += 32 + 6.6 * len(name)
    taller = svg.replace(f"{width:g} {height:g}", f"{width:g} {height + 22:g}", 1)
    return taller.replace("</svg>", "".join(parts) + "</svg>")


BENZENE = """[system]
formula = "C6H6"
dimensions = 2
region = { kind = "plane", vectors = [[8.0, 0.0], [0.0, 8.0]], corner = [-4.0, -4.0] }
[potential]
kind = "calculator"
calculator = "tblite"
arguments = { method = "GFN1-xTB" }
"""

GALLERY = (
    Picture(
        "lj38", "Thirty-eight atoms", "The lowest structure of LJ38, a truncated octahedron, as the report page shows it.",
        ("thalweg search LJ38 --seed 1 -o lj38",), from_page("lj38/report.html", 'class="still"'),
        "install-and-first-search.md",
    ),
    Picture(
        "ladder", "What a run has seen", "The lowest minima of that run, by their energies above the lowest.",
        ("thalweg search LJ38 --seed 1 -o lj38",), from_page("lj38/report.html", "ladder"), "am-i-done.md",
    ),
    Picture(
        "landscape", "A landscape", "Minima of LJ13 and the lowest ways between them: a branch ends at a minimum, and branches "
        "join where a transition state joins them.",
        ("thalweg search LJ13 --seed 1 -o lj13", "thalweg landscape lj13 --minima 30 --time 60"),
        from_page("lj13/landscape.html", 'id="tree"'), "understand-a-landscape.md",
    ),
    Picture(
        "lj75-success", "Which method?", "LJ75: the share of restarts that have found the published minimum against CPU time, "
        "with bounds of 95 %.",
        (), curves("lj75", CPU), "how-to-choose.md",
    ),
    Picture(
        "q-maps", "What an agent thinks", "After 300 episodes of C6H6 in a plane an agent builds once more, without curiosity: "
        "at every placement, what it expects of the places where the next atom may go. It has not met benzene yet.",
        ("thalweg search benzene.toml --method asla --evaluations 300 --seed 3 --time none -o asla",),
        whole("asla/q-maps.svg"), "agents.md",
    ),
    Picture(
        "q-clouds", "What a builder thinks", "An isomer of C4H4O2 by the network that ships: the places for the next atom, the "
        "more probable the more solid.",
        ("thalweg search C4H4O2 --method builder --evaluations 30 --time none -o furanone",), whole("furanone/q-clouds.svg"),
        "builders.md",
    ),
)  # fmt: skip


def page() -> str:
    """The gallery as a page of the docs."""
    lines = [
        "# Gallery",
        "",
        "Drawn by `python benchmarks/gallery.py` from the commands beside each picture and from committed results. In a report "
        "page the same drawings tell more under the pointer.",
        "",
    ]
    for p in GALLERY:
        lines += [f"## {p.title}", "", f"![{p.words}](pictures/{p.name}.svg)", "", f"{p.words} [More]({p.more}).", ""]
        if p.commands:
            lines += ["```bash", *p.commands, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", help="the name of one picture")
    options.add_argument("--folder", type=Path, help="where the runs are made; those that are there are not made again")
    asked = options.parse_args()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        folder.mkdir(exist_ok=True)
        (folder / "benzene.toml").write_text(BENZENE, encoding="utf-8")
        done: set[str] = set()
        for picture in GALLERY:
            if asked.only in (None, picture.name):
                for command in picture.commands:
                    if command not in done and not (asked.folder and made_already(folder, command)):
                        subprocess.run(command, shell=True, cwd=folder, check=True)
                    done.add(command)
                (PICTURES / f"{picture.name}.svg").write_text(picture.cut(folder), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


def made_already(folder: Path, command: str) -> bool:
    """Whether the run of a command, or the landscape of one, is there."""
    words = command.split()
    if words[1] == "landscape":
        return (folder / words[2] / "landscape.html").exists()
    return (folder / words[words.index("-o") + 1] / "report.html").exists()


if __name__ == "__main__":
    main()
