"""The page of a landscape: its disconnectivity graph, minima and transition states, occupations and heat capacity."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

import numpy as np

import thalweg
from thalweg.landscape import thermodynamics
from thalweg.landscape.states import Network
from thalweg.landscape.tree import Node, barriers, trees
from thalweg.report.charts import Axis, spread
from thalweg.report.data import Minimum
from thalweg.report.files import part, written
from thalweg.report.format import MISSING, compact, count, duration, esc, number, percent, plural, script_json, ticks
from thalweg.report.molecule import contact_radii, payload, still, xyz_link
from thalweg.report.sections import SHOWN, figure, file_name, fold, pairs, section, table

#: Levels at which minima meet in the graph; rows of tables that are open, and at most; curves of occupations.
LEVELS, OPEN, LISTED, CURVES = 60, 15, 300, 6
#: Size of the graph and of its plot, in its own units. Leaves are numbered where there are not more than so many.
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _NUMBERED = 900.0, 520.0, 84.0, 26.0, 486.0, 60


def write_landscape(path: str | os.PathLike, network: Network, temperature: float) -> None:
    """Write the page of a landscape as one HTML file that needs nothing else; an older file is replaced as a whole.

    Occupations in the table are those at `temperature`. Raises `RunFolderError` when the file cannot be written.
    """
    written(Path(path), render_landscape(network, temperature))


def render_landscape(network: Network, temperature: float) -> str:
    """The page as HTML text."""
    order = network.order()
    shown = [] if network.variables is not None else [_minimum(network, int(k)) for k in order[:SHOWN]]
    units = f"energies in {network.units[0]}, lengths in {network.units[1]}"
    graph, drawn = disconnectivity(network, len(shown))
    body = (
        _facts(network),
        section("graph", "Disconnectivity graph", _GRAPH.format(graph=graph)),
        _structure(network, shown),
        section("occupation", "Which minima are occupied", thermal(network)),
        section("minima", "Minima", f'<div class="card">{_minima(network, temperature)}</div>'),
        section("saddles", "Transition states", f'<div class="card">{_saddles(network)}</div>'),
        section("words", "How this was found", f'<div class="card prose">{_WORDS}</div>'),
    )
    sent = payload(shown, contact_radii(shown), file_name(network.name)) if shown else {"minima": []}
    atoms = plural(int((network.numbers >= 0).sum()), "atom") if network.variables is None else f"{network.variables} variables"
    return Template(part("page.html")).substitute(
        title=esc(f"Landscape of {network.name}"),
        about=esc(f"{atoms} · {units}"),
        body="\n".join(body),
        style=part("style.css") + part("landscape.css"),
        guard=part("guard.js"),
        script=part("page.js") + (part("viewer.js") if shown else "") + part("landscape.js"),
        data=script_json({**sent, "graph": drawn}),
        version=esc(thalweg.__version__),
    )


def landscape(network: Network) -> str:
    """What of a landscape goes into the report of its run: the graph, occupations, and the transition states."""
    return (
        section("graph", "Disconnectivity graph", _GRAPH.format(graph=disconnectivity(network)[0]))
        + section("occupation", "Which minima are occupied", thermal(network))
        + section("saddles", "Transition states", f'<div class="card">{_saddles(network)}<p class="hint">{_PAGE}</p></div>')
    )


def disconnectivity(network: Network, shown: int = 0) -> tuple[str, dict]:
    """The graph as SVG text, which scripts make zoomable, and what they need for that.

    The lowest `shown` minima are those that the page's viewer shows.
    """
    found = trees(network, LEVELS)
    leaves = _leaves(found)
    energies = [m.energy for m in network.minima]
    tops = [t.energy for t in found if t.children]
    low, high = min(energies), max([*energies, *tops])
    step = (high - low) / LEVELS or 1.0
    margin = 0.05 * (high - low) or 1.0
    columns = max(leaf.x for leaf in leaves)
    x, y = Axis(-0.7, columns + 0.7, _LEFT, _WIDTH - 8), Axis(low - margin, high + 2 * margin, _BOTTOM, _TOP)
    rank = {int(k): r for r, k in enumerate(network.order())}
    branches = [b for t in found for b in _branches(t, step, high + 2 * margin)]
    lines = "".join(f'<path d="M{x.at(a)} {y.at(e)}L{x.at(c)} {y.at(bend)}V{y.at(end)}"/>' for a, e, c, bend, end in branches)
    ends = []
    for leaf in leaves:
        m, r = network.minima[leaf.minimum], rank[leaf.minimum]
        said = f"Minimum {r + 1}: {number(m.energy)} {network.units[0]}" + (f", {m.group}" if m.group else "")
        label = f'<text x="{x.at(leaf.x)}" y="{y.at(leaf.energy) + 15:.1f}">{r + 1}</text>' if len(leaves) <= _NUMBERED else ""
        show = f' data-show="{r}"' if r < shown else ""
        ends.append(
            f'<g class="leaf"{show}><title>{esc(said)}</title>'
            f'<circle cx="{x.at(leaf.x)}" cy="{y.at(leaf.energy)}" r="4"/>{label}</g>'
        )
    drawn = {
        "branches": np.round(branches, 9).tolist(),
        "leaves": [[leaf.x, leaf.energy] for leaf in leaves],
        "view": [x.lo, x.hi, y.lo, y.hi],
        "frame": [x.start, x.end, y.start, y.end],
    }
    words = f"{plural(len(leaves), 'minimum', 'minima')} in {plural(len(found), 'part')} that no known saddle joins"
    svg = (
        f'<svg id="tree" class="chart wide" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" tabindex="0" '
        f'aria-label="Disconnectivity graph. {words}."><desc>{words}</desc>'
        f'<clipPath id="plot"><rect x="{_LEFT}" y="{_TOP - 8}" width="{_WIDTH - _LEFT}" '
        f'height="{_BOTTOM - _TOP + 24}"/></clipPath>'
        f'<rect class="ground" x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT}" height="{_BOTTOM - _TOP}"/>'
        f'<g class="axis">{_axis(y)}</g><text class="label" x="2" y="14">Energy ({esc(network.units[0])})</text>'
        f'<g clip-path="url(#plot)"><g class="branches">{lines}</g>{"".join(ends)}</g></svg>'
    )
    return svg, drawn


def _axis(y: Axis) -> str:
    values, decimals = ticks(y.lo, y.hi, 6)
    return "".join(
        f'<path class="grid" d="M{_LEFT} {y.at(float(v))}H{_WIDTH - 8}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{y.at(float(v)) + 4}" text-anchor="end">{number(float(v), decimals)}</text>'
        for v in values
    )


def _leaves(found: list[Node]) -> list[Node]:
    stack, leaves = list(reversed(found)), []
    while stack:
        node = stack.pop()
        if node.minimum >= 0:
            leaves.append(node)
        stack += reversed(node.children)
    return leaves


def _branches(top: Node, step: float, high: float) -> list[tuple[float, float, float, float, float]]:
    """Lines from each node to those it parts into: column and energy, slanting to the next level, then straight down."""
    found, stack = [(top.x, high, top.x, high, top.energy)], [top]
    while stack:
        node = stack.pop()
        for child in node.children:
            bend = max(node.energy - step, child.energy)
            found.append((node.x, node.energy, child.x, bend, child.energy))
            stack.append(child)
    return found


def thermal(network: Network) -> str:
    """Occupations and heat capacity against temperature, as two charts."""
    grid = thermodynamics.suited_temperatures(network)
    seen = thermodynamics.superposition(network, grid)
    order, unit = network.order(), "K" if network.units[0] == "eV" else f"kT in {network.units[0]}"
    most = sorted(seen.occupation.max(0).argsort()[::-1][:CURVES], key=lambda k: network.minima[k].energy)
    rank = {int(k): r for r, k in enumerate(order)}
    curves = [(f"{rank[int(k)] + 1}", seen.occupation[:, k]) for k in most]
    note = (
        '<p class="hint">Each minimum a harmonic well, classical, with as many versions as its point group leaves it; numbers '
        "are those of the minima. The heat capacity counts vibrations and changes between minima, in k.</p>"
    )
    first = _lines(grid, curves, unit, "Share of all", 0.0, 1.0)
    c = seen.heat_capacity
    span = max(float(c.max() - c.min()), 1.0)
    second = _lines(grid, [("", c)], unit, "Heat capacity (k)", float(c.min()) - 0.1 * span, float(c.max()) + 0.1 * span)
    return f'<div class="columns">{figure("Occupations", first + note)}{figure("Heat capacity", second)}</div>'


def _lines(t: np.ndarray, curves: list, unit: str, label: str, low: float, high: float) -> str:
    """Curves (name, values) against temperatures, each named at its end."""
    left, right, top, bottom = 62.0, 428.0, 30.0, 268.0
    ax, ay = Axis(0.0, float(t[-1]), left, right), Axis(low, high, bottom, top)
    values, decimals = ticks(low, high, 5)
    parts = [f'<text class="label" x="2" y="14">{esc(label)}</text>']
    for v in values:
        y = ay.at(float(v))
        parts.append(
            f'<path class="grid" d="M{left} {y}H{right}"/>'
            f'<text class="tick" x="{left - 7}" y="{y + 4}" text-anchor="end">{number(float(v), decimals)}</text>'
        )
    for v in ticks(0.0, float(t[-1]), 5)[0]:
        parts.append(
            f'<text class="tick" x="{ax.at(float(v))}" y="{bottom + 16}" text-anchor="middle">{compact(float(v))}</text>'
        )
    parts.append(f'<text class="label" x="{(left + right) / 2:g}" y="{bottom + 35}" text-anchor="middle">{esc(unit)}</text>')
    ends = sorted(range(len(curves)), key=lambda k: -float(curves[k][1][-1]))
    spots = dict(zip(ends, spread([ay.at(float(curves[k][1][-1])) for k in ends], 14.0, top, bottom), strict=True))
    for k, (name, curve) in enumerate(curves):
        path = "L".join(f"{ax.at(float(a))} {ay.at(float(b))}" for a, b in zip(t, curve, strict=True))
        said = f"<title>Minimum {name}</title>" if name else ""
        text = f'<text class="tick" x="{right + 7}" y="{spots[k] + 4:.1f}">{name}</text>' if name else ""
        parts.append(f'<g>{said}<path class="curve kind{k}" d="M{path}"/>{text}</g>')
    words = f"{label} from {compact(float(t[0]))} to {compact(float(t[-1]))} {unit}."
    return f'<svg class="chart" viewBox="0 0 460 310" role="img" aria-label="{esc(words)}">{"".join(parts)}</svg>'


def _facts(network: Network) -> str:
    parts = len(set(network.joined().tolist()))
    items = (
        ("Minima", count(len(network.minima))),
        ("Transition states", count(len(network.saddles))),
        ("Parts not joined", count(parts) if parts > 1 else "none"),
        ("Energy evaluations", count(network.evaluations)),
        ("Wall time", duration(network.seconds)),
    )
    return pairs("facts", items)


def _minimum(network: Network, k: int) -> Minimum:
    m = network.minima[k]
    return Minimum(m.energy, m.hits, m.hits, "", 0, m.positions, network.numbers, network.cell, network.pbc)


def _structure(network: Network, shown: list[Minimum]) -> str:
    """The lowest minima in three dimensions; empty for functions of vectors."""
    if not shown:
        return ""
    order, name = network.order(), file_name(network.name)
    groups = [network.minima[int(k)].group for k in order[: len(shown)]]
    known = lambda r: f"Minimum {r + 1} of {count(len(network.minima))}: {number(shown[r].energy)} {network.units[0]}"
    captions = [known(r) + (f", {group}" if group else "") for r, group in enumerate(groups)]
    buttons = "".join(
        f'<button type="button" data-show="{r}" aria-pressed="{"true" if r == 0 else "false"}" '
        f'data-caption="{esc(text)}" aria-label="Show minimum {r + 1}">{r + 1}</button>'
        for r, text in enumerate(captions)
    )
    return section(
        "structure",
        "Structure",
        f"""<figure class="card" id="viewer"><div class="stage">
{still(shown[0], contact_radii(shown), "Structure of the lowest minimum")}
<canvas hidden tabindex="0" role="img"
aria-label="Structure in three dimensions. Arrow keys turn it, plus and minus zoom."></canvas></div>
<figcaption aria-live="polite">{esc(captions[0])}</figcaption>
<div class="controls needs-js" role="group" aria-label="Which minimum is shown">{buttons}</div>
<div class="controls"><span class="needs-js">
<button type="button" data-do="larger" aria-label="Zoom in">+</button>
<button type="button" data-do="smaller" aria-label="Zoom out">−</button>
<button type="button" data-do="reset">Reset view</button>
<button type="button" data-do="spheres" aria-pressed="false">Touching spheres</button></span>
<a class="button" id="download" download="{name}-minimum-1.xyz" data-name="{name}"
href="{xyz_link(shown[0], 1)}">Download XYZ</a></div></figure>""",
    )


def _minima(network: Network, temperature: float) -> str:
    """Table of the minima, lowest first."""
    order, above = network.order(), barriers(network)
    seen = thermodynamics.superposition(network, temperature)
    unit = network.units[0]
    at = f"{temperature:g} K" if unit == "eV" else f"kT {temperature:g}"
    head = (
        "#", f"Energy ({esc(unit)})", "Above lowest", "Point group", "Barrier to a lower one", f"Share at {at}",
        f"Free energy at {at}", "Given",
    )  # fmt: skip
    rows = []
    for r, k in enumerate(order[:LISTED]):
        m = network.minima[k]
        rows.append(
            f"<tr><td>{r + 1}</td><td>{number(m.energy)}</td><td>{number(m.energy - network.minima[order[0]].energy)}</td>"
            f"<td>{esc(m.group) or MISSING}</td><td>{number(float(above[k]))}</td>"
            f"<td>{percent(float(seen.occupation[0, k]))}</td><td>{number(float(seen.free_energies[0, k]))}</td>"
            f"<td>{'yes' if m.given else 'new'}</td></tr>"
        )
    return _folded(head, rows)


def _saddles(network: Network) -> str:
    """Table of the transition states, lowest first."""
    if not network.saddles:
        return "<p>None was found yet.</p>"
    rank = {int(k): r + 1 for r, k in enumerate(network.order())}
    head = ("Energy", "Between minima", "Barriers from either", "Point group", "Imaginary vibration", "Found")
    rows = []
    for s in sorted(network.saddles, key=lambda s: s.energy)[:LISTED]:
        i, j = sorted(s.ends or (0, 0), key=lambda k: rank[k])
        over = " / ".join(number(s.energy - network.minima[k].energy, 4) for k in (i, j))
        rows.append(
            f"<tr><td>{number(s.energy)}</td><td>{rank[i]} and {rank[j]}</td><td>{over}</td><td>{esc(s.group) or MISSING}</td>"
            f"<td>{number(float(-s.vibrations[0]), 4)}i</td><td>{count(s.hits)}</td></tr>"
        )
    return _folded(head, rows)


def _folded(head: tuple[str, ...], rows: list[str]) -> str:
    body, more = table(head, "".join(rows[:OPEN])), rows[OPEN:]
    return body + (fold(f"{count(len(more))} more", table(head, "".join(more))) if more else "")


_GRAPH = """<figure class="card">{graph}
<div class="controls needs-js"><button type="button" data-tree="in" aria-label="Zoom in">+</button>
<button type="button" data-tree="out" aria-label="Zoom out">−</button>
<button type="button" data-tree="reset">Whole graph</button></div>
<p class="hint">Every line ends at the energy of a minimum; lines meet at the lowest level at which a path between their minima
is known. Parts that no known transition state joins stand side by side.
<span class="needs-js">Click the graph, then scroll to zoom (with Shift: energies alone); drag to move; on touch screens, pinch.
</span></p></figure>"""

_PAGE = """Minima are numbered from the lowest of those that the search for transition states knows, which may be more than the
run's own: landscape.html beside this page lists them all."""

_WORDS = """<p>Paths between pairs of minima were begun with a doubly nudged elastic band between their best superpositions;
each summit of a band, and starts beside minima along their soft modes, were followed uphill along the softest mode and downhill
across it to a point where exactly one curvature is negative. From there both ways down lead to the minima that it joins.</p>
<p>Minima that rotation, mirror and exchange of like atoms lay upon each other count as one. A transition state that joins a
minimum with another version of itself is listed, and is not in the graph. Barriers are upper bounds: a lower pass may not
have been found. Thermodynamics is that of the minima found, harmonic and classical.</p>"""
