"""The sections of the report as HTML text. Whatever came from outside goes through `esc`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from urllib.parse import quote

import numpy as np

from thalweg.report import charts
from thalweg.report.cell import words
from thalweg.report.data import Minimum, Move, ReportData
from thalweg.report.format import MISSING, count, duration, esc, number, percent, plural, times
from thalweg.report.molecule import atoms_of, colours, contact_radii, still, symbol, xyz_link

#: How many of the lowest minima get a view, a level and a bar; how many more get a row of the table.
SHOWN, LISTED = 12, 100
_ROWS_OPEN = 12


def section(name: str, heading: str, body: str) -> str:
    """A section of the page under its heading."""
    return f'<section id="{name}"><h2>{heading}</h2>{body}</section>'


def figure(title: str, body: str) -> str:
    """A chart with what belongs to it, under its title."""
    return f'<figure class="card"><figcaption class="title">{title}</figcaption>{body}</figure>'


def table(head: Sequence[str], rows: str, text_columns: Sequence[int] = ()) -> str:
    """A table that scrolls sideways on narrow screens."""
    cells = "".join(f"<th{' class=text' if k in text_columns else ''}>{h}</th>" for k, h in enumerate(head))
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def pairs(kind: str, items: Iterable[tuple[str, str]]) -> str:
    """Names and values, as HTML."""
    return f'<dl class="{kind}">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in items) + "</dl>"


def fold(summary: str, body: str, opened: bool = False) -> str:
    """A part that the reader opens and closes."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def answer(data: ReportData, minima: Sequence[Minimum]) -> str:
    """The first thing on the page: what was found, how often, and how sure one may be."""
    if not minima:
        return (
            '<section class="answer" id="answer"><h2 class="found">No minimum was found yet</h2>'
            f"<p>{esc(data.stop_reason)}</p></section>"
        )
    return (
        '<section class="answer" id="answer"><h2 class="lead-in">Lowest energy found</h2>'
        f'<p class="found">{number(minima[0].energy)}<span class="unit"> {esc(data.energy_unit)}</span></p>'
        f'<p class="words">{found_words(data, minima[0])} {sure_words(data, minima[0])}</p>'
        f"{reference_words(data, minima[0])}</section>"
    )


def found_words(data: ReportData, best: Minimum) -> str:
    """How often the best minimum was found."""
    runs = max(data.confidence.runs, best.independent_hits)
    by = f"by <strong>{count(best.independent_hits)} of {plural(runs, 'independent run')}</strong>"
    return f"Found <strong>{times(best.hits)}</strong>, {by}."


def sure_words(data: ReportData, best: Minimum) -> str:
    """How confident one may be, in words and as the estimate; a known lower energy overrules any estimate."""
    p = data.confidence.remaining
    estimate = None if p is None or not np.isfinite(p) else f"{percent(p)} that a lower minimum remains"
    if data.reference is not None and best.energy > data.reference.energy + data.reference.tolerance:
        doubt = f", whatever this run alone suggests ({estimate})" if estimate else ""
        return f"<strong>It is not the lowest</strong>: a lower energy is known{doubt}."
    if p is None or estimate is None:
        return "There is no estimate of whether a lower one remains."
    if p <= 0.01:
        verdict = "It is very likely the lowest there is"
    elif p <= 0.1:
        verdict = "It is probably the lowest there is"
    elif p <= 0.5:
        verdict = "It may not be the lowest"
    else:
        verdict = "A lower one may well remain; a longer search would tell"
    return f"{verdict}: the estimated probability that a lower minimum remains is <strong>{percent(p)}</strong>."


def reference_words(data: ReportData, best: Minimum) -> str:
    """Comparison with the published energy; an energy below it is said loudly."""
    if data.reference is None:
        return ""
    known, unit = data.reference, esc(data.energy_unit)
    value = f"{number(known.energy)} {unit} ({esc(known.source)})"
    difference = best.energy - known.energy
    if abs(difference) <= known.tolerance:
        return f'<p class="badge good">Equals the reference, {value}, within {known.tolerance:g} {unit}.</p>'
    if difference > 0:
        return f'<p class="badge warn">{number(difference)} {unit} above the reference, {value}: it was not reached.</p>'
    return (
        f'<p class="badge loud" role="alert"><strong>Lower than the reference</strong> by {number(-difference)} {unit}: the '
        f"reference is {value}. Verify this structure with an independent program before claiming a new minimum.</p>"
    )


