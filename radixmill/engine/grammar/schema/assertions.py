"""What keywords say. Each assertion can be made to hold in a branch, or to fail in it; both give the branches left.

Hold and fail are exact opposites on every JSON value. What can't be written exactly leaves a `Fault` in the shape.
Semantics: JSON Schema 2020-12 (and the older drafts' forms of the same keywords); `format` is enforced where the
grammar library knows it, and otherwise an annotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from radixmill.engine.grammar.schema.regex import Expr
from radixmill.engine.grammar.schema.shapes import (
    ALL_TYPES,
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
    Literal,
    Members,
    SomeItem,
    SomeMember,
    State,
)

Branches = list[Branch]


class Cases(Protocol):
    """Case analysis, as an assertion sees it."""

    def assume(self, branches: Branches, literal: Literal) -> Branches: ...
    def prune(self, branches: Branches) -> Branches: ...
    def negated(self, state: State) -> State: ...
    def resolve(self, literal: Literal) -> Literal: ...
    def members_named(self, state: State, fault: Fault) -> Members | Fault: ...


class Assertion(Protocol):
    @property
    def fault(self) -> Fault: ...
    def hold(self, cases: Cases, branch: Branch) -> Branches: ...
    def fail(self, cases: Cases, branch: Branch) -> Branches: ...


def opposite(literal: Literal) -> Literal:
    return Literal(literal.node, not literal.holds)


# ── all types ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class IsType:
    fault: Fault
    kinds: frozenset[str]
    whole: bool  # numbers must be integers

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        branch = branch.keep(*self.kinds)
        if self.whole and NUMBER in branch.types:
            branch = replace(branch, numbers=branch.numbers.multiple(Fraction(1)))
        return [branch]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        out = [branch.keep(*(ALL_TYPES - self.kinds))]
        return [*out, *MultipleOf(self.fault, Fraction(1)).fail(cases, branch)] if self.whole else out


@dataclass(frozen=True, slots=True)
class OneOfValues:
    """const, enum. `literals`: arrays and objects among the values, each as a schema of its own."""

    fault: Fault
    null: bool
    bools: frozenset[bool]
    numbers: frozenset[Fraction]
    strings: tuple[str, ...]
    literals: tuple[Literal, ...]

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        kinds = {NULL: self.null, BOOLEAN: self.bools, NUMBER: self.numbers, STRING: self.strings}
        plain = replace(
            branch.keep(*(kind for kind, has in kinds.items() if has)),
            bools=branch.bools & self.bools,
            numbers=branch.numbers.among(self.numbers),
            strings=branch.strings.among(self.strings),
        )
        return [plain, *(b for literal in self.literals for b in cases.assume([branch], literal))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch = replace(
            branch.keep(*(ALL_TYPES - {NULL} if self.null else ALL_TYPES)),
            bools=branch.bools - self.bools,
            numbers=replace(branch.numbers, never=branch.numbers.never | self.numbers),
            strings=replace(branch.strings, never=branch.strings.never | set(self.strings)),
        )
        branches = [branch]
        for literal in self.literals:
            branches = cases.assume(branches, opposite(literal))
        return branches


@dataclass(frozen=True, slots=True)
class AllOf:
    fault: Fault
    literals: tuple[Literal, ...]

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        branches = [branch]
        for literal in self.literals:
            branches = cases.assume(branches, literal)
        return branches

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return [b for literal in self.literals for b in cases.assume([branch], opposite(literal))]


@dataclass(frozen=True, slots=True)
class AnyOf:
    fault: Fault
    literals: tuple[Literal, ...]

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [b for literal in self.literals for b in cases.assume([branch], literal)]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return AllOf(self.fault, tuple(map(opposite, self.literals))).hold(cases, branch)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Each alternative, and none of those others that it has something in common with."""

    fault: Fault
    literals: tuple[Literal, ...]

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        chosen = [cases.prune(cases.assume([branch], literal)) for literal in self.literals]
        meeting = self._meeting(cases, chosen)
        out = []
        for index, branches in enumerate(chosen):
            for other in meeting[index]:
                branches = cases.prune(cases.assume(branches, opposite(self.literals[other])))
            out += branches
        return out

    def _meeting(self, cases: Cases, chosen: list[Branches]) -> list[list[int]]:
        """For each alternative, those others that some value may satisfy with it."""
        meeting: list[list[int]] = [[] for _ in chosen]
        for i, branches in enumerate(chosen):
            for j in range(i + 1, len(chosen)):
                if chosen[j] and cases.prune(cases.assume(branches, self.literals[j])):
                    meeting[i].append(j)
                    meeting[j].append(i)
        return meeting

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        none = AllOf(self.fault, tuple(map(opposite, self.literals))).hold(cases, branch)
        pairs = [(a, b) for i, a in enumerate(self.literals) for b in self.literals[i + 1 :]]
        return none + [b for pair in pairs for b in AllOf(self.fault, pair).hold(cases, branch)]


