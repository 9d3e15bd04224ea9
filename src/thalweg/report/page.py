"""`write_report`: the page put together from its sections, style and scripts, and written in one step."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

import numpy as np

from thalweg.report import sections
from thalweg.report.data import Minimum, ReportData
from thalweg.report.files import part, written
from thalweg.report.format import esc, plural, script_json
from thalweg.report.isomers import isomers
from thalweg.report.landscape import disconnectivity, landscape
from thalweg.report.molecule import contact_radii, payload


def write_report(path: str | os.PathLike, data: ReportData) -> None:
    """Write the report of a run as one HTML file that needs nothing else; an older file is replaced as a whole.

    Raises `RunFolderError` when the file cannot be written.
    """
    written(Path(path), render(data))


def render(data: ReportData) -> str:
    """The report as HTML text."""
    minima = ordered(data)
    shown = minima[: sections.SHOWN]
    about = [data.formula if data.formula != data.title else "", plural(data.n_atoms, "atom"), data.model]
    units = f"energies in {data.energy_unit}, lengths in {data.length_unit}"
    sent = payload(shown, contact_radii(shown), sections.file_name(data.title))
    if data.landscape:
        sent["graph"] = disconnectivity(data.landscape)[1]
    body = (
        sections.answer(data, minima),
        sections.facts(data),
        sections.structure(data, minima),
        sections.progress(data),
        sections.minima_table(data, minima),
        isomers(data),
        landscape(data.landscape) if data.landscape else "",
        sections.moves(data),
        sections.agent(data),
        sections.confidence(data),
        sections.reproduce(data),
    )
    return Template(part("page.html")).substitute(
        title=esc(data.title),
        about=esc(" · ".join([a for a in about if a] + [units])),
        body="\n".join(s for s in body if s),
        style=part("style.css") + (part("landscape.css") if data.landscape else ""),
        guard=part("guard.js"),
        script=part("page.js") + part("viewer.js") + (part("landscape.js") if data.landscape else ""),
        data=script_json(sent),
        version=esc(data.versions.get("thalweg", "")),
    )


def ordered(data: ReportData) -> list[Minimum]:
    """Minima with a finite energy and finite positions, lowest first."""
    good = [m for m in data.minima if np.isfinite(m.energy) and np.isfinite(np.asarray(m.positions, float)).all()]
    return sorted(good, key=lambda m: m.energy)