def facts(data: ReportData) -> str:
    """The size of the run in a few numbers."""
    p = data.progress
    total = lambda a: count(float(a[-1])) if len(a) else "0"
    items = (
        (f"Distinct {data.kind[1]} kept", count(n_distinct(data))),
        ("Relaxations", total(p.relaxations)),
        ("Energy evaluations", total(p.evaluations)),
        ("Wall time", duration(data.wall_seconds)),
        ("CPU time", duration(data.cpu_seconds)),
    )
    return pairs("facts", items)


def n_distinct(data: ReportData) -> int:
    """Distinct minima of the whole run."""
    seen = data.progress.distinct
    return max(data.n_distinct or 0, len(data.minima), int(seen[-1]) if len(seen) else 0)


def caption(m: Minimum, rank: int, of: int, data: ReportData) -> str:
    """One line about a minimum, as plain text; the viewer's buttons carry it."""
    cell, unit = words(m, data.length_unit), data.energy_unit
    return (
        f"{data.kind[0].capitalize()} {rank} of {count(of)}: {number(m.energy)} {unit}, hit {times(m.hits)} by "
        f"{plural(m.independent_hits, 'independent run')}, first by {m.found_by} after {count(m.evaluations)} evaluations"
        + (f"; {cell}" if cell else "")
    )


def structure(data: ReportData, minima: Sequence[Minimum]) -> str:
    """The 3D view with its buttons, beside the energy ladder."""
    if not minima:
        return ""
    shown = list(minima[:SHOWN])
    radii = contact_radii(shown)
    numbers = atoms_of(shown[0])[1]
    present, colour = sorted(set(numbers.tolist())), colours(radii)
    legend = "".join(
        f'<li><span class="dot" style="background:{colour[z]}"></span>{esc(symbol(z))} × {count(np.sum(numbers == z))}</li>'
        for z in present
        if present != [0]  # a pure model system says nothing by it
    )
    of, (one, many) = n_distinct(data), data.kind
    first = caption(shown[0], 1, of, data)
    buttons = "".join(
        f'<button type="button" data-show="{k}" aria-pressed="{"true" if k == 0 else "false"}" '
        f'data-caption="{esc(caption(m, k + 1, of, data))}" '
        f'aria-label="Show {one} {k + 1}">{k + 1}</button>'
        for k, m in enumerate(shown)
    )
    picture = still(shown[0], radii, f"Structure of the lowest {one}, {plural(len(numbers), 'atom')}")
    title = f"Energy levels of the lowest {plural(len(shown), one, many)}" if len(shown) > 1 else "Energy level"
    return section(
        "structure",
        "Structure",
        f"""<div class="columns"><figure class="card" id="viewer"><div class="stage">{picture}
<canvas hidden tabindex="0" role="img"
aria-label="Structure in three dimensions. Arrow keys turn it, plus and minus zoom."></canvas></div>
<figcaption aria-live="polite">{esc(first)}</figcaption>
<div class="controls needs-js" role="group" aria-label="Which {one} is shown">{buttons}</div>
{_view_controls(file_name(data.title), xyz_link(shown[0], 1))}
{f'<ul class="legend">{legend}</ul>' if legend else ""}
<p class="hint needs-js">Drag to turn. Click the picture, then scroll to zoom; on a touch screen, pinch.</p></figure>
<div class="stack">{figure(title, charts.ladder(shown, data.energy_unit, data.kind))}
{figure("How often each was hit", charts.hits(shown, data.kind) + _HIT_KEY)}</div></div>""",
    )


_HIT_KEY = """<p class="hint keys"><span><i class="key own"></i>independent runs, each counted once</span>
<span><i class="key all"></i>all hits</span></p>"""


