"""From tables of an input to objects: the signature of a component's class is its schema.

A table has a `kind` (see `thalweg.registry`) and one key per argument of the class. Arguments that are components themselves
are tables too, or just a name; lists of generators may carry a `weight` each where the class takes `..._weights`.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np

from thalweg import registry
from thalweg.errors import InputError, ThalwegError, suggest
from thalweg.importing import ImportPath, absolute

MISSING = inspect.Parameter.empty
#: How an input says that an optional value is not there (TOML has no null).
NONE = "none"


@dataclass(frozen=True)
class Field:
    """One argument of a class: its type, its default (`MISSING` if required), and the kind of component it holds, if any."""

    name: str
    hint: Any
    default: Any
    room: str | None = None
    many: bool = False  # a list of components
    weights: str | None = None  # the argument that takes their weights

    @property
    def optional(self) -> bool:
        """Whether it holds a component or none."""
        return self.room is not None and type(None) in get_args(self.hint)

    @property
    def type_name(self) -> str:
        """For messages and lists."""
        if self.room:
            return f"list of {self.room}s" if self.many else f'{self.room} or "{NONE}"' if self.optional else self.room
        return describe(self.hint)


def fields(cls: type) -> dict[str, Field]:
    """The arguments of a class by name, those left out that only carry weights of another."""
    hints = _hints(cls)
    # A converter makes the argument of a constructor anything; what is written in an input is what the field holds.
    hints |= {k: v for k, v in _hints(cls.__init__).items() if k != "return" and (v is not Any or k not in hints)}
    parameters = [p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"]
    factories = {f.name: f.default_factory for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    found = {}
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        hint = hints.get(p.name, MISSING)
        if hint is MISSING and p.default is not MISSING and p.default is not None:
            hint = type(p.default)
        room, many = _component(hint)
        weights = f"{p.name.removesuffix('s')}_weights" if many else None
        weights = weights if any(q.name == weights for q in parameters) else None
        factory = factories.get(p.name, dataclasses.MISSING)
        default = p.default if factory is dataclasses.MISSING else factory()
        found[p.name] = Field(p.name, hint, default, room, many, weights)
    carried = {f.weights for f in found.values()}
    return {name: f for name, f in found.items() if name not in carried}


def fill(room: str, table: Mapping | str, where: str, defaults: Mapping[str, Mapping] | None = None) -> dict:
    """The table with every default, checked and converted; `where` names it in messages.

    `defaults` are by class name, of the class or one that it derives from, and go before those of the class.
    """
    table = {"kind": table} if isinstance(table, str) else table
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a name or a table with a kind, not {table!r}")
    if not isinstance(table.get("kind"), str):
        raise InputError(f'{where} lacks its kind, such as kind = "{registry.names(room)[0]}"')
    cls = registry.find(room, table["kind"])
    own = {**_suited(cls, defaults or {}), **table}
    full = {"kind": absolute(table["kind"])}
    full |= fill_fields(fields(cls), {k: v for k, v in own.items() if k != "kind"}, where, defaults)
    return full


def _suited(cls: type, defaults: Mapping[str, Mapping]) -> dict:
    """The defaults of a class by name, or else of the nearest one that it derives from, for the arguments it has."""
    known = fields(cls)
    found = next((defaults[c.__name__] for c in cls.__mro__ if c.__name__ in defaults), {})
    return {k: v for k, v in found.items() if k in known}


def fill_fields(known: Mapping[str, Field], table: Mapping, where: str, defaults=None) -> dict:
    """The values of these fields from a table, with defaults."""
    refuse_unknown(table, known, where)
    full = {}
    for name, field in known.items():
        at = f"{name} in {where}"
        if name in table and field.optional and table[name] in (None, NONE):
            full[name] = None
        elif name in table and table[name] is not None and not (table[name] == NONE and field.default is None):
            full[name] = _filled(field, _of_usual_kind(field, table[name]), at, where, defaults)
        elif field.default is MISSING:
            raise InputError(f"{where} lacks {name} ({field.type_name})")
        elif field.room and not field.many and field.default is not None:
            full[name] = _filled(field, table_of(field.room, field.default), at, where, defaults)
        elif isinstance(field.default, tuple):
            full[name] = list(field.default)
        else:
            full[name] = field.default
    return full


def _of_usual_kind(field: Field, value):
    """The table of a component, of the kind of the default where it does not say which."""
    if not isinstance(value, Mapping) or "kind" in value or field.many or not field.room or field.default in (MISSING, None):
        return value
    return {"kind": registry.name_of(field.room, type(field.default)), **value}


def table_of(room: str, component) -> dict:
    """The table of a component: its kind, and the plain values it has beyond the defaults of its class."""
    cls = type(component)
    table: dict[str, Any] = {"kind": registry.name_of(room, cls)}
    for name, field in fields(cls).items():
        value = getattr(component, name, field.default)
        if (
            field.room is None
            and not is_array(field.hint)
            and type(value) in (bool, int, float, str, tuple)
            and value != field.default
        ):
            table[name] = list(value) if isinstance(value, tuple) else value
    return table


def refuse_unknown(table: Mapping, known, where: str) -> None:
    """Raise for the first key that is not known."""
    for key in table:
        if key not in known:
            raise InputError(f"unknown key {key} in {where}.{suggest(key, known)}")


def check_sections(tables: Mapping, known) -> None:
    """Raise where an input has sections that are not `known`, or that are no tables."""
    for section, table in tables.items():
        if section not in known:
            raise InputError(f"unknown section [{section}].{suggest(section, known)}")
        if not isinstance(table, Mapping):
            raise InputError(f"{section} must be a table [{section}], not {table!r}")


def check_positive(sizes: Mapping, where: str) -> None:
    """Raise where a number of a table is not positive."""
    for name, value in sizes.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
            raise InputError(f"{name} in {where} is {value:g}; it must be positive")


def check_seed(seed: int, where: str = "") -> int:
    """The seed, if it is one; `where` is the section of it."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed{where and f' in {where}'} is {seed}; it must be between 0 and 2^32 - 1")
    return seed


