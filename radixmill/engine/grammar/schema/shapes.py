"""What is known of a value, type by type: conjunctions that only ever get narrower.

A schema's meaning is a union of `Branch`es; a branch says for each of the six JSON types whether it is allowed and, if
so, with which `Shape`. Shapes are values; narrowing returns a new one. Below a shape stand `State`s: conjunctions of
schemas (or their negations) that a child must satisfy, opened only when they are needed.

A `Fault` is a limit that can't be written in the grammar library's schemas. It stays with its shape, and is told only
if the shape turns out to be possible: a fault in a branch that can't be is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from radixmill.engine.grammar.schema.regex import Expr, Judge
from radixmill.engine.grammar.schema.source import Node

NULL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT = "null", "boolean", "number", "string", "array", "object"
TYPES = (NULL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT)
ALL_TYPES = frozenset(TYPES)


class Literal(NamedTuple):
    """A schema that must hold, or must not."""

    node: Node
    holds: bool


State = tuple[Literal, ...]  # all of them; () is "anything"


class Fault(NamedTuple):
    reason: str  # names the keyword
    place: str

    @property
    def turned(self) -> Fault:
        return Fault(f"{self.reason}, turned around by not, oneOf, if or dependencies", self.place)


def conjunction(*states: State) -> State:
    return tuple(dict.fromkeys(literal for state in states for literal in state))


@dataclass(frozen=True, slots=True)
class Numbers:
    """lo ≤ x ≤ hi (or <, where open), a multiple of `step`, one of `only`, none of `never`."""

    lo: Fraction | None = None
    lo_open: bool = False
    hi: Fraction | None = None
    hi_open: bool = False
    step: Fraction | None = None  # 1: integers
    steps_not: tuple[tuple[Fraction, Fault], ...] = ()  # no multiple of any of these
    only: frozenset[Fraction] | None = None
    never: frozenset[Fraction] = frozenset()
    fault: Fault | None = None

    def above(self, bound: Fraction, is_open: bool) -> Numbers:
        if self.lo is not None and (self.lo, self.lo_open) >= (bound, is_open):
            return self
        return replace(self, lo=bound, lo_open=is_open)

    def below(self, bound: Fraction, is_open: bool) -> Numbers:
        if self.hi is not None and (-self.hi, self.hi_open) >= (-bound, is_open):
            return self
        return replace(self, hi=bound, hi_open=is_open)

    def multiple(self, step: Fraction) -> Numbers:
        if self.step is None:
            return replace(self, step=step)
        a, b = self.step, step
        common = a.denominator * b.denominator
        return replace(self, step=Fraction(math.lcm(int(a * common), int(b * common)), common))

    def among(self, values: frozenset[Fraction]) -> Numbers:
        return replace(self, only=values if self.only is None else self.only & values)

    def allows(self, value: Fraction) -> bool:
        return (
            (self.lo is None or value > self.lo or (value == self.lo and not self.lo_open))
            and (self.hi is None or value < self.hi or (value == self.hi and not self.hi_open))
            and (self.step is None or value % self.step == 0)
            and all(value % step for step, _ in self.steps_not)
            and value not in self.never
        )

    @property
    def values(self) -> list[Fraction] | None:
        return None if self.only is None else sorted(filter(self.allows, self.only))

    @property
    def first(self) -> Fraction | None:
        """The least multiple of `step` within the bounds, where there is a step and a lower bound."""
        if self.step is None or self.lo is None:
            return None
        first = math.ceil(self.lo / self.step) * self.step
        return first + self.step if first == self.lo and self.lo_open else first

    @property
    def possible(self) -> bool:
        if self.values is not None:
            return bool(self.values)
        if self.step is not None and any(self.step % step == 0 for step, _ in self.steps_not):
            return False
        if self.lo is None or self.hi is None:
            return True
        least = self.lo if self.first is None else self.first
        return least < self.hi or (least == self.hi and not self.hi_open and not (self.lo_open and least == self.lo))


@dataclass(frozen=True, slots=True)
class Strings:
    """Length in characters, patterns, known formats, one of `only`, none of `never`, none that `without` matches."""

    low: int = 0
    high: int | None = None
    patterns: tuple[Expr, ...] = ()
    formats: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    never: frozenset[str] = frozenset()
    without: tuple[tuple[Expr, Fault], ...] = ()
    fault: Fault | None = None

    def among(self, values: tuple[str, ...]) -> Strings:
        return replace(self, only=values if self.only is None else tuple(v for v in self.only if v in values))

    def sized(self, low: int, high: int | None) -> Strings:
        return replace(self, low=max(self.low, low), high=least(self.high, high))

    def matching(self, pattern: Expr) -> Strings:
        return self if pattern in self.patterns else replace(self, patterns=(*self.patterns, pattern))

    def formed(self, name: str) -> Strings:
        return self if name in self.formats else replace(self, formats=(*self.formats, name))

    def values(self, judge: Judge) -> list[str] | None:
        """May hold one that a pattern too hard to run excludes; the grammar library decides that one."""
        return None if self.only is None else [value for value in self.only if self._allows(judge, value)]

    def _allows(self, judge: Judge, value: str) -> bool:
        return (
            self.low <= len(value)
            and (self.high is None or len(value) <= self.high)
            and value not in self.never
            and all(judge.matches(pattern, value) is not False for pattern in self.patterns)
            and all(judge.matches(pattern, value) is not True for pattern, _ in self.without)
        )


class Items(NamedTuple):
    """One schema's say on the elements of an array: the first ones each, then the rest."""

    prefix: tuple[State, ...]
    rest: State

    def at(self, index: int) -> State:
        return self.prefix[index] if index < len(self.prefix) else self.rest


