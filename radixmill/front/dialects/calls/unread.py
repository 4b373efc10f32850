"""No form of calls: what a model writes of them is text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from radixmill.front.dialects.calls.base import Callee, Calls, Reader, ToolShape
from radixmill.front.dialects.scan import Malformed, Scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread(Calls):
    """Nothing begins a call, so nothing is read, and no grammar can ask for one."""

    @property
    def openers(self) -> tuple[str, ...]:
        return ()

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        raise Malformed
        yield

    def head(self, name: str, shape: ToolShape = "object") -> str:
        return ""

    def tail(self, shape: ToolShape = "object") -> str:
        return ""
