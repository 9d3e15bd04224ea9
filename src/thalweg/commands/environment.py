"""What the command line sets up around JAX, and what it reads of options that are not the input's own."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import platform
import re
import tomllib
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from thalweg.errors import InputError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def prepare_jax() -> None:
    """Keep compiled programs between runs, and keep JAX from talking; call it before anything is compiled."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's remarks on the machine
    import jax

    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)  # that there is no GPU
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)  # a cache that cannot be written costs time only
    folder = cache_folder()
    if folder is None or jax.config.values.get("jax_compilation_cache_dir"):  # a user who has set one knows better
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> Path | None:
    """Where compiled programs are kept: THALWEG_CACHE, or the user's cache directory; None where none can be made.

    One folder for each kind of processor: homes are shared between machines, compiled programs cannot be.
    """
    root = os.environ.get("THALWEG_CACHE")
    if root is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg"
    folder = Path(root) / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder


def _processor() -> str:
    """A short name of the processor's instruction set."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        flags = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine() or 'any'}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def duration(text: str) -> float | str:
    """Seconds of "90", "90s", "10m", "2h"; "none" stays."""
    if text == "none":
        return text
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise InputError(f'a time is "{text}"; write seconds, or for example 10m or 2h')
    return float(match[1]) * _UNITS[match[2]]


def value(text: str):
    """A value of an option as TOML would read it, or else as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def whole(options: Namespace, name: str, least: int = 1) -> int | None:
    """An option that is a whole number, commas allowed; None where it was not given."""
    text = getattr(options, name)
    if text is None:
        return None
    number = value(text.replace(",", ""))
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise InputError(f"--{name} {text} is no whole number of {least} or more")
    return number


def assign(tables: dict, assignments: Iterable[str], sections: Iterable[str]) -> None:
    """Enter KEY=VALUE options (section.key=value) into tables; a key without a section is an argument of the calculator."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, key = path.strip().partition(".")
        if equals and section and not dot and section not in sections and "calculator" in tables.get("potential", {}):
            section, dot, key = "potential", ".", f"arguments.{section}"
        if not equals or not dot or not key or section not in sections:
            close = difflib.get_close_matches(section, list(sections), n=1, cutoff=0.6)
            mend = f'. Did you mean "{close[0]}"?' if close and section not in sections else ""
            raise InputError(f"--set {assignment}: write section.key=value with a section of {', '.join(sections)}{mend}")
        table = tables.setdefault(section, {})
        *parents, key = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise InputError(f"--set {assignment}: {parent} is not a table; give the whole list instead")
        table[key] = value(text.strip())
