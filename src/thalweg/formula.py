"""Formulas: `LJ38`, `M13`, `X7`, `KA100`, `Au55`, `Ag32Au6`."""

from __future__ import annotations

import re

import numpy as np

from thalweg.errors import InputError, StructureError, suggest

#: Prefixes that name a model system and the potential that comes with it. Particles are identical (atomic number 0) but
#: for KA, the Kob-Andersen mixture.
MODELS = {"LJ": "lennard-jones", "M": "morse", "X": None, "KA": "kob-andersen"}
#: Number density of the periodic box that a model system is studied in; those not named here are free clusters.
DENSITIES = {"KA": 1.2}
#: Atomic numbers that stand for A and B of a mixture, as in `BinaryLennardJones`, and the share of A.
MIXTURE, SHARE = (18, 10), 0.8
#: More atoms than a run of this program could treat; refused before memory is.
MOST_ATOMS = 20_000

_EXAMPLES = "write LJ38, M13, Au55 or Ag32Au6"


def parse_formula(text: str) -> tuple[str, np.ndarray, str | None]:
    """The formula as it is usually written, atomic numbers (atoms,) in ascending order, and the potential it names.

    Raises `InputError` for what is no formula and `StructureError` for one without atoms.
    """
    text = text.strip()
    prefixes = "|".join(MODELS)
    model = re.fullmatch(rf"({prefixes})(\d*)", text, re.IGNORECASE)
    if model:
        prefix = model[1].upper()
        if not model[2]:
            raise InputError(f'"{text}" lacks the number of atoms; write for example {prefix}{100 if prefix == "KA" else 38}')
        count = _allowed(int(model[2]), text)
        numbers = _mixture(count, text) if prefix == "KA" else np.zeros(count, np.int32)
        return f"{prefix}{count}", numbers, MODELS[prefix]
    if re.match(rf"({prefixes})[\d._-]", text):
        raise InputError(f'"{text}" is no formula: after {re.split(r"[^A-Z]", text)[0]} comes a number of atoms, as in LJ38')
    return *_elements(text), None


def density_of(formula: str) -> float | None:
    """Number density of the periodic box that comes with a model system; None for everything else."""
    model = re.fullmatch(r"([A-Z]+)\d+", formula)
    return DENSITIES.get(model[1]) if model else None


def _mixture(count: int, text: str) -> np.ndarray:
    """Atomic numbers of a Kob-Andersen mixture: four A to one B, rounded."""
    n_a = round(SHARE * count)
    if n_a == count:
        raise InputError(f'"{text}" is no mixture: 80 % A leaves no B; write KA3 or more, such as KA100')
    return np.sort(np.repeat(MIXTURE, [n_a, count - n_a])).astype(np.int32)


def _elements(text: str) -> tuple[str, np.ndarray]:
    """Formula and atomic numbers of a composition of real elements."""
    from ase.data import atomic_numbers
    from ase.formula import Formula

    tokens = re.findall(r"[A-Z][a-z]?|[a-z]|\d+|[()]|.", text)
    try:
        counts = Formula(text).count()
    except Exception:  # ASE raises several kinds for what it cannot read
        unknown = [t for t in tokens if t[:1].isupper() and t not in atomic_numbers]
        if unknown:
            raise InputError(_unknown(unknown[0], text)) from None
        raise InputError(f'"{text}" is no formula: {_hint(text)}') from None
    if not counts and text and not re.search("[A-Za-z]", text):
        raise InputError(f'"{text}" is no formula: {_EXAMPLES}')
    for symbol in counts:
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(_unknown(symbol, text))
    total = _allowed(sum(counts.values()), text)
    numbers = np.repeat([atomic_numbers[s] for s in counts], list(counts.values()))
    assert len(numbers) == total
    return text, np.sort(numbers).astype(np.int32)


def _allowed(count: int, text: str) -> int:
    if count == 0:
        raise StructureError(f'"{text}" has no atoms; give at least one')
    if count > MOST_ATOMS:
        raise InputError(f'"{text}" has {count:,} atoms; at most {MOST_ATOMS:,} can be treated')
    return count


def _unknown(symbol: str, text: str) -> str:
    from ase.data import atomic_numbers

    known = [s for s in [*atomic_numbers, *MODELS] if s]
    close = suggest(symbol, known)
    mend = close if close.startswith(" Did") else f" For formulas {_EXAMPLES}."
    return f'there is no element "{symbol}" (in {text}).{mend}'


def _hint(text: str) -> str:
    """What to write instead: the same in proper capitals where that is a formula, or examples."""
    from ase.formula import Formula

    pieces = re.findall(r"[A-Za-z]+|\d+", text)
    if "".join(pieces) == text:
        proper = "".join(p.capitalize() for p in pieces)
        try:
            Formula(proper).count()
            return f'did you mean "{proper}"?'
        except Exception:  # as above
            pass
    return _EXAMPLES