class SomeItem(NamedTuple):
    """At least one element from `start` on is in `state`."""

    start: int
    state: State
    fault: Fault


@dataclass(frozen=True, slots=True)
class Arrays:
    layers: tuple[Items, ...] = ()
    low: int = 0
    high: int | None = None
    some: tuple[SomeItem, ...] = ()
    unique: Fault | None = None
    fault: Fault | None = None

    def sized(self, low: int, high: int | None) -> Arrays:
        return replace(self, low=max(self.low, low), high=least(self.high, high))

    def layered(self, layer: Items) -> Arrays:
        return self if layer in self.layers else replace(self, layers=(*self.layers, layer))

    def at(self, index: int) -> State:
        return conjunction(*(layer.at(index) for layer in self.layers))

    @property
    def width(self) -> int:
        """From this index on, all elements are in one state."""
        return max((len(layer.prefix) for layer in self.layers), default=0)


@dataclass(frozen=True, slots=True)
class Members:
    """One schema's say on the members of an object: by name, by pattern, and all others."""

    named: tuple[tuple[str, State], ...] = ()
    patterned: tuple[tuple[Expr, State], ...] = ()
    rest: State = ()
    _named: dict[str, State] = field(init=False, compare=False, repr=False)
    _known: dict[str, State | None] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_named", dict(self.named))

    def at(self, judge: Judge, name: str) -> State | None:
        """What `name`'s value must satisfy. None: a pattern is too hard to run on the name."""
        if name not in self._known:
            self._known[name] = self._find(judge, name)
        return self._known[name]

    def _find(self, judge: Judge, name: str) -> State | None:
        found = [self._named[name]] if name in self._named else []
        for pattern, state in self.patterned:
            hit = judge.matches(pattern, name)
            if hit is None:
                return None
            if hit:
                found.append(state)
        return conjunction(*found) if found else self.rest

    def excludes(self, judge: Judge, name: str) -> bool | None:
        """Is `name` one that `named` or `patterned` speak of?"""
        if name in self._named:
            return True
        hits = [judge.matches(pattern, name) for pattern, _ in self.patterned]
        return True if True in hits else None if None in hits else False


class SomeMember(NamedTuple):
    """At least one member that `outside` does not speak of (or, with `pattern`, that it matches) is in `state`."""

    outside: Members
    pattern: Expr | None
    state: State
    fault: Fault

    def speaks_of(self, judge: Judge, name: str) -> bool | None:
        if self.pattern is not None:
            return judge.matches(self.pattern, name)
        excluded = self.outside.excludes(judge, name)
        return None if excluded is None else not excluded


@dataclass(frozen=True, slots=True)
class Objects:
    layers: tuple[Members, ...] = ()
    required: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    low: int = 0
    high: int | None = None
    some: tuple[SomeMember, ...] = ()
    fault: Fault | None = None

    def sized(self, low: int, high: int | None) -> Objects:
        return replace(self, low=max(self.low, low), high=least(self.high, high))

    def layered(self, layer: Members) -> Objects:
        return self if layer in self.layers else replace(self, layers=(*self.layers, layer))

    def need(self, *names: str) -> Objects:
        return replace(self, required=tuple(dict.fromkeys((*self.required, *names))))

    def forbid(self, name: str) -> Objects:
        return replace(self, absent=self.absent | {name})

    @property
    def names(self) -> list[str]:
        """All names the shape speaks of: declared ones in their order, then required ones, then forbidden ones."""
        declared = [name for layer in self.layers for name, _ in layer.named]
        return list(dict.fromkeys((*declared, *self.required, *sorted(self.absent))))


@dataclass(frozen=True, slots=True)
class Branch:
    """One way a value can be: the types it may have, and what each must satisfy."""

    types: frozenset[str] = ALL_TYPES
    bools: frozenset[bool] = frozenset((False, True))
    numbers: Numbers = Numbers()
    strings: Strings = Strings()
    arrays: Arrays = Arrays()
    objects: Objects = Objects()

    def keep(self, *types: str) -> Branch:
        kept = self.types & frozenset(types)
        return self if kept == self.types else replace(self, types=kept)


def least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
