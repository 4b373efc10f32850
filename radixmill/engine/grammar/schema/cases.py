"""Case analysis: a state (a conjunction of schemas) → the branches it leaves, impossible ones dropped.

A tableau: assertions are made to hold one after another, each narrowing every branch or splitting it. What children
must satisfy stays a state, opened when something depends on it: a required member that can't be makes its object
impossible, and that is how alternatives are told apart (`oneOf`), however deep what sets them apart stands.
"""

from __future__ import annotations

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.schema.formats import KNOWN_FORMATS
from radixmill.engine.grammar.schema.read import Reader
from radixmill.engine.grammar.schema.regex import ANY, Expr, Judge, alt, length, literal
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
    Literal,
    Members,
    Objects,
    State,
    Strings,
    conjunction,
)
from radixmill.engine.grammar.schema.source import Document

MAX_BRANCHES = 256  # of one state
MAX_WORK = 25_000  # schemas assumed in branches, in all
MAX_LOOK = 8  # levels of children looked into to see that something is impossible
MAX_REGEX_LENGTH = 100  # lengths up to here are considered together with patterns


class CaseAnalysis:
    """Opens states, each once. Raises `GrammarError` for what goes on without end or splits too often."""

    def __init__(self, document: Document) -> None:
        self.document, self.reader = document, Reader(document)
        self.never: State = (Literal(document.node(False, "", document.top_resource), True),)
        self.known: dict[State, list[Branch]] = {}
        self.opening: list[State] = []
        self.chain: list[Literal] = []  # what is being assumed about one and the same value
        self.judge, self.work = Judge(), 0
        self.latest: Fault | None = None  # the assertion made last about a state opened on its own
        self.conflict: Fault | None = None  # the one that left it without a branch
        self.strings_known: dict[Strings, bool] = {}
        self.values_known: dict[Strings, list[str] | None] = {}

    # ── states ──

    def branches(self, state: State) -> list[Branch]:
        if state not in self.known:
            if state in self.opening:
                raise GrammarError("$ref leads back to itself: it would never end", state[0].node.place)
            self.known[state] = self._open(state)
        return self.known[state]

    def _open(self, state: State) -> list[Branch]:
        chain, self.chain = self.chain, []
        self.opening.append(state)
        branches = [Branch()]
        for one in state:
            branches = self.assume(branches, one)
        branches = self.prune(branches)
        if not branches and len(self.opening) == 1:
            self.conflict = self.conflict or self.latest
        self.opening.pop()
        self.chain = chain
        return branches

    def alive(self, state: State) -> bool:
        """False where no value can be in `state`. True also where that would take too long to see."""
        if not state:
            return True
        if self.contradictory(state):
            return False
        if state not in self.known and (state in self.opening or len(self.opening) > MAX_LOOK):
            return True
        return bool(self.branches(state))

    def contradictory(self, state: State) -> bool:
        return any(one.node.value is (not one.holds) or Literal(one.node, not one.holds) in state for one in state)

    def negated(self, state: State) -> State:
        """State: of at most one schema."""
        if not state:
            return self.never
        (one,) = state
        return () if one.node.value is (not one.holds) else (Literal(one.node, not one.holds),)

    # ── assertions ──

    def assume(self, branches: list[Branch], one: Literal) -> list[Branch]:
        """What is left of `branches` where the schema holds (or does not)."""
        if isinstance(one.node.value, bool) or not branches:
            return branches if one.node.value is one.holds or not branches else []
        if one in self.chain:
            raise GrammarError("$ref leads back to itself: it would never end", one.node.place)
        self.work += len(branches)
        if self.work > MAX_WORK:
            raise GrammarError("the schema has too many alternatives (oneOf, anyOf, not, if, dependencies)")
        self.chain.append(one)
        left = self._hold(branches, one) if one.holds else self._fail(branches, one)
        self.chain.pop()
        return left

    def _hold(self, branches: list[Branch], one: Literal) -> list[Branch]:
        for assertion in self.reader.read(one.node):
            before, branches = branches, [b for branch in branches for b in assertion.hold(self, branch)]
            branches = self._checked(branches, assertion.fault)
            if len(self.opening) == 1:
                self.latest = assertion.fault
                self.conflict = self.conflict or (assertion.fault if before and not branches else None)
        return branches

    def _fail(self, branches: list[Branch], one: Literal) -> list[Branch]:
        left = []
        for assertion in self.reader.read(one.node):
            left += [b for branch in branches for b in assertion.fail(self, branch)]
            left = self._checked(left, assertion.fault)
        return left

    def _checked(self, branches: list[Branch], fault: Fault) -> list[Branch]:
        branches = self.prune(branches) if len(branches) != 1 else branches
        if len(branches) > MAX_BRANCHES:
            keyword = fault.reason.split()[0]
            raise GrammarError(f"{keyword} makes more than {MAX_BRANCHES} combinations of alternatives", fault.place)
        return branches

    def resolve(self, one: Literal) -> Literal:
        return Literal(self.document.resolve(one.node, one.node.value["$ref"]), one.holds)

    def members_named(self, state: State, fault: Fault) -> Members | Fault:
        """Names as `properties` or `patternProperties` would give them, with any values."""
        shapes = [branch.strings for branch in self.branches(state) if STRING in branch.types]
        if any(shape.fault or shape.formats for shape in shapes):
            return fault
        if all(self.values(shape) is not None for shape in shapes):
            values = [value for shape in shapes for value in self.values(shape) or ()]
            return Members(tuple((value, ()) for value in dict.fromkeys(values)), (), self.never)
        patterns = [self.one_pattern(shape) for shape in shapes]
        if None in patterns:
            return fault
        return Members((), ((alt(p for p in patterns if p is not None), ()),), self.never)

    def values(self, shape: Strings) -> list[str] | None:
        if shape not in self.values_known:
            self.values_known[shape] = shape.values(self.judge)
        return self.values_known[shape]

    def one_pattern(self, shape: Strings) -> Expr | None:
        """All of a string's limits but formats as one pattern, if that is small."""
        values = self.values(shape)
        if values is not None:
            return alt(map(literal, values))
        wanted, unwanted = list(shape.patterns), [pattern for pattern, _ in shape.without]
        if (shape.low, shape.high) != (0, None):
            wanted.append(length(shape.low, shape.high))
        unwanted += map(literal, shape.never)
        if not unwanted and len(wanted) < 2:
            return wanted[0] if wanted else ANY
        return self.judge.combine(wanted, unwanted)

    # ── what is possible ──

    def prune(self, branches: list[Branch]) -> list[Branch]:
        kept = (branch.keep(*filter(lambda kind: self._possible(branch, kind), branch.types)) for branch in branches)
        return list(dict.fromkeys(branch for branch in kept if branch.types))

    def _possible(self, branch: Branch, kind: str) -> bool:
        match kind:
            case _ if kind == BOOLEAN:
                return bool(branch.bools)
            case _ if kind == NUMBER:
                return branch.numbers.possible
            case _ if kind == STRING:
                return self._string_possible(branch.strings)
            case _ if kind == ARRAY:
                return self._array_possible(branch.arrays)
            case _ if kind == OBJECT:
                return self._object_possible(branch.objects)
        return kind == NULL

    def _string_possible(self, shape: Strings) -> bool:
        if shape == Strings():
            return True
        if shape not in self.strings_known:
            self.strings_known[shape] = self._find_string(shape)
        return self.strings_known[shape]

    def _find_string(self, shape: Strings) -> bool:
        if shape.high is not None and shape.low > shape.high:
            return False
        covers = [KNOWN_FORMATS[name] for name in shape.formats]
        if self.values(shape) is not None:
            return any(self._formed(value, covers) for value in self.values(shape) or ())
        if len(covers) + len(shape.patterns) + len(shape.without) == 0:
            return True
        if shape.low <= MAX_REGEX_LENGTH and (shape.low or shape.high is not None):
            covers.append(length(shape.low, shape.high if (shape.high or 0) <= MAX_REGEX_LENGTH else None))
        wanted = [*shape.patterns, *covers]
        if len(wanted) == 1 and not shape.without:
            return True  # a pattern on its own
        return self.judge.possible(wanted, [pattern for pattern, _ in shape.without]) is not False

    def _formed(self, value: str, covers: list[Expr]) -> bool:
        return all(self.judge.matches(cover, value) is not False for cover in covers)

    def _array_possible(self, shape: Arrays) -> bool:
        if shape.high is not None and shape.low > shape.high:
            return False
        return all(self.alive(shape.at(index)) for index in range(min(shape.low, shape.width + 1)))

    def _object_possible(self, shape: Objects) -> bool:
        if shape.high is not None and max(shape.low, len(shape.required)) > shape.high:
            return False
        if not shape.absent.isdisjoint(shape.required):
            return False
        if not all(self.alive(self.member(shape, name)) for name in shape.required):
            return False
        return shape.low <= len(shape.required) or self.is_open(shape) or len(self.optional(shape)) >= shape.low

    def member(self, shape: Objects, name: str) -> State:
        """What the member `name` must satisfy; what a pattern too hard to run would say is left out."""
        if name in shape.absent:
            return self.never
        return conjunction(*(layer.at(self.judge, name) or () for layer in shape.layers))

    def optional(self, shape: Objects) -> list[str]:
        """All names that the shape speaks of and that may be there, required ones included."""
        return [name for name in shape.names if self.alive(self.member(shape, name))]

    def is_open(self, shape: Objects) -> bool:
        """May there be members that the shape does not name?"""
        rests = conjunction(*(layer.rest for layer in shape.layers))
        return self.alive(rests) or any(layer.patterned for layer in shape.layers)
