"""Inputs as text: TOML files become tables, and tables TOML that comes back as the same."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from thalweg.errors import InputError
from thalweg.schema import NONE


def read_input(path: Path | str) -> dict:
    """The tables of a TOML file. Raises `InputError` where it cannot be read."""
    path = Path(path)
    tables = parse_toml(read_text(path, f"`thalweg init LJ38 -o {path}` writes one"), str(path))
    system = tables.get("system")
    for key in ("structure", "seeds", "template"):
        if isinstance(system, dict) and isinstance(system.get(key), str):
            system[key] = str(path.parent / system[key])  # as seen from the input, wherever one stands
    search = tables.get("search")
    if isinstance(search, dict) and isinstance(search.get("agent"), str) and search["agent"]:
        search["agent"] = str(path.parent / search["agent"])
    return tables


def read_text(path: Path, mend: str) -> str:
    """The text of a file; `mend` says where one comes from."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; {mend}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def parse_toml(text: str, name: str = "the input") -> dict:
    """Tables of a TOML text."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not valid TOML: {error}") from None


def to_toml(tables: Mapping, comments: Mapping[str, str] | None = None, quiet: frozenset[str] = frozenset()) -> str:
    """The tables as TOML. `comments` are by "section" or "section.key"; keys in `quiet` are written as comments."""
    comments = comments or {}
    lines: list[str] = []
    for section, table in tables.items():
        if section in comments:
            lines += [f"# {line}" for line in comments[section].splitlines()]
        head = "# " if section in quiet else ""
        lines.append(f"{head}[{section}]")
        nested = {}
        for key, value in table.items():
            if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
                nested[key] = value
                continue
            path = f"{section}.{key}"
            hidden = "# " if section in quiet or path in quiet else ""
            note = f"  # {comments[path]}" if path in comments else ""
            lines.append(f"{hidden}{key} = {toml_value(value)}{note}")
        for key, value in nested.items():
            lines += _nested(f"{section}.{key}", value, "# " if section in quiet or f"{section}.{key}" in quiet else "")
        lines.append("")
    return "\n".join(lines)


def _nested(path: str, value, head: str) -> list[str]:
    """A table, or a list of tables, below a section."""
    if isinstance(value, list):
        rows = "".join(f"\n{head}  {toml_value(row)}," for row in value)
        return [f"{head}{path.split('.', 1)[1]} = [{rows}\n{head}]"]
    return [f"{head}{path.split('.', 1)[1]} = {toml_value(value)}"]


def toml_value(value) -> str:
    """A value in TOML's notation; floats come back exactly."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    return "[" + ", ".join(toml_value(v) for v in value) + "]"
