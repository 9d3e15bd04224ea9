"""`write_report`: the page put together from its sections, style and scripts, and written in one step."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from thalweg.errors import RunFolderError
from thalweg.report import sections
from thalweg.report.data import Minimum, ReportData
from thalweg.report.format import esc, plural, script_json
from thalweg.report.isomers import isomers
from thalweg.report.molecule import contact_radii, payload


def write_report(path: str | os.PathLike, data: ReportData) -> None:
    """Write the report of a run as one HTML file that needs nothing else; an older file is replaced as a whole.

    Raises `RunFolderError` when the file cannot be written.
    """
    written(Path(path), render(data))


def written(path: Path, page: str) -> None:
    """Write a page in one step: an older file is replaced as a whole."""
    text = page.encode("utf-8", errors="replace")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        why = error.strerror or error
        raise RunFolderError(f"cannot write the report {path}: {why}; choose a folder that can be written") from None


def render(data: ReportData) -> str:
    """The report as HTML text."""
    minima = ordered(data)
    shown = minima[: sections.SHOWN]
    about = [data.formula if data.formula != data.title else "", plural(data.n_atoms, "atom"), data.model]
    units = f"energies in {data.energy_unit}, lengths in {data.length_unit}"
    body = (
        sections.answer(data, minima),
        sections.facts(data),
        sections.structure(data, minima),
        sections.progress(data),
        sections.minima_table(data, minima),
        isomers(data),
        sections.moves(data),
        sections.agent(data),
        sections.confidence(data),
        sections.reproduce(data),
    )
    return Template(part("page.html")).substitute(
        title=esc(data.title),
        about=esc(" · ".join([a for a in about if a] + [units])),
        body="\n".join(s for s in body if s),
        style=part("style.css"),
        guard=part("guard.js"),
        script=part("page.js") + part("viewer.js"),
        data=script_json(payload(shown, contact_radii(shown), sections.file_name(data.title))),
        version=esc(data.versions.get("thalweg", "")),
    )


def ordered(data: ReportData) -> list[Minimum]:
    """Minima with a finite energy and finite positions, lowest first."""
    good = [m for m in data.minima if np.isfinite(m.energy) and np.isfinite(np.asarray(m.positions, float)).all()]
    return sorted(good, key=lambda m: m.energy)


def part(name: str) -> str:
    """The text of a file of this room: style, script, frame."""
    return resources.files("thalweg.report").joinpath(name).read_text(encoding="utf-8")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