def _view_controls(name: str, link: str) -> str:
    return f"""<div class="controls"><span class="needs-js">
<button type="button" data-do="larger" aria-label="Zoom in">+</button>
<button type="button" data-do="smaller" aria-label="Zoom out">−</button>
<button type="button" data-do="reset">Reset view</button>
<button type="button" data-do="spheres" aria-pressed="false">Touching spheres</button></span>
<a class="button" id="download" download="{name}-minimum-1.xyz" data-name="{name}" href="{link}">Download XYZ</a></div>"""


_SCALE_SWITCH = """<div class="switch" role="radiogroup" aria-label="Scale of the evaluations">
<input type="radio" name="scale" id="x-log" checked><label for="x-log">Log scale</label>
<input type="radio" name="scale" id="x-linear"><label for="x-linear">Linear</label></div>"""


def progress(data: ReportData) -> str:
    """Best energy against evaluations with a switch of the scale, and distinct minima against relaxations."""
    p, unit = data.progress, data.energy_unit
    steps = charts.improvements(p)
    if len(steps) == 0:
        return ""
    rows = "".join(
        f"<tr><td>{count(float(p.evaluations[i]))}</td><td>{duration(float(p.seconds[i]))}</td>"
        f"<td>{number(float(p.best[i]))}</td></tr>"
        for i in steps[-40:]
    )
    listed = fold("As a table", table(("Evaluations", "Wall time", f"Lowest energy ({esc(unit)})"), rows))
    curves = "".join(charts.best_energy(p, unit, data.reference, log) for log in (True, False))
    second = charts.distinct_minima(p, data.kind[1])
    figures = figure("How the lowest energy was reached", _SCALE_SWITCH + curves + listed)
    if second:
        figures += figure(f"How many of the lowest {data.kind[1]} are kept", second)
    return section("progress", "Progress", f'<div class="columns">{figures}</div>')


def minima_table(data: ReportData, minima: Sequence[Minimum]) -> str:
    """Table of the lowest minima, the later rows folded away."""
    if not minima:
        return ""
    listed = list(minima[:LISTED])
    head = (
        "#",
        f"Energy ({esc(data.energy_unit)})",
        "Above lowest",
        "Hits",
        "Independent",
        "First found by",
        "Evaluations by then",
    )
    rows = [
        f"<tr><td>{k + 1}</td><td>{number(m.energy)}</td><td>{number(m.energy - minima[0].energy)}</td><td>{count(m.hits)}</td>"
        f"<td>{count(m.independent_hits)}</td><td class='text'>{esc(m.found_by)}</td><td>{count(m.evaluations)}</td></tr>"
        for k, m in enumerate(listed)
    ]
    body = table(head, "".join(rows[:_ROWS_OPEN]), text_columns=(5,))
    more = rows[_ROWS_OPEN:]
    if more:
        body += fold(plural(len(more), *(f"more {kind}" for kind in data.kind)), table(head, "".join(more), text_columns=(5,)))
    link = f'<a class="button" download="{file_name(data.title)}-minima.csv" href="{csv_link(listed)}">Download CSV</a>'
    return section("minima", data.kind[1].capitalize(), f'<div class="card">{body}<p class="after">{link}</p></div>')


def csv_link(minima: Sequence[Minimum]) -> str:
    """The table of minima with full precision, as a data address."""
    lines = ["energy,hits,independent_hits,found_by,evaluations"]
    for m in minima:
        by = '"' + str(m.found_by).replace('"', '""') + '"'
        lines.append(f"{float(m.energy)!r},{int(m.hits)},{int(m.independent_hits)},{by},{int(m.evaluations)}")
    return "data:text/csv;charset=utf-8," + quote("\n".join(lines) + "\n", safe="=:/.,", errors="replace")


def moves(data: ReportData) -> str:
    """What each generator did, with its share as a bar in the cell."""
    if not data.moves:
        return ""
    accepted = any(m.accepted is not None for m in data.moves)
    most = max([m.weight for m in data.moves if m.weight is not None], default=0.0)
    head = ["Generator", "Trials", "Lowered the energy", "Yield", "Evaluations per trial", "Weight"]
    if accepted:
        head.insert(2, "Accepted")
    rows = "".join(_move_row(m, accepted, most) for m in data.moves)
    note = (
        "Yield: trials that lowered the energy of their walker, in per cent. Weight: how likely the search is to choose the "
        "move, at the end of the run; starts have none."
    )
    return section(
        "moves", "Moves", f'<div class="card">{table(head, rows, text_columns=(0,))}<p class="hint">{note}</p></div>'
    )


