"""Branches → forms: for each type, what the grammar library's schemas can say without a loss.

An object form lists its members one by one, an array form its elements; below them stand states again. Where a shape
needs it (so many of these optional members, one element of this kind), it becomes several forms. What has no form is
refused with the shape's fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations
from json import dumps
from typing import Any

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.schema.cases import CaseAnalysis
from radixmill.engine.grammar.schema.decimals import exact_float, exact_step
from radixmill.engine.grammar.schema.regex import ANY, Expr, alt, literal, none_of, write
from radixmill.engine.grammar.schema.shapes import (
    ARRAY,
    BOOLEAN,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    Arrays,
    Branch,
    Fault,
    Items,
    Members,
    Numbers,
    Objects,
    SomeItem,
    SomeMember,
    State,
    Strings,
    conjunction,
)

MAX_SPLIT = 128  # forms that one shape may become
MAX_POSITIONS = 32  # of the element that must be somewhere in an array
MAX_MEMBERS = 2000  # that one object lists
MAX_PATTERNED = 32  # patterns of names in one object, and ways in which they overlap
MAX_LIMITS = 8  # patterns and formats of one string
MAX_DISTINCT = 4  # values whose orders are listed for uniqueItems
FINEST = Fraction(1, 10**10)  # what digits of a number with limits count; the grammar library takes no finer steps

Json = Any


@dataclass(frozen=True, slots=True)
class Plain:
    """A schema without children."""

    json: Json


@dataclass(frozen=True, slots=True)
class ArrayForm:
    prefix: tuple[State, ...]
    rest: State
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class ObjectForm:
    members: tuple[tuple[str, State, bool], ...]  # name, state, required; in order
    patterned: tuple[tuple[Expr, State], ...]
    rest: State
    low: int
    high: int | None


Form = Plain | ArrayForm | ObjectForm
ANYTHING = Plain(True)


def forms_of(cases: CaseAnalysis, state: State) -> list[Form]:
    """All forms of a state; none where no value can be in it."""
    branches = cases.branches(state)
    if any(branch == Branch() for branch in branches):
        return [ANYTHING]
    return [form for branch in branches for form in _forms_of_branch(cases, branch)]


def _forms_of_branch(cases: CaseAnalysis, branch: Branch) -> Iterator[Form]:
    if NULL in branch.types:
        yield Plain({"type": NULL})
    if BOOLEAN in branch.types:
        yield from map(Plain, _bools(branch.bools))
    if NUMBER in branch.types:
        yield from map(Plain, _numbers(branch.numbers))
    if STRING in branch.types:
        yield Plain(_string(cases, branch.strings))
    if ARRAY in branch.types:
        yield from _arrays(cases, branch.arrays)
    if OBJECT in branch.types:
        yield from _objects(cases, branch.objects)


def _refuse(fault: Fault | None) -> None:
    if fault is not None:
        raise GrammarError(fault.reason, fault.place)


def _bools(values: frozenset[bool]) -> Iterator[Json]:
    yield {"type": BOOLEAN} if len(values) == 2 else {"const": True in values}


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _numbers(shape: Numbers) -> Iterator[Json]:
    if shape.values is not None:
        yield {"enum": [exact_float(value, "const or enum") for value in shape.values]}
        return
    _refuse(shape.fault)
    for _, fault in shape.steps_not:
        _refuse(fault)
    points = sorted(filter(replace(shape, never=frozenset()).allows, shape.never))
    if len(points) > MAX_SPLIT:
        raise GrammarError("not: too many numbers are left out of a range")
    for point in points:
        piece = shape.below(point, True)
        shape = shape.above(point, True)
        if piece.possible:
            yield _number(piece)
    if shape.possible:
        yield _number(shape)


def _number(shape: Numbers) -> Json:
    if shape.step is not None and shape.step.denominator == 1:
        return _integer(shape, int(shape.step))
    json: dict[str, Json] = {"type": NUMBER}
    for keyword, bound, is_open in (("inimum", shape.lo, shape.lo_open), ("aximum", shape.hi, shape.hi_open)):
        if bound is not None:
            name = ("exclusiveM" if is_open else "m") + keyword
            json[name] = exact_float(bound, name)
    _check_narrow(shape)
    if (step := _finest(shape) if shape.step is None else shape.step) is not None:
        json["multipleOf"] = exact_step(step)
    return json


def _finest(shape: Numbers) -> Fraction | None:
    """The step of a number with limits, where they leave room for it.

    A model may write digits without end. Besides, so many are rounded when they are read, perhaps to an excluded limit.
    """
    if (shape.lo is None and shape.hi is None) or _width(shape) < 10_000 * FINEST:
        return None
    return FINEST


def _width(shape: Numbers) -> Fraction | float:
    return math.inf if shape.lo is None or shape.hi is None else shape.hi - shape.lo


def _check_narrow(shape: Numbers) -> None:
    """NOTE: between an excluded integer and a bound less than 1 away, the grammar library lets the integer through."""
    lo, hi = shape.lo, shape.hi
    if lo is None or hi is None or hi - lo >= 1 or lo < 0 < hi:
        return
    if (shape.lo_open and lo.denominator == 1) or (shape.hi_open and hi.denominator == 1):
        keyword = "exclusiveMinimum" if shape.lo_open else "exclusiveMaximum"
        raise GrammarError(f"{keyword} can't be expressed with the other limit less than 1 away")


def _integer(shape: Numbers, step: int) -> Json:
    json: dict[str, Json] = {"type": "integer"}
    if shape.lo is not None:
        lo = math.floor(shape.lo) + 1 if shape.lo_open else math.ceil(shape.lo)
        json["minimum"] = exact_float(Fraction(lo), "minimum")
    if shape.hi is not None:
        hi = math.ceil(shape.hi) - 1 if shape.hi_open else math.floor(shape.hi)
        json["maximum"] = exact_float(Fraction(hi), "maximum")
    return json if step == 1 else {**json, "multipleOf": exact_step(Fraction(step))}


# ── strings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _string(cases: CaseAnalysis, shape: Strings) -> Json:
    values = cases.values(shape)
    if values is not None:
        return _limited({"enum": values}, shape, shape.patterns)
    _refuse(shape.fault)
    json: dict[str, Json] = {"type": STRING}
    if shape.low:
        json["minLength"] = shape.low
    if shape.high is not None:
        json["maxLength"] = shape.high
    patterns = [*shape.patterns, *((none_of(sorted(shape.never)),) if shape.never else ())]
    return _limited(json, shape, _with_opposites(cases, shape, patterns))


def _with_opposites(cases: CaseAnalysis, shape: Strings, patterns: list[Expr]) -> list[Expr]:
    """Patterns that must not match, as one that must; together with those that must, if need be."""
    if not shape.without:
        return patterns
    unwanted = [pattern for pattern, _ in shape.without]
    combined = cases.judge.combine([ANY], unwanted)
    if combined is not None:
        return [*patterns, combined]
    combined = cases.judge.combine(patterns or [ANY], unwanted)
    if combined is None:
        _refuse(shape.without[0][1])
    return [combined or ANY]


def _limited(json: dict[str, Json], shape: Strings, patterns: Sequence[Expr]) -> Json:
    """With patterns and formats; those for which there is no keyword left, under allOf."""
    if len(patterns) + len(shape.formats) > MAX_LIMITS:
        raise GrammarError(f"pattern: more than {MAX_LIMITS} patterns and formats for one string")
    limits: list[Json] = [{"type": STRING, "pattern": write(pattern)} for pattern in patterns]
    limits += [{"type": STRING, "format": name} for name in shape.formats]
    if limits and "type" in json:
        json |= limits.pop(0)
    return {**json, "allOf": limits} if limits else json


# ── arrays ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arrays(cases: CaseAnalysis, shape: Arrays) -> Iterator[Form]:
    _refuse(shape.fault)
    shape = _closed(cases, shape)
    for one in _with_some(cases, shape):
        if one.unique is not None and (one.high is None or one.high > 1):
            yield from _distinct(cases, one, one.unique)
        else:
            yield _array(one)


def _closed(cases: CaseAnalysis, shape: Arrays) -> Arrays:
    """The upper limit as what elements there can be has it."""
    for index in range(shape.width + 1):
        if not cases.alive(shape.at(index)):
            return shape.sized(0, index)
    return shape


def _with_some(cases: CaseAnalysis, shape: Arrays) -> list[Arrays]:
    """Each place where the elements that must be somewhere may stand."""
    if not shape.some:
        return [shape]
    some, *others = shape.some
    if _is_every_item(cases, shape, some):
        return _with_some(cases, replace(shape, some=tuple(others)))
    if shape.high is None or shape.high - some.start > MAX_POSITIONS:
        _refuse(Fault(f"{some.fault.reason} (without a small maxItems)", some.fault.place))
    out: list[Arrays] = []
    for index in range(some.start, shape.high or 0):
        layer = Items(((),) * index + (some.state,), ())
        placed = replace(shape, some=tuple(others)).sized(index + 1, None).layered(layer)
        out += _with_some(cases, placed) if cases.alive(placed.at(index)) else []
        if len(out) > MAX_SPLIT:
            _refuse(some.fault)
    return out


def _is_every_item(cases: CaseAnalysis, shape: Arrays, some: SomeItem) -> bool:
    """Where no element can be out of `some.state`, any will do; that there is one, the lower limit says."""
    out = cases.negated(some.state)
    indices = range(some.start, max(shape.width, some.start) + 1)
    return not any(cases.alive(conjunction(shape.at(index), out)) for index in indices)


def _array(shape: Arrays) -> ArrayForm:
    width = shape.width if shape.high is None else min(shape.width, shape.high)
    return ArrayForm(tuple(map(shape.at, range(width))), shape.at(shape.width), shape.low, shape.high)


def _distinct(cases: CaseAnalysis, shape: Arrays, fault: Fault) -> Iterator[Form]:
    """uniqueItems over a few values: every order of every choice."""
    values = _values(cases, shape.at(0)) if shape.width == 0 else None
    if values is None or len(values) > MAX_DISTINCT:
        _refuse(
            Fault("uniqueItems can't be expressed but for items of a few known values, or one at most", fault.place)
        )
    for count in range(shape.low, min(len(values or ()), shape.high or len(values or ())) + 1):
        for chosen in permutations(values or (), count):
            yield Plain({"type": ARRAY, "prefixItems": list(chosen), "items": False, "minItems": count})


def _values(cases: CaseAnalysis, state: State) -> list[Json] | None:
    """The values a state allows as constants, if they are a few and plain."""
    out: dict[str, Json] = {}
    for form in forms_of(cases, state):
        found = _constants(form.json) if isinstance(form, Plain) else None
        if found is None:
            return None
        out.update({dumps(value): value for value in found})
    return list(out.values())


def _constants(json: Json) -> list[Json] | None:
    if not isinstance(json, dict) or "allOf" in json:
        return None
    if json == {"type": NULL} or "const" in json:
        return [json]
    if json == {"type": BOOLEAN}:
        return [{"const": False}, {"const": True}]
    return [{"const": value} for value in json["enum"]] if "enum" in json else None


# ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _objects(cases: CaseAnalysis, shape: Objects) -> Iterator[Form]:
    _refuse(shape.fault)
    forms = 0
    for with_some in _with_members(cases, shape):
        for one in _counted(cases, with_some):
            forms += 1
            if forms > MAX_SPLIT:
                raise GrammarError("minProperties, maxProperties or oneOf make too many combinations of members")
            form = _object(cases, one)
            if form is not None:
                yield form


def _with_members(cases: CaseAnalysis, shape: Objects) -> list[Objects]:
    """Each name that the member which must be somewhere may have."""
    if not shape.some:
        return [shape]
    some, *others = shape.some
    rest = replace(shape, some=tuple(others))
    if cases.is_open(shape):
        _refuse(some.fault)
    out: list[Objects] = []
    for name in shape.names:
        placed = _place(cases, rest, some, name)
        out += _with_members(cases, placed) if placed is not None else []
        if len(out) > MAX_SPLIT:
            _refuse(some.fault)
    return out


def _place(cases: CaseAnalysis, shape: Objects, some: SomeMember, name: str) -> Objects | None:
    speaks = some.speaks_of(cases.judge, name)
    if speaks is None:
        _refuse(some.fault)
    if not speaks:
        return None
    placed = shape.need(name).layered(Members(((name, some.state),)))
    return placed if cases.alive(cases.member(placed, name)) else None


def _counted(cases: CaseAnalysis, shape: Objects) -> Iterator[Objects]:
    """minProperties and maxProperties over optional members: each choice of those there, until the rest is free."""
    required = len(shape.required)
    optional = [name for name in cases.optional(shape) if name not in shape.required]
    is_open = cases.is_open(shape)
    if shape.high is not None and not is_open and required + len(optional) <= shape.high:
        shape = replace(shape, high=None)
    if shape.low <= required:
        shape = replace(shape, low=0)
    if not optional or (shape.low == 0 and shape.high is None):
        yield from [shape] if shape.low <= required or is_open else []
        return
    if shape.high is None or required < shape.high:
        yield from _counted(cases, shape.need(optional[0]))
    yield from _counted(cases, shape.forbid(optional[0]))


def _object(cases: CaseAnalysis, shape: Objects) -> ObjectForm | None:
    """None: so many members there can't be."""
    if len(shape.names) > MAX_MEMBERS:
        raise GrammarError(f"properties: more than {MAX_MEMBERS} members of one object")
    members = tuple((name, _member(cases, shape, name), name in shape.required) for name in shape.names)
    patterned, rest = _regions(cases, shape)
    more, high = shape.low - len(shape.required), shape.high
    if not cases.alive(rest) and not any(cases.alive(state) for _, state in patterned):
        return ObjectForm(members, (), cases.never, 0, None) if more <= 0 else None
    if more > 1:
        # Names that aren't declared may come twice in the grammar, and then count once.
        raise GrammarError("minProperties above 1 can't be expressed for members that properties doesn't list")
    return ObjectForm(members, patterned, rest, shape.low if more > 0 else 0, high)


