"""Inputs of trainings that ship with the package, and files of the same kind that a user has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from thalweg.toml import parse_toml, read_text


class Inputs(NamedTuple):
    """The inputs in a `folder`; `page` of the documentation says what is in one. Sections `with_files` may name a `file`."""

    folder: Path
    page: str
    with_files: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Those that ship."""
        return sorted(p.stem for p in self.folder.glob("*.toml"))

    def found(self, name: str | Path) -> Path:
        """The file of this name, or the input that ships under it, with or without its ending."""
        ships = not Path(name).is_file() and str(name) in {n + e for n in self.names() for e in ("", ".toml")}
        return self.folder / f"{Path(name).stem}.toml" if ships else Path(name)

    def read(self, name: str | Path) -> dict:
        """The tables of one; names of files in it are as seen from it. Raises `InputError` where there is none."""
        path = self.found(name)
        tables = parse_toml(read_text(path, f"those that ship: {', '.join(self.names())}; {self.page} says more"), str(path))
        for section in self.with_files:
            table = tables.get(section)
            if isinstance(table, dict) and isinstance(table.get("file"), str):
                table["file"] = str(path.parent / table["file"])
        return tables