def _move_row(m: Move, accepted: bool, most: float) -> str:
    share = m.gained / m.trials if m.trials else float("nan")
    middle = f"<td>{MISSING if m.accepted is None else count(m.accepted)}</td>" if accepted else ""
    weight = "<td></td>"
    if m.weight is not None:
        fill = 100 * m.weight / most if most > 0 else 0.0
        weight = f"<td class='meter' style='--part:{fill:.1f}%'>{number(m.weight, 3)}</td>"
    return (
        f"<tr><td class='text'>{esc(m.name)}</td><td>{count(m.trials)}</td>{middle}<td>{count(m.gained)}</td>"
        f"<td>{percent(share)}</td><td>{number(m.evaluations_per_trial, 1)}</td>{weight}</tr>"
    )


def agent(data: ReportData) -> str:
    """What an agent, or a builder of molecules, expects of placements; as images, in which nothing can run."""
    pictures = ((data.agent_maps, *_MAPS), (data.agent_clouds, *_CLOUDS))
    cards = "".join(_picture(*each) for each in pictures if each[0])
    who = "agent" if data.agent_maps else "builder"
    return section("agent", f"What the {who} learned", cards) if cards else ""


_MAPS = (
    "Maps of what the agent expects of an atom of each species on every place it may be put, one row for each placement",
    "A build in which every atom goes where the agent, at the end of the run, expects most of it: 1 is the lowest energy that "
    "it has seen, −1 what is worth nothing. Circles are atoms, the ring is the place that was chosen.",
)
_CLOUDS = (
    "Clouds of places where the next atom of a molecule may go, by what the builder expects of an atom there",
    "A molecule in which every atom goes where the builder, at the end of the run, values it most. Values begin as what it "
    "learned from other molecules, how likely an atom is to stand there; from its episodes it learns the best reward that came "
    "of a placement: 1 is the lowest energy that it has seen, 0 what is worth nothing.",
)


def _picture(svg: str, words: str, note: str) -> str:
    """A picture on a card."""
    address = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return (
        f'<div class="card"><div class="scroll"><img class="maps" alt="{words}" src="{address}"></div>'
        f'<p class="hint">{note}</p></div>'
    )


def confidence(data: ReportData) -> str:
    """The estimate behind the first line, with its assumptions, and why the run stopped."""
    c = data.confidence
    body = pairs(
        "pairs",
        (
            ("Independent runs", count(c.runs)),
            ("that found the lowest minimum", count(c.hits)),
            ("Probability that a lower one remains", MISSING if c.remaining is None else percent(c.remaining)),
        ),
    )
    if c.estimator:
        body += f"<p><strong>Estimator.</strong> {esc(c.estimator)}</p>"
    if c.assumptions:
        body += "<p><strong>It assumes</strong></p><ul>" + "".join(f"<li>{esc(a)}</li>" for a in c.assumptions) + "</ul>"
    if data.stop_reason:
        body += f"<p><strong>Why the run stopped.</strong> {esc(data.stop_reason)}</p>"
    return section("confidence", "Am I done?", f'<div class="card prose">{body}</div>')


def reproduce(data: ReportData) -> str:
    """Command, seed, resolved input and versions."""
    items = [("Seed", str(int(data.seed)))]
    if data.started:
        items.append(("Started", esc(data.started)))
    items += [(esc(k), esc(v)) for k, v in data.versions.items()]
    body = f'<pre class="command" tabindex="0"><code>{esc(data.command)}</code></pre>' if data.command else ""
    body += pairs("pairs", items)
    if data.resolved_input:
        body += fold("Resolved input", f'<pre tabindex="0"><code>{esc(data.resolved_input)}</code></pre>', opened=True)
    return section("reproduce", "Reproduce", f'<div class="card">{body}</div>')


def file_name(title: str) -> str:
    """The title as a safe part of a file name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in title).strip("-")
    return kept[:60] or "structure"
