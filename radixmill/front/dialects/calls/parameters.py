"""A call as a name and parameters, each in tags of its own: XML and its like.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Values that can only be strings stand there as they are, others as JSON (`typed.py` tells which). Such text may hold the
very tag that ends it: the tag counts only where the call can go on behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from radixmill.front.dialects.calls.base import (
    INPUT,
    NO_ARGUMENTS,
    Begun,
    Callee,
    Calls,
    Format,
    Given,
    Reader,
    Schema,
    Tags,
    Target,
    ToolShape,
    constant,
    json_schema,
    sequence,
)
from radixmill.front.dialects.calls.json_object import object_given, string
from radixmill.front.dialects.calls.plain import ANNOTATIONS, member, members_of
from radixmill.front.dialects.calls.typed import TEXT, Kinds, is_text, json_in, json_of, kinds_of, quoted
from radixmill.front.dialects.extent import SPACE
from radixmill.front.dialects.scan import Malformed, Scan, Steps

Layout = Literal["listed", "any", "json"]
"""How a grammar has arguments written.

listed   the schema's parameters in its order, those that are optional perhaps
any      any parameters, which any object's members may be
json     one JSON object in place of parameters: what no list of parameters could be held to
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters(Calls):
    """Marks of one call, in their order:

        call.open  lead…  name.open NAME name.close
        key.open K key.close  joint  value.open  pad VALUE pad  value.close
        end  call.close

    `line` is what stands behind the name, each parameter and `end`; `pad` belongs to the tags, not to the value, and
    may be left out. Where `json_value` is given, it opens values that are JSON and `value.open` only text; else the
    schema tells.
    """

    call: Tags = Tags("<tool_call>", "</tool_call>")
    lead: tuple[str, ...] = ()
    name: Tags = Tags("<function=", ">")
    key: Tags = Tags("<parameter=", ">")
    joint: str = ""
    value: Tags = Tags("", "</parameter>")
    json_value: str = ""
    end: str = "</function>"
    line: str = "\n"
    pad: str = "\n"

    @property
    def tags(self) -> set[str]:
        parts = (*self.lead, *self.name, *self.key, *self.value, self.json_value, self.end)
        return {*self.section, *self.call, *parts}

    # --- reading

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        name = yield from self._name(scan)
        callee = tools.get(name, Callee())
        if callee.shape == "text":
            yield Begun(name)
            yield from scan.expect(self._behind_name("text"))
            yield from self.free_text(scan)
            return
        yield Begun(name)
        parameters = INPUT if callee.shape == "input" else callee.parameters or {}
        told = callee.bound and self.layout(parameters) != "any"  # else a name that repeats may change what was told
        arguments = yield from self._arguments(scan, parameters, told=told, repeats=callee.bound)
        if not told:
            yield Given(arguments)

    def _name(self, scan: Scan) -> Steps[str]:
        for mark in (*self.lead, self.name.open):
            yield from scan.space()
            yield from scan.expect(mark)
        stops = (self.name.close,) if self.name.close else ("{",)
        name = yield from scan.until(*stops, "\n", "<")
        yield from scan.expect(self.name.close)
        return name.strip(SPACE)

    def _arguments(self, scan: Scan, parameters: Schema, *, told: bool, repeats: bool) -> Steps[str]:
        """All that stands between the name and the call's closing tag; given while it comes if `told`. `repeats`: of
        parameters with one name the last counts, which no grammar can refuse; else they make the call none."""
        yield from scan.space()
        if (yield from scan.which("{")):
            arguments: str = yield from object_given(scan, told)
            yield from scan.space()
        else:
            arguments = yield from self._members(scan, parameters, told=told, repeats=repeats)
        yield from scan.close(self.end)
        return arguments

    def _members(self, scan: Scan, parameters: Schema, *, told: bool, repeats: bool) -> Steps[str]:
        members: dict[str, str] = {}
        while (yield from scan.takes(self.key.open)):
            name = yield from scan.until(self.key.close, "\n")
            yield from scan.expect(self.key.close)
            if name in members and not repeats:
                raise Malformed
            members[name] = yield from self._value(scan, kinds_of(parameters, name))
            if told:
                yield Given(f"{', ' if len(members) > 1 else '{'}{quoted(name)}: {members[name]}")
            yield from scan.space()
        if not (yield from self._ends_here(scan)):
            raise Malformed
        if told:
            yield Given("}" if members else "{}")
        return f"{{{', '.join(f'{quoted(name)}: {value}' for name, value in members.items())}}}"

    def _value(self, scan: Scan, kinds: Kinds) -> Steps[str]:
        """A parameter's value as JSON; behind its closing tag."""
        is_text = kinds == TEXT
        if self.value.open:
            yield from scan.space()
            opener = yield from scan.expect(self.value.open, *filter(None, [self.json_value]))
            is_text = opener == self.value.open if self.json_value else is_text
        if is_text:
            return quoted((yield from self._text(scan)))
        found = yield from self._whole_json(scan, kinds)
        return json_of((yield from self._text(scan)), kinds) if found is None else found

    def _text(self, scan: Scan) -> Steps[str]:
        """Text up to the first closing tag behind which the call can go on. If none comes, the scan stays before it."""
        start = seen = scan.at
        while True:
            seen, tag = scan.seek((self.value.close,), seen)
            if tag:
                scan.at = seen + len(tag)
                if (yield from self._goes_on_here(scan)):
                    scan.at = seen + len(tag)
                    return scan.text[start:seen].removeprefix(self.pad).removesuffix(self.pad)
                seen += len(tag)
            elif scan.last:
                scan.at = start
                raise Malformed
            else:
                yield

    def _whole_json(self, scan: Scan, kinds: Kinds) -> Steps[str | None]:
        """JSON in brackets or quotes, of one of the types, and what closes the value behind it; None, and the scan has
        not moved, where it is none: then it is read, and ends, as text would."""
        start = scan.at
        try:
            yield from scan.space()
            if (yield from scan.which('"')):
                yield from string(scan)
            elif (yield from scan.which("{", "[")):
                yield from scan.json()
            else:
                raise Malformed
            found = json_in(scan.text[start : scan.at], kinds)
            yield from scan.space()
            yield from scan.expect(self.value.close)
            behind = scan.at
            if found is None or not (yield from self._goes_on_here(scan)):
                raise Malformed
        except Malformed:
            scan.at = start
            return None
        scan.at = behind
        return found

    def _goes_on_here(self, scan: Scan) -> Steps[bool]:
        """Whether another parameter follows, or the end of the call."""
        yield from scan.space()
        if (yield from scan.which(self.key.open)):
            return True
        if not (yield from self._ends_here(scan)):
            return False
        try:
            if self.end:
                yield from scan.close(self.end)
                yield from scan.space()
            yield from self.ended(scan)
        except Malformed:
            return False
        return True

    def _ends_here(self, scan: Scan) -> Steps[bool]:
        """Whether the parameters end. At the end of the text a part of the tag will do that begins no parameter."""
        tag = self.end or self.call.close
        if (yield from scan.which(tag)):
            return True
        rest = scan.text[scan.at :]
        return scan.last and tag.startswith(rest) and not self.key.open.startswith(rest)

    # --- writing

    def head(self, name: str, shape: ToolShape = "object") -> str:
        begun = self.call.open + (self.line if self.name.open else "") + "".join(self.lead)
        return f"{begun}{self.name.open}{name}{self.name.close}{self._behind_name(shape)}"

    def _behind_name(self, shape: ToolShape) -> str:
        """Text needs something to be told from the name by."""
        return self.line or ("" if self.name.close or shape != "text" else "\n")

    def tail(self, shape: ToolShape = "object") -> str:
        ended = f"{self.end}{self.line if self.end else ''}{self.call.close}"
        return f"{self.line}{ended}" if shape == "text" else ended

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Strings as they are, as the vendors' templates write earlier calls."""
        return f"{self.head(name)}{''.join(self._member(*member) for member in arguments.items())}{self.tail()}"

    def _member(self, name: str, value: Any) -> str:
        is_text = isinstance(value, str)
        tags = self._around_value(name, is_text)
        return f"{tags.open}{value if is_text else json.dumps(value, ensure_ascii=False)}{tags.close}"

    def _around_value(self, name: str, is_text: bool) -> Tags:
        return Tags(f"{self.key.open}{name}{self._before_value(is_text)}", f"{self.pad}{self.value.close}{self.line}")

    def _before_value(self, is_text: bool) -> str:
        opener = self.json_value if self.json_value and not is_text else self.value.open
        return f"{self.key.close}{self.joint}{opener}{self.pad}"

    # --- grammar

    def layout(self, schema: Schema) -> Layout:
        """How arguments that a schema binds are written."""
        others = schema.get("additionalProperties", True)
        if others is True and set(schema) - ANNOTATIONS <= {"type", "additionalProperties"}:
            return "any"
        members = members_of(schema)
        return "json" if members is None or not all(map(self._can_name, members)) else "listed"

    def _can_name(self, name: str) -> bool:
        return bool(name) and self.key.close not in name and "\n" not in name

    def content(self, target: Target) -> Format:
        if target.shape == "text":
            return target.text
        if target.schema == NO_ARGUMENTS:
            return constant("")
        match self.layout(target.schema):
            case "any":
                return self._any_members()
            case "listed":
                return self._listed(target.schema)
            case "json":
                return sequence(json_schema(target.schema), constant(self.line))

    def _listed(self, schema: Schema) -> Format:
        members, required = members_of(schema), schema.get("required", [])
        if not members:
            return constant("")
        tags = [self._bound_member(schema, name) for name in members]
        return {"type": "tags_in_order", "tags": tags, "required": [name in required for name in members]}

    def _bound_member(self, schema: Schema, name: str) -> Format:
        plain = is_text(schema, name)
        bound = member(schema, name)
        content = {**json_schema(bound), "type": "raw_string", **self._no_end} if plain else json_schema(bound)
        around = self._around_value(name, plain)
        return {"type": "tag", "begin": around.open, "content": content, "end": around.close}

    def _any_members(self) -> Format:
        kinds = [self._any_value({"type": "any_text", **self._no_end}, is_text=True)]
        if self.json_value:
            kinds.append(self._any_value(json_schema(True), is_text=False))
        return {"type": "star", "content": kinds[0] if len(kinds) == 1 else {"type": "or", "elements": kinds}}

    def _any_value(self, content: Format, *, is_text: bool) -> Format:
        name = {"type": "regex", "pattern": rf"[^\n\x{{{ord(self.key.close[0]):x}}}]+"}
        before, behind = constant(self._before_value(is_text)), constant(self._around_value("", is_text).close)
        return sequence(constant(self.key.open), name, before, content, behind)

    @property
    def _no_end(self) -> Format:
        return {"excludes": [self.value.close]}
