"""Charts of the report as SVG text: no script is needed to read them, and colours follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.report.data import Minimum, Progress, Reference
from thalweg.report.format import compact, count, duration, esc, log_ticks, number, percent, plural, ticks, times

#: What a run keeps, one and many.
KIND = ("minimum", "minima")
WIDTH = 460  # of every chart, in its own units; text is 12 to 13 of them, legible on a phone at 0.8 of its size
_MOST_STEPS = 150
#: Energies of episodes: fewer are not drawn; running windows, dots and bars at most.
_FEW, _WINDOWS, _SPOTS, _BINS = 12, 60, 600, 16


@dataclass(frozen=True)
class Axis:
    """Maps values between `lo` and `hi` to pixels between `start` and `end`."""

    lo: float
    hi: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value, rounded to a tenth."""
        scale = math.log10 if self.log else float
        span = scale(self.hi) - scale(self.lo)
        part = (scale(value) - scale(self.lo)) / span if span else 0.5
        return round(self.start + part * (self.end - self.start), 1)


def _svg(height: float, title: str, description: str, body: str, kind: str) -> str:
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{esc(title)}. {esc(description)}">'
        f"<desc>{esc(description)}</desc>{body}</svg>"
    )


def _tip(text: str) -> str:
    return f"<title>{esc(text)}</title>"


def _x_axis(axis: Axis, bottom: float, top: float, label: str) -> str:
    """Grid, tick labels and name of a horizontal axis of counts."""
    values = log_ticks(axis.lo, axis.hi) if axis.log else ticks(axis.lo, axis.hi, 5)[0]
    parts = []
    for v in values:
        x = axis.at(float(v))
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{compact(float(v))}</text>')
    middle = (axis.start + axis.end) / 2
    parts.append(f'<text class="label" x="{middle:g}" y="{bottom + 35}" text-anchor="middle">{esc(label)}</text>')
    return "".join(parts)


def _y_axis(axis: Axis, left: float, right: float, label: str, counts: bool = False) -> str:
    """Grid, tick labels and name of a vertical axis; the name stands above it, upright."""
    values, decimals = ticks(axis.lo, axis.hi, 5)
    parts = []
    for v in values:
        y = axis.at(float(v))
        parts.append(f'<path class="grid" d="M{left} {y}H{right}"/>')
        text = compact(float(v)) if counts else number(float(v), decimals)
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4}" text-anchor="end">{text}</text>')
    parts.append(f'<text class="label" x="2" y="14">{esc(label)}</text>')
    return "".join(parts)


def improvements(progress: Progress) -> list[int]:
    """Indices at which the best energy fell; the last ones when they are too many to draw."""
    best = np.asarray(progress.best, float)
    known = np.flatnonzero(np.isfinite(best))
    if len(known) == 0:
        return []
    falls = known[np.concatenate([[True], np.diff(best[known]) < 0])]
    if len(falls) > _MOST_STEPS:
        falls = np.unique(falls[np.linspace(0, len(falls) - 1, _MOST_STEPS).round().astype(int)])
    return falls.tolist()


def best_energy(progress: Progress, unit: str, reference: Reference | None, log: bool) -> str:
    """Step curve of the lowest energy against evaluations, for a run that has found a minimum."""
    steps = improvements(progress)
    x: list[float] = np.maximum(np.asarray(progress.evaluations, float), 1.0).tolist()
    y: list[float] = np.asarray(progress.best, float).tolist()
    lowest = y[steps[-1]]
    bottom, top, left, right = 268.0, 30.0, 70.0, WIDTH - 10.0
    drawn = [y[i] for i in steps] + ([reference.energy] if reference else [])
    low, high = min(drawn), max(drawn)
    # A range below what energies are known to would only show digits.
    margin = max(0.05 * (high - low), 1e-4 * max(abs(high), 1.0))
    end = max(x[-1], 2.0)
    ax = Axis(min(x[steps[0]], end / 2) if log else 0.0, end, left, right, log)
    ay = Axis(low - margin, high + margin, bottom, top)
    path, marks = "", []
    for k, i in enumerate(steps):
        px, py = ax.at(x[i]), ay.at(y[i])
        path += f"M{px} {py}" if k == 0 else f"H{px}V{py}"
        until = ax.at(x[steps[k + 1]]) if k + 1 < len(steps) else right
        said = f"{number(y[i])} {unit} after {count(x[i])} evaluations, {duration(float(progress.seconds[i]))}"
        marks.append(
            f'<g class="step"><rect x="{px}" y="{top}" width="{max(until - px, 0.5):.1f}" height="{bottom - top}"/>'
            f'<circle cx="{px}" cy="{py}" r="4"/>{_tip(said)}</g>'
        )
    line = ""
    if reference:
        r = ay.at(reference.energy)
        line = (
            f'<path class="reference" d="M{left} {r}H{right}"/>'
            f'<text class="note" x="{right}" y="{r - 6 if r > top + 20 else r + 15}" text-anchor="end">reference</text>'
        )
    return _svg(
        bottom + 42,
        "Lowest energy against evaluations",
        f"The lowest energy fell in {plural(len(steps), 'step')} to {number(lowest)} {unit}, the last after "
        f"{count(x[steps[-1]])} of {count(end)} evaluations.",
        _y_axis(ay, left, right, f"Lowest energy ({unit})")
        + _x_axis(ax, bottom, top, "Energy evaluations")
        + line
        + f'<path class="curve" d="{path}H{right}"/>'
        + "".join(marks),
        "log" if log else "linear",
    )


