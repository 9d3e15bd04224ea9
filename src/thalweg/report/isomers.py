"""The section of the report on molecules: which isomers a run evaluated, and how the energies of what was built went."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.report import charts
from thalweg.report.data import Isomer, Isomers, ReportData
from thalweg.report.format import count, esc, number, plural
from thalweg.report.sections import figure, fold, section, table

#: Rows of a table that are open, and how many there are at most.
OPEN, LISTED = 12, 200

_THIRDS = """<p class="hint keys"><span><i class="key all"></i>first third of the episodes</span>
<span><i class="key own"></i>last third</span></p>"""
_BAND = """<p class="hint">A dot is one episode, the line the running median, and the band holds eight of ten.</p>"""


def isomers(data: ReportData) -> str:
    """Tables of the isomers and, where a builder made the run, energies by episode; empty where no isomer has a name."""
    found = data.isomers
    if found is None or not found.stereo:
        return ""
    unit, names = data.energy_unit, {one.smiles for one in found.constitutions}
    body = f"<p>{esc(words(found))}</p>" + isomer_table(found, found.constitutions, "Constitution", unit)
    drawn = [one for one in found.stereo if one.smiles not in names]
    if drawn:
        body += fold("With stereochemistry", isomer_table(found, drawn, "Isomer", unit))
    built = "".join(
        figure(title, chart + key)
        for title, chart, key in (
            ("Energies of what was built", charts.episode_energies(found.episodes, unit), _BAND),
            ("How they were distributed", charts.episode_thirds(found.episodes, unit), _THIRDS),
        )
        if chart
    )
    return section(
        "isomers", "Isomers", f'<div class="card">{body}</div>' + (f'<div class="columns after">{built}</div>' if built else "")
    )


def words(found: Isomers) -> str:
    """What the tables amount to."""
    new = lambda rows: f" ({count(sum(one.new for one in rows))} new)" if found.source else ""
    flat, drawn = found.constitutions, found.stereo
    said = (
        f"{plural(len(flat), 'constitution')}{new(flat)} and {plural(len(drawn), 'stereo isomer')}{new(drawn)} of "
        f"{found.formula} among {plural(found.structures, 'evaluated structure')}; {count(found.broken)} were in several "
        f"parts, {count(found.unnamed)} no molecule."
    )
    known = f" Of {count(len(found.known))} isomers of this formula in {found.source}, {count(found.again)} were found again."
    return said + (known if found.source else "")


def isomer_table(found: Isomers, rows: Sequence[Isomer], head: str, unit: str) -> str:
    """One row for each isomer, lowest first; the lowest of all is 0. Later rows are folded away."""
    names = (
        head,
        f"Energy ({esc(unit)})",
        "Above lowest",
        "Structures",
        "Evaluations by then",
        *(("",) if found.source else ()),
    )
    lowest = found.constitutions[0].energy
    cells = [_row(one, lowest, bool(found.source)) for one in rows[:LISTED]]
    text = (0, 5)
    body, more = table(names, "".join(cells[:OPEN]), text), cells[OPEN:]
    left = f" of {count(len(rows) - OPEN)}" if len(rows) > LISTED else ""
    return body + (fold(f"{count(len(more))}{left} more", table(names, "".join(more), text)) if more else "")


def _row(one: Isomer, lowest: float, known: bool) -> str:
    last = f"<td class='text'>{'new' if one.new else ''}</td>" if known else ""
    return (
        f"<tr><td class='text'>{esc(one.smiles)}</td><td>{number(one.energy)}</td><td>{number(one.energy - lowest)}</td>"
        f"<td>{count(one.count)}</td><td>{count(one.evaluations)}</td>{last}</tr>"
    )
