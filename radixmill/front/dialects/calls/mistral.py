"""Mistral's two forms of calls. Which one a model has, users need not know: each reads both.

[TOOL_CALLS] [{"name": "f", "arguments": {…}, "id": "0a1b2c3d4"}, …]      up to version 7 of its tokenizers
[TOOL_CALLS]f[CALL_ID]0a1b2c3d4[ARGS]{…}[TOOL_CALLS]…                     later; from version 13 on without ids
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from radixmill.front.dialects.calls.base import Callee, Reader, Tags
from radixmill.front.dialects.calls.json_array import JsonArray
from radixmill.front.dialects.calls.named import NamedJson
from radixmill.front.dialects.scan import Scan, Steps

OPEN = "[TOOL_CALLS]"


@dataclass(frozen=True, slots=True, kw_only=True)
class MistralArray(JsonArray):
    section: Tags = Tags(f"{OPEN}[", "]")
    id_key: str | None = "id"

    @property
    def tags(self) -> set[str]:
        return {OPEN, _NAMED.mark, _NAMED.id_mark}

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        if inside or (yield from _is_array(scan)):
            yield from JsonArray.read(self, scan, tools, inside=inside)
        else:
            yield from NamedJson.read(_NAMED, scan, tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class MistralNamed(NamedJson):
    section: Tags = Tags()
    call: Tags = Tags(OPEN)
    id_mark: str = "[CALL_ID]"
    mark: str = "[ARGS]"

    @property
    def run_close(self) -> str:
        return _ARRAY.run_close

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        if inside or (yield from _is_array(scan)):
            yield from JsonArray.read(_ARRAY, scan, tools, inside=inside)
        else:
            yield from NamedJson.read(self, scan, tools)


def _is_array(scan: Scan) -> Steps[bool]:
    start = scan.at
    yield from scan.expect(OPEN)
    yield from scan.space()
    found = yield from scan.which("[")
    scan.at = start
    return bool(found)


_NAMED, _ARRAY = MistralNamed(), MistralArray()