def distinct_minima(progress: Progress, many: str = "minima") -> str:
    """Distinct minima kept against relaxations: flattens when the landscape, or the room for the lowest, is exhausted."""
    x: list[float] = np.asarray(progress.relaxations, float).tolist()
    y: list[float] = np.asarray(progress.distinct, float).tolist()
    if len(x) < 2 or x[-1] <= 0 or y[-1] <= 0:
        return ""
    bottom, top, left, right = 268.0, 30.0, 70.0, WIDTH - 10.0
    ax, ay = Axis(0, x[-1], left, right), Axis(0, 1.05 * y[-1], bottom, top)
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int)).tolist()
    path = "M" + "L".join(f"{ax.at(x[i])} {ay.at(y[i])}" for i in keep)
    hover = []
    marks = keep[:: max(1, len(keep) // 24)]
    for k, i in enumerate(marks):
        from_x = ax.at(x[i]) if k == 0 else (ax.at(x[marks[k - 1]]) + ax.at(x[i])) / 2
        to_x = right if k + 1 == len(marks) else (ax.at(x[i]) + ax.at(x[marks[k + 1]])) / 2
        hover.append(
            f'<g class="step"><rect x="{from_x:.1f}" y="{top}" width="{max(to_x - from_x, 0.5):.1f}" height="{bottom - top}"/>'
            f'<circle cx="{ax.at(x[i])}" cy="{ay.at(y[i])}" r="4"/>'
            f"{_tip(f'{count(y[i])} distinct {many} after {count(x[i])} relaxations')}</g>"
        )
    return _svg(
        bottom + 42,
        f"Distinct {many} against relaxations",
        f"{count(x[-1])} relaxations keep {count(y[-1])} distinct {many}.",
        _y_axis(ay, left, right, f"Distinct {many}", counts=True)
        + _x_axis(ax, bottom, top, "Relaxations")
        + f'<path class="curve" d="{path}"/>'
        + "".join(hover),
        "distinct",
    )


def ladder(minima: Sequence[Minimum], unit: str, kind: tuple[str, str] = KIND) -> str:
    """Energy levels of the lowest minima above the lowest, labels pushed apart where levels are close."""
    energies = np.array([m.energy for m in minima], float)
    above = energies - energies[0]
    gap, top = 19.0, 34.0
    bottom = top + max(190.0 if len(minima) > 2 else 60.0, gap * (len(minima) - 1) + 8)
    margin = 0.04 * above[-1] or 0.5
    axis = Axis(-margin, float(above[-1]) + margin, bottom, top)
    level = [axis.at(a) for a in above]
    spots = spread(level, -gap, top + 4, bottom - 2)
    values, decimals = ticks(0.0, float(above[-1]), 5 if bottom - top > 150 else 2) if above[-1] > 0 else (np.zeros(1), 0)
    parts = [f'<text class="label" x="2" y="14">Energy above the lowest ({esc(unit)})</text>']
    for v in values:
        y = axis.at(float(v))
        parts.append(f'<path class="grid" d="M62 {y}H185"/>')
        parts.append(f'<text class="tick" x="55" y="{y + 4}" text-anchor="end">{number(float(v), decimals)}</text>')
    for k, m in enumerate(minima):
        name = f"{kind[0].capitalize()} {k + 1}"
        said = f"{name}: {number(m.energy)} {unit}, {number(above[k])} above the lowest, hit {times(m.hits)}"
        label = number(m.energy) if k == 0 else f"+{number(above[k], 4)}"
        parts.append(
            f'<g class="level" data-show="{k}">{_tip(said)}<rect x="62" y="{spots[k] - gap / 2:.1f}" width="{WIDTH - 62}" '
            f'height="{gap}"/><path class="bar" d="M62 {level[k]}H185"/>'
            f'<path class="lead" d="M185 {level[k]}L212 {spots[k]:.1f}H220"/>'
            f'<text class="rank" x="240" y="{spots[k] + 4:.1f}" text-anchor="end">{k + 1}</text>'
            f'<text class="value" x="360" y="{spots[k] + 4:.1f}" text-anchor="end">{label}</text>'
            f'<text class="tick" x="{WIDTH - 4}" y="{spots[k] + 4:.1f}" text-anchor="end">{plural(m.hits, "hit")}</text></g>'
        )
    return _svg(
        bottom + 10,
        f"Energy levels of the lowest {kind[1]}",
        f"{plural(len(minima), 'level')} within {number(above[-1])} {unit} of the lowest.",
        "".join(parts),
        "ladder",
    )


def hits(minima: Sequence[Minimum], kind: tuple[str, str] = KIND) -> str:
    """Bars of how often each of the lowest minima was hit, independent runs in the stronger colour."""
    most = max([m.hits for m in minima] + [1])
    row, top, left, right = 22.0, 30.0, 34.0, WIDTH - 64.0
    bottom = top + row * len(minima)
    axis = Axis(0, most, left, right)
    parts = [f'<text class="label" x="2" y="14">{kind[0].capitalize()}</text>']
    values = [v for v in ticks(0, most, 5)[0] if float(v).is_integer()]
    for v in values:
        x = axis.at(float(v))
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{compact(float(v))}</text>')
    for k, m in enumerate(minima):
        y, all_x, own_x = top + row * k, axis.at(m.hits), axis.at(min(m.independent_hits, m.hits))
        said = f"{kind[0].capitalize()} {k + 1}: {plural(m.hits, 'hit')}, by {plural(m.independent_hits, 'independent run')}"
        parts.append(
            f'<g class="hit">{_tip(said)}<rect class="row" x="0" y="{y}" width="{WIDTH}" height="{row}"/>'
            f'<text class="rank" x="{left - 8}" y="{y + 15}" text-anchor="end">{k + 1}</text>'
            f'<rect class="all" x="{left}" y="{y + 4}" width="{max(all_x - left, 1):.1f}" height="14"/>'
            f'<rect class="own" x="{left}" y="{y + 4}" width="{own_x - left:.1f}" height="14"/>'
            f'<text class="tick" x="{all_x + 6}" y="{y + 15}">{count(m.hits)}</text></g>'
        )
    parts.append(f'<text class="label" x="{(left + right) / 2:g}" y="{bottom + 35}" text-anchor="middle">Hits</text>')
    return _svg(
        bottom + 42,
        f"Hits of the lowest {kind[1]}",
        f"The lowest {kind[0]} was hit {times(minima[0].hits)}, by {plural(minima[0].independent_hits, 'independent run')}.",
        "".join(parts),
        "hits",
    )


def running(energies: np.ndarray, parts: Sequence[float] = (0.1, 0.5, 0.9)) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (k,) of episodes, and quantiles (k, parts) of the energies in windows of a tenth of all around them.

    Energies (episodes,) that are not finite are left out.
    """
    known = np.flatnonzero(np.isfinite(energies))
    half = max(len(known) // 20, 2)
    middles = np.unique(np.linspace(half, len(known) - 1 - half, _WINDOWS).round().astype(int))
    windows = [known[m - half : m + half + 1] for m in middles]
    return known[middles] + 1, np.array([np.quantile(energies[w], parts) for w in windows])


def episode_energies(energies: np.ndarray, unit: str) -> str:
    """Energies above the lowest against the number of the episode, with running quantiles; empty where there are few."""
    known = np.flatnonzero(np.isfinite(energies))
    if len(known) < _FEW:
        return ""
    above = np.asarray(energies, float) - energies[known].min()
    highest = _highest(above)
    bottom, top, left, right = 268.0, 30.0, 70.0, WIDTH - 10.0
    ax, ay = Axis(0.0, float(len(energies)), left, right), Axis(0.0, highest, bottom, top)
    shown = known[above[known] <= highest]
    drawn = shown[np.unique(np.linspace(0, len(shown) - 1, _SPOTS).round().astype(int))].tolist()
    spots = "".join(f'<circle class="spot" cx="{ax.at(k + 1)}" cy="{ay.at(float(above[k]))}" r="2"/>' for k in drawn)
    at, lines = running(above)
    first, last = (number(float(median), 3) for median in (lines[0, 1], lines[-1, 1]))
    line = lambda k: [f"{ax.at(float(x))} {ay.at(min(float(y), highest))}" for x, y in zip(at, lines[:, k], strict=True)]
    band = f'<path class="band" d="M{"L".join([*line(0), *line(2)[::-1]])}Z"/>'
    return _svg(
        bottom + 42,
        "Energy against episode",
        f"The median above the lowest energy goes from {first} to {last} {unit}; "
        f"{plural(len(known) - len(shown), 'episode')} above {number(highest, 3)} {unit} are not shown.",
        _y_axis(ay, left, right, f"Energy above the lowest ({unit})")
        + _x_axis(ax, bottom, top, "Episode")
        + spots
        + band
        + f'<path class="curve" d="M{"L".join(line(1))}"/>',
        "episodes",
    )


def episode_thirds(energies: np.ndarray, unit: str) -> str:
    """How energies above the lowest are distributed in the first and the last third of the episodes; empty where few.

    S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022), doi:10.1088/2632-2153/ac3eb4, judge builders by such.
    """
    known = np.flatnonzero(np.isfinite(energies))
    if len(known) < _FEW:
        return ""
    above = np.asarray(energies, float) - energies[known].min()
    highest, third = _highest(above), len(energies) // 3
    shares, edges = distributions((above[:third], above[-third:]), highest)
    bottom, top, left, right = 268.0, 30.0, 70.0, WIDTH - 10.0
    ax, ay = Axis(0.0, highest, left, right), Axis(0.0, 1.05 * max(float(shares.max()), 0.01), bottom, top)
    width = (right - left) / shares.shape[1]
    parts = []
    for k, (early, late) in enumerate(shares.T.tolist()):
        x = ax.at(float(edges[k]))
        said = (
            f"{number(float(edges[k]), 2)} to {number(float(edges[k + 1]), 2)} {unit}: {percent(early)} of the first third, "
            f"{percent(late)} of the last"
        )
        bar = lambda kind, share, start, x=x: (
            f'<rect class="{kind}" x="{x + start:.1f}" y="{ay.at(share)}" width="{0.4 * width:.1f}" '
            f'height="{bottom - ay.at(share):.1f}"/>'
        )
        parts.append(
            f'<g class="hit">{_tip(said)}<rect class="row" x="{x}" y="{top}" width="{width:.1f}" height="{bottom - top}"/>'
            f"{bar('all', early, 0.1 * width)}{bar('own', late, 0.5 * width)}</g>"
        )
    first, last = (number(_median(part), 3) for part in (above[:third], above[-third:]))
    return _svg(
        bottom + 42,
        "Energies of the first and the last third of the episodes",
        f"Median above the lowest energy: {first} {unit} in the first third, {last} {unit} in the last.",
        _y_axis(ay, left, right, "Share of the episodes")
        + _x_axis(ax, bottom, top, f"Energy above the lowest ({unit})")
        + "".join(parts),
        "thirds",
    )


def distributions(parts: Sequence[np.ndarray], highest: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares (parts, bins) of all values of each part that are in bins up to `highest`, and the edges (bins + 1,)."""
    edges = np.linspace(0.0, highest, _BINS + 1)
    held = [np.histogram(part[np.isfinite(part)], edges)[0] / max(len(part), 1) for part in parts]
    return np.stack(held), edges


def _median(energies: np.ndarray) -> float:
    """Median of those that are finite, NaN where none is."""
    known = energies[np.isfinite(energies)]
    return float(np.median(known)) if len(known) else math.nan


def _highest(above: np.ndarray) -> float:
    """Up to where energies are drawn: what is above are mishaps that would hide all others."""
    return max(1.05 * float(np.quantile(above[np.isfinite(above)], 0.95)), 1e-3)


def spread(wanted: Sequence[float], step: float, top: float, bottom: float) -> list[float]:
    """Places as near to those wanted as the spacing allows, in order; a negative step runs upwards.

    Least squares under the spacing: after taking away k * |step| the places must not decrease, which pooling adjacent
    violators solves.
    """
    sign, gap = (1.0, step) if step > 0 else (-1.0, -step)
    pools: list[list[float]] = []  # mean, size
    for k, place in enumerate(wanted):
        pools.append([sign * place - gap * k, 1.0])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (mean, size), (before, n) = pools.pop(), pools.pop()
            pools.append([(before * n + mean * size) / (n + size), n + size])
    flat = [mean for mean, size in pools for _ in range(int(size))]
    low, high = (top, bottom) if sign > 0 else (-bottom, -top)
    last = high - gap * (len(wanted) - 1)
    return [sign * (min(max(place, low), max(last, low)) + gap * k) for k, place in enumerate(flat)]
