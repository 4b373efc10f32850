"""A schema object → the assertions it makes. Checks that keywords have values of the right type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.schema import assertions as say
from radixmill.engine.grammar.schema.formats import FORMAT_PATTERNS, KNOWN_FORMATS
from radixmill.engine.grammar.schema.regex import Expr, PatternError, parse
from radixmill.engine.grammar.schema.shapes import (
    ARRAY,
    NUMBER,
    OBJECT,
    STRING,
    TYPES,
    Fault,
    Items,
    Literal,
    Members,
    State,
)
from radixmill.engine.grammar.schema.source import Document, Node

Assertions = Iterator[say.Assertion]

MAX_COUNT = 1_000_000  # minItems, minLength and the like
MAX_LIMIT = 2**31 - 1  # maxItems, maxLength and the like

_UNKNOWN = {
    "unevaluatedItems": ARRAY,
    "unevaluatedProperties": OBJECT,
    "$dynamicRef": "",
    "$recursiveRef": "",
}


class Reader:
    """Makes assertions of nodes, each node once."""

    def __init__(self, document: Document) -> None:
        self.document, self.known = document, dict[Node, tuple[say.Assertion, ...]]()
        self.patterns: dict[str, Expr] = {}

    def read(self, node: Node) -> tuple[say.Assertion, ...]:
        """Node: of an object schema."""
        if node not in self.known:
            self.known[node] = tuple(self._read(node))
        return self.known[node]

    def _read(self, node: Node) -> Assertions:
        if self.document.old and "$ref" in node.value:
            yield self._ref(node)
            return
        done: set[Callable[..., Assertions]] = set()
        for keyword in node.value:
            reader = _READERS.get(keyword)
            if reader is not None and reader not in done:
                yield from reader(self, node, keyword)
                done.update({reader} if reader in _GROUPS else ())

    # ── helpers ──

    def literal(self, node: Node, *keys: Any) -> Literal:
        return Literal(self.document.child(node, *keys), True)

    def state(self, node: Node, *keys: Any) -> State:
        """() where anything goes."""
        literal = self.literal(node, *keys)
        return () if literal.node.value is True or literal.node.value == {} else (literal,)

    def literals(self, node: Node, keyword: str) -> tuple[Literal, ...]:
        schemas = expect(node, keyword, list, "an array of schemas")
        if not schemas:
            raise GrammarError(f"{keyword} must not be empty", node.at(keyword))
        return tuple(self.literal(node, keyword, index) for index in range(len(schemas)))

    def pattern(self, text: str, node: Node, keyword: str, *more: str) -> Expr:
        if text not in self.patterns:
            try:
                self.patterns[text] = parse(text)
            except (PatternError, RecursionError) as error:
                why = str(error) if isinstance(error, PatternError) else "too deep"
                raise GrammarError(f"{keyword} {shorten(text)}: {why}", node.at(keyword, *more)) from None
        return self.patterns[text]

    # ── all types ──

    def _type(self, node: Node, keyword: str) -> Assertions:
        names = node.value["type"]
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or any(name not in (*TYPES, "integer") for name in names):
            raise GrammarError("type must be one or several of the JSON types' names", node.at("type"))
        kinds = frozenset(NUMBER if name == "integer" else name for name in names)
        whole = "integer" in names and NUMBER not in names
        yield say.IsType(fault(node, "type"), kinds, whole)

    def _const(self, node: Node, keyword: str) -> Assertions:
        yield self._values(node, keyword, [node.value["const"]])

    def _enum(self, node: Node, keyword: str) -> Assertions:
        yield self._values(node, keyword, expect(node, keyword, list, "an array"))

    def _values(self, node: Node, keyword: str, values: list[Any]) -> say.OneOfValues:
        return say.OneOfValues(
            fault(node, keyword),
            null=None in values,
            bools=frozenset(value for value in values if isinstance(value, bool)),
            numbers=frozenset(value for value in values if isinstance(value, Fraction)),
            strings=tuple(dict.fromkeys(value for value in values if isinstance(value, str))),
            literals=tuple(self._made(node, keyword, value) for value in values if isinstance(value, dict | list)),
        )

    def _made(self, node: Node, keyword: str, value: Any) -> Literal:
        """An array or object as the schema that only it satisfies."""
        below = [{"const": item} for item in value] if isinstance(value, list) else {}
        if isinstance(value, list):
            size = Fraction(len(value))
            schema = {"type": ARRAY, "minItems": size, "prefixItems": below, "items": False}
        else:
            named = {name: {"const": item} for name, item in value.items()}
            schema = {"type": OBJECT, "properties": named, "required": list(value), "additionalProperties": False}
        return Literal(self.document.made(schema, node.at(keyword), node.resource), True)

    def _all_of(self, node: Node, keyword: str) -> Assertions:
        yield say.AllOf(fault(node, keyword), self.literals(node, keyword))

    def _any_of(self, node: Node, keyword: str) -> Assertions:
        yield say.AnyOf(fault(node, keyword), self.literals(node, keyword))

    def _one_of(self, node: Node, keyword: str) -> Assertions:
        yield say.OneOf(fault(node, keyword), self.literals(node, keyword))

    def _not(self, node: Node, keyword: str) -> Assertions:
        yield say.AllOf(fault(node, keyword), (say.opposite(self.literal(node, keyword)),))

    def _ref(self, node: Node) -> say.Ref:
        expect(node, "$ref", str, "a string")
        return say.Ref(fault(node, "$ref"), Literal(node, True))

    def _refs(self, node: Node, keyword: str) -> Assertions:
        yield self._ref(node)

    def _if(self, node: Node, keyword: str) -> Assertions:
        anything = Literal(Node(True, node.place, node.resource), True)
        then, other = (self.literal(node, k) if k in node.value else anything for k in ("then", "else"))
        if then is not anything or other is not anything:
            yield say.IfThenElse(fault(node, "if"), self.literal(node, "if"), then, other)

    def _unsupported(self, node: Node, keyword: str) -> Assertions:
        kind = _UNKNOWN[keyword]
        if not kind:
            raise GrammarError(f"{keyword} is not supported", node.at(keyword))
        if node.value[keyword] is not True and node.value[keyword] != {}:
            yield say.Unknown(Fault(f"{keyword} is not supported", node.at(keyword)), kind)

    # ── numbers and strings ──

    def _bounds(self, node: Node, keyword: str) -> Assertions:
        for name, exclusive, upper in (("minimum", "exclusiveMinimum", False), ("maximum", "exclusiveMaximum", True)):
            old = node.value.get(exclusive)
            if name in node.value:
                bound = expect(node, name, Fraction, "a number")
                yield say.Bound(fault(node, name), bound, old is True, upper)
            if exclusive in node.value and not isinstance(old, bool):
                bound = expect(node, exclusive, Fraction, "a number")
                yield say.Bound(fault(node, exclusive), bound, True, upper)

    def _multiple_of(self, node: Node, keyword: str) -> Assertions:
        step = expect(node, keyword, Fraction, "a number")
        if step <= 0:
            raise GrammarError("multipleOf must be above 0", node.at(keyword))
        yield say.MultipleOf(fault(node, keyword), step)

    def _length(self, node: Node, keyword: str) -> Assertions:
        kind = {"Length": STRING, "Items": ARRAY, "Properties": OBJECT}[keyword[3:]]
        count = size(node, keyword)
        yield say.Length(fault(node, keyword), kind, *((count, None) if keyword.startswith("min") else (0, count)))

    def _pattern(self, node: Node, keyword: str) -> Assertions:
        text = expect(node, keyword, str, "a string")
        yield say.Pattern(fault(node, keyword), self.pattern(text, node, keyword))

    def _format(self, node: Node, keyword: str) -> Assertions:
        name = expect(node, keyword, str, "a string")
        fault = Fault(f"format {shorten(name)} can't be expressed here", node.at(keyword))
        if name in KNOWN_FORMATS:
            yield say.Format(fault, name)
        elif name in FORMAT_PATTERNS:
            yield say.Pattern(fault, FORMAT_PATTERNS[name])

    # ── arrays ──

    def _items(self, node: Node, keyword: str) -> Assertions:
        """items, prefixItems, additionalItems together; an array under `items` is the older drafts' prefixItems."""
        first, rest = (
            ("items", "additionalItems") if isinstance(node.value.get("items"), list) else ("prefixItems", "items")
        )
        count = len(expect(node, first, list, "an array of schemas")) if first in node.value else 0
        prefix = tuple(self.state(node, first, index) for index in range(count))
        layer = Items(prefix, self.state(node, rest) if rest in node.value else ())
        if layer.rest or any(prefix):
            yield say.EachItem(fault(node, rest if rest in node.value else first), layer)

    def _contains(self, node: Node, keyword: str) -> Assertions:
        low = size(node, "minContains") if "minContains" in node.value else 1
        high = size(node, "maxContains") if "maxContains" in node.value else None
        yield say.Contains(fault(node, "contains"), self.state(node, "contains"), low, high)

    def _unique(self, node: Node, keyword: str) -> Assertions:
        if expect(node, keyword, bool, "true or false"):
            yield say.Unique(fault(node, keyword))

    # ── objects ──

    def _members(self, node: Node, keyword: str) -> Assertions:
        """properties, patternProperties, additionalProperties together."""
        patterned = expect(node, "patternProperties", dict, "an object") if "patternProperties" in node.value else {}
        layer = Members(
            tuple((name, self.state(node, "properties", name)) for name in self._property_names(node)),
            tuple((self._name_pattern(node, p), self.state(node, "patternProperties", p)) for p in patterned),
            self.state(node, "additionalProperties") if "additionalProperties" in node.value else (),
        )
        yield say.EachMember(fault(node, keyword), layer)

    def _property_names(self, node: Node) -> list[str]:
        return list(expect(node, "properties", dict, "an object")) if "properties" in node.value else []

    def _name_pattern(self, node: Node, text: str) -> Expr:
        return self.pattern(text, node, "patternProperties", text)

    def _required(self, node: Node, keyword: str) -> Assertions:
        yield self._needs(node, keyword)

    def _needs(self, node: Node, *keys: str) -> say.Required:
        names: Any = node.value
        for key in keys:
            names = names[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise GrammarError(f"{keys[0]} must be an array of strings", node.at(*keys))
        return say.Required(fault(node, *keys), tuple(names))

    def _property_name_schema(self, node: Node, keyword: str) -> Assertions:
        if state := self.state(node, keyword):
            yield say.Names(fault(node, keyword), state)

    def _depends(self, node: Node, keyword: str) -> Assertions:
        for name, what in expect(node, keyword, dict, "an object").items():
            if isinstance(what, str):  # draft 3
                then: say.Assertion = say.Required(fault(node, keyword, name), (what,))
            elif isinstance(what, list):
                then = self._needs(node, keyword, name)
            else:
                then = say.AllOf(fault(node, keyword, name), (self.literal(node, keyword, name),))
            yield say.Depends(fault(node, keyword, name), name, then)


def fault(node: Node, keyword: str, *more: str) -> Fault:
    return Fault(f"{keyword} can't be expressed here", node.at(keyword, *more))


def expect(node: Node, keyword: str, kind: type, what: str) -> Any:
    if not isinstance(node.value.get(keyword), kind):
        raise GrammarError(f"{keyword} must be {what}", node.at(keyword))
    return node.value[keyword]


def size(node: Node, keyword: str) -> int:
    count = expect(node, keyword, Fraction, "a number")
    if count < 0 or count.denominator != 1:
        raise GrammarError(f"{keyword} must be an integer of at least 0", node.at(keyword))
    limit = MAX_LIMIT if keyword.startswith("max") else MAX_COUNT
    if count > limit:
        raise GrammarError(f"{keyword} is above the limit of {limit}", node.at(keyword))
    return int(count)


def shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


_GROUPS = {Reader._bounds, Reader._items, Reader._members}
_READERS: dict[str, Callable[..., Assertions]] = {
    "type": Reader._type,
    "const": Reader._const,
    "enum": Reader._enum,
    "allOf": Reader._all_of,
    "anyOf": Reader._any_of,
    "oneOf": Reader._one_of,
    "not": Reader._not,
    "$ref": Reader._refs,
    "if": Reader._if,
    "multipleOf": Reader._multiple_of,
    "pattern": Reader._pattern,
    "format": Reader._format,
    "contains": Reader._contains,
    "uniqueItems": Reader._unique,
    "required": Reader._required,
    "propertyNames": Reader._property_name_schema,
    **dict.fromkeys(("dependencies", "dependentRequired", "dependentSchemas"), Reader._depends),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), Reader._bounds),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), Reader._length),
    **dict.fromkeys(("minProperties", "maxProperties"), Reader._length),
    **dict.fromkeys(("items", "prefixItems", "additionalItems"), Reader._items),
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties"), Reader._members),
    **dict.fromkeys(_UNKNOWN, Reader._unsupported),
}
