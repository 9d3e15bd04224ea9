"""Success and energy curves of repeated searches against what they cost, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from thalweg.report.charts import WIDTH, Axis, _svg, _tip, _x_axis, _y_axis
from thalweg.report.format import esc, number
from thalweg.survival import Curve, energy_curve, median

#: Colours of the methods, in their order; readable on light and dark ground, and apart for the colour-blind.
COLOURS = ("#2b7bba", "#d1662b", "#3a9a6a", "#a352a3", "#8a8a2e", "#b8434e")
_TOP, _BOTTOM, _LEFT, _RIGHT = 30.0, 268.0, 70.0, WIDTH - 10.0
#: Name, curve, highest cost of any restart, and the (cost, energy) trace of each restart.
Series = tuple[str, Curve, float, Sequence[Sequence[tuple[float, float]]]]


class Cost(NamedTuple):
    """What is spent, in words: in titles, below an axis, behind a number; `least` is where a logarithmic axis may begin."""

    name: str
    label: str
    unit: str
    least: float


EVALUATIONS = Cost("evaluations", "Energy evaluations", "evaluations", 0.5)
CPU = Cost("CPU time", "CPU seconds", "CPU-s", 1e-3)


def success(series: Sequence[Series], cost: Cost = EVALUATIONS) -> str:
    """Kaplan-Meier steps of each method with their bounds shaded."""
    end = max([s[2] for s in series] + [4 * cost.least])
    first = min([float(s[1].cost[0]) for s in series if len(s[1].cost)] + [end / 2])
    log = end > 30 * first
    ax = Axis(max(first / 2, cost.least) if log else 0.0, end, _LEFT, _RIGHT, log)
    ay = Axis(0.0, 1.0, _BOTTOM, _TOP)
    parts, said = [], []
    for (name, curve, last, _), colour in zip(series, _colours(series), strict=True):
        stopped = curve.followed[: np.searchsorted(curve.followed, curve.cost[0] if len(curve.cost) else np.inf)]
        costs = np.unique([ax.lo, *stopped[(stopped > ax.lo) & (stopped < last)], *curve.cost, max(last, ax.lo)])
        within = [curve.at(c) for c in (costs[1:] + costs[:-1]) / 2]
        values = np.array([*within, curve.at(max(last, ax.lo))]).T
        upper, lower = _steps(ax, ay, costs, values[2]), _steps(ax, ay, costs, values[1])
        band = "M" + "L".join(upper) + "L" + "L".join(reversed(lower)) + "Z"
        n50 = median(curve)
        words = f"{name}: {curve.hits} of {curve.restarts} restarts, half succeed after {n50.value:,.3g} {cost.unit}" if (
            np.isfinite(n50.value)) else f"{name}: {curve.hits} of {curve.restarts} restarts"  # fmt: skip
        said.append(words)
        parts.append(
            f'<g>{_tip(words)}<path d="{band}" style="fill:{colour};fill-opacity:.16;stroke:none"/>'
            f'<path class="curve" style="stroke:{colour}" d="M{"L".join(_steps(ax, ay, costs, values[0]))}"/></g>'
        )
    half = ay.at(0.5)
    return _svg(
        _BOTTOM + 42,
        f"Success against {cost.name}",
        "; ".join(said),
        _y_axis(ay, _LEFT, _RIGHT, "Restarts that succeeded")
        + _x_axis(ax, _BOTTOM, _TOP, cost.label)
        + f'<path class="reference" d="M{_LEFT} {half}H{_RIGHT}"/>'
        + "".join(parts),
        "success",
    )


def energies(series: Sequence[Series], unit: str, cost: Cost = EVALUATIONS) -> str:
    """Median restart's lowest energy against a cost, the quartiles shaded; empty where nothing was found."""
    curves = [(energy_curve(s[3]), s) for s in series if any(len(t) for t in s[3])]
    finite = [np.isfinite(c.median) for c, _ in curves]
    if not any(f.any() for f in finite):
        return ""
    end = max([s[2] for _, s in curves] + [4 * cost.least])
    first = max(min(float(c.cost[0]) for c, _ in curves), 2 * cost.least)
    log = end > 30 * first
    ax = Axis(first if log else 0.0, end, _LEFT, _RIGHT, log)
    shown = np.concatenate([c.median[f] for (c, _), f in zip(curves, finite, strict=True)])
    low = min(float(c.lower.min()) for c, _ in curves)
    high = max(float(np.quantile(shown, 0.98)), low + 1e-6 * max(abs(low), 1.0))
    ay = Axis(low - 0.05 * (high - low), high, _BOTTOM, _TOP)
    parts = []
    for (c, s), colour in zip(curves, _colours(curves), strict=True):
        costs = [*c.cost.tolist(), s[2]]
        line = lambda v, costs=costs: _steps(ax, ay, costs, np.clip([*v, v[-1]], ay.lo, ay.hi))
        band = "M" + "L".join(line(c.upper)) + "L" + "L".join(reversed(line(c.lower))) + "Z"
        words = f"{s[0]}: median {number(float(c.median[-1]))} {unit} after {s[2]:,.4g} {cost.unit}"
        parts.append(
            f'<g>{_tip(words)}<path d="{band}" style="fill:{colour};fill-opacity:.16;stroke:none"/>'
            f'<path class="curve" style="stroke:{colour}" d="M{"L".join(line(c.median))}"/></g>'
        )
    return _svg(
        _BOTTOM + 42,
        f"Lowest energy against {cost.name}",
        "Median restart; the shade holds half of them.",
        _y_axis(ay, _LEFT, _RIGHT, f"Lowest energy ({unit}), median and quartiles")
        + _x_axis(ax, _BOTTOM, _TOP, cost.label)
        + "".join(parts),
        "energies",
    )


