"""Why a decoded JSON value does not fit a type, in our own words: which field, and what was expected there.

Only the slow path: a body that msgspec refused is decoded again without a type and walked beside the type's description.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as t

MAX_VISITS = 10_000  # values of a body that are looked at; what is wrong behind them is told less precisely
HALF = re.compile("[\ud800-\udfff]")


class Fault(NamedTuple):
    """`path` as OpenAI writes it (`messages[0].role`; "" is the body itself) and a sentence's rest: "must be …"."""

    path: str
    message: str


class TooMuch(Exception):
    """There is more in a value than we look at."""


class Visits:
    """How many values may still be looked at."""

    def __init__(self, left: float) -> None:
        self._left = left

    def spend(self) -> None:
        """Raises TooMuch."""
        self._left -= 1
        if self._left < 0:
            raise TooMuch


def fault_of(value: Any, kind: t.Type, path: str, error: Exception) -> Fault | None:
    """As `explain`, within MAX_VISITS. `error`: msgspec's of the same value; of one that is too long, it alone knows where."""
    try:
        return explain(value, kind, path, Visits(MAX_VISITS))
    except TooMuch:
        return unlooked(error, path)


def unlooked(error: Exception, path: str = "") -> Fault:
    """Where msgspec found a fault, as we write it; keys that a client made up are left out."""
    found = re.search(r"`\$([^`]*)`$", str(error)) if isinstance(error, msgspec.ValidationError) else None
    place = path + (found[1].partition("[...]")[0] if found else "")
    return Fault(place.lstrip("."), "has not the form that is expected there")


def explain(value: Any, kind: t.Type, path: str = "", visits: Visits = Visits(math.inf)) -> Fault | None:
    """The first fault, in the order of the type's fields; None if the value fits. Raises TooMuch."""
    visits.spend()
    match kind:
        case t.UnionType():
            return _union(value, kind, path, visits)
        case t.StructType():
            return _struct(value, kind, path, visits)
        case t.ListType() | t.VarTupleType():
            return _list(value, kind, path, visits)
        case t.DictType():
            return _dict(value, kind, path, visits)
        case t.IntType() | t.FloatType() | t.StrType():
            return _scalar(value, kind, path)
        case t.LiteralType():
            return (
                None
                if any(value == v and type(value) is type(v) for v in kind.values)
                else Fault(path, f"must be {name(kind)}{_got(value)}")
            )
        case _:
            return None if _same_kind(value, kind) else Fault(path, f"must be {name(kind)}{_got(value)}")


def unsound(value: Any, path: str = "") -> Fault | None:
    """The first value that JSON can't hold though lenient parsers read it: NaN, an infinity, half a character."""
    match value:
        case float() if not math.isfinite(value):
            return Fault(path, "must be a number that a machine can hold; JSON has no NaN and no Infinity")
        case str() if HALF.search(value):
            return Fault(path, "must be text; it has a lone surrogate, half of a character (\\ud800 to \\udfff)")
        case dict():
            if any(HALF.search(key) for key in value):
                return Fault(path, "has a field whose name holds a lone surrogate, half of a character")
            return _first(unsound(item, _dot(path, key)) for key, item in value.items())
        case list():
            return _first(unsound(item, f"{path}[{i}]") for i, item in enumerate(value))
        case _:
            return None


def name(kind: t.Type) -> str:
    """A type in a reader's words."""
    match kind:
        case t.UnionType(types=types):
            names = [name(member) for member in types if not isinstance(member, t.NoneType)]
            return " or ".join(dict.fromkeys(names)) or "null"
        case t.IntType(ge=low, le=high):
            return "an integer" + _between(low, high)
        case t.FloatType(ge=low, le=high):
            return "a number" + _between(low, high)
        case t.StrType(min_length=low, max_length=high):
            return _sized("a string", "character", low, high)
        case t.BoolType():
            return "true or false"
        case t.NoneType():
            return "null"
        case (
            t.ListType(item_type=item, min_length=low, max_length=high)
            | t.VarTupleType(item_type=item, min_length=low, max_length=high)
        ):
            return _sized("a list", "item", low, high) + (
                "" if isinstance(item, t.AnyType) else f" (each {name(item)})"
            )
        case t.LiteralType(values=values):
            return "one of " + ", ".join(json.dumps(v) for v in values) if len(values) > 1 else json.dumps(values[0])
        case t.DictType() | t.StructType():
            return "an object"
        case _:
            return "a JSON value"