def _member(cases: CaseAnalysis, shape: Objects, name: str) -> State:
    if any(layer.at(cases.judge, name) is None for layer in shape.layers):
        raise GrammarError(f"patternProperties: whether a pattern matches {name!r} is too hard to see")
    return cases.member(shape, name)


def _regions(cases: CaseAnalysis, shape: Objects) -> tuple[tuple[tuple[Expr, State], ...], State]:
    """Names that aren't declared, by the patterns they match: apart from each other, each with its state."""
    rest = conjunction(*(layer.rest for layer in shape.layers))
    patterns = list(dict.fromkeys(pattern for layer in shape.layers for pattern, _ in layer.patterned))
    if not patterns:
        return (), rest
    if len(patterns) > MAX_PATTERNED:
        raise GrammarError(f"patternProperties: more than {MAX_PATTERNED} patterns for one object")
    found: dict[State, list[Expr]] = {}
    for matched, region in _overlaps(cases, patterns):
        state = conjunction(*(_inside(layer, matched) for layer in shape.layers))
        found.setdefault(state if cases.alive(state) else cases.never, []).append(region)
    if not cases.alive(rest):
        found.pop(cases.never, None)
    return tuple((_undeclared(cases, shape, alt(regions)), state) for state, regions in found.items()), rest


