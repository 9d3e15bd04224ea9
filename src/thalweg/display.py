"""What the terminal shows: one live line while a search runs, tables, and colour where a terminal can show it."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from thalweg.run import Progress

#: Seconds between two lines where nobody watches (a log file).
LOG_EVERY = 5.0


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that understands control codes."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def bold(text: str, stream: TextIO | None = None) -> str:
    """Text in bold on a terminal, unless NO_COLOR is set."""
    return _styled("1", text, stream)


def loud(text: str, stream: TextIO | None = None) -> str:
    """Text that must not be overlooked."""
    return _styled("1;33", text, stream)


def _styled(code: str, text: str, stream: TextIO | None) -> str:
    stream = stream or sys.stdout
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def energy(value: float) -> str:
    """An energy with six decimals, never a negative zero."""
    text = f"{value:.6f}"
    return text.lstrip("-") if float(text) == 0 else text


def pressure_unit(energy: str, length: str) -> tuple[float, str]:
    """What a pressure in energy per volume is multiplied by to be shown, and the unit it then has: GPa for eV and Å."""
    return (160.2176634, "GPa") if (energy, length) == ("eV", "Å") else (1.0, f"{energy}/{length}³")


def seconds(value: float) -> str:
    """A duration: 3.1 s, 75 s, 4 min, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def times(n: int) -> str:
    """once, twice, 14 times."""
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")


def plural(n: int, one: str, many: str | None = None) -> str:
    """1 run, 2 runs."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def percent(p: float) -> str:
    """A probability in per cent, never rounded to 0 or 100."""
    if p < 0.001:
        return "below 0.1%"
    return f"{100 * p:.1f}%" if p < 0.1 else f"{min(100 * p, 99):.0f}%"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Aligned columns; those in `left` to the left, the others to the right."""
    everything = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[k]) for row in everything) for k in range(len(head))]
    cell = lambda k, text: text.ljust(widths[k]) if k in left else text.rjust(widths[k])
    return "\n".join("  ".join(cell(k, text) for k, text in enumerate(row)).rstrip() for row in everything)


def paragraph(label: str, text: str, width: int | None = None) -> str:
    """A label and text wrapped beside it."""
    width = min(width or shutil.get_terminal_size((100, 24)).columns, 110)
    indent = " " * 10
    return textwrap.fill(text, max(width, 40), initial_indent=label.ljust(10), subsequent_indent=indent, break_on_hyphens=False)


class StatusLine:
    """A line of a terminal that is written anew; elsewhere a line at most every `LOG_EVERY` seconds."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None):
        self.quiet, self.stream = quiet, stream or sys.stderr
        self.terminal = is_terminal(self.stream)
        self._shown, self._said_at = False, -float("inf")

    def show(self, text: str) -> None:
        """Write this in place of what was there."""
        if self.quiet:
            return
        if self.terminal:
            width = shutil.get_terminal_size((100, 24)).columns
            # Written in one piece, text before the erasure of the rest: no flicker.
            self.stream.write("\r" + text[: max(width - 1, 1)] + "\x1b[K")
            self.stream.flush()
            self._shown = True
        elif time.monotonic() - self._said_at >= LOG_EVERY:
            self._said_at = time.monotonic()
            print(text, file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self._shown = False


class Live:
    """Progress of a search on one line of a terminal; elsewhere a line when the best improves, at most one per `LOG_EVERY`."""

    def __init__(
        self, name: str, unit: str, limit: float | None, quiet: bool = False, stream: TextIO | None = None,
        kind: tuple[str, str] = ("minimum", "minima"),
    ):  # fmt: skip
        self.kind = kind
        self.name, self.unit, self.limit, self.quiet = name, unit, limit, quiet
        self._line = StatusLine(quiet, stream)
        self.stream, self.terminal = self._line.stream, self._line.terminal
        self._first: Progress | None = None
        self._said, self._said_at = float("inf"), -float("inf")

    def waiting(self) -> None:
        """The time before the first visit returns."""
        if self.terminal:
            self._line.show(f"{self.name}  compiling (once for this size and machine; a few seconds)")

    def __call__(self, now: Progress) -> None:
        if self.quiet:
            return
        self._first = self._first or now
        if self.terminal:
            self._line.show(self.text(now))
        elif now.best < self._said - 1e-6 * abs(now.best) and time.monotonic() - self._said_at >= LOG_EVERY:
            self._said, self._said_at = now.best, time.monotonic()
            print(self.text(now), file=self.stream, flush=True)

    def text(self, now: Progress) -> str:
        """The line, most important first, so that a narrow terminal cuts the rest."""
        first = self._first or now
        spent, done = now.session - first.session, now.relaxations - first.relaxations
        # The first visit compiles: its rate says nothing.
        rate = f"{done / spent:,.0f} relaxations/s" if spent > 0.2 else f"{plural(now.relaxations, 'relaxation')}"
        if spent > 0.2 and done < 5 * spent:  # where each costs, they are counted
            rate = plural(now.evaluations, "evaluation")
        left = f"{seconds(max(self.limit - now.session, 0))} left" if self.limit is not None else seconds(now.session)
        best = f"best {energy(now.best)} {self.unit}" if now.best < float("inf") else "nothing found yet"
        minima = plural(now.distinct, *self.kind)
        sure = f"lower one remains: {percent(now.lower_remains)}"
        return "  ".join((self.name, best, f"hit {times(now.hits)}", minima, rate, left, sure))

    def note(self, text: str) -> None:
        """A line that stays."""
        self._line.note(text)

    def clear(self) -> None:
        """Take the live line away."""
        self._line.clear()
