"""`Keeper`: a store that remembers the best minimum it was handed, so that a full disk cannot take it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable

from thalweg.display import energy
from thalweg.journal import Entry
from thalweg.store import Record, Store


class Keeper:
    """Stands before a store: hands everything on and keeps the lowest minimum."""

    def __init__(self, store: Store):
        self.store = store
        self.best: Record | None = None
        self.failed = False

    def commit(self, minima: Iterable[Record] = (), *more, **named) -> None:
        """As `Store.commit`."""
        minima = list(minima)
        for record in minima:
            if self.best is None or record.energy < self.best.energy:
                self.best = record
        self.store.commit(minima, *more, **named)

    def minima(self, limit: int | None = None) -> list[Record]:
        """As `Store.minima`."""
        return self.store.minima(limit)

    def evaluations(self) -> list[Entry]:
        """As `Store.evaluations`."""
        return self.store.evaluations()

    def progress(self) -> list[dict]:
        """As `Store.progress`."""
        return self.store.progress()

    def checkpoint(self) -> bytes | None:
        """As `Store.checkpoint`."""
        return self.store.checkpoint()

    def rescue(self) -> None:
        """Put the best structure where it is not lost: on standard output, and in a temporary file where one can be made."""
        if self.best is None:
            return
        text = xyz(self.best)
        place = ""
        try:
            with tempfile.NamedTemporaryFile("w", prefix="thalweg-best-", suffix=".xyz", delete=False) as file:
                file.write(text)
            place = f", and in {file.name}"
        except OSError:
            pass
        print(f"thalweg: the best structure so far ({energy(self.best.energy)}) is on standard output{place}", file=sys.stderr)
        sys.stdout.write(text)
        sys.stdout.flush()


def xyz(record: Record) -> str:
    """A minimum in the extended XYZ format, by hand: nothing else may be needed here."""
    from ase.data import chemical_symbols

    lattice = " ".join(repr(v) for v in record.cell.ravel().tolist())
    box = f'Lattice="{lattice}" ' if record.cell.any() else ""
    pbc = " ".join("T" if p else "F" for p in record.pbc)
    lines = [str(len(record.numbers)), f'{box}Properties=species:S:1:pos:R:3 energy={record.energy!r} pbc="{pbc}"']
    for number, (x, y, z) in zip(record.numbers.tolist(), record.positions.tolist(), strict=True):
        lines.append(f"{chemical_symbols[number]:2s} {x:18.10f} {y:18.10f} {z:18.10f}")
    return "\n".join(lines) + "\n"
