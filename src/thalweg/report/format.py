"""Numbers, ticks and text as the report writes them."""

from __future__ import annotations

import html
import json
import math
import re

import numpy as np

MISSING = "–"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def esc(text) -> str:
    """Text of any origin as HTML, safe in elements and quoted attributes; control characters become U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", str(text)), quote=True)


def script_json(value) -> str:
    """JSON that can stand inside a script element: no character of it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: float, decimals: int = 6) -> str:
    """A fixed-point number with a true minus sign."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def count(value: float) -> str:
    """A whole number with commas between thousands."""
    return f"{round(value):,}" if math.isfinite(value) else MISSING


def plural(n: int, one: str, many: str | None = None) -> str:
    """'1 run', '2 runs'."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def times(n: int) -> str:
    """'once', 'twice', '14 times'."""
    return {1: "once", 2: "twice"}.get(n, f"{count(n)} times")


def percent(p: float) -> str:
    """A probability in per cent with two significant digits, never rounded to 0 or 100."""
    if not math.isfinite(p):
        return MISSING
    if p <= 0 or p >= 1:
        return "0 %" if p <= 0 else "100 %"
    if p < 1e-4:
        return "below 0.01 %"
    if p > 0.995:
        return "above 99 %"
    if p >= 0.0995:
        return f"{100 * p:.0f} %"
    return f"{100 * p:.{1 if p >= 0.00995 else 2}f} %"


def duration(seconds: float) -> str:
    """'0.42 s', '12.3 s', '4 min 10 s', '2 h 05 min'."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def compact(value: float) -> str:
    """A tick label of a count: 500, 2k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def ticks(lo: float, hi: float, about: int = 5) -> tuple[np.ndarray, int]:
    """Round values between lo and hi, and the decimals that they need."""
    if not hi > lo:
        return np.array([lo]), 2
    raw = (hi - lo) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / raw)))
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return np.arange(first, last + 1) * step, max(0, -math.floor(math.log10(step) + 1e-9))


def log_ticks(lo: float, hi: float) -> np.ndarray:
    """Powers of ten between lo and hi; 1, 2, 5 of each decade where there are few."""
    decades = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    for marks in ((1,), (1, 2, 5)):
        values = np.array([m * 10.0**d for d in decades for m in marks])
        values = values[(values >= lo * (1 - 1e-9)) & (values <= hi * (1 + 1e-9))]
        if len(values) >= 3:
            break
    return values