def page(series: Sequence[Series], unit: str) -> str:
    """HTML of both charts with a legend."""
    title = " · ".join(s[0] for s in series)
    legend = "".join(
        f'<p><span style="color:{colour}">■</span> {esc(s[0])}: {s[1].hits} of {s[1].restarts} restarts; '
        f"n50 {esc(str(median(s[1], [s[2]])))} evaluations</p>"
        for s, colour in zip(series, _colours(series), strict=True)
    )
    body = f'{legend}<div class="columns"><div>{success(series)}</div><div>{energies(series, unit)}</div></div>{_SHADED}'
    return _document(title, "success", body)


class Shown(NamedTuple):
    """A table with a title, and the curves that go with it against a `cost`."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    series: Sequence[Series]
    cost: Cost


def compared(title: str, lead: str, shown: Sequence[Shown], notes: Sequence[str], unit: str) -> str:
    """HTML of several methods on one system: what was found, curves and tables by each cost, and how to read them."""
    names = shown[0].series
    keys = "".join(
        f'<span style="color:{colour}">■</span> {esc(s[0])} &nbsp; ' for s, colour in zip(names, _colours(names), strict=True)
    )
    parts = [f"<p>{esc(lead)}</p><p>{keys}</p>"]
    for one in shown:
        drawn = f"<div>{success(one.series, one.cost)}</div><div>{energies(one.series, unit, one.cost)}</div>"
        parts.append(f'<h2>{esc(one.title)}</h2><div class="columns">{drawn}</div>{_table(one.head, one.lines)}')
    listed = "".join(f"<li>{esc(note)}</li>" for note in notes)
    return _document(title, "methods compared", "".join(parts) + f"<h2>How to read this</h2><ul>{listed}</ul>{_SHADED}")


_SHADED = "<p>Shaded: 95 % bounds of the success (Kaplan-Meier, exponential Greenwood), quartiles of the energy.</p>"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{esc(cell)}</{tag}>" for cell in cells) + "</tr>"
    body = "".join(row(line, "td") for line in lines)
    return f'<div class="wide"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _document(title: str, of: str, body: str) -> str:
    """A page that needs nothing else."""
    style = resources.files("thalweg.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)} · {of}</title>\n<style>\n{style}.chart path.curve {{ fill: none; }}\n"
        ".wide { overflow-x: auto; }\n</style></head>\n<body>"
        f"<header><h1>{esc(title)}</h1></header><main>{body}</main></body></html>\n"
    )


def _steps(ax: Axis, ay: Axis, cost, values) -> list[str]:
    """Corners of a curve that is constant between costs."""
    corners, before = [], None
    for x, y in zip(cost, values, strict=True):
        px, py = ax.at(max(float(x), ax.lo)), ay.at(float(y))
        if before is not None and before != py:
            corners.append(f"{px} {before}")
        corners.append(f"{px} {py}")
        before = py
    return corners


def _colours(series: Sequence) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(len(series))]