def _union(value: Any, kind: t.UnionType, path: str, visits: Visits) -> Fault | None:
    alike = [member for member in kind.types if _same_kind(value, member)]
    if not alike:
        return Fault(path, f"must be {name(kind)}{_got(value)}")
    faults = [explain(value, member, path, visits) for member in alike]
    return None if None in faults else faults[0]


def _struct(value: Any, kind: t.StructType, path: str, visits: Visits) -> Fault | None:
    if not isinstance(value, dict):
        return Fault(path, f"must be an object{_got(value)}")
    faults = (_field(value, field, _dot(path, field.encode_name), visits) for field in kind.fields)
    fault = next((fault for fault in faults if fault), None)
    return fault or (_unknown(value, kind, path) if kind.forbid_unknown_fields else None)


def _unknown(value: dict[str, Any], kind: t.StructType, path: str) -> Fault | None:
    known = [field.encode_name for field in kind.fields]
    odd = next((key for key in value if key not in known), None)
    return None if odd is None else Fault(_dot(path, odd), "is unknown: known are " + ", ".join(known))


def _field(value: dict[str, Any], field: t.Field, path: str, visits: Visits) -> Fault | None:
    if field.encode_name in value:
        return explain(value[field.encode_name], field.type, path, visits)
    return Fault(path, f"is required: it must be {name(field.type)}") if field.required else None


def _list(value: Any, kind: t.ListType | t.VarTupleType, path: str, visits: Visits) -> Fault | None:
    if not isinstance(value, list) or not _within(len(value), kind.min_length, kind.max_length):
        got = f", not {len(value) or 'an empty list'}" if isinstance(value, list) else _got(value)
        return Fault(path, f"must be {name(kind)}{got}")
    return _first(explain(item, kind.item_type, f"{path}[{i}]", visits) for i, item in enumerate(value))


def _dict(value: Any, kind: t.DictType, path: str, visits: Visits) -> Fault | None:
    if not isinstance(value, dict):
        return Fault(path, f"must be an object{_got(value)}")
    if not _within(len(value), kind.min_length, kind.max_length):
        return Fault(path, f"must have {_between(kind.min_length, kind.max_length).strip()} entries, not {len(value)}")
    return _first(explain(item, kind.value_type, _dot(path, key), visits) for key, item in value.items())


def _scalar(value: Any, kind: t.IntType | t.FloatType | t.StrType, path: str) -> Fault | None:
    if not _same_kind(value, kind):
        return Fault(path, f"must be {name(kind)}{_got(value)}")
    if isinstance(kind, t.StrType):
        fits = _within(len(value), kind.min_length, kind.max_length)
    else:
        fits = _within(value, kind.ge, kind.le)
    return None if fits else Fault(path, f"must be {name(kind)}{_got(value)}")


def _first(faults: Iterator[Fault | None]) -> Fault | None:
    return next((fault for fault in faults if fault), None)


def _same_kind(value: Any, kind: t.Type) -> bool:
    match kind:
        case t.AnyType() | t.RawType():
            return True
        case t.NoneType():
            return value is None
        case t.BoolType():
            return isinstance(value, bool)
        case t.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case t.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case t.StrType():
            return isinstance(value, str)
        case t.LiteralType(values=values):
            return any(type(value) is type(v) for v in values)
        case t.ListType() | t.VarTupleType():
            return isinstance(value, list)
        case t.DictType() | t.StructType():
            return isinstance(value, dict)
        case t.UnionType(types=types):
            return any(_same_kind(value, member) for member in types)
        case _:
            return False


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _between(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f" of at least {low:g}"
        case None, _:
            return f" of at most {high:g}"
        case _:
            return f" from {_plain(low)} to {_plain(high)}"


def _plain(number: float | None) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _sized(noun: str, unit: str, low: int | None, high: int | None) -> str:
    match low, high:
        case ((None | 0), None):
            return noun
        case 1, None:
            return f"{noun} that is not empty"
        case ((None | 0), _):
            return f"{noun} of at most {high} {unit}s"
        case _, None:
            return f"{noun} of at least {low} {unit}s"
        case _:
            return f"{noun} of {low} to {high} {unit}s"


def _dot(path: str, key: str) -> str:
    return f"{path}.{key[:60]}" if path else key[:60]


def _got(value: Any) -> str:
    """What came instead, short enough to quote."""
    match value:
        case None:
            return ", not null"
        case bool() | int() | float():
            text = json.dumps(value)
            return f", not {text}" if len(text) <= 40 else ", not so large a number"
        case str():
            return (
                f", not {json.dumps(value)}"
                if 0 < len(value) <= 40
                else ", not " + ("an empty string" if not value else f"a string of {len(value)} characters")
            )
        case list():
            return ", not a list"
        case _:
            return ", not an object"