def build(room: str, full: Mapping):
    """The component of a table that `fill` gave."""
    cls = registry.find(room, full["kind"])
    arguments: dict[str, Any] = {}
    for name, field in fields(cls).items():
        value = full[name]
        if field.room and field.many:
            arguments[name] = tuple(build(field.room, {k: v for k, v in t.items() if k != "weight"}) for t in value)
            if field.weights:
                arguments[field.weights] = [t["weight"] for t in value]
        elif field.room and value is not None:
            arguments[name] = build(field.room, value)
        elif is_array(field.hint) and value is not None:
            arguments[name] = np.asarray(value)
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**arguments)
    except ThalwegError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        raise InputError(f"{full['kind']} cannot be made: {type(error).__name__}: {said[0]}") from error


def _filled(field: Field, value, at: str, where: str, defaults):
    if field.room is None:
        return convert(value, field.hint, at)
    section = f"{where.rstrip(']')}.{field.name}]" if where.endswith("]") else f"{where}.{field.name}"
    if not field.many:
        return fill(field.room, value, section, defaults)
    if not isinstance(value, list | tuple) or not (value or field.default == ()):
        raise InputError(f"{at} must be a list of {field.room}s (names, or tables with a kind), not {value!r}")
    rows = []
    for item in value:
        item = {"kind": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else item
        weight = item.pop("weight", 1.0) if field.weights and isinstance(item, dict) else 1.0
        row = fill(field.room, item, section, defaults)
        if field.weights:
            number = float(convert(weight, float, f"weight of {row['kind']} in {section}"))  # type: ignore[arg-type]
            if not 0 <= number < float("inf"):
                raise InputError(f"the weight of {row['kind']} in {section} is {number:g}; it must not be negative")
            row["weight"] = number
        rows.append(row)
    if field.weights and not sum(row["weight"] for row in rows) > 0:
        raise InputError(f"the weights of {at} are all 0; give one of them more")
    return rows


def convert(value, hint, at: str):
    """A value of an input as this type; raises `InputError` that names `at` where it is of another."""
    if hint is MISSING or hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        choices = [h for h in get_args(hint) if h is not type(None)]
        if len(choices) < len(get_args(hint)) and (value is None or (value == NONE and str not in choices)):
            return None
        for choice in choices:
            try:
                return convert(value, choice, at)
            except InputError:
                continue
        raise _wrong(value, hint, at)
    if origin is Literal:
        if value in get_args(hint):
            return value
        raise InputError(f'{at} is "{value}".{suggest(str(value), map(str, get_args(hint)))}')
    if hint is ImportPath and isinstance(value, str):
        return absolute(value)
    if hint is dict and isinstance(value, Mapping):
        return dict(value)
    if is_array(hint):
        try:
            array = np.asarray(value)
        except ValueError:
            raise _wrong(value, hint, at) from None
        if array.dtype.kind not in "iufb":
            raise _wrong(value, hint, at)
        return array.tolist()
    if origin in (tuple, list) or hint in (tuple, list):
        if not isinstance(value, list | tuple):
            raise _wrong(value, hint, at)
        inner = get_args(hint)
        if not inner:
            return list(value)
        if origin is tuple and Ellipsis not in inner:
            if len(inner) != len(value):
                raise InputError(f"{at} has {len(value)} values; it needs {len(inner)}")
            return [convert(v, h, at) for v, h in zip(value, inner, strict=True)]
        return [convert(v, inner[0], at) for v in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if hint is bool and number and value in (0, 1):  # as masks are written
        return bool(value)
    if hint in (str, bool, int, float, dict, ImportPath):
        raise _wrong(value, hint, at)
    raise InputError(f"{at} cannot be set in an input (it is of type {describe(hint)})")


def _wrong(value, hint, at: str) -> InputError:
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return InputError(f"{at} is {shown[:60]}; it must be {describe(hint)}")


def describe(hint) -> str:
    """A type in words."""
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", MISSING: "any value"}
    plain |= {dict: "a table of arguments", ImportPath: "a name or import path"}
    if hint in plain:
        return plain[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(f'"{NONE}"' if h is type(None) else describe(h) for h in inner)
    if origin is Literal:
        return " or ".join(f'"{h}"' for h in inner)
    if is_array(hint):
        return "a list of numbers"
    if origin in (tuple, list) or hint in (tuple, list):
        words = {float: "numbers", int: "whole numbers", str: "texts", bool: "true or false"}
        return f"a list of {words.get(inner[0], 'values') if inner else 'values'}"
    return getattr(hint, "__name__", str(hint))


def is_array(hint) -> bool:
    """Whether a type hint means an array: of NumPy, JAX, or jaxtyping's."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(is_array(h) for h in get_args(hint))
    if not isinstance(hint, type):
        return False
    return hint in (np.ndarray, jax.Array) or hasattr(hint, "array_type")


def _component(hint) -> tuple[str | None, bool]:
    """Which kind of component a type hint means, and whether it is a list of them."""
    inner = get_args(hint)
    if get_origin(hint) in (tuple, list) and inner and isinstance(inner[0], type) and not is_array(inner[0]):
        return registry.room_of(inner[0]), registry.room_of(inner[0]) is not None
    if get_origin(hint) in (Union, types.UnionType):
        choices = [h for h in inner if h is not type(None)]
        return _component(choices[0]) if len(choices) == 1 < len(inner) else (None, False)
    if isinstance(hint, type) and get_origin(hint) is None and not is_array(hint):
        return registry.room_of(hint), False
    return None, False


def _hints(thing) -> dict[str, Any]:
    try:
        return get_type_hints(thing)
    except (NameError, TypeError, AttributeError):  # a name that only type checkers see: the default's type must do
        return {k: v for k, v in getattr(thing, "__annotations__", {}).items() if not isinstance(v, str)}
