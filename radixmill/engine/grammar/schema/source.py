"""The client's text → nodes: JSON read within limits, places, identifiers and references."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from radixmill.engine.grammar.errors import GrammarError

MAX_BYTES = 1_000_000  # of a schema's text, in UTF-8
MAX_DEPTH = 96  # containers within containers
MAX_VALUES = 100_000  # values in a schema, all levels
MAX_DIGITS = 400  # of one number, written out

_HALF = re.compile(r"[\ud800-\udfff]")
_MAY_HAVE_HALF = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07")
_DATA = ("const", "enum", "default", "example", "examples")  # below these stand values, not schemas


def read_json(text: str) -> Any:
    """`text` as Python values, numbers as exact fractions (bool, None, str, Fraction, list, dict)."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise GrammarError(f"the schema is larger than {MAX_BYTES} bytes")
    try:
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_no_number)
    except RecursionError:
        raise GrammarError(f"the schema nests deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the schema is no JSON: {error.msg}", f"line {error.lineno}, column {error.colno}"
        ) from None
    _check_size(value)
    _check_text(text, value)
    return value


def _number(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or (exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_DIGITS)):
        raise GrammarError(f"a number with more than {MAX_DIGITS} digits: {text[:20]}…")
    return Fraction(text)


def _no_number(text: str) -> Fraction:
    raise GrammarError(f"{text} is no JSON number")


def _check_size(value: Any) -> None:
    level, depth, count = [value], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if depth > MAX_DEPTH:
            raise GrammarError(f"the schema nests deeper than {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            raise GrammarError(f"the schema has more than {MAX_VALUES} values")
        level = [child for item in level for child in _children(item)]


def _check_text(text: str, value: Any) -> None:
    """Strings that UTF-8 has no bytes for can't be written; they come from half of an escaped pair."""
    if not _MAY_HAVE_HALF.search(text):
        return
    level = [value]
    while level:
        words = [word for item in level for word in (item if isinstance(item, dict) else (item,))]
        if any(isinstance(word, str) and _HALF.search(word) for word in words):
            raise GrammarError("a string in the schema has half of a surrogate pair, which is no character")
        level = [child for item in level for child in _children(item)]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


@dataclass(frozen=True, eq=False, slots=True)
class Resource:
    """A schema with an identifier of its own: what `#` means below it."""

    uri: str
    value: Any
    place: str


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One schema, standing at one place. Nodes are compared by identity: `Document` makes one per place."""

    value: Any  # dict, or bool
    place: str  # JSON pointer
    resource: Resource

    def at(self, *keys: str | int) -> str:
        return self.place + "".join(f"/{_escape(str(key))}" for key in keys)


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


@dataclass(slots=True)
class Document:
    """All nodes of one schema, made as they are asked for."""

    root: Any
    nodes: dict[int, Node] = field(default_factory=dict)  # id of the dict → its node
    held: list[Any] = field(default_factory=list)  # made here, not in the text; kept so that ids stay theirs
    named: dict[str, Resource | Node] | None = None  # absolute URI → what has that identifier or anchor
    top_resource: Resource = field(init=False)

    @property
    def dialect(self) -> str:
        own = self.root.get("$schema") if isinstance(self.root, dict) else None
        return own if isinstance(own, str) else ""

    @property
    def old(self) -> bool:
        """Draft 7 and older: what stands beside a $ref is ignored."""
        return any(draft in self.dialect for draft in _OLD_DRAFTS)

    @property
    def id_keyword(self) -> str:
        return "id" if any(draft in self.dialect for draft in _OLD_DRAFTS[:2]) else "$id"

    def __post_init__(self) -> None:
        self.top_resource = Resource("", self.root, "")

    def top(self) -> Node:
        return self.node(self.root, "", self.top_resource)

    def node(self, value: Any, place: str, resource: Resource) -> Node:
        if not isinstance(value, dict | bool):
            raise GrammarError("a schema must be an object, true or false", place)
        if isinstance(value, bool):
            return Node(value, place, resource)
        if id(value) not in self.nodes:
            self.nodes[id(value)] = Node(value, place, self._enter(value, place, resource))
        return self.nodes[id(value)]

    def child(self, parent: Node, *keys: Any) -> Node:
        value = parent.value
        for key in keys:
            value = value[key]
        return self.node(value, parent.at(*keys), parent.resource)

    def made(self, value: dict[str, Any], place: str, resource: Resource) -> Node:
        self.held.append(value)
        return self.node(value, place, resource)

    def _enter(self, value: dict[str, Any], place: str, resource: Resource) -> Resource:
        uri = value.get(self.id_keyword)
        if not isinstance(uri, str) or uri.startswith("#"):
            return resource
        return Resource(urljoin(resource.uri, urldefrag(uri).url), value, place)

    def resolve(self, node: Node, reference: str) -> Node:
        """The node that a `$ref` in `node` points to."""
        url, fragment = urldefrag(reference)
        resource = self._resource(node, url, reference) if url else node.resource
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchor(node, resource, fragment)
        return self._walk(node, resource, fragment)

    def _resource(self, node: Node, url: str, reference: str) -> Resource:
        found = self.names().get(urljoin(node.resource.uri, url))
        if not isinstance(found, Resource):
            reason = f"$ref {reference!r} stands in no part of this schema, and remote schemas are not fetched"
            raise GrammarError(reason, node.at("$ref"))
        return found

    def _anchor(self, node: Node, resource: Resource, name: str) -> Node:
        found = self.names().get(f"{resource.uri}#{name}")
        if not isinstance(found, Node):
            raise GrammarError(f"$ref to an $anchor {name!r} that is not there", node.at("$ref"))
        return found

    def _walk(self, node: Node, resource: Resource, pointer: str) -> Node:
        value, place = resource.value, resource.place
        for raw in pointer.split("/")[1:]:
            key = raw.replace("~1", "/").replace("~0", "~")
            place = f"{place}/{_escape(key)}"
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise GrammarError(f"$ref to {place!r}: nothing stands there", node.at("$ref"))
            if isinstance(value, dict):
                resource = self._enter(value, place, resource)
        return self.node(value, place, resource)

    def names(self) -> dict[str, Resource | Node]:
        if self.named is None:
            self.named = dict(self._names())
        return self.named

    def _names(self) -> Iterator[tuple[str, Resource | Node]]:
        todo: list[tuple[Any, str, Resource]] = [(self.root, "", self.top_resource)]
        while todo:
            value, place, resource = todo.pop()
            if isinstance(value, dict):
                resource = self._enter(value, place, resource)
                yield from self._own_names(value, place, resource)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [
                (below, f"{place}/{_escape(str(key))}", resource)
                for key, below in items
                if isinstance(below, dict | list) and key not in _DATA
            ]

    def _own_names(
        self, value: dict[str, Any], place: str, resource: Resource
    ) -> Iterator[tuple[str, Resource | Node]]:
        if resource.value is value:
            yield resource.uri, resource
        own = value.get(self.id_keyword)
        anchors = [value.get("$anchor"), own[1:] if isinstance(own, str) and own.startswith("#") else None]
        for anchor in anchors:
            if isinstance(anchor, str) and anchor:
                yield f"{resource.uri}#{anchor}", self.node(value, place, resource)