@dataclass(frozen=True, slots=True)
class Ref:
    fault: Fault
    literal: Literal

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return cases.assume([branch], cases.resolve(self.literal))

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return cases.assume([branch], opposite(cases.resolve(self.literal)))


@dataclass(frozen=True, slots=True)
class IfThenElse:
    fault: Fault
    test: Literal
    then: Literal
    other: Literal

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return self._both(cases, branch, self.then, self.other)

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return self._both(cases, branch, opposite(self.then), opposite(self.other))

    def _both(self, cases: Cases, branch: Branch, then: Literal, other: Literal) -> Branches:
        yes = AllOf(self.fault, (self.test, then)).hold(cases, branch)
        return yes + AllOf(self.fault, (opposite(self.test), other)).hold(cases, branch)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A keyword whose meaning can't be had here: a fault for all values of the types it speaks of."""

    fault: Fault
    kind: str  # "array" or "object"

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        if self.kind == ARRAY:
            return [replace(branch, arrays=replace(branch.arrays, fault=branch.arrays.fault or self.fault))]
        return [replace(branch, objects=replace(branch.objects, fault=branch.objects.fault or self.fault))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return Unknown(self.fault.turned, self.kind).hold(cases, branch.keep(self.kind))


# ── numbers and strings ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Bound:
    fault: Fault
    bound: Fraction
    is_open: bool
    upper: bool

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        narrow = branch.numbers.below if self.upper else branch.numbers.above
        return [replace(branch, numbers=narrow(self.bound, self.is_open))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        beyond = Bound(self.fault, self.bound, not self.is_open, not self.upper)
        return beyond.hold(cases, branch.keep(NUMBER))


@dataclass(frozen=True, slots=True)
class MultipleOf:
    fault: Fault
    step: Fraction

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, numbers=branch.numbers.multiple(self.step))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        numbers = branch.numbers
        numbers = replace(numbers, steps_not=(*numbers.steps_not, (self.step, self.fault.turned)))
        return [replace(branch.keep(NUMBER), numbers=numbers)]


@dataclass(frozen=True, slots=True)
class Length:
    """minLength and maxLength, minItems and maxItems, minProperties and maxProperties."""

    fault: Fault
    kind: str
    low: int
    high: int | None

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [self._sized(branch, self.low, self.high)]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch, out = branch.keep(self.kind), []
        if self.low > 0:
            out.append(self._sized(branch, 0, self.low - 1))
        if self.high is not None:
            out.append(self._sized(branch, self.high + 1, None))
        return out

    def _sized(self, branch: Branch, low: int, high: int | None) -> Branch:
        if self.kind == STRING:
            return replace(branch, strings=branch.strings.sized(low, high))
        if self.kind == ARRAY:
            return replace(branch, arrays=branch.arrays.sized(low, high))
        return replace(branch, objects=branch.objects.sized(low, high))


@dataclass(frozen=True, slots=True)
class Pattern:
    fault: Fault
    pattern: Expr

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, strings=branch.strings.matching(self.pattern))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        strings = branch.strings
        strings = replace(strings, without=(*strings.without, (self.pattern, self.fault.turned)))
        return [replace(branch.keep(STRING), strings=strings)]


@dataclass(frozen=True, slots=True)
class Format:
    fault: Fault
    name: str

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, strings=branch.strings.formed(self.name))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch = branch.keep(STRING)
        return [replace(branch, strings=replace(branch.strings, fault=branch.strings.fault or self.fault.turned))]


# ── arrays ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class EachItem:
    fault: Fault
    layer: Items

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, arrays=branch.arrays.layered(self.layer))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch, out = branch.keep(ARRAY), []
        for index, state in enumerate(self.layer.prefix):
            if state:
                arrays = branch.arrays.sized(index + 1, None)
                out.append(arrays.layered(Items(((),) * index + (cases.negated(state),), ())))
        if self.layer.rest:
            some = SomeItem(len(self.layer.prefix), cases.negated(self.layer.rest), self.fault.turned)
            out.append(_with_item(branch.arrays, some))
        return [replace(branch, arrays=arrays) for arrays in out]


