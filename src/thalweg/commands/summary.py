"""The result of a run in words, from its store. Needs no JAX."""

from __future__ import annotations

import tomllib

import numpy as np

from thalweg import confidence
from thalweg.display import bold, energy, loud, paragraph, percent, plural, seconds, times
from thalweg.references import best_known, compare
from thalweg.report_run import relaxed, seeded
from thalweg.store import Store

#: Files of a run, in the order in which one wants them; what a search leaves besides goes between.
FILES = ("best.xyz", "report.html", "input.toml", "run.db")


def summary(store: Store) -> str:
    """What was found, how often, how sure one may be, what it cost, and where it is."""
    meta = store.meta
    name, (unit, _) = meta.get("name", store.folder.name), meta.get("units", ("", ""))
    tables = tomllib.loads(meta.get("input", ""))
    best = store.best()
    last = (store.progress() or [{}])[-1]
    lines = []
    if best is None:
        lines.append(bold(f"{name}  nothing was found yet"))
    else:
        what = "enthalpy" if tables.get("filter", {}).get("scalar_pressure") else "energy"
        lines.append(bold(f"{name}  lowest {what} {energy(best.energy)} {unit}"))
        runs, hits = int(last.get("runs") or 0), int(last.get("run_hits") or 0)
        ended = f"; of {plural(runs, 'run')} that ended, {hits:,} ended in it" if runs else ""
        kinds = ("distinct minimum", "distinct minima") if relaxed(tables) else ("distinct structure", "distinct structures")
        found = (
            f"{times(best.hits)}, by {plural(best.independent_hits, 'independent run')}{ended}; first by {best.origin} after "
            f"{best.evaluations:,} evaluations; {plural(store.n_minima, *kinds)} kept"
        )
        lines.append(paragraph("found", found))
        remains = last.get("lower_remains")
        if remains is not None:
            text = f"a lower minimum remains with probability {percent(remains)}, assuming: {confidence.ASSUMPTIONS}"
            if seeded(tables):
                text += " Starts from the given structure are not independent: this is too sure."
            lines.append(paragraph("sure", text))
        if any(best.pbc) and tables.get("filter", {}).get("kind", "positions") not in ("positions", "plane"):
            lines.append(paragraph("cell", cell_in_words(best.cell, meta.get("units", ("", ""))[1])))
        reference = best_known(len(best.numbers), tables.get("potential", {}))
        if reference is not None:
            text = paragraph("known", compare(best.energy, reference, unit))
            lines.append(loud(text) if best.energy < reference.energy - reference.tolerance else text)
    if last:
        cost = (
            f"{seconds(last['elapsed'])}, {plural(int(last['relaxations']), 'relaxation')}, "
            f"{plural(int(last['evaluations']) + (meta.get('final') or {}).get('evaluations', 0), 'evaluation')}"
        )
        reason = f"; ended because it {meta['reason']}" if meta.get("reason") else ""
        lines.append(paragraph("cost", cost + reason.replace("it interrupted", "it was interrupted")))
    final = meta.get("final")
    if final:
        lines.append(paragraph("relaxed", finished(final, unit)))
    failures = store.failures()
    if failures:
        often, count = failures[0][0], sum(n for _, n in failures)
        lines.append(paragraph("failed", f"{plural(count, 'evaluation')}, most often because: {often}"))
    files = [f for f in (*FILES[:2], *meta.get("products", ()), *FILES[2:]) if (store.folder / f).exists()]
    lines.append(paragraph("files", f"{store.folder}: {', '.join(files)}"))
    return "\n".join(lines)


def finished(final: dict, unit: str) -> str:
    """What the relaxation of the lowest structure after the end took and gave (`thalweg.finish`)."""
    cost = f"the lowest structure: {plural(final['last'], 'evaluation')} more"
    if final["error"] is not None:
        return f"{cost}, and failed: {final['error']}"
    return f"{cost}, {energy(final['energy'])} {unit}" + ("" if final["converged"] else ", not yet at fmax")


def cell_in_words(cell: np.ndarray, length: str) -> str:
    """Edges, angles and volume of a cell (3, 3)."""
    edges = np.linalg.norm(cell, axis=1)
    cosines = [cell[i] @ cell[j] / (edges[i] * edges[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    edge, angle = ", ".join(f"{e:.4f}" for e in edges), ", ".join(f"{a:.2f}°" for a in angles)
    return f"{edge} {length}; {angle}; volume {abs(np.linalg.det(cell)):.4f} {length}³"