def _undeclared(cases: CaseAnalysis, shape: Objects, region: Expr) -> Expr:
    """Without the declared names, which the grammar library would join with the pattern's schema once more."""
    names = [name for name in shape.names if cases.judge.matches(region, name) is not False]
    return (cases.judge.combine([region], map(literal, names)) if names else None) or region


def _overlaps(cases: CaseAnalysis, patterns: list[Expr]) -> Iterator[tuple[frozenset[Expr], Expr]]:
    """Which patterns may match a name together, those alone, and the expression for such names."""
    if len(patterns) == 1:
        yield frozenset(patterns), patterns[0]
        return
    todo: list[tuple[tuple[Expr, ...], tuple[Expr, ...]]] = [((), ())]
    for pattern in patterns:
        split = [both for yes, no in todo for both in (((*yes, pattern), no), (yes, (*no, pattern)))]
        todo = [(yes, no) for yes, no in split if cases.judge.possible(yes or [ANY], no) is not False]
        if len(todo) > MAX_PATTERNED + 1:
            raise GrammarError("patternProperties: too many patterns that may match the same name")
    for yes, no in todo:
        clashing = [other for other in no if cases.judge.possible((*yes, other)) is not False]
        region = (
            yes[0] if yes and len(yes) == 1 and not clashing else cases.judge.combine(yes, clashing) if yes else ANY
        )
        if region is None:
            raise GrammarError("patternProperties: patterns that may match the same name are too hard to tell apart")
        if yes:
            yield frozenset(yes), region


def _inside(layer: Members, matched: frozenset[Expr]) -> State:
    hits = [state for own, state in layer.patterned if own in matched]
    return conjunction(*hits) if hits else layer.rest