def _with_item(arrays: Arrays, some: SomeItem) -> Arrays:
    arrays = arrays.sized(some.start + 1, None)
    return arrays if not some.state else replace(arrays, some=(*arrays.some, some))


@dataclass(frozen=True, slots=True)
class Contains:
    fault: Fault
    state: State
    low: int
    high: int | None

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        if self.low == 1 and self.high is None:
            return [replace(branch, arrays=_with_item(branch.arrays, SomeItem(0, self.state, self.fault)))]
        if self.low == 0 and self.high == 0:
            return EachItem(self.fault, Items((), cases.negated(self.state))).hold(cases, branch)
        if self.low == 0 and self.high is None:
            return [branch]
        return Unknown(self.fault, ARRAY).hold(cases, branch)

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch = branch.keep(ARRAY)
        if self.low == 1 and self.high is None:
            return EachItem(self.fault, Items((), cases.negated(self.state))).hold(cases, branch)
        if self.low == 0 and self.high == 0:
            return [replace(branch, arrays=_with_item(branch.arrays, SomeItem(0, self.state, self.fault)))]
        return [] if self.low == 0 and self.high is None else Unknown(self.fault, ARRAY).hold(cases, branch)


@dataclass(frozen=True, slots=True)
class Unique:
    fault: Fault

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, arrays=replace(branch.arrays, unique=branch.arrays.unique or self.fault))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        return Unknown(self.fault, ARRAY).fail(cases, replace(branch, arrays=branch.arrays.sized(2, None)))


# ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class EachMember:
    fault: Fault
    layer: Members

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, objects=branch.objects.layered(self.layer))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch = branch.keep(OBJECT)
        return [*self._fail_by_name(cases, branch), *self._fail_by_kind(cases, branch)]

    def _fail_by_name(self, cases: Cases, branch: Branch) -> Iterator[Branch]:
        for name, state in self.layer.named:
            if state:
                layer = Members(((name, cases.negated(state)),))
                yield replace(branch, objects=branch.objects.need(name).layered(layer))

    def _fail_by_kind(self, cases: Cases, branch: Branch) -> Iterator[Branch]:
        for pattern, state in (*self.layer.patterned, (None, self.layer.rest)):
            if state:
                some = SomeMember(self.layer, pattern, cases.negated(state), self.fault.turned)
                objects = branch.objects.sized(1, None)
                yield replace(branch, objects=replace(objects, some=(*objects.some, some)))


@dataclass(frozen=True, slots=True)
class Required:
    fault: Fault
    names: tuple[str, ...]

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        return [replace(branch, objects=branch.objects.need(*self.names))]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        branch = branch.keep(OBJECT)
        return [replace(branch, objects=branch.objects.forbid(name)) for name in self.names]


@dataclass(frozen=True, slots=True)
class Names:
    """propertyNames: the same as saying which names there may be, with any values."""

    fault: Fault
    state: State

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        layer = cases.members_named(self.state, self.fault)
        if isinstance(layer, Members):
            return EachMember(self.fault, layer).hold(cases, branch)
        return Unknown(layer, OBJECT).hold(cases, branch)

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        layer = cases.members_named(self.state, self.fault)
        if isinstance(layer, Members):
            return EachMember(self.fault, layer).fail(cases, branch)
        return Unknown(layer, OBJECT).fail(cases, branch)


@dataclass(frozen=True, slots=True)
class Depends:
    """dependencies, dependentRequired, dependentSchemas, one name: without it, or with it and what it asks for."""

    fault: Fault
    name: str
    then: Assertion

    def hold(self, cases: Cases, branch: Branch) -> Branches:
        has = branch.keep(OBJECT)
        return [
            branch.keep(*(ALL_TYPES - {OBJECT})),
            replace(has, objects=branch.objects.forbid(self.name)),
            *self.then.hold(cases, replace(has, objects=branch.objects.need(self.name))),
        ]

    def fail(self, cases: Cases, branch: Branch) -> Branches:
        has = branch.keep(OBJECT)
        return self.then.fail(cases, replace(has, objects=branch.objects.need(self.name)))
