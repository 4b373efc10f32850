"""A call as one JSON object: `{"name": "f", "arguments": {…}}`, in tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from radixmill.front.dialects.calls.base import Begun, Callee, Calls, Given, Known, Reader, Tags, ToolShape
from radixmill.front.dialects.extent import SPACE, paired, read
from radixmill.front.dialects.scan import Malformed, Scan, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonObject(Calls):
    """Members may come in any order; those beside name, arguments and id are not looked at. Arguments that are left
    out, null or empty are `{}`. `pad`: white space between a tag and the object, as the family's models write it."""

    call: Tags = Tags("<tool_call>", "</tool_call>")
    pad: str = "\n"
    name_key: str = "name"
    arguments_keys: tuple[str, ...] = ("arguments",)  # the first is the one that is written
    id_key: str | None = None  # of a text that becomes the call's id
    other_keys: tuple[str, ...] | None = None  # what else may be there; None: anything

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        yield from scan.space()
        name, arguments = yield from self._members(scan)
        if name is None:
            raise Malformed
        if arguments is None:
            if name in tools and tools[name].shape == "text":
                yield from scan.expect(self.fence.open)
                yield from self.free_text(scan)
            else:
                yield Given("{}")

    def _members(self, scan: Scan) -> Steps[tuple[str | None, str | None]]:
        """Name and arguments; both are told as soon as they are there, the name first."""
        name: str | None = None
        arguments: str | None = None
        id = ""
        seen: set[str] = set()
        yield from scan.expect("{")
        yield from scan.space()
        while not (not seen and (yield from scan.takes("}"))):
            key = yield from self._key(scan, seen)
            if key == self.name_key:
                name = _text((yield from string(scan)))
                yield Begun(name, id)
                if arguments is not None:
                    yield Given(arguments)
            elif key in self.arguments_keys:
                arguments = yield from self._arguments(scan, name is not None)
            elif key == self.id_key and (yield from scan.which('"')):
                id = _text((yield from string(scan)))
                if name is not None:
                    yield Known(id)
            elif key == self.id_key or self.other_keys is None or key in self.other_keys:
                yield from value(scan)
            else:
                raise Malformed
            yield from scan.space()
            if (yield from scan.expect(",", "}")) == "}":
                break
            yield from scan.space()
        return name, arguments

    def _key(self, scan: Scan, seen: set[str]) -> Steps[str]:
        key = _text((yield from string(scan)))
        same = self.arguments_keys[0] if key in self.arguments_keys else key
        if same in seen:
            raise Malformed
        seen.add(same)
        yield from scan.space()
        yield from scan.expect(":")
        yield from scan.space()
        return key

    def _arguments(self, scan: Scan, told: bool) -> Steps[str | None]:
        """An object, given while it comes if the name is `told`; None for null."""
        if (yield from scan.takes("null")):
            return None
        if not (yield from scan.which("{")):
            raise Malformed
        return (yield from object_given(scan, told))

    def head(self, name: str, shape: ToolShape = "object") -> str:
        begun = f'{self.call.open}{self.pad}{{"{self.name_key}": {json.dumps(name, ensure_ascii=False)}'
        return f"{begun}}}{self.fence.open}" if shape == "text" else f'{begun}, "{self.arguments_keys[0]}": '

    def tail(self, shape: ToolShape = "object") -> str:
        return f"{self.fence.close if shape == 'text' else f'}}{self.pad}'}{self.call.close}"

    @property
    def fence(self) -> Tags:
        """Around an input of shape "text", behind the object."""
        return Tags(self.pad, self.pad)


def object_given(scan: Scan, told: bool) -> Steps[str]:
    """A JSON object, its text given while it comes if `told`; an empty one as `{}`. Raises Malformed."""
    start, given, seen, found = scan.at, scan.at, scan.at, scan.json()
    while True:
        try:
            next(found)
        except StopIteration as end:
            text = _read_object(end.value)
            if told:
                yield Given(text if text is not None and given == start else scan.text[given : scan.at])
            if text is None:
                raise Malformed from None
            return text
        except Malformed:
            if told:
                yield Given(scan.text[given : scan.at])
            raise
        if told and (given > start or scan.text[seen : scan.at].strip("{" + SPACE)):  # else it may be an empty one
            yield Given(scan.text[given : scan.at])
            given = scan.at
        seen = scan.at
        yield


def _read_object(text: str) -> str | None:
    """The text of a JSON object, an empty one as `{}`; None for anything else."""
    try:
        value = read(text)
    except ValueError:
        return None
    return None if not isinstance(value, dict) else text if value else "{}"


def string(scan: Scan) -> Steps[str]:
    """A JSON string, quotes included."""
    start, escaped = scan.at, False
    yield from scan.expect('"')
    while (char := (yield from scan.peek())) >= " ":
        scan.at += 1
        if char == '"' and not escaped:
            return scan.text[start : scan.at]
        escaped = char == "\\" and not escaped
    raise Malformed


def value(scan: Scan) -> Steps[str]:
    """The text of any JSON value."""
    start, char = scan.at, (yield from scan.peek())
    if char and char in "{[":
        yield from scan.json()
    elif char == '"':
        yield from string(scan)
    else:
        while (char := (yield from scan.peek())) and char not in ",}] \t\r\n":
            scan.at += 1
    checked(scan.text[start : scan.at])
    return scan.text[start : scan.at]


def _text(string: str) -> str:
    """What a JSON string says. Raises Malformed, too, where a surrogate stands alone in it."""
    try:
        return paired(str(checked(string)))
    except UnicodeDecodeError:
        raise Malformed from None


def checked(text: str) -> object:
    try:
        return read(text)
    except ValueError:
        raise Malformed from None
